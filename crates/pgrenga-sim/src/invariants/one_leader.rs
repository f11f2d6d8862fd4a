//! No two members lead in one term.

use std::collections::BTreeMap;

use super::{Event, Invariant};
use crate::network::Id;

#[derive(Default)]
pub(super) struct OneLeader {
    leaders: BTreeMap<u64, Id>,
}

impl Invariant for OneLeader {
    fn see(&mut self, event: &Event<'_>) -> Result<(), String> {
        let Event::Leads { node, term } = event else { return Ok(()) };
        let leader = *self.leaders.entry(*term).or_insert(*node);
        if leader == *node { Ok(()) } else { Err(format!("nodes {leader} and {node} both lead in term {term}")) }
    }
}
