//! The table: what the clients read and write.

use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};

use crate::{Error, Node};

pub(crate) const READ: &str = "SELECT filler FROM bench WHERE id = $1";
pub(crate) const WRITE: &str = "UPDATE bench SET value = value + 1 WHERE id = $1 RETURNING value";

/// Rows as wide as pgbench's, with room for new versions beside the old ones.
const CREATE: &str = "CREATE TABLE bench (id int PRIMARY KEY, value bigint NOT NULL, filler char(84) NOT NULL) \
                      WITH (fillfactor = 80)";
const FILL: &str = "INSERT INTO bench SELECT id, 0, 'x' FROM generate_series($1::int, $2::int) AS id";
/// In one transaction; a very large one takes a way of its own through the cluster.
const BATCH_ROWS: i32 = 10_000;

/// How long the last node may take to show everything.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);

/// Makes and fills the table through the first node, waits until all nodes have
/// it, and brings each to rest.
///
/// # Errors
///
/// See [`Error`].
pub async fn prepare(nodes: &[Node], rows: i32) -> Result<(), Error> {
    if let Some(first) = nodes.first() {
        fill(first, rows).await.map_err(failed(first))?;
    }
    expect_sum(nodes, rows, 0).await?;
    for node in nodes {
        let client = connect(node).await.map_err(failed(node))?;
        for statement in ["VACUUM (ANALYZE) bench", "CHECKPOINT"] {
            client.batch_execute(statement).await.map_err(failed(node))?;
        }
    }
    Ok(())
}

async fn fill(node: &Node, rows: i32) -> Result<(), tokio_postgres::Error> {
    let client = connect(node).await?;
    client.batch_execute(CREATE).await?;
    let fill = client.prepare(FILL).await?;
    for (first, last) in batches(rows) {
        client.execute(&fill, &[&first, &last]).await?;
    }
    Ok(())
}

fn batches(rows: i32) -> impl Iterator<Item = (i32, i32)> {
    (0..rows).step_by(BATCH_ROWS.unsigned_abs() as usize).map(move |done| (done + 1, rows.min(done + BATCH_ROWS)))
}

/// Waits until every node holds all rows and `sum` writes to them: every one
/// that a client was told of, and none twice.
pub(crate) async fn expect_sum(nodes: &[Node], rows: i32, sum: i64) -> Result<(), Error> {
    let expected = (i64::from(rows), sum);
    let begun = Instant::now();
    for node in nodes {
        loop {
            let found = contents(node).await;
            if found.as_ref().is_ok_and(|found| *found == expected) {
                break;
            }
            if begun.elapsed() > PATIENCE {
                let found = found.map_err(failed(node))?;
                let text = |(rows, writes)| format!("{rows} rows and {writes} writes");
                let (found, expected) = (text(found), text(expected));
                return Err(Error::Wrong { node: node.name.clone(), found, expected, waited: PATIENCE });
            }
            tokio::time::sleep(POLL).await;
        }
    }
    Ok(())
}

async fn contents(node: &Node) -> Result<(i64, i64), tokio_postgres::Error> {
    let client = connect(node).await?;
    let row = client.query_one("SELECT count(*), coalesce(sum(value), 0)::bigint FROM bench", &[]).await?;
    Ok((row.get(0), row.get(1)))
}

/// A session on a node.
pub(crate) async fn connect(node: &Node) -> Result<Client, tokio_postgres::Error> {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(node.postgres_port).user("postgres").dbname("postgres");
    config.application_name("pgrenga bench").connect_timeout(Duration::from_secs(10));
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

pub(crate) fn failed(node: &Node) -> impl FnOnce(tokio_postgres::Error) -> Error {
    let node = node.name.clone();
    |source| Error::Node { node, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_cover_every_row_once() {
        let all: Vec<_> = batches(25_000).collect();
        assert_eq!(all, [(1, 10_000), (10_001, 20_000), (20_001, 25_000)]);
        assert_eq!(batches(1).collect::<Vec<_>>(), [(1, 1)]);
    }
}
