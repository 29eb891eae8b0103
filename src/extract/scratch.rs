//! The folder that repositories are made in: the user's, and in it one of our own until all is done.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, fstatvfs, renameat_with, syncfs};
use rustix::io::Errno;

use crate::units::Size;

/// What the name of our own folder begins with; the number of a process follows.
const BEGIN: &str = ".gitlab-pi-backup.";

/// Both folders; our own goes when this is dropped, and the user's, if it was made here and is empty.
pub(super) struct Scratch {
    to: PathBuf,
    was_made: bool,
    own: PathBuf,
}

impl Scratch {
    /// Makes what is missing.
    pub(super) fn new(to: &Path) -> Result<Scratch, String> {
        let fail = |error: io::Error| {
            format!(
                "using the folder {}: {error}\n  name another with --to DIR",
                to.display()
            )
        };
        let was_made = !to.exists();
        if was_made {
            let above = to.parent().filter(|above| !above.as_os_str().is_empty());
            above
                .map_or(Ok(()), fs::create_dir_all)
                .and_then(|()| DirBuilder::new().mode(0o700).create(to))
                .map_err(fail)?;
        }
        if !to.is_dir() {
            return Err(fail(io::ErrorKind::NotADirectory.into()));
        }
        remove_left_over(to);
        let own = to.join(format!("{BEGIN}{}", std::process::id()));
        let scratch = Scratch {
            to: to.to_owned(),
            was_made,
            own,
        };
        DirBuilder::new()
            .mode(0o700)
            .create(&scratch.own)
            .map_err(fail)?;
        Ok(scratch)
    }

    /// Our own folder.
    pub(super) fn path(&self) -> &Path {
        &self.own
    }

    /// Where a repository of this name will be; the error says what is there already.
    pub(super) fn place(&self, name: &str) -> Result<PathBuf, String> {
        let place = self.to.join(name);
        match fs::symlink_metadata(&place) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(place),
            Err(error) => Err(format!("looking at {}: {error}", place.display())),
            Ok(_) => Err(taken(&place)),
        }
    }

    /// Refuses what does not fit.
    pub(super) fn check_room(&self, bytes: u64) -> Result<(), String> {
        let room = File::open(&self.to).and_then(|folder| Ok(fstatvfs(&folder)?));
        let free = room.map(|room| room.f_bavail.saturating_mul(room.f_frsize));
        match free {
            Ok(free) if free < bytes => Err(format!(
                "{} are needed in {}, and {} are free there\n  make room, or name another folder with --to DIR",
                Size(bytes),
                self.to.display(),
                Size(free)
            )),
            // Where nobody knows, the disk itself will tell.
            _ => Ok(()),
        }
    }

    /// Brings all to the disk, and then gives everything its name; nothing that is there is replaced.
    pub(super) fn place_all(&self, made: &[(PathBuf, PathBuf)]) -> Result<(), String> {
        if let Ok(folder) = File::open(&self.to) {
            // A disk that cannot do it has told of worse before.
            let _ = syncfs(&folder);
        }
        for (number, (from, to)) in made.iter().enumerate() {
            if let Err(error) = rename(from, to) {
                for (from, to) in &made[..number] {
                    // As before: all or nothing.
                    let _ = fs::rename(to, from);
                }
                return Err(match error {
                    Errno::EXIST | Errno::NOTEMPTY => taken(to),
                    error => format!("placing {}: {}", to.display(), io::Error::from(error)),
                });
            }
        }
        Ok(())
    }
}

fn taken(place: &Path) -> String {
    format!(
        "{} is there already; nothing is overwritten\n  move it away, or name another folder with --to DIR",
        place.display()
    )
}

/// Never replaces anything.
fn rename(from: &Path, to: &Path) -> Result<(), Errno> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that does not know the flag.
        Err(Errno::INVAL | Errno::NOSYS) if fs::symlink_metadata(to).is_ok() => Err(Errno::EXIST),
        Err(Errno::INVAL | Errno::NOSYS) => renameat_with(CWD, from, CWD, to, RenameFlags::empty()),
        renamed => renamed,
    }
}

/// Takes away what a killed process has left.
fn remove_left_over(to: &Path) {
    for entry in fs::read_dir(to).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(BEGIN));
        let process = process.and_then(|rest| rest.parse::<u32>().ok());
        let is_dead = |process: u32| !Path::new("/proc").join(process.to_string()).exists();
        if process.is_some_and(|process| is_dead(process) || process == std::process::id()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.own);
        if self.was_made {
            // Only if there is nothing in it.
            let _ = fs::remove_dir(&self.to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_goes_and_what_was_there_stays() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let to = dir.path().join("a/b");
        drop(Scratch::new(&to).expect("made"));
        assert!(!to.exists());
        fs::create_dir_all(&to).expect("made");
        let left = to.join(format!("{BEGIN}4294967295"));
        fs::create_dir(&left).expect("made");
        let scratch = Scratch::new(&to).expect("there");
        assert!(!left.exists(), "no process has this number");
        fs::create_dir(scratch.path().join("x")).expect("made");
        fs::create_dir(scratch.path().join("y")).expect("made");
        let place = |name: &str| scratch.place(name).expect("free");
        let made = ["x", "y"].map(|name| (scratch.path().join(name), place(name)));
        fs::create_dir(to.join("y")).expect("meanwhile");
        let error = scratch.place_all(&made).expect_err("taken");
        assert!(error.contains("y is there already"), "{error}");
        assert!(!to.join("x").exists(), "all or nothing");
        fs::remove_dir(to.join("y")).expect("gone");
        scratch.place_all(&made).expect("placed");
        drop(scratch);
        let mut left: Vec<_> = fs::read_dir(&to)
            .expect("there")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["x", "y"]);
    }

    #[test]
    fn what_is_in_the_way_is_told() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let file = dir.path().join("file");
        fs::write(&file, b"").expect("written");
        for to in [file.clone(), file.join("below")] {
            let error = Scratch::new(&to).map(|_| ()).expect_err("no folder");
            assert!(error.contains("--to DIR"), "{error}");
        }
        let scratch = Scratch::new(dir.path()).expect("there");
        assert!(scratch.place("file").is_err());
        assert!(scratch.check_room(0).is_ok());
        let error = scratch.check_room(u64::MAX).expect_err("no such disk");
        assert!(error.contains("are free there"), "{error}");
    }
}
