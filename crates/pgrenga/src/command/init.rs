//! `pgrenga init`: the first node of a new cluster.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use pgrenga_postgres::server::{Server, StopMode};
use pgrenga_writeset::NodeId;

use super::adopt::{self, Consent};
use crate::cli;
use crate::config::Config;
use crate::directory::{has_entries, remove_dir};
use crate::identity::{Data, Identity};
use crate::lock::{self, Lock};
use crate::report::{Problem, say};

/// Makes the data directory and, last of all, the identity: a node without one is not made yet.
pub(crate) async fn run(config: &Config, arguments: &cli::Init) -> Result<()> {
    std::fs::create_dir_all(&config.dir)
        .with_context(|| format!("could not create directory \"{}\"", config.dir.display()))?;
    let _lock = Lock::take(&config.dir, lock::DAEMON)?;
    if let Some(identity) = Identity::load(&config.dir)? {
        return Err(Problem::new(format!("node \"{}\" exists already in \"{}\"", identity.name, config.dir.display()))
            .hint("Start it with 'pgrenga node', or choose another dir.")
            .into());
    }
    let server = config.server();
    let is_adopted = !Attempt::is_unfinished(config) && has_entries(&config.server.data_dir);
    if is_adopted {
        let consent = Consent { given: arguments.yes, dry_run: arguments.dry_run };
        if !adopt::prepare(config, consent).await? {
            return Ok(());
        }
    } else if arguments.dry_run {
        say(format_args!("there is no data directory \"{}\" yet; it would be made", config.server.data_dir.display()));
        return Ok(());
    } else {
        Attempt::begin(config).await?;
        say(format_args!("making the data directory \"{}\"", config.server.data_dir.display()));
        server.init_db().await?;
        server.configure(&config.settings.as_pairs()).await?;
    }
    say("starting PostgreSQL to install the extension");
    server.start().await?;
    let installed = install_extension(&server, config).await;
    server.stop(StopMode::Fast).await?;
    installed.context("could not install the extension \"pgrenga\"")?;

    let identity = Identity {
        cluster_id: Identity::new_cluster_id(),
        node_id: NodeId(1),
        name: config.name.clone(),
        former: Vec::new(),
        bootstrap: true,
        witness: false,
        data: Data::Complete,
        peers: Vec::new(),
    };
    identity.save(&config.dir)?;
    if is_adopted {
        adopt::finish(config)?
    } else {
        Attempt::succeeded(config)?
    }
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
struct Attempt;

impl Attempt {
    fn mark(config: &Config) -> PathBuf {
        config.dir.join("init.incomplete")
    }

    fn is_unfinished(config: &Config) -> bool {
        Self::mark(config).exists()
    }

    async fn begin(config: &Config) -> Result<()> {
        if Self::is_unfinished(config) {
            say("clearing away an attempt that was not finished");
            config.server().stop(StopMode::Immediate).await?;
            remove_dir(&config.server.data_dir)?;
        }
        let mark = Self::mark(config);
        std::fs::write(&mark, "").with_context(|| format!("could not write \"{}\"", mark.display()))
    }

    fn succeeded(config: &Config) -> Result<()> {
        let mark = Self::mark(config);
        std::fs::remove_file(&mark).with_context(|| format!("could not remove \"{}\"", mark.display()))
    }
}
