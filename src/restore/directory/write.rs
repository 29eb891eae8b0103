//! A tar into a folder of its own, trusted in nothing.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;

use crate::content_hash::{ContentHasher, Digest};
use crate::error::printable;
use crate::gitlab::cli::INFORMATION;
use crate::local::remove::open_folder;
use crate::restore::unpack::Attributes;
use crate::tar::stream::TarStream;
use crate::tar::{Entry, EntryKind, TarError};

/// GitLab's folders are eight deep.
const DEEPEST: usize = 64;
/// Of one name, in bytes: what file systems take.
const LONGEST_NAME: usize = 255;

/// Why a tar was not unpacked to its end.
#[derive(Debug)]
pub(super) enum Ended {
    Fetching(String),
    Refused(String),
    Writing(String),
}

/// Unpacks a tar whose members all lie in the folder `id` into the folder `root`. Blocks the thread.
pub(super) fn write(input: impl Read, root: &OwnedFd, id: &str) -> Result<Digest, Ended> {
    let mut input = Hashing {
        input,
        hasher: ContentHasher::default(),
    };
    let damaged = |error: TarError| Ended::Refused(format!("it is damaged: {error}"));
    let mut tar = TarStream::new(&mut input);
    let mut chain = Chain {
        root,
        folders: Vec::new(),
    };
    let mut has_information = false;
    while let Some(entry) = tar.next_entry().map_err(damaged)? {
        let shown = || printable(&String::from_utf8_lossy(&entry.path));
        let parts = admit(&entry, id).map_err(|why| {
            Ended::Refused(format!("it is refused: its member `{}` {why}", shown()))
        })?;
        has_information |= parts.len() == 2 && parts[1] == INFORMATION.as_bytes();
        let mut contents = tar.contents();
        let written = chain.add(&parts, &entry, &mut contents);
        written.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Ended::Refused(format!(
                "it is refused: its member `{}` comes twice",
                shown()
            )),
            io::ErrorKind::NotADirectory => Ended::Refused(format!(
                "it is refused: its member `{}` lies below a file",
                shown()
            )),
            io::ErrorKind::UnexpectedEof => Ended::Refused(format!(
                "it is damaged: it ends in its member `{}`",
                shown()
            )),
            _ => Ended::Writing(format!("writing {}: {error}", shown())),
        })?;
    }
    let end = tar.finish().map_err(damaged)?;
    if end.has_data_behind {
        return Err(Ended::Refused(
            "it is refused: there is data behind its end".to_owned(),
        ));
    }
    if !has_information {
        return Err(Ended::Refused(format!(
            "it is refused: there is no {INFORMATION} in it"
        )));
    }
    let mut finish = || -> io::Result<()> {
        chain.keep(0)?;
        // The whole file system at once: a hundred thousand files one by one take an SD card minutes.
        Ok(rustix::fs::syncfs(root)?)
    };
    finish().map_err(|error| Ended::Writing(format!("writing {id}: {error}")))?;
    Ok(input.hasher.finish())
}

/// The names that lead to a member, the backup's folder first. The error says what is wrong with it.
fn admit<'a>(entry: &'a Entry, id: &str) -> Result<Vec<&'a [u8]>, String> {
    match entry.kind {
        EntryKind::File if entry.is_sparse => return Err("has holes".to_owned()),
        EntryKind::File | EntryKind::Folder => {}
        EntryKind::HardLink => return Err("is a link to another file".to_owned()),
        EntryKind::SymbolicLink => return Err("is a symbolic link".to_owned()),
        EntryKind::Other => return Err("is neither a file nor a folder".to_owned()),
    }
    if entry.path.contains(&0) {
        return Err("has a name with a zero in it".to_owned());
    }
    let parts = entry.path.split(|byte| *byte == b'/');
    let parts: Vec<_> = parts
        .filter(|part| !part.is_empty() && *part != b".")
        .collect();
    if parts.contains(&&b".."[..]) {
        return Err("has `..` in its name".to_owned());
    }
    let is_below = parts.first() == Some(&id.as_bytes()) && !entry.path.starts_with(b"/");
    if !is_below || (parts.len() == 1 && entry.kind != EntryKind::Folder) {
        return Err(format!("does not lie below {id}/"));
    }
    if parts.len() > DEEPEST || parts.iter().any(|part| part.len() > LONGEST_NAME) {
        return Err("has an overlong name".to_owned());
    }
    Ok(parts)
}

/// The folders that lead to the member that was written last.
struct Chain<'a> {
    root: &'a OwnedFd,
    folders: Vec<Link>,
}

struct Link {
    name: Vec<u8>,
    open: OwnedFd,
    /// Set when all that lies in it is written.
    attributes: Option<Attributes>,
}

impl Chain<'_> {
    fn add(&mut self, parts: &[&[u8]], entry: &Entry, contents: &mut dyn Read) -> io::Result<()> {
        let is_folder = entry.kind == EntryKind::Folder;
        let depth = if is_folder {
            parts.len()
        } else {
            parts.len() - 1
        };
        let shared = self.folders.iter().zip(&parts[..depth]);
        let shared = shared
            .take_while(|(link, part)| link.name == **part)
            .count();
        self.keep(shared)?;
        for part in &parts[shared..depth] {
            let above = self.folders.last().map_or(self.root, |link| &link.open);
            match mkdirat(above, *part, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            let open = open_folder(above.as_fd(), *part)?;
            self.folders.push(Link {
                name: part.to_vec(),
                open,
                attributes: None,
            });
        }
        let attributes = Attributes::of(entry);
        if is_folder {
            if let Some(link) = self.folders.last_mut() {
                link.attributes = Some(attributes);
            }
            return Ok(());
        }
        let above = self.folders.last().map_or(self.root, |link| &link.open);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(above, parts[depth], flags, Mode::RUSR | Mode::WUSR)?;
        let mut file = File::from(file);
        if io::copy(contents, &mut file)? != entry.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        attributes.set(&file)
    }

    /// Leaves all folders but the first ones, and gives each the owner, mode and time that the archive tells.
    fn keep(&mut self, len: usize) -> io::Result<()> {
        while self.folders.len() > len {
            let Some(Link {
                open, attributes, ..
            }) = self.folders.pop()
            else {
                break;
            };
            if let Some(attributes) = attributes {
                attributes.set(&File::from(open))?;
            }
        }
        Ok(())
    }
}

