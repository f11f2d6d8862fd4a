//! The demo's cluster: makes the nodes that are not made yet, waits until all
//! serve, and keeps `cluster.json` true.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::future::join_all;
use pgrenga_admin::{Client, State};
use pgrenga_postgres::server::{Server, StopMode};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;

use super::REFRESH;
use super::cluster_file::ClusterFile;
use super::layout::{Layout, NodeLayout};
use super::supervisor::{Daemon, Supervised};
use crate::identity::{Data, Identity};
use crate::report::{Problem, say};

const POLL: Duration = Duration::from_millis(100);
/// After so many starts in vain there is no point in waiting on.
const FAILURES_MAX: u32 = 6;
/// How often a wait says what it waits for.
const PATIENCE: Duration = Duration::from_secs(10);

/// What runs, and what should.
#[derive(Debug)]
pub(super) struct Cluster {
    layout: Layout,
    program: PathBuf,
    client: Client,
    servers: Vec<Server>,
    /// In the order of the nodes; nothing for one that is not made yet.
    daemons: Vec<Option<Supervised>>,
    balancer: Option<Supervised>,
    written: Option<ClusterFile>,
}

impl Cluster {
    pub(super) fn new(layout: Layout) -> Result<Self> {
        let program = std::env::current_exe().context("could not find our own program")?;
        let daemons = layout.nodes.iter().map(|_| None).collect();
        let client = Client::new().with_timeout(Duration::from_secs(2));
        let server = |node: &NodeLayout| node.config().map(|config| config.server());
        let servers = layout.nodes.iter().map(server).collect::<Result<_>>()?;
        let mut cluster = Self { layout, program, client, servers, daemons, balancer: None, written: None };
        cluster.write_file()?;
        Ok(cluster)
    }

    /// Brings all nodes into service.
    pub(super) async fn bring_up(&mut self) -> Result<()> {
        self.start_made_nodes().await?;
        let donor = self.wait_for_any().await?;
        for index in 0..self.layout.nodes.len() {
            if self.daemons[index].is_none() && !self.layout.nodes[index].is_removed() {
                let peer = format!("127.0.0.1:{}", self.layout.nodes[donor].admin_port);
                say(format_args!("{}: joining", self.layout.nodes[index].name));
                self.run_once(index, &["join", "--peer", &peer]).await?;
                self.start_daemon(index);
                self.wait_for(&[index]).await?;
            }
        }
        let all: Vec<usize> = (0..self.daemons.len()).filter(|index| self.daemons[*index].is_some()).collect();
        self.wait_for(&all).await
    }

