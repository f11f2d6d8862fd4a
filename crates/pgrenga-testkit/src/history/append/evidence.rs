//! What a list-append history proves: who wrote what, which transactions took
//! effect, and in which order the versions of each key came.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use super::super::record::{Error, History, NodeIndex, Outcome, Transaction, TransactionId};
use super::super::report::{Kind, Report};
use super::{State, Step};

/// One append, by whom and where it ended up.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) by: usize,
    pub(super) key: u64,
    /// Whether it is its transaction's last one to this key.
    pub(super) is_last: bool,
    /// Its place in the key's version order, if any read shows it.
    pub(super) position: Option<usize>,
}

/// Who saw a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    Transaction(usize),
    Final(NodeIndex),
}

impl Reader {
    pub(super) fn transaction(self) -> Option<TransactionId> {
        match self {
            Self::Transaction(index) => Some(TransactionId::new(index)),
            Self::Final(_) => None,
        }
    }
}

impl fmt::Display for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transaction(index) => write!(f, "{}", TransactionId::new(*index)),
            Self::Final(node) => write!(f, "the final read at {node}"),
        }
    }
}

/// The longest list that was read of a key: its versions are the prefixes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order<'h> {
    pub(super) values: &'h [u64],
    pub(super) reader: Reader,
    /// The first position whose writer aborted.
    pub(super) first_aborted: Option<usize>,
}

#[derive(Debug)]
pub(super) struct Evidence<'h> {
    pub(super) history: &'h History<Step>,
    pub(super) writes: HashMap<u64, Write>,
    /// Of each transaction, whether it took effect.
    pub(super) effective: Vec<bool>,
    pub(super) orders: BTreeMap<u64, Order<'h>>,
}

impl<'h> Evidence<'h> {
    pub(super) fn gather(history: &'h History<Step>, finals: &[(NodeIndex, &'h State)]) -> Result<Self, Error> {
        let writes = writes(history)?;
        let effective = effective(history, finals, &writes);
        let mut evidence = Self { history, writes, effective, orders: BTreeMap::new() };
        evidence.order_versions(finals);
        Ok(evidence)
    }

    /// The transactions that took effect, with their places.
    pub(super) fn effective_transactions(&self) -> impl Iterator<Item = (usize, &'h Transaction<Step>)> {
        let all = self.history.transactions.iter().enumerate();
        all.filter(|&(index, _)| self.effective[index])
    }

    /// Who appended `value` to `key`.
    pub(super) fn write(&self, key: u64, value: u64) -> Option<&Write> {
        self.writes.get(&value).filter(|write| write.key == key)
    }

    /// Who appended `value` to `key`, if that took effect.
    pub(super) fn effective_writer(&self, key: u64, value: u64) -> Option<usize> {
        let write = self.write(key, value)?;
        self.effective[write.by].then_some(write.by)
    }

    fn order_versions(&mut self, finals: &[(NodeIndex, &'h State)]) {
        let mut orders: BTreeMap<u64, Order<'h>> = BTreeMap::new();
        let mut saw = |reader, key: u64, values: &'h [u64]| {
            let order = orders.entry(key).or_insert(Order { values, reader, first_aborted: None });
            if values.len() > order.values.len() {
                (order.values, order.reader) = (values, reader);
            }
        };
        // Final reads first: of equally long lists they are the better witness.
        for &(node, state) in finals {
            for (&key, values) in state {
                saw(Reader::Final(node), key, values);
            }
        }
        for (index, t) in self.effective_transactions() {
            for step in &t.steps {
                if let Step::Read { key, values } = step {
                    saw(Reader::Transaction(index), *key, values);
                }
            }
        }
        for (&key, order) in &mut orders {
            for (position, value) in order.values.iter().enumerate() {
                let Some(write) = self.writes.get_mut(value).filter(|w| w.key == key) else {
                    continue;
                };
                write.position.get_or_insert(position);
                if self.history.transactions[write.by].outcome == Outcome::Aborted {
                    order.first_aborted.get_or_insert(position);
                }
            }
        }
        self.orders = orders;
    }

    /// Reports what is wrong with the longest lists in themselves.
    pub(super) fn check_orders(&self, report: &mut Report) {
        for (&key, order) in &self.orders {
            let in_place = |(position, &value): (usize, &u64)| {
                let write = self.write(key, value);
                write.is_some_and(|write| write.position == Some(position))
            };
            if !order.values.iter().enumerate().all(in_place) {
                self.check_values(key, order.values, order.reader, report);
            }
        }
    }

    /// Reports a list that is not a prefix of the key's longest one, or holds a
    /// value of an aborted transaction.
    pub(super) fn check_list(&self, key: u64, values: &[u64], reader: Reader, report: &mut Report) {
        let order = &self.orders[&key];
        if !order.values.starts_with(values) {
            let readers = reader.transaction().into_iter().chain(order.reader.transaction());
            let detail = format!("{reader} saw {values:?} in key {key}, but {} saw {:?}", order.reader, order.values);
            report.add(Kind::IncompatibleOrder, readers, detail);
            self.check_values(key, values, reader, report);
            self.check_aborted(key, values, reader, report);
        } else if order.first_aborted.is_some_and(|first| values.len() > first) {
            self.check_aborted(key, values, reader, report);
        }
    }

    /// Reports values of a list that nobody wrote there, and repeated ones.
    fn check_values(&self, key: u64, values: &[u64], reader: Reader, report: &mut Report) {
        let mut seen = HashSet::with_capacity(values.len());
        for &value in values {
            let detail = |what: &str| format!("{reader} saw {value} in key {key}, {what}");
            let writer = self.writes.get(&value).map(|w| TransactionId::new(w.by));
            let involved = || reader.transaction().into_iter().chain(writer);
            if self.write(key, value).is_none() {
                let what = "which nobody appended to it";
                report.add(Kind::GarbageRead, involved(), detail(what));
            }
            if !seen.insert(value) {
                report.add(Kind::Duplicate, involved(), detail("more than once"));
            }
        }
    }

    fn check_aborted(&self, key: u64, values: &[u64], reader: Reader, report: &mut Report) {
        let transactions = &self.history.transactions;
        let aborted = |value: &&u64| {
            let write = self.write(key, **value);
            write.is_some_and(|write| transactions[write.by].outcome == Outcome::Aborted)
        };
        if let Some(&value) = values.iter().find(aborted) {
            let writer = TransactionId::new(self.writes[&value].by);
            let detail = format!("{reader} saw {value} in key {key}, but {writer} aborted");
            let involved = reader.transaction().into_iter().chain([writer]);
            report.add(Kind::G1a, involved, detail);
        }
    }
}

