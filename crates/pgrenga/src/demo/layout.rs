//! Which nodes the demo has, and which ports and directories are theirs.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::cluster_file::{Balancer, ClusterFile, Node};
use super::supervisor::Daemon;
use crate::config::{BalancerFile, CheckFile, Config, File, LogFile, PostgresFile, ServingFile};
use crate::identity::{Data, Identity};
use crate::lock;
use crate::report::Problem;

const DEFAULT_PORT: u16 = 6432;
const DEFAULT_NODES: u16 = 3;
const CLUSTER: &str = "demo";

/// The whole demo.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) dir: PathBuf,
    pub(super) port: u16,
    pub(super) nodes: Vec<NodeLayout>,
}

/// One node of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodeLayout {
    pub(super) name: String,
    pub(super) dir: PathBuf,
    pub(super) postgres_port: u16,
    pub(super) admin_port: u16,
    pub(super) peer_port: u16,
}

/// The balancer in front of them.
#[derive(Clone, Debug)]
pub(super) struct BalancerLayout {
    dir: PathBuf,
}

/// What all nodes' configurations have in common, if more than the defaults.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Common {
    log: LogFile,
    serving: ServingFile,
    check: CheckFile,
    settings: toml::Table,
}

impl Common {
    pub(super) fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("could not read \"{}\"", path.display()))?;
        toml::from_str(&text).map_err(|error| {
            Problem::new(format!("configuration file \"{}\" is not valid", path.display()))
                .detail(error.to_string())
                .into()
        })
    }
}

impl Layout {
    /// What is in `dir` already goes on as it is, with more nodes if so wished.
    pub(super) fn plan(dir: &Path, nodes: Option<u16>, port: Option<u16>) -> Result<Self> {
        let present = ClusterFile::find(dir)?;
        let (had_port, had_nodes) = match &present {
            Some(present) => (Some(present.balancer.port), highest(&present.nodes)),
            None => (None, 0),
        };
        let port = port.or(had_port).unwrap_or(DEFAULT_PORT);
        if let Some(had) = had_port.filter(|had| *had != port) {
            return Err(Problem::new(format!("the cluster in \"{}\" uses port {had}, not {port}", dir.display()))
                .detail("Its members know each other by their ports.")
                .hint(format!("Use --port {had}, or another --dir."))
                .into());
        }
        let count = nodes.unwrap_or(if had_nodes > 0 { had_nodes } else { DEFAULT_NODES });
        if count < had_nodes {
            return Err(Problem::new(format!(
                "the cluster in \"{}\" has {had_nodes} nodes, not {count}",
                dir.display()
            ))
            .hint("Leave --nodes out to go on with all of them, or use another --dir.")
            .into());
        }
        let nodes = (1..=count).map(|number| NodeLayout::new(dir, port, number)).collect();
        Ok(Self { dir: dir.to_owned(), port, nodes })
    }

    pub(super) fn balancer(&self) -> BalancerLayout {
        BalancerLayout { dir: self.dir.clone() }
    }

    /// Makes the nodes' directories and writes all configurations.
    pub(super) fn write_configs(&self, common: &Common) -> Result<()> {
        for node in &self.nodes {
            std::fs::create_dir_all(&node.dir)
                .with_context(|| format!("could not create directory \"{}\"", node.dir.display()))?;
            let path = node.config_path();
            std::fs::write(&path, toml::to_string(&node.config_file(common.clone()))?)
                .with_context(|| format!("could not write \"{}\"", path.display()))?;
        }
        let balancer = BalancerFile {
            cluster: CLUSTER.to_owned(),
            listen: format!("127.0.0.1:{}", self.port),
            nodes: self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.admin_port)).collect(),
            pid_file: Some(lock::BALANCER.into()),
            ..BalancerFile::default()
        };
        let path = self.balancer().config_path();
        std::fs::write(&path, toml::to_string(&balancer)?)
            .with_context(|| format!("could not write \"{}\"", path.display()))
    }

    /// `cluster.json` with the given process ids: the balancer's, and those of daemon and PostgreSQL in the order of the
    /// nodes. Nodes that were removed are not in it.
    pub(super) fn cluster_file(
        &self,
        balancer: Option<u32>,
        pids: impl IntoIterator<Item = (Option<u32>, Option<i32>)>,
    ) -> ClusterFile {
        let node = |(node, (daemon_pid, postgres_pid)): (&NodeLayout, _)| Node {
            name: node.name.clone(),
            postgres_port: node.postgres_port,
            admin_url: node.admin_url(),
            data_dir: node.dir.join("data"),
            daemon_pid,
            postgres_pid,
        };
        ClusterFile {
            balancer: Balancer { port: self.port, pid: balancer },
            nodes: self.nodes.iter().zip(pids).filter(|(node, _)| !node.is_removed()).map(node).collect(),
        }
    }
}

