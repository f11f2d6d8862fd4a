//! The configuration changes under living sessions, whole or not at all; and what it can say about who may connect holds
//! in front of real servers.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use pgrenga_testkit::cluster::Cluster;

use crate::{CLUSTER, connect};

const PATIENCE: Duration = Duration::from_secs(60);
const RELOADED: &str = "configuration reloaded";
const NOT_RELOADED: &str = "configuration not reloaded";

/// The balancer's configuration, which the demo wrote. It is put back at the end.
struct File {
    path: PathBuf,
    log: PathBuf,
    original: String,
}

impl File {
    fn of(cluster: &Cluster) -> Result<Self> {
        let path = cluster.dir().join("balancer.toml");
        let original = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(Self { path, log: cluster.dir().join("balancer.log"), original })
    }

    fn said(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.log)?)
    }

    /// Has the balancer read it again with `more` behind it; waits until it has said so.
    async fn reload(&self, cluster: &Cluster, more: &str, expected: &str) -> Result<()> {
        let count = |log: &str| log.matches(expected).count();
        let before = count(&self.said()?);
        std::fs::write(&self.path, format!("{}\n{more}", self.original))?;
        ensure!(cluster.balancer_pid().context("the balancer runs")?.signal(Signal::SIGHUP));
        let begun = Instant::now();
        while count(&self.said()?) == before {
            ensure!(begun.elapsed() < PATIENCE, "it does not say \"{expected}\"");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

#[test]
fn a_configuration_that_is_wrong_changes_nothing() {
    CLUSTER.test(async |cluster| -> Result<()> {
        let file = File::of(cluster)?;
        let session = connect(cluster).await?;
        session.batch_execute("CREATE TEMPORARY TABLE own (id int)").await?;
        file.reload(cluster, "[limits]\nmax_connections = 0\nqueue_timeout_seconds = 1000000\n", NOT_RELOADED).await?;
        let said = file.said()?;
        let said = said.rsplit_once(NOT_RELOADED).context("it said so")?.1;
        ensure!(
            said.contains("max_connections") && said.contains("queue_timeout_seconds"),
            "all that is wrong: {said}"
        );
        file.reload(cluster, "[tls]\ncertificate = \"nowhere.crt\"\nkey = \"nowhere.key\"\n", NOT_RELOADED).await?;
        session.batch_execute("INSERT INTO own VALUES (1)").await.context("the session was dropped")?;
        connect(cluster).await.context("nobody is let in any more")?;

        let reject = "[[rules]]\nusers = [\"rejected\"]\nmethod = \"reject\"\n[[rules]]\nmethod = \"pass\"\n";
        file.reload(cluster, reject, RELOADED).await?;
        let error = cluster.through_balancer()?.user("rejected").connect(tokio_postgres::NoTls).await.err();
        let code = error.as_ref().and_then(tokio_postgres::Error::code).map(|code| code.code().to_owned());
        ensure!(code.as_deref() == Some("28000"), "{error:?}");
        session.batch_execute("INSERT INTO own VALUES (2)").await.context("the session was dropped")?;
        file.reload(cluster, "", RELOADED).await
    });
}

/// An authority, and a certificate for 127.0.0.1 that it vouches for.
fn certificates(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    std::fs::write(dir.join("extensions"), "subjectAltName=IP:127.0.0.1")?;
    for arguments in [
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.crt",
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=balancer -keyout own.key -out own.csr",
        "x509 -req -in own.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out own.crt",
    ] {
        let output = Command::new("openssl").args(arguments.split(' ')).current_dir(dir).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// With libpq, which knows all of it.
async fn psql(cluster: &Cluster, user: &str, password: &str, mode: &str, root: &Path) -> Result<Output> {
    let port = cluster.through_balancer()?.get_ports()[0];
    let target = format!("host=127.0.0.1 port={port} dbname=postgres user={user} sslmode={mode} connect_timeout=30");
    let mut command = tokio::process::Command::new("psql");
    command.args(["-X", "-At", "-c", "SELECT current_user", &target]).env("PGPASSWORD", password);
    Ok(command.env("PGSSLROOTCERT", root).output().await?)
}

#[test]
fn encryption_passwords_and_rules_hold_together() {
    CLUSTER.test(async |cluster| -> Result<()> {
        let create = "CREATE ROLE guarded LOGIN PASSWORD 'pencil'; CREATE ROLE unwanted LOGIN PASSWORD 'pencil'";
        cluster.connect(0).await?.batch_execute(create).await?;
        cluster.settle().await?;
        for node in 0..cluster.len() {
            let admin = cluster.connect(node).await?;
            let path: String = admin.query_one("SHOW hba_file", &[]).await?.get(0);
            let lines = std::fs::read_to_string(&path)?;
            std::fs::write(&path, format!("host all guarded,unwanted 127.0.0.1/32 scram-sha-256\n{lines}"))?;
            admin.query_one("SELECT pg_reload_conf()", &[]).await?;
            let begun = Instant::now();
            let mut config = cluster.configs()[node].clone();
            while config.user("guarded").password("wrong").connect(tokio_postgres::NoTls).await.is_ok() {
                ensure!(begun.elapsed() < PATIENCE, "node {node} asks for no password");
            }
        }
        let dir = cluster.dir().join("certificates");
        certificates(&dir)?;
        let (file, root) = (File::of(cluster)?, dir.join("ca.crt"));
        let bystander = connect(cluster).await?;
        let guarded = format!(
            "[tls]\ncertificate = {:?}\nkey = {:?}\n[[rules]]\nusers = [\"guarded\"]\ntls = \"required\"\nmethod = \"pass\"\n
             [[rules]]\nusers = [\"postgres\"]\nmethod = \"pass\"\n",
            dir.join("own.crt"),
            dir.join("own.key")
        );
        file.reload(cluster, &guarded, RELOADED).await?;
        for (user, password, mode, expected) in [
            ("guarded", "pencil", "verify-full", Ok("guarded\n")),
            ("guarded", "wrong", "verify-full", Err("password authentication failed")),
            ("guarded", "pencil", "disable", Err("no rule")),
            ("unwanted", "pencil", "verify-full", Err("no rule")),
            ("postgres", "", "disable", Ok("postgres\n")),
        ] {
            let output = psql(cluster, user, password, mode, &root).await?;
            let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            let is_so = match expected {
                Ok(text) => output.status.success() && said == text,
                Err(text) => !output.status.success() && errors.contains(text),
            };
            ensure!(is_so, "{user}, {mode}, {password:?}: {expected:?}, but {said} {errors}");
        }
        bystander.batch_execute("SELECT 1").await.context("a session was dropped")?;
        file.reload(cluster, "", RELOADED).await
    });
}
