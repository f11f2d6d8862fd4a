//! Runs a script's sessions, each on its node, and counts what they were told.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Result, ensure};
use pgrenga_testkit::cluster::Cluster;
use pgrenga_testkit::random::{Script, Step, Transaction};
use pgrenga_testkit::workload::{Failure, Session};

use crate::everywhere::NODES;

/// Long for any statement here, waits for other sessions included.
const PATIENCE: Duration = Duration::from_secs(60);

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Tally {
    committed: usize,
    attempted: usize,
    failures: BTreeMap<String, usize>,
    /// What nobody should have been told.
    findings: Vec<String>,
}

impl Tally {
    /// Fails if something came out that should not.
    pub(super) fn check(&self) -> Result<()> {
        ensure!(self.findings.is_empty(), "{}", self.findings.join("\n"));
        ensure!(self.committed * 4 > self.attempted, "only {} of {} were committed", self.committed, self.attempted);
        Ok(())
    }

    fn add(&mut self, other: Self) {
        self.committed += other.committed;
        self.attempted += other.attempted;
        self.findings.extend(other.findings);
        for (what, count) in other.failures {
            *self.failures.entry(what).or_default() += count;
        }
    }

    fn failed(&mut self, sql: &str, failure: &Failure, is_definition: bool) {
        let what = match failure {
            Failure::Server { code, message, .. } if code.code() == "0A000" => format!("0A000 {message}"),
            Failure::Server { code, is_fatal, .. } => {
                format!("{}{}", if *is_fatal { "fatal " } else { "" }, code.code())
            }
            Failure::Lost(_) => "lost".to_owned(),
            other => other.to_string(),
        };
        *self.failures.entry(what).or_default() += 1;
        if !is_expected(failure, is_definition) {
            self.findings.push(format!("{failure}\n    {sql}"));
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} transactions committed; {:?}", self.committed, self.attempted, self.failures)
    }
}

/// What PostgreSQL alone would tell a client whose data is as random as this, and conflicts.
fn is_expected(failure: &Failure, is_definition: bool) -> bool {
    match failure {
        // By the server that ends it, while it idles in another node's way.
        Failure::Lost(_) => true,
        Failure::Server { code, is_fatal: true, .. } => code.code() == "40001",
        Failure::Server { code, message, .. } => {
            let class = &code.code()[..2];
            matches!(class, "40" | "21" | "22" | "23" | "27" | "44" | "P0")
                || matches!(code.code(), "55P03" | "08007")
                // Somebody else has changed, dropped or used it meanwhile.
                || is_definition && (matches!(class, "42" | "2B") || matches!(code.code(), "55006" | "55000"))
                || is_documented(code.code(), message)
        }
        Failure::Patience(_) | Failure::Unexpected { .. } => false,
    }
}

/// What PostgreSQL itself does not do, and refusals of docs/sql-support.md.
fn is_documented(code: &str, message: &str) -> bool {
    const DOCUMENTED: [(&str, &str); 4] = [
        ("0A000", "a table was written while ALTER TABLE made its rows anew"),
        // SET DEFAULT and SET NULL would move a row to another partition.
        ("0A000", "invalid ON UPDATE specification"),
        ("0A000", "cannot truncate a table referenced in a foreign key constraint"),
        ("55000", "ON CONFLICT does not support deferrable"),
    ];
    DOCUMENTED.iter().any(|known| code == known.0 && message.starts_with(known.1))
}

/// Runs all sessions at the same time.
pub(super) async fn run(cluster: &Cluster, script: &Script) -> Tally {
    let sessions = script.sessions.iter().enumerate().map(async |(at, transactions)| {
        let mut config = cluster.configs()[at % NODES].clone();
        config.options(format!("-c search_path={}", script.schema));
        let mut runner = Runner { session: Session::new(&config, PATIENCE), tally: Tally::default() };
        for transaction in transactions {
            runner.transaction(transaction).await;
        }
        runner.tally
    });
    let mut all = Tally::default();
    futures::future::join_all(sessions).await.into_iter().for_each(|tally| all.add(tally));
    all
}

struct Runner {
    session: Session,
    tally: Tally,
}

/// The transaction cannot go on.
struct Over;

impl Runner {
    async fn transaction(&mut self, transaction: &Transaction) {
        self.tally.attempted += 1;
        if let Err(failure) = self.session.connect().await {
            return self.tally.findings.push(format!("{failure}, while connecting"));
        }
        let done = async {
            self.run(transaction.begin, false).await?;
            self.steps(&transaction.steps).await?;
            self.run(if transaction.commits { "COMMIT" } else { "ROLLBACK" }, true).await
        };
        match done.await {
            Ok(()) => self.tally.committed += usize::from(transaction.commits),
            // It may have ended with the error, or with the session.
            Err(Over) => _ = self.session.query("ROLLBACK").await,
        }
    }

    async fn steps(&mut self, steps: &[Step]) -> Result<(), Over> {
        for step in steps {
            match step {
                Step::Rows(sql) => self.run(sql, false).await?,
                Step::Definition(sql) => self.run(sql, true).await?,
                Step::Copy(sql, data) => {
                    let result = self.session.copy_in(sql, data).await;
                    self.check(sql, result, false)?;
                }
                Step::Savepoint(steps, keeps) => {
                    self.run("SAVEPOINT s", false).await?;
                    let kept = Box::pin(self.steps(steps)).await.is_ok() && *keeps;
                    self.run(if kept { "RELEASE s" } else { "ROLLBACK TO s; RELEASE s" }, false).await?;
                }
            }
        }
        Ok(())
    }

    async fn run(&mut self, sql: &str, is_definition: bool) -> Result<(), Over> {
        let result = self.session.query(sql).await;
        self.check(sql, result, is_definition)
    }

    fn check<T>(&mut self, sql: &str, result: Result<T, Failure>, is_definition: bool) -> Result<(), Over> {
        result.map(|_| ()).map_err(|failure| {
            self.tally.failed(sql, &failure, is_definition);
            Over
        })
    }
}
