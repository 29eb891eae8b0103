//! A folder, or some of its members, as a tar that is never written.
//!
//! The bytes are those of `tar --format=gnu --numeric-owner --sort=name -C FOLDER -cf - MEMBER…`, but that a
//! file with several names is stored under each, and that sockets, pipes and devices are left out and told.
//! What it consists of is found out once, when it is opened. Each file is compared with that plan before and
//! after it is read, so no read ever returns other bytes than the plan's; the whole is compared by
//! [`fingerprint`](Source::fingerprint), which looks at every file (some microseconds for each).
//!
//! Memory: 72 bytes and the name for each member, 12 MiB for 100,000 of GitLab's; while a folder is being
//! listed also its own names. At most `OPEN_FILES` files are open. No link is followed below the folder.

mod header;
mod plan;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{
    Advice, AtFlags, Mode, OFlags, fadvise, fstat, openat, readlinkat, statat, syncfs,
};
use rustix::io::{ReadWriteFlags, preadv2};

use self::header::headers;
use self::plan::{Kind, Plan, State, named, opening_failed, padded, shown};
use crate::source::{Fingerprint, Source, changed};

/// As many as workers may read at a time, and some more.
const OPEN_FILES: usize = 16;
/// Of the next file, so much is asked for ahead, in bytes.
const READ_AHEAD: u64 = 512 * 1024;
/// A smaller file's pages are not worth opening it again for.
const WORTH_RELEASING: u64 = 1024 * 1024;

/// A tar of files on this machine, made while it is read.
pub struct Tree {
    folder: PathBuf,
    plan: Plan,
    fingerprint: Fingerprint,
    left_out: Vec<String>,
    /// Of the plan's files, those that are open, the one used last in front.
    open: Mutex<VecDeque<(usize, Arc<File>)>>,
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tree({}, {})", self.folder.display(), self.fingerprint)
    }
}

impl Tree {
    /// A tar of these `members` of `folder`, in this order, under these names; a folder with all that is in it,
    /// sorted by the bytes of the names. Nothing is read yet but names and states. Blocks the thread.
    pub fn open(folder: &Path, members: &[OsString]) -> io::Result<Tree> {
        let plan = Plan::make(folder, members)?;
        Ok(Tree {
            folder: folder.to_owned(),
            fingerprint: plan.fingerprint(),
            plan,
            left_out: Vec::new(),
            open: Mutex::default(),
        })
    }

    /// What else could not be taken into it, in words, is told beside what a tree finds itself.
    #[must_use]
    pub fn lacking(mut self, left_out: Vec<String>) -> Tree {
        self.left_out = left_out;
        self
    }

    /// How many members it has, folders counted.
    pub fn members(&self) -> usize {
        self.plan.entries.len()
    }

    /// The file of a member, as it was planned.
    fn file(&self, index: usize) -> io::Result<Arc<File>> {
        if let Some(file) = self.file_at_hand(index) {
            self.check(index, &file)?;
            return Ok(file);
        }
        let folder = self.plan.open_folder_of(index)?;
        // Non-blocking, or opening a named pipe that took its place would wait for its other end.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(&folder, self.plan.name(index), flags, Mode::empty())
            .map_err(|error| opening_failed(&self.plan.path(index), error))?;
        let file = Arc::new(File::from(file));
        self.check(index, &file)?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.truncate(OPEN_FILES - 1);
        open.push_front((index, file.clone()));
        Ok(file)
    }

