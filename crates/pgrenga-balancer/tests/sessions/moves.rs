//! Sessions go on at another node, and what was under way is answered with the truth.

use std::time::Duration;

use pgrenga_admin::State;
use tokio::time::timeout;

use crate::fake::{Fake, LIMITS, cancel, until_heard, welcome};
use crate::wire::{STARTUP, Wire, frame, words};

const ID: &str = "1-2-3";

pub(crate) fn parameter(name: &str, value: &str) -> Vec<u8> {
    frame(b'S', format!("{name}\0{value}\0").as_bytes())
}

/// What a server says that trusts its client and reports.
pub(crate) fn reporting(pid: u32, session: &str, id: &str) -> Vec<u8> {
    let reports = [parameter("pgrenga.session", session), parameter("pgrenga.transaction_id", id)].concat();
    let welcome = welcome(pid);
    let (hello, rest) = welcome.split_at(9);
    [hello, &reports, rest].concat()
}

/// A session on the first node that may go, and its two ends.
async fn session(fake: &Fake, state: &str) -> (Wire, Wire) {
    let mut client = fake.dial().await;
    client.send(STARTUP).await;
    let mut server = fake.knocked(0).await;
    server.send(&reporting(1, state, ID)).await;
    client.until_ready().await;
    (client, server)
}

async fn started(state: &str) -> (Fake, Wire, Wire) {
    let fake = Fake::start(2, LIMITS).await;
    until_heard().await;
    let (client, server) = session(&fake, state).await;
    (fake, client, server)
}

pub(crate) fn query(text: &str) -> Vec<u8> {
    frame(b'Q', format!("{text}\0").as_bytes())
}

pub(crate) fn done(tag: &str, status: u8) -> Vec<u8> {
    [frame(b'C', format!("{tag}\0").as_bytes()), frame(b'Z', &[status])].concat()
}

/// The balancer asks the server this; gets this value, if any.
pub(crate) async fn asked(server: &mut Wire, expected: &str, value: Option<&str>) {
    let (kind, body) = server.next().await;
    assert_eq!((kind, String::from_utf8_lossy(&body)), (b'Q', format!("{expected}\0").into()));
    let mut answer = Vec::new();
    if let Some(value) = value {
        let length = u32::try_from(value.len()).unwrap();
        answer.extend(frame(b'D', &[&[0, 1][..], &length.to_be_bytes(), value.as_bytes()].concat()));
    }
    answer.extend(done("SELECT 1", b'I'));
    server.send(&answer).await;
}

/// The session arrives at a node.
async fn arrives(fake: &Fake, node: usize) -> Wire {
    let mut server = fake.knocked(node).await;
    server.send(&reporting(2, "|0:|a=1", "2-1-1")).await;
    server
}

async fn restored(server: &mut Wire, commit_seq: &str) {
    asked(server, &format!("SELECT pgrenga.restore_session('a=1', greatest({commit_seq}))"), None).await;
}

/// The client has a transaction open.
async fn begun(client: &mut Wire, server: &mut Wire) {
    client.send(&query("BEGIN")).await;
    server.next().await;
    server.send(&done("BEGIN", b'T')).await;
    client.until_ready().await;
}

/// Both ends hear each other, and the client has heard nothing else than which transaction is next.
async fn goes_on(client: &mut Wire, server: &mut Wire) {
    client.send(&query("SELECT 1")).await;
    assert_eq!(server.next().await, (b'Q', b"SELECT 1\0".to_vec()));
    server.send(&done("SELECT 1", b'I')).await;
    let kinds: Vec<u8> =
        client.until_ready().await.into_iter().map(|(kind, _)| kind).filter(|kind| *kind != b'S').collect();
    assert_eq!(kinds, b"CZ");
}

