//! Keeps PostgreSQL running: starts it, or adopts the one that runs, and
//! starts it again whenever it ends.

use std::time::Duration;

use pgrenga_postgres::server::Server;

const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(10);

/// Runs until the task is aborted.
pub(crate) async fn supervise(server: Server) {
    let mut delay = FIRST_DELAY;
    loop {
        let started = tokio::time::Instant::now();
        match server.start().await {
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
