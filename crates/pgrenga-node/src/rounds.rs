//! Rounds in which a majority is asked how far the log is.
//!
//! One at a time. Who asks while a round is under way gets the next one's answer:
//! that round begins after the question, so its position includes everything that
//! was acknowledged before. So however many ask, they cost no more than one message to
//! the leader and its round trip to a majority at any moment.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use pgrenga_log::Handle;
use pgrenga_writeset::LogIndex;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::engine::Event;

/// How long one round may take. Another one follows if it fails.
const PATIENCE: Duration = Duration::from_secs(1);

/// Numbers a round.
pub(crate) type Round = u64;

/// What a round told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    /// Which round.
    pub(crate) round: Round,
    /// Milliseconds of the monotonic clock when it began.
    pub(crate) begun_ms: u64,
    /// A position that includes everything acknowledged before the round began;
    /// nothing if no majority answered.
    pub(crate) index: Option<LogIndex>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    last: Round,
    under_way: bool,
}

impl Rounds {
    /// The round that answers a question asked now. It is under way, or follows the one that is.
    pub(crate) fn join(&mut self, log: &Handle, events: &mpsc::Sender<Event>) -> Round {
        if self.under_way {
            return self.last + 1;
        }
        self.begin(log, events);
        self.last
    }

    /// A round is over. The next one begins if somebody waits for it.
    pub(crate) fn ended(&mut self, is_awaited: impl Fn(Round) -> bool, log: &Handle, events: &mpsc::Sender<Event>) {
        self.under_way = false;
        if is_awaited(self.last + 1) {
            self.begin(log, events);
        }
    }

    fn begin(&mut self, log: &Handle, events: &mpsc::Sender<Event>) {
        self.last += 1;
        self.under_way = true;
        let (round, log, events) = (self.last, log.clone(), events.clone());
        tokio::spawn(async move {
            let begun_ms = monotonic_ms();
            let index = log.linearizable_index(Instant::now() + PATIENCE).await.ok();
            let _ = events.send(Event::Told(Told { round, begun_ms, index })).await;
        });
    }
}

/// Milliseconds of the clock that all processes of the machine share and nobody sets.
pub(crate) fn monotonic_ms() -> u64 {
    // Its only errors are those of a clock that does not exist.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has this clock");
    now.tv_sec() as u64 * 1000 + now.tv_nsec() as u64 / 1_000_000
}
