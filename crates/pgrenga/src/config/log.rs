//! The section `[log]`.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

/// An entry must fit into a segment.
const SEGMENT_BYTES: RangeInclusive<u64> = 5 << 20..=1 << 30;
/// Below, states would be written more often than is of any use.
const SNAPSHOT_EVERY_BYTES: u64 = 1 << 20;
const OUTCOMES_DAYS: RangeInclusive<u64> = 1..=3650;
/// A few files of every node.
const OUTCOMES_MAX_BYTES: u64 = 16 << 20;

/// As it stands in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogFile {
    #[serde(skip_serializing_if = "Option::is_none")]
    segment_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot_every_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcomes_days: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcomes_max_bytes: Option<u64>,
}

/// How the replicated log is kept on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Log {
    /// Size of a segment file.
    pub(crate) segment_bytes: u64,
    /// After so many bytes the state is kept again, and the log before it can go.
    pub(crate) snapshot_every_bytes: u64,
    /// From this size on nodes that lack the log's beginning are not waited for.
    pub(crate) max_bytes: u64,
    /// For how long it is known how transactions ended.
    pub(crate) outcomes_days: u64,
    /// And how much of that is kept.
    pub(crate) outcomes_max_bytes: u64,
}

impl LogFile {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn check(&self, problems: &mut Vec<String>) -> Log {
        let log = Log {
            segment_bytes: self.segment_bytes.unwrap_or(16 << 20),
            snapshot_every_bytes: self.snapshot_every_bytes.unwrap_or(256 << 20),
            max_bytes: self.max_bytes.unwrap_or(16 << 30),
            outcomes_days: self.outcomes_days.unwrap_or(7),
            outcomes_max_bytes: self.outcomes_max_bytes.unwrap_or(1 << 30),
        };
        if !SEGMENT_BYTES.contains(&log.segment_bytes) {
            let (least, most) = (SEGMENT_BYTES.start(), SEGMENT_BYTES.end());
            problems.push(format!("log.segment_bytes: must be between {least} and {most}"));
        }
        if log.snapshot_every_bytes < SNAPSHOT_EVERY_BYTES {
            problems.push(format!("log.snapshot_every_bytes: must be at least {SNAPSHOT_EVERY_BYTES}"));
        }
        if !OUTCOMES_DAYS.contains(&log.outcomes_days) {
            let (least, most) = (OUTCOMES_DAYS.start(), OUTCOMES_DAYS.end());
            problems.push(format!("log.outcomes_days: must be between {least} and {most}"));
        }
        if log.outcomes_max_bytes < OUTCOMES_MAX_BYTES {
            problems.push(format!("log.outcomes_max_bytes: must be at least {OUTCOMES_MAX_BYTES}"));
        }
        // What is being filled and what waits for the next state are always there.
        let least = log.segment_bytes.saturating_mul(2).saturating_add(log.snapshot_every_bytes.saturating_mul(2));
        if log.max_bytes < least {
            problems
                .push(format!("log.max_bytes: must be at least twice segment_bytes and snapshot_every_bytes, {least}"));
        }
        log
    }
}
