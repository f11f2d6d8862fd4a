//! A real cluster for a test: `pgrenga demo` in a temporary directory on free
//! ports, whose processes the test may stop, kill and start again. Whatever
//! happens to the test, nothing of it is left behind.

mod balancer;
mod clock;
mod disk;
mod dump;
mod files;
mod join;
mod network;
mod plant;
mod ports;
mod process;
mod reaper;
mod shared;
mod witness;

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio_postgres::NoTls;

pub use clock::Clocks;
pub use disk::{Disk, Mount};
use files::{ClusterFile, NodeFile};
use join::Joined;
pub use join::Newcomer;
pub use network::Network;
pub use process::Pid;
use reaper::Reaper;
pub use shared::Shared;
pub use witness::Alone;

const POLL: Duration = Duration::from_millis(50);
/// Making three nodes takes seconds; a machine under load may take much longer.
const READY_PATIENCE: Duration = Duration::from_secs(240);
/// Nodes are together within milliseconds; a machine under load may take much longer.
const SETTLE_PATIENCE: Duration = Duration::from_secs(30);
/// How often another range of ports is tried when this one was taken meanwhile.
const PORT_ATTEMPTS: u32 = 5;

/// Why a cluster could not be started or asked. For tests, which can only show it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cluster did not do in time what was waited for.
    #[error("waited in vain until {what}\n{state}")]
    Late {
        /// What was waited for.
        what: String,
        /// What the cluster said meanwhile.
        state: String,
    },
    /// A program ended that should not have, or not like this.
    #[error("ended with: {0}")]
    Ended(String),
    /// A file or a program.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A file or an answer that is not as documented.
    #[error("not the documented JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// PostgreSQL.
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
}

/// Which process of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `pgrenga node`.
    Daemon,
    /// The postmaster.
    Postgres,
}

/// How the cluster is started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// How many nodes; three if not given.
    pub nodes: Option<u16>,
    /// Environment variables for the demo and, through it, for all daemons.
    pub environment: Vec<(String, String)>,
    /// TOML: sections `[log]` and `[settings]` of every node's configuration.
    pub configuration: String,
    /// The directory in which the cluster's own one is made; that for temporary files if not given.
    pub place: Option<PathBuf>,
    /// What the daemons of nodes that are made later reach each other through.
    pub network: Option<Network>,
    /// What nodes that are made later have for a clock; the machine's if not given.
    pub clocks: Option<Arc<Clocks>>,
}

/// What `pgrenga verify` said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// 0 identical, 1 different, 2 could not compare.
    pub exit_code: i32,
    /// Its JSON and its messages.
    pub output: String,
}

/// A running cluster. Nodes are numbered from 0.
#[derive(Debug)]
pub struct Cluster {
    demo: Option<Child>,
    program: PathBuf,
    options: Options,
    port: u16,
    /// Nodes that were made later.
    joined: Vec<Joined>,
    witness: Option<witness::Witness>,
    /// Ends everything, also if this is never dropped.
    reaper: Reaper,
    /// What worked there has ended.
    disks: Vec<Disk>,
    /// Removed last.
    directory: tempfile::TempDir,
}

