//! PostgreSQL's lives: what has to happen between its start and the first session.

use pgrenga_admin::State;
use pgrenga_writeset::entry::Item;
use pgrenga_writeset::port::ToPostgres;
use pgrenga_writeset::{Incarnation, Seq};

use super::{Engine, Hello, dispatcher};
use crate::{Error, apply};

impl Engine {
    /// PostgreSQL is there, newly started or newly connected: asks the log for
    /// a new life. Until the log holds it, nothing is proposed or applied.
    ///
    /// Not before the log was read up to the present: the number of an earlier
    /// life would do for a new one's, and its entry in the log for its beginning.
    pub(super) async fn begin_life(&mut self) {
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
        self.standing.begin_life();
        if self.server_start != server_start {
            self.server_start = server_start;
            self.epoch += 1;
            self.pool = None;
            self.dispatcher = dispatcher(&self.options);
            self.attempts.clear();
            self.visible = visible;
        }
        // Of the same server more may be known meanwhile than it said when it connected.
        let visible = self.visible.max(visible);
        self.visible = visible;
        self.shared.set_visible(visible);
        self.ledger.visible(visible);
        self.dispatcher.visible(visible);
        let item = Item::Incarnation { node: self.options.node, incarnation: next };
        self.proposer.propose(&item).await;
    }

    /// The log holds a new life of this node. If it is later than the one that was asked for, that one
    /// is over or will never be: others took this node for gone and ended its life, or what a daemon before this
    /// one had asked for came only now. It begins another one.
    pub(super) async fn on_own_life(&mut self, incarnation: Incarnation) {
        let Some(port) = &mut self.port else { return };
        if port.incarnation == incarnation && !port.entered {
            return self.enter_life().await;
        }
        let has_asked = port.incarnation > Incarnation(0) && port.hello.is_none();
        if port.incarnation < incarnation && has_asked {
            if port.entered {
                tracing::warn!(%incarnation, "this node was silent for so long that its life was ended");
            }
            port.entered = false;
            port.hello = Some(Hello { server_start: port.server_start, visible: self.visible });
        }
    }

    /// The log holds this node's new life: everything of the old one is decided.
    async fn enter_life(&mut self) {
        if self.is_to_be_replaced().await {
            return;
        }
        if !self.ledger.reaches(self.visible, self.core.seq()) {
            if self.visible >= self.ledger.begins() {
                self.failure = Some(Error::Gap { visible: self.visible });
            } else {
                let reason = format!("the log begins after seq {}", self.ledger.begins());
                self.replace_data(self.visible.next(), &reason).await;
            }
            return;
        }
        let Some(sequence_slot) = self.core.sequence_slot(self.options.node) else { return };
        let Some(port) = &mut self.port else { return };
        port.entered = true;
        let welcome = ToPostgres::Welcome {
            node: self.options.node,
            incarnation: port.incarnation,
            sequence_slot,
            sequence_slots: self.options.sequence_slots,
        };
        tracing::info!(incarnation = %port.incarnation, visible = %self.visible, certified = %self.core.seq(), "PostgreSQL joins the log");
        self.tell(welcome).await;
        match &mut self.pool {
            Some(pool) => pool.begin_life(),
            None => {
                let (log, events) = (self.log.clone(), self.events.clone());
                self.pool = Some(apply::Pool::start(self.epoch, &self.options, &self.shared, log, events));
            }
        }
        self.catch_up_to = self.core.seq();
        let work: Vec<Seq> = self.ledger.above(self.visible).map(|(seq, _)| seq).collect();
        for seq in work {
            self.start_work(seq).await;
        }
        self.when_caught_up();
    }

    /// Once everything ordered before this life is visible, puts sequences in
    /// order; then the node serves.
    pub(super) fn when_caught_up(&mut self) {
        let entered = self.port.as_ref().is_some_and(|port| port.entered);
        if self.state == State::CatchingUp
            && entered
            && self.visible >= self.catch_up_to
            && let Some(pool) = &mut self.pool
        {
            pool.realign_once();
        }
    }
}
