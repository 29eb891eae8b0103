//! Which members of a config archive are let through.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::tar::{Entry, EntryKind};

/// What every member lies below.
pub(super) const ROOT: &str = "etc/gitlab";
/// A real `/etc/gitlab` has some dozens of files; these two bound the memory that a hostile one takes.
pub(super) const MOST_MEMBERS: usize = 20_000;
/// All paths together, in bytes.
const MOST_PATHS: usize = 4 << 20;
/// Of one path, in bytes and in folders: what Linux takes, and far more than is needed.
const LONGEST_PATH: usize = 2_048;
const DEEPEST: usize = 64;
/// Of one name, in bytes: what file systems take.
const LONGEST_NAME: usize = 255;
/// A member that passed.
pub(super) struct Admitted {
    /// Below the folder; empty for the folder itself.
    pub(super) path: PathBuf,
    /// What it is.
    pub(super) what: What,
}

/// What a member is.
pub(super) enum What {
    /// A folder.
    Folder,
    /// A regular file.
    File,
    /// Another name of this file.
    LinkTo(PathBuf),
}

/// What a path is known to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    File,
    /// A folder that the archive told of.
    Folder,
    /// A folder that a member lies in.
    Implied,
}

/// What came before.
#[derive(Default)]
pub(super) struct Seen {
    paths: BTreeMap<PathBuf, Known>,
    path_bytes: usize,
}

impl Seen {
    /// Lets a member pass, or says why not.
    pub(super) fn admit(&mut self, entry: &Entry) -> Result<Admitted, String> {
        let path = below_root(&entry.path)?;
        let what = match entry.kind {
            EntryKind::Folder => What::Folder,
            EntryKind::File if entry.is_sparse => return Err("has holes".to_owned()),
            EntryKind::File => What::File,
            EntryKind::HardLink => {
                let target = below_root(&entry.link)
                    .map_err(|why| format!("is a link to a place that {why}"))?;
                if self.paths.get(&target) != Some(&Known::File) {
                    return Err("is a link to something that is no file before it".to_owned());
                }
                What::LinkTo(target)
            }
            EntryKind::SymbolicLink => return Err("is a symbolic link".to_owned()),
            EntryKind::Other => return Err("is neither a file nor a folder".to_owned()),
        };
        let is_folder = matches!(what, What::Folder);
        if path.as_os_str().is_empty() && !is_folder {
            return Err("has the place of a folder".to_owned());
        }
        self.note(&path, is_folder)?;
        Ok(Admitted { path, what })
    }

    fn note(&mut self, path: &Path, is_folder: bool) -> Result<(), String> {
        let above = path
            .ancestors()
            .skip(1)
            .filter(|above| !above.as_os_str().is_empty());
        for above in above {
            match self.paths.get(above) {
                None => self.insert(above, Known::Implied)?,
                Some(Known::File) => return Err("lies below a file".to_owned()),
                Some(Known::Folder | Known::Implied) => break,
            }
        }
        match self.paths.get(path) {
            Some(Known::Implied) if is_folder => {}
            None => {}
            Some(_) => return Err("comes twice".to_owned()),
        }
        self.insert(
            path,
            if is_folder {
                Known::Folder
            } else {
                Known::File
            },
        )
    }

    fn insert(&mut self, path: &Path, known: Known) -> Result<(), String> {
        self.path_bytes += path.as_os_str().len();
        self.paths.insert(path.to_owned(), known);
        if self.paths.len() > MOST_MEMBERS || self.path_bytes > MOST_PATHS {
            return Err("is one too many".to_owned());
        }
        Ok(())
    }
}

/// A member's path without what is above and with `etc/gitlab`; never one that leads elsewhere.
fn below_root(path: &[u8]) -> Result<PathBuf, String> {
    if path.contains(&0) {
        return Err("has a name with a zero in it".to_owned());
    }
    let parts = path.split(|byte| *byte == b'/');
    let parts: Vec<&[u8]> = parts
        .filter(|part| !part.is_empty() && *part != b".")
        .collect();
    if parts.contains(&&b".."[..]) {
        return Err("has `..` in its name".to_owned());
    }
    let root: Vec<_> = ROOT.split('/').map(str::as_bytes).collect();
    let below = parts
        .strip_prefix(root.as_slice())
        .ok_or_else(|| format!("does not lie below {ROOT}/"))?;
    let too_long = path.len() > LONGEST_PATH
        || below.len() > DEEPEST
        || below.iter().any(|part| part.len() > LONGEST_NAME);
    if too_long {
        return Err("has an overlong name".to_owned());
    }
    Ok(below.iter().map(|part| OsStr::from_bytes(part)).collect())
}
