//! Workloads that run against any set of PostgreSQL servers, and record what
//! their clients saw as a [`History`].
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use pgrenga_testkit::history::{Promise, append};
//! use pgrenga_testkit::workload::{self, Config, ListAppend, Stop};
//!
//! let nodes = ["host=/tmp port=6433".parse()?, "host=/tmp port=6434".parse()?];
//! let config = Config::default();
//! let history = workload::run(&ListAppend::default(), &nodes, &config, &Stop::default()).await?;
//! let report = append::check(&history, Promise::of(config.isolation))?;
//! assert!(report.is_clean(), "{report}");
//! # Ok(())
//! # }
//! ```
//!
//! Client `i` talks to node `i mod n` for its whole life, and connects again
//! when it loses the connection. What it records of a transaction's end:
//!
//! | what happened | outcome |
//! |---|---|
//! | COMMIT was answered | committed |
//! | any failure before COMMIT was sent | aborted |
//! | COMMIT was answered by an ERROR, such as 40001 | aborted |
//! | that ERROR is of class 08 or is 40003; or it is FATAL | unknown |
//! | the connection was lost, or patience, after COMMIT was sent | unknown |
//!
//! A statement outside of a transaction block counts as sent with its COMMIT.

mod bank;
mod counter;
mod drive;
mod finish;
mod inserts;
mod list_append;
mod session;
mod transaction;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub use bank::Bank;
pub use counter::Counter;
pub use drive::{Clients, drive, setup};
pub use finish::finish;
pub use inserts::Inserts;
pub use list_append::ListAppend;
pub use session::{Failure, Row, Session};
pub use transaction::Tx;

use crate::history::{History, Isolation, NodeIndex, Step};

/// How to run a workload.
#[derive(Clone, Debug)]
pub struct Config {
    /// Decides what each client attempts, though not how their attempts interleave.
    pub seed: u64,
    /// How many clients.
    pub clients: u32,
    /// The isolation of explicit transactions.
    pub isolation: Isolation,
    /// The run ends when this many transactions were begun, if it was not told to
    /// stop before.
    pub transactions_max: u64,
    /// The run ends after this long in any case.
    pub elapsed_max: Duration,
    /// How long a client waits for an answer, or for a connection, before it gives up.
    pub patience: Duration,
    /// How long the nodes may take, before the run and after it, until all of
    /// them can be read and hold the same.
    pub settle: Duration,
    /// The schema that the workload creates for its tables. It must not exist.
    pub schema: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 0,
            clients: 8,
            isolation: Isolation::RepeatableRead,
            transactions_max: u64::MAX,
            elapsed_max: Duration::from_secs(10),
            patience: Duration::from_secs(10),
            settle: Duration::from_secs(30),
            schema: "workload".to_owned(),
        }
    }
}

/// Tells a running workload to stop: clones share one signal.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Clients finish the transactions that they are in, and begin no more.
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether somebody did.
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Why a workload could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nothing to talk to.
    #[error("a workload needs a node and a client")]
    NobodyThere,
    /// The tables could not be created.
    #[error("could not create the workload's tables at {node}: {failure}")]
    Setup {
        /// The node that was asked.
        node: NodeIndex,
        /// What it answered.
        failure: Failure,
    },
    /// A node does not show the tables in time.
    #[error("{node} does not show the workload's tables: {failure}")]
    NotReady {
        /// The node.
        node: NodeIndex,
        /// What it answered last.
        failure: Failure,
    },
}

/// A kind of clients and the tables that they need.
pub trait Workload: Sync {
    /// What its histories consist of.
    type Step: Step;
    /// One client.
    type Client: Client<Step = Self::Step>;

    /// What the tables hold at first.
    fn initial(&self) -> <Self::Step as Step>::State;

    /// The statements that create the tables in `schema`, to be run in one transaction.
    fn create(&self, schema: &str) -> Vec<String>;

    /// A client, one of those that share `clients`.
    fn client(&self, clients: &Clients, random: fastrand::Rng) -> Self::Client;

    /// Reads everything that a node holds.
    ///
    /// # Errors
    /// If the node fails to answer.
    fn read_state(
        &self,
        schema: &str,
        session: &mut Session,
    ) -> impl Future<Output = Result<<Self::Step as Step>::State, Failure>> + Send;
}

/// One client of a workload.
pub trait Client: Send + 'static {
    /// What its transactions consist of.
    type Step: Step;

    /// Runs one transaction of the client's choice.
    ///
    /// # Errors
    /// The first failure, at which the client must stop.
    fn perform(&mut self, tx: &mut Tx<'_, Self::Step>) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Creates the tables, runs the clients to their end, and reads all nodes.
///
/// A node that cannot be read in the end does not make the run fail: the history
/// says so, and the checker will.
///
/// # Errors
/// If the tables cannot be created.
pub async fn run<W: Workload>(
    workload: &W,
    nodes: &[tokio_postgres::Config],
    config: &Config,
    stop: &Stop,
) -> Result<History<W::Step>, Error> {
    setup(workload, nodes, config).await?;
    let mut history = drive(workload, nodes, config, stop).await?;
    finish(workload, nodes, config, &mut history).await;
    Ok(history)
}
