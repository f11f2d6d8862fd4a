//! Nodes that leave for good.
//!
//! The log says first that a node is out: from there on nothing of it is certified, and nobody waits
//! for it. It still votes: with two voters nothing could be decided without it. The leader, whoever
//! it is, takes its vote then; and the node itself, when others tell it that this is done, ends.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use pgrenga_admin::{Client, State};
use pgrenga_log::Handle;
use pgrenga_writeset::NodeId;
use pgrenga_writeset::entry::Item;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::{Engine, Event};
use crate::Options;
use crate::shared::Shared;

/// How often a node asks whether it was removed: it may have been cut off when that happened.
pub(super) const ASK: Duration = Duration::from_secs(5);
/// How often it does when it knows that it was.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// How long another node may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Who waits for a removal, and what the leader is about.
#[derive(Debug, Default)]
pub(super) struct Removals {
    waiting: Vec<(NodeId, oneshot::Sender<()>)>,
    /// Taking a vote away.
    under_way: Option<JoinHandle<()>>,
}

impl Engine {
    /// Orders that a node be out; `reply` comes once the log says so.
    pub(super) async fn remove(&mut self, node: NodeId, reply: oneshot::Sender<()>) {
        if self.core.is_removed(node) {
            let _ = reply.send(());
            return;
        }
        self.removals.waiting.retain(|(_, reply)| !reply.is_closed());
        self.removals.waiting.push((node, reply));
        self.proposer.propose(&Item::Remove(node)).await;
    }

    /// The log says that a node is out.
    pub(super) async fn on_removed(&mut self, node: NodeId) {
        tracing::info!(%node, "a node was removed from the cluster");
        self.agreement.forget(node);
        self.shared.set_members(self.members());
        self.shared.set_removed(self.core.removed().collect());
        for (_, reply) in self.removals.waiting.extract_if(.., |(removed, _)| *removed == node) {
            let _ = reply.send(());
        }
        if node == self.options.node {
            self.leave().await;
        }
    }

    /// It is this node: no session may do anything here any more.
    pub(super) async fn leave(&mut self) {
        self.transfers.end();
        self.shared.set_problem("this node was removed from the cluster".to_owned());
        self.set_state(State::Detached);
        self.settle_standing().await;
        self.renew_lease().await;
        tokio::spawn(ask_others(Arc::clone(&self.options), Arc::clone(&self.shared), self.events.clone(), ASK_AGAIN));
    }

    /// The leader takes the votes of those who are out.
    pub(super) fn take_votes(&mut self) {
        if !self.leads() || self.removals.under_way.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let members = self.log.status().members;
        let still_in = self.core.removed().find(|node| members.iter().any(|member| member.node_id == *node));
        self.removals.under_way = still_in.map(|node| tokio::spawn(take_vote(self.log.clone(), node)));
    }
}

async fn take_vote(log: Handle, node: NodeId) {
    match log.remove(node).await {
        Ok(()) => tracing::info!(%node, "the removed node has no vote any more"),
        Err(error) => {
            tracing::warn!(%node, %error, "could not take the removed node's vote yet");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// Asks the other nodes again and again, until one of them says that this one is out.
pub(super) async fn ask_others(
    options: Arc<Options>,
    shared: Arc<Shared>,
    events: mpsc::Sender<Event>,
    pause: Duration,
) {
    let client = Client::new().with_timeout(PATIENCE);
    loop {
        tokio::time::sleep(pause).await;
        let members = shared.members().into_iter().filter(|member| member.id != options.node);
        let peers: BTreeSet<String> =
            members.map(|member| member.admin_url).chain(options.peers.iter().cloned()).collect();
        for peer in peers {
            let Ok(view) = client.node(&peer).await else { continue };
            if view.former_cluster_ids.contains(&options.cluster_id) {
                return drop(events.send(Event::Replaced).await);
            }
            if view.cluster_id == options.cluster_id && view.removed.contains(&options.node) {
                return drop(events.send(Event::Removed).await);
            }
        }
    }
}
