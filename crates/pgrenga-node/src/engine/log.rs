//! What the log brings: entries for the core, and what follows from its decisions.

use bytes::Bytes;
use pgrenga_admin::Marker;
use pgrenga_core::schedule::Task;
use pgrenga_core::{Core, Decision, Limits, Position, sessions};
use pgrenga_writeset::entry::{Item, Items};
use pgrenga_writeset::port::{AbortReason, ToPostgres};
use pgrenga_writeset::writeset::{Flags, Writeset};
use pgrenga_writeset::{LogIndex, NodeId, Seq};

use super::Engine;
use crate::Error;
use crate::ledger::{Ordered, Work};

impl Engine {
    pub(super) async fn on_log(&mut self, event: pgrenga_log::Event) -> Result<(), Error> {
        let read = event.index();
        match event {
            pgrenga_log::Event::Entry { index, payload } => {
                self.on_entry(index, &payload).await?;
                self.keeper.read(index, payload.len(), &self.core, &mut self.past);
            }
            pgrenga_log::Event::Snapshot { index, state } => self.restore(index, &state).await?,
            pgrenga_log::Event::Membership { .. } | pgrenga_log::Event::Blank { .. } => {}
        }
        self.present.read(read);
        self.answer_questions().await;
        self.begin_life().await;
        Ok(())
    }

    /// Begins from a snapshot. In place of entries that were to come it is of use only to a
    /// witness: sessions may wait for verdicts among them.
    async fn restore(&mut self, index: LogIndex, state: &[u8]) -> Result<(), Error> {
        if self.present.has_read() && !self.is_witness() {
            return Err(Error::Overtaken { index });
        }
        self.core = Core::restore(state, Limits::default()).map_err(|source| Error::Snapshot { index, source })?;
        self.past.begin(index, &self.core);
        if !self.is_witness() {
            self.ledger.begin(self.core.last_writeset(), self.core.seq());
        }
        self.shared.set_members(self.members());
        self.shared.set_removed(self.core.removed().collect());
        if self.core.is_removed(self.options.node) {
            self.leave().await;
        }
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
                self.compare_verdicts(node, index, hash).await;
            }
        }
        self.agreement.read(index, self.core.verdict_hash());
        Ok(())
    }

    /// Whoever is in the minority stops: its data is not what was decided.
    async fn compare_verdicts(&mut self, node: NodeId, index: LogIndex, hash: u64) {
        if self.agreement.compare(node, index, hash) {
            tracing::error!(%node, %index, "another node decided differently up to this place of the log");
        }
        if self.agreement.is_outvoted(self.leads()) && !self.shared.has_problem() {
            let reason = format!("other nodes decided differently up to log index {index}");
            self.stop_serving(self.core.seq(), &reason).await;
        }
    }

    async fn on_decision(&mut self, decision: Decision, here: Position, item: &Item<'_>, payload: &Bytes) {
        self.past.note(&decision);
        if let Some(report) = sessions::report(&decision, self.options.node, self.life()) {
            self.tell(report).await;
        }
        match decision {
            Decision::Commit { seq, txid, at, fragments, after, barrier } => {
                let writeset = match item {
                    Item::Writeset(bytes) if at == here => Writeset::decode(bytes).ok(),
                    _ => None,
                };
                let body = writeset.map(|writeset| payload.slice_ref(writeset.body));
                // Of one that was kept waiting, or is large, the size is not known here: it goes alone. So
                // does one that notifies, see `Flags::NOTIFIES`.
                let fits = writeset
                    .filter(|it| fragments.is_empty() && !it.header.flags.contains(Flags::NOTIFIES))
                    .map(|it| it.body.len());
                let bytes = fits.unwrap_or(usize::MAX);
                let task = Task { seq, after, barrier, bytes };
                let work = Work::Writeset { txid, at, fragments, body };
                self.enter(seq, Ordered { task, work }).await;
                self.shared.count_commit(txid.node == self.options.node);
            }
            Decision::Marker { seq, id } => {
                let after = Seq(seq.0 - 1);
                let task = Task { seq, after, barrier: false, bytes: 0 };
                self.enter(seq, Ordered { task, work: Work::Marker { id: Some(id) } }).await;
                if let Some(reply) = self.markers.remove(&id) {
                    let with_data = self.members().into_iter().filter(|member| member.postgres.is_some());
                    let nodes = with_data.map(|member| member.name).collect();
                    let _ = reply.send(Marker { id, seq, nodes });
                }
            }
            Decision::Abort { txid, reason } => {
                self.shared.count_abort(txid.node == self.options.node && reason != AbortReason::GivenUp);
            }
            Decision::FenceGranted { txid, .. } => self.fences.granted(txid),
            Decision::Incarnation { node, incarnation } if node == self.options.node => {
                self.on_own_life(incarnation).await;
            }
            Decision::Member { node } => self.on_member(node).await,
            Decision::Full { node } => self.on_full(node),
            Decision::Removed { node } => self.on_removed(node).await,
            Decision::Malformed { at } => tracing::error!(index = %at.index, "an item of the log could not be read"),
            Decision::Incarnation { node, .. } => self.everywhere.began(node),
            Decision::Duplicate { .. } | Decision::FenceLost { .. } => {}
        }
    }

    /// Takes in what PostgreSQL has to do. A witness has none, and forgets it at once.
    async fn enter(&mut self, seq: Seq, ordered: Ordered) {
        if !self.is_witness() {
            self.ledger.insert(seq, ordered);
            self.start_work(seq).await;
        }
    }

    /// Begins what stands at `seq`, if PostgreSQL is there to do it.
    pub(super) async fn start_work(&mut self, seq: Seq) {
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
                if let Some(pool) = &self.pool {
                    pool.pass_marker(seq, *id);
                }
            }
        }
    }

    /// Gives the workers what they can do now.
    pub(super) fn dispatch(&mut self) {
        let Some(pool) = &self.pool else { return };
        while let Some((worker, run)) = self.dispatcher.assign() {
            let ordered: Option<Vec<_>> = run.seqs().map(|seq| self.ledger.get(seq).cloned()).collect();
            match ordered {
                Some(ordered) => pool.assign(worker, run, ordered),
                // Visible meanwhile.
                None => self.dispatcher.done(worker, run.first),
            }
        }
    }
}
