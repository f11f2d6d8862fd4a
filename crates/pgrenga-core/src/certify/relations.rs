//! Which table locks were used on each relation last.
//!
//! Relations are few and their entries do not age. The table is bounded all
//! the same (an application may create tables for ever): when it is full, its
//! entries are folded into one that stands for any relation. That one is old
//! news to every transaction but a very long one.

use pgrenga_writeset::writeset::{RelationUse, TableLocks};
use pgrenga_writeset::{Reader, Seq, Sink};

use super::Stamp;
use crate::Error;
use crate::hash::{Identity, Map};
use crate::membership::NodeHandle;
use crate::snapshot::put_map;

const MODES: usize = TableLocks::MODES as usize;

/// For each lock mode, the newest use.
type ByMode = [Stamp; MODES];

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    applied: ByMode,
    held: ByMode,
    /// The modes whose stamps are set: few, and seldom ones that conflict with
    /// a writer of rows.
    used_applied: TableLocks,
    used_held: TableLocks,
}

/// What conflicts with a use of a relation.
pub(super) struct Newest {
    /// By one whose applier takes the lock too.
    pub(super) applied: Stamp,
    /// By one that only held it at its origin.
    pub(super) held: Stamp,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Relations {
    limit: usize,
    entries: Map<u64, Entry, Identity>,
    folded: Entry,
}

fn index(mode: u8) -> usize {
    usize::from(mode) - 1
}

/// The set's modes; asked so often that it pays to visit only those.
fn modes(set: TableLocks) -> impl Iterator<Item = u8> {
    const ALL: u16 = ((1 << MODES) - 1) << 1;
    let mut rest = set.0 & ALL;
    std::iter::from_fn(move || {
        let mode = rest.trailing_zeros();
        rest &= rest.wrapping_sub(1);
        (mode < u16::BITS).then_some(mode as u8)
    })
}

fn conflicting(set: TableLocks) -> TableLocks {
    modes(set).map(TableLocks::conflicting_with_mode).fold(TableLocks::default(), TableLocks::union)
}

fn newest_of(uses: &ByMode, set: TableLocks) -> Stamp {
    modes(set).map(|mode| uses[index(mode)]).fold(Stamp::default(), Stamp::newer)
}

impl Relations {
    pub(super) fn new(limit: u32) -> Self {
        Self { limit: limit as usize, entries: Map::default(), folded: Entry::default() }
    }

    /// What conflicts with this use of the relation.
    pub(super) fn newest(&self, relation: &RelationUse) -> Newest {
        let conflicting = conflicting(relation.applied.union(relation.held));
        let of = |entry: &Entry| {
            let of = |uses, used: TableLocks| newest_of(uses, TableLocks(conflicting.0 & used.0));
            Newest { applied: of(&entry.applied, entry.used_applied), held: of(&entry.held, entry.used_held) }
        };
        let folded = of(&self.folded);
        match self.entries.get(&relation.hash) {
            None => folded,
            Some(entry) => {
                let own = of(entry);
                Newest { applied: own.applied.newer(folded.applied), held: own.held.newer(folded.held) }
            }
        }
    }

    /// Notes a use; `seq` never goes back. A reader's lock is never kept: it
    /// is listed so that DDL aborts the reader, not the other way round.
    pub(super) fn record(&mut self, relation: &RelationUse, seq: Seq, node: NodeHandle) {
        let held = TableLocks(relation.held.0 & !TableLocks::ACCESS_SHARE.0);
        if modes(relation.applied.union(held)).next().is_none() {
            return;
        }
        if self.entries.len() >= self.limit && !self.entries.contains_key(&relation.hash) {
            self.fold();
        }
        let entry = self.entries.entry(relation.hash).or_default();
        let stamp = Stamp { seq, node: Some(node) };
        modes(relation.applied).for_each(|mode| entry.applied[index(mode)] = stamp);
        modes(held).for_each(|mode| entry.held[index(mode)] = stamp);
        entry.used_applied = entry.used_applied.union(relation.applied);
        entry.used_held = entry.used_held.union(held);
    }

    fn fold(&mut self) {
        fn into(folded: &mut ByMode, uses: &ByMode) {
            for (folded, used) in folded.iter_mut().zip(uses) {
                *folded = Stamp { seq: folded.seq.max(used.seq), node: None };
            }
        }
        for entry in self.entries.values() {
            into(&mut self.folded.applied, &entry.applied);
            into(&mut self.folded.held, &entry.held);
            self.folded.used_applied = self.folded.used_applied.union(entry.used_applied);
            self.folded.used_held = self.folded.used_held.union(entry.used_held);
        }
        self.entries.clear();
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        self.folded.encode(out);
        put_map(out, &self.entries, |hash, entry, out| {
            out.put_u64(*hash);
            entry.encode(out);
        });
    }

    pub(super) fn decode(reader: &mut Reader<'_>, limit: u32) -> Result<Self, Error> {
        let mut relations = Self::new(limit);
        relations.folded = Entry::decode(reader)?;
        for _ in 0..reader.u32()? {
            let hash = reader.u64()?;
            relations.entries.insert(hash, Entry::decode(reader)?);
        }
        Ok(relations)
    }
}

impl Entry {
    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16(self.used_applied.0);
        out.put_u16(self.used_held.0);
        self.applied.iter().chain(&self.held).for_each(|stamp| stamp.encode(out));
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, pgrenga_writeset::Error> {
        let mut entry =
            Self { used_applied: TableLocks(reader.u16()?), used_held: TableLocks(reader.u16()?), ..Self::default() };
        for stamp in entry.applied.iter_mut().chain(&mut entry.held) {
            *stamp = Stamp::decode(reader)?;
        }
        Ok(entry)
    }
}
