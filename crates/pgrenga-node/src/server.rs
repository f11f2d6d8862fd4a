//! Keeps PostgreSQL running: starts it, or adopts the one that runs, and
//! starts it again whenever it ends.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use pgrenga_postgres::Error;
use pgrenga_postgres::server::Server;

use crate::shared::Shared;

const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(10);

/// Held by who starts PostgreSQL, and by who needs it not to be started.
pub(crate) type Turn = Arc<Mutex<()>>;

/// Runs until the task is aborted.
pub(crate) async fn supervise(server: Server, turn: Turn, shared: Arc<Shared>) {
    let mut delay = FIRST_DELAY;
    // Recovery after a crash may take long.
    shared.set_down(Some("its PostgreSQL is starting".to_owned()));
    loop {
        let started = tokio::time::Instant::now();
        let held = turn.lock().await;
        let began = server.start().await;
        drop(held);
        match began {
            Ok(()) => {
                shared.set_down(None);
                server.exited().await;
                shared.set_down(Some("its PostgreSQL ended, and is started again".to_owned()));
            }
            Err(error) => {
                let why = reason(&error);
                tracing::error!(error = why, "could not start PostgreSQL");
                shared.set_down(Some(why));
            }
        }
        if started.elapsed() > LONGEST_DELAY {
            delay = FIRST_DELAY;
        }
        tracing::warn!(?delay, "PostgreSQL is not running; starting it again");
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(LONGEST_DELAY);
    }
}

/// With the last that the server said.
fn reason(error: &Error) -> String {
    match error {
        Error::NotStarted { last_lines, .. } => {
            format!("{error}: {}", last_lines.lines().last().unwrap_or("it says nothing there"))
        }
        _ => format!("PostgreSQL did not start: {error}"),
    }
}
