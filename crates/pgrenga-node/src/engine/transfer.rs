//! When this node's data is of no use, it is replaced: by the node itself, with another one's.
//!
//! That is so when the log does not reach back to it, or when it is not what the log says. The
//! mark that says so lies in the data directory and goes with it: whatever dies meanwhile, what is
//! marked is not served any more.

use pgrenga_admin::State;
use pgrenga_writeset::Seq;

use super::Engine;
use crate::transfer::{self, Transfer};

impl Engine {
    /// The data does not fit the log from `seq` on.
    pub(super) async fn replace_data(&mut self, seq: Seq, reason: &str) {
        self.stop_serving(seq, reason).await;
        let Some(postgres) = &self.options.postgres else { return };
        if self.core.is_removed(self.options.node) || self.transfers.is_under_way() {
            return;
        }
        if let Err(error) = transfer::mark(&postgres.server, reason) {
            tracing::error!(%error, "could not mark the data as of no use");
        }
        let transfer = Transfer {
            options: self.options.clone(),
            shared: self.shared.clone(),
            leader: self.log.leader(),
            needs: self.core.seq(),
            events: self.events.clone(),
        };
        self.transfers.begin(transfer);
        self.publish();
    }

    /// Whether PostgreSQL runs on data that was found to be of no use, perhaps by a daemon before
    /// this one.
    pub(super) async fn is_to_be_replaced(&mut self) -> bool {
        let Some(postgres) = &self.options.postgres else { return false };
        let Some(reason) = transfer::marked(&postgres.server) else { return false };
        self.replace_data(self.visible.next(), &reason).await;
        true
    }

    /// Another node's data is there. PostgreSQL begins a life on it as on any other.
    pub(super) fn on_transferred(&mut self) {
        self.transfers.end();
        self.shared.clear_problem();
        self.set_state(State::Detached);
        self.publish();
    }
}
