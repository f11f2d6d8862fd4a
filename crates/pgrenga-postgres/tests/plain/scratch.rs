//! A plain PostgreSQL server, without the extension, in a temporary directory.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgrenga_postgres::server::{Options, Server};

/// A server in a temporary directory; ends with the test, also when it fails.
pub(crate) struct Scratch {
    pub(crate) server: Server,
    _directory: tempfile::TempDir,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        let directory = directory(0o755);
        let server = Server::new(options(directory.path()));
        Self { server, _directory: directory }
    }

    pub(crate) async fn started() -> Self {
        let scratch = Self::new();
        scratch.server.init_db().await.unwrap();
        // Tests do not outlive the machine; without fsync they take half the time.
        scratch.server.configure(&[("fsync", "off".to_owned())]).await.unwrap();
        scratch.server.start().await.unwrap();
        scratch
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let pid_file = self.server.options().data_dir.join("postmaster.pid");
        let text = std::fs::read_to_string(pid_file).unwrap_or_default();
        if let Some(pid) = text.lines().next().and_then(|line| line.parse().ok()).filter(|pid| *pid > 1) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGQUIT);
            for _ in 0..100 {
                if kill(Pid::from_raw(pid), None).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

pub(crate) fn directory(mode: u32) -> tempfile::TempDir {
    tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(mode)).tempdir().unwrap()
}

pub(crate) fn options(directory: &Path) -> Options {
    let bin_dir = std::env::var_os("PGRENGA_BIN_DIR").unwrap_or_else(|| "/usr/lib/postgresql/15/bin".into());
    Options {
        bin_dir: bin_dir.into(),
        data_dir: directory.join("node/data"),
        log: directory.join("node/postgres.log"),
        socket_dir: directory.join("node/run"),
        listen_addresses: String::new(),
        port: 5432,
        os_user: Some("postgres".to_owned()),
        superuser: "postgres".to_owned(),
    }
}

pub(crate) async fn value(server: &Server, query: &str) -> String {
    let client = server.connect("postgres").await.unwrap();
    client.query_one(query, &[]).await.unwrap().get(0)
}
