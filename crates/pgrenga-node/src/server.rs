//! Keeps PostgreSQL running: starts it, or adopts the one that runs, and
//! starts it again whenever it ends.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use pgrenga_postgres::server::Server;

const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(10);

/// Held by who starts PostgreSQL, and by who needs it not to be started.
pub(crate) type Turn = Arc<Mutex<()>>;

/// Runs until the task is aborted.
pub(crate) async fn supervise(server: Server, turn: Turn) {
    let mut delay = FIRST_DELAY;
    loop {
        let started = tokio::time::Instant::now();
        let held = turn.lock().await;
        let began = server.start().await;
        drop(held);
        match began {
            Ok(()) => server.exited().await,
            Err(error) => tracing::error!(%error, "could not start PostgreSQL"),
        }
        if started.elapsed() > LONGEST_DELAY {
            delay = FIRST_DELAY;
        }
        tracing::warn!(?delay, "PostgreSQL is not running; starting it again");
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(LONGEST_DELAY);
    }
}
