//! A full state transfer's first half: a base backup of a donor that keeps
//! serving, made by `pg_basebackup`, into a data directory that then starts as
//! a server of its own and recovers to the backup's end.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::error::{Error, Result, file};
use crate::server::{Server, is_vacant, last_lines};

/// How far a backup has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Copied so far, in kilobytes.
    pub done_kb: u64,
    /// The donor's estimate of the whole, in kilobytes. It grows with `done_kb` when it was too low.
    pub total_kb: u64,
}

/// A whole and synced copy of a server, beside the data directory that it is for.
#[derive(Debug)]
pub struct Copy {
    server: Server,
    aside: PathBuf,
}

/// Copies the server at `donor` (a libpq connection string, see [`conninfo`]) to beside `server`'s
/// data directory, so that a copy that was cut off is never taken for a data directory. The next
/// try clears it away, and makes its own in another place: a `pg_basebackup` may outlive whoever
/// started it.
///
/// The settings that came with the copy are the donor's: call
/// [`Server::configure`] before [`Server::start`].
///
/// # Errors
///
/// [`Error::Program`] with what `pg_basebackup` said.
pub async fn copy(server: &Server, donor: &str, on_progress: impl FnMut(Progress) + Send) -> Result<Copy> {
    let data_dir = &server.options().data_dir;
    let user = server.prepare_dirs().await?;
    clear_attempts(server)?;
    let aside = data_dir.with_file_name(format!("{}{}", attempt_prefix(data_dir), std::process::id()));
    user.create_dir(&aside)?;

    let program = server.options().bin_dir.join("pg_basebackup");
    let mut command = user.command(&program);
    command.arg("--pgdata").arg(&aside).arg("--dbname").arg(donor);
    command.args(["--wal-method=stream", "--checkpoint=fast", "--progress", "--no-password"]);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|source| Error::Spawn { program: program.clone(), source })?;
    let said = match child.stderr.take() {
        Some(errors) => follow(errors, on_progress).await,
        None => String::new(),
    };
    let status = child.wait().await.map_err(|source| Error::Spawn { program, source })?;
    if !status.success() {
        return Err(Error::Program { program: "pg_basebackup".to_owned(), message: said });
    }
    make_primary(&aside)?;
    Ok(Copy { server: server.clone(), aside })
}

impl Copy {
    /// Puts a file into the copy, durably.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn leave(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.aside.join(name);
        let write = || {
            let mut file = std::fs::File::create(&path)?;
            file.write_all(content)?;
            file.sync_all()
        };
        write().map_err(file("write file", &path))?;
        sync_dir(&self.aside)
    }

    /// Makes the copy the data directory: there must be none, or an empty one.
    ///
    /// # Errors
    ///
    /// [`Error::NotEmpty`], or if it cannot be renamed.
    pub fn place(self) -> Result<()> {
        let data_dir = &self.server.options().data_dir;
        if !is_vacant(data_dir)? {
            return Err(Error::NotEmpty(data_dir.clone()));
        }
        if data_dir.exists() {
            std::fs::remove_dir(data_dir).map_err(file("remove empty directory", data_dir))?;
        }
        std::fs::rename(&self.aside, data_dir).map_err(file("rename to the data directory", &self.aside))?;
        sync_dir(parent(data_dir))
    }

    /// Puts the copy in the place of the data directory, in one step: a crash leaves the one or the
    /// other there. No server may run on either. What was there before is removed by
    /// [`clear_attempts`].
    ///
    /// # Errors
    ///
    /// If they cannot be exchanged; then everything is as before.
    pub fn replace(self) -> Result<()> {
        let data_dir = &self.server.options().data_dir;
        renameat2(AT_FDCWD, &self.aside, AT_FDCWD, data_dir, RenameFlags::RENAME_EXCHANGE)
            .map_err(|errno| file("exchange with the data directory", &self.aside)(errno.into()))?;
        sync_dir(parent(data_dir))
    }
}

/// How to connect to a donor.
#[must_use]
pub fn conninfo(host: &str, port: u16, user: &str) -> String {
    let quote = |value: &str| format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"));
    let (host, user) = (quote(host), quote(user));
    format!("host={host} port={port} user={user} application_name=pgrenga_join connect_timeout=10")
}

fn parent(data_dir: &Path) -> &Path {
    data_dir.parent().unwrap_or(Path::new("/"))
}

fn sync_dir(directory: &Path) -> Result<()> {
    std::fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(file("sync directory", directory))
}

/// Passes progress on until the program closes its error stream; its other lines are returned.
async fn follow(errors: impl tokio::io::AsyncRead + Unpin, mut on_progress: impl FnMut(Progress)) -> String {
    let mut lines = BufReader::new(errors).lines();
    let mut said = String::new();
    while let Ok(Some(line)) = lines.next_line().await {
        match parse_progress(&line) {
            Some(progress) => on_progress(progress),
            None => {
                said.push_str(&line);
                said.push('\n');
            }
        }
    }
    last_lines(said.as_bytes(), 5)
}

/// A line such as `  23456/1234567 kB (1%), 0/1 tablespace`.
fn parse_progress(line: &str) -> Option<Progress> {
    let (numbers, rest) = line.trim_start().split_once(" kB")?;
    let (done, total) = numbers.split_once('/')?;
    rest.trim_start().starts_with('(').then_some(())?;
    Some(Progress { done_kb: done.parse().ok()?, total_kb: total.parse().ok()? })
}

/// Removes what would make the copy anything but a primary of its own.
/// `backup_label` stays: without it recovery would begin at the wrong place.
fn make_primary(copy: &Path) -> Result<()> {
    for name in ["standby.signal", "recovery.signal", "postmaster.pid", "postmaster.opts"] {
        let path = copy.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(file("remove", path)(error)),
            _ => {}
        }
    }
    let slots = copy.join("pg_replslot");
    for slot in std::fs::read_dir(&slots).map_err(file("read directory", &slots))?.flatten() {
        remove_dir(&slot.path())?;
    }
    Ok(())
}

fn attempt_prefix(data_dir: &Path) -> String {
    format!("{}.partial.", data_dir.file_name().unwrap_or_default().to_string_lossy())
}

/// Removes what attempts that were cut off have left, and data that a copy has replaced.
///
/// # Errors
///
/// If something cannot be removed.
pub fn clear_attempts(server: &Server) -> Result<()> {
    let data_dir = &server.options().data_dir;
    let parent = parent(data_dir);
    for entry in std::fs::read_dir(parent).map_err(file("read directory", parent))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(&attempt_prefix(data_dir)) {
            remove_dir(&entry.path())?;
        }
    }
    Ok(())
}

fn remove_dir(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(file("remove directory", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_from_messages() {
        let done = |done_kb, total_kb| Some(Progress { done_kb, total_kb });
        assert_eq!(parse_progress("    0/31234 kB (0%), 0/1 tablespace"), done(0, 31234));
        assert_eq!(parse_progress("31243/31243 kB (100%), 1/1 tablespace"), done(31243, 31243));
        for message in ["pg_basebackup: error: connection failed", "1/2 kB", "x/2 kB (1%)", "waiting for checkpoint"] {
            assert_eq!(parse_progress(message), None, "{message}");
        }
    }
}
