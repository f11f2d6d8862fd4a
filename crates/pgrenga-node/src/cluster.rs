//! The admin API's questions, answered by a running node.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pgrenga_admin::{Cluster, Fate, Marker, MarkerSnapshot, Member, NewMember, NodeView, Refusal, Shown, State};
use pgrenga_log::Handle;
use pgrenga_writeset::{LogIndex, NodeId, Seq, TransactionId};
use tokio::sync::oneshot;

use crate::Node;
use crate::engine::Event;

/// How long another node is kept waiting for an answer.
const LONGEST_LOOK: Duration = Duration::from_secs(1);

impl Cluster for Node {
    fn node(&self) -> NodeView {
        let positions = self.shared.positions();
        let log = self.log.status();
        let index = |at: Option<LogIndex>| at.map_or(0, |at| at.0);
        let mut counters = self.shared.counters();
        counters.extend([
            ("log_bytes".to_owned(), log.disk_bytes),
            ("log_full".to_owned(), log.is_full.into()),
            ("log_snapshot_index".to_owned(), index(log.snapshot)),
            ("log_purged_index".to_owned(), index(log.purged)),
            ("log_committed_index".to_owned(), index(log.committed)),
        ]);
        NodeView {
            cluster: self.options.cluster.clone(),
            cluster_id: self.options.cluster_id.clone(),
            former_cluster_ids: self.options.former_cluster_ids.clone(),
            name: self.options.name.clone(),
            id: self.options.node,
            state: positions.state,
            applied_seq: positions.visible,
            flushed_seq: positions.flushed,
            committed_seq: positions.certified,
            leader: positions.leader,
            silent: self.shared.silent(),
            daemon_pid: std::process::id(),
            postgres_pid: self.options.postgres.as_ref().and_then(|postgres| postgres.server.pid()),
            removed: self.shared.removed().into_iter().filter(|node| !self.log.has_member(*node)).collect(),
            verdict_hash: format!("{:016x}", positions.verdict_hash),
            reason: reason(self.shared.reasons(), &self.log),
            counters,
        }
    }

    async fn shown(&self, seq: Seq) -> Shown {
        let mut visible = self.shared.visible();
        let serves = || self.shared.positions().state == State::Serving;
        if serves() {
            let _ = tokio::time::timeout(LONGEST_LOOK, visible.wait_for(|visible| *visible >= seq)).await;
        }
        // What is visible first: who does not serve any more by then may have gone back.
        let applied_seq = *visible.borrow();
        if applied_seq < seq && !serves() {
            self.shared.excuse(seq);
        }
        Shown { id: self.options.node, state: self.shared.positions().state, applied_seq }
    }

    async fn transaction(&self, txid: TransactionId, index: LogIndex) -> Result<Fate, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.ask(Event::Recall { txid, index, reply }, answer).await
    }

    fn members(&self) -> Vec<Member> {
        let status = self.log.status();
        let mut members = self.shared.members();
        for member in &mut members {
            member.voter = status.members.iter().any(|known| known.node_id == member.id && known.voter);
        }
        members
    }

    async fn register(&self, new: NewMember) -> Result<NodeId, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.ask(Event::Register { new, reply }, answer).await?
    }

    async fn bring_in(&self, node: NodeId) -> Result<(), Refusal> {
        let Some(member) = self.members().into_iter().find(|member| member.id == node) else {
            return Err(Refusal::NotFound(format!("there is no node {node}")));
        };
        if member.voter {
            return Ok(());
        }
        let unavailable = |error: pgrenga_log::Error| Refusal::Unavailable(error.to_string());
        self.log.add_learner(node, &member.peer).await.map_err(unavailable)?;
        self.log.promote(node).await.map_err(unavailable)
    }

    async fn set_detached(&self, node: NodeId, detached: bool) -> Result<(), Refusal> {
        let (reply, answer) = oneshot::channel();
        self.ask(Event::SetDetached { node, detached, reply }, answer).await?
    }

    async fn remove(&self, node: NodeId) -> Result<(), Refusal> {
        if self.shared.removed().contains(&node) {
            return Ok(());
        }
        let members = self.members();
        let Some(Member { name, .. }) = members.iter().find(|member| member.id == node) else {
            return Err(Refusal::NotFound(format!("there is no node {node}")));
        };
        self.log.may_remove(node).await.map_err(|error| match error {
            pgrenga_log::Error::Membership(reason) => Refusal::Conflict(reason),
            error => Refusal::Unavailable(error.to_string()),
        })?;
        if members.iter().all(|member| member.id == node || member.postgres.is_none()) {
            return Err(Refusal::Conflict(format!("no other node than \"{name}\" has data")));
        }
        let (reply, answer) = oneshot::channel();
        self.ask(Event::Remove { node, reply }, answer).await
    }

    async fn begin_marker(&self) -> Result<Marker, Refusal> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let id = (now.as_micros() as u64) << 8 | u64::from(self.options.node.0 & 0xFF);
        let (reply, answer) = oneshot::channel();
        self.ask(Event::BeginMarker { id, reply }, answer).await
    }

    fn end_marker(&self, id: u64) {
        self.shared.forget_marker(id);
    }

    fn marker(&self, id: u64) -> Option<MarkerSnapshot> {
        self.shared.marker(id)
    }
}

/// Why a node does not serve, or not all that it should.
fn reason(shared: impl Iterator<Item = String>, log: &Handle) -> Option<String> {
    let full = if log.takes_writes() {
        None
    } else if log.status().is_full {
        Some("takes no writes: the disk under its log is full")
    } else {
        Some("takes no writes: the disks under the logs of other nodes are full")
    };
    let said: Vec<String> = shared.chain(full.map(str::to_owned)).collect();
    (!said.is_empty()).then(|| said.join("; "))
}

impl Node {
    async fn ask<T>(&self, event: Event, answer: oneshot::Receiver<T>) -> Result<T, Refusal> {
        let unavailable =
            || Refusal::Unavailable("the log did not confirm it in time; is there a majority?".to_owned());
        self.events.send(event).await.map_err(|_| unavailable())?;
        match tokio::time::timeout(std::time::Duration::from_secs(10), answer).await {
            Ok(Ok(answer)) => Ok(answer),
            _ => Err(unavailable()),
        }
    }
}
