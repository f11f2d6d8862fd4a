//! One process for one directory. The kernel lets go of the lock when its
//! holder ends, however it ends, so a lock is never stale.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use nix::fcntl::{Flock, FlockArg};

use crate::report::Problem;

/// Held as long as this value lives.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: Flock<File>,
}

/// The lock's file in a node's directory.
pub(crate) const DAEMON: &str = "daemon.lock";
/// The lock's file in a demo's directory.
pub(crate) const DEMO: &str = "demo.lock";
/// The balancer's one in a demo's directory.
pub(crate) const BALANCER: &str = "balancer.pid";

impl Lock {
    /// Takes the lock and writes our process id into its file.
    pub(crate) fn take(directory: &Path, name: &str) -> Result<Self> {
        Self::take_for(&directory.join(name), &format!("directory \"{}\"", directory.display()))
    }

    /// The same with a file that was given, for whatever it stands.
    pub(crate) fn take_file(path: &Path) -> Result<Self> {
        Self::take_for(path, &format!("file \"{}\"", path.display()))
    }

    fn take_for(path: &Path, what: &str) -> Result<Self> {
        match Self::try_take(path)? {
            Ok(lock) => Ok(lock),
            Err(holder) => {
                let holder = holder.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
                Err(Problem::new(format!("{what} is in use by {holder}"))
                    .hint("Stop that process first; two would get into each other's way.")
                    .into())
            }
        }
    }

    /// Who holds the lock, if anyone does. The process id is missing if the holder has not written it yet.
    pub(crate) fn holder(directory: &Path, name: &str) -> Result<Option<i32>> {
        let path = directory.join(name);
        if !path.exists() {
            return Ok(None);
        }
        let mut file = File::open(&path).with_context(|| format!("could not open \"{}\"", path.display()))?;
        match Flock::lock(file.try_clone()?, FlockArg::LockSharedNonblock) {
            Ok(_) => Ok(None),
            Err(_) => Ok(read_pid(&mut file)),
        }
    }

    fn try_take(path: &Path) -> Result<std::result::Result<Self, Option<i32>>> {
        let context = || format!("could not open \"{}\"", path.display());
        let open = || File::options().create(true).truncate(false).read(true).write(true).open(path);
        let file = open().with_context(context)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).with_context(context)?;
                Ok(Ok(Self { _file: file }))
            }
            Err((mut file, nix::Error::EWOULDBLOCK)) => Ok(Err(read_pid(&mut file))),
            Err((_, error)) => Err(error).with_context(context),
        }
    }
}

fn read_pid(file: &mut File) -> Option<i32> {
    let mut text = String::new();
    file.rewind().and_then(|()| file.read_to_string(&mut text)).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_has_one_holder_and_names_it() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Lock::holder(directory.path(), DAEMON).unwrap(), None);
        let held = Lock::take(directory.path(), DAEMON).unwrap();
        let ourselves = i32::try_from(std::process::id()).unwrap();
        assert_eq!(Lock::holder(directory.path(), DAEMON).unwrap(), Some(ourselves));
        let refused = Lock::take(directory.path(), DAEMON).unwrap_err();
        assert!(refused.to_string().ends_with(&format!("is in use by process {ourselves}")), "{refused}");
        drop(held);
        assert_eq!(Lock::holder(directory.path(), DAEMON).unwrap(), None);
        Lock::take(directory.path(), DAEMON).unwrap();
    }
}
