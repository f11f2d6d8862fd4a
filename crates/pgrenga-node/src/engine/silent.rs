//! Nodes of which the leader hears nothing: they are shown as such, and after a while their lives are ended, see
//! [`pgrenga_core::silent`].

use std::time::Duration;

use pgrenga_core::silent::Ended;
use pgrenga_writeset::NodeId;
use pgrenga_writeset::entry::Item;

use super::Engine;
use super::fence::FIRST_WORD;

/// Beyond the lease.
const GRACE: Duration = Duration::from_secs(1);
/// Whoever cannot reach a node either need not wait for it any more.
const SILENCE: Duration = Duration::from_secs(2);

impl Engine {
    /// Shows whom the leader does not hear.
    pub(super) fn show_silent(&self) {
        let is_silent = |node: &NodeId| self.is_silent_for(*node, SILENCE, FIRST_WORD);
        let silent = if self.leads() {
            self.members().into_iter().map(|member| member.id).filter(is_silent).collect()
        } else {
            Vec::new()
        };
        self.shared.set_silent(silent);
    }

    /// The leader ends the lives of nodes that are gone.
    pub(super) async fn end_silent_lives(&mut self) {
        if !self.leads() {
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
