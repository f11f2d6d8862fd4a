//! A directed multigraph whose walks are restricted by the kinds of their edges.
//!
//! "No two anti-dependencies are adjacent" is a property of walks, which a small
//! automaton can check: one bit, what the last edge was. Cycles are therefore
//! searched in the product of graph and automaton, where each vertex has two
//! states. A cycle there is a closed walk that keeps the rule all around, also
//! where it closes.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// Kinds of edges, by what orders the two transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum EdgeKind {
    /// Write dependency: the second replaced what the first wrote.
    Ww,
    /// Read dependency: the second read what the first wrote.
    Wr,
    /// Anti-dependency: the second replaced what the first read.
    Rw,
    /// The second followed in the same process.
    Session,
    /// The second began after the first was acknowledged.
    RealTime,
}

impl EdgeKind {
    pub(crate) fn is_order(self) -> bool {
        matches!(self, Self::Session | Self::RealTime)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ww => "ww",
            Self::Wr => "wr",
            Self::Rw => "rw",
            Self::Session => "session",
            Self::RealTime => "real-time",
        }
    }
}

/// An edge, with the key and the value that prove it (0 for order edges).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edge {
    pub(crate) from: u32,
    pub(crate) to: u32,
    pub(crate) kind: EdgeKind,
    pub(crate) key: u64,
    pub(crate) value: u64,
}

/// Which walks are looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walk<'a> {
    /// Edges of other kinds do not exist.
    pub(crate) kinds: &'a [EdgeKind],
    /// Where anti-dependencies may stand.
    pub(crate) rule: Rule,
}

/// Where a walk may use an anti-dependency so that it still proves an order of
/// commits that the model must not turn around.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Snapshot isolation is the absence of cycles in (dependency or order);
    /// anti-dependency? (Cerone and Gotsman, "Analysing Snapshot Isolation",
    /// PODC 2016): never after another anti-dependency.
    Snapshot,
    /// With a snapshot for each statement only a read that began after an
    /// acknowledgement says anything by what it missed: only after an order edge.
    Statement,
}

impl Walk<'_> {
    /// The automaton: its bit after an edge of this kind, `None` if the edge
    /// must not be taken.
    fn step(self, bit: bool, kind: EdgeKind) -> Option<bool> {
        if !self.kinds.contains(&kind) {
            return None;
        }
        match (self.rule, kind) {
            (Rule::Snapshot, EdgeKind::Rw) => (!bit).then_some(true),
            (Rule::Snapshot, _) => Some(false),
            (Rule::Statement, EdgeKind::Rw) => bit.then_some(false),
            (Rule::Statement, kind) => Some(kind.is_order()),
        }
    }
}

/// A vertex together with the automaton's bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct State(u32);

impl State {
    fn new(vertex: u32, bit: bool) -> Self {
        Self(vertex * 2 + u32::from(bit))
    }

    pub(crate) fn vertex(self) -> u32 {
        self.0 / 2
    }

    fn bit(self) -> bool {
        self.0 % 2 == 1
    }

    fn index(self) -> usize {
        self.0 as usize
    }
}

/// The component number of states that lie on no cycle.
const ON_NO_CYCLE: u32 = u32::MAX;

/// The strongly connected components that hold cycles.
#[derive(Debug)]
pub(crate) struct Components {
    of_state: Vec<u32>,
    /// The states of each component.
    pub(crate) members: Vec<Vec<State>>,
}

impl Components {
    fn together(&self, a: State, b: State) -> bool {
        let component = self.of_state[a.index()];
        component != ON_NO_CYCLE && component == self.of_state[b.index()]
    }
}

/// The graph, as adjacency lists in one piece of memory.
#[derive(Debug)]
pub(crate) struct Graph {
    edges: Vec<Edge>,
    /// Vertex `v`'s edges are `edges[first[v]..first[v + 1]]`.
    first: Vec<usize>,
}

impl Graph {
    pub(crate) fn new(vertices: usize, mut edges: Vec<Edge>) -> Self {
        edges.sort_by_key(|edge| edge.from);
        let mut first = vec![0; vertices + 1];
        for edge in &edges {
            first[edge.from as usize + 1] += 1;
        }
        for vertex in 0..vertices {
            first[vertex + 1] += first[vertex];
        }
        Self { edges, first }
    }

