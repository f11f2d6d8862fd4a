//! A scratch PostgreSQL server with the extension, gone with its value.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::daemon::Daemon;
use crate::session::Session;

static COUNT: AtomicU32 = AtomicU32::new(0);
const SQL: &str = include_str!("../../sql/pgrenga--0.1.0.sql");

pub struct Server {
    dir: PathBuf,
}

impl Server {
    /// A running server in which nothing has been applied.
    pub fn start() -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("pgrenga-apply-{}-{number}", std::process::id()));
        let server = Self { dir };
        server.create();
        server.boot();
        server.install();
        server
    }

    /// A session that is not replicated, as the daemon's are.
    pub fn session(&self) -> Session {
        let session = Session::open(&self.dir);
        session.ok("SET pgrenga.replicate = off");
        session
    }

    /// A session as users have them.
    pub fn user_session(&self) -> Session {
        Session::open(&self.dir)
    }

    /// A daemon for local transactions, which lets the server accept writes.
    pub fn daemon(&self) -> Daemon {
        Daemon::listen(&self.dir.join("daemon.sock"))
    }

    /// Kills the server as a power failure would, and starts it again.
    pub fn crash(&self) {
        let pid = fs::read_to_string(self.data().join("postmaster.pid")).expect("the server runs");
        let pid = pid.lines().next().expect("a pid");
        // The postmaster alone is killed outright; its children notice and leave.
        assert!(Command::new("kill").args(["-9", pid]).status().expect("kill runs").success());
        std::thread::sleep(std::time::Duration::from_millis(1500));
        // Where nobody collects it, the dead postmaster's pid looks alive.
        for lock in [self.data().join("postmaster.pid"), self.dir.join(".s.PGSQL.5432.lock")] {
            fs::remove_file(lock).expect("the postmaster could not remove it");
        }
        self.boot();
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn create(&self) {
        let library = self.dir.join("lib");
        fs::create_dir_all(&library).expect("a directory for the server");
        fs::copy(built_library(), library.join("pgrenga.so")).expect("the library is built: cargo build --release");
        if is_root() {
            let postgres = postgres_user();
            chown(&self.dir, Some(postgres), None).expect("root may give a directory away");
        }
        fs::set_permissions(&self.dir, fs::Permissions::from_mode(0o755)).expect("its own directory");
        self.run("initdb", &["-N", "-A", "trust", "-U", "postgres", "--no-locale", "-E", "UTF8", "-D"])
            .expect("a new data directory");
        let settings = format!(
            "shared_preload_libraries = 'pgrenga'\ndynamic_library_path = '{dir}/lib:$libdir'\n\
             listen_addresses = ''\nunix_socket_directories = '{dir}'\nmax_replication_slots = 200\n\
             max_connections = 50\nmax_prepared_transactions = 5\npgrenga.socket = '{dir}/daemon.sock'\n\
             deadlock_timeout = '20s'\nautovacuum = off\npgrenga.minority_reads = on\nlog_min_messages = log\n",
            dir = self.dir.display()
        );
        let file = self.data().join("postgresql.conf");
        let defaults = fs::read_to_string(&file).expect("initdb wrote it");
        fs::write(&file, defaults + &settings).expect("the configuration can be changed");
    }

    fn boot(&self) {
        let log = self.dir.join("log");
        self.run("pg_ctl", &["start", "-w", "-t", "60", "-s", "-l", &log.to_string_lossy(), "-D"])
            .expect("the server starts");
    }

    fn install(&self) {
        let sql: String = SQL.lines().filter(|line| !line.starts_with('\\')).map(|line| format!("{line}\n")).collect();
        let session = self.session();
        session.ok("SET client_min_messages = error; CREATE SCHEMA IF NOT EXISTS pgrenga");
        session.ok(&sql.replace("MODULE_PATHNAME", "pgrenga"));
        session.ok("SELECT pgrenga.setup()");
    }

    /// Runs one of PostgreSQL's programs on the data directory, as a user that
    /// it accepts.
    fn run(&self, program: &str, arguments: &[&str]) -> Result<(), String> {
        let path = bin_dir().join(program);
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(path);
            command
        } else {
            Command::new(path)
        };
        let status = command.args(arguments).arg(self.data()).current_dir("/").stdout(Stdio::null()).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            outcome => Err(format!("{program}: {outcome:?}\n{}", self.log())),
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        let _ = self.run("pg_ctl", &["stop", "-m", "immediate", "-s", "-D"]);
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// `target/release/libpgrenga.so`, beside this test's own directory.
fn built_library() -> PathBuf {
    let test = std::env::current_exe().expect("this program has a path");
    let deps = test.parent().expect("it lies in target/*/deps");
    deps.parent().expect("it lies in target/*/deps").join("libpgrenga.so")
}

fn bin_dir() -> PathBuf {
    let output = Command::new("pg_config").arg("--bindir").output().expect("pg_config is installed");
    Path::new(String::from_utf8_lossy(&output.stdout).trim()).to_path_buf()
}

fn is_root() -> bool {
    id(&["-u"]) == 0
}

fn postgres_user() -> u32 {
    id(&["-u", "postgres"])
}

fn id(arguments: &[&str]) -> u32 {
    let output = Command::new("id").args(arguments).output().expect("id runs");
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("id prints a number")
}
