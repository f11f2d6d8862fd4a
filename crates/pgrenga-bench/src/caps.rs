//! Control groups that hold each node to a share of one core: version 2 where
//! its `cpu` controller can be used, else version 1.
//!
//! What is in a group: the daemon, the postmaster and all that descend from
//! them. Children are born into their parent's group, so the parents go first.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Error, file};
use crate::{Node, proc};

/// The kernel hands out the share anew this often. Its default of 100 ms would let
/// a node run unhindered for 30 ms and then stop it for 70, which a slower machine
/// never does; three such nodes that wait for each other would mostly stand still.
const PERIOD_US: u32 = 20_000;

const PROCESSES: &str = "cgroup.procs";

/// A group is busy until the last process that ended in it has been reaped.
const RELEASE_PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(5);

/// Which interface the kernel offers (cgroups(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Version {
    /// A hierarchy for each controller.
    V1,
    /// One for all.
    V2,
}

/// What each node may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Which control groups enforce it.
    pub cgroup: Version,
    /// So much processor time ..
    pub quota_us: u32,
    /// .. in each period of this length.
    pub period_us: u32,
}

/// How often a group was held back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttle {
    /// Periods in which it had something to do.
    pub periods: u64,
    /// Those of them in which it used up its share and had to wait.
    pub throttled: u64,
}

/// Where groups can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    version: Version,
    root: PathBuf,
    /// The group that we are in, and what we start.
    home: PathBuf,
}

/// The groups of one run. Dropped, they let everything go and are removed.
#[derive(Debug)]
pub struct Caps {
    hierarchy: Hierarchy,
    parent: PathBuf,
    groups: BTreeMap<String, PathBuf>,
    share: Share,
}

impl Caps {
    /// Makes a group for each node and puts all its processes in.
    ///
    /// # Errors
    ///
    /// Why it cannot be done here, in words; nothing is left behind then.
    pub fn apply(nodes: &[Node], percent: u32) -> Result<Self, String> {
        let hierarchy = Hierarchy::find()?;
        let parent = hierarchy.root.join(format!("pgrenga-bench.{}", std::process::id()));
        let share = Share { cgroup: hierarchy.version, quota_us: PERIOD_US * percent / 100, period_us: PERIOD_US };
        let mut caps = Self { hierarchy, parent, groups: BTreeMap::new(), share };
        caps.fill(nodes).map_err(|error| describe(&error))?;
        Ok(caps)
    }

    fn fill(&mut self, nodes: &[Node]) -> Result<(), Error> {
        let v2 = self.hierarchy.version == Version::V2;
        if v2 {
            write(&self.hierarchy.root, "cgroup.subtree_control", "+cpu")?;
        }
        make(&self.parent)?;
        if v2 {
            write(&self.parent, "cgroup.subtree_control", "+cpu")?;
        }
        for node in nodes {
            let group = self.parent.join(&node.name);
            make(&group)?;
            self.groups.insert(node.name.clone(), group.clone());
            for (name, value) in limit_files(self.share) {
                write(&group, name, &value)?;
            }
            for root in [node.postmaster_pid, node.daemon_pid] {
                write(&group, PROCESSES, &root.to_string())?;
            }
            for process in proc::trees(&node.processes()).into_keys() {
                // It may have ended meanwhile; check() finds those that did not.
                let _ = write(&group, PROCESSES, &process.to_string());
            }
        }
        self.check(nodes)
    }

    /// Whether every process of every node is where it belongs.
    ///
    /// # Errors
    ///
    /// [`Error::Escaped`] with one that is not.
    pub fn check(&self, nodes: &[Node]) -> Result<(), Error> {
        for node in nodes {
            let running = proc::trees(&node.processes());
            let escaped = node.processes().into_iter().find(|pid| !running.contains_key(pid));
            let escaped = escaped.or_else(|| running.into_keys().find(|pid| self.is_outside(node, *pid)));
            if let Some(pid) = escaped {
                return Err(Error::Escaped { node: node.name.clone(), pid });
            }
        }
        Ok(())
    }

    /// Asked of the process, because a group's list leaves out those that are about to end. They have
    /// left it only after they have given back their memory, and with it what `exe` shows.
    fn is_outside(&self, node: &Node, pid: u32) -> bool {
        let process = Path::new("/proc").join(pid.to_string());
        let cgroup = std::fs::read_to_string(process.join("cgroup")).unwrap_or_default();
        let group = own_group(&cgroup, self.hierarchy.version).unwrap_or_default();
        let expected = self.groups.get(&node.name).and_then(|group| group.strip_prefix(&self.hierarchy.root).ok());
        !expected.is_some_and(|expected| Path::new(group).ends_with(expected))
            && process.join("exe").read_link().is_ok()
    }

    /// How often a node was held back so far.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub fn throttle(&self, node: &str) -> Result<Throttle, Error> {
        let path = self.groups.get(node).cloned().unwrap_or_default().join("cpu.stat");
        let text = std::fs::read_to_string(&path).map_err(file("read", &path))?;
        Ok(parse_throttle(&text))
    }

    /// What each node may use.
    #[must_use]
    pub fn share(&self) -> Share {
        self.share
    }
}

