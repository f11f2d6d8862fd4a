//! Fences that nobody may wait for any longer.

use std::time::{Duration, Instant};

use pgrenga_writeset::entry::Item;
use pgrenga_writeset::{NodeId, TransactionId};

use super::Engine;

/// The others wait for a fence whose node is silent for so long.
const SILENCE: Duration = Duration::from_secs(1);
/// A new leader has heard nothing yet of a node that was silent before; of every other within this.
pub(super) const FIRST_WORD: Duration = Duration::from_millis(300);

/// When the leader looked, and at what.
#[derive(Debug, Default)]
pub(super) struct FenceWatch {
    held: Option<(TransactionId, Instant)>,
    leads_since: Option<Instant>,
}

impl FenceWatch {
    /// A transaction was granted the fence.
    pub(super) fn granted(&mut self, txid: TransactionId) {
        self.held = Some((txid, Instant::now()));
    }
}

impl Engine {
    /// The leader lifts a fence that is held for too long, or whose node is gone.
    pub(super) async fn lift_fence(&mut self) {
        let leads = self.leads();
        self.fences.leads_since = leads.then(|| self.fences.leads_since.unwrap_or_else(Instant::now));
        let Some((txid, _)) = self.core.fence() else { return self.fences.held = None };
        let since = match self.fences.held {
            Some((known, since)) if known == txid => since,
            _ => return self.fences.granted(txid),
        };
        if !leads {
            return;
        }
        let too_long = since.elapsed() >= self.options.fence_timeout;
        if too_long || self.is_silent(txid.node) {
            tracing::warn!(%txid, too_long, "lifting a DDL fence: it is held too long, or its node is gone");
            self.fences.granted(txid);
            self.proposer.propose(&Item::FenceLift(txid)).await;
        }
    }

    /// Whether this node leads the log, as far as it knows.
    pub(super) fn leads(&self) -> bool {
        *self.log.leader().borrow() == Some(self.options.node)
    }

    fn is_silent(&self, node: NodeId) -> bool {
        self.is_silent_for(node, SILENCE, FIRST_WORD)
    }

    /// Whether the leader has not heard of a node for so long, or, if it was silent before, since it leads.
    pub(super) fn is_silent_for(&self, node: NodeId, silence: Duration, first_word: Duration) -> bool {
        let members = self.log.status().members;
        let contact = members.iter().find(|member| member.node_id == node).and_then(|member| member.last_contact);
        match (contact, self.fences.leads_since) {
            _ if node == self.options.node => false,
            (Some(contact), _) => contact >= silence,
            (None, since) => since.is_some_and(|since| since.elapsed() >= first_word),
        }
    }
}
