//! A plain PostgreSQL server that lives as long as a value of this test.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// The socket's name; nobody else listens in the server's own directory.
const PORT: u16 = 5432;

/// The server. It ends with this value, or with the thread that started it.
pub(crate) struct Server {
    bindir: String,
    postmaster: Option<Child>,
    dir: TempDir,
}

impl Server {
    pub(crate) fn start() -> Result<Self> {
        let output = Command::new("pg_config").arg("--bindir").output()?;
        let bindir = String::from_utf8(output.stdout)?.trim().to_owned();
        let dir = tempfile::Builder::new().prefix("plain-postgres-").tempdir()?;
        let mut server = Self { bindir, postmaster: None, dir };
        if is_root()? {
            let chown = Command::new("chown").arg("postgres:").arg(server.dir.path()).status()?;
            ensure!(chown.success(), "could not give the directory to postgres");
        }
        let initdb = server
            .command("initdb")
            .args(["--no-sync", "--auth=trust", "--username=postgres", "--pgdata"])
            .arg(server.data())
            .output()?;
        let message = String::from_utf8_lossy(&initdb.stderr);
        ensure!(initdb.status.success(), "initdb failed: {message}");
        server.spawn()?;
        Ok(server)
    }

    pub(crate) fn address(&self) -> tokio_postgres::Config {
        let mut address = tokio_postgres::Config::new();
        address.host_path(self.dir.path()).port(PORT).user("postgres").dbname("postgres");
        address
    }

    pub(crate) fn directory(&self) -> &Path {
        self.dir.path()
    }

    /// Ends all server processes at once, as a crash of the machine's only
    /// PostgreSQL would, and starts it again.
    pub(crate) fn crash_and_restart(&mut self) -> Result<()> {
        self.stop(Signal::SIGQUIT);
        self.spawn()
    }

    fn data(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    /// One of PostgreSQL's programs, run as the user postgres by root.
    fn command(&self, program: &str) -> Command {
        let program = format!("{}/{program}", self.bindir);
        // Becomes the program, so that the child's pid is the postmaster's.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "QUIT"]);
        if is_root().unwrap_or(false) {
            command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]);
        }
        command.arg("--").arg(program).current_dir("/").stdin(Stdio::null());
        command
    }

    fn spawn(&mut self) -> Result<()> {
        let log = fs::File::options().create(true).append(true).open(self.dir.path().join("log"))?;
        let socket = format!("-cunix_socket_directories={}", self.dir.path().display());
        let postmaster = self
            .command("postgres")
            .arg("-D")
            .arg(self.data())
            .args(["-p", &PORT.to_string(), "-clisten_addresses="])
            // Crashes here are of processes, which need no fsync to survive.
            .args(["-cfsync=off", "-cdeadlock_timeout=10ms"])
            .arg(socket)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("could not start setpriv")?;
        self.postmaster = Some(postmaster);
        self.wait_until_ready()
    }

    fn wait_until_ready(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        let status = self.data().join("postmaster.pid");
        while Instant::now() < deadline {
            // See LOCK_FILE_LINE_PM_STATUS in PostgreSQL's pidfile.h.
            let lines = fs::read_to_string(&status).unwrap_or_default();
            if lines.lines().nth(7).is_some_and(|line| line.trim() == "ready") {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        bail!("the server does not come up:\n{log}")
    }

    fn stop(&mut self, signal: Signal) {
        if let Some(mut postmaster) = self.postmaster.take() {
            let pid = i32::try_from(postmaster.id()).expect("a pid");
            // It may have ended by itself; then there is nothing to stop.
            let _ = kill(Pid::from_raw(pid), signal);
            let _ = postmaster.wait();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop(Signal::SIGQUIT);
    }
}

fn is_root() -> Result<bool> {
    Ok(fs::metadata("/proc/self")?.uid() == 0)
}
