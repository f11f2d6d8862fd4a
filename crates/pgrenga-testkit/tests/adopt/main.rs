//! The promise: a PostgreSQL server that was made without pgrenga becomes a cluster's first node with all its
//! data; and if that cannot be, it is left as it was, and told why.

mod plain;

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pgrenga_testkit::cluster::{Cluster, Pid};
use plain::Plain;

const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a test on a place of its own.
fn on_its_own(test: impl AsyncFnOnce(&mut Cluster, Plain) -> Result<()>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut cluster = Cluster::vacant("")?;
        let plain = Plain::make(&cluster)?;
        test(&mut cluster, plain).await
    })
}

fn serving(status: &serde_json::Value, count: usize) -> bool {
    let nodes = status["nodes"].as_array().map_or(&[][..], Vec::as_slice);
    nodes.len() == count && nodes.iter().all(|node| node["state"] == "serving")
}

#[test]
fn a_server_with_its_data_becomes_a_cluster() -> Result<()> {
    on_its_own(async |cluster, plain| {
        fill(&plain).await?;
        let before = plain.files()?;

        let (code, _, errors) = cluster.run(&["init", "--yes"]).await?;
        let lines = ["max_connections = 150", "shared_preload_libraries = \"pg_stat_statements\""];
        ensure!(code == 1 && lines.iter().all(|line| errors.contains(line)), "{errors}");
        let config = plain.newcomer.config();
        let text = std::fs::read_to_string(config)?;
        std::fs::write(config, format!("{text}[settings]\n{}\n{}\n", lines[0], lines[1]))?;

        let (code, output, errors) = cluster.run(&["init", "--dry-run"]).await?;
        ensure!(code == 0 && output.ends_with("nothing was changed\n"), "{output}{errors}");
        let told =
            ["shared_preload_libraries: pg_stat_statements -> pgrenga,pg_stat_statements", "public.orders_id_seq"];
        let told = told.map(str::to_owned).into_iter().chain(["pg_hba.conf".to_owned(), "unlogged".to_owned()]);
        for line in told {
            ensure!(output.contains(line.trim_start_matches("public.")), "it does not say \"{line}\": {output}");
        }
        let (code, _, errors) = cluster.run(&["init"]).await?;
        ensure!(code == 1 && errors.contains("HINT:  Run it again with --yes."), "{errors}");
        ensure!(plain.files()? == before, "something was changed");

        interrupt(cluster).await?;
        let (code, output, errors) = cluster.run(&["init", "--yes"]).await?;
        ensure!(code == 0 && output.contains("going on with an attempt"), "{output}{errors}");
        let newcomer = plain.newcomer.clone();
        cluster.start_joined(newcomer)?;
        cluster.wait_until("the first node serves", PATIENCE, |status| serving(status, 1)).await?;
        grow(cluster).await
    })
}

/// Data of all kinds, a role, a library, settings, and a pg_hba.conf that lets nobody in by the socket.
async fn fill(plain: &Plain) -> Result<()> {
    plain.append("postgresql.conf", "shared_preload_libraries = 'pg_stat_statements'\nmax_connections = 150\n")?;
    plain.start("")?;
    plain.pgbench(&["--initialize", "--quiet"])?;
    plain.pgbench(&["--transactions=50", "--no-vacuum"])?;
    let client = plain.connect("postgres").await?;
    let sql = "CREATE ROLE app LOGIN PASSWORD 'secret'; CREATE EXTENSION pg_stat_statements;
        CREATE TABLE orders (id serial PRIMARY KEY, customer text NOT NULL);
        ALTER TABLE orders OWNER TO app; CREATE UNLOGGED TABLE scratch (x int);
        CREATE TABLE lines (id bigint GENERATED ALWAYS AS IDENTITY, order_id int REFERENCES orders DEFERRABLE);
        INSERT INTO orders (customer) SELECT 'c' || g FROM generate_series(1, 100) g;
        INSERT INTO lines (order_id) SELECT id FROM orders;
        SELECT lo_from_bytea(4711, '\\x01'); ALTER LARGE OBJECT 4711 OWNER TO app";
    client.batch_execute(sql).await?;
    // As if the machine had lost its power.
    plain.stop("immediate")?;
    let access =
        "local all all scram-sha-256\nhost all all 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 trust\n";
    Ok(std::fs::write(plain.data().join("pg_hba.conf"), access)?)
}

