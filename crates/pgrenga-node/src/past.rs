//! How transactions ended, for longer than the core remembers.
//!
//! Whatever the core decides is noted, and durable before the log that says so is cut. What this node
//! does not know because it came later, or lost, others may: they are asked. A transaction is
//! called unknown only if every node with data says so, at a place of the log not before this node's;
//! if one of them does not answer there is no answer yet, and the session asks again.

use std::time::Duration;

use futures::future::join_all;
use pgrenga_admin::{Client, Fate, Member};
use pgrenga_core::{Core, Decision, Status};
use pgrenga_outcomes::{Keep, Look, Mark, Outcomes, Recalled};
use pgrenga_writeset::{LogIndex, TransactionId};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::{Error, Options};

/// How long another node may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// See the module. A witness, which nobody asks, notes nothing.
pub(crate) struct Past {
    outcomes: Option<Outcomes>,
    /// Writes news of which there was too much to wait for the next state.
    writing: Option<JoinHandle<()>>,
}

impl Past {
    pub(crate) fn open(options: &Options) -> Result<Self, Error> {
        let path = options.outcomes_dir.display().to_string();
        let failed = |source| Error::Outcomes { path, source };
        let open = |_| Outcomes::open(&options.outcomes_dir, options.outcomes_limits);
        let outcomes = options.postgres.as_ref().map(open).transpose().map_err(failed)?;
        Ok(Self { outcomes, writing: None })
    }

    /// The log is read from a state at `index` on.
    pub(crate) fn begin(&mut self, index: LogIndex, core: &Core) {
        if let Some(outcomes) = &mut self.outcomes {
            outcomes.begin(index, core.lives());
        }
    }

    pub(crate) fn note(&mut self, decision: &Decision) {
        let (txid, mark) = match decision {
            Decision::Commit { txid, .. } => (txid, Mark::Committed),
            Decision::Abort { txid, .. } => (txid, Mark::Aborted),
            _ => return,
        };
        if let Some(outcomes) = &mut self.outcomes {
            outcomes.note(txid, mark);
        }
    }

    /// What is to be written before the log up to `read` may go, which is how far it was read.
    pub(crate) fn keep(&mut self, read: LogIndex) -> Option<Keep> {
        self.outcomes.as_mut().map(|outcomes| outcomes.keep(read))
    }

    /// Keeps memory bounded while no state is kept.
    pub(crate) fn write_if_large(&mut self, read: Option<LogIndex>) {
        let is_writing = self.writing.as_ref().is_some_and(|task| !task.is_finished());
        if is_writing || !self.outcomes.as_ref().is_some_and(Outcomes::is_large) {
            return;
        }
        if let Some(keep) = read.and_then(|read| self.keep(read)) {
            self.writing = Some(spawn_blocking(move || {
                if let Err(error) = keep.run() {
                    tracing::warn!(%error, "could not write how transactions ended");
                }
            }));
        }
    }

    /// What is known of a transaction here, at the place up to which the log was read.
    pub(crate) fn look(&self, core: &Core, txid: TransactionId) -> Known {
        let known = |status: Status| match status {
            Status::Committed(_) => Fate::Committed,
            Status::Aborted => Fate::Aborted,
            Status::InProgress => Fate::InProgress,
            Status::Unknown => Fate::Unknown,
        };
        match (core.status(txid), core.undecided(txid), &self.outcomes) {
            (Status::Unknown, Some(undecided), Some(outcomes)) => {
                Known::Kept { look: outcomes.look(&txid), undecided: known(undecided) }
            }
            (status, ..) => Known::Now(known(status)),
        }
    }
}

/// What this node knows, or where it has to look.
pub(crate) enum Known {
    /// The core knows.
    Now(Fate),
    /// The files may tell.
    Kept {
        look: Look,
        /// If they do not have it, and would.
        undecided: Fate,
    },
}

impl Known {
    /// What this node knows by itself.
    pub(crate) async fn here(self) -> Fate {
        let (look, undecided) = match self {
            Self::Now(fate) => return fate,
            Self::Kept { look, undecided } => (look, undecided),
        };
        match spawn_blocking(move || look.recall()).await.unwrap_or(Recalled::Missing) {
            Recalled::Committed => Fate::Committed,
            Recalled::Aborted => Fate::Aborted,
            Recalled::Undecided => undecided,
            Recalled::Missing => Fate::Unknown,
        }
    }

    /// What this node knows, or the others that have read the log up to `index`; nothing if one of them
    /// that may know does not answer.
    pub(crate) async fn anywhere(self, txid: TransactionId, index: LogIndex, others: &[Member]) -> Option<Fate> {
        let never_was = matches!(self, Self::Now(Fate::Unknown));
        let fate = self.here().await;
        if fate != Fate::Unknown || never_was {
            return Some(fate);
        }
        let client = Client::new().with_timeout(PATIENCE);
        let answers = others.iter().map(|other| client.transaction(&other.admin_url, txid, index));
        let answers: Vec<_> = join_all(answers).await;
        let told = answers.iter().flatten().find(|fate| **fate != Fate::Unknown);
        told.copied().or_else(|| answers.iter().all(Result::is_ok).then_some(Fate::Unknown))
    }
}

#[cfg(test)]
mod tests;
