//! Ends every process of a cluster, found by what they have open and where
//! they work rather than by what anybody remembers of them.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::POLL;
use super::process::works_below;

const PATIENCE: Duration = Duration::from_secs(10);

/// Kills daemons (they name the directory on their command line) and servers
/// (they work in it), until there are none. What they shared goes with them.
pub(super) fn end_all_below(directory: &Path) {
    let begun = Instant::now();
    let mut shared = SharedMemory::default();
    loop {
        let found = find(directory);
        if found.is_empty() || begun.elapsed() > PATIENCE {
            break;
        }
        for pid in found {
            shared.note(pid);
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(POLL);
    }
    shared.remove();
}

/// The shared memory of servers that are killed for good. A server that is started again on the
/// same data removes its predecessor's; one whose data are gone never is.
#[derive(Debug, Default)]
pub(super) struct SharedMemory {
    files: BTreeSet<String>,
    /// System V's segments.
    ids: BTreeSet<String>,
}

impl SharedMemory {
    /// Looks up what a process that still runs has mapped.
    pub(super) fn note(&mut self, pid: i32) {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        for line in maps.lines() {
            let mut fields = line.split_whitespace().skip(4);
            match (fields.next(), fields.next()) {
                (_, Some(path)) if path.starts_with("/dev/shm/PostgreSQL.") => _ = self.files.insert(path.to_owned()),
                // The inode is the segment's id.
                (Some(id), Some(path)) if path.starts_with("/SYSV") => _ = self.ids.insert(id.to_owned()),
                _ => {}
            }
        }
    }

    /// Removes it. Whoever still has it mapped keeps it until he ends.
    pub(super) fn remove(self) {
        for file in self.files {
            let _ = std::fs::remove_file(file);
        }
        for id in self.ids {
            let _ = Command::new("ipcrm").args(["-m", &id]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
}

fn find(directory: &Path) -> Vec<i32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| *pid != own && (works_below(*pid, directory) || is_told_of(*pid, directory))).collect()
}

fn is_told_of(pid: i32, directory: &Path) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let is_ours = line.split(|byte| *byte == 0).next().is_some_and(|program| program.ends_with(b"pgrenga"));
    let wanted = directory.as_os_str().as_encoded_bytes();
    is_ours && line.windows(wanted.len()).any(|window| window == wanted)
}
