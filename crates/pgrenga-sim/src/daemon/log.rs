//! What the daemon does with the log's entries.

use pgrenga_core::schedule::Task;
use pgrenga_core::{Core, Decision, Position, sessions};
use pgrenga_log::LogIndex;
use pgrenga_writeset::entry::{Item, Items};
use pgrenga_writeset::port::ToPostgres;
use pgrenga_writeset::{NodeId, Seq};

use super::{Daemon, Ordered, Work};
use crate::invariants::Event;
use crate::note;
use crate::trace::digest;

impl Daemon {
    pub(super) fn on_log(&mut self, event: pgrenga_log::Event) -> Result<(), String> {
        let (index, node) = (event.index(), self.setup.id);
        let on = self.setup.power.is_on();
        let read = |digest| {
            if on {
                self.setup.invariants.see(&Event::Read { node, index, digest });
            }
        };
        match event {
            pgrenga_log::Event::Entry { payload, .. } => {
                read(digest(1, &payload));
                self.on_entry(index, &payload)?;
                self.keeper.read(index, payload.len(), &self.core);
            }
            pgrenga_log::Event::Blank { .. } => read(2),
            pgrenga_log::Event::Membership { voters, learners, .. } => {
                note!(self.setup.trace, "n{node} {index} voters {voters:?} learners {learners:?}");
                read(digest(3, format!("{voters:?} {learners:?}").as_bytes()));
            }
            pgrenga_log::Event::Snapshot { state, .. } => self.restore(index, &state)?,
        }
        self.read = Some(index);
        let certified = self.core.seq();
        self.view.set(|seen| seen.certified = certified);
        self.begin_life();
        Ok(())
    }

    fn restore(&mut self, index: LogIndex, state: &[u8]) -> Result<(), String> {
        let node = self.setup.id;
        if self.read.is_some() {
            return Err(format!("overtaken by a snapshot up to {index}"));
        }
        self.core = match Core::restore(state, self.setup.plan.limits) {
            Ok(core) => core,
            Err(error) => {
                self.setup.invariants.fail(format!("node {node} cannot read the snapshot up to {index}: {error}"));
                return Err("no state".into());
            }
        };
        note!(self.setup.trace, "n{node} {index} snapshot, seq {}", self.core.seq());
        self.setup.invariants.see(&Event::Restored { node, index, core: &self.core });
        // Markers have no commit record: those at its end may have to be passed again.
        self.begins = self.core.last_writeset();
        for seq in (self.begins.0 + 1..=self.core.seq().0).map(Seq) {
            let task = Task { seq, after: Seq(seq.0 - 1), barrier: false, bytes: 0 };
            self.ledger.insert(seq, Ordered { task, work: Work::Marker });
        }
        Ok(())
    }

    fn on_entry(&mut self, index: LogIndex, payload: &[u8]) -> Result<(), String> {
        // What it tells PostgreSQL on the way may be the last thing that it does.
        let on = self.setup.power.is_on();
        let mut steps: Vec<(Item<'_>, Vec<Decision>)> = Vec::new();
        let items = Items::decode(payload).map_err(|error| format!("entry {index}: {error}"))?;
        for (ordinal, item) in (0..).zip(items) {
            let item = item.map_err(|error| format!("entry {index}: {error}"))?;
            let mut decisions = Vec::new();
            self.core.step(Position { index, item: ordinal }, &item, &mut decisions);
            decisions.iter().for_each(|decision| self.on_decision(decision.clone()));
            steps.push((item, decisions));
        }
        let node = self.setup.id;
        if on {
            let decided = steps.iter().map(|(_, decisions)| decisions.len()).sum::<usize>();
            let (seq, hash) = (self.core.seq(), self.core.verdict_hash());
            note!(self.setup.trace, "n{node} {index} {} items {decided} decisions seq {seq} {hash:016x}", steps.len());
            self.setup.invariants.stepped(node, index, &steps, &self.core);
        }
        Ok(())
    }

    fn on_decision(&mut self, decision: Decision) {
        let node = NodeId(self.setup.id);
        if let Some(word) = sessions::report(&decision, node, self.life()) {
            self.say(&word);
        }
        match decision {
            Decision::Commit { seq, txid, at, fragments, after, barrier } => {
                let fragments_ahead = fragments.len();
                let work = Work::Writeset { txid, at, fragments };
                let bytes = 200 * (1 + fragments_ahead);
                self.ledger.insert(seq, Ordered { task: Task { seq, after, barrier, bytes }, work });
                self.start_work(seq);
            }
            Decision::Marker { seq, .. } => {
                let task = Task { seq, after: Seq(seq.0 - 1), barrier: false, bytes: 0 };
                self.ledger.insert(seq, Ordered { task, work: Work::Marker });
                self.start_work(seq);
            }
            Decision::Incarnation { node: whose, incarnation } if whose == node => self.on_own_life(incarnation),
            Decision::Malformed { at } => {
                self.setup.invariants.fail(format!("an item of entry {} is malformed", at.index));
            }
            Decision::Incarnation { .. } | Decision::Abort { .. } | Decision::Duplicate { .. } => {}
            Decision::FenceGranted { .. } | Decision::FenceLost { .. } | Decision::Member { .. } => {}
            Decision::Full { node } => self.setup.invariants.fail(format!("there is no room for node {node}")),
            Decision::Removed { node } => note!(self.setup.trace, "n{} knows that {node} is removed", self.setup.id),
        }
    }

    /// Begins what stands at `seq`, if PostgreSQL is there to do it.
    pub(super) fn start_work(&mut self, seq: Seq) {
        if !self.entered || seq <= self.visible {
            return;
        }
        let Some(ordered) = self.ledger.get(&seq) else { return };
        match ordered.work {
            Work::Writeset { txid, .. } if txid.node == NodeId(self.setup.id) => {
                self.say(&ToPostgres::Commit { txid, seq })
            }
            Work::Writeset { .. } => self.dispatcher.push(ordered.task),
            Work::Marker => self.pass_marker(seq),
        }
    }
}
