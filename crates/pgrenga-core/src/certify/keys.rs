//! The key index: who wrote and who locked each key last.
//!
//! The index is bounded by forgetting in two generations. New accesses go to
//! the current one; when that is full it becomes the previous one, and what
//! the older previous one knew is summed up in `dropped`: one imaginary entry
//! that stands for every key. So nothing is ever missed: a key that is not
//! found may still have been accessed as late as `dropped` says.

use std::sync::Arc;

use pgrenga_writeset::writeset::{Access, Key, RowLock};
use pgrenga_writeset::{Reader, Seq, Sink};

use super::Stamp;
use crate::Error;
use crate::hash::{Identity, Map};
use crate::membership::NodeHandle;
use crate::snapshot::put_map;

/// The conflict table of row locks is a chain: with the modes numbered by
/// strength from 0, two conflict exactly if their numbers add up to 3 or more.
/// Hence one seq for "this mode or a stronger one" answers a question with one
/// look. A writer of a row holds `NoKeyUpdate` or `Update`, nothing weaker, so
/// that an entry is 2 slots for writes and 4 for locks.
const SLOTS: usize = 6;
const WRITES: usize = 0;
const LOCKS: usize = 2;

/// Numbers add up to this or more: conflict.
const CONFLICT: usize = 3;

/// Strength of the lock with which the key was held. A write under a weaker
/// lock than any that PostgreSQL takes counts as the weakest that it takes.
fn strength(key: &Key) -> usize {
    match key.access {
        Access::Write | Access::Deferred => key.mode.max(RowLock::NoKeyUpdate) as usize,
        Access::Lock => key.mode as usize,
    }
}

/// The slots that an access of this key fills: its own mode's and all weaker.
fn slots(key: &Key) -> std::ops::RangeInclusive<usize> {
    match key.access {
        Access::Write | Access::Deferred => WRITES..=WRITES + strength(key) - RowLock::NoKeyUpdate as usize,
        Access::Lock => LOCKS..=LOCKS + strength(key),
    }
}

/// The two slots that tell the newest conflicting write and lock.
fn questions(key: &Key) -> (usize, usize) {
    let weakest = CONFLICT - strength(key);
    (WRITES + weakest.saturating_sub(RowLock::NoKeyUpdate as usize), LOCKS + weakest)
}

/// Seqs are kept as their distance from the generation's base, so that an entry
/// with its key takes 48 bytes. Zero is "never".
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    distances: [u32; SLOTS],
    nodes: [NodeHandle; SLOTS],
}

impl Entry {
    /// Which slots are filled, by bit, then those: most entries have one or two.
    fn encode(&self, out: &mut Vec<u8>) {
        let filled = (0..SLOTS).filter(|slot| self.distances[*slot] != 0);
        out.put_u8(filled.clone().fold(0, |bits, slot| bits | 1 << slot));
        for slot in filled {
            out.put_u32(self.distances[slot]);
            out.put_u16(self.nodes[slot].0);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let filled = reader.u8()?;
        let mut entry = Self::default();
        for slot in (0..SLOTS).filter(|slot| filled & 1 << slot != 0) {
            entry.distances[slot] = reader.u32()?;
            entry.nodes[slot] = NodeHandle(reader.u16()?);
        }
        Ok(entry)
    }
}

#[derive(Clone, Debug, Default)]
struct Generation {
    /// Below every seq in it.
    base: Seq,
    entries: Map<u64, Entry, Identity>,
    /// The newest of all entries, by slot.
    newest: [Seq; SLOTS],
}

impl Generation {
    fn get(&self, hash: u64, slot: usize) -> Option<Stamp> {
        // Most workloads leave most slots empty (no locks without writing):
        // then the entry need not be fetched from memory.
        if self.newest[slot] == Seq(0) {
            return None;
        }
        let entry = self.entries.get(&hash)?;
        let distance = entry.distances[slot];
        (distance != 0).then(|| Stamp { seq: Seq(self.base.0 + u64::from(distance)), node: Some(entry.nodes[slot]) })
    }

    fn record(&mut self, key: &Key, seq: Seq, node: NodeHandle) {
        let distance = (seq.0 - self.base.0) as u32;
        let entry = self.entries.entry(key.hash).or_default();
        for slot in slots(key) {
            entry.distances[slot] = distance;
            entry.nodes[slot] = node;
            self.newest[slot] = seq;
        }
    }

