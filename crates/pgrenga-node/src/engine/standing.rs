//! Whether this node takes sessions: what it shows of itself, and what it tells PostgreSQL.
//!
//! A node in service may still be *detached*, by an operator's order in the log or because its
//! PostgreSQL does not answer; or it lags more than `max_lag`, until it is within `ready_lag` again.
//! Then it takes no new sessions. Those that are there go on: what they do is as right as ever.

use std::time::{Duration, Instant};

use pgrenga_admin::State;
use pgrenga_writeset::port::ToPostgres;

use super::Engine;

/// PostgreSQL says something every half second. After such a silence it counts as hung.
const SILENCE: Duration = Duration::from_secs(3);

/// What decides on it beyond the log.
#[derive(Debug)]
pub(super) struct Standing {
    /// When PostgreSQL was heard of last.
    heard: Instant,
    lags: bool,
    /// What PostgreSQL was told last; nothing since it connected.
    admitted: Option<bool>,
}

impl Standing {
    pub(super) fn new() -> Self {
        Self { heard: Instant::now(), lags: true, admitted: None }
    }

    /// PostgreSQL connected: it knows nothing yet.
    pub(super) fn connected(&mut self) {
        self.heard();
        self.admitted = None;
    }

    /// PostgreSQL said something.
    pub(super) fn heard(&mut self) {
        self.heard = Instant::now();
    }

    /// A new life may begin far behind.
    pub(super) fn begin_life(&mut self) {
        self.lags = true;
    }
}

impl Engine {
    /// What others are shown.
    pub(super) fn shown_state(&self) -> State {
        match self.state {
            _ if self.transfers.is_under_way() => State::Joining,
            State::Serving if self.core.is_detached(self.options.node) => State::Detached,
            State::Serving if self.standing.heard.elapsed() >= SILENCE => State::Detached,
            State::Serving if self.standing.lags => State::CatchingUp,
            state => state,
        }
    }

    /// Sessions that come before the node serves for the first time wait for that, a little.
    fn admits(&self) -> bool {
        match self.shown_state() {
            State::Serving => true,
            State::CatchingUp => self.state != State::Serving && !self.core.is_detached(self.options.node),
            _ => false,
        }
    }

    /// Opens or closes the door as things stand now.
    pub(super) async fn settle_standing(&mut self) {
        let lag = self.core.seq().0.saturating_sub(self.visible.0);
        // In between it stays as it is.
        if lag > self.options.max_lag {
            self.standing.lags = true;
        } else if lag <= self.options.ready_lag {
            self.standing.lags = false;
        }
        let open = self.admits();
        let entered = self.port.as_ref().is_some_and(|port| port.entered);
        if entered && self.standing.admitted.replace(open) != Some(open) {
            tracing::info!(open, lag, "new sessions");
            self.tell(ToPostgres::Admission { open }).await;
            self.publish();
        }
    }
}
