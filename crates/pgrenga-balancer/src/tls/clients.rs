//! Encryption towards clients: the balancer is the server.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};

use super::{Stream, TlsError, files, provider};

/// Where the balancer's certificate for clients is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTlsFiles {
    /// The certificate, and those that vouch for it.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Who vouches for the certificates that clients show. Without it none is asked for.
    pub client_ca: Option<PathBuf>,
}

/// How clients are encrypted.
#[derive(Clone, Debug)]
pub struct ClientTls {
    config: Arc<ServerConfig>,
    certificate: CertificateDer<'static>,
}

impl ClientTls {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// If they cannot be read, or do not fit together.
    pub fn load(from: &ClientTlsFiles) -> Result<Self, TlsError> {
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let certificate_failed = |source| TlsError::Certificate { path: from.certificate.clone(), source };
        let builder = builder.map_err(certificate_failed)?;
        let builder = match &from.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let roots = Arc::new(files::roots(path)?);
                // Who shows none may still have a password: which it takes is for the rules to say.
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(roots, provider()).allow_unauthenticated().build();
                builder.with_client_cert_verifier(verifier.map_err(|error| TlsError::authority(path, &error))?)
            }
        };
        let chain = files::chain(&from.certificate)?;
        let certificate = chain[0].clone();
        let mut config = builder.with_single_cert(chain, files::key(&from.key)?).map_err(certificate_failed)?;
        // As with PostgreSQL, everybody proves everything anew.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self { config: Arc::new(config), certificate })
    }

    /// The handshake, for a client that was told yes.
    pub(crate) async fn accept(&self, client: TcpStream) -> std::io::Result<Stream> {
        let stream = TlsAcceptor::from(Arc::clone(&self.config)).accept(client).await?;
        Ok(Stream::Tls(Box::new(stream.into())))
    }

    /// What clients see.
    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }
}