fn writes(history: &History<Step>) -> Result<HashMap<u64, Write>, Error> {
    let mut writes: HashMap<u64, Write> = HashMap::with_capacity(history.transactions.len());
    for (index, t) in history.transactions.iter().enumerate() {
        for (place, step) in t.steps.iter().enumerate() {
            let Step::Append { key, value } = *step else {
                continue;
            };
            let again = |s: &Step| matches!(s, Step::Append { key: k, .. } if *k == key);
            let write = Write { by: index, key, is_last: !t.steps[place + 1..].iter().any(again), position: None };
            if let Some(earlier) = writes.insert(value, write) {
                return Err(Error::AmbiguousValue {
                    value,
                    first: TransactionId::new(earlier.by),
                    second: TransactionId::new(index),
                });
            }
        }
    }
    Ok(writes)
}

/// Acknowledged transactions took effect; so did unknown ones that a final read
/// or a transaction that took effect has seen.
fn effective(history: &History<Step>, finals: &[(NodeIndex, &State)], writes: &HashMap<u64, Write>) -> Vec<bool> {
    let committed = |index: usize| history.transactions[index].outcome == Outcome::Committed;
    let mut effective: Vec<bool> = (0..history.transactions.len()).map(committed).collect();
    if history.count(Outcome::Unknown) == 0 {
        return effective;
    }
    let unknown = |index: usize| history.transactions[index].outcome == Outcome::Unknown;
    let mut pending: Vec<usize> = (0..effective.len()).filter(|&i| effective[i]).collect();
    let promote = |values: &[u64], effective: &mut Vec<bool>| -> Vec<usize> {
        let mut promoted = Vec::new();
        for write in values.iter().filter_map(|value| writes.get(value)) {
            if unknown(write.by) && !effective[write.by] {
                effective[write.by] = true;
                promoted.push(write.by);
            }
        }
        promoted
    };
    for values in finals.iter().flat_map(|(_, state)| state.values()) {
        pending.extend(promote(values, &mut effective));
    }
    while let Some(index) = pending.pop() {
        for step in &history.transactions[index].steps {
            if let Step::Read { values, .. } = step {
                pending.extend(promote(values, &mut effective));
            }
        }
    }
    effective
}
