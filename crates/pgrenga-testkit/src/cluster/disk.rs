//! A disk of its own for a directory, in memory, or an ext4 file system on a loop device, which can hang, and lose
//! what was not synced. Needs root.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Error, files};

/// A file system over a directory; unmounted when it is dropped.
#[derive(Debug)]
pub struct Mount(PathBuf);

impl Mount {
    /// One of `bytes` in memory. What is in the directory is there then.
    ///
    /// # Errors
    ///
    /// Without the right to mount.
    pub fn in_memory(dir: &Path, bytes: u64) -> Result<Self, Error> {
        Self::over(dir, Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"]).arg(dir))
    }

    /// What `mount` mounts over the directory, with what is in it.
    fn over(dir: &Path, mount: &mut Command) -> Result<Self, Error> {
        let kept = dir.with_extension("kept");
        run(Command::new("cp").arg("--archive").arg(dir).arg(&kept))?;
        run(mount)?;
        let mounted = Self(dir.to_owned());
        // The directory's owner and mode go with its content.
        run(Command::new("cp").args(["--archive", "--no-target-directory"]).arg(&kept).arg(dir))?;
        run(Command::new("chown").arg("--reference").arg(&kept).arg(dir))?;
        run(Command::new("chmod").arg("--reference").arg(&kept).arg(dir))?;
        std::fs::remove_dir_all(&kept).map_err(|source| files::failed(kept.display(), source))?;
        Ok(mounted)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Where the reaper was first, it has nothing to do.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).stderr(Stdio::null()).status();
    }
}

/// One on a loop device.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    mount: Mount,
}

impl Disk {
    /// Puts `dir` on a disk of `bytes`. What is in it is on the disk then.
    ///
    /// # Errors
    ///
    /// Without root, or where there are no loop devices.
    pub fn under(dir: &Path, bytes: u64) -> Result<Self, Error> {
        let image = dir.with_extension("image");
        let made = std::fs::File::create(&image).and_then(|file| file.set_len(bytes));
        made.map_err(|source| files::failed(image.display(), source))?;
        run(Command::new("mkfs.ext4").arg("-q").arg(&image))?;
        let mount = Mount::over(dir, &mut mount(&image, dir))?;
        Ok(Self { image, mount })
    }

    /// From now on nothing that is written to the disk comes back: who writes waits.
    ///
    /// # Errors
    ///
    /// If the file system cannot be frozen.
    pub fn hang(&self) -> Result<(), Error> {
        run(Command::new("fsfreeze").arg("--freeze").arg(&self.mount.0))
    }

    /// It works again.
    ///
    /// # Errors
    ///
    /// If it did not hang.
    pub fn go_on(&self) -> Result<(), Error> {
        run(Command::new("fsfreeze").arg("--unfreeze").arg(&self.mount.0))
    }

    /// Goes back to what the device has: what was synced, and what happened to be written back. Nothing may run there.
    ///
    /// # Errors
    ///
    /// From the programs and the file system.
    pub fn lose_power(&self) -> Result<(), Error> {
        let copy = self.image.with_extension("copy");
        run(Command::new("cp").arg("--sparse=always").arg(&self.image).arg(&copy))?;
        run(Command::new("umount").arg(&self.mount.0))?;
        std::fs::rename(&copy, &self.image).map_err(|source| files::failed(copy.display(), source))?;
        run(&mut mount(&self.image, &self.mount.0))
    }
}

fn mount(image: &Path, dir: &Path) -> Command {
    let mut command = Command::new("mount");
    // What is written back only by age stays away for long.
    command.args(["-o", "loop,commit=300"]).arg(image).arg(dir);
    command
}

fn run(command: &mut Command) -> Result<(), Error> {
    let output = command.output().map_err(|source| files::failed(format_args!("{command:?}"), source))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(Error::Ended(format!("{command:?}: {said}"))) }
}
