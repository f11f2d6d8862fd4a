//! Ends every process of a cluster, found by what they have open and where
//! they work rather than by what anybody remembers of them.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::POLL;
use super::process::works_below;

const PATIENCE: Duration = Duration::from_secs(10);

/// Kills daemons (they name the directory on their command line) and servers
/// (they work in it), until there are none.
pub(super) fn end_all_below(directory: &Path) {
    let begun = Instant::now();
    loop {
        let found = find(directory);
        if found.is_empty() || begun.elapsed() > PATIENCE {
            return;
        }
        for pid in found {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(POLL);
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
