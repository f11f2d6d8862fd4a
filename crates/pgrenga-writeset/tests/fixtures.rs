//! Promise: what any version wrote is read for ever. The files were written by
//! the first build of that version and are never written anew: a format that changes gets a
//! new version and new files beside these.

use std::path::PathBuf;

use pgrenga_writeset::entry::{self, Item, Items};
use pgrenga_writeset::large_object::{Change, LargeObject};
use pgrenga_writeset::op::{self, Ddl, Notify, Op, Ops, Relation, Value};
use pgrenga_writeset::port::{AbortReason, FromPostgres, LENGTH_BYTES, Standing, ToPostgres, Topic};
use pgrenga_writeset::writeset::{
    Access, Flags, Header, Key, Moment, Read, Reading, RelationUse, RowLock, TableLocks, Writeset, encode_header,
    encode_reads,
};
use pgrenga_writeset::{Incarnation, LogIndex, NodeId, Seq, TransactionId};

const TXID: TransactionId = TransactionId { node: NodeId(2), incarnation: Incarnation(7), counter: (99 << 16) | 41 };

const RELATION: RelationUse =
    RelationUse { hash: 0x1122_3344_5566_7788, applied: TableLocks::ROW_EXCLUSIVE, held: TableLocks::ACCESS_SHARE };

const KEYS: [Key; 2] = [
    Key { hash: 0x0102_0304_0506_0708, mode: RowLock::Update, access: Access::Write },
    Key { hash: u64::MAX, mode: RowLock::KeyShare, access: Access::Lock },
];

const READS: [Read; 3] = [
    Read { hash: 0x1122_3344_5566_7788, what: Reading::Rows },
    Read { hash: 3, what: Reading::Definition },
    Read { hash: u64::MAX, what: Reading::Key },
];

const MOMENTS: [Moment; 1] = [Moment { key: 1, seen: Seq(1001) }];

