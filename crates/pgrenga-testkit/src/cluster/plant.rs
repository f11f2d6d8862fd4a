//! Changes a node's data behind everybody's back, as a broken disk would.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Error, files};

/// Runs one statement in PostgreSQL's single-user mode, without any preloaded
/// library. The server must be stopped.
pub(super) fn run(data_dir: &Path, sql: &str) -> Result<(), Error> {
    let owner = std::fs::metadata(data_dir).map_err(|source| files::failed(data_dir.display(), source))?;
    let mut command = Command::new(files::postgres_programs().join("postgres"));
    command.arg("--single").arg("-D").arg(data_dir).args(["-c", "shared_preload_libraries=", "postgres"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).current_dir("/");
    if nix::unistd::geteuid().is_root() {
        command.uid(owner.uid()).gid(owner.gid());
    }
    let failed = |source| files::failed("PostgreSQL in single-user mode", source);
    let mut child = command.spawn().map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(sql.replace('\n', " ").as_bytes()).map_err(failed)?;
    }
    let output = child.wait_with_output().map_err(failed)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() && !said.contains("ERROR:") { Ok(()) } else { Err(Error::Ended(said)) }
}
