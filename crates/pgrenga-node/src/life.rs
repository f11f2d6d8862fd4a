//! Starting and stopping a node.

use std::sync::Arc;

use pgrenga_log::Handle;
use pgrenga_postgres::server::StopMode;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};

use crate::engine::{Engine, Event};
use crate::past::Past;
use crate::server::Turn;
use crate::shared::Shared;
use crate::transfer::Transfers;
use crate::{Error, Options, Postgres, check, port, server};

/// Events that wait for the engine; beyond them the senders wait.
const EVENTS: usize = 4096;

/// A running node. Cheap to clone.
#[derive(Clone)]
pub struct Node {
    pub(crate) options: Arc<Options>,
    pub(crate) log: Handle,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) shared: Arc<Shared>,
    /// Keeps PostgreSQL running; a witness has nothing to keep.
    supervisor: Option<AbortHandle>,
}

/// Starts the log, the engine, and PostgreSQL if there is to be one. The handle's task ends when the
/// node cannot go on, or after [`Node::stop`].
///
/// # Errors
/// If the log or the socket cannot be opened.
pub async fn start(options: Options) -> Result<(Node, JoinHandle<Result<(), Error>>), Error> {
    let (log, committed) = pgrenga_log::start(options.log.clone()).await?;
    if options.bootstrap {
        match log.initialize().await {
            Ok(()) | Err(pgrenga_log::Error::AlreadyInitialized) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let options = Arc::new(options);
    let past = Past::open(&options)?;
    let (events, queue) = mpsc::channel(EVENTS);
    let shared = Arc::new(Shared::new());
    if let Some(postgres) = &options.postgres {
        port::listen(&postgres.socket, events.clone())?;
    }
    let turn = Turn::default();
    let transfers = Transfers::new(Arc::clone(&turn));
    let engine = Engine::new(Arc::clone(&options), log.clone(), events.clone(), Arc::clone(&shared), transfers, past);
    let running = tokio::spawn(engine.run(committed, queue));
    let supervise = |postgres: &Postgres| {
        tokio::spawn(server::supervise(postgres.server.clone(), turn, Arc::clone(&shared))).abort_handle()
    };
    let supervisor = options.postgres.as_ref().map(supervise);
    let node = Node { options, log, events, shared, supervisor };
    if let Some(pace) = node.options.check {
        tokio::spawn(check::run(node.clone(), pace));
    }
    Ok((node, running))
}

impl Node {
    /// The log's handle.
    #[must_use]
    pub fn log(&self) -> &Handle {
        &self.log
    }

    /// Stops PostgreSQL and leaves the log.
    ///
    /// # Errors
    /// If PostgreSQL does not stop.
    pub async fn stop(&self) -> Result<(), Error> {
        if let Some(supervisor) = &self.supervisor {
            supervisor.abort();
        }
        if let Some(postgres) = &self.options.postgres {
            postgres.server.stop(StopMode::Fast).await?;
        }
        self.log.shutdown().await;
        Ok(())
    }
}
