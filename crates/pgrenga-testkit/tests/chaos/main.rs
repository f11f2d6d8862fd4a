//! The promise: whatever fails, in whatever order, no acknowledged transaction is lost, isolation
//! holds, and the nodes are the same again when the faults are over.
//!
//! Five kinds of transactions run on all nodes while one fault after another is made and undone. The
//! seed decides on the faults and on what clients attempt, though not on how they meet.
//!
//! CHAOS_SEED     the seed (1)
//! CHAOS_SECONDS  how long the faults go on (20)

mod faults;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use faults::{Fault, Tally};
use pgrenga_testkit::cluster::{Clocks, Cluster, Network};
use pgrenga_testkit::history::{History, Isolation, Outcome, Promise, Report, Step, append, bank, counter, set};
use pgrenga_testkit::workload::{Bank, Config, Counter, Inserts, ListAppend, Stop, Workload, drive, finish, setup};

const NODES: usize = 3;
/// Until all nodes serve when the faults are over.
const RECOVERY: Duration = Duration::from_secs(120);
const CONFIGURATION: &str =
    "[log]\nsegment_bytes = 5242880\nsnapshot_every_bytes = 1048576\n[check]\ninterval_seconds = 2\nrows = 500\n";

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[test]
fn nothing_is_lost_whatever_fails() -> Result<()> {
    let (seed, seconds) = (variable("CHAOS_SEED", 1), variable("CHAOS_SECONDS", 20));
    println!("CHAOS_SEED={seed} CHAOS_SECONDS={seconds}");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let (mut cluster, network) = make().await?;
        let result = survive(&mut cluster, &network, seed, Duration::from_secs(seconds)).await;
        result.map_err(|error| error.context(cluster.diagnosis()).context(format!("seed {seed}")))
    })
}

/// Three nodes whose daemons reach each other through a network that can be cut, and whose clocks can
/// be set where that is possible.
async fn make() -> Result<(Cluster, Network)> {
    let network = Network::default();
    let mut cluster = Cluster::vacant_in(CONFIGURATION, &network, Clocks::new()?)?;
    let first = cluster.plan_another()?;
    cluster.found(first, NODES, RECOVERY).await?;
    Ok((cluster, network))
}

/// What the clients of one kind did, and what is wrong with it.
struct Judgement {
    operations: usize,
    acknowledged: usize,
    report: Report,
}

async fn survive(cluster: &mut Cluster, network: &Network, seed: u64, length: Duration) -> Result<()> {
    let nodes = cluster.configs();
    let isolation = if seed.is_multiple_of(2) { Isolation::ReadCommitted } else { Isolation::RepeatableRead };
    let config = |name: &str| Config {
        seed,
        clients: 3,
        isolation,
        elapsed_max: length + RECOVERY,
        patience: Duration::from_secs(8),
        settle: Duration::from_secs(60),
        schema: name.to_owned(),
        ..Config::default()
    };
    let (money, lists, number, rows) = (Bank::default(), ListAppend::default(), Counter, Inserts);
    let configs = ["bank", "lists", "counter", "inserts"].map(config);
    setup(&money, &nodes, &configs[0]).await?;
    setup(&lists, &nodes, &configs[1]).await?;
    setup(&number, &nodes, &configs[2]).await?;
    setup(&rows, &nodes, &configs[3]).await?;

    let stop = Stop::default();
    let faults = async {
        let result = faults(cluster, network, seed, length).await;
        stop.request();
        result
    };
    let (tally, bank_history, lists_history, counter_history, inserts_history) = tokio::join!(
        faults,
        drive(&money, &nodes, &configs[0], &stop),
        drive(&lists, &nodes, &configs[1], &stop),
        drive(&number, &nodes, &configs[2], &stop),
        drive(&rows, &nodes, &configs[3], &stop),
    );
    let tally = tally?;
    let judgements = [
        judge(&money, &nodes, &configs[0], bank_history?, |history| Ok(bank::check(history)?)).await?,
        judge(&lists, &nodes, &configs[1], lists_history?, |history| {
            Ok(append::check(history, Promise::of(isolation))?)
        })
        .await?,
        judge(&number, &nodes, &configs[2], counter_history?, |history| Ok(counter::check(history)?)).await?,
        judge(&rows, &nodes, &configs[3], inserts_history?, |history| Ok(set::check(history)?)).await?,
    ];
    let sum = |part: fn(&Judgement) -> usize| judgements.iter().map(part).sum::<usize>();
    let anomalies = sum(|judgement| judgement.report.anomalies().len());
    println!(
        "chaos: seed {seed}, {} s, {} operations, {} acknowledged, faults: {tally}, anomalies: {anomalies}",
        length.as_secs(),
        sum(|judgement| judgement.operations),
        sum(|judgement| judgement.acknowledged),
    );
    for judgement in &judgements {
        ensure!(judgement.report.is_clean(), "{}", judgement.report);
        ensure!(judgement.acknowledged > 0, "nothing was acknowledged");
    }
    let verdict = cluster.verify().await?;
    ensure!(verdict.exit_code == 0, "{}", verdict.output);
    Ok(())
}

async fn judge<W: Workload>(
    workload: &W,
    nodes: &[tokio_postgres::Config],
    config: &Config,
    mut history: History<W::Step>,
    check: impl FnOnce(&History<W::Step>) -> Result<Report>,
) -> Result<Judgement> {
    finish(workload, nodes, config, &mut history).await;
    Ok(Judgement {
        operations: history.transactions.len(),
        acknowledged: history.count(Outcome::Committed),
        report: check(&history).context(<W::Step as Step>::WORKLOAD)?,
    })
}

/// Makes and undoes one fault after another; then waits until all nodes serve.
async fn faults(cluster: &mut Cluster, network: &Network, seed: u64, length: Duration) -> Result<Tally> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut tally = Tally::default();
    let begun = Instant::now();
    while begun.elapsed() < length {
        let fault = Fault::draw(&mut random, NODES, cluster.has_clocks());
        tally.count(fault);
        println!("{:>6.1} s  {fault}", begun.elapsed().as_secs_f32());
        fault.make(cluster, network).await?;
        tokio::time::sleep(Duration::from_millis(random.u64(300..3000))).await;
        fault.undo(cluster, network)?;
        tokio::time::sleep(Duration::from_millis(random.u64(200..2500))).await;
    }
    let begun = Instant::now();
    loop {
        // A daemon may have ended by itself, for one that starts anew.
        cluster.revive()?;
        match cluster.wait_serving(Duration::from_secs(1)).await {
            Ok(()) => return Ok(tally),
            Err(error) if begun.elapsed() > RECOVERY => return Err(error.into()),
            Err(_) => {}
        }
    }
}
