//! Random values of everything that has a codec, in forms that own their
//! bytes: the codecs' own types borrow.
#![allow(dead_code, reason = "each test uses its part")]
#![allow(unreachable_pub, missing_docs, reason = "a test's own module")]

use pgrenga_writeset::entry::Item;
use pgrenga_writeset::large_object::{Change, LargeObject};
use pgrenga_writeset::op::{self, Ddl, Notify, Op, Relation, Row, Value};
use pgrenga_writeset::port::{AbortReason, FromPostgres, Standing, ToPostgres, Topic};
use pgrenga_writeset::writeset::{
    Access, Flags, Header, Key, Moment, Read, Reading, RelationUse, RowLock, TableLocks, encode_header, encode_reads,
};
use pgrenga_writeset::{Incarnation, LogIndex, NodeId, Seq, TransactionId};
use proptest::collection::vec;
use proptest::prelude::*;

pub fn txid() -> impl Strategy<Value = TransactionId> {
    any::<(u32, u32, u64)>().prop_map(|(node, incarnation, counter)| TransactionId {
        node: NodeId(node),
        incarnation: Incarnation(incarnation),
        counter,
    })
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..40)
}

#[derive(Clone, Debug)]
pub struct OwnedWriteset {
    pub header: Header,
    pub relations: Vec<RelationUse>,
    pub keys: Vec<Key>,
    pub moments: Vec<Moment>,
    /// Only with [`Flags::SERIALIZABLE`].
    pub reads: (Seq, Vec<Read>),
    pub body: Vec<u8>,
}

impl OwnedWriteset {
    pub fn any() -> impl Strategy<Value = Self> {
        let header = (0..16_u8, txid(), any::<(u64, u64, u64, u32)>()).prop_map(|(flags, txid, (a, b, c, d))| Header {
            flags: Flags(flags),
            txid,
            seen_first: Seq(a),
            seen_last: Seq(b),
            fence: LogIndex(c),
            fragments: d,
        });
        let relation = any::<(u64, u16, u16)>().prop_map(|(hash, applied, held)| RelationUse {
            hash,
            applied: TableLocks(applied),
            held: TableLocks(held),
        });
        let key = (any::<u64>(), 0..4_usize, 0..3_usize).prop_map(|(hash, mode, access)| Key {
            hash,
            mode: RowLock::ALL[mode],
            access: [Access::Write, Access::Lock, Access::Deferred][access],
        });
        let moment = any::<(u32, u64)>().prop_map(|(key, seen)| Moment { key, seen: Seq(seen) });
        let read = (any::<u64>(), 0..3_usize)
            .prop_map(|(hash, what)| Read { hash, what: [Reading::Rows, Reading::Definition, Reading::Key][what] });
        let reads = (any::<u64>(), vec(read, 0..6)).prop_map(|(snapshot, reads)| (Seq(snapshot), reads));
        (header, vec(relation, 0..6), vec(key, 0..20), vec(moment, 0..6), reads, bytes()).prop_map(
            |(header, relations, keys, moments, reads, body)| {
                let reads = if header.flags.contains(Flags::SERIALIZABLE) { reads } else { (Seq(0), vec![]) };
                Self { header, relations, keys, moments, reads, body }
            },
        )
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        encode_header(&mut out, &self.header, self.relations.iter(), self.keys.iter(), &self.moments);
        if self.header.flags.contains(Flags::SERIALIZABLE) {
            encode_reads(&mut out, self.reads.0, self.reads.1.iter());
        }
        out.extend_from_slice(&self.body);
        out
    }
}

#[derive(Clone, Debug)]
pub enum OwnedItem {
    Writeset(Vec<u8>),
    Fragment(TransactionId, u32, Vec<u8>),
    Fence(u8, TransactionId),
    Incarnation(u32, u32),
    Marker(u64),
    Progress(u32, u64),
    Member(u32, String),
    Verdicts(u32, u64, u64),
    Remove(u32),
    Detached(u32, bool),
}