    /// Starts the balancer. Clients may wait in it for the nodes.
    pub(super) async fn start_balancer(&mut self) -> Result<()> {
        let layout = self.layout.balancer();
        say("balancer: starting");
        self.balancer = Some(Supervised::start(&self.program, &layout));
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.layout.port)).await.is_err() {
            if self.balancer.as_ref().is_some_and(|balancer| balancer.failures() >= FAILURES_MAX) {
                return Err(does_not_start("the balancer", &layout));
            }
            self.pause(POLL).await?;
        }
        Ok(())
    }

    /// What runs now.
    pub(super) fn file(&self) -> ClusterFile {
        let pids = self.servers.iter().zip(&self.daemons);
        let pids = pids.map(|(server, daemon)| (daemon.as_ref().and_then(Supervised::pid), server.running_pid()));
        self.layout.cluster_file(self.balancer.as_ref().and_then(Supervised::pid), pids)
    }

    /// Keeps `cluster.json` true. Returns only with an error.
    pub(super) async fn watch(&mut self) -> Result<()> {
        loop {
            self.pause(REFRESH).await?;
        }
    }

    /// Stops the balancer, then daemons and servers, all at once.
    pub(super) async fn stop(&mut self) -> Result<()> {
        if let Some(balancer) = self.balancer.take() {
            balancer.stop().await;
        }
        let daemons: Vec<_> = self.daemons.iter_mut().filter_map(Option::take).collect();
        join_all(daemons.into_iter().map(Supervised::stop)).await;
        // A daemon that was down at that moment has left its PostgreSQL running.
        self.stop_servers(StopMode::Fast).await
    }

    pub(super) async fn stop_servers(&mut self, mode: StopMode) -> Result<()> {
        for server in &self.servers {
            server.stop(mode).await?;
        }
        self.write_file()
    }

    /// The nodes that were made by an earlier demo start together: a majority
    /// of them must be there before any serves. If there are none, the first is made.
    async fn start_made_nodes(&mut self) -> Result<()> {
        let mut made = Vec::new();
        for (index, node) in self.layout.nodes.iter().enumerate() {
            if Identity::load(&node.dir)?.is_some_and(|identity| identity.data == Data::Complete) {
                made.push(index);
            }
        }
        if made.is_empty() {
            say(format_args!("{}: making the first node", self.layout.nodes[0].name));
            self.run_once(0, &["init"]).await?;
            made.push(0);
        }
        for index in made {
            self.start_daemon(index);
        }
        Ok(())
    }

    fn start_daemon(&mut self, index: usize) {
        let node = &self.layout.nodes[index];
        say(format_args!("{}: starting", node.name));
        self.daemons[index] = Some(Supervised::start(&self.program, node));
    }

    /// Runs `pgrenga VERB` for a node; what it says is passed on, and its errors become ours.
    async fn run_once(&self, index: usize, arguments: &[&str]) -> Result<()> {
        let node = &self.layout.nodes[index];
        let mut command = Command::new(&self.program);
        command.args(arguments).arg("--config").arg(node.config_path()).process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let run = || format!("could not run \"{}\"", self.program.display());
        let mut child = command.spawn().with_context(run)?;
        let (output, errors) = (child.stdout.take(), child.stderr.take());
        let pass_on = async {
            let Some(output) = output else { return };
            let mut lines = BufReader::new(output).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                say(format_args!("{}: {line}", node.name));
            }
        };
        let collect = async {
            let mut said = String::new();
            if let Some(mut errors) = errors {
                let _ = errors.read_to_string(&mut said).await;
            }
            said
        };
        let ((), said, status) = tokio::join!(pass_on, collect, child.wait());
        if status.with_context(run)?.success() {
            return Ok(());
        }
        Err(Problem::new(format!("'pgrenga {}' failed for node {}", arguments[0], node.name)).detail(said).into())
    }

    /// Waits until any daemon that was started serves.
    async fn wait_for_any(&mut self) -> Result<usize> {
        let mut wait = Wait::begin();
        loop {
            let running: Vec<usize> = (0..self.daemons.len()).filter(|index| self.daemons[*index].is_some()).collect();
            for index in running {
                if self.is_serving(index, &mut wait).await? {
                    return Ok(index);
                }
            }
            wait.grumble();
            self.pause(POLL).await?;
        }
    }

    /// Waits until all of these serve.
    async fn wait_for(&mut self, nodes: &[usize]) -> Result<()> {
        let mut wait = Wait::begin();
        for index in nodes {
            while !self.is_serving(*index, &mut wait).await? {
                wait.grumble();
                self.pause(POLL).await?;
            }
        }
        Ok(())
    }

    async fn is_serving(&self, index: usize, wait: &mut Wait) -> Result<bool> {
        let node = &self.layout.nodes[index];
        if self.daemons[index].as_ref().is_some_and(|daemon| daemon.failures() >= FAILURES_MAX) {
            return Err(does_not_start(&format!("node {}", node.name), node));
        }
        let view = self.client.node(&node.admin_url()).await;
        wait.last = match &view {
            Ok(view) => {
                let behind = view.committed_seq.0.saturating_sub(view.applied_seq.0);
                format!("{} ({}, {behind} behind)", node.name, view.state)
            }
            Err(_) => format!("{} (no answer yet)", node.name),
        };
        Ok(view.is_ok_and(|view| view.state == State::Serving))
    }

    async fn pause(&mut self, time: Duration) -> Result<()> {
        self.write_file()?;
        tokio::time::sleep(time).await;
        Ok(())
    }

    /// Writes `cluster.json` if what runs has changed.
    fn write_file(&mut self) -> Result<()> {
        let file = self.file();
        if self.written.as_ref() != Some(&file) {
            file.save(&self.layout.dir)?;
            self.written = Some(file);
        }
        Ok(())
    }
}

/// Says now and then what is being waited for.
struct Wait {
    said: Instant,
    last: String,
}

impl Wait {
    fn begin() -> Self {
        Self { said: Instant::now(), last: String::new() }
    }

    fn grumble(&mut self) {
        if self.said.elapsed() >= PATIENCE {
            self.said = Instant::now();
            say(format_args!("waiting for {}", self.last));
        }
    }
}

fn does_not_start(who: &str, daemon: &impl Daemon) -> anyhow::Error {
    Problem::new(format!("{who} does not start"))
        .detail(last_lines(daemon))
        .hint(format!("Its log is \"{}\".", daemon.log_path().display()))
        .into()
}

fn last_lines(daemon: &impl Daemon) -> String {
    let text = std::fs::read(daemon.log_path()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}
