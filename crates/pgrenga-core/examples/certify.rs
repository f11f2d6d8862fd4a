//! How many writesets a second one core certifies: headers as TPC-B makes them
//! (12 keys, 4 relations), over a million accounts.
//!
//! `cargo run --release -p pgrenga-core --example certify`
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "a measurement needs a clock")]

use std::time::Instant;

use pgrenga_core::{Core, Decision, Limits, Position};
use pgrenga_writeset::entry::Item;
use pgrenga_writeset::writeset::{Access, Flags, Header, Key, RelationUse, RowLock, TableLocks, encode_header};
use pgrenga_writeset::{Incarnation, LogIndex, NodeId, Seq, TransactionId};

const WRITESETS: u64 = 2_000_000;
const ACCOUNTS: u64 = 1_000_000;
const NODES: u64 = 3;
/// Writesets encoded ahead of the measurement at a time.
const BATCH: u64 = 1000;

/// SplitMix64.
fn spread(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// An update of one account, teller and branch, and a row of history; each row
/// with three keys, as of a primary key and two other unique indexes.
fn encode(number: u64, seen: Seq, out: &mut Vec<u8>) {
    let txid = TransactionId {
        node: NodeId((number % NODES) as u32 + 1),
        incarnation: Incarnation(1),
        counter: number << TransactionId::SLOT_BITS,
    };
    let header = Header { flags: Flags::default(), txid, seen_first: seen, seen_last: seen, ..Header::default() };
    let account = spread(number) % ACCOUNTS;
    let rows = [account, ACCOUNTS + account / 10_000, 2 * ACCOUNTS + account / 100_000, 3 * ACCOUNTS + number];
    let relations: [_; 4] = std::array::from_fn(|table| RelationUse {
        hash: spread(table as u64),
        applied: TableLocks::ROW_EXCLUSIVE,
        held: TableLocks::ACCESS_SHARE,
    });
    let keys: [_; 12] = std::array::from_fn(|key| Key {
        hash: spread(rows[key / 3] * 3 + (key % 3) as u64),
        mode: if key / 3 == 3 { RowLock::Update } else { RowLock::NoKeyUpdate },
        access: Access::Write,
    });
    out.clear();
    encode_header(out, &header, relations.iter(), keys.iter(), &[]);
}

fn main() {
    let mut core = Core::new(Limits::default());
    let mut decisions = Vec::new();
    for node in 1..=NODES as u32 {
        let item = Item::Incarnation { node: NodeId(node), incarnation: Incarnation(1) };
        core.step(Position { index: LogIndex(u64::from(node)), item: 0 }, &item, &mut decisions);
    }
    let mut encoded = vec![Vec::new(); BATCH as usize];
    let (mut spent, mut slowest, mut commits, mut index) = (0.0, 0.0_f64, 0_u64, NODES);
    for batch in 0..WRITESETS / BATCH {
        // Each has seen all before it, so that all take the longer way: commit.
        for (number, bytes) in (batch * BATCH..).zip(&mut encoded) {
            encode(number, Seq(number), bytes);
        }
        index += 1;
        decisions.clear();
        let begin = Instant::now();
        for (item, bytes) in (0..).zip(&encoded) {
            core.step(Position { index: LogIndex(index), item }, &Item::Writeset(bytes), &mut decisions);
        }
        let elapsed = begin.elapsed().as_secs_f64();
        (spent, slowest) = (spent + elapsed, slowest.max(elapsed));
        commits += decisions.iter().filter(|decision| matches!(decision, Decision::Commit { .. })).count() as u64;
    }
    println!("{WRITESETS} writesets, {commits} committed");
    println!("{:.0} writesets/s, {:.2} us each", WRITESETS as f64 / spent, spent / WRITESETS as f64 * 1e6);
    println!("slowest batch of {BATCH}: {:.1} ms", slowest * 1e3);
    let begin = Instant::now();
    let copy = core.clone();
    println!("copy: {:.0} ms", begin.elapsed().as_secs_f64() * 1e3);
    let begin = Instant::now();
    let snapshot = copy.snapshot();
    println!("snapshot: {:.1} MB in {:.0} ms", snapshot.len() as f64 / 1e6, begin.elapsed().as_secs_f64() * 1e3);
    let begin = Instant::now();
    Core::restore(&snapshot, Limits::default()).expect("its own snapshot");
    println!("restore: {:.0} ms", begin.elapsed().as_secs_f64() * 1e3);
}
