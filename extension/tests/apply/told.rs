//! A transaction whose id was told is ordered under it, or ends under it.

use pgrenga_writeset::TransactionId;

use crate::daemon::{Daemon, Said};
use crate::server::Server;
use crate::session::{Session, expect_error};

fn started() -> (Server, Session, Daemon) {
    let server = Server::start();
    let writer = server.user_session();
    writer.ok("SET pgrenga.replicate = off; CREATE TABLE t (id int PRIMARY KEY); RESET pgrenga.replicate");
    let daemon = server.daemon();
    (server, writer, daemon)
}

/// Begins to write, and asks for the id.
fn tell(writer: &Session, row: u32) -> TransactionId {
    writer.ok(&format!("BEGIN; INSERT INTO t VALUES ({row})"));
    writer.ok("SELECT pgrenga.transaction_id()").parse().expect("an id")
}

/// A writeset that was lost is handed over again under another id, unless somebody knows the first one.
#[test]
fn a_writeset_that_was_lost() {
    let (_server, writer, mut daemon) = started();
    writer.start("INSERT INTO t VALUES (1)");
    let lost = daemon.lose_next();
    let Said::Submit(again, _) = daemon.hear() else { panic!("expected a submission") };
    assert_ne!(lost, again);
    daemon.commit(again, 1);
    writer.finish().expect("it was ordered");

    let told = tell(&writer, 2);
    writer.start("COMMIT");
    assert_eq!(daemon.lose_next(), told);
    expect_error(writer.finish(), "40001");
    assert_eq!(daemon.hear_given_up(), told);
    assert_eq!(writer.ok("SELECT max(id) FROM t"), "1");
}

/// A transaction that is open when its node begins a new life belongs to that one, unless its id was told.
#[test]
fn a_new_life() {
    let (server, writer, mut daemon) = started();
    let other = server.user_session();
    let told = tell(&writer, 1);
    other.ok("BEGIN; INSERT INTO t VALUES (2)");
    daemon.begin_life(2);
    let watch = server.user_session();
    while !watch.ok("SELECT pgrenga.transaction_id()").starts_with("1-2-") {}

    writer.start("COMMIT");
    expect_error(writer.finish(), "40001");
    while daemon.hear_given_up().counter != told.counter {}
    other.start("COMMIT");
    let Said::Submit(txid, _) = daemon.hear() else { panic!("expected a submission") };
    assert_eq!(txid.incarnation.0, 2);
    daemon.commit(txid, 1);
    other.finish().expect("it was ordered");
}

/// What was told and not ordered is given up, however its transaction ends; and nothing else is.
#[test]
fn who_gives_up() {
    let (server, writer, mut daemon) = started();
    writer.ok("BEGIN; INSERT INTO t VALUES (1); ROLLBACK");
    let told = tell(&writer, 1);
    writer.ok("ROLLBACK");
    assert_eq!(daemon.hear_given_up(), told);

    let told = tell(&writer, 1);
    writer.fails("22012", "SELECT 1 / 0");
    assert_eq!(daemon.hear_given_up(), told, "it cannot commit any more");
    writer.ok("ROLLBACK");

    let told = tell(&writer, 1);
    writer.start("COMMIT");
    let Said::Submit(txid, _) = daemon.hear() else { panic!("expected a submission") };
    assert_eq!(txid, told);
    daemon.commit(txid, 1);
    writer.finish().expect("it was ordered");

    let told: TransactionId = writer.ok("SELECT pgrenga.transaction_id()").parse().expect("an id");
    assert_eq!(daemon.hear_given_up(), told, "it wrote nothing; what was ordered was not given up");

    // The daemon knew that it would abort, and the log has never heard of it.
    let told = tell(&writer, 2);
    writer.start("COMMIT");
    daemon.abort_next(1);
    expect_error(writer.finish(), "40001");
    assert_eq!(daemon.hear_given_up(), told);

    // Whoever hears 08007 hears an id, too.
    writer.ok("SET pgrenga.commit_timeout = '100ms'");
    writer.start("INSERT INTO t VALUES (2)");
    let Said::Submit(txid, _) = daemon.hear() else { panic!("expected a submission") };
    expect_error(writer.finish(), "08007");
    assert_eq!(daemon.hear_given_up(), txid);

    let session = server.user_session();
    session.ok("SET pgrenga.report_transaction_id = on");
    let told: TransactionId = session.ok("SHOW pgrenga.transaction_id").parse().expect("an id");
    drop(session);
    assert_eq!(daemon.hear_given_up(), told, "the session is over");
}
