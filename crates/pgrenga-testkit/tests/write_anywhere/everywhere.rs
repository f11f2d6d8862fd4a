//! Questions to all nodes at once, and errors as tests look at them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use pgrenga_testkit::cluster::Cluster;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::error::DbError;
use tokio_postgres::{AsyncMessage, Client, NoTls, SimpleQueryMessage};

pub(crate) const NODES: usize = 3;

/// Runs a script on a node, one statement after the other. Bodies between `$$`
/// are kept whole.
pub(crate) async fn run(cluster: &Cluster, node: usize, script: &str) -> Result<()> {
    let mut statements = vec![String::new()];
    for (number, piece) in script.split("$$").enumerate() {
        let last = statements.len() - 1;
        if number % 2 == 1 {
            statements[last] += &format!("$${piece}$$");
        } else {
            let mut parts = piece.split(';').map(str::to_owned);
            statements[last] += &parts.next().unwrap_or_default();
            statements.extend(parts);
        }
    }
    let session = cluster.connect(node).await?;
    for statement in statements {
        session.batch_execute(&statement).await.with_context(|| format!("node {node}: {}", statement.trim()))?;
    }
    Ok(())
}

/// A query's answer as text, one row a line, which must be the same on all nodes.
pub(crate) async fn same(cluster: &Cluster, sql: &str) -> Result<String> {
    cluster.settle().await?;
    let mut answers = Vec::new();
    for node in 0..NODES {
        let session = cluster.connect(node).await?;
        answers.push(ask(&session, sql).await.with_context(|| format!("node {node}: {sql}"))?);
    }
    let first = answers.swap_remove(0);
    for answer in answers {
        ensure!(answer == first, "{sql}: nodes differ:\n{first}\nand\n{answer}");
    }
    Ok(first)
}

/// A query's answer as text: rows by line feeds, columns by bars.
pub(crate) async fn ask(session: &Client, sql: &str) -> Result<String> {
    let mut rows = Vec::new();
    for message in session.simple_query(sql).await? {
        if let SimpleQueryMessage::Row(row) = message {
            let columns: Vec<&str> = (0..row.len()).map(|column| row.get(column).unwrap_or("NULL")).collect();
            rows.push(columns.join("|"));
        }
    }
    Ok(rows.join("\n"))
}

/// Runs a statement and gives the notices that came with it.
pub(crate) async fn notices(cluster: &Cluster, node: usize, sql: &str) -> Result<Vec<String>> {
    let (session, mut connection) = cluster.configs()[node].connect(NoTls).await?;
    let (sender, mut received) = mpsc::unbounded_channel();
    let reader = tokio::spawn(async move {
        let mut messages = futures::stream::poll_fn(move |context| connection.poll_message(context));
        while let Some(Ok(message)) = messages.next().await {
            if let AsyncMessage::Notice(notice) = message {
                let _ = sender.send(notice.message().to_owned());
            }
        }
    });
    session.batch_execute(sql).await?;
    drop(session);
    reader.await?;
    Ok(std::iter::from_fn(|| received.try_recv().ok()).collect())
}

/// What the server said. A connection that it closed without a word is no answer.
pub(crate) fn said(error: &tokio_postgres::Error) -> Result<&DbError> {
    error.as_db_error().with_context(|| format!("not an answer of the server: {error:?}"))
}

/// The SQLSTATE of an error; nothing for success.
pub(crate) fn sqlstate<T>(result: &Result<T, tokio_postgres::Error>) -> Option<String> {
    let error = result.as_ref().err()?;
    Some(error.code().map_or_else(|| format!("{error:?}"), |code| code.code().to_owned()))
}

/// Runs statements until they are not in conflict with others any more, as
/// applications do. Returns how often they were.
pub(crate) async fn retry(session: &Client, sql: &str) -> Result<u32> {
    for conflicts in 0..10_000 {
        match sqlstate(&session.batch_execute(sql).await).as_deref() {
            None => return Ok(conflicts),
            Some("40001" | "40P01") => session.batch_execute("ROLLBACK").await?,
            Some(other) => anyhow::bail!("{sql}: {other}"),
        }
    }
    anyhow::bail!("{sql}: in conflict for ever")
}

/// Runs statements on a node again and again, until `stop`.
pub(crate) async fn repeat(cluster: &Cluster, node: usize, sql: &str, stop: &AtomicBool) -> Result<()> {
    let session = cluster.connect(node).await?;
    while !stop.load(Ordering::Relaxed) {
        retry(&session, sql).await?;
    }
    Ok(())
}

/// What a definition is told if its node was taken for gone, as on a machine with far too much to do.
pub(crate) const FENCE_LOST: &str = "the transaction lost the DDL fence";

/// Runs definitions, which are in conflict with nothing; again if their fence was lifted.
pub(crate) async fn define(session: &Client, sql: &str) -> Result<()> {
    loop {
        match session.batch_execute(sql).await {
            Err(error) if said(&error)?.message() == FENCE_LOST => session.batch_execute("ROLLBACK").await?,
            result => return result.with_context(|| sql.to_owned()),
        }
    }
}

/// Fails if it takes longer than that.
pub(crate) async fn within<T>(limit: Duration, what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(limit, work).await.with_context(|| format!("{what}: not within {limit:?}"))?
}

/// A session that the server may end while it idles.
pub(crate) struct Doomed {
    client: Client,
    connection: JoinHandle<Result<(), tokio_postgres::Error>>,
}

impl Doomed {
    /// Runs statements on a node and idles.
    pub(crate) async fn after(cluster: &Cluster, node: usize, sql: &str) -> Result<Self> {
        let (client, connection) = cluster.configs()[node].connect(NoTls).await?;
        let doomed = Self { client, connection: tokio::spawn(connection) };
        doomed.client.batch_execute(sql).await?;
        Ok(doomed)
    }

    /// What it is told when it ends, at the latest when it runs this.
    pub(crate) async fn fate(self, sql: &str) -> Result<DbError> {
        let Err(error) = self.client.batch_execute(sql).await else { anyhow::bail!("{sql}: it was not ended") };
        if !error.is_closed() {
            return said(&error).cloned();
        }
        let error = self.connection.await?.err().context("the connection ended without an error")?;
        said(&error).cloned()
    }
}
