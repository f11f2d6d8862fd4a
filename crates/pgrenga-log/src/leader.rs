//! What only the leader can do, asked of the local member: by its own handle,
//! or by another member over the network.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, Fatal, RaftError};
use openraft::impls::BasicNode;
use openraft::raft::ClientWriteResponse;
use openraft::{ChangeMembers, Instant as _, RaftMetrics, ReadPolicy};
use tokio::sync::{mpsc, oneshot};

use crate::gather::Proposal;
use crate::network::message::{Call, CallReply, ProposeReply};
use crate::options::Options;
use crate::raft::{Membership, Raft, TypeConfig};
use crate::space::Space;

/// A learner becomes a voter only when it lacks at most this many entries:
/// commits wait for voters.
const PROMOTE_LAG: u64 = 1000;
/// How long a promotion waits for that.
const PROMOTE_TIMEOUT: Duration = Duration::from_secs(30);

/// The local member.
pub(crate) struct Leader {
    raft: Raft,
    options: Options,
    proposals: mpsc::Sender<Proposal>,
    space: Arc<Space>,
}

impl Leader {
    pub(crate) fn new(raft: Raft, options: Options, proposals: mpsc::Sender<Proposal>, space: Arc<Space>) -> Self {
        Self { raft, options, proposals, space }
    }

    pub(crate) fn space(&self) -> &Arc<Space> {
        &self.space
    }

