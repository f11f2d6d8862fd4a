//! The list-append checker, in the style of Elle (Kingsbury and Alvaro, VLDB
//! 2020).
//!
//! Transactions append unique values to lists and read whole lists. A list
//! names all its earlier versions and who made them, so the longest one read of
//! each key gives that key's version order, and with it the dependencies of
//! Adya's formalism: who replaced whose version (ww), who read whose (wr), and
//! who replaced what one read (rw). To these come the orders that the
//! [`Promise`] holds the system to. What the model forbids is then a matter of
//! cycles, besides the anomalies that a single read shows by itself.
//!
//! A transaction with an unknown outcome took effect if, and only if, one that
//! took effect or a final read saw one of its values. Reads of transactions that
//! took no effect are not judged.

mod dependencies;
mod evidence;
mod finals;
mod reads;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use self::evidence::Evidence;
use super::cycle;
use super::record::{self, Error, History};
use super::report::{Promise, Report};

/// One step of a list-append transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Put `value` at the end of the list at `key`, which may not exist yet.
    /// A value is appended once in a history.
    Append {
        /// The list's key.
        key: u64,
        /// The value.
        value: u64,
    },
    /// Saw the list at `key`, empty if there was none.
    Read {
        /// The list's key.
        key: u64,
        /// What the list held.
        values: Vec<u64>,
    },
}

/// The lists by their keys.
pub type State = BTreeMap<u64, Vec<u64>>;

impl record::Step for Step {
    const WORKLOAD: &'static str = "list_append";
    type State = State;

    fn is_write(&self) -> bool {
        matches!(self, Self::Append { .. })
    }
}

/// Judges a list-append history, which must begin with empty lists.
///
/// # Errors
/// If the history is vacuous or contradicts itself: see [`Error`].
pub fn check(history: &History<Step>, promise: Promise) -> Result<Report, Error> {
    let finals = history.validate()?;
    let evidence = Evidence::gather(history, &finals)?;
    let mut report = Report::of(&evidence.effective);
    evidence.check_orders(&mut report);
    reads::check(&evidence, promise.model, &mut report);
    finals::check(&evidence, &finals, &mut report);
    let graph = dependencies::graph(&evidence, promise);
    report.dependencies = graph.edge_count();
    cycle::check(&graph, promise.model, &mut report);
    Ok(report)
}