    pub(crate) fn edge_count(&self) -> usize {
        self.edges.len()
    }

    /// The edges between vertices that `keep` accepts.
    pub(crate) fn restricted(&self, keep: impl Fn(u32) -> bool) -> Self {
        let kept = self.edges.iter().filter(|e| keep(e.from) && keep(e.to));
        Self::new(self.first.len() - 1, kept.copied().collect())
    }

    fn edges_of(&self, state: State) -> &[Edge] {
        let vertex = state.vertex() as usize;
        &self.edges[self.first[vertex]..self.first[vertex + 1]]
    }

    /// The edges that a walk in this state may take, and where they lead.
    pub(crate) fn next(&self, walk: Walk<'_>, state: State) -> impl Iterator<Item = (&Edge, State)> {
        self.edges_of(state).iter().filter_map(move |edge| {
            let bit = walk.step(state.bit(), edge.kind)?;
            Some((edge, State::new(edge.to, bit)))
        })
    }

    /// Tarjan's algorithm, with a stack of its own: histories make deep graphs.
    pub(crate) fn components(&self, walk: Walk<'_>) -> Components {
        let states = (self.first.len() - 1) * 2;
        let mut search = Tarjan {
            graph: self,
            walk,
            visited: 0,
            number: vec![0; states],
            low: vec![0; states],
            stack: Vec::new(),
            found: Components { of_state: vec![ON_NO_CYCLE; states], members: Vec::new() },
        };
        for state in 0..u32::try_from(states).expect("less than 2^31 transactions") {
            if search.number[state as usize] == 0 {
                search.visit(State(state));
            }
        }
        search.found
    }

    /// The cheapest closed walk that begins with `edge`, which leads from state
    /// `from` to state `to` in one component: the fewest anti-dependencies, then
    /// the fewest edges.
    pub(crate) fn cycle_through(
        &self,
        walk: Walk<'_>,
        components: &Components,
        (from, edge, to): (State, &Edge, State),
    ) -> Option<Vec<Edge>> {
        const ANTI_DEPENDENCY: u64 = 1 << 32;
        let cost_of = |edge: &Edge| match edge.kind {
            EdgeKind::Rw => ANTI_DEPENDENCY,
            _ => 1,
        };
        let mut reached: HashMap<State, (u64, Option<(State, Edge)>)> = HashMap::new();
        reached.insert(to, (0, None));
        let mut queue = BinaryHeap::from([Reverse((0, to))]);
        while let Some(Reverse((cost, state))) = queue.pop() {
            if state == from {
                break;
            }
            if reached[&state].0 < cost {
                continue;
            }
            for (edge, next) in self.next(walk, state) {
                let cost = cost + cost_of(edge);
                let better = reached.get(&next).is_none_or(|known| cost < known.0);
                if better && components.together(state, next) {
                    reached.insert(next, (cost, Some((state, *edge))));
                    queue.push(Reverse((cost, next)));
                }
            }
        }
        let mut back = Vec::new();
        let mut state = from;
        while let Some((before, edge)) = reached.get(&state)?.1 {
            back.push(edge);
            state = before;
        }
        back.push(*edge);
        back.reverse();
        Some(back)
    }

    /// The edges of these kinds that lie on cycles of one component.
    pub(crate) fn cyclic_edges<'g>(
        &'g self,
        walk: Walk<'g>,
        components: &'g Components,
        component: usize,
        kinds: &'g [EdgeKind],
    ) -> impl Iterator<Item = (State, &'g Edge, State)> {
        components.members[component].iter().flat_map(move |&from| {
            self.next(walk, from)
                .filter(move |(edge, to)| kinds.contains(&edge.kind) && components.together(from, *to))
                .map(move |(edge, to)| (from, edge, to))
        })
    }
}

struct Tarjan<'g> {
    graph: &'g Graph,
    walk: Walk<'g>,
    visited: u32,
    /// Order of visit, from 1; `u32::MAX` once the state's component is complete.
    number: Vec<u32>,
    low: Vec<u32>,
    stack: Vec<State>,
    found: Components,
}