fn header() -> Header {
    Header {
        flags: Flags::BARRIER,
        txid: TXID,
        seen_first: Seq(1000),
        seen_last: Seq(1001),
        fence: LogIndex(77),
        fragments: 2,
    }
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// Compares with the stored file; `PGRENGA_WRITE_FIXTURES` writes one that is
/// missing, never one that is there.
fn stored(name: &str, built: &[u8]) -> Vec<u8> {
    let path = path(name);
    if !path.exists() && std::env::var_os("PGRENGA_WRITE_FIXTURES").is_some() {
        std::fs::write(&path, built).unwrap();
    }
    let stored = std::fs::read(&path).unwrap();
    assert_eq!(stored, built, "{name} is written differently now: that needs a new version");
    stored
}

fn body() -> Vec<u8> {
    let mut out = Vec::new();
    Relation { ordinal: 3, schema: "public", name: "konten", identity: "konten_pkey", descriptor: 0xDEAD_BEEF }
        .encode(&mut out);
    op::begin_insert(&mut out, 3);
    op::begin_row(&mut out, 4);
    Value::Internal(&[1, 0, 0, 0]).encode(&mut out);
    Value::Text("連歌").encode(&mut out);
    Value::Null.encode(&mut out);
    Value::Unchanged.encode(&mut out);
    op::begin_update(&mut out, 3);
    op::begin_row(&mut out, 1);
    Value::Absent.encode(&mut out);
    op::begin_row(&mut out, 1);
    Value::Null.encode(&mut out);
    op::begin_delete(&mut out, 3);
    op::begin_row(&mut out, 0);
    Ddl { role: "postgres", settings: vec![("search_path", "public")], statement: "DROP TABLE konten" }
        .encode(&mut out);
    out
}

#[test]
fn writeset() {
    let mut built = Vec::new();
    encode_header(&mut built, &header(), [RELATION].iter(), KEYS.iter(), &MOMENTS);
    built.extend_from_slice(&body());
    let bytes = stored("writeset.v3", &built);
    let writeset = Writeset::decode(&bytes).unwrap();
    assert_eq!(writeset.moments().collect::<Vec<_>>(), MOMENTS);
    assert!(writeset.captured_keys().map(|(_, seen)| seen).eq([Seq(1000), Seq(1001)]));
    check(&writeset);
}

#[test]
fn writeset_of_content() {
    let mut built = Vec::new();
    encode_header(&mut built, &header(), [RELATION].iter(), KEYS.iter(), &MOMENTS);
    op::replace(&mut built, 3);
    op::missing(&mut built, 3, 2, "{連歌}");
    let bytes = stored("writeset_content.v3", &built);
    let mut ops = Ops::new(Writeset::decode(&bytes).unwrap().body);
    assert_eq!(ops.next_op(), Ok(Some(Op::Replace { relation: 3 })));
    assert_eq!(ops.next_op(), Ok(Some(Op::Missing { relation: 3, column: 2, value: "{連歌}" })));
    assert_eq!(ops.next_op(), Ok(None));
}

/// All but the version is written as before.
#[test]
fn writesets_of_version_2() {
    for name in ["writeset", "writeset_content", "writeset_notify", "writeset_large_objects"] {
        let [old, new] = ["v2", "v3"].map(|version| std::fs::read(path(&format!("{name}.{version}"))).unwrap());
        assert_eq!(old[1..], new[1..], "{name}");
        assert_eq!(Writeset::decode(&old), Writeset::decode(&new), "{name}");
        assert!(Writeset::decode(&old).is_ok(), "{name}");
    }
}

#[test]
fn writeset_with_reads() {
    let header = Header { flags: Flags::SERIALIZABLE, ..header() };
    let mut built = Vec::new();
    encode_header(&mut built, &header, [RELATION].iter(), KEYS.iter(), &MOMENTS);
    encode_reads(&mut built, Seq(998), READS.iter());
    built.extend_from_slice(&body());
    let mut bytes = stored("writeset_reads.v3", &built);
    let writeset = Writeset::decode(&bytes).unwrap();
    assert_eq!(writeset.header, header);
    assert_eq!((writeset.snapshot(), writeset.reads().collect::<Vec<_>>()), (Seq(998), READS.to_vec()));
    assert_eq!(writeset.body, body());
    // No earlier version has any.
    bytes[0] = 2;
    assert!(Writeset::decode(&bytes).is_err());
}

#[test]
fn writeset_without_moments() {
    let bytes = std::fs::read(path("writeset.v1")).unwrap();
    let writeset = Writeset::decode(&bytes).unwrap();
    assert!(writeset.captured_keys().map(|(_, seen)| seen).eq([Seq(1000), Seq(1000)]));
    check(&writeset);
}

#[test]
fn writeset_that_notifies() {
    const NOTIFICATION: Notify<'_> = Notify { channel: "連歌".as_bytes(), payload: b"\xFF" };
    let header = Header { flags: Flags::NOTIFIES, ..header() };
    let mut built = Vec::new();
    encode_header(&mut built, &header, [].iter(), [].iter(), &[]);
    NOTIFICATION.encode(&mut built);
    let bytes = stored("writeset_notify.v3", &built);
    let writeset = Writeset::decode(&bytes).unwrap();
    assert_eq!(writeset.header, header);
    let mut ops = Ops::new(writeset.body);
    assert_eq!(ops.next_op(), Ok(Some(Op::Notify(NOTIFICATION))));
    assert_eq!(ops.next_op(), Ok(None));
}

#[test]
fn writeset_of_large_objects() {
    const CHANGES: [Change<'_>; 4] = [
        Change::Create { owner: "連歌" },
        Change::Write { offset: 1 << 32, data: b"\x00\xFF" },
        Change::Truncate { length: 2048 },
        Change::Unlink,
    ];
    let objects = CHANGES.map(|change| LargeObject { oid: 16400, change });
    let mut built = Vec::new();
    encode_header(&mut built, &header(), [RELATION].iter(), KEYS.iter(), &MOMENTS);
    objects.iter().for_each(|object| op::large_object(&mut built, object));
    let bytes = stored("writeset_large_objects.v3", &built);
    let mut ops = Ops::new(Writeset::decode(&bytes).unwrap().body);
    for object in objects {
        assert_eq!(ops.next_op(), Ok(Some(Op::LargeObject(object))));
    }
    assert_eq!(ops.next_op(), Ok(None));
}

fn check(writeset: &Writeset<'_>) {
    assert_eq!(writeset.header, header());
    assert_eq!(writeset.relations().collect::<Vec<_>>(), [RELATION]);
    assert_eq!(writeset.keys().collect::<Vec<_>>(), KEYS);
    let mut ops = Ops::new(writeset.body);
    assert!(matches!(ops.next_op(), Ok(Some(Op::Relation(Relation { ordinal: 3, name: "konten", .. })))));
    let Ok(Some(Op::Insert { relation: 3, new })) = ops.next_op() else { panic!("an insert is stored") };
    let values = [Value::Internal(&[1, 0, 0, 0]), Value::Text("連歌"), Value::Null, Value::Unchanged];
    assert!(new.values().eq(values));
    assert!(matches!(ops.next_op(), Ok(Some(Op::Update { relation: 3, .. }))));
    assert!(matches!(ops.next_op(), Ok(Some(Op::Delete { relation: 3, .. }))));
    assert!(matches!(ops.next_op(), Ok(Some(Op::Ddl(Ddl { statement: "DROP TABLE konten", .. })))));
    assert_eq!(ops.next_op(), Ok(None));
}

#[test]
fn entry() {
    let items = [
        Item::Writeset(b"opaque"),
        Item::Fragment { txid: TXID, ordinal: 1, body: b"piece" },
        Item::FenceRequest(TXID),
        Item::GiveUp(TXID),
        Item::FenceLift(TXID),
        Item::Incarnation { node: NodeId(2), incarnation: Incarnation(8) },
        Item::Marker { id: 42 },
        Item::Progress { node: NodeId(3), flushed: Seq(500) },
        Item::Member { node: NodeId(1), description: r#"{"name":"n1"}"# },
        Item::Verdicts { node: NodeId(2), index: LogIndex(77), hash: 0xFEED },
    ];
    check_entry("entry.v1", &items);
}

#[test]
fn entry_about_members() {
    let items = [Item::Remove(NodeId(4)), Item::Detach(NodeId(2)), Item::Attach(NodeId(3))];
    check_entry("entry_members.v1", &items);
}

fn check_entry(name: &str, items: &[Item<'_>]) {
    let mut built = Vec::new();
    entry::begin(&mut built);
    items.iter().for_each(|item| entry::push(&mut built, item));
    let bytes = stored(name, &built);
    let read: Result<Vec<_>, _> = Items::decode(&bytes).unwrap().collect();
    assert_eq!(read.unwrap(), items);
}

/// The frames of a stream, without their lengths.
fn payloads(mut stream: &[u8]) -> Vec<&[u8]> {
    let mut payloads = Vec::new();
    while let Some((length, rest)) = stream.split_at_checked(LENGTH_BYTES) {
        let (payload, rest) = rest.split_at(u32::from_le_bytes(length.try_into().unwrap()) as usize);
        payloads.push(payload);
        stream = rest;
    }
    payloads
}

#[test]
fn port_from_postgres() {
    let frames = [
        FromPostgres::Hello { server_start: 1, visible: Seq(2), incarnation: Incarnation(3) },
        FromPostgres::Submit(b"opaque"),
        FromPostgres::Fragment { txid: TXID, ordinal: 1, body: b"piece" },
        FromPostgres::FenceRequest(TXID),
        FromPostgres::GiveUp(TXID),
        FromPostgres::Waiting(TXID),
        FromPostgres::Orphan(Seq(4)),
        FromPostgres::Progress(Seq(5)),
        FromPostgres::Question { id: 6, millis: 10_000, topic: Topic::Transaction(TXID) },
        FromPostgres::Question { id: 7, millis: 10_000, topic: Topic::Status },
        FromPostgres::Question { id: 8, millis: 10_000, topic: Topic::Member(2) },
        FromPostgres::Question { id: 9, millis: 10_000, topic: Topic::Present },
        FromPostgres::Question { id: 10, millis: 10_000, topic: Topic::Everywhere(Seq(12)) },
    ];
    let mut built = Vec::new();
    frames.iter().for_each(|frame| frame.encode(&mut built));
    let bytes = stored("port_from_postgres.v4", &built);
    let read: Result<Vec<_>, _> = payloads(&bytes).into_iter().map(FromPostgres::decode).collect();
    assert_eq!(read.unwrap(), frames);
}

#[test]
fn port_admission() {
    let frames = [ToPostgres::Admission { open: false }, ToPostgres::Admission { open: true }];
    let mut built = Vec::new();
    frames.iter().for_each(|frame| frame.encode(&mut built));
    let bytes = stored("port_admission.v1", &built);
    let read: Result<Vec<_>, _> = payloads(&bytes).into_iter().map(ToPostgres::decode).collect();
    assert_eq!(read.unwrap(), frames);
}

#[test]
fn port_problem() {
    let frame =
        ToPostgres::Problem("at seq 7: table public.t, keys above (1) up to (2): most nodes hold something else");
    let mut built = Vec::new();
    frame.encode(&mut built);
    let bytes = stored("port_problem.v1", &built);
    let read: Result<Vec<_>, _> = payloads(&bytes).into_iter().map(ToPostgres::decode).collect();
    assert_eq!(read.unwrap(), [frame]);
}

#[test]
fn port_given_up() {
    let frame = ToPostgres::Abort { txid: TXID, reason: AbortReason::GivenUp };
    let mut built = Vec::new();
    frame.encode(&mut built);
    let bytes = stored("port_given_up.v1", &built);
    assert_eq!(payloads(&bytes).into_iter().map(ToPostgres::decode).collect::<Vec<_>>(), [Ok(frame)]);
}

#[test]
fn port_read() {
    let reason = AbortReason::Read { ordinal: 3, winner: Seq(9), node: NodeId(1) };
    let frame = ToPostgres::Abort { txid: TXID, reason };
    let mut built = Vec::new();
    frame.encode(&mut built);
    let bytes = stored("port_read.v1", &built);
    assert_eq!(payloads(&bytes).into_iter().map(ToPostgres::decode).collect::<Vec<_>>(), [Ok(frame)]);
}

#[test]
fn port_refused() {
    let mut built = Vec::new();
    ToPostgres::Refused(TXID).encode(&mut built);
    let bytes = stored("port_refused.v1", &built);
    let read: Result<Vec<_>, _> = payloads(&bytes).into_iter().map(ToPostgres::decode).collect();
    assert_eq!(read.unwrap(), [ToPostgres::Refused(TXID)]);
}

#[test]
fn port_to_postgres() {
    let (winner, node) = (Seq(9), NodeId(1));
    let abort = |reason| ToPostgres::Abort { txid: TXID, reason };
    let frames = [
        ToPostgres::Welcome { node, incarnation: Incarnation(2), sequence_slot: 3, sequence_slots: 16 },
        ToPostgres::Lease { until: 3000 },
        ToPostgres::Standing(Standing::Serving),
        ToPostgres::Standing(Standing::CatchingUp),
        ToPostgres::Standing(Standing::Alone),
        ToPostgres::Standing(Standing::Different),
        ToPostgres::Commit { txid: TXID, seq: Seq(10) },
        abort(AbortReason::Key { ordinal: 1, winner, node }),
        abort(AbortReason::Relation { ordinal: 2, winner, node }),
        abort(AbortReason::Catalog { winner, node }),
        abort(AbortReason::TooOld),
        abort(AbortReason::FenceLost),
        abort(AbortReason::Void),
        abort(AbortReason::Malformed),
        ToPostgres::Resubmit(TXID),
        ToPostgres::Forgotten(TXID),
        ToPostgres::FenceGranted { txid: TXID, fence: LogIndex(77), after: Seq(11) },
        ToPostgres::FenceLost(TXID),
        ToPostgres::Taken { txid: TXID, fragments: 12 },
        ToPostgres::Answer { question: 6, text: "committed" },
    ];
    let mut built = Vec::new();
    frames.iter().for_each(|frame| frame.encode(&mut built));
    let bytes = stored("port_to_postgres.v4", &built);
    let read: Result<Vec<_>, _> = payloads(&bytes).into_iter().map(ToPostgres::decode).collect();
    assert_eq!(read.unwrap(), frames);
}
