//! Hashing that is the same on every node, and maps built on it.

use std::hash::{BuildHasherDefault, Hasher};

use pgrenga_writeset::port::AbortReason;
use pgrenga_writeset::{Seq, TransactionId};

/// A map whose hasher has no seed. Its order of iteration still depends on
/// history: sort what leaves it.
#[allow(clippy::disallowed_types, reason = "the hasher is fixed; the one place where the type is named")]
pub(crate) type Map<K, V, H> = std::collections::HashMap<K, V, BuildHasherDefault<H>>;

/// For keys that are hashes already.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(u64::from(byte)));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 ^= value;
    }
}

/// For transaction ids: their counters are dense, so the bits must be spread.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mixing(u64);

impl Hasher for Mixing {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(u64::from(byte)));
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = mix(self.0, value);
    }
}

/// One round of folded multiplication by 2^64 divided by the golden ratio.
fn mix(state: u64, value: u64) -> u64 {
    let product = u128::from(state.rotate_left(23) ^ value ^ 0x2545_F491_4F6C_DD1D) * 0x9E37_79B9_7F4A_7C15;
    (product >> 64) as u64 ^ product as u64
}

/// Runs over all verdicts, so that two nodes can compare what they decided.
/// Part of the snapshot's format: not to be changed without its version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct VerdictHash(pub(crate) u64);

impl VerdictHash {
    pub(crate) fn commit(&mut self, seq: Seq, txid: &TransactionId) {
        self.fold(0, seq.0, txid);
    }

    pub(crate) fn abort(&mut self, txid: &TransactionId, reason: &AbortReason) {
        let kind = match reason {
            AbortReason::Key { .. } => 1,
            AbortReason::Relation { .. } => 2,
            AbortReason::Catalog { .. } => 3,
            AbortReason::TooOld => 4,
            AbortReason::FenceLost => 5,
            AbortReason::Void => 6,
            AbortReason::Malformed => 7,
            AbortReason::GivenUp => 8,
            AbortReason::Read { .. } => 9,
        };
        self.fold(kind, 0, txid);
    }

    fn fold(&mut self, kind: u64, seq: u64, txid: &TransactionId) {
        let node_and_life = u64::from(txid.node.0) << 32 | u64::from(txid.incarnation.0);
        self.0 = [kind, seq, node_and_life, txid.counter].into_iter().fold(self.0, mix);
    }
}
