//! A PostgreSQL server that nobody made for pgrenga, where a node is to be.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use pgrenga_testkit::cluster::{Cluster, Newcomer};
use tokio_postgres::{Client, NoTls};

/// Its clients use its socket in here.
const PORT: u16 = 5432;

pub(crate) struct Plain {
    pub(crate) newcomer: Newcomer,
    dir: PathBuf,
    bin_dir: PathBuf,
}

impl Plain {
    /// Made by initdb, and not started.
    pub(crate) fn make(cluster: &Cluster) -> Result<Self> {
        let newcomer = cluster.plan_another()?;
        let dir = newcomer.config().parent().context("it is in a directory")?.to_owned();
        let bin_dir = std::env::var_os("PGRENGA_BIN_DIR").unwrap_or_else(|| "/usr/lib/postgresql/15/bin".into()).into();
        let plain = Self { newcomer, dir, bin_dir };
        if nix::unistd::geteuid().is_root() {
            plain.output(Command::new("chown").arg("postgres:").arg(&plain.dir))?;
        }
        let mut initdb = plain.command("initdb");
        plain
            .output(initdb.args(["--no-sync", "--auth=trust", "--username=postgres", "--pgdata"]).arg(plain.data()))?;
        Ok(plain)
    }

    pub(crate) fn data(&self) -> &Path {
        self.newcomer.data_dir()
    }

    /// Runs one of PostgreSQL's programs, as the user postgres by root.
    fn command(&self, program: &str) -> Command {
        let program = self.bin_dir.join(program);
        if !nix::unistd::geteuid().is_root() {
            return Command::new(program);
        }
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--"]).arg(program).current_dir("/");
        command
    }

    fn output(&self, command: &mut Command) -> Result<String> {
        // A server that it starts keeps what it was given.
        let (log, path) = (std::fs::File::create(self.dir.join("plain.out"))?, self.dir.join("plain.out"));
        let status = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).status()?;
        let said = std::fs::read_to_string(path)?;
        ensure!(status.success(), "{command:?}: {said}");
        Ok(said)
    }

    pub(crate) fn start(&self, more: &str) -> Result<()> {
        let options = format!("-k {} -p {PORT} -c listen_addresses= -c fsync=off {more}", self.dir.display());
        let mut start = self.command("pg_ctl");
        start.args(["--wait", "--options", &options, "--log"]).arg(self.dir.join("plain.log")).arg("start");
        self.output(start.arg("--pgdata").arg(self.data())).map(drop)
    }

    pub(crate) fn stop(&self, mode: &str) -> Result<()> {
        let mut stop = self.command("pg_ctl");
        self.output(stop.args(["--wait", "--mode", mode, "stop", "--pgdata"]).arg(self.data())).map(drop)
    }

    pub(crate) fn pgbench(&self, arguments: &[&str]) -> Result<()> {
        let mut pgbench = self.command("pgbench");
        pgbench.arg("-h").arg(&self.dir).args(["-p", &PORT.to_string(), "-U", "postgres"]).args(arguments);
        self.output(pgbench.arg("postgres")).map(drop)
    }

    pub(crate) async fn connect(&self, database: &str) -> Result<Client> {
        let mut config = tokio_postgres::Config::new();
        config.host_path(&self.dir).port(PORT).user("postgres").dbname(database);
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Appends to a file of the data directory.
    pub(crate) fn append(&self, file: &str, text: &str) -> Result<()> {
        let path = self.data().join(file);
        let before = std::fs::read_to_string(&path)?;
        Ok(std::fs::write(path, before + text)?)
    }

    /// What init must leave as it is when it refuses.
    pub(crate) fn files(&self) -> Result<Vec<String>> {
        ensure!(!self.data().join("pgrenga.conf").exists(), "pgrenga.conf was written");
        let files = ["postgresql.conf", "postgresql.auto.conf", "pg_hba.conf", "pg_ident.conf"];
        Ok(files.map(|file| std::fs::read_to_string(self.data().join(file))).into_iter().collect::<Result<_, _>>()?)
    }
}
