//! What a session hears of a transaction that was not ordered here, and when it tries again.

use crate::server::Server;
use crate::session::expect_error;
use crate::writeset::{Body, V};

/// Who lost to a transaction of another node tries again when that is visible here, not before.
#[test]
fn a_loser_waits_for_the_winner() {
    let server = Server::start();
    let (applier, writer) = (server.session(), server.user_session());
    applier.ok("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 0)");
    let other = Body::on(&applier, "t", "t_pkey").update(&[V::Int(1), V::Absent], &[V::Int(1), V::Int(9)]);
    let mut daemon = server.daemon();

    // A transaction block waits where it begins, with nothing read.
    writer.start("UPDATE t SET v = v + 1");
    daemon.abort_next(2);
    expect_error(writer.finish(), "40001");
    assert_eq!(writer.ok("SELECT v FROM t"), "0", "what only reads does not wait");
    writer.start("BEGIN ISOLATION LEVEL REPEATABLE READ; UPDATE t SET v = v + 1; COMMIT");
    assert!(writer.is_blocked());
    applier.ok(&other.apply(1, 0));
    assert!(writer.is_blocked());
    applier.ok(&other.apply(2, 1));
    daemon.order_next(3);
    writer.finish().expect("it saw the winner");

    // A statement of its own waits before it writes.
    writer.start("UPDATE t SET v = v + 1");
    daemon.abort_next(4);
    expect_error(writer.finish(), "40001");
    writer.start("UPDATE t SET v = v + 1");
    assert!(writer.is_blocked());
    applier.ok(&other.apply(4, 3));
    daemon.order_next(5);
    writer.finish().expect("it saw the winner");
    assert_eq!(applier.ok("SELECT v, pgrenga.visible() FROM t"), "10|5");

    // Nobody waits for ever: the verdict decides.
    writer.start("UPDATE t SET v = v + 1");
    daemon.abort_next(100);
    expect_error(writer.finish(), "40001");
    writer.start("UPDATE t SET v = v + 1");
    daemon.order_next(6);
    writer.finish().expect("it was ordered");
}

/// What may be committed is never reported as something to try again.
#[test]
fn a_forgotten_outcome_is_unknown() {
    let server = Server::start();
    let writer = server.user_session();
    writer.ok("SET pgrenga.replicate = off; CREATE TABLE t (id int PRIMARY KEY); RESET pgrenga.replicate");
    let mut daemon = server.daemon();
    writer.start("INSERT INTO t VALUES (1)");
    daemon.forget_next();
    expect_error(writer.finish(), "08007");
    assert_eq!(writer.ok("SELECT count(*) FROM t"), "0");
}
