//! The configuration of one node, witness or balancer: a TOML file, read once and checked whole.

mod balancer;
mod check;
mod file;
mod log;
mod log_member;
mod serving;
mod settings;

use std::ops::Deref;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use pgrenga_admin::PostgresAddress;
use pgrenga_node::Pace;
use pgrenga_postgres::server::{Options, Server};
use serde::de::DeserializeOwned;

use crate::report::Problem;
pub(crate) use balancer::{Balancer, BalancerFile};
pub(crate) use check::CheckFile;
pub(crate) use file::{File, PostgresFile};
pub(crate) use log::{Log, LogFile};
pub(crate) use log_member::LogMember;
pub(crate) use serving::{Serving, ServingFile};
pub(crate) use settings::Settings;

/// A node's configuration, complete and checked.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Its place in the cluster.
    pub(crate) member: LogMember,
    /// The database in which everything is replicated.
    pub(crate) database: String,
    /// Where clients find PostgreSQL.
    pub(crate) postgres: PostgresAddress,
    /// When the node takes new sessions.
    pub(crate) serving: Serving,
    /// How the node checks its state against the others'.
    pub(crate) check: Option<Pace>,
    /// How PostgreSQL is run.
    pub(crate) server: Options,
    /// The settings that PostgreSQL gets from us.
    pub(crate) settings: Settings,
}

impl Config {
    /// Reads and checks a file. Relative paths in it are taken from the directory that holds it.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        read(path, File::check)
    }

    #[cfg(test)]
    fn parse(text: &str, base: &Path) -> Result<Self, String> {
        parse(text, base, File::check)
    }

    /// A handle on this node's PostgreSQL.
    pub(crate) fn server(&self) -> Server {
        Server::new(self.server.clone())
    }

    /// Where the extension finds the daemon.
    pub(crate) fn port_socket(&self) -> PathBuf {
        self.dir.join("port.sock")
    }
}

/// A node is a member of the log, and more.
impl Deref for Config {
    type Target = LogMember;

    fn deref(&self) -> &LogMember {
        &self.member
    }
}

/// A witness's configuration.
pub(crate) fn load_witness(path: &Path) -> Result<LogMember> {
    read(path, File::check_witness)
}

/// A balancer's configuration.
pub(crate) fn load_balancer(path: &Path) -> Result<Balancer> {
    read(path, BalancerFile::check)
}

/// The configuration of a node or of a witness.
pub(crate) fn load_member(path: &Path) -> Result<(LogMember, Option<Config>)> {
    read(path, File::check_member)
}

fn read<F: DeserializeOwned, T>(path: &Path, check: impl FnOnce(F, &Path) -> Result<T, Vec<String>>) -> Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| format!("could not read \"{}\"", path.display()))?;
    let base = std::path::absolute(path)?.parent().unwrap_or(Path::new("/")).to_owned();
    parse(&text, &base, check).map_err(|detail| {
        Problem::new(format!("configuration file \"{}\" is not valid", path.display())).detail(detail).into()
    })
}

