//! The choices that tie openraft to this crate. Its types stay behind this
//! module and never reach the public API.

use std::fmt;

use bytes::Bytes;
use openraft::RaftTypeConfig;
use openraft::impls::{BasicNode, BoxedErrorSource, InlineBatch, Vote as RaftVote, leader_id_std};
use openraft::raft::responder::Responder;
use openraft::vote::RaftLeaderId;
use openraft::{EntryPayload, OptionalSend};
use tokio::sync::oneshot;

use crate::runtime::Runtime;
use crate::state_machine::StateMachine;

/// Names the types openraft works with. At most one leader a term
/// (`leader_id_std`), so that a log id is a term and an index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TypeConfig;

impl RaftTypeConfig for TypeConfig {
    type D = Payload;
    type R = ();
    type NodeId = u64;
    type Node = BasicNode;
    type Term = u64;
    type LeaderId = leader_id_std::LeaderId<u64, u64>;
    type Vote = RaftVote<Self::LeaderId>;
    type Payload = EntryPayload<Payload, u64, BasicNode>;
    type Entry = openraft::Entry<<Self::LeaderId as RaftLeaderId>::Committed, Self::Payload>;
    type AsyncRuntime = Runtime;
    type Responder<T>
        = Reply<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = BoxedErrorSource;
}

pub(crate) type Raft = openraft::Raft<TypeConfig, StateMachine>;
pub(crate) type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
pub(crate) type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<u64, BasicNode>;
pub(crate) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, Bytes>;

/// The log id of `index` in `term`.
pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(term.into(), index)
}

/// What the application put into an entry; opaque here.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Payload(pub(crate) Bytes);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// How one proposal ended, whichever comes first.
pub(crate) enum Outcome<T> {
    /// A majority has the entry on disk. It does not wait for its application.
    Committed(LogId),
    /// The core is done with it without having reported a commit: an error.
    Finished(T),
}

/// Sends the first outcome and drops what comes after it.
pub(crate) struct Reply<T>(Option<oneshot::Sender<Outcome<T>>>);

impl<T> Reply<T> {
    pub(crate) fn new() -> (Self, oneshot::Receiver<Outcome<T>>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Some(sender)), receiver)
    }

    fn send(&mut self, outcome: Outcome<T>) {
        if let Some(sender) = self.0.take() {
            // A proposer that gave up is no concern of the core's.
            let _ = sender.send(outcome);
        }
    }
}

impl<T: OptionalSend + 'static> Responder<TypeConfig, T> for Reply<T> {
    fn on_commit(&mut self, log_id: LogId) {
        self.send(Outcome::Committed(log_id));
    }

    fn on_complete(mut self, result: T) {
        self.send(Outcome::Finished(result));
    }
}
