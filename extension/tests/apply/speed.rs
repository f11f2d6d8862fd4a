//! How fast one connection applies. `cargo test --release -- --ignored --nocapture speed`

use std::time::Instant;

use crate::server::Server;
use crate::session::Session;
use crate::writeset::literal;
use pgrenga_writeset::op::{self, Relation, Value};

/// Writesets in one run.
const COUNT: usize = 50_000;
/// Rows of `pgbench_accounts`.
const ACCOUNTS: i32 = 100_000;

/// TPC-B as pgbench has it: three updates by primary key and one insert.
#[test]
#[ignore = "a measurement"]
fn applies_tpc_b() {
    let server = Server::start();
    let session = server.session();
    session.ok(&format!(
        "CREATE TABLE accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84)) WITH (fillfactor = 90); \
         CREATE TABLE tellers (tid int PRIMARY KEY, bid int, tbalance int, filler char(84)) WITH (fillfactor = 50); \
         CREATE TABLE branches (bid int PRIMARY KEY, bbalance int, filler char(88)) WITH (fillfactor = 50); \
         CREATE TABLE history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22)); \
         INSERT INTO accounts SELECT i, 1, 0, '' FROM generate_series(0, {ACCOUNTS} - 1) i; \
         INSERT INTO tellers SELECT i, 1, 0, '' FROM generate_series(0, 9) i; INSERT INTO branches VALUES (1, 0, ''); \
         CREATE TABLE queue (seq bigint, body bytea); VACUUM ANALYZE accounts",
    ));
    let relations = describe(&session);
    for chunk in (1..=COUNT).collect::<Vec<_>>().chunks(1000) {
        let rows: Vec<_> =
            chunk.iter().map(|&seq| format!("({seq}, {})", literal(&transaction(&relations, seq as i32)))).collect();
        session.ok(&format!("INSERT INTO queue VALUES {}", rows.join(",")));
    }
    session.ok("CHECKPOINT");
    // A statement for each writeset, sent by psql without anything in between:
    // what a connection can do, without the network's and the client's share.
    session.ok("CREATE PROCEDURE drain() LANGUAGE plpgsql AS $$DECLARE item record; BEGIN \
         FOR item IN SELECT * FROM queue ORDER BY seq LOOP \
         PERFORM pgrenga.apply(item.seq, item.seq - 1, 9, item.body, true); COMMIT; END LOOP; END$$");
    let start = Instant::now();
    session.start("CALL drain()");
    session.finish_at_last().expect("all are applied");
    let seconds = start.elapsed().as_secs_f64();
    println!("{COUNT} TPC-B writesets in {seconds:.2} s: {:.0}/s on one connection", COUNT as f64 / seconds);
    assert_eq!(session.ok("SELECT count(*), pgrenga.visible() FROM history"), format!("{COUNT}|{COUNT}"));
}

fn describe(session: &Session) -> Vec<u8> {
    let mut out = Vec::new();
    let tables =
        [("accounts", "accounts_pkey"), ("tellers", "tellers_pkey"), ("branches", "branches_pkey"), ("history", "")];
    for (ordinal, (name, identity)) in tables.into_iter().enumerate() {
        let descriptor = crate::writeset::Body::descriptor(session, name);
        Relation { ordinal: ordinal as u16, schema: "public", name, identity, descriptor }.encode(&mut out);
    }
    out
}

fn transaction(relations: &[u8], seq: i32) -> Vec<u8> {
    let mut out = relations.to_vec();
    let account = (i64::from(seq) * 7919 % i64::from(ACCOUNTS)) as i32;
    let filler = |size: usize| {
        let mut bytes = vec![(((size + 1) << 1) | 1) as u8];
        bytes.resize(size + 1, b' ');
        bytes
    };
    let rows = [(0, account, 84), (1, seq % 10, 84), (2, 1, 88)];
    for (relation, id, width) in rows {
        let columns = if relation == 2 { 3 } else { 4 };
        op::begin_update(&mut out, relation);
        op::begin_row(&mut out, columns);
        Value::Internal(&id.to_le_bytes()).encode(&mut out);
        (1..columns).for_each(|_| Value::Absent.encode(&mut out));
        op::begin_row(&mut out, columns);
        Value::Internal(&id.to_le_bytes()).encode(&mut out);
        (2..columns).for_each(|_| Value::Internal(&seq.to_le_bytes()).encode(&mut out));
        Value::Internal(&filler(width)).encode(&mut out);
    }
    op::begin_insert(&mut out, 3);
    op::begin_row(&mut out, 6);
    for number in [seq % 10, 1, account, seq] {
        Value::Internal(&number.to_le_bytes()).encode(&mut out);
    }
    Value::Internal(&i64::from(seq).to_le_bytes()).encode(&mut out);
    Value::Null.encode(&mut out);
    out
}
