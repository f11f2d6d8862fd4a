//! What the balancer counts, as Prometheus' text.

use std::fmt::Write as _;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::http::header;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::places::Load;
use crate::session::Shared;

/// Counted since the start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Connections taken.
    pub(crate) connections: Counter,
    /// Of these, turned away for a limit, or because no node took them.
    pub(crate) refused: Counter,
    /// Sessions that ended because their server's connection did.
    pub(crate) lost: Counter,
    /// Sessions that went on at another node.
    pub(crate) moved: Counter,
    /// Transactions that lost a conflict and were run again, each time.
    pub(crate) repeated: Counter,
    /// Cancel requests passed on.
    pub(crate) cancelled: Counter,
}

/// Only ever grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Serves `GET /metrics` for ever.
pub(crate) fn serve(listener: TcpListener, shared: Arc<Shared>) -> impl Future<Output = std::io::Result<()>> {
    let metrics = move || {
        let text = render(&shared);
        async { ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text) }
    };
    axum::serve(listener, Router::new().route("/metrics", get(metrics))).into_future()
}

fn render(shared: &Shared) -> String {
    let mut text = String::new();
    let Counters { connections, refused, lost, moved, repeated, cancelled } = &shared.counters;
    for (name, Counter(value)) in [
        ("connections_total", connections),
        ("refused_total", refused),
        ("lost_sessions_total", lost),
        ("moved_sessions_total", moved),
        ("repeated_transactions_total", repeated),
        ("cancel_requests_total", cancelled),
    ] {
        let value = value.load(Ordering::Relaxed);
        let _ = writeln!(text, "# TYPE pgrenga_balancer_{name} counter\npgrenga_balancer_{name} {value}");
    }
    let limits = shared.settings().limits;
    for (name, value) in [
        ("connections", shared.connections.count()),
        ("connections_max", limits.max_connections),
        ("unauthenticated", shared.unauthenticated.count()),
        ("unauthenticated_max", limits.max_unauthenticated),
        ("waiting", shared.places.waiting()),
        ("idle_server_connections", shared.pool.count()),
        ("sessions_per_node_max", limits.max_sessions_per_node),
    ] {
        let _ = writeln!(text, "# TYPE pgrenga_balancer_{name} gauge\npgrenga_balancer_{name} {value}");
    }
    // One moment for all lines.
    let nodes = shared.places.nodes();
    let mut by_node = |name: &str, value: fn(&Load) -> usize| {
        let _ = writeln!(text, "# TYPE pgrenga_balancer_{name} gauge");
        for load in &nodes {
            let _ = writeln!(text, "pgrenga_balancer_{name}{{node=\"{}\"}} {}", load.node, value(load));
        }
    };
    by_node("serving", |load| usize::from(load.is_serving));
    by_node("sessions", |load| load.sessions);
    text
}
