//! How far PostgreSQL is, as its workers report.

use std::time::{Duration, Instant};

use pgrenga_admin::State;
use pgrenga_core::schedule::Run;
use pgrenga_writeset::Seq;
use pgrenga_writeset::entry::Item;

use super::Engine;
use crate::apply::NotApplied;

/// Attempts to apply a writeset before this node counts as different.
const MAX_ATTEMPTS: u32 = 50;
/// How often this node tells the log what it has flushed.
const PROGRESS: Duration = Duration::from_secs(1);

impl Engine {
    /// The port worker and the apply workers report this, each as far as it knows.
    pub(super) fn on_visible(&mut self, seq: Seq) {
        if seq <= self.visible {
            return;
        }
        if self.hindered {
            self.hindered = false;
            self.shared.set_hindrance(None);
            tracing::info!(%seq, "applies again");
        }
        self.visible = seq;
        self.shared.set_visible(seq);
        self.ledger.visible(seq);
        self.dispatcher.visible(seq);
        self.attempts.retain(|attempted, _| *attempted > seq);
        self.when_caught_up();
    }

    pub(super) async fn on_flushed(&mut self, seq: Seq) {
        self.flushed = seq;
        // The ledger lets go of it: it must count as visible, too, before a life is entered.
        self.on_visible(seq);
        self.ledger.flushed(seq);
        // It may be lower than before: then the log is needed from there again.
        if self.progress_sent.elapsed() >= PROGRESS && seq != self.core.flushed(self.options.node) {
            self.progress_sent = Instant::now();
            self.proposer.propose(&Item::Progress { node: self.options.node, flushed: seq }).await;
            if let Some(report) = self.agreement.report(self.options.node) {
                self.proposer.propose(&report).await;
            }
        }
    }

    pub(super) async fn on_applied(&mut self, worker: usize, run: Run, result: Result<(), NotApplied>) {
        let Err(why) = result else {
            self.dispatcher.done(worker, run.first);
            return self.on_visible(run.last);
        };
        let attempts = self.attempts.entry(run.first).or_default();
        *attempts += 1;
        let (reason, is_settled) = match why {
            NotApplied::Again(reason) => (reason, *attempts >= MAX_ATTEMPTS),
            NotApplied::Hindered(reason) => {
                *attempts = 0;
                if !std::mem::replace(&mut self.hindered, true) {
                    tracing::error!(seq = %run.first, reason, "PostgreSQL cannot apply; trying again until it can");
                }
                self.shared.set_hindrance(Some(format!("cannot apply seq {}: {reason}", run.first)));
                (reason, false)
            }
            // Even this is believed only of a single seq, and after everything before is visible.
            NotApplied::Different(reason) => {
                let alone_at_the_head = run.first == run.last && self.visible.next() >= run.first;
                (reason, alone_at_the_head && *attempts >= 3)
            }
        };
        if is_settled {
            self.replace_data(run.first, &reason).await;
        } else {
            tracing::debug!(first = %run.first, last = %run.last, %reason, "applying again");
            self.dispatcher.failed(worker, run.first);
        }
    }

    /// This node's data does not fit the log: it must not serve any more.
    pub(super) async fn stop_serving(&mut self, seq: Seq, reason: &str) {
        tracing::error!(%seq, reason, "this node differs from the log and stops serving");
        self.shared.set_problem(format!("at seq {seq}: {reason}"));
        self.set_state(State::Detached);
        self.settle_standing().await;
        self.renew_lease().await;
    }
}
