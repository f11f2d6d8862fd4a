//! One transaction in the making, and its record.

use std::sync::atomic::{AtomicU64, Ordering};

use super::session::{Failure, Row, Session};
use crate::history::{Isolation, NodeIndex, Outcome, ProcessId, Step, Tick, Transaction};

/// The logical clock that all clients of a run share.
#[derive(Debug, Default)]
pub(super) struct Clock(AtomicU64);

impl Clock {
    /// A moment after all earlier ones. Sequentially consistent: if an answer
    /// arrived before a request was sent, whoever did it, their ticks say so.
    pub(super) fn tick(&self) -> Tick {
        Tick(self.0.fetch_add(1, Ordering::SeqCst) + 1)
    }
}

/// A transaction that a client is running, with everything it must record.
#[derive(Debug)]
pub struct Tx<'s, S> {
    session: &'s mut Session,
    clock: &'s Clock,
    isolation: Isolation,
    in_block: bool,
    record: Transaction<S>,
}

impl<'s, S: Step> Tx<'s, S> {
    pub(super) fn new(
        session: &'s mut Session,
        clock: &'s Clock,
        isolation: Isolation,
        process: ProcessId,
        node: NodeIndex,
    ) -> Self {
        let invoke = clock.tick();
        Self {
            session,
            clock,
            isolation,
            in_block: false,
            record: Transaction {
                process,
                node,
                invoke,
                commit: None,
                complete: invoke,
                outcome: Outcome::Aborted,
                steps: Vec::new(),
                error: None,
            },
        }
    }

    /// Begins a transaction block.
    ///
    /// # Errors
    /// If the server fails to.
    pub async fn begin(&mut self) -> Result<(), Failure> {
        let begin = format!("BEGIN ISOLATION LEVEL {}", self.isolation.sql());
        self.in_block = true;
        self.session.query(&begin).await.map(|_| ())
    }

    /// Records a step: a write before it is tried, a read when it is answered.
    pub fn record(&mut self, step: S) {
        self.record.steps.push(step);
    }

    /// Runs a statement in the block, and returns its rows.
    ///
    /// # Errors
    /// If the statement fails.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Row>, Failure> {
        Ok(self.session.query(sql).await?.0)
    }

    /// Runs a statement in the block, and returns how many rows it changed.
    ///
    /// # Errors
    /// If the statement fails.
    pub async fn execute(&mut self, sql: &str) -> Result<u64, Failure> {
        Ok(self.session.query(sql).await?.1)
    }

    /// Runs a statement that is a transaction of its own.
    ///
    /// # Errors
    /// If the statement fails.
    pub async fn autocommit(&mut self, sql: &str) -> Result<Vec<Row>, Failure> {
        self.record.commit = Some(self.clock.tick());
        self.query(sql).await
    }

    /// Commits the block.
    ///
    /// # Errors
    /// If the server does not acknowledge it.
    pub async fn commit(&mut self) -> Result<(), Failure> {
        self.record.commit = Some(self.clock.tick());
        self.session.query("COMMIT").await?;
        self.in_block = false;
        Ok(())
    }

    /// Completes the record, and leaves the session fit for the next transaction.
    pub(super) async fn end(mut self, result: &Result<(), Failure>) -> Transaction<S> {
        self.record.complete = self.clock.tick();
        self.record.outcome = match (result, self.record.commit) {
            (Ok(()), Some(_)) => Outcome::Committed,
            (Ok(()), None) | (Err(_), None) => Outcome::Aborted,
            (Err(failure), Some(_)) => failure.outcome_at_commit(),
        };
        self.record.error = result.as_ref().err().map(ToString::to_string);
        if self.in_block && self.session.query("ROLLBACK").await.is_err() {
            self.session.disconnect();
        }
        self.record
    }
}
