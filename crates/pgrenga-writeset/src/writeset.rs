//! The writeset: what one transaction changed.
//!
//! ```text
//! version u8 | flags u8 | txid 16 | seen_first u64 | seen_last u64 | fence u64 | fragments u32
//! relations u32 x { hash u64, applied u16, held u16 }
//! keys      u32 x { hash u64, lock u8 }
//! moments   u32 x { key u32, seen u64 }        from version 2 on
//! snapshot u64 | reads u32 x { hash u64, what u8 }   from version 3 on, of a SERIALIZABLE transaction
//! body ...                                     the last (usually only) piece of the ops
//! ```
//!
//! The header is all that certification needs. Hashes never contain an OID.

use crate::{Error, LogIndex, Reader, Seq, Sink, TransactionId};

/// Format of the header; raised when its layout changes.
pub const VERSION: u8 = 3;
/// The oldest format that can be read: it has no moments.
const OLDEST: u8 = 1;
/// The first one that can say what was read.
const WITH_READS: u8 = 3;

/// PostgreSQL's row-lock modes, weakest first (`LockTupleMode` in
/// `nodes/lockoptions.h`; the numbers are the same).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RowLock {
    /// `FOR KEY SHARE`: what a foreign-key check takes on the parent.
    KeyShare = 0,
    /// `FOR SHARE`.
    Share = 1,
    /// `FOR NO KEY UPDATE`: an UPDATE that changes no key column.
    NoKeyUpdate = 2,
    /// `FOR UPDATE`: a DELETE, an UPDATE of a key column, and every INSERT.
    Update = 3,
}

impl RowLock {
    /// All modes, weakest first.
    pub const ALL: [Self; 4] = [Self::KeyShare, Self::Share, Self::NoKeyUpdate, Self::Update];

    /// The conflict table of "Row-Level Locks" in PostgreSQL's manual.
    #[must_use]
    pub fn conflicts_with(self, other: Self) -> bool {
        use RowLock::{KeyShare, NoKeyUpdate, Share, Update};
        match (self, other) {
            (KeyShare, Update) | (Update, _) | (_, Update) => true,
            (KeyShare, _) | (_, KeyShare) | (Share, Share) => false,
            (Share | NoKeyUpdate, NoKeyUpdate) | (NoKeyUpdate, Share) => true,
        }
    }

    fn from_u8(tag: u8) -> Result<Self, Error> {
        Self::ALL.get(usize::from(tag)).copied().ok_or(Error::Unknown { what: "row lock mode", tag })
    }
}

/// A set of table-lock modes: bit *m* stands for PostgreSQL's lock mode *m*
/// (`storage/lockdefs.h`: 1 AccessShare .. 8 AccessExclusive).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TableLocks(pub u16);

impl TableLocks {
    /// The strongest mode's number.
    pub const MODES: u8 = 8;
    /// What a plain reader takes.
    pub const ACCESS_SHARE: Self = Self(1 << 1);
    /// What conflicts with all that changes a relation, but with no writer of rows.
    pub const SHARE_UPDATE_EXCLUSIVE: Self = Self(1 << 4);
    /// What conflicts with every writer.
    pub const SHARE: Self = Self(1 << 5);
    /// What a writer of rows takes.
    pub const ROW_EXCLUSIVE: Self = Self(1 << 3);
    /// What stands for "every row of this table": taken by a writeset with too
    /// many keys to list.
    pub const EXCLUSIVE: Self = Self(1 << 7);
    /// What most DDL takes.
    pub const ACCESS_EXCLUSIVE: Self = Self(1 << 8);

