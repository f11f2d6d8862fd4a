//! A balancer's configuration, which is a file of its own.

mod rules;
mod security;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgrenga_balancer::{Limits, Options, PoolMode, Settings};
use serde::{Deserialize, Serialize};

use rules::{Maps, RuleFile};
use security::{ServerTlsFile, TlsFile};

/// The file. Every key is documented in `docs/reference/configuration.md`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BalancerFile {
    pub(crate) cluster: String,
    pub(crate) listen: String,
    pub(crate) nodes: Vec<String>,
    #[serde(default, skip_serializing_if = "PoolModeFile::is_default")]
    pub(crate) pool_mode: PoolModeFile,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) threads: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pid_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) metrics: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tls: Option<TlsFile>,
    #[serde(default, skip_serializing_if = "ServerTlsFile::is_default")]
    pub(crate) server_tls: ServerTlsFile,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) rules: Vec<RuleFile>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) maps: Maps,
    #[serde(default, skip_serializing_if = "LimitsFile::is_default")]
    pub(crate) limits: LimitsFile,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) weights: BTreeMap<String, NonZeroU32>,
}

/// What a client has of a connection to a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PoolModeFile {
    /// One for its session.
    #[default]
    Session,
    /// One for each transaction.
    Transaction,
}

impl PoolModeFile {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl From<PoolModeFile> for PoolMode {
    fn from(mode: PoolModeFile) -> Self {
        match mode {
            PoolModeFile::Session => Self::Session,
            PoolModeFile::Transaction => Self::Transaction,
        }
    }
}

/// The section `[limits]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LimitsFile {
    #[serde(skip_serializing_if = "Option::is_none")]
    max_connections: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_unauthenticated: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authentication_timeout_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_sessions_per_node: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_timeout_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_repetitions: Option<u32>,
}

/// What it says, complete and checked.
#[derive(Clone, Debug)]
pub(crate) struct Balancer {
    /// For the balancer.
    pub(crate) options: Options,
    /// Held and filled while it runs.
    pub(crate) pid_file: Option<PathBuf>,
}

const CONNECTIONS_MAX: usize = 100_000;
const SECONDS_MAX: u64 = 3_600;
const THREADS_MAX: usize = 256;
const REPETITIONS_MAX: u32 = 10;

impl Balancer {
    /// What cannot change while it runs, and is not as it was in `former`.
    pub(crate) fn fixed(&self, former: &Self) -> Vec<&'static str> {
        let (new, old) = (&self.options, &former.options);
        let differences = [
            ("cluster", new.cluster != old.cluster),
            ("listen", new.listen != old.listen),
            ("nodes", new.nodes != old.nodes),
            ("threads", new.threads != old.threads),
            ("metrics", new.metrics != old.metrics),
            ("pid_file", self.pid_file != former.pid_file),
        ];
        differences.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
    }
}

impl BalancerFile {
    /// Completes what was left out; all that is wrong is told at once.
    pub(super) fn check(self, base: &Path) -> Result<Balancer, Vec<String>> {
        let mut problems = Vec::new();
        let listen = super::log_member::address("listen", &self.listen, &mut problems);
        let metrics = self.metrics.map(|metrics| super::log_member::address("metrics", &metrics, &mut problems));
        if self.nodes.is_empty() {
            problems.push("nodes: must name the admin address of one node at least".to_owned());
        }
        for node in &self.nodes {
            let address = node.strip_prefix("http://").unwrap_or(node);
            if !super::log_member::is_host_and_port(address) {
                problems.push(format!("nodes: \"{node}\" is not of the form HOST:PORT"));
            }
        }
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        let threads = self.threads.unwrap_or(processors);
        if !(1..=THREADS_MAX).contains(&threads) {
            problems.push(format!("threads: must be between 1 and {THREADS_MAX}"));
        }
        let rules = rules::check(self.rules, self.maps, &mut problems);
        let settings = Settings {
            limits: self.limits.check(&mut problems),
            weights: self.weights,
            security: security::load(base, self.tls, self.server_tls, rules, &mut problems),
            pool_mode: self.pool_mode.into(),
        };
        let options = Options { cluster: self.cluster, listen, nodes: self.nodes, settings, threads, metrics };
        let pid_file = self.pid_file.map(|path| base.join(path));
        if problems.is_empty() { Ok(Balancer { options, pid_file }) } else { Err(problems) }
    }
}

