//! The demo's balancer.

use super::files::{self, ClusterFile};
use super::process::{self, Pid};
use super::{Cluster, Error};

impl Cluster {
    /// How to connect through the balancer.
    ///
    /// # Errors
    ///
    /// If the demo did not start yet.
    pub fn through_balancer(&self) -> Result<tokio_postgres::Config, Error> {
        Ok(files::postgres(ClusterFile::read(&self.dir())?.balancer.port))
    }

    /// The balancer's process, if it runs.
    #[must_use]
    pub fn balancer_pid(&self) -> Option<Pid> {
        process::holder_of(&self.dir().join("balancer.pid"))
    }
}
