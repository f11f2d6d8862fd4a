//! Creates a workload's tables and runs its clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::session::{Failure, Session};
use super::transaction::{Clock, Tx};
use super::{Client, Config, Error, Stop, Workload};
use crate::history::{History, Isolation, NodeIndex, ProcessId, Transaction};

/// Between tries to reach a node that does not serve.
pub(super) const PAUSE: Duration = Duration::from_millis(20);

/// What all clients of a run share.
#[derive(Clone, Debug)]
pub struct Clients {
    /// Where the tables are.
    pub schema: Arc<str>,
    /// The isolation of explicit transactions.
    pub isolation: Isolation,
    numbers: Arc<AtomicU64>,
}

impl Clients {
    /// A number that no client of the run had before, counted from 1.
    pub fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// How many were handed out.
    pub fn numbers_used(&self) -> u64 {
        self.numbers.load(Ordering::Relaxed)
    }
}

/// Creates the tables at the first node, and waits until every node shows them.
///
/// # Errors
/// If the tables cannot be created, or a node does not show them in time.
pub async fn setup<W: Workload>(workload: &W, nodes: &[tokio_postgres::Config], config: &Config) -> Result<(), Error> {
    let first = nodes.first().ok_or(Error::NobodyThere)?;
    let mut session = Session::new(first, config.patience);
    create(workload, &mut session, &config.schema)
        .await
        .map_err(|failure| Error::Setup { node: NodeIndex(0), failure })?;

    let deadline = Instant::now() + config.settle;
    for (node, address) in (0..).map(NodeIndex).zip(nodes) {
        let mut session = Session::new(address, config.patience);
        while let Err(failure) = read_initial(workload, &mut session, &config.schema).await {
            if Instant::now() > deadline {
                return Err(Error::NotReady { node, failure });
            }
            sleep(PAUSE).await;
        }
    }
    Ok(())
}

async fn create<W: Workload>(workload: &W, session: &mut Session, schema: &str) -> Result<(), Failure> {
    session.connect().await?;
    session.query("BEGIN").await?;
    session.query(&format!("CREATE SCHEMA {schema}")).await?;
    for statement in workload.create(schema) {
        session.query(&statement).await?;
    }
    session.query("COMMIT").await?;
    Ok(())
}

async fn read_initial<W: Workload>(workload: &W, session: &mut Session, schema: &str) -> Result<(), Failure> {
    session.connect().await?;
    let state = workload.read_state(schema, session).await?;
    if state == workload.initial() {
        Ok(())
    } else {
        let statement = "the first read".to_owned();
        Err(Failure::Unexpected { statement })
    }
}

/// Runs the clients until a limit is reached or `stop` is requested, and returns
/// the history so far: it has no final reads yet.
///
/// # Errors
/// If there are no nodes or no clients.
///
/// # Panics
/// If a client does.
pub async fn drive<W: Workload>(
    workload: &W,
    nodes: &[tokio_postgres::Config],
    config: &Config,
    stop: &Stop,
) -> Result<History<W::Step>, Error> {
    if nodes.is_empty() || config.clients == 0 {
        return Err(Error::NobodyThere);
    }
    let clients =
        Clients { schema: config.schema.as_str().into(), isolation: config.isolation, numbers: Arc::default() };
    let run = Arc::new(Run {
        clock: Clock::default(),
        started: AtomicU64::new(0),
        transactions_max: config.transactions_max,
        deadline: Instant::now() + config.elapsed_max,
        isolation: config.isolation,
        stop: stop.clone(),
    });
    let mut random = fastrand::Rng::with_seed(config.seed);
    let mut tasks = JoinSet::new();
    for (process, node) in (0..config.clients).zip((0..nodes.len()).cycle()) {
        let client = workload.client(&clients, random.fork());
        let session = Session::new(&nodes[node], config.patience);
        let node = NodeIndex(u32::try_from(node).expect("few nodes"));
        tasks.spawn(run.clone().client(client, session, ProcessId(process), node));
    }

    let mut history = History::new(config.isolation, config.seed, workload.initial());
    history.transactions = tasks.join_all().await.into_iter().flatten().collect();
    history.sort();
    Ok(history)
}

struct Run {
    clock: Clock,
    started: AtomicU64,
    transactions_max: u64,
    deadline: Instant,
    isolation: Isolation,
    stop: Stop,
}

impl Run {
    fn goes_on(&self) -> bool {
        !self.stop.is_requested()
            && Instant::now() < self.deadline
            && self.started.load(Ordering::Relaxed) < self.transactions_max
    }

    async fn client<C: Client>(
        self: Arc<Self>,
        mut client: C,
        mut session: Session,
        process: ProcessId,
        node: NodeIndex,
    ) -> Vec<Transaction<C::Step>> {
        let mut done = Vec::new();
        while self.goes_on() {
            if session.connect().await.is_err() {
                sleep(PAUSE).await;
                continue;
            }
            if self.started.fetch_add(1, Ordering::Relaxed) >= self.transactions_max {
                break;
            }
            let mut tx = Tx::new(&mut session, &self.clock, self.isolation, process, node);
            let result = client.perform(&mut tx).await;
            done.push(tx.end(&result).await);
            if result.is_err_and(|failure| !failure.is_conflict()) {
                sleep(PAUSE).await;
            }
        }
        done
    }
}