/// All that is wrong, one line each, if anything is.
fn parse<F: DeserializeOwned, T>(
    text: &str,
    base: &Path,
    check: impl FnOnce(F, &Path) -> Result<T, Vec<String>>,
) -> Result<T, String> {
    let file: F = toml::from_str(text).map_err(|error| error.to_string())?;
    check(file, base).map_err(|problems| problems.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = r#"
cluster = "demo"
name = "n1"
dir = "n1"
listen = "127.0.0.1:6633"
admin = "127.0.0.1:6533"
[postgres]
port = 6433
bin_dir = "/usr/bin"
os_user = "postgres"
"#;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("/base"))
    }

    #[test]
    fn what_is_left_out_has_a_sensible_value() {
        let config = parse(MINIMAL).unwrap();
        assert_eq!(config.dir, Path::new("/base/n1"));
        assert_eq!(config.server.data_dir, Path::new("/base/n1/data"));
        assert_eq!(config.server.socket_dir, Path::new("/base/n1/run"));
        assert_eq!(config.server.log, Path::new("/base/n1/postgres.log"));
        assert_eq!(config.advertise, "127.0.0.1:6633");
        assert_eq!(config.admin_url, "http://127.0.0.1:6533");
        assert_eq!(config.postgres, PostgresAddress { host: "127.0.0.1".to_owned(), port: 6433 });
        assert_eq!((config.database.as_str(), config.server.superuser.as_str()), ("postgres", "postgres"));
        assert_eq!(config.port_socket(), Path::new("/base/n1/port.sock"));
        assert_eq!((config.log.segment_bytes, config.log.snapshot_every_bytes), (16 << 20, 256 << 20));
        assert_eq!(config.log.max_bytes, 16 << 30);
        assert_eq!((config.serving.max_lag, config.serving.ready_lag), (100_000, 1_000));
    }

    #[test]
    fn a_node_behind_a_wildcard_says_where_it_is() {
        let text = MINIMAL.replace("127.0.0.1", "0.0.0.0");
        assert_eq!(
            parse(&text).unwrap_err(),
            "listen: \"0.0.0.0:6633\" is no address that others can use; set advertise"
        );
        let text = text.replace("dir = \"n1\"", "dir = \"n1\"\nadvertise = \"db1.example.com:7000\"");
        let config = parse(&text).unwrap();
        assert_eq!(config.advertise, "db1.example.com:7000");
        assert_eq!(config.admin_url, "http://db1.example.com:6533");
        assert_eq!(config.postgres.host, "db1.example.com");
    }

    #[test]
    fn the_others_have_to_reach_the_admin_api() {
        let text = MINIMAL.replace("127.0.0.1:6633", "10.0.0.1:6633");
        let expected = "admin: \"127.0.0.1:6533\" cannot be reached by the other nodes, which ask there";
        assert_eq!(parse(&text).unwrap_err(), expected);
        assert!(parse(&text.replace("127.0.0.1:6533", "10.0.0.1:6533")).is_ok());
    }

    #[test]
    fn unknown_keys_are_refused_where_they_stand() {
        for (wrong, key) in [("nmae = \"n1\"\n", "nmae"), ("", "prot")] {
            let text = format!("{wrong}{MINIMAL}{}", if wrong.is_empty() { "prot = 1\n" } else { "" });
            let error = parse(&text).unwrap_err();
            assert!(error.contains(&format!("unknown field `{key}`")) && error.contains("line"), "{error}");
        }
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let text = MINIMAL
            .replace("\"demo\"", "\"De mo\"")
            .replace("127.0.0.1:6533", "localhost")
            .replace("6433", "0")
            .replace("[postgres]", "[settings]\nport = 1\n[log]\nsegment_bytes = 9\nmax_bytes = 9\n[serving]\nmax_lag = 1\nready_lag = 2\n[check]\nrows = 0\n[postgres]");
        let error = parse(&text).unwrap_err();
        let lines: Vec<&str> = error.lines().collect();
        let expected = [
            "cluster: \"De mo\" is no name: 1 to 63 lower-case letters, digits, '-' and '_'",
            "admin: \"localhost\" is not of the form ADDRESS:PORT",
            "log.segment_bytes: must be between 5242880 and 1073741824",
            "log.max_bytes: must be at least twice segment_bytes and snapshot_every_bytes, 536870930",
            "postgres.port: must not be 0",
            "serving.ready_lag: must not be above max_lag",
            "check.rows: must be between 1 and 1000000",
            "settings: \"port\" is pgrenga's own",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_witness_has_no_postgresql() {
        let (without, _) = MINIMAL.split_once("[postgres]").unwrap();
        let witness = super::parse(without, Path::new("/base"), File::check_witness).unwrap();
        assert_eq!((witness.name.as_str(), witness.admin_url.as_str()), ("n1", "http://127.0.0.1:6533"));
        assert_eq!(parse(without).unwrap_err(), "postgres: is missing; only a witness has no PostgreSQL");
        let refused = super::parse(MINIMAL, Path::new("/base"), File::check_witness).unwrap_err();
        assert_eq!(refused, "postgres: a witness has no PostgreSQL");
    }
}
