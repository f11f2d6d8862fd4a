//! Apply workers: connections on which PostgreSQL executes other nodes'
//! writesets, through one call of the extension for each run of them.
//!
//! A worker sends its runs ahead (pipelining) but PostgreSQL executes them
//! one after the other, in ascending seq: that is what keeps the dispatcher's
//! promise that nobody waits for a later seq.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use pgrenga_core::Position;
use pgrenga_core::schedule::Run;
use pgrenga_log::Handle;
use pgrenga_writeset::entry::{Item, Items};
use pgrenga_writeset::writeset::Writeset;
use pgrenga_writeset::{NodeId, Seq, run};
use tokio::sync::{Notify, mpsc};
use tokio_postgres::{Client, Statement};

use crate::Options;
use crate::engine::Event;
use crate::ledger::{Ordered, Work};
use crate::marker::Markers;
use crate::shared::Shared;
use crate::transfer::Drawn;

/// Which life of PostgreSQL something belongs to, as this daemon counts them.
pub(crate) type Epoch = u64;

/// Why an attempt to apply a run failed.
#[derive(Debug)]
pub(crate) enum NotApplied {
    /// Something stood in the way.
    Again(String),
    /// The machine is in the way: nothing is wrong with the data.
    Hindered(String),
    /// The data here is not what the writeset expects.
    Different(String),
}

/// SQLSTATE of a run that is visible already.
const ALREADY_VISIBLE: &str = "PG001";
/// SQLSTATE of a row that is not as the writeset expects.
const DIFFERENT: &str = "PG002";
/// Between looks at what PostgreSQL has flushed.
const FLUSH_INTERVAL: Duration = Duration::from_millis(500);
/// Between attempts to connect, and after a failed attempt to apply.
const RETRY: Duration = Duration::from_millis(5);
/// After an attempt for which the machine lacked something.
const HINDERED_RETRY: Duration = Duration::from_millis(500);

/// A run, and what stands at its seqs.
type Assignment = (Run, Vec<Ordered>);

