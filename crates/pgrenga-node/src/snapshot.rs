//! The core's state at a place of the log, kept durably, and the log before it
//! let go.
//!
//! From time to time, by bytes of log, the core is copied; the copy is encoded
//! and written in the background, one at a time. It takes the place of the log
//! only when how everything up to there ended is written ([`crate::past`]) and nobody needs anything up to there any more
//! ([`pgrenga_core::retention`]): no PostgreSQL of any member, and no verdict.
//! So whoever starts from it, here after a restart or elsewhere as a newcomer,
//! finds in the log behind it everything that its PostgreSQL lacks, and needs
//! nothing from before.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pgrenga_core::Core;
use pgrenga_core::retention::Candidate;
use pgrenga_log::{Handle, is_disk_full};
use pgrenga_outcomes::Keep;
use pgrenga_writeset::{LogIndex, NodeId, Seq};
use tokio::task::JoinHandle;

use crate::Options;
use crate::past::Past;

/// Between two attempts on a full disk.
const RETRY: Duration = Duration::from_secs(1);

/// Takes snapshots and cuts the log.
pub(crate) struct Keeper {
    log: Handle,
    every_bytes: u64,
    max_log_bytes: u64,
    /// Bytes of entries read since the last state was copied.
    read_bytes: u64,
    /// The last entry that was read.
    read_index: LogIndex,
    stage: Stage,
}

enum Stage {
    Idle,
    /// A state is there, or being encoded; the log up to it is still needed.
    Waiting {
        candidate: Candidate,
        state: JoinHandle<Vec<u8>>,
        /// How transactions ended up to there, to be written first.
        keep: Option<Keep>,
    },
    /// It is being written, and the log cut.
    Installing(JoinHandle<()>),
}

impl Keeper {
    pub(crate) fn new(options: &Options, log: Handle) -> Self {
        let (every_bytes, max_log_bytes) = (options.snapshot_every_bytes, options.max_log_bytes);
        Self { log, every_bytes, max_log_bytes, read_bytes: 0, read_index: LogIndex(0), stage: Stage::Idle }
    }

    /// The core has taken in the whole entry at `index`, and nothing after it.
    pub(crate) fn read(&mut self, index: LogIndex, bytes: usize, core: &Core, past: &mut Past) {
        self.read_bytes += bytes as u64;
        self.read_index = index;
        self.copy_if_due(core, past);
    }

    fn copy_if_due(&mut self, core: &Core, past: &mut Past) {
        if self.read_bytes < self.every_bytes || !matches!(self.stage, Stage::Idle) {
            return;
        }
        self.read_bytes = 0;
        // Copying takes a fraction of the time that encoding does.
        let (copy, keep) = (core.clone(), past.keep(self.read_index));
        let state = tokio::task::spawn_blocking(move || copy.snapshot());
        self.stage = Stage::Waiting { candidate: Candidate::new(self.read_index, core), state, keep };
    }

    /// Looks whether the state that waits may be installed now; if so, tells up to which seq nothing is kept for
    /// anybody any more. `with_data` are the nodes that have a PostgreSQL, whether they are up or not; `own` is none for a
    /// witness, and for a node whose PostgreSQL has been gone for long.
    pub(crate) fn look(
        &mut self,
        core: &Core,
        past: &mut Past,
        own: Option<NodeId>,
        with_data: impl Iterator<Item = NodeId>,
    ) -> Option<Seq> {
        match &mut self.stage {
            // Nothing may come any more that would make the next state due.
            Stage::Idle => {
                self.copy_if_due(core, past);
                return None;
            }
            Stage::Installing(task) => {
                if task.is_finished() {
                    self.stage = Stage::Idle;
                }
                return None;
            }
            Stage::Waiting { candidate, .. } => {
                candidate.look(core);
                let is_full = self.log.status().disk_bytes > self.max_log_bytes;
                let waits_for = waits_for(own, with_data, is_full, |node| core.flushed(node));
                if !candidate.may_replace_log(waits_for.into_iter().map(|node| core.flushed(node))) {
                    return None;
                }
            }
        }
        let Stage::Waiting { candidate, state, keep } = std::mem::replace(&mut self.stage, Stage::Idle) else {
            return None;
        };
        self.stage = Stage::Installing(tokio::spawn(install(self.log.clone(), candidate.index(), state, keep)));
        candidate.settled()
    }
}

/// Whose PostgreSQL the log is kept for. One that is too large waits for its own only, or, where that is none,
/// for the one that has come farthest.
fn waits_for(
    own: Option<NodeId>,
    with_data: impl Iterator<Item = NodeId>,
    is_full: bool,
    flushed: impl Fn(NodeId) -> Seq,
) -> Vec<NodeId> {
    match own {
        Some(own) => with_data.filter(|node| !is_full && *node != own).chain([own]).collect(),
        None if is_full => with_data.max_by_key(|node| flushed(*node)).into_iter().collect(),
        None => with_data.collect(),
    }
}

/// On a full disk it is tried until there is room: what is under way already is all that may make
/// some. If it fails otherwise, a later state will do.
async fn install(log: Handle, index: LogIndex, state: JoinHandle<Vec<u8>>, keep: Option<Keep>) {
    let Ok(state) = state.await else { return tracing::error!(%index, "encoding the state panicked") };
    if let Some(keep) = keep
        && let Err(error) = write(index, keep).await
    {
        return tracing::warn!(%index, %error, "could not keep how transactions ended");
    }
    let (bytes, state) = (state.len(), Bytes::from(state));
    let taken = loop {
        match log.snapshot_taken(index, state.clone()).await {
            Err(error) if error.is_disk_full() => tracing::warn!(%index, %error, "could not keep the state yet"),
            taken => break taken,
        }
        tokio::time::sleep(RETRY).await;
    };
    let installed = match taken {
        Ok(()) => log.purge(index).await,
        Err(error) => Err(error),
    };
    match installed {
        Ok(()) => tracing::info!(%index, bytes, "the state took the place of the log up to here"),
        Err(error) => tracing::warn!(%index, %error, "could not keep the state"),
    }
}

/// Writes how transactions ended; on a full disk when there is room.
async fn write(index: LogIndex, keep: Keep) -> io::Result<()> {
    let keep = Arc::new(keep);
    loop {
        let task = Arc::clone(&keep);
        match tokio::task::spawn_blocking(move || task.run()).await.map_err(io::Error::other)? {
            Err(error) if is_disk_full(&error) => {
                tracing::warn!(%index, %error, "could not keep how transactions ended yet");
            }
            written => return written,
        }
        tokio::time::sleep(RETRY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_kept_for_those_with_data() {
        let [n1, n2, witness] = [1, 2, 3].map(NodeId);
        let flushed = |node| Seq(if node == n1 { 70 } else { 50 });
        let of = |own, is_full| waits_for(own, [n1, n2].into_iter(), is_full, flushed);
        assert_eq!(of(Some(n2), false), [n1, n2]);
        assert_eq!(of(Some(n2), true), [n2]);
        assert_eq!(of(None, false), [n1, n2]);
        assert_eq!(of(None, true), [n1], "the one that has come farthest");
        // Who is not known yet as a member is waited for nevertheless, but a witness has nothing to wait for.
        assert_eq!(of(Some(witness), false), [n1, n2, witness]);
    }
}
