//! Nothing that is not ordered keeps an ordered writeset waiting, and what
//! does not stand in its way is left alone.

use std::time::Duration;

use crate::daemon::Said;
use crate::server::Server;
use crate::session::{Session, expect_error};
use crate::writeset::{Body, V, s};

fn two_rows(session: &Session) -> Body {
    session.ok("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (2, 'a'); \
         CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES t)");
    Body::on(session, "t", "t_pkey")
}

fn set(body: &Body, id: i32, value: &str) -> Body {
    body.clone().update(&[V::Int(id), V::Absent], &[V::Int(id), s(value)])
}

/// Waits until a session sleeps, with all that it had to do before.
fn until_one_sleeps(watcher: &Session) {
    for _ in 0..1000 {
        if watcher.ok("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == "1" {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("nobody sleeps");
}

/// A running statement's transaction ends with 40001.
#[test]
fn ends_a_running_writer() {
    let server = Server::start();
    let (applier, writer) = (server.session(), server.user_session());
    let body = two_rows(&applier);
    let _daemon = server.daemon();
    writer.start("BEGIN; UPDATE t SET v = 'local' WHERE id = 1; SELECT pg_sleep(20)");
    until_one_sleeps(&applier);
    applier.ok(&set(&body, 1, "ordered").apply(1, 0));
    expect_error(writer.finish(), "40001");
    assert_eq!(applier.ok("SELECT v FROM t WHERE id = 1"), "ordered");
    writer.ok("ROLLBACK");
    assert_eq!(writer.ok("SELECT v FROM t WHERE id = 1"), "ordered");
}

/// One that takes long to roll back, or to give up its locks after that, is not told twice: what comes late would
/// end it when it is idle, or spoil the next cancel.
#[test]
fn tells_a_victim_once() {
    let server = Server::start();
    let (applier, writer) = (server.session(), server.user_session());
    let body = two_rows(&applier);
    let _daemon = server.daemon();
    let pid = writer.ok("SELECT pg_backend_pid()");
    for (seq, failpoint) in [(1, "heard_pause"), (2, "aborted_pause")] {
        let update = "UPDATE t SET v = 'local' WHERE id = 1 RETURNING pg_sleep(20)";
        writer.start(&format!("SET pgrenga.failpoint = '{failpoint}'; {update}"));
        until_one_sleeps(&applier);
        let row = [V::Int(1), V::Absent];
        applier.ok(&body.clone().update(&row, &[V::Int(1), s(failpoint)]).apply(seq, seq - 1));
        expect_error(writer.finish(), "40001");
        writer.start("SELECT pg_sleep(20)");
        until_one_sleeps(&applier);
        applier.ok(&format!("SELECT pg_cancel_backend({pid})"));
        expect_error(writer.finish(), "57014");
    }
}

/// An idle transaction's session ends; no later transaction is hit.
#[test]
fn ends_an_idle_writer() {
    let server = Server::start();
    let (applier, writer) = (server.session(), server.user_session());
    let body = two_rows(&applier);
    let _daemon = server.daemon();
    writer.ok("BEGIN; UPDATE t SET v = 'local' WHERE id = 1");
    applier.ok(&set(&body, 1, "ordered").apply(1, 0));
    expect_error(writer.run("COMMIT"), "40001");
    assert_eq!(applier.ok("SELECT v FROM t WHERE id = 1"), "ordered");
}

/// A savepoint's handler cannot keep the transaction alive.
#[test]
fn ends_a_writer_inside_a_subtransaction() {
    let server = Server::start();
    let (applier, writer) = (server.session(), server.user_session());
    let body = two_rows(&applier);
    let _daemon = server.daemon();
    writer.start(
        "DO $$BEGIN UPDATE t SET v = 'local' WHERE id = 1; \
         BEGIN PERFORM pg_sleep(20); EXCEPTION WHEN OTHERS THEN PERFORM pg_sleep(20); END; END$$",
    );
    until_one_sleeps(&applier);
    applier.ok(&set(&body, 1, "ordered").apply(1, 0));
    expect_error(writer.finish(), "40001");
    assert_eq!(applier.ok("SELECT v FROM t WHERE id = 1"), "ordered");
}

/// A foreign-key check's lock stops no update of other columns, but a delete.
#[test]
fn leaves_compatible_row_locks_alone() {
    let server = Server::start();
    let (applier, writer, other) = (server.session(), server.user_session(), server.user_session());
    let body = two_rows(&applier);
    let _daemon = server.daemon();
    writer.ok("BEGIN; INSERT INTO child VALUES (1, 1)");
    other.ok("BEGIN; SELECT 1 FROM t WHERE id = 1 FOR KEY SHARE");
    applier.ok(&set(&body, 1, "ordered").apply(1, 0));
    assert_eq!(writer.ok("SELECT count(*) FROM child"), "1");
    other.ok("SELECT 1");
    applier.ok(&body.delete(&[V::Int(1), V::Absent]).apply(2, 1));
    expect_error(writer.run("COMMIT"), "40001");
    expect_error(other.run("COMMIT"), "40001");
}

/// A transaction that only locks goes as well.
#[test]
fn ends_a_lock_holder_that_has_not_written() {
    let server = Server::start();
    let (applier, holder) = (server.session(), server.session());
    let body = two_rows(&applier);
    holder.ok("BEGIN; LOCK TABLE t IN SHARE MODE");
    applier.ok(&set(&body, 1, "ordered").apply(1, 0));
    expect_error(holder.run("COMMIT"), "40001");
}

/// So does one that inserted the same key, and waits for another one.
#[test]
fn ends_whoever_inserted_the_same_key() {
    let server = Server::start();
    let (applier, writer) = (server.session(), server.user_session());
    let body = two_rows(&applier);
    let _daemon = server.daemon();
    writer.ok("BEGIN; INSERT INTO t VALUES (3, 'local')");
    applier.ok(&body.insert(&[V::Int(3), s("ordered")]).apply(1, 0));
    expect_error(writer.run("COMMIT"), "40001");
    assert_eq!(applier.ok("SELECT v FROM t WHERE id = 3"), "ordered");
}

/// An ordered transaction that waits for its turn behind the applier steps
/// back; the applier does its work, exactly once.
#[test]
fn an_ordered_transaction_steps_back() {
    let server = Server::start();
    let (applier, writer) = (server.session(), server.user_session());
    let body = two_rows(&applier);
    let mut daemon = server.daemon();
    writer.start("UPDATE t SET v = v || '+local' WHERE id = 1");
    let local = daemon.order_next(2);
    assert!(writer.is_blocked());
    applier.ok(&set(&body, 1, "ordered").apply(1, 0));
    expect_error(writer.finish(), "08007");
    assert_eq!(daemon.hear(), Said::Orphan(2));
    applier.ok(&Body(local).apply(2, 1));
    assert_eq!(applier.ok("SELECT v, pgrenga.visible() FROM t WHERE id = 1"), "a+local|2");
}

/// A local transaction that does not stand in the way commits in its turn.
#[test]
fn an_ordered_transaction_waits_for_its_turn() {
    let server = Server::start();
    let (applier, writer) = (server.session(), server.user_session());
    let body = two_rows(&applier);
    let mut daemon = server.daemon();
    writer.start("UPDATE t SET v = 'local' WHERE id = 2");
    daemon.order_next(2);
    assert!(writer.is_blocked());
    applier.ok(&set(&body, 1, "ordered").apply(1, 0));
    writer.finish().expect("seq 2 commits");
    assert_eq!(applier.ok("SELECT id, v, pgrenga.visible() FROM t ORDER BY 1"), "1|ordered|2\n2|local|2");
}

/// Of two appliers the later one gives way.
#[test]
fn a_later_applier_yields() {
    let server = Server::start();
    let (first, second) = (server.session(), server.session());
    let body = two_rows(&first);
    second.start(&set(&body, 1, "second").apply(2, 0));
    assert!(second.is_blocked());
    first.ok(&set(&body, 1, "first").apply(1, 0));
    expect_error(second.finish(), "40001");
    second.ok(&set(&body, 1, "second").apply(2, 1));
    assert_eq!(first.ok("SELECT v, pgrenga.visible() FROM t WHERE id = 1"), "second|2");
}

/// A later applier that itself waits for a lock gives way, too.
#[test]
fn a_later_applier_that_waits_for_a_lock_yields() {
    let server = Server::start();
    let (first, second, third) = (server.session(), server.session(), server.session());
    let body = two_rows(&first);
    // Seq 2 holds row 2 and waits for its turn; seq 3 holds row 1 and waits for row 2.
    second.start(&set(&body, 2, "second").apply(2, 0));
    assert!(second.is_blocked());
    third.start(
        &body
            .clone()
            .update(&[V::Int(1), V::Absent], &[V::Int(1), s("third")])
            .update(&[V::Int(2), V::Absent], &[V::Int(2), s("third")])
            .apply(3, 0),
    );
    assert!(third.is_blocked());
    first.ok(&set(&body, 1, "first").apply(1, 0));
    expect_error(third.finish(), "57014");
    second.finish().expect("seq 2 is applied");
    assert_eq!(first.ok("SELECT v FROM t ORDER BY id"), "first\nsecond");
}

/// A statement that changes the catalog waits for nobody's idle transaction,
/// but for a running query.
#[test]
fn a_fence_holder_waits_for_no_idle_transaction() {
    let server = Server::start();
    let (owner, idle, busy) = (server.user_session(), server.user_session(), server.user_session());
    two_rows(&server.session());
    let mut daemon = server.daemon();
    idle.ok("BEGIN; SELECT count(*) FROM t");
    busy.start("SELECT count(*), pg_sleep(2) FROM t");
    assert!(busy.is_blocked());
    owner.start("ALTER TABLE t ADD c int");
    daemon.grant_next();
    assert!(owner.is_blocked());
    busy.finish().expect("a running query is left alone");
    daemon.order_next(1);
    owner.finish().expect("the statement commits");
    expect_error(idle.run("COMMIT"), "40001");
}

/// An ordered statement waits for nobody at all.
#[test]
fn an_ordered_statement_waits_for_nobody() {
    let server = Server::start();
    let (applier, idle, busy) = (server.session(), server.user_session(), server.user_session());
    two_rows(&applier);
    idle.ok("BEGIN; SELECT count(*) FROM t");
    busy.start("SELECT count(*), pg_sleep(20) FROM t");
    assert!(busy.is_blocked());
    applier.ok(&Body::default().ddl("ALTER TABLE public.t ADD c int").apply(1, 0));
    expect_error(busy.finish(), "40001");
    expect_error(idle.run("COMMIT"), "40001");
}
