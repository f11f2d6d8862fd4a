//! Rows end up exactly as the writeset says, and nothing else runs.

use crate::server::Server;
use crate::writeset::{Body, V, literal, s};

/// Inserts, updates and deletes, also of a key, also of the same row twice.
#[test]
fn changes_rows_by_primary_key() {
    let server = Server::start();
    let session = server.session();
    session.ok("CREATE TABLE t (id int PRIMARY KEY, v text UNIQUE)");
    let body = Body::on(&session, "t", "t_pkey")
        .insert(&[V::Int(1), s("one")])
        .insert(&[V::Int(2), s("two")])
        .insert(&[V::Int(3), V::Null])
        .update(&[V::Int(1), V::Absent], &[V::Int(1), s("uno")])
        .update(&[V::Int(1), V::Absent], &[V::Int(10), s("uno")])
        .delete(&[V::Int(2), V::Absent]);
    session.ok(&body.apply(1, 0));
    assert_eq!(session.ok("SELECT * FROM t ORDER BY id"), "3|\n10|uno");
    assert_eq!(session.ok("SET enable_seqscan = off; SELECT id FROM t WHERE v = 'uno'"), "10");
    assert_eq!(session.ok("SELECT pgrenga.visible(), pgrenga.recovered(), pgrenga.flushed()"), "1|1|1");
}

/// An update that changes no indexed column makes no index entry.
#[test]
fn updates_stay_hot() {
    let server = Server::start();
    let session = server.session();
    session.ok("CREATE TABLE t (id int PRIMARY KEY, v text) WITH (fillfactor = 50); INSERT INTO t VALUES (1, 'a')");
    let body = Body::on(&session, "t", "t_pkey").update(&[V::Int(1), V::Absent], &[V::Int(1), s("b")]);
    session.ok(&body.apply(1, 0));
    session.ok("SELECT pg_stat_force_next_flush()");
    assert_eq!(session.ok("SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 't'"), "1|1");
}

/// A TOASTed value that the origin did not touch stays what it is.
#[test]
fn keeps_untouched_toasted_values() {
    let server = Server::start();
    let session = server.session();
    session.ok("CREATE TABLE t (id int PRIMARY KEY, n int, v text); ALTER TABLE t ALTER v SET STORAGE EXTERNAL");
    let large = "x".repeat(20_000);
    let body = Body::on(&session, "t", "t_pkey");
    session.ok(&body.clone().insert(&[V::Int(1), V::Int(1), s(&large)]).apply(1, 0));
    let update = body.update(&[V::Int(1), V::Absent, V::Absent], &[V::Int(1), V::Int(2), V::Unchanged]);
    session.ok(&update.apply(2, 1));
    assert_eq!(session.ok("SELECT n, v = repeat('x', 20000) FROM t"), "2|t");
}

/// Without an identity rows are found by their bytes, one at a time: equal
/// numbers that are written differently are different rows.
#[test]
fn finds_whole_rows_by_their_bytes() {
    let server = Server::start();
    let session = server.session();
    session.ok(
        "CREATE TABLE t (n numeric, v text); INSERT INTO t VALUES (1.0, 'a'), (1.00, 'a'), (1.00, 'a'), (NULL, 'a')",
    );
    // numeric 1.00: short varlena header, then display scale 2, weight 0, digit 1.
    let exact = || V::Bytes(vec![11, 0x00, 0x81, 0x01, 0x00]);
    let body = Body::on(&session, "t", "").delete(&[exact(), s("a")]).update(&[V::Null, s("a")], &[V::Null, s("b")]);
    session.ok(&body.apply(1, 0));
    assert_eq!(session.ok("SELECT n, v FROM t ORDER BY n::text"), "1.0|a\n1.00|a\n|b");
}

/// Values of users' types travel as text, keys as well.
#[test]
fn reads_values_in_text_form() {
    let server = Server::start();
    let session = server.session();
    session.ok("CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE DOMAIN low AS int CHECK (VALUE < 10); \
         CREATE TYPE pair AS (a low, b text); CREATE TABLE t (m mood PRIMARY KEY, d low[], p pair, r regclass)");
    let body = Body::on(&session, "t", "t_pkey")
        .insert(&[V::Text("sad"), V::Text("{1,2}"), V::Text("(3,\"x y\")"), V::Text("pg_class")])
        .update(
            &[V::Text("sad"), V::Absent, V::Absent, V::Absent],
            &[V::Text("happy"), V::Text("{}"), V::Null, V::Text("pg_type")],
        );
    session.ok(&body.apply(1, 0));
    assert_eq!(session.ok("SELECT * FROM t"), "happy|{}||pg_type");
}

