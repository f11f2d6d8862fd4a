//! Cancel requests reach the session that they mean, or none.

use std::time::Duration;

use tokio::time::timeout;

use crate::fake::{Fake, LIMITS, cancel, until_heard, welcome};
use crate::wire::{STARTUP, Wire, words};

/// A session, and the key that its client was given.
async fn session_with_key(fake: &Fake, node: usize, pid: u32) -> ((Wire, Wire), Vec<u8>) {
    let mut client = fake.dial().await;
    client.send(STARTUP).await;
    let mut server = fake.knocked(node).await;
    server.send(&welcome(pid)).await;
    let messages = client.until_ready().await;
    let key = messages.into_iter().find(|(kind, _)| *kind == b'K').unwrap().1;
    ((client, server), key)
}

async fn ask_to_cancel(fake: &Fake, key: &[u8]) -> Wire {
    let mut client = fake.dial().await;
    client.send(&[&words(&[16, 80_877_102])[..], key].concat()).await;
    client
}

/// What arrives at a server that is no session.
async fn request_at(fake: &Fake, node: usize) -> (Wire, Vec<u8>) {
    let mut server = Wire(fake.servers[node].accept().await.unwrap().0);
    let packet = server.packet().await;
    (server, packet)
}

#[tokio::test]
async fn each_request_reaches_its_own_server_process() {
    let fake = Fake::start(2, LIMITS).await;
    until_heard().await;
    // The same process id on both nodes.
    let (_one, key_of_one) = session_with_key(&fake, 0, 42).await;
    let (_two, key_of_two) = session_with_key(&fake, 1, 42).await;
    assert_ne!(key_of_one, key_of_two);
    for (node, key) in [(1, key_of_two), (0, key_of_one)] {
        let mut client = ask_to_cancel(&fake, &key).await;
        let (server, packet) = request_at(&fake, node).await;
        assert_eq!(packet, cancel(42));
        assert!(timeout(Duration::from_millis(200), client.rest()).await.is_err(), "the server is not done yet");
        drop(server);
        assert_eq!(client.rest().await, b"");
    }
}

#[tokio::test]
async fn a_key_that_is_nobodys_reaches_nobody() {
    let fake = Fake::start(1, LIMITS).await;
    let ((mut client, mut server), key) = session_with_key(&fake, 0, 42).await;
    // The server's own key means nothing here: it may be another session's on another node.
    for wrong in [cancel(42)[8..].to_vec(), words(&[42, 0])] {
        assert_eq!(ask_to_cancel(&fake, &wrong).await.rest().await, b"");
    }
    client.send(b"X\0\0\0\x04").await;
    assert_eq!(server.next().await.0, b'X');
    drop(server);
    assert_eq!(client.rest().await, b"");
    // Once the session is over its key is nobody's, either.
    until_heard().await;
    assert_eq!(ask_to_cancel(&fake, &key).await.rest().await, b"");
    assert!(timeout(Duration::from_millis(200), fake.servers[0].accept()).await.is_err());
}

#[tokio::test]
async fn another_balancers_key_means_nothing() {
    let mut fake = Fake::start(1, LIMITS).await;
    let (_session, key) = session_with_key(&fake, 0, 42).await;
    let first = fake.address.clone();
    fake.address = fake.another_balancer().await;
    let (_other, _) = session_with_key(&fake, 0, 42).await;
    assert_eq!(ask_to_cancel(&fake, &key).await.rest().await, b"");
    assert!(timeout(Duration::from_millis(200), fake.servers[0].accept()).await.is_err());
    fake.address = first;
    let _client = ask_to_cancel(&fake, &key).await;
    assert_eq!(request_at(&fake, 0).await.1, cancel(42));
}
