//! Which process is the postmaster of a data directory, and whether it lives.
//!
//! A process id alone proves nothing: it may be a zombie that nobody reaps (in
//! a container), or belong to another program by now. So a process is named by
//! its id and its start time, and is taken for the postmaster of a data
//! directory only if it works in that directory, as every postmaster does.

use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::POLL;
use crate::error::{Error, Result, file};

/// The last line of `postmaster.pid` (PostgreSQL's `pidfile.h`, `PM_STATUS_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Not accepting connections yet.
    Starting,
    /// Accepting connections.
    Ready,
    /// Told to stop.
    Stopping,
}

/// What `postmaster.pid` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PidFile {
    pub(super) pid: i32,
    pub(super) state: State,
}

impl PidFile {
    pub(super) fn read(data_dir: &Path) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(data_dir.join("postmaster.pid")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let pid = lines.next()?.trim().parse().ok().filter(|pid| *pid > 0)?;
        let state = match lines.nth(6).map(str::trim) {
            Some("ready" | "standby") => State::Ready,
            Some("stopping") => State::Stopping,
            _ => State::Starting,
        };
        Some(Self { pid, state })
    }

    /// Removes a pid file that was found to be stale. PostgreSQL itself is more careful
    /// and refuses when any process of its user has that id by now; its other interlock,
    /// the shared memory that belongs to the data directory, stays.
    pub(super) fn remove(data_dir: &Path) -> Result<()> {
        remove(&data_dir.join("postmaster.pid"))
    }

    /// The same for the lock file beside the socket, if it is this data directory's.
    pub(super) fn remove_of_socket(socket: &Path, data_dir: &Path) -> Result<()> {
        let mut lock = socket.as_os_str().to_owned();
        lock.push(".lock");
        let lock = Path::new(&lock);
        let text = std::fs::read_to_string(lock).unwrap_or_default();
        if text.lines().nth(1).is_some_and(|named| Path::new(named) == data_dir) { remove(lock) } else { Ok(()) }
    }
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(file("remove stale", path)(error)),
        _ => Ok(()),
    }
}

/// One life of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Postmaster {
    pub(super) pid: i32,
    started: u64,
}

impl Postmaster {
    /// The live process with this id.
    pub(super) fn by_pid(pid: i32) -> Option<Self> {
        let started = start_time(pid)?;
        Some(Self { pid, started })
    }

    /// The postmaster that runs on this data directory.
    pub(super) fn find(data_dir: &Path) -> Option<(Self, State)> {
        let found = PidFile::read(data_dir)?;
        let postmaster = Self::by_pid(found.pid)?;
        works_in(found.pid, data_dir).then_some((postmaster, found.state))
    }

    pub(super) fn is_alive(&self) -> bool {
        start_time(self.pid) == Some(self.started)
    }

    pub(super) async fn gone(&self) {
        while self.is_alive() {
            tokio::time::sleep(POLL).await;
        }
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        match kill(Pid::from_raw(self.pid), signal) {
            Ok(()) | Err(nix::Error::ESRCH) => Ok(()),
            Err(source) => Err(Error::Signal { pid: self.pid, source }),
        }
    }
}

/// Whether the process's working directory is `data_dir`. Where the kernel
/// does not show us that, its command line must name the directory.
pub(super) fn works_in(pid: i32, data_dir: &Path) -> bool {
    let process = Path::new("/proc").join(pid.to_string());
    match std::fs::read_link(process.join("cwd")) {
        Ok(directory) => data_dir.canonicalize().is_ok_and(|data_dir| data_dir == directory),
        Err(_) => std::fs::read(process.join("cmdline")).is_ok_and(|line| {
            let wanted = data_dir.as_os_str().as_encoded_bytes();
            line.split(|byte| *byte == 0).any(|argument| argument == wanted)
        }),
    }
}

/// In clock ticks since the machine started; nothing for a zombie, whose parent has not reaped it.
fn start_time(pid: i32) -> Option<u64> {
    parse_start_time(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// `proc(5)`: the state is the first field after the command's parenthesis, the start time the 20th.
fn parse_start_time(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pid_file_is_read_in_every_state_it_passes() {
        let just_made = "123\n/data\n1700000000\n5432\n";
        assert_eq!(PidFile::parse(just_made), Some(PidFile { pid: 123, state: State::Starting }));
        let whole = |status| format!("123\n/data\n1700000000\n5432\n/tmp\n127.0.0.1\n  5432001    12345\n{status}\n");
        for (status, state) in
            [("starting", State::Starting), ("ready   ", State::Ready), ("stopping", State::Stopping)]
        {
            assert_eq!(PidFile::parse(&whole(status)).map(|found| found.state), Some(state));
        }
        for damaged in ["", "\n", "x\n", "-5\n", "0\n"] {
            assert_eq!(PidFile::parse(damaged), None, "{damaged:?}");
        }
    }

    #[test]
    fn zombies_do_not_count_as_alive() {
        let rest = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        assert_eq!(parse_start_time(&format!("7 (post (gres) ) S {rest}")), Some(4711));
        assert_eq!(parse_start_time(&format!("7 (postgres) Z {rest}")), None);
        assert_eq!(parse_start_time("7 (postgres"), None);
    }

    #[test]
    fn a_process_is_known_by_id_and_start() {
        let ourselves = Postmaster::by_pid(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(ourselves.is_alive());
        assert!(!Postmaster { started: ourselves.started + 1, ..ourselves }.is_alive());
    }
}
