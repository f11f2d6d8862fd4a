//! Data directories as they are before there is a server in them.

use std::path::Path;

use anyhow::{Context as _, Result};

/// Whether there is anything in it.
pub(crate) fn has_entries(directory: &Path) -> bool {
    std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some())
}

/// Removes it with all that is in it, if it is there.
pub(crate) fn remove_dir(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("could not remove \"{}\"", path.display()))
        }
        _ => Ok(()),
    }
}
