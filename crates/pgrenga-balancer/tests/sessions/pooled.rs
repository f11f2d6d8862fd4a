//! Transaction mode: many clients share few connections to servers, and nothing of one is seen by another.

use std::time::Duration;

use pgrenga_admin::State;
use pgrenga_balancer::Limits;
use tokio::time::timeout;

use crate::fake::{Fake, LIMITS, transactions, until_heard};
use crate::moves::{asked, done, parameter, query, reporting};
use crate::wire::{STARTUP, Wire, frame, words};

const ONE: Limits = Limits { max_sessions_per_node: 1, ..LIMITS };
const SHORT: Duration = Duration::from_millis(300);
const CLEAN: &str = "|0:|";

/// Logs in, with a connection of its own, which others may have afterwards.
async fn login(fake: &Fake, node: usize, pid: u32) -> (Wire, Wire) {
    let mut client = fake.dial().await;
    client.send(STARTUP).await;
    let mut server = fake.knocked(node).await;
    server.send(&reporting(pid, CLEAN, "1-1-1")).await;
    client.until_ready().await;
    (client, server)
}

/// Two clients, and the one connection that they share.
async fn two() -> (Fake, Wire, Wire, Wire) {
    let fake = Fake::pooled(1, ONE).await;
    let (one, mut first) = login(&fake, 0, 1).await;
    let (two, server) = login(&fake, 0, 2).await;
    assert_eq!(first.rest().await, b"", "there is room for one");
    (fake, one, two, server)
}

async fn heard(client: &mut Wire) -> String {
    let heard = client.until_ready().await.into_iter().map(|(kind, _)| char::from(kind));
    heard.filter(|kind| *kind != 'S').collect()
}

/// The client asks that, after another one, and the server answers.
async fn served_after(client: &mut Wire, server: &mut Wire, answer: &[u8]) {
    client.send(&query("SELECT 1")).await;
    asked(server, "DISCARD SEQUENCES", None).await;
    assert_eq!(server.next().await, (b'Q', b"SELECT 1\0".to_vec()));
    server.send(answer).await;
    assert_eq!(heard(client).await, "CZ");
}

/// The client asks that, and the server answers.
async fn served(client: &mut Wire, server: &mut Wire, answer: &[u8]) {
    client.send(&query("SELECT 1")).await;
    assert_eq!(server.next().await, (b'Q', b"SELECT 1\0".to_vec()));
    server.send(answer).await;
    assert_eq!(heard(client).await, "CZ");
}

#[tokio::test]
async fn clients_take_turns_with_one_connection() {
    let (_fake, mut one, mut two, mut server) = two().await;
    for _ in 0..2 {
        served_after(&mut one, &mut server, &done("SELECT 1", b'I')).await;
        served(&mut one, &mut server, &done("SELECT 1", b'I')).await;
        served_after(&mut two, &mut server, &done("SELECT 1", b'I')).await;
    }
    // One that leaves takes nothing along.
    one.send(&frame(b'X', b"")).await;
    assert_eq!(one.rest().await, b"");
    served(&mut two, &mut server, &done("SELECT 1", b'I')).await;
}

/// The balancer sends that to the server, whose session is then so.
async fn reset(server: &mut Wire, expected: &str, session: &str) {
    assert_eq!(server.next().await, (b'Q', format!("{expected}\0").into_bytes()));
    server.send(&[parameter("pgrenga.session", session), done("SELECT 1", b'I')].concat()).await;
}

#[tokio::test]
async fn settings_are_their_clients_own() {
    let (_fake, mut one, mut two, mut server) = two().await;
    let set = [parameter("pgrenga.session", "|0:|a=1"), done("SET", b'I')].concat();
    served_after(&mut one, &mut server, &set).await;
    two.send(&query("SELECT 1")).await;
    reset(&mut server, "DISCARD ALL", CLEAN).await;
    assert_eq!(server.next().await, (b'Q', b"SELECT 1\0".to_vec()));
    server.send(&done("SELECT 1", b'I')).await;
    assert_eq!(heard(&mut two).await, "CZ");
    one.send(&query("SELECT 1")).await;
    reset(&mut server, "DISCARD ALL", CLEAN).await;
    reset(&mut server, "SELECT pgrenga.restore_session('a=1', 0)", "|0:|a=1").await;
    assert_eq!(server.next().await, (b'Q', b"SELECT 1\0".to_vec()));
    server.send(&done("SELECT 1", b'I')).await;
    assert_eq!(heard(&mut one).await, "CZ");
    served(&mut one, &mut server, &done("SELECT 1", b'I')).await;
}

