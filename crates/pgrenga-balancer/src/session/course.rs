//! The course of a session: relayed at one node, and at the next one when that is lost, or when the session had better go.

use std::time::{Duration, Instant};

use super::moving::{self, Rescued, Seat, Ticket};
use super::relay::{Parties, Relay};
use super::talk::Talk;
use super::{End, Shared, stopped};
use crate::cancel::Cancellable;
use crate::tls::Stream;

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
    pub(super) seat: &'a mut Seat,
    pub(super) ticket: &'a Ticket,
    pub(super) talk: &'a mut Talk,
    pub(super) relay: Relay,
    pub(super) cancellable: Option<Cancellable>,
    pub(super) leaving: Option<Leaving>,
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
        loop {
            let parties = Parties { client: self.client, server: &mut self.seat.server, talk: self.talk };
            let end = tokio::select! {
                biased;
                end = self.relay.run(parties) => end,
                () = stopped(self.shared) => End::Stopped,
                () = self.seat.place.called() => End::Called,
            };
            // A machine that is gone closes no connection.
            let end = if end == End::Called && self.seat.place.is_lost() { End::Server } else { end };
            match end {
                End::Server if !self.talk.is_over() => {
                    if let Err(why) = self.rescue().await {
                        return (end, Some(why));
                    }
                }
                End::Called => {
                    if self.is_time() {
                        self.relocate().await;
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

    async fn rescue(&mut self) -> Result<(), String> {
        let may_repeat = self.relay.may_repeat(self.talk);
        let cancellable = self.cancellable.as_ref();
        let rescue = moving::rescue(self.shared, self.seat, self.ticket, self.talk, cancellable, may_repeat);
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
        self.relay.stops_when_quiet = now - leaving.since > PAUSE_PATIENCE;
        self.relay.is_quiet(self.talk) && now - leaving.quiet_since >= PAUSE
    }

    async fn relocate(&mut self) {
        self.relay.stops_when_quiet = false;
        let relocate = moving::relocate(self.shared, self.seat, self.ticket, self.talk, self.cancellable.as_ref());
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
