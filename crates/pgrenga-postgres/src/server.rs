//! One PostgreSQL server: making its data directory, writing its settings,
//! starting, adopting and stopping its postmaster, and connecting to it.
//!
//! The postmaster is not a part of the daemon. It runs in a session of its own,
//! outlives a daemon that is killed, and is adopted by the next one.

mod adopted;
mod orphan;
mod postmaster;
mod settings;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::process::Command;
use tokio_postgres::NoTls;

use crate::error::{Error, Result, file};
use crate::os_user::OsUser;
pub use adopted::Ended;
use postmaster::{PidFile, Postmaster, State};

/// How often the end of a process, or its readiness, is looked for.
const POLL: Duration = Duration::from_millis(50);
/// After this long, a server told to stop is reported as still running.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// The kernel's `sockaddr_un` holds this many bytes of a path, with a final zero.
const SOCKET_PATH_MAX: usize = 107;

/// Where a server lives and how it is reached.
#[derive(Clone, Debug)]
pub struct Options {
    /// PostgreSQL's programs: `postgres`, `initdb`, `pg_basebackup`.
    pub bin_dir: PathBuf,
    /// The data directory.
    pub data_dir: PathBuf,
    /// Where the server writes its messages.
    pub log: PathBuf,
    /// Where the unix socket goes.
    pub socket_dir: PathBuf,
    /// PostgreSQL's `listen_addresses`.
    pub listen_addresses: String,
    /// TCP port, also part of the unix socket's name.
    pub port: u16,
    /// Run the server's processes as this user. Needed when we are root, ignored otherwise.
    pub os_user: Option<String>,
    /// The database superuser: made by [`Server::init_db`], used by [`Server::connect`].
    pub superuser: String,
}

/// How a server is told to stop; PostgreSQL's own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Ends the sessions, writes a checkpoint, ends.
    Fast,
    /// Ends at once; the next start recovers from the WAL.
    Immediate,
}

/// A handle on one PostgreSQL server; clones mean the same server.
#[derive(Clone, Debug)]
pub struct Server {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: Options,
    postmaster: Mutex<Option<Postmaster>>,
}

impl Server {
    /// Touches nothing yet. Relative paths are taken from the current directory, now.
    #[must_use]
    pub fn new(mut options: Options) -> Self {
        for path in [&mut options.data_dir, &mut options.log, &mut options.socket_dir] {
            *path = std::path::absolute(&*path).unwrap_or_else(|_| path.clone());
        }
        Self { inner: Arc::new(Inner { options, postmaster: Mutex::new(None) }) }
    }

    /// What [`Server::new`] was given.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    /// Makes a new data directory: UTF-8, the C collation (the same order on
    /// every machine and after every upgrade of its C library), checksums on,
    /// and trust for local connections and loopback only.
    ///
    /// # Errors
    ///
    /// [`Error::NotEmpty`] if something is there already.
    pub async fn init_db(&self) -> Result<()> {
        let options = self.options();
        if !is_vacant(&options.data_dir)? {
            return Err(Error::NotEmpty(options.data_dir.clone()));
        }
        let user = self.prepare_dirs().await?;
        let mut command = user.command(options.bin_dir.join("initdb"));
        command.arg("--pgdata").arg(&options.data_dir).args(["--username", &options.superuser]);
        command.args(["--encoding=UTF8", "--locale=C", "--lc-ctype=C.UTF-8", "--auth=trust", "--data-checksums"]);
        run("initdb", command).await
    }

    /// Makes what the server's processes need and checks that their user can get there.
    pub(crate) async fn prepare_dirs(&self) -> Result<OsUser> {
        let options = self.options();
        let user = OsUser::resolve(options.os_user.as_deref())?;
        let parent = options.data_dir.parent().unwrap_or(Path::new("/"));
        for directory in [parent, &options.socket_dir, &options.data_dir] {
            user.create_dir(directory)?;
            user.check_reach(directory).await?;
        }
        let socket = self.socket_path();
        if socket.as_os_str().len() > SOCKET_PATH_MAX {
            return Err(Error::SocketPathTooLong { path: socket, limit: SOCKET_PATH_MAX });
        }
        Ok(user)
    }

