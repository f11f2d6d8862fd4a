//! The door: connections are let in as long as there is room.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use crate::gate::Entered;
use crate::metrics;
use crate::session::{self, Shared};
use crate::wire::{Report, sqlstate};
use crate::workers::Workers;
use crate::{Error, Options, Settings, cluster};

/// When there are no file descriptors left, some may be free again after this long.
const BREATH: Duration = Duration::from_millis(50);
/// How long sessions may take to say goodbye when the balancer stops.
const GOODBYE: Duration = Duration::from_secs(3);

/// A balancer that listens.
#[derive(Debug)]
pub struct Balancer {
    shared: Arc<Shared>,
    cluster: String,
    nodes: Vec<String>,
    stopping: watch::Sender<bool>,
    listener: TcpListener,
    metrics: Option<TcpListener>,
    address: SocketAddr,
    workers: Workers,
}

impl Balancer {
    /// Listens, and starts the threads. Nobody is let in before [`Balancer::run`].
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn bind(options: Options) -> Result<Self, Error> {
        let (listener, address) = listen(options.listen).await?;
        let metrics = match options.metrics {
            Some(address) => Some(listen(address).await?.0),
            None => None,
        };
        let workers = Workers::start(options.threads)?;
        let (stopping, stop) = watch::channel(false);
        let Options { cluster, nodes, settings, .. } = options;
        let shared = Arc::new(Shared::new(settings, stop));
        Ok(Self { shared, cluster, nodes, stopping, listener, metrics, address, workers })
    }

    /// Something to change it by while it runs.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.shared))
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes connections until `stop` resolves; then ends all sessions.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let Self { shared, cluster, nodes, stopping, listener, metrics, workers, .. } = self;
        let kept = Arc::clone(&shared);
        let (alive, mut all_ended) = mpsc::channel::<()>(1);
        let places = Arc::clone(&shared.places);
        let mut door = Door { shared: Arc::clone(&shared), workers, alive };
        let measured = async {
            if let Some(listener) = metrics
                && let Err(error) = metrics::serve(listener, shared).await
            {
                tracing::warn!(%error, "could not serve metrics");
            }
            std::future::pending().await
        };
        tokio::select! {
            () = stop => {}
            () = measured => {}
            () = cluster::follow(cluster, nodes, places) => {}
            () = door.keep(&listener) => {}
        }
        drop(listener);
        let _ = stopping.send(true);
        let Door { workers, alive, .. } = door;
        drop(alive);
        let _ = tokio::time::timeout(GOODBYE, all_ended.recv()).await;
        kept.pool.clear();
        drop(workers);
    }
}

/// Changes a balancer that runs.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Shared>);

impl Handle {
    /// From now on this counts. Sessions stay as they are, and who is in stays in.
    pub fn change(&self, settings: Settings) {
        self.0.change(settings);
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let failed = |source| Error::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

struct Door {
    shared: Arc<Shared>,
    workers: Workers,
    /// A copy goes with each session; when all are gone, so are the sessions.
    alive: mpsc::Sender<()>,
}

impl Door {
    async fn keep(&mut self, listener: &TcpListener) {
        loop {
            match listener.accept().await {
                Ok((client, _)) => {
                    self.shared.counters.connections.add_one();
                    let max = self.shared.settings().limits.max_unauthenticated;
                    match self.shared.unauthenticated.enter(max) {
                        Some(entered) => self.let_in(client, entered),
                        None => self.turn_away(&client, max),
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "could not take a connection");
                    tokio::time::sleep(BREATH).await;
                }
            }
        }
    }

    fn let_in(&mut self, client: TcpStream, unauthenticated: Entered) {
        session::prepare(&client);
        let (shared, alive) = (Arc::clone(&self.shared), self.alive.clone());
        // A connection belongs to an event loop: it has to leave this one's to enter a worker's.
        let Ok(client) = client.into_std() else { return };
        self.workers.spawn(async move {
            if let Ok(client) = TcpStream::from_std(client) {
                session::run(client, shared, unauthenticated).await;
            }
            drop(alive);
        });
    }

    /// Only what fits into the socket is said: whoever does this on purpose gets no time of ours.
    fn turn_away(&self, client: &TcpStream, max: usize) {
        self.shared.counters.refused.add_one();
        let report = Report::fatal(sqlstate::TOO_MANY_CONNECTIONS, "sorry, too many clients already")
            .detail(format!("{max} connections are not authenticated yet."))
            .hint("Try again, or raise max_unauthenticated in the balancer's configuration.");
        let _ = client.try_write(&report.encode());
    }
}