    /// The file of a member, if it is open.
    fn file_at_hand(&self, index: usize) -> Option<Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let position = open.iter().position(|(known, _)| *known == index)?;
        let found = open.remove(position)?;
        open.push_front(found.clone());
        Some(found.1)
    }

    fn check(&self, index: usize, file: &File) -> io::Result<()> {
        if State::of(&fstat(file)?) == self.plan.entries[index].state {
            return Ok(());
        }
        Err(changed(&shown(&self.plan.path(index))))
    }

    /// What stands before the contents of a member.
    fn headers(&self, index: usize) -> io::Result<Vec<u8>> {
        let state = &self.plan.entries[index].state;
        let path = self.plan.path(index);
        let mut link = Vec::new();
        if state.kind() == Kind::SymbolicLink {
            let folder = self.plan.open_folder_of(index)?;
            let name = self.plan.name(index);
            let found = readlinkat(&folder, name, Vec::new())
                .map_err(|error| opening_failed(&path, error))?;
            let now = statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| opening_failed(&path, error))?;
            link = found.into_bytes();
            if State::of(&now) != *state || link.len() as u64 != state.size {
                return Err(changed(&shown(&path)));
            }
        }
        Ok(headers(&path, state, &link))
    }

    /// The member whose headers or contents stand at `offset`, and where it and its contents begin and end.
    fn member_at(&self, offset: u64) -> Option<Segment> {
        if offset >= self.plan.end {
            return None;
        }
        let entries = &self.plan.entries;
        let index = entries
            .partition_point(|entry| entry.start <= offset)
            .checked_sub(1)?;
        let entry = &entries[index];
        let next = entries
            .get(index + 1)
            .map_or(self.plan.end, |next| next.start);
        let len = entry.state.body_len();
        let body = next - padded(len)?;
        Some(Segment {
            index,
            start: entry.start,
            body: body..body + len,
            next,
        })
    }

    /// Fills a part of `buf` from `offset`, up to a seam; how much.
    fn read_some(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let Some(member) = self.member_at(offset) else {
            let end = clamp(self.plan.len().saturating_sub(offset), buf.len());
            buf[..end].fill(0);
            return Ok(end);
        };
        if offset < member.body.start {
            let headers = self.headers(member.index)?;
            let from = clamp(offset - member.start, headers.len());
            let len = buf.len().min(headers.len() - from);
            buf[..len].copy_from_slice(&headers[from..from + len]);
            return Ok(len);
        }
        if offset >= member.body.end {
            let len = clamp(member.next - offset, buf.len());
            buf[..len].fill(0);
            return Ok(len);
        }
        let file = self.file(member.index)?;
        let len = clamp(member.body.end - offset, buf.len());
        let buf = &mut buf[..len];
        let from = offset - member.body.start;
        let path = || self.plan.path(member.index);
        file.read_exact_at(buf, from)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => changed(&shown(&path())),
                _ => named(&path(), &error),
            })?;
        self.check(member.index, &file)?;
        if offset + len as u64 == member.body.end {
            self.ask_ahead(member.index + 1);
        }
        Ok(len)
    }

    /// The next file is wanted soon. A hint: whatever is wrong with it shows when it is read.
    fn ask_ahead(&self, index: usize) {
        let next = self.plan.entries.get(index);
        let len = next.map_or(0, |next| next.state.body_len().min(READ_AHEAD));
        if let Some(len) = std::num::NonZeroU64::new(len)
            && let Ok(file) = self.file(index)
        {
            let _ = fadvise(&file, 0, Some(len), Advice::WillNeed);
        }
    }
}

/// Where a member stands in the archive.
struct Segment {
    index: usize,
    start: u64,
    body: Range<u64>,
    next: u64,
}

/// Not more than `most`.
fn clamp(len: u64, most: usize) -> usize {
    usize::try_from(len).map_or(most, |len| len.min(most))
}

impl Source for Tree {
    fn len(&self) -> u64 {
        self.plan.len()
    }

    /// Over inode, length, mode, owner, mtime and ctime of every member.
    fn fingerprint(&self) -> io::Result<Fingerprint> {
        self.plan.look(&self.folder)
    }

