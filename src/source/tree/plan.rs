//! What a tree consists of, found out once: every later look compares with it.

use std::convert::Infallible;
use std::ffi::{CStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, stat, statat};
use rustix::io::Errno;

use super::header::header_len;
use crate::content_hash::ContentHasher;
use crate::error::printable;
use crate::source::{Fingerprint, changed};

/// Folders within folders beyond this are refused: each holds a descriptor open while it is walked through.
const DEEPEST: usize = 256;
/// So many of the names that are left out are told.
const TOLD: usize = 5;
/// GNU tar writes this many bytes at a time, and pads the last of them.
const RECORD: u64 = 20 * 512;
/// Two blocks of zeros end a tar.
const END: u64 = 2 * 512;
/// No parent: a member that was asked for by name.
const TOP: u32 = u32::MAX;

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
    SymbolicLink,
    Other,
}

/// What a file looked like at one moment: equal states mean equal bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) ino: u64,
    /// Of a symbolic link, that of its target's name; of a folder, nothing.
    pub(super) size: u64,
    pub(super) mtime: i64,
    pub(super) ctime: i64,
    pub(super) mtime_nanos: u32,
    pub(super) ctime_nanos: u32,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// A member of the tree.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// Where its headers begin in the archive.
    pub(super) start: u64,
    pub(super) state: State,
    /// The folder it lies in.
    parent: u32,
    /// Where its name begins; it ends where the next one's begins.
    name: u32,
}

/// Every member of a tree in its order, 72 bytes and a name for each.
pub(super) struct Plan {
    pub(super) root: OwnedFd,
    pub(super) entries: Vec<Entry>,
    names: Vec<u8>,
    /// Where the members end.
    pub(super) end: u64,
    left_out: Vec<String>,
    left_out_count: usize,
}

impl State {
    pub(super) fn of(stat: &Stat) -> State {
        let mut state = State {
            ino: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: stat.st_mtime,
            ctime: stat.st_ctime,
            mtime_nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            ctime_nanos: u32::try_from(stat.st_ctime_nsec).unwrap_or(0),
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
        };
        if state.kind() == Kind::Folder {
            state.size = 0;
        }
        state
    }

    pub(super) fn kind(&self) -> Kind {
        match FileType::from_raw_mode(self.mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Folder,
            FileType::Symlink => Kind::SymbolicLink,
            _ => Kind::Other,
        }
    }

    /// The length of its contents in the archive.
    pub(super) fn body_len(&self) -> u64 {
        if self.kind() == Kind::File {
            self.size
        } else {
            0
        }
    }

    fn add_to(&self, hasher: &mut ContentHasher) {
        for number in [self.ino, self.size] {
            hasher.update(&number.to_le_bytes());
        }
        for number in [self.mtime, self.ctime] {
            hasher.update(&number.to_le_bytes());
        }
        for number in [
            self.mtime_nanos,
            self.ctime_nanos,
            self.mode,
            self.uid,
            self.gid,
        ] {
            hasher.update(&number.to_le_bytes());
        }
    }
}

