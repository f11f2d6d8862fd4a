//! What a session has is reported exactly, and another session can be given it.

use pgrenga_writeset::session::{Deallocated, Report, State};

use crate::server::Server;
use crate::session::Session;

fn reported(session: &Session) -> Report {
    let text = session.ok("SHOW pgrenga.session");
    Report::decode(&text).unwrap_or_else(|| panic!("no report: {text:?}"))
}

fn state(session: &Session) -> State {
    State::decode(&reported(session).state).expect("a state")
}

fn settings(session: &Session) -> Vec<(String, String)> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    state(session).settings.into_iter().map(|(name, value)| (text(name), text(value))).collect()
}

fn reporting(server: &Server) -> Session {
    let session = server.session();
    session.ok("SET pgrenga.report_session = on; RESET pgrenga.replicate; SET pgrenga.replicate = off");
    session
}

/// Its settings, as they are when no transaction is open, whoever set them; who it is comes last.
#[test]
fn settings_are_reported() {
    let server = Server::start();
    let session = reporting(&server);
    let before = settings(&session);
    session.ok(
        "CREATE ROLE app; SET ROLE app; SET my.tenant = 'it''s | \\ é'; SELECT set_config('work_mem', '8MB', false)",
    );
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut all = settings(&session);
    assert_eq!(all.pop(), Some(pair("role", "app")));
    all.retain(|setting| !before.contains(setting));
    assert_eq!(all, [pair("my.tenant", "it's | \\ é"), pair("work_mem", "8192")]);
    session.ok("RESET ROLE; RESET my.tenant; RESET work_mem; BEGIN; SET LOCAL work_mem = '1MB'; SET jit = off");
    assert_eq!(settings(&session), before, "nothing of a transaction that is open");
    session.ok("COMMIT");
    assert!(settings(&session).contains(&pair("jit", "off")));
    session.ok("BEGIN; RESET jit; ROLLBACK");
    assert!(settings(&session).contains(&pair("jit", "off")));
    session.ok("SET seq_page_cost = 1.23456789");
    assert!(settings(&session).contains(&pair("seq_page_cost", "1.23456789")), "all digits");
}

/// What keeps a session is named as long as it is there.
#[test]
fn what_keeps_a_session() {
    let server = Server::start();
    let session = reporting(&server);
    for (does, words, undoes) in [
        ("SELECT pg_advisory_lock(7)", "advisory locks", "SELECT pg_advisory_unlock(7)"),
        ("BEGIN; SELECT pg_advisory_lock(7); ROLLBACK", "advisory locks", "SELECT pg_advisory_unlock_all()"),
        ("DO $$BEGIN PERFORM pg_try_advisory_lock_shared(1, 2); END$$", "advisory locks", "DISCARD ALL"),
        ("LISTEN a", "LISTEN", "UNLISTEN *"),
        ("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT", "cursors WITH HOLD", "CLOSE c"),
    ] {
        session.ok("SET pgrenga.report_session = on");
        session.ok(does);
        assert_eq!(reported(&session).kept, [words], "{does}");
        session.ok(undoes);
        session.ok("SET pgrenga.report_session = on");
        assert!(reported(&session).kept.is_empty(), "{undoes}");
    }
    session.ok("BEGIN; LISTEN a; DECLARE c CURSOR WITH HOLD FOR SELECT 1; ROLLBACK; SELECT pg_advisory_xact_lock(1)");
    assert!(reported(&session).kept.is_empty());
    session.ok("CREATE TEMPORARY TABLE t (id int)");
    assert_eq!(reported(&session).kept, ["temporary tables"]);
}

/// Statements made by PREPARE, each with its own text, and those that are gone.
#[test]
fn prepared_statements_are_reported() {
    let server = Server::start();
    let session = reporting(&server);
    session.ok("SELECT 1 \\; PREPARE a AS SELECT 1 \\; PREPARE b (int) AS SELECT $1");
    session.ok("BEGIN; PREPARE c AS SELECT 3; ROLLBACK");
    let texts = |session: &Session| -> Vec<String> {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8").trim().to_owned();
        state(session).prepared.into_iter().map(text).collect()
    };
    assert_eq!(texts(&session), ["PREPARE a AS SELECT 1", "PREPARE b (int) AS SELECT $1", "PREPARE c AS SELECT 3"]);
    session.ok("DEALLOCATE a");
    assert_eq!(texts(&session).len(), 2);
    session.ok("DEALLOCATE ALL");
    assert_eq!(texts(&session), [""; 0]);
    session.ok("SELECT 1 \\; PREPARE a AS SELECT 1 \\; DEALLOCATE a \\; PREPARE a AS SELECT 2");
    assert_eq!(reported(&session).deallocated, Deallocated::default(), "it is there again");
}

/// Another session is given all of it, once the last commit is visible.
#[test]
fn a_state_is_restored() {
    let server = Server::start();
    let (from, to) = (reporting(&server), reporting(&server));
    from.ok(
        "CREATE ROLE app; SET my.tenant = 'it''s'; SET search_path = pg_catalog; PREPARE p AS SELECT 42; SET ROLE app",
    );
    let report = reported(&from);
    to.ok(&format!("SELECT pgrenga.restore_session('{}', 0)", report.state));
    assert_eq!(reported(&to).state, report.state);
    assert_eq!(to.ok("EXECUTE p; SHOW my.tenant; SELECT current_user; SHOW search_path"), "42\nit's\napp\npg_catalog");
    to.ok("RESET ROLE; SET pgrenga.commit_timeout = '100ms'");
    to.fails("57P03", "SELECT pgrenga.restore_session('', 99)");
    to.fails("22023", "SELECT pgrenga.restore_session('nonsense', 0)");
    to.ok("SET ROLE app");
    to.fails("42501", "SELECT pgrenga.restore_session('pgrenga.replicate=off', 0)");
}

/// A transaction that was lost can only end, and says so.
#[test]
fn a_lost_transaction() {
    let server = Server::start();
    let session = reporting(&server);
    session.ok("CREATE TABLE t (id int PRIMARY KEY)");
    for statement in
        ["SELECT 1", "INSERT INTO t VALUES (1)", "SAVEPOINT a", "SET jit = on", "COMMIT", "PREPARE TRANSACTION 'x'"]
    {
        session.ok("BEGIN; SELECT pgrenga.lose_transaction()");
        session.fails("40001", statement);
        if statement != "COMMIT" {
            session.fails("25P02", "SELECT 1");
            session.ok("ROLLBACK");
        }
        assert_eq!(session.ok("SELECT count(*) FROM t"), "0");
    }
    session.ok("BEGIN; SELECT pgrenga.lose_transaction(); ROLLBACK; INSERT INTO t VALUES (1)");
}
