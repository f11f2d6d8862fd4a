//! A full state transfer: this node's PostgreSQL gets a copy of another one's data.
//!
//! The daemon goes on meanwhile as a member of the log: it votes, and it keeps what is ordered.
//! PostgreSQL keeps running, and answers that it does not serve, until the copy is whole. Then
//!
//! 1. its sessions end, and what its sequences have handed out is noted in the copy: nobody else
//!    knows, and no value may come again ([`Drawn`]);
//! 2. it is stopped, and the copy exchanged with the data directory in one step;
//! 3. it is started, recovers to the copy's end, and replays the log from there, as after any start.
//!
//! The copy must not lack anything that this node's log has let go of. So it is of a node that had
//! applied everything that was ordered when the transfer began.

use std::sync::Arc;
use std::time::Duration;

use pgrenga_admin::{Client, Member, State};
use pgrenga_postgres::backup::{self, Copy, Progress};
use pgrenga_postgres::server::{Server, StopMode};
use pgrenga_writeset::{NodeId, Seq};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::engine::Event;
use crate::server::Turn;
use crate::shared::Shared;
use crate::{Options, Postgres};

/// In the data directory: why it is of no use.
const MARK: &str = "pgrenga.replace";
/// In a copy: what the sequences of the data before it have handed out.
const DRAWN: &str = "pgrenga.drawn";
/// How long a donor may take to say what it is up to.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two attempts, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Data that is found wanting again after it was replaced is not replaced again at once, since that
/// helped so little and costs the donor: the second time, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Marks a server's data as of no use.
pub(crate) fn mark(server: &Server, reason: &str) -> std::io::Result<()> {
    let path = server.options().data_dir.join(MARK);
    let mut file = std::fs::File::create(path)?;
    std::io::Write::write_all(&mut file, reason.as_bytes())?;
    file.sync_all()?;
    std::fs::File::open(&server.options().data_dir)?.sync_all()
}

/// Why a server's data is of no use, if it was marked so.
pub(crate) fn marked(server: &Server) -> Option<String> {
    std::fs::read(server.options().data_dir.join(MARK)).ok().map(|text| String::from_utf8_lossy(&text).into_owned())
}

/// The transfers of one daemon: one at a time.
pub(crate) struct Transfers {
    turn: Turn,
    task: Option<JoinHandle<()>>,
    begun: u32,
}

impl Transfers {
    /// They take PostgreSQL's `turn` while it must not run.
    pub(crate) fn new(turn: Turn) -> Self {
        Self { turn, task: None, begun: 0 }
    }

    pub(crate) fn is_under_way(&self) -> bool {
        self.task.is_some()
    }

    pub(crate) fn begin(&mut self, transfer: Transfer) {
        let pause = match self.begun {
            0 => Duration::ZERO,
            before => (PAUSE.0 * 2u32.saturating_pow(before - 1)).min(PAUSE.1),
        };
        self.begun += 1;
        let turn = self.turn.clone();
        self.task = Some(tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            transfer.run(&turn).await;
        }));
    }

    /// It is done, or of no use any more.
    pub(crate) fn end(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

/// What a transfer needs to know.
pub(crate) struct Transfer {
    pub(crate) options: Arc<Options>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) leader: watch::Receiver<Option<NodeId>>,
    /// What the donor must have applied.
    pub(crate) needs: Seq,
    pub(crate) events: mpsc::Sender<Event>,
}

