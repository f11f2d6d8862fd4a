//! `node.json`: who this node is. Written when the node is made and when it was
//! removed, never copied from another node.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use pgrenga_writeset::NodeId;
use serde::{Deserialize, Serialize};

use crate::durable;

/// Who a node is, and how far the making of it has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    /// Random, the same on all nodes of a cluster.
    pub(crate) cluster_id: String,
    /// Given by the cluster, never used again.
    pub(crate) node_id: NodeId,
    pub(crate) name: String,
    /// Ids of clusters that this one goes on in place of, see 'pgrenga recover'.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) former: Vec<String>,
    /// This node began the cluster: its log starts with it as the only voter.
    #[serde(default)]
    pub(crate) bootstrap: bool,
    /// It has no PostgreSQL.
    #[serde(default)]
    pub(crate) witness: bool,
    /// Whether the data directory is whole; a witness has none to be copied.
    pub(crate) data: Data,
    /// Admin URLs of nodes that were members when this one joined.
    #[serde(default)]
    pub(crate) peers: Vec<String>,
}

/// The state of the data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Data {
    /// `pgrenga join` has registered the node, and has to copy the data yet.
    Pending,
    /// The node can be started.
    Complete,
    /// The node was taken out of the cluster: it never starts again.
    Removed,
}

impl Identity {
    /// A new cluster's.
    pub(crate) fn new_cluster_id() -> String {
        format!("{:032x}", fastrand::u128(..))
    }

    /// The identity kept in a node's directory, if it has one.
    pub(crate) fn load(node_dir: &Path) -> Result<Option<Self>> {
        let path = path(node_dir);
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .with_context(|| format!("could not understand \"{}\"", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("could not read \"{}\"", path.display())),
        }
    }

    pub(crate) fn save(&self, node_dir: &Path) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        durable::write(&path(node_dir), &text)
    }
}

fn path(node_dir: &Path) -> PathBuf {
    node_dir.join("node.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Identity::load(directory.path()).unwrap(), None);
        let identity = Identity {
            cluster_id: "c0ffee".to_owned(),
            node_id: NodeId(2),
            name: "n2".to_owned(),
            former: vec!["decaf".to_owned()],
            bootstrap: false,
            witness: false,
            data: Data::Pending,
            peers: vec!["http://127.0.0.1:6533".to_owned()],
        };
        identity.save(directory.path()).unwrap();
        assert_eq!(Identity::load(directory.path()).unwrap(), Some(identity));
        std::fs::write(path(directory.path()), "{\"node_id\":").unwrap();
        assert!(Identity::load(directory.path()).unwrap_err().to_string().starts_with("could not understand"));
    }
}
