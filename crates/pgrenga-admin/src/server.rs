use std::future::Future;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use pgrenga_writeset::{LogIndex, NodeId, Seq, TransactionId};
use tokio::net::TcpListener;

use crate::cluster::{Cluster, Refusal};
use crate::status::Status;
use crate::view::{Fate, Marker, MarkerSnapshot, Member, NewMember, NodeView, Problem, Registered, Shown};
use crate::{Client, metrics};

/// Answers requests until `shutdown` resolves.
///
/// # Errors
///
/// If the listener fails.
pub async fn serve<C: Cluster>(
    listener: TcpListener,
    cluster: C,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(listener, router(cluster)).with_graceful_shutdown(shutdown).await
}

/// The routes, for whoever serves them.
pub fn router<C: Cluster>(cluster: C) -> Router {
    Router::new()
        .route("/status", get(status::<C>))
        .route("/node", get(node::<C>))
        .route("/shown/{seq}", get(shown::<C>))
        .route("/transactions/{id}/{index}", get(transaction::<C>))
        .route("/metrics", get(prometheus::<C>))
        .route("/members", get(members::<C>).post(register::<C>))
        .route("/members/{id}/ready", post(bring_in::<C>))
        .route("/members/{id}", delete(remove::<C>))
        .route("/members/{id}/detach", post(detach::<C>))
        .route("/members/{id}/attach", post(attach::<C>))
        .route("/markers", post(begin_marker::<C>))
        .route("/markers/{id}", get(marker::<C>).delete(end_marker::<C>))
        .fallback(|| async { Refusal::NotFound("no such path".to_owned()) })
        .with_state(cluster)
}

async fn status<C: Cluster>(State(cluster): State<C>) -> Json<Status> {
    Json(Status::gather(&Client::new(), Some(cluster.node()), &cluster.members()).await)
}

async fn node<C: Cluster>(State(cluster): State<C>) -> Json<NodeView> {
    Json(cluster.node())
}

async fn shown<C: Cluster>(State(cluster): State<C>, Path(seq): Path<u64>) -> Json<Shown> {
    Json(cluster.shown(Seq(seq)).await)
}

async fn transaction<C: Cluster>(
    State(cluster): State<C>,
    Path((id, index)): Path<(String, u64)>,
) -> Result<Json<Fate>, Refusal> {
    let id: TransactionId = id.parse().map_err(|_| Refusal::NotFound(format!("\"{id}\" is no transaction's id")))?;
    cluster.transaction(id, LogIndex(index)).await.map(Json)
}

async fn prometheus<C: Cluster>(State(cluster): State<C>) -> impl IntoResponse {
    let node = cluster.node();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics::render(&node))
}

async fn members<C: Cluster>(State(cluster): State<C>) -> Json<Vec<Member>> {
    Json(cluster.members())
}

async fn register<C: Cluster>(
    State(cluster): State<C>,
    body: Result<Json<NewMember>, JsonRejection>,
) -> Result<Json<Registered>, Response> {
    let Json(new) = body.map_err(|rejection| bad_request(&rejection))?;
    let NodeView { cluster: name, cluster_id, former_cluster_ids, .. } = cluster.node();
    if new.cluster != name {
        let message = format!("this is cluster \"{name}\", not \"{}\"", new.cluster);
        return Err(Refusal::Conflict(message).into_response());
    }
    let node_id = cluster.register(new).await.map_err(IntoResponse::into_response)?;
    Ok(Json(Registered { cluster_id, former_cluster_ids, node_id, members: cluster.members() }))
}

async fn bring_in<C: Cluster>(State(cluster): State<C>, Path(id): Path<u32>) -> Result<StatusCode, Refusal> {
    cluster.bring_in(NodeId(id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn detach<C: Cluster>(State(cluster): State<C>, Path(id): Path<u32>) -> Result<StatusCode, Refusal> {
    cluster.set_detached(NodeId(id), true).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn attach<C: Cluster>(State(cluster): State<C>, Path(id): Path<u32>) -> Result<StatusCode, Refusal> {
    cluster.set_detached(NodeId(id), false).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn remove<C: Cluster>(State(cluster): State<C>, Path(id): Path<u32>) -> Result<StatusCode, Refusal> {
    cluster.remove(NodeId(id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn begin_marker<C: Cluster>(State(cluster): State<C>) -> Result<Json<Marker>, Refusal> {
    cluster.begin_marker().await.map(Json)
}

async fn end_marker<C: Cluster>(State(cluster): State<C>, Path(id): Path<u64>) -> Json<()> {
    cluster.end_marker(id);
    Json(())
}

async fn marker<C: Cluster>(State(cluster): State<C>, Path(id): Path<u64>) -> Result<Json<MarkerSnapshot>, Refusal> {
    cluster.marker(id).map(Json).ok_or_else(|| Refusal::NotFound(format!("marker {id} is not reached, or gone")))
}

fn bad_request(rejection: &JsonRejection) -> Response {
    let problem = Problem {
        message: "request not understood".to_owned(),
        detail: Some(rejection.body_text()),
        ..Problem::default()
    };
    (rejection.status(), Json(problem)).into_response()
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(Problem { message: self.to_string(), ..Problem::default() })).into_response()
    }
}
