//! The promise: wherever on its way a write is cut off, it is on all nodes or
//! on none, and once it is ordered it is on all, applied exactly once.

mod known;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pgrenga_testkit::cluster::{Cluster, Error, Shared};
use pgrenga_writeset::TransactionId;

static CLUSTER: Shared = Shared::new(3);

/// Where the cut writes begin.
const NODE: usize = 1;
const RECOVERY: Duration = Duration::from_secs(60);
/// What no client may take for "nothing happened, try again".
const UNKNOWN: &str = "08007";

/// What must have become of the write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Nowhere,
    Anything,
    Everywhere,
}

/// A counter that no transaction gets.
const NEVER: u64 = 1 << 50;

/// Whether the session hears an error, or its server is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Error,
    Silence,
}

/// Inserts `id` with the failpoint set; gives the transaction's name, if the
/// session heard it.
async fn cut_off(cluster: &Cluster, failpoint: &str, id: i32, answer: Answer) -> Result<Option<TransactionId>> {
    let session = cluster.connect(NODE).await?;
    session.batch_execute(&format!("SET pgrenga.failpoint = '{failpoint}'")).await?;
    let error = session
        .batch_execute(&format!("INSERT INTO failpoints.t VALUES ({id})"))
        .await
        .err()
        .with_context(|| format!("{failpoint}: the write succeeded"))?;
    let code = error.code().map(|code| code.code().to_owned());
    match answer {
        Answer::Error => ensure!(code.as_deref() == Some(UNKNOWN), "{failpoint}: {error:?}"),
        Answer::Silence => ensure!(code.as_deref() != Some("40001"), "{failpoint}: {error:?}"),
    }
    let name = |detail: &str| detail.strip_prefix("Transaction ")?.split_once(' ')?.0.parse().ok();
    let txid = error.as_db_error().and_then(|error| error.detail()).and_then(name);
    ensure!(txid.is_some() == (answer == Answer::Error), "{failpoint}: the transaction is not named: {error:?}");
    Ok(txid)
}

/// What all nodes say of a transaction, though most of them were never told of it.
async fn is_everywhere(cluster: &Cluster, txid: TransactionId, status: &str) -> Result<()> {
    let told = cluster.ask_all(&format!("SELECT pgrenga.transaction_status('{txid}')")).await?;
    let expected = if status.contains(' ') { format!("(\"{status}\")") } else { format!("({status})") };
    ensure!(told.iter().all(|told| *told == expected), "{txid} is {status}, and the nodes say {told:?}");
    Ok(())
}

/// Runs a statement on the node whose server crashed. Its state is told up to a
/// tenth of a second late, so "serving" may still be that of before the crash.
async fn write_once_it_is_back(cluster: &Cluster, sql: &str) -> Result<()> {
    let begun = Instant::now();
    loop {
        cluster.wait_serving(RECOVERY).await?;
        match cluster.execute(NODE, sql).await {
            Err(Error::Postgres(error)) if begun.elapsed() < RECOVERY && is_down(&error) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            result => return result.context("the node serves but does not accept writes"),
        }
    }
}

/// Whether the server refused the session because it crashes, or is recovering.
fn is_down(error: &tokio_postgres::Error) -> bool {
    error.code().is_none_or(|code| ["57P02", "57P03"].contains(&code.code()))
}

/// All nodes must say the same: how many rows have this id.
async fn copies(cluster: &Cluster, id: i32) -> Result<String> {
    write_once_it_is_back(cluster, &format!("INSERT INTO failpoints.t VALUES ({})", 1000 + id)).await?;
    cluster.settle().await?;
    let counts = cluster.ask_all(&format!("SELECT count(*) FROM failpoints.t WHERE id = {id}")).await?;
    ensure!(counts.iter().all(|count| count == &counts[0]), "id {id}: {counts:?}");
    Ok(counts[0].clone())
}

