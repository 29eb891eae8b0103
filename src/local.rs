//! Archives on this machine, in whatever form GitLab left them.

pub mod remove;

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::archive::{self, Archive, ArchiveKind, ArchiveName, Form};
use crate::gitlab::cli::{Directory, Unfinished, find_directories};
use crate::gitlab::host::Settings;
use crate::gitlab::parts::{self, Found, INFORMATION, Parts};
use crate::source::file::FileSource;
use crate::source::tree::Tree;
use crate::source::{Fingerprint, Source};

/// The archives of one kind in GitLab's folder, in no order. Whatever is none is passed over; that the folder
/// cannot be read is an error.
pub fn find_archives(gitlab: &Settings, kind: ArchiveKind) -> io::Result<Vec<Archive>> {
    let mut found = archive::find_archives(gitlab.folder(kind), kind)?;
    if kind == ArchiveKind::Data {
        let directories = find_directories(gitlab.folder(kind))?;
        found.extend(directories.whole.into_iter().map(of_directory));
        if gitlab.stream {
            found.extend(find_parts(&gitlab.data_dir)?);
        }
    }
    Ok(found)
}

fn of_directory(found: Directory) -> Archive {
    // One that cannot be read is told of when it is to be sent.
    let size = directory(&found.path, &found.name).map_or(0, |source| source.len());
    Archive {
        name: found.name,
        path: found.path,
        size,
        form: Form::Directory,
        identity: found.identity,
    }
}

/// What runs of `gitlab-backup-cli` that did not end have left.
pub fn half_made(gitlab: &Settings) -> Vec<Unfinished> {
    find_directories(&gitlab.data_dir).map_or_else(|_| Vec::new(), |found| found.unfinished)
}

/// The backup whose parts lie unpacked in `folder`, if there is one that can be sent.
pub fn find_parts(folder: &Path) -> io::Result<Option<Archive>> {
    let Found::Parts(parts) = parts::look(folder)? else {
        return Ok(None);
    };
    let size = open_parts(folder, &parts)?.len();
    Ok(Some(Archive {
        name: parts.name,
        path: folder.join(INFORMATION),
        size,
        form: Form::Parts,
        identity: parts.identity,
    }))
}

/// Opens what lies at `path` as the archive `name`: a file, or a folder or parts, whose tar is never written.
pub fn open(path: &Path, name: &ArchiveName) -> io::Result<Arc<dyn Source>> {
    if name.folder().is_some() && fs::symlink_metadata(path)?.is_dir() {
        return directory(path, name);
    }
    if parts::is_information(path) {
        let (folder, parts) = parts::named(path, name)?;
        return Ok(Arc::new(open_parts(&folder, &parts)?));
    }
    Ok(Arc::new(FileSource::open(path)?))
}

/// The tar of a folder, under whose name everything in it lies.
fn directory(path: &Path, name: &ArchiveName) -> io::Result<Arc<dyn Source>> {
    let (Some(above), Some(id)) = (path.parent(), name.folder()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    if path.file_name() != Some(OsStr::new(id)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the folder is not called as the backup in it",
        ));
    }
    Ok(Arc::new(Tree::open(above, &[id.into()])?))
}

fn open_parts(folder: &Path, parts: &Parts) -> io::Result<Tree> {
    Ok(Tree::open(folder, &parts.members)?.lacking(parts.left_out.clone()))
}

/// Removes the parts at `path`, those of the backup `name`, if they still are what `expected` says; whether they
/// were. Blocks the thread.
pub fn remove_parts(path: &Path, name: &ArchiveName, expected: &Fingerprint) -> io::Result<bool> {
    let (folder, parts) = parts::named(path, name)?;
    let tree = open_parts(&folder, &parts)?;
    parts::remove(&folder, name, &parts.members, || {
        Ok(tree.fingerprint()? == *expected)
    })
}
