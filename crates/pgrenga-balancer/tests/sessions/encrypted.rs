//! Connections to and from the balancer that are encrypted.

use pgrenga_balancer::{ClientTls, ClientTlsFiles, Security, ServerTls, ServerTlsFiles, ServerTlsMode};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::certificates::{Authority, Identity};
use crate::fake::{Fake, asking, welcome};
use crate::wire::{STARTUP, Wire};

pub(crate) const SSL: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";

pub(crate) type Encrypted = Wire<TlsStream<TcpStream>>;

/// One authority, a certificate of the balancer's and one of the server's.
pub(crate) struct Setup {
    pub(crate) authority: Authority,
    pub(crate) balancer: Identity,
    pub(crate) server: Identity,
}

impl Setup {
    pub(crate) fn new() -> Self {
        let authority = Authority::new();
        let (balancer, server) = (authority.issue("balancer", "localhost"), authority.issue("server", "127.0.0.1"));
        Self { authority, balancer, server }
    }

    pub(crate) fn clients(&self) -> Option<ClientTls> {
        let Identity { certificate, key } = self.balancer.clone();
        Some(ClientTls::load(&ClientTlsFiles { certificate, key, client_ca: None }).unwrap())
    }

    pub(crate) fn towards_clients(&self) -> Security {
        Security { clients: self.clients(), ..Security::default() }
    }

    pub(crate) fn on_both_sides(&self) -> Security {
        Security { clients: self.clients(), ..towards_servers(ServerTlsMode::VerifyFull(self.authority.file())) }
    }

    /// An encrypted connection to the balancer on which nothing was said yet.
    pub(crate) async fn dial(&self, fake: &Fake) -> Encrypted {
        self.dial_as(fake, None).await
    }

    /// And this certificate shown.
    pub(crate) async fn dial_as(&self, fake: &Fake, identity: Option<&Identity>) -> Encrypted {
        let mut client = fake.dial().await;
        client.send(SSL).await;
        assert_eq!(client.0.read_u8().await.unwrap(), b'S');
        let connector = TlsConnector::from(self.authority.client(identity));
        Wire(connector.connect("localhost".try_into().unwrap(), client.0).await.unwrap().into())
    }

    /// An encrypted connection from the balancer to the server.
    pub(crate) async fn accept(&self, fake: &Fake) -> Encrypted {
        let mut server = asked_for_tls(fake).await;
        server.send(b"S").await;
        let config = self.server.server(Some(&self.authority));
        Wire(TlsAcceptor::from(config).accept(server.0).await.unwrap().into())
    }

    /// A session that is encrypted on both sides.
    pub(crate) async fn session(&self, fake: &Fake) -> (Encrypted, Encrypted) {
        let mut client = self.dial(fake).await;
        client.send(STARTUP).await;
        let mut server = self.accept(fake).await;
        assert_eq!(server.packet().await, asking());
        server.send(&welcome(1)).await;
        client.until_ready().await;
        (client, server)
    }
}

pub(crate) fn towards_servers(mode: ServerTlsMode) -> Security {
    Security { servers: ServerTls::load(&ServerTlsFiles { mode, identity: None }).unwrap(), ..Security::default() }
}

/// A connection from the balancer, which wants to know whether it can be encrypted.
pub(crate) async fn asked_for_tls(fake: &Fake) -> Wire {
    let accepted = timeout(crate::wire::PATIENCE, fake.servers[0].accept()).await.expect("a session in time");
    let mut server = Wire(accepted.unwrap().0);
    assert_eq!(server.packet().await, SSL);
    server
}
