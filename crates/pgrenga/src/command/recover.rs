//! `pgrenga recover`: what is left when a majority's disks are lost for good, and how one node goes on alone.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::{Context as _, Result};
use pgrenga_log::{Options, Recovery, Remains};
use pgrenga_writeset::entry::{self, Item};
use tokio::net::TcpStream;

use crate::cli;
use crate::config::Config;
use crate::identity::{Data, Identity};
use crate::lock::{self, Lock};
use crate::report::{Problem, say};

/// How long a daemon of another member may take to take a connection.
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) async fn run(config: &Config, arguments: &cli::Recover) -> Result<()> {
    let mut identity = Identity::load(&config.dir)?
        .filter(|identity| identity.data == Data::Complete)
        .ok_or_else(|| Problem::new(format!("there is no node in \"{}\" that could go on", config.dir.display())))?;
    if identity.witness {
        return Err(Problem::new("a witness has no data to go on with").into());
    }
    let _lock = Lock::take(&config.dir, lock::DAEMON)?;
    let mut options = Options::new(identity.node_id, config.dir.join("log"), &identity.cluster_id);
    options.segment_bytes = config.log.segment_bytes;
    let recovery = Recovery::open(&options).await.context("could not read the log")?;
    let remains = recovery.remains();
    say(describe(config, &identity, &remains));
    if !arguments.force {
        recovery.close().await;
        return Ok(());
    }
    refuse_if_others_live(&identity, &remains).await?;
    say(explain(&identity, &remains));
    if !arguments.yes {
        confirm(&config.cluster)?;
    }
    // First: with another id and the old membership a daemon only waits, with the old id and the new
    // membership old members could meet it.
    identity.former.push(std::mem::replace(&mut identity.cluster_id, Identity::new_cluster_id()));
    identity.peers.clear();
    identity.save(&config.dir)?;
    let mut removals = Vec::new();
    entry::begin(&mut removals);
    for other in remains.others(identity.node_id) {
        entry::push(&mut removals, &Item::Remove(other.node_id));
    }
    recovery.take_over(&config.advertise, removals.into()).await.context("could not change the log")?;
    say(format_args!(
        "node \"{}\" is cluster \"{}\" now; start it with 'pgrenga node', then join others anew",
        identity.name, config.cluster
    ));
    Ok(())
}

fn describe(config: &Config, identity: &Identity, remains: &Remains) -> String {
    let committed = remains.committed.map_or_else(|| "none".to_owned(), |index| index.to_string());
    let mut lines = vec![
        format!("node \"{}\" (id {}) of cluster \"{}\"", identity.name, identity.node_id, config.cluster),
        format!("  last log position: term {}, index {}", remains.last_term, remains.last),
        format!("  last known committed: index {committed}"),
        "  members of the log:".to_owned(),
    ];
    for member in &remains.members {
        let own = if member.node_id == identity.node_id { ", this node" } else { "" };
        let votes = if member.voter { "votes" } else { "does not vote" };
        lines.push(format!("    id {} at {}, {votes}{own}", member.node_id, member.address));
    }
    lines.push(
        "Compare the last log position with that of every other node whose disk is left: the higher term, \
         then the higher index, has more. If a majority is left, start it; nothing is lost then."
            .to_owned(),
    );
    lines.join("\n")
}

fn explain(identity: &Identity, remains: &Remains) -> String {
    format!(
        "To go on with node \"{}\" alone:\n\
         - Transactions are lost for good that were acknowledged and are in no log up to term {}, index {} here.\n\
         - What is in this log and was never acknowledged counts as committed.\n\
         - The other members are out. They must never be started again: a majority of them would go on as another cluster. \
         They have to join anew, with empty directories.",
        identity.name, remains.last_term, remains.last
    )
}

/// Two clusters would go on.
async fn refuse_if_others_live(identity: &Identity, remains: &Remains) -> Result<()> {
    for other in remains.others(identity.node_id) {
        if let Ok(Ok(_)) = tokio::time::timeout(PATIENCE, TcpStream::connect(&other.address)).await {
            return Err(Problem::new(format!(
                "a daemon answers at {}, the address of node {}",
                other.address, other.node_id
            ))
            .detail("As long as other members live, this node must not go on without them.")
            .hint("If a majority is left, start it. If not, stop every daemon that is left first.")
            .into());
        }
    }
    Ok(())
}

/// Only who types the cluster's name means it.
fn confirm(cluster: &str) -> Result<()> {
    let refused = || Problem::new("not confirmed").detail("Nothing was changed.");
    if !std::io::stdin().is_terminal() {
        return Err(refused().hint("There is no terminal to ask on; --yes confirms it.").into());
    }
    let _ = write!(std::io::stdout(), "Type the cluster's name to go on: ");
    let _ = std::io::stdout().flush();
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("could not read the answer")?;
    if answer.trim() == cluster { Ok(()) } else { Err(refused().into()) }
}
