//! How sessions begin.

use pgrenga_admin::State;

use crate::fake::{Fake, LIMITS, until_heard, welcome};
use crate::wire::{STARTUP, frame, words};

const SSL: u32 = 80_877_103;
const GSS: u32 = 80_877_104;

#[tokio::test]
async fn encryption_is_declined_and_the_startup_packet_passed_on_as_it_is() {
    let fake = Fake::start(1, LIMITS).await;
    let mut client = fake.dial().await;
    for request in [GSS, SSL] {
        client.send(&words(&[8, request])).await;
        let mut answer = [0];
        tokio::io::AsyncReadExt::read_exact(&mut client.0, &mut answer).await.unwrap();
        assert_eq!(answer, *b"N");
    }
    // However slowly it comes.
    for byte in STARTUP {
        client.send(&[*byte]).await;
    }
    let mut server = fake.knocked(0).await;
    server.send(&welcome(7)).await;
    let messages = client.until_ready().await;
    assert_eq!(messages.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), b"RSKZ");
    assert_eq!(messages[2].1[..4], 7_u32.to_be_bytes(), "the process id is the server's");
}

#[tokio::test]
async fn what_is_not_the_protocol_is_refused() {
    let fake = Fake::start(1, LIMITS).await;
    for (said, code) in [
        (words(&[8, 2 << 16]), "C0A000"),
        (words(&[12, 80_877_102, 1]), "C08P01"),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "C08P01"),
        ([words(&[8, SSL]), words(&[8, SSL]), words(&[8, SSL])].concat(), "C08P01"),
    ] {
        let mut client = fake.dial().await;
        client.send(&said).await;
        let rest = String::from_utf8_lossy(&client.rest().await).into_owned();
        assert!(rest.contains(code), "{said:?}: {rest:?}");
    }
}

#[tokio::test]
async fn authentication_is_between_client_and_server() {
    let fake = Fake::start(1, LIMITS).await;
    let mut client = fake.dial().await;
    client.send(STARTUP).await;
    let mut server = fake.knocked(0).await;
    let mechanisms = [&words(&[10])[..], b"SCRAM-SHA-256\0\0"].concat();
    for (kind, asked, answer) in [
        (b'R', &mechanisms[..], &b"SCRAM-SHA-256\0\0\0\0\x05n,,n="[..]),
        (b'R', b"\0\0\0\x0br=server", b"c=biws,p=proof"),
    ] {
        server.send(&frame(kind, asked)).await;
        assert_eq!(client.next().await, (kind, asked.to_vec()));
        client.send(&frame(b'p', answer)).await;
        assert_eq!(server.next().await, (b'p', answer.to_vec()));
    }
    server.send(&welcome(1)).await;
    client.until_ready().await;
}

#[tokio::test]
async fn a_wrong_password_is_the_servers_to_refuse() {
    let fake = Fake::start(2, LIMITS).await;
    let mut client = fake.dial().await;
    client.send(STARTUP).await;
    let mut server = fake.knocked(0).await;
    server.send(&frame(b'E', b"SFATAL\0C28P01\0Mno\0\0")).await;
    drop(server);
    assert!(client.error().await.contains("C28P01"));
    assert_eq!(client.rest().await, b"", "and nothing is added to it");
}

#[tokio::test]
async fn who_takes_no_session_is_not_the_last_word() {
    let fake = Fake::start(2, LIMITS).await;
    until_heard().await;
    let mut client = fake.dial().await;
    client.send(STARTUP).await;
    let mut refusing = fake.knocked(0).await;
    refusing.send(&frame(b'E', b"SFATAL\0C57P03\0Mthe node does not serve\0\0")).await;
    let mut server = fake.knocked(1).await;
    server.send(&welcome(1)).await;
    client.until_ready().await;
}

#[tokio::test]
async fn sessions_go_where_the_cluster_says() {
    let fake = Fake::start(3, LIMITS).await;
    until_heard().await;
    let mut sessions = Vec::new();
    for node in [0, 1, 2, 0] {
        sessions.push(fake.session(node, 1).await);
    }
    fake.set_state(1, State::Detached);
    until_heard().await;
    for node in [2, 0, 2] {
        sessions.push(fake.session(node, 1).await);
    }
    fake.set_state(1, State::Serving);
    until_heard().await;
    for node in [1, 1, 0, 2] {
        sessions.push(fake.session(node, 1).await);
    }
}
