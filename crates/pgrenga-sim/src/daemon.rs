//! The daemon of a node, as `pgrenga-node` is: reads the log, steps the core, tells PostgreSQL its
//! verdicts, lets workers apply what other nodes wrote, keeps snapshots. The core and the log are the
//! real ones; what stands between them here is as short as it can be.

mod apply;
mod keeper;
mod log;
mod proposer;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pgrenga_core::schedule::{Bounds, Dispatcher, Task};
use pgrenga_core::silent::Ended;
use pgrenga_core::{Core, Position, sessions};
use pgrenga_log::simulation::{self, Disk, Transport};
use pgrenga_log::{Handle, LogIndex, Member, Options};
use pgrenga_writeset::entry::Item;
use pgrenga_writeset::port::ToPostgres;
use pgrenga_writeset::writeset::Writeset;
use pgrenga_writeset::{Incarnation, NodeId, Seq, TransactionId};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::invariants::{Event, Invariants};
use crate::network::Id;
use crate::note;
use crate::plan::Plan;
use crate::postgres::{Applied, FromPostgres, Postgres};
use crate::power::Power;
use crate::trace::Trace;
use keeper::Keeper;
use proposer::Proposer;

/// How often time-outs are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How often this node tells the log what it has flushed.
const PROGRESS: Duration = Duration::from_millis(300);
/// How long a fence may be held.
const FENCE_TIMEOUT: Duration = Duration::from_millis(1500);
/// The leader ends the life of a node that it has not heard of for so long.
const SILENCE: Duration = Duration::from_millis(1200);
/// Apply workers.
const WORKERS: usize = 3;
/// What they are given at once.
const BOUNDS: Bounds = Bounds { depth: 2, run: 4, run_bytes: 2 << 10 };

/// What a daemon is started with.
#[derive(Clone)]
pub struct Setup {
    /// Whose.
    pub id: Id,
    /// It begins a new cluster, if it belongs to none.
    pub bootstrap: bool,
    /// The run's choices.
    pub plan: Plan,
    /// Its server.
    pub postgres: Postgres,
    /// What keeps it alive.
    pub power: Arc<Power>,
    /// All servers, for the invariants only.
    pub servers: Rc<RefCell<BTreeMap<Id, Postgres>>>,
    /// What must hold.
    pub invariants: Invariants,
    /// What happens.
    pub trace: Trace,
}

/// What others see of a daemon.
#[derive(Clone, Default)]
pub struct View(Rc<RefCell<Seen>>);

/// See [`View`].
#[derive(Clone, Default)]
pub struct Seen {
    /// Its log, once that is open.
    pub log: Option<Handle>,
    /// The last seq that its core gave.
    pub certified: Seq,
    /// Proposals that are not in the log yet.
    pub proposing: usize,
    /// Whom its core knows.
    pub members: Vec<NodeId>,
    /// Who is out, as its core says.
    pub removed: Vec<NodeId>,
    /// Where to ask it for things.
    pub asks: Option<mpsc::UnboundedSender<Ask>>,
}

/// What is asked of a daemon from outside.
#[derive(Debug)]
pub enum Ask {
    /// To make a node known that joins.
    Register(NodeId),
    /// To take a node out for good.
    Remove(NodeId),
    /// To order a marker.
    Marker(u64),
}

impl View {
    /// How it is now.
    pub fn get(&self) -> Seen {
        self.0.borrow().clone()
    }

    fn set(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.0.borrow_mut());
    }
}

impl Setup {
    /// Something is wrong here, unless this node was taken out: then nobody cares for it any more.
    fn fail(&self, reason: &str) {
        if self.servers.borrow().contains_key(&self.id) {
            self.invariants.fail(format!("node {}: {reason}", self.id));
        }
    }
}

enum Input {
    Postgres(FromPostgres),
    Applied { epoch: u64, worker: usize, first: Seq, applied: Applied },
    Present(LogIndex),
    Asked(Ask),
}

/// What stands at a seq.
#[derive(Clone, Debug)]
enum Work {
    Writeset { txid: TransactionId, at: Position, fragments: Vec<Position> },
    Marker,
}

#[derive(Clone, Debug)]
struct Ordered {
    task: Task,
    work: Work,
}

