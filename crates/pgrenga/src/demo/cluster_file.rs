//! `DIR/cluster.json`: where people and scripts find what the demo runs.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::durable;
use crate::report::Problem;

/// The file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClusterFile {
    pub(crate) balancer: Balancer,
    pub(crate) nodes: Vec<Node>,
}

/// Where clients find the balancer; the process id is null while it does not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Balancer {
    pub(crate) port: u16,
    #[serde(default)]
    pub(crate) pid: Option<u32>,
}

/// One node; the process ids are null while the process does not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) postgres_port: u16,
    pub(crate) admin_url: String,
    pub(crate) data_dir: PathBuf,
    pub(crate) daemon_pid: Option<u32>,
    pub(crate) postgres_pid: Option<i32>,
}

impl ClusterFile {
    /// The file of the demo in `dir`.
    pub(crate) fn load(dir: &Path) -> Result<Self> {
        Self::find(dir)?.ok_or_else(|| {
            Problem::new(format!("there is no demo cluster in \"{}\"", dir.display()))
                .hint("Start one with 'pgrenga demo', or say which cluster is meant with --dir or --config.")
                .into()
        })
    }

    /// The same, if there is one.
    pub(crate) fn find(dir: &Path) -> Result<Option<Self>> {
        let path = path(dir);
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .with_context(|| format!("could not understand \"{}\"", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("could not read \"{}\"", path.display())),
        }
    }

    pub(crate) fn save(&self, dir: &Path) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        durable::write(&path(dir), &text)
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join("cluster.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_the_documented_form() {
        let node = Node {
            name: "n1".to_owned(),
            postgres_port: 6433,
            admin_url: "http://127.0.0.1:6533".to_owned(),
            data_dir: "/demo/n1/data".into(),
            daemon_pid: Some(11),
            postgres_pid: None,
        };
        let file = ClusterFile { balancer: Balancer { port: 6432, pid: Some(10) }, nodes: vec![node] };
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(ClusterFile::find(directory.path()).unwrap(), None);
        file.save(directory.path()).unwrap();
        assert_eq!(ClusterFile::load(directory.path()).unwrap(), file);
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(path(directory.path())).unwrap()).unwrap();
        let expected = serde_json::json!({"balancer": {"port": 6432, "pid": 10}, "nodes": [{
            "name": "n1", "postgres_port": 6433, "admin_url": "http://127.0.0.1:6533", "data_dir": "/demo/n1/data",
            "daemon_pid": 11, "postgres_pid": null}]});
        assert_eq!(json, expected);
    }
}
