//! Which node a session goes to. Pure: time is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use pgrenga_writeset::NodeId;
use tokio::sync::Notify;

/// A node that takes sessions, as the cluster tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Serving {
    pub(crate) id: NodeId,
    pub(crate) name: String,
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// How much a node has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) node: String,
    pub(crate) is_serving: bool,
    pub(crate) sessions: usize,
}

/// Why no node takes a session now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// All that serve are full.
    Full,
    /// None serves, or none that does can be reached.
    NoneServes,
}

/// All nodes that serve or still have sessions of ours.
#[derive(Debug)]
pub(super) struct Nodes {
    nodes: BTreeMap<NodeId, Node>,
    weights: BTreeMap<String, NonZeroU32>,
    sessions_max: usize,
    choices: u64,
    gone: BTreeSet<NodeId>,
}

#[derive(Debug)]
struct Node {
    serving: Serving,
    is_serving: bool,
    weight: NonZeroU32,
    sessions: usize,
    /// It did not take a session although it serves. Until then it is asked for none.
    shunned_until: Option<Instant>,
    /// Equal loads are settled by whose turn it is.
    last_chosen: u64,
    /// Sessions on it hear when some of them had better go.
    call: Arc<Notify>,
}

impl Node {
    /// The load with one more session is `load().0 / load().1`.
    fn load(&self) -> (u64, u64) {
        (self.sessions as u64 + 1, self.weight.get().into())
    }

    fn is_open(&self, now: Instant) -> bool {
        self.is_serving && self.shunned_until.is_none_or(|until| until <= now)
    }
}

impl Nodes {
    pub(super) fn new(weights: BTreeMap<String, NonZeroU32>, sessions_max: usize) -> Self {
        Self { nodes: BTreeMap::new(), weights, sessions_max, choices: 0, gone: BTreeSet::new() }
    }

    /// Other bounds, and other shares for those nodes that are known.
    pub(super) fn change(&mut self, weights: BTreeMap<String, NonZeroU32>, sessions_max: usize) {
        for node in self.nodes.values_mut() {
            node.weight = weights.get(&node.serving.name).copied().unwrap_or(NonZeroU32::MIN);
        }
        (self.weights, self.sessions_max) = (weights, sessions_max);
    }

    /// These nodes serve, and no others. True if that is news.
    pub(super) fn update(&mut self, serving: &[Serving]) -> bool {
        let mut is_news = false;
        for node in self.nodes.values_mut() {
            let still = serving.iter().any(|serving| serving.id == node.serving.id);
            is_news |= node.is_serving != still;
            node.is_serving = still;
        }
        for serving in serving {
            let weight = self.weights.get(&serving.name).copied().unwrap_or(NonZeroU32::MIN);
            let fresh = || {
                is_news = true;
                let serving = serving.clone();
                Node {
                    serving,
                    is_serving: true,
                    weight,
                    sessions: 0,
                    shunned_until: None,
                    last_chosen: 0,
                    call: Arc::default(),
                }
            };
            let node = self.nodes.entry(serving.id).or_insert_with(fresh);
            node.serving.clone_from(serving);
        }
        self.nodes.retain(|_, node| node.is_serving || node.sessions > 0);
        is_news
    }

    /// These nodes are gone, and no others. Their sessions hear of it; who does not listen now, the next time.
    pub(super) fn abandon(&mut self, gone: &BTreeSet<NodeId>) {
        self.gone.clone_from(gone);
        for node in gone.iter().filter_map(|id| self.nodes.get(id)) {
            node.call.notify_waiters();
        }
    }

    pub(super) fn is_gone(&self, id: NodeId) -> bool {
        self.gone.contains(&id)
    }

    /// Takes a place for one session at the node with the least load.
    pub(super) fn take(&mut self, now: Instant) -> Result<(Serving, Arc<Notify>), Lack> {
        let lack = self.lack(now);
        let id = self.least(now).map(|node| node.serving.id).ok_or(lack)?;
        self.seat(id).ok_or(lack)
    }

    /// Takes a place for a session that has one at this node, if it is better off at another one. Its own is given back
    /// at once: otherwise, too many would leave at the same time.
    pub(super) fn take_better(&mut self, own: NodeId, now: Instant) -> Option<(Serving, Arc<Notify>)> {
        let better = self.better(own, now)?;
        self.nodes.get_mut(&own)?.sessions -= 1;
        self.seat(better)
    }

    /// The session stays at this node after all. False if the node is not known any more.
    pub(super) fn take_again(&mut self, own: NodeId) -> bool {
        let node = self.nodes.get_mut(&own);
        node.map(|node| node.sessions += 1).is_some()
    }

