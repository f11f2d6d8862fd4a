//! Keeps one daemon running: starts it, starts it again when it ends, and
//! stops it when told to.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::report::say;

const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A daemon that lived this long was well; what ended it is a new matter.
const GOOD_LIFE: Duration = Duration::from_secs(10);
/// PostgreSQL's last checkpoint may take its time.
const STOP_PATIENCE: Duration = Duration::from_secs(90);

/// What can be kept running: `pgrenga COMMAND --config FILE`.
pub(super) trait Daemon: Clone + Send + Sync + 'static {
    /// How the demo calls it.
    fn name(&self) -> &str;
    /// The subcommand.
    fn command(&self) -> &'static str;
    /// Its configuration.
    fn config_path(&self) -> PathBuf;
    /// Where its own log goes.
    fn log_path(&self) -> PathBuf;
    /// Whether it has ended for good.
    fn is_removed(&self) -> bool;
}

/// A daemon that is kept running.
#[derive(Debug)]
pub(super) struct Supervised {
    state: Arc<State>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct State {
    pid: AtomicU32,
    failures: AtomicU32,
}

impl Supervised {
    /// Starts it, as a subcommand of `program`.
    pub(super) fn start(program: &Path, daemon: &impl Daemon) -> Self {
        let state = Arc::new(State::default());
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(keep_running(program.to_owned(), daemon.clone(), Arc::clone(&state), stopped));
        Self { state, stop, task }
    }

    /// The daemon's process id, while it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        Some(self.state.pid.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
    }

    /// How often in a row it ended soon after its start.
    pub(super) fn failures(&self) -> u32 {
        self.state.failures.load(Ordering::Relaxed)
    }

    /// Stops the daemon and waits for its end.
    pub(super) async fn stop(self) {
        let _ = self.stop.send(true);
        let _ = self.task.await;
    }
}

async fn keep_running(program: PathBuf, daemon: impl Daemon, state: Arc<State>, mut stop: watch::Receiver<bool>) {
    let mut pause = PAUSE_MIN;
    loop {
        let begun = Instant::now();
        let end = match spawn(&program, &daemon) {
            Ok(mut child) => {
                state.pid.store(child.id().unwrap_or(0), Ordering::Relaxed);
                let status = tokio::select! {
                    status = child.wait() => status,
                    _ = stop.changed() => return terminate(&mut child).await,
                };
                state.pid.store(0, Ordering::Relaxed);
                status.map_or_else(|error| error.to_string(), |status| status.to_string())
            }
            Err(error) => format!("{error:#}"),
        };
        if daemon.is_removed() {
            say(format_args!("{}: removed from the cluster", daemon.name()));
            return;
        }
        if begun.elapsed() >= GOOD_LIFE {
            pause = PAUSE_MIN;
            state.failures.store(0, Ordering::Relaxed);
        }
        state.failures.fetch_add(1, Ordering::Relaxed);
        say(format_args!("{}: the daemon ended ({end}), starting it again", daemon.name()));
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
            _ = stop.changed() => return,
        }
    }
}

/// In a process group of its own, so that Ctrl-C reaches only the demo, which then stops its daemons in order.
fn spawn(program: &Path, daemon: &impl Daemon) -> Result<Child> {
    let path = daemon.log_path();
    let open = || File::options().create(true).append(true).open(&path);
    let log = || open().with_context(|| format!("could not open \"{}\"", path.display()));
    let mut command = Command::new(program);
    command.arg(daemon.command()).arg("--config").arg(daemon.config_path());
    command.stdin(Stdio::null()).stdout(log()?).stderr(log()?).process_group(0);
    command.spawn().with_context(|| format!("could not run \"{}\"", program.display()))
}

async fn terminate(child: &mut Child) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    if let Some(pid) = pid {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    if tokio::time::timeout(STOP_PATIENCE, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}