#[tokio::test]
async fn an_idle_session_goes_on_with_all_it_has() {
    let (fake, mut client, mut server) = started("|0:|a=1").await;
    let parse = b"s1\0SELECT $1\0\0\0";
    client.send(&[frame(b'P', parse), frame(b'S', b"")].concat()).await;
    server.next().await;
    server.next().await;
    server.send(&[frame(b'1', b""), parameter("pgrenga.commit_seq", "17"), frame(b'Z', b"I")].concat()).await;
    client.until_ready().await;
    drop(server);
    let mut server = arrives(&fake, 1).await;
    restored(&mut server, "17, 0").await;
    assert_eq!(server.next().await, (b'P', parse.to_vec()));
    assert_eq!(server.next().await.0, b'S');
    server.send(&[frame(b'1', b""), frame(b'Z', b"I")].concat()).await;
    goes_on(&mut client, &mut server).await;
    // And once more, with what the second one has reported.
    server.send(&parameter("pgrenga.session", "|0:|b=2")).await;
    goes_on(&mut client, &mut server).await;
    drop(server);
    let mut server = arrives(&fake, 0).await;
    asked(&mut server, "SELECT pgrenga.restore_session('b=2', greatest(17, 0))", None).await;
}

#[tokio::test]
async fn what_keeps_a_session_is_named() {
    let (_fake, mut client, server) = started("temporary tables,LISTEN|0:|a=1").await;
    drop(server);
    let error = client.error().await;
    assert!(error.contains("C08006") && error.contains("It has temporary tables, LISTEN,"), "{error}");
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn who_has_proven_it_by_a_password_that_nobody_knows_stays() {
    let fake = Fake::start(2, LIMITS).await;
    until_heard().await;
    let mut client = fake.dial().await;
    client.send(STARTUP).await;
    let mut server = fake.knocked(0).await;
    server.send(&frame(b'R', &words(&[3]))).await;
    client.next().await;
    client.send(&frame(b'p', b"secret\0")).await;
    server.next().await;
    server.send(&reporting(1, "|0:|", ID)).await;
    client.until_ready().await;
    drop(server);
    let error = client.error().await;
    assert!(error.contains("C08006") && error.contains("Only its client can prove"), "{error}");
}

#[tokio::test]
async fn a_transaction_that_was_open_fails_where_its_client_goes_on() {
    let (fake, mut client, mut server) = started("|0:|a=1").await;
    begun(&mut client, &mut server).await;
    drop(server);
    let mut server = arrives(&fake, 1).await;
    restored(&mut server, "0, 0").await;
    asked(&mut server, "BEGIN", None).await;
    asked(&mut server, "SELECT pgrenga.lose_transaction()", None).await;
    goes_on(&mut client, &mut server).await;
}

/// The client sends this, its server dies, and the log says what became of the transaction. What the client hears.
async fn in_doubt(begins: bool, sends: &[u8], fates: &[&str]) -> (Vec<(u8, Vec<u8>)>, Wire, Wire, Fake) {
    let (fake, mut client, mut server) = started("|0:|a=1").await;
    if begins {
        begun(&mut client, &mut server).await;
    }
    client.send(sends).await;
    server.next().await;
    drop(server);
    let mut server = arrives(&fake, 1).await;
    for fate in fates {
        asked(&mut server, &format!("SELECT pgrenga.transaction_status('{ID}')"), Some(fate)).await;
    }
    let is_committed = fates.last() == Some(&"committed");
    let ordered = if is_committed { "0, (SELECT committed_seq FROM pgrenga.status())" } else { "0, 0" };
    restored(&mut server, ordered).await;
    if fates.is_empty() {
        asked(&mut server, "BEGIN", None).await;
        asked(&mut server, "SELECT pgrenga.lose_transaction()", None).await;
        asked(&mut server, "SELECT", None).await;
    }
    let mut heard = client.until_ready().await;
    heard.retain(|(kind, _)| *kind != b'S');
    (heard, client, server, fake)
}

fn text(message: &(u8, Vec<u8>)) -> String {
    String::from_utf8_lossy(&message.1).into_owned()
}

#[tokio::test]
async fn a_commit_in_doubt_is_answered_with_the_truth() {
    let commit = query("COMMIT");
    let (heard, mut client, mut server, _fake) = in_doubt(true, &commit, &["in progress", "committed"]).await;
    assert_eq!(heard, [(b'C', b"COMMIT\0".to_vec()), (b'Z', b"I".to_vec())]);
    goes_on(&mut client, &mut server).await;

    let (heard, mut client, mut server, _fake) = in_doubt(true, &commit, &["aborted"]).await;
    assert!(text(&heard[0]).contains("C40001") && text(&heard[0]).contains(ID), "{heard:?}");
    assert_eq!(heard[1], (b'Z', b"I".to_vec()));
    goes_on(&mut client, &mut server).await;

    let (heard, mut client, mut server, _fake) = in_doubt(true, &commit, &["unknown"]).await;
    assert!(text(&heard[0]).contains("SERROR\0") && text(&heard[0]).contains("C08007"), "{heard:?}");
    goes_on(&mut client, &mut server).await;
}

#[tokio::test]
async fn a_commit_of_the_extended_protocol_is_answered_like_one() {
    let messages = [
        frame(b'P', b"\0COMMIT\0\0\0"),
        frame(b'B', b"\0\0\0\0\0\0\0\0"),
        frame(b'D', b"P\0"),
        frame(b'E', b"\0\0\0\0\0"),
        frame(b'S', b""),
    ];
    let (heard, ..) = in_doubt(true, &messages.concat(), &["committed"]).await;
    let kinds: Vec<u8> = heard.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, b"12nCZ");
}

