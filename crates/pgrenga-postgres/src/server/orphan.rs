//! Processes that a killed postmaster left behind. They end by themselves as
//! soon as they look, but one that is busy does not look, and PostgreSQL does
//! not start while any of them is attached to the old shared memory. That
//! memory is lost with its postmaster, so ending them loses nothing more.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::POLL;
use super::postmaster::works_in;

const PATIENCE: Duration = Duration::from_secs(10);

/// Ends the server processes of `data_dir`. Call it only when its postmaster is gone.
pub(super) async fn end_all(data_dir: &Path, bin_dir: &Path) {
    let end = tokio::time::Instant::now() + PATIENCE;
    // One that was just forking is seen in the second round.
    while tokio::time::Instant::now() < end {
        let orphans = find(data_dir, bin_dir);
        if orphans.is_empty() {
            return;
        }
        for pid in orphans {
            tracing::info!(pid, "ending a process that the last postmaster left behind");
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        tokio::time::sleep(POLL).await;
    }
}

fn find(data_dir: &Path, bin_dir: &Path) -> Vec<i32> {
    let Ok(program) = bin_dir.join("postgres").canonicalize() else { return Vec::new() };
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| {
        std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program) && works_in(*pid, data_dir)
    })
    .collect()
}
