//! Lives of nodes that are gone, see [`pgrenga_core::silent`].

use std::time::Duration;

use pgrenga_core::silent::Ended;
use pgrenga_writeset::entry::Item;

use super::Engine;

/// Beyond the lease.
const GRACE: Duration = Duration::from_secs(1);

impl Engine {
    /// The leader ends the lives of nodes that are gone.
    pub(super) async fn end_silent_lives(&mut self) {
        if *self.log.leader().borrow() != Some(self.options.node) {
            self.ended = Ended::default();
            return;
        }
        let silence = self.options.lease + GRACE;
        for member in self.members() {
            let (node, present) = (member.id, self.core.incarnation(member.id));
            let is_silent = self.is_silent_for(node, silence, silence);
            if let Some(incarnation) = self.ended.next(node, present, is_silent) {
                tracing::info!(%node, %incarnation, "a node is gone; what it had in flight is void");
                self.proposer.propose(&Item::Incarnation { node, incarnation }).await;
            }
        }
    }
}
