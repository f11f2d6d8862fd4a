//! The log on disk: votes and entries in segment files, one writer thread, an
//! index and a bounded cache of recent entries in memory.

mod disk;
mod index;
mod prepare;
mod recovery;
mod segment;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::VecDeque;
use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::ops::{Bound, RangeBounds, RangeInclusive};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::Stream;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{EntryPayload, LogState, OptionalSend, RaftLogReader};
use tokio::sync::oneshot;

pub(crate) use disk::Directory;
pub use disk::is_disk_full;
pub use disk::{Disk, DiskFile};
use index::{Place, Queued, Written};
use prepare::Preparation;
pub(crate) use writer::OnFailure;
use writer::{Operation, Queue, Running, Writer, reserve, room_for};

use crate::codec;
use crate::error::Error;
use crate::raft::{Entry, LogId, StoredMembership, TypeConfig, Vote};
use crate::runtime;

/// Entries handed to openraft's apply at once, in bytes.
const APPLY_BYTES: usize = 1 << 20;

/// What the writer and the readers share.
pub(crate) struct Shared {
    disk: Arc<dyn Disk>,
    queue: Queue,
    preparation: Preparation,
    view: Mutex<View>,
    node: u64,
    segment_bytes: u64,
    cache_bytes: usize,
}

struct View {
    queued: Queued,
    written: Written,
    /// What is left of the segment that is written to, in bytes.
    room: u64,
}

impl Shared {
    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Limits of a store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) segment_bytes: u64,
    /// Entries kept in memory, in bytes; those not yet written are beyond this.
    pub(crate) cache_bytes: usize,
    /// Entries in one read for another member, in bytes.
    pub(crate) read_bytes: usize,
}

/// The log store, cheap to clone: all clones are one log.
#[derive(Clone)]
pub(crate) struct LogStore {
    shared: Arc<Shared>,
    read_bytes: usize,
}

/// Ends the writer when asked to.
pub(crate) struct WriterGuard {
    shared: Arc<Shared>,
    running: Option<Running>,
    /// Released when nothing is written any more.
    lock: Option<File>,
}

impl WriterGuard {
    /// Keeps a lock for as long as anything may be written.
    pub(crate) fn hold(&mut self, lock: File) {
        self.lock = Some(lock);
    }

    /// Returns once everything queued is durable. Blocks; a simulated writer ends by itself.
    pub(crate) fn stop(&mut self) {
        self.shared.queue.close();
        if let Some(Running::Thread(thread)) = self.running.take()
            && thread.join().is_err()
        {
            tracing::error!("the log writer panicked");
        }
    }

    /// The same, without blocking the thread that asks.
    pub(crate) async fn stopped(mut self) {
        self.shared.queue.close();
        let stopped = match self.running.take_if(|running| matches!(running, Running::Task(_))) {
            Some(Running::Task(task)) => task.await.map_err(io::Error::other),
            _ => runtime::blocking(move || drop(self)).await,
        };
        if let Err(error) = stopped {
            tracing::error!(%error, "stopping the log writer panicked");
        }
    }
}

impl Drop for WriterGuard {
    fn drop(&mut self) {
        self.stop();
    }
}

enum Located {
    Here(Entry),
    OnDisk(Place),
}

