//! A further node, made while the cluster runs. It lives where the demo would
//! have put it, so that a demo that is started later goes on with it.

use std::path::Path;
use std::process::{Child, Stdio};

use nix::sys::signal::Signal;

use super::files::{self, NodeFile};
use super::{Cluster, Error, Pid};

/// A daemon that the demo does not know.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) file: NodeFile,
    daemon: Child,
}

impl Cluster {
    /// Makes a further node with `pgrenga join`, a copy of `donor`, and starts its daemon. Says
    /// its number; does not wait until it serves. Nobody starts its daemon again if it ends.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] with what the program said if it could not join.
    pub async fn join_another(&mut self, donor: usize) -> Result<usize, Error> {
        let number = self.len();
        let offset = u16::try_from(number).unwrap_or(u16::MAX) + 1;
        let name = format!("n{offset}");
        let dir = self.dir().join(&name);
        std::fs::create_dir_all(&dir).map_err(|source| files::failed(dir.display(), source))?;
        let path = dir.join("node.toml");
        let (postgres, admin, peer) = (self.port + offset, self.port + 100 + offset, self.port + 200 + offset);
        let configuration = format!(
            "cluster = \"demo\"\nname = \"{name}\"\ndir = {dir:?}\n\
             listen = \"127.0.0.1:{peer}\"\nadmin = \"127.0.0.1:{admin}\"\n[postgres]\nport = {postgres}\n{}",
            self.options.configuration
        );
        std::fs::write(&path, configuration).map_err(|source| files::failed(path.display(), source))?;
        let donor_admin = self.port + 101 + u16::try_from(donor).unwrap_or(u16::MAX);
        self.run_join(&path, donor_admin).await?;

        let log = files::create(&dir.join("daemon.log"))?;
        let errors = log.try_clone().map_err(|source| files::failed("copy a file handle", source))?;
        let mut command = std::process::Command::new(&self.program);
        command.arg("node").arg("--config").arg(&path).envs(self.options.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        let daemon = command.spawn().map_err(|source| files::failed(self.program.display(), source))?;
        let file = NodeFile { name, postgres_port: postgres, data_dir: dir.join("data") };
        self.joined.push(Joined { file, daemon });
        Ok(number)
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

    async fn run_join(&self, config: &Path, donor_admin: u16) -> Result<(), Error> {
        let mut command = tokio::process::Command::new(&self.program);
        command.arg("join").arg("--config").arg(config).arg("--peer").arg(format!("127.0.0.1:{donor_admin}"));
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
        let output = output.map_err(|source| files::failed(self.program.display(), source))?;
        if output.status.success() {
            return Ok(());
        }
        Err(Error::Ended(String::from_utf8_lossy(&output.stderr).into_owned()))
    }
}
