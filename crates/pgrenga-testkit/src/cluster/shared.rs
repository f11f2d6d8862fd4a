//! One cluster for all tests of a program, since making one takes seconds.

use std::fmt::Debug;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{Cluster, Options};

/// After a test everything should be as it was before.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(60);

/// A cluster that tests use one after the other. It is started for the first
/// one, and again after a test that failed; it ends with the program.
#[derive(Debug)]
pub struct Shared {
    nodes: u16,
    configuration: &'static str,
    cluster: Mutex<Option<Cluster>>,
}

impl Shared {
    /// A cluster of so many nodes, not started yet.
    #[must_use]
    pub const fn new(nodes: u16) -> Self {
        Self::configured(nodes, "")
    }

    /// The same, with sections of the nodes' configuration, see [`Options::configuration`].
    #[must_use]
    pub const fn configured(nodes: u16, configuration: &'static str) -> Self {
        Self { nodes, configuration, cluster: Mutex::new(None) }
    }

    /// Runs a test, which must leave all nodes serving.
    ///
    /// # Panics
    ///
    /// If the test fails.
    pub fn test<E: Debug>(&self, test: impl AsyncFnOnce(&mut Cluster) -> Result<(), E>) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let mut place = self.cluster.lock().unwrap_or_else(PoisonError::into_inner);
        let cluster = runtime.expect("a runtime").block_on(async {
            let mut cluster = match place.take() {
                Some(cluster) => cluster,
                None => {
                    let configuration = self.configuration.to_owned();
                    let options = Options { nodes: Some(self.nodes), configuration, ..Options::default() };
                    Cluster::start_with(options).await.expect("a cluster")
                }
            };
            if let Err(error) = test(&mut cluster).await {
                panic!("{error:?}");
            }
            cluster.wait_serving(RECOVERY_PATIENCE).await.expect("all nodes serve after the test");
            cluster
        });
        *place = Some(cluster);
    }
}
