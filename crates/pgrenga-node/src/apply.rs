//! Apply workers: connections on which PostgreSQL executes other nodes'
//! writesets, through one call of the extension for each.
//!
//! A worker sends its tasks ahead (pipelining) but PostgreSQL executes them
//! one after the other, in ascending seq: that is what keeps the dispatcher's
//! promise that nobody waits for a later seq.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use pgrenga_core::Position;
use pgrenga_core::schedule::Task;
use pgrenga_log::Handle;
use pgrenga_writeset::entry::{Item, Items};
use pgrenga_writeset::writeset::Writeset;
use pgrenga_writeset::{NodeId, Seq};
use tokio::sync::{Notify, mpsc};
use tokio_postgres::{Client, Statement};

use crate::Options;
use crate::engine::Event;
use crate::ledger::{Ordered, Work};

/// Which life of PostgreSQL something belongs to, as this daemon counts them.
pub(crate) type Epoch = u64;

/// How an attempt to apply a seq ended.
#[derive(Debug)]
pub(crate) enum Applied {
    /// It is visible, or will be before anything that comes after.
    Done,
    /// Something stood in the way.
    Again(String),
    /// The data here is not what the writeset expects.
    Different(String),
}

/// SQLSTATE of a seq that is visible already.
const ALREADY_VISIBLE: &str = "PG001";
/// SQLSTATE of a row that is not as the writeset expects.
const DIFFERENT: &str = "PG002";
/// Between looks at what PostgreSQL has flushed.
const FLUSH_INTERVAL: Duration = Duration::from_millis(500);
/// Between attempts to connect, and after a failed attempt to apply.
const RETRY: Duration = Duration::from_millis(5);

