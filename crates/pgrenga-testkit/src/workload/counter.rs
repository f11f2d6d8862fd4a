//! Adds to one number, and reads it: what [`counter`] checks.
//!
//! [`counter`]: crate::history::counter

use super::session::{Failure, Row, Session};
use super::transaction::Tx;
use super::{Client, Clients, Workload};
use crate::history::counter::Step;

/// The number is in a table `counter(n)` of one row: every addition conflicts with every other.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counter;

impl Workload for Counter {
    type Step = Step;
    type Client = Adder;

    fn initial(&self) -> u64 {
        0
    }

    fn create(&self, schema: &str) -> Vec<String> {
        vec![
            format!("CREATE TABLE {schema}.counter (id int PRIMARY KEY, n bigint NOT NULL)"),
            format!("INSERT INTO {schema}.counter VALUES (1, 0)"),
        ]
    }

    fn client(&self, clients: &Clients, random: fastrand::Rng) -> Adder {
        Adder { clients: clients.clone(), random }
    }

    async fn read_state(&self, schema: &str, session: &mut Session) -> Result<u64, Failure> {
        let sql = format!("SELECT n FROM {schema}.counter");
        let (rows, _) = session.query(&sql).await?;
        number(&rows, sql)
    }
}

fn number(rows: &[Row], statement: String) -> Result<u64, Failure> {
    let value = rows.first().and_then(|row| row.get(0)?.parse().ok());
    value.ok_or(Failure::Unexpected { statement })
}

/// One client of [`Counter`].
#[derive(Debug)]
pub struct Adder {
    clients: Clients,
    random: fastrand::Rng,
}

impl Client for Adder {
    type Step = Step;

    async fn perform(&mut self, tx: &mut Tx<'_, Step>) -> Result<(), Failure> {
        let schema = &self.clients.schema;
        let select = format!("SELECT n FROM {schema}.counter");
        let amount = self.random.u32(1..10);
        let update = format!("UPDATE {schema}.counter SET n = n + {amount}");
        match self.random.u32(..4) {
            0 => {
                let rows = tx.autocommit(&select).await?;
                tx.record(Step::Read(number(&rows, select)?));
                Ok(())
            }
            1 => {
                tx.begin().await?;
                tx.record(Step::Add(amount));
                tx.execute(&update).await?;
                let rows = tx.query(&select).await?;
                tx.record(Step::Read(number(&rows, select)?));
                tx.commit().await
            }
            _ => {
                tx.record(Step::Add(amount));
                tx.autocommit(&update).await.map(drop)
            }
        }
    }
}
