//! The directory: a file for each segment, whole or not at all, and one for the floors.
//!
//! In this order, so that whatever a crash leaves is right:
//! 1. segments are replaced, and durable;
//! 2. the floors are, which say up to where of the log the segments hold everything, and which
//!    segments count no more because they are too old;
//! 3. those are removed.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use pgrenga_writeset::{Incarnation, LogIndex, NodeId};

use crate::floors::Floors;
use crate::segment::{Bits, Key};
use crate::{Changes, Limits};

const FLOORS: &str = "floors";
/// Being written.
const NEW: &str = ".new";

/// See the module.
pub(crate) struct Files {
    directory: PathBuf,
    limits: Limits,
    floors: Mutex<Floors>,
    /// Held while files are written.
    writing: Mutex<()>,
}

/// A segment's file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It is not what was written.
    #[error("the file is damaged")]
    Damaged,
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Files {
    pub(crate) fn open(directory: &Path, limits: Limits) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == &NEW[1..]) {
                fs::remove_file(path)?;
            }
        }
        let floors = match fs::read(directory.join(FLOORS)) {
            Ok(file) => Floors::open(&file).unwrap_or_else(|| {
                tracing::error!(directory = %directory.display(), "what is known of past outcomes is damaged");
                Floors::default()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Floors::default(),
            Err(error) => return Err(error),
        };
        let directory = directory.to_owned();
        Ok(Self { directory, limits, floors: Mutex::new(floors), writing: Mutex::new(()) })
    }

    pub(crate) fn begin(&self, index: LogIndex, lives: impl IntoIterator<Item = (NodeId, Incarnation)>) {
        let mut floors = lock(&self.floors);
        if floors.kept >= Some(index) {
            return;
        }
        // Durable with what is written next: until then it begins here again.
        for (node, incarnation) in lives {
            floors.raise_above_life(node, incarnation);
        }
    }

    pub(crate) fn is_complete(&self, key: &Key) -> bool {
        lock(&self.floors).is_complete(key)
    }

    /// A segment as it is kept; nothing if there is none.
    pub(crate) fn read(&self, key: &Key) -> Result<Option<Bits>, Error> {
        match fs::read(self.directory.join(key.file_name())) {
            Ok(file) => Bits::open(&file).map(Some).ok_or(Error::Damaged),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Adds changes to the segments. Then they hold everything up to `through`.
    pub(crate) fn write(&self, changes: &Changes, through: LogIndex) -> io::Result<()> {
        let _writing = lock(&self.writing);
        for (key, bits) in changes {
            let mut merged = bits.clone();
            match self.read(key) {
                Ok(Some(kept)) => merged.merge(&kept),
                Ok(None) => {}
                Err(Error::Damaged) => {
                    tracing::error!(file = key.file_name(), "a file of past outcomes is damaged");
                    lock(&self.floors).raise_above(key);
                }
                Err(Error::Io(error)) => return Err(error),
            }
            self.replace(&key.file_name(), &merged.seal())?;
        }
        self.sync()?;
        let old = self.old()?;
        let floors = {
            let mut floors = lock(&self.floors);
            floors.kept = floors.kept.max(Some(through));
            old.iter().for_each(|key| floors.raise_above(key));
            floors.clone()
        };
        self.replace(FLOORS, &floors.seal())?;
        self.sync()?;
        old.iter().try_for_each(|key| fs::remove_file(self.directory.join(key.file_name())))
    }

    /// Segments that are to go: those that are too old, and of the others the oldest if they are too many.
    fn old(&self) -> io::Result<Vec<Key>> {
        let (now, mut files, mut bytes) = (SystemTime::now(), Vec::new(), 0);
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            if let Some(key) = entry.file_name().to_str().and_then(Key::of_file) {
                let about = entry.metadata()?;
                bytes += about.len();
                files.push((about.modified()?, key, about.len()));
            }
        }
        files.sort_unstable();
        let mut is_old = |(changed, _, size): &(SystemTime, Key, u64)| {
            let is_old =
                now.duration_since(*changed).is_ok_and(|age| age > self.limits.age) || bytes > self.limits.bytes;
            bytes -= if is_old { size } else { &0 };
            is_old
        };
        Ok(files.iter().take_while(|file| is_old(file)).map(|(_, key, _)| *key).collect())
    }

    /// A file that is there whole or not at all; durable with the directory.
    fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let aside = self.directory.join(format!("{name}{NEW}"));
        let mut file = File::create(&aside)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(aside, self.directory.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }
}
