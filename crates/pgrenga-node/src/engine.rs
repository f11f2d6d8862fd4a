//! The engine: one task that owns the core and everything that follows from
//! its decisions. No lock, no shared state: others send it [`Event`]s.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pgrenga_admin::{Marker, Member, NewMember, Refusal, State};
use pgrenga_core::schedule::{Dispatcher, Task};
use pgrenga_core::{Core, Decision, Limits, Outcome, Position};
use pgrenga_log::{Committed, Handle};
use pgrenga_writeset::entry::{Item, Items};
use pgrenga_writeset::port::{FromPostgres, ToPostgres, Topic};
use pgrenga_writeset::writeset::Writeset;
use pgrenga_writeset::{Incarnation, LogIndex, NodeId, Seq, TransactionId};
use tokio::sync::{mpsc, oneshot};

use crate::agreement::Agreement;
use crate::apply::{self, Applied, Epoch};
use crate::ledger::{Ledger, Ordered, Work};
use crate::port::{ConnectionId, FrameSender, Room};
use crate::present::{self, Present};
use crate::proposer::Proposer;
use crate::question::{self, QuestionId, Questions};
use crate::shared::{Positions, Shared};
use crate::snapshot::Keeper;
use crate::{Error, Options, marker};

/// How often leases are renewed, time-outs looked at and the state published.
const TICK: Duration = Duration::from_millis(100);
/// Attempts to apply a writeset before this node counts as different.
const MAX_ATTEMPTS: u32 = 50;
/// How often this node tells the log what it has flushed.
const PROGRESS: Duration = Duration::from_secs(1);

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
    /// An apply worker is done with a seq.
    Applied { epoch: Epoch, worker: usize, seq: Seq, result: Applied },
    /// PostgreSQL has its commits up to here durably.
    Flushed { epoch: Epoch, seq: Seq },
    /// Sequences are in order again after a server start.
    Realigned { epoch: Epoch },
    /// Where the log's present began when this daemon did.
    Present(LogIndex),
    /// A majority told which position of the log the answer to a question needs, or did not in time.
    QuestionPlaced { question: QuestionId, index: Option<LogIndex> },
    /// Somebody wants to become a member.
    Register { new: NewMember, reply: oneshot::Sender<Result<NodeId, Refusal>> },
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
    agreement: Agreement,
    dispatcher: Dispatcher,
    pool: Option<apply::Pool>,
    port: Option<Port>,
    present: Present,
    questions: Questions,
    /// Counts the lives of PostgreSQL that this daemon has seen.
    epoch: Epoch,
    server_start: u64,
    asked_incarnation: Incarnation,
    visible: Seq,
    flushed: Seq,
    catch_up_to: Seq,
    state: State,
    attempts: HashMap<Seq, u32>,
    registrations: HashMap<NodeId, oneshot::Sender<Result<NodeId, Refusal>>>,
    markers: HashMap<u64, oneshot::Sender<Marker>>,
    fence_since: Option<(TransactionId, Instant)>,
    introduced: Option<Instant>,
    progress_sent: Instant,
    /// Why the engine has to end.
    failure: Option<Error>,
}

