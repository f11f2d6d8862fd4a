//! The demo as its users meet it: it comes up, comes back, compares, and leaves nothing behind.

use std::time::Duration;

use pgrenga_testkit::cluster::{Cluster, Error, Part};

type Result = std::result::Result<(), Error>;

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn it_comes_back_whatever_was_killed() -> Result {
    let mut cluster = Cluster::start(3).await?;
    cluster.execute(0, "CREATE TABLE t (id int PRIMARY KEY, x text)").await?;
    cluster.settle().await?;
    cluster.execute(1, "INSERT INTO t SELECT i, i::text FROM generate_series(1, 1000) i").await?;

    for part in [Part::Daemon, Part::Postgres] {
        let before = cluster.pid(1, part);
        assert!(cluster.kill(1, part));
        let restarted = || cluster.pid(1, part).is_some_and(|pid| Some(pid) != before);
        cluster.wait_until("node 1 is back", PATIENCE, |status| restarted() && serves(status, 1)).await?;
    }

    cluster.kill_everything();
    cluster.start_demo()?;
    cluster.wait_ready().await?;
    cluster.settle().await?;
    cluster.execute(2, "INSERT INTO t VALUES (1001, 'after')").await?;
    let verdict = cluster.verify().await?;
    assert_eq!(verdict.exit_code, 0, "{}", verdict.output);
    cluster.settle().await?;
    assert_eq!(cluster.ask_all("SELECT count(*) FROM t").await?, ["(1001)"; 3]);

    cluster.stop_demo().await?;
    assert_eq!((cluster.pid(0, Part::Daemon), cluster.pid(0, Part::Postgres)), (None, None));
    Ok(())
}

#[tokio::test]
async fn verify_names_one_planted_row() -> Result {
    let mut cluster = Cluster::start(2).await?;
    cluster.execute(0, "CREATE TABLE t (id int PRIMARY KEY, x text)").await?;
    cluster.execute(0, "INSERT INTO t SELECT i, i::text FROM generate_series(1, 20000) i").await?;
    assert_eq!(cluster.verify().await?.exit_code, 0);

    cluster.stop_demo().await?;
    cluster.plant(1, "UPDATE t SET x = 'planted' WHERE id = 777")?;
    cluster.start_demo()?;
    cluster.wait_ready().await?;
    let verdict = cluster.verify().await?;
    assert_eq!(verdict.exit_code, 1, "{}", verdict.output);
    for part in ["table public.t", "(777)", "(777,planted)", "(777,777)"] {
        assert!(verdict.output.contains(part), "{part}: {}", verdict.output);
    }
    Ok(())
}

#[tokio::test]
async fn it_leaves_no_process_behind() -> Result {
    let cluster = Cluster::start(1).await?;
    let daemon = cluster.pid(0, Part::Daemon).expect("the daemon runs");
    let postgres = cluster.pid(0, Part::Postgres).expect("PostgreSQL runs");
    let directory = cluster.dir();
    drop(cluster);
    assert!(!daemon.is_alive() && !postgres.is_alive());
    assert!(!directory.exists());
    Ok(())
}

fn serves(status: &serde_json::Value, node: usize) -> bool {
    status["nodes"][node]["state"] == "serving"
}
