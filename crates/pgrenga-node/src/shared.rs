//! What the engine publishes for the admin API: read by others, written by it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use pgrenga_admin::{MarkerSnapshot, Member, State};
use pgrenga_writeset::{NodeId, Seq};
use tokio::sync::watch;

/// Where the engine is.
#[derive(Clone, Debug)]
pub(crate) struct Positions {
    pub(crate) state: State,
    /// Why it is detached, if that is neither a problem nor the server's.
    pub(crate) why: Option<&'static str>,
    /// Who leads the log, as long as a majority answers.
    pub(crate) leader: Option<NodeId>,
    pub(crate) visible: Seq,
    pub(crate) flushed: Seq,
    pub(crate) certified: Seq,
    pub(crate) verdict_hash: u64,
    pub(crate) ledger: usize,
    pub(crate) deferred: usize,
}

/// The published state.
pub(crate) struct Shared {
    positions: Mutex<Positions>,
    /// Newer than in `positions`.
    visible: watch::Sender<Seq>,
    members: Mutex<Vec<Member>>,
    removed: Mutex<Vec<NodeId>>,
    /// Of whom this node hears nothing, if it leads.
    silent: Mutex<Vec<NodeId>>,
    markers: Mutex<Markers>,
    /// Why the node does not serve.
    problem: Mutex<Option<String>>,
    /// What it does about that.
    remedy: Mutex<Option<String>>,
    /// What keeps it from applying, as long as that lasts.
    hindrance: Mutex<Option<String>>,
    /// Why its PostgreSQL does not run.
    down: Mutex<Option<String>>,
    /// Up to here others went on without this node, because it said that it does not serve.
    excused: AtomicU64,
    local_commits: AtomicU64,
    foreign_commits: AtomicU64,
    local_aborts: AtomicU64,
}

/// Markers whose snapshots are open.
#[derive(Default)]
struct Markers {
    /// By id, which is the order in which they were asked for.
    open: BTreeMap<u64, MarkerSnapshot>,
    /// The last ones that nobody asks for any more, perhaps before they were reached.
    ended: VecDeque<u64>,
}

/// Snapshots that stay open. For another one the oldest goes: whoever asked for it is gone, or slow.
pub(crate) const OPEN_MAX: usize = 8;
/// How many markers are remembered as ended.
const ENDED_MAX: usize = 64;