/// Hashes what is read through it.
struct Hashing<R> {
    input: R,
    hasher: ContentHasher,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.input.read(buf)?;
        self.hasher.update(&buf[..len]);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const ID: &str = "1714053314_2024_04_25_17.8.2";

    /// A member by hand: its path with `ID` for the backup's, its type, where it leads, its contents.
    type Raw<'a> = (&'a str, u8, &'a str, &'a [u8]);

    fn tar(members: &[Raw<'_>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (path, kind, link, data) in members {
            let path = path.replace("ID", ID);
            let mut header = [0_u8; 512];
            header[..path.len()].copy_from_slice(path.as_bytes());
            header[100..108].copy_from_slice(b"0000640\0");
            header[124..136].copy_from_slice(format!("{:011o}\0", data.len()).as_bytes());
            header[136..148].copy_from_slice(b"14537403567\0");
            header[148..156].fill(b' ');
            header[156] = *kind;
            header[157..157 + link.len()].copy_from_slice(link.as_bytes());
            header[257..265].copy_from_slice(b"ustar  \0");
            let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            bytes.extend(header);
            bytes.extend(*data);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }

    fn unpack(archive: &[u8], into: &Path) -> Result<Digest, Ended> {
        let root = OwnedFd::from(File::open(into).expect("a folder"));
        write(archive, &root, ID)
    }

    const FOLDER: Raw<'_> = ("ID/", b'5', "", b"");
    const INFO: Raw<'_> = ("ID/backup_information.json", b'0', "", b"{}");

    #[test]
    fn a_good_one_is_unpacked_and_hashed() {
        let archive = tar(&[
            FOLDER,
            INFO,
            ("ID/db/", b'5', "", b""),
            ("ID/db/a", b'0', "", b"a"),
        ]);
        let dir = tempfile::tempdir().expect("temporary folder");
        let mut hasher = ContentHasher::default();
        hasher.update(&archive);
        assert_eq!(unpack(&archive, dir.path()).expect("good"), hasher.finish());
        let read = |name: &str| std::fs::read(dir.path().join(ID).join(name)).expect(name);
        assert_eq!(
            (read("db/a"), read("backup_information.json")),
            (b"a".to_vec(), b"{}".to_vec())
        );
    }

    #[test]
    fn whatever_leads_elsewhere_is_refused_by_name() {
        let file = |path| (path, b'0', "", &b"x"[..]);
        let of_kind = |path, kind| (path, kind, "", &b""[..]);
        let below = "does not lie below";
        for (members, why) in [
            (vec![file("etc/passwd")], below),
            (vec![file("/ID/a")], below),
            (vec![file("ID")], below),
            (vec![file("IDx/a")], below),
            (vec![of_kind("./", b'5')], below),
            (vec![file("ID/../a")], "`..`"),
            (vec![of_kind("ID/a/..", b'5')], "`..`"),
            (
                vec![("ID/s", b'2', "/etc/passwd", &b""[..])],
                "symbolic link",
            ),
            (vec![("ID", b'2', "/root", &b""[..])], "symbolic link"),
            (
                vec![INFO, ("ID/h", b'1', "ID/backup_information.json", &b""[..])],
                "link to another file",
            ),
            (vec![of_kind("ID/c", b'3')], "neither"),
            (vec![of_kind("ID/p", b'6')], "neither"),
            (vec![of_kind("ID/holes", b'S')], "has holes"),
            (vec![INFO, INFO], "comes twice"),
            (
                vec![INFO, file("ID/backup_information.json/x")],
                "below a file",
            ),
            (vec![file("ID/db"), of_kind("ID/db/", b'5')], "below a file"),
            (vec![of_kind("ID/db/", b'5'), file("ID/db")], "comes twice"),
        ] {
            let name = members.last().expect("a member").0.replace("ID", ID);
            let dir = tempfile::tempdir().expect("temporary folder");
            let Err(Ended::Refused(error)) = unpack(&tar(&members), dir.path()) else {
                panic!("{name} is let through");
            };
            assert!(error.contains(&format!("`{name}`")), "{name}: {error}");
            assert!(error.contains(why), "{name}: {error}");
        }
    }

    #[test]
    fn what_is_no_whole_backup_is_refused() {
        let archive = tar(&[FOLDER, INFO]);
        for len in (0..archive.len() - 1).step_by(100) {
            let dir = tempfile::tempdir().expect("temporary folder");
            assert!(
                matches!(unpack(&archive[..len], dir.path()), Err(Ended::Refused(_))),
                "cut at {len}"
            );
        }
        let behind = [&archive[..], b"more"].concat();
        for (archive, why) in [
            (behind, "behind its end"),
            (tar(&[FOLDER]), "no backup_information.json"),
        ] {
            let dir = tempfile::tempdir().expect("temporary folder");
            let Err(Ended::Refused(error)) = unpack(&archive, dir.path()) else {
                panic!("let through");
            };
            assert!(error.contains(why), "{error}");
        }
    }
}