impl Plan {
    /// Walks through the members `tops` of `folder`, in this order, each folder's in the order of their bytes.
    pub(super) fn make(folder: &Path, tops: &[OsString]) -> io::Result<Plan> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut plan = Plan {
            root: openat(CWD, folder, flags, Mode::empty())?,
            entries: Vec::new(),
            names: Vec::new(),
            end: 0,
            left_out: Vec::new(),
            left_out_count: 0,
        };
        let root = plan.root.try_clone()?;
        for top in tops {
            let name = top.as_bytes();
            if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
                let what = format!("`{}` is no name in a folder", top.display());
                return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
            }
            plan.add(root.as_fd(), TOP, name, 0, b"")?;
        }
        plan.entries.shrink_to_fit();
        plan.names.shrink_to_fit();
        Ok(plan)
    }

    /// Adds what `name` is in the folder `at`, and all that is in it. `path` is the folder's, with a slash.
    fn add(
        &mut self,
        at: BorrowedFd<'_>,
        parent: u32,
        name: &[u8],
        depth: usize,
        path: &[u8],
    ) -> io::Result<()> {
        let mut path = [path, name].concat();
        let found = statat(at, name, AtFlags::SYMLINK_NOFOLLOW);
        let state = State::of(&found.map_err(|error| named(&path, &error.into()))?);
        let link_len = match state.kind() {
            Kind::Other => {
                self.leave_out(&path);
                return Ok(());
            }
            Kind::Folder => {
                path.push(b'/');
                0
            }
            Kind::SymbolicLink => usize::try_from(state.size).unwrap_or(usize::MAX - 1024),
            Kind::File => 0,
        };
        if depth == DEEPEST {
            let what = format!("{}: more than {DEEPEST} folders deep", shown(&path));
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let too_many = || io::Error::new(io::ErrorKind::InvalidInput, "too many files");
        let index = u32::try_from(self.entries.len()).map_err(|_| too_many())?;
        self.entries.push(Entry {
            start: self.end,
            state,
            parent,
            name: u32::try_from(self.names.len()).map_err(|_| too_many())?,
        });
        self.names.extend(name);
        self.end = padded(state.body_len())
            .and_then(|body| body.checked_add(header_len(path.len(), link_len)))
            .and_then(|len| self.end.checked_add(len))
            .filter(|end| *end < u64::MAX / 2)
            .ok_or_else(too_many)?;
        if state.kind() != Kind::Folder {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder =
            openat(at, name, flags, Mode::empty()).map_err(|error| opening_failed(&path, error))?;
        if State::of(&fstat(&folder)?) != state {
            return Err(changed(&shown(&path)));
        }
        let names = Names::read(&folder).map_err(|error| named(&path, &error))?;
        for name in names.sorted() {
            self.add(folder.as_fd(), index, name, depth + 1, &path)?;
        }
        Ok(())
    }

    fn leave_out(&mut self, path: &[u8]) {
        self.left_out_count += 1;
        if self.left_out.len() < TOLD {
            self.left_out.push(shown(path));
        }
    }

    /// What could not be taken into the archive, in words.
    pub(super) fn left_out(&self) -> Vec<String> {
        let told = self.left_out.iter().map(|path| {
            format!("{path} is neither file, folder nor link: it was left out of the archive")
        });
        let more = self.left_out_count - self.left_out.len();
        let more = (more > 0).then(|| format!("{more} more like it were left out of the archive"));
        told.chain(more).collect()
    }

    /// The length of the whole archive.
    pub(super) fn len(&self) -> u64 {
        (self.end + END).next_multiple_of(RECORD)
    }

    /// The name of a member in its folder.
    pub(super) fn name(&self, index: usize) -> &[u8] {
        let start = self.entries[index].name as usize;
        let end = self.entries.get(index + 1).map(|next| next.name as usize);
        &self.names[start..end.unwrap_or(self.names.len())]
    }

    /// The folders a member lies in, the outermost first.
    pub(super) fn folders(&self, index: usize) -> Vec<usize> {
        let mut folders = Vec::new();
        let mut parent = self.entries[index].parent;
        while parent != TOP {
            folders.push(parent as usize);
            parent = self.entries[parent as usize].parent;
        }
        folders.reverse();
        folders
    }

    /// The name of a member in the archive, a folder's with its slash.
    pub(super) fn path(&self, index: usize) -> Vec<u8> {
        let mut path = Vec::new();
        for folder in self.folders(index) {
            path.extend(self.name(folder));
            path.push(b'/');
        }
        path.extend(self.name(index));
        if self.entries[index].state.kind() == Kind::Folder {
            path.push(b'/');
        }
        path
    }

    /// The folder a member lies in; no link is followed.
    pub(super) fn open_folder_of(&self, index: usize) -> io::Result<OwnedFd> {
        let mut folder = self.root.try_clone()?;
        for parent in self.folders(index) {
            folder = self.open_folder(folder.as_fd(), parent)?;
        }
        Ok(folder)
    }

    fn open_folder(&self, at: BorrowedFd<'_>, index: usize) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(at, self.name(index), flags, Mode::empty())
            .map_err(|error| opening_failed(&self.path(index), error))
    }

    /// What the frozen plan would be known by.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        let states = self.entries.iter().map(|entry| entry.state);
        let Ok(fingerprint) = self.hash(states.map(Ok::<_, Infallible>));
        fingerprint
    }

    /// Looks at every member anew. The error names the first that is no longer as it was planned.
    pub(super) fn look(&self, folder: &Path) -> io::Result<Fingerprint> {
        let (named_now, open) = (stat(folder)?, fstat(&self.root)?);
        if (named_now.st_dev, named_now.st_ino) != (open.st_dev, open.st_ino) {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "another folder has taken its name",
            ));
        }
        // The folders that lead to where the walk stands.
        let mut open: Vec<(u32, OwnedFd)> = Vec::new();
        let states = (0..self.entries.len()).map(|index| {
            let parent = self.entries[index].parent;
            while open.last().is_some_and(|(folder, _)| *folder != parent) {
                open.pop();
            }
            if parent != TOP && open.is_empty() {
                return Err(io::Error::other("a folder is missing in the plan"));
            }
            let at = open.last().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd());
            let found = statat(at, self.name(index), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| named(&self.path(index), &error.into()))?;
            let has_members = self
                .entries
                .get(index + 1)
                .is_some_and(|next| next.parent as usize == index);
            if has_members {
                let folder = self.open_folder(at, index)?;
                open.push((u32::try_from(index).unwrap_or(TOP), folder));
            }
            let found = State::of(&found);
            if found != self.entries[index].state {
                return Err(changed(&shown(&self.path(index))));
            }
            Ok(found)
        });
        self.hash(states)
    }

    fn hash<E>(&self, states: impl Iterator<Item = Result<State, E>>) -> Result<Fingerprint, E> {
        let mut hasher = ContentHasher::default();
        for (index, state) in states.enumerate() {
            hasher.update(&self.entries[index].parent.to_le_bytes());
            hasher.update(self.name(index));
            hasher.update(&[0]);
            state?.add_to(&mut hasher);
        }
        let count = self.entries.len();
        Ok(Fingerprint(format!("tree:{count}:{}", hasher.finish())))
    }
}

