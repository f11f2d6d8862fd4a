//! A data directory that somebody else made: what its files say while no server runs, and how
//! the daemon gets in.

use std::path::Path;

use nix::unistd::{User, geteuid};

use super::{PidFile, Server, settings};
use crate::error::{Error, Result, file};
use crate::os_user::OsUser;

/// `pg_controldata`'s words.
const CLEAN: &str = "shut down";
const CRASHED: &str = "in production";

/// The name of our lines' map in `pg_ident.conf`.
const MAP: &str = "pgrenga";

/// How the server ended that ran on a data directory last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By an orderly shutdown.
    Cleanly,
    /// Its next start recovers from the WAL.
    Crashed,
    /// It is no primary, or something else is unusual: `pg_controldata`'s words.
    Otherwise(String),
}

impl Server {
    /// The major version of the data directory, as its file says; nothing if there is no such file.
    #[must_use]
    pub fn data_version(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.options().data_dir.join("PG_VERSION")).ok()?;
        Some(text.trim().to_owned())
    }

    /// How the last server ended.
    ///
    /// # Errors
    /// If `pg_controldata` cannot be run, or fails.
    pub async fn ended(&self) -> Result<Ended> {
        let options = self.options();
        let user = OsUser::resolve(options.os_user.as_deref())?;
        let mut command = user.command(options.bin_dir.join("pg_controldata"));
        command.env("LC_ALL", "C").arg("-D").arg(&options.data_dir);
        let output = command
            .output()
            .await
            .map_err(|source| Error::Spawn { program: options.bin_dir.join("pg_controldata"), source })?;
        if !output.status.success() {
            let message = super::last_lines(&output.stderr, 5);
            return Err(Error::Program { program: "pg_controldata".to_owned(), message });
        }
        Ok(ended(&String::from_utf8_lossy(&output.stdout)))
    }

    /// Starts the server for ourselves alone: on no network, read-only, over our own socket directory.
    /// With `open`, whatever `pg_hba.conf` says.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub async fn start_private(&self, open: bool) -> Result<()> {
        let options = self.options();
        let user = self.prepare_dirs().await?;
        let socket_dir = settings::quote_directory(&options.socket_dir.display().to_string());
        let mut given = vec![
            ("listen_addresses", String::new()),
            ("unix_socket_directories", socket_dir),
            ("port", options.port.to_string()),
            ("logging_collector", "off".to_owned()),
            ("default_transaction_read_only", "on".to_owned()),
            ("autovacuum", "off".to_owned()),
        ];
        if open {
            // Nobody but its owner and root may enter that directory.
            let path = options.socket_dir.join("adopt_hba.conf");
            std::fs::write(&path, "local all all trust\n").map_err(file("write", &path))?;
            user.own(&path)?;
            given.push(("hba_file", path.display().to_string()));
        }
        PidFile::remove(&options.data_dir)?;
        let arguments: Vec<String> =
            given.into_iter().flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")]).collect();
        let log_from = self.log_length();
        let postmaster = self.spawn(log_from, &arguments).await?;
        self.wait_ready(postmaster, log_from).await
    }

    /// Lets the daemon's operating-system user, and the server's own, connect as the superuser over the
    /// unix socket, before any other line of `pg_hba.conf`. Done twice it changes nothing.
    ///
    /// # Errors
    /// If the files cannot be read or written.
    pub fn let_daemon_in(&self) -> Result<()> {
        let options = self.options();
        let user = OsUser::resolve(options.os_user.as_deref())?;
        let superuser = &options.superuser;
        let ourselves = User::from_uid(geteuid()).ok().flatten().map_or_else(|| "root".to_owned(), |user| user.name);
        let mut users = vec![ourselves];
        users.extend(options.os_user.clone().filter(|other| *other != users[0]));
        let maps: String = users.iter().map(|user| format!("{MAP} {user} \"{superuser}\"\n")).collect();
        let access = format!("local all,replication \"{superuser}\" peer map={MAP}\n");
        prepend(&options.data_dir.join("pg_hba.conf"), &access, &user)?;
        prepend(&options.data_dir.join("pg_ident.conf"), &maps, &user)
    }
}

fn ended(said: &str) -> Ended {
    let state = said.lines().find_map(|line| line.strip_prefix("Database cluster state:")).unwrap_or_default().trim();
    match state {
        CLEAN => Ended::Cleanly,
        CRASHED => Ended::Crashed,
        other => Ended::Otherwise(other.to_owned()),
    }
}

fn prepend(path: &Path, lines: &str, owner: &OsUser) -> Result<()> {
    let text = std::fs::read_to_string(path).map_err(file("read", path))?;
    let lines = format!("# For pgrenga's daemon.\n{lines}\n");
    if text.starts_with(&lines) {
        return Ok(());
    }
    settings::replace(path, &format!("{lines}{text}"), owner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_file_is_understood() {
        let said =
            |state: &str| format!("pg_control version number: 1300\nDatabase cluster state:     {state}\nx: y\n");
        assert_eq!(ended(&said("shut down")), Ended::Cleanly);
        assert_eq!(ended(&said("in production")), Ended::Crashed);
        assert_eq!(ended(&said("shut down in recovery")), Ended::Otherwise("shut down in recovery".to_owned()));
    }

    #[test]
    fn lines_come_first_and_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pg_hba.conf");
        std::fs::write(&path, "local all all md5\n").unwrap();
        let owner = OsUser::resolve(Some("nobody")).unwrap();
        for _ in 0..2 {
            prepend(&path, "local all x peer\n", &owner).unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            assert_eq!(text, "# For pgrenga's daemon.\nlocal all x peer\n\nlocal all all md5\n");
        }
    }
}
