//! A real PostgreSQL server, encrypted, that asks for proof. It ends with its value, or with the thread that started it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::certificates::{Authority, Identity};
use crate::wire::PATIENCE;

/// As in the manual.
const HBA: &str = "\
local   all all trust
host    all open 127.0.0.1/32 trust
hostssl all with_certificate 127.0.0.1/32 cert map=balancer
hostssl all with_password 127.0.0.1/32 scram-sha-256
";
const IDENT: &str = "balancer balancer with_certificate\n";
const ROLES: &str = "CREATE ROLE open LOGIN; CREATE ROLE with_password LOGIN PASSWORD 'secret'; \
    CREATE ROLE with_certificate LOGIN";

pub(crate) struct Server {
    pub(crate) port: u16,
    programs: PathBuf,
    postmaster: Option<Child>,
    dir: TempDir,
}

impl Server {
    /// With this certificate; believes those of clients that the authority vouches for.
    pub(crate) fn start(identity: &Identity, authority: &Authority) -> Self {
        let said = Command::new("pg_config").arg("--bindir").output().expect("pg_config");
        let programs = PathBuf::from(String::from_utf8(said.stdout).unwrap().trim());
        let dir = tempfile::Builder::new().prefix("balanced-postgres-").tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Self { port, programs, postmaster: None, dir };
        server.give_to_its_user(server.dir.path());
        let data = server.data();
        let data = data.to_str().unwrap();
        server.run("initdb", &["--no-sync", "--auth=trust", "--username=postgres", "--pgdata", data]);
        for (from, to) in
            [(&identity.certificate, "server.crt"), (&identity.key, "server.key"), (&authority.file(), "root.crt")]
        {
            let to = server.data().join(to);
            fs::copy(from, &to).unwrap();
            server.give_to_its_user(&to);
        }
        fs::write(server.data().join("pg_hba.conf"), HBA).unwrap();
        fs::write(server.data().join("pg_ident.conf"), IDENT).unwrap();
        server.launch();
        let (socket, port) = (server.dir.path().to_str().unwrap().to_owned(), server.port.to_string());
        server.run("psql", &["-q", "-h", &socket, "-p", &port, "-U", "postgres", "-c", ROLES, "postgres"]);
        server
    }

    fn launch(&mut self) {
        let log = fs::File::create(self.dir.path().join("log")).unwrap();
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).args(["-p", &self.port.to_string(), "-cfsync=off", "-cssl=on"]);
        command.args(["-cssl_ca_file=root.crt", "-clisten_addresses=127.0.0.1"]);
        command.arg(format!("-cunix_socket_directories={}", self.dir.path().display()));
        self.postmaster = Some(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().expect("postgres"));
        let begun = std::time::Instant::now();
        // See LOCK_FILE_LINE_PM_STATUS in PostgreSQL's pidfile.h.
        let status = || fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        while status().lines().nth(7).is_none_or(|line| line.trim() != "ready") {
            assert!(begun.elapsed() < PATIENCE, "{}", self.log());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let output = self.command(program).args(arguments).output().expect("a program of PostgreSQL's");
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// PostgreSQL does not run as root.
    fn command(&self, program: &str) -> Command {
        // Becomes the program, so that the child's pid is the postmaster's.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "QUIT"]);
        if is_root() {
            command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]);
        }
        command.arg("--").arg(self.programs.join(program)).current_dir("/").stdin(Stdio::null());
        command
    }

    fn give_to_its_user(&self, path: &Path) {
        if is_root() {
            let given = Command::new("chown").arg("postgres:").arg(path).status().unwrap();
            assert!(given.success());
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut postmaster) = self.postmaster.take() {
            let _ = Command::new("kill").args(["-QUIT", &postmaster.id().to_string()]).status();
            let _ = postmaster.wait();
        }
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}
