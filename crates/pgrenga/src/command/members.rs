//! `pgrenga detach`, `attach` and `remove`: one node's place in the cluster.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::future::join_all;
use pgrenga_admin::{Client, Error, Member, State};

use super::target::Reach;
use crate::cli;
use crate::report::{Problem, say};

/// How long the nodes may be asked until one of them carries it out.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a node may take to say what it knows.
const QUICK: Duration = Duration::from_secs(3);
/// How long it may take to have something ordered.
const ORDER: Duration = Duration::from_secs(15);
/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(200);
/// After which it is said what is being waited for.
const QUIET: Duration = Duration::from_secs(2);

pub(crate) async fn detach(arguments: &cli::OnNode) -> Result<()> {
    let (member, others) = find(arguments).await?;
    let detached = carry_out(&member, others, async |client, url| client.detach(url, member.id).await).await;
    detached.with_context(|| format!("could not detach node \"{}\"", member.name))?;
    until_it_heard(&member).await;
    say(format_args!("node \"{}\" takes no new sessions", member.name));
    Ok(())
}

pub(crate) async fn attach(arguments: &cli::OnNode) -> Result<()> {
    let (member, others) = find(arguments).await?;
    let attached = carry_out(&member, others, async |client, url| client.attach(url, member.id).await).await;
    attached.with_context(|| format!("could not attach node \"{}\"", member.name))?;
    say(format_args!("node \"{}\" takes sessions again, once it has caught up", member.name));
    Ok(())
}

pub(crate) async fn remove(arguments: &cli::OnNode) -> Result<()> {
    let (member, others) = find(arguments).await?;
    let ordered = carry_out(&member, others, async |client, url| client.remove(url, member.id).await).await;
    let url = ordered.with_context(|| format!("could not remove node \"{}\"", member.name))?;
    say(format_args!("node \"{}\" is out: nothing of it is committed any more", member.name));
    let client = Client::new().with_timeout(QUICK);
    let mut wait = Wait::begin("the others to go on without its vote");
    while !client.node(&url).await.is_ok_and(|view| view.removed.contains(&member.id)) {
        if wait.is_over().await {
            return Err(Problem::new(format!("node \"{}\" is out, but still has a vote", member.name))
                .detail("The other nodes go on trying to take it; a majority of all must be there for that.")
                .hint("See 'pgrenga status' for who is missing.")
                .into());
        }
    }
    say(format_args!("removed node \"{}\"", member.name));
    Ok(())
}

/// The node itself reads it in the log a little later. One that does not answer takes no sessions anyway.
async fn until_it_heard(member: &Member) {
    let client = Client::new().with_timeout(QUICK);
    let mut wait = Wait::begin("the node to hear of it");
    while client.node(&member.admin_url).await.is_ok_and(|view| view.state == State::Serving) {
        if wait.is_over().await {
            return;
        }
    }
}

/// The node that is meant, and where the other nodes can be asked.
async fn find(arguments: &cli::OnNode) -> Result<(Member, Vec<String>)> {
    let client = Client::new().with_timeout(QUICK);
    let mut wait = Wait::begin("a node that answers");
    loop {
        let nodes = Reach::find(&arguments.target)?.nodes;
        let answers = join_all(nodes.iter().map(|(_, url)| client.members(url))).await;
        let (mut known, mut said) = (Vec::new(), Vec::new());
        for ((_, url), answer) in nodes.iter().zip(answers) {
            match answer {
                Ok(members) if !members.is_empty() => known.push(members),
                Ok(_) => said.push(format!("{url} does not know the cluster yet")),
                Err(error) => said.push(error.to_string()),
            }
        }
        if let Some(members) = newest(known, &arguments.node) {
            return pick(members, &arguments.node);
        }
        if wait.is_over().await {
            return Err(unreachable(said));
        }
    }
}

/// Of what several nodes know: where `name` is the last node that had it. Who still reads an old log knows an earlier one.
fn newest(known: Vec<Vec<Member>>, name: &str) -> Option<Vec<Member>> {
    let id = |members: &Vec<Member>| members.iter().find(|member| member.name == name).map(|member| member.id);
    known.into_iter().max_by_key(id)
}

fn pick(members: Vec<Member>, name: &str) -> Result<(Member, Vec<String>)> {
    let names: Vec<String> = members.iter().map(|member| member.name.clone()).collect();
    let (mut meant, others): (Vec<Member>, Vec<Member>) = members.into_iter().partition(|member| member.name == name);
    let meant = meant.pop().ok_or_else(|| {
        Problem::new(format!("there is no node \"{name}\""))
            .detail(format!("The cluster's nodes are {}.", names.join(", ")))
    })?;
    Ok((meant, others.into_iter().map(|member| member.admin_url).collect()))
}

/// Has any node do it, the one that is meant last; tells which one did. Every order may be given twice.
async fn carry_out(
    meant: &Member,
    others: Vec<String>,
    order: impl AsyncFn(&Client, &str) -> Result<(), Error>,
) -> Result<String> {
    let client = Client::new().with_timeout(ORDER);
    let mut wait = Wait::begin("a node that can do it");
    loop {
        let mut said = Vec::new();
        for url in others.iter().chain([&meant.admin_url]) {
            match order(&client, url).await {
                Ok(()) => return Ok(url.clone()),
                Err(error) if error.is_transient() => said.push(error.to_string()),
                Err(error) => return Err(error.into()),
            }
        }
        if wait.is_over().await {
            return Err(unreachable(said));
        }
    }
}

fn unreachable(mut said: Vec<String>) -> anyhow::Error {
    said.dedup();
    Problem::new("no node could do it")
        .detail(said.join("\n"))
        .hint("Are the daemons running, and a majority of them? 'pgrenga status' shows it.")
        .into()
}

struct Wait {
    begun: Instant,
    what: &'static str,
    said: bool,
}

impl Wait {
    fn begin(what: &'static str) -> Self {
        Self { begun: Instant::now(), what, said: false }
    }

    /// Waits a little; true when that was long enough.
    async fn is_over(&mut self) -> bool {
        tokio::time::sleep(PAUSE).await;
        if !self.said && self.begun.elapsed() >= QUIET {
            self.said = true;
            say(format_args!("waiting for {}", self.what));
        }
        self.begun.elapsed() >= PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use pgrenga_writeset::NodeId;

    use super::*;

    fn member(id: u32, name: &str) -> Member {
        let (admin_url, peer) = (format!("http://{id}"), String::new());
        Member { id: NodeId(id), name: name.to_owned(), admin_url, postgres: None, peer, voter: true }
    }

    #[test]
    fn a_name_means_the_last_node_that_had_it() {
        let behind = vec![member(1, "n1"), member(2, "n2")];
        let present = vec![member(1, "n1"), member(4, "n2")];
        for known in [vec![behind.clone(), present.clone()], vec![present, behind.clone()]] {
            let (meant, others) = pick(newest(known, "n2").expect("it is known"), "n2").expect("it is there");
            assert_eq!((meant.id, others), (NodeId(4), vec!["http://1".to_owned()]));
        }
        assert!(pick(newest(vec![behind], "n3").expect("something is known"), "n3").is_err());
    }
}
