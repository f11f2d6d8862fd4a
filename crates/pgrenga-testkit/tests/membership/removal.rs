//! The promise: any node can be taken out while the cluster works, the leader too, and whether it answers
//! or not; it ends by itself, and never below what the rest needs.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use pgrenga_testkit::cluster::{Cluster, Part};
use tokio_postgres::NoTls;

use crate::CLUSTER;
use crate::failover::leader;
use crate::grow_and_shrink::all_serve;

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn down_to_one_node_and_the_leader_first() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut cluster = Cluster::start(3).await?;
        cluster.execute(0, "CREATE TABLE t (id serial PRIMARY KEY)").await?;
        cluster.settle().await?;
        for left in [2, 1] {
            remove_leader(&mut cluster, left).await?;
        }
        let (code, _, errors) = cluster.run(&["remove", &cluster.name(0)]).await?;
        ensure!(code != 0 && errors.contains("is the last voter"), "{errors}");

        let donor: usize = cluster.name(0).trim_start_matches('n').parse()?;
        let newcomer = cluster.plan_another()?;
        let mut join = cluster.begin_join(&newcomer, donor - 1)?;
        ensure!(tokio::task::block_in_place(|| join.wait())?.success(), "{}", cluster.join_output(&newcomer));
        let newcomer = cluster.start_joined(newcomer)?;
        cluster.wait_until("two nodes serve", PATIENCE, |status| all_serve(status, 2)).await?;
        cluster.execute(newcomer, "INSERT INTO t DEFAULT VALUES").await?;
        let verdict = cluster.verify().await?;
        ensure!(verdict.exit_code == 0, "{}", verdict.output);
        let rows: i64 = cluster.connect(newcomer).await?.query_one("SELECT count(*) FROM t", &[]).await?.get(0);
        ensure!(rows == 1 + 2 + 1, "{rows} rows");
        Ok(())
    })
}

/// The others write at once, and it ends.
async fn remove_leader(cluster: &mut Cluster, left: usize) -> Result<()> {
    let gone = leader(cluster).await?;
    let session = cluster.connect(gone).await?;
    let processes = [Part::Daemon, Part::Postgres].map(|part| cluster.pid(gone, part));
    let others = cluster.configs().into_iter().enumerate().filter(|(node, _)| *node != gone);
    let others: Vec<_> = others.map(|(_, config)| config).collect();
    let (code, output, errors) = cluster.run(&["remove", &cluster.name(gone)]).await?;
    ensure!(code == 0, "{output}{errors}");
    let begun = Instant::now();
    for other in others {
        let (client, connection) = other.connect(NoTls).await?;
        tokio::spawn(connection);
        client.batch_execute("INSERT INTO t DEFAULT VALUES").await.context("after the leader was removed")?;
    }
    ensure!(begun.elapsed() < Duration::from_secs(2), "writes took {:?}", begun.elapsed());
    for process in processes.into_iter().flatten() {
        ensure!(tokio::task::block_in_place(|| process.wait_gone(PATIENCE)), "the removed node runs on");
    }
    ensure!(session.batch_execute("INSERT INTO t DEFAULT VALUES").await.is_err(), "the removed node takes writes");
    cluster.wait_until("it is gone", PATIENCE, |status| all_serve(status, left) && cluster.len() == left).await?;
    Ok(())
}

#[test]
fn a_node_that_hung_when_it_was_removed_hears_of_it() {
    CLUSTER.test(async |cluster| {
        cluster.execute(0, "CREATE TABLE hung AS SELECT 1 AS x WITH NO DATA").await?;
        let node = cluster.join_another(0).await?;
        cluster.wait_until("four nodes serve", PATIENCE, |status| all_serve(status, 4)).await?;
        let session = cluster.connect(node).await?;
        ensure!(cluster.signal(node, Part::Daemon, Signal::SIGSTOP));
        let (code, output, errors) = cluster.run(&["remove", &cluster.name(node)]).await?;
        ensure!(code == 0, "{output}{errors}");
        cluster.execute(0, "INSERT INTO hung VALUES (1)").await?;
        // Handed over while nobody takes it, and void.
        let write = tokio::spawn(async move { session.batch_execute("INSERT INTO hung VALUES (2)").await });
        tokio::time::sleep(Duration::from_millis(500)).await;
        ensure!(cluster.signal(node, Part::Daemon, Signal::SIGCONT));
        cluster.forget(node, PATIENCE)?;
        ensure!(write.await?.is_err(), "a removed node's write was acknowledged");
        ensure!(cluster.ask_all("SELECT count(*) FROM hung").await? == ["(1)"; 3]);
        Ok(())
    });
}
