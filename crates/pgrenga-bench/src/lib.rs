//! The two benchmarks of the talk that pgrenga goes back to (Mitani, 2002):
//! how much more a cluster does than a single node, in reads (`select`) and in
//! a mix of reads and writes (`mixed`).
//!
//! All nodes share this machine, so each is held to the same share of a core
//! by a control group ([`caps`]); without that, three nodes would only get in
//! each other's way. Each run keeps the evidence of what limited it
//! ([`evidence`]), because a ratio means something only if the nodes did.

pub mod caps;
mod error;
pub mod evidence;
mod load;
mod measure;
mod plot;
mod proc;
mod report;
mod table;

use serde::{Deserialize, Serialize};

pub use error::Error;
pub use measure::{Capping, Latency, NodeRun, Run, measure};
pub use plot::{Curve, svg};
pub use report::{Machine, Report, Size};
pub use table::prepare;

/// Which benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Reads of random rows by primary key.
    Select,
    /// The same, and one statement in five writes such a row.
    Mixed,
}

impl Kind {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Select, Self::Mixed];

    /// Its name, in files and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Select => "select",
            Self::Mixed => "mixed",
        }
    }

    /// How many of a hundred statements write.
    #[must_use]
    pub fn write_percent(self) -> u32 {
        match self {
            Self::Select => 0,
            Self::Mixed => 20,
        }
    }

    /// As many as keep a capped node busy. A write spends most of its time waiting, not computing.
    #[must_use]
    pub fn default_clients_per_node(self) -> u16 {
        match self {
            Self::Select => 8,
            Self::Mixed => 24,
        }
    }
}

/// What one run does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Which benchmark.
    pub benchmark: Kind,
    /// Sessions on each node, each with one statement at a time.
    pub clients_per_node: u16,
    /// Rows of the table.
    pub rows: i32,
    /// Seconds of load that is not measured, at first.
    pub warm_up_s: u16,
    /// Seconds of load that is measured.
    pub duration_s: u16,
    /// What each node may use, in percent of one core.
    pub cap_percent: u32,
}

/// A node under test: its PostgreSQL at a port of the loopback address, as
/// superuser `postgres` without a password, and its two processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Where clients find it.
    pub postgres_port: u16,
    /// Process id of the daemon.
    pub daemon_pid: u32,
    /// Process id of the postmaster.
    pub postmaster_pid: u32,
}
