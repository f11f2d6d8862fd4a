use std::net::SocketAddr;

/// Why the balancer cannot work at all. What goes wrong with one connection is told to its client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is in use, or not ours.
    #[error("could not listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A thread or its event loop could not be made.
    #[error("could not start a worker thread")]
    Worker(#[source] std::io::Error),
}
