//! Taking away a folder with all that is in it, reached by nothing that somebody could lead elsewhere meanwhile: from
//! folder to folder, and no link is followed.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat, unlinkat};

/// GitLab's folders are eight deep.
const DEEPEST: usize = 64;

/// The inodes of what may be deleted.
pub type Planned = BTreeSet<u64>;

/// What is below a folder now.
pub fn plan(folder: &OwnedFd) -> io::Result<Planned> {
    let mut planned = Planned::new();
    walk(folder, 0, &mut |_, entry| {
        planned.insert(entry.inode);
        Ok(())
    })?;
    Ok(planned)
}

/// Something in a folder.
struct Entry {
    inode: u64,
    is_folder: bool,
    name: CString,
}

/// Shows everything below a folder to `each`, what is in a folder before the folder itself.
fn walk(
    folder: &OwnedFd,
    depth: usize,
    each: &mut impl FnMut(BorrowedFd<'_>, &Entry) -> io::Result<()>,
) -> io::Result<()> {
    if depth > DEEPEST {
        return Err(io::Error::other("its folders are too deep"));
    }
    // As a whole: what is deleted while it is listed may hide other names.
    let mut entries = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        let state = statat(folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
        entries.push(Entry {
            inode: state.st_ino,
            is_folder: FileType::from_raw_mode(state.st_mode) == FileType::Directory,
            name: entry.file_name().to_owned(),
        });
    }
    for entry in entries {
        if entry.is_folder {
            walk(&open_folder(folder.as_fd(), &entry.name)?, depth + 1, each)?;
        }
        each(folder.as_fd(), &entry)?;
    }
    Ok(())
}

/// Deletes what is in a folder; if there is a plan, nothing else than that.
pub fn empty(folder: &OwnedFd, planned: Option<&Planned>) -> io::Result<()> {
    walk(folder, 0, &mut |above, entry| {
        if planned.is_some_and(|planned| !planned.contains(&entry.inode)) {
            let name = entry.name.to_string_lossy();
            let what = format!("{name} has come into it meanwhile; it stays");
            return Err(io::Error::other(what));
        }
        let flags = if entry.is_folder {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        Ok(unlinkat(above, &entry.name, flags)?)
    })
}

/// Opens a folder in a folder.
pub fn open_folder(above: BorrowedFd<'_>, name: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(above, name, flags, Mode::empty())?)
}
