//! A further node, made while the cluster runs. It lives where the demo would
//! have put it, so that a demo that is started later goes on with it.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::files::{self, NodeFile};
use super::{Cluster, Disk, Error, Pid};

/// A daemon that the demo does not know.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) file: NodeFile,
    daemon: Child,
}

/// A node that is to be made.
#[derive(Clone, Debug)]
pub struct Newcomer {
    file: NodeFile,
    config: PathBuf,
}

impl Newcomer {
    /// Its name in the cluster.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.file.name
    }

    /// Its configuration.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Its PostgreSQL data directory.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.file.data_dir
    }

    /// How to connect to it, once it serves.
    #[must_use]
    pub fn postgres(&self) -> tokio_postgres::Config {
        self.file.postgres()
    }
}

impl Cluster {
    /// Makes a further node with `pgrenga join`, a copy of `donor`, and starts its daemon. Says
    /// its number; does not wait until it serves. Nobody starts its daemon again if it ends.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] with what the program said if it could not join.
    pub async fn join_another(&mut self, donor: usize) -> Result<usize, Error> {
        let newcomer = self.plan_another()?;
        let mut join = self.begin_join(&newcomer, donor)?;
        let status = join.wait().map_err(|source| files::failed(self.program.display(), source))?;
        if !status.success() {
            return Err(Error::Ended(self.join_output(&newcomer)));
        }
        self.start_joined(newcomer)
    }

    /// Decides on a further node's name and ports, and writes its configuration.
    ///
    /// # Errors
    ///
    /// From the file system.
    pub fn plan_another(&self) -> Result<Newcomer, Error> {
        let taken = |number: &u16| self.dir().join(format!("n{number}")).exists();
        let number = (1..).find(|number| !taken(number)).unwrap_or(u16::MAX);
        let name = format!("n{number}");
        let dir = self.dir().join(&name);
        std::fs::create_dir_all(&dir).map_err(|source| files::failed(dir.display(), source))?;
        let config = dir.join("node.toml");
        let (postgres, admin, peer) = (self.port + number, self.port + 100 + number, self.port + 200 + number);
        let mut advertise = format!("127.0.0.1:{peer}");
        if let Some(network) = &self.options.network {
            let target = (std::net::Ipv4Addr::LOCALHOST, peer).into();
            let published = network.publish(target).map_err(|source| files::failed("publish an address", source))?;
            advertise = published.to_string();
        }
        let configuration = format!(
            "cluster = \"demo\"\nname = \"{name}\"\ndir = {dir:?}\nadvertise = \"{advertise}\"\n\
             listen = \"127.0.0.1:{peer}\"\nadmin = \"127.0.0.1:{admin}\"\n[postgres]\nport = {postgres}\n{}",
            self.options.configuration
        );
        std::fs::write(&config, configuration).map_err(|source| files::failed(config.display(), source))?;
        Ok(Newcomer { file: NodeFile { name, postgres_port: postgres, data_dir: dir.join("data") }, config })
    }

    /// The same on a disk of its own, of `bytes`; says which of [`Cluster::disk`] that is, too.
    ///
    /// # Errors
    ///
    /// Without root, or where there are no loop devices.
    pub fn plan_another_on_a_disk(&mut self, bytes: u64) -> Result<(Newcomer, usize), Error> {
        let newcomer = self.plan_another()?;
        self.disks.push(Disk::under(&self.dir().join(&newcomer.file.name), bytes)?);
        Ok((newcomer, self.disks.len() - 1))
    }

    /// Makes a cluster of the planned node with `pgrenga init`, and lets further ones join it until all of
    /// `nodes` serve. Each step may take `patience`.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] with what the program said; [`Error::Late`].
    pub async fn found(&mut self, first: Newcomer, nodes: usize, patience: Duration) -> Result<(), Error> {
        let (code, output, errors) = self.run_as(first.name(), &["init"]).await?;
        if code != 0 {
            return Err(Error::Ended(output + &errors));
        }
        self.start_joined(first)?;
        for _ in 1..nodes {
            self.wait_serving(patience).await?;
            self.join_another(0).await?;
        }
        let complete = |status: &serde_json::Value| status["nodes"].as_array().map_or(0, Vec::len) == nodes;
        self.wait_until("all nodes are there", patience, complete).await?;
        self.wait_serving(patience).await
    }

    /// A disk on which a node lives.
    #[must_use]
    pub fn disk(&self, number: usize) -> &Disk {
        &self.disks[number]
    }

    /// Begins `pgrenga join` for a planned node, a copy of the demo's node `donor`.
    ///
    /// # Errors
    ///
    /// If the program cannot be started.
    pub fn begin_join(&self, newcomer: &Newcomer, donor: usize) -> Result<Child, Error> {
        let peer = format!("127.0.0.1:{}", self.port + 101 + u16::try_from(donor).unwrap_or(u16::MAX));
        let log = files::create(&newcomer.config.with_file_name("join.log"))?;
        let mut command = std::process::Command::new(&self.program);
        command.arg("join").arg("--config").arg(&newcomer.config).args(["--peer", &peer]);
        self.spawn_logged(command, log)
    }

