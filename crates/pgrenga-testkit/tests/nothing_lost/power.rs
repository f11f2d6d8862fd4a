//! The promise: when the machine loses its power, and with it everything that was not synced, no acknowledged
//! transaction is lost.
//!
//! The nodes live in a file system on a loop device. Behind it is a file that has what was synced, and what happened
//! to be written back. At the moment of the failure that file is copied; the nodes are started on the copy.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pgrenga_testkit::cluster::{Cluster, Disk, Options};
use pgrenga_testkit::history::{Isolation, Outcome, bank};
use pgrenga_testkit::workload::{Bank, Config, Stop, drive, finish, setup};

const ROUNDS: u32 = 3;

#[test]
#[ignore = "needs root and a loop device, and takes a minute; see scripts/soak"]
fn what_was_not_synced_was_not_acknowledged() -> Result<()> {
    let dir = tempfile::tempdir()?;
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let place = dir.path().join("disk");
    std::fs::create_dir(&place)?;
    let disk = Disk::under(&place, 3 << 30)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let options = Options { nodes: Some(3), place: Some(place), ..Options::default() };
        let mut cluster = Cluster::start_with(options).await?;
        for round in 0..ROUNDS {
            survive(&mut cluster, &disk, round).await.with_context(|| format!("round {round}"))?;
        }
        anyhow::Ok(())
    })
}

async fn survive(cluster: &mut Cluster, disk: &Disk, round: u32) -> Result<()> {
    let nodes = cluster.configs();
    let money = Bank::default();
    let config = Config {
        seed: round.into(),
        clients: 6,
        isolation: Isolation::RepeatableRead,
        elapsed_max: Duration::from_secs(60),
        patience: Duration::from_secs(5),
        schema: format!("power_{round}"),
        ..Config::default()
    };
    setup(&money, &nodes, &config).await?;
    let stop = Stop::default();
    let fault = async {
        tokio::time::sleep(Duration::from_secs(4)).await;
        cluster.kill_everything();
        disk.lose_power()?;
        cluster.start_demo()?;
        cluster.wait_ready().await?;
        stop.request();
        anyhow::Ok(())
    };
    let (history, fault) = tokio::join!(drive(&money, &nodes, &config, &stop), fault);
    fault?;
    let mut history = history?;
    finish(&money, &nodes, &config, &mut history).await;
    let report = bank::check(&history)?;
    ensure!(report.is_clean(), "{report}");
    ensure!(history.count(Outcome::Committed) > 100, "{} were acknowledged", history.count(Outcome::Committed));
    let verdict = cluster.verify().await?;
    ensure!(verdict.exit_code == 0, "{}", verdict.output);
    Ok(())
}
