//! Daemons that outlived a demo that was killed. Only their parent knew them
//! by name, so they are stopped and started again as children of this one.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::layout::Layout;
use crate::lock::{self, Lock};
use crate::report::say;

const POLL: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(30);

/// Stops them; at first politely, then not.
pub(super) async fn stop_daemons(layout: &Layout) -> Result<()> {
    stop("balancer", &layout.dir, lock::BALANCER).await?;
    for node in &layout.nodes {
        stop(&node.name, &node.dir, lock::DAEMON).await?;
    }
    Ok(())
}

async fn stop(name: &str, dir: &Path, lock: &str) -> Result<()> {
    let begun = Instant::now();
    let mut asked = false;
    while let Some(pid) = Lock::holder(dir, lock)? {
        if !asked {
            say(format_args!("{name}: stopping the daemon (process {pid}) of an earlier demo"));
        }
        let signal = if begun.elapsed() < PATIENCE { Signal::SIGTERM } else { Signal::SIGKILL };
        if !asked || signal == Signal::SIGKILL {
            kill(Pid::from_raw(pid), signal).with_context(|| format!("could not signal process {pid}"))?;
        }
        asked = true;
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}