impl Cluster {
    /// Starts a cluster of `nodes` nodes and waits until all of them serve.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn start(nodes: u16) -> Result<Self, Error> {
        Self::start_with(Options { nodes: Some(nodes), ..Options::default() }).await
    }

    /// The same, with more to say about it.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn start_with(options: Options) -> Result<Self, Error> {
        let program = files::program()?;
        let directory = files::temporary_directory(options.place.as_deref().unwrap_or(&std::env::temp_dir()))?;
        let reaper = Reaper::watch_over(directory.path())?;
        let mut cluster = Self {
            demo: None,
            program,
            options,
            port: 0,
            joined: Vec::new(),
            witness: None,
            reaper,
            disks: Vec::new(),
            directory,
        };
        for attempt in 1.. {
            cluster.port = ports::free_range();
            cluster.start_demo()?;
            match cluster.wait_ready().await {
                Err(Error::Ended(said)) if said.contains("is in use") && attempt < PORT_ATTEMPTS => {}
                result => return result.map(|()| cluster),
            }
        }
        unreachable!("the loop ends by returning")
    }

    /// No cluster yet, only a place for one: nodes come with [`Cluster::plan_another`].
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn vacant(configuration: &str) -> Result<Self, Error> {
        Self::vacant_with(Options { configuration: configuration.to_owned(), ..Options::default() })
    }

    /// The same for nodes whose daemons reach each other through a network that can be cut, and
    /// whose clocks can be set, if there are any.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn vacant_in(configuration: &str, network: &Network, clocks: Option<Clocks>) -> Result<Self, Error> {
        let (configuration, network) = (configuration.to_owned(), Some(network.clone()));
        let clocks = clocks.map(Arc::new);
        Self::vacant_with(Options { configuration, network, clocks, ..Options::default() })
    }

    fn vacant_with(options: Options) -> Result<Self, Error> {
        let directory = files::temporary_directory(&std::env::temp_dir())?;
        let reaper = Reaper::watch_over(directory.path())?;
        let (program, port) = (files::program()?, ports::free_range());
        let (joined, witness, disks) = (Vec::new(), None, Vec::new());
        Ok(Self { demo: None, program, options, port, joined, witness, reaper, disks, directory })
    }

    /// Starts the demo again after [`Cluster::stop_demo`], [`Cluster::kill_demo`]
    /// or [`Cluster::kill_everything`]. Does not wait for it.
    ///
    /// # Errors
    ///
    /// If the program cannot be started.
    pub fn start_demo(&mut self) -> Result<(), Error> {
        let log = files::create(&self.demo_log())?;
        let errors = log.try_clone().map_err(|source| files::failed("copy a file handle", source))?;
        let mut command = std::process::Command::new(&self.program);
        command.arg("demo").arg("--dir").arg(self.dir()).args(["--port", &self.port.to_string()]);
        if let Some(nodes) = self.options.nodes {
            command.args(["--nodes", &nodes.to_string()]);
        }
        let configuration = self.directory.path().join("common.toml");
        std::fs::write(&configuration, &self.options.configuration)
            .map_err(|source| files::failed(configuration.display(), source))?;
        command.arg("--config").arg(&configuration);
        command.envs(self.options.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        let child = command.spawn().map_err(|source| files::failed(self.program.display(), source))?;
        self.demo = Some(child);
        Ok(())
    }

    /// Waits until the demo started last says `ready`.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn wait_ready(&mut self) -> Result<(), Error> {
        let begun = Instant::now();
        loop {
            if self.demo_output().lines().any(|line| line == "ready") {
                return Ok(());
            }
            let ended = self.demo.as_mut().is_none_or(|demo| !matches!(demo.try_wait(), Ok(None)));
            if ended {
                return Err(Error::Ended(self.demo_output()));
            }
            if begun.elapsed() > READY_PATIENCE {
                return Err(Error::Late { what: "the demo was ready".to_owned(), state: self.diagnosis() });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until every node serves, after something was killed.
    ///
    /// # Errors
    ///
    /// [`Error::Late`] after `patience`.
    pub async fn wait_serving(&self, patience: Duration) -> Result<(), Error> {
        let serving = |status: &serde_json::Value| {
            let nodes = status["nodes"].as_array().map_or(&[][..], Vec::as_slice);
            !nodes.is_empty() && nodes.iter().all(|node| node["state"] == "serving" || node["state"] == "witness")
        };
        self.wait_until("all nodes serve", patience, serving).await
    }

    /// Waits until the cluster's status is as wished.
    ///
    /// # Errors
    ///
    /// [`Error::Late`] after `patience`.
    pub async fn wait_until(
        &self,
        what: &str,
        patience: Duration,
        wish: impl Fn(&serde_json::Value) -> bool,
    ) -> Result<(), Error> {
        let begun = Instant::now();
        loop {
            if self.status().await.is_ok_and(|status| wish(&status)) {
                return Ok(());
            }
            if begun.elapsed() > patience {
                return Err(Error::Late { what: what.to_owned(), state: self.diagnosis() });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The JSON of `pgrenga status --json`.
    ///
    /// # Errors
    ///
    /// If no node answers.
    pub async fn status(&self) -> Result<serde_json::Value, Error> {
        let (_, output, _) = self.run(&["status", "--json"]).await?;
        Ok(serde_json::from_str(&output)?)
    }

    /// Runs `pgrenga verify`.
    ///
    /// # Errors
    ///
    /// If the program cannot be started.
    pub async fn verify(&self) -> Result<Verdict, Error> {
        let (exit_code, output, errors) = self.run(&["verify", "--json"]).await?;
        Ok(Verdict { exit_code, output: output + &errors })
    }

    /// Runs `pgrenga` with these arguments for this cluster, by way of its first node if there is no demo: exit code, standard output, standard error.
    ///
    /// # Errors
    ///
    /// If the program cannot be started.
    pub async fn run(&self, arguments: &[&str]) -> Result<(i32, String, String), Error> {
        if !self.dir().join("cluster.json").exists() {
            return self.run_as("n1", arguments).await;
        }
        self.run_with(arguments, "--dir", &self.dir()).await
    }

    /// The same with a node's configuration.
    ///
    /// # Errors
    ///
    /// If the program cannot be started.
    pub async fn run_as(&self, node: &str, arguments: &[&str]) -> Result<(i32, String, String), Error> {
        self.run_with(arguments, "--config", &self.dir().join(node).join("node.toml")).await
    }

    async fn run_with(&self, arguments: &[&str], option: &str, path: &Path) -> Result<(i32, String, String), Error> {
        let mut command = tokio::process::Command::new(&self.program);
        command.args(arguments).arg(option).arg(path).stdin(Stdio::null()).kill_on_drop(true);
        let output = command.output().await.map_err(|source| files::failed(self.program.display(), source))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr)))
    }

    /// Where `pgrenga` is.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// How many nodes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes().len()
    }

    /// Whether there are none, as before the first start.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes().is_empty()
    }

    /// A node's name.
    #[must_use]
    pub fn name(&self, node: usize) -> String {
        self.nodes()[node].name.clone()
    }

    /// How to connect to each node, for workloads.
    #[must_use]
    pub fn configs(&self) -> Vec<tokio_postgres::Config> {
        self.nodes().iter().map(NodeFile::postgres).collect()
    }

    /// A session on a node.
    ///
    /// # Errors
    ///
    /// What PostgreSQL answered.
    pub async fn connect(&self, node: usize) -> Result<tokio_postgres::Client, Error> {
        let (client, connection) = self.configs()[node].connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Runs statements on a node, in a session of their own.
    ///
    /// # Errors
    ///
    /// What PostgreSQL answered.
    pub async fn execute(&self, node: usize, sql: &str) -> Result<(), Error> {
        Ok(self.connect(node).await?.batch_execute(sql).await?)
    }

    /// Waits until whatever is committed on any node is visible on all. An
    /// acknowledged commit is visible on its own node at once and on the others
    /// a little later: wait before reading elsewhere than was written.
    ///
    /// # Errors
    ///
    /// [`Error::Late`] after `patience`; what PostgreSQL answered.
    pub async fn settle_within(&self, patience: Duration) -> Result<(), Error> {
        let mut sessions = Vec::new();
        let mut latest = 0;
        for node in 0..self.len() {
            let session = self.connect(node).await?;
            latest = latest.max(session.query_one("SELECT pgrenga.visible()", &[]).await?.get::<_, i64>(0));
            sessions.push(session);
        }
        let patience_ms = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
        for (node, session) in sessions.iter().enumerate() {
            let row = session.query_one("SELECT pgrenga.wait_for($1, $2)", &[&latest, &patience_ms]).await?;
            if !row.get::<_, bool>(0) {
                let what = format!("seq {latest} was visible on node {node}");
                return Err(Error::Late { what, state: self.diagnosis() });
            }
        }
        Ok(())
    }

    /// The same, with patience for what tests usually write.
    ///
    /// # Errors
    ///
    /// See [`Cluster::settle_within`].
    pub async fn settle(&self) -> Result<(), Error> {
        self.settle_within(SETTLE_PATIENCE).await
    }

    /// The first column of the first row of a query, as text, from every node.
    ///
    /// # Errors
    ///
    /// What PostgreSQL answered.
    pub async fn ask_all(&self, sql: &str) -> Result<Vec<String>, Error> {
        let mut answers = Vec::new();
        for node in 0..self.len() {
            let row =
                self.connect(node).await?.query_one(&format!("SELECT (x.*)::text FROM ({sql}) AS x"), &[]).await?;
            answers.push(row.get(0));
        }
        Ok(answers)
    }

    /// A process of a node, if it runs.
    #[must_use]
    pub fn pid(&self, node: usize, part: Part) -> Option<Pid> {
        let nodes = self.nodes();
        let node = nodes.get(node)?;
        match part {
            Part::Daemon => process::holder_of(&self.dir().join(&node.name).join("daemon.lock")),
            Part::Postgres => process::postmaster_of(&node.data_dir),
        }
    }

    /// Sends a signal to a process of a node: SIGKILL for a crash, SIGSTOP and
    /// SIGCONT for a pause. False if it does not run.
    pub fn signal(&self, node: usize, part: Part, signal: Signal) -> bool {
        self.pid(node, part).is_some_and(|pid| self.send(pid, signal))
    }

    fn send(&self, pid: Pid, signal: Signal) -> bool {
        if signal == Signal::SIGKILL {
            self.reaper.note(pid);
        }
        pid.signal(signal)
    }

    /// Sets a node's clock to `seconds` after the machine's, if it has one of its own.
    ///
    /// # Errors
    ///
    /// From the file system.
    pub fn set_clock(&self, node: usize, seconds: i64) -> Result<(), Error> {
        let dir = self.dir().join(self.name(node));
        Clocks::set(&dir, seconds).map_err(|source| files::failed(dir.display(), source))
    }

    /// Whether nodes that are made later have clocks that can be set.
    #[must_use]
    pub fn has_clocks(&self) -> bool {
        self.options.clocks.is_some()
    }

    /// The same for a process and those that it started: a whole PostgreSQL server.
    pub fn signal_all(&self, node: usize, part: Part, signal: Signal) -> bool {
        let Some(pid) = self.pid(node, part) else { return false };
        // First the one that would start others.
        let sent = self.send(pid, signal);
        for child in pid.children() {
            child.signal(signal);
        }
        sent
    }

    /// Kills a process of a node and waits until it is gone. Its supervisor
    /// starts another one, unless [`Cluster::hold_supervisor`] forbids it.
    pub fn kill(&self, node: usize, part: Part) -> bool {
        self.pid(node, part)
            .is_some_and(|pid| self.signal(node, part, Signal::SIGKILL) && pid.wait_gone(Duration::from_secs(10)))
    }

    /// Keeps the demo from starting killed daemons again.
    pub fn hold_supervisor(&self) {
        self.signal_demo(Signal::SIGSTOP);
    }

    /// Undoes [`Cluster::hold_supervisor`].
    pub fn release_supervisor(&self) {
        self.signal_demo(Signal::SIGCONT);
    }

    fn signal_demo(&self, signal: Signal) {
        if let Some(pid) = self.demo.as_ref().and_then(|demo| Pid::of(demo.id())) {
            pid.signal(signal);
        }
    }

    /// Stops everything as Ctrl-C does, and waits for it.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] with what it said if it did not end well.
    pub async fn stop_demo(&mut self) -> Result<(), Error> {
        self.signal_demo(Signal::SIGTERM);
        self.hand_over_joined();
        let Some(mut demo) = self.demo.take() else { return Ok(()) };
        let waited = tokio::task::spawn_blocking(move || demo.wait()).await;
        match waited {
            Ok(Ok(status)) if status.success() => Ok(()),
            _ => Err(Error::Ended(self.demo_output())),
        }
    }

    /// Kills the demo alone; daemons and servers go on without a supervisor.
    pub fn kill_demo(&mut self) {
        if let Some(mut demo) = self.demo.take() {
            let _ = demo.kill();
            let _ = demo.wait();
        }
    }

    /// Kills every process of the cluster at once, as when the machine loses its power
    /// (but not what the operating system has cached).
    pub fn kill_everything(&mut self) {
        self.kill_demo();
        let parts = [Part::Daemon, Part::Postgres];
        let nodes = (0..self.len()).flat_map(|node| parts.map(|part| self.pid(node, part)));
        let all: Vec<Pid> = nodes.chain([self.balancer_pid()]).flatten().collect();
        all.iter().for_each(|pid| self.reaper.note(*pid));
        for pid in &all {
            pid.signal(Signal::SIGKILL);
        }
        for pid in &all {
            pid.wait_gone(Duration::from_secs(10));
        }
        self.hand_over_joined();
    }

    /// Changes a node's data behind everybody's back, by one statement. The cluster must be stopped.
    ///
    /// # Errors
    ///
    /// What PostgreSQL said.
    pub fn plant(&self, node: usize, sql: &str) -> Result<(), Error> {
        plant::run(&self.data_dir(node), sql)
    }

    /// Where the cluster lives.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.directory.path().join("demo")
    }

    /// A node's PostgreSQL data directory.
    #[must_use]
    pub fn data_dir(&self, node: usize) -> PathBuf {
        self.nodes()[node].data_dir.clone()
    }

    fn nodes(&self) -> Vec<NodeFile> {
        let mut nodes = ClusterFile::read(&self.dir()).map(|file| file.nodes).unwrap_or_default();
        nodes.extend(self.joined.iter().map(|joined| joined.file.clone()));
        nodes
    }

    fn demo_log(&self) -> PathBuf {
        self.directory.path().join("demo.log")
    }

    fn demo_output(&self) -> String {
        std::fs::read_to_string(self.demo_log()).unwrap_or_default()
    }

    /// The ends of all logs, for a test that failed.
    #[must_use]
    pub fn diagnosis(&self) -> String {
        files::ends_of_logs(self.directory.path())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.diagnosis());
        }
        if let Some(network) = &self.options.network {
            network.close();
        }
        self.kill_demo();
        if std::env::var_os("PGRENGA_KEEP").is_some() {
            self.directory.disable_cleanup(true);
            eprintln!("kept: {}", self.directory.path().display());
        }
    }
}

/// Of a pid or lock file.
fn first_line(path: &Path) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.lines().next()?.trim().to_owned())
}
