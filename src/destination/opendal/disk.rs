//! A folder of this machine: what OpenDAL does not do for one.
//!
//! Whether the disk is there at all; files that only root reads from their first byte on; a name that is taken
//! without replacing anything; what survives a power cut. All of it blocks.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{Advice, CWD, RenameFlags, fadvise, renameat_with, statvfs};
use rustix::io::Errno;

use super::answer::of_disk;
use super::partial::is_partial;
use crate::destination::{Entry, FileEntry, Space};
use crate::error::{Error, ErrorKind};

/// The folder, and whether it must lie on a mounted disk.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    pub(super) root: PathBuf,
    pub(super) require_mount: bool,
}

impl Disk {
    /// Whether it is there. It is never made: that may be a disk's mount point.
    pub(super) fn check(&self, action: &str) -> Result<(), Error> {
        let root = self.root.display();
        let absent = |what: String| Error::new(ErrorKind::NotFound, action, what).absent();
        let metadata = match fs::metadata(&self.root) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(absent(format!("{root} is not there"))
                    .hint("mount the disk, or make the folder if it is the right one"));
            }
            Err(error) => {
                let told = of_disk(action, &error).hint(format!("it is about {root}"));
                // Refused is not away.
                return Err(if error.kind() == io::ErrorKind::PermissionDenied {
                    told
                } else {
                    told.absent()
                });
            }
        };
        if !metadata.is_dir() {
            let what = format!("{root} is a file, not a folder");
            return Err(Error::new(ErrorKind::Invalid, action, what).hint("mend `root`"));
        }
        if self.require_mount && !is_mounted(&self.root, &metadata) {
            return Err(absent(format!("{root} is on the same file system as `/`: no disk is mounted there")).hint(
                "mount the disk; if the folder is meant to be on the system's own disk, say `require_mount = false`",
            ));
        }
        Ok(())
    }

    /// Where a path of ours lies.
    pub(super) fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// What is at a path, by the name it has there: some file systems do not tell capitals apart.
    pub(super) fn stat(&self, path: &str) -> io::Result<Option<Entry>> {
        let full = self.at(path);
        let Some(name) = full.file_name().filter(|_| full != self.root) else {
            return Ok(Some(Entry {
                name: String::new(),
                file: None,
            }));
        };
        let metadata = match fs::symlink_metadata(&full) {
            Ok(metadata) => metadata,
            Err(error) if is_nothing(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let asked = name.to_string_lossy().into_owned();
        let mut name = asked.clone();
        for entry in fs::read_dir(full.parent().unwrap_or(&self.root))? {
            let found = entry?.file_name().to_string_lossy().into_owned();
            if found == asked {
                name = found;
                break;
            }
            if found.to_lowercase() == asked.to_lowercase() {
                name = found;
            }
        }
        Ok(Some(entry(name, &full, &metadata)))
    }

    /// Everything directly in a folder but what is on its way; none if there is no such folder.
    pub(super) fn list(&self, folder: &str) -> io::Result<Option<Vec<Entry>>> {
        let full = self.at(folder);
        let found = match fs::read_dir(&full) {
            Ok(found) => found,
            Err(error) if is_nothing(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut entries = Vec::new();
        for found in found {
            let found = found?;
            let name = found.file_name().to_string_lossy().into_owned();
            if is_partial(&name) {
                continue;
            }
            match found.metadata() {
                Ok(metadata) => entries.push(entry(name, &found.path(), &metadata)),
                // It has gone since.
                Err(error) if is_nothing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Some(entries))
    }

    /// Names of files in a folder that an upload left there, and when they were last written.
    pub(super) fn partials(&self, folder: &str) -> io::Result<Vec<(String, SystemTime)>> {
        let found = match fs::read_dir(self.at(folder)) {
            Ok(found) => found,
            Err(error) if is_nothing(&error) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut partials = Vec::new();
        for found in found {
            let found = found?;
            let name = found.file_name().to_string_lossy().into_owned();
            if is_partial(&name) {
                let metadata = found.metadata()?;
                partials.push((name, metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH)));
            }
        }
        Ok(partials)
    }

    /// An empty file that only its owner reads, in folders that are made where they are missing.
    pub(super) fn create(&self, path: &str) -> io::Result<()> {
        let full = self.at(path);
        let folder = full.parent().unwrap_or(&self.root);
        if let Ok(below) = folder.strip_prefix(&self.root) {
            let mut current = self.root.clone();
            for part in below.components() {
                current.push(part);
                match fs::DirBuilder::new().mode(0o700).create(&current) {
                    Ok(()) => sync_folder(current.parent().unwrap_or(&self.root))?,
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(error) => return Err(error),
                }
            }
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        options.open(full).map(drop)
    }

    /// Gives a file the time it is stored with, brings it to the disk, and lets the kernel forget it: what is read
    /// from now on comes from the disk.
    pub(super) fn settle(&self, path: &str, modified: Option<SystemTime>) -> io::Result<()> {
        let file = File::options().read(true).write(true).open(self.at(path))?;
        if let Some(modified) = modified {
            file.set_modified(modified)?;
        }
        file.sync_all()?;
        // A hint: what does not take it is read from memory.
        let _ = fadvise(&file, 0, None, Advice::DontNeed);
        Ok(())
    }

    /// Gives a file its name, and brings that to the disk. Without `replace` nothing of that name may be there.
    pub(super) fn publish(&self, from: &str, to: &str, replace: bool) -> io::Result<()> {
        let (from, to) = (self.at(from), self.at(to));
        if replace {
            fs::rename(&from, &to)?;
        } else {
            rename_new(&from, &to)?;
        }
        sync_folder(to.parent().unwrap_or(&self.root))
    }

    /// Brings the names in the folder of a path to the disk.
    pub(super) fn sync_names(&self, path: &str) -> io::Result<()> {
        sync_folder(self.at(path).parent().unwrap_or(&self.root))
    }

    /// How full the disk is, for those who are not root.
    pub(super) fn space(&self) -> io::Result<Space> {
        let disk = statvfs(&self.root)?;
        let bytes = |blocks: u64| Some(blocks.saturating_mul(disk.f_frsize));
        Ok(Space {
            free: bytes(disk.f_bavail),
            used: bytes(disk.f_blocks.saturating_sub(disk.f_bfree)),
            total: bytes(disk.f_blocks),
        })
    }
}

/// A link is no file of ours: it may lead anywhere, and a folder that is one is a folder.
fn entry(name: String, full: &Path, metadata: &fs::Metadata) -> Entry {
    let leads_to_folder =
        metadata.is_symlink() && fs::metadata(full).is_ok_and(|metadata| metadata.is_dir());
    let file = (!metadata.is_dir() && !leads_to_folder).then(|| FileEntry {
        size: metadata.len(),
        content_hash: None,
        // Without the inode, which some file systems make up each time they are mounted.
        rev: format!(
            "{}:{}.{:09}",
            metadata.len(),
            metadata.mtime(),
            metadata.mtime_nsec()
        ),
        modified: metadata.modified().ok().map(Into::into),
    });
    Entry { name, file }
}

fn is_nothing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// By whatever way this file system has of not replacing what is there.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => return Ok(()),
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        Err(error) => return Err(error.into()),
    }
    match fs::hard_link(from, to) {
        Ok(()) => return fs::remove_file(from),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
        // Neither is known here: a look before is all there is.
        Err(_) => {}
    }
    if fs::symlink_metadata(to).is_ok() {
        return Err(io::Error::from(io::ErrorKind::AlreadyExists));
    }
    fs::rename(from, to)
}

/// Some file systems of the network do not know that question: then it need not be asked.
fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => Ok(()),
        result => result,
    }
}

/// Whether a disk is meant to be mounted at a folder or above it: where disks are by custom, and where `/etc/fstab`
/// has one.
pub(super) fn ought_to_be_mounted(root: &Path) -> bool {
    let table = fs::read_to_string("/etc/fstab").unwrap_or_default();
    is_place_of_disks(root, &table)
}

fn is_place_of_disks(root: &Path, table: &str) -> bool {
    let points = table
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .filter_map(|line| line.split_ascii_whitespace().nth(1));
    let points = points.map(|point| PathBuf::from(unescape(point)));
    let by_custom = ["/mnt", "/media", "/run/media"].map(PathBuf::from);
    by_custom
        .into_iter()
        .chain(points.filter(|point| point.is_absolute() && point != Path::new("/")))
        .any(|point| root.starts_with(point))
}

/// Whether the folder lies on another file system than `/`, one that is mounted at it or above it.
fn is_mounted(root: &Path, metadata: &fs::Metadata) -> bool {
    let Ok(real) = fs::canonicalize(root) else {
        return false;
    };
    match fs::read_to_string("/proc/self/mountinfo") {
        Ok(table) => {
            let (here, system) = (device(&table, &real), device(&table, Path::new("/")));
            here.is_some() && here != system
        }
        Err(_) => fs::metadata("/").is_ok_and(|system| system.dev() != metadata.dev()),
    }
}

/// Which device a path lies on (`/proc/self/mountinfo`, see proc(5)): the mount point alone tells nothing, since
/// systemd mounts every folder that a unit may write to onto itself. One that `autofs` only promises is not there.
fn device<'a>(table: &'a str, path: &Path) -> Option<&'a str> {
    let mut best: Option<(PathBuf, Option<&str>)> = None;
    for line in table.lines() {
        let mut columns = line.split(' ').skip(2);
        let (Some(device), Some(point)) = (columns.next(), columns.nth(1)) else {
            continue;
        };
        let point = PathBuf::from(unescape(point));
        let kind = columns.skip_while(|column| *column != "-").nth(1);
        let longer = best
            .as_ref()
            .is_none_or(|(known, _)| point.as_os_str().len() >= known.as_os_str().len());
        // What is mounted later at the same place covers what was there.
        if path.starts_with(&point) && longer {
            best = Some((point, (kind != Some("autofs")).then_some(device)));
        }
    }
    best.and_then(|(_, device)| device)
}

