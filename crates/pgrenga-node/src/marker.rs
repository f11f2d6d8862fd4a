//! Markers: a seq at which every node exports a snapshot, so that `verify`
//! compares all nodes in the very same state while writes go on.

use std::sync::Arc;
use std::time::Duration;

use pgrenga_admin::MarkerSnapshot;
use pgrenga_postgres::server::Server;
use pgrenga_writeset::Seq;

use crate::shared::Shared;

/// How long a snapshot stays open for whoever compares, unless they are done before.
const KEEP: Duration = Duration::from_secs(600);
/// How often that is looked at.
const POLL: Duration = Duration::from_millis(200);

/// One marker on this node.
pub(crate) struct Stop {
    /// Nothing if nobody asks for its snapshot any more.
    pub(crate) id: Option<u64>,
    pub(crate) seq: Seq,
    pub(crate) server: Server,
}

impl Stop {
    /// Holds commits at the marker's seq just long enough to take a snapshot,
    /// then keeps that snapshot for a while.
    pub(crate) async fn run(self, database: String, shared: Arc<Shared>) {
        if let Err(error) = self.take(&database, &shared).await {
            tracing::warn!(seq = %self.seq, %error, "could not take the marker's snapshot");
        }
        if let Some(id) = self.id {
            shared.forget_marker(id);
        }
    }

    async fn take(&self, database: &str, shared: &Shared) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let gate = self.server.connect(database).await?;
        let keeper = self.server.connect(database).await?;
        let seq = self.seq.0 as i64;
        gate.execute("SELECT pgrenga.hold($1)", &[&seq]).await?;
        keeper.batch_execute("SET idle_in_transaction_session_timeout = 0").await?;
        keeper.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let snapshot: String = keeper.query_one("SELECT pg_export_snapshot()", &[]).await?.get(0);
        gate.execute("SELECT pgrenga.release($1)", &[&seq]).await?;
        let Some(id) = self.id else { return Ok(()) };
        shared.remember_marker(id, MarkerSnapshot { seq: self.seq, snapshot });
        let until = tokio::time::Instant::now() + KEEP;
        while shared.marker(id).is_some() && tokio::time::Instant::now() < until {
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }
}
