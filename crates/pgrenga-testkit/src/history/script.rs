//! Tiny histories written by hand, for the checkers' own tests.

use super::record::{FinalRead, History, Isolation, NodeIndex, Outcome, ProcessId, Step, Tick, Transaction};

/// A history in the making. Transactions follow one another, each in a process
/// of its own at node 0, unless told otherwise.
pub(super) struct Script<S: Step> {
    history: History<S>,
    /// Transactions of one group run at the same time.
    groups: Vec<usize>,
    together: bool,
    node: NodeIndex,
    process: Option<ProcessId>,
}

pub(super) fn history<S: Step>(isolation: Isolation, initial: S::State) -> Script<S> {
    Script {
        history: History::new(isolation, 0, initial),
        groups: Vec::new(),
        together: false,
        node: NodeIndex(0),
        process: None,
    }
}

impl<S: Step> Script<S> {
    pub(super) fn committed(self, steps: Vec<S>) -> Self {
        self.push(Outcome::Committed, steps)
    }

    pub(super) fn aborted(self, steps: Vec<S>) -> Self {
        self.push(Outcome::Aborted, steps)
    }

    pub(super) fn unknown(self, steps: Vec<S>) -> Self {
        self.push(Outcome::Unknown, steps)
    }

    /// The following transactions run at the same time.
    pub(super) fn together(mut self) -> Self {
        self.groups.push(0);
        self.together = true;
        self
    }

    /// The following transactions run at this node.
    pub(super) fn at(mut self, node: u32) -> Self {
        self.node = NodeIndex(node);
        self
    }

    /// The following transactions run in this process.
    pub(super) fn by(mut self, process: u32) -> Self {
        self.process = Some(ProcessId(1000 + process));
        self
    }

    /// What the next node holds in the end.
    pub(super) fn finally(mut self, state: S::State) -> Self {
        let node = u32::try_from(self.history.final_reads.len()).expect("few nodes");
        self.history.final_reads.push(FinalRead { node: NodeIndex(node), state: Some(state), error: None });
        self
    }

    fn push(mut self, outcome: Outcome, steps: Vec<S>) -> Self {
        match self.groups.last_mut() {
            Some(group) if self.together => *group += 1,
            _ => self.groups.push(1),
        }
        let own = ProcessId(u32::try_from(self.history.transactions.len()).expect("few"));
        self.history.transactions.push(Transaction {
            process: self.process.unwrap_or(own),
            node: self.node,
            invoke: Tick(0),
            commit: None,
            complete: Tick(0),
            outcome,
            steps,
            error: None,
        });
        self
    }

    pub(super) fn done(mut self) -> History<S> {
        let mut now = 0;
        let mut tick = || {
            now += 1;
            Tick(now)
        };
        let mut rest = self.history.transactions.as_mut_slice();
        for group in self.groups {
            let (group, others) = rest.split_at_mut(group);
            group.iter_mut().for_each(|t| t.invoke = tick());
            group.iter_mut().for_each(|t| t.commit = Some(tick()));
            group.iter_mut().for_each(|t| t.complete = tick());
            rest = others;
        }
        self.history
    }
}