#[tokio::test]
async fn a_statement_that_commits_itself_is_in_doubt_too() {
    let insert = query("INSERT INTO t VALUES (1)");
    let (heard, mut client, mut server, _fake) = in_doubt(false, &insert, &["committed"]).await;
    assert!(text(&heard[0]).contains("C08007") && text(&heard[0]).contains("is committed"), "{heard:?}");
    goes_on(&mut client, &mut server).await;
    let (heard, ..) = in_doubt(false, &query("CREATE TABLE t ()"), &["aborted"]).await;
    assert!(text(&heard[0]).contains("C40001"), "{heard:?}");
}

#[tokio::test]
async fn a_statement_that_is_aborted_with_its_node_is_run_again() {
    let (fake, mut client, mut server) = started("|0:|a=1").await;
    client.send(&query("INSERT INTO t VALUES (1)")).await;
    server.next().await;
    // Nobody hears of that.
    server.send(&frame(b'C', b"INSERT 0 1\0")).await;
    drop(server);
    let mut server = arrives(&fake, 1).await;
    asked(&mut server, &format!("SELECT pgrenga.transaction_status('{ID}')"), Some("aborted")).await;
    restored(&mut server, "0, 0").await;
    assert_eq!(server.next().await, (b'Q', b"INSERT INTO t VALUES (1)\0".to_vec()));
    server.send(&done("INSERT 0 1", b'I')).await;
    let mut heard = client.until_ready().await;
    heard.retain(|(kind, _)| *kind != b'S');
    assert_eq!(heard, [(b'C', b"INSERT 0 1\0".to_vec()), (b'Z', b"I".to_vec())]);
    goes_on(&mut client, &mut server).await;
}

#[tokio::test]
async fn a_statement_within_a_transaction_needs_no_question() {
    let (heard, mut client, mut server, _fake) = in_doubt(true, &query("INSERT INTO t VALUES (1)"), &[]).await;
    assert!(text(&heard[0]).contains("C40001"), "{heard:?}");
    assert_eq!(heard[1], (b'Z', b"E".to_vec()));
    goes_on(&mut client, &mut server).await;
}