fn parse(name: &str, text: &str) -> Vec<u8> {
    frame(b'P', format!("{name}\0{text}\0\0\0").as_bytes())
}

fn sync() -> Vec<u8> {
    frame(b'S', b"")
}

async fn reached(server: &mut Wire, messages: &[Vec<u8>]) {
    for message in messages {
        let (kind, body) = server.next().await;
        assert_eq!(frame(kind, &body), *message, "{}", String::from_utf8_lossy(&body));
    }
}

#[tokio::test]
async fn statements_of_one_name_are_their_clients_own() {
    let (_fake, mut one, mut two, mut server) = two().await;
    let ready = frame(b'Z', b"I");
    let prepared = [frame(b'1', b""), ready.clone()].concat();
    let close = frame(b'C', b"Ss\0");
    let closed = [frame(b'3', b""), ready.clone()].concat();
    let discarded = done("DISCARD SEQUENCES", b'I');
    let texts = ["SELECT 1", "SELECT 2"];
    one.send(&[parse("s", texts[0]), sync()].concat()).await;
    reached(&mut server, &[query("DISCARD SEQUENCES")]).await;
    server.send(&discarded).await;
    reached(&mut server, &[parse("s", texts[0]), sync()]).await;
    server.send(&prepared).await;
    assert_eq!(heard(&mut one).await, "1Z");
    // To the other one, the name is free.
    two.send(&[parse("s", texts[1]), sync()].concat()).await;
    reached(&mut server, &[query("DISCARD SEQUENCES"), close.clone(), sync()]).await;
    server.send(&[&discarded[..], &closed].concat()).await;
    reached(&mut server, &[parse("s", texts[1]), sync()]).await;
    server.send(&prepared).await;
    assert_eq!(heard(&mut two).await, "1Z");
    // And the first one still has what it has prepared.
    let run = [frame(b'B', b"\0s\0\0\0\0\0\0\0"), frame(b'E', b"\0\0\0\0\0"), sync()];
    let ran = [frame(b'2', b""), frame(b'C', b"SELECT 1\0"), ready].concat();
    for (client, text) in [(&mut one, texts[0]), (&mut two, texts[1])] {
        client.send(&run.concat()).await;
        reached(&mut server, &[query("DISCARD SEQUENCES"), close.clone(), sync(), parse("s", text), sync()]).await;
        server.send(&[&discarded[..], &closed, &prepared].concat()).await;
        reached(&mut server, &run).await;
        server.send(&ran).await;
        assert_eq!(heard(client).await, "2CZ");
    }
    // Its own connection has them already.
    two.send(&run.concat()).await;
    reached(&mut server, &run).await;
    server.send(&ran).await;
    assert_eq!(heard(&mut two).await, "2CZ");
}

#[tokio::test]
async fn a_statement_without_a_name_is_its_clients_own() {
    let (_fake, mut one, mut two, mut server) = two().await;
    let ready = frame(b'Z', b"I");
    one.send(&[parse("", "SELECT 1"), sync()].concat()).await;
    asked(&mut server, "DISCARD SEQUENCES", None).await;
    reached(&mut server, &[parse("", "SELECT 1"), sync()]).await;
    server.send(&[frame(b'1', b""), ready.clone()].concat()).await;
    assert_eq!(heard(&mut one).await, "1Z");
    let run = [frame(b'B', b"\0\0\0\0\0\0\0\0"), frame(b'E', b"\0\0\0\0\0"), sync()];
    two.send(&run.concat()).await;
    reached(&mut server, &[query("DISCARD SEQUENCES"), frame(b'C', b"S\0"), sync()]).await;
    server.send(&[done("DISCARD SEQUENCES", b'I'), frame(b'3', b""), ready].concat()).await;
    reached(&mut server, &run).await;
}