    pub(crate) fn raft(&self) -> &Raft {
        &self.raft
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    pub(crate) fn metrics(&self) -> RaftMetrics<TypeConfig> {
        self.raft.metrics().borrow_watched().clone()
    }

    /// Hands an entry over in the order of the calls; what is returned tells how it ended.
    pub(crate) async fn submit(&self, payload: Bytes) -> impl Future<Output = ProposeReply> + use<> {
        let (reply, outcome) = oneshot::channel();
        let too_large = payload.len() > self.options.max_entry_bytes;
        let accepted = !too_large && self.proposals.send(Proposal { payload, reply }).await.is_ok();
        async move {
            match outcome.await {
                Ok(reply) => reply,
                Err(_) if too_large => ProposeReply::TooLarge,
                Err(_) if accepted => ProposeReply::Unknown,
                Err(_) => ProposeReply::NotLeader,
            }
        }
    }

    pub(crate) async fn call(&self, call: Call) -> CallReply {
        match call {
            Call::ReadIndex => match self.raft.get_read_log_id(ReadPolicy::ReadIndex).await {
                Ok((id, _)) => CallReply::Index(id.log_id().index),
                Err(RaftError::APIError(_)) => CallReply::Retry,
                Err(RaftError::Fatal(_)) => CallReply::Closed,
            },
            Call::AddLearner { node, address } => self.add(node.into(), BasicNode { addr: address }).await,
            Call::Promote { node } => self.promote(node.into()).await,
            Call::MayRemove { node } => self.may_remove(node.into()).await,
            Call::Remove { node } => self.remove(node.into()).await,
            Call::TransferLeader { to } => self.transfer(to.into()).await,
        }
    }

    fn membership(&self) -> Membership {
        self.metrics().membership_config.membership().clone()
    }

    async fn add(&self, id: u64, node: BasicNode) -> CallReply {
        match self.membership().get_node(&id) {
            Some(known) if *known == node => CallReply::Done,
            Some(_) => self.change(ChangeMembers::SetNodes(BTreeMap::from([(id, node)])), true).await,
            None => changed(self.raft.add_learner(id, node, false).await),
        }
    }

    async fn promote(&self, id: u64) -> CallReply {
        let membership = self.membership();
        if membership.get_node(&id).is_none() {
            return CallReply::Refused(format!("node {id} is not a learner"));
        }
        if membership.voter_ids().any(|voter| voter == id) {
            return CallReply::Done;
        }
        let wait = self.raft.wait(Some(PROMOTE_TIMEOUT));
        let caught_up = wait.metrics(
            |metrics| {
                let last = metrics.last_log_index.unwrap_or(0);
                metrics.replication.as_ref().is_none_or(|followers| {
                    followers.get(&id).copied().flatten().is_some_and(|matching| matching.index + PROMOTE_LAG >= last)
                })
            },
            "learner to catch up",
        );
        if caught_up.await.is_err() {
            return CallReply::Refused(format!("node {id} lacks too many entries of the log"));
        }
        self.change(ChangeMembers::AddVoterIds(BTreeSet::from([id])), true).await
    }

    /// Whether the voters that remain without a node have a living majority among them.
    async fn may_remove(&self, id: u64) -> CallReply {
        let voters: Vec<u64> = self.membership().voter_ids().collect();
        let remaining: Vec<u64> = voters.iter().copied().filter(|voter| *voter != id).collect();
        if remaining.len() == voters.len() {
            return CallReply::Done;
        }
        if remaining.is_empty() {
            return CallReply::Refused(format!("node {id} is the last voter"));
        }
        let majority = remaining.len() / 2 + 1;
        let answering = |metrics: &RaftMetrics<TypeConfig>| {
            remaining.iter().filter(|voter| self.has_answered(metrics, **voter)).count()
        };
        let wait = self.raft.wait(Some(self.patience()));
        // A leader that has just begun has not heard of everybody yet.
        if wait.metrics(|metrics| answering(metrics) >= majority, "a majority to answer").await.is_ok() {
            return CallReply::Done;
        }
        let (count, answer) = (remaining.len(), answering(&self.metrics()));
        CallReply::Refused(format!("of the {count} voters that would remain {answer} answer, and {majority} must"))
    }

    /// How long a member may be silent before it counts as gone.
    fn patience(&self) -> Duration {
        self.options.election_timeout_max * 2
    }

    fn has_answered(&self, metrics: &RaftMetrics<TypeConfig>, id: u64) -> bool {
        let heard = metrics.heartbeat.as_ref().and_then(|followers| followers.get(&id).copied().flatten());
        id == metrics.id || heard.is_some_and(|at| at.elapsed() < self.patience())
    }

    /// Never below what keeps a majority alive. A leader that is removed hands over by itself.
    async fn remove(&self, id: u64) -> CallReply {
        let membership = self.membership();
        if membership.get_node(&id).is_none() {
            return CallReply::Done;
        }
        let ids = BTreeSet::from([id]);
        if !membership.voter_ids().any(|voter| voter == id) {
            return self.change(ChangeMembers::RemoveNodes(ids), false).await;
        }
        match self.may_remove(id).await {
            CallReply::Done => self.change(ChangeMembers::RemoveVoters(ids), false).await,
            refused => refused,
        }
    }

    async fn change(&self, change: ChangeMembers<u64, BasicNode>, retain: bool) -> CallReply {
        changed(self.raft.change_membership(change, retain).await)
    }

    async fn transfer(&self, to: u64) -> CallReply {
        let metrics = self.metrics();
        if metrics.current_leader != Some(metrics.id) {
            return CallReply::Retry;
        }
        if to == metrics.id {
            return CallReply::Done;
        }
        if !metrics.membership_config.voter_ids().any(|voter| voter == to) {
            return CallReply::Refused(format!("node {to} is not a voter"));
        }
        if self.raft.trigger().transfer_leader(to).await.is_err() {
            return CallReply::Closed;
        }
        let wait = self.raft.wait(Some(self.options.election_timeout_max * 2));
        let transferred = wait.metrics(|metrics| metrics.current_leader == Some(to), "leadership to move");
        if transferred.await.is_ok() { CallReply::Done } else { CallReply::Retry }
    }
}

type Change = Result<ClientWriteResponse<TypeConfig>, RaftError<TypeConfig, ClientWriteError<TypeConfig>>>;

/// Every change may be asked for again: it says what shall be, not what to add.
fn changed(change: Change) -> CallReply {
    match change {
        Ok(_) => CallReply::Done,
        Err(RaftError::APIError(error)) => match error {
            ClientWriteError::ChangeMembershipError(
                error @ (ChangeMembershipError::EmptyMembership(_)
                | ChangeMembershipError::LearnerNotFound(_)
                | ChangeMembershipError::UnsupportedMembershipTransition(_)
                | ChangeMembershipError::NodeMetadataChanged(_)),
            ) => CallReply::Refused(error.to_string()),
            _ => CallReply::Retry,
        },
        Err(RaftError::Fatal(Fatal::Stopped)) => CallReply::Closed,
        Err(RaftError::Fatal(error)) => CallReply::Refused(error.to_string()),
    }
}
