//! The section `[serving]`.

use serde::{Deserialize, Serialize};

/// As it stands in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServingFile {
    #[serde(skip_serializing_if = "Option::is_none")]
    max_lag: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ready_lag: Option<u64>,
}

/// When a node takes new sessions. Lag is counted in committed writesets that it does not show yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Serving {
    /// With more it takes none.
    pub(crate) max_lag: u64,
    /// With so many or fewer it takes some again.
    pub(crate) ready_lag: u64,
}

impl ServingFile {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn check(&self, problems: &mut Vec<String>) -> Serving {
        let max_lag = self.max_lag.unwrap_or(100_000);
        let serving = Serving { max_lag, ready_lag: self.ready_lag.unwrap_or(1_000.min(max_lag)) };
        if serving.ready_lag > serving.max_lag {
            problems.push("serving.ready_lag: must not be above max_lag".to_owned());
        }
        serving
    }
}
