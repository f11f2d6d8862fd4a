//! Small files that are there whole or not at all, whatever happens meanwhile.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Replaces the file's content: written aside, synced, renamed, and the directory synced.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let replace = || -> std::io::Result<()> {
        let mut file = File::create(&aside)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&aside, path)?;
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    };
    replace().with_context(|| format!("could not write \"{}\"", path.display()))
}