impl Tarjan<'_> {
    fn enter(&mut self, state: State) {
        self.visited += 1;
        self.number[state.index()] = self.visited;
        self.low[state.index()] = self.visited;
        self.stack.push(state);
    }

    fn visit(&mut self, root: State) {
        let graph = self.graph;
        self.enter(root);
        let mut path = vec![(root, 0)];
        while let Some((state, cursor)) = path.last_mut() {
            let state = *state;
            if let Some(edge) = graph.edges_of(state).get(*cursor) {
                *cursor += 1;
                let Some(bit) = self.walk.step(state.bit(), edge.kind) else {
                    continue;
                };
                let next = State::new(edge.to, bit);
                match self.number[next.index()] {
                    0 => {
                        self.enter(next);
                        path.push((next, 0));
                    }
                    number => self.lower(state, number),
                }
            } else {
                path.pop();
                let low = self.low[state.index()];
                if low == self.number[state.index()] {
                    self.close(state);
                }
                if let Some(&(parent, _)) = path.last() {
                    self.lower(parent, low);
                }
            }
        }
    }

    fn lower(&mut self, state: State, number: u32) {
        let low = &mut self.low[state.index()];
        *low = number.min(*low);
    }

    /// Takes the component of which `root` was visited first from the stack.
    fn close(&mut self, root: State) {
        let start = self.stack.iter().rposition(|&s| s == root).unwrap_or(0);
        let members = self.stack.split_off(start);
        for member in &members {
            self.number[member.index()] = u32::MAX;
        }
        if members.len() > 1 {
            let component = u32::try_from(self.found.members.len()).expect("fewer than states");
            for member in &members {
                self.found.of_state[member.index()] = component;
            }
            self.found.members.push(members);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::EdgeKind::{RealTime, Rw, Wr, Ww};
    use super::*;

    const ALL: &[EdgeKind] = &[Ww, Wr, Rw, EdgeKind::Session, RealTime];

    fn cyclic(edges: &[(u32, EdgeKind, u32)], rule: Rule) -> bool {
        let edge = |&(from, kind, to)| Edge { from, to, kind, key: 0, value: 0 };
        let graph = Graph::new(5, edges.iter().map(edge).collect());
        let walk = Walk { kinds: ALL, rule };
        !graph.components(walk).members.is_empty()
    }

    #[test]
    fn snapshot_walks_have_no_adjacent_anti_dependencies() {
        let cyclic = |edges: &[_]| cyclic(edges, Rule::Snapshot);
        assert!(!cyclic(&[(0, Rw, 1), (1, Rw, 0)]));
        assert!(cyclic(&[(0, Rw, 1), (1, Wr, 0)]));
        assert!(cyclic(&[(0, Rw, 1), (1, Wr, 2), (2, Rw, 3), (3, Wr, 0)]));
        // Adjacent only where the cycle closes.
        assert!(!cyclic(&[(0, Rw, 1), (1, Ww, 2), (2, Rw, 0)]));
        assert!(!cyclic(&[(0, Ww, 1), (1, Wr, 2)]));
    }

    #[test]
    fn statement_walks_use_anti_dependencies_after_orders_only() {
        let cyclic = |edges: &[_]| cyclic(edges, Rule::Statement);
        assert!(cyclic(&[(0, RealTime, 1), (1, Rw, 0)]));
        assert!(!cyclic(&[(0, Wr, 1), (1, Rw, 0)]));
        assert!(cyclic(&[(0, Ww, 1), (1, Wr, 0)]));
        assert!(!cyclic(&[(0, RealTime, 1), (1, Rw, 2), (2, Rw, 0)]));
    }

    #[test]
    fn long_chains_do_not_overflow_the_stack() {
        let count = 300_000;
        let chain = (0..count).map(|from| Edge { from, to: (from + 1) % count, kind: Ww, key: 0, value: 0 });
        let graph = Graph::new(count as usize, chain.collect());
        let walk = Walk { kinds: ALL, rule: Rule::Snapshot };
        let components = graph.components(walk);
        assert_eq!(components.members.len(), 1);
        assert_eq!(components.members[0].len(), count as usize);
    }
}
