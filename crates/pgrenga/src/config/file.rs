//! The configuration as it stands in the file, and what is checked about it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use pgrenga_admin::PostgresAddress;
use pgrenga_postgres::server::Options;
use serde::{Deserialize, Serialize};

use super::{Config, LogFile, ServingFile, Settings};

const DEBIAN_BIN_DIR: &str = "/usr/lib/postgresql/15/bin";

/// The file. Every key is documented in `docs/reference/configuration.md`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    pub(crate) cluster: String,
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    pub(crate) listen: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) advertise: Option<String>,
    pub(crate) admin: String,
    pub(crate) postgres: PostgresFile,
    #[serde(default, skip_serializing_if = "LogFile::is_default")]
    pub(crate) log: LogFile,
    #[serde(default, skip_serializing_if = "ServingFile::is_default")]
    pub(crate) serving: ServingFile,
    #[serde(default, skip_serializing_if = "toml::Table::is_empty")]
    pub(crate) settings: toml::Table,
}

/// The section `[postgres]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PostgresFile {
    pub(crate) port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) listen_addresses: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bin_dir: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) data_dir: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) socket_dir: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) os_user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) superuser: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) database: Option<String>,
}

impl File {
    /// Completes what was left out. All that is wrong is told at once.
    pub(crate) fn check(self, base: &Path) -> Result<Config, Vec<String>> {
        let mut problems = Vec::new();
        for (key, name) in [("cluster", &self.cluster), ("name", &self.name)] {
            if !is_name(name) {
                problems.push(format!("{key}: \"{name}\" is no name: 1 to 63 lower-case letters, digits, '-' and '_'"));
            }
        }
        let listen = address("listen", &self.listen, &mut problems);
        let admin = address("admin", &self.admin, &mut problems);
        let advertise = advertised(self.advertise, listen, &mut problems);
        if self.postgres.port == 0 {
            problems.push("postgres.port: must not be 0".to_owned());
        }
        let dir = base.join(&self.dir);
        let host = advertise.rsplit_once(':').map_or("", |(host, _)| host);
        let postgres = PostgresAddress {
            host: self.postgres.host.clone().unwrap_or_else(|| host.trim_matches(['[', ']']).to_owned()),
            port: self.postgres.port,
        };
        let admin_url = match admin.ip().is_unspecified() {
            true => format!("http://{host}:{}", admin.port()),
            false => format!("http://{admin}"),
        };
        let log = self.log.check(&mut problems);
        let serving = self.serving.check(&mut problems);
        let database = self.postgres.database.clone().unwrap_or_else(|| "postgres".to_owned());
        let server = self.postgres.options(base, &dir, &mut problems);
        let socket = dir.join("port.sock");
        let settings = Settings::new(&self.settings, &socket, &database).map_err(|wrong| problems.extend(wrong));
        match settings {
            Ok(settings) if problems.is_empty() => Ok(Config {
                cluster: self.cluster,
                name: self.name,
                dir,
                listen,
                advertise,
                admin,
                admin_url,
                database,
                postgres,
                log,
                serving,
                server,
                settings,
            }),
            _ => Err(problems),
        }
    }
}

impl PostgresFile {
    fn options(self, base: &Path, dir: &Path, problems: &mut Vec<String>) -> Options {
        let bin_dir = self.bin_dir.map(|path| base.join(path)).or_else(find_bin_dir).unwrap_or_else(|| {
            problems.push("postgres.bin_dir: PostgreSQL 15 was not found; say where its programs are".to_owned());
            PathBuf::new()
        });
        Options {
            bin_dir,
            data_dir: self.data_dir.map_or_else(|| dir.join("data"), |path| base.join(path)),
            socket_dir: self.socket_dir.map_or_else(|| dir.join("run"), |path| base.join(path)),
            listen_addresses: self.listen_addresses.unwrap_or_else(|| "127.0.0.1".to_owned()),
            port: self.port,
            os_user: Some(self.os_user.unwrap_or_else(|| "postgres".to_owned())),
            superuser: self.superuser.unwrap_or_else(|| "postgres".to_owned()),
        }
    }
}

fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    (1..=63).contains(&name.len()) && name.bytes().all(allowed)
}

fn address(key: &str, text: &str, problems: &mut Vec<String>) -> SocketAddr {
    text.parse().unwrap_or_else(|_| {
        problems.push(format!("{key}: \"{text}\" is not of the form ADDRESS:PORT"));
        SocketAddr::from(([127, 0, 0, 1], 0))
    })
}

fn advertised(given: Option<String>, listen: SocketAddr, problems: &mut Vec<String>) -> String {
    let Some(given) = given else {
        if listen.ip().is_unspecified() {
            problems.push(format!("listen: \"{listen}\" is no address that others can use; set advertise"));
        }
        return listen.to_string();
    };
    let is_valid = given.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if !is_valid {
        problems.push(format!("advertise: \"{given}\" is not of the form HOST:PORT"));
    }
    given
}

/// Debian keeps each major version apart, and `pg_config` in the path may be another version's.
fn find_bin_dir() -> Option<PathBuf> {
    if Path::new(DEBIAN_BIN_DIR).join("postgres").exists() {
        return Some(DEBIAN_BIN_DIR.into());
    }
    let output = Command::new("pg_config").arg("--bindir").output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().into())
}
