//! PostgreSQL's programs never run as root: where we are root, they run as the
//! user that owns the data directory, and what they touch belongs to it.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;

use nix::unistd::{Uid, User, geteuid};
use tokio::process::Command;

use crate::error::{Error, Result, file};

/// Who runs PostgreSQL's programs: ourselves, or a user that we, being root, can become.
#[derive(Clone, Debug)]
pub(crate) struct OsUser {
    name: String,
    switch_to: Option<(u32, u32)>,
}

impl OsUser {
    /// The named user if we are root, otherwise ourselves whatever the name.
    pub(crate) fn resolve(name: Option<&str>) -> Result<Self> {
        let ourselves = geteuid();
        if !ourselves.is_root() {
            let name = User::from_uid(ourselves).ok().flatten().map_or_else(|| ourselves.to_string(), |user| user.name);
            return Ok(Self { name, switch_to: None });
        }
        let name = name.ok_or(Error::RunsAsRoot)?;
        let user = User::from_name(name).ok().flatten().ok_or_else(|| Error::NoSuchUser(name.to_owned()))?;
        if user.uid == Uid::from_raw(0) {
            return Err(Error::RunsAsRoot);
        }
        Ok(Self { name: user.name, switch_to: Some((user.uid.as_raw(), user.gid.as_raw())) })
    }

    /// A command that will run as this user, with nothing to read and in `/`:
    /// our own working directory may be closed to that user.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = match self.switch_to {
            None => Command::new(program),
            // std would drop the user's other groups, by which Debian's servers may read their TLS keys.
            Some((uid, gid)) => {
                let mut command = Command::new("setpriv");
                command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}")).args(["--init-groups", "--"]);
                command.arg(program);
                command
            }
        };
        command.stdin(Stdio::null()).current_dir("/");
        command
    }

    /// Hands a file or directory over to this user.
    pub(crate) fn own(&self, path: &Path) -> Result<()> {
        let Some((uid, gid)) = self.switch_to else { return Ok(()) };
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).map_err(file("change the owner of", path))
    }

    /// Makes a directory (and its parents) that this user owns and others cannot enter;
    /// one that exists stays as it is.
    pub(crate) fn create_dir(&self, path: &Path) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        if path.is_dir() {
            return Ok(());
        }
        std::fs::create_dir_all(path).map_err(file("create directory", path))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
            .map_err(file("set permissions of", path))?;
        self.own(path)
    }

    /// Fails if this user cannot get into `directory`: a parent may be closed to it.
    pub(crate) async fn check_reach(&self, directory: &Path) -> Result<()> {
        let status = self.command("test").arg("-x").arg(directory).status().await;
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(_) => Err(Error::Unreachable { user: self.name.clone(), path: directory.to_owned() }),
            Err(source) => Err(Error::Spawn { program: "test".into(), source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[tokio::test]
    async fn it_is_in_all_groups_of_the_user() {
        if !geteuid().is_root() {
            return;
        }
        let user = OsUser::resolve(Some("postgres")).unwrap();
        let groups = async |mut command: Command| -> BTreeSet<String> {
            let output = command.output().await.unwrap().stdout;
            String::from_utf8(output).unwrap().split_whitespace().map(str::to_owned).collect()
        };
        let mut expected = Command::new("id");
        expected.args(["-G", "postgres"]);
        let mut told = user.command("id");
        told.arg("-G");
        assert_eq!(groups(told).await, groups(expected).await);
    }
}
