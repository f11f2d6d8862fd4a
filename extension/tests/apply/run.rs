//! A run of writesets is one transaction: it becomes visible as a whole, in its turn, and
//! nobody else does a part of it.

use crate::server::Server;
use crate::session::expect_error;
use crate::writeset::{Body, V, literal};
use pgrenga_writeset::{NodeId, run};

fn apply_run(first: u64, after: u64, bodies: &[&Body]) -> String {
    let mut bytes = Vec::new();
    bodies.iter().for_each(|body| run::push(&mut bytes, NodeId(9), body.bytes()));
    format!("SELECT pgrenga.apply_run({first}, {after}, {})", literal(&bytes))
}

/// Each writeset of a run sees what those before it did, though their tables are described anew.
#[test]
fn a_run_is_executed_in_order() {
    let server = Server::start();
    let session = server.session();
    session.ok("CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE u (id int PRIMARY KEY, v int)");
    let (t, u) = (Body::on(&session, "t", "t_pkey"), Body::on(&session, "u", "u_pkey"));
    let row = |id, v| [V::Int(id), V::Int(v)];
    let insert = t.clone().insert(&row(1, 1));
    let update = t.clone().update(&[V::Int(1), V::Absent], &row(1, 2));
    let elsewhere = u.insert(&row(1, 1));
    let replace = t.clone().delete(&[V::Int(1), V::Absent]).then(&t.clone().insert(&row(1, 4)));
    session.ok(&apply_run(1, 0, &[&insert, &update, &elsewhere, &replace]));
    assert_eq!(session.ok("SELECT t.v, u.v, pgrenga.visible() FROM t, u"), "4|1|4");
    assert_eq!(session.ok("SELECT pgrenga.recovered()"), "4");
    session.ok(&t.insert(&row(5, 5)).apply(5, 4));
    assert_eq!(session.ok("SELECT count(*), pgrenga.visible() FROM t"), "2|5");
}

/// What comes before a run lets it pass, and what comes after it passes once all of it is visible.
#[test]
fn a_run_passes_the_turnstile_as_one() {
    let server = Server::start();
    let (first, second, third) = (server.session(), server.session(), server.session());
    first.ok("CREATE TABLE t (id int PRIMARY KEY)");
    let on = Body::on(&first, "t", "t_pkey");
    let insert = |id| on.clone().insert(&[V::Int(id)]);
    third.start(&insert(5).apply(5, 0));
    assert!(third.is_blocked());
    second.start(&apply_run(2, 0, &[&insert(2), &insert(3), &insert(4)]));
    assert!(second.is_blocked());
    assert_eq!(first.ok("SELECT count(*), pgrenga.visible() FROM t"), "0|0");
    first.ok(&insert(1).apply(1, 0));
    second.finish().expect("the run is applied");
    third.finish().expect("seq 5 is applied");
    assert_eq!(first.ok("SELECT count(*), pgrenga.visible() FROM t"), "5|5");
}

/// A run and a seq within it, or two runs that overlap: one of them steps back.
#[test]
fn no_seq_is_applied_twice() {
    let server = Server::start();
    let (first, second) = (server.session(), server.session());
    first.ok("CREATE TABLE t (id int)");
    let insert = Body::on(&first, "t", "").insert(&[V::Int(1)]);
    second.start(&apply_run(2, 0, &[&insert; 4]));
    assert!(second.is_blocked());
    for taken in [insert.apply(4, 0), apply_run(5, 0, &[&insert; 3]), apply_run(1, 0, &[&insert; 2])] {
        let error = first.fails("40001", &taken);
        assert!(error.contains("is taken by another session"), "{error}");
    }
    first.ok(&insert.apply(1, 0));
    second.finish().expect("the run is applied");
    assert_eq!(first.ok("SELECT count(*), pgrenga.visible() FROM t"), "5|5");

    first.ok(&apply_run(3, 0, &[&insert; 3]));
    first.fails("40001", &apply_run(5, 0, &[&insert; 2]));
    assert_eq!(first.ok("SELECT count(*), pgrenga.visible() FROM t"), "5|5");
    first.ok(&insert.apply(6, 5));
    assert_eq!(first.ok("SELECT count(*), pgrenga.visible() FROM t"), "6|6");
}

/// Nothing of a run remains that fails in the middle or ends with its session.
#[test]
fn a_run_that_fails_leaves_nothing() {
    let server = Server::start();
    let (first, second) = (server.session(), server.session());
    first.ok("CREATE TABLE t (id int PRIMARY KEY)");
    let on = Body::on(&first, "t", "t_pkey");
    let (good, bad) = (on.clone().insert(&[V::Int(1)]), on.clone().delete(&[V::Int(7)]));
    let error = first.fails("PG002", &apply_run(1, 0, &[&good, &bad]));
    assert!(error.contains("at seq 2"), "{error}");
    for malformed in ["", "0900", "090000000500000001"] {
        first.fails("PG003", &format!("SELECT pgrenga.apply_run(1, 0, '\\x{malformed}'::bytea)"));
    }
    let pid = second.ok("SELECT pg_backend_pid()");
    second.start(&apply_run(2, 0, &[&good, &on.insert(&[V::Int(2)])]));
    assert!(second.is_blocked());
    first.ok(&format!("SELECT pg_terminate_backend({pid}, 5000)"));
    expect_error(second.finish(), "57P01");
    assert_eq!(first.ok("SELECT count(*), pgrenga.visible() FROM t"), "0|0");
    first.ok(&good.apply(1, 0));
    assert_eq!(first.ok("SELECT count(*), pgrenga.visible() FROM t"), "1|1");
}
