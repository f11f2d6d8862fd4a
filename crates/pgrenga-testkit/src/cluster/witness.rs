//! A witness beside the demo's nodes.

use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::files;
use super::{Cluster, Error, Pid};

/// How long a killed process may take to be gone.
const GONE: Duration = Duration::from_secs(10);

/// A witness's daemon.
#[derive(Debug)]
pub(super) struct Witness {
    config: PathBuf,
    daemon: Child,
}

impl Cluster {
    /// Makes a witness with `pgrenga join --witness`, by way of the first node, and starts it.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] with what the program said if it could not join.
    pub async fn join_witness(&mut self) -> Result<(), Error> {
        let dir = self.dir().join("witness");
        std::fs::create_dir_all(&dir).map_err(|source| files::failed(dir.display(), source))?;
        let config = dir.join("witness.toml");
        let (admin, peer) = (self.port + 150, self.port + 250);
        let (log, _) = self.options.configuration.split_once("[s").unwrap_or((&self.options.configuration, ""));
        let configuration = format!(
            "cluster = \"demo\"\nname = \"witness\"\ndir = {dir:?}\n\
             listen = \"127.0.0.1:{peer}\"\nadmin = \"127.0.0.1:{admin}\"\n{log}"
        );
        std::fs::write(&config, configuration).map_err(|source| files::failed(config.display(), source))?;
        let mut command = tokio::process::Command::new(&self.program);
        command.args(["join", "--witness", "--config"]).arg(&config);
        command.args(["--peer", &format!("127.0.0.1:{}", self.port + 101)]);
        let output = command.output().await.map_err(|source| files::failed(self.program.display(), source))?;
        if !output.status.success() {
            return Err(Error::Ended(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        let daemon = self.spawn_witness(&config)?;
        self.witness = Some(Witness { config, daemon });
        Ok(())
    }

    fn spawn_witness(&self, config: &std::path::Path) -> Result<Child, Error> {
        let log = files::create(&config.with_file_name("daemon.log"))?;
        let mut command = std::process::Command::new(&self.program);
        command.arg("witness").arg("--config").arg(config).envs(self.options.environment.iter().cloned());
        self.spawn_logged(command, log)
    }

    /// Whether [`Cluster::join_witness`] was called.
    #[must_use]
    pub fn has_witness(&self) -> bool {
        self.witness.is_some()
    }

    /// Kills the witness, if there is one.
    pub fn kill_witness(&mut self) {
        if let Some(witness) = &mut self.witness {
            let _ = witness.daemon.kill();
            let _ = witness.daemon.wait();
        }
    }

    /// Starts it again.
    ///
    /// # Errors
    ///
    /// If there is none, or the program cannot be started.
    pub fn start_witness(&mut self) -> Result<(), Error> {
        let config = self.witness.as_ref().map(|witness| witness.config.clone());
        let config = config.ok_or_else(|| Error::Ended("there is no witness".to_owned()))?;
        let daemon = self.spawn_witness(&config)?;
        self.witness = Some(Witness { config, daemon });
        Ok(())
    }

    /// Waits until the witness, which is removed, has ended by itself.
    ///
    /// # Errors
    ///
    /// [`Error::Late`].
    pub fn forget_witness(&mut self, patience: Duration) -> Result<(), Error> {
        let Some(mut witness) = self.witness.take() else { return Ok(()) };
        let pid = Pid::of(witness.daemon.id());
        if !tokio::task::block_in_place(|| pid.is_none_or(|pid| pid.wait_gone(patience))) {
            return Err(Error::Late { what: "the witness ended".to_owned(), state: self.diagnosis() });
        }
        let _ = witness.daemon.wait();
        Ok(())
    }

    /// Runs a node's daemon without the demo, which must be held ([`Cluster::hold_supervisor`]).
    ///
    /// # Errors
    ///
    /// If the program cannot be started.
    pub fn start_alone(&self, node: usize) -> Result<Alone, Error> {
        let dir = self.dir().join(self.name(node));
        let log = files::create(&dir.join("alone.log"))?;
        let mut command = std::process::Command::new(&self.program);
        command.arg("node").arg("--config").arg(dir.join("node.toml"));
        self.spawn_logged(command, log).map(Alone)
    }
}

/// A daemon that runs until this is dropped.
#[derive(Debug)]
pub struct Alone(Child);

impl Alone {
    /// Waits until it ends by itself; false if it did not in time.
    pub fn wait_gone(&mut self, patience: Duration) -> bool {
        let pid = Pid::of(self.0.id());
        tokio::task::block_in_place(|| pid.is_none_or(|pid| pid.wait_gone(patience)))
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let Some(pid) = Pid::of(self.0.id()) else { return };
        pid.signal(Signal::SIGKILL);
        let _ = self.0.wait();
        pid.wait_gone(GONE);
    }
}