#[test]
fn a_write_that_is_cut_off_is_on_all_nodes_or_on_none() {
    CLUSTER.test(async |cluster| {
        // Without a primary key: applied twice, it would be there twice.
        cluster.execute(NODE, "CREATE SCHEMA failpoints; CREATE TABLE failpoints.t (id int)").await?;
        let places = [
            ("captured_kill", Answer::Silence, Fate::Nowhere),
            ("submitted_kill", Answer::Silence, Fate::Anything),
            ("ordered_kill", Answer::Silence, Fate::Everywhere),
            ("ordered_error", Answer::Error, Fate::Everywhere),
            ("committing_kill", Answer::Silence, Fate::Everywhere),
            ("committing_error", Answer::Error, Fate::Everywhere),
            ("committed_kill", Answer::Silence, Fate::Everywhere),
            ("visible_kill", Answer::Silence, Fate::Everywhere),
        ];
        let mut named = Vec::new();
        for (id, (failpoint, answer, fate)) in (1..).zip(places) {
            if let Some(txid) = cut_off(cluster, failpoint, id, answer).await? {
                is_everywhere(cluster, txid, "committed").await?;
                // One of the same life that was not handed over yet.
                is_everywhere(cluster, TransactionId { counter: NEVER, ..txid }, "in progress").await?;
                named.push(txid);
            }
            let copies = copies(cluster, id).await?;
            let is_right = match fate {
                Fate::Nowhere => copies == "(0)",
                Fate::Anything => copies == "(0)" || copies == "(1)",
                Fate::Everywhere => copies == "(1)",
            };
            ensure!(is_right, "{failpoint}: expected {fate:?}, found {copies} on each node");
        }
        // Their lives are over.
        for txid in named {
            is_everywhere(cluster, txid, "committed").await?;
            is_everywhere(cluster, TransactionId { counter: NEVER, ..txid }, "aborted").await?;
        }
        let verdict = cluster.verify().await?;
        ensure!(verdict.exit_code == 0, "{}", verdict.output);
        anyhow::Ok(())
    });
}

/// What a statement makes of rows is made again in the place of a session, or of a
/// server, that did not get to commit it: from the log, not by running it again.
#[test]
fn rows_that_statements_made_outlive_the_session_that_made_them() {
    CLUSTER.test(async |cluster| {
        let setup = "CREATE SCHEMA remade; CREATE TABLE remade.t (id int PRIMARY KEY, x text);
            INSERT INTO remade.t SELECT i, repeat('x', 10 * i) FROM generate_series(1, 500) AS i; CREATE TABLE remade.marks (id int);
            CREATE MATERIALIZED VIEW remade.v AS SELECT *, random() AS r FROM remade.t; CREATE UNIQUE INDEX ON remade.v (id)";
        cluster.execute(NODE, setup).await?;
        cluster.settle().await?;
        let statements = [
            ("ordered_kill", "CREATE TABLE remade.made AS SELECT *, random() AS r, pg_backend_pid() AS pid FROM remade.t"),
            ("committing_kill", "REFRESH MATERIALIZED VIEW remade.v"),
            ("ordered_error", "ALTER TABLE remade.t ADD COLUMN r float DEFAULT random(), ADD COLUMN n serial"),
            ("committed_kill", "ALTER TABLE remade.t ADD COLUMN at timestamptz NOT NULL DEFAULT now()"),
            ("ordered_error", "REFRESH MATERIALIZED VIEW CONCURRENTLY remade.v"),
        ];
        let content = "SELECT md5(string_agg(v::text, ' ' ORDER BY v.id)) FROM remade.v AS v";
        let before = cluster.ask_all(content).await?;
        for (number, (failpoint, statement)) in statements.iter().enumerate() {
            let session = cluster.connect(NODE).await?;
            session.batch_execute(&format!("SET pgrenga.failpoint = '{failpoint}'")).await?;
            let result = session.batch_execute(statement).await;
            ensure!(result.is_err(), "{failpoint}: {statement} succeeded");
            write_once_it_is_back(cluster, &format!("INSERT INTO remade.marks VALUES ({number})")).await?;
        }
        cluster.settle().await?;
        let rows = "SELECT (SELECT count(DISTINCT r) FROM remade.made), (SELECT count(DISTINCT r) FROM remade.t),
            (SELECT max(n) FROM remade.t), (SELECT count(DISTINCT at) FROM remade.t), (SELECT count(*) FROM remade.v)";
        let rows = cluster.ask_all(rows).await?;
        ensure!(rows.iter().all(|row| row == "(500,500,500,1,500)"), "{rows:?}");
        let after = cluster.ask_all(content).await?;
        ensure!(after.iter().all(|content| *content == after[0]) && after[0] != before[0], "{before:?} {after:?}");
        let verdict = cluster.verify().await?;
        ensure!(verdict.exit_code == 0, "{}", verdict.output);
        anyhow::Ok(())
    });
}