impl LogStore {
    /// Reads the log of `node`, or begins one, and starts its writer. Blocks.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        node: u64,
        limits: Limits,
        on_failure: OnFailure,
    ) -> Result<(Self, WriterGuard), Error> {
        let recovered = recovery::recover(disk.as_ref(), node, limits.segment_bytes)?;
        let shared = Arc::new(Shared {
            disk,
            queue: Queue::default(),
            preparation: Preparation::default(),
            view: Mutex::new(View {
                queued: recovered.queued,
                written: recovered.written,
                room: recovered.position.room(),
            }),
            node,
            segment_bytes: limits.segment_bytes,
            cache_bytes: limits.cache_bytes,
        });
        let running = Writer::spawn(shared.clone(), recovered.position, on_failure)
            .map_err(Error::io("could not start the log writer"))?;
        let guard = WriterGuard { shared: shared.clone(), running: Some(running), lock: None };
        Ok((Self { shared, read_bytes: limits.read_bytes }, guard))
    }

    /// The lowest index that may be held, and the last purged one's id.
    pub(crate) fn purged(&self) -> Option<LogId> {
        self.shared.view().queued.checkpoint.purged
    }

    /// Known to be committed when this was last made durable, or since.
    pub(crate) fn committed(&self) -> Option<LogId> {
        self.shared.view().queued.checkpoint.committed
    }

    pub(crate) fn log_id_at(&self, index: u64) -> Option<LogId> {
        self.shared.view().queued.log_id_at(index)
    }

    /// Bytes of all segment files.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.shared.view().written.disk_bytes()
    }

    /// Whether the disk has no room for another segment. There is still some in the present one.
    pub(crate) fn is_full(&self) -> bool {
        self.shared.preparation.is_full()
    }

    /// Whether these entries may be appended. On a full disk the writer must not be given what it
    /// has no room for: nothing that comes later could be written then, votes neither.
    pub(crate) fn admits<'a>(&self, entries: impl IntoIterator<Item = &'a Entry>) -> bool {
        self.has_room(entries.into_iter().map(room_for).sum())
    }

    /// The same for one entry with so many bytes of payload.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        if !self.is_full() {
            return true;
        }
        let view = self.shared.view();
        (view.queued.unwritten + bytes) as u64 + reserve(self.shared.segment_bytes) <= view.room
    }

    /// What there is no room for is given up, so that nobody waits for it at the end.
    pub(crate) fn abandon(&self) {
        self.shared.queue.abandon();
    }

    /// The last membership that the held log has at or before `index`.
    pub(crate) async fn membership_at(&self, index: u64) -> io::Result<Option<StoredMembership>> {
        let at = self.shared.view().queued.membership_before(index);
        let Some(at) = at else { return Ok(None) };
        let entry = self.read(at, at + 1, usize::MAX).await?.pop();
        Ok(entry.and_then(|entry| entry.get_membership().map(|found| StoredMembership::new(Some(entry.log_id), found))))
    }

    /// The held entries in `start..end` from the first one on, until they have
    /// `limit` bytes; at least one if there is any.
    pub(crate) async fn read(&self, start: u64, end: u64, limit: usize) -> io::Result<Vec<Entry>> {
        let (located, on_disk) = self.locate(start, end, limit)?;
        let load = move || located.into_iter().map(load).collect();
        if on_disk { runtime::blocking(load).await? } else { load() }
    }

    fn locate(&self, start: u64, end: u64, limit: usize) -> io::Result<(Vec<Located>, bool)> {
        let view = self.shared.view();
        let start = start.max(view.queued.first_index());
        let end = end.min(view.queued.next_index().unwrap_or(0));
        let mut found = Vec::new();
        let mut bytes = 0;
        let mut on_disk = false;
        for index in start..end {
            let (item, size) = match view.queued.cached(index) {
                Some(entry) => (Located::Here(entry.clone()), codec::entry_len(entry)),
                None => {
                    on_disk = true;
                    let place = view
                        .written
                        .place(index)
                        .ok_or_else(|| io::Error::other(format!("log index {index} is neither cached nor on disk")))?;
                    let size = place.location.1 as usize;
                    (Located::OnDisk(place), size)
                }
            };
            bytes += size;
            if bytes > limit && !found.is_empty() {
                break;
            }
            found.push(item);
        }
        Ok((found, on_disk))
    }

    fn push(&self, change: impl FnOnce(&mut Queued, u64) -> Operation) {
        self.shared.queue.push(|ticket| change(&mut self.shared.view().queued, ticket));
    }
}

fn load(located: Located) -> io::Result<Entry> {
    match located {
        Located::Here(entry) => Ok(entry),
        Located::OnDisk(Place { segment, location: (offset, len) }) => {
            let mut record = vec![0; len as usize];
            segment.file.read_at(&mut record, offset.into())?;
            segment::entry_of_record(Bytes::from(record), segment.salt).map_err(|error| {
                let reason = format!("corrupt log segment {} at byte {offset}: {error}", segment.name);
                io::Error::new(io::ErrorKind::InvalidData, reason)
            })
        }
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        self.read(start, end, usize::MAX).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.shared.view().queued.checkpoint.vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end, self.read_bytes).await
    }

    /// Piece by piece, so that a long backlog is not in memory at once.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        let state = (self.clone(), start, Vec::new().into_iter());
        futures::stream::try_unfold(state, move |(store, mut next, mut piece)| async move {
            if piece.len() == 0 {
                piece = store.read(next, end, APPLY_BYTES).await?.into_iter();
            }
            Ok(piece.next().map(|entry: Entry| {
                next = entry.log_id.index + 1;
                (entry, (store, next, piece))
            }))
        })
    }

    /// The last entry of each term: what openraft's own suite expects, though the trait's
    /// documentation speaks of the first.
    async fn get_key_log_ids(&mut self, range: RangeInclusive<LogId>) -> io::Result<Vec<LogId>> {
        let (first, last) = range.into_inner();
        Ok(self.shared.view().queued.term_ends(first.index, last.index))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let checkpoint = self.shared.view().queued.checkpoint;
        Ok(LogState { last_purged_log_id: checkpoint.purged, last_log_id: checkpoint.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (done, written) = oneshot::channel();
        self.push(|queued, _| {
            queued.checkpoint.vote = Some(*vote);
            Operation::Vote { vote: *vote, done }
        });
        written.await.map_err(|_| io::Error::other("the log writer has ended"))
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.push(|queued, _| {
            queued.checkpoint.committed = committed;
            Operation::Committed(committed)
        });
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.committed())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: VecDeque<Entry> = entries.into_iter().collect();
        self.push(|queued, ticket| {
            for entry in &entries {
                queued.append(entry.clone(), ticket);
            }
            Operation::Append { entries, done: callback }
        });
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.push(|queued, _| {
            queued.truncate(last);
            Operation::Truncate(last)
        });
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.push(|queued, _| {
            queued.purge(upto);
            Operation::Purge(upto)
        });
        Ok(())
    }
}

/// The payload of an entry that the application proposed.
pub(crate) fn payload_of(entry: &Entry) -> Option<Bytes> {
    match &entry.payload {
        EntryPayload::Normal(payload) => Some(payload.0.clone()),
        EntryPayload::Blank | EntryPayload::Membership(_) => None,
    }
}
