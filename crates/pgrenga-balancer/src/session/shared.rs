//! What all sessions share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

use super::pool::Pool;
use crate::Settings;
use crate::cancel::Cancels;
use crate::gate::Gate;
use crate::metrics::Counters;
use crate::places::Places;

/// One for the whole balancer.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Each connection goes by those that it found when it came.
    settings: RwLock<Arc<Settings>>,
    pub(crate) places: Arc<Places>,
    /// Connections that no session has, in transaction mode.
    pub(crate) pool: Pool,
    /// How many sessions there were.
    sessions: AtomicU64,
    pub(crate) cancels: Cancels,
    /// Connections that ask for a session or have one.
    pub(crate) connections: Gate,
    /// Connections that are not authenticated.
    pub(crate) unauthenticated: Gate,
    pub(crate) counters: Counters,
    /// True when sessions are to end.
    pub(crate) stop: watch::Receiver<bool>,
}

impl Shared {
    pub(crate) fn new(settings: Settings, stop: watch::Receiver<bool>) -> Self {
        Self {
            places: Arc::new(Places::new(settings.limits, settings.weights.clone())),
            pool: Pool::default(),
            sessions: AtomicU64::new(0),
            settings: RwLock::new(Arc::new(settings)),
            cancels: Cancels::default(),
            connections: Gate::default(),
            unauthenticated: Gate::default(),
            counters: Counters::default(),
            stop,
        }
    }

    /// A number that no other session has.
    pub(super) fn number(&self) -> u64 {
        self.sessions.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn change(&self, settings: Settings) {
        self.places.change(settings.limits, settings.weights.clone());
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }
}
