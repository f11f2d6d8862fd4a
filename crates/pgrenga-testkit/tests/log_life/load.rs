//! Many conflicts, on all nodes: bank and lists; much log: large rows, and
//! transactions in fragments; and schema changes, which make others wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use pgrenga_testkit::cluster::Cluster;
use pgrenga_testkit::history::{History, Isolation, Outcome, Promise, RealTime, append, bank};
use pgrenga_testkit::workload::{Bank, Config, ListAppend, Stop, Workload, drive, finish, setup};
use tokio::task::JoinHandle;
use tokio_postgres::NoTls;

const RUN_MAX: Duration = Duration::from_secs(600);
const PATIENCE: Duration = Duration::from_secs(20);
const ISOLATION: Isolation = Isolation::RepeatableRead;

/// A megabyte, in one log entry or two.
const LARGE_ROWS: &str = "INSERT INTO {s}.large SELECT repeat('x', 100000) FROM generate_series(1, 10)";
/// Four megabytes, in fragments.
const FRAGMENTS: &str = "INSERT INTO {s}.large SELECT repeat('x', 1000) FROM generate_series(1, 4000)";
const ALTER: &str = "ALTER TABLE {s}.altered ADD COLUMN IF NOT EXISTS x int; ALTER TABLE {s}.altered DROP COLUMN x; \
                     INSERT INTO {s}.altered DEFAULT VALUES";

type Recorded<W> = Result<History<<W as Workload>::Step>, pgrenga_testkit::workload::Error>;

/// The load, while it runs.
pub(crate) struct Load {
    name: String,
    stop: Stop,
    bank: JoinHandle<Recorded<Bank>>,
    lists: JoinHandle<Recorded<ListAppend>>,
    others: Vec<JoinHandle<()>>,
    done: Arc<AtomicU64>,
}

fn config(schema: String) -> Config {
    Config {
        seed: 7,
        clients: 6,
        isolation: ISOLATION,
        elapsed_max: RUN_MAX,
        patience: PATIENCE,
        schema,
        ..Config::default()
    }
}

impl Load {
    pub(crate) async fn begin(cluster: &Cluster, name: &str) -> Result<Self> {
        let nodes = cluster.configs();
        let create = format!(
            "CREATE SCHEMA {name}; CREATE TABLE {name}.large (x text); CREATE TABLE {name}.altered (id bigserial PRIMARY KEY)"
        );
        cluster.execute(0, &create).await?;
        let (money, lists) = (config(format!("{name}_bank")), config(format!("{name}_lists")));
        setup(&Bank::default(), &nodes, &money).await?;
        setup(&ListAppend::default(), &nodes, &lists).await?;
        let stop = Stop::default();
        let done = Arc::new(AtomicU64::new(0));
        let statements = [LARGE_ROWS, FRAGMENTS, ALTER, LARGE_ROWS, FRAGMENTS];
        let others = statements.iter().enumerate().map(|(number, statement)| {
            let node = nodes[number % nodes.len()].clone();
            tokio::spawn(repeat(node, statement.replace("{s}", name), stop.clone(), Arc::clone(&done)))
        });
        let others = others.collect();
        let (of_bank, of_lists) = ((nodes.clone(), stop.clone()), (nodes, stop.clone()));
        Ok(Self {
            name: name.to_owned(),
            stop,
            bank: tokio::spawn(async move { drive(&Bank::default(), &of_bank.0, &money, &of_bank.1).await }),
            lists: tokio::spawn(async move { drive(&ListAppend::default(), &of_lists.0, &lists, &of_lists.1).await }),
            others,
            done,
        })
    }

    /// Stops it, and judges what the clients saw.
    pub(crate) async fn end(self, cluster: &Cluster) -> Result<()> {
        self.stop.request();
        let (mut of_bank, mut of_lists) = (self.bank.await??, self.lists.await??);
        for other in self.others {
            other.await?;
        }
        let nodes = cluster.configs();
        finish(&Bank::default(), &nodes, &config(format!("{}_bank", self.name)), &mut of_bank).await;
        finish(&ListAppend::default(), &nodes, &config(format!("{}_lists", self.name)), &mut of_lists).await;
        // That a server which comes back shows no past is for `nothing_lost` to hold.
        let promise = Promise { session_order: false, real_time: RealTime::Ignored, ..Promise::of(ISOLATION) };
        let report = bank::check(&of_bank)?;
        ensure!(report.is_clean(), "bank: {report}");
        let report = append::check(&of_lists, promise)?;
        ensure!(report.is_clean(), "lists: {report}");
        let committed = of_bank.count(Outcome::Committed) + of_lists.count(Outcome::Committed);
        let aborted = of_bank.count(Outcome::Aborted) + of_lists.count(Outcome::Aborted);
        let large = self.done.load(Ordering::Relaxed);
        println!("{}: {committed} transactions committed, {aborted} aborted, {large} large ones", self.name);
        ensure!(committed > 100 && aborted > 10 && large > 3, "the load was too light to tell anything");
        Ok(())
    }
}

/// Runs a statement again and again, whatever becomes of it.
async fn repeat(node: tokio_postgres::Config, statement: String, stop: Stop, done: Arc<AtomicU64>) {
    while !stop.is_requested() {
        if let Ok((client, connection)) = node.connect(NoTls).await {
            let connection = tokio::spawn(connection);
            while !stop.is_requested() {
                match tokio::time::timeout(PATIENCE, client.batch_execute(&statement)).await {
                    Ok(Ok(())) => drop(done.fetch_add(1, Ordering::Relaxed)),
                    Ok(Err(error)) if error.as_db_error().is_some() && !client.is_closed() => {}
                    _ => break,
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            connection.abort();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
