//! Encryption: on either side or both, and what it does to proofs that are bound to a certificate.

use std::path::PathBuf;
use std::time::Duration;

use pgrenga_balancer::{ClientTls, ClientTlsFiles, Limits, Security, ServerTlsMode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::certificates::{Authority, Identity};
use crate::encrypted::{SSL, Setup, asked_for_tls, towards_servers};
use crate::fake::{Fake, LIMITS, asking, cancel, welcome};
use crate::flow::{assert_carried, assert_held_back, many_messages};
use crate::wire::{STARTUP, Wire, frame, words};

const SHORT: Duration = Duration::from_millis(300);

#[tokio::test]
async fn messages_arrive_through_encryption_as_they_were_sent() {
    let setup = Setup::new();
    let fake = Fake::protected(1, LIMITS, setup.on_both_sides()).await;
    let (mut client, mut server) = setup.session(&fake).await;
    let stream = many_messages();
    assert_carried(&mut client.0, &mut server.0, &stream).await;
    assert_carried(&mut server.0, &mut client.0, &stream).await;
    // Both at once: neither waits for the other.
    let ((mut a, mut b), (mut c, mut d)) = (tokio::io::split(client.0), tokio::io::split(server.0));
    tokio::join!(assert_carried(&mut b, &mut c, &stream), assert_carried(&mut d, &mut a, &stream));
}

#[tokio::test]
async fn who_does_not_read_slows_the_writer_down_through_encryption_too() {
    let setup = Setup::new();
    let fake = Fake::protected(1, LIMITS, setup.on_both_sides()).await;
    let (mut client, mut server) = setup.session(&fake).await;
    assert_held_back(&mut server.0, &mut client.0).await;
    assert_held_back(&mut client.0, &mut server.0).await;
}

#[tokio::test]
async fn clients_may_ask_for_it_and_need_not() {
    let setup = Setup::new();
    let fake = Fake::protected(1, LIMITS, setup.towards_clients()).await;
    let mut client = setup.dial(&fake).await;
    client.send(STARTUP).await;
    fake.knocked(0).await.send(&welcome(1)).await;
    client.until_ready().await;
    fake.session(0, 2).await;
    // Asking again within has no meaning.
    let mut client = setup.dial(&fake).await;
    client.send(SSL).await;
    assert_eq!(client.0.read_u8().await.unwrap(), b'N');
}

#[tokio::test]
async fn what_somebody_puts_in_before_the_handshake_is_not_taken_for_the_clients() {
    let setup = Setup::new();
    let fake = Fake::protected(1, LIMITS, setup.towards_clients()).await;
    let mut client = fake.dial().await;
    client.send(&[SSL, STARTUP].concat()).await;
    assert_eq!(client.0.read_u8().await.unwrap(), b'S');
    let connector = TlsConnector::from(setup.authority.client(None));
    connector.connect("localhost".try_into().unwrap(), client.0).await.expect_err("no handshake");
    assert!(timeout(SHORT, fake.servers[0].accept()).await.is_err());
}

#[tokio::test]
async fn how_an_encrypted_session_ends_is_heard_on_the_other_side() {
    let setup = Setup::new();
    let fake = Fake::protected(1, LIMITS, setup.on_both_sides()).await;
    let (mut client, mut server) = setup.session(&fake).await;
    client.0.shutdown().await.unwrap();
    assert_eq!(server.rest().await, b"");
    let last = frame(b'N', b"SNOTICE\0\0");
    server.send(&last).await;
    server.0.shutdown().await.unwrap();
    assert_eq!(client.rest().await, last, "and no error");

    let (mut client, server) = setup.session(&fake).await;
    drop(server);
    let error = client.error().await;
    assert!(error.contains("C08006") && error.contains("was idle"), "{error}");

    let (client, mut server) = setup.session(&fake).await;
    drop(client);
    assert_eq!(server.rest().await, b"");
}

#[tokio::test]
async fn an_encrypted_client_that_leaves_the_queue_takes_no_place() {
    let setup = Setup::new();
    let limits = Limits { max_sessions_per_node: 1, ..LIMITS };
    let fake = Fake::protected(1, limits, setup.towards_clients()).await;
    let (client, server) = fake.session(0, 1).await;
    let mut waiting = setup.dial(&fake).await;
    waiting.send(STARTUP).await;
    assert!(timeout(SHORT, fake.knocked(0)).await.is_err());
    // As libpq does it: with a word of the encryption's own.
    waiting.0.shutdown().await.unwrap();
    drop(waiting);
    let mut next = fake.dial().await;
    next.send(STARTUP).await;
    crate::fake::until_heard().await;
    drop((client, server));
    fake.knocked(0).await.send(&welcome(2)).await;
    next.until_ready().await;
}

#[tokio::test]
async fn a_cancel_request_is_encrypted_where_the_session_is() {
    let setup = Setup::new();
    let fake = Fake::protected(1, LIMITS, setup.on_both_sides()).await;
    let mut client = setup.dial(&fake).await;
    client.send(STARTUP).await;
    let mut server = setup.accept(&fake).await;
    server.packet().await;
    server.send(&welcome(42)).await;
    let key = client.until_ready().await.into_iter().find(|(kind, _)| *kind == b'K').unwrap().1;
    let mut asking = setup.dial(&fake).await;
    asking.send(&[&words(&[16, 80_877_102])[..], &key].concat()).await;
    assert_eq!(setup.accept(&fake).await.packet().await, cancel(42));
}

#[tokio::test]
async fn a_server_is_believed_as_far_as_is_asked() {
    let (setup, stranger) = (Setup::new(), Authority::new());
    let elsewhere = setup.authority.issue("elsewhere", "elsewhere.example.com");
    let unknown = stranger.issue("server", "127.0.0.1");
    let [ours, theirs] = [setup.authority.file(), stranger.file()];
    let full = |ca: &PathBuf| ServerTlsMode::VerifyFull(ca.clone());
    for (mode, shown, is_believed) in [
        (ServerTlsMode::Require, &unknown, true),
        (ServerTlsMode::Prefer, &unknown, true),
        (ServerTlsMode::VerifyCa(ours.clone()), &elsewhere, true),
        (ServerTlsMode::VerifyCa(ours.clone()), &unknown, false),
        (full(&ours), &setup.server, true),
        (full(&ours), &elsewhere, false),
        (full(&theirs), &setup.server, false),
    ] {
        let limits = Limits { queue_timeout: SHORT, ..LIMITS };
        let fake = Fake::protected(1, limits, towards_servers(mode.clone())).await;
        crate::fake::until_heard().await;
        let mut client = fake.dial().await;
        client.send(STARTUP).await;
        let mut server = asked_for_tls(&fake).await;
        server.send(b"S").await;
        let accepted = TlsAcceptor::from(shown.server(None)).accept(server.0).await;
        if is_believed {
            let mut server = Wire(accepted.unwrap());
            assert_eq!(server.packet().await, asking(), "{mode:?}");
            server.send(&welcome(1)).await;
            client.until_ready().await;
        } else {
            assert!(accepted.is_err(), "{mode:?}: it was believed");
            // It is asked again as long as there is time.
            let refuse = async {
                loop {
                    let (server, _) = fake.servers[0].accept().await.unwrap();
                    drop(server);
                }
            };
            let error = tokio::select! { error = client.error() => error, () = refuse => unreachable!() };
            assert!(error.contains("C57P03") && error.contains("Node \"n1\" did not take"), "{mode:?}: {error}");
        }
    }
}

#[tokio::test]
async fn a_server_that_cannot_encrypt_is_refused_where_that_is_required() {
    let limits = Limits { queue_timeout: SHORT, ..LIMITS };
    let fake = Fake::protected(1, limits, towards_servers(ServerTlsMode::Prefer)).await;
    let mut client = fake.dial().await;
    client.send(STARTUP).await;
    let mut server = asked_for_tls(&fake).await;
    server.send(b"N").await;
    assert_eq!(server.packet().await, asking());
    server.send(&welcome(1)).await;
    client.until_ready().await;

    let fake = Fake::protected(1, limits, towards_servers(ServerTlsMode::Require)).await;
    crate::fake::until_heard().await;
    let mut client = fake.dial().await;
    client.send(STARTUP).await;
    let decline = async {
        loop {
            let mut server = asked_for_tls(&fake).await;
            server.send(b"N").await;
            assert_eq!(server.rest().await, b"", "and nothing is said to it");
        }
    };
    let error = tokio::select! { error = client.error() => error, () = decline => unreachable!() };
    assert!(error.contains("C57P03") && error.contains("does not offer TLS"), "{error}");
}

fn offer(mechanisms: &str) -> Vec<u8> {
    frame(b'R', &[&words(&[10])[..], mechanisms.replace(' ', "\0").as_bytes(), b"\0\0"].concat())
}

fn choice(gs2: &str) -> Vec<u8> {
    let data = format!("{gs2},,n=,r=nonce");
    let length = words(&[u32::try_from(data.len()).unwrap()]);
    frame(b'p', &[&b"SCRAM-SHA-256\0"[..], &length, data.as_bytes()].concat())
}

const BOTH: &str = "SCRAM-SHA-256-PLUS SCRAM-SHA-256";

#[tokio::test]
async fn binding_to_a_certificate_is_not_offered_where_it_would_fail() {
    let setup = Setup::new();
    let fake = Fake::protected(1, LIMITS, setup.on_both_sides()).await;
    for (flag, is_passed) in [("n", true), ("y", false)] {
        let mut client = setup.dial(&fake).await;
        client.send(STARTUP).await;
        let mut server = setup.accept(&fake).await;
        server.packet().await;
        server.send(&offer(BOTH)).await;
        let (kind, body) = client.next().await;
        assert_eq!(frame(kind, &body), offer("SCRAM-SHA-256"));
        client.send(&choice(flag)).await;
        if is_passed {
            let (kind, body) = server.next().await;
            assert_eq!(frame(kind, &body), choice(flag));
            server.send(&welcome(1)).await;
            client.until_ready().await;
        } else {
            let error = client.error().await;
            assert!(error.contains("C28000") && error.contains("channel_binding=disable"), "{error}");
            assert_eq!(server.rest().await, b"", "the server never hears of it");
        }
    }
}

#[tokio::test]
async fn a_client_without_encryption_is_not_offered_what_needs_it() {
    let setup = Setup::new();
    let fake = Fake::protected(1, LIMITS, towards_servers(ServerTlsMode::Require)).await;
    let mut client = fake.dial().await;
    client.send(STARTUP).await;
    let mut server = setup.accept(&fake).await;
    server.packet().await;
    server.send(&offer(BOTH)).await;
    let (kind, body) = client.next().await;
    assert_eq!(frame(kind, &body), offer("SCRAM-SHA-256"), "libpq would take it for an attack");
    client.send(&choice("n")).await;
    assert_eq!(server.next().await.0, b'p');
}

#[tokio::test]
async fn binding_holds_from_end_to_end_where_balancer_and_node_have_the_same_certificate() {
    let mut setup = Setup::new();
    setup.server = setup.balancer.clone();
    let ca = ServerTlsMode::VerifyCa(setup.authority.file());
    let fake = Fake::protected(1, LIMITS, Security { clients: setup.clients(), ..towards_servers(ca) }).await;
    let mut client = setup.dial(&fake).await;
    client.send(STARTUP).await;
    let mut server = setup.accept(&fake).await;
    server.packet().await;
    server.send(&offer(BOTH)).await;
    let (kind, body) = client.next().await;
    assert_eq!(frame(kind, &body), offer(BOTH));
    client.send(&choice("p=tls-server-end-point")).await;
    assert_eq!(server.next().await.0, b'p');
}

#[test]
fn files_that_do_not_fit_are_named() {
    let setup = Setup::new();
    let Identity { certificate, .. } = setup.balancer.clone();
    let wrong = |certificate: &PathBuf, key: &PathBuf, client_ca: Option<PathBuf>| {
        let files = ClientTlsFiles { certificate: certificate.clone(), key: key.clone(), client_ca };
        ClientTls::load(&files).unwrap_err().to_string()
    };
    assert!(wrong(&certificate, &setup.server.key, None).contains("could not use the certificate"));
    assert!(wrong(&setup.server.key, &setup.server.key, None).contains("no certificate in"));
    assert!(wrong(&certificate, &certificate, None).contains("a private key"));
    let missing = PathBuf::from("/nowhere/ca.crt");
    assert!(wrong(&certificate, &setup.balancer.key, Some(missing)).contains("/nowhere/ca.crt"));
}
