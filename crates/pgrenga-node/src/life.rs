//! Starting and stopping a node.

use std::sync::Arc;

use pgrenga_log::Handle;
use pgrenga_postgres::server::StopMode;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};

use crate::engine::{Engine, Event};
use crate::shared::Shared;
use crate::{Error, Options, port, server};

/// Events that wait for the engine; beyond them the senders wait.
const EVENTS: usize = 4096;

/// A running node. Cheap to clone.
#[derive(Clone)]
pub struct Node {
    pub(crate) options: Arc<Options>,
    pub(crate) log: Handle,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) shared: Arc<Shared>,
    supervisor: AbortHandle,
}

/// Starts the log, the engine, and PostgreSQL. The handle's task ends when the
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
    let (events, queue) = mpsc::channel(EVENTS);
    let shared = Arc::new(Shared::new());
    port::listen(&options.socket, events.clone())?;
    let engine = Engine::new(Arc::clone(&options), log.clone(), events.clone(), Arc::clone(&shared));
    let running = tokio::spawn(engine.run(committed, queue));
    let supervisor = tokio::spawn(server::supervise(options.server.clone())).abort_handle();
    Ok((Node { options, log, events, shared, supervisor }, running))
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
        self.supervisor.abort();
        self.options.server.stop(StopMode::Fast).await?;
        self.log.shutdown().await;
        Ok(())
    }
}
