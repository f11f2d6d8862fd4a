//! Holds workloads and checkers to each other on one plain PostgreSQL server:
//! what it does is right, and what is done to it on purpose is found.

mod server;

use std::time::Duration;

use anyhow::Result;
use pgrenga_testkit::history::{History, Isolation, Kind, Model, Outcome, Promise, Report, append, bank};
use pgrenga_testkit::workload::{Bank, Config, ListAppend, Session, Stop, drive, finish, run, setup};
use server::Server;

const PATIENCE: Duration = Duration::from_secs(5);

fn config(isolation: Isolation, transactions: u64) -> Config {
    Config {
        seed: 15,
        clients: 8,
        isolation,
        transactions_max: transactions,
        elapsed_max: Duration::from_secs(10),
        patience: PATIENCE,
        ..Config::default()
    }
}

fn check_lists(history: &History<append::Step>) -> Result<Report> {
    Ok(append::check(history, Promise::of(history.isolation))?)
}

async fn execute(server: &Server, sql: &str) -> Result<u64> {
    let mut session = Session::new(&server.address(), PATIENCE);
    session.connect().await?;
    Ok(session.query(sql).await?.1)
}

#[tokio::test]
async fn postgresql_keeps_its_promises() -> Result<()> {
    let server = Server::start()?;
    // Twice the same server: its clients are spread over two "nodes".
    let nodes = [server.address(), server.address()];
    for isolation in [Isolation::RepeatableRead, Isolation::ReadCommitted] {
        let mut config = config(isolation, 3000);
        config.schema = format!("lists_{isolation:?}").to_lowercase();
        let history = run(&ListAppend::default(), &nodes, &config, &Stop::default()).await?;
        let report = check_lists(&history)?;
        assert!(report.is_clean(), "{report}");
        assert_eq!(history.transactions.len(), 3000);
        assert_eq!(history.final_reads.len(), 2);
        assert!(history.count(Outcome::Committed) > 1000, "{report}");

        config.schema = format!("bank_{isolation:?}").to_lowercase();
        let history = run(&Bank::default(), &nodes, &config, &Stop::default()).await?;
        let report = bank::check(&history)?;
        assert!(report.is_clean(), "{report}");
        assert!(history.count(Outcome::Committed) > 1000, "{report}");
    }
    Ok(())
}

#[tokio::test]
async fn read_committed_is_not_mistaken_for_snapshot_isolation() -> Result<()> {
    let server = Server::start()?;
    let config = config(Isolation::ReadCommitted, 3000);
    let lists = ListAppend { keys: 3, ..ListAppend::default() };
    let history = run(&lists, &[server.address()], &config, &Stop::default()).await?;
    let promise = Promise { model: Model::SnapshotIsolation, ..Promise::of(history.isolation) };
    let report = append::check(&history, promise)?;
    for kind in [Kind::GSingle, Kind::NonRepeatableRead] {
        assert!(report.found(kind) > 0, "no {kind}: {report}");
    }
    Ok(())
}

#[tokio::test]
async fn changes_behind_the_clients_backs_are_found() -> Result<()> {
    let server = Server::start()?;
    let nodes = [server.address()];
    let config = config(Isolation::RepeatableRead, 500);
    let (lists, money) = (ListAppend::default(), Bank::default());

    setup(&lists, &nodes, &config).await?;
    let mut history = drive(&lists, &nodes, &config, &Stop::default()).await?;
    let forget = "DELETE FROM workload.lists WHERE k = 0";
    assert_eq!(execute(&server, forget).await?, 1);
    finish(&lists, &nodes, &config, &mut history).await;
    let report = check_lists(&history)?;
    assert!(report.found(Kind::LostWrite) > 0, "{report}");

    let config = Config { schema: "bank".to_owned(), ..config };
    setup(&money, &nodes, &config).await?;
    let mut history = drive(&money, &nodes, &config, &Stop::default()).await?;
    let steal = "UPDATE bank.accounts SET balance = balance - 1 WHERE id = 0";
    assert_eq!(execute(&server, steal).await?, 1);
    finish(&money, &nodes, &config, &mut history).await;
    assert_eq!(bank::check(&history)?.kinds(), [Kind::Imbalance, Kind::Unexplained]);
    Ok(())
}

// The clients must go on while the server is stopped: a postmaster waits for
// what they have begun to say.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn lost_connections_and_a_crash_leave_a_history_that_can_be_judged() -> Result<()> {
    let mut server = Server::start()?;
    let nodes = [server.address()];
    let mut config = config(Isolation::RepeatableRead, u64::MAX);
    config.clients = 16;
    let lists = ListAppend::default();
    let stop = Stop::default();
    setup(&lists, &nodes, &config).await?;

    let faults = async {
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                             WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
            execute(&server, terminate).await?;
        }
        server.crash_and_restart()?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        stop.request();
        anyhow::Ok(())
    };
    let (history, faults) = tokio::join!(drive(&lists, &nodes, &config, &stop), faults);
    faults?;
    let mut history = history?;
    finish(&lists, &nodes, &config, &mut history).await;
    let report = check_lists(&history)?;
    assert!(report.is_clean(), "{report}");
    let lost = |outcome| {
        let by_loss = |error: &str| error.starts_with("FATAL") || error.starts_with("connection");
        let ended_so = history.transactions.iter().filter(|t| t.outcome == outcome);
        ended_so.filter(|t| t.error.as_deref().is_some_and(by_loss)).count()
    };
    assert!(lost(Outcome::Aborted) > 0);
    assert!(lost(Outcome::Unknown) > 0);
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_away_in_the_end_fails_the_check_and_not_the_run() -> Result<()> {
    let server = Server::start()?;
    let nodes = [server.address()];
    let mut config = config(Isolation::RepeatableRead, 50);
    config.settle = Duration::from_millis(100);
    let lists = ListAppend::default();
    setup(&lists, &nodes, &config).await?;
    let mut history = drive(&lists, &nodes, &config, &Stop::default()).await?;
    drop(server);
    finish(&lists, &nodes, &config, &mut history).await;
    let error = check_lists(&history).expect_err("no final read");
    assert!(error.to_string().starts_with("final read of node 0 failed"), "{error}");
    Ok(())
}

#[tokio::test]
async fn nothing_is_left_behind() -> Result<()> {
    let server = Server::start()?;
    let directory = server.directory().to_owned();
    assert!(directory.exists());
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _server = server;
        std::panic::resume_unwind(Box::new("a failing test"));
    }));
    assert!(panicked.is_err());
    assert!(!directory.exists());
    Ok(())
}
