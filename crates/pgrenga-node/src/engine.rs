//! The engine: one task that owns the core and everything that follows from
//! its decisions. No lock, no shared state: others send it [`Event`]s.

mod fence;
mod frames;
mod lease;
mod life;
mod log;
mod members;
mod progress;
mod removal;
mod silent;
mod standing;
mod transfer;
mod witness;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pgrenga_admin::{Fate, Marker, NewMember, Refusal, State};
use pgrenga_core::schedule::{Bounds, Dispatcher, Run};
use pgrenga_core::silent::Ended;
use pgrenga_core::{Core, Limits};
use pgrenga_log::{Committed, Handle};
use pgrenga_writeset::entry::Item;
use pgrenga_writeset::{Incarnation, LogIndex, NodeId, Seq, TransactionId};
use tokio::sync::{mpsc, oneshot};

use crate::agreement::Agreement;
use crate::apply::{self, Epoch, NotApplied};
use crate::everywhere::{Everywhere, Said};
use crate::ledger::Ledger;
use crate::past::Past;
use crate::port::{ConnectionId, FrameSender, Room};
use crate::present::{self, Present};
use crate::proposer::Proposer;
use crate::question::Questions;
use crate::rounds::{Rounds, Told};
use crate::shared::{Positions, Shared};
use crate::snapshot::Keeper;
use crate::transfer::Transfers;
use crate::{Error, Options};
use fence::FenceWatch;
use lease::Lease;
use members::{Detachment, Registration};
use removal::Removals;
use standing::Standing;
use witness::HandOver;

/// How often leases are renewed, time-outs looked at and the state published.
const TICK: Duration = Duration::from_millis(100);

/// Writesets, and bytes of them, that are applied in one transaction. Beyond this little is
/// gained, and others wait for what it has locked.
const RUN: u64 = 32;
const RUN_BYTES: usize = 256 << 10;

/// What the engine is told.
pub(crate) enum Event {
    /// The port worker connected.
    PortOpened { id: ConnectionId, frames: FrameSender },
    /// Frames from it, and the room that they take.
    PortFrames { id: ConnectionId, frames: Vec<Bytes>, room: Room },
    /// Its connection ended.
    PortClosed { id: ConnectionId },
    /// An apply worker has its connection.
    WorkerReady { epoch: Epoch, worker: usize },
    /// An apply worker lost its connection, and with it what it was doing.
    WorkerLost { epoch: Epoch, worker: usize },
    /// A run is visible, or an apply worker failed with it.
    Applied { epoch: Epoch, worker: usize, run: Run, result: Result<(), NotApplied> },
    /// PostgreSQL has its commits up to here durably.
    Flushed { epoch: Epoch, seq: Seq },
    /// Sequences are in order again after a server start.
    Realigned { epoch: Epoch },
    /// Where the log's present began when this daemon did.
    Present(LogIndex),
    /// A majority was asked how far the log is.
    Told(Told),
    /// Another node said what it shows.
    Everywhere { node: NodeId, said: Said },
    /// Another node wants to know what became of a transaction, and has read the log up to there.
    Recall { txid: TransactionId, index: LogIndex, reply: oneshot::Sender<Fate> },
    /// Somebody wants to become a member.
    Register { new: NewMember, reply: oneshot::Sender<Result<NodeId, Refusal>> },
    /// Somebody wants a member to take no new sessions, or to take some again.
    SetDetached { node: NodeId, detached: bool, reply: oneshot::Sender<Result<(), Refusal>> },
    /// Somebody wants a node out for good.
    Remove { node: NodeId, reply: oneshot::Sender<()> },
    /// Another node says that this one is out for good and has no vote any more.
    Removed,
    /// Another node says that its cluster goes on in place of this one's.
    Replaced,
    /// The state check found that this node does not hold what most nodes do.
    Different { seq: Seq, reason: String },
    /// Another node's data has taken the place of this one's.
    Transferred,
    /// Somebody wants all nodes compared.
    BeginMarker { id: u64, reply: oneshot::Sender<Marker> },
}

/// The connection to this node's PostgreSQL.
struct Port {
    id: ConnectionId,
    frames: FrameSender,
    server_start: u64,
    /// The life that was asked for; the port is of use once the log holds it.
    incarnation: Incarnation,
    entered: bool,
    /// What it said of its server, until a life could be asked for.
    hello: Option<Hello>,
}

