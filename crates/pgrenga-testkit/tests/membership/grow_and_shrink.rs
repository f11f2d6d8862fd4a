//! The promise: while clients write on all nodes, a cluster grows from three nodes to five and
//! shrinks to three again. Nothing is lost or there twice, and no client of a node that stays sees
//! any error but 40001.

use std::time::Duration;

use anyhow::ensure;
use pgrenga_testkit::history::{Isolation, Outcome, bank};
use pgrenga_testkit::workload::{Bank, Config, Stop, drive, finish, setup};

use crate::CLUSTER;

const CLIENTS: u32 = 8;
const PATIENCE: Duration = Duration::from_secs(60);
const STAY: u32 = 3;

#[test]
fn three_five_three() {
    CLUSTER.test(async |cluster| {
        let (money, stop) = (Bank { accounts: 50, balance: 100 }, Stop::default());
        let config = Config {
            clients: CLIENTS,
            isolation: Isolation::ReadCommitted,
            elapsed_max: Duration::from_secs(300),
            patience: Duration::from_secs(15),
            schema: "grow".to_owned(),
            ..Config::default()
        };
        let three = cluster.configs();
        setup(&money, &three, &config).await?;
        // Clients of nodes that are not there yet try until they are.
        let newcomers = [cluster.plan_another()?, cluster.plan_another()?];
        let all = three.iter().cloned().chain(newcomers.iter().map(|newcomer| newcomer.postgres()));
        let all: Vec<_> = all.collect();
        let change = async {
            let changed = async || {
                // At once, and through different nodes: both might be given the same id.
                let joins = [cluster.begin_join(&newcomers[0], 0)?, cluster.begin_join(&newcomers[1], 1)?];
                for (newcomer, mut join) in newcomers.into_iter().zip(joins) {
                    let status = tokio::task::block_in_place(|| join.wait())?;
                    ensure!(status.success(), "{}", cluster.join_output(&newcomer));
                    cluster.start_joined(newcomer)?;
                }
                cluster.wait_until("five nodes serve and vote", PATIENCE, |status| all_serve(status, 5)).await?;
                tokio::time::sleep(Duration::from_secs(2)).await;
                let verdict = cluster.verify().await?;
                ensure!(verdict.exit_code == 0, "of five: {}", verdict.output);
                for _ in 0..2 {
                    cluster.remove(3, PATIENCE).await?;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Ok(())
            };
            let changed = changed().await;
            stop.request();
            changed
        };
        let (history, changed) = tokio::join!(drive(&money, &all, &config, &stop), change);
        changed?;
        let mut history = history?;
        finish(&money, &three, &config, &mut history).await;
        let report = bank::check(&history)?;
        ensure!(report.is_clean(), "{report}");
        for node in 0..5 {
            let here = history.transactions.iter().filter(|tx| tx.node.0 == node);
            let acknowledged = here.filter(|tx| tx.outcome == Outcome::Committed).count();
            ensure!(acknowledged > 20, "only {acknowledged} transactions were acknowledged on node {node}");
        }
        let stay = history.transactions.iter().filter(|tx| tx.node.0 < STAY);
        let errors = stay.filter_map(|tx| tx.error.as_deref());
        let complaints: Vec<&str> = errors.filter(|error| !error.contains("(40001)")).collect();
        ensure!(complaints.is_empty(), "{complaints:?}");
        let verdict = cluster.verify().await?;
        ensure!(verdict.exit_code == 0, "{}", verdict.output);
        Ok(())
    });
}

pub(crate) fn all_serve(status: &serde_json::Value, count: usize) -> bool {
    let nodes = status["nodes"].as_array().map_or(&[][..], Vec::as_slice);
    nodes.len() == count && nodes.iter().all(|node| node["state"] == "serving")
}