struct Daemon {
    setup: Setup,
    view: View,
    log: Handle,
    core: Core,
    proposer: Proposer,
    keeper: Keeper,
    inputs: mpsc::UnboundedSender<Input>,
    /// `flushed <= visible <= certified`; holds every seq above the first.
    ledger: BTreeMap<Seq, Ordered>,
    begins: Seq,
    dispatcher: Dispatcher,
    workers: JoinSet<()>,
    read: Option<LogIndex>,
    present: Option<LogIndex>,
    hello: Option<(u64, Seq)>,
    asked: Incarnation,
    entered: bool,
    start: u64,
    epoch: u64,
    visible: Seq,
    flushed: Seq,
    catch_up_to: Seq,
    fence_since: Option<(TransactionId, Instant)>,
    ended: Ended,
    introduced: Option<Instant>,
    progress_sent: Instant,
}

fn options(setup: &Setup) -> Options {
    let mut options = Options::new(NodeId(setup.id), "simulated", "simulation");
    options.listen = crate::network::address(setup.id);
    options.join = pgrenga_writeset::entry::join;
    options.segment_bytes = 64 << 10;
    options.max_entry_bytes = 40 << 10;
    options.cache_bytes = setup.plan.cache_bytes;
    options.max_append_bytes = setup.plan.append_bytes;
    options.max_in_flight_bytes = 1 << 20;
    options
}

/// Runs until it cannot go on.
///
/// # Errors
/// Why.
pub async fn run(setup: Setup, view: View, disk: Arc<dyn Disk>, network: Arc<dyn Transport>) -> Result<(), String> {
    let (log, mut committed) =
        simulation::start(options(&setup), disk, network).await.map_err(|error| format!("cannot start: {error}"))?;
    if setup.bootstrap {
        match log.initialize().await {
            Ok(()) | Err(pgrenga_log::Error::AlreadyInitialized) => {}
            Err(error) => return Err(format!("cannot begin a cluster: {error}")),
        }
    }
    setup.invariants.see(&Event::Began { node: setup.id });
    let (inputs, mut queue) = mpsc::unbounded_channel();
    let mut daemon = Daemon::new(setup, view, log, inputs);
    daemon.connect();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            biased;
            event = committed.next() => daemon.on_log(event.map_err(|error| format!("cannot read the log: {error}"))?)?,
            Some(input) = queue.recv() => daemon.on_input(input),
            _ = tick.tick() => daemon.on_tick(),
        }
        daemon.dispatch();
    }
}

impl Daemon {
    fn new(setup: Setup, view: View, log: Handle, inputs: mpsc::UnboundedSender<Input>) -> Self {
        let proposer = Proposer::start(&setup, view.clone(), log.clone());
        view.set(|seen| seen.log = Some(log.clone()));
        Self {
            core: Core::new(setup.plan.limits),
            keeper: Keeper::new(&setup, log.clone()),
            proposer,
            dispatcher: dispatcher(),
            workers: JoinSet::new(),
            setup,
            view,
            log,
            inputs,
            ledger: BTreeMap::new(),
            begins: Seq(0),
            read: None,
            present: None,
            hello: None,
            asked: Incarnation(0),
            entered: false,
            start: 0,
            epoch: 0,
            visible: Seq(0),
            flushed: Seq(0),
            catch_up_to: Seq(0),
            fence_since: None,
            ended: Ended::default(),
            introduced: None,
            progress_sent: Instant::now(),
        }
    }