/// The number of the last node: those in between may have been removed.
fn highest(nodes: &[Node]) -> u16 {
    nodes.iter().filter_map(|node| node.name.strip_prefix('n')?.parse().ok()).max().unwrap_or(0)
}

impl NodeLayout {
    fn new(dir: &Path, port: u16, number: u16) -> Self {
        let name = format!("n{number}");
        Self {
            dir: dir.join(&name),
            name,
            postgres_port: port + number,
            admin_port: port + 100 + number,
            peer_port: port + 200 + number,
        }
    }

    pub(super) fn admin_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.admin_port)
    }

    pub(super) fn config(&self) -> Result<Config> {
        Config::load(&self.config_path())
    }

    fn config_file(&self, common: Common) -> File {
        File {
            cluster: CLUSTER.to_owned(),
            name: self.name.clone(),
            dir: self.dir.clone(),
            listen: format!("127.0.0.1:{}", self.peer_port),
            advertise: None,
            admin: format!("127.0.0.1:{}", self.admin_port),
            postgres: Some(PostgresFile { port: self.postgres_port, ..PostgresFile::default() }),
            log: common.log,
            serving: common.serving,
            check: common.check,
            settings: common.settings,
        }
    }
}

impl Daemon for NodeLayout {
    fn name(&self) -> &str {
        &self.name
    }

    fn command(&self) -> &'static str {
        "node"
    }

    fn config_path(&self) -> PathBuf {
        self.dir.join("node.toml")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("daemon.log")
    }

    /// Whether it was taken out of the cluster for good.
    fn is_removed(&self) -> bool {
        let identity = Identity::load(&self.dir).ok().flatten();
        identity.is_some_and(|identity| identity.data == Data::Removed)
    }
}

impl Daemon for BalancerLayout {
    fn name(&self) -> &'static str {
        "balancer"
    }

    fn command(&self) -> &'static str {
        "balancer"
    }

    fn config_path(&self) -> PathBuf {
        self.dir.join("balancer.toml")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("balancer.log")
    }

    fn is_removed(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn ports_are_the_documented_ones() {
        let layout = Layout::plan(Path::new("/nowhere"), None, None).unwrap();
        let ports = |node: &NodeLayout| (node.postgres_port, node.admin_port, node.peer_port);
        let all: Vec<_> = layout.nodes.iter().map(ports).collect();
        assert_eq!(all, [(6433, 6533, 6633), (6434, 6534, 6634), (6435, 6535, 6635)]);
    }

    #[test]
    fn what_is_there_goes_on_and_may_grow() {
        let directory = tempfile::tempdir().unwrap();
        let first = Layout::plan(directory.path(), Some(2), Some(7000)).unwrap();
        first.cluster_file(None, [(None, None); 2]).save(directory.path()).unwrap();
        let again = |nodes, port| Layout::plan(directory.path(), nodes, port);
        let ports = |layout: Layout| (layout.port, layout.nodes.len());
        assert_eq!(again(None, None).map(ports).unwrap(), (7000, 2));
        assert_eq!(again(Some(3), Some(7000)).map(ports).unwrap(), (7000, 3));
        assert!(again(Some(1), None).unwrap_err().to_string().ends_with("has 2 nodes, not 1"));
        assert!(again(None, Some(7001)).unwrap_err().to_string().ends_with("uses port 7000, not 7001"));
    }

    #[test]
    fn the_configuration_written_is_one_that_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::plan(directory.path(), Some(1), None).unwrap();
        let common = toml::from_str("[log]\nsegment_bytes = 8388608\n[settings]\nmax_connections = 50").unwrap();
        layout.write_configs(&common).unwrap();
        let config = layout.nodes[0].config().unwrap();
        assert_eq!((config.name.as_str(), config.postgres.port, config.listen.port()), ("n1", 6433, 6633));
        assert_eq!(config.admin_url, layout.nodes[0].admin_url());
        assert_eq!((config.log.segment_bytes, config.settings.origins()), (8 << 20, 80));
        let balancer = config::load_balancer(&layout.balancer().config_path()).unwrap();
        assert_eq!((balancer.options.listen.port(), &*balancer.options.nodes[0]), (6432, "127.0.0.1:6533"));
    }
}