    /// Writes `pgrenga.conf`, included at the end of `postgresql.conf`: where
    /// the server listens, and the given settings after that. The same
    /// settings again change nothing; others take effect with the next start.
    ///
    /// # Errors
    ///
    /// If the data directory does not hold a `postgresql.conf`, or cannot be written.
    pub async fn configure(&self, settings: &[(&str, String)]) -> Result<()> {
        let options = self.options();
        let user = OsUser::resolve(options.os_user.as_deref())?;
        let socket_dir = options.socket_dir.display().to_string();
        let mut all = vec![
            ("port", options.port.to_string()),
            ("listen_addresses", options.listen_addresses.clone()),
            ("unix_socket_directories", settings::quote_directory(&socket_dir)),
        ];
        all.extend(settings.iter().cloned());
        settings::write(&options.data_dir, &all, &user)
    }

    /// Starts the postmaster, or adopts the one that runs on this data
    /// directory already, and returns when it accepts connections. Crash
    /// recovery may make that long. What a killed postmaster left behind
    /// (its pid file, processes that have not noticed yet) is cleared away.
    ///
    /// # Errors
    ///
    /// [`Error::NotStarted`] with the end of the server's log.
    pub async fn start(&self) -> Result<()> {
        let data_dir = &self.options().data_dir;
        if let Some((postmaster, state)) = Postmaster::find(data_dir) {
            if state == State::Stopping {
                postmaster.gone().await;
            } else {
                tracing::info!(pid = postmaster.pid, "PostgreSQL runs already");
                return self.wait_ready(postmaster, self.log_length()).await;
            }
        }
        PidFile::remove(data_dir)?;
        PidFile::remove_of_socket(&self.socket_path(), data_dir)?;
        orphan::end_all(data_dir, &self.options().bin_dir).await;
        let log_from = self.log_length();
        let postmaster = self.spawn(log_from, &[]).await?;
        tracing::info!(pid = postmaster.pid, "PostgreSQL started");
        self.wait_ready(postmaster, log_from).await
    }

