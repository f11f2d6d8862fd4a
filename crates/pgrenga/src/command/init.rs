//! `pgrenga init`: the first node of a new cluster.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use pgrenga_postgres::server::{Server, StopMode};
use pgrenga_writeset::NodeId;

use crate::config::Config;
use crate::directory::{has_entries, remove_dir};
use crate::identity::{Data, Identity};
use crate::lock::{self, Lock};
use crate::report::{Problem, say};

/// Makes the data directory and, last of all, the identity: a node without one is not made yet.
pub(crate) async fn run(config: &Config) -> Result<()> {
    std::fs::create_dir_all(&config.dir)
        .with_context(|| format!("could not create directory \"{}\"", config.dir.display()))?;
    let _lock = Lock::take(&config.dir, lock::DAEMON)?;
    if let Some(identity) = Identity::load(&config.dir)? {
        return Err(Problem::new(format!("node \"{}\" exists already in \"{}\"", identity.name, config.dir.display()))
            .hint("Start it with 'pgrenga node', or choose another dir.")
            .into());
    }
    let attempt = Attempt::begin(config).await?;
    say(format_args!("making the data directory \"{}\"", config.server.data_dir.display()));
    let server = config.server();
    server.init_db().await?;
    server.configure(&config.settings.as_pairs()).await?;
    say("starting PostgreSQL to install the extension");
    server.start().await?;
    let installed = install_extension(&server, config).await;
    server.stop(StopMode::Fast).await?;
    installed.context("could not install the extension \"pgrenga\"")?;

    let identity = Identity {
        cluster_id: format!("{:032x}", fastrand::u128(..)),
        node_id: NodeId(1),
        name: config.name.clone(),
        bootstrap: true,
        witness: false,
        data: Data::Complete,
        peers: Vec::new(),
    };
    identity.save(&config.dir)?;
    attempt.succeeded()?;
    say(format_args!("node \"{}\" of cluster \"{}\" is ready to start", config.name, config.cluster));
    Ok(())
}

async fn install_extension(server: &Server, config: &Config) -> Result<(), pgrenga_postgres::Error> {
    let client = server.connect(&config.database).await?;
    // There is no log yet: what init does becomes part of the first node's data.
    client.batch_execute("SET pgrenga.replicate = off").await?;
    client.batch_execute("CREATE EXTENSION IF NOT EXISTS pgrenga").await?;
    let origins = config.settings.origins();
    client.batch_execute(&format!("SELECT pgrenga.setup({origins})")).await?;
    Ok(())
}

/// A file that says that the data directory is ours and not finished, so that
/// the next attempt may clear it away, which it does to no other one.
struct Attempt {
    mark: PathBuf,
}

impl Attempt {
    async fn begin(config: &Config) -> Result<Self> {
        let mark = config.dir.join("init.incomplete");
        if mark.exists() {
            say("clearing away an attempt that was not finished");
            config.server().stop(StopMode::Immediate).await?;
            remove_dir(&config.server.data_dir)?;
        } else if has_entries(&config.server.data_dir) {
            return Err(pgrenga_postgres::Error::NotEmpty(config.server.data_dir.clone()).into());
        }
        std::fs::write(&mark, "").with_context(|| format!("could not write \"{}\"", mark.display()))?;
        Ok(Self { mark })
    }

    fn succeeded(self) -> Result<()> {
        std::fs::remove_file(&self.mark).with_context(|| format!("could not remove \"{}\"", self.mark.display()))
    }
}
