//! What limited a run: the nodes, as it should be, or something else.

use serde::{Deserialize, Serialize};

/// A node that had to wait in so many of its periods, and that used so much of its share,
/// had all the work that it could do.
const SATURATED: f64 = 0.8;
/// A thread of the load generator that is on a processor for so much of the time could not send more.
const GENERATOR_BUSY: f64 = 0.85;
/// With less than this left, whoever wanted a processor had to wait for it.
const MACHINE_IDLE_MIN: f64 = 0.05;

/// What was seen during a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// For each node, in how many of its periods it was held back; nothing where nodes are not capped.
    pub throttled_share: Vec<Option<f64>>,
    /// For each node, the processor time that it got, as a share of what it may use. A virtual machine that
    /// is itself held up charges that time to whoever was running, who is then throttled for nothing.
    pub used_share: Vec<f64>,
    /// Processor time of each thread of the load generator in a second, on average.
    pub generator_cores_per_thread: f64,
    /// How much of all processors' time was left.
    pub machine_idle_share: f64,
}

/// What limited it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// Each node used up its share of a core.
    Nodes,
    /// The nodes are not capped, so nothing can be said.
    Unknown,
    /// The load generator could not keep up.
    Generator,
    /// The processors had no time left.
    Machine,
    /// None of these: the nodes waited, for the disk, for each other, or for more clients.
    Waiting,
}

impl Evidence {
    /// Whether processes had to wait for a processor. That slows even nodes that use up their share,
    /// since memory and caches are busy too.
    #[must_use]
    pub fn machine_was_full(&self) -> bool {
        self.machine_idle_share < MACHINE_IDLE_MIN
    }

    /// Judges it.
    #[must_use]
    pub fn limit(&self) -> Limit {
        let throttled = self.throttled_share.iter().all(|share| share.is_some_and(|share| share >= SATURATED));
        if throttled && self.used_share.iter().all(|share| *share >= SATURATED) {
            Limit::Nodes
        } else if self.generator_cores_per_thread >= GENERATOR_BUSY {
            Limit::Generator
        } else if self.machine_was_full() {
            Limit::Machine
        } else if self.throttled_share.contains(&None) {
            Limit::Unknown
        } else {
            Limit::Waiting
        }
    }
}

impl Limit {
    /// In a few words, for a table.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Nodes => "the nodes' caps",
            Self::Unknown => "unknown (no caps)",
            Self::Generator => "THE LOAD GENERATOR",
            Self::Machine => "THE MACHINE (no idle processor)",
            Self::Waiting => "waiting (caps not used up)",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(throttled: &[Option<f64>], generator: f64, idle: f64) -> Limit {
        limit_using(&vec![0.98; throttled.len()], throttled, generator, idle)
    }

    fn limit_using(used: &[f64], throttled: &[Option<f64>], generator: f64, idle: f64) -> Limit {
        Evidence {
            throttled_share: throttled.to_vec(),
            used_share: used.to_vec(),
            generator_cores_per_thread: generator,
            machine_idle_share: idle,
        }
        .limit()
    }

    #[test]
    fn only_nodes_that_all_used_up_their_share_are_the_limit() {
        assert_eq!(limit(&[Some(0.99), Some(0.85)], 0.2, 0.4), Limit::Nodes);
        assert_eq!(limit(&[Some(0.99), Some(0.5)], 0.2, 0.4), Limit::Waiting);
        assert_eq!(limit(&[Some(0.99), Some(0.5)], 0.95, 0.4), Limit::Generator);
        assert_eq!(limit(&[Some(0.99), Some(0.5)], 0.2, 0.01), Limit::Machine);
        assert_eq!(limit_using(&[0.98, 0.1], &[Some(0.99), Some(0.9)], 0.2, 0.4), Limit::Waiting);
        assert_eq!(limit(&[None, None], 0.2, 0.4), Limit::Unknown);
        assert_eq!(limit(&[None], 0.9, 0.4), Limit::Generator);
    }
}
