//! A disk of its own for a directory: an ext4 file system on a loop device, which can hang, and lose what was not
//! synced. Needs root.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Error, files};

/// Goes when it is dropped.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    mount: PathBuf,
}

impl Disk {
    /// Puts `dir` on a disk of `bytes`. The files that are in it, but no directories, are on the disk then.
    ///
    /// # Errors
    ///
    /// Without root, or where there are no loop devices.
    pub fn under(dir: &Path, bytes: u64) -> Result<Self, Error> {
        let failed = |source| files::failed(dir.display(), source);
        let mut kept = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(failed)?.flatten() {
            kept.push((entry.path(), std::fs::read(entry.path()).map_err(failed)?));
        }
        let disk = Self { image: dir.with_extension("image"), mount: dir.to_owned() };
        let image = std::fs::File::create(&disk.image).and_then(|image| image.set_len(bytes));
        image.map_err(|source| files::failed(disk.image.display(), source))?;
        run(Command::new("mkfs.ext4").arg("-q").arg(&disk.image))?;
        disk.mount()?;
        for (path, content) in kept {
            std::fs::write(&path, content).map_err(|source| files::failed(path.display(), source))?;
        }
        Ok(disk)
    }

    fn mount(&self) -> Result<(), Error> {
        // What is written back only by age stays away for long.
        run(Command::new("mount").args(["-o", "loop,commit=300"]).arg(&self.image).arg(&self.mount))
    }

    /// From now on nothing that is written to the disk comes back: who writes waits.
    ///
    /// # Errors
    ///
    /// If the file system cannot be frozen.
    pub fn hang(&self) -> Result<(), Error> {
        run(Command::new("fsfreeze").arg("--freeze").arg(&self.mount))
    }

    /// It works again.
    ///
    /// # Errors
    ///
    /// If it did not hang.
    pub fn go_on(&self) -> Result<(), Error> {
        run(Command::new("fsfreeze").arg("--unfreeze").arg(&self.mount))
    }

    /// Goes back to what the device has: what was synced, and what happened to be written back. Nothing may run there.
    ///
    /// # Errors
    ///
    /// From the programs and the file system.
    pub fn lose_power(&self) -> Result<(), Error> {
        let copy = self.image.with_extension("copy");
        run(Command::new("cp").arg("--sparse=always").arg(&self.image).arg(&copy))?;
        run(Command::new("umount").arg(&self.mount))?;
        std::fs::rename(&copy, &self.image).map_err(|source| files::failed(copy.display(), source))?;
        self.mount()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["--lazy"]).arg(&self.mount).status();
    }
}

fn run(command: &mut Command) -> Result<(), Error> {
    let output = command.output().map_err(|source| files::failed(format_args!("{command:?}"), source))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(Error::Ended(format!("{command:?}: {said}"))) }
}
