//! Certificates and keys, as they lie in files.

use std::path::{Path, PathBuf};

use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::VerifierBuilderError;
use tokio_rustls::rustls::{self, RootCertStore};

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is not there, or holds something else.
    #[error("could not read {what} from \"{path}\": {source}")]
    File {
        /// What was looked for.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: pem::Error,
    },
    /// A file holds no certificate.
    #[error("there is no certificate in \"{0}\"")]
    Empty(PathBuf),
    /// A certificate and its key do not fit, or are of a kind that is not known.
    #[error("could not use the certificate in \"{path}\": {source}")]
    Certificate {
        /// Where the certificate is.
        path: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
    /// What is trusted cannot be.
    #[error("could not trust the certificates in \"{path}\": {reason}")]
    Authority {
        /// Where they are.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

impl TlsError {
    pub(super) fn authority(path: &Path, error: &VerifierBuilderError) -> Self {
        Self::Authority { path: path.to_owned(), reason: error.to_string() }
    }
}

/// A certificate, and those that vouch for it.
pub(super) fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fail = |source| TlsError::File { what: "certificates", path: path.to_owned(), source };
    let chain: Vec<_> = CertificateDer::pem_file_iter(path).map_err(fail)?.collect::<Result<_, _>>().map_err(fail)?;
    if chain.is_empty() { Err(TlsError::Empty(path.to_owned())) } else { Ok(chain) }
}

/// A private key, of any common format.
pub(super) fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|source| TlsError::File {
        what: "a private key",
        path: path.to_owned(),
        source,
    })
}

/// Certificates that are believed.
pub(super) fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(path)? {
        let fail = |error: rustls::Error| TlsError::Authority { path: path.to_owned(), reason: error.to_string() };
        roots.add(certificate).map_err(fail)?;
    }
    Ok(roots)
}
