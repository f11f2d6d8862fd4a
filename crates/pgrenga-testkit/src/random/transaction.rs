//! Transactions: some statements, savepoints, an end.

use fastrand::Rng;

use super::change::Changes;
use super::table::Table;
use super::{Step, Transaction, once_in, pick, statement};

/// Makes a session's transactions.
#[derive(Debug)]
pub(super) struct Maker<'a> {
    rng: Rng,
    tables: &'a [Table],
    changes: Changes,
}

impl<'a> Maker<'a> {
    pub(super) fn new(rng: Rng, tables: &'a [Table], session: usize) -> Self {
        Self { rng, tables, changes: Changes::new(session) }
    }

    pub(super) fn transaction(&mut self) -> Transaction {
        let begin = *pick(&mut self.rng, &["BEGIN", "BEGIN", "BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ"]);
        let commits = !once_in(&mut self.rng, 12);
        let mut steps = Vec::new();
        for _ in 0..self.rng.usize(1..5) {
            self.step(&mut steps, 0);
        }
        Transaction { begin, steps, commits }
    }

    fn step(&mut self, steps: &mut Vec<Step>, depth: u32) {
        if depth < 3 && once_in(&mut self.rng, 6) {
            let mut inner = Vec::new();
            for _ in 0..self.rng.usize(1..4) {
                self.step(&mut inner, depth + 1);
            }
            let keeps = self.rng.bool();
            steps.push(Step::Savepoint(inner, keeps));
        } else if once_in(&mut self.rng, 12) {
            steps.extend(self.changes.any(&mut self.rng, self.tables));
        } else {
            steps.push(statement::any(&mut self.rng, self.tables));
        }
    }
}
