//! Ends a cluster whose test program ended without doing so: by Ctrl-C, by a
//! kill, or because the cluster is in a static variable.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::{Error, files};

/// Runs until its standard input is closed, which is when the test program
/// ends, however that happens. Killed first are supervisors, and again what
/// they may have started meanwhile. Shared memory outlives a server that is killed.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
read -r _
for disk in $(awk -v dir="$REAPED/" 'index($2, dir) == 1 { print $2 }' /proc/mounts); do fsfreeze --unfreeze "$disk"; done
shared=
for _ in 1 2 3 4 5 6 7 8 9 10; do
    found=
    for process in /proc/[0-9]*; do
        case $(readlink "$process/cwd")/ in
            "$REAPED"/*) ;;
            *)
                line=$(tr '\0' ' ' 2>/dev/null <"$process/cmdline")
                case $line in *pgrenga\ *"$REAPED"/*) ;; *) continue ;; esac ;;
        esac
        shared="$shared $(awk '/ \/dev\/shm\/PostgreSQL/ { print $6 } / \/SYSV/ { print $5 }' "$process/maps" | sort -u)"
        kill -KILL "${process#/proc/}" && found=1
    done
    [ -n "$found" ] || break
    sleep 0.1
done
for disk in $(awk -v dir="$REAPED/" 'index($2, dir) == 1 { print $2 }' /proc/mounts); do umount --lazy "$disk"; done
for segment in $shared; do
    case $segment in /*) rm -f "$segment" ;; *) ipcrm -m "$segment" ;; esac
done
[ -n "${PGRENGA_KEEP+set}" ] || rm -rf "$REAPED"
"#;

/// Its drop calls it off.
#[derive(Debug)]
pub(super) struct Reaper(Child);

impl Reaper {
    pub(super) fn watch_over(directory: &Path) -> Result<Self, Error> {
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT]).env("REAPED", directory).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(command.spawn().map_err(|source| files::failed("sh", source))?))
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
