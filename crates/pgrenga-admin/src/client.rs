use std::time::{Duration, Instant};

use axum::body::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use pgrenga_writeset::{LogIndex, NodeId, Seq, TransactionId};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::status::Status;
use crate::view::{Fate, Marker, MarkerSnapshot, Member, NewMember, NodeView, Problem, Registered, Shown};

/// How often it is asked whether a node has reached a marker.
const MARKER_POLL: Duration = Duration::from_millis(20);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Orders through the log wait for a majority; everything else is immediate.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Why a node's admin API gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answers at that address.
    #[error("no answer from {url}")]
    Unreachable {
        /// The address asked.
        url: String,
        /// What the network said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The node refused.
    #[error("{url} refused: {}", problem.message)]
    Refused {
        /// The address asked.
        url: String,
        /// HTTP status.
        status: u16,
        /// What it said.
        problem: Problem,
    },
    /// Something answers there that does not speak this API.
    #[error("{url} gave an answer that is not the admin API's")]
    Unintelligible {
        /// The address asked.
        url: String,
        /// What was wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// Whether the node did answer, and said that there is no such thing.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Refused { status: 503, .. })
    }
}

/// Asks nodes through their admin APIs. `base` is always such an API's address, as a URL or as `HOST:PORT`.
#[derive(Clone, Debug)]
pub struct Client {
    http: HttpClient<HttpConnector, Full<Bytes>>,
    timeout: Duration,
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

impl Client {
    /// A client with no connection yet.
    #[must_use]
    pub fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        Self { http: HttpClient::builder(TokioExecutor::new()).build(connector), timeout: REQUEST_TIMEOUT }
    }

    /// Gives up on an answer after this long.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// A node about itself.
    ///
    /// # Errors
    ///
    /// See [`Error`]; the same holds for all methods here.
    pub async fn node(&self, base: &str) -> Result<NodeView, Error> {
        self.get(base, "/node").await
    }

    /// What a node shows, as soon as that is `seq` or more; a little later in any case.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn shown(&self, base: &str, seq: Seq) -> Result<Shown, Error> {
        self.get(base, &format!("/shown/{seq}")).await
    }

    /// What a node knows of a transaction; refused if it has not read the log up to `index`.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn transaction(&self, base: &str, id: TransactionId, index: LogIndex) -> Result<Fate, Error> {
        self.get(base, &format!("/transactions/{id}/{index}")).await
    }

    /// All members, as this node knows them.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn members(&self, base: &str) -> Result<Vec<Member>, Error> {
        self.get(base, "/members").await
    }

    /// The whole cluster, as seen from this node.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn status(&self, base: &str) -> Result<Status, Error> {
        self.get(base, "/status").await
    }

    /// Asks to be made a member.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn register(&self, base: &str, new: &NewMember) -> Result<Registered, Error> {
        self.post(base, "/members", new).await
    }

    /// Asks that `node`, which has caught up, become a voter.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn bring_in(&self, base: &str, node: NodeId) -> Result<(), Error> {
        self.send(base, &format!("/members/{node}/ready"), Method::POST, Bytes::new()).await.map(drop)
    }

    /// Lets `node` take no new sessions until it is attached.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn detach(&self, base: &str, node: NodeId) -> Result<(), Error> {
        self.send(base, &format!("/members/{node}/detach"), Method::POST, Bytes::new()).await.map(drop)
    }

    /// Ends what [`Client::detach`] began.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn attach(&self, base: &str, node: NodeId) -> Result<(), Error> {
        self.send(base, &format!("/members/{node}/attach"), Method::POST, Bytes::new()).await.map(drop)
    }

    /// Takes `node` out for good.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn remove(&self, base: &str, node: NodeId) -> Result<(), Error> {
        self.send(base, &format!("/members/{node}"), Method::DELETE, Bytes::new()).await.map(drop)
    }

    /// Orders a marker.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn begin_marker(&self, base: &str) -> Result<Marker, Error> {
        self.post(base, "/markers", &()).await
    }

    /// The node's snapshot at a marker; nothing if it is not there yet.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn marker(&self, base: &str, id: u64) -> Result<Option<MarkerSnapshot>, Error> {
        match self.get(base, &format!("/markers/{id}")).await {
            Err(error) if error.is_not_found() => Ok(None),
            other => other.map(Some),
        }
    }

    /// Waits until the node has reached a marker, and for as long as `patience` at most; nothing if it has not.
    ///
    /// # Errors
    ///
    /// See [`Error`]. One that may pass is waited for, too.
    pub async fn reached(&self, base: &str, id: u64, patience: Duration) -> Result<Option<MarkerSnapshot>, Error> {
        let begun = Instant::now();
        loop {
            match self.marker(base, id).await {
                Ok(Some(snapshot)) => return Ok(Some(snapshot)),
                Ok(None) if begun.elapsed() > patience => return Ok(None),
                Err(error) if !error.is_transient() || begun.elapsed() > patience => return Err(error),
                _ => tokio::time::sleep(MARKER_POLL).await,
            }
        }
    }

    /// Lets the node close its snapshot at a marker.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn end_marker(&self, base: &str, id: u64) -> Result<(), Error> {
        self.send(base, &format!("/markers/{id}"), Method::DELETE, Bytes::new()).await.map(drop)
    }

    async fn get<T: DeserializeOwned>(&self, base: &str, path: &str) -> Result<T, Error> {
        decode(base, &self.send(base, path, Method::GET, Bytes::new()).await?)
    }

    async fn post<T: DeserializeOwned>(&self, base: &str, path: &str, body: &impl Serialize) -> Result<T, Error> {
        let body = serde_json::to_vec(body).map_err(|source| unintelligible(base, source))?;
        decode(base, &self.send(base, path, Method::POST, body.into()).await?)
    }

    async fn send(&self, base: &str, path: &str, method: Method, body: Bytes) -> Result<Bytes, Error> {
        let url = if base.contains("://") { base.trim_end_matches('/').to_owned() } else { format!("http://{base}") };
        let request = Request::builder()
            .method(method)
            .uri(format!("{url}{path}"))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|source| unreachable(base, source))?;
        let exchange = async {
            let response = self.http.request(request).await.map_err(|source| unreachable(base, source))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            Ok((status, body.map_err(|source| unreachable(base, source))?.to_bytes()))
        };
        let late = |_| unreachable(base, format!("no answer within {} s", self.timeout.as_secs_f32()));
        let (status, body) = tokio::time::timeout(self.timeout, exchange).await.map_err(late)??;
        if status.is_success() {
            return Ok(body);
        }
        Err(refused(base, status, &body))
    }
}

fn decode<T: DeserializeOwned>(base: &str, body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|source| unintelligible(base, source))
}

fn refused(base: &str, status: StatusCode, body: &[u8]) -> Error {
    let problem = serde_json::from_slice(body)
        .unwrap_or_else(|_| Problem { message: format!("HTTP status {status}"), ..Problem::default() });
    Error::Refused { url: base.to_owned(), status: status.as_u16(), problem }
}

fn unreachable(base: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Unreachable { url: base.to_owned(), source: source.into() }
}

fn unintelligible(base: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Unintelligible { url: base.to_owned(), source: source.into() }
}
