//! Writesets become visible once, in seq order, with no gaps.

use crate::server::Server;
use crate::session::expect_error;
use crate::writeset::{Body, V};

/// Later writesets execute, wait, and commit after earlier ones.
#[test]
fn commits_in_seq_order() {
    let server = Server::start();
    let (first, second, third) = (server.session(), server.session(), server.session());
    first.ok("CREATE TABLE t (id int PRIMARY KEY)");
    let body = Body::on(&first, "t", "t_pkey");
    third.start(&body.clone().insert(&[V::Int(3)]).apply(3, 0));
    assert!(third.is_blocked());
    second.start(&body.clone().delete(&[V::Int(1)]).apply(2, 1));
    assert!(second.is_blocked());
    assert_eq!(first.ok("SELECT count(*) FROM t"), "0");
    first.ok(&body.clone().insert(&[V::Int(1)]).apply(1, 0));
    second.finish().expect("seq 2 is applied");
    third.finish().expect("seq 3 is applied");
    assert_eq!(first.ok("SELECT id, pgrenga.visible() FROM t"), "3|3");
    assert_eq!(first.ok("SELECT pgrenga.recovered()"), "3");
}

/// A seq that is visible is dropped; one that two sessions apply commits once.
#[test]
fn applies_each_seq_once() {
    let server = Server::start();
    let (first, second) = (server.session(), server.session());
    first.ok("CREATE TABLE t (id int)");
    let body = Body::on(&first, "t", "").insert(&[V::Int(1)]);
    second.start(&body.apply(2, 0));
    assert!(second.is_blocked());
    let taken = first.fails("40001", &body.apply(2, 0));
    assert!(taken.contains("is taken by another session"), "{taken}");
    first.ok(&body.apply(1, 0));
    second.finish().expect("seq 2 is applied");
    first.ok(&body.apply(1, 0));
    first.ok(&body.apply(2, 1));
    assert_eq!(first.ok("SELECT count(*), pgrenga.visible() FROM t"), "2|2");
}

/// An applier that dies leaves its seq to the next one.
#[test]
fn a_dead_appliers_seq_is_applied_again() {
    let server = Server::start();
    let (first, second) = (server.session(), server.session());
    first.ok("CREATE TABLE t (id int PRIMARY KEY)");
    let body = Body::on(&first, "t", "t_pkey");
    let pid = second.ok("SELECT pg_backend_pid()");
    second.start(&body.clone().insert(&[V::Int(2)]).apply(2, 0));
    assert!(second.is_blocked());
    first.ok(&format!("SELECT pg_terminate_backend({pid}, 5000)"));
    expect_error(second.finish(), "57P01");
    first.ok(&body.clone().insert(&[V::Int(1)]).apply(1, 0));
    assert_eq!(first.ok("SELECT pgrenga.visible()"), "1");
    first.ok(&body.insert(&[V::Int(2)]).apply(2, 1));
    assert_eq!(first.ok("SELECT count(*), pgrenga.visible() FROM t"), "2|2");
}

/// Whoever holds a marker sees everything before it and lets nothing pass.
#[test]
fn a_marker_holds_the_turnstile() {
    let server = Server::start();
    let (holder, applier) = (server.session(), server.session());
    applier.ok("CREATE TABLE t (id int)");
    let body = Body::on(&applier, "t", "").insert(&[V::Int(1)]);
    holder.start("SELECT pgrenga.hold(2)");
    assert!(holder.is_blocked());
    applier.ok(&body.apply(1, 0));
    assert_eq!(holder.finish().as_deref(), Ok("t"));
    applier.start(&body.apply(3, 2));
    assert!(applier.is_blocked());
    assert_eq!(holder.ok("SELECT count(*), pgrenga.visible() FROM t"), "1|1");
    holder.ok("SELECT pgrenga.release(2)");
    applier.finish().expect("seq 3 is applied");
    assert_eq!(holder.ok("SELECT pgrenga.hold(2), pgrenga.visible()"), "f|3");

    assert_eq!(holder.ok("SELECT pgrenga.hold(4)"), "t");
    applier.start(&body.apply(5, 4));
    assert!(applier.is_blocked());
    drop(holder);
    applier.finish().expect("the session's end opens the turnstile");
    assert_eq!(applier.ok("SELECT pgrenga.visible()"), "5");
}

/// After a crash the server says from where to go on, and it has no less.
#[test]
fn progress_survives_a_crash() {
    let server = Server::start();
    let session = server.session();
    session.ok("CREATE TABLE t (id int)");
    let body = Body::on(&session, "t", "");
    for seq in 1..=20 {
        session.ok(&body.clone().insert(&[V::Int(seq)]).apply(seq as u64, 0));
    }
    assert_eq!(session.ok("SELECT pgrenga.flushed()"), "20");
    session.ok(&body.insert(&[V::Int(21)]).apply(21, 0));
    server.crash();
    let session = server.session();
    let recovered: u64 = session.ok("SELECT pgrenga.recovered()").parse().expect("a number");
    assert!((20..=21).contains(&recovered), "{recovered}");
    assert_eq!(session.ok("SELECT count(*) FROM t"), recovered.to_string());
}

/// `wait_for` ends when the seq is visible or the time is over.
#[test]
fn waits_for_a_seq() {
    let server = Server::start();
    let (reader, applier) = (server.session(), server.session());
    applier.ok("CREATE TABLE t (id int)");
    assert_eq!(reader.ok("SELECT pgrenga.wait_for(1, 50)"), "f");
    reader.start("SELECT pgrenga.wait_for(1)");
    applier.ok(&Body::on(&applier, "t", "").insert(&[V::Int(1)]).apply(1, 0));
    assert_eq!(reader.finish().as_deref(), Ok("t"));
}
