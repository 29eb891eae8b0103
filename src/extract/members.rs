//! Where in a stored archive the repositories begin: told by the list of its members that is stored beside its
//! manifest, else by the headers in the archive itself, read one after another without the contents between them.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use flate2::read::MultiGzDecoder;
use serde::Deserialize;

use crate::destination::LONGEST_RANGE;
use crate::destination::unsealed::Unsealed;
use crate::error::{Error, ErrorKind};
use crate::gitlab::layout::{below_repositories, is_database, place};
use crate::retry::Patience;
use crate::source::{Fingerprint, Source};
use crate::tar::{Member, Members, TarError};

/// A longer line is none of a member list, in bytes.
const LONGEST_LINE: u64 = 64 * 1024;
/// So much is kept of the names in an archive, in bytes: about a hundred thousand repositories.
const MOST_NAMES: usize = 128 * 1024 * 1024;
/// How much is read at a time where headers are looked for, in bytes: many small members, or one header.
const WINDOW: u64 = 16 * 1024;

/// A file in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// As it stands in the archive.
    pub(super) path: String,
    /// Where its contents begin, in bytes.
    pub(super) offset: u64,
    /// In bytes.
    pub(super) size: u64,
}

/// What is looked for in an archive.
#[derive(Clone, Debug)]
pub(super) enum Only {
    /// All repositories.
    All,
    /// Those of the project with this disk path.
    Of(String),
}

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Files of repositories.
    pub(super) repositories: Vec<Place>,
    /// The dump of the main database.
    pub(super) database: Option<Place>,
    names: usize,
}

impl Place {
    /// Where its contents are.
    pub(super) fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.size
    }

    /// What its path is below `repositories/`.
    pub(super) fn below(&self) -> &str {
        below_repositories(&self.path).unwrap_or_default()
    }
}

impl Found {
    /// Takes a file, if it is looked for.
    fn add(&mut self, path: &str, offset: u64, size: u64, only: &Only) -> Result<(), &'static str> {
        let here = || Place {
            path: path.to_owned(),
            offset,
            size,
        };
        if is_database(path) {
            self.database = Some(here());
        }
        let Some(of) = below_repositories(path).and_then(place) else {
            return Ok(());
        };
        if matches!(only, Only::Of(base) if of.base != base) {
            return Ok(());
        }
        self.names += path.len() + size_of::<Place>();
        if self.names > MOST_NAMES {
            return Err("there are more repositories than can be looked at");
        }
        self.repositories.push(here());
        Ok(())
    }

    /// Leaves only what belongs to a project.
    pub(super) fn keep(&mut self, disk_path: &str) {
        self.repositories
            .retain(|file| place(file.below()).is_some_and(|of| of.base == disk_path));
    }
}

/// A line of a member list.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Archive { archive: String },
    Member(String, u64, u64),
}

/// Reads a list of members, as it is stored: of `archive`, which is `len` bytes long.
pub(super) fn read_list(
    list: impl Read,
    archive: &str,
    len: u64,
    only: &Only,
) -> io::Result<Found> {
    let mut found = Found::default();
    let mut is_of_this = false;
    let mut has_begun = false;
    each_line(list, |line| {
        match serde_json::from_slice(line)? {
            Line::Archive { archive: name } => {
                is_of_this = name == archive;
                has_begun |= is_of_this;
            }
            Line::Member(path, offset, size) if is_of_this => {
                if offset.checked_add(size).is_none_or(|end| end > len) {
                    let what = "it names a place behind the end of the archive";
                    return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                }
                let added = found.add(&path, offset, size, only);
                added.map_err(|what| io::Error::new(io::ErrorKind::OutOfMemory, what))?;
            }
            Line::Member(..) => {}
        }
        Ok(())
    })?;
    if has_begun {
        Ok(found)
    } else {
        let what = format!("{archive} is not in it");
        Err(io::Error::new(io::ErrorKind::InvalidData, what))
    }
}

/// Shows every line of a compressed file of ours.
pub(super) fn each_line(
    compressed: impl Read,
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut lines = BufReader::new(MultiGzDecoder::new(compressed));
    let mut line = Vec::new();
    loop {
        line.clear();
        lines
            .by_ref()
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut line)?;
        match line.last() {
            None => return Ok(()),
            Some(b'\n') => each(&line)?,
            Some(_) => {
                let what = "a line is cut off or too long";
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
        }
    }
}

/// Looks for the headers in the archive itself.
pub(super) async fn walk(
    archive: &Unsealed<'_>,
    only: &Only,
    patience: &Patience,
) -> Result<Found, Error> {
    let mut found = Found::default();
    let failed = |what: String| {
        let action = format!("looking for repositories in {}", archive.place());
        Error::new(ErrorKind::Invalid, action, what).hint(
            "`gitlab-pi-backup rehearse` tells what is wrong with it; extract from another backup",
        )
    };
    let mut offset = 0;
    let mut reach = WINDOW;
    loop {
        let window = Window {
            start: offset,
            bytes: archive.read(offset, reach, patience).await?,
            len: archive.len(),
            missed: AtomicBool::new(false),
        };
        let mut members = Members::at(&window, offset);
        loop {
            match members.next_member() {
                Ok(Some(member)) => {
                    offset = members.offset();
                    take(&mut found, &member, only).map_err(|what| failed(what.to_owned()))?;
                }
                Ok(None) => return Ok(found),
                Err(_) if window.missed.load(Ordering::Relaxed) => break,
                Err(TarError::Damaged(what)) => return Err(failed(what)),
                Err(TarError::Read(error)) => return Err(failed(error.to_string())),
            }
        }
        // A long name may need more than one window.
        reach = if offset > window.start {
            WINDOW
        } else {
            reach * 2
        };
        if reach > LONGEST_RANGE {
            return Err(failed(format!("no header ends behind byte {offset}")));
        }
    }
}

