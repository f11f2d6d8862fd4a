//! The one thread that writes. It drains its queue into a frame, writes the
//! frame, syncs once, and only then answers everyone who waited for any part
//! of it. At most one frame is ever not yet durable: recovery depends on that.
//!
//! On a full disk it goes on in the present segment. What does not fit there waits, and what came
//! after it: openraft takes a vote that is durable for a sign that every entry before it is. Only
//! a purge goes ahead, since it makes room. `LogStore::admits` keeps it from coming to that.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use openraft::EntryPayload;
use openraft::storage::IOFlushed;
use tokio::sync::oneshot;

use super::Shared;
use super::index::SegmentFile;
use super::prepare::{self, begin_segment};
use super::segment::{Checkpoint, FrameBuilder, HEADER, Header, Record, new_salt};
use crate::codec::entry_len;
use crate::raft::{Entry, LogId, TypeConfig, Vote};
use crate::runtime;

/// A frame is closed once it is this large.
const FRAME_BYTES: usize = 4 << 20;
/// How long a committed position may wait for company before it is written alone.
const COMMITTED_DELAY: Duration = Duration::from_millis(100);
/// More than the size of any record without its entry.
const SMALL_RECORD: usize = 64;

/// An upper bound of what an entry takes in a segment, in bytes.
pub(crate) fn room_for(entry: &Entry) -> usize {
    entry_len(entry) + SMALL_RECORD
}

/// What a segment keeps at its end for votes, purges and the log's own entries as long as it is
/// the last one that there is room for.
pub(crate) fn reserve(segment_bytes: u64) -> u64 {
    (segment_bytes / 16).min(1 << 20)
}

pub(crate) enum Operation {
    Append { entries: VecDeque<Entry>, done: IOFlushed<TypeConfig> },
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
    /// What does not fit on the disk is given up.
    abandoned: bool,
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

    /// Lets the writer end rather than wait for room on the disk.
    pub(crate) fn abandon(&self) {
        self.lock().abandoned = true;
    }

    fn is_abandoned(&self) -> bool {
        let waiting = self.lock();
        waiting.abandoned || waiting.closed
    }