impl Engine {
    pub(crate) fn new(options: Arc<Options>, log: Handle, events: mpsc::Sender<Event>, shared: Arc<Shared>) -> Self {
        Self {
            core: Core::new(Limits::default()),
            proposer: Proposer::start(log.clone()),
            keeper: Keeper::new(&options, log.clone()),
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
            epoch: 0,
            server_start: 0,
            asked_incarnation: Incarnation(0),
            visible: Seq(0),
            flushed: Seq(0),
            catch_up_to: Seq(0),
            state: State::Detached,
            attempts: HashMap::new(),
            registrations: HashMap::new(),
            markers: HashMap::new(),
            fence_since: None,
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

    async fn on_log(&mut self, event: pgrenga_log::Event) -> Result<(), Error> {
        let read = event.index();
        match event {
            pgrenga_log::Event::Entry { index, payload } => {
                self.on_entry(index, &payload).await?;
                self.keeper.read(index, payload.len(), &self.core);
            }
            pgrenga_log::Event::Snapshot { index, state } => self.restore(index, &state)?,
            pgrenga_log::Event::Membership { .. } | pgrenga_log::Event::Blank { .. } => {}
        }
        self.present.read(read);
        self.answer_questions().await;
        self.begin_life().await;
        Ok(())
    }

    /// Begins from a snapshot. In place of entries that were to come it is of no
    /// use here: sessions may wait for verdicts among them.
    fn restore(&mut self, index: LogIndex, state: &[u8]) -> Result<(), Error> {
        if self.present.has_read() {
            return Err(Error::Overtaken { index });
        }
        self.core = Core::restore(state, Limits::default()).map_err(|source| Error::Snapshot { index, source })?;
        self.ledger.begin(self.core.last_writeset(), self.core.seq());
        self.shared.set_members(self.members());
        tracing::info!(%index, certified = %self.core.seq(), "the log begins with a snapshot");
        Ok(())
    }

    async fn on_entry(&mut self, index: LogIndex, payload: &Bytes) -> Result<(), Error> {
        let unreadable = |source| Error::Entry { index, source };
        let mut decisions = Vec::new();
        for (ordinal, item) in Items::decode(payload).map_err(unreadable)?.enumerate() {
            let item = item.map_err(unreadable)?;
            let at = Position { index, item: ordinal as u32 };
            self.core.step(at, &item, &mut decisions);
            for decision in decisions.drain(..) {
                self.on_decision(decision, at, &item, payload).await;
            }
            if let Item::Fragment { txid, ordinal, .. } = item
                && txid.node == self.options.node
                && self.is_current(txid)
            {
                self.tell(ToPostgres::Taken { txid, fragments: ordinal + 1 }).await;
            }
            if let Item::Verdicts { node, index, hash } = item
                && node != self.options.node
            {
                self.compare_verdicts(node, index, hash);
            }
        }
        self.agreement.read(index, self.core.verdict_hash());
        Ok(())
    }

    /// Whoever is in the minority stops: its data is not what was decided.
    fn compare_verdicts(&mut self, node: NodeId, index: LogIndex, hash: u64) {
        if self.agreement.compare(node, index, hash) {
            tracing::error!(%node, %index, "another node decided differently up to this place of the log");
        }
        let leads = *self.log.leader().borrow() == Some(self.options.node);
        if self.agreement.is_outvoted(leads) && !self.shared.has_problem() {
            let reason = format!("other nodes decided differently up to log index {index}");
            self.stop_serving(self.core.seq(), &reason);
        }
    }

    async fn on_decision(&mut self, decision: Decision, here: Position, item: &Item<'_>, payload: &Bytes) {
        match decision {
            Decision::Commit { seq, txid, at, fragments, after, barrier } => {
                let body = match item {
                    Item::Writeset(bytes) if at == here => {
                        Writeset::decode(bytes).ok().map(|writeset| payload.slice_ref(writeset.body))
                    }
                    _ => None,
                };
                let work = Work::Writeset { txid, at, fragments, body };
                self.ledger.insert(seq, Ordered { task: Task { seq, after, barrier }, work });
                self.start_work(seq).await;
                self.shared.count_commit(txid.node == self.options.node);
            }
            Decision::Marker { seq, id } => {
                let after = Seq(seq.0 - 1);
                let task = Task { seq, after, barrier: false };
                self.ledger.insert(seq, Ordered { task, work: Work::Marker { id: Some(id) } });
                if let Some(reply) = self.markers.remove(&id) {
                    let nodes = self.members().into_iter().map(|member| member.name).collect();
                    let _ = reply.send(Marker { id, seq, nodes });
                }
                self.start_work(seq).await;
            }
            Decision::Abort { txid, reason } => {
                self.shared.count_abort(txid.node == self.options.node);
                self.tell_owner(txid, ToPostgres::Abort { txid, reason }).await;
            }
            Decision::Duplicate { txid, outcome } => self.tell_owner(txid, verdict(txid, outcome)).await,
            Decision::FenceGranted { txid, fence, after } => {
                self.fence_since = Some((txid, Instant::now()));
                self.tell_owner(txid, ToPostgres::FenceGranted { txid, fence, after }).await;
            }
            Decision::FenceLost { txid } => self.tell_owner(txid, ToPostgres::FenceLost(txid)).await,
            Decision::Incarnation { node, incarnation } if node == self.options.node => {
                if self.port.as_ref().is_some_and(|port| port.incarnation == incarnation && !port.entered) {
                    self.enter_life().await;
                }
            }
            Decision::Member { node } => {
                self.shared.set_members(self.members());
                if let Some(reply) = self.registrations.remove(&node) {
                    let _ = reply.send(Ok(node));
                }
            }
            Decision::Malformed { at } => tracing::error!(index = %at.index, "an item of the log could not be read"),
            Decision::Incarnation { .. } => {}
        }
    }

    /// Begins what stands at `seq`, if PostgreSQL is there to do it.
    async fn start_work(&mut self, seq: Seq) {
        if !self.port.as_ref().is_some_and(|port| port.entered) || seq <= self.visible {
            return;
        }
        let Some(ordered) = self.ledger.get(seq) else { return };
        match &ordered.work {
            // The backend that waits for it executes it; if none does, the port says so.
            Work::Writeset { txid, .. } if txid.node == self.options.node => {
                let txid = *txid;
                self.tell(ToPostgres::Commit { txid, seq }).await;
            }
            Work::Writeset { .. } => self.dispatcher.push(ordered.task),
            Work::Marker { id } => {
                let stop = marker::Stop { id: *id, seq, server: self.options.server.clone() };
                tokio::spawn(stop.run(self.options.database.clone(), Arc::clone(&self.shared)));
            }
        }
    }

    /// Gives the workers what they can do now.
    fn dispatch(&mut self) {
        let Some(pool) = &self.pool else { return };
        while let Some((worker, seq)) = self.dispatcher.assign() {
            match self.ledger.get(seq) {
                Some(ordered) => pool.assign(worker, ordered.clone()),
                None => self.dispatcher.done(worker, seq),
            }
        }
    }

    async fn on_event(&mut self, event: Event) {
        match event {
            Event::PortOpened { id, frames } => {
                let (server_start, incarnation) = (0, Incarnation(0));
                self.port = Some(Port { id, frames, server_start, incarnation, entered: false, hello: None });
            }
            Event::PortFrames { id, frames, room } => {
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
            Event::Applied { epoch, worker, seq, result } if epoch == self.epoch => {
                self.on_applied(worker, seq, result)
            }
            Event::Flushed { epoch, seq } if epoch == self.epoch => self.on_flushed(seq).await,
            Event::Realigned { epoch } if epoch == self.epoch && self.state == State::CatchingUp => {
                self.set_state(State::Serving);
                self.renew_lease().await;
            }
            Event::Present(index) => {
                self.present.begins(index);
                self.begin_life().await;
            }
            Event::QuestionPlaced { question, index } => {
                self.questions.placed(question, index);
                self.answer_questions().await;
            }
            Event::Register { new, reply } => self.register(new, reply).await,
            Event::BeginMarker { id, reply } => {
                self.markers.insert(id, reply);
                self.proposer.propose(&Item::Marker { id }).await;
            }
            // Of a PostgreSQL that is no more.
            _ => {}
        }
    }

    async fn on_frame(&mut self, frame: &[u8], room: &Room) {
        match FromPostgres::decode(frame) {
            Ok(FromPostgres::Hello { server_start, visible, .. }) => {
                if let Some(port) = &mut self.port {
                    port.hello = Some(Hello { server_start, visible });
                }
                self.begin_life().await;
            }
            Ok(FromPostgres::Submit(bytes)) => match Writeset::decode(bytes) {
                Ok(writeset) => self.submit(&writeset, bytes, room).await,
                Err(error) => tracing::error!(%error, "PostgreSQL sent a writeset that cannot be read"),
            },
            Ok(FromPostgres::Fragment { txid, ordinal, body }) => {
                if self.is_current(txid) {
                    self.proposer.propose_in(room, &Item::Fragment { txid, ordinal, body }).await;
                } else {
                    self.tell(ToPostgres::Resubmit(txid)).await;
                }
            }
            Ok(FromPostgres::FenceRequest(txid)) => {
                if self.is_current(txid) {
                    self.proposer.propose(&Item::FenceRequest(txid)).await;
                } else {
                    self.tell(ToPostgres::FenceLost(txid)).await;
                }
            }
            Ok(FromPostgres::FenceRelease(txid)) => self.proposer.propose(&Item::FenceRelease(txid)).await,
            Ok(FromPostgres::Waiting(txid)) => match self.core.outcome(txid) {
                Some(outcome) => self.tell(verdict(txid, outcome)).await,
                // Its verdict comes when the fence ends.
                None if self.core.is_deferred(txid) => {}
                None => self.tell(ToPostgres::Resubmit(txid)).await,
            },
            Ok(FromPostgres::Orphan(seq)) => {
                if let Some(ordered) = self.ledger.get(seq).filter(|_| seq > self.visible) {
                    self.dispatcher.push(ordered.task);
                }
            }
            Ok(FromPostgres::Progress(seq)) => self.on_visible(seq).await,
            Ok(FromPostgres::Question { id, millis, topic }) => {
                self.on_question(id, Duration::from_millis(millis.into()), topic).await;
            }
            Err(error) => tracing::error!(%error, "PostgreSQL sent a frame that cannot be read"),
        }
    }

    async fn on_question(&mut self, id: u64, patience: Duration, topic: Topic) {
        let Some(port) = &self.port else { return };
        let question = QuestionId { port: port.id, id };
        let text = match topic {
            Topic::Transaction(txid) => {
                return self.questions.take(question, txid, patience, &self.log, &self.events);
            }
            Topic::Status => question::status(&self.options, &self.positions(), &self.log),
            Topic::Member(ordinal) => {
                let own = (self.options.node, self.state);
                question::member(ordinal, &self.core, &self.log, self.members(), own)
            }
        };
        self.answer(question, &text).await;
    }

    async fn answer_questions(&mut self) {
        for (question, txid) in self.questions.answerable(self.present.position()) {
            self.answer(question, &self.core.status(txid).to_string()).await;
        }
    }

    /// Answers by the connection that asked: another one's ids begin anew.
    async fn answer(&self, question: QuestionId, text: &str) {
        if self.port.as_ref().is_some_and(|port| port.id == question.port) {
            self.tell(ToPostgres::Answer { question: question.id, text }).await;
        }
    }

    /// Proposes a writeset, unless it was made in an earlier life of this node:
    /// the log would only call it void. Nor does one go there that is certain
    /// to abort (those with fragments must, to take these back).
    async fn submit(&mut self, writeset: &Writeset<'_>, bytes: &[u8], room: &Room) {
        let txid = writeset.header.txid;
        if !self.is_current(txid) {
            self.tell(ToPostgres::Resubmit(txid)).await;
        } else if writeset.header.fragments == 0
            && let Some(reason) = self.core.doom(writeset)
        {
            self.shared.count_abort(true);
            self.tell(ToPostgres::Abort { txid, reason }).await;
        } else {
            self.proposer.propose_in(room, &Item::Writeset(bytes)).await;
        }
    }

    fn is_current(&self, txid: TransactionId) -> bool {
        self.port.as_ref().is_some_and(|port| port.entered && port.incarnation == txid.incarnation)
    }

    /// PostgreSQL is there, newly started or newly connected: asks the log for
    /// a new life. Until the log holds it, nothing is proposed or applied.
    ///
    /// Not before the log was read up to the present: the number of an earlier
    /// life would do for a new one's, and its entry in the log for its beginning.
    async fn begin_life(&mut self) {
        if !self.present.is_reached() {
            return;
        }
        let Some(Hello { server_start, visible }) = self.port.as_mut().and_then(|port| port.hello.take()) else {
            return;
        };
        let next = Incarnation(self.core.incarnation(self.options.node).0.max(self.asked_incarnation.0) + 1);
        self.asked_incarnation = next;
        let Some(port) = &mut self.port else { return };
        port.server_start = server_start;
        port.incarnation = next;
        port.entered = false;
        self.set_state(State::CatchingUp);
        if self.server_start != server_start {
            self.server_start = server_start;
            self.epoch += 1;
            self.pool = None;
            self.dispatcher = dispatcher(&self.options);
            self.attempts.clear();
        }
        self.visible = visible;
        self.ledger.visible(visible);
        self.dispatcher.visible(visible);
        let item = Item::Incarnation { node: self.options.node, incarnation: next };
        self.proposer.propose(&item).await;
    }

    /// The log holds this node's new life: everything of the old one is decided.
    async fn enter_life(&mut self) {
        if !self.ledger.reaches(self.visible, self.core.seq()) {
            if self.visible >= self.ledger.begins() {
                self.failure = Some(Error::Gap { visible: self.visible });
            } else {
                let reason = format!("the log begins after seq {}; the node has to join anew", self.ledger.begins());
                self.stop_serving(self.visible.next(), &reason);
            }
            return;
        }
        let Some(port) = &mut self.port else { return };
        port.entered = true;
        let welcome = ToPostgres::Welcome {
            node: self.options.node,
            incarnation: port.incarnation,
            sequence_slot: (self.options.node.0 % u32::from(self.options.sequence_slots)) as u16,
            sequence_slots: self.options.sequence_slots,
        };
        tracing::info!(incarnation = %port.incarnation, visible = %self.visible, certified = %self.core.seq(), "PostgreSQL joins the log");
        self.tell(welcome).await;
        match &mut self.pool {
            Some(pool) => pool.begin_life(),
            None => {
                let (log, events) = (self.log.clone(), self.events.clone());
                self.pool = Some(apply::Pool::start(self.epoch, &self.options, log, events));
            }
        }
        self.catch_up_to = self.core.seq();
        let work: Vec<Seq> = self.ledger.above(self.visible).map(|(seq, _)| seq).collect();
        for seq in work {
            self.start_work(seq).await;
        }
        self.when_caught_up();
    }

    async fn on_visible(&mut self, seq: Seq) {
        self.visible = seq;
        self.ledger.visible(seq);
        self.dispatcher.visible(seq);
        self.attempts.retain(|attempted, _| *attempted > seq);
        self.when_caught_up();
    }

    /// Once everything ordered before this life is visible, puts sequences in
    /// order; then the node serves.
    fn when_caught_up(&mut self) {
        let entered = self.port.as_ref().is_some_and(|port| port.entered);
        if self.state == State::CatchingUp
            && entered
            && self.visible >= self.catch_up_to
            && let Some(pool) = &mut self.pool
        {
            pool.realign_once();
        }
    }

    async fn on_flushed(&mut self, seq: Seq) {
        self.flushed = seq;
        self.ledger.flushed(seq);
        // It may be lower than before: then the log is needed from there again.
        if self.progress_sent.elapsed() >= PROGRESS && seq != self.core.flushed(self.options.node) {
            self.progress_sent = Instant::now();
            self.proposer.propose(&Item::Progress { node: self.options.node, flushed: seq }).await;
            if let Some(report) = self.agreement.report(self.options.node) {
                self.proposer.propose(&report).await;
            }
        }
    }

    fn on_applied(&mut self, worker: usize, seq: Seq, result: Applied) {
        match result {
            Applied::Done => self.dispatcher.done(worker, seq),
            Applied::Again(reason) => {
                let attempts = self.attempts.entry(seq).or_default();
                *attempts += 1;
                if *attempts < MAX_ATTEMPTS {
                    tracing::debug!(%seq, %reason, "applying again");
                    self.dispatcher.failed(worker, seq);
                } else {
                    self.stop_serving(seq, &reason);
                }
            }
            Applied::Different(reason) => {
                // Even this is believed only after everything before is visible.
                let attempts = self.attempts.entry(seq).or_default();
                *attempts += 1;
                if self.visible.next() < seq || *attempts < 3 {
                    self.dispatcher.failed(worker, seq);
                } else {
                    self.stop_serving(seq, &reason);
                }
            }
        }
    }

    /// This node's data does not fit the log: it must not serve any more.
    fn stop_serving(&mut self, seq: Seq, reason: &str) {
        tracing::error!(%seq, reason, "this node differs from the log and stops serving");
        self.shared.set_problem(format!("at seq {seq}: {reason}"));
        self.set_state(State::Detached);
    }

    async fn on_tick(&mut self) {
        self.renew_lease().await;
        self.lift_old_fence().await;
        self.introduce().await;
        let with_data = self.members().into_iter().filter(|member| member.postgres.is_some());
        self.keeper.look(&self.core, self.options.node, with_data.map(|member| member.id));
        self.publish();
    }

    async fn renew_lease(&mut self) {
        let has_leader = self.log.leader().borrow().is_some();
        if self.state == State::Serving && has_leader {
            let millis = self.options.lease.as_millis() as u32;
            self.tell(ToPostgres::Lease { millis }).await;
        }
    }

    /// The leader lifts a fence that is held for too long.
    async fn lift_old_fence(&mut self) {
        let held = self.core.fence().map(|(txid, _)| txid);
        match (held, self.fence_since) {
            (None, _) => self.fence_since = None,
            (Some(txid), Some((since_txid, since))) if txid == since_txid => {
                let leads = *self.log.leader().borrow() == Some(self.options.node);
                if leads && since.elapsed() >= self.options.fence_timeout {
                    tracing::warn!(%txid, "lifting the DDL fence of a transaction that holds it too long");
                    self.fence_since = Some((txid, Instant::now()));
                    self.proposer.propose(&Item::FenceLift(txid)).await;
                }
            }
            (Some(txid), _) => self.fence_since = Some((txid, Instant::now())),
        }
    }

    /// Tells the others this node's name and addresses, if they do not know them.
    async fn introduce(&mut self) {
        let known = self.core.members().any(|(node, _)| node == self.options.node);
        let waiting = self.introduced.is_some_and(|since| since.elapsed() < Duration::from_secs(2));
        if known || waiting || self.log.leader().borrow().is_none() {
            return;
        }
        self.introduced = Some(Instant::now());
        self.propose_self().await;
    }

    async fn propose_self(&mut self) {
        let me = NewMember {
            cluster: self.options.cluster.clone(),
            name: self.options.name.clone(),
            admin_url: self.options.admin_url.clone(),
            postgres: Some(self.options.postgres.clone()),
            peer: self.options.peer.clone(),
        };
        self.propose_member(self.options.node, &me).await;
    }

    async fn propose_member(&mut self, node: NodeId, new: &NewMember) {
        let description = serde_json::to_string(new).expect("strings and numbers");
        self.proposer.propose(&Item::Member { node, description: &description }).await;
    }

    async fn register(&mut self, new: NewMember, reply: oneshot::Sender<Result<NodeId, Refusal>>) {
        if new.cluster != self.options.cluster {
            let message = format!("this is cluster \"{}\", not \"{}\"", self.options.cluster, new.cluster);
            return drop(reply.send(Err(Refusal::Conflict(message))));
        }
        let members = self.members();
        // Before the joiner in the log: whoever joins copies a member's data.
        if members.iter().all(|member| member.id != self.options.node) {
            self.propose_self().await;
        }
        if let Some(known) = members.iter().find(|member| member.name == new.name) {
            let same = known.admin_url == new.admin_url && known.peer == new.peer && known.postgres == new.postgres;
            let answer = if same {
                Ok(known.id)
            } else {
                Err(Refusal::Conflict(format!("there is a node \"{}\" with other addresses already", new.name)))
            };
            return drop(reply.send(answer));
        }
        let highest = members.iter().map(|member| member.id.0).chain(self.registrations.keys().map(|id| id.0)).max();
        let node = NodeId(highest.unwrap_or(self.options.node.0) + 1);
        self.registrations.insert(node, reply);
        self.propose_member(node, &new).await;
    }

    fn members(&self) -> Vec<Member> {
        let described = self.core.members().filter_map(|(id, description)| {
            let new: NewMember = serde_json::from_str(description).ok()?;
            let NewMember { name, admin_url, postgres, peer, .. } = new;
            Some(Member { id, name, admin_url, postgres, peer, voter: false })
        });
        described.collect()
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
        Positions {
            state: self.state,
            visible: self.visible,
            flushed: self.flushed,
            certified: self.core.seq(),
            verdict_hash: self.core.verdict_hash(),
            ledger: self.ledger.len(),
            deferred: self.core.deferred(),
        }
    }

    async fn tell_owner(&self, txid: TransactionId, frame: ToPostgres<'_>) {
        if txid.node == self.options.node {
            self.tell(frame).await;
        }
    }

    /// Sends a frame to PostgreSQL. If the connection is gone, the next one
    /// asks for whatever it carried.
    async fn tell(&self, frame: ToPostgres<'_>) {
        if let Some(port) = &self.port {
            let mut bytes = Vec::with_capacity(64);
            frame.encode(&mut bytes);
            let _ = port.frames.send(bytes).await;
        }
    }
}

/// Its workers get nothing until they say that they are ready: what they were
/// given before, they would not do.
fn dispatcher(options: &Options) -> Dispatcher {
    let mut dispatcher = Dispatcher::new(options.apply_workers, options.apply_depth);
    (0..options.apply_workers).for_each(|worker| dispatcher.worker_lost(worker));
    dispatcher
}

fn verdict(txid: TransactionId, outcome: Outcome) -> ToPostgres<'static> {
    match outcome {
        Outcome::Commit(seq) => ToPostgres::Commit { txid, seq },
        Outcome::Abort(reason) => ToPostgres::Abort { txid, reason },
    }
}