impl Transfer {
    /// Tries until it is done.
    async fn run(self, turn: &Turn) {
        let Some(postgres) = &self.options.postgres else { return };
        let mut pause = RETRY.0;
        for attempt in 0.. {
            match self.attempt(postgres, attempt, turn).await {
                Ok(()) => break,
                Err(error) => {
                    tracing::warn!(error, retry_in = ?pause, "could not replace the data yet");
                    self.shared.set_remedy(format!("could not copy another node's data yet: {error}"));
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
        let _ = self.events.send(Event::Transferred).await;
    }

    async fn attempt(&self, postgres: &Postgres, attempt: usize, turn: &Turn) -> Result<(), String> {
        let donor = self.find_donor(attempt).await?;
        let copy = self.copy(postgres, &donor).await.map_err(|error| error.to_string())?;
        self.exchange(postgres, copy, turn).await.map_err(|error| error.to_string())?;
        tracing::info!(donor = donor.name, "the data was replaced by another node's");
        Ok(())
    }

    /// A node that serves and has applied enough; with every attempt another one, those that do not lead first.
    async fn find_donor(&self, attempt: usize) -> Result<Member, String> {
        let client = Client::new().with_timeout(PATIENCE);
        let mut donors = Vec::new();
        for member in self.shared.members() {
            if member.id == self.options.node || member.postgres.is_none() {
                continue;
            }
            let Ok(view) = client.node(&member.admin_url).await else { continue };
            if view.id == member.id && view.state == State::Serving && view.applied_seq >= self.needs {
                donors.push(member);
            }
        }
        let leader = *self.leader.borrow();
        donors.sort_by_key(|donor| (Some(donor.id) == leader, donor.id));
        match donors.len() {
            0 => Err(format!("no node serves that has applied everything up to seq {}", self.needs)),
            count => Ok(donors.swap_remove(attempt % count)),
        }
    }

    async fn copy(&self, postgres: &Postgres, donor: &Member) -> Result<Copy, Error> {
        let address = donor.postgres.as_ref().ok_or("the donor has no data")?;
        tracing::info!(donor = donor.name, "copying another node's data");
        let superuser = &postgres.server.options().superuser;
        let from = backup::conninfo(&address.host, address.port, superuser);
        let show = |Progress { done_kb, total_kb }| {
            let percent = done_kb * 100 / total_kb.max(1);
            let (done, total) = (done_kb >> 10, total_kb >> 10);
            self.shared.set_remedy(format!("copying the data of {}: {done} of {total} MB, {percent} %", donor.name));
        };
        Ok(backup::copy(&postgres.server, &from, show).await?)
    }

    async fn exchange(&self, postgres: &Postgres, copy: Copy, turn: &Turn) -> Result<(), Error> {
        self.shared.set_remedy("putting the copy in place".to_owned());
        // Nobody starts PostgreSQL meanwhile.
        let _held = turn.lock().await;
        let server = &postgres.server;
        let drawn = Drawn::note(postgres).await?;
        copy.leave(DRAWN, &serde_json::to_vec(&drawn)?)?;
        server.stop(StopMode::Immediate).await?;
        copy.replace()?;
        let settings: Vec<_> = postgres.settings.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        server.configure(&settings).await?;
        // It may be large.
        let cleared = server.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = backup::clear_attempts(&cleared) {
                tracing::warn!(%error, "could not remove the data that was replaced");
            }
        });
        Ok(())
    }
}

/// The last value that each sequence has handed out.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Drawn {
    pub(crate) schemas: Vec<String>,
    pub(crate) sequences: Vec<String>,
    pub(crate) values: Vec<i64>,
}

impl Drawn {
    /// Of a server that does not serve. Ends its sessions first, so that nothing more is drawn.
    async fn note(postgres: &Postgres) -> Result<Self, Error> {
        let client = postgres.server.connect(&postgres.database).await?;
        let end = "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity \
                   WHERE backend_type = 'client backend' AND application_name <> 'pgrenga'";
        while client.query_one(end, &[]).await?.get::<_, i64>(0) > 0 {}
        let drawn = "SELECT schemaname::text, sequencename::text, last_value FROM pg_sequences \
                     WHERE last_value IS NOT NULL";
        let mut all = Self::default();
        for row in client.query(drawn, &[]).await? {
            all.schemas.push(row.get(0));
            all.sequences.push(row.get(1));
            all.values.push(row.get(2));
        }
        Ok(all)
    }

    /// What was noted in the server's data when it came as a copy.
    pub(crate) fn noted(server: &Server) -> Self {
        let path = server.options().data_dir.join(DRAWN);
        std::fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    /// All sequences are beyond it.
    pub(crate) fn forget(server: &Server) {
        let _ = std::fs::remove_file(server.options().data_dir.join(DRAWN));
    }
}
