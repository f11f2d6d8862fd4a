//! How sessions end, and what is said about it.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use crate::fake::{Fake, LIMITS};
use crate::wire::{STARTUP, frame};

#[tokio::test]
async fn what_is_known_of_a_lost_session_is_said() {
    let fake = Fake::start(1, LIMITS).await;
    for (status, asks, code, words) in [
        (b'I', false, "C08006", "was idle"),
        (b'T', false, "C08006", "is rolled back"),
        (b'I', true, "C08007", "is not known"),
    ] {
        let (mut client, mut server) = fake.session(0, 1).await;
        client.send(&frame(b'Q', b"BEGIN\0")).await;
        server.next().await;
        server.send(&frame(b'Z', &[status])).await;
        client.until_ready().await;
        if asks {
            client.send(&frame(b'Q', b"COMMIT\0")).await;
            server.next().await;
        }
        drop(server);
        let error = client.error().await;
        assert!(error.contains(code) && error.contains(words) && error.contains("\"n1\""), "{error}");
        assert_eq!(client.rest().await, b"");
    }
}

#[tokio::test]
async fn nothing_is_said_within_a_message() {
    let fake = Fake::start(1, LIMITS).await;
    let (mut client, mut server) = fake.session(0, 1).await;
    client.send(&frame(b'Q', b"SELECT\0")).await;
    server.next().await;
    let half = &frame(b'D', &[7; 100])[..50];
    server.send(half).await;
    drop(server);
    assert_eq!(client.rest().await, half);
}

#[tokio::test]
async fn a_servers_last_words_are_the_last() {
    let fake = Fake::start(1, LIMITS).await;
    let (mut client, mut server) = fake.session(0, 1).await;
    server.send(&frame(b'E', b"SFATAL\0C57P01\0Mterminated\0\0")).await;
    drop(server);
    assert!(client.error().await.contains("C57P01"));
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn a_client_that_is_gone_leaves_no_server_behind() {
    let fake = Fake::start(1, LIMITS).await;
    let (client, mut server) = fake.session(0, 1).await;
    drop(client);
    assert_eq!(server.rest().await, b"");
    let (mut client, mut server) = fake.session(0, 1).await;
    client.send(&frame(b'X', b"")).await;
    drop(client);
    assert_eq!(server.next().await.0, b'X');
    assert_eq!(server.rest().await, b"");
}

#[tokio::test]
async fn a_client_that_has_closed_its_half_expects_the_end() {
    let fake = Fake::start(1, LIMITS).await;
    let (mut client, mut server) = fake.session(0, 1).await;
    client.0.shutdown().await.unwrap();
    assert_eq!(server.rest().await, b"");
    let last = frame(b'N', b"SNOTICE\0\0");
    server.send(&last).await;
    drop(server);
    assert_eq!(client.rest().await, last, "and no error");
}

#[tokio::test]
async fn a_client_that_talks_nonsense_hears_it() {
    let fake = Fake::start(1, LIMITS).await;
    let (mut client, mut server) = fake.session(0, 1).await;
    client.send(b"Q\0\0\0\x01").await;
    assert!(client.error().await.contains("C08P01"));
    assert_eq!(server.rest().await, b"");
}

#[tokio::test]
async fn a_server_that_is_lost_before_the_session_begins() {
    let fake = Fake::start(1, LIMITS).await;
    let mut client = fake.dial().await;
    client.send(STARTUP).await;
    let mut server = fake.knocked(0).await;
    server.send(&frame(b'R', &[0, 0, 0, 3])).await;
    assert_eq!(client.next().await.0, b'R');
    drop(server);
    let error = client.error().await;
    assert!(error.contains("C08006") && error.contains("had not begun"), "{error}");
}

#[tokio::test]
async fn stopping_tells_every_session() {
    let mut fake = Fake::start(1, LIMITS).await;
    let (mut client, mut server) = fake.session(0, 1).await;
    fake.stop();
    assert!(client.error().await.contains("C57P01"));
    drop(client);
    assert_eq!(server.rest().await, b"");
    let begun = std::time::Instant::now();
    while tokio::net::TcpStream::connect(&fake.address).await.is_ok() {
        assert!(begun.elapsed() < crate::wire::PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
