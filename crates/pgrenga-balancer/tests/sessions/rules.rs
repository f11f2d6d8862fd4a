//! Who may connect from where, and for whom the balancer vouches.

use std::sync::Arc;

use pgrenga_balancer::{
    ClientTls, ClientTlsFiles, Method, NameMap, Rule, Rules, Security, ServerTls, ServerTlsFiles, ServerTlsMode,
};
use tokio::time::{Duration, timeout};

use crate::certificates::{Authority, Identity};
use crate::encrypted::{Encrypted, Setup};
use crate::fake::{Fake, LIMITS, asking, welcome};
use crate::wire::{STARTUP, Wire};

/// The role in [`STARTUP`].
const ROLE: &str = "somebody";

pub(crate) fn rule(method: Method) -> Rule {
    Rule { needs_tls: false, databases: vec![], users: vec![], addresses: vec![], method }
}

/// A balancer that asks clients for certificates, and has one for servers.
pub(crate) fn vouching(setup: &Setup, rules: Vec<Rule>) -> Security {
    let Identity { certificate, key } = setup.balancer.clone();
    let identity = Some((certificate.clone(), key.clone()));
    let ca = setup.authority.file();
    let clients = ClientTlsFiles { certificate, key, client_ca: Some(ca.clone()) };
    let servers = ServerTlsFiles { mode: ServerTlsMode::VerifyFull(ca), identity };
    Security {
        clients: Some(ClientTls::load(&clients).unwrap()),
        servers: ServerTls::load(&servers).unwrap(),
        rules: Rules(rules),
    }
}

/// Whether the balancer has shown its certificate on this connection.
fn has_shown_its_own(server: &Encrypted) -> bool {
    server.0.get_ref().1.peer_certificates().is_some()
}

async fn assert_refused(mut client: Encrypted, expected: &str) {
    client.send(STARTUP).await;
    let error = client.error().await;
    assert!(error.contains("C28000") && error.contains(expected), "{error}");
}

#[tokio::test]
async fn the_balancer_vouches_for_whom_a_certificate_proves_and_for_nobody_else() {
    let setup = Setup::new();
    let fake = Fake::protected(1, LIMITS, vouching(&setup, vec![rule(Method::Cert(None))])).await;
    let somebody = setup.authority.issue(ROLE, "nowhere");
    let mut client = setup.dial_as(&fake, Some(&somebody)).await;
    client.send(STARTUP).await;
    let mut server = setup.accept(&fake).await;
    assert!(has_shown_its_own(&server));
    assert_eq!(server.packet().await, asking());
    server.send(&welcome(1)).await;
    client.until_ready().await;

    let other = setup.authority.issue("other", "nowhere");
    assert_refused(setup.dial_as(&fake, Some(&other)).await, "certificate authentication failed").await;
    let ambiguous = setup.authority.issue_ambiguous([ROLE, "other"]);
    assert_refused(setup.dial_as(&fake, Some(&ambiguous)).await, "requires a valid client certificate").await;
    assert_refused(setup.dial(&fake).await, "requires a valid client certificate").await;
    let mut plain = fake.dial().await;
    plain.send(STARTUP).await;
    assert!(plain.error().await.contains("without encryption"));
    assert!(timeout(Duration::from_millis(300), fake.servers[0].accept()).await.is_err(), "no server hears of them");
}

#[tokio::test]
async fn a_certificate_that_nobody_asked_about_opens_nothing() {
    let setup = Setup::new();
    let fake = Fake::protected(1, LIMITS, vouching(&setup, vec![rule(Method::Pass)])).await;
    let somebody = setup.authority.issue(ROLE, "nowhere");
    let mut client = setup.dial_as(&fake, Some(&somebody)).await;
    client.send(STARTUP).await;
    let server = setup.accept(&fake).await;
    assert!(!has_shown_its_own(&server));
}

#[tokio::test]
async fn a_strangers_certificate_is_refused_in_the_handshake() {
    let setup = Setup::new();
    let map = Arc::new(NameMap::from([(ROLE.to_owned(), vec![ROLE.to_owned()])]));
    let fake = Fake::protected(1, LIMITS, vouching(&setup, vec![rule(Method::Cert(Some(map)))])).await;
    let stranger = Authority::new();
    let forged = stranger.issue(ROLE, "nowhere");
    let mut client = setup.dial_as(&fake, Some(&forged)).await;
    // With TLS 1.3 the client's side of it is done before the server has looked.
    let _ = tokio::io::AsyncWriteExt::write_all(&mut client.0, STARTUP).await;
    assert_eq!(client.rest().await, b"");
    assert!(timeout(Duration::from_millis(300), fake.servers[0].accept()).await.is_err());
}

#[tokio::test]
async fn rules_say_who_may_connect_from_where() {
    let rules = |addresses: &str, users: &str| {
        let rule = rule(Method::Pass);
        let (addresses, users) = (vec![addresses.parse().unwrap()], vec![users.to_owned()]);
        Security { rules: Rules(vec![Rule { addresses, users, ..rule }]), ..Security::default() }
    };
    for (security, is_let_in) in
        [(rules("127.0.0.0/8", ROLE), true), (rules("127.0.0.0/8", "other"), false), (rules("10.0.0.0/8", ROLE), false)]
    {
        let fake = Fake::protected(1, LIMITS, security).await;
        if is_let_in {
            fake.session(0, 1).await;
        } else {
            let mut client: Wire = fake.dial().await;
            client.send(STARTUP).await;
            let error = client.error().await;
            assert!(error.contains("C28000") && error.contains("from 127.0.0.1"), "{error}");
        }
    }
}
