//! Moves money between accounts and looks at all of them: what
//! [`bank`](crate::history::bank) checks.

use super::session::{Failure, Row, Session};
use super::transaction::Tx;
use super::{Client, Clients, Workload};
use crate::history::Isolation;
use crate::history::bank::{Balances, State, Step, Transfer};

/// Accounts in a table `accounts(id, balance)`, and a row for each transfer in
/// `transfers(id, from_account, to_account, amount)`. Balances may become negative.
#[derive(Clone, Copy, Debug)]
pub struct Bank {
    /// How many accounts, at least 2: the fewer, the more conflicts.
    pub accounts: u32,
    /// What each of them holds at first.
    pub balance: i64,
}

impl Default for Bank {
    fn default() -> Self {
        Self { accounts: 10, balance: 100 }
    }
}

impl Workload for Bank {
    type Step = Step;
    type Client = Teller;

    fn initial(&self) -> State {
        State { balances: (0..self.accounts).map(|id| (id, self.balance)).collect(), transfers: Vec::new() }
    }

    fn create(&self, schema: &str) -> Vec<String> {
        let (last, balance) = (i64::from(self.accounts) - 1, self.balance);
        vec![
            format!("CREATE TABLE {schema}.accounts (id bigint PRIMARY KEY, balance bigint NOT NULL)"),
            format!(
                "CREATE TABLE {schema}.transfers (id bigint PRIMARY KEY, \
                 from_account bigint NOT NULL REFERENCES {schema}.accounts, \
                 to_account bigint NOT NULL REFERENCES {schema}.accounts, \
                 amount bigint NOT NULL)"
            ),
            format!("INSERT INTO {schema}.accounts SELECT id, {balance} FROM generate_series(0, {last}) AS id"),
        ]
    }

    fn client(&self, clients: &Clients, random: fastrand::Rng) -> Teller {
        Teller { options: *self, clients: clients.clone(), random }
    }

    async fn read_state(&self, schema: &str, session: &mut Session) -> Result<State, Failure> {
        // One statement, so that it is one snapshot.
        let sql = format!(
            "SELECT id, balance, NULL, NULL FROM {schema}.accounts UNION ALL \
             SELECT id, amount, from_account, to_account FROM {schema}.transfers ORDER BY 1"
        );
        let (rows, _) = session.query(&sql).await?;
        let mut state = State::default();
        for row in &rows {
            let added = match row.get(2) {
                None => account(row).map(|(id, balance)| {
                    state.balances.insert(id, balance);
                }),
                Some(_) => transfer(row).map(|transfer| state.transfers.push(transfer)),
            };
            added.ok_or_else(|| Failure::Unexpected { statement: sql.clone() })?;
        }
        Ok(state)
    }
}

fn account(row: &Row) -> Option<(u32, i64)> {
    Some((row.get(0)?.parse().ok()?, row.get(1)?.parse().ok()?))
}

fn transfer(row: &Row) -> Option<Transfer> {
    Some(Transfer {
        id: row.get(0)?.parse().ok()?,
        amount: row.get(1)?.parse().ok()?,
        from: row.get(2)?.parse().ok()?,
        to: row.get(3)?.parse().ok()?,
    })
}

/// One client of [`Bank`].
#[derive(Debug)]
pub struct Teller {
    options: Bank,
    clients: Clients,
    random: fastrand::Rng,
}

impl Client for Teller {
    type Step = Step;

    async fn perform(&mut self, tx: &mut Tx<'_, Step>) -> Result<(), Failure> {
        match (self.random.u32(..8), self.clients.isolation) {
            (0 | 1, Isolation::RepeatableRead) => self.snapshot_in_parts(tx).await,
            (0..3, _) => self.snapshot(tx).await,
            _ => self.transfer(tx).await,
        }
    }
}

impl Teller {
    fn select(&self, condition: &str) -> String {
        let schema = &self.clients.schema;
        format!("SELECT id, balance FROM {schema}.accounts WHERE {condition}")
    }

    async fn snapshot(&self, tx: &mut Tx<'_, Step>) -> Result<(), Failure> {
        let select = self.select("true");
        let rows = tx.autocommit(&select).await?;
        tx.record(Step::Snapshot(balances(&rows, select)?));
        Ok(())
    }

    /// A snapshot outlives its statement: the other half must match the first.
    async fn snapshot_in_parts(&self, tx: &mut Tx<'_, Step>) -> Result<(), Failure> {
        tx.begin().await?;
        let mut snapshot = Balances::new();
        for half in ["= 0", "<> 0"] {
            let select = self.select(&format!("id % 2 {half}"));
            let rows = tx.query(&select).await?;
            snapshot.extend(balances(&rows, select)?);
        }
        tx.record(Step::Snapshot(snapshot));
        tx.commit().await
    }

    async fn transfer(&mut self, tx: &mut Tx<'_, Step>) -> Result<(), Failure> {
        let accounts = self.options.accounts;
        let from = self.random.u32(..accounts);
        let to = (from + self.random.u32(1..accounts)) % accounts;
        let amount = self.random.i64(1..=10);
        let id = self.clients.next_number();
        tx.record(Step::Transfer(Transfer { id, from, to, amount }));

        tx.begin().await?;
        if self.random.bool() {
            self.move_in_server(tx, from, to, amount).await?;
        } else {
            self.move_in_client(tx, from, to, amount).await?;
        }
        let schema = &self.clients.schema;
        tx.execute(&format!("INSERT INTO {schema}.transfers VALUES ({id}, {from}, {to}, {amount})")).await?;
        tx.commit().await
    }

    async fn move_in_server(&self, tx: &mut Tx<'_, Step>, from: u32, to: u32, amount: i64) -> Result<(), Failure> {
        let schema = &self.clients.schema;
        for (id, change) in [(from, -amount), (to, amount)] {
            let update = format!("UPDATE {schema}.accounts SET balance = balance + {change} WHERE id = {id}");
            tx.execute(&update).await?;
        }
        Ok(())
    }

    /// Writes balances that the client computed from what it read: a lost update
    /// then is money lost. READ COMMITTED needs locks for that.
    async fn move_in_client(&mut self, tx: &mut Tx<'_, Step>, from: u32, to: u32, amount: i64) -> Result<(), Failure> {
        let locks = self.clients.isolation == Isolation::ReadCommitted || self.random.bool();
        let lock = if locks { "FOR UPDATE" } else { "" };
        let schema = self.clients.schema.clone();
        for (id, change) in [(from, -amount), (to, amount)] {
            let select = format!("{} {lock}", self.select(&format!("id = {id}")));
            let rows = tx.query(&select).await?;
            let balance = balances(&rows, select)?.get(&id).copied().unwrap_or_default() + change;
            let update = format!("UPDATE {schema}.accounts SET balance = {balance} WHERE id = {id}");
            tx.execute(&update).await?;
        }
        Ok(())
    }
}

fn balances(rows: &[Row], statement: String) -> Result<Balances, Failure> {
    let balances: Option<Balances> = rows.iter().map(account).collect();
    balances.ok_or(Failure::Unexpected { statement })
}