    async fn spawn(&self, log_from: u64, arguments: &[String]) -> Result<Postmaster> {
        let user = self.prepare_dirs().await?;
        let log_path = &self.options().log;
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log_path)
            .map_err(file("open log file", log_path))?;
        user.own(log_path)?;
        let errors = log.try_clone().map_err(file("open log file", log_path))?;
        let program = self.options().bin_dir.join("postgres");
        // A session of its own: neither our terminal's signals nor our death reach it.
        // As a child that leads no process group, setsid keeps the process id; so does setpriv.
        let mut command = user.command("setsid");
        command.arg(&program).arg("-D").arg(&self.options().data_dir).args(arguments).stdout(log).stderr(errors);
        let mut child = command.spawn().map_err(|source| Error::Spawn { program, source })?;
        let postmaster = child.id().and_then(|pid| Postmaster::by_pid(i32::try_from(pid).ok()?));
        let reaper = tokio::spawn(async move { child.wait().await });
        match postmaster {
            Some(postmaster) => Ok(postmaster),
            None => {
                let _ = reaper.await;
                Err(self.not_started(log_from))
            }
        }
    }

    async fn wait_ready(&self, postmaster: Postmaster, log_from: u64) -> Result<()> {
        *self.inner.postmaster.lock().unwrap_or_else(PoisonError::into_inner) = Some(postmaster);
        loop {
            match PidFile::read(&self.options().data_dir) {
                Some(found) if found.pid == postmaster.pid && found.state == State::Ready => return Ok(()),
                _ if !postmaster.is_alive() => return Err(self.not_started(log_from)),
                _ => tokio::time::sleep(POLL / 2).await,
            }
        }
    }

    fn log_length(&self) -> u64 {
        std::fs::metadata(&self.options().log).map_or(0, |log| log.len())
    }

    /// With what the log says since this start.
    fn not_started(&self, log_from: u64) -> Error {
        let log = self.options().log.clone();
        let text = std::fs::read(&log).unwrap_or_default();
        let from = usize::try_from(log_from).unwrap_or(0).min(text.len());
        Error::NotStarted { last_lines: last_lines(&text[from..], 10), log }
    }

    /// The postmaster's process id, if [`Server::start`] started or adopted it and it still lives.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.postmaster().map(|postmaster| postmaster.pid)
    }

    /// The process id of the postmaster that runs on the data directory, whoever started it.
    #[must_use]
    pub fn running_pid(&self) -> Option<i32> {
        Postmaster::find(&self.options().data_dir).map(|(postmaster, _)| postmaster.pid)
    }

    fn postmaster(&self) -> Option<Postmaster> {
        let held = *self.inner.postmaster.lock().unwrap_or_else(PoisonError::into_inner);
        held.filter(Postmaster::is_alive)
    }

    /// Resolves when no postmaster of ours is alive (any more).
    pub async fn exited(&self) {
        if let Some(postmaster) = self.postmaster() {
            postmaster.gone().await;
        }
    }

    /// Stops the server and waits until it is gone; the one that runs on the
    /// data directory, also if this handle has not started it.
    ///
    /// # Errors
    ///
    /// [`Error::StillRunning`] after a minute.
    pub async fn stop(&self, mode: StopMode) -> Result<()> {
        let data_dir = &self.options().data_dir;
        let Some(postmaster) = self.postmaster().or_else(|| Postmaster::find(data_dir).map(|(found, _)| found)) else {
            return Ok(());
        };
        postmaster.signal(match mode {
            StopMode::Fast => Signal::SIGINT,
            StopMode::Immediate => Signal::SIGQUIT,
        })?;
        tokio::time::timeout(STOP_TIMEOUT, postmaster.gone())
            .await
            .map_err(|_| Error::StillRunning { pid: postmaster.pid, seconds: STOP_TIMEOUT.as_secs() })
    }

    /// How to connect to `database` over the unix socket as the superuser.
    #[must_use]
    pub fn connection_config(&self, database: &str) -> tokio_postgres::Config {
        let options = self.options();
        let mut config = tokio_postgres::Config::new();
        config.host_path(&options.socket_dir).port(options.port).user(&options.superuser).dbname(database);
        config.application_name("pgrenga");
        // The node's own programs bring its server up to date, and look at one that is not.
        config.options("-c pgrenga.minority_reads=on -c pgrenga.read_consistency=local");
        config
    }

    /// Connects to `database` over the unix socket as the superuser, and drives the connection in a task.
    ///
    /// # Errors
    ///
    /// What PostgreSQL answered.
    pub async fn connect(&self, database: &str) -> Result<tokio_postgres::Client> {
        let (client, connection) = self.connection_config(database).connect(NoTls).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to PostgreSQL ended");
            }
        });
        Ok(client)
    }

    fn socket_path(&self) -> PathBuf {
        self.options().socket_dir.join(format!(".s.PGSQL.{}", self.options().port))
    }
}

/// Whether there is nothing at `directory`, or only an empty directory.
pub(crate) fn is_vacant(directory: &Path) -> Result<bool> {
    match std::fs::read_dir(directory) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(file("read directory", directory)(error)),
    }
}

/// Runs a program to its end; its last words become the error.
async fn run(program: &str, mut command: Command) -> Result<()> {
    let output = command.output().await.map_err(|source| Error::Spawn { program: program.into(), source })?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Program { program: program.to_owned(), message: last_lines(&output.stderr, 5) })
}

pub(crate) fn last_lines(text: &[u8], count: usize) -> String {
    let text = String::from_utf8_lossy(text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
