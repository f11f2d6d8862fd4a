//! A session gets the answer to its question, or none.

use crate::server::Server;
use crate::session::expect_error;

/// Who gave up and asks something else never takes the late answer for the other one.
#[test]
fn a_late_answer_is_dropped() {
    let server = Server::start();
    let mut daemon = server.daemon();
    let session = server.session();
    session.ok("SET pgrenga.commit_timeout = '300ms'");
    session.start("SELECT pgrenga.transaction_status('1-1-65536')");
    let first = daemon.hear_question();
    expect_error(session.finish(), "57P03");
    session.ok("SET pgrenga.commit_timeout = '20s'");
    session.start("SELECT pgrenga.transaction_status('1-1-131072')");
    let second = daemon.hear_question();
    daemon.answer(first, "committed");
    assert!(session.is_blocked());
    daemon.answer(second, "aborted");
    assert_eq!(session.finish().expect("it was answered"), "aborted");
}

/// A question that was lost is asked again, and stays the same one.
#[test]
fn a_lost_question_is_asked_again() {
    let server = Server::start();
    let mut daemon = server.daemon();
    let session = server.session();
    session.start("SELECT id, name, leader FROM pgrenga.status()");
    let first = daemon.hear_question();
    let again = daemon.hear_question();
    assert_eq!(first, again);
    let longest = format!(r#"{{"id":7,"name":"{}"}}"#, "n".repeat(1024 - 18));
    assert_eq!(longest.len(), 1024, "as long as an answer may be");
    daemon.answer(again, &longest);
    daemon.answer(first, "{}");
    assert_eq!(session.finish().expect("it was answered"), format!("7|{}|", "n".repeat(1024 - 18)));
    session.start("SELECT id FROM pgrenga.nodes");
    for text in [r#"{"id":1}"#, r#"{"id":2}"#, ""] {
        let question = daemon.hear_question();
        daemon.answer(question, text);
    }
    assert_eq!(session.finish().expect("it was answered"), "1\n2");
}

/// Who waits for an answer can be cancelled, also if no daemon is there at all.
#[test]
fn a_question_can_be_cancelled() {
    let server = Server::start();
    let (session, other) = (server.session(), server.session());
    let pid = session.ok("SELECT pg_backend_pid()");
    session.start("SELECT pgrenga.transaction_status('1-1-65536')");
    assert!(session.is_blocked());
    other.ok(&format!("SELECT pg_cancel_backend({pid})"));
    expect_error(session.finish(), "57014");
    session.ok("SET pgrenga.commit_timeout = '100ms'");
    session.fails("57P03", "SELECT * FROM pgrenga.status()");
}
