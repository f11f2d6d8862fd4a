//! How much memory each process of a cluster has resident at most.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use pgrenga_testkit::cluster::{Cluster, Part};

const PAUSE: Duration = Duration::from_millis(50);

/// Looks at all processes again and again, because PostgreSQL's come and go.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<BTreeMap<i32, Process>>,
}

struct Process {
    /// Its titles: PostgreSQL's processes say what they do.
    titles: BTreeSet<String>,
    resident_kb_max: u64,
}

impl Watch {
    pub(crate) fn begin(cluster: &Cluster) -> Self {
        let parts =
            (0..cluster.len()).flat_map(|node| [cluster.pid(node, Part::Daemon), cluster.pid(node, Part::Postgres)]);
        let roots: Vec<i32> = parts.flatten().map(|pid| pid.raw()).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut seen = BTreeMap::new();
            while !stopped.load(Ordering::Relaxed) {
                look(&roots, &mut seen);
                std::thread::sleep(PAUSE);
            }
            seen
        });
        Self { stop, thread }
    }

    /// Fails if a process had more than that resident.
    pub(crate) fn end(self, resident_kb_max: u64) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.thread.join().map_err(|_| anyhow!("the watch panicked"))?;
        // Each node's daemon and port worker, the writing session, and the
        // sessions that apply on the other nodes.
        for (what, least) in [("pgrenga node", 3), ("pgrenga port", 3), ("COPY", 1), ("SELECT", 2)] {
            let count = seen.values().filter(|process| process.titles.iter().any(|it| it.contains(what))).count();
            ensure!(count >= least, "the watch saw only {count} processes with {what:?}");
        }
        for (pid, process) in &seen {
            println!("{pid} {:?}: {} MB", process.titles, process.resident_kb_max / 1024);
        }
        for (pid, process) in seen {
            let kb = process.resident_kb_max;
            ensure!(kb <= resident_kb_max, "process {pid} ({:?}) had {kb} kB resident", process.titles);
        }
        Ok(())
    }
}

/// The roots and their children.
fn look(roots: &[i32], seen: &mut BTreeMap<i32, Process>) {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
        let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
        let number = |name: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim_start_matches(':').split_whitespace().next()?.parse().ok()
        };
        let parent = number("PPid").and_then(|parent| i32::try_from(parent).ok());
        if !roots.contains(&pid) && !parent.is_some_and(|parent| roots.contains(&parent)) {
            continue;
        }
        let Some(kb) = number("VmHWM") else { continue };
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let title = String::from_utf8_lossy(&line).replace('\0', " ").trim().chars().take(80).collect();
        let process = seen.entry(pid).or_insert_with(|| Process { titles: BTreeSet::new(), resident_kb_max: 0 });
        process.titles.insert(title);
        process.resident_kb_max = process.resident_kb_max.max(kb);
    }
}
