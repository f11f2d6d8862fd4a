//! Passwords and certificates, proven by libpq to a real server through the balancer.

use std::process::Stdio;
use std::sync::Arc;

use pgrenga_balancer::{Method, NameMap, Rule, Rules, Security, ServerTlsMode};
use tokio::process::Command;

use crate::certificates::Identity;
use crate::encrypted::{Setup, towards_servers};
use crate::fake::{Fake, LIMITS, settings};
use crate::rules::{rule, vouching};
use crate::server::Server;

/// Who a session is, and whether its server's connection is encrypted.
const ASK: &str = "SELECT current_user, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
const PASSWORD: &str = "with_password|t\n";

/// libpq's words for a session, and what becomes of it: what psql prints, or what it complains about.
async fn psql(fake: &Fake, setup: &Setup, words: &str) -> Result<String, String> {
    let (address, port) = fake.address.split_once(':').unwrap();
    let ca = setup.authority.file();
    let connection = format!(
        "host=localhost hostaddr={address} port={port} dbname=postgres sslrootcert={} password=secret {words}",
        ca.display()
    );
    let mut command = Command::new("psql");
    command.args(["-X", "-At", "-c", ASK, &connection]).stdin(Stdio::null());
    let output = command.output().await.expect("psql");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

struct World {
    setup: Setup,
    server: Server,
    fake: Fake,
}

impl World {
    async fn new(setup: Setup, security: Security) -> Self {
        let server = Server::start(&setup.server, &setup.authority);
        let fake = Fake::in_front_of(&[server.port], LIMITS, security).await;
        Self { setup, server, fake }
    }

    async fn assert_in(&self, words: &str, expected: &str) {
        let said = psql(&self.fake, &self.setup, words).await;
        assert_eq!(said.as_deref(), Ok(expected), "{words}\n{}", self.server.log());
    }

    async fn assert_out(&self, words: &str, expected: &str) {
        let said = psql(&self.fake, &self.setup, words).await;
        assert!(said.as_ref().is_err_and(|said| said.contains(expected)), "{words}: {said:?}\n{}", self.server.log());
    }
}

#[tokio::test]
async fn with_the_nodes_certificate_everything_works() {
    let mut setup = Setup::new();
    setup.balancer = setup.authority.issue("shared", "localhost");
    setup.server = setup.balancer.clone();
    let ca = ServerTlsMode::VerifyCa(setup.authority.file());
    let security = Security { clients: setup.clients(), ..towards_servers(ca) };
    let world = World::new(setup, security).await;
    for how in ["sslmode=verify-full", "sslmode=verify-full channel_binding=require", "sslmode=disable"] {
        world.assert_in(&format!("user=with_password {how}"), PASSWORD).await;
        let wrong = format!("user=with_password password=wrong {how}");
        world.assert_out(&wrong, "password authentication failed").await;
    }
}

#[tokio::test]
async fn with_another_certificate_clients_are_told_what_to_do() {
    let setup = Setup::new();
    let security = setup.on_both_sides();
    let clients_only = setup.towards_clients();
    let world = World::new(setup, security).await;
    let user = "user=with_password sslmode=verify-full";
    world.assert_in(&format!("{user} channel_binding=disable"), PASSWORD).await;
    world.assert_in("user=with_password sslmode=disable", PASSWORD).await;
    world.assert_out(user, "Connect with channel_binding=disable").await;
    world.assert_out(&format!("{user} channel_binding=require"), "channel binding").await;
    world.assert_in("user=open sslmode=verify-full", "open|t\n").await;
    // Without encryption towards the server it does not ask, and does not let in whom its rules want encrypted.
    world.fake.handle.change(settings(LIMITS, clients_only));
    world.assert_in("user=open sslmode=verify-full", "open|f\n").await;
    world.assert_out(user, "no pg_hba.conf entry").await;
}

#[tokio::test]
async fn certificates_open_what_pg_ident_says_and_nothing_else() {
    let setup = Setup::new();
    let map = Arc::new(NameMap::from([("alice".to_owned(), vec!["with_certificate".to_owned()])]));
    let users = vec!["with_certificate".to_owned()];
    let rules = vec![Rule { users, ..rule(Method::Cert(Some(map.clone()))) }, rule(Method::Pass)];
    let security = vouching(&setup, rules);
    let careless = vouching(
        &setup,
        vec![rule(Method::Cert(Some(Arc::new(NameMap::from([(
            "alice".to_owned(),
            vec!["with_password".to_owned(), "postgres".to_owned()],
        )])))))],
    );
    let nobody = Security { rules: Rules(vec![rule(Method::Pass)]), ..security.clone() };
    let shown = |name: &str| {
        let Identity { certificate, key } = setup.authority.issue(name, "nowhere");
        format!("sslmode=verify-full sslcert={} sslkey={}", certificate.display(), key.display())
    };
    let (alice, bob) = (shown("alice"), shown("bob"));
    let world = World::new(setup, security).await;
    world.assert_in(&format!("user=with_certificate {alice}"), "with_certificate|t\n").await;
    world.assert_in("user=with_password sslmode=verify-full channel_binding=disable", PASSWORD).await;
    world.assert_out("user=with_certificate sslmode=verify-full", "requires a valid client certificate").await;
    world.assert_out(&format!("user=with_certificate {bob}"), "certificate authentication failed").await;

    // What the server does not say the balancer may vouch for, it may not, whatever its rules say.
    world.fake.handle.change(settings(LIMITS, careless));
    world.assert_out(&format!("user=postgres {alice}"), "no pg_hba.conf entry").await;
    world
        .assert_out(&format!("user=with_password password=wrong channel_binding=disable {alice}"), "password auth")
        .await;

    // Without a rule the balancer vouches for nobody, and the server lets nobody in.
    world.fake.handle.change(settings(LIMITS, nobody));
    world.assert_out(&format!("user=with_certificate {alice}"), "requires a valid client certificate").await;
}
