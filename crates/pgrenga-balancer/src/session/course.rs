//! The course of a session: relayed at one node, and at the next one when that is lost, or when the session had better go.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::moving::{self, Rescued, Seat, Ticket};
use super::relay::{Parties, Relay};
use super::seating::{NoSeat, Wanderer};
use super::talk::Talk;
use super::{End, Shared, stopped};
use crate::PoolMode;
use crate::cancel::Cancellable;
use crate::tls::Stream;
use crate::wire::Report;

/// Who has asked for nothing for so long is not about to ask for what only its last statement's node knows, as
/// `currval()` does.
const PAUSE: Duration = Duration::from_secs(1);
/// One that makes no pauses goes between two of its transactions.
const PAUSE_PATIENCE: Duration = Duration::from_secs(5);
/// Before a transaction that lost a conflict is repeated, doubled each time: the one that won is soon visible here.
const REPETITION_PAUSE: Duration = Duration::from_millis(1);
/// When a session could not go, it is left alone for a while.
const REST: Duration = Duration::from_secs(10);

/// A session that has begun.
pub(super) struct Course<'a> {
    pub(super) shared: &'a Shared,
    pub(super) client: &'a mut Stream,
    /// None between two transactions, in transaction mode.
    pub(super) seat: &'a mut Option<Seat>,
    pub(super) ticket: &'a Arc<Ticket>,
    pub(super) talk: &'a mut Talk,
    pub(super) relay: Relay,
    pub(super) cancellable: Option<Cancellable>,
    pub(super) leaving: Option<Leaving>,
    pub(super) wanderer: Wanderer,
    /// Why there was no server for the next transaction.
    pub(super) refusal: Option<Report>,
}

/// The session had better go.
pub(super) struct Leaving {
    since: Instant,
    requests: u64,
    quiet_since: Instant,
    /// It could not go. Until then it is left alone.
    rests_until: Option<Instant>,
}

impl Course<'_> {
    /// Relays until the end; why the session did not go on at another node, if its server is lost.
    pub(super) async fn run(&mut self) -> (End, Option<String>) {
        let is_pooled = self.wanderer.mode == PoolMode::Transaction;
        self.relay.stops_quiet_after = is_pooled.then_some(0);
        loop {
            let Some(seat) = self.seat else {
                match self.sit().await {
                    Ok(()) => self.stay(),
                    Err(NoSeat::Over(end)) => return (end, None),
                    Err(NoSeat::Refused(report)) => {
                        self.refusal = Some(report);
                        return (End::Refused, None);
                    }
                }
                continue;
            };
            let parties = Parties { client: self.client, server: &mut seat.server, talk: self.talk };
            let end = tokio::select! {
                biased;
                end = self.relay.run(parties) => end,
                () = stopped(self.shared) => End::Stopped,
                () = seat.place.called() => End::Called,
            };
            // A machine that is gone closes no connection.
            let is_gone = end == End::Called && seat.place.is_lost();
            if is_gone {
                self.relay.server_is_lost(self.talk);
            }
            let end = if is_gone { End::Server } else { end };
            match end {
                End::Server if !self.talk.is_over() => {
                    if let Err(why) = self.rescue().await {
                        return (end, Some(why));
                    }
                    self.relay.stops_quiet_after = is_pooled.then_some(0);
                }
                End::Called if is_pooled => {}
                End::Called => {
                    if self.is_time() {
                        self.relocate().await;
                    }
                }
                End::Quiet if is_pooled => {
                    if !self.leave().await {
                        self.stay();
                    }
                }
                End::Quiet => self.relocate().await,
                End::Conflict => {
                    self.shared.counters.repeated.add_one();
                    let count = self.relay.repetitions();
                    tokio::time::sleep(REPETITION_PAUSE * (1 << count.saturating_sub(1).min(6))).await;
                }
                _ => return (end, None),
            }
        }
    }

    /// The session has its server until it has made another request, at least.
    fn stay(&mut self) {
        self.relay.stops_quiet_after = Some(self.talk.requests() + 1);
    }

    async fn rescue(&mut self) -> Result<(), String> {
        let may_repeat = self.relay.may_repeat(self.talk);
        let cancellable = self.cancellable.as_ref();
        let Some(seat) = self.seat else { return Err("It has no server.".to_owned()) };
        let rescue = moving::rescue(self.shared, seat, self.ticket, self.talk, cancellable, may_repeat);
        let Rescued { heard, repeats } = tokio::select! {
            rescued = rescue => rescued?,
            () = stopped(self.shared) => return Err("The balancer stops.".to_owned()),
        };
        self.shared.counters.moved.add_one();
        self.relay.resume(&heard, repeats);
        self.leaving = None;
        if repeats {
            self.shared.counters.repeated.add_one();
            self.relay.repeat(self.talk);
        }
        Ok(())
    }

    /// Whether the session should go now.
    fn is_time(&mut self) -> bool {
        let now = Instant::now();
        if !moving::can_go(self.ticket, self.talk) {
            return false;
        }
        let requests = self.talk.requests();
        let fresh = Leaving { since: now, requests, quiet_since: now, rests_until: None };
        let leaving = self.leaving.get_or_insert(fresh);
        if leaving.rests_until.is_some_and(|until| now < until) {
            return false;
        }
        if leaving.requests != requests {
            (leaving.requests, leaving.quiet_since) = (requests, now);
        }
        self.relay.stops_quiet_after = (now - leaving.since > PAUSE_PATIENCE).then_some(0);
        self.relay.is_quiet(self.talk) && now - leaving.quiet_since >= PAUSE
    }

    async fn relocate(&mut self) {
        self.relay.stops_quiet_after = None;
        let Some(seat) = self.seat else { return };
        let relocate = moving::relocate(self.shared, seat, self.ticket, self.talk, self.cancellable.as_ref());
        match relocate.await {
            Some(heard) => {
                self.shared.counters.moved.add_one();
                self.relay.resume(&heard, false);
                self.leaving = None;
            }
            // There was no better place any more, or that one failed.
            None => {
                let (now, requests) = (Instant::now(), self.talk.requests());
                self.leaving = Some(Leaving { since: now, requests, quiet_since: now, rests_until: Some(now + REST) });
            }
        }
    }
}
