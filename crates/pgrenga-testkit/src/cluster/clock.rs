//! The wall clocks of nodes, for tests that set them. Daemons and servers read them through Debian's
//! libfaketime; the monotonic clock stays as it is, as it does when somebody sets a machine's clock.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{Error, files};

const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
/// Makes what libfaketime keeps in shared memory for all processes, PostgreSQL's user's too, says its
/// names, and removes it when its standard input is closed: when the test program has ended, however
/// that happens.
const KEEPER: &str = r#"
trap '' INT TERM HUP
LD_PRELOAD=$LIBRARY exec sh -c '
    shared=$FAKETIME_SHARED
    unset LD_PRELOAD
    set -- $shared
    set -- "/dev/shm/sem.${1#/}" "/dev/shm/${2#/}"
    chmod 666 "$@"
    echo "$shared"
    read -r _
    rm -f "$@"'
"#;

/// Clocks that can be set, each node's by itself.
#[derive(Debug)]
pub struct Clocks {
    keeper: Child,
    shared: String,
}

impl Clocks {
    /// Nothing where libfaketime is not installed.
    ///
    /// # Errors
    ///
    /// If the keeper of its shared memory cannot be started.
    pub fn new() -> Result<Option<Self>, Error> {
        if !Path::new(LIBRARY).exists() {
            return Ok(None);
        }
        let mut command = Command::new("sh");
        command.args(["-c", KEEPER]).env("LIBRARY", LIBRARY).env("FAKETIME", "+0").current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut keeper = command.spawn().map_err(|source| files::failed("sh", source))?;
        let mut shared = String::new();
        if let Some(output) = keeper.stdout.take() {
            let read = BufReader::new(output).read_line(&mut shared);
            read.map_err(|source| files::failed("read what libfaketime shares", source))?;
        }
        Ok(Some(Self { keeper, shared: shared.trim_end().to_owned() }))
    }

    /// Sets the clock of the node that lives in `dir` to `seconds` after the machine's. Processes see
    /// it within a second.
    pub(super) fn set(dir: &Path, seconds: i64) -> std::io::Result<()> {
        let next = dir.join("clock.next");
        std::fs::write(&next, format!("{seconds:+}\n"))?;
        std::fs::rename(next, file_of(dir))
    }

    /// What processes of the node that lives in `dir` need in their environment.
    pub(super) fn environment(&self, dir: &Path) -> std::io::Result<[(&'static str, PathBuf); 5]> {
        if !file_of(dir).exists() {
            Self::set(dir, 0)?;
        }
        Ok([
            ("LD_PRELOAD", LIBRARY.into()),
            ("FAKETIME_SHARED", self.shared.clone().into()),
            ("FAKETIME_TIMESTAMP_FILE", file_of(dir)),
            ("FAKETIME_CACHE_DURATION", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ])
    }
}

impl Drop for Clocks {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

fn file_of(dir: &Path) -> PathBuf {
    dir.join("clock")
}