    /// Calls upon the sessions of all nodes that some of them had better leave.
    pub(super) fn call(&self, now: Instant) {
        for (id, node) in &self.nodes {
            if node.sessions > 0 && self.better(*id, now).is_some() {
                node.call.notify_waiters();
            }
        }
    }

    /// Where a session of this node is better off: anywhere, if it does not serve, or where the load is less, with one
    /// more session, than it is here.
    pub(super) fn better(&self, own: NodeId, now: Instant) -> Option<NodeId> {
        let node = self.nodes.get(&own)?;
        let least = self.least(now).filter(|least| least.serving.id != own)?;
        let ((sessions, weight), own_weight) = (least.load(), u64::from(node.weight.get()));
        let is_less = sessions * own_weight < node.sessions as u64 * weight;
        (is_less || !node.is_serving).then_some(least.serving.id)
    }

    pub(super) fn is_serving(&self, id: NodeId) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.is_serving)
    }

    fn least(&self, now: Instant) -> Option<&Node> {
        let free = self.nodes.values().filter(|node| node.is_open(now) && node.sessions < self.sessions_max);
        free.min_by(|a, b| {
            let ((a_sessions, a_weight), (b_sessions, b_weight)) = (a.load(), b.load());
            (a_sessions * b_weight).cmp(&(b_sessions * a_weight)).then(a.last_chosen.cmp(&b.last_chosen))
        })
    }

    fn seat(&mut self, id: NodeId) -> Option<(Serving, Arc<Notify>)> {
        let node = self.nodes.get_mut(&id)?;
        self.choices += 1;
        node.last_chosen = self.choices;
        node.sessions += 1;
        Some((node.serving.clone(), Arc::clone(&node.call)))
    }

    /// What is the matter if no place can be had.
    pub(super) fn lack(&self, now: Instant) -> Lack {
        if self.nodes.values().any(|node| node.is_open(now)) { Lack::Full } else { Lack::NoneServes }
    }

    /// A session that had a place there is over.
    pub(super) fn give_back(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.sessions -= 1;
            if node.sessions == 0 && !node.is_serving {
                self.nodes.remove(&id);
            }
        }
    }

    /// The node did not take a session. Others are asked first for a while.
    pub(super) fn shun(&mut self, id: NodeId, until: Instant) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.shunned_until = Some(until);
        }
    }

    /// All nodes that serve or have sessions.
    pub(super) fn loads(&self) -> Vec<Load> {
        let load = |node: &Node| Load {
            node: node.serving.name.clone(),
            is_serving: node.is_serving,
            sessions: node.sessions,
        };
        self.nodes.values().map(load).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn serving(ids: impl IntoIterator<Item = u32>) -> Vec<Serving> {
        let node = |id| Serving { id: NodeId(id), name: format!("n{id}"), host: "h".to_owned(), port: 1 };
        ids.into_iter().map(node).collect()
    }

    fn nodes(count: u32, sessions_max: usize) -> Nodes {
        let mut nodes = Nodes::new(BTreeMap::new(), sessions_max);
        assert!(nodes.update(&serving(1..=count)));
        nodes
    }

    fn take(nodes: &mut Nodes, now: Instant) -> Result<u32, Lack> {
        nodes.take(now).map(|(node, _)| node.id.0)
    }

    #[test]
    fn sessions_go_where_the_fewest_are() {
        let (mut nodes, now) = (nodes(3, 10), Instant::now());
        let first: Vec<_> = (0..6).map(|_| take(&mut nodes, now).unwrap()).collect();
        assert_eq!(first, [1, 2, 3, 1, 2, 3]);
        nodes.give_back(NodeId(2));
        assert_eq!(take(&mut nodes, now), Ok(2));
    }

    #[test]
    fn short_sessions_take_turns() {
        let (mut nodes, now) = (nodes(3, 10), Instant::now());
        let mut chosen = Vec::new();
        for _ in 0..6 {
            let node = take(&mut nodes, now).unwrap();
            chosen.push(node);
            nodes.give_back(NodeId(node));
        }
        assert_eq!(chosen, [1, 2, 3, 1, 2, 3]);
    }

    #[test]
    fn weights_are_shares() {
        let weights = BTreeMap::from([("n1".to_owned(), NonZeroU32::new(3).unwrap())]);
        let (mut nodes, now) = (Nodes::new(weights, 100), Instant::now());
        nodes.update(&serving(1..=2));
        let chosen: Vec<_> = (0..40).map(|_| take(&mut nodes, now).unwrap()).collect();
        assert_eq!(chosen.iter().filter(|node| **node == 1).count(), 30);
    }

    #[test]
    fn shares_and_bounds_may_change() {
        let (mut nodes, now) = (nodes(2, 1), Instant::now());
        assert_eq!((take(&mut nodes, now), take(&mut nodes, now)), (Ok(1), Ok(2)));
        nodes.change(BTreeMap::from([("n2".to_owned(), NonZeroU32::new(3).unwrap())]), 4);
        let chosen: Vec<_> = (0..4).map(|_| take(&mut nodes, now).unwrap()).collect();
        assert_eq!(chosen, [2, 2, 2, 1]);
        nodes.change(BTreeMap::new(), 1);
        nodes.give_back(NodeId(1));
        assert_eq!(take(&mut nodes, now), Err(Lack::Full), "who has a place keeps it");
    }

    #[test]
    fn full_and_gone_are_told_apart() {
        let (mut nodes, now) = (nodes(2, 1), Instant::now());
        assert_eq!((take(&mut nodes, now), take(&mut nodes, now)), (Ok(1), Ok(2)));
        assert_eq!(take(&mut nodes, now), Err(Lack::Full));
        nodes.give_back(NodeId(1));
        assert!(nodes.update(&serving([2])));
        assert_eq!(take(&mut nodes, now), Err(Lack::Full));
        assert!(nodes.update(&[]));
        assert_eq!(take(&mut nodes, now), Err(Lack::NoneServes));
    }

    #[test]
    fn a_node_that_is_back_still_has_its_sessions() {
        let (mut nodes, now) = (nodes(2, 10), Instant::now());
        assert_eq!((take(&mut nodes, now), take(&mut nodes, now), take(&mut nodes, now)), (Ok(1), Ok(2), Ok(1)));
        assert!(nodes.update(&serving([2])));
        assert!(nodes.update(&serving([1, 2])));
        assert!(!nodes.update(&serving([1, 2])));
        assert_eq!((take(&mut nodes, now), take(&mut nodes, now)), (Ok(2), Ok(1)));
    }

    #[test]
    fn who_takes_no_session_is_left_alone_for_a_while() {
        let (mut nodes, now) = (nodes(2, 10), Instant::now());
        let later = now + Duration::from_secs(1);
        nodes.shun(NodeId(1), later);
        assert_eq!((take(&mut nodes, now), take(&mut nodes, now)), (Ok(2), Ok(2)));
        assert_eq!(take(&mut nodes, later), Ok(1));
        nodes.shun(NodeId(1), later);
        nodes.shun(NodeId(2), later);
        assert_eq!(take(&mut nodes, now), Err(Lack::NoneServes));
    }

    #[test]
    fn sessions_leave_for_where_the_load_is_less() {
        let (mut nodes, now) = (nodes(2, 100), Instant::now());
        for _ in 0..12 {
            take(&mut nodes, now).unwrap();
        }
        let better = |nodes: &mut Nodes, own| nodes.take_better(NodeId(own), now).map(|(node, _)| node.id.0);
        assert_eq!(better(&mut nodes, 1), None, "they are even");
        nodes.update(&serving(1..=3));
        let mut moved = 0;
        while [1, 2].into_iter().any(|own| better(&mut nodes, own).is_some()) {
            moved += 1;
        }
        assert_eq!(nodes.loads().iter().map(|load| load.sessions).collect::<Vec<_>>(), [4, 4, 4]);
        assert!(moved <= 5, "{moved}");
        nodes.update(&serving(1..=2));
        assert!(better(&mut nodes, 3).is_some(), "anywhere is better than where nobody serves");
        nodes.shun(NodeId(1), now + Duration::from_secs(1));
        nodes.shun(NodeId(2), now + Duration::from_secs(1));
        assert_eq!(better(&mut nodes, 3), None);
        assert!(nodes.take_again(NodeId(3)) && !nodes.take_again(NodeId(9)));
        assert_eq!(nodes.loads()[2].sessions, 4);
    }

    #[test]
    fn weights_count_for_who_leaves_too() {
        let weights = BTreeMap::from([("n2".to_owned(), NonZeroU32::new(3).unwrap())]);
        let (mut nodes, now) = (Nodes::new(weights, 100), Instant::now());
        nodes.update(&serving([1]));
        for _ in 0..8 {
            take(&mut nodes, now).unwrap();
        }
        nodes.update(&serving(1..=2));
        while nodes.take_better(NodeId(1), now).is_some() {}
        assert_eq!(nodes.loads().iter().map(|load| load.sessions).collect::<Vec<_>>(), [2, 6]);
        assert!(nodes.take_better(NodeId(2), now).is_none(), "and none goes back");
    }
}