/// What the origin settled is not settled again, whatever it says here.
#[test]
fn runs_no_triggers_checks_or_defaults() {
    let server = Server::start();
    let session = server.session();
    session.ok("CREATE TABLE p (id int PRIMARY KEY); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS \
         $$BEGIN RAISE 'a trigger ran'; END$$; \
         CREATE TABLE t (id int PRIMARY KEY, c int CHECK (c > 0), g int GENERATED ALWAYS AS (c * 2) STORED, \
         d int DEFAULT 7, r int REFERENCES p); \
         CREATE TRIGGER a BEFORE INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION f(); \
         CREATE TRIGGER b AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION f(); \
         ALTER TABLE t ENABLE ALWAYS TRIGGER a");
    let absent = || [V::Int(1), V::Absent, V::Absent, V::Absent, V::Absent];
    let body = Body::on(&session, "t", "t_pkey")
        .insert(&[V::Int(1), V::Int(-1), V::Int(5), V::Null, V::Int(99)])
        .update(&absent(), &[V::Int(1), V::Int(-2), V::Int(6), V::Null, V::Int(99)]);
    session.ok(&body.apply(1, 0));
    assert_eq!(session.ok("SELECT * FROM t"), "1|-2|6||99");
    session.ok(&Body::on(&session, "t", "t_pkey").delete(&absent()).apply(2, 1));
    assert_eq!(session.ok("SELECT count(*) FROM t"), "0");
}

/// Expressions of indexes run as the table's owner, restricted.
#[test]
fn runs_index_expressions_as_the_owner() {
    let server = Server::start();
    let session = server.session();
    session.ok("CREATE ROLE alice; GRANT ALL ON SCHEMA public TO alice; SET ROLE alice; \
         CREATE FUNCTION f(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$BEGIN \
         IF current_user <> 'alice' THEN RAISE 'ran as %', current_user; END IF; \
         IF i < 0 THEN PERFORM set_config('role', 'none', false); END IF; RETURN i; END$$; \
         CREATE TABLE t (id int PRIMARY KEY, v int); CREATE INDEX ON t (f(v)); \
         CREATE INDEX ON t (id) WHERE f(v) > 1; RESET ROLE");
    let body = Body::on(&session, "t", "t_pkey");
    session.ok(&body.clone().insert(&[V::Int(1), V::Int(2)]).apply(1, 0));
    session.ok(&body.clone().update(&[V::Int(1), V::Absent], &[V::Int(1), V::Int(3)]).apply(2, 1));
    assert_eq!(session.ok("SELECT * FROM t; SELECT current_user"), "1|3\npostgres");
    session.fails("42501", &body.insert(&[V::Int(2), V::Int(-1)]).apply(3, 2));
    assert_eq!(session.ok("SELECT current_user, pgrenga.visible()"), "postgres|2");
}

/// Uniqueness that the origin deferred does not stop the applier in between.
#[test]
fn leaves_deferrable_constraints_to_the_origin() {
    let server = Server::start();
    let session = server.session();
    session.ok("CREATE TABLE t (id int PRIMARY KEY, v int UNIQUE DEFERRABLE); INSERT INTO t VALUES (1, 1), (2, 2)");
    let body = Body::on(&session, "t", "t_pkey")
        .update(&[V::Int(1), V::Absent], &[V::Int(1), V::Int(2)])
        .update(&[V::Int(2), V::Absent], &[V::Int(2), V::Int(1)]);
    session.ok(&body.apply(1, 0));
    assert_eq!(session.ok("SELECT * FROM t ORDER BY 1"), "1|2\n2|1");
}

