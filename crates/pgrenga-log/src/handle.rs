//! The way in: what the rest of the daemon asks of the log.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{InitializeError, RaftError};
use openraft::impls::BasicNode;
use pgrenga_writeset::{LogIndex, NodeId};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::committed::node_id;
use crate::error::{Error, ProposeError};
use crate::leader::Leader;
use crate::network::Network;
use crate::network::frame::Kind;
use crate::network::message::{self, Call, CallReply, ProposeReply};
use crate::raft::{SnapshotMeta, StoredMembership};
use crate::state_machine::Applied;
use crate::status::{Member, Status};
use crate::store::{LogStore, WriterGuard, payload_of};

/// How long a change of the membership may take.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two attempts to reach a leader.
const RETRY: Duration = Duration::from_millis(10);
/// Proposals in flight are counted in units of this many bytes.
const UNIT: usize = 1024;

/// Who leads, and where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Lead {
    pub(crate) leader: Option<u64>,
    pub(crate) address: Option<String>,
}

/// A member of the log. Cheap to clone; all clones are one member.
#[derive(Clone)]
pub struct Handle {
    inner: Arc<Inner>,
}

struct Inner {
    local: Arc<Leader>,
    store: LogStore,
    applied: Arc<Applied>,
    network: Network,
    local_addr: SocketAddr,
    advertise: String,
    lead: crate::watch::Receiver<Lead>,
    leader: watch::Receiver<Option<NodeId>>,
    in_flight: Semaphore,
    /// What ends with the member: its tasks, then its writer.
    running: Mutex<Option<(JoinSet<()>, WriterGuard)>>,
}

/// What [`crate::start()`] puts together.
pub(crate) struct Parts {
    pub(crate) local: Arc<Leader>,
    pub(crate) store: LogStore,
    pub(crate) applied: Arc<Applied>,
    pub(crate) network: Network,
    pub(crate) local_addr: SocketAddr,
    pub(crate) advertise: String,
    pub(crate) lead: crate::watch::Receiver<Lead>,
    pub(crate) leader: watch::Receiver<Option<NodeId>>,
    pub(crate) tasks: JoinSet<()>,
    pub(crate) writer: WriterGuard,
}

