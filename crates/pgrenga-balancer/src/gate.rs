//! Counting who is in, where the limit may change while they are.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many are in.
#[derive(Debug, Default)]
pub(crate) struct Gate(Arc<AtomicUsize>);

/// One who is. Its drop lets it out.
#[derive(Debug)]
pub(crate) struct Entered(Arc<AtomicUsize>);

impl Gate {
    /// In, unless `max` are already.
    pub(crate) fn enter(&self, max: usize) -> Option<Entered> {
        let more = |count: usize| (count < max).then_some(count + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Entered(Arc::clone(&self.0)))
    }

    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lower_limit_counts_for_who_comes_not_for_who_is_there() {
        let gate = Gate::default();
        let mut inside: Vec<_> = (0..3).map(|_| gate.enter(3).unwrap()).collect();
        assert!(gate.enter(3).is_none() && gate.enter(1).is_none());
        assert_eq!(gate.count(), 3);
        inside.truncate(1);
        assert!(gate.enter(1).is_none());
        assert!(gate.enter(2).is_some());
        drop(inside);
        assert!(gate.enter(1).is_some());
        assert_eq!(gate.count(), 0);
    }
}
