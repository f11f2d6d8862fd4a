//! Processes by id.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};

use super::{POLL, first_line};

/// A process that ran when it was looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pid(i32);

impl Pid {
    /// A live process; nothing for a zombie.
    pub(super) fn of(pid: u32) -> Option<Self> {
        Some(Self(i32::try_from(pid).ok()?)).filter(Self::is_alive)
    }

    /// A live process; nothing for a zombie.
    #[must_use]
    pub fn running(pid: i32) -> Option<Self> {
        Some(Self(pid)).filter(Self::is_alive)
    }

    /// The number.
    #[must_use]
    pub fn raw(self) -> i32 {
        self.0
    }

    /// Whether it runs (or is stopped), and is not a zombie.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap_or_default();
        let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().next());
        state.is_some_and(|state| !matches!(state, "Z" | "X"))
    }

    /// The processes that it started and that still run.
    #[must_use]
    pub fn children(&self) -> Vec<Self> {
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| parent_of(*pid) == Some(self.0)).map(Self).collect()
    }

    /// Sends a signal. False if there is no such process.
    pub fn signal(self, signal: Signal) -> bool {
        kill(nix::unistd::Pid::from_raw(self.0), signal).is_ok()
    }

    /// Waits for its end. False if it did not come in time.
    pub fn wait_gone(self, patience: Duration) -> bool {
        let begun = Instant::now();
        while self.is_alive() {
            if begun.elapsed() > patience {
                return false;
            }
            std::thread::sleep(POLL / 5);
        }
        true
    }
}

fn parent_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// The process that holds a lock file and has written its id into it.
pub(super) fn holder_of(path: &Path) -> Option<Pid> {
    let file = std::fs::File::open(path).ok()?;
    if Flock::lock(file, FlockArg::LockSharedNonblock).is_ok() {
        return None;
    }
    Pid::of(first_line(path)?.parse().ok()?)
}

/// The postmaster of a data directory: the process that its pid file names and that works there.
pub(super) fn postmaster_of(data_dir: &Path) -> Option<Pid> {
    let pid = Pid::of(first_line(&data_dir.join("postmaster.pid"))?.parse().ok()?)?;
    works_below(pid.0, data_dir).then_some(pid)
}

/// Whether a process's working directory is `directory` or below it.
fn works_below(pid: i32, directory: &Path) -> bool {
    let Ok(directory) = directory.canonicalize() else { return false };
    std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|works| works.starts_with(directory))
}
