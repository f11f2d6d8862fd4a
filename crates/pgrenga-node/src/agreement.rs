//! Whether all nodes decide alike. Each tells the others, through the log, the
//! running hash of its verdicts at some place of the log; each compares what
//! they say with its own hash at that place.
//!
//! Verdicts are a function of the log, so a difference is a defect: of the
//! core, of the consensus engine, of a disk. It must not go on unnoticed: a node
//! that is outvoted stops serving.

use std::collections::{BTreeMap, VecDeque};

use pgrenga_writeset::entry::Item;
use pgrenga_writeset::{LogIndex, NodeId};

/// Places whose hash is remembered. Reports from further back are not compared.
const REMEMBERED: usize = 16 << 10;

/// One node's view of how the others decide.
#[derive(Debug, Default)]
pub(crate) struct Agreement {
    /// After which entry which hash; ascending.
    own: VecDeque<(LogIndex, u64)>,
    /// What every other node's last report that could be compared said: whether it agrees.
    others: BTreeMap<NodeId, bool>,
    /// The last hash that was reported.
    reported: u64,
}

impl Agreement {
    /// The whole entry at `index` was read.
    pub(crate) fn read(&mut self, index: LogIndex, hash: u64) {
        // A hash stands for all places up to the next one.
        if self.own.back().is_some_and(|(_, last)| *last == hash) {
            return;
        }
        if self.own.len() == REMEMBERED {
            self.own.pop_front();
        }
        self.own.push_back((index, hash));
    }

    /// What to tell the others, if there is anything new.
    pub(crate) fn report(&mut self, node: NodeId) -> Option<Item<'static>> {
        let (index, hash) = *self.own.back()?;
        if hash == std::mem::replace(&mut self.reported, hash) {
            return None;
        }
        Some(Item::Verdicts { node, index, hash })
    }

    /// Takes in another node's report; says whether it is the first that differs.
    pub(crate) fn compare(&mut self, node: NodeId, index: LogIndex, hash: u64) -> bool {
        let after = self.own.partition_point(|(at, _)| *at <= index);
        let Some((_, own)) = after.checked_sub(1).map(|at| self.own[at]) else { return false };
        let agrees = own == hash;
        self.others.insert(node, agrees) != Some(false) && !agrees
    }

    /// What a node said counts no more.
    pub(crate) fn forget(&mut self, node: NodeId) {
        self.others.remove(&node);
    }

    /// Whether more nodes differ than agree, this one included; of two that differ
    /// from each other the one that `leads` goes on.
    pub(crate) fn is_outvoted(&self, leads: bool) -> bool {
        let differ = self.others.values().filter(|agrees| !**agrees).count();
        let agree = 1 + self.others.len() - differ;
        differ > agree || (differ == agree && !leads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const N2: NodeId = NodeId(2);
    const N3: NodeId = NodeId(3);

    /// Hashes 10, 20, 30 after the entries 1, 2 and 5.
    fn node() -> Agreement {
        let mut node = Agreement::default();
        for (index, hash) in [(1, 10), (2, 20), (3, 20), (4, 20), (5, 30)] {
            node.read(LogIndex(index), hash);
        }
        node
    }

    #[test]
    fn reports_are_compared_at_their_own_place() {
        let mut node = node();
        for (index, hash, differs) in [(1, 10, false), (4, 20, false), (5, 30, false), (7, 30, false), (4, 30, true)] {
            assert_eq!(node.compare(N2, LogIndex(index), hash), differs, "{index}");
        }
        assert!(!node.compare(N2, LogIndex(4), 30), "it was told already");
        assert!(!node.compare(N3, LogIndex(0), 99), "what came before is not known");
        assert!(!node.is_outvoted(true), "nobody is counted who could not be compared");
    }

    #[test]
    fn the_minority_stops() {
        let mut node = node();
        node.compare(N2, LogIndex(5), 31);
        assert!(node.is_outvoted(false) && !node.is_outvoted(true), "of two the leader goes on");
        node.compare(N3, LogIndex(5), 30);
        assert!(!node.is_outvoted(false));
        node.compare(N3, LogIndex(5), 31);
        assert!(node.is_outvoted(true));
    }

    #[test]
    fn nothing_is_reported_twice() {
        let mut node = node();
        assert_eq!(node.report(N2), Some(Item::Verdicts { node: N2, index: LogIndex(5), hash: 30 }));
        node.read(LogIndex(6), 30);
        assert_eq!(node.report(N2), None);
        assert_eq!(Agreement::default().report(N2), None);
    }

    #[test]
    fn memory_is_bounded() {
        let mut node = Agreement::default();
        (0..2 * REMEMBERED as u64).for_each(|index| node.read(LogIndex(index), index));
        assert_eq!(node.own.len(), REMEMBERED);
    }
}
