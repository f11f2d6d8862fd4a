//! Transaction mode: many sessions share few connections, and each has what is its own.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use pgrenga_testkit::cluster::Cluster;
use tokio_postgres::Client;

use crate::{CLUSTER, connect};

const PATIENCE: Duration = Duration::from_secs(60);
const CONNECTIONS_PER_NODE: usize = 2;
const CLIENTS: i32 = 10;
const ROUNDS: i64 = 5;

/// The balancer reads that.
fn configure(cluster: &Cluster, text: &str) -> Result<()> {
    std::fs::write(cluster.dir().join("balancer.toml"), text)?;
    cluster.balancer_pid().context("the balancer runs")?.signal(Signal::SIGHUP);
    Ok(())
}

/// More sessions than there are connections.
async fn sessions(cluster: &Cluster) -> Result<Vec<Client>> {
    let begun = Instant::now();
    loop {
        let (mut sessions, mut servers) = (Vec::new(), BTreeSet::new());
        for _ in 0..CLIENTS {
            sessions.push(connect(cluster).await?);
        }
        for session in &sessions {
            let row = session.query_one("SELECT inet_server_port(), pg_backend_pid()", &[]).await?;
            servers.insert((row.get::<_, i32>(0), row.get::<_, i32>(1)));
        }
        if servers.len() <= cluster.len() * CONNECTIONS_PER_NODE {
            return Ok(sessions);
        }
        // It has not read its configuration yet.
        ensure!(begun.elapsed() < PATIENCE, "{servers:?}");
    }
}

/// Sets, writes and reads, and sees what it has done itself.
async fn work(session: Client, own: i32) -> Result<()> {
    session.batch_execute(&format!("SET my.tenant = '{own}'; PREPARE who AS SELECT {own}")).await?;
    let insert = session.prepare("INSERT INTO pooled.t VALUES ($1, $2)").await?;
    let count =
        session.prepare("SELECT count(*), current_setting('my.tenant') FROM pooled.t WHERE client = $1").await?;
    for round in 1..=ROUNDS {
        session.execute(&insert, &[&own, &round]).await?;
        let row = session.query_one(&count, &[&own]).await?;
        let (rows, tenant): (i64, &str) = (row.get(0), row.get(1));
        ensure!((rows, tenant) == (round, &*own.to_string()), "client {own}: {rows} rows, not {round}, of {tenant}");
        let told = session.simple_query("EXECUTE who").await?;
        let is_own = |message: &tokio_postgres::SimpleQueryMessage| matches!(message, tokio_postgres::SimpleQueryMessage::Row(row) if row.get(0) == Some(&*own.to_string()));
        ensure!(told.iter().any(is_own), "client {own}: {told:?}");
    }
    Ok(())
}

#[test]
fn few_connections_serve_many_sessions_each_with_what_is_its_own() {
    CLUSTER.test(async |cluster| -> Result<()> {
        let before = std::fs::read_to_string(cluster.dir().join("balancer.toml"))?;
        cluster
            .connect(0)
            .await?
            .batch_execute(
                "CREATE SCHEMA pooled; CREATE TABLE pooled.t (client int, round bigint, PRIMARY KEY (client, round))",
            )
            .await?;
        cluster.settle().await?;
        configure(
            cluster,
            &format!(
                "pool_mode = \"transaction\"\n{before}\n[limits]\nmax_sessions_per_node = {CONNECTIONS_PER_NODE}\n"
            ),
        )?;
        let result = share(cluster).await;
        configure(cluster, &before)?;
        result
    });
}

async fn share(cluster: &Cluster) -> Result<()> {
    let mut sessions = sessions(cluster).await?;
    let (first, second) = (sessions.pop().context("a session")?, sessions.pop().context("a session")?);
    // It stays where its table is, which nobody else sees.
    first.batch_execute("CREATE TEMPORARY TABLE own (id int)").await?;
    let working: Vec<_> =
        sessions.into_iter().zip(0..).map(|(session, own)| tokio::spawn(work(session, own))).collect();
    for client in working {
        client.await??;
    }
    first.batch_execute("INSERT INTO own VALUES (1)").await?;
    let foreign = "SELECT to_regclass('pg_temp.own')::text, current_setting('my.tenant', true), \
        (SELECT count(*) FROM pg_prepared_statements WHERE name <> '')";
    for _ in 0..ROUNDS {
        let row = second.query_one(foreign, &[]).await?;
        let seen: (Option<&str>, Option<&str>) = (row.get(0), row.get(1));
        ensure!(seen == (None, None) || seen == (None, Some("")), "{seen:?}");
        // Its own, under the driver's name for it.
        ensure!(row.get::<_, i64>(2) <= 1, "{row:?}");
    }
    Ok(())
}
