//! Transaction mode: between two transactions a session has no server. For the next one it gets a connection that
//! another one has left, or a new one, with exactly what it has: its settings, its prepared statements, and no one
//! else's. What cannot be taken from one connection to another keeps it where it is.

use std::sync::Arc;
use std::time::Instant;

use pgrenga_writeset::NodeId;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use super::course::Course;
use super::errand::Errand;
use super::moving::{self, ASK_AGAIN, Loss, Seat, goes_on, in_time};
use super::opening::{self, Opened};
use super::pool::Parked;
use super::{End, stopped};
use crate::PoolMode;
use crate::places::Taken;
use crate::wire::{Report, client, frame, sqlstate};

/// Connections may fail unseen, and while they are made.
const ATTEMPTS_MAX: usize = 5;

/// Where a session was last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanderer {
    pub(super) mode: PoolMode,
    /// Unlike any other session's.
    pub(super) id: u64,
    pub(super) node: Option<NodeId>,
}

/// Why there is no seat.
pub(super) enum NoSeat {
    /// The session is over.
    Over(End),
    /// Nothing could be had, as this says.
    Refused(Report),
}

impl Course<'_> {
    /// Gives the connection away, if the session can do without. False if it stays.
    pub(super) async fn leave(&mut self) -> bool {
        let Some(cancellable) = &self.cancellable else { return false };
        let can_go = moving::can_go(self.ticket, self.talk) && !self.talk.is_over() && self.relay.is_quiet(self.talk);
        if !can_go || self.seat.is_none() {
            return false;
        }
        // A cancel request that is under way must not hit who comes next. It has a time limit.
        let target = loop {
            match cancellable.release() {
                Some(target) => break target,
                None => tokio::time::sleep(ASK_AGAIN).await,
            }
        };
        let Some(Seat { place, mut server, is_whole }) = self.seat.take() else { return false };
        self.wanderer.node = Some(place.node().id);
        let known = self.talk.known();
        if !is_whole || place.is_better_elsewhere() {
            let _ = timeout(ASK_AGAIN, server.write_all(&frame(client::TERMINATE, b""))).await;
            return true;
        }
        let (reported, statements) = (known.reported.clone(), known.statements.prepared());
        let (ticket, owner) = (Arc::clone(self.ticket), self.wanderer.id);
        self.shared.pool.park(Parked { place, server, target, ticket, reported, statements, owner });
        self.shared.places.nudge();
        true
    }

    /// Waits until the client has something to say, and finds a connection for that.
    pub(super) async fn sit(&mut self) -> Result<(), NoSeat> {
        let said = tokio::select! {
            said = self.client.glance() => said,
            () = stopped(self.shared) => return Err(NoSeat::Over(End::Stopped)),
        };
        if said.is_none_or(|kind| kind == client::TERMINATE) {
            return Err(NoSeat::Over(End::Client));
        }
        let shared = self.shared;
        tokio::select! {
            sat = self.find_seat() => sat.map_err(NoSeat::Refused),
            () = stopped(shared) => Err(NoSeat::Over(End::Stopped)),
        }
    }

    async fn find_seat(&mut self) -> Result<(), Report> {
        let settings = self.shared.settings();
        let deadline = Instant::now() + settings.limits.queue_timeout;
        let mut failure = None;
        let Wanderer { id, node, .. } = self.wanderer;
        let mut attempts = 0;
        loop {
            let ready = || self.shared.pool.take(self.ticket, id, node);
            let taken =
                self.shared.places.take_or(deadline, failure.as_ref(), ready, || self.shared.pool.evict()).await?;
            let sat = match taken {
                Taken::Ready(parked) => self.take_over(parked).await,
                Taken::Place(place) => {
                    let (tls, voucher) = (&settings.security.servers, self.ticket.voucher());
                    match opening::open_at(place, tls, voucher, self.ticket.startup()).await {
                        Ok(opened) => self.open(opened).await,
                        Err(why) => {
                            failure = Some(why);
                            continue;
                        }
                    }
                }
            };
            let Err(report) = sat else { return Ok(()) };
            tracing::warn!("a session got no connection: {}", report.message());
            attempts += 1;
            if attempts == ATTEMPTS_MAX || report.sqlstate() != sqlstate::CONNECTION_FAILURE {
                return Err(report.more_detail("Nothing of what was sent last was executed."));
            }
        }
    }

    /// A new connection.
    async fn open(&mut self, opened: Opened) -> Result<(), Report> {
        let settled = match moving::settle(opened, self.ticket, self.talk.known(), Loss::Nothing).await {
            Ok(settled) => settled,
            Err((place, report)) => {
                place.shun();
                return Err(report);
            }
        };
        let (seat, heard) = settled.sit(self.talk, Loss::Nothing, self.cancellable.as_ref());
        *self.seat = Some(seat);
        self.relay.resume(&heard, false);
        Ok(())
    }

    /// A connection that another session has left, or this one.
    async fn take_over(&mut self, parked: Parked) -> Result<(), Report> {
        let Parked { place, mut server, target, reported, statements, owner, .. } = parked;
        let known = self.talk.known();
        let mut errand = Errand::new(&mut server, Vec::new());
        let (commit_seq, seen) = (known.reported.commit_seq, reported.commit_seq);
        let is_current = self.wanderer.node == Some(place.node().id) || seen >= commit_seq;
        errand.reported = reported;
        // Its own has all that it has.
        if owner != self.wanderer.id {
            in_time(errand.hand_over(known, &statements, is_current)).await?;
        }
        let Errand { reported, is_whole, .. } = errand;
        if let Some(cancellable) = &self.cancellable {
            cancellable.give(target);
        }
        let heard = goes_on(self.talk, reported, false);
        *self.seat = Some(Seat { place, server, is_whole });
        self.relay.resume(&heard, false);
        Ok(())
    }
}
