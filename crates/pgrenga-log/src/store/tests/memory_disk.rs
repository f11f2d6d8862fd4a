//! A disk that can lose its power between any two operations, and then keeps
//! of what was not synced as little or as much as a real one might.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::store::disk::{Disk, DiskFile};

/// What a disk writes whole.
const SECTOR: usize = 512;

/// What becomes of writes that were not synced.
#[derive(Debug, Clone, Copy)]
pub(super) enum Unsynced {
    Lost,
    Kept,
    /// Each sector for itself, by a pattern.
    Mixed(u64),
}

#[derive(Clone, Default)]
pub(super) struct MemoryDisk(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    names: BTreeMap<String, Arc<Content>>,
    durable_names: BTreeMap<String, Arc<Content>>,
    /// Changes until the power goes.
    left: Option<usize>,
    /// Bytes that all files may have together.
    capacity: Option<usize>,
}

#[derive(Default)]
struct Content(Mutex<Bytes>);

#[derive(Default, Clone)]
struct Bytes {
    now: Vec<u8>,
    durable: Vec<u8>,
}

struct Open {
    disk: MemoryDisk,
    content: Arc<Content>,
}

impl Content {
    fn lock(&self) -> MutexGuard<'_, Bytes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemoryDisk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the power go after `changes` more.
    pub(super) fn fail_after(&self, changes: usize) {
        self.lock().left = Some(changes);
    }

    /// Bounds what the files may have together, in bytes.
    pub(super) fn set_capacity(&self, bytes: Option<usize>) {
        self.lock().capacity = bytes;
    }

    /// What the files have together, in bytes.
    pub(super) fn size(&self) -> usize {
        self.lock().names.values().map(|content| content.lock().now.len()).sum()
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.lock().names.keys().cloned().collect()
    }

    /// Counts a change. The one at which the power goes takes effect, but
    /// nobody hears of it, and nothing after it does.
    fn change(state: &mut State, apply: impl FnOnce(&mut State)) -> io::Result<()> {
        match &mut state.left {
            Some(0) => return Err(io::Error::other("no power")),
            Some(left) => *left -= 1,
            None => {}
        }
        apply(state);
        if state.left == Some(0) { Err(io::Error::other("power lost")) } else { Ok(()) }
    }

    /// The disk as it is found after the power went.
    pub(super) fn after_crash(&self, unsynced: Unsynced) -> Self {
        let state = self.lock();
        let names = if matches!(unsynced, Unsynced::Kept) { &state.names } else { &state.durable_names };
        let found = names.iter().map(|(name, content)| {
            let bytes = content.lock().clone();
            (name.clone(), Self::content(bytes.survivors(unsynced)))
        });
        Self::of(found.collect())
    }

    fn content(bytes: Vec<u8>) -> Arc<Content> {
        Arc::new(Content(Mutex::new(Bytes { now: bytes.clone(), durable: bytes })))
    }

    fn of(names: BTreeMap<String, Arc<Content>>) -> Self {
        Self(Arc::new(Mutex::new(State { durable_names: names.clone(), names, ..State::default() })))
    }

    /// A copy in which one file was changed behind the log's back.
    pub(super) fn damaged(&self, name: &str, damage: impl FnOnce(&mut Vec<u8>)) -> Self {
        let copy = self.after_crash(Unsynced::Kept);
        let mut bytes = copy.bytes(name);
        damage(&mut bytes);
        let mut names = copy.lock().names.clone();
        names.insert(name.into(), Self::content(bytes));
        Self::of(names)
    }

    pub(super) fn bytes(&self, name: &str) -> Vec<u8> {
        self.lock().names[name].lock().now.clone()
    }
}

impl Bytes {
    fn survivors(self, unsynced: Unsynced) -> Vec<u8> {
        match unsynced {
            Unsynced::Lost => self.durable,
            Unsynced::Kept => self.now,
            Unsynced::Mixed(pattern) => {
                let mut bytes = self.durable;
                bytes.resize(self.now.len(), 0);
                for (n, sector) in self.now.chunks(SECTOR).enumerate() {
                    if pattern.rotate_left(n as u32 * 7) & 1 == 1 {
                        bytes[n * SECTOR..][..sector.len()].copy_from_slice(sector);
                    }
                }
                bytes
            }
        }
    }
}

impl Disk for MemoryDisk {
    fn path(&self, name: &str) -> PathBuf {
        name.into()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.lock().names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let content = Arc::new(Content::default());
        Self::change(&mut self.lock(), |state| {
            state.names.insert(name.into(), content.clone());
        })?;
        Ok(Arc::new(Open { disk: self.clone(), content }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let content = self.lock().names.get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(Open { disk: self.clone(), content }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Self::change(&mut self.lock(), |state| {
            if let Some(content) = state.names.remove(from) {
                state.names.insert(to.into(), content);
            }
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        Self::change(&mut self.lock(), |state| {
            state.names.remove(name);
        })
    }

    fn sync(&self) -> io::Result<()> {
        Self::change(&mut self.lock(), |state| state.durable_names = state.names.clone())
    }
}

impl DiskFile for Open {
    fn size(&self) -> io::Result<u64> {
        Ok(self.content.lock().now.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = self.content.lock();
        let from = bytes.now.get(offset as usize..).and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, new: &[u8], offset: u64) -> io::Result<()> {
        let grown = (offset as usize + new.len()).saturating_sub(self.content.lock().now.len());
        let capacity = self.disk.lock().capacity;
        if capacity.is_some_and(|capacity| grown > 0 && self.disk.size() + grown > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        MemoryDisk::change(&mut self.disk.lock(), |_| {
            let (mut bytes, offset) = (self.content.lock(), offset as usize);
            let end = bytes.now.len().max(offset + new.len());
            bytes.now.resize(end, 0);
            bytes.now[offset..offset + new.len()].copy_from_slice(new);
        })
    }

    fn sync(&self) -> io::Result<()> {
        MemoryDisk::change(&mut self.disk.lock(), |_| {
            let mut bytes = self.content.lock();
            bytes.durable = bytes.now.clone();
        })
    }
}