    /// Whether the writer ends, or has.
    pub(crate) fn is_over(&self) -> bool {
        let waiting = self.lock();
        waiting.closed || waiting.ended
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

impl Position {
    /// Bytes that are left in the segment.
    pub(crate) fn room(&self) -> u64 {
        self.segment.size - self.offset
    }
}

/// A writer at work.
pub(crate) enum Running {
    Thread(JoinHandle<()>),
    /// Of a simulation.
    Task(tokio::task::JoinHandle<()>),
}

pub(crate) struct Writer {
    shared: Arc<Shared>,
    position: Position,
    /// Prepares the next segment.
    preparing: Option<JoinHandle<()>>,
    on_failure: OnFailure,
    /// What is under way to the disk next, and who waits for it.
    frame: FrameBuilder,
    effects: Effects,
    /// Taken from the queue; there is no room for the first one.
    stalled: VecDeque<(u64, Operation)>,
    /// A committed position that was not written yet.
    committed: Option<LogId>,
    /// Nothing came the last time.
    idle: bool,
}

/// What a frame's sync releases.
#[derive(Default)]
struct Effects {
    records: Vec<Record>,
    /// The last operation that the frame completes.
    ticket: u64,
    /// What the frame's entries were counted with in [`super::index::Queued::unwritten`].
    room: usize,
    appends: Vec<IOFlushed<TypeConfig>>,
    votes: Vec<oneshot::Sender<()>>,
}

impl Writer {
    pub(crate) fn spawn(shared: Arc<Shared>, position: Position, on_failure: OnFailure) -> io::Result<Running> {
        let mut writer = Self {
            frame: FrameBuilder::new(Vec::new(), position.segment.salt),
            shared,
            position,
            preparing: None,
            on_failure,
            effects: Effects::default(),
            stalled: VecDeque::new(),
            committed: None,
            idle: true,
        };
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
        self.preparing = prepare::begin(&self.shared)?;
        loop {
            let taken = self.shared.queue.take(self.patience());
            if self.turn(taken)? {
                return Ok(());
            }
        }
    }

    async fn run_simulated(&mut self) -> io::Result<()> {
        self.preparing = prepare::begin(&self.shared)?;
        loop {
            let taken = self.shared.queue.arrival(self.patience(), self.shared.disk.latency()).await;
            if self.turn(taken)? {
                return Ok(());
            }
        }
    }

    /// How long to wait for what comes next.
    fn patience(&self) -> Option<Duration> {
        (!self.idle || self.committed.is_some() || !self.stalled.is_empty()).then_some(COMMITTED_DELAY)
    }

    /// Writes what was taken from the queue; true when that was the last.
    fn turn(&mut self, taken: Option<Vec<(u64, Operation)>>) -> io::Result<bool> {
        let closed = taken.is_none();
        let taken = taken.unwrap_or_default();
        self.idle = taken.is_empty();
        self.stalled.extend(taken);
        while let Some((ticket, operation)) = self.stalled.pop_front() {
            self.effects.ticket = ticket;
            if let Some(rest) = self.place(operation)? {
                self.effects.ticket = ticket.saturating_sub(1);
                self.stalled.push_front((ticket, rest));
                self.purge_early()?;
                break;
            }
        }
        // Committed positions ride along for nothing, or go alone when all is quiet.
        if let Some(position) = self.committed.filter(|_| self.idle || !self.frame.is_empty())
            && self.make_room(SMALL_RECORD, 0)?
        {
            self.frame.committed(Some(position));
            self.effects.records.push(Record::Committed(Some(position)));
            self.committed = None;
        }
        self.write()?;
        Ok(closed || (!self.stalled.is_empty() && self.shared.queue.is_abandoned()))
    }

    /// Puts an operation into the frame, and into further ones; returns what there is no room for.
    fn place(&mut self, operation: Operation) -> io::Result<Option<Operation>> {
        match operation {
            Operation::Append { mut entries, done } => {
                while let Some(entry) = entries.front() {
                    let is_proposal = matches!(entry.payload, EntryPayload::Normal(_));
                    let reserve = if is_proposal { reserve(self.shared.segment_bytes) } else { 0 };
                    let room = room_for(entry);
                    if !self.make_room(room, reserve)? {
                        return Ok(Some(Operation::Append { entries, done }));
                    }
                    let mut location = self.frame.entry(entry);
                    location.offset += self.position.offset as u32;
                    self.effects.records.push(Record::Entry(entry.log_id, location));
                    self.effects.room += room;
                    entries.pop_front();
                }
                self.effects.appends.push(done);
            }
            Operation::Committed(position) => self.committed = position,
            other if !self.make_room(SMALL_RECORD, 0)? => return Ok(Some(other)),
            Operation::Vote { vote, done } => {
                self.frame.vote(&vote);
                self.effects.records.push(Record::Vote(vote));
                self.effects.votes.push(done);
            }
            Operation::Truncate(last) => {
                self.frame.truncate(last);
                self.effects.records.push(Record::Truncate(last));
            }
            Operation::Purge(upto) => {
                self.frame.purge(upto);
                self.effects.records.push(Record::Purge(upto));
            }
        }
        Ok(None)
    }

    /// Carries out the purges among what is stalled, as far as they purge what is written.
    fn purge_early(&mut self) -> io::Result<()> {
        self.write()?;
        let last = self.position.checkpoint.last;
        let is_early = |operation: &Operation| matches!(operation, Operation::Purge(upto) if Some(*upto) <= last);
        while let Some(at) = self.stalled.iter().position(|(_, operation)| is_early(operation)) {
            if !self.make_room(SMALL_RECORD, 0)? {
                break;
            }
            if let Some((_, purge)) = self.stalled.remove(at) {
                self.place(purge)?;
            }
        }
        Ok(())
    }

    /// Sees to it that the frame takes `len` bytes more, if need be by going on in another frame or
    /// in the next segment. The segment's last `reserve` bytes are used only once there is a next
    /// one. False if there is none, because the disk is full.
    fn make_room(&mut self, len: usize, reserve: u64) -> io::Result<bool> {
        if self.frame.len() >= FRAME_BYTES || !self.fits(len, 0) {
            let ticket = self.effects.ticket;
            // What is cut off belongs to an operation that is not complete.
            self.effects.ticket = ticket.saturating_sub(1);
            self.write()?;
            self.effects.ticket = ticket;
        }
        if self.fits(len, reserve) {
            return Ok(true);
        }
        if !self.shared.preparation.is_ready(&self.shared)? {
            return Ok(false);
        }
        if !self.fits(len, 0) {
            self.rotate()?;
        }
        Ok(true)
    }

    fn fits(&self, len: usize, reserve: u64) -> bool {
        (self.frame.len() + len) as u64 + reserve <= self.position.room()
    }

    /// Makes the frame durable, then tells those who wait for it.
    fn write(&mut self) -> io::Result<()> {
        if !self.frame.is_empty() {
            let frame = std::mem::replace(&mut self.frame, FrameBuilder::new(Vec::new(), self.position.segment.salt));
            let bytes = frame.finish(self.position.next_frame);
            self.position.segment.file.write_at(&bytes, self.position.offset)?;
            self.position.segment.file.sync()?;
            self.position.offset += bytes.len() as u64;
            self.position.next_frame += 1;
            self.frame = FrameBuilder::new(bytes, self.position.segment.salt);
        }
        let empty = self.publish();
        for done in self.effects.appends.drain(..) {
            done.io_completed(Ok(()));
        }
        for done in self.effects.votes.drain(..) {
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
    fn publish(&mut self) -> Vec<Arc<SegmentFile>> {
        let checkpoint = &mut self.position.checkpoint;
        let mut empty = Vec::new();
        let mut view = self.shared.view();
        for record in self.effects.records.drain(..) {
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
        view.queued.written(std::mem::take(&mut self.effects.room));
        view.room = self.position.room();
        view.queued.evict(self.effects.ticket, self.shared.cache_bytes);
        empty
    }

    /// Goes on in the segment that is ready. Its header is durable before its name exists.
    fn rotate(&mut self) -> io::Result<()> {
        let file = self.shared.preparation.take().ok_or_else(|| io::Error::other("no segment is ready"))?;
        if let Some(prepared) = self.preparing.take() {
            prepared.join().map_err(|_| io::Error::other("preparing a log segment panicked"))?;
        }
        let header = Header {
            node: self.shared.node,
            salt: new_salt(),
            number: self.position.segment.number + 1,
            previous_end: self.position.offset,
            first_frame: self.position.next_frame,
            checkpoint: self.position.checkpoint,
        };
        let segment = begin_segment(self.shared.disk.as_ref(), file, &header, self.shared.segment_bytes)?;
        self.position.segment = segment.clone();
        self.position.offset = HEADER as u64;
        let mut view = self.shared.view();
        view.written.begin_segment(segment);
        view.room = self.position.room();
        drop(view);
        self.frame.set_salt(self.position.segment.salt);
        self.preparing = prepare::begin(&self.shared)?;
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.queue.end();
        if let Some(preparing) = self.preparing.take() {
            // What it leaves is removed at the next start.
            let _ = preparing.join();
        }
    }
}
