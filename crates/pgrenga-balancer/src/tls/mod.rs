//! Encryption on both sides of the balancer, and certificates.

mod clients;
mod files;
mod names;
mod servers;
mod stream;
mod trust;

use std::sync::Arc;

use tokio_rustls::rustls::crypto::{CryptoProvider, ring};

pub use clients::{ClientTls, ClientTlsFiles};
pub use files::TlsError;
pub(crate) use servers::Way;
pub use servers::{ServerTls, ServerTlsFiles, ServerTlsMode};
pub(crate) use stream::Stream;

/// Named, rather than the process's default: libraries do not choose for their users.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
