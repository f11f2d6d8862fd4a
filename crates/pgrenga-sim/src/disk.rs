//! A disk whose power may go at any moment: what was not synced then may be there, may be lost,
//! or may be there in part, each sector for itself.

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
        let content = Arc::new(Content::default());
        self.change_names(|names| {
            names.insert(name.into(), content.clone());
        })?;
        Ok(Arc::new(Open { power: self.power.clone(), content }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let content = self.platter.lock().names.get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(Open { power: self.power.clone(), content }))
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
        change(&self.power, || {
            let (mut bytes, offset) = (self.content.lock(), offset as usize);
            let end = bytes.now.len().max(offset + new.len());
            bytes.now.resize(end, 0);
            bytes.now[offset..offset + new.len()].copy_from_slice(new);
        })
    }

    fn sync(&self) -> io::Result<()> {
        change(&self.power, || {
            let mut bytes = self.content.lock();
            let Bytes { now, durable } = &mut *bytes;
            durable.clone_from(now);
        })
    }
}