/// All workers of one life of PostgreSQL. They end when it is dropped.
pub(crate) struct Pool {
    workers: Vec<mpsc::UnboundedSender<Ordered>>,
    realign: Arc<Notify>,
    realign_asked: bool,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Pool {
    pub(crate) fn start(epoch: Epoch, options: &Arc<Options>, log: Handle, events: mpsc::Sender<Event>) -> Self {
        let mut workers = Vec::new();
        let mut tasks = Vec::new();
        for worker in 0..options.apply_workers {
            // The dispatcher bounds what is under way.
            let (sender, receiver) = mpsc::unbounded_channel();
            let task = Worker { epoch, worker, options: Arc::clone(options), log: log.clone(), events: events.clone() };
            tasks.push(tokio::spawn(task.run(receiver)));
            workers.push(sender);
        }
        let realign = Arc::new(Notify::new());
        tasks.push(tokio::spawn(keep_house(epoch, Arc::clone(options), events, Arc::clone(&realign))));
        Self { workers, realign, realign_asked: false, tasks }
    }

    /// Gives a worker a task.
    pub(crate) fn assign(&self, worker: usize, ordered: Ordered) {
        // A worker ends only with the pool.
        let _ = self.workers[worker].send(ordered);
    }

    /// A new life begins: its sequences are to be put in order again.
    pub(crate) fn begin_life(&mut self) {
        self.realign_asked = false;
    }

    /// Puts sequences in order, once in a life; reported as [`Event::Realigned`].
    pub(crate) fn realign_once(&mut self) {
        if !std::mem::replace(&mut self.realign_asked, true) {
            self.realign.notify_one();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// Connects as the applier: nothing may time out, nothing may fire.
async fn connect(options: &Options) -> Client {
    loop {
        if let Ok(client) = options.server.connect(&options.database).await {
            let settings = "SET statement_timeout = 0; SET lock_timeout = 0; \
                            SET idle_in_transaction_session_timeout = 0; SET idle_session_timeout = 0; \
                            SET session_replication_role = replica; SET synchronous_commit = off; \
                            SET default_transaction_isolation = 'read committed'; \
                            SET default_transaction_read_only = off; SET deadlock_timeout = '1s'";
            if client.batch_execute(settings).await.is_ok() {
                return client;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Reports what is flushed, and realigns sequences when asked.
async fn keep_house(epoch: Epoch, options: Arc<Options>, events: mpsc::Sender<Event>, realign: Arc<Notify>) {
    let mut due = false;
    loop {
        let client = connect(&options).await;
        while !client.is_closed() {
            tokio::select! {
                () = realign.notified() => due = true,
                () = tokio::time::sleep(FLUSH_INTERVAL) => {
                    if let Ok(row) = client.query_one("SELECT pgrenga.flushed()", &[]).await {
                        let seq = Seq(row.get::<_, i64>(0) as u64);
                        let _ = events.send(Event::Flushed { epoch, seq }).await;
                    }
                }
            }
            if !due {
                continue;
            }
            match client.batch_execute("SELECT pgrenga.realign_sequences()").await {
                Ok(()) => {
                    due = false;
                    let _ = events.send(Event::Realigned { epoch }).await;
                }
                // The server may not have heard yet which slot this node has.
                Err(error) => tracing::warn!(error = %describe(&error), "could not put sequences in order yet"),
            }
        }
    }
}

struct Worker {
    epoch: Epoch,
    worker: usize,
    options: Arc<Options>,
    log: Handle,
    events: mpsc::Sender<Event>,
}

impl Worker {
    async fn run(self, mut tasks: mpsc::UnboundedReceiver<Ordered>) {
        let (epoch, worker) = (self.epoch, self.worker);
        loop {
            let client = connect(&self.options).await;
            let Ok(statement) = client.prepare("SELECT pgrenga.apply($1, $2, $3, $4, $5)").await else {
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            };
            while tasks.try_recv().is_ok() {}
            let _ = self.events.send(Event::WorkerReady { epoch, worker }).await;
            self.serve(&client, &statement, &mut tasks).await;
            let _ = self.events.send(Event::WorkerLost { epoch, worker }).await;
        }
    }

    /// Executes tasks until the connection is lost.
    async fn serve(&self, client: &Client, statement: &Statement, tasks: &mut mpsc::UnboundedReceiver<Ordered>) {
        let mut under_way = FuturesOrdered::new();
        loop {
            tokio::select! {
                biased;
                Some((seq, result)) = under_way.next(), if !under_way.is_empty() => {
                    if !self.report(seq, result).await {
                        return;
                    }
                }
                task = tasks.recv() => {
                    let Some(Ordered { task, work: Work::Writeset { txid, at, fragments, body } }) = task else { return };
                    if fragments.is_empty() {
                        let body = match body {
                            Some(body) => body,
                            None => match self.read(at).await {
                                Ok(body) => body,
                                Err(reason) => { self.report(task.seq, Err(Failure::Other(reason))).await; continue }
                            },
                        };
                        under_way.push_back(async move {
                            let (seq, after) = (task.seq.0 as i64, task.after.0 as i64);
                            let origin = txid.node.0 as i32;
                            let result = client.execute(statement, &[&seq, &after, &origin, &&body[..], &true]).await;
                            (task.seq, result.map(drop).map_err(Failure::from))
                        });
                        continue;
                    }
                    while let Some((seq, result)) = under_way.next().await {
                        if !self.report(seq, result).await {
                            return;
                        }
                    }
                    let result = self.apply_pieces(client, statement, &task, txid.node, &fragments, at).await;
                    if !self.report(task.seq, result).await {
                        return;
                    }
                }
            }
        }
    }

    /// Executes a large writeset piece by piece, in one transaction.
    async fn apply_pieces(
        &self,
        client: &Client,
        statement: &Statement,
        task: &Task,
        origin: NodeId,
        fragments: &[Position],
        last: Position,
    ) -> Result<(), Failure> {
        client.batch_execute("BEGIN").await?;
        let result = async {
            let (seq, after, origin) = (task.seq.0 as i64, task.after.0 as i64, origin.0 as i32);
            for (position, is_last) in fragments.iter().map(|at| (*at, false)).chain([(last, true)]) {
                let body = self.read(position).await.map_err(Failure::Other)?;
                client.execute(statement, &[&seq, &after, &origin, &&body[..], &is_last]).await?;
            }
            Ok(client.batch_execute("COMMIT").await?)
        };
        let result = result.await;
        if result.is_err() {
            // The next writeset must not find a part of this one in its transaction.
            client.batch_execute("ROLLBACK").await?;
        }
        result
    }

    /// Reads a piece of a body back from the log.
    async fn read(&self, at: Position) -> Result<Bytes, String> {
        let payload = self.log.read(at.index).await.map_err(|error| error.to_string())?;
        let item = Items::decode(&payload).ok().and_then(|mut items| items.nth(at.item as usize));
        match item {
            Some(Ok(Item::Writeset(bytes))) => {
                let writeset = Writeset::decode(bytes).map_err(|error| error.to_string())?;
                Ok(payload.slice_ref(writeset.body))
            }
            Some(Ok(Item::Fragment { body, .. })) => Ok(payload.slice_ref(body)),
            _ => Err(format!("log entry {} holds no writeset at {}", at.index, at.item)),
        }
    }

    /// Tells the engine; false if the connection is lost.
    async fn report(&self, seq: Seq, result: Result<(), Failure>) -> bool {
        let result = match result {
            Ok(()) => Applied::Done,
            Err(Failure::Lost) => return false,
            Err(Failure::Other(reason)) => Applied::Again(reason),
            Err(Failure::Database { code, text }) => match code.as_str() {
                ALREADY_VISIBLE => Applied::Done,
                DIFFERENT => Applied::Different(text),
                _ => Applied::Again(text),
            },
        };
        if !matches!(result, Applied::Done) {
            tokio::time::sleep(RETRY).await;
        }
        let _ = self.events.send(Event::Applied { epoch: self.epoch, worker: self.worker, seq, result }).await;
        true
    }
}

#[derive(Debug)]
enum Failure {
    Lost,
    Database { code: String, text: String },
    Other(String),
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            // Class 57P: the server or an operator ended the session.
            Some(database) if !database.code().code().starts_with("57P") => {
                Self::Database { code: database.code().code().to_owned(), text: describe(&error) }
            }
            _ => Self::Lost,
        }
    }
}

/// An error with its DETAIL.
fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(database) => format!(
            "{} ({}){}",
            database.message(),
            database.code().code(),
            database.detail().map_or_else(String::new, |detail| format!(": {detail}"))
        ),
        None => error.to_string(),
    }
}
