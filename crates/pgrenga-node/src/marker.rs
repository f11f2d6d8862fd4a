//! Markers: seqs at which every node exports a snapshot, so that what nodes hold is compared
//! in the very same state while writes go on.
//!
//! Nothing after a marker becomes visible before it was passed. So one connection passes all of
//! them, made when the server begins its life, whatever its clients take up later; a
//! snapshot that cannot be had in time is done without.

use std::sync::Arc;
use std::time::Duration;

use pgrenga_admin::MarkerSnapshot;
use pgrenga_writeset::Seq;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::apply::{connect, describe};
use crate::shared::{OPEN_MAX, Shared};
use crate::{Options, Postgres};

/// How long a snapshot stays open for whoever compares, unless they are done before.
const KEEP: Duration = Duration::from_secs(600);
/// How often that is looked at.
const POLL: Duration = Duration::from_millis(50);
/// Sessions that keep snapshots open: more than there may be snapshots, since they end a little later.
const KEEPERS: usize = 16;
/// How long commits wait for a snapshot to be taken.
const PATIENCE: Duration = Duration::from_secs(2);
/// After a failure to pass a marker.
const RETRY: Duration = Duration::from_millis(100);

/// A marker; without an id nobody asks for its snapshot any more.
#[derive(Clone, Copy, Debug)]
struct Marker {
    seq: Seq,
    id: Option<u64>,
}

/// Passes the markers of one life of PostgreSQL, one after the other. Ends when it is dropped.
pub(crate) struct Markers {
    queue: mpsc::UnboundedSender<Marker>,
    task: tokio::task::JoinHandle<()>,
}

impl Markers {
    pub(crate) fn start(options: &Arc<Options>, shared: &Arc<Shared>) -> Self {
        // As many as the ledger holds.
        let (queue, markers) = mpsc::unbounded_channel();
        let gate =
            Gate { options: options.clone(), shared: shared.clone(), keepers: Arc::new(Semaphore::new(KEEPERS)) };
        Self { queue, task: tokio::spawn(gate.run(markers)) }
    }

    /// A marker stands at `seq`. In ascending order; one that was passed already does no harm.
    pub(crate) fn pass(&self, seq: Seq, id: Option<u64>) {
        // The task ends only with this.
        let _ = self.queue.send(Marker { seq, id });
    }
}

impl Drop for Markers {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whoever has not come yet for the snapshot of a marker with so many others behind it will find that the
/// last of these have taken its place. An idle cluster leaves thousands, which are all passed again after a restart.
fn wanted(marker: Marker, behind: usize) -> Marker {
    Marker { id: marker.id.filter(|_| behind < OPEN_MAX), ..marker }
}

struct Gate {
    options: Arc<Options>,
    shared: Arc<Shared>,
    keepers: Arc<Semaphore>,
}

impl Gate {
    async fn run(self, mut markers: mpsc::UnboundedReceiver<Marker>) {
        let Some(postgres) = &self.options.postgres else { return };
        let mut unpassed = None;
        loop {
            let gate = connect(&self.options).await;
            while !gate.is_closed() {
                let next = match unpassed.take() {
                    Some(marker) => Some(marker),
                    None => markers.recv().await,
                };
                let Some(marker) = next.map(|marker| wanted(marker, markers.len())) else { return };
                if let Err(error) = self.pass(&gate, postgres, marker).await {
                    tracing::debug!(seq = %marker.seq, error = %describe(&error), "passing the marker again");
                    unpassed = Some(marker);
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Holds commits at the marker just long enough to take a snapshot.
    async fn pass(&self, gate: &Client, postgres: &Postgres, marker: Marker) -> Result<(), tokio_postgres::Error> {
        let seq = marker.seq.0 as i64;
        if !gate.query_one("SELECT pgrenga.hold($1)", &[&seq]).await?.get::<_, bool>(0) {
            return Ok(());
        }
        let kept = match marker.id {
            Some(id) => self.snapshot(postgres, marker.seq).await.map(|kept| (id, kept)),
            None => None,
        };
        gate.execute("SELECT pgrenga.release($1)", &[&seq]).await?;
        if let Some((id, Kept { snapshot, keeper, place })) = kept
            && self.shared.remember_marker(id, MarkerSnapshot { seq: marker.seq, snapshot })
        {
            tokio::spawn(keep(self.shared.clone(), id, keeper, place));
        }
        Ok(())
    }

    async fn snapshot(&self, postgres: &Postgres, seq: Seq) -> Option<Kept> {
        let taken = async {
            // Many markers may come at once, where a node catches up; only the last of them are asked for.
            let Ok(place) = self.keepers.clone().acquire_owned().await else { return Ok(None) };
            let keeper = postgres.server.connect(&postgres.database).await?;
            keeper.batch_execute("SET idle_in_transaction_session_timeout = 0").await?;
            keeper.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
            let snapshot = keeper.query_one("SELECT pg_export_snapshot()", &[]).await?.get(0);
            Ok::<_, pgrenga_postgres::Error>(Some(Kept { snapshot, keeper, place }))
        };
        match tokio::time::timeout(PATIENCE, taken).await {
            Ok(Ok(kept)) => return kept,
            Ok(Err(error)) => tracing::warn!(%seq, %error, "no snapshot for the marker"),
            Err(_) => tracing::warn!(%seq, "no snapshot for the marker within {PATIENCE:?}"),
        }
        None
    }
}

/// A snapshot, and the session that keeps it open.
struct Kept {
    snapshot: String,
    keeper: Client,
    place: OwnedSemaphorePermit,
}

async fn keep(shared: Arc<Shared>, id: u64, keeper: Client, place: OwnedSemaphorePermit) {
    let until = Instant::now() + KEEP;
    while shared.marker(id).is_some() && Instant::now() < until && !keeper.is_closed() {
        tokio::time::sleep(POLL).await;
    }
    shared.forget_marker(id);
    drop((keeper, place));
}