    fn reset(&mut self, base: Seq) {
        self.base = base;
        self.entries.clear();
        self.newest = [Seq(0); SLOTS];
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.base.0);
        self.newest.iter().for_each(|seq| out.put_u64(seq.0));
        put_map(out, &self.entries, |hash, entry, out| {
            out.put_u64(*hash);
            entry.encode(out);
        });
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let mut generation = Self { base: Seq(reader.u64()?), ..Self::default() };
        for seq in &mut generation.newest {
            *seq = Seq(reader.u64()?);
        }
        for _ in 0..reader.u32()? {
            let hash = reader.u64()?;
            generation.entries.insert(hash, Entry::decode(reader)?);
        }
        Ok(generation)
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    limit: usize,
    current: Generation,
    /// Never changes, so that a copy of the core shares it.
    previous: Arc<Generation>,
    /// By slot, the highest seq that was forgotten.
    dropped: [Seq; SLOTS],
}

/// The newest conflicting accesses of a key.
pub(super) struct Newest {
    /// By a writer.
    pub(super) written: Stamp,
    /// By one that only locked.
    pub(super) locked: Stamp,
}

impl Keys {
    pub(super) fn new(limit: u32) -> Self {
        Self {
            limit: limit as usize,
            current: Generation::default(),
            previous: Arc::default(),
            dropped: [Seq(0); SLOTS],
        }
    }

    /// What conflicts with this use of the key.
    pub(super) fn newest(&self, key: &Key) -> Newest {
        let (write, lock) = questions(key);
        Newest { written: self.slot(key.hash, write), locked: self.slot(key.hash, lock) }
    }

    /// The newest write of the key, whatever it changed.
    pub(super) fn written(&self, hash: u64) -> Stamp {
        self.slot(hash, WRITES)
    }

    /// Within a slot the generations are in seq order: the first that knows of
    /// an access knows of the newest.
    fn slot(&self, hash: u64, slot: usize) -> Stamp {
        self.current
            .get(hash, slot)
            .or_else(|| self.previous.get(hash, slot))
            .unwrap_or(Stamp { seq: self.dropped[slot], node: None })
    }

    /// Notes an access; `seq` never goes back.
    pub(super) fn record(&mut self, key: &Key, seq: Seq, node: NodeHandle) {
        let full = self.current.entries.len() >= self.limit && !self.current.entries.contains_key(&key.hash);
        if full || seq.0 - self.current.base.0 > u64::from(u32::MAX) {
            self.turn(seq);
        }
        self.current.record(key, seq, node);
    }

    /// Begins a generation with `seq`. The oldest one's memory is used again, unless a copy of the core has it.
    fn turn(&mut self, seq: Seq) {
        for (dropped, newest) in self.dropped.iter_mut().zip(self.previous.newest) {
            *dropped = newest.max(*dropped);
        }
        let oldest = std::mem::replace(&mut self.previous, Arc::new(std::mem::take(&mut self.current)));
        self.current = Arc::try_unwrap(oldest).unwrap_or_default();
        self.current.reset(Seq(seq.0 - 1));
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        self.dropped.iter().for_each(|seq| out.put_u64(seq.0));
        self.current.encode(out);
        self.previous.encode(out);
    }

    pub(super) fn decode(reader: &mut Reader<'_>, limit: u32) -> Result<Self, Error> {
        let mut keys = Self::new(limit);
        for seq in &mut keys.dropped {
            *seq = Seq(reader.u64()?);
        }
        keys.current = Generation::decode(reader)?;
        keys.previous = Arc::new(Generation::decode(reader)?);
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_and_key_fit_in_48_bytes() {
        assert!(std::mem::size_of::<(u64, Entry)>() <= 48);
    }

    #[test]
    fn a_copy_keeps_what_the_original_forgets() {
        let key = |hash| Key { hash, access: Access::Write, mode: RowLock::Update };
        let mut keys = Keys::new(1);
        keys.record(&key(1), Seq(1), NodeHandle(0));
        keys.record(&key(2), Seq(2), NodeHandle(0));
        let copy = keys.clone();
        (3..6).for_each(|number| keys.record(&key(number), Seq(number), NodeHandle(0)));
        assert_eq!(copy.newest(&key(1)).written, Stamp { seq: Seq(1), node: Some(NodeHandle(0)) });
        assert_eq!(keys.newest(&key(1)).written, Stamp { seq: Seq(3), node: None });
    }

    #[test]
    fn strengths_add_up_to_the_conflict_table() {
        for a in RowLock::ALL {
            for b in RowLock::ALL {
                assert_eq!(a as usize + b as usize >= CONFLICT, a.conflicts_with(b), "{a:?} {b:?}");
            }
        }
    }
}
