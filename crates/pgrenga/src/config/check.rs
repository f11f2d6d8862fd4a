//! The section `[check]`.

use std::time::Duration;

use pgrenga_node::Pace;
use serde::{Deserialize, Serialize};

/// As it stands in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CheckFile {
    #[serde(skip_serializing_if = "Option::is_none")]
    interval_seconds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<u32>,
}

impl CheckFile {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Nothing if the state is not to be checked.
    pub(super) fn check(&self, problems: &mut Vec<String>) -> Option<Pace> {
        let (interval, rows) = (self.interval_seconds.unwrap_or(60), self.rows.unwrap_or(10_000));
        if !(1..=1_000_000).contains(&rows) {
            problems.push("check.rows: must be between 1 and 1000000".to_owned());
        }
        (interval > 0).then(|| Pace { interval: Duration::from_secs(interval.into()), rows })
    }
}
