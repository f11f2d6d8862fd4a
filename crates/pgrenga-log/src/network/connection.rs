//! The asking side of a connection: many requests under way at once, each
//! paired with its reply by id.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncRead;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::frame::{Frame, FrameReader, Kind, write_frame, write_frames};
use super::message::{self, Hello, PROTOCOL};
use super::outages::{Outages, Reach};
use super::transport::Transport;
use crate::runtime;

/// Frames waiting to be written before a sender waits.
const QUEUE: usize = 1024;
/// A reply's largest body, in bytes.
const MAX_REPLY: usize = 64 << 10;
/// How long to wait before the first new attempt to connect, and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// Why there was no reply.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// Surely not received.
    #[error("could not reach {address}: {source}")]
    Unreachable { address: String, source: io::Error },
    /// It may have been received, and acted upon.
    #[error("the connection to {0} broke")]
    Broken(String),
    #[error("{0} did not reply in time")]
    TimedOut(String),
    /// Received, and not acted upon.
    #[error("the disk of {0} is full")]
    Full(String),
}

/// Who connects to whom.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) cluster: String,
    pub(crate) from: u32,
    pub(crate) to: u32,
    pub(crate) address: String,
}

/// A connection that is made when first needed, and again when it broke.
pub(crate) struct Lane {
    transport: Arc<dyn Transport>,
    route: Route,
    outages: Arc<Outages>,
    timeout: Duration,
    state: tokio::sync::Mutex<LaneState>,
}

struct LaneState {
    connection: Option<Arc<Connection>>,
    failures: u32,
    retry_at: Instant,
}

impl Lane {
    pub(crate) fn new(transport: Arc<dyn Transport>, route: Route, outages: Arc<Outages>, timeout: Duration) -> Self {
        let state = LaneState { connection: None, failures: 0, retry_at: Instant::now() };
        Self { transport, route, outages, timeout, state: tokio::sync::Mutex::new(state) }
    }

    /// The connection. Fails at once between attempts to reach a member that cannot be reached.
    pub(crate) async fn connection(&self) -> Result<Arc<Connection>, CallError> {
        let unreachable = |source| CallError::Unreachable { address: self.route.address.clone(), source };
        let mut state = self.state.lock().await;
        if let Some(connection) = state.connection.as_ref().filter(|connection| !connection.outgoing.is_closed()) {
            return Ok(connection.clone());
        }
        state.connection = None;
        if Instant::now() < state.retry_at {
            return Err(unreachable(io::ErrorKind::NotConnected.into()));
        }
        let attempt = tokio::time::timeout(
            self.timeout,
            Connection::open(self.transport.as_ref(), &self.route, self.outages.clone()),
        );
        match attempt.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(connection) => {
                state.failures = 0;
                self.outages.reached(&self.route.address);
                Ok(state.connection.insert(Arc::new(connection)).clone())
            }
            Err(source) => {
                let wait = BACKOFF.0 * 2u32.saturating_pow(state.failures);
                state.failures = state.failures.saturating_add(1).min(8);
                state.retry_at = Instant::now() + wait.min(BACKOFF.1);
                self.outages.failed(&self.route.address, &source);
                Err(unreachable(source))
            }
        }
    }

    /// One request and its reply.
    pub(crate) async fn call(&self, kind: Kind, body: Bytes, timeout: Duration) -> Result<Frame, CallError> {
        self.connection().await?.call(kind, body, timeout).await
    }
}

enum Waiting {
    One(oneshot::Sender<Frame>),
    Many(mpsc::UnboundedSender<Frame>),
}

type Requests = Arc<Mutex<BTreeMap<u64, Waiting>>>;

fn lock(requests: &Mutex<BTreeMap<u64, Waiting>>) -> MutexGuard<'_, BTreeMap<u64, Waiting>> {
    requests.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) struct Connection {
    pub(crate) reach: Arc<Reach>,
    outgoing: mpsc::Sender<Frame>,
    requests: Requests,
    next_id: AtomicU64,
    /// Ends both tasks with the connection.
    _tasks: JoinSet<()>,
}

/// Forgets a request when nobody waits for it any more.
pub(crate) struct Registered {
    requests: Requests,
    pub(crate) id: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        lock(&self.requests).remove(&self.id);
    }
}

