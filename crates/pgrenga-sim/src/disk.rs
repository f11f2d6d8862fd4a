//! A disk whose power may go at any moment: what was not synced then may be there, may be lost,
//! or may be there in part, each sector for itself. It may have no room for a while.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pgrenga_log::simulation::{Disk, DiskFile};

use crate::power::Power;

/// What a disk writes whole.
const SECTOR: usize = 512;

/// A disk and what it holds; all clones are one.
#[derive(Clone, Default)]
pub struct Platter(Arc<Mutex<State>>);

type Names = BTreeMap<String, Arc<Content>>;

#[derive(Default)]
struct State {
    names: Names,
    /// What the directory may be after a loss of power: as it was synced, or as it was after
    /// any change since then.
    possible: Vec<Names>,
    latency_ms_max: u64,
    /// Bytes that all files may have together.
    capacity: Option<usize>,
}

impl State {
    fn used(&self) -> usize {
        self.names.values().map(|content| content.lock().now.len()).sum()
    }

    fn free(&self) -> usize {
        self.capacity.map_or(usize::MAX, |capacity| capacity.saturating_sub(self.used()))
    }
}

#[derive(Default)]
struct Content(Mutex<Bytes>);

#[derive(Default)]
struct Bytes {
    now: Vec<u8>,
    durable: Vec<u8>,
}

impl Content {
    fn lock(&self) -> MutexGuard<'_, Bytes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lose_power(&self) {
        let mut bytes = self.lock();
        let Bytes { now, durable } = &mut *bytes;
        match fastrand::u8(..3) {
            0 => {}
            1 => durable.clone_from(now),
            _ => {
                durable.resize(now.len(), 0);
                for (kept, written) in durable.chunks_mut(SECTOR).zip(now.chunks(SECTOR)) {
                    if fastrand::bool() {
                        kept.copy_from_slice(written);
                    }
                }
            }
        }
        now.clone_from(durable);
    }
}

impl Platter {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk, as a process sees it that lives by `power`.
    pub fn mount(&self, power: Arc<Power>) -> Arc<dyn Disk> {
        Arc::new(Mounted { platter: self.clone(), power })
    }

    /// How long its writes take from now on, at most.
    pub fn set_latency(&self, ms_max: u64) {
        self.lock().latency_ms_max = ms_max;
    }

    /// Leaves room for so many bytes more, or for all that comes.
    pub fn set_room(&self, room: Option<usize>) {
        let mut state = self.lock();
        state.capacity = room.map(|room| state.used() + room);
    }

    /// Whether its room is limited.
    pub fn is_limited(&self) -> bool {
        self.lock().capacity.is_some()
    }

    /// The machine's power goes.
    pub fn lose_power(&self) {
        let mut state = self.lock();
        if !state.possible.is_empty() {
            let last = state.names.clone();
            state.possible.push(last);
            let found = fastrand::usize(..state.possible.len());
            state.names = state.possible.swap_remove(found);
        }
        state.possible.clear();
        state.names.values().for_each(|content| content.lose_power());
    }
}

struct Mounted {
    platter: Platter,
    power: Arc<Power>,
}

struct Open {
    platter: Platter,
    power: Arc<Power>,
    content: Arc<Content>,
}

/// The change during which the power goes may take effect or not, but nobody hears of it.
fn change(power: &Power, apply: impl FnOnce()) -> io::Result<()> {
    if !power.is_on() {
        return Err(io::Error::other("no power"));
    }
    let survives = power.act();
    if survives || fastrand::bool() {
        apply();
    }
    if survives { Ok(()) } else { Err(io::Error::other("power lost")) }
}

impl Mounted {
    fn file(&self, content: Arc<Content>) -> Arc<dyn DiskFile> {
        Arc::new(Open { platter: self.platter.clone(), power: self.power.clone(), content })
    }

    fn change_names(&self, apply: impl FnOnce(&mut Names)) -> io::Result<()> {
        change(&self.power, || {
            let mut state = self.platter.lock();
            let before = state.names.clone();
            state.possible.push(before);
            apply(&mut state.names);
        })
    }
}

impl Disk for Mounted {
    fn path(&self, name: &str) -> PathBuf {
        name.into()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.platter.lock().names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        if self.platter.lock().free() == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let content = Arc::new(Content::default());
        self.change_names(|names| {
            names.insert(name.into(), content.clone());
        })?;
        Ok(self.file(content))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let content = self.platter.lock().names.get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(self.file(content))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change_names(|names| {
            if let Some(content) = names.remove(from) {
                names.insert(to.into(), content);
            }
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.change_names(|names| {
            names.remove(name);
        })
    }

    fn sync(&self) -> io::Result<()> {
        change(&self.power, || self.platter.lock().possible.clear())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.platter.lock().free() as u64)
    }

    fn latency(&self) -> Duration {
        Duration::from_millis(fastrand::u64(..=self.platter.lock().latency_ms_max))
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
        // What fits is written, as by a file system.
        let (free, offset, size) = (self.platter.lock().free(), offset as usize, self.content.lock().now.len());
        let fits = new.len().min(size.saturating_add(free).saturating_sub(offset));
        change(&self.power, || {
            let mut bytes = self.content.lock();
            let end = size.max(offset + fits);
            bytes.now.resize(end, 0);
            bytes.now[offset..offset + fits].copy_from_slice(&new[..fits]);
        })?;
        if fits == new.len() { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    fn sync(&self) -> io::Result<()> {
        change(&self.power, || {
            let mut bytes = self.content.lock();
            let Bytes { now, durable } = &mut *bytes;
            durable.clone_from(now);
        })
    }
}
