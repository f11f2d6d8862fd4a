//! The lease under which PostgreSQL reads and writes.
//!
//! It counts from the moment at which a majority was asked how far the log is, and is
//! lent only once it has answered: so when it ends, no majority has done without this
//! node for longer than the lease. What is read under it is at most that much older
//! than what was acknowledged elsewhere, plus what the applier lags.
//!
//! Once it has run out the others do without this node, and may have ended its life. So it begins
//! again only when this node has read the log as far as it was by then, and shows that.

use pgrenga_admin::State;
use pgrenga_writeset::LogIndex;
use pgrenga_writeset::port::{MAX_PROBLEM, Standing, ToPostgres};

use super::Engine;
use crate::rounds::{Told, monotonic_ms};

/// What a majority said last, and what PostgreSQL was told of it.
#[derive(Debug, Default)]
pub(super) struct Lease {
    /// When the last round that counts began.
    confirmed_ms: u64,
    /// After it has run out: how far the log has to be read before rounds count again.
    resumes: Option<LogIndex>,
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
        if let Some(index) = told.index {
            if self.is_alone() {
                self.lease.resumes.get_or_insert(index);
            }
            if self.lease.resumes.is_none_or(|resumes| self.present.position() >= Some(resumes)) {
                if self.lease.resumes.take().is_some() {
                    self.shared.excuse(self.core.seq());
                    self.standing.was_alone();
                }
                self.lease.confirmed_ms = told.begun_ms;
            }
        }
        self.questions.told(told);
        self.rounds.ended(|round| self.questions.await_round(round), &self.log, &self.events);
        self.settle_standing().await;
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
        } else if self.state == State::Serving && self.standing.shows_all() {
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
