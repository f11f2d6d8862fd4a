//! `pgrenga join`: a new node of a cluster that runs.

use std::io::IsTerminal as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressStyle};
use pgrenga_admin::{Client, NewMember, PostgresAddress};
use pgrenga_postgres::backup::{self, Progress};

use crate::config::{Config, LogMember};
use crate::directory::{has_entries, remove_dir};
use crate::identity::{Data, Identity};
use crate::lock::{self, Lock};
use crate::report::{Problem, say};

/// How long the donor may take to tell the log who it is.
const INTRODUCTION: Duration = Duration::from_secs(10);

/// Registers, copies, and remembers after each of the two how far it came. Whatever is
/// cut off, by whomever, the next attempt goes on there.
pub(crate) async fn run(config: &Config, peer: &str) -> Result<()> {
    std::fs::create_dir_all(&config.dir)
        .with_context(|| format!("could not create directory \"{}\"", config.dir.display()))?;
    let _lock = Lock::take(&config.dir, lock::DAEMON)?;
    let client = Client::new();
    let mut identity = match begun_before(config, &client, peer).await? {
        Some(identity) => identity,
        None => register(config.introduce(Some(&config.postgres)), &config.dir, &client, peer).await?,
    };
    let server = config.server();
    // Only a whole copy gets this name, and only of this join: there was none before it registered.
    if has_entries(&config.server.data_dir) {
        say("the data was copied already");
    } else {
        let donor = find_donor(config, &client, peer, &identity).await?;
        say(format_args!("copying the data from {}:{}", donor.host, donor.port));
        let mut meter = Meter::new();
        let donor = backup::conninfo(&donor.host, donor.port, &config.server.superuser);
        let copied = backup::copy(&server, &donor, |progress| meter.show(progress)).await;
        meter.end();
        copied.and_then(backup::Copy::place).context("could not copy the donor's data")?;
    }
    server.configure(&config.settings.as_pairs()).await?;
    identity.data = Data::Complete;
    identity.save(&config.dir)?;
    say(format_args!("node \"{}\" of cluster \"{}\" is ready to start", config.name, config.cluster));
    Ok(())
}

/// Registers a witness: there is nothing to copy, and it reads the log when it is started.
pub(crate) async fn run_witness(member: &LogMember, peer: &str) -> Result<()> {
    std::fs::create_dir_all(&member.dir)
        .with_context(|| format!("could not create directory \"{}\"", member.dir.display()))?;
    let _lock = Lock::take(&member.dir, lock::DAEMON)?;
    if let Some(identity) = Identity::load(&member.dir)? {
        return Err(Problem::new(format!("\"{}\" exists already in \"{}\"", identity.name, member.dir.display()))
            .hint("Start it, or empty the directory to make this machine a new witness.")
            .into());
    }
    register(member.introduce(None), &member.dir, &Client::new(), peer).await?;
    say(format_args!("witness \"{}\" of cluster \"{}\" is ready to start", member.name, member.cluster));
    Ok(())
}

/// Who this node is if a join was begun and not finished, and still is of use.
async fn begun_before(config: &Config, client: &Client, peer: &str) -> Result<Option<Identity>> {
    let identity = match Identity::load(&config.dir)? {
        None if has_entries(&config.server.data_dir) => {
            return Err(pgrenga_postgres::Error::NotEmpty(config.server.data_dir.clone()).into());
        }
        None => return Ok(None),
        Some(identity) => identity,
    };
    match identity.data {
        Data::Complete => Err(Problem::new(format!("node \"{}\" has joined already", identity.name))
            .hint("Start it with 'pgrenga node'.")
            .into()),
        Data::Removed => Err(Problem::new(format!("node \"{}\" was removed from its cluster", identity.name))
            .hint(format!("Empty \"{}\" to make this machine a new node.", config.dir.display()))
            .into()),
        Data::Pending => {
            let node = client.node(peer).await.context("could not ask the peer about the cluster")?;
            let is_void = node.cluster_id == identity.cluster_id && node.removed.contains(&identity.node_id);
            if is_void {
                say(format_args!("joining anew: node \"{}\" was removed before its join was finished", config.name));
                // Of a copy from before it was removed the log may lack what comes next.
                remove_dir(&config.server.data_dir)?;
            } else {
                say(format_args!("continuing the join of node \"{}\" that was interrupted", config.name));
            }
            Ok((!is_void).then_some(identity))
        }
    }
}

async fn register(new: NewMember, dir: &Path, client: &Client, peer: &str) -> Result<Identity> {
    say(format_args!("registering with {peer}"));
    let registered = client.register(peer, &new).await.context("could not register the node")?;
    let others = registered.members.iter().filter(|member| member.id != registered.node_id);
    let identity = Identity {
        cluster_id: registered.cluster_id,
        node_id: registered.node_id,
        name: new.name,
        former: registered.former_cluster_ids,
        bootstrap: false,
        witness: new.postgres.is_none(),
        data: if new.postgres.is_none() { Data::Complete } else { Data::Pending },
        peers: others.map(|member| member.admin_url.clone()).collect(),
    };
    identity.save(dir)?;
    Ok(identity)
}

/// The peer itself, which must have a PostgreSQL and be a member of the cluster that gave us our id.
async fn find_donor(config: &Config, client: &Client, peer: &str, identity: &Identity) -> Result<PostgresAddress> {
    let node = client.node(peer).await.context("could not ask the donor about itself")?;
    if node.cluster_id != identity.cluster_id {
        return Err(Problem::new(format!("{peer} is of another cluster than node \"{}\"", config.name))
            .detail(format!("Its cluster has the id {}, the node's has {}.", node.cluster_id, identity.cluster_id))
            .into());
    }
    let begun = Instant::now();
    let donor = loop {
        let members = client.members(peer).await.context("could not ask the donor for the members")?;
        match members.into_iter().find(|member| member.id == node.id) {
            // A cluster's first node introduces itself a moment after it has begun to answer.
            None if begun.elapsed() < INTRODUCTION => tokio::time::sleep(Duration::from_millis(100)).await,
            member => break member.and_then(|member| member.postgres),
        }
    };
    donor.ok_or_else(|| {
        Problem::new(format!("node \"{}\" has no data to copy", node.name))
            .hint("Name another node with --peer.")
            .into()
    })
}

/// Shows progress: a bar on a terminal, a line now and then elsewhere.
enum Meter {
    Bar(ProgressBar),
    Lines { last: Option<Instant> },
}

impl Meter {
    const PAUSE: Duration = Duration::from_secs(5);

    fn new() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::Lines { last: None };
        }
        let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
        Self::Bar(ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())))
    }

    fn show(&mut self, progress: Progress) {
        match self {
            Self::Bar(bar) => {
                bar.set_length(progress.total_kb << 10);
                bar.set_position(progress.done_kb << 10);
            }
            Self::Lines { last } if last.is_none_or(|last| last.elapsed() >= Self::PAUSE) => {
                *last = Some(Instant::now());
                say(format_args!("copied {} of {} MB", progress.done_kb >> 10, progress.total_kb >> 10));
            }
            Self::Lines { .. } => {}
        }
    }

    fn end(self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
