//! The one thread that writes. It drains its queue into a frame, writes the
//! frame, syncs once, and only then answers everyone who waited for any part
//! of it. At most one frame is ever not yet durable: recovery depends on that.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use openraft::storage::IOFlushed;
use tokio::sync::oneshot;

use super::Shared;
use super::disk::{Disk, DiskFile};
use super::index::SegmentFile;
use super::segment::{Checkpoint, FrameBuilder, HEADER, Header, Record, new_salt};
use crate::codec::entry_len;
use crate::raft::{Entry, LogId, TypeConfig, Vote};
use crate::runtime::{self, Background};

/// A frame is closed once it is this large.
const FRAME_BYTES: usize = 4 << 20;
/// How long a committed position may wait for company before it is written alone.
const COMMITTED_DELAY: Duration = Duration::from_millis(100);
/// More than the size of any record without its entry.
const SMALL_RECORD: usize = 64;
/// Zeros are written, and synced, in pieces of this size, so that preparing a
/// segment does not hold up the log's own syncs.
const ZERO_BYTES: usize = 1 << 20;
/// The segment being prepared.
pub(crate) const PREPARED: &str = "next.tmp";

pub(crate) enum Operation {
    Append { entries: Vec<Entry>, done: IOFlushed<TypeConfig> },
    Vote { vote: Vote, done: oneshot::Sender<()> },
    Truncate(Option<LogId>),
    Purge(LogId),
    Committed(Option<LogId>),
}

/// What to do when the disk fails. Nothing may be acknowledged after a failed
/// sync, and a second sync proves nothing: the kernel may have dropped the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnFailure {
    /// Ends the process with a message.
    Exit,
    /// Ends the writer; whoever waits hears nothing. For tests and simulations.
    Stop,
}

#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<Waiting>,
    ready: Condvar,
}

#[derive(Default)]
struct Waiting {
    operations: Vec<(u64, Operation)>,
    next_ticket: u64,
    closed: bool,
    /// The writer sleeps until it is told; otherwise it looks by itself before long.
    asleep: bool,
    /// A simulated writer that sleeps.
    sleeper: Option<Waker>,
    /// The writer is gone: what is queued is dropped, and whoever waits for it learns that.
    ended: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues what `make` returns for the ticket that it is given. `make` runs
    /// under the queue's lock: the order of calls is the order on disk.
    pub(crate) fn push(&self, make: impl FnOnce(u64) -> Operation) {
        let mut waiting = self.lock();
        waiting.next_ticket += 1;
        let ticket = waiting.next_ticket;
        let operation = make(ticket);
        // A committed position rides along with what comes next: not worth a wake-up.
        let wakes = waiting.asleep || !matches!(operation, Operation::Committed(_));
        if !waiting.ended {
            waiting.operations.push((ticket, operation));
        }
        if let Some(sleeper) = waiting.sleeper.take() {
            sleeper.wake();
        }
        drop(waiting);
        if wakes {
            self.ready.notify_one();
        }
    }

    /// Lets the writer end once it has written what is queued.
    pub(crate) fn close(&self) {
        let mut waiting = self.lock();
        waiting.closed = true;
        if let Some(sleeper) = waiting.sleeper.take() {
            sleeper.wake();
        }
        drop(waiting);
        self.ready.notify_one();
    }

    fn is_closed(&self) -> bool {
        self.lock().closed
    }

    fn end(&self) {
        let mut waiting = self.lock();
        waiting.ended = true;
        waiting.operations.clear();
    }

    /// What is queued, if need be after waiting; nothing after `limit`; `None` once closed.
    fn take(&self, limit: Option<Duration>) -> Option<Vec<(u64, Operation)>> {
        let mut waiting = self.lock();
        while waiting.operations.is_empty() {
            if waiting.closed {
                return None;
            }
            waiting = match limit {
                None => {
                    waiting.asleep = true;
                    let mut waiting = self.ready.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                    waiting.asleep = false;
                    waiting
                }
                Some(limit) => {
                    let (waiting, timeout) =
                        self.ready.wait_timeout(waiting, limit).unwrap_or_else(PoisonError::into_inner);
                    if timeout.timed_out() && waiting.operations.is_empty() && !waiting.closed {
                        return Some(Vec::new());
                    }
                    waiting
                }
            };
        }
        Some(std::mem::take(&mut waiting.operations))
    }