impl OwnedItem {
    pub fn any() -> impl Strategy<Value = Self> {
        prop_oneof![
            OwnedWriteset::any().prop_map(|writeset| Self::Writeset(writeset.encode())),
            bytes().prop_map(Self::Writeset),
            (txid(), any::<u32>(), bytes()).prop_map(|(txid, ordinal, body)| Self::Fragment(txid, ordinal, body)),
            (0..3_u8, txid()).prop_map(|(kind, txid)| Self::Fence(kind, txid)),
            any::<(u32, u32)>().prop_map(|(node, incarnation)| Self::Incarnation(node, incarnation)),
            any::<u64>().prop_map(Self::Marker),
            any::<(u32, u64)>().prop_map(|(node, flushed)| Self::Progress(node, flushed)),
            (any::<u32>(), ".{0,20}").prop_map(|(node, text)| Self::Member(node, text)),
            any::<(u32, u64, u64)>().prop_map(|(node, index, hash)| Self::Verdicts(node, index, hash)),
            any::<u32>().prop_map(Self::Remove),
            any::<(u32, bool)>().prop_map(|(node, detached)| Self::Detached(node, detached)),
        ]
    }

    pub fn borrow(&self) -> Item<'_> {
        match self {
            Self::Writeset(bytes) => Item::Writeset(bytes),
            Self::Fragment(txid, ordinal, body) => Item::Fragment { txid: *txid, ordinal: *ordinal, body },
            Self::Fence(0, txid) => Item::FenceRequest(*txid),
            Self::Fence(1, txid) => Item::GiveUp(*txid),
            Self::Fence(_, txid) => Item::FenceLift(*txid),
            Self::Incarnation(node, life) => Item::Incarnation { node: NodeId(*node), incarnation: Incarnation(*life) },
            Self::Marker(id) => Item::Marker { id: *id },
            Self::Progress(node, flushed) => Item::Progress { node: NodeId(*node), flushed: Seq(*flushed) },
            Self::Member(node, description) => Item::Member { node: NodeId(*node), description },
            Self::Verdicts(node, index, hash) => {
                Item::Verdicts { node: NodeId(*node), index: LogIndex(*index), hash: *hash }
            }
            Self::Remove(node) => Item::Remove(NodeId(*node)),
            Self::Detached(node, true) => Item::Detach(NodeId(*node)),
            Self::Detached(node, false) => Item::Attach(NodeId(*node)),
        }
    }
}

#[derive(Clone, Debug)]
pub enum OwnedValue {
    Null,
    Internal(Vec<u8>),
    Text(String),
    Unchanged,
    Absent,
}

type OwnedRow = Vec<OwnedValue>;

impl OwnedValue {
    fn any() -> impl Strategy<Value = Self> {
        prop_oneof![
            Just(Self::Null),
            bytes().prop_map(Self::Internal),
            ".{0,10}".prop_map(Self::Text),
            Just(Self::Unchanged),
            Just(Self::Absent),
        ]
    }

    fn borrow(&self) -> Value<'_> {
        match self {
            Self::Null => Value::Null,
            Self::Internal(bytes) => Value::Internal(bytes),
            Self::Text(text) => Value::Text(text),
            Self::Unchanged => Value::Unchanged,
            Self::Absent => Value::Absent,
        }
    }
}

#[derive(Clone, Debug)]
pub enum OwnedOp {
    Relation(u16, [String; 3], u64),
    Insert(u16, OwnedRow),
    Update(u16, OwnedRow, OwnedRow),
    Delete(u16, OwnedRow),
    Ddl(String, Vec<(String, String)>, String),
    Replace(u16),
    Missing(u16, u16, String),
    Notify(Vec<u8>, Vec<u8>),
    Create(u32, String),
    Write(u32, u64, Vec<u8>),
    Truncate(u32, u64),
    Unlink(u32),
}

fn encode_row(row: &OwnedRow, out: &mut Vec<u8>) {
    op::begin_row(out, row.len() as u16);
    row.iter().for_each(|value| value.borrow().encode(out));
}

fn assert_row(expected: &OwnedRow, found: &Row<'_>) {
    assert_eq!(found.columns(), expected.len());
    assert!(found.values().eq(expected.iter().map(OwnedValue::borrow)), "{expected:?}");
}

impl OwnedOp {
    pub fn any() -> impl Strategy<Value = Self> {
        let row = || vec(OwnedValue::any(), 0..6);
        let text = || ".{0,12}";
        prop_oneof![
            (any::<u16>(), [text(), text(), text()], any::<u64>())
                .prop_map(|(ordinal, names, descriptor)| Self::Relation(ordinal, names, descriptor)),
            (any::<u16>(), row()).prop_map(|(relation, new)| Self::Insert(relation, new)),
            (any::<u16>(), row(), row()).prop_map(|(relation, old, new)| Self::Update(relation, old, new)),
            (any::<u16>(), row()).prop_map(|(relation, old)| Self::Delete(relation, old)),
            (text(), vec((text(), text()), 0..4), text())
                .prop_map(|(role, settings, statement)| Self::Ddl(role, settings, statement)),
            any::<u16>().prop_map(Self::Replace),
            (any::<u16>(), any::<u16>(), text())
                .prop_map(|(relation, column, value)| Self::Missing(relation, column, value)),
            (bytes(), bytes()).prop_map(|(channel, payload)| Self::Notify(channel, payload)),
            (any::<u32>(), text()).prop_map(|(oid, owner)| Self::Create(oid, owner)),
            (any::<(u32, u64)>(), bytes()).prop_map(|((oid, offset), data)| Self::Write(oid, offset, data)),
            any::<(u32, u64)>().prop_map(|(oid, length)| Self::Truncate(oid, length)),
            any::<u32>().prop_map(Self::Unlink),
        ]
    }

