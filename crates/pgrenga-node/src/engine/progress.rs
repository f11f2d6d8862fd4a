//! How far PostgreSQL is, as its workers report.

use std::time::{Duration, Instant};

use pgrenga_admin::State;
use pgrenga_writeset::Seq;
use pgrenga_writeset::entry::Item;

use super::Engine;
use crate::apply::Applied;

/// Attempts to apply a writeset before this node counts as different.
const MAX_ATTEMPTS: u32 = 50;
/// How often this node tells the log what it has flushed.
const PROGRESS: Duration = Duration::from_secs(1);

impl Engine {
    pub(super) async fn on_visible(&mut self, seq: Seq) {
        self.visible = seq;
        self.ledger.visible(seq);
        self.dispatcher.visible(seq);
        self.attempts.retain(|attempted, _| *attempted > seq);
        self.when_caught_up();
    }

    pub(super) async fn on_flushed(&mut self, seq: Seq) {
        self.flushed = seq;
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

    pub(super) fn on_applied(&mut self, worker: usize, seq: Seq, result: Applied) {
        match result {
            Applied::Done => self.dispatcher.done(worker, seq),
            Applied::Again(reason) => {
                let attempts = self.attempts.entry(seq).or_default();
                *attempts += 1;
                if *attempts < MAX_ATTEMPTS {
                    tracing::debug!(%seq, %reason, "applying again");
                    self.dispatcher.failed(worker, seq);
                } else {
                    self.stop_serving(seq, &reason);
                }
            }
            Applied::Different(reason) => {
                // Even this is believed only after everything before is visible.
                let attempts = self.attempts.entry(seq).or_default();
                *attempts += 1;
                if self.visible.next() < seq || *attempts < 3 {
                    self.dispatcher.failed(worker, seq);
                } else {
                    self.stop_serving(seq, &reason);
                }
            }
        }
    }

    /// This node's data does not fit the log: it must not serve any more.
    pub(super) fn stop_serving(&mut self, seq: Seq, reason: &str) {
        tracing::error!(%seq, reason, "this node differs from the log and stops serving");
        self.shared.set_problem(format!("at seq {seq}: {reason}"));
        self.set_state(State::Detached);
    }
}
