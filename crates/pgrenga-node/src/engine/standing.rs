//! Whether this node takes sessions: what it shows of itself, and what it tells PostgreSQL.
//!
//! A node in service may still be *detached*, by an operator's order in the log or because its
//! PostgreSQL does not answer; or it lags more than `max_lag`, until it is within `ready_lag` again.
//! Then it takes no new sessions. Those that are there go on: what they do is as right as ever.
//!
//! Before its PostgreSQL reads for the first time, it shows whatever the others went on without it for (`pgrenga.ack = all`).
//!
//! One that no majority answers is shown as detached, too, so that nobody is sent there. But who comes is let in: its statements
//! are told why they are not served, and may be content with old data (`pgrenga.minority_reads`).

use std::time::{Duration, Instant};

use pgrenga_admin::State;
use pgrenga_writeset::port::ToPostgres;

use super::Engine;

/// PostgreSQL says something every half second. After such a silence it counts as hung.
const SILENCE: Duration = Duration::from_secs(3);

/// After this long without it, a log that is too large is no longer kept for PostgreSQL.
const GONE: Duration = Duration::from_secs(15);

const ORDERED: &str = "an operator detached it; 'pgrenga attach' ends that";
const ALONE: &str = "no majority of the nodes answers it";
const SILENT: &str = "its PostgreSQL does not answer";

/// What decides on it beyond the log.
#[derive(Debug)]
pub(super) struct Standing {
    /// When PostgreSQL was heard of last.
    heard: Instant,
    lags: bool,
    /// Whether it shows what the others went on without it for, so that PostgreSQL may read.
    shows_all: bool,
    /// What PostgreSQL was told last; nothing since it connected.
    admitted: Option<bool>,
}

impl Standing {
    pub(super) fn new() -> Self {
        Self { heard: Instant::now(), lags: true, shows_all: false, admitted: None }
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
        self.shows_all = false;
    }

    /// The others may have gone on without this node.
    pub(super) fn was_alone(&mut self) {
        self.shows_all = false;
    }

    pub(super) fn shows_all(&self) -> bool {
        self.shows_all
    }
}

impl Engine {
    /// What others are shown, and why it is detached, as far as that is known here.
    pub(super) fn shown(&self) -> (State, Option<&'static str>) {
        match self.state {
            State::Witness => (State::Witness, self.is_alone().then_some(ALONE)),
            _ if self.transfers.is_under_way() => (State::Joining, None),
            _ if self.is_detached() => (State::Detached, Some(ORDERED)),
            _ if self.is_alone() => (State::Detached, Some(ALONE)),
            State::Serving if self.is_server_silent() => (State::Detached, Some(SILENT)),
            State::Serving if self.standing.lags => (State::CatchingUp, None),
            state => (state, None),
        }
    }

    fn is_detached(&self) -> bool {
        self.core.is_detached(self.options.node)
    }

    /// Whether PostgreSQL has been gone for longer than it takes to start it again, as a rule.
    pub(super) fn is_server_gone(&self) -> bool {
        self.port.is_none() && self.standing.heard.elapsed() >= GONE
    }

    fn is_server_silent(&self) -> bool {
        self.standing.heard.elapsed() >= SILENCE
    }

    fn admits(&self) -> bool {
        let is_in_service = match self.state {
            State::Serving => !self.is_server_silent() && !self.standing.lags,
            // Sessions that come before the node serves for the first time wait for that, a little.
            State::CatchingUp => true,
            _ => false,
        };
        is_in_service && !self.transfers.is_under_way() && !self.is_detached()
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
        if self.state == State::Serving && !self.standing.lags && !self.standing.shows_all {
            // From here on who asks waits for this node; up to what it shows then, nobody did.
            self.publish();
            self.standing.shows_all = self.is_detached() || self.visible >= self.shared.excused();
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
