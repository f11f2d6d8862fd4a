//! Appends unique values to lists, and reads them: what [`append`] checks.
//!
//! [`append`]: crate::history::append

use super::session::{Failure, Row, Session};
use super::transaction::Tx;
use super::{Client, Clients, Workload};
use crate::history::Isolation;
use crate::history::append::{State, Step};

/// Lists are texts of comma-separated values in a table `lists(k, v)`.
#[derive(Clone, Copy, Debug)]
pub struct ListAppend {
    /// How many lists are in use at a time: the fewer, the more conflicts.
    pub keys: u64,
    /// How many appends are tried, on average, before a list is left for a new one.
    pub appends_per_key: u64,
    /// Transactions have 1 to this many steps.
    pub steps_max: u32,
}

impl Default for ListAppend {
    fn default() -> Self {
        Self { keys: 8, appends_per_key: 64, steps_max: 4 }
    }
}

impl Workload for ListAppend {
    type Step = Step;
    type Client = Appender;

    fn initial(&self) -> State {
        State::new()
    }

    fn create(&self, schema: &str) -> Vec<String> {
        vec![format!("CREATE TABLE {schema}.lists (k bigint PRIMARY KEY, v text NOT NULL)")]
    }

    fn client(&self, clients: &Clients, random: fastrand::Rng) -> Appender {
        Appender { options: *self, clients: clients.clone(), random }
    }

    async fn read_state(&self, schema: &str, session: &mut Session) -> Result<State, Failure> {
        let sql = format!("SELECT v, k FROM {schema}.lists");
        let (rows, _) = session.query(&sql).await?;
        let entry = |row: &Row| {
            let key = row.get(1).and_then(|key| key.parse().ok());
            key.map(|key| (key, parse_list(row)))
        };
        let state: Option<State> = rows.iter().map(entry).collect();
        state.ok_or(Failure::Unexpected { statement: sql })
    }
}

/// The list in a row's first column. What is no number becomes a value that
/// nobody appends, so that the checker calls it garbage.
fn parse_list(row: &Row) -> Vec<u64> {
    let text = row.get(0).unwrap_or_default();
    text.split(',').map(|value| value.parse().unwrap_or(u64::MAX)).collect()
}

/// One client of [`ListAppend`].
#[derive(Debug)]
pub struct Appender {
    options: ListAppend,
    clients: Clients,
    random: fastrand::Rng,
}

impl Client for Appender {
    type Step = Step;

    async fn perform(&mut self, tx: &mut Tx<'_, Step>) -> Result<(), Failure> {
        let steps = self.random.u32(1..=self.options.steps_max);
        if steps == 1 && self.random.bool() {
            return self.autocommit(tx).await;
        }
        tx.begin().await?;
        for _ in 0..steps {
            let key = self.key();
            match self.random.u32(..8) {
                0..4 => self.read(tx, key, "").await?,
                4 => self.upsert(tx, key).await?,
                5 | 6 => self.update(tx, key).await?,
                _ => self.rewrite(tx, key).await?,
            }
        }
        tx.commit().await
    }
}

impl Appender {
    fn key(&mut self) -> u64 {
        let keys = self.options.keys;
        let generation = self.clients.numbers_used() / (keys * self.options.appends_per_key);
        generation * keys + self.random.u64(..keys)
    }

    async fn autocommit(&mut self, tx: &mut Tx<'_, Step>) -> Result<(), Failure> {
        let key = self.key();
        if self.random.bool() {
            let values = list(&tx.autocommit(&self.select(key)).await?);
            tx.record(Step::Read { key, values });
        } else {
            let upsert = self.upsert_of(tx, key);
            tx.autocommit(&upsert).await?;
        }
        Ok(())
    }

    fn select(&self, key: u64) -> String {
        format!("SELECT v FROM {}.lists WHERE k = {key}", self.clients.schema)
    }

    async fn read(&self, tx: &mut Tx<'_, Step>, key: u64, lock: &str) -> Result<(), Failure> {
        let select = self.select(key);
        let values = list(&tx.query(&format!("{select} {lock}")).await?);
        tx.record(Step::Read { key, values });
        Ok(())
    }

    /// Records an append of a new value.
    fn append(&self, tx: &mut Tx<'_, Step>, key: u64) -> u64 {
        let value = self.clients.next_number();
        tx.record(Step::Append { key, value });
        value
    }

    fn upsert_of(&self, tx: &mut Tx<'_, Step>, key: u64) -> String {
        let value = self.append(tx, key);
        self.upsert_sql(key, value)
    }

    fn upsert_sql(&self, key: u64, value: u64) -> String {
        format!(
            "INSERT INTO {}.lists AS l (k, v) VALUES ({key}, '{value}') \
             ON CONFLICT (k) DO UPDATE SET v = l.v || ',' || excluded.v",
            self.clients.schema
        )
    }

    async fn upsert(&self, tx: &mut Tx<'_, Step>, key: u64) -> Result<(), Failure> {
        let upsert = self.upsert_of(tx, key);
        tx.execute(&upsert).await.map(|_| ())
    }

    async fn update(&self, tx: &mut Tx<'_, Step>, key: u64) -> Result<(), Failure> {
        let value = self.append(tx, key);
        let schema = &self.clients.schema;
        let update = format!("UPDATE {schema}.lists SET v = v || ',{value}' WHERE k = {key}");
        if tx.execute(&update).await? == 0 {
            tx.execute(&self.upsert_sql(key, value)).await?;
        }
        Ok(())
    }

    /// Appends in the client: a write that another one's value does not survive
    /// if the isolation fails. READ COMMITTED needs a lock for that.
    async fn rewrite(&mut self, tx: &mut Tx<'_, Step>, key: u64) -> Result<(), Failure> {
        let locks = self.clients.isolation == Isolation::ReadCommitted || self.random.bool();
        let lock = if locks { "FOR UPDATE" } else { "" };
        let select = self.select(key);
        let rows = tx.query(&format!("{select} {lock}")).await?;
        tx.record(Step::Read { key, values: list(&rows) });
        let Some(before) = rows.first().and_then(|row| row.get(0)) else {
            return self.upsert(tx, key).await;
        };
        let value = self.append(tx, key);
        let schema = &self.clients.schema;
        let update = format!("UPDATE {schema}.lists SET v = '{before},{value}' WHERE k = {key}");
        tx.execute(&update).await.map(|_| ())
    }
}

fn list(rows: &[Row]) -> Vec<u64> {
    rows.first().map(parse_list).unwrap_or_default()
}