    /// What its last `pgrenga join` said.
    #[must_use]
    pub fn join_output(&self, newcomer: &Newcomer) -> String {
        std::fs::read_to_string(newcomer.config.with_file_name("join.log")).unwrap_or_default()
    }

    /// Starts the daemon of a node that has joined; says the node's number.
    ///
    /// # Errors
    ///
    /// If the program cannot be started.
    pub fn start_joined(&mut self, newcomer: Newcomer) -> Result<usize, Error> {
        let log = files::create(&newcomer.config.with_file_name("daemon.log"))?;
        let daemon = self.spawn_logged(self.node_command(&newcomer.config)?, log)?;
        self.joined.push(Joined { file: newcomer.file, daemon });
        Ok(self.len() - 1)
    }

    /// Starts those daemons of nodes made later that have ended.
    ///
    /// # Errors
    ///
    /// If the program cannot be started.
    pub fn revive(&mut self) -> Result<(), Error> {
        for at in 0..self.joined.len() {
            if matches!(self.joined[at].daemon.try_wait(), Ok(None)) {
                continue;
            }
            let config = self.dir().join(&self.joined[at].file.name).join("node.toml");
            let path = config.with_file_name("daemon.log");
            let log = std::fs::OpenOptions::new().append(true).open(&path);
            let log = log.map_err(|source| files::failed(path.display(), source))?;
            self.joined[at].daemon = self.spawn_logged(self.node_command(&config)?, log)?;
        }
        Ok(())
    }

    fn node_command(&self, config: &Path) -> Result<std::process::Command, Error> {
        let mut command = std::process::Command::new(&self.program);
        command.arg("node").arg("--config").arg(config).envs(self.options.environment.iter().cloned());
        if let (Some(clocks), Some(dir)) = (&self.options.clocks, config.parent()) {
            command.envs(clocks.environment(dir).map_err(|source| files::failed(dir.display(), source))?);
        }
        Ok(command)
    }

    pub(super) fn spawn_logged(&self, mut command: std::process::Command, log: std::fs::File) -> Result<Child, Error> {
        let errors = log.try_clone().map_err(|source| files::failed("copy a file handle", source))?;
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        command.spawn().map_err(|source| files::failed(self.program.display(), source))
    }

    /// Kills a node that was made later, and everything it had on disk but its configuration.
    ///
    /// # Errors
    ///
    /// From the file system.
    pub fn lose(&mut self, node: usize) -> Result<(), Error> {
        self.kill(node, super::Part::Daemon);
        self.kill(node, super::Part::Postgres);
        let name = self.name(node);
        let lost = self.joined.extract_if(.., |joined| joined.file.name == name);
        lost.for_each(|mut joined| drop(joined.daemon.wait()));
        let dir = self.dir().join(&name);
        let entries = std::fs::read_dir(&dir).map_err(|source| files::failed(dir.display(), source))?;
        for path in entries.flatten().map(|entry| entry.path()).filter(|path| !path.ends_with("node.toml")) {
            let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            removed.map_err(|source| files::failed(path.display(), source))?;
        }
        Ok(())
    }

    /// Takes a node out with `pgrenga remove`. The daemon of one that was made later must end by
    /// itself within `patience`; the numbers of those behind it change.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] with what the program said; [`Error::Late`].
    pub async fn remove(&mut self, node: usize, patience: Duration) -> Result<(), Error> {
        let name = self.name(node);
        let (code, output, errors) = self.run(&["remove", &name]).await?;
        if code != 0 {
            return Err(Error::Ended(output + &errors));
        }
        self.forget(node, patience)
    }

    /// Waits until the daemon of a node that was made later, and is removed, has ended by itself.
    /// Nothing happens for a node of the demo.
    ///
    /// # Errors
    ///
    /// [`Error::Late`].
    pub fn forget(&mut self, node: usize, patience: Duration) -> Result<(), Error> {
        let name = self.name(node);
        let Some(at) = self.joined.iter().position(|joined| joined.file.name == name) else { return Ok(()) };
        let mut joined = self.joined.remove(at);
        let pid = Pid::of(joined.daemon.id());
        if !tokio::task::block_in_place(|| pid.is_none_or(|pid| pid.wait_gone(patience))) {
            return Err(Error::Late { what: format!("the daemon of {name} ended"), state: self.diagnosis() });
        }
        let _ = joined.daemon.wait();
        Ok(())
    }

    /// Stops the daemons that the demo does not know; the next demo goes on with their nodes.
    pub(super) fn hand_over_joined(&mut self) {
        self.options.nodes = u16::try_from(self.len()).ok();
        for mut joined in self.joined.drain(..) {
            if let Some(pid) = Pid::of(joined.daemon.id()) {
                pid.signal(Signal::SIGTERM);
            }
            let _ = joined.daemon.wait();
        }
    }
}
