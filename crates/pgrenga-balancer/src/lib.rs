//! The load balancer: clients connect to one address, and each session goes to
//! the node that serves and has the least to do.
//!
//! The story of a connection: `accept` lets it in and hands it to a
//! worker thread; a `session` greets it, takes a place at a node (`places`),
//! opens a connection there, passes the authentication through and then relays
//! until one side is done; or, with a transaction mode, until the transaction is, after which another
//! client may have the connection. `cluster` follows which nodes there are, `cancel`
//! knows which server process a cancel request means, `tls` encrypts either side, and `metrics` tells how full it is. What is pure, so that it
//! can be tested without a socket: all of `wire`, which knows the protocol's
//! messages, the choice in `places`, and what a session has under way.

mod accept;
mod cancel;
mod cluster;
mod error;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod gate;
mod metrics;
mod options;
mod places;
mod rules;
mod session;
mod tls;
mod wire;
mod workers;

pub use accept::{Balancer, Handle};
pub use error::Error;
pub use ipnet::IpNet;
pub use options::{Limits, Options, PoolMode, Security, Settings};
pub use rules::{Method, NameMap, Rule, Rules};
pub use tls::{ClientTls, ClientTlsFiles, ServerTls, ServerTlsFiles, ServerTlsMode, TlsError};
