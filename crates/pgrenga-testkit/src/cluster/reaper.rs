//! Ends a cluster, also one whose test program ended without doing so: by Ctrl-C, by a
//! kill, or because the cluster is in a static variable.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{Error, Pid, files};

/// Waits until its standard input is closed: when the test has no more need of the cluster, or its program
/// ends, however that happens. Then it kills daemons (they name the directory on their command line) and servers (they work in
/// it), and again what supervisors may have started meanwhile. Shared memory outlives a server that is killed, and
/// one whose data are gone never removes its predecessor's.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
disks() { awk -v dir="$REAPED/" 'index($2, dir) == 1 { print $2 }' /proc/mounts; }
shared() { awk '/ \/dev\/shm\/PostgreSQL/ { print $6 } / \/SYSV/ { print $5 }' "$@"; }
read -r _
for disk in $(disks); do fsfreeze --unfreeze "$disk"; done
segments=$(shared "$REAPED"/*.maps)
for _ in $(seq 100); do
    found=
    for process in /proc/[0-9]*; do
        case $(readlink "$process/cwd")/ in
            "$REAPED"/*) ;;
            *)
                line=$(tr '\0' ' ' 2>/dev/null <"$process/cmdline")
                case $line in *pgrenga\ *"$REAPED"/*) ;; *) continue ;; esac ;;
        esac
        segments="$segments $(shared "$process/maps")"
        found="$found ${process#/proc/}"
    done
    [ -n "$found" ] || break
    kill -KILL $found
    sleep 0.1
done
for disk in $(disks); do umount --lazy "$disk"; done
for segment in $(printf '%s\n' $segments | sort -u); do
    case $segment in /*) rm -f "$segment" ;; *) ipcrm -m "$segment" ;; esac
done
[ -n "${PGRENGA_KEEP+set}" ] || rm -rf "$REAPED"
"#;

/// The cluster ends with it.
#[derive(Debug)]
pub(super) struct Reaper {
    script: Child,
    directory: PathBuf,
}

impl Reaper {
    pub(super) fn watch_over(directory: &Path) -> Result<Self, Error> {
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT]).env("REAPED", directory).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let script = command.spawn().map_err(|source| files::failed("sh", source))?;
        Ok(Self { script, directory: directory.to_owned() })
    }

    /// Tells it of the shared memory of a server that is about to be killed, perhaps for good: its processes end with it.
    pub(super) fn note(&self, pid: Pid) {
        for process in pid.children().into_iter().chain([pid]) {
            let maps = self.directory.join(format!("{}.maps", process.raw()));
            // One that is gone already has none.
            let _ = std::fs::copy(format!("/proc/{}/maps", process.raw()), maps);
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        drop(self.script.stdin.take());
        let _ = self.script.wait();
    }
}