/// Nothing that holds one of these locks can panic or wait.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new() -> Self {
        Self {
            positions: Mutex::new(Positions {
                state: State::Detached,
                why: None,
                leader: None,
                visible: Seq(0),
                flushed: Seq(0),
                certified: Seq(0),
                verdict_hash: 0,
                ledger: 0,
                deferred: 0,
            }),
            visible: watch::Sender::new(Seq(0)),
            members: Mutex::default(),
            removed: Mutex::default(),
            silent: Mutex::default(),
            markers: Mutex::default(),
            problem: Mutex::default(),
            remedy: Mutex::default(),
            hindrance: Mutex::default(),
            down: Mutex::default(),
            excused: AtomicU64::new(0),
            local_commits: AtomicU64::new(0),
            foreign_commits: AtomicU64::new(0),
            local_aborts: AtomicU64::new(0),
        }
    }

    pub(crate) fn publish(&self, positions: Positions) {
        *lock(&self.positions) = positions;
    }

    pub(crate) fn set_visible(&self, seq: Seq) {
        self.visible.send_replace(seq);
    }

    /// What is visible, for who waits for it.
    pub(crate) fn visible(&self) -> watch::Receiver<Seq> {
        self.visible.subscribe()
    }

    /// Others go on without this node up to `seq`. Note it first, and look after that whether this node
    /// really does not serve.
    pub(crate) fn excuse(&self, seq: Seq) {
        self.excused.fetch_max(seq.0, Ordering::SeqCst);
    }

    /// What this node has to show before it may serve. Publish first that it serves, and ask after that.
    pub(crate) fn excused(&self) -> Seq {
        Seq(self.excused.load(Ordering::SeqCst))
    }

    pub(crate) fn positions(&self) -> Positions {
        lock(&self.positions).clone()
    }

    pub(crate) fn set_members(&self, members: Vec<Member>) {
        *lock(&self.members) = members;
    }

    pub(crate) fn members(&self) -> Vec<Member> {
        lock(&self.members).clone()
    }

    pub(crate) fn set_removed(&self, removed: Vec<NodeId>) {
        *lock(&self.removed) = removed;
    }

    pub(crate) fn removed(&self) -> Vec<NodeId> {
        lock(&self.removed).clone()
    }

    pub(crate) fn set_silent(&self, silent: Vec<NodeId>) {
        *lock(&self.silent) = silent;
    }

    pub(crate) fn silent(&self) -> Vec<NodeId> {
        lock(&self.silent).clone()
    }

    /// False if nobody asks for it any more.
    pub(crate) fn remember_marker(&self, id: u64, snapshot: MarkerSnapshot) -> bool {
        let mut markers = lock(&self.markers);
        let is_wanted = !markers.ended.contains(&id);
        if is_wanted {
            markers.open.insert(id, snapshot);
            while markers.open.len() > OPEN_MAX {
                markers.open.pop_first();
            }
        }
        is_wanted
    }

    pub(crate) fn forget_marker(&self, id: u64) {
        let mut markers = lock(&self.markers);
        markers.open.remove(&id);
        if markers.ended.len() == ENDED_MAX {
            markers.ended.pop_front();
        }
        markers.ended.push_back(id);
    }

    pub(crate) fn marker(&self, id: u64) -> Option<MarkerSnapshot> {
        lock(&self.markers).open.get(&id).cloned()
    }

    pub(crate) fn set_problem(&self, problem: String) {
        *lock(&self.problem) = Some(problem);
    }

    pub(crate) fn set_remedy(&self, remedy: String) {
        *lock(&self.remedy) = Some(remedy);
    }

    pub(crate) fn set_hindrance(&self, hindrance: Option<String>) {
        *lock(&self.hindrance) = hindrance;
    }

    pub(crate) fn set_down(&self, down: Option<String>) {
        *lock(&self.down) = down;
    }

    /// All is well again.
    pub(crate) fn clear_problem(&self) {
        *lock(&self.problem) = None;
        *lock(&self.remedy) = None;
    }

    /// Why this node does not serve, for people.
    pub(crate) fn reasons(&self) -> impl Iterator<Item = String> + use<> {
        let why = self.positions().why.map(str::to_owned);
        let others = [&self.problem, &self.remedy, &self.hindrance, &self.down].map(|one| lock(one).clone());
        why.into_iter().chain(others.into_iter().flatten())
    }

    /// How this node is known to differ.
    pub(crate) fn problem(&self) -> Option<String> {
        lock(&self.problem).clone()
    }

    pub(crate) fn has_problem(&self) -> bool {
        lock(&self.problem).is_some()
    }

    pub(crate) fn count_commit(&self, local: bool) {
        let counter = if local { &self.local_commits } else { &self.foreign_commits };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_abort(&self, local: bool) {
        if local {
            self.local_aborts.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counters and gauges by metric name.
    pub(crate) fn counters(&self) -> BTreeMap<String, u64> {
        let positions = self.positions();
        BTreeMap::from([
            ("local_commits_total".to_owned(), self.local_commits.load(Ordering::Relaxed)),
            ("foreign_commits_total".to_owned(), self.foreign_commits.load(Ordering::Relaxed)),
            ("local_aborts_total".to_owned(), self.local_aborts.load(Ordering::Relaxed)),
            ("ledger_seqs".to_owned(), positions.ledger as u64),
            ("deferred_writesets".to_owned(), positions.deferred as u64),
        ])
    }
}