    /// The modes that conflict with lock mode `mode` (1..=8), after
    /// `LockConflicts` in PostgreSQL's `lock.c`.
    #[must_use]
    pub fn conflicting_with_mode(mode: u8) -> Self {
        const fn bits(modes: &[u8]) -> u16 {
            let mut mask = 0;
            let mut i = 0;
            while i < modes.len() {
                mask |= 1 << modes[i];
                i += 1;
            }
            mask
        }
        const CONFLICTS: [u16; 9] = [
            0,
            bits(&[8]),
            bits(&[7, 8]),
            bits(&[5, 6, 7, 8]),
            bits(&[4, 5, 6, 7, 8]),
            bits(&[3, 4, 6, 7, 8]),
            bits(&[3, 4, 5, 6, 7, 8]),
            bits(&[2, 3, 4, 5, 6, 7, 8]),
            bits(&[1, 2, 3, 4, 5, 6, 7, 8]),
        ];
        Self(CONFLICTS[usize::from(mode)])
    }

    /// The modes in the set, weakest first.
    pub fn modes(self) -> impl Iterator<Item = u8> {
        (1..=Self::MODES).filter(move |mode| self.0 & (1 << mode) != 0)
    }

    /// All modes that conflict with any mode of this set.
    #[must_use]
    pub fn conflicting(self) -> Self {
        Self(self.modes().fold(0, |mask, mode| mask | Self::conflicting_with_mode(mode).0))
    }

    /// Whether both sets share a mode.
    #[must_use]
    pub fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Both sets together.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A certification key: one value of one unique index, or one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Hash of relation, index and value. Equal values hash equal on every
    /// node; unequal ones that collide cost a needless abort, nothing else.
    pub hash: u64,
    /// The row-lock mode with which PostgreSQL held the row.
    pub mode: RowLock,
    /// What was done to the row under that lock, which decides from which
    /// position on earlier writesets count.
    pub access: Access,
}

/// What a transaction did with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Access {
    /// Wrote the row; the applier takes the same lock.
    Write = 0,
    /// Only locked the row (`FOR UPDATE`, a foreign-key check): the applier
    /// does not take that lock.
    Lock = 1,
    /// Wrote a value of a deferrable constraint: whoever writes the same one
    /// does not wait, neither here nor when it is applied.
    Deferred = 2,
}

impl Key {
    const SIZE: usize = 9;

    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes);
        let hash = reader.u64()?;
        let tag = reader.u8()?;
        let access = match tag >> 2 {
            0 => Access::Write,
            1 => Access::Lock,
            2 => Access::Deferred,
            _ => return Err(Error::Unknown { what: "key access", tag }),
        };
        Ok(Self { hash, mode: RowLock::from_u8(tag & 3)?, access })
    }

    /// Appends the key's 9 bytes.
    pub fn encode(&self, out: &mut impl Sink) {
        out.put_u64(self.hash);
        out.put_u8(self.mode as u8 | ((self.access as u8) << 2));
    }
}

/// From key `key` on (counted from 0, in the order in which they stand), keys were
/// captured when the node had applied `seen`, or later. Before the first moment
/// that is `seen_first`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Moment {
    /// Ordinal of the first key.
    pub key: u32,
    /// The node's applied seq when it was captured.
    pub seen: Seq,
}

impl Moment {
    const SIZE: usize = 12;

    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes);
        Ok(Self { key: reader.u32()?, seen: Seq(reader.u64()?) })
    }

    fn encode(&self, out: &mut impl Sink) {
        out.put_u32(self.key);
        out.put_u64(self.seen.0);
    }
}

/// The table locks with which a transaction used one relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RelationUse {
    /// Hash of the qualified name, which is unique at every seq.
    pub hash: u64,
    /// Modes that the applier takes as well: of written rows and of DDL.
    pub applied: TableLocks,
    /// Modes that only the origin held: of readers and of `LOCK TABLE`.
    pub held: TableLocks,
}

impl RelationUse {
    const SIZE: usize = 12;

    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes);
        Ok(Self { hash: reader.u64()?, applied: TableLocks(reader.u16()?), held: TableLocks(reader.u16()?) })
    }

    /// Appends the relation's 12 bytes.
    pub fn encode(&self, out: &mut impl Sink) {
        out.put_u64(self.hash);
        out.put_u16(self.applied.0);
        out.put_u16(self.held.0);
    }
}

