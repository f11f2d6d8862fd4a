//! Who belongs to the cluster.

use std::time::{Duration, Instant};

use pgrenga_admin::{Member, NewMember, Refusal};
use pgrenga_writeset::NodeId;
use pgrenga_writeset::entry::Item;
use tokio::sync::oneshot;

use super::Engine;

impl Engine {
    /// Tells the others this node's name and addresses, if they do not know them.
    pub(super) async fn introduce(&mut self) {
        let known = self.core.members().any(|(node, _)| node == self.options.node);
        let waiting = self.introduced.is_some_and(|since| since.elapsed() < Duration::from_secs(2));
        if known || waiting || self.log.leader().borrow().is_none() {
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
            postgres: Some(self.options.postgres.clone()),
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
            let answer = if same {
                Ok(known.id)
            } else {
                Err(Refusal::Conflict(format!("there is a node \"{}\" with other addresses already", new.name)))
            };
            return drop(reply.send(answer));
        }
        let highest = members.iter().map(|member| member.id.0).chain(self.registrations.keys().map(|id| id.0)).max();
        let node = NodeId(highest.unwrap_or(self.options.node.0) + 1);
        self.registrations.insert(node, reply);
        self.propose_member(node, &new).await;
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