fn take(found: &mut Found, member: &Member, only: &Only) -> Result<(), &'static str> {
    if !member.is_file {
        return Ok(());
    }
    let path = String::from_utf8_lossy(&member.path);
    found.add(&path, member.offset, member.size, only)
}

/// Whether a member of this size begins at this place: a list may be of another archive with the same name.
pub(super) async fn is_there(
    archive: &Unsealed<'_>,
    file: &Place,
    patience: &Patience,
) -> Result<bool, Error> {
    let Some(start) = file.offset.checked_sub(512) else {
        return Ok(false);
    };
    let window = Window {
        start,
        bytes: archive.read(start, 512, patience).await?,
        len: archive.len(),
        missed: AtomicBool::new(false),
    };
    let member = Members::at(&window, start).next_member();
    Ok(matches!(member, Ok(Some(member)) if member.is_file && member.size == file.size))
}

/// A part of an archive; what is outside is missed.
struct Window {
    start: u64,
    bytes: Vec<u8>,
    /// Of the archive.
    len: u64,
    missed: AtomicBool,
}

impl Source for Window {
    fn len(&self) -> u64 {
        self.len
    }

    fn fingerprint(&self) -> io::Result<Fingerprint> {
        Ok(Fingerprint(String::new()))
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let wanted = (self.len.saturating_sub(offset)).min(buf.len() as u64);
        let here = offset
            .checked_sub(self.start)
            .and_then(|begin| usize::try_from(begin).ok())
            .zip(usize::try_from(wanted).ok())
            .and_then(|(begin, len)| self.bytes.get(begin..begin + len));
        let Some(here) = here else {
            self.missed.store(true, Ordering::Relaxed);
            return Err(io::ErrorKind::WouldBlock.into());
        };
        buf[..here.len()].copy_from_slice(here);
        Ok(here.len())
    }

    fn release(&self, _range: Range<u64>) {}
}

/// A few names in a row, for messages.
pub(super) fn listed<'a>(names: impl Iterator<Item = &'a str>, most: usize) -> String {
    let mut text = String::new();
    for (number, name) in names.enumerate() {
        let separator = if number == 0 { "" } else { ", " };
        if number == most {
            return text + ", …";
        }
        // Writing to a string cannot fail.
        let _ = write!(text, "{separator}{name}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write as _;

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).expect("memory");
        encoder.finish().expect("memory")
    }

    const CONFIG: &str = "{\"format\":1,\"archive\":\"gitlab_config_1_1970_01_01.tar\",\"kind\":\"config\"}\n\
        [\"/etc/gitlab/repositories/a.bundle\",512,9]\n";
    const DATA: &str = "{\"format\":1,\"archive\":\"d.tar\",\"kind\":\"data\"}\n\
        [\"db/database.sql.gz\",512,100]\n[\"repositories/@hashed/a/b/c.bundle\",1536,7]\n\
        [\"repositories/@hashed/a/b/d.wiki.bundle\",2560,8]\n[\"uploads.tar.gz\",4096,9]\n";

    #[test]
    fn lists_of_several_archives_follow_each_other() {
        let list = [gzip(CONFIG), gzip(DATA)].concat();
        let read = |only: &Only| read_list(&list[..], "d.tar", 5000, only).expect("a list");
        let all = read(&Only::All);
        let paths: Vec<_> = all.repositories.iter().map(Place::below).collect();
        assert_eq!(paths, ["@hashed/a/b/c.bundle", "@hashed/a/b/d.wiki.bundle"]);
        assert_eq!(all.database.map(|file| file.range()), Some(512..612));
        let one = read(&Only::Of("@hashed/a/b/d".to_owned()));
        assert_eq!(one.repositories.len(), 1);
        assert_eq!(one.repositories[0].range(), 2560..2568);
    }

    #[test]
    fn lists_that_cannot_be_used_are_errors() {
        let list = gzip(DATA);
        for (list, len, what) in [
            (gzip(CONFIG), 5000, "not in it"),
            (list.clone(), 4100, "behind the end"),
            (list[..list.len() - 9].to_vec(), 5000, ""),
            (gzip(&DATA[..DATA.len() - 1]), 5000, "cut off"),
            (gzip(&(DATA.to_owned() + "{}\n")), 5000, ""),
            (gzip(&"x".repeat(100_000)), 5000, "too long"),
            (
                gzip(&DATA.replace("1536,7", "18446744073709551615,7")),
                5000,
                "behind the end",
            ),
            (b"nothing".to_vec(), 5000, ""),
        ] {
            let error = read_list(&list[..], "d.tar", len, &Only::All).expect_err(what);
            assert!(error.to_string().contains(what), "{error}");
        }
    }

    #[test]
    fn names_are_listed_up_to_a_number() {
        let names = ["a", "b", "c"];
        assert_eq!(listed(names.into_iter(), 3), "a, b, c");
        assert_eq!(listed(names.into_iter(), 2), "a, b, …");
        assert_eq!(listed([].into_iter(), 2), "");
    }
}