/// Something that a SERIALIZABLE transaction has seen in its snapshot, and must
/// still be so when the transaction commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// Hash of the relation, as in [`RelationUse`], or of the key, as in [`Key`].
    pub hash: u64,
    /// What was seen of it.
    pub what: Reading,
}

/// What a transaction has seen of a relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reading {
    /// Rows, whichever: all that is written to the relation counts.
    Rows = 0,
    /// Only how it is defined: what is written to single rows of it does not count.
    Definition = 1,
    /// Of a key: the row that has it, or that there is none.
    Key = 2,
}

impl Read {
    const SIZE: usize = 9;

    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes);
        let hash = reader.u64()?;
        let what = match reader.u8()? {
            0 => Reading::Rows,
            1 => Reading::Definition,
            2 => Reading::Key,
            tag => return Err(Error::Unknown { what: "reading", tag }),
        };
        Ok(Self { hash, what })
    }
}

/// What holds for the writeset as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// Contains DDL: the applier runs it alone, after everything before and
    /// before everything after.
    pub const BARRIER: Self = Self(1);
    /// Holds the catalog key exclusively: conflicts with every concurrent
    /// writeset (`ALTER SCHEMA .. RENAME` and the like take no relation lock).
    pub const CATALOG: Self = Self(2);
    /// Contains notifications: the applier gives it a transaction of its own, because
    /// PostgreSQL takes two identical ones of the same transaction for one.
    pub const NOTIFIES: Self = Self(4);
    /// Of a SERIALIZABLE transaction: what it has read follows the moments, and counts.
    pub const SERIALIZABLE: Self = Self(8);
    const ALL: Self = Self(15);

    /// Whether all flags of `other` are set.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets together.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The fixed part of a header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// See [`Flags`].
    pub flags: Flags,
    /// Whose writeset this is.
    pub txid: TransactionId,
    /// The node's applied seq when the transaction's first row was captured.
    /// Keys captured later may tell a later one, see [`Moment`].
    pub seen_first: Seq,
    /// The node's applied seq when the writeset was closed.
    pub seen_last: Seq,
    /// The log index of the DDL fence that the transaction holds; zero for none.
    pub fence: LogIndex,
    /// How many fragments of the body went ahead as items of their own.
    pub fragments: u32,
}

/// Appends everything before the body.
pub fn encode_header<'k>(
    out: &mut impl Sink,
    header: &Header,
    relations: impl ExactSizeIterator<Item = &'k RelationUse>,
    keys: impl ExactSizeIterator<Item = &'k Key>,
    moments: &[Moment],
) {
    out.put_u8(VERSION);
    out.put_u8(header.flags.0);
    out.put_txid(&header.txid);
    out.put_u64(header.seen_first.0);
    out.put_u64(header.seen_last.0);
    out.put_u64(header.fence.0);
    out.put_u32(header.fragments);
    out.put_u32(relations.len() as u32);
    relations.for_each(|relation| relation.encode(out));
    out.put_u32(keys.len() as u32);
    keys.for_each(|key| key.encode(out));
    out.put_u32(moments.len() as u32);
    moments.iter().for_each(|moment| moment.encode(out));
}

/// Appends what a transaction has read in the snapshot that includes `snapshot` and
/// nothing later. Goes between header and body if the header says SERIALIZABLE.
pub fn encode_reads<'r>(out: &mut impl Sink, snapshot: Seq, reads: impl ExactSizeIterator<Item = &'r Read>) {
    out.put_u64(snapshot.0);
    out.put_u32(reads.len() as u32);
    reads.for_each(|read| {
        out.put_u64(read.hash);
        out.put_u8(read.what as u8);
    });
}