/// `\040` is a blank.
fn unescape(text: &str) -> std::ffi::OsString {
    use std::os::unix::ffi::OsStringExt as _;
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let code = (bytes[i] == b'\\')
            .then(|| text.get(i + 1..i + 4))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(byte) = code {
            out.push(byte);
            i += 4;
        } else {
            out.push(bytes[i]);
            i += 1;
        }
    }
    std::ffi::OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "22 1 179:2 / / rw,noatime shared:1 - ext4 /dev/root rw\n\
        30 22 0:26 / /proc rw shared:12 - proc proc rw\n\
        40 22 8:1 / /mnt/usb\\040disk rw shared:20 - ext4 /dev/sda1 rw\n\
        44 22 179:2 /mnt/bound /mnt/bound rw - ext4 /dev/root rw\n\
        41 22 0:50 / /mnt/auto rw - autofs systemd-1 rw\n\
        42 22 0:51 / /mnt/there rw - autofs systemd-1 rw\n\
        43 42 8:2 / /mnt/there rw - ext4 /dev/sdb1 rw\n\
        broken\n";

    #[test]
    fn a_path_lies_on_the_device_of_the_longest_mount_point() {
        for (path, expected) in [
            ("/var/lib/x", Some("179:2")),
            ("/mnt/usb disk", Some("8:1")),
            ("/mnt/usb disk/a/b", Some("8:1")),
            ("/mnt/usb disks", Some("179:2")),
            // As systemd does for a unit: the folder is there, the disk is not.
            ("/mnt/bound", Some("179:2")),
            ("/mnt/auto/x", None),
            ("/mnt/there/x", Some("8:2")),
        ] {
            assert_eq!(device(TABLE, Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn disks_are_mounted_by_custom_or_by_the_table() {
        let table = "# /dev/sdc1 /old ext4\nUUID=1 / ext4 defaults 0 1\nUUID=2 /srv/usb\\040disk ext4 nofail 0 2\n\
                     UUID=3 none swap sw 0 0\nbroken\n";
        for (path, expected) in [
            ("/mnt/backup", true),
            ("/media/pi/disk/gitlab", true),
            ("/srv/usb disk/gitlab", true),
            ("/srv/usb", false),
            ("/old", false),
            ("/home/backup", false),
            ("/mntx", false),
        ] {
            assert_eq!(
                is_place_of_disks(Path::new(path), table),
                expected,
                "{path}"
            );
        }
    }

    fn disk(root: &Path) -> Disk {
        Disk {
            root: root.to_owned(),
            require_mount: false,
        }
    }

    #[test]
    fn a_name_that_is_taken_is_not_taken_away() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let disk = disk(dir.path());
        disk.create("/Data/.a.partial").expect("a file");
        fs::write(disk.at("/Data/.a.partial"), "new").expect("written");
        fs::write(disk.at("/Data/a"), "old").expect("written");
        let error = disk.publish("/Data/.a.partial", "/Data/a", false);
        let error = error.expect_err("it is taken");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(disk.at("/Data/a")).expect("read"), b"old");
        disk.publish("/Data/.a.partial", "/Data/a", true)
            .expect("replaced");
        assert_eq!(fs::read(disk.at("/Data/a")).expect("read"), b"new");
        assert!(!disk.at("/Data/.a.partial").exists());
    }

    #[test]
    fn what_is_made_is_for_its_owner_alone() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let disk = disk(dir.path());
        disk.create("/x/Data/a").expect("a file");
        for (path, mode) in [("/x", 0o700), ("/x/Data", 0o700), ("/x/Data/a", 0o600)] {
            let found = fs::metadata(disk.at(path)).expect("there").mode() & 0o777;
            assert_eq!(found, mode, "{path}");
        }
        assert!(disk.create("/x/Data/a").is_err(), "never one that is there");
    }

    #[test]
    fn a_root_that_is_not_there_is_not_made() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let missing = dir.path().join("mnt");
        let error = disk(&missing).check("asking").expect_err("not there");
        assert!(error.is_absent() && error.kind() == ErrorKind::NotFound);
        assert!(!missing.exists());
        fs::write(&missing, "").expect("a file");
        assert!(disk(&missing).check("asking").is_err());
    }

    #[test]
    fn an_entry_tells_what_it_is() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let disk = disk(dir.path());
        assert_eq!(disk.list("/Data").expect("asked"), None);
        disk.create("/Data/a").expect("a file");
        fs::create_dir(disk.at("/Data/b")).expect("a folder");
        fs::write(disk.at("/Data/.a.0123456789abcdef.partial"), "x").expect("a file");
        let mut listed = disk.list("/Data").expect("asked").expect("a folder");
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        let shown: Vec<_> = listed
            .iter()
            .map(|entry| (entry.name.as_str(), entry.file.is_some()))
            .collect();
        assert_eq!(shown, [("a", true), ("b", false)]);
        assert_eq!(
            disk.stat("/Data/a").expect("asked"),
            Some(listed[0].clone())
        );
        assert_eq!(disk.stat("/Data/a/c").expect("asked"), None);
        let root = disk.stat("").expect("asked").expect("a folder");
        assert!(root.file.is_none());
    }
}
