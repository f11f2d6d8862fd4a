//! Inserts rows under unique keys, some of them tried by many: what [`set`] checks.
//!
//! [`set`]: crate::history::set

use super::session::{Failure, Row as Text, Session};
use super::transaction::Tx;
use super::{Client, Clients, Workload};
use crate::history::set::{Row, Step};

/// Rows go into a table `rows(key, token)`. Every other one has a key of its own; the others
/// fight for the same few keys at any time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inserts;

/// Keys that are fought for lie above those that are not.
const CONTENDED: u64 = 1 << 40;
/// After so many attempts, on average, a key is left for a new one.
const ATTEMPTS: u64 = 12;

impl Workload for Inserts {
    type Step = Step;
    type Client = Inserter;

    fn initial(&self) -> Vec<Row> {
        Vec::new()
    }

    fn create(&self, schema: &str) -> Vec<String> {
        // The rows' order is the state's.
        vec![format!("CREATE TABLE {schema}.rows (key bigint PRIMARY KEY, token bigint NOT NULL UNIQUE)")]
    }

    fn client(&self, clients: &Clients, random: fastrand::Rng) -> Inserter {
        Inserter { clients: clients.clone(), random }
    }

    async fn read_state(&self, schema: &str, session: &mut Session) -> Result<Vec<Row>, Failure> {
        let sql = format!("SELECT key, token FROM {schema}.rows ORDER BY key");
        let (rows, _) = session.query(&sql).await?;
        parse(&rows, sql)
    }
}

fn parse(rows: &[Text], statement: String) -> Result<Vec<Row>, Failure> {
    let row = |row: &Text| Some(Row { key: row.get(0)?.parse().ok()?, token: row.get(1)?.parse().ok()? });
    rows.iter().map(row).collect::<Option<_>>().ok_or(Failure::Unexpected { statement })
}

/// One client of [`Inserts`].
#[derive(Debug)]
pub struct Inserter {
    clients: Clients,
    random: fastrand::Rng,
}

impl Client for Inserter {
    type Step = Step;

    async fn perform(&mut self, tx: &mut Tx<'_, Step>) -> Result<(), Failure> {
        if self.random.u32(..32) == 0 {
            let sql = format!("SELECT key, token FROM {}.rows", self.clients.schema);
            let rows = tx.autocommit(&sql).await?;
            tx.record(Step::Read(parse(&rows, sql)?));
            return Ok(());
        }
        let token = self.clients.next_number();
        let key = if self.random.bool() { token } else { CONTENDED + token / ATTEMPTS };
        tx.record(Step::Insert(Row { key, token }));
        let insert = format!("INSERT INTO {}.rows VALUES ({key}, {token})", self.clients.schema);
        if self.random.bool() {
            return tx.autocommit(&insert).await.map(drop);
        }
        tx.begin().await?;
        tx.execute(&insert).await?;
        tx.commit().await
    }
}