/// Nothing is skipped: what cannot be applied is an error that says what.
#[test]
fn differences_are_errors() {
    let server = Server::start();
    let session = server.session();
    session.ok("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a')");
    let body = Body::on(&session, "t", "t_pkey");
    let missing = body.clone().insert(&[V::Int(2), V::Null]).delete(&[V::Int(7), V::Absent]);
    let error = session.fails("PG002", &missing.apply(1, 0));
    assert!(error.contains("DETAIL:  Relation public.t: there is no row with (id)=(7)."), "{error}");
    session.fails("23505", &body.clone().insert(&[V::Int(1), V::Null]).apply(1, 0));
    assert_eq!(session.ok("SELECT count(*), pgrenga.visible() FROM t"), "1|0");
    session.ok("ALTER TABLE t ADD c int");
    session.fails("PG002", &body.clone().insert(&[V::Int(2), V::Null]).apply(1, 0));
    session.ok("DROP TABLE t");
    session.fails("PG002", &body.insert(&[V::Int(2), V::Null]).apply(1, 0));
}

/// Bytes that are no writeset do no harm.
#[test]
fn malformed_writesets_are_refused() {
    let server = Server::start();
    let session = server.session();
    session.ok("CREATE TABLE t (id int PRIMARY KEY, v text)");
    let body = Body::on(&session, "t", "t_pkey");
    let bad_rows: [&[V]; 5] = [
        &[V::Int(1)],
        &[V::Bytes(vec![1]), V::Null],
        &[V::Int(1), V::Bytes(vec![])],
        &[V::Int(1), V::Bytes(vec![0xFF, 0xFF, 0xFF, 0xFF])],
        &[V::Int(1), V::Unchanged],
    ];
    for row in bad_rows {
        session.fails("PG003", &body.clone().insert(row).apply(1, 0));
    }
    let whole = body.insert(&[V::Int(1), s("a")]).0;
    for end in [whole.len() - 1, 3] {
        session.fails("PG003", &format!("SELECT pgrenga.apply(1, 0, 9, {}, true)", literal(&whole[..end])));
    }
    session.fails("PG003", "SELECT pgrenga.apply(1, 0, 9, '\\x63'::bytea, true)");
    assert_eq!(session.ok("SELECT count(*), pgrenga.visible() FROM t"), "0|0");
}

/// A large writeset comes in pieces, cut anywhere, in one transaction.
#[test]
fn pieces_are_one_transaction() {
    let server = Server::start();
    let session = server.session();
    session.ok("CREATE TABLE t (id int PRIMARY KEY, v text)");
    let mut body = Body::on(&session, "t", "t_pkey");
    for id in 0..40 {
        body = body.insert(&[V::Int(id), s(&"y".repeat(id as usize * 10))]);
    }
    session.ok("BEGIN");
    let pieces: Vec<_> = body.0.chunks(97).collect();
    for (at, piece) in pieces.iter().enumerate() {
        let last = at + 1 == pieces.len();
        session.ok(&format!("SELECT pgrenga.apply(1, 0, 9, {}, {last})", literal(piece)));
    }
    session.ok("COMMIT");
    assert_eq!(session.ok("SELECT count(*), sum(length(v)), pgrenga.visible() FROM t"), "40|7800|1");

    let unfinished = Body::on(&session, "t", "t_pkey").insert(&[V::Int(100), V::Null]);
    session.ok(&format!("BEGIN; SELECT pgrenga.apply(2, 1, 9, {}, false)", unfinished.literal()));
    session.fails("PG003", "COMMIT");
    assert_eq!(session.ok("SELECT pgrenga.visible()"), "1");
}

/// Statements and rows mix; a relation is described anew after a statement.
#[test]
fn statements_stand_between_rows() {
    let server = Server::start();
    let session = server.session();
    session.ok("CREATE TABLE t (id int PRIMARY KEY, v text)");
    let before = Body::on(&session, "t", "t_pkey").insert(&[V::Int(1), s("a")]);
    session.ok("BEGIN; ALTER TABLE t ADD c int; ALTER TABLE t DROP v");
    session.ok("COMMIT");
    let after =
        Body::on(&session, "t", "t_pkey").update(&[V::Int(1), V::Absent, V::Absent], &[V::Int(1), V::Null, V::Int(5)]);
    session.ok("DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, v text)");
    let body = before.ddl("ALTER TABLE t ADD c int").ddl("ALTER TABLE t DROP v").then(&after);
    session.ok(&body.apply(1, 0));
    assert_eq!(session.ok("SELECT * FROM t"), "1|5");
}
