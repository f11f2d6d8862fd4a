//! Whether the log has been read up to the present. A daemon that begins reads
//! it again from its last snapshot: what it takes for the state of the cluster
//! meanwhile, above all which life of this node is the last one, is the past.

use std::time::Duration;

use pgrenga_log::Handle;
use pgrenga_writeset::LogIndex;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::engine::Event;

/// How long the log is asked at a time.
const DEADLINE: Duration = Duration::from_secs(5);
/// Between attempts, while there is no majority.
const RETRY: Duration = Duration::from_millis(50);

/// How far the log was read, and how far it reached when the daemon began.
#[derive(Debug, Default)]
pub(crate) struct Present {
    read: Option<LogIndex>,
    begins: Option<LogIndex>,
}

impl Present {
    /// Everything up to here was read.
    pub(crate) fn read(&mut self, index: LogIndex) {
        self.read = Some(index);
    }

    /// Up to where everything was read.
    pub(crate) fn position(&self) -> Option<LogIndex> {
        self.read
    }

    /// Whether anything was read yet.
    pub(crate) fn has_read(&self) -> bool {
        self.read.is_some()
    }

    /// The log says where the present begins.
    pub(crate) fn begins(&mut self, index: LogIndex) {
        self.begins = Some(index);
    }

    /// Whether everything was read that any daemon of this node did before.
    pub(crate) fn is_reached(&self) -> bool {
        self.begins.is_some_and(|begins| self.read >= Some(begins))
    }
}

/// Asks a majority where the present begins, until it answers.
pub(crate) async fn find(log: Handle, events: mpsc::Sender<Event>) {
    loop {
        match log.linearizable_index(Instant::now() + DEADLINE).await {
            Ok(index) => return drop(events.send(Event::Present(index)).await),
            Err(pgrenga_log::Error::Closed) => return,
            Err(error) => tracing::debug!(%error, "cannot ask the log for its present yet"),
        }
        tokio::time::sleep(RETRY).await;
    }
}
