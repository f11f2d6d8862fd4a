//! The lease under which PostgreSQL reads and writes.
//!
//! It counts from the moment at which a majority was asked how far the log is, and is
//! lent only once it has answered: so when it ends, no majority has done without this
//! node for longer than the lease. What is read under it is at most that much older
//! than what was acknowledged elsewhere, plus what the applier lags.

use pgrenga_admin::State;
use pgrenga_writeset::port::{MAX_PROBLEM, Standing, ToPostgres};

use super::Engine;
use crate::rounds::{Told, monotonic_ms};

/// What a majority said last, and what PostgreSQL was told of it.
#[derive(Debug, Default)]
pub(super) struct Lease {
    /// When the last round that a majority answered began.
    confirmed_ms: u64,
    told: Option<Standing>,
    told_until: Option<u64>,
}

impl Lease {
    /// Another connection: whoever is there knows nothing.
    pub(super) fn forget(&mut self) {
        self.told = None;
        self.told_until = None;
    }
}

impl Engine {
    pub(super) async fn on_told(&mut self, told: Told) {
        if told.index.is_some() {
            self.lease.confirmed_ms = told.begun_ms;
        }
        self.questions.told(told);
        self.rounds.ended(|round| self.questions.await_round(round), &self.log, &self.events);
        self.renew_lease().await;
        self.answer_questions().await;
    }

    fn standing(&self) -> Standing {
        if self.core.is_removed(self.options.node) {
            Standing::Removed
        } else if self.shared.has_problem() {
            Standing::Different
        } else if self.is_alone() {
            Standing::Alone
        } else if self.state == State::Serving {
            Standing::Serving
        } else {
            Standing::CatchingUp
        }
    }

    /// Whether no majority has answered for as long as a lease lasts.
    pub(super) fn is_alone(&self) -> bool {
        self.lease_until() <= monotonic_ms()
    }

    fn lease_until(&self) -> u64 {
        self.lease.confirmed_ms + self.options.lease.as_millis() as u64
    }

    /// Tells PostgreSQL how long it may serve, and why no longer.
    pub(super) async fn renew_lease(&mut self) {
        let standing = self.standing();
        if self.lease.told.replace(standing) != Some(standing) {
            if let (Standing::Different, Some(problem)) = (standing, self.shared.problem()) {
                self.tell(ToPostgres::Problem(&problem[..problem.floor_char_boundary(MAX_PROBLEM)])).await;
            }
            self.tell(ToPostgres::Standing(standing)).await;
        }
        let until = match standing {
            Standing::Serving => self.lease_until(),
            Standing::Different | Standing::Removed => 0,
            // It runs out by itself.
            Standing::Alone | Standing::CatchingUp => return,
        };
        if self.lease.told_until.replace(until) != Some(until) {
            self.tell(ToPostgres::Lease { until }).await;
        }
    }
}