    /// [`Queue::take`] of a simulated writer; what comes within `latency` is taken as well.
    async fn arrival(&self, limit: Option<Duration>, latency: Duration) -> Option<Vec<(u64, Operation)>> {
        let arrived = std::future::poll_fn(|context| {
            let mut waiting = self.lock();
            if waiting.operations.is_empty() && !waiting.closed {
                waiting.sleeper = Some(context.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(())
        });
        match limit {
            // Nothing came in time.
            Some(limit) => drop(tokio::time::timeout(limit, arrived).await),
            None => arrived.await,
        }
        tokio::time::sleep(latency).await;
        let mut waiting = self.lock();
        let ends = waiting.operations.is_empty() && waiting.closed;
        (!ends).then(|| std::mem::take(&mut waiting.operations))
    }
}

/// Where the writer goes on.
pub(crate) struct Position {
    pub(crate) segment: Arc<SegmentFile>,
    pub(crate) offset: u64,
    pub(crate) next_frame: u64,
    /// The written log, as the next segment's header will state it.
    pub(crate) checkpoint: Checkpoint,
}

/// A segment being prepared; none if that was cut short because the log is closing.
type Preparing = Background<io::Result<Option<Arc<dyn DiskFile>>>>;

/// A writer at work.
pub(crate) enum Running {
    Thread(JoinHandle<()>),
    /// Of a simulation.
    Task(tokio::task::JoinHandle<()>),
}

pub(crate) struct Writer {
    shared: Arc<Shared>,
    position: Position,
    next_segment: Option<Preparing>,
    on_failure: OnFailure,
    space: Vec<u8>,
    /// A committed position that was not written yet.
    committed: Option<LogId>,
    /// Nothing came the last time.
    idle: bool,
}

/// The answers that a frame's sync releases.
#[derive(Default)]
struct Effects {
    records: Vec<Record>,
    ticket: u64,
    appends: Vec<IOFlushed<TypeConfig>>,
    votes: Vec<oneshot::Sender<()>>,
}

impl Writer {
    pub(crate) fn spawn(shared: Arc<Shared>, position: Position, on_failure: OnFailure) -> io::Result<Running> {
        let (next_segment, space, committed) = (None, Vec::new(), None);
        let mut writer = Self { shared, position, next_segment, on_failure, space, committed, idle: true };
        if runtime::is_simulated() {
            let ended = async move { writer.run_simulated().await.unwrap_or_else(|error| writer.fail(&error)) };
            return Ok(Running::Task(runtime::spawn(ended)));
        }
        let ended = move || writer.run().unwrap_or_else(|error| writer.fail(&error));
        std::thread::Builder::new().name("log-writer".into()).spawn(ended).map(Running::Thread)
    }

    fn fail(&self, error: &io::Error) {
        let path = self.shared.disk.path(&self.position.segment.name);
        tracing::error!(segment = %path.display(), %error, "could not write the log");
        match self.on_failure {
            OnFailure::Exit => {
                eprintln!("could not write log segment {}: {error}", path.display());
                eprintln!("HINT: nothing was acknowledged that is not on disk; free or repair the disk and restart");
                std::process::exit(74);
            }
            OnFailure::Stop => {}
        }
    }

    fn run(&mut self) -> io::Result<()> {
        self.prepare()?;
        loop {
            let taken = self.shared.queue.take(self.patience());
            let closed = taken.is_none();
            self.turn(taken.unwrap_or_default())?;
            if closed {
                return Ok(());
            }
        }
    }

    async fn run_simulated(&mut self) -> io::Result<()> {
        self.prepare()?;
        loop {
            let taken = self.shared.queue.arrival(self.patience(), self.shared.disk.latency()).await;
            let closed = taken.is_none();
            self.turn(taken.unwrap_or_default())?;
            if closed {
                return Ok(());
            }
        }
    }

    /// How long to wait for what comes next.
    fn patience(&self) -> Option<Duration> {
        (!self.idle || self.committed.is_some()).then_some(COMMITTED_DELAY)
    }

    /// Writes what was taken from the queue.
    fn turn(&mut self, taken: Vec<(u64, Operation)>) -> io::Result<()> {
        self.idle = taken.is_empty();
        let mut frame = self.begin();
        let mut effects = Effects::default();
        for (ticket, operation) in taken {
            effects.ticket = ticket;
            if !matches!(operation, Operation::Append { .. }) {
                frame = self.make_room(frame, SMALL_RECORD, &mut effects)?;
            }
            match operation {
                Operation::Append { entries, done } => {
                    for entry in entries {
                        frame = self.make_room(frame, entry_len(&entry) + SMALL_RECORD, &mut effects)?;
                        let mut location = frame.entry(&entry);
                        location.offset += self.position.offset as u32;
                        effects.records.push(Record::Entry(entry.log_id, location));
                    }
                    effects.appends.push(done);
                }
                Operation::Vote { vote, done } => {
                    frame.vote(&vote);
                    effects.records.push(Record::Vote(vote));
                    effects.votes.push(done);
                }
                Operation::Truncate(last) => {
                    frame.truncate(last);
                    effects.records.push(Record::Truncate(last));
                }
                Operation::Purge(upto) => {
                    frame.purge(upto);
                    effects.records.push(Record::Purge(upto));
                }
                Operation::Committed(position) => self.committed = position,
            }
        }
        // Committed positions ride along for nothing, or go alone when all is quiet.
        if let Some(position) = self.committed.take_if(|_| self.idle || !frame.is_empty()) {
            frame = self.make_room(frame, SMALL_RECORD, &mut effects)?;
            frame.committed(Some(position));
            effects.records.push(Record::Committed(Some(position)));
        }
        self.write(frame, &mut effects)
    }

    fn begin(&mut self) -> FrameBuilder {
        FrameBuilder::new(std::mem::take(&mut self.space), self.position.segment.salt)
    }

    /// Returns a frame that takes `len` bytes more: this one or, when it or the
    /// segment is full, another.
    fn make_room(&mut self, frame: FrameBuilder, len: usize, effects: &mut Effects) -> io::Result<FrameBuilder> {
        let fits = |writer: &Self, frame: &FrameBuilder| {
            writer.position.offset + (frame.len() + len) as u64 <= writer.position.segment.size
        };
        if frame.len() < FRAME_BYTES && fits(self, &frame) {
            return Ok(frame);
        }
        let ticket = effects.ticket;
        // What is cut off belongs to an operation that is not complete.
        effects.ticket -= 1;
        self.write(frame, effects)?;
        effects.ticket = ticket;
        let frame = self.begin();
        if fits(self, &frame) {
            return Ok(frame);
        }
        self.rotate()?;
        Ok(self.begin())
    }

    /// Makes the frame durable, then tells those who wait for it.
    fn write(&mut self, frame: FrameBuilder, effects: &mut Effects) -> io::Result<()> {
        if !frame.is_empty() {
            let bytes = frame.finish(self.position.next_frame);
            self.position.segment.file.write_at(&bytes, self.position.offset)?;
            self.position.segment.file.sync()?;
            self.position.offset += bytes.len() as u64;
            self.position.next_frame += 1;
            self.space = bytes;
            self.space.clear();
        }
        let empty = self.publish(std::mem::take(&mut effects.records), effects.ticket);
        for done in effects.appends.drain(..) {
            done.io_completed(Ok(()));
        }
        for done in effects.votes.drain(..) {
            // Whoever asked may be gone.
            let _ = done.send(());
        }
        for segment in &empty {
            self.shared.disk.remove(&segment.name)?;
        }
        if !empty.is_empty() {
            self.shared.disk.sync()?;
        }
        Ok(())
    }

    /// Brings the written view up to date; returns segments that hold nothing any more.
    fn publish(&mut self, records: Vec<Record>, ticket: u64) -> Vec<Arc<SegmentFile>> {
        let checkpoint = &mut self.position.checkpoint;
        let mut empty = Vec::new();
        let mut view = self.shared.view();
        for record in records {
            match record {
                Record::Entry(id, location) => {
                    view.written.append(id.index, location);
                    checkpoint.last = Some(id);
                }
                Record::Vote(vote) => checkpoint.vote = Some(vote),
                Record::Truncate(last) => {
                    view.written.truncate(last);
                    checkpoint.last = checkpoint.last.min(last.max(checkpoint.purged));
                }
                Record::Purge(upto) => {
                    empty.extend(view.written.purge(upto));
                    checkpoint.purged = checkpoint.purged.max(Some(upto));
                    checkpoint.last = checkpoint.last.max(Some(upto));
                }
                Record::Committed(position) => checkpoint.committed = position,
            }
        }
        view.queued.evict(ticket, self.shared.cache_bytes);
        empty
    }

    /// Goes on in a new segment. Its header is durable before its name exists.
    fn rotate(&mut self) -> io::Result<()> {
        let prepared = match self.next_segment.take() {
            Some(begun) => begun.join().ok_or_else(|| io::Error::other("preparing a log segment panicked"))??,
            None => None,
        };
        let file = match prepared {
            Some(file) => file,
            None => prepare(self.shared.disk.as_ref(), self.shared.segment_bytes)?,
        };
        let header = Header {
            node: self.shared.node,
            salt: new_salt(),
            number: self.position.segment.number + 1,
            previous_end: self.position.offset,
            first_frame: self.position.next_frame,
            checkpoint: self.position.checkpoint,
        };
        let segment = begin_segment(self.shared.disk.as_ref(), file, &header, self.shared.segment_bytes)?;
        self.shared.view().written.begin_segment(segment.clone());
        self.position.segment = segment;
        self.position.offset = HEADER as u64;
        self.prepare()
    }

    /// Prepares the next segment in the background.
    fn prepare(&mut self) -> io::Result<()> {
        let shared = self.shared.clone();
        let work = move || prepare_unless(shared.disk.as_ref(), shared.segment_bytes, || shared.queue.is_closed());
        self.next_segment = Some(Background::start("log-prepare", work)?);
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.queue.end();
        if let Some(begun) = self.next_segment.take() {
            // What it leaves is removed at the next start.
            begun.join();
        }
    }
}

/// Writes a segment's worth of zeros: appending to a file costs a sync its
/// metadata as well, writing into one that has its size and blocks does not.
pub(crate) fn prepare(disk: &dyn Disk, size: u64) -> io::Result<Arc<dyn DiskFile>> {
    let prepared = prepare_unless(disk, size, || false)?;
    prepared.ok_or_else(|| io::ErrorKind::Interrupted.into())
}

/// The same, given up as soon as it is `cancelled`.
fn prepare_unless(disk: &dyn Disk, size: u64, cancelled: impl Fn() -> bool) -> io::Result<Option<Arc<dyn DiskFile>>> {
    let file = disk.create(PREPARED)?;
    let zeros = vec![0; ZERO_BYTES.min(size as usize)];
    let mut at = 0;
    while at < size {
        if cancelled() {
            return Ok(None);
        }
        let piece = zeros.len().min((size - at) as usize);
        file.write_at(&zeros[..piece], at)?;
        file.sync()?;
        at += piece as u64;
    }
    Ok(Some(file))
}

/// Gives a prepared file its header and, once that is durable, its name.
pub(crate) fn begin_segment(
    disk: &dyn Disk,
    file: Arc<dyn DiskFile>,
    header: &Header,
    size: u64,
) -> io::Result<Arc<SegmentFile>> {
    let name = segment_name(header.number);
    file.write_at(&header.encode(), 0)?;
    file.sync()?;
    disk.rename(PREPARED, &name)?;
    disk.sync()?;
    Ok(Arc::new(SegmentFile { number: header.number, name, salt: header.salt, size, file }))
}

pub(crate) fn segment_name(number: u64) -> String {
    format!("{number:016x}.log")
}

/// The number in a segment's name.
pub(crate) fn segment_number(name: &str) -> Option<u64> {
    u64::from_str_radix(name.strip_suffix(".log").filter(|hex| hex.len() == 16)?, 16).ok()
}
