//! The next segment: filled with zeros in the background while the present one is written to.
//!
//! On a full disk what was begun is removed, and it is tried again each second until there is
//! room: nobody has to start anything. Until then the log is *full*. It still has what is left
//! of the present segment, so it is known in time.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Shared;
use super::disk::{Disk, DiskFile, is_disk_full};
use super::index::SegmentFile;
use super::segment::Header;
use crate::runtime;

/// Zeros are written, and synced, in pieces of this size, so that preparing a
/// segment does not hold up the log's own syncs.
const ZERO_BYTES: usize = 1 << 20;
/// The segment being prepared.
const PREPARED: &str = "next.tmp";
/// Between two attempts on a full disk.
const RETRY: Duration = Duration::from_secs(1);

/// How the next segment stands.
#[derive(Default)]
pub(crate) struct Preparation {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
enum State {
    /// Nobody prepares one.
    #[default]
    None,
    UnderWay,
    /// The disk has no room for one; it is tried again.
    Full,
    Ready(Arc<dyn DiskFile>),
    Failed(io::Error),
}

impl Preparation {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As of the last attempt.
    pub(crate) fn is_full(&self) -> bool {
        matches!(*self.lock(), State::Full)
    }

    /// Whether there is a next segment, if need be after waiting until that is known.
    ///
    /// # Errors
    ///
    /// What the disk failed with, unless it was full.
    pub(crate) fn is_ready(&self, shared: &Shared) -> io::Result<bool> {
        let mut state = self.lock();
        while matches!(*state, State::UnderWay) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if matches!(*state, State::None) {
            drop(state);
            // What was begun was given up because the log is closing: what it has is written nevertheless.
            self.attempt(shared, || false);
            state = self.lock();
        }
        match &mut *state {
            State::Failed(error) => Err(std::mem::replace(error, io::ErrorKind::Other.into())),
            state => Ok(matches!(state, State::Ready(_))),
        }
    }

    /// The next segment's file, once it is ready.
    pub(crate) fn take(&self) -> Option<Arc<dyn DiskFile>> {
        let mut state = self.lock();
        match std::mem::take(&mut *state) {
            State::Ready(file) => Some(file),
            other => {
                *state = other;
                None
            }
        }
    }

    /// One attempt; true when there is nothing more to do.
    fn attempt(&self, shared: &Shared, cancelled: impl Fn() -> bool) -> bool {
        let reached = match prepare_unless(shared.disk.as_ref(), shared.segment_bytes, cancelled) {
            Ok(Some(file)) => State::Ready(file),
            Ok(None) => State::None,
            Err(error) if is_disk_full(&error) => State::Full,
            Err(error) => State::Failed(error),
        };
        let (is_full, is_ready) = (matches!(reached, State::Full), matches!(reached, State::Ready(_)));
        let was_full = matches!(std::mem::replace(&mut *self.lock(), reached), State::Full);
        self.changed.notify_all();
        let dir = shared.disk.path("");
        if is_full && !was_full {
            tracing::error!(dir = %dir.display(), "no room for the next log segment; trying again until there is");
        } else if is_ready && was_full {
            tracing::info!(dir = %dir.display(), "there is room for the log again");
        }
        !is_full
    }
}

/// Begins to prepare the next segment; what is returned ends when the writer has.
pub(crate) fn begin(shared: &Arc<Shared>) -> io::Result<Option<JoinHandle<()>>> {
    *shared.preparation.lock() = State::UnderWay;
    let shared = shared.clone();
    let attempt = move || shared.preparation.attempt(&shared, || shared.queue.is_over()) || shared.queue.is_over();
    if runtime::is_simulated() {
        if !attempt() {
            runtime::spawn(async move {
                tokio::time::sleep(RETRY).await;
                while !attempt() {
                    tokio::time::sleep(RETRY).await;
                }
            });
        }
        return Ok(None);
    }
    std::thread::Builder::new().name("log-prepare".into()).spawn(move || again(attempt)).map(Some)
}

/// Tries until it need not any more.
fn again(mut attempt: impl FnMut() -> bool) {
    while !attempt() {
        std::thread::sleep(RETRY);
    }
}

/// Writes a segment's worth of zeros: appending to a file costs a sync its
/// metadata as well, writing into one that has its size and blocks does not.
pub(crate) fn prepare(disk: &dyn Disk, size: u64) -> io::Result<Arc<dyn DiskFile>> {
    let prepared = prepare_unless(disk, size, || false)?;
    prepared.ok_or_else(|| io::ErrorKind::Interrupted.into())
}

/// The same, given up as soon as it is `cancelled`. Leaves nothing on a full disk.
fn prepare_unless(disk: &dyn Disk, size: u64, cancelled: impl Fn() -> bool) -> io::Result<Option<Arc<dyn DiskFile>>> {
    // Or the last bytes would be taken from others on this disk, each second, for nothing.
    if disk.free_bytes()? < size {
        return Err(io::ErrorKind::StorageFull.into());
    }
    let prepared = fill(disk, size, cancelled);
    if prepared.as_ref().is_err_and(is_disk_full) {
        // Perhaps not even its name had room.
        let _ = disk.remove(PREPARED);
    }
    prepared
}

fn fill(disk: &dyn Disk, size: u64, cancelled: impl Fn() -> bool) -> io::Result<Option<Arc<dyn DiskFile>>> {
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
