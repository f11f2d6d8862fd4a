//! When keys were captured.
//!
//! Appliers do not take the locks that other nodes' transactions only held, so
//! such a lock counts against this transaction unless it was visible before
//! the key was captured here (see docs/internals/certification.md).

use pgrenga_writeset::Seq;
use pgrenga_writeset::writeset::Moment;

/// So many are told apart; keys that come later count from the last one.
const MOMENTS_MAX: usize = 64;

/// From which key on which seq was visible.
pub(super) struct Moments(Vec<Moment>);

impl Moments {
    /// All keys from the transaction's first moment.
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    /// Key number `key` is captured while `seen` is visible. Read `seen` after
    /// the row was locked: what its holders did is visible then.
    pub(super) fn note(&mut self, key: usize, first: Seq, seen: Seq) {
        let last = self.0.last().map_or(first, |moment| moment.seen);
        if seen == last || self.0.len() == MOMENTS_MAX {
            return;
        }
        self.truncate(key.saturating_sub(1));
        self.0.push(Moment { key: key as u32, seen });
    }

    /// Only `keys` keys are left. Never fails.
    pub(super) fn truncate(&mut self, keys: usize) {
        while self.0.last().is_some_and(|moment| moment.key as usize > keys) {
            self.0.pop();
        }
    }

    /// No keys are left. Never fails.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn as_slice(&self) -> &[Moment] {
        &self.0
    }
}
