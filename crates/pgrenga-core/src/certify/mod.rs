//! Certification: whether a writeset conflicts with one that was certified
//! after what its transaction saw, and what it must be applied after.
//!
//! A transaction saw more and more while it ran. Against earlier *writes* the
//! last position counts, `seen_last`: its row locks kept the applier from
//! bringing in a conflicting write since. Against earlier accesses that the
//! applier does not repeat nothing kept those away, and an early position
//! counts: for a row that was only locked, when this transaction had captured
//! the key itself; for a table lock that was only held, `seen_first`. A value
//! of a deferrable constraint kept nobody away either: earlier writes of the
//! same value count from its capture too.
//!
//! Names of schemas, types and enum labels have no lock at all. A writeset was captured under those that its
//! transaction found first, so a change of the catalog counts from `seen_first`. The transaction that makes it holds
//! the DDL fence: it has seen everything before the fence, and what its own node writes meanwhile
//! stands before it in the order, under the names that were.
//!
//! A SERIALIZABLE transaction aborts as well if anything that it has *read* was written
//! after its snapshot. So it reads what it would read where it stands in the order,
//! and that order is a serial one. Appliers do not read, so that this delays none.
//!
//! What was forgotten is taken for a conflict ([`AbortReason::TooOld`]) as soon
//! as it may be one: a forgotten write newer than `seen_last`, a forgotten lock
//! newer than the key's capture. The second holds for *written* keys too, because a
//! header does not tell an INSERT, which no lock taken elsewhere can hurt, from
//! a DELETE of a parent whose key a child's insert locked elsewhere. Since
//! forgotten accesses are summed up by kind and mode, a workload without such
//! locks (or with key-share locks and without changes of keys) loses nothing.

mod keys;
mod relations;

use pgrenga_writeset::port::AbortReason;
use pgrenga_writeset::writeset::{Access, Flags, Reading, RelationUse, TableLocks, Writeset};
use pgrenga_writeset::{LogIndex, Reader, Seq, Sink};

use self::keys::Keys;
use self::relations::Relations;
use crate::membership::{NodeHandle, Nodes};
use crate::{Error, Limits};

/// When something was done last, and by whom. Zero is "never"; no node is
/// "among what was forgotten".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stamp {
    seq: Seq,
    node: Option<NodeHandle>,
}

impl Stamp {
    /// The newer of both; of two as new, the one that names its node.
    fn newer(self, other: Self) -> Self {
        if (other.seq, other.node.is_some()) > (self.seq, self.node.is_some()) { other } else { self }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.seq.0);
        out.put_u16(self.node.map_or(u16::MAX, |node| node.0));
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, pgrenga_writeset::Error> {
        let seq = Seq(reader.u64()?);
        let node = Some(NodeHandle(reader.u16()?)).filter(|node| node.0 != u16::MAX);
        Ok(Self { seq, node })
    }
}

/// Everything that earlier certified writesets left behind.
#[derive(Clone, Debug)]
pub(crate) struct Certifier {
    keys: Keys,
    relations: Relations,
    /// The last writeset.
    last: Stamp,
    /// The last one that held the catalog key.
    catalog: Stamp,
    /// The last one that is applied alone.
    barrier: Seq,
}

/// Whether the writeset is applied alone. Holding the catalog key implies it:
/// it conflicts with everything.
pub(crate) fn is_barrier(flags: Flags) -> bool {
    flags.contains(Flags::BARRIER) || flags.contains(Flags::CATALOG)
}

