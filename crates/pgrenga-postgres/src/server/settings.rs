//! `pgrenga.conf`: the settings that are ours, apart from the user's own.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use crate::error::{Result, file};
use crate::os_user::OsUser;

const NAME: &str = "pgrenga.conf";
const INCLUDE: &str = "include = 'pgrenga.conf'";

/// Writes the file if it would change, and includes it from `postgresql.conf` if that is not done yet.
pub(super) fn write(data_dir: &Path, settings: &[(&str, String)], owner: &OsUser) -> Result<()> {
    replace(&data_dir.join(NAME), &render(settings), owner)?;
    let main = data_dir.join("postgresql.conf");
    let text = std::fs::read_to_string(&main).map_err(file("read", &main))?;
    if text.lines().any(|line| line.trim() == INCLUDE) {
        return Ok(());
    }
    let separator = if text.ends_with('\n') { "" } else { "\n" };
    replace(&main, &format!("{text}{separator}{INCLUDE}\n"), owner)
}

fn render(settings: &[(&str, String)]) -> String {
    let mut text = String::from("# Written by pgrenga at each start; put your own settings into postgresql.conf.\n");
    for (name, value) in settings {
        let _ = writeln!(text, "{name} = {}", quote(value));
    }
    text
}

/// As `guc-file.l` reads strings: both quote and backslash are escapes.
fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

/// One element of a list of directories (`SplitDirectoriesString` in `varlena.c`).
pub(super) fn quote_directory(directory: &str) -> String {
    format!("\"{}\"", directory.replace('"', "\"\""))
}

/// All or nothing, also when the machine stops: written aside, synced, renamed.
pub(super) fn replace(path: &Path, text: &str, owner: &OsUser) -> Result<()> {
    if std::fs::read_to_string(path).is_ok_and(|present| present == text) {
        return Ok(());
    }
    let aside = path.with_extension("conf.new");
    let mut new = std::fs::File::create(&aside).map_err(file("create", &aside))?;
    new.write_all(text.as_bytes()).and_then(|()| new.sync_all()).map_err(file("write", &aside))?;
    owner.own(&aside)?;
    std::fs::rename(&aside, path).map_err(file("replace", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_as_postgresql_reads_them() {
        let text = render(&[("application_name", r"it's a \ test".to_owned()), ("port", "5432".to_owned())]);
        assert!(text.ends_with("application_name = 'it''s a \\\\ test'\nport = '5432'\n"), "{text}");
        assert_eq!(quote_directory("/a \"b\", c"), "\"/a \"\"b\"\", c\"");
    }

    #[test]
    fn writing_twice_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let main = directory.path().join("postgresql.conf");
        std::fs::write(&main, "# the user's\nwork_mem = '8MB'").unwrap();
        let owner = OsUser::resolve(Some("nobody")).unwrap();
        for _ in 0..2 {
            write(directory.path(), &[("fsync", "on".to_owned())], &owner).unwrap();
            let text = std::fs::read_to_string(&main).unwrap();
            assert_eq!(text, format!("# the user's\nwork_mem = '8MB'\n{INCLUDE}\n"));
        }
        assert!(std::fs::read_to_string(directory.path().join(NAME)).unwrap().contains("fsync = 'on'"));
    }
}
