//! The promise: when a majority's disks are lost for good, one node can go on with what it has, as a
//! cluster of its own, to which others join anew; and no member of the old one comes back by accident.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pgrenga_testkit::cluster::{Alone, Cluster};
use pgrenga_testkit::history::{Isolation, Outcome};
use pgrenga_testkit::workload::{Bank, Config, Stop, drive, setup};

const PATIENCE: Duration = Duration::from_secs(60);
const LOAD: Duration = Duration::from_secs(3);
const SURVIVOR: usize = 0;

#[test]
fn one_node_goes_on_when_the_others_are_lost() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut cluster = Cluster::start(3).await?;
        cluster.execute(1, "CREATE TABLE kept (id serial PRIMARY KEY); INSERT INTO kept DEFAULT VALUES").await?;
        cluster.settle().await?;
        let money = load_and_kill(&mut cluster).await?;
        let away = lose_the_others(&cluster)?;

        recover(&cluster).await?;
        let _survivor = cluster.start_alone(SURVIVOR)?;
        cluster.wait_until("the survivor serves alone", PATIENCE, |status| serving(status, 1)).await?;
        let session = cluster.connect(SURVIVOR).await?;
        let now: i64 = session.query_one("SELECT sum(balance)::bigint FROM bank.accounts", &[]).await?.get(0);
        ensure!(now == money, "the bank holds {now}, not {money}");
        session.batch_execute("INSERT INTO kept DEFAULT VALUES").await?;
        drop(session);

        an_old_member_is_turned_away(&cluster, &away).await?;
        for nodes in [2, 3] {
            cluster.join_another(SURVIVOR).await?;
            let what = format!("{nodes} nodes serve");
            cluster.wait_until(&what, PATIENCE, |status| serving(status, nodes)).await?;
        }
        for node in 0..3 {
            cluster
                .execute(node, "INSERT INTO kept DEFAULT VALUES")
                .await
                .with_context(|| format!("on node {node}"))?;
        }
        cluster.settle().await?;
        let rows = cluster.ask_all("SELECT count(*) FROM kept").await?;
        ensure!(rows.iter().all(|count| count == "(5)"), "{rows:?}");
        let verdict = cluster.verify().await?;
        ensure!(verdict.exit_code == 0, "{}", verdict.output);
        Ok(())
    })
}

fn serving(status: &serde_json::Value, count: usize) -> bool {
    let nodes = status["nodes"].as_array().map_or(&[][..], Vec::as_slice);
    nodes.len() == count && nodes.iter().all(|node| node["state"] == "serving")
}

/// Every process ends while transactions are under way. Tells what the bank must hold.
async fn load_and_kill(cluster: &mut Cluster) -> Result<i64> {
    let nodes = cluster.configs();
    let bank = Bank::default();
    let config = Config {
        clients: 6,
        isolation: Isolation::RepeatableRead,
        elapsed_max: LOAD * 2,
        patience: Duration::from_secs(2),
        schema: "bank".to_owned(),
        ..Config::default()
    };
    setup(&bank, &nodes, &config).await?;
    cluster.settle().await?;
    let session = cluster.connect(0).await?;
    let money = session.query_one("SELECT sum(balance)::bigint FROM bank.accounts", &[]).await?.get(0);
    drop(session);
    let stop = Stop::default();
    let kill = async {
        tokio::time::sleep(LOAD).await;
        cluster.kill_everything();
        stop.request();
    };
    let (history, ()) = tokio::join!(drive(&bank, &nodes, &config, &stop), kill);
    let acknowledged = history?.count(Outcome::Committed);
    ensure!(acknowledged > 50, "{acknowledged} were acknowledged");
    Ok(money)
}

/// One is gone; the other's disk will turn up again.
fn lose_the_others(cluster: &Cluster) -> Result<std::path::PathBuf> {
    let away = cluster.dir().join("n2.away");
    std::fs::rename(cluster.dir().join("n2"), &away)?;
    std::fs::remove_dir_all(cluster.dir().join("n3"))?;
    Ok(away)
}

async fn pgrenga(cluster: &Cluster, arguments: &[&str], config: &Path) -> Result<(bool, String)> {
    let mut command = tokio::process::Command::new(cluster.program());
    let output =
        command.args(arguments).arg("--config").arg(config).stdin(std::process::Stdio::null()).output().await?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Ok((output.status.success(), said))
}

async fn recover(cluster: &Cluster) -> Result<()> {
    let dir = cluster.dir().join("n1");
    let config = dir.join("node.toml");
    let before = std::fs::read(dir.join("node.json"))?;

    let (done, said) = pgrenga(cluster, &["recover"], &config).await?;
    let told = ["last log position: term ", "last known committed: index ", "id 3 at 127.0.0.1:", "this node"];
    ensure!(done && told.iter().all(|part| said.contains(part)), "{said}");
    let (done, said) = pgrenga(cluster, &["recover", "--force"], &config).await?;
    ensure!(!done && said.contains("lost for good") && said.contains("--yes confirms it"), "{said}");

    let text = std::fs::read_to_string(cluster.dir().join("n2.away/node.toml"))?;
    let listen = text.lines().find_map(|line| line.strip_prefix("listen = \"")).context("it listens")?;
    let other = TcpListener::bind(listen.trim_end_matches('"'))?;
    let (done, said) = pgrenga(cluster, &["recover", "--force", "--yes"], &config).await?;
    ensure!(!done && said.contains("a daemon answers at"), "{said}");
    drop(other);
    ensure!(std::fs::read(dir.join("node.json"))? == before, "something was changed");

    let (done, said) = pgrenga(cluster, &["recover", "--force", "--yes"], &config).await?;
    ensure!(done, "{said}");
    Ok(())
}

/// It starts, hears that its cluster is another one now, and ends for good.
async fn an_old_member_is_turned_away(cluster: &Cluster, away: &Path) -> Result<()> {
    let dir = cluster.dir().join("n2");
    std::fs::rename(away, &dir)?;
    let mut old: Alone = cluster.start_alone(1)?;
    ensure!(old.wait_gone(PATIENCE), "an old member runs on");
    let said = std::fs::read_to_string(dir.join("alone.log"))?;
    ensure!(said.contains("Its cluster was recovered without it, and goes on as another one"), "{said}");
    ensure!(said.contains("HINT:  "), "{said}");
    let config = dir.join("node.toml");
    let (done, said) = pgrenga(cluster, &["node"], &config).await?;
    ensure!(!done && said.contains("was removed from cluster"), "{said}");
    cluster.wait_until("the cluster does not know it", PATIENCE, |status| serving(status, 1)).await?;
    std::fs::remove_dir_all(dir)?;
    Ok(())
}
