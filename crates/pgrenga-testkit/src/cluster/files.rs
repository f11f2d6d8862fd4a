//! Where things are: the program, the temporary directory, `cluster.json`, the logs.

use std::fmt::{Display, Write as _};
use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::Error;

/// As much of `cluster.json` as tests need.
#[derive(Debug, Deserialize)]
pub(super) struct ClusterFile {
    pub(super) balancer: BalancerFile,
    pub(super) nodes: Vec<NodeFile>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct BalancerFile {
    pub(super) port: u16,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct NodeFile {
    pub(super) name: String,
    pub(super) postgres_port: u16,
    pub(super) data_dir: PathBuf,
}

impl NodeFile {
    pub(super) fn postgres(&self) -> tokio_postgres::Config {
        postgres(self.postgres_port)
    }
}

pub(super) fn postgres(port: u16) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(port).user("postgres").dbname("postgres");
    config.connect_timeout(Duration::from_secs(10));
    config
}

impl ClusterFile {
    pub(super) fn read(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("cluster.json");
        let text = std::fs::read(&path).map_err(|source| failed(path.display(), source))?;
        Ok(serde_json::from_slice(&text)?)
    }
}

pub(super) fn failed(what: impl Display, source: std::io::Error) -> Error {
    Error::Io { what: what.to_string(), source }
}

/// Where PostgreSQL's own programs are.
pub(super) fn postgres_programs() -> PathBuf {
    std::env::var_os("PGRENGA_BIN_DIR").unwrap_or_else(|| "/usr/lib/postgresql/15/bin".into()).into()
}

/// `pgrenga`, beside the test's own program: `target/release/deps/test` and `target/release/pgrenga`.
pub(super) fn program() -> Result<PathBuf, Error> {
    if let Some(program) = std::env::var_os("PGRENGA_PROGRAM") {
        return Ok(program.into());
    }
    let own = std::env::current_exe().map_err(|source| failed("our own program", source))?;
    let found = own.ancestors().skip(1).take(3).map(|dir| dir.join("pgrenga")).find(|path| path.is_file());
    found.ok_or_else(|| {
        failed("pgrenga is not built: run 'make build'", std::io::Error::from(std::io::ErrorKind::NotFound))
    })
}

/// PostgreSQL's user must be able to enter it.
pub(super) fn temporary_directory(place: &Path) -> Result<tempfile::TempDir, Error> {
    tempfile::Builder::new()
        .prefix("pgrenga-test-")
        .permissions(Permissions::from_mode(0o755))
        .tempdir_in(place)
        .map_err(|source| failed("a temporary directory", source))
}

pub(super) fn create(path: &Path) -> Result<File, Error> {
    File::create(path).map_err(|source| failed(path.display(), source))
}

/// The last lines of every log below `directory`.
pub(super) fn ends_of_logs(directory: &Path) -> String {
    let mut text = String::new();
    let nodes = std::fs::read_dir(directory.join("demo")).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut logs = vec![directory.join("demo.log"), directory.join("demo/balancer.log")];
    logs.extend(nodes.flat_map(|node| ["daemon.log", "postgres.log"].map(|log| node.join(log))));
    logs.sort();
    for log in logs {
        let Ok(content) = std::fs::read(&log) else { continue };
        let content = String::from_utf8_lossy(&content).into_owned();
        let lines: Vec<&str> = content.lines().collect();
        let _ = writeln!(text, "--- {}", log.display());
        for line in &lines[lines.len().saturating_sub(15)..] {
            let _ = writeln!(text, "{line}");
        }
    }
    text
}