impl Certifier {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            keys: Keys::new(limits.keys),
            relations: Relations::new(limits.relations),
            last: Stamp::default(),
            catalog: Stamp::default(),
            barrier: Seq(0),
        }
    }

    /// Compares a writeset with all earlier ones; `seq` is the last seq given.
    /// Answers the seq after which it may be applied: the highest of a
    /// conflicting access, seen or not.
    pub(crate) fn certify(&self, writeset: &Writeset<'_>, seq: Seq, nodes: &Nodes) -> Result<Seq, AbortReason> {
        let header = &writeset.header;
        let (seen_last, seen_first) = (header.seen_last, header.seen_first.min(header.seen_last));
        let mut after = self.barrier;
        let mut check = |stamp: Stamp, seen: Seq, reason: &dyn Fn(Seq, pgrenga_writeset::NodeId) -> AbortReason| {
            after = after.max(stamp.seq);
            match stamp.node {
                _ if stamp.seq <= seen => Ok(()),
                Some(node) => Err(reason(stamp.seq, nodes.id(node))),
                None => Err(AbortReason::TooOld),
            }
        };

        let catalog = |winner, node| AbortReason::Catalog { winner, node };
        check(self.catalog, seen_first, &catalog)?;
        if header.flags.contains(Flags::CATALOG) && header.fence == LogIndex(0) {
            check(self.last, seen_first, &catalog)?;
        }
        for (ordinal, relation) in (0..).zip(writeset.relations()) {
            let newest = self.relations.newest(&relation);
            let conflict = |winner, node| AbortReason::Relation { ordinal, winner, node };
            check(newest.applied, seen_last, &conflict)?;
            check(newest.held, seen_first, &conflict)?;
        }
        for (ordinal, (key, captured)) in (0..).zip(writeset.captured_keys()) {
            let newest = self.keys.newest(&key);
            let conflict = |winner, node| AbortReason::Key { ordinal, winner, node };
            let captured = captured.min(seen_last);
            let kept_away = if key.access == Access::Deferred { captured } else { seen_last };
            check(newest.written, kept_away, &conflict)?;
            check(newest.locked, captured, &conflict)?;
        }
        self.check_reads(writeset, nodes)?;
        Ok(if is_barrier(header.flags) { seq } else { after })
    }

    /// Whether what was read is still so.
    fn check_reads(&self, writeset: &Writeset<'_>, nodes: &Nodes) -> Result<(), AbortReason> {
        let snapshot = writeset.snapshot().min(writeset.header.seen_last);
        let written = |hash, like| {
            let none = TableLocks::default();
            self.relations.newest(&RelationUse { hash, applied: like, held: none }).applied
        };
        if writeset.header.flags.contains(Flags::SERIALIZABLE) && self.catalog.seq > snapshot {
            let winner = self.catalog.seq;
            return Err(self
                .catalog
                .node
                .map_or(AbortReason::TooOld, |node| AbortReason::Catalog { winner, node: nodes.id(node) }));
        }
        for (ordinal, read) in (0..).zip(writeset.reads()) {
            let Stamp { seq: winner, node } = match read.what {
                Reading::Rows => written(read.hash, TableLocks::SHARE),
                Reading::Definition => written(read.hash, TableLocks::SHARE_UPDATE_EXCLUSIVE),
                Reading::Key => self.keys.written(read.hash),
            };
            if winner > snapshot {
                let Some(node) = node else { return Err(AbortReason::TooOld) };
                return Err(AbortReason::Read { ordinal, winner, node: nodes.id(node) });
            }
        }
        Ok(())
    }

    /// Remembers a certified writeset; `seq` never goes back.
    pub(crate) fn record(&mut self, writeset: &Writeset<'_>, seq: Seq, node: NodeHandle) {
        let flags = writeset.header.flags;
        let stamp = Stamp { seq, node: Some(node) };
        self.last = stamp;
        if flags.contains(Flags::CATALOG) {
            self.catalog = stamp;
        }
        if is_barrier(flags) {
            self.barrier = seq;
        }
        writeset.relations().for_each(|relation| self.relations.record(&relation, seq, node));
        writeset.keys().for_each(|key| self.keys.record(&key, seq, node));
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        self.last.encode(out);
        self.catalog.encode(out);
        out.put_u64(self.barrier.0);
        self.relations.encode(out);
        self.keys.encode(out);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>, limits: &Limits) -> Result<Self, Error> {
        Ok(Self {
            last: Stamp::decode(reader)?,
            catalog: Stamp::decode(reader)?,
            barrier: Seq(reader.u64()?),
            relations: Relations::decode(reader, limits.relations)?,
            keys: Keys::decode(reader, limits.keys)?,
        })
    }
}