impl LimitsFile {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    fn check(&self, problems: &mut Vec<String>) -> Limits {
        let max_repetitions = self.max_repetitions.unwrap_or(5);
        if max_repetitions > REPETITIONS_MAX {
            problems.push(format!("limits.max_repetitions: must be {REPETITIONS_MAX} at most"));
        }
        let mut within = |key: &str, value: u64, max: u64| {
            if !(1..=max).contains(&value) {
                problems.push(format!("limits.{key}: must be between 1 and {max}"));
            }
            value
        };
        let mut number = |key, given: Option<usize>, default: usize| {
            let value = given.unwrap_or(default);
            within(key, value as u64, CONNECTIONS_MAX as u64);
            value
        };
        let max_connections = number("max_connections", self.max_connections, 1_000);
        let max_unauthenticated = number("max_unauthenticated", self.max_unauthenticated, 500);
        let max_sessions_per_node = number("max_sessions_per_node", self.max_sessions_per_node, 80);
        let mut seconds =
            |key, given: Option<u64>, default| Duration::from_secs(within(key, given.unwrap_or(default), SECONDS_MAX));
        Limits {
            max_connections,
            max_unauthenticated,
            authentication_timeout: seconds("authentication_timeout_seconds", self.authentication_timeout_seconds, 60),
            max_sessions_per_node,
            queue_timeout: seconds("queue_timeout_seconds", self.queue_timeout_seconds, 10),
            max_repetitions,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    const MINIMAL: &str = "cluster = 'shop'\nlisten = '0.0.0.0:6432'\nnodes = ['n1.example.com:6533']\n";

    fn parse(text: &str) -> Result<Balancer, String> {
        super::super::parse(text, Path::new("/base"), BalancerFile::check)
    }

    #[test]
    fn a_pool_has_one_of_two_modes() {
        let mode =
            |line: &str| parse(&format!("{line}\n{MINIMAL}")).map(|balancer| balancer.options.settings.pool_mode);
        assert_eq!((mode(""), mode("pool_mode = 'transaction'")), (Ok(PoolMode::Session), Ok(PoolMode::Transaction)));
        assert!(mode("pool_mode = 'statement'").is_err());
    }

    #[test]
    fn three_keys_are_enough() {
        let Balancer { options, pid_file } = parse(MINIMAL).unwrap();
        assert_eq!(options.listen, SocketAddr::from(([0; 4], 6432)));
        assert_eq!(
            (options.settings.limits.max_connections, options.settings.limits.max_sessions_per_node),
            (1_000, 80)
        );
        assert_eq!(options.settings.limits.queue_timeout, Duration::from_secs(10));
        assert!(options.threads >= 1 && options.settings.weights.is_empty() && pid_file.is_none());
    }

    #[test]
    fn weights_and_limits_are_read() {
        let text = format!("{MINIMAL}pid_file = 'run/pid'\n[limits]\nmax_connections = 9\n[weights]\nn1 = 3\n");
        let Balancer { options, pid_file } = parse(&text).unwrap();
        assert_eq!((options.settings.limits.max_connections, options.settings.weights["n1"].get()), (9, 3));
        assert_eq!(pid_file.unwrap(), Path::new("/base/run/pid"));
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let text = "cluster = 'shop'\nlisten = '6432'\nnodes = ['n1']\nthreads = 0\n\
                    [limits]\nmax_connections = 0\nqueue_timeout_seconds = 4000\n";
        let error = parse(text).unwrap_err();
        let expected = [
            "listen: \"6432\" is not of the form ADDRESS:PORT",
            "nodes: \"n1\" is not of the form HOST:PORT",
            "threads: must be between 1 and 256",
            "limits.max_connections: must be between 1 and 100000",
            "limits.queue_timeout_seconds: must be between 1 and 3600",
        ];
        assert_eq!(error.lines().collect::<Vec<_>>(), expected);
        let text =
            format!("{MINIMAL}[tls]\ncertificate = 'none.crt'\nkey = 'none.key'\n[server_tls]\nmode = 'verify-full'\n");
        let error = parse(&text).unwrap_err();
        assert!(
            error.contains("server_tls.ca: is needed") && error.contains("certificates from \"/base/none.crt\""),
            "{error}"
        );
        let error = parse(&format!("{MINIMAL}[server_tls]\nmode = 'require'\nca = 'ca.crt'\n")).unwrap_err();
        assert!(error.contains("verify-ca and verify-full only"), "{error}");
        let error = parse(&format!("{MINIMAL}[server_tls]\nmode = 'require'\nkey = 'a'\n[[rules]]\nmethod = 'cert'\n"));
        let expected = ["server_tls: a certificate and its key", "tls.client_ca: is needed", "a mode from require up"];
        assert!(expected.into_iter().all(|part| error.as_ref().unwrap_err().contains(part)), "{error:?}");
        assert!(
            parse("cluster = 'shop'\nlisten = '1.2.3.4:5'\nnodes = []").unwrap_err().starts_with("nodes: must name")
        );
        assert!(parse(&format!("{MINIMAL}colour = 1")).unwrap_err().contains("unknown field `colour`"));
        assert!(parse(&format!("{MINIMAL}[weights]\nn1 = 0")).is_err());
    }
}
