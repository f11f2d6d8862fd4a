use std::future::Future;

use pgrenga_writeset::{LogIndex, NodeId, Seq, TransactionId};

use crate::view::{Fate, Marker, MarkerSnapshot, Member, NewMember, NodeView, Shown};

/// What the admin API asks of the node behind it. The binary implements it for
/// the running node; tests implement it for a made-up one.
pub trait Cluster: Clone + Send + Sync + 'static {
    /// This node's own state, now.
    fn node(&self) -> NodeView;

    /// What this node shows; waits a little for `seq`.
    fn shown(&self, seq: Seq) -> impl Future<Output = Shown> + Send;

    /// What this node knows of a transaction, if it has read the log up to `index`.
    fn transaction(&self, id: TransactionId, index: LogIndex) -> impl Future<Output = Result<Fate, Refusal>> + Send;

    /// All members that the log knows, joiners included.
    fn members(&self) -> Vec<Member>;

    /// Enters a new member into the log, not voting yet, and pins the log for
    /// it. The same name and addresses again give the same id again, so that a
    /// join that was cut off can be repeated.
    fn register(&self, new: NewMember) -> impl Future<Output = Result<NodeId, Refusal>> + Send;

    /// Makes a member that has caught up a voter. Nothing happens if it is one already.
    fn bring_in(&self, node: NodeId) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Lets a member take no new sessions, or again. Nothing happens if that is so already.
    fn set_detached(&self, node: NodeId, detached: bool) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Takes a node out for good, member or not yet. Its vote goes a little later, see
    /// [`NodeView::removed`]. Nothing happens if it is out already.
    fn remove(&self, node: NodeId) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Orders a point at which every node will export a snapshot.
    fn begin_marker(&self) -> impl Future<Output = Result<Marker, Refusal>> + Send;

    /// The snapshot of a marker, if this node has reached it and still keeps it open.
    fn marker(&self, id: u64) -> Option<MarkerSnapshot>;

    /// Lets go of a marker's snapshot: nobody will ask for it any more.
    fn end_marker(&self, id: u64);
}

/// Why a node does not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not now: there is no majority, no leader, or the node is not ready. Asking again may help.
    #[error("{0}")]
    Unavailable(String),
    /// It would contradict what is there: a name in use, another cluster.
    #[error("{0}")]
    Conflict(String),
    /// There is no such node or marker.
    #[error("{0}")]
    NotFound(String),
    /// The node itself is in trouble.
    #[error("{0}")]
    Internal(String),
}
