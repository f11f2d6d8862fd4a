//! Who has room on the disk under its log, as the members tell each other.
//!
//! A member says so in every reply to its leader; the leader says in every append whether fewer than
//! a majority of the voters have room. Whoever is full itself, or is told that, has its application
//! begin nothing new ([`crate::Handle::takes_writes`]): what is under way still fits, since a disk
//! counts as full while a good part of the last segment is free. A member on whose disk even that
//! is used up takes no more entries, and the leader goes on with the others.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Instant as _, RaftMetrics};

use crate::raft::{Entry, Raft, TypeConfig};
use crate::store::LogStore;

/// How often a leader looks.
const INTERVAL: Duration = Duration::from_millis(100);
/// Looks between two attempts to hand leadership over.
const PAUSE: u32 = 10;
/// A member that was heard of within this is there.
const PRESENT: Duration = Duration::from_millis(500);
/// Bytes that an entry takes beside its payload, at most.
const ENTRY_HEAD: usize = 128;

pub(crate) struct Space {
    store: LogStore,
    /// Those that said that their disks are full, last.
    full: Mutex<BTreeSet<u64>>,
    /// Fewer than a majority have room: as this member found if it leads, or was told.
    scarce: AtomicBool,
}

impl Space {
    pub(crate) fn new(store: LogStore) -> Self {
        Self { store, full: Mutex::default(), scarce: AtomicBool::new(false) }
    }

    /// Whether this member's disk is full.
    pub(crate) fn is_full(&self) -> bool {
        self.store.is_full()
    }

    pub(crate) fn is_scarce(&self) -> bool {
        self.scarce.load(Ordering::Relaxed)
    }

    /// The leader says so, or this member, which leads, has found it.
    pub(crate) fn set_scarce(&self, scarce: bool) {
        if self.scarce.swap(scarce, Ordering::Relaxed) != scarce {
            tracing::info!(scarce, "whether fewer than a majority of the logs have room");
        }
    }

    /// Whether this member takes the entries from its leader.
    pub(crate) fn admits(&self, entries: &[Entry]) -> bool {
        entries.is_empty() || self.store.admits(entries)
    }

    /// Whether this member, which leads, takes a proposal of so many bytes.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.store.has_room(bytes + ENTRY_HEAD)
    }

    fn full(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.full.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another member said whether its disk is full.
    pub(crate) fn heard(&self, id: u64, is_full: bool) {
        let mut full = self.full();
        let known = if is_full { !full.insert(id) } else { !full.remove(&id) };
        if !known {
            tracing::info!(node = id, is_full, "the disk under another member's log");
        }
    }

    /// Whether the member said last that its disk is full.
    pub(crate) fn is_full_at(&self, id: u64) -> bool {
        self.full().contains(&id)
    }
}

/// What a leader does: finds out whether a majority has room, and leads only if it has itself.
pub(crate) async fn run(space: Arc<Space>, raft: Raft) {
    let mut pause = 0;
    loop {
        tokio::time::sleep(INTERVAL).await;
        pause = u32::saturating_sub(pause, 1);
        let metrics = raft.metrics().borrow_watched().clone();
        if metrics.current_leader != Some(metrics.id) {
            continue;
        }
        let has_room = |id: u64| if id == metrics.id { !space.is_full() } else { !space.is_full_at(id) };
        let voters: Vec<u64> = metrics.membership_config.voter_ids().collect();
        let with_room: Vec<u64> = voters.iter().copied().filter(|voter| has_room(*voter)).collect();
        space.set_scarce(with_room.len() < voters.len() / 2 + 1);
        if pause == 0
            && !space.is_scarce()
            && space.is_full()
            && let Some(to) = successor(&metrics, &with_room)
        {
            pause = PAUSE;
            tracing::info!(to, "the disk is full: another member is to lead");
            // Its only error is that the core has ended.
            let _ = raft.trigger().transfer_leader(to).await;
        }
    }
}

/// The one of `able` that is there and has most of the log.
fn successor(metrics: &RaftMetrics<TypeConfig>, able: &[u64]) -> Option<u64> {
    let is_there = |id: &u64| {
        let heard = metrics.heartbeat.as_ref().and_then(|members| members.get(id).copied().flatten());
        heard.is_some_and(|at| at.elapsed() < PRESENT)
    };
    let matching = |id: &u64| metrics.replication.as_ref().and_then(|members| members.get(id).copied().flatten());
    able.iter().filter(|id| is_there(id)).max_by_key(|id| matching(id)).copied()
}
