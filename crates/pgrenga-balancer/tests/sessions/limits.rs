//! Everything has a bound, and who meets it hears which.

use std::time::Duration;

use pgrenga_admin::State;
use pgrenga_balancer::Limits;
use tokio::time::timeout;

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