impl Handle {
    pub(crate) fn new(parts: Parts) -> Self {
        let units = (parts.local.options().max_in_flight_bytes / UNIT).min(Semaphore::MAX_PERMITS);
        let inner = Inner {
            local: parts.local,
            store: parts.store,
            applied: parts.applied,
            network: parts.network,
            local_addr: parts.local_addr,
            advertise: parts.advertise,
            lead: parts.lead,
            leader: parts.leader,
            in_flight: Semaphore::new(units),
            running: Mutex::new(Some((parts.tasks, parts.writer))),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The address that other members connect to.
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.local_addr
    }

    /// Begins a new cluster with this member as its only voter.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyInitialized`] if this member belongs to a cluster.
    pub async fn initialize(&self) -> Result<(), Error> {
        let id = u64::from(self.inner.local.options().node_id.0);
        let members = BTreeMap::from([(id, BasicNode { addr: self.inner.advertise.clone() })]);
        match self.inner.local.raft().initialize(members).await {
            Ok(()) => Ok(()),
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Err(Error::AlreadyInitialized),
            Err(RaftError::APIError(InitializeError::NotInMembers(error))) => Err(Error::Membership(error.to_string())),
            Err(RaftError::Fatal(_)) => Err(Error::Closed),
        }
    }

    /// Puts an entry into the log: returns its place once a majority of the voters has it on disk.
    /// Any member can be asked; proposals may be under way in any number, and those that wait
    /// together share messages and syncs. While no leader can be reached it is tried again until
    /// `deadline`.
    ///
    /// # Errors
    ///
    /// See [`ProposeError`], for what each says of the entry's fate. Dropping the future leaves it
    /// unknown.
    pub async fn propose(&self, entry: Bytes, deadline: Instant) -> Result<LogIndex, ProposeError> {
        let options = self.inner.local.options();
        if entry.len() > options.max_entry_bytes {
            return Err(ProposeError::TooLarge);
        }
        let units = u32::try_from(entry.len().div_ceil(UNIT)).unwrap_or(u32::MAX);
        let _in_flight = match timeout_at(deadline, self.inner.in_flight.acquire_many(units)).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) => return Err(ProposeError::Closed),
            Err(_) => return Err(ProposeError::NotSent),
        };
        let mut lead = self.inner.lead.clone();
        loop {
            let at = lead.borrow_and_update().clone();
            let reply = match (at.leader, at.address) {
                (Some(leader), _) if leader == u64::from(options.node_id.0) => {
                    let submitted = self.inner.local.submit(entry.clone()).await;
                    let reply = timeout_at(deadline, submitted).await.unwrap_or(ProposeReply::Unknown);
                    if let ProposeReply::Committed(index) = reply {
                        // Who proposed it can read it at once.
                        self.inner.applied.reached(index);
                    }
                    reply
                }
                (Some(leader), Some(address)) => tokio::select! {
                    biased;
                    reply = self.forward(leader, &address, entry.clone(), deadline) => reply,
                    () = self.is_replaced(leader) => ProposeReply::Unknown,
                },
                _ => ProposeReply::NotLeader,
            };
            match reply {
                ProposeReply::Committed(index) => return Ok(LogIndex(index)),
                ProposeReply::Unknown => return Err(ProposeError::Unknown),
                ProposeReply::TooLarge => return Err(ProposeError::TooLarge),
                ProposeReply::NotLeader => self.again(&mut lead, deadline).await?,
            }
        }
    }

    /// Waits until somebody else leads than at `leader`'s time: it may hang, with its connections open.
    async fn is_replaced(&self, leader: u64) {
        let mut lead = self.inner.lead.clone();
        // An error is this member's end, of which the asker learns by itself.
        let _ = lead.wait_until(|lead| lead.leader.is_some_and(|now| now != leader)).await;
    }

    async fn forward(&self, leader: u64, address: &str, entry: Bytes, deadline: Instant) -> ProposeReply {
        let lane = self.inner.network.forwarding(leader, address);
        let left = deadline.saturating_duration_since(Instant::now());
        let connected = timeout_at(deadline, lane.connection()).await;
        let Ok(Ok(connection)) = connected else { return ProposeReply::NotLeader };
        match connection.call(Kind::Propose, entry, left).await {
            Ok(frame) if frame.kind == Kind::ProposeReply => {
                message::from_bytes(&frame.body).unwrap_or(ProposeReply::Unknown)
            }
            _ => ProposeReply::Unknown,
        }
    }

    /// Waits for another leader, or a little.
    async fn again(&self, lead: &mut crate::watch::Receiver<Lead>, deadline: Instant) -> Result<(), ProposeError> {
        if self.is_closed() {
            return Err(ProposeError::Closed);
        }
        if Instant::now() >= deadline {
            return Err(ProposeError::NotSent);
        }
        let pause = if lead.borrow_watched().leader.is_some() { RETRY } else { RETRY * 10 };
        let until = deadline.min(Instant::now() + pause);
        match timeout_at(until, lead.changed()).await {
            Ok(Err(_)) => Err(ProposeError::Closed),
            _ => Ok(()),
        }
    }

    fn is_closed(&self) -> bool {
        self.inner.applied.watch().borrow().closed
    }

    /// The payload of a committed entry. It may have to be read from disk.
    ///
    /// # Errors
    ///
    /// [`Error::NotCommitted`], [`Error::Purged`] or [`Error::NoPayload`].
    pub async fn read(&self, index: LogIndex) -> Result<Bytes, Error> {
        match self.read_range(index, LogIndex(index.0.saturating_add(1)), usize::MAX).await?.pop() {
            Some((_, payload)) => Ok(payload),
            None => Err(Error::NoPayload(index)),
        }
    }

    /// Committed entries in `start..end` from `start` on, until they have `max_bytes`: at least one
    /// entry is read, those without a payload are left out.
    ///
    /// # Errors
    ///
    /// [`Error::NotCommitted`] or [`Error::Purged`] of `start`.
    pub async fn read_range(
        &self,
        start: LogIndex,
        end: LogIndex,
        max_bytes: usize,
    ) -> Result<Vec<(LogIndex, Bytes)>, Error> {
        let committed = self.inner.applied.committed();
        let Some(committed) = committed.filter(|committed| *committed >= start.0) else {
            return Err(Error::NotCommitted(start));
        };
        if self.inner.applied.installed() >= Some(start.0) {
            return Err(Error::Purged(start));
        }
        let entries = self
            .inner
            .store
            .read(start.0, end.0.min(committed + 1), max_bytes)
            .await
            .map_err(Error::io("could not read log entries"))?;
        if end > start && entries.first().is_none_or(|first| first.log_id.index != start.0) {
            return Err(Error::Purged(start));
        }
        let payloads = entries.iter().filter_map(|entry| Some((LogIndex(entry.log_id.index), payload_of(entry)?)));
        Ok(payloads.collect())
    }

    /// Who leads, as it changes.
    pub fn leader(&self) -> watch::Receiver<Option<NodeId>> {
        self.inner.leader.clone()
    }

    /// How the log stands, as this member sees it.
    pub fn status(&self) -> Status {
        let (metrics, space) = (self.inner.local.metrics(), self.inner.local.space());
        let index = |id: Option<crate::raft::LogId>| id.map(|id| LogIndex(id.index));
        let voters: Vec<u64> = metrics.membership_config.voter_ids().collect();
        let member = |(id, node): (&u64, &BasicNode)| Member {
            node_id: node_id(*id),
            address: node.addr.clone(),
            voter: voters.contains(id),
            matching: index(metrics.replication.as_ref().and_then(|followers| followers.get(id).copied().flatten())),
            last_contact: metrics
                .heartbeat
                .as_ref()
                .and_then(|followers| followers.get(id).copied().flatten())
                .map(|at| at.elapsed()),
            is_full: if *id == metrics.id { space.is_full() } else { space.is_full_at(*id) },
        };
        Status {
            node_id: node_id(metrics.id),
            leader: metrics.current_leader.map(node_id),
            term: metrics.current_term,
            last: metrics.last_log_index.map(LogIndex),
            committed: index(metrics.cluster_committed.max(metrics.local_committed)),
            applied: self.inner.applied.committed().map(LogIndex),
            snapshot: index(metrics.snapshot),
            purged: index(metrics.purged),
            members: metrics.membership_config.nodes().map(member).collect(),
            disk_bytes: self.inner.store.disk_bytes(),
            is_full: space.is_full(),
        }
    }

    /// Whether there is room for what the application begins now: on the disk under the log here,
    /// and as far as is known on those of a majority. If not, there still is for what is under way,
    /// and for what helps to make room.
    pub fn takes_writes(&self) -> bool {
        let space = self.inner.local.space();
        !space.is_full() && !space.is_scarce()
    }

    /// Adds a member that only follows, or changes the address of one. Asked again it does nothing.
    ///
    /// # Errors
    ///
    /// [`Error::NoLeader`] within a minute; [`Error::Membership`].
    pub async fn add_learner(&self, node: NodeId, address: impl Into<String>) -> Result<(), Error> {
        self.change(Call::AddLearner { node: node.0, address: address.into() }).await
    }

    /// Makes a learner a voter, once it has nearly all of the log.
    ///
    /// # Errors
    ///
    /// As [`Handle::add_learner`]; refused if it does not catch up.
    pub async fn promote(&self, node: NodeId) -> Result<(), Error> {
        self.change(Call::Promote { node: node.0 }).await
    }

    /// Whether [`Handle::remove`] would be refused as things stand.
    ///
    /// # Errors
    ///
    /// As [`Handle::remove`].
    pub async fn may_remove(&self, node: NodeId) -> Result<(), Error> {
        self.change(Call::MayRemove { node: node.0 }).await
    }

    /// Removes a member, of either kind. Its id must not be used again. A leader that removes
    /// itself leads until that is committed, then hands over.
    ///
    /// # Errors
    ///
    /// As [`Handle::add_learner`]; refused if fewer than a majority of the remaining voters
    /// answer, or none remains.
    pub async fn remove(&self, node: NodeId) -> Result<(), Error> {
        self.change(Call::Remove { node: node.0 }).await
    }

    /// Whether the node belongs to the log, voting or not, by the last change that is committed.
    pub fn has_member(&self, node: NodeId) -> bool {
        self.inner.applied.has_member(node.0.into())
    }

    /// Lets another voter lead.
    ///
    /// # Errors
    ///
    /// As [`Handle::add_learner`].
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), Error> {
        self.change(Call::TransferLeader { to: to.0 }).await
    }

    async fn change(&self, call: Call) -> Result<(), Error> {
        self.call(call, Instant::now() + CHANGE_TIMEOUT).await.map(|_| ())
    }

    /// A position that includes every entry whose proposal had succeeded, on any member, when this
    /// was called: who has taken in everything up to it reads the present.
    ///
    /// # Errors
    ///
    /// [`Error::NoLeader`] if no leader with a majority could be reached by `deadline`.
    pub async fn linearizable_index(&self, deadline: Instant) -> Result<LogIndex, Error> {
        Ok(LogIndex(self.call(Call::ReadIndex, deadline).await?.unwrap_or(0)))
    }

    async fn call(&self, call: Call, deadline: Instant) -> Result<Option<u64>, Error> {
        let own = u64::from(self.inner.local.options().node_id.0);
        let mut lead = self.inner.lead.clone();
        loop {
            let at = lead.borrow_and_update().clone();
            let reply = match (at.leader, at.address) {
                (Some(leader), _) if leader == own => {
                    timeout_at(deadline, self.inner.local.call(call.clone())).await.unwrap_or(CallReply::Retry)
                }
                (Some(leader), Some(address)) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    let lane = self.inner.network.forwarding(leader, &address);
                    let reply = tokio::select! {
                        biased;
                        reply = lane.call(Kind::Call, message::to_bytes(&call), left) => reply.ok(),
                        () = self.is_replaced(leader) => None,
                    };
                    reply.and_then(|frame| message::from_bytes(&frame.body).ok()).unwrap_or(CallReply::Retry)
                }
                _ => CallReply::Retry,
            };
            match reply {
                CallReply::Index(index) => return Ok(Some(index)),
                CallReply::Done => return Ok(None),
                CallReply::Refused(reason) => return Err(Error::Membership(reason)),
                // A leader that is closing; there will be another.
                CallReply::Closed | CallReply::Retry => {}
            }
            match self.again(&mut lead, deadline).await {
                Ok(()) => {}
                Err(ProposeError::Closed) => return Err(Error::Closed),
                Err(_) => return Err(Error::NoLeader),
            }
        }
    }

    /// Keeps the application's state as of `index`, durably, in place of an earlier one. From then
    /// on the log up to `index` may be purged. Each member takes its own; one too far behind is
    /// sent the leader's.
    ///
    /// # Errors
    ///
    /// [`Error::NotCommitted`] or [`Error::Purged`] if `index` is not within the log;
    /// [`Error::Io`] if it could not be written.
    pub async fn snapshot_taken(&self, index: LogIndex, state: Bytes) -> Result<(), Error> {
        let failed = || Error::io("could not keep the snapshot of the log");
        if self.inner.applied.committed().is_none_or(|committed| committed < index.0) {
            return Err(Error::NotCommitted(index));
        }
        let last_log_id = Some(self.inner.store.log_id_at(index.0).ok_or(Error::Purged(index))?);
        let last_membership = match self.inner.store.membership_at(index.0).await.map_err(failed())? {
            Some(membership) => membership,
            None => self.inner.applied.snapshot().map_or_else(StoredMembership::default, |kept| kept.last_membership),
        };
        self.inner.applied.keep(SnapshotMeta { last_log_id, last_membership }, state).await.map_err(failed())?;
        let raft = self.inner.local.raft();
        // Told again if a snapshot was being taken over just now.
        loop {
            raft.trigger().snapshot().await.map_err(|_| Error::Closed)?;
            let wait = raft.wait(Some(Duration::from_secs(1)));
            let known =
                wait.metrics(|metrics| metrics.snapshot.is_some_and(|id| id.index >= index.0), "snapshot to be known");
            match known.await {
                Ok(_) => return Ok(()),
                Err(_) if self.is_closed() => return Err(Error::Closed),
                Err(_) => {}
            }
        }
    }

    /// Removes entries up to `upto`, but never past the last snapshot; segments go as a whole. It
    /// begins at once and ends by itself: a leader first finishes what it is sending.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`].
    pub async fn purge(&self, upto: LogIndex) -> Result<(), Error> {
        self.inner.local.raft().trigger().purge_log(upto.0).await.map_err(|_| Error::Closed)
    }

    /// Ends this member: everything acknowledged is on disk, [`crate::Committed`] ends after what is
    /// known to be committed. Move leadership away first, with [`Handle::transfer_leader`], to spare the
    /// others an election.
    pub async fn shutdown(&self) {
        self.inner.in_flight.close();
        self.inner.store.abandon();
        let running = self.inner.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((mut tasks, writer)) = running else { return };
        // Its only error is that the core had ended already.
        let _ = self.inner.local.raft().shutdown().await;
        tasks.shutdown().await;
        self.inner.network.close();
        self.inner.applied.close();
        writer.stopped().await;
    }
}
