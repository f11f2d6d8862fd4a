//! The configuration as it stands in the file, and what is checked about it.

use std::path::{Path, PathBuf};
use std::process::Command;

use pgrenga_admin::PostgresAddress;
use pgrenga_postgres::server::Options;
use serde::{Deserialize, Serialize};

use super::{CheckFile, Config, LogFile, LogMember, ServingFile, Settings};

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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) postgres: Option<PostgresFile>,
    #[serde(default, skip_serializing_if = "LogFile::is_default")]
    pub(crate) log: LogFile,
    #[serde(default, skip_serializing_if = "ServingFile::is_default")]
    pub(crate) serving: ServingFile,
    #[serde(default, skip_serializing_if = "CheckFile::is_default")]
    pub(crate) check: CheckFile,
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
    /// A node's configuration. Completes what was left out; all that is wrong is told at once.
    pub(crate) fn check(self, base: &Path) -> Result<Config, Vec<String>> {
        let mut problems = Vec::new();
        let member = LogMember::check(&self, base, &mut problems);
        let file = self.postgres.unwrap_or_else(|| {
            problems.push("postgres: is missing; only a witness has no PostgreSQL".to_owned());
            PostgresFile { port: 1, ..PostgresFile::default() }
        });
        if file.port == 0 {
            problems.push("postgres.port: must not be 0".to_owned());
        }
        let host = file.host.clone().unwrap_or_else(|| member.host().trim_matches(['[', ']']).to_owned());
        let postgres = PostgresAddress { host, port: file.port };
        let serving = self.serving.check(&mut problems);
        let check = self.check.check(&mut problems);
        let database = file.database.clone().unwrap_or_else(|| "postgres".to_owned());
        let server = file.options(base, &member.dir, &mut problems);
        let socket = member.dir.join("port.sock");
        let settings = Settings::new(&self.settings, &socket, &database).map_err(|wrong| problems.extend(wrong));
        match settings {
            Ok(settings) if problems.is_empty() => {
                Ok(Config { member, database, postgres, serving, check, server, settings })
            }
            _ => Err(problems),
        }
    }

    /// A witness's configuration.
    pub(crate) fn check_witness(self, base: &Path) -> Result<LogMember, Vec<String>> {
        let mut problems = Vec::new();
        let member = LogMember::check(&self, base, &mut problems);
        let sections = [
            ("postgres", self.postgres.is_some()),
            ("serving", !self.serving.is_default()),
            ("check", !self.check.is_default()),
            ("settings", !self.settings.is_empty()),
        ];
        let superfluous = sections.into_iter().filter(|(_, is_there)| *is_there);
        problems.extend(superfluous.map(|(section, _)| format!("{section}: a witness has no PostgreSQL")));
        if problems.is_empty() { Ok(member) } else { Err(problems) }
    }

    /// A member's configuration, of either kind.
    pub(crate) fn check_member(self, base: &Path) -> Result<(LogMember, Option<Config>), Vec<String>> {
        if self.postgres.is_none() {
            return self.check_witness(base).map(|member| (member, None));
        }
        self.check(base).map(|config| (config.member.clone(), Some(config)))
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
            log: dir.join("postgres.log"),
            socket_dir: self.socket_dir.map_or_else(|| dir.join("run"), |path| base.join(path)),
            listen_addresses: self.listen_addresses.unwrap_or_else(|| "127.0.0.1".to_owned()),
            port: self.port,
            os_user: Some(self.os_user.unwrap_or_else(|| "postgres".to_owned())),
            superuser: self.superuser.unwrap_or_else(|| "postgres".to_owned()),
        }
    }
}

/// Debian keeps each major version apart, and `pg_config` in the path may be another version's.
fn find_bin_dir() -> Option<PathBuf> {
    if Path::new(DEBIAN_BIN_DIR).join("postgres").exists() {
        return Some(DEBIAN_BIN_DIR.into());
    }
    let output = Command::new("pg_config").arg("--bindir").output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().into())
}
