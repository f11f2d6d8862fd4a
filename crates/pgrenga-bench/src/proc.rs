//! What `/proc` says about processes and processors (proc(5)).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Clock ticks in a second as the kernel counts them for user space (`USER_HZ`),
/// the same on every architecture that Debian builds for.
const TICKS_PER_SECOND: u64 = 100;

/// One process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    cpu: Duration,
}

/// The processor time of each process in the trees below `roots`, themselves among them.
pub(crate) fn trees(roots: &[u32]) -> BTreeMap<u32, Duration> {
    let all: BTreeMap<u32, Stat> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| Some((pid, parse_stat(&read(&format!("/proc/{pid}/stat"))?)?)))
        .collect();
    let wanted = descendants(roots, &all);
    all.iter().filter(|(pid, _)| wanted.contains(pid)).map(|(pid, stat)| (*pid, stat.cpu)).collect()
}

/// Parents come before their children in no particular order of ids, so this goes on until nothing is added.
fn descendants(roots: &[u32], all: &BTreeMap<u32, Stat>) -> BTreeSet<u32> {
    let mut wanted: BTreeSet<u32> = roots.iter().copied().filter(|pid| all.contains_key(pid)).collect();
    loop {
        let before = wanted.len();
        let children = all.iter().filter(|(_, stat)| wanted.contains(&stat.parent)).map(|(pid, _)| *pid);
        let children: Vec<u32> = children.collect();
        wanted.extend(children);
        if wanted.len() == before {
            return wanted;
        }
    }
}

/// The processor time of this process.
pub(crate) fn own_cpu() -> Duration {
    read("/proc/self/stat").and_then(|text| parse_stat(&text)).map_or(Duration::ZERO, |stat| stat.cpu)
}

/// All processors together: ticks spent idle, and all ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Processors {
    idle: u64,
    total: u64,
}

impl Processors {
    pub(crate) fn now() -> Option<Self> {
        Self::parse(&read("/proc/stat")?)
    }

    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        // user, nice, system, idle, iowait, irq, softirq, steal; the guests' time after them is in user already.
        let ticks: Vec<u64> = line.split_whitespace().take(8).map_while(|field| field.parse().ok()).collect();
        Some(Self { idle: ticks.get(3)? + ticks.get(4)?, total: ticks.iter().sum() })
    }

    /// The share of all processors' time since `earlier` in which they had nothing to do.
    pub(crate) fn idle_share_since(self, earlier: Self) -> f64 {
        let total = self.total.saturating_sub(earlier.total).max(1);
        ratio(self.idle.saturating_sub(earlier.idle), total)
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// The program's name, in parentheses, may hold anything; the numbers follow the last one.
fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let ticks = number(11)? + number(12)?;
    let cpu = Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND);
    Some(Stat { parent: fields.get(1)?.parse().ok()?, cpu })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let text = "7 (post) gres) S 3 7 7 0 -1 4194560 1 2 3 4 150 25 9 9 20 0 1 0 100";
        assert_eq!(parse_stat(text), Some(Stat { parent: 3, cpu: Duration::from_millis(1750) }));
        assert_eq!(parse_stat("7 (x) S"), None);
    }

    #[test]
    fn a_tree_holds_all_generations_and_nobody_else() {
        let stat = |parent| Stat { parent, cpu: Duration::ZERO };
        let all = BTreeMap::from([(1, stat(0)), (9, stat(1)), (5, stat(9)), (3, stat(5)), (4, stat(1))]);
        assert_eq!(descendants(&[9, 8], &all), BTreeSet::from([3, 5, 9]));
    }

    #[test]
    fn idleness_counts_waiting_for_the_disk() {
        let at = |text| Processors::parse(text).unwrap();
        let (before, after) = (at("cpu  10 0 10 70 10 0 0 0 5 0\ncpu0 1"), at("cpu  60 0 10 90 20 0 0 20 55 0\n"));
        assert!((after.idle_share_since(before) - 0.3).abs() < 1e-9);
    }

    #[test]
    fn we_find_ourselves() {
        assert!(trees(&[std::process::id()]).contains_key(&std::process::id()));
        assert!(Processors::now().is_some());
    }
}
