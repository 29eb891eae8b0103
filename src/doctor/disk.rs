//! Room on this machine's disks, and what a folder that cannot be used needs.

use std::io;
use std::path::Path;

use rustix::fs::{StatVfs, statvfs};

use super::Check;
use crate::archive::ArchiveKind;
use crate::gitlab::host::Settings;
use crate::state::StateDir;
use crate::units::{MIB, Size};

/// The state folder holds a history, journals and a cache of small files; bytes.
const FOR_STATE: u64 = 16 * MIB;
/// A backup needs a few files; below that a file system is full whatever its bytes say.
const FEWEST_FILES: u64 = 100;

/// While GitLab packs, its staging files and the archive are there at once, unless it is told not to pack;
/// `STRATEGY=copy` takes another copy.
pub(super) fn check(gitlab: &Settings, state: &StateDir, sizes: &[(ArchiveKind, u64)]) -> Check {
    const NAME: &str = "disk";
    let folder = &gitlab.data_dir;
    let state_disk = statvfs(existing(state.path())).ok();
    if let Some(free) = state_disk
        .as_ref()
        .map(free)
        .filter(|free| *free < FOR_STATE)
    {
        let state = state.path().display();
        return Check::failed(NAME, &format!("{state}: {} free on this disk", Size(free)))
            .hint("make room: without it no run can note what it does");
    }
    let disk = match statvfs(folder) {
        Ok(disk) => disk,
        Err(error) => return Check::skipped(NAME, format!("{}: {error}", folder.display())),
    };
    if disk.f_files > 0 && disk.f_favail < FEWEST_FILES {
        let what = format!(
            "{}: room for {} more files on this disk",
            folder.display(),
            disk.f_favail
        );
        return Check::failed(NAME, &what)
            .hint("delete small files: `df -i` shows the disk, its bytes do not matter here");
    }
    let last = sizes.iter().find(|(kind, _)| *kind == ArchiveKind::Data);
    let copies = 1 + u64::from(!gitlab.stream) + u64::from(gitlab.copies_first());
    let free = free(&disk);
    match last {
        Some((_, last)) if free < last.saturating_mul(copies) => {
            let what = format!(
                "{}: {} free on this disk; GitLab needs about {} to make an archive like the last one ({})",
                folder.display(),
                Size(free),
                Size(last.saturating_mul(copies)),
                Size(*last)
            );
            let unpacked = if gitlab.stream {
                ""
            } else {
                "let it leave its backup unpacked, which needs half (`gitlab.stream = true`), "
            };
            Check::failed(NAME, &what).hint(format!(
                "delete old archives that are stored elsewhere (`local` in [retention] does), {unpacked}or skip parts (`gitlab.skip`)"
            ))
        }
        Some((_, last)) => {
            let what = format!(
                "{}: {} free, the last data archive has {}",
                folder.display(),
                Size(free),
                Size(*last)
            );
            Check::ok(NAME, what)
        }
        None => Check::ok(NAME, format!("{}: {} free", folder.display(), Size(free))),
    }
}

/// Bytes that a user without privileges may still write.
fn free(disk: &StatVfs) -> u64 {
    disk.f_bavail.saturating_mul(disk.f_frsize)
}

/// The folder itself, or the next one above that is there.
pub(super) fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(path)
}

/// What a folder that cannot be used needs.
pub(super) fn way_out(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => {
            "look at `findmnt` and `dmesg`: a disk that fails is mounted read-only; if it is sound, `mount -o remount,rw` it"
        }
        io::ErrorKind::PermissionDenied => "run this as root: sudo gitlab-pi-backup doctor",
        _ => "look at what is there: `ls -ld` and `findmnt`",
    }
}
