//! Which cluster `status` and `verify` are about, and which of its nodes can be asked.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::cli::Target;
use crate::config;
use crate::demo::{ClusterFile, default_dir};
use crate::identity::Identity;

/// How to reach a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Reach {
    /// Names (where known) and admin URLs of nodes that may answer, the best first.
    pub(crate) nodes: Vec<(Option<String>, String)>,
    /// The PostgreSQL superuser.
    pub(crate) superuser: String,
    /// The database that is replicated.
    pub(crate) database: String,
}

impl Reach {
    pub(crate) fn find(target: &Target) -> Result<Self> {
        match &target.config {
            Some(path) => Self::of_config(path),
            None => Self::of_demo(target.dir.clone().unwrap_or_else(default_dir)),
        }
    }

    fn of_config(path: &Path) -> Result<Self> {
        let (member, config) = config::load_member(path)?;
        let peers = Identity::load(&member.dir)?.map(|identity| identity.peers).unwrap_or_default();
        let own = (Some(member.name), member.admin_url);
        // A witness's configuration does not name them.
        let or_postgres = |name: Option<String>| name.unwrap_or_else(|| "postgres".to_owned());
        Ok(Self {
            nodes: std::iter::once(own).chain(peers.into_iter().map(|url| (None, url))).collect(),
            superuser: or_postgres(config.as_ref().map(|config| config.server.superuser.clone())),
            database: or_postgres(config.map(|config| config.database)),
        })
    }

    fn of_demo(dir: PathBuf) -> Result<Self> {
        let cluster = ClusterFile::load(&dir)?;
        Ok(Self {
            nodes: cluster.nodes.into_iter().map(|node| (Some(node.name), node.admin_url)).collect(),
            superuser: "postgres".to_owned(),
            database: "postgres".to_owned(),
        })
    }
}
