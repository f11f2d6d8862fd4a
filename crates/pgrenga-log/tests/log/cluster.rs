//! Members on the loopback interface, in one process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use pgrenga_log::{Committed, Event, Handle, LogIndex, NodeId, Options, ProposeError, start};
use tempfile::TempDir;
use tokio::time::Instant;

pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn deadline() -> Instant {
    Instant::now() + LIMIT
}

/// One member and what its application has seen.
pub(crate) struct Member {
    pub(crate) handle: Handle,
    pub(crate) committed: Committed,
    /// Payloads by index, from the stream.
    pub(crate) seen: BTreeMap<u64, Bytes>,
    /// The last snapshot in the stream.
    pub(crate) snapshot: Option<(u64, Bytes)>,
    pub(crate) position: Option<u64>,
}

impl Member {
    /// Takes in the stream until it has reached `index`.
    pub(crate) async fn reach(&mut self, index: LogIndex) {
        while self.position.is_none_or(|position| position < index.0) {
            let event = tokio::time::timeout(LIMIT, self.committed.next()).await.expect("in time").expect("an event");
            let at = event.index().0;
            match event {
                Event::Snapshot { state, .. } => {
                    assert!(self.position.is_none_or(|position| position < at), "a snapshot goes forward");
                    self.snapshot = Some((at, state));
                }
                event => {
                    assert_eq!(at, self.position.map_or(0, |position| position + 1), "no gap, nothing twice");
                    if let Event::Entry { payload, .. } = event {
                        self.seen.insert(at, payload);
                    }
                }
            }
            self.position = Some(at);
        }
    }

    pub(crate) async fn propose(&self, payload: impl Into<Bytes>) -> LogIndex {
        self.handle.propose(payload.into(), deadline()).await.expect("committed")
    }

    /// Proposes until it is surely in the log, perhaps more than once.
    pub(crate) async fn propose_surely(&self, payload: impl Into<Bytes>) -> LogIndex {
        let payload = payload.into();
        loop {
            match self.handle.propose(payload.clone(), deadline()).await {
                Ok(index) => return index,
                Err(ProposeError::Unknown) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// Members by number, each with its directory and its address.
pub(crate) struct Cluster {
    dir: TempDir,
    pub(crate) members: BTreeMap<u32, Member>,
    addresses: BTreeMap<u32, SocketAddr>,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        Self { dir: tempfile::tempdir().expect("a directory"), members: BTreeMap::new(), addresses: BTreeMap::new() }
    }

    /// `count` voters, the first of which leads.
    pub(crate) async fn of(count: u32) -> Self {
        let mut cluster = Self::new();
        cluster.start(1).await;
        cluster.member(1).handle.initialize().await.expect("a cluster");
        for id in 2..=count {
            cluster.start(id).await;
            cluster.join(id).await;
            cluster.member(1).handle.promote(NodeId(id)).await.expect("a voter");
        }
        cluster
    }

    pub(crate) fn options(&self, id: u32) -> Options {
        let mut options = Options::new(NodeId(id), self.dir.path().join(id.to_string()), "test");
        options.segment_bytes = 256 << 10;
        options.max_entry_bytes = 64 << 10;
        options.cache_bytes = 64 << 10;
        if let Some(address) = self.addresses.get(&id) {
            options.listen = *address;
        }
        options
    }

    /// Starts a member, at its old address if it had one.
    pub(crate) async fn start(&mut self, id: u32) {
        let (handle, committed) = start(self.options(id)).await.expect("a member");
        self.addresses.insert(id, handle.local_addr());
        let member = Member { handle, committed, seen: BTreeMap::new(), snapshot: None, position: None };
        self.members.insert(id, member);
    }

    pub(crate) async fn stop(&mut self, id: u32) {
        self.members.remove(&id).expect("a running member").handle.shutdown().await;
    }

    /// What a member's disk holds now, for [`Cluster::replace_disk`].
    pub(crate) fn copy_disk(&self, id: u32) -> TempDir {
        let copy = tempfile::tempdir().expect("a directory");
        for file in std::fs::read_dir(self.options(id).dir).expect("a directory") {
            let file = file.expect("a file");
            std::fs::copy(file.path(), copy.path().join(file.file_name())).expect("a copy");
        }
        copy
    }

    /// Takes a stopped member's disk back to what it held before, as a crash does with what was not synced.
    pub(crate) fn replace_disk(&self, id: u32, earlier: TempDir) {
        let dir = self.options(id).dir;
        std::fs::remove_dir_all(&dir).expect("a stopped member's directory");
        std::fs::rename(earlier.keep(), dir).expect("the same file system");
    }

    /// Adds a started member as a learner.
    pub(crate) async fn join(&self, id: u32) {
        let address = self.addresses[&id].to_string();
        let other = self.members.iter().find(|(other, _)| **other != id).expect("another member").1;
        other.handle.add_learner(NodeId(id), address).await.expect("a learner");
    }

    pub(crate) fn member(&self, id: u32) -> &Member {
        &self.members[&id]
    }

    pub(crate) fn member_mut(&mut self, id: u32) -> &mut Member {
        self.members.get_mut(&id).expect("a running member")
    }

    /// Waits until the running members agree on a leader.
    pub(crate) async fn leader(&self) -> u32 {
        let until = deadline();
        loop {
            let leaders: Vec<_> = self.members.values().map(|member| *member.handle.leader().borrow()).collect();
            if let Some(leader) = leaders[0].filter(|_| leaders.iter().all(|leader| *leader == leaders[0]))
                && self.members.contains_key(&leader.0)
            {
                return leader.0;
            }
            assert!(Instant::now() < until, "no leader: {leaders:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// All running members reach `index`, and hold the same entries at the same places.
    pub(crate) async fn agree(&mut self, index: LogIndex) {
        for member in self.members.values_mut() {
            member.reach(index).await;
        }
        let mut all: BTreeMap<u64, Bytes> = BTreeMap::new();
        for (id, member) in &self.members {
            for (at, payload) in &member.seen {
                assert_eq!(all.entry(*at).or_insert_with(|| payload.clone()), payload, "node {id}, index {at}");
            }
        }
    }

    pub(crate) async fn stop_all(&mut self) {
        let ids: Vec<u32> = self.members.keys().copied().collect();
        for id in ids {
            self.stop(id).await;
        }
    }
}
