//! Putting the parts of a member together.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use openraft::async_runtime::watch::{Watch, WatchReceiver, WatchSender};
use openraft::errors::Fatal;
use openraft::{Config, SnapshotPolicy};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::committed::{Committed, node_id};
use crate::error::Error;
use crate::gather;
use crate::handle::{Handle, Lead, Parts};
use crate::leader::Leader;
use crate::network::transport::{Tcp, Transport};
use crate::network::{Network, server};
use crate::options::Options;
use crate::raft::Raft;
use crate::runtime;
use crate::snapshot;
use crate::space::{self, Space};
use crate::state_machine::{Applied, StateMachine};
use crate::store::{Directory, Disk, Limits, LogStore, OnFailure, WriterGuard};
use crate::watch::Ordered;

/// Holding it keeps other processes out of the directory.
const LOCK: &str = "lock";

/// Starts a member of the log on what its directory holds. A new member does nothing until it is
/// told to begin a cluster ([`Handle::initialize`]) or until a leader adds it
/// ([`Handle::add_learner`]).
///
/// If the disk fails later on, the process ends with a message: nothing could be acknowledged any
/// more.
///
/// # Errors
///
/// [`Error::Options`], [`Error::Locked`], [`Error::WrongNode`], [`Error::Corrupt`], or
/// [`Error::Io`] from the directory or the listening socket.
pub async fn start(options: Options) -> Result<(Handle, Committed), Error> {
    options.validate()?;
    let dir = options.dir.clone();
    let directory = runtime::blocking(move || directory(&dir)).await.map_err(Error::io("could not open the log"))?;
    let (disk, lock) = directory?;
    let mut opened = open(&options, disk, OnFailure::Exit).await?;
    opened.writer.hold(lock);
    let listener = TcpListener::bind(options.listen).await;
    let listener = listener.map_err(Error::io(format!("could not listen on {}", options.listen)))?;
    let local_addr = listener.local_addr().map_err(Error::io("could not learn the address listened on"))?;
    assemble(options, opened, Arc::new(Tcp(listener)), local_addr).await
}

/// What a member has on disk, read and ready.
pub(crate) struct Opened {
    pub(crate) store: LogStore,
    pub(crate) writer: WriterGuard,
    pub(crate) applied: Arc<Applied>,
}

/// Puts the parts around what was opened, and starts them.
pub(crate) async fn assemble(
    options: Options,
    opened: Opened,
    transport: Arc<dyn Transport>,
    local_addr: SocketAddr,
) -> Result<(Handle, Committed), Error> {
    let config = config(&options)?;
    let Opened { store, writer, applied } = opened;
    let advertise = if options.advertise.is_empty() { local_addr.to_string() } else { options.advertise.clone() };

    let space = Arc::new(Space::new(store.clone()));
    let network = Network::new(&options, transport.clone(), space.clone());
    let id = u64::from(options.node_id.0);
    let raft = Raft::new(id, config, network.clone(), store.clone(), StateMachine(applied.clone()))
        .await
        .map_err(|error| Error::io("could not start the log")(std::io::Error::other(error.to_string())))?;

    let (proposals, queue) = mpsc::channel(gather::WAITING);
    let join = options.join;
    let local = Arc::new(Leader::new(raft.clone(), options, proposals, space.clone()));
    let (lead_sender, lead) = Ordered::channel(Lead::default());
    let (leader_sender, leader) = watch::channel(None);
    let mut tasks = JoinSet::new();
    runtime::spawn_into(&mut tasks, server::serve(transport, local.clone()));
    runtime::spawn_into(&mut tasks, gather::run(raft.clone(), join, space.clone(), queue));
    runtime::spawn_into(&mut tasks, space::run(space, raft.clone()));
    runtime::spawn_into(&mut tasks, observe(raft, applied.clone(), lead_sender, leader_sender));
    let committed = Committed::new(store.clone(), applied.clone());
    let parts = Parts { local, store, applied, network, local_addr, advertise, lead, leader, tasks, writer };
    Ok((Handle::new(parts), committed))
}