    /// Every read compares the files it read, before and after.
    fn is_still(&self, expected: &Fingerprint) -> io::Result<bool> {
        Ok(self.fingerprint == *expected)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.read_some(offset + filled as u64, &mut buf[filled..])? {
                0 => break,
                len => filled += len,
            }
        }
        Ok(filled)
    }

    fn read_ready(&self, offset: u64, buf: &mut [u8]) -> usize {
        let Some(member) = self.member_at(offset) else {
            return 0;
        };
        if !(member.body.start <= offset && offset < member.body.end) {
            return 0;
        }
        let Some(file) = self.file_at_hand(member.index) else {
            return 0;
        };
        let len = clamp(member.body.end - offset, buf.len());
        let from = offset - member.body.start;
        let read = preadv2(
            &file,
            &mut [IoSliceMut::new(&mut buf[..len])],
            from,
            ReadWriteFlags::NOWAIT,
        );
        match (read, self.check(member.index, &file)) {
            (Ok(len), Ok(())) => len,
            _ => 0,
        }
    }

    fn sync(&self) -> io::Result<()> {
        // The whole file system at once: a hundred thousand files one by one take an SD card minutes.
        Ok(syncfs(File::open(&self.folder)?)?)
    }

    fn release(&self, range: Range<u64>) {
        let mut offset = range.start;
        while let Some(member) = self.member_at(offset).filter(|_| offset < range.end) {
            let start = member.body.start.max(range.start);
            let end = member.body.end.min(range.end);
            offset = member.next;
            let Some(len) = std::num::NonZeroU64::new(end.saturating_sub(start)) else {
                continue;
            };
            let file = match self.file_at_hand(member.index) {
                None if len.get() >= WORTH_RELEASING => self.file(member.index).ok(),
                file => file,
            };
            if let Some(file) = file {
                let from = start - member.body.start;
                let _ = fadvise(&file, from, Some(len), Advice::DontNeed);
            }
        }
    }

    fn left_out(&self) -> Vec<String> {
        let mut left_out = self.plan.left_out();
        left_out.extend(self.left_out.iter().cloned());
        left_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::read_exact_at;
    use std::fs;

    fn tree_of(folder: &Path) -> Tree {
        let mut names: Vec<_> = fs::read_dir(folder)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        names.sort();
        Tree::open(folder, &names).expect("a tree")
    }

    /// The kind of the error that reading it all brings, and what it says.
    fn reading(tree: &Tree) -> Option<(io::ErrorKind, String)> {
        let mut bytes = vec![0; usize::try_from(tree.len()).expect("small")];
        let error = read_exact_at(tree, 0, &mut bytes).err()?;
        Some((error.kind(), error.to_string()))
    }

    #[test]
    fn whatever_happens_to_a_file_is_told_with_its_name() {
        type Deed = fn(&Path);
        let deeds: [(&str, Deed); 7] = [
            ("grows", |path| {
                fs::write(path, b"hello, world").expect("write");
            }),
            ("shrinks", |path| fs::write(path, b"h").expect("write")),
            ("rewritten", |path| {
                fs::write(path, b"HELLO").expect("write");
            }),
            ("vanishes", |path| fs::remove_file(path).expect("removed")),
            ("replaced", |path| {
                let other = path.with_extension("new");
                fs::write(&other, b"hello").expect("write");
                fs::rename(other, path).expect("renamed");
            }),
            ("a folder", |path| {
                fs::remove_file(path).expect("removed");
                fs::create_dir(path).expect("made");
            }),
            ("a link", |path| {
                fs::remove_file(path).expect("removed");
                std::os::unix::fs::symlink("/etc/passwd", path).expect("a link");
            }),
        ];
        for (what, deed) in deeds {
            for is_open in [false, true] {
                let dir = tempfile::tempdir().expect("temporary folder");
                fs::create_dir(dir.path().join("db")).expect("made");
                let path = dir.path().join("db/a");
                fs::write(&path, b"hello").expect("write");
                let tree = tree_of(dir.path());
                let before = tree.fingerprint().expect("fingerprint");
                assert!(tree.is_still(&before).expect("still"));
                if is_open {
                    assert_eq!(reading(&tree), None, "{what}");
                }
                // File times are coarser than the clock; the size or the inode differ anyway, but for one.
                std::fs::File::open(&path)
                    .and_then(|file| file.set_modified(std::time::SystemTime::UNIX_EPOCH))
                    .expect("a time");
                deed(&path);
                let (kind, text) = reading(&tree).expect(what);
                assert_eq!(
                    kind,
                    io::ErrorKind::StaleNetworkFileHandle,
                    "{what}: {text}"
                );
                assert!(text.starts_with("db/a has changed"), "{what}: {text}");
                assert_ne!(tree.fingerprint().ok(), Some(before), "{what}");
            }
        }
    }

    #[test]
    fn what_is_added_or_taken_away_changes_the_fingerprint() {
        let dir = tempfile::tempdir().expect("temporary folder");
        fs::create_dir_all(dir.path().join("a/b")).expect("made");
        fs::write(dir.path().join("a/b/c"), b"x").expect("write");
        let first = tree_of(dir.path()).fingerprint().expect("fingerprint");
        assert_eq!(
            tree_of(dir.path()).fingerprint().expect("fingerprint"),
            first
        );
        fs::create_dir(dir.path().join("a/b/d")).expect("made");
        let second = tree_of(dir.path()).fingerprint().expect("fingerprint");
        assert_ne!(first, second);
    }

    #[test]
    fn another_folder_under_its_name_is_not_it() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let folder = dir.path().join("backups");
        fs::create_dir(&folder).expect("made");
        fs::write(folder.join("a"), b"x").expect("write");
        let tree = tree_of(&folder);
        fs::rename(&folder, dir.path().join("old")).expect("renamed");
        assert!(tree.fingerprint().is_err());
        fs::create_dir(&folder).expect("made");
        let error = tree.fingerprint().expect_err("another folder");
        assert!(error.to_string().contains("another folder"), "{error}");
    }

    #[test]
    fn what_a_member_costs_in_memory() {
        assert_eq!(size_of::<plan::Entry>(), 72);
    }

    #[test]
    fn only_names_in_the_folder() {
        let dir = tempfile::tempdir().expect("temporary folder");
        for name in ["", ".", "..", "a/b", "/etc"] {
            let error = Tree::open(dir.path(), &[name.into()]).expect_err(name);
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name}");
        }
        let error = Tree::open(dir.path(), &["missing".into()]).expect_err("missing");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().starts_with("missing: "), "{error}");
    }
}
