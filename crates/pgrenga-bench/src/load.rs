//! The load generator: a thread for each node, which runs all of that node's
//! clients. It shares the processors with what it measures, so it does little:
//! prepared statements, one task, no locks.

use std::cell::RefCell;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fastrand::Rng;
use futures::future::try_join_all;
use hdrhistogram::Histogram;
use tokio::sync::oneshot;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Statement};

use crate::{Error, Kind, Node, Plan, table};

/// Latencies are kept to three digits, up to this one.
const LATENCY_US_MAX: u64 = 120_000_000;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) begin: Instant,
    pub(crate) end: Instant,
    /// Until then the load goes on, so that it is at full strength to the end of the window,
    /// and what the window has used can be read while all processes live.
    pub(crate) stop: Instant,
}

/// What one node's clients saw.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Statements that ended within the window.
    pub(crate) statements: u64,
    /// Attempts of them that ended in a serialization failure, and were repeated.
    pub(crate) aborts: u64,
    /// Of each statement, its repetitions included.
    pub(crate) latency_us: Histogram<u64>,
    /// Rows written, within the window or not.
    pub(crate) written: i64,
}

/// The clients of one node, connected.
pub(crate) struct Generator {
    thread: JoinHandle<Result<Tally, Error>>,
    start: oneshot::Sender<Window>,
}

impl Generator {
    /// Connects the clients; when this returns they wait for [`Generator::start`].
    pub(crate) async fn connect(plan: &Plan, node: &Node) -> Result<Self, Error> {
        let (ready, is_ready) = oneshot::channel();
        let (start, started) = oneshot::channel();
        let (plan, node) = (plan.clone(), node.clone());
        let thread = std::thread::Builder::new().name(format!("load of {}", node.name));
        let thread = thread.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(|_| Error::Generator)?.block_on(drive(&plan, &node, ready, started))
        });
        let generator = Self { thread: thread.map_err(|_| Error::Generator)?, start };
        match is_ready.await {
            Ok(()) => Ok(generator),
            Err(_) => Err(generator.finish().await.err().unwrap_or(Error::Generator)),
        }
    }

    /// Starts the load; it ends by itself with the window.
    pub(crate) fn start(self, window: Window) -> Running {
        // A thread that has failed is found by joining it.
        let _ = self.start.send(window);
        Running { thread: self.thread }
    }

    async fn finish(self) -> Result<Tally, Error> {
        Running { thread: self.thread }.join().await
    }
}

/// The load of one node, under way.
pub(crate) struct Running {
    thread: JoinHandle<Result<Tally, Error>>,
}

impl Running {
    /// Whether it ended, which before the window does means that it failed.
    pub(crate) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    pub(crate) async fn join(self) -> Result<Tally, Error> {
        let joined = tokio::task::spawn_blocking(|| self.thread.join()).await;
        joined.ok().and_then(Result::ok).unwrap_or(Err(Error::Generator))
    }
}

async fn drive(
    plan: &Plan,
    node: &Node,
    ready: oneshot::Sender<()>,
    started: oneshot::Receiver<Window>,
) -> Result<Tally, Error> {
    let failed = |source| Error::Node { node: node.name.clone(), source };
    let mut sessions = Vec::new();
    for _ in 0..plan.clients_per_node {
        sessions.push(Session::open(node).await.map_err(failed)?);
    }
    let _ = ready.send(());
    let window = started.await.map_err(|_| Error::Generator)?;
    let latency_us = Histogram::new_with_max(LATENCY_US_MAX, 3).map_err(|_| Error::Generator)?;
    let tally = RefCell::new(Tally { statements: 0, aborts: 0, latency_us, written: 0 });
    try_join_all(sessions.iter().map(|session| session.run(plan, window, &tally))).await.map_err(failed)?;
    Ok(tally.into_inner())
}

/// One client.
struct Session {
    client: Client,
    read: Statement,
    write: Statement,
}

impl Session {
    async fn open(node: &Node) -> Result<Self, tokio_postgres::Error> {
        let client = table::connect(node).await?;
        let (read, write) = (client.prepare(table::READ).await?, client.prepare(table::WRITE).await?);
        Ok(Self { client, read, write })
    }

    /// One statement after the other, each in a transaction of its own.
    async fn run(&self, plan: &Plan, window: Window, tally: &RefCell<Tally>) -> Result<(), tokio_postgres::Error> {
        let mut random = Rng::new();
        loop {
            let (id, writes) = (random.i32(1..=plan.rows), is_write(plan.benchmark, &mut random));
            let begun = Instant::now();
            let aborts = self.execute(id, writes).await?;
            let ended = Instant::now();
            let mut tally = tally.borrow_mut();
            tally.written += i64::from(writes);
            if ended >= window.stop {
                return Ok(());
            }
            if (window.begin..window.end).contains(&ended) {
                tally.record(ended - begun, aborts);
            }
        }
    }

    /// Repeats the statement until it succeeds; returns how often it did not.
    async fn execute(&self, id: i32, writes: bool) -> Result<u64, tokio_postgres::Error> {
        let statement = if writes { &self.write } else { &self.read };
        let mut aborts = 0;
        loop {
            // Both return the row, so that one that is missing is an error.
            match self.client.query_one(statement, &[&id]).await {
                Ok(_) => return Ok(aborts),
                Err(error) if error.code() == Some(&SqlState::T_R_SERIALIZATION_FAILURE) => aborts += 1,
                Err(error) => return Err(error),
            }
        }
    }
}

impl Tally {
    fn record(&mut self, latency: Duration, aborts: u64) {
        self.statements += 1;
        self.aborts += aborts;
        self.latency_us.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }
}

fn is_write(kind: Kind, random: &mut Rng) -> bool {
    random.u32(0..100) < kind.write_percent()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_statement_in_five_writes_in_mixed_and_none_in_select() {
        let mut random = Rng::with_seed(7);
        let mut count = |kind| (0..100_000).filter(|_| is_write(kind, &mut random)).count();
        assert_eq!(count(Kind::Select), 0);
        let writes = count(Kind::Mixed);
        assert!((19_500..20_500).contains(&writes), "{writes}");
    }

    #[test]
    fn a_tally_counts_statements_once_however_often_they_were_repeated() {
        let latency_us = Histogram::new_with_max(LATENCY_US_MAX, 3).unwrap();
        let mut tally = Tally { statements: 0, aborts: 0, latency_us, written: 0 };
        tally.record(Duration::from_micros(500), 0);
        tally.record(Duration::from_micros(1500), 3);
        tally.record(Duration::from_secs(1_000_000), 0);
        assert_eq!((tally.statements, tally.aborts, tally.latency_us.len()), (3, 3, 3));
        assert_eq!(tally.latency_us.value_at_quantile(0.5) / 10, 150);
    }
}
