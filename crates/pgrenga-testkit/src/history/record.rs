//! The data model of a recorded history.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A moment on the recording machine's logical clock.
///
/// Every moment of a history is different, and their order is real-time order:
/// the clock is read before a request is sent and after its answer arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tick(pub u64);

/// A client: it runs one transaction after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProcessId(pub u32);

/// A server, as its place in the list of connection strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeIndex(pub u32);

impl fmt::Display for NodeIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.0)
    }
}

/// A transaction's place in [`History::transactions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId(pub u32);

impl TransactionId {
    pub(crate) fn new(index: usize) -> Self {
        Self(u32::try_from(index).expect("a history holds less than 2^32 transactions"))
    }
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "T{}", self.0)
    }
}

/// What the client was told about a transaction's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Acknowledged: it must be there, for ever.
    Committed,
    /// Refused, or ended before COMMIT was sent: it must have left no trace.
    Aborted,
    /// No answer to COMMIT: it happened once or not at all, perhaps later.
    Unknown,
}

/// The isolation level that the transactions of a history asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// `READ COMMITTED`
    ReadCommitted,
    /// `REPEATABLE READ`, which in PostgreSQL is snapshot isolation
    RepeatableRead,
}

impl Isolation {
    /// The level's name in SQL.
    pub fn sql(self) -> &'static str {
        match self {
            Self::ReadCommitted => "READ COMMITTED",
            Self::RepeatableRead => "REPEATABLE READ",
        }
    }
}

/// What a workload's transactions consist of.
pub trait Step: Clone + fmt::Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The workload's name in stored histories.
    const WORKLOAD: &'static str;
    /// Everything that the workload keeps in the database.
    type State: Clone + fmt::Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync;

    /// Whether the step changes the database.
    fn is_write(&self) -> bool;
}

/// One transaction as its client saw it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transaction<S> {
    /// Who ran it.
    pub process: ProcessId,
    /// Where.
    pub node: NodeIndex,
    /// Before its first statement was sent.
    pub invoke: Tick,
    /// Before COMMIT (or an autocommitted statement) was sent, if it ever was.
    pub commit: Option<Tick>,
    /// When the client had its answer or gave up waiting for it.
    /// `invoke < commit < complete`.
    pub complete: Tick,
    /// How it ended.
    pub outcome: Outcome,
    /// What it did, in order, as far as it came. A read without an answer is not listed.
    pub steps: Vec<S>,
    /// The error that ended it, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What a node held when all was over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FinalRead<T> {
    /// The node that was read.
    pub node: NodeIndex,
    /// What it held; absent if it could not be read.
    pub state: Option<T>,
    /// Why it could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A recorded run of one workload.
#[derive(Clone, Debug, PartialEq)]
pub struct History<S: Step> {
    /// The isolation level of every explicit transaction in it.
    pub isolation: Isolation,
    /// The seed that the workload ran with.
    pub seed: u64,
    /// What the database held before the first transaction.
    pub initial: S::State,
    /// The transactions, in the order in which they were invoked.
    pub transactions: Vec<Transaction<S>>,
    /// What each node held after the last transaction.
    pub final_reads: Vec<FinalRead<S::State>>,
}

/// Why a history cannot be judged.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing was acknowledged, so nothing could have gone wrong.
    #[error("history is vacuous: none of its {transactions} transactions is an acknowledged write")]
    Vacuous {
        /// How many transactions there are.
        transactions: usize,
    },
    /// Without a final read no write can be said to be lost.
    #[error("history has no final read")]
    NoFinalRead,
    /// A node could not be read at the end, so it may hold anything.
    #[error("final read of {node} failed: {reason}")]
    FinalReadFailed {
        /// The node.
        node: NodeIndex,
        /// What the driver said.
        reason: String,
    },
    /// The workload broke its own rule that written values are unique.
    #[error("value {value} is written by both {first} and {second}")]
    AmbiguousValue {
        /// The value.
        value: u64,
        /// The transaction that wrote it first.
        first: TransactionId,
        /// The other one.
        second: TransactionId,
    },
    /// The record contradicts itself.
    #[error("{transaction} is malformed: {detail}")]
    Malformed {
        /// The transaction.
        transaction: TransactionId,
        /// What is wrong with it.
        detail: String,
    },
    /// The stored history does not begin with its only header.
    #[error("stored history does not begin with its only header")]
    NoHeader,
    /// The stored history is of another workload or format.
    #[error("expected a history of \"{expected}\", found \"{found}\"")]
    OtherWorkload {
        /// The workload or format version asked for.
        expected: String,
        /// What the file says it is.
        found: String,
    },
    /// A line of a stored history cannot be read.
    #[error("line {line} of the stored history: {source}")]
    Json {
        /// Counted from 1.
        line: usize,
        /// The parser's words.
        source: serde_json::Error,
    },
    /// Reading or writing a stored history failed.
    #[error("could not read or write the stored history: {0}")]
    Io(#[from] std::io::Error),
}

impl<S: Step> History<S> {
    /// A history in which nothing has happened yet.
    pub fn new(isolation: Isolation, seed: u64, initial: S::State) -> Self {
        Self { isolation, seed, initial, transactions: Vec::new(), final_reads: Vec::new() }
    }

    /// How many transactions ended so.
    pub fn count(&self, outcome: Outcome) -> usize {
        let ended_so = |t: &&Transaction<S>| t.outcome == outcome;
        self.transactions.iter().filter(ended_so).count()
    }

    /// Puts the transactions into the order of their invocation, as checkers
    /// expect them; recorders collect them process by process.
    pub fn sort(&mut self) {
        self.transactions.sort_by_key(|t| t.invoke);
    }

    /// Checks what every checker relies on, and returns the final reads.
    pub(crate) fn validate(&self) -> Result<Vec<(NodeIndex, &S::State)>, Error> {
        self.validate_order()?;
        let acknowledged_write =
            |t: &Transaction<S>| t.outcome == Outcome::Committed && t.steps.iter().any(Step::is_write);
        if !self.transactions.iter().any(acknowledged_write) {
            return Err(Error::Vacuous { transactions: self.transactions.len() });
        }
        if self.final_reads.is_empty() {
            return Err(Error::NoFinalRead);
        }
        self.final_reads
            .iter()
            .map(|read| match &read.state {
                Some(state) => Ok((read.node, state)),
                None => Err(Error::FinalReadFailed { node: read.node, reason: read.error.clone().unwrap_or_default() }),
            })
            .collect()
    }

    fn validate_order(&self) -> Result<(), Error> {
        let mut last_complete = std::collections::BTreeMap::new();
        let mut last_invoke = None;
        for (index, t) in self.transactions.iter().enumerate() {
            let malformed =
                |detail: &str| Error::Malformed { transaction: TransactionId::new(index), detail: detail.to_owned() };
            let commit = t.commit.unwrap_or(t.complete);
            if t.invoke >= t.complete || commit < t.invoke || commit > t.complete {
                return Err(malformed("its moments are out of order"));
            }
            if t.outcome != Outcome::Aborted && t.commit.is_none() {
                return Err(malformed("it was never asked to commit, yet it did not abort"));
            }
            if last_invoke.replace(t.invoke) >= Some(t.invoke) {
                return Err(malformed("transactions are not sorted by their invocation"));
            }
            if last_complete.insert(t.process, t.complete) >= Some(t.invoke) {
                return Err(malformed("its process had not finished the one before"));
            }
        }
        Ok(())
    }
}