impl Drop for Caps {
    fn drop(&mut self) {
        let begun = Instant::now();
        for group in self.groups.values().chain([&self.parent]) {
            while std::fs::remove_dir(group).is_err() && group.exists() && begun.elapsed() < RELEASE_PATIENCE {
                // A process that forks meanwhile leaves its child behind, so this is done again.
                for pid in members(group) {
                    let _ = write(&self.hierarchy.home, PROCESSES, &pid.to_string());
                }
                std::thread::sleep(POLL);
            }
        }
    }
}

impl Node {
    pub(crate) fn processes(&self) -> [u32; 2] {
        [self.postmaster_pid, self.daemon_pid]
    }
}

impl Hierarchy {
    fn find() -> Result<Self, String> {
        let read =
            |path: &str| std::fs::read_to_string(path).map_err(|error| format!("could not read {path}: {error}"));
        let own = read("/proc/self/cgroup")?;
        for (version, root) in mounts(&read("/proc/self/mounts")?) {
            let controllers = || std::fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
            if version == Version::V2 && !controllers().split_whitespace().any(|name| name == "cpu") {
                continue;
            }
            let home = own_group(&own, version).map(|path| root.join(path.trim_start_matches('/')));
            let home = home.filter(|home| home.join(PROCESSES).exists()).unwrap_or_else(|| root.clone());
            return Ok(Self { version, root, home });
        }
        Err("no control group hierarchy with a cpu controller is mounted".to_owned())
    }
}

/// Every hierarchy that may hold the `cpu` controller, version 2 first.
fn mounts(text: &str) -> Vec<(Version, PathBuf)> {
    let mut found: Vec<(Version, PathBuf)> = text
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_, path, kind, options, ..] = fields[..] else { return None };
            match kind {
                "cgroup2" => Some((Version::V2, path.into())),
                "cgroup" if options.split(',').any(|option| option == "cpu") => Some((Version::V1, path.into())),
                _ => None,
            }
        })
        .collect();
    found.sort_by_key(|(version, _)| *version != Version::V2);
    found
}

/// A process's group, from lines of `hierarchy:controllers:path`.
fn own_group(text: &str, version: Version) -> Option<&str> {
    text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let fits = match version {
            Version::V1 => controllers.split(',').any(|name| name == "cpu"),
            Version::V2 => controllers.is_empty(),
        };
        fits.then_some(path)
    })
}

/// The files that set the limit, in the order in which they must be written.
fn limit_files(Share { cgroup, quota_us, period_us }: Share) -> Vec<(&'static str, String)> {
    match cgroup {
        Version::V1 => vec![("cpu.cfs_period_us", period_us.to_string()), ("cpu.cfs_quota_us", quota_us.to_string())],
        Version::V2 => vec![("cpu.max", format!("{quota_us} {period_us}"))],
    }
}

/// Both versions name these two counters alike.
fn parse_throttle(text: &str) -> Throttle {
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
    };
    Throttle { periods: value("nr_periods"), throttled: value("nr_throttled") }
}

fn members(group: &Path) -> Vec<u32> {
    let text = std::fs::read_to_string(group.join(PROCESSES)).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

fn make(group: &Path) -> Result<(), Error> {
    std::fs::create_dir(group).map_err(file("create control group", group))
}

fn write(group: &Path, name: &str, value: &str) -> Result<(), Error> {
    let path = group.join(name);
    std::fs::write(&path, value).map_err(file("write", &path))
}

fn describe(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_2_is_preferred_and_version_1_needs_the_controller() {
        let text = "proc /proc proc rw 0 0\ncgroup /cg/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n\
                    cgroup /cg/cpuset cgroup rw,cpuset 0 0\ncgroup2 /cg/unified cgroup2 rw 0 0\n";
        let expected = [(Version::V2, "/cg/unified".into()), (Version::V1, "/cg/cpu,cpuacct".into())];
        assert_eq!(mounts(text), expected);
    }

    #[test]
    fn our_own_group_is_found_in_either_version() {
        let text = "4:memory:/m\n1:cpu,cpuacct:/a:b\n0::/user.slice/x\n";
        assert_eq!(own_group(text, Version::V1), Some("/a:b"));
        assert_eq!(own_group(text, Version::V2), Some("/user.slice/x"));
        assert_eq!(own_group("1:cpuset:/\n", Version::V1), None);
    }

    #[test]
    fn limits_are_a_share_of_the_period() {
        let v1 = [("cpu.cfs_period_us", "20000".to_owned()), ("cpu.cfs_quota_us", "6000".to_owned())];
        let share = |cgroup| Share { cgroup, quota_us: 6000, period_us: 20_000 };
        assert_eq!(limit_files(share(Version::V1)), v1);
        assert_eq!(limit_files(share(Version::V2)), [("cpu.max", "6000 20000".to_owned())]);
    }

    #[test]
    fn both_forms_of_the_statistics_are_read() {
        let v1 = "nr_periods 100\nnr_throttled 97\nthrottled_time 123456789\nnr_bursts 0\n";
        let v2 = "usage_usec 1\nuser_usec 1\nsystem_usec 0\nnr_periods 100\nnr_throttled 97\nthrottled_usec 123\n";
        let expected = Throttle { periods: 100, throttled: 97 };
        assert_eq!((parse_throttle(v1), parse_throttle(v2)), (expected, expected));
        assert_eq!(parse_throttle("usage_usec 1\n"), Throttle::default());
    }
}