#[tokio::test]
async fn a_transaction_is_not_shared_and_who_waits_too_long_hears_why() {
    let (fake, mut one, mut two, mut server) = two().await;
    served_after(&mut one, &mut server, &done("BEGIN", b'T')).await;
    two.send(&query("SELECT 1")).await;
    served(&mut one, &mut server, &done("SELECT 1", b'T')).await;
    served(&mut one, &mut server, &done("COMMIT", b'I')).await;
    asked(&mut server, "DISCARD SEQUENCES", None).await;
    assert_eq!(server.next().await, (b'Q', b"SELECT 1\0".to_vec()));
    server.send(&done("BEGIN", b'T')).await;
    assert_eq!(heard(&mut two).await, "CZ");
    drop((fake, one));

    let (fake, mut one, mut two, mut server) = self::two().await;
    served_after(&mut one, &mut server, &done("BEGIN", b'T')).await;
    fake.handle.change(transactions(Limits { queue_timeout: SHORT, ..ONE }));
    two.send(&query("SELECT 1")).await;
    let error = two.error().await;
    assert!(error.contains("C53300") && error.contains("max_sessions_per_node"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_taken_along_keeps_its_connection() {
    let (fake, mut one, mut two, mut server) = two().await;
    let listens = [parameter("pgrenga.session", "LISTEN|0:|"), done("LISTEN", b'I')].concat();
    served_after(&mut one, &mut server, &listens).await;
    two.send(&query("SELECT 1")).await;
    for _ in 0..3 {
        served(&mut one, &mut server, &done("SELECT 1", b'I')).await;
    }
    // What comes meanwhile is heard.
    let notification = frame(b'A', b"\0\0\0\x01a\0\0");
    server.send(&notification).await;
    assert_eq!(one.next().await.0, b'A');
    let no_longer = [parameter("pgrenga.session", CLEAN), done("UNLISTEN", b'I')].concat();
    served(&mut one, &mut server, &no_longer).await;
    asked(&mut server, "DISCARD SEQUENCES", None).await;
    assert_eq!(server.next().await, (b'Q', b"SELECT 1\0".to_vec()));
    drop(fake);
}

#[tokio::test]
async fn another_roles_connection_is_not_taken() {
    let fake = Fake::pooled(1, ONE).await;
    let (mut one, mut first) = login(&fake, 0, 1).await;
    let mut other = fake.dial().await;
    other.send(b"\0\0\0\x14\0\x03\0\0user\0other\0\0").await;
    let mut second = Wire(fake.servers[0].accept().await.unwrap().0);
    second.packet().await;
    second.send(&reporting(2, CLEAN, "1-1-1")).await;
    other.until_ready().await;
    assert_eq!(first.rest().await, b"");
    one.send(&query("SELECT 1")).await;
    let mut third = fake.knocked(0).await;
    assert_eq!(second.rest().await, b"");
    third.send(&reporting(3, CLEAN, "1-1-1")).await;
    asked(&mut third, "SELECT pgrenga.restore_session('', greatest(0, 0))", None).await;
    assert_eq!(third.next().await, (b'Q', b"SELECT 1\0".to_vec()));
}

#[tokio::test]
async fn a_session_never_goes_back_in_time() {
    let fake = Fake::pooled(2, LIMITS).await;
    let (mut one, mut first) = login(&fake, 0, 1).await;
    let (_two, mut second) = login(&fake, 1, 2).await;
    let committed = [parameter("pgrenga.commit_seq", "17"), done("INSERT 0 1", b'I')].concat();
    served(&mut one, &mut first, &committed).await;
    served(&mut one, &mut first, &done("SELECT 1", b'I')).await;
    fake.set_state(0, State::Detached);
    until_heard().await;
    one.send(&query("SELECT 1")).await;
    asked(&mut second, "DISCARD SEQUENCES", None).await;
    asked(&mut second, "SELECT pgrenga.restore_session('', 17)", None).await;
    assert_eq!(second.next().await, (b'Q', b"SELECT 1\0".to_vec()));
}

#[tokio::test]
async fn a_cancel_request_of_who_does_nothing_reaches_nobody() {
    let fake = Fake::pooled(1, LIMITS).await;
    let mut one = fake.dial().await;
    one.send(STARTUP).await;
    let mut server = fake.knocked(0).await;
    server.send(&reporting(1, CLEAN, "1-1-1")).await;
    let key = one.until_ready().await.into_iter().find(|(kind, _)| *kind == b'K').unwrap().1;
    let cancel = async || {
        let mut asking = fake.dial().await;
        asking.send(&[&words(&[16, 80_877_102])[..], &key].concat()).await;
        asking
    };
    until_heard().await;
    assert_eq!(cancel().await.rest().await, b"");
    one.send(&query("SELECT 1")).await;
    server.next().await;
    let _asking = cancel().await;
    let mut asked = Wire(fake.servers[0].accept().await.unwrap().0);
    assert_eq!(asked.packet().await, crate::fake::cancel(1));
    assert!(timeout(SHORT, fake.servers[0].accept()).await.is_err(), "once");
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_is_not_used() {
    let (fake, mut one, two, server) = two().await;
    drop(server);
    until_heard().await;
    one.send(&query("SELECT 1")).await;
    let mut server = fake.knocked(0).await;
    server.send(&reporting(3, CLEAN, "1-1-1")).await;
    asked(&mut server, "SELECT pgrenga.restore_session('', greatest(0, 0))", None).await;
    assert_eq!(server.next().await, (b'Q', b"SELECT 1\0".to_vec()));
    drop(two);
}
