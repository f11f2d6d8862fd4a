//! What checkers are asked to hold a history to, and what they answer.

use std::collections::BTreeMap;
use std::fmt;

use super::record::{Isolation, TransactionId};

/// The isolation that a history is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// Adya's PL-2 with statement snapshots that never go back: PostgreSQL's
    /// `READ COMMITTED`.
    ReadCommitted,
    /// Snapshot isolation, PostgreSQL's `REPEATABLE READ`. Write skew (cycles
    /// that need two adjacent anti-dependencies) is allowed.
    SnapshotIsolation,
}

/// What the system under test promises its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// The isolation of its transactions.
    pub model: Model,
    /// A process sees what it did and saw in its earlier transactions.
    pub session_order: bool,
    /// A transaction sees everything that was acknowledged before it began,
    /// whoever did it, as far as this reaches.
    pub real_time: RealTime,
}

/// How far real-time order reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RealTime {
    /// Nowhere, as behind a balancer, where a history's nodes are no servers.
    Ignored,
    /// Among the transactions of each node: a node may lag behind another one.
    Node,
    /// Among all transactions: strong snapshot isolation.
    Cluster,
}

impl Promise {
    /// What clients that are connected to a node directly are promised.
    pub fn of(isolation: Isolation) -> Self {
        Self {
            model: match isolation {
                Isolation::ReadCommitted => Model::ReadCommitted,
                Isolation::RepeatableRead => Model::SnapshotIsolation,
            },
            session_order: true,
            real_time: RealTime::Node,
        }
    }
}

/// Kinds of anomalies. Names with a G are those of Adya's thesis (1999) and of
/// Elle (Kingsbury and Alvaro, VLDB 2020).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Dirty write: a cycle of write dependencies.
    G0,
    /// Aborted read: a value was seen whose transaction aborted.
    G1a,
    /// Intermediate read: a value was seen that its own transaction replaced.
    G1b,
    /// Circular information flow: a cycle of write and read dependencies.
    G1c,
    /// Read skew: a cycle with exactly one anti-dependency.
    GSingle,
    /// A cycle in which no two anti-dependencies are adjacent.
    GNonadjacent,
    /// Two readers saw two independent writes in opposite orders.
    LongFork,
    /// Two transactions read one version of a key, and both replaced it.
    LostUpdate,
    /// A value was seen before its transaction had asked to commit.
    DirtyRead,
    /// A read missed what had been acknowledged, in its session or where its node
    /// must know of it, before it began.
    StaleRead,
    /// Two reads in one transaction saw different versions of a key.
    NonRepeatableRead,
    /// A later read in one transaction saw an older version of a key.
    NonMonotonicRead,
    /// A transaction's read contradicts what it wrote itself.
    Internal,
    /// Two reads of a key cannot both be states of one growing list.
    IncompatibleOrder,
    /// A write took effect more than once.
    Duplicate,
    /// A value was read that nobody wrote there.
    GarbageRead,
    /// An acknowledged write is missing from a final read.
    LostWrite,
    /// Final reads of two nodes differ.
    Divergence,
    /// A snapshot in which money appeared or vanished.
    Imbalance,
    /// A value that no subset of the transactions explains.
    Unexplained,
    /// A unique key was given to two owners.
    UniquenessViolation,
}

impl Kind {
    /// The kind's name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::G0 => "G0 (dirty write)",
            Self::G1a => "G1a (aborted read)",
            Self::G1b => "G1b (intermediate read)",
            Self::G1c => "G1c (circular information flow)",
            Self::GSingle => "G-single (read skew)",
            Self::GNonadjacent => "G-nonadjacent",
            Self::LongFork => "long fork",
            Self::LostUpdate => "lost update",
            Self::DirtyRead => "dirty read",
            Self::StaleRead => "stale read",
            Self::NonRepeatableRead => "non-repeatable read",
            Self::NonMonotonicRead => "non-monotonic read",
            Self::Internal => "internal inconsistency",
            Self::IncompatibleOrder => "incompatible order",
            Self::Duplicate => "duplicate",
            Self::GarbageRead => "garbage read",
            Self::LostWrite => "lost write",
            Self::Divergence => "divergence",
            Self::Imbalance => "imbalance",
            Self::Unexplained => "unexplained state",
            Self::UniquenessViolation => "uniqueness violation",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The strongest order that a cycle had to lean on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OrderUsed {
    /// Values alone.
    Data,
    /// Also the order of one process's transactions.
    Session,
    /// Also real-time order.
    RealTime,
}

/// One anomaly with its witness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anomaly {
    /// What it is.
    pub kind: Kind,
    /// What it leans on.
    pub order: OrderUsed,
    /// The transactions that show it.
    pub transactions: Vec<TransactionId>,
    /// The evidence, for people.
    pub detail: String,
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let order = match self.order {
            OrderUsed::Data => "",
            OrderUsed::Session => ", by session order",
            OrderUsed::RealTime => ", by real-time order",
        };
        write!(f, "{}{order}: {}", self.kind, self.detail)
    }
}

/// The outcome of a check.
#[derive(Clone, Debug, Default)]
pub struct Report {
    anomalies: Vec<Anomaly>,
    found: BTreeMap<Kind, usize>,
    /// How many transactions were judged.
    pub transactions: usize,
    /// How many of them took effect: acknowledged, or unknown and seen.
    pub effective: usize,
    /// How many edges the dependency graph had, for checkers that build one.
    pub dependencies: usize,
}

impl Report {
    /// Of each kind this many anomalies are kept with their evidence.
    pub const KEPT_OF_EACH_KIND_MAX: usize = 10;

    /// A report on transactions of which those marked took effect.
    pub(crate) fn of(effective: &[bool]) -> Self {
        Self { transactions: effective.len(), effective: effective.iter().filter(|&&e| e).count(), ..Self::default() }
    }

    /// Whether the history keeps its promise.
    pub fn is_clean(&self) -> bool {
        self.found.is_empty()
    }

    /// How many anomalies of a kind were found.
    pub fn found(&self, kind: Kind) -> usize {
        self.found.get(&kind).copied().unwrap_or(0)
    }

    /// The kinds that were found, in order.
    pub fn kinds(&self) -> Vec<Kind> {
        self.found.keys().copied().collect()
    }

    /// The anomalies that were kept.
    pub fn anomalies(&self) -> &[Anomaly] {
        &self.anomalies
    }

    pub(crate) fn push(&mut self, anomaly: Anomaly) {
        let found = self.found.entry(anomaly.kind).or_default();
        *found += 1;
        if *found <= Self::KEPT_OF_EACH_KIND_MAX {
            self.anomalies.push(anomaly);
        }
    }

    /// Adds an anomaly that leans on values alone.
    pub(crate) fn add(&mut self, kind: Kind, transactions: impl IntoIterator<Item = TransactionId>, detail: String) {
        self.push(Anomaly { kind, order: OrderUsed::Data, transactions: transactions.into_iter().collect(), detail });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} transactions, {} took effect, {} dependencies",
            self.transactions, self.effective, self.dependencies
        )?;
        if self.is_clean() {
            return write!(f, "no anomalies");
        }
        for (kind, count) in &self.found {
            writeln!(f, "{kind}: {count}")?;
        }
        for anomaly in &self.anomalies {
            write!(f, "\n{anomaly}")?;
        }
        Ok(())
    }
}
