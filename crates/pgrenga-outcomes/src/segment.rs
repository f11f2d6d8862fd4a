//! A segment: the outcomes of successive transactions of one life of a node.
//!
//! A transaction's place is the part of its counter that was drawn for it alone; the commit slot, which
//! the counter names as well, has no part in it.
//!
//! ```text
//! magic "pgrout" version u16, crc32c u32 of what follows, two bits for each transaction from the lowest on
//! ```
//!
//! The two bits: aborted 1, committed 2. Bytes that are not there are zero.

use pgrenga_writeset::{Incarnation, NodeId, TransactionId};

use crate::Mark;

/// Transactions in a segment.
const PLACES: u64 = 1 << 20;
const MAGIC: &[u8; 8] = b"pgrout\x01\x00";
const HEADER: usize = MAGIC.len() + 4;

/// Names a segment. In the order in which a node's transactions begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) ordinal: u32,
}

impl Key {
    /// Where a transaction stands: the segment, and the place in it.
    pub(crate) fn of(txid: &TransactionId) -> (Self, usize) {
        let drawn = txid.counter >> TransactionId::SLOT_BITS;
        let ordinal = u32::try_from(drawn / PLACES).expect("a counter has 64 bits, and a slot and a place take 36");
        (Self { node: txid.node, incarnation: txid.incarnation, ordinal }, (drawn % PLACES) as usize)
    }

    pub(crate) fn file_name(&self) -> String {
        format!("{:08x}-{:08x}-{:08x}", self.node.0, self.incarnation.0, self.ordinal)
    }

    pub(crate) fn of_file(name: &str) -> Option<Self> {
        let mut parts = name.split('-').map(|part| u32::from_str_radix(part, 16));
        let mut part = || parts.next()?.ok();
        let key = Self { node: NodeId(part()?), incarnation: Incarnation(part()?), ordinal: part()? };
        (key.file_name() == name).then_some(key)
    }
}

/// A segment's bits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bits(Vec<u8>);

impl Bits {
    pub(crate) fn set(&mut self, place: usize, mark: Mark) {
        let at = place / 4;
        if self.0.len() <= at {
            self.0.resize(at + 1, 0);
        }
        let bit = match mark {
            Mark::Aborted => 1,
            Mark::Committed => 2,
        };
        self.0[at] |= bit << (place % 4 * 2);
    }

    pub(crate) fn get(&self, place: usize) -> u8 {
        self.0.get(place / 4).map_or(0, |byte| byte >> (place % 4 * 2) & 3)
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        self.0.iter_mut().zip(&other.0).for_each(|(byte, other)| *byte |= other);
    }

    pub(crate) fn seal(&self) -> Vec<u8> {
        let mut file = Vec::with_capacity(HEADER + self.0.len());
        file.extend_from_slice(MAGIC);
        file.extend_from_slice(&crc32c::crc32c(&self.0).to_le_bytes());
        file.extend_from_slice(&self.0);
        file
    }

    /// Nothing if the file is damaged.
    pub(crate) fn open(file: &[u8]) -> Option<Self> {
        let (magic, rest) = file.split_first_chunk::<{ MAGIC.len() }>()?;
        let (crc, bits) = rest.split_first_chunk::<4>()?;
        let is_whole = magic == MAGIC && crc32c::crc32c(bits) == u32::from_le_bytes(*crc);
        (is_whole && bits.len() as u64 <= PLACES / 4).then(|| Self(bits.to_vec()))
    }
}

/// What two bits say. Who committed may have come a second time, and aborted then.
pub(crate) fn mark(bits: u8) -> Option<Mark> {
    match bits {
        0 => None,
        1 => Some(Mark::Aborted),
        _ => Some(Mark::Committed),
    }
}