    /// To PostgreSQL, to who asks, and to the log for its present.
    fn connect(&self) {
        let (frames, mut received) = mpsc::unbounded_channel();
        let (asks, mut asked) = mpsc::unbounded_channel();
        self.view.set(|seen| seen.asks = Some(asks));
        let inputs = self.inputs.clone();
        tokio::task::spawn_local(async move {
            while let Some(frame) = received.recv().await {
                let _ = inputs.send(Input::Postgres(frame));
            }
        });
        let inputs = self.inputs.clone();
        tokio::task::spawn_local(async move {
            while let Some(ask) = asked.recv().await {
                let _ = inputs.send(Input::Asked(ask));
            }
        });
        self.tell(|postgres| postgres.connect(frames));
        let (log, inputs) = (self.log.clone(), self.inputs.clone());
        tokio::task::spawn_local(async move {
            loop {
                match log.linearizable_index(Instant::now() + Duration::from_secs(5)).await {
                    Ok(index) => return drop(inputs.send(Input::Present(index))),
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        });
    }

    /// Says something to PostgreSQL, which the daemon may not live to do.
    fn tell(&self, word: impl FnOnce(&Postgres)) {
        if self.setup.power.act() {
            word(&self.setup.postgres);
        }
    }

    /// The life that PostgreSQL has entered, if it has.
    fn life(&self) -> Option<Incarnation> {
        self.entered.then_some(self.asked)
    }

    fn say(&self, word: &ToPostgres<'_>) {
        self.tell(|postgres| postgres.obey(word));
    }

    fn on_input(&mut self, input: Input) {
        match input {
            Input::Postgres(frame) => self.on_frame(frame),
            Input::Applied { epoch, worker, first, applied } if epoch == self.epoch => match applied {
                Applied::Done => self.dispatcher.done(worker, first),
                Applied::Again => self.dispatcher.failed(worker, first),
            },
            Input::Applied { .. } => {}
            Input::Present(index) => {
                self.present = Some(index);
                self.begin_life();
            }
            Input::Asked(Ask::Register(node)) => {
                if !self.core.members().any(|(known, _)| known == node) {
                    self.proposer.propose(&Item::Member { node, description: &node.to_string() });
                }
            }
            Input::Asked(Ask::Remove(node)) => self.proposer.propose(&Item::Remove(node)),
            Input::Asked(Ask::Marker(id)) => self.proposer.propose(&Item::Marker { id }),
        }
    }

    fn on_frame(&mut self, frame: FromPostgres) {
        match frame {
            FromPostgres::Hello { start, visible } => {
                self.hello = Some((start, visible));
                self.entered = false;
                self.begin_life();
            }
            FromPostgres::Submit { txid, bytes } => self.submit(txid, &bytes),
            FromPostgres::Fragment { txid, ordinal, body } => {
                match sessions::turn_away(txid, self.life(), self.log.takes_writes()) {
                    Some(answer) => self.say(&answer),
                    None => self.proposer.propose(&Item::Fragment { txid, ordinal, body: &body }),
                }
            }
            FromPostgres::FenceRequest(txid) if self.life() == Some(txid.incarnation) => {
                self.proposer.propose(&Item::FenceRequest(txid));
            }
            FromPostgres::FenceRequest(txid) => self.say(&ToPostgres::FenceLost(txid)),
            FromPostgres::GiveUp(txid) => self.proposer.propose(&Item::GiveUp(txid)),
            FromPostgres::Waiting(txid) => {
                if let Some(answer) = sessions::remind(&self.core, txid) {
                    self.say(&answer);
                }
            }
            FromPostgres::Orphan(seq) => {
                if let Some(ordered) = self.ledger.get(&seq).filter(|_| seq > self.visible) {
                    self.dispatcher.push(ordered.task);
                }
            }
            FromPostgres::Progress(seq) => self.on_visible(seq),
            FromPostgres::Flushed(seq) => self.on_flushed(seq),
        }
    }

    fn submit(&self, txid: TransactionId, bytes: &[u8]) {
        let Ok(writeset) = Writeset::decode(bytes) else { return };
        let away = sessions::turn_away(txid, self.life(), self.log.takes_writes());
        match away.or_else(|| sessions::doom(&self.core, &writeset)) {
            Some(answer) => self.say(&answer),
            None => self.proposer.propose(&Item::Writeset(bytes)),
        }
    }

    /// Once the log was read up to the present, asks it for a new life.
    fn begin_life(&mut self) {
        if self.present.is_none() || self.read < self.present {
            return;
        }
        let Some((start, visible)) = self.hello.take() else { return };
        let node = NodeId(self.setup.id);
        self.asked = Incarnation(self.core.incarnation(node).0.max(self.asked.0) + 1);
        self.entered = false;
        if self.start != start {
            self.start = start;
            self.epoch += 1;
            self.workers = JoinSet::new();
            self.dispatcher = dispatcher();
            self.visible = visible;
        }
        self.visible = self.visible.max(visible);
        self.dispatcher.visible(self.visible);
        self.proposer.propose(&Item::Incarnation { node, incarnation: self.asked });
    }

    /// The log holds a life of this node: the one that it asked for, or a later one because it was
    /// silent for long, or because a daemon before this one had asked for it. Then it asks again.
    fn on_own_life(&mut self, incarnation: Incarnation) {
        let has_asked = self.asked > Incarnation(0) && self.hello.is_none();
        if incarnation == self.asked && !self.entered {
            self.enter_life();
        } else if incarnation > self.asked && has_asked {
            note!(self.setup.trace, "n{} asked for a life that is over", self.setup.id);
            self.entered = false;
            self.hello = Some((self.start, self.visible));
        }
    }

    /// The log holds the new life: everything of the old one is decided.
    fn enter_life(&mut self) {
        let id = self.setup.id;
        if self.visible < self.core.seq() && !self.ledger.contains_key(&self.visible.next()) {
            let (visible, begins) = (self.visible, self.begins);
            self.setup.fail(&format!("it needs seqs after {visible}, its log begins after {begins}"));
            return;
        }
        self.entered = true;
        let life = self.asked;
        note!(self.setup.trace, "n{id} life {life} from {} to {}", self.visible, self.core.seq());
        self.say(&ToPostgres::Welcome { node: NodeId(id), incarnation: life, sequence_slot: 0, sequence_slots: 1 });
        self.catch_up_to = self.core.seq();
        let work: Vec<Seq> = self.ledger.range(self.visible.next()..).map(|(seq, _)| *seq).collect();
        work.into_iter().for_each(|seq| self.start_work(seq));
        self.when_caught_up();
    }

    fn when_caught_up(&self) {
        if self.entered && self.visible >= self.catch_up_to {
            self.tell(Postgres::serve);
        }
    }

    fn on_visible(&mut self, seq: Seq) {
        if seq > self.visible {
            self.visible = seq;
            self.dispatcher.visible(seq);
            self.when_caught_up();
        }
    }

    fn on_flushed(&mut self, flushed: Seq) {
        self.flushed = flushed;
        self.on_visible(flushed);
        let is_writeset = |ordered: &Ordered| matches!(ordered.work, Work::Writeset { .. });
        if let Some((&last, _)) = self.ledger.range(..=flushed).rev().find(|(_, ordered)| is_writeset(ordered)) {
            self.ledger = self.ledger.split_off(&last.next());
        }
        let node = NodeId(self.setup.id);
        if self.progress_sent.elapsed() >= PROGRESS && flushed != self.core.flushed(node) {
            self.progress_sent = Instant::now();
            self.proposer.propose(&Item::Progress { node, flushed });
        }
    }

    fn on_tick(&mut self) {
        let node = NodeId(self.setup.id);
        let status = self.log.status();
        let leads = status.leader == Some(node);
        if leads && self.setup.power.is_on() {
            self.setup.invariants.see(&Event::Leads { node: self.setup.id, term: status.term });
        }
        let held = self.core.fence().map(|(txid, _)| txid);
        match (held, self.fence_since) {
            (Some(txid), Some((known, since))) if txid == known => {
                if leads && since.elapsed() >= FENCE_TIMEOUT {
                    self.fence_since = Some((txid, Instant::now()));
                    self.proposer.propose(&Item::FenceLift(txid));
                }
            }
            (held, _) => self.fence_since = held.map(|txid| (txid, Instant::now())),
        }
        let known = self.core.members().any(|(known, _)| known == node);
        let known = known || self.core.is_removed(node);
        let waits = self.introduced.is_some_and(|since| since.elapsed() < Duration::from_secs(2));
        if !known && !waits && status.leader.is_some() {
            self.introduced = Some(Instant::now());
            self.proposer.propose(&Item::Member { node, description: &node.to_string() });
        }
        self.end_silent_lives(leads, &status.members);
        self.keeper.look(&self.core);
        let members = self.core.members().map(|(known, _)| known).collect();
        let removed = self.core.removed().collect();
        self.view.set(|seen| (seen.members, seen.removed) = (members, removed));
    }
}

impl Daemon {
    /// The leader ends the lives of nodes that are gone.
    fn end_silent_lives(&mut self, leads: bool, members: &[Member]) {
        if !leads {
            self.ended = Ended::default();
            return;
        }
        for Member { node_id: node, last_contact, .. } in members {
            let (node, present) = (*node, self.core.incarnation(*node));
            let is_silent = node.0 != self.setup.id && last_contact.is_some_and(|contact| contact >= SILENCE);
            if let Some(incarnation) = self.ended.next(node, present, is_silent) {
                note!(self.setup.trace, "n{} ends the life of n{node}", self.setup.id);
                self.proposer.propose(&Item::Incarnation { node, incarnation });
            }
        }
    }
}

/// Its workers get nothing before a server is there.
fn dispatcher() -> Dispatcher {
    Dispatcher::new(WORKERS, BOUNDS)
}