impl Connection {
    async fn open(transport: &dyn Transport, route: &Route, outages: Arc<Outages>) -> io::Result<Self> {
        let stream = transport.connect(&route.address).await?;
        let (read, mut write) = tokio::io::split(stream);
        let hello = Hello { protocol: PROTOCOL, cluster: route.cluster.clone(), from: route.from, to: route.to };
        write_frame(&mut write, &Frame::new(Kind::Hello, 0, message::to_bytes(&hello))).await?;
        let mut reader = FrameReader::new(read, MAX_REPLY);
        match reader.next().await? {
            Some(frame) if frame.kind == Kind::Welcome => {}
            Some(frame) if frame.kind == Kind::Refused => {
                let reason = String::from_utf8_lossy(&frame.body).into_owned();
                tracing::error!(address = route.address, reason, "a member of the log refused the connection");
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
            }
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "not a member of the log")),
        }
        let (outgoing, frames) = mpsc::channel(QUEUE);
        let requests = Requests::default();
        let mut tasks = JoinSet::new();
        let reach = Arc::new(Reach::new(route.address.clone(), outages));
        let reached = reach.clone();
        let receiving = requests.clone();
        runtime::spawn_into(&mut tasks, async move {
            // Either half's end is the connection's.
            let ended = tokio::select! {
                biased;
                ended = receive(reader, &receiving, &reached) => ended,
                ended = write_frames(write, frames) => ended,
            };
            if let Err(error) = ended {
                tracing::debug!(address = reached.address, %error, "connection to a member of the log ended");
            }
            // Whoever waits learns that no reply will come.
            lock(&receiving).clear();
        });
        Ok(Self { reach, outgoing, requests, next_id: AtomicU64::new(1), _tasks: tasks })
    }

    fn register(&self, waiting: Waiting) -> Registered {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        lock(&self.requests).insert(id, waiting);
        Registered { requests: self.requests.clone(), id }
    }

    /// Sends a frame; it may still be lost.
    pub(crate) async fn send(&self, frame: Frame) -> Result<(), CallError> {
        self.outgoing.send(frame).await.map_err(|_| self.broken())
    }

    pub(crate) fn broken(&self) -> CallError {
        CallError::Broken(self.reach.address.clone())
    }

    pub(crate) fn timed_out(&self) -> CallError {
        CallError::TimedOut(self.reach.address.clone())
    }

    pub(crate) async fn call(&self, kind: Kind, body: Bytes, timeout: Duration) -> Result<Frame, CallError> {
        let (sender, reply) = oneshot::channel();
        let request = self.register(Waiting::One(sender));
        let exchange = async {
            self.send(Frame::new(kind, request.id, body)).await?;
            reply.await.map_err(|_| self.broken())
        };
        tokio::time::timeout(timeout, exchange).await.unwrap_or_else(|_| Err(self.timed_out()))
    }

    /// Registers for many replies with one id.
    pub(crate) fn open_stream(&self) -> (Registered, mpsc::UnboundedReceiver<Frame>) {
        let (sender, replies) = mpsc::unbounded_channel();
        (self.register(Waiting::Many(sender)), replies)
    }

    /// Registers for one reply to a request sent in pieces.
    pub(crate) fn open_request(&self) -> (Registered, oneshot::Receiver<Frame>) {
        let (sender, reply) = oneshot::channel();
        (self.register(Waiting::One(sender)), reply)
    }
}

async fn receive(
    mut reader: FrameReader<impl AsyncRead + Unpin>,
    requests: &Mutex<BTreeMap<u64, Waiting>>,
    reach: &Reach,
) -> io::Result<()> {
    while let Some(frame) = reader.next().await? {
        reach.heard();
        let mut requests = lock(requests);
        match requests.get(&frame.id) {
            Some(Waiting::Many(sender)) => {
                // The stream may have been dropped in between.
                let _ = sender.send(frame);
            }
            Some(Waiting::One(_)) => {
                if let Some(Waiting::One(sender)) = requests.remove(&frame.id) {
                    let _ = sender.send(frame);
                }
            }
            None => {}
        }
    }
    Ok(())
}