/// All workers of one life of PostgreSQL. They end when it is dropped.
pub(crate) struct Pool {
    workers: Vec<mpsc::UnboundedSender<Assignment>>,
    realign: Arc<Notify>,
    realign_asked: bool,
    markers: Markers,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Pool {
    pub(crate) fn start(
        epoch: Epoch,
        options: &Arc<Options>,
        shared: &Arc<Shared>,
        log: Handle,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let markers = Markers::start(options, shared);
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
        Self { workers, realign, realign_asked: false, markers, tasks }
    }

    /// Gives a worker a run.
    pub(crate) fn assign(&self, worker: usize, run: Run, ordered: Vec<Ordered>) {
        // A worker ends only with the pool.
        let _ = self.workers[worker].send((run, ordered));
    }

    /// A marker stands at `seq`.
    pub(crate) fn pass_marker(&self, seq: Seq, id: Option<u64>) {
        self.markers.pass(seq, id);
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
pub(crate) async fn connect(options: &Options) -> Client {
    loop {
        if let Some(postgres) = &options.postgres
            && let Ok(client) = postgres.server.connect(&postgres.database).await
        {
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
            let Some(postgres) = &options.postgres else { return };
            let drawn = Drawn::noted(&postgres.server);
            let realign = "SELECT pgrenga.realign_sequences($1, $2, $3)";
            match client.execute(realign, &[&drawn.schemas, &drawn.sequences, &drawn.values]).await {
                Ok(_) => {
                    due = false;
                    Drawn::forget(&postgres.server);
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
    async fn run(self, mut tasks: mpsc::UnboundedReceiver<Assignment>) {
        let (epoch, worker) = (self.epoch, self.worker);
        loop {
            let client = connect(&self.options).await;
            let Ok(statements) = Statements::prepare(&client).await else {
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            };
            while tasks.try_recv().is_ok() {}
            let _ = self.events.send(Event::WorkerReady { epoch, worker }).await;
            self.serve(&client, &statements, &mut tasks).await;
            let _ = self.events.send(Event::WorkerLost { epoch, worker }).await;
        }
    }

    /// Executes runs until the connection is lost.
    async fn serve(&self, client: &Client, statements: &Statements, tasks: &mut mpsc::UnboundedReceiver<Assignment>) {
        let mut under_way = FuturesOrdered::new();
        loop {
            tokio::select! {
                biased;
                Some((run, result)) = under_way.next(), if !under_way.is_empty() => {
                    if !self.report(run, result).await {
                        return;
                    }
                }
                task = tasks.recv() => {
                    let Some((run, ordered)) = task else { return };
                    if let Some(pieces) = Pieces::of(&ordered) {
                        while let Some((run, result)) = under_way.next().await {
                            if !self.report(run, result).await {
                                return;
                            }
                        }
                        let result = self.apply_pieces(client, &statements.piece, run, pieces).await;
                        if !self.report(run, result).await {
                            return;
                        }
                        continue;
                    }
                    match self.gather(ordered).await {
                        Ok(bodies) => under_way.push_back(async move {
                            let (first, after) = (run.first.0 as i64, run.after.0 as i64);
                            let result = client.execute(&statements.run, &[&first, &after, &bodies]).await;
                            (run, result.map(drop).map_err(Failure::from))
                        }),
                        Err(reason) => {
                            self.report(run, Err(Failure::Other(reason))).await;
                        }
                    }
                }
            }
        }
    }

    /// The bodies of whole writesets, as they go to the extension.
    async fn gather(&self, ordered: Vec<Ordered>) -> Result<Vec<u8>, String> {
        let mut bodies = Vec::new();
        for Ordered { work, .. } in ordered {
            let Work::Writeset { txid, at, body, .. } = work else { continue };
            let body = match body {
                Some(body) => body,
                None => self.read(at).await?,
            };
            run::push(&mut bodies, txid.node, &body);
        }
        Ok(bodies)
    }

    /// Executes a large writeset piece by piece, in one transaction.
    async fn apply_pieces(
        &self,
        client: &Client,
        statement: &Statement,
        run: Run,
        pieces: Pieces,
    ) -> Result<(), Failure> {
        client.batch_execute("BEGIN").await?;
        let result = async {
            let (seq, after, origin) = (run.first.0 as i64, run.after.0 as i64, pieces.origin.0 as i32);
            for (position, is_last) in pieces.fragments.iter().map(|at| (*at, false)).chain([(pieces.last, true)]) {
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
    async fn report(&self, run: Run, result: Result<(), Failure>) -> bool {
        let result = match result {
            Ok(()) => Ok(()),
            Err(Failure::Lost) => return false,
            Err(Failure::Other(reason)) => Err(NotApplied::Again(reason)),
            Err(Failure::Database { code, text }) => match code.as_str() {
                ALREADY_VISIBLE => Ok(()),
                DIFFERENT => Err(NotApplied::Different(text)),
                code if is_hindrance(code) => Err(NotApplied::Hindered(text)),
                _ => Err(NotApplied::Again(text)),
            },
        };
        match &result {
            Ok(()) => {}
            Err(NotApplied::Hindered(_)) => tokio::time::sleep(HINDERED_RETRY).await,
            Err(_) => tokio::time::sleep(RETRY).await,
        }
        let _ = self.events.send(Event::Applied { epoch: self.epoch, worker: self.worker, run, result }).await;
        true
    }
}

/// Insufficient resources, and errors of the system: a full disk, no memory, a file that cannot be read.
fn is_hindrance(code: &str) -> bool {
    code.starts_with("53") || code.starts_with("58")
}

/// What workers ask of the extension.
struct Statements {
    run: Statement,
    piece: Statement,
}

impl Statements {
    async fn prepare(client: &Client) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            run: client.prepare("SELECT pgrenga.apply_run($1, $2, $3)").await?,
            piece: client.prepare("SELECT pgrenga.apply($1, $2, $3, $4, $5)").await?,
        })
    }
}

/// Where a large writeset stands in the log.
struct Pieces {
    origin: NodeId,
    fragments: Vec<Position>,
    last: Position,
}

impl Pieces {
    /// That of `ordered`, if it is one large writeset.
    fn of(ordered: &[Ordered]) -> Option<Self> {
        let [Ordered { work: Work::Writeset { txid, at, fragments, .. }, .. }] = ordered else { return None };
        let pieces = || Self { origin: txid.node, fragments: fragments.clone(), last: *at };
        (!fragments.is_empty()).then(pieces)
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
pub(crate) fn describe(error: &tokio_postgres::Error) -> String {
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