    fn relation(&self) -> Option<Relation<'_>> {
        let Self::Relation(ordinal, [schema, name, identity], descriptor) = self else { return None };
        Some(Relation { ordinal: *ordinal, schema, name, identity, descriptor: *descriptor })
    }

    fn large_object(&self) -> Option<LargeObject<'_>> {
        Some(match self {
            Self::Create(oid, owner) => LargeObject { oid: *oid, change: Change::Create { owner } },
            Self::Write(oid, offset, data) => {
                LargeObject { oid: *oid, change: Change::Write { offset: *offset, data } }
            }
            Self::Truncate(oid, length) => LargeObject { oid: *oid, change: Change::Truncate { length: *length } },
            Self::Unlink(oid) => LargeObject { oid: *oid, change: Change::Unlink },
            _ => return None,
        })
    }

    fn ddl(&self) -> Option<Ddl<'_>> {
        let Self::Ddl(role, settings, statement) = self else { return None };
        let settings = settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        Some(Ddl { role, settings, statement })
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Relation(..) => self.relation().expect("it is one").encode(out),
            Self::Insert(relation, new) => {
                op::begin_insert(out, *relation);
                encode_row(new, out);
            }
            Self::Update(relation, old, new) => {
                op::begin_update(out, *relation);
                encode_row(old, out);
                encode_row(new, out);
            }
            Self::Delete(relation, old) => {
                op::begin_delete(out, *relation);
                encode_row(old, out);
            }
            Self::Ddl(..) => self.ddl().expect("it is one").encode(out),
            Self::Replace(relation) => op::replace(out, *relation),
            Self::Missing(relation, column, value) => op::missing(out, *relation, *column, value),
            Self::Notify(channel, payload) => Notify { channel, payload }.encode(out),
            Self::Create(..) | Self::Write(..) | Self::Truncate(..) | Self::Unlink(_) => {
                op::large_object(out, &self.large_object().expect("it is one"));
            }
        }
    }

    pub fn assert_is(&self, found: &Op<'_>) {
        match (self, found) {
            (Self::Relation(..), Op::Relation(relation)) => assert_eq!(self.relation().as_ref(), Some(relation)),
            (Self::Insert(name, row), Op::Insert { relation, new }) => {
                assert_eq!(name, relation);
                assert_row(row, new);
            }
            (Self::Update(name, before, after), Op::Update { relation, old, new }) => {
                assert_eq!(name, relation);
                assert_row(before, old);
                assert_row(after, new);
            }
            (Self::Delete(name, row), Op::Delete { relation, old }) => {
                assert_eq!(name, relation);
                assert_row(row, old);
            }
            (Self::Notify(channel, payload), Op::Notify(found)) => assert_eq!(&Notify { channel, payload }, found),
            (_, Op::LargeObject(object)) => assert_eq!(self.large_object().as_ref(), Some(object)),
            (Self::Ddl(..), Op::Ddl(ddl)) => assert_eq!(self.ddl().as_ref(), Some(ddl)),
            (Self::Replace(name), Op::Replace { relation }) => assert_eq!(name, relation),
            (Self::Missing(name, number, text), Op::Missing { relation, column, value }) => {
                assert_eq!((name, number, text.as_str()), (relation, column, *value));
            }
            _ => panic!("{found:?} is not {self:?}"),
        }
    }
}

#[derive(Clone, Debug)]
pub enum OwnedFrame {
    Hello(u64, u64, u32),
    Submit(Vec<u8>),
    Fragment(TransactionId, u32, Vec<u8>),
    FenceRequest(TransactionId),
    GiveUp(TransactionId),
    Orphan(u64),
    Progress(u64),
    Question(u64, u32, Topic),
}