/// When the server began, and what is visible there.
#[derive(Clone, Copy)]
struct Hello {
    server_start: u64,
    visible: Seq,
}

pub(crate) struct Engine {
    options: Arc<Options>,
    core: Core,
    log: Handle,
    proposer: Proposer,
    events: mpsc::Sender<Event>,
    shared: Arc<Shared>,
    ledger: Ledger,
    keeper: Keeper,
    past: Past,
    agreement: Agreement,
    dispatcher: Dispatcher,
    pool: Option<apply::Pool>,
    port: Option<Port>,
    present: Present,
    questions: Questions,
    everywhere: Everywhere,
    rounds: Rounds,
    lease: Lease,
    /// Counts the lives of PostgreSQL that this daemon has seen.
    epoch: Epoch,
    server_start: u64,
    asked_incarnation: Incarnation,
    visible: Seq,
    flushed: Seq,
    catch_up_to: Seq,
    state: State,
    attempts: HashMap<Seq, u32>,
    /// The machine keeps PostgreSQL from applying.
    hindered: bool,
    standing: Standing,
    transfers: Transfers,
    registrations: HashMap<NodeId, Registration>,
    detachments: Vec<Detachment>,
    removals: Removals,
    hand_over: HandOver,
    markers: HashMap<u64, oneshot::Sender<Marker>>,
    fences: FenceWatch,
    ended: Ended,
    introduced: Option<Instant>,
    progress_sent: Instant,
    /// Why the engine has to end.
    failure: Option<Error>,
}

impl Engine {
    pub(crate) fn new(
        options: Arc<Options>,
        log: Handle,
        events: mpsc::Sender<Event>,
        shared: Arc<Shared>,
        transfers: Transfers,
        past: Past,
    ) -> Self {
        Self {
            core: Core::new(Limits::default()),
            proposer: Proposer::start(log.clone()),
            keeper: Keeper::new(&options, log.clone()),
            past,
            agreement: Agreement::default(),
            log,
            events,
            shared,
            ledger: Ledger::default(),
            dispatcher: dispatcher(&options),
            pool: None,
            port: None,
            present: Present::default(),
            questions: Questions::default(),
            everywhere: Everywhere::new(options.lease),
            rounds: Rounds::default(),
            lease: Lease::default(),
            epoch: 0,
            server_start: 0,
            asked_incarnation: Incarnation(0),
            visible: Seq(0),
            flushed: Seq(0),
            catch_up_to: Seq(0),
            state: if options.postgres.is_some() { State::Detached } else { State::Witness },
            attempts: HashMap::new(),
            hindered: false,
            standing: Standing::new(),
            transfers,
            registrations: HashMap::new(),
            detachments: Vec::new(),
            removals: Removals::default(),
            hand_over: HandOver::default(),
            markers: HashMap::new(),
            fences: FenceWatch::default(),
            ended: Ended::default(),
            introduced: None,
            progress_sent: Instant::now(),
            failure: None,
            options,
        }
    }