/// The names in a folder, compactly: a folder may have hundreds of thousands.
struct Names {
    bytes: Vec<u8>,
    ranges: Vec<(u32, u32)>,
}

impl Names {
    fn read(folder: &OwnedFd) -> io::Result<Names> {
        let mut names = Names {
            bytes: Vec::new(),
            ranges: Vec::new(),
        };
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = CStr::to_bytes(entry.file_name());
            if name == b"." || name == b".." {
                continue;
            }
            let too_many = |_| io::Error::new(io::ErrorKind::InvalidInput, "too many files");
            let start = u32::try_from(names.bytes.len()).map_err(too_many)?;
            names.bytes.extend(name);
            let end = u32::try_from(names.bytes.len()).map_err(too_many)?;
            names.ranges.push((start, end));
        }
        let bytes = &names.bytes;
        let name = |range: &(u32, u32)| &bytes[range.0 as usize..range.1 as usize];
        names.ranges.sort_unstable_by(|a, b| name(a).cmp(name(b)));
        Ok(names)
    }

    fn sorted(&self) -> impl Iterator<Item = &[u8]> {
        let name = |range: &(u32, u32)| &self.bytes[range.0 as usize..range.1 as usize];
        self.ranges.iter().map(name)
    }
}

/// In whole blocks.
pub(super) fn padded(len: u64) -> Option<u64> {
    len.checked_next_multiple_of(512)
}

/// A path that may be shown.
pub(super) fn shown(path: &[u8]) -> String {
    printable(&String::from_utf8_lossy(path))
}

/// An error that names its file.
pub(super) fn named(path: &[u8], error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", shown(path)))
}

/// What was a file or a folder cannot be opened as one: it is another thing now, or gone.
pub(super) fn opening_failed(path: &[u8], error: Errno) -> io::Error {
    match error {
        Errno::NOENT | Errno::LOOP | Errno::NOTDIR => changed(&shown(path)),
        _ => named(path, &error.into()),
    }
}
