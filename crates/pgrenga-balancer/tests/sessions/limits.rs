//! Everything has a bound, and who meets it hears which.

use std::time::Duration;

use pgrenga_admin::State;
use pgrenga_balancer::Limits;
use tokio::time::timeout;

use crate::encrypted::{SSL, Setup};
use crate::fake::{Fake, LIMITS, until_heard, welcome};
use crate::wire::STARTUP;

const SHORT: Duration = Duration::from_millis(300);

#[tokio::test]
async fn connections_beyond_the_maximum_are_refused() {
    let fake = Fake::start(1, Limits { max_connections: 1, ..LIMITS }).await;
    let (client, server) = fake.session(0, 1).await;
    let mut refused = fake.dial().await;
    refused.send(STARTUP).await;
    let error = refused.error().await;
    assert!(error.contains("C53300") && error.contains("takes 1 connections"), "{error}");
    drop((client, server));
    until_heard().await;
    fake.session(0, 1).await;
}

#[tokio::test]
async fn who_finds_no_place_waits_for_one() {
    let fake = Fake::start(1, Limits { max_sessions_per_node: 1, ..LIMITS }).await;
    let (client, server) = fake.session(0, 1).await;
    let mut waiting = fake.dial().await;
    waiting.send(STARTUP).await;
    assert!(timeout(SHORT, fake.knocked(0)).await.is_err());
    drop((client, server));
    fake.knocked(0).await.send(&welcome(2)).await;
    waiting.until_ready().await;
}

#[tokio::test]
async fn who_leaves_the_queue_takes_no_place() {
    let fake = Fake::start(1, Limits { max_sessions_per_node: 1, ..LIMITS }).await;
    let (client, server) = fake.session(0, 1).await;
    let mut waiting = fake.dial().await;
    waiting.send(STARTUP).await;
    assert!(timeout(SHORT, fake.knocked(0)).await.is_err());
    drop(waiting);
    let mut next = fake.dial().await;
    next.send(STARTUP).await;
    until_heard().await;
    drop((client, server));
    fake.knocked(0).await.send(&welcome(2)).await;
    next.until_ready().await;
}

#[tokio::test]
async fn who_waits_too_long_hears_why() {
    let fake = Fake::start(1, Limits { max_sessions_per_node: 1, queue_timeout: SHORT, ..LIMITS }).await;
    until_heard().await;
    let (client, server) = fake.session(0, 1).await;
    let mut waiting = fake.dial().await;
    waiting.send(STARTUP).await;
    let error = waiting.error().await;
    assert!(error.contains("C53300") && error.contains("max_sessions_per_node"), "{error}");
    drop((client, server));

    fake.set_state(0, State::CatchingUp);
    until_heard().await;
    let mut waiting = fake.dial().await;
    waiting.send(STARTUP).await;
    let error = waiting.error().await;
    assert!(error.contains("C57P03") && error.contains("no node serves"), "{error}");
}

#[tokio::test]
async fn a_node_that_cannot_be_reached_is_named() {
    let mut fake = Fake::start(1, Limits { queue_timeout: SHORT, ..LIMITS }).await;
    until_heard().await;
    fake.servers.clear();
    let mut client = fake.dial().await;
    client.send(STARTUP).await;
    let error = client.error().await;
    assert!(error.contains("C57P03") && error.contains("Node \"n1\" cannot be reached"), "{error}");
}

#[tokio::test]
async fn who_does_not_say_who_it_is_is_let_go() {
    let fake = Fake::start(1, Limits { authentication_timeout: SHORT, ..LIMITS }).await;
    let mut silent = fake.dial().await;
    assert_eq!(silent.rest().await, b"");
    let mut client = fake.dial().await;
    client.send(STARTUP).await;
    let mut server = fake.knocked(0).await;
    server.send(&crate::wire::frame(b'R', &[0, 0, 0, 3])).await;
    assert_eq!(client.next().await.0, b'R');
    assert!(client.error().await.contains("C57014"));
}

#[tokio::test]
async fn the_unauthenticated_are_counted() {
    let fake = Fake::start(1, Limits { max_unauthenticated: 1, ..LIMITS }).await;
    let silent = fake.dial().await;
    until_heard().await;
    let error = fake.dial().await.error().await;
    assert!(error.contains("C53300") && error.contains("not authenticated"), "{error}");
    drop(silent);
    until_heard().await;
    // Who is authenticated does not count, even before its session has begun.
    let mut client = fake.dial().await;
    client.send(STARTUP).await;
    let mut server = fake.knocked(0).await;
    server.send(&crate::wire::frame(b'R', &[0; 4])).await;
    assert_eq!(client.next().await.0, b'R');
    let _sessions = (fake.session(0, 1).await, fake.session(0, 2).await);
}

#[tokio::test]
async fn floods_before_authentication_are_cut_off() {
    let fake = Fake::start(1, LIMITS).await;
    let mut client = fake.dial().await;
    client.send(STARTUP).await;
    let mut server = fake.knocked(0).await;
    server.send(&crate::wire::frame(b'R', &[0, 0, 0, 3])).await;
    assert_eq!(client.next().await.0, b'R');
    let flood = crate::wire::frame(b'p', &vec![0; 200_000]);
    let _ = tokio::io::AsyncWriteExt::write_all(&mut client.0, &flood).await;
    assert!(server.rest().await.len() < flood.len());
}

#[tokio::test]
async fn a_handshake_or_packet_that_never_ends_is_cut_off_in_time() {
    let setup = Setup::new();
    let limits = Limits { authentication_timeout: SHORT, ..LIMITS };
    let fake = Fake::protected(1, limits, setup.towards_clients()).await;
    let mut stalling = fake.dial().await;
    stalling.send(SSL).await;
    assert_eq!(tokio::io::AsyncReadExt::read_u8(&mut stalling.0).await.unwrap(), b'S');
    assert_eq!(stalling.rest().await, b"");
    let mut stalling = setup.dial(&fake).await;
    stalling.send(&STARTUP[..9]).await;
    assert_eq!(stalling.rest().await, b"");
    // However little at a time it sends.
    let mut trickling = fake.dial().await;
    let begun = std::time::Instant::now();
    for byte in STARTUP.iter().chain(std::iter::repeat(&0)) {
        if tokio::io::AsyncWriteExt::write_all(&mut trickling.0, &[*byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(SHORT / 20).await;
        assert!(begun.elapsed() < SHORT * 20);
    }
}

#[tokio::test]
async fn what_is_too_long_to_be_a_greeting_is_refused_before_it_comes() {
    let setup = Setup::new();
    let fake = Fake::protected(1, LIMITS, setup.towards_clients()).await;
    let mut client = fake.dial().await;
    client.send(&crate::wire::words(&[10_001])).await;
    assert!(client.error().await.contains("C08P01"));
    // Nor does a handshake go on for ever: a record's length is bounded, and what it holds.
    let mut client = fake.dial().await;
    client.send(SSL).await;
    assert_eq!(tokio::io::AsyncReadExt::read_u8(&mut client.0).await.unwrap(), b'S');
    let record = [&b"\x16\x03\x01\x40\x00\x01\xff\xff\xff"[..], &[0; 0x4000 - 4]].concat();
    let mut sent = 0;
    while tokio::io::AsyncWriteExt::write_all(&mut client.0, &record).await.is_ok() {
        sent += record.len();
        assert!(sent < 64 << 20, "a handshake of {sent} bytes");
    }
}