/// A writeset read in place. Decoding validates all of the header, so that
/// iterating cannot fail; the body stays opaque until the applier reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Writeset<'a> {
    /// The fixed part.
    pub header: Header,
    relations: &'a [u8],
    keys: &'a [u8],
    moments: &'a [u8],
    snapshot: Seq,
    reads: &'a [u8],
    /// The ops, see [`crate::op`].
    pub body: &'a [u8],
}

impl<'a> Writeset<'a> {
    /// Reads and validates a header.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes);
        let found = reader.u8()?;
        if !(OLDEST..=VERSION).contains(&found) {
            return Err(Error::Version { found, expected: VERSION });
        }
        let flags = Flags(reader.u8()?);
        let is_serializable = flags.contains(Flags::SERIALIZABLE);
        if flags.0 & !Flags::ALL.0 != 0 || is_serializable && found < WITH_READS {
            return Err(Error::Unknown { what: "writeset flag", tag: flags.0 });
        }
        let header = Header {
            flags,
            txid: reader.txid()?,
            seen_first: Seq(reader.u64()?),
            seen_last: Seq(reader.u64()?),
            fence: LogIndex(reader.u64()?),
            fragments: reader.u32()?,
        };
        let relations = Self::table(&mut reader, RelationUse::SIZE)?;
        let keys = Self::table(&mut reader, Key::SIZE)?;
        for key in keys.chunks_exact(Key::SIZE) {
            Key::decode(key)?;
        }
        let moments = if found == OLDEST { &[] } else { Self::table(&mut reader, Moment::SIZE)? };
        let (mut snapshot, mut reads) = (Seq(0), &[][..]);
        if is_serializable {
            snapshot = Seq(reader.u64()?);
            reads = Self::table(&mut reader, Read::SIZE)?;
            for read in reads.chunks_exact(Read::SIZE) {
                Read::decode(read)?;
            }
        }
        Ok(Self { header, relations, keys, moments, snapshot, reads, body: reader.rest() })
    }

    fn table(reader: &mut Reader<'a>, size: usize) -> Result<&'a [u8], Error> {
        let count = reader.u32()? as usize;
        reader.take(count.saturating_mul(size))
    }

    /// The relations that the transaction used.
    pub fn relations(&self) -> impl ExactSizeIterator<Item = RelationUse> + 'a {
        self.relations
            .chunks_exact(RelationUse::SIZE)
            .map(|bytes| RelationUse::decode(bytes).expect("validated when decoded"))
    }

    /// The certification keys, each with what the node had applied when it was
    /// captured, or a little before.
    pub fn captured_keys(&self) -> impl Iterator<Item = (Key, Seq)> + 'a {
        let mut moments = self.moments().peekable();
        let mut seen = self.header.seen_first;
        (0_u32..).zip(self.keys()).map(move |(ordinal, key)| {
            while let Some(moment) = moments.next_if(|moment| moment.key <= ordinal) {
                seen = moment.seen;
            }
            (key, seen)
        })
    }

    /// When keys were captured, in the order of the keys.
    pub fn moments(&self) -> impl ExactSizeIterator<Item = Moment> + 'a {
        self.moments.chunks_exact(Moment::SIZE).map(|bytes| Moment::decode(bytes).expect("12 bytes"))
    }

    /// The seq that the transaction's reads have seen, if they count.
    #[must_use]
    pub fn snapshot(&self) -> Seq {
        self.snapshot
    }

    /// What a SERIALIZABLE transaction has read; nothing for others.
    pub fn reads(&self) -> impl ExactSizeIterator<Item = Read> + 'a {
        self.reads.chunks_exact(Read::SIZE).map(|bytes| Read::decode(bytes).expect("validated when decoded"))
    }

    /// The certification keys, in the order in which rows were touched.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = Key> + 'a {
        self.keys.chunks_exact(Key::SIZE).map(|bytes| Key::decode(bytes).expect("validated when decoded"))
    }
}