    /// Runs until the log ends or an error of this node's own stops it.
    pub(crate) async fn run(
        mut self,
        mut committed: Committed,
        mut events: mpsc::Receiver<Event>,
    ) -> Result<(), Error> {
        tokio::spawn(present::find(self.log.clone(), self.events.clone()));
        let (options, shared) = (Arc::clone(&self.options), Arc::clone(&self.shared));
        tokio::spawn(removal::ask_others(options, shared, self.events.clone(), removal::ASK));
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                event = committed.next() => match event {
                    Ok(event) => self.on_log(event).await?,
                    Err(pgrenga_log::Error::Closed) => return Ok(()),
                    Err(error) => return Err(error.into()),
                },
                _ = events.recv_many(&mut batch, 256) => {
                    for event in batch.drain(..) {
                        self.on_event(event).await;
                    }
                }
                _ = tick.tick() => self.on_tick().await,
            }
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
            self.dispatch();
        }
    }

    async fn on_event(&mut self, event: Event) {
        match event {
            Event::PortOpened { id, frames } => {
                let (server_start, incarnation) = (0, Incarnation(0));
                self.port = Some(Port { id, frames, server_start, incarnation, entered: false, hello: None });
                self.standing.connected();
                self.lease.forget();
            }
            Event::PortFrames { id, frames, room } => {
                self.standing.heard();
                for frame in frames {
                    if self.port.as_ref().is_some_and(|port| port.id == id) {
                        self.on_frame(&frame, &room).await;
                    }
                }
            }
            Event::PortClosed { id } if self.port.take_if(|port| port.id == id).is_some() => {
                self.set_state(State::Detached);
            }
            Event::WorkerReady { epoch, worker } if epoch == self.epoch => self.dispatcher.worker_back(worker),
            Event::WorkerLost { epoch, worker } if epoch == self.epoch => self.dispatcher.worker_lost(worker),
            Event::Applied { epoch, worker, run, result } if epoch == self.epoch => {
                self.on_applied(worker, run, result).await;
            }
            Event::Flushed { epoch, seq } if epoch == self.epoch => {
                self.standing.heard();
                self.on_flushed(seq).await;
            }
            Event::Realigned { epoch } if epoch == self.epoch && self.state == State::CatchingUp => {
                self.set_state(State::Serving);
                self.settle_standing().await;
                self.renew_lease().await;
            }
            Event::Present(index) => {
                self.present.begins(index);
                self.begin_life().await;
            }
            Event::Everywhere { node, said } => {
                self.everywhere.heard(node, said);
                self.ask_everywhere().await;
            }
            Event::Told(told) => self.on_told(told).await,
            Event::Recall { txid, index, reply } => self.recall(txid, index, reply),
            Event::Register { new, reply } => self.register(new, reply).await,
            Event::SetDetached { node, detached, reply } => self.set_detached(node, detached, reply).await,
            Event::Remove { node, reply } => self.remove(node, reply).await,
            Event::Removed => self.failure = Some(Error::Removed),
            Event::Replaced => self.failure = Some(Error::Replaced),
            Event::Different { seq, reason } => self.replace_data(seq, &reason).await,
            Event::Transferred => self.on_transferred(),
            Event::BeginMarker { id, reply } => {
                self.markers.insert(id, reply);
                self.proposer.propose(&Item::Marker { id }).await;
            }
            // Of a PostgreSQL that is no more.
            _ => {}
        }
    }

    async fn on_tick(&mut self) {
        self.rounds.join(&self.log, &self.events);
        if self.is_witness() {
            self.bear_witness().await;
        } else {
            self.settle_standing().await;
            self.renew_lease().await;
        }
        self.lift_fence().await;
        self.show_silent();
        self.end_silent_lives().await;
        self.take_votes();
        self.introduce().await;
        let with_data = self.members().into_iter().filter(|member| member.postgres.is_some());
        let own = (!self.is_witness() && !self.is_server_gone()).then_some(self.options.node);
        self.past.write_if_large(self.present.position());
        let let_go = self.keeper.look(&self.core, &mut self.past, own, with_data.map(|member| member.id));
        if let Some(seq) = let_go.filter(|seq| *seq > self.core.flushed(self.options.node)) {
            self.ledger.give_up(seq);
        }
        self.publish();
    }

    fn set_state(&mut self, state: State) {
        if self.shared.has_problem() && state != State::Detached {
            return;
        }
        if self.state != state {
            tracing::info!(from = %self.state, to = %state, "state");
            self.state = state;
            self.publish();
        }
    }

    fn publish(&self) {
        self.shared.publish(self.positions());
    }

    fn positions(&self) -> Positions {
        let (state, why) = self.shown();
        Positions {
            state,
            why,
            // Whom it heard of last leads perhaps no more.
            leader: if self.is_alone() { None } else { *self.log.leader().borrow() },
            visible: self.visible,
            flushed: self.flushed,
            certified: self.core.seq(),
            verdict_hash: self.core.verdict_hash(),
            ledger: self.ledger.len(),
            deferred: self.core.deferred(),
        }
    }
}

/// Its workers get nothing until they say that they are ready: what they were
/// given before, they would not do.
fn dispatcher(options: &Options) -> Dispatcher {
    let bounds = Bounds { depth: options.apply_depth, run: RUN, run_bytes: RUN_BYTES };
    let mut dispatcher = Dispatcher::new(options.apply_workers, bounds);
    (0..options.apply_workers).for_each(|worker| dispatcher.worker_lost(worker));
    dispatcher
}
