//! Above which place of each node nothing is missing, and up to where of the log everything is kept.
//!
//! ```text
//! magic "pgrflr" version u16, crc32c u32 of what follows,
//! kept u8 (whether there is an index), u64 (the index), { node u32, incarnation u32, ordinal u32 } ...
//! ```

use std::collections::BTreeMap;

use pgrenga_writeset::{Incarnation, LogIndex, NodeId, Reader, Sink};

use crate::segment::Key;

const MAGIC: &[u8; 8] = b"pgrflr\x01\x00";

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Floors {
    /// Everything decided up to here is in the files.
    pub(crate) kept: Option<LogIndex>,
    /// Of a node that is not here nothing is missing.
    floors: BTreeMap<NodeId, (Incarnation, u32)>,
}

impl Floors {
    /// Whether every decision about the segment's transactions is known.
    pub(crate) fn is_complete(&self, key: &Key) -> bool {
        self.floors.get(&key.node).is_none_or(|floor| (key.incarnation, key.ordinal) >= *floor)
    }

    /// Something is missing of that life, or of those before it.
    pub(crate) fn raise_above_life(&mut self, node: NodeId, incarnation: Incarnation) {
        self.raise(node, (Incarnation(incarnation.0.saturating_add(1)), 0));
    }

    /// Something is missing in that segment, or in those before it.
    pub(crate) fn raise_above(&mut self, key: &Key) {
        self.raise(key.node, (key.incarnation, key.ordinal.saturating_add(1)));
    }

    fn raise(&mut self, node: NodeId, to: (Incarnation, u32)) {
        let floor = self.floors.entry(node).or_default();
        *floor = to.max(*floor);
    }

    pub(crate) fn seal(&self) -> Vec<u8> {
        let mut body = Vec::new();
        body.put_u8(u8::from(self.kept.is_some()));
        body.put_u64(self.kept.map_or(0, |kept| kept.0));
        for (node, (incarnation, ordinal)) in &self.floors {
            body.put_u32(node.0);
            body.put_u32(incarnation.0);
            body.put_u32(*ordinal);
        }
        let mut file = MAGIC.to_vec();
        file.put_u32(crc32c::crc32c(&body));
        file.put(&body);
        file
    }

    /// Nothing if the file is damaged.
    pub(crate) fn open(file: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(file.strip_prefix(MAGIC)?);
        if reader.u32().ok()? != crc32c::crc32c(reader.rest()) {
            return None;
        }
        let (is_kept, index) = (reader.u8().ok()? != 0, reader.u64().ok()?);
        let mut floors = Self { kept: is_kept.then_some(LogIndex(index)), floors: BTreeMap::new() };
        while !reader.is_empty() {
            let node = NodeId(reader.u32().ok()?);
            floors.raise(node, (Incarnation(reader.u32().ok()?), reader.u32().ok()?));
        }
        Some(floors)
    }
}
