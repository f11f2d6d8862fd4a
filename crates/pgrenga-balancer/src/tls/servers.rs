//! Encryption towards servers: the balancer is a client.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::ServerCertVerifier;
use tokio_rustls::rustls::pki_types::ServerName;

use super::trust::AnyName;
use super::{Stream, TlsError, files, provider};
use crate::rules::Voucher;
use crate::wire::SSL_REQUEST_PACKET;

const YES: u8 = b'S';
const NO: u8 = b'N';

/// libpq's `sslmode`, and its words for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ServerTlsMode {
    /// Not encrypted.
    #[default]
    Disable,
    /// Encrypted if the server can.
    Prefer,
    /// Encrypted, whoever the server is.
    Require,
    /// The certificates in this file vouch for the server.
    VerifyCa(PathBuf),
    /// And its name is the one by which the cluster knows it.
    VerifyFull(PathBuf),
}

/// What encryption towards servers is made with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerTlsFiles {
    /// How much is asked for.
    pub mode: ServerTlsMode,
    /// The balancer's own certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// How servers are encrypted.
#[derive(Clone, Debug, Default)]
pub struct ServerTls {
    config: Option<Arc<ClientConfig>>,
    /// The same with the balancer's own certificate. It opens the server's door to whoever the balancer says, so it is
    /// shown for those only whom the balancer has made sure of.
    vouching: Option<Arc<ClientConfig>>,
    is_required: bool,
}

/// How a connection to a server was made, so that another one can be made like it.
#[derive(Clone)]
pub(crate) struct Way {
    address: SocketAddr,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl std::fmt::Debug for Way {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.tls.as_ref().map(|(_, name)| name);
        formatter.debug_struct("Way").field("address", &self.address).field("tls", &name).finish()
    }
}

impl ServerTls {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// If they cannot be read.
    pub fn load(from: &ServerTlsFiles) -> Result<Self, TlsError> {
        let any_name = |roots| -> Arc<dyn ServerCertVerifier> { Arc::new(AnyName { roots, provider: provider() }) };
        let verifier = match &from.mode {
            ServerTlsMode::Disable => return Ok(Self::default()),
            ServerTlsMode::Prefer | ServerTlsMode::Require => any_name(None),
            ServerTlsMode::VerifyCa(path) => any_name(Some(files::roots(path)?)),
            ServerTlsMode::VerifyFull(path) => {
                let roots = Arc::new(files::roots(path)?);
                WebPkiServerVerifier::builder_with_provider(roots, provider())
                    .build()
                    .map_err(|error| TlsError::authority(path, &error))?
            }
        };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider knows TLS 1.2 and 1.3")
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let vouching = from.identity.as_ref().map(|(certificate, key)| {
            let (chain, key) = (files::chain(certificate)?, files::key(key)?);
            let failed = |source| TlsError::Certificate { path: certificate.clone(), source };
            builder.clone().with_client_auth_cert(chain, key).map(Arc::new).map_err(failed)
        });
        Ok(Self {
            config: Some(Arc::new(builder.with_no_client_auth())),
            vouching: vouching.transpose()?,
            is_required: from.mode != ServerTlsMode::Prefer,
        })
    }

    /// Whether it can vouch for clients, who are then never sent over a connection without encryption.
    #[must_use]
    pub fn can_vouch(&self) -> bool {
        self.vouching.is_some() && self.is_required
    }

    /// Encrypts a connection on which nothing was said yet, as far as it is asked for. `host` is the server's name,
    /// `voucher` who vouches for the client.
    pub(crate) async fn open(&self, server: TcpStream, host: &str, voucher: Voucher) -> io::Result<(Stream, Way)> {
        let address = server.peer_addr()?;
        let config = match voucher {
            Voucher::Server => self.config.as_ref(),
            Voucher::Balancer => {
                Some(self.vouching.as_ref().ok_or_else(|| io::Error::other("the balancer has no certificate for it"))?)
            }
        };
        let Some(config) = config else {
            return Ok((Stream::Plain(server), Way::plain(address)));
        };
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let tls = (TlsConnector::from(Arc::clone(config)), name);
        match request(server, &tls).await? {
            Answer::Encrypted(stream) => Ok((stream, Way { address, tls: Some(tls) })),
            Answer::Declined(_) if self.is_required => Err(declined()),
            Answer::Declined(server) => Ok((Stream::Plain(server), Way::plain(address))),
        }
    }
}

impl Way {
    /// To a server at this address, without encryption.
    pub(crate) fn plain(address: SocketAddr) -> Self {
        Self { address, tls: None }
    }

    /// Goes it again.
    pub(crate) async fn connect(&self) -> io::Result<Stream> {
        let server = TcpStream::connect(self.address).await?;
        let Some(tls) = &self.tls else { return Ok(Stream::Plain(server)) };
        match request(server, tls).await? {
            Answer::Encrypted(stream) => Ok(stream),
            Answer::Declined(_) => Err(declined()),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

enum Answer {
    Encrypted(Stream),
    Declined(TcpStream),
}

/// Asks for encryption. Exactly one byte is read before the handshake: what somebody puts in behind it is never taken
/// for the server's.
async fn request(mut server: TcpStream, (connector, name): &(TlsConnector, ServerName<'static>)) -> io::Result<Answer> {
    server.write_all(&SSL_REQUEST_PACKET).await?;
    match server.read_u8().await? {
        YES => {
            let stream = connector.connect(name.clone(), server).await?;
            Ok(Answer::Encrypted(Stream::Tls(Box::new(stream.into()))))
        }
        NO => Ok(Answer::Declined(server)),
        _ => Err(io::Error::other("it does not understand a request for TLS")),
    }
}

fn declined() -> io::Error {
    io::Error::other("it does not offer TLS, and server_tls asks for it")
}