/// Keeps who leads up to date, and notices the core's end.
async fn observe(
    raft: Raft,
    applied: Arc<Applied>,
    lead: crate::watch::Sender<Lead>,
    leader: watch::Sender<Option<pgrenga_writeset::NodeId>>,
) {
    let mut metrics = raft.server_metrics();
    loop {
        let now = {
            let metrics = metrics.borrow_watched();
            let address = metrics.current_leader.and_then(|id| metrics.membership_config.get_node(&id).cloned());
            Lead { leader: metrics.current_leader, address: address.map(|node| node.addr) }
        };
        if leader.send_if_modified(|known| std::mem::replace(known, now.leader.map(node_id)) != *known) {
            match now.leader {
                Some(id) => tracing::info!(leader = id, address = now.address, "a member leads the log"),
                None => tracing::info!("no member leads the log"),
            }
        }
        lead.send_if_modified(|known| std::mem::replace(known, now.clone()) != now);
        if metrics.changed().await.is_err() {
            match &raft.metrics().borrow_watched().running_state {
                Ok(()) | Err(Fatal::Stopped) => tracing::debug!("the log's core has ended"),
                Err(error) => tracing::error!(%error, "the log's core has ended"),
            }
            applied.close();
            return;
        }
    }
}

fn config(options: &Options) -> Result<Arc<Config>, Error> {
    let millis = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let heartbeat = millis(options.heartbeat_interval);
    let config = Config {
        cluster_name: options.cluster.clone(),
        heartbeat_interval: heartbeat,
        election_timeout_min: millis(options.election_timeout_min),
        election_timeout_max: millis(options.election_timeout_max),
        install_snapshot_timeout: millis(options.rpc_timeout),
        // Bytes bound a message, in `LogStore::limited_get_log_entries`.
        max_payload_entries: 4096,
        // A follower is sent a snapshot only if the entries are gone.
        replication_lag_threshold: u64::MAX,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        enable_pre_vote: Some(true),
        // Entries go out while the leader's own disk still writes them. One that restarted without
        // them in its old term would put others in their places, under the same ids.
        enable_leader_restore: Some(false),
        // A leader cut off from its majority must not keep followers from electing another.
        quorum_loss_probe_interval: Some(millis(options.election_timeout_max) * 2),
        backoff: "50ms 100ms 200ms ..500ms".to_owned(),
        ..Config::default()
    };
    config.validate().map(Arc::new).map_err(|error| Error::Options(error.to_string()))
}

/// The directory, and the lock on it.
pub(crate) fn directory(dir: &Path) -> Result<(Arc<dyn Disk>, File), Error> {
    let directory =
        Directory::open(dir).map_err(Error::io(format!("could not open the log directory {}", dir.display())))?;
    let lock = lock(dir)?;
    Ok((Arc::new(directory), lock))
}

/// Reads what the disk holds.
pub(crate) async fn open(options: &Options, disk: Arc<dyn Disk>, on_failure: OnFailure) -> Result<Opened, Error> {
    let limits = Limits {
        segment_bytes: options.segment_bytes,
        cache_bytes: options.cache_bytes,
        read_bytes: options.max_append_bytes,
    };
    let node = options.node_id.0.into();
    let reading = disk.clone();
    let read = runtime::blocking(move || {
        let (store, writer) = LogStore::open(reading.clone(), node, limits, on_failure)?;
        Ok::<_, Error>((store, writer, snapshot::load(reading.as_ref())?.map(|kept| kept.meta)))
    });
    let (store, writer, snapshot) = read.await.map_err(Error::io("could not open the log"))??;
    let committed = store.committed();
    let membership = match committed {
        Some(committed) => store.membership_at(committed.index).await,
        None => Ok(None),
    };
    let membership = membership.map_err(Error::io("could not read the membership from the log"))?;
    Ok(Opened { store, writer, applied: Arc::new(Applied::new(disk, committed, membership, snapshot)) })
}

fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join(LOCK);
    let failed = || Error::io(format!("could not lock {}", path.display()));
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed())?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::Locked(dir.to_owned())),
        Err(std::fs::TryLockError::Error(error)) => Err(failed()(error)),
    }
}
