//! What is changed while it runs counts for who comes next, and no session notices.

use pgrenga_balancer::{ClientTls, ClientTlsFiles, Limits, Method, Rules, Security};

use crate::certificates::Identity;
use crate::encrypted::Setup;
use crate::fake::{Fake, LIMITS, settings, welcome};
use crate::rules::rule;
use crate::wire::{STARTUP, Wire, frame};

const SHORT: std::time::Duration = std::time::Duration::from_millis(300);

async fn assert_lives(client: &mut Wire, server: &mut Wire) {
    client.send(&frame(b'Q', b"SELECT\0")).await;
    assert_eq!(server.next().await.0, b'Q');
    server.send(&frame(b'Z', b"I")).await;
    client.until_ready().await;
}

#[tokio::test]
async fn limits_and_rules_change_under_living_sessions() {
    let fake = Fake::start(1, LIMITS).await;
    let (mut client, mut server) = fake.session(0, 1).await;
    fake.handle.change(settings(Limits { max_connections: 1, ..LIMITS }, Security::default()));
    let mut refused = fake.dial().await;
    refused.send(STARTUP).await;
    assert!(refused.error().await.contains("takes 1 connections"));
    let rules = Rules(vec![rule(Method::Reject)]);
    fake.handle.change(settings(LIMITS, Security { rules, ..Security::default() }));
    let mut refused = fake.dial().await;
    refused.send(STARTUP).await;
    assert!(refused.error().await.contains("the balancer rejects user"));
    assert_lives(&mut client, &mut server).await;

    fake.handle.change(settings(Limits { max_sessions_per_node: 1, ..LIMITS }, Security::default()));
    let mut waiting = fake.dial().await;
    waiting.send(STARTUP).await;
    assert!(tokio::time::timeout(SHORT, fake.knocked(0)).await.is_err(), "there is no place");
    // Who waits notices that there is room now.
    fake.handle.change(settings(LIMITS, Security::default()));
    fake.knocked(0).await.send(&welcome(2)).await;
    waiting.until_ready().await;
    assert_lives(&mut client, &mut server).await;
}

#[tokio::test]
async fn certificates_change_under_living_sessions() {
    let (before, after) = (Setup::new(), Setup::new());
    let security = |setup: &Setup| {
        let Identity { certificate, key } = setup.balancer.clone();
        let clients = ClientTls::load(&ClientTlsFiles { certificate, key, client_ca: None }).unwrap();
        Security { clients: Some(clients), ..Security::default() }
    };
    let fake = Fake::protected(1, LIMITS, security(&before)).await;
    let mut client = before.dial(&fake).await;
    client.send(STARTUP).await;
    let mut server = fake.knocked(0).await;
    server.send(&welcome(1)).await;
    client.until_ready().await;
    fake.handle.change(settings(LIMITS, security(&after)));
    after.dial(&fake).await;
    client.send(&frame(b'Q', b"SELECT\0")).await;
    assert_eq!(server.next().await.0, b'Q');
    server.send(&frame(b'Z', b"I")).await;
    client.until_ready().await;
}