fn topic() -> impl Strategy<Value = Topic> {
    prop_oneof![
        txid().prop_map(Topic::Transaction),
        Just(Topic::Status),
        any::<u32>().prop_map(Topic::Member),
        Just(Topic::Present),
        any::<u64>().prop_map(|seq| Topic::Everywhere(Seq(seq))),
    ]
}

impl OwnedFrame {
    pub fn any() -> impl Strategy<Value = Self> {
        prop_oneof![
            any::<(u64, u64, u32)>().prop_map(|(start, visible, life)| Self::Hello(start, visible, life)),
            bytes().prop_map(Self::Submit),
            (txid(), any::<u32>(), bytes()).prop_map(|(txid, ordinal, body)| Self::Fragment(txid, ordinal, body)),
            txid().prop_map(Self::FenceRequest),
            txid().prop_map(Self::GiveUp),
            any::<u64>().prop_map(Self::Orphan),
            any::<u64>().prop_map(Self::Progress),
            (any::<(u64, u32)>(), topic()).prop_map(|((id, millis), topic)| Self::Question(id, millis, topic)),
        ]
    }

    pub fn borrow(&self) -> FromPostgres<'_> {
        match self {
            Self::Hello(server_start, visible, life) => FromPostgres::Hello {
                server_start: *server_start,
                visible: Seq(*visible),
                incarnation: Incarnation(*life),
            },
            Self::Submit(bytes) => FromPostgres::Submit(bytes),
            Self::Fragment(txid, ordinal, body) => FromPostgres::Fragment { txid: *txid, ordinal: *ordinal, body },
            Self::FenceRequest(txid) => FromPostgres::FenceRequest(*txid),
            Self::GiveUp(txid) => FromPostgres::GiveUp(*txid),
            Self::Orphan(seq) => FromPostgres::Orphan(Seq(*seq)),
            Self::Progress(seq) => FromPostgres::Progress(Seq(*seq)),
            Self::Question(id, millis, topic) => FromPostgres::Question { id: *id, millis: *millis, topic: *topic },
        }
    }
}

pub fn reason() -> impl Strategy<Value = AbortReason> {
    (0..9_u8, any::<(u32, u64, u32)>()).prop_map(|(kind, (ordinal, winner, node))| {
        let (winner, node) = (Seq(winner), NodeId(node));
        match kind {
            0 => AbortReason::Key { ordinal, winner, node },
            1 => AbortReason::Relation { ordinal, winner, node },
            2 => AbortReason::Catalog { winner, node },
            3 => AbortReason::TooOld,
            4 => AbortReason::FenceLost,
            5 => AbortReason::Void,
            6 => AbortReason::GivenUp,
            7 => AbortReason::Read { ordinal, winner, node },
            _ => AbortReason::Malformed,
        }
    })
}

pub fn to_postgres() -> impl Strategy<Value = ToPostgres<'static>> {
    prop_oneof![
        any::<(u32, u32, u16, u16)>().prop_map(|(node, life, sequence_slot, sequence_slots)| ToPostgres::Welcome {
            node: NodeId(node),
            incarnation: Incarnation(life),
            sequence_slot,
            sequence_slots,
        }),
        any::<bool>().prop_map(|open| ToPostgres::Admission { open }),
        any::<u64>().prop_map(|until| ToPostgres::Lease { until }),
        (1..=5_u8).prop_map(|tag| ToPostgres::Standing(Standing::of(tag).expect("a standing"))),
        any::<bool>().prop_map(|seq| ToPostgres::Problem(if seq { "at seq 7: something" } else { "" })),
        txid().prop_map(ToPostgres::Forgotten),
        txid().prop_map(ToPostgres::Refused),
        (txid(), any::<u64>()).prop_map(|(txid, seq)| ToPostgres::Commit { txid, seq: Seq(seq) }),
        (txid(), reason()).prop_map(|(txid, reason)| ToPostgres::Abort { txid, reason }),
        txid().prop_map(ToPostgres::Resubmit),
        (txid(), any::<(u64, u64)>()).prop_map(|(txid, (fence, after))| ToPostgres::FenceGranted {
            txid,
            fence: LogIndex(fence),
            after: Seq(after),
        }),
        txid().prop_map(ToPostgres::FenceLost),
        (txid(), any::<u32>()).prop_map(|(txid, fragments)| ToPostgres::Taken { txid, fragments }),
        (any::<u64>(), prop::sample::select(vec!["", "in progress", "連歌"]))
            .prop_map(|(question, text)| ToPostgres::Answer { question, text }),
    ]
}
