//! A member of the log in a machine that is not there: how `pgrenga-sim` runs several members,
//! with their disks, their network and their time, on one thread, decided by one seed.
//!
//! [`begin`] comes first, on the thread whose paused Tokio runtime runs everything. Each member
//! lives in a `LocalSet` of its own; dropping that is the member's crash.

use std::net::SocketAddr;
use std::sync::Arc;

pub use crate::network::transport::{Stream, Transport};
pub use crate::store::{Disk, DiskFile};

use crate::committed::Committed;
use crate::error::Error;
use crate::handle::Handle;
use crate::options::Options;
use crate::runtime;
use crate::start::{assemble, open};
use crate::store::OnFailure;

/// Makes this thread a simulation: what is random follows from `seed`, tasks begin in the
/// `LocalSet` that runs, and nothing starts a thread.
pub fn begin(seed: u64) {
    runtime::simulate(seed);
}

/// [`crate::start()`] on another disk and another network. `options.dir` is for messages only, and
/// `options.listen` is the address by which `transport` is reached. If the disk fails the member
/// falls silent: nothing is acknowledged any more.
///
/// # Errors
/// As [`crate::start()`].
pub async fn start(
    options: Options,
    disk: Arc<dyn Disk>,
    transport: Arc<dyn Transport>,
) -> Result<(Handle, Committed), Error> {
    options.validate()?;
    let local_addr: SocketAddr = options.listen;
    let opened = open(&options, disk, OnFailure::Stop).await?;
    assemble(options, opened, transport, local_addr).await
}
