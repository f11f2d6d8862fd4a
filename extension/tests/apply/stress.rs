//! Everything at once: whatever collides, the result is that of applying one
//! writeset after the other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::server::Server;
use crate::session::Session;
use crate::writeset::{Body, V, s};

const WRITESETS: u64 = 1500;
const APPLIERS: u64 = 4;
const ROWS: u64 = 6;

/// A small generator: the test is the same each time, as far as it decides.
fn mixed(number: u64) -> u64 {
    let product = (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    product ^ (product >> 29)
}

/// Two rows of a few hot ones, in any order: appliers collide all the time.
fn writeset(body: &Body, seq: u64) -> Body {
    let rows = [mixed(seq) % ROWS, mixed(seq * 31) % ROWS];
    rows.iter().fold(body.clone(), |body, &row| {
        let id = || V::Int(row as i32);
        body.update(&[id(), V::Absent], &[id(), s(&seq.to_string())])
    })
}

/// Applies every `APPLIERS`th writeset until all are visible, as the daemon
/// would: what was put back is tried again.
fn apply_share(session: &Session, body: &Body, share: u64) -> u32 {
    let mut retries = 0;
    for seq in (1..=WRITESETS).filter(|seq| seq % APPLIERS == share) {
        // No dependencies are told: the locks alone keep the order.
        while let Err(error) = session.run(&writeset(body, seq).apply(seq, 0)) {
            let is_retried = ["40001", "57014", "PG001"].iter().any(|code| error.contains(&format!(" {code}: ")));
            assert!(is_retried, "seq {seq}: {error}");
            retries += 1;
        }
    }
    retries
}

/// Appliers of colliding writesets, among local transactions that hold the
/// same rows, idle and busy: all is applied, in order, and nothing hangs.
#[test]
fn colliding_appliers_and_local_writers() {
    let server = Server::start();
    let session = server.session();
    session.ok(&format!(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, '' FROM generate_series(0, {ROWS} - 1) i"
    ));
    let body = Body::on(&session, "t", "t_pkey");
    let _daemon = server.daemon();
    let done = AtomicBool::new(false);
    let start = Instant::now();
    let (retries, ended) = std::thread::scope(|scope| {
        let locals: Vec<_> = (0..3)
            .map(|number| {
                let (server, done) = (&server, &done);
                scope.spawn(move || lock_rows(server, number, done))
            })
            .collect();
        let appliers: Vec<_> = (0..APPLIERS)
            .map(|share| {
                let (session, body) = (server.session(), &body);
                scope.spawn(move || apply_share(&session, body, share))
            })
            .collect();
        let retries: u32 = appliers.into_iter().map(|applier| applier.join().expect("the applier ends well")).sum();
        done.store(true, Ordering::Relaxed);
        let ended: u32 = locals.into_iter().map(|local| local.join().expect("the client ends well")).sum();
        (retries, ended)
    });
    println!("{WRITESETS} writesets in {:?}, {retries} put back, {ended} local transactions ended", start.elapsed());
    let last = |row| (1..=WRITESETS).rev().find(|seq| [mixed(*seq) % ROWS, mixed(seq * 31) % ROWS].contains(&row));
    let expected: Vec<_> = (0..ROWS).map(|row| last(row).map_or(String::new(), |seq| seq.to_string())).collect();
    assert_eq!(session.ok("SELECT v FROM t ORDER BY id"), expected.join("\n"));
    assert_eq!(session.ok("SELECT pgrenga.visible()"), WRITESETS.to_string());
}

/// Begins transactions that write and never commit; counts those that were ended.
fn lock_rows(server: &Server, number: u64, done: &AtomicBool) -> u32 {
    let mut ended = 0;
    while !done.load(Ordering::Relaxed) {
        let session = server.user_session();
        for turn in 0..50 {
            let row = mixed(turn + number) % ROWS;
            let wait = if turn % 2 == 0 { "SELECT 1" } else { "SELECT pg_sleep(0.05)" };
            session.start(&format!("BEGIN; UPDATE t SET v = 'local' WHERE id = {row}; {wait}"));
            if session.finish().is_err() {
                ended += 1;
            }
            std::thread::sleep(Duration::from_millis(20));
            if session.run("ROLLBACK").is_err() {
                ended += 1;
                break;
            }
            if done.load(Ordering::Relaxed) {
                break;
            }
        }
    }
    ended
}