#[tokio::test]
async fn what_may_be_several_transactions_is_never_said_to_be_aborted() {
    for sends in ["ROLLBACK; INSERT INTO t VALUES (1)", "CALL p()"] {
        let (_fake, mut client, mut server) = started("|0:|a=1").await;
        client.send(&query(sends)).await;
        server.next().await;
        drop(server);
        let error = client.error().await;
        assert!(error.contains("C08007"), "{sends}: {error}");
    }
}

#[tokio::test]
async fn a_servers_farewell_is_withheld_if_the_session_goes_on() {
    let farewell = frame(b'E', b"SFATAL\0VFATAL\0C57P01\0Mterminating connection\0\0");
    let (fake, mut client, mut server) = started("|0:|a=1").await;
    server.send(&farewell).await;
    drop(server);
    // It was not one session that was ended: the node takes none.
    let mut refusing = fake.knocked(0).await;
    refusing.send(&frame(b'E', b"SFATAL\0C57P03\0Mthe database system is shutting down\0\0")).await;
    let mut server = arrives(&fake, 1).await;
    restored(&mut server, "0, 0").await;
    goes_on(&mut client, &mut server).await;

    let (fake, mut client, mut server) = started("|0:|a=1").await;
    server.send(&farewell).await;
    drop(server);
    arrives(&fake, 0).await;
    assert!(client.error().await.contains("C57P01"), "somebody has ended this session");
}

#[tokio::test]
async fn a_transaction_that_a_conflict_has_ended_is_answered_like_any_conflict() {
    let farewell = frame(b'E', b"SFATAL\0VFATAL\0C40001\0Mterminating connection due to conflict with recovery\0\0");
    let (fake, mut client, mut server) = started("|0:|a=1").await;
    begun(&mut client, &mut server).await;
    server.send(&farewell).await;
    drop(server);
    let mut server = arrives(&fake, 1).await;
    restored(&mut server, "0, 0").await;
    asked(&mut server, "BEGIN", None).await;
    asked(&mut server, "SELECT pgrenga.lose_transaction()", None).await;
    goes_on(&mut client, &mut server).await;

    // In the midst of a statement.
    begun(&mut client, &mut server).await;
    client.send(&query("SELECT 1")).await;
    server.next().await;
    server.send(&farewell).await;
    drop(server);
    let mut server = arrives(&fake, 0).await;
    restored(&mut server, "0, 0").await;
    asked(&mut server, "BEGIN", None).await;
    asked(&mut server, "SELECT pgrenga.lose_transaction()", None).await;
    asked(&mut server, "SELECT", None).await;
    let mut heard = client.until_ready().await;
    heard.retain(|(kind, _)| *kind != b'S');
    assert!(text(&heard[0]).contains("SERROR\0") && text(&heard[0]).contains("C40001"), "{heard:?}");
    assert_eq!(heard[1], (b'Z', b"E".to_vec()));
}

#[tokio::test]
async fn an_error_is_no_farewell_whatever_its_code() {
    let (_fake, mut client, mut server) = started("|0:|a=1").await;
    for code in ["57P01", "57P02"] {
        client.send(&query("SELECT raises()")).await;
        server.next().await;
        let error = frame(b'E', format!("SERROR\0VERROR\0C{code}\0Mraised\0\0").as_bytes());
        server.send(&[error, frame(b'Z', b"I")].concat()).await;
        assert!(client.error().await.contains(code));
        client.until_ready().await;
    }
    goes_on(&mut client, &mut server).await;
}

#[tokio::test]
async fn a_node_that_is_gone_need_not_close_its_connections() {
    let (mut fake, mut client, mut server) = started("|0:|a=1").await;
    begun(&mut client, &mut server).await;
    client.send(&query("SELECT 1")).await;
    server.next().await;
    fake.mute(0);
    until_heard().await;
    // Somebody else hears of it: what it does may come to an end.
    server.send(&done("SELECT 1", b'T')).await;
    client.until_ready().await;
    client.send(&query("SELECT 2")).await;
    server.next().await;
    fake.miss(0);
    let mut other = arrives(&fake, 1).await;
    restored(&mut other, "0, 0").await;
    asked(&mut other, "BEGIN", None).await;
    asked(&mut other, "SELECT pgrenga.lose_transaction()", None).await;
    asked(&mut other, "SELECT", None).await;
    let heard = client.until_ready().await;
    assert!(heard.iter().any(|message| text(message).contains("C40001")), "{heard:?}");
    goes_on(&mut client, &mut other).await;
}