/// Kills init when it has begun to change things.
async fn interrupt(cluster: &Cluster) -> Result<()> {
    let dir = cluster.dir().join("n1");
    let mut command = tokio::process::Command::new(cluster.program());
    command.args(["init", "--yes", "--config"]).arg(dir.join("node.toml")).stdin(Stdio::null()).stdout(Stdio::null());
    let mut init = command.spawn()?;
    let begun = Instant::now();
    while !dir.join("data/pgrenga.conf").exists() {
        ensure!(begun.elapsed() < PATIENCE, "init does not begin");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    init.kill().await?;
    ensure!(dir.join("adopt.incomplete").exists() && !dir.join("node.json").exists(), "it had ended already");
    Ok(())
}

/// A second node joins; both are written, and hold the same.
async fn grow(cluster: &mut Cluster) -> Result<()> {
    cluster.join_another(0).await?;
    cluster.wait_until("two nodes serve", PATIENCE, |status| serving(status, 2)).await?;
    for node in [0, 1, 0, 1] {
        let sql = "INSERT INTO orders (customer) VALUES ('new'), ('new'); UPDATE pgbench_branches SET bbalance = bbalance + 1";
        cluster.execute(node, sql).await.with_context(|| format!("on node {node}"))?;
        cluster.settle().await?;
    }
    let same = ["(108,108)"; 2];
    ensure!(cluster.ask_all("SELECT count(*), count(DISTINCT id) FROM orders").await? == same);
    ensure!(cluster.ask_all("SELECT min(id) > 100 FROM orders WHERE customer = 'new'").await? == ["(t)"; 2]);
    ensure!(
        cluster.ask_all("SELECT count(*) FROM pg_authid WHERE rolname = 'app' AND rolpassword <> ''").await?
            == ["(1)"; 2]
    );
    cluster.execute(1, "SELECT lo_put(4711, 1, '\\x02')").await?;
    cluster.settle().await?;
    ensure!(cluster.ask_all("SELECT encode(lo_get(4711), 'hex')").await? == ["(0102)"; 2], "a large object");
    let libraries = cluster.ask_all("SELECT setting FROM pg_settings WHERE name = 'shared_preload_libraries'").await?;
    ensure!(libraries[0] == "(\"pgrenga,pg_stat_statements\")", "{libraries:?}");
    let verdict = cluster.verify().await?;
    ensure!(verdict.exit_code == 0, "{}", verdict.output);
    Ok(())
}

/// What is put into a server, and what init must then say.
const OBSTACLES: &[(&str, &str)] = &[
    // First: it waits for transactions that are under way, prepared ones among them.
    ("SELECT pg_create_logical_replication_slot('decoded', 'pgoutput')", "logical replication slots (decoded)"),
    ("BEGIN; CREATE TABLE p (x int); PREPARE TRANSACTION 'half'", "prepared transactions (half)"),
    ("CREATE SUBSCRIPTION s CONNECTION '' PUBLICATION p WITH (connect = false)", "subscriptions (s)"),
    ("CREATE TABLESPACE elsewhere LOCATION '$DIR'", "tablespaces (elsewhere)"),
    (
        "CREATE ACCESS METHOD other TYPE TABLE HANDLER heap_tableam_handler; CREATE TABLE odd (x int) USING other",
        "tables of other access methods than heap (odd)",
    ),
    ("CREATE SEQUENCE round CYCLE", "sequences with CYCLE (round)"),
    ("CREATE SEQUENCE wide INCREMENT 1000000000000000000", "sequences with a very large increment (wide)"),
    (
        "CREATE FUNCTION f() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; \
         CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION f(); ALTER EVENT TRIGGER e ENABLE ALWAYS",
        "event triggers that are enabled ALWAYS or REPLICA (e)",
    ),
    ("CREATE EXTENSION pg_surgery", "the extension \"pg_surgery\" (pg_surgery)"),
    ("CREATE SCHEMA pgrenga", "a schema \"pgrenga\" (pgrenga)"),
    ("ALTER SYSTEM SET synchronous_commit = off", "settings made by ALTER SYSTEM (synchronous_commit)"),
    ("CREATE DATABASE other", "tables in another database (other: t)"),
];

#[test]
fn what_cannot_be_replicated_is_refused() -> Result<()> {
    on_its_own(async |cluster, plain| {
        let elsewhere = plain.data().with_file_name("elsewhere");
        plain.append("postgresql.conf", "max_prepared_transactions = 5\nwal_level = logical\n")?;
        plain.start("")?;
        let client = plain.connect("postgres").await?;
        client.batch_execute(&format!("COPY (SELECT) TO PROGRAM 'mkdir {}'", elsewhere.display())).await?;
        for (sql, _) in OBSTACLES {
            let sql = sql.replace("$DIR", &elsewhere.display().to_string());
            let done = client.batch_execute(&sql).await;
            done.with_context(|| sql)?;
        }
        plain.connect("other").await?.batch_execute("CREATE TABLE t (x int)").await?;
        drop(client);

        let (code, _, errors) = cluster.run(&["init", "--yes"]).await?;
        ensure!(code == 1 && errors.contains("PostgreSQL runs on the data directory"), "{errors}");
        plain.stop("fast")?;
        let before = plain.files()?;
        let (code, _, errors) = cluster.run(&["init", "--yes"]).await?;
        ensure!(code == 1 && errors.contains("cannot be a node's as it is"), "{errors}");
        for (_, expected) in OBSTACLES {
            ensure!(errors.contains(&format!("There are {expected}. ")), "it does not say \"{expected}\": {errors}");
        }
        ensure!(errors.contains("HINT:  "), "{errors}");
        ensure!(plain.files()? == before, "something was changed");
        of_the_files(cluster, &plain).await
    })
}

/// What is seen before a server is started.
async fn of_the_files(cluster: &Cluster, plain: &Plain) -> Result<()> {
    let refused = async |expected: &str| {
        let (code, _, errors) = cluster.run(&["init", "--yes"]).await?;
        ensure!(code == 1 && errors.contains(expected) && errors.contains("HINT:  "), "{errors}");
        anyhow::Ok(())
    };
    let file = |name: &str| plain.data().join(name);
    std::fs::write(file("standby.signal"), "")?;
    refused("is not that of a primary").await?;
    std::fs::remove_file(file("standby.signal"))?;
    std::fs::rename(file("pg_ident.conf"), file("away"))?;
    refused("there is no pg_ident.conf in the data directory").await?;
    std::fs::rename(file("away"), file("pg_ident.conf"))?;
    std::fs::write(file("PG_VERSION"), "14\n")?;
    refused("is of PostgreSQL 14").await?;
    std::fs::remove_file(file("PG_VERSION"))?;
    refused("is not empty").await?;
    let pid = std::fs::read_to_string(file("postmaster.pid")).unwrap_or_default();
    let postmaster = pid.lines().next().and_then(|line| line.parse().ok()).and_then(Pid::running);
    ensure!(postmaster.is_none(), "a server was left running");
    Ok(())
}
