//! Which lives of silent nodes a leader ends.
//!
//! What a node had in flight when it went may still come, as long as its life lasts: so nobody can
//! tell what becomes of it. The leader ends the life of a node of which it has heard nothing for
//! longer than any lease lasts. It orders the beginning of the next life, as the node itself does
//! when it comes back: from that place of the log on everything of the old one is void, on every
//! node. Right or wrong, it loses nothing: a node that was only silent reads it in the log and begins
//! another life, in which what waits is submitted again.

use std::collections::BTreeMap;

use pgrenga_writeset::{Incarnation, NodeId};

/// Which life a leader has begun in place of each node that was silent.
#[derive(Debug, Default)]
pub struct Ended(BTreeMap<NodeId, Incarnation>);

impl Ended {
    /// The life to begin now in place of a node of which the log has `present`: none if there is
    /// nothing to end, or it was ended already.
    pub fn next(&mut self, node: NodeId, present: Incarnation, is_silent: bool) -> Option<Incarnation> {
        if !is_silent {
            self.0.remove(&node);
            return None;
        }
        let is_ended = self.0.get(&node).is_some_and(|ended| *ended >= present);
        if is_ended || present == Incarnation(0) {
            return None;
        }
        let next = Incarnation(present.0 + 1);
        self.0.insert(node, next);
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_ends_one_life() {
        let (node, mut ended) = (NodeId(2), Ended::default());
        assert_eq!(ended.next(node, Incarnation(0), true), None, "it never had one");
        assert_eq!(ended.next(node, Incarnation(3), false), None);
        assert_eq!(ended.next(node, Incarnation(3), true), Some(Incarnation(4)));
        assert_eq!(ended.next(node, Incarnation(3), true), None, "that is under way");
        assert_eq!(ended.next(node, Incarnation(4), true), None, "that is done");
        assert_eq!(ended.next(node, Incarnation(5), true), Some(Incarnation(6)), "it came, and went again");
        assert_eq!(ended.next(node, Incarnation(6), false), None);
        assert_eq!(ended.next(node, Incarnation(6), true), Some(Incarnation(7)));
    }
}
