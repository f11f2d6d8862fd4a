//! Who belongs to the cluster.

use std::time::{Duration, Instant};

use pgrenga_admin::{Member, NewMember, Refusal};
use pgrenga_writeset::entry::Item;
use pgrenga_writeset::{Incarnation, NodeId};
use tokio::sync::oneshot;

use super::Engine;

/// A newcomer whose introduction is under way.
pub(super) struct Registration {
    new: NewMember,
    reply: oneshot::Sender<Result<NodeId, Refusal>>,
}

/// Somebody who waits until a node is detached, or attached.
pub(super) struct Detachment {
    node: NodeId,
    detached: bool,
    reply: oneshot::Sender<Result<(), Refusal>>,
}

impl Engine {
    /// Tells the others this node's name and addresses, if they do not know them.
    pub(super) async fn introduce(&mut self) {
        let known = self.core.members().any(|(node, _)| node == self.options.node);
        let waiting = self.introduced.is_some_and(|since| since.elapsed() < Duration::from_secs(2));
        if known || waiting || self.core.is_removed(self.options.node) || self.log.leader().borrow().is_none() {
            return;
        }
        self.introduced = Some(Instant::now());
        self.propose_self().await;
    }

    async fn propose_self(&mut self) {
        let me = NewMember {
            cluster: self.options.cluster.clone(),
            name: self.options.name.clone(),
            admin_url: self.options.admin_url.clone(),
            postgres: self.options.postgres.as_ref().map(|postgres| postgres.address.clone()),
            peer: self.options.peer.clone(),
        };
        self.propose_member(self.options.node, &me).await;
    }

    async fn propose_member(&mut self, node: NodeId, new: &NewMember) {
        let description = serde_json::to_string(new).expect("strings and numbers");
        self.proposer.propose(&Item::Member { node, description: &description }).await;
    }

    pub(super) async fn register(&mut self, new: NewMember, reply: oneshot::Sender<Result<NodeId, Refusal>>) {
        if new.cluster != self.options.cluster {
            let message = format!("this is cluster \"{}\", not \"{}\"", self.options.cluster, new.cluster);
            return drop(reply.send(Err(Refusal::Conflict(message))));
        }
        let members = self.members();
        // Before the joiner in the log: whoever joins copies a member's data.
        if members.iter().all(|member| member.id != self.options.node) {
            self.propose_self().await;
        }
        if let Some(known) = members.iter().find(|member| member.name == new.name) {
            let same = known.admin_url == new.admin_url && known.peer == new.peer && known.postgres == new.postgres;
            // With an empty log it could vote twice, and say again what it said before.
            let took_part = self.log.has_member(known.id) || self.core.incarnation(known.id) > Incarnation(0);
            let answer = if same && took_part {
                let name = &new.name;
                Err(Refusal::Conflict(format!("node \"{name}\" took part already; remove it before it joins anew")))
            } else if same {
                Ok(known.id)
            } else {
                Err(Refusal::Conflict(format!("there is a node \"{}\" with other addresses already", new.name)))
            };
            return drop(reply.send(answer));
        }
        // Above every id that ever was, also of nodes that were removed.
        let highest = self.registrations.keys().copied().max().unwrap_or_default().max(self.core.highest_node());
        let node = NodeId(highest.max(self.options.node).0 + 1);
        self.propose_member(node, &new).await;
        self.registrations.insert(node, Registration { new, reply });
    }

    /// A member is new, or its standing is.
    pub(super) async fn on_member(&mut self, node: NodeId) {
        let members = self.members();
        self.shared.set_members(members.clone());
        if let Some(Registration { new, reply }) = self.registrations.remove(&node) {
            // Somebody else may have been given the same id, or the same node another one.
            if members.iter().any(|member| member.id == node && member.name == new.name) {
                let _ = reply.send(Ok(node));
            } else {
                self.register(new, reply).await;
            }
        }
        let core = &self.core;
        let is_done = |wish: &mut Detachment| core.is_detached(wish.node) == wish.detached;
        for wish in self.detachments.extract_if(.., is_done) {
            let _ = wish.reply.send(Ok(()));
        }
        self.settle_standing().await;
    }

    /// There was no room for a newcomer.
    pub(super) fn on_full(&mut self, node: NodeId) {
        if let Some(Registration { reply, .. }) = self.registrations.remove(&node) {
            let slots = self.options.sequence_slots;
            let message = format!("all {slots} slots of sequences are taken, by nodes that are here or were removed");
            let _ = reply.send(Err(Refusal::Conflict(message)));
        }
    }

    /// Lets a member take no new sessions, or again.
    pub(super) async fn set_detached(
        &mut self,
        node: NodeId,
        detached: bool,
        reply: oneshot::Sender<Result<(), Refusal>>,
    ) {
        let members = self.members();
        let is_other = |member: &&Member| member.id != node && member.postgres.is_some();
        let refusal = match members.iter().find(|member| member.id == node) {
            None => Some(Refusal::NotFound(format!("there is no node {node}"))),
            Some(Member { name, postgres: None, .. }) => {
                Some(Refusal::Conflict(format!("\"{name}\" is a witness, and takes no sessions")))
            }
            Some(Member { name, .. }) => {
                let is_last = members.iter().filter(is_other).all(|member| self.core.is_detached(member.id));
                let message = || format!("no other node than \"{name}\" takes sessions");
                (detached && is_last).then(|| Refusal::Conflict(message()))
            }
        };
        if let Some(refusal) = refusal {
            return drop(reply.send(Err(refusal)));
        }
        if self.core.is_detached(node) == detached {
            return drop(reply.send(Ok(())));
        }
        self.detachments.retain(|wish| !wish.reply.is_closed());
        self.detachments.push(Detachment { node, detached, reply });
        let item = if detached { Item::Detach(node) } else { Item::Attach(node) };
        self.proposer.propose(&item).await;
    }

    pub(super) fn members(&self) -> Vec<Member> {
        let described = self.core.members().filter_map(|(id, description)| {
            let new: NewMember = serde_json::from_str(description).ok()?;
            let NewMember { name, admin_url, postgres, peer, .. } = new;
            Some(Member { id, name, admin_url, postgres, peer, voter: false })
        });
        described.collect()
    }
}