#[tokio::test]
async fn a_cancel_request_reaches_where_the_session_is() {
    let fake = Fake::start(2, LIMITS).await;
    until_heard().await;
    let mut client = fake.dial().await;
    client.send(STARTUP).await;
    let mut server = fake.knocked(0).await;
    server.send(&reporting(1, "|0:|a=1", ID)).await;
    let key = client.until_ready().await.into_iter().find(|(kind, _)| *kind == b'K').unwrap().1;
    drop(server);
    let mut server = arrives(&fake, 1).await;
    restored(&mut server, "0, 0").await;
    goes_on(&mut client, &mut server).await;
    let mut asking = fake.dial().await;
    asking.send(&[&words(&[16, 80_877_102])[..], &key].concat()).await;
    let mut asked = Wire(fake.servers[1].accept().await.unwrap().0);
    assert_eq!(asked.packet().await, cancel(2));
}

#[tokio::test]
async fn sessions_leave_a_node_that_is_detached() {
    let (fake, mut client, mut server) = started("|0:|a=1").await;
    let (mut pinned, mut pinning) = session_on(&fake, 1, "LISTEN|0:|").await;
    for node in [0, 1] {
        fake.set_state(node, State::Detached);
        if node == 0 {
            let mut other = arrives(&fake, 1).await;
            restored(&mut other, "0, 0").await;
            goes_on(&mut client, &mut other).await;
            assert_eq!(server.next().await.0, b'X', "it takes its leave");
            server = other;
            fake.set_state(0, State::Serving);
        }
    }
    let mut server = arrives(&fake, 0).await;
    restored(&mut server, "0, 0").await;
    goes_on(&mut client, &mut server).await;
    goes_on(&mut pinned, &mut pinning).await;
}

async fn session_on(fake: &Fake, node: usize, state: &str) -> (Wire, Wire) {
    let mut client = fake.dial().await;
    client.send(STARTUP).await;
    let mut server = fake.knocked(node).await;
    server.send(&reporting(3, state, ID)).await;
    client.until_ready().await;
    (client, server)
}

#[tokio::test]
async fn sessions_spread_to_a_node_that_comes_back_but_not_within_transactions() {
    let fake = Fake::start(2, LIMITS).await;
    fake.set_state(1, State::Detached);
    until_heard().await;
    let mut sessions = Vec::new();
    for _ in 0..4 {
        sessions.push(session_on(&fake, 0, "|0:|a=1").await);
    }
    let (client, server) = &mut sessions[0];
    begun(client, server).await;
    fake.set_state(1, State::Serving);
    let mut arrived = Vec::new();
    for _ in 0..2 {
        let mut server = arrives(&fake, 1).await;
        restored(&mut server, "0, 0").await;
        arrived.push(server);
    }
    assert!(timeout(Duration::from_secs(3), fake.servers[1].accept()).await.is_err(), "they are even");
    let (client, server) = &mut sessions[0];
    goes_on(client, server).await;
}

#[tokio::test]
async fn a_move_that_fails_leaves_the_session_where_it_is() {
    let (fake, mut client, mut server) = started("|0:|a=1").await;
    fake.set_state(0, State::Detached);
    let mut other = arrives(&fake, 1).await;
    other.next().await;
    other.send(&[frame(b'E', b"SERROR\0C42704\0Mno\0\0"), frame(b'Z', b"I")].concat()).await;
    goes_on(&mut client, &mut server).await;
}
