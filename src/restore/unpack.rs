//! A config archive into a folder of its own, trusted in nothing.
//!
//! The whole archive is looked through before anything is touched, by the same rules by which it is then
//! unpacked: every member lies below `etc/gitlab/` and is a folder, a regular file, or another name of a file
//! that came before it; none lies below a file, none comes twice. It is unpacked into a new folder that
//! nobody else can write, so that nothing can be slipped in between.

mod admit;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::unistd::{Group, User};
use rustix::process::geteuid;

use crate::error::printable;
use crate::restore::unpack::admit::{Admitted, ROOT, Seen, What};
use crate::tar::stream::TarStream;
use crate::tar::{Entry, TarError};

/// Of the folder itself, where the archive does not tell it; GitLab's package makes it so.
const FOLDER_MODE: u32 = 0o775;

/// What an archive holds, as far as it matters before it is unpacked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    /// All regular files together, in bytes.
    pub(super) bytes: u64,
    /// How many there are.
    pub(super) files: usize,
}

/// Looks through a whole archive. The error names the member that is refused. Blocks the thread.
pub(super) fn look_through(input: impl Read) -> Result<Summary, String> {
    walk(input, |_, _, _| Ok(()))
}

/// Unpacks an archive into `folder`, which must be new, empty, and nobody else's to write; at the end it has the
/// owners, modes and times that the archive tells. Blocks the thread.
pub(super) fn unpack(input: impl Read, folder: &Path) -> Result<Summary, String> {
    let mut folders = BTreeMap::new();
    let summary = walk(input, |admitted, entry, contents| {
        let path = folder.join(&admitted.path);
        let made = match &admitted.what {
            What::Folder => {
                folders.insert(path.clone(), Attributes::of(entry));
                make_folder(&path)
            }
            What::File => write_file(&path, entry, contents),
            What::LinkTo(target) => {
                make_parent(&path).and_then(|()| fs::hard_link(folder.join(target), &path))
            }
        };
        made.map_err(|error| format!("writing {}: {error}", path.display()))
    })?;
    // The last ones first, so that what a folder forbids is forbidden when all in it is done.
    folders.entry(folder.to_owned()).or_insert(Attributes {
        mode: FOLDER_MODE,
        ..Attributes::default()
    });
    for (path, attributes) in folders.iter().rev() {
        let set = File::open(path).and_then(|open| {
            open.sync_all()?;
            attributes.set(&open)
        });
        set.map_err(|error| format!("setting mode and owner of {}: {error}", path.display()))?;
    }
    Ok(summary)
}

/// Hands every member that passes to `take`, in order, with its contents.
fn walk(
    input: impl Read,
    mut take: impl FnMut(&Admitted, &Entry, &mut dyn Read) -> Result<(), String>,
) -> Result<Summary, String> {
    let mut tar = TarStream::new(input);
    let mut seen = Seen::default();
    let mut summary = Summary::default();
    let damaged = |error: TarError| format!("the config archive is damaged: {error}");
    while let Some(entry) = tar.next_entry().map_err(damaged)? {
        let admitted = seen.admit(&entry).map_err(|why| {
            let name = printable(&String::from_utf8_lossy(&entry.path));
            format!("the config archive is refused: its member `{name}` {why}")
        })?;
        if matches!(admitted.what, What::File) {
            summary.files += 1;
            summary.bytes = summary.bytes.saturating_add(entry.size);
        }
        take(&admitted, &entry, &mut tar.contents())?;
    }
    let end = tar.finish().map_err(damaged)?;
    if end.has_data_behind {
        return Err("the config archive is refused: there is data behind its end".to_owned());
    }
    if summary.files == 0 {
        return Err(format!(
            "the config archive is refused: there is no file below {ROOT}/ in it"
        ));
    }
    Ok(summary)
}

fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn make_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), make_folder)
}

fn write_file(path: &Path, entry: &Entry, contents: &mut dyn Read) -> io::Result<()> {
    make_parent(path)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let written = io::copy(contents, &mut file)?;
    if written != entry.size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Attributes::of(entry).set(&file)?;
    file.sync_all()
}

/// Owner, mode and time of a file or folder.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    mode: u32,
    user: u32,
    group: u32,
    modified: Option<SystemTime>,
}

impl Attributes {
    /// Owners by their names where this machine knows them, else by their numbers.
    pub(super) fn of(entry: &Entry) -> Attributes {
        let name = |bytes: &[u8]| {
            str::from_utf8(bytes)
                .ok()
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
        };
        let user = name(&entry.uname).and_then(|name| User::from_name(&name).ok()?);
        let group = name(&entry.gname).and_then(|name| Group::from_name(&name).ok()?);
        // A number that is none becomes root's, who may read it anyway.
        let number = |number: u64| {
            u32::try_from(number)
                .ok()
                .filter(|n| *n != u32::MAX)
                .unwrap_or(0)
        };
        let modified = u64::try_from(entry.mtime)
            .ok()
            .and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
        Attributes {
            mode: entry.mode & 0o777,
            user: user.map_or_else(|| number(entry.uid), |user| user.uid.as_raw()),
            group: group.map_or_else(|| number(entry.gid), |group| group.gid.as_raw()),
            modified,
        }
    }

    /// Makes them an open file's or folder's; the owner only if that may be done.
    pub(super) fn set(&self, file: &File) -> io::Result<()> {
        if geteuid().is_root() {
            fchown(file, Some(self.user), Some(self.group))?;
        }
        file.set_permissions(fs::Permissions::from_mode(self.mode))?;
        if let Some(modified) = self.modified {
            // A time that the file system cannot hold is no reason to go without the file.
            let _ = file.set_modified(modified);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::admit::MOST_MEMBERS;
    use super::*;
    use std::os::unix::fs::MetadataExt;

    /// A member by hand: its path, its type, where it leads, its contents.
    type Raw<'a> = (&'a str, u8, &'a str, &'a [u8]);

    fn tar(members: &[Raw<'_>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (path, kind, link, data) in members {
            let mut header = [0_u8; 512];
            header[..path.len()].copy_from_slice(path.as_bytes());
            header[100..108].copy_from_slice(b"0004640\0");
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

    const FOLDER: Raw<'_> = ("/etc/gitlab/", b'5', "", b"");
    const SETTINGS: Raw<'_> = ("/etc/gitlab/gitlab.rb", b'0', "", b"settings");

    #[test]
    fn a_good_archive_is_unpacked_as_it_was() {
        let archive = tar(&[
            FOLDER,
            SETTINGS,
            ("./etc/gitlab/ssl/deep/key", b'0', "", b"key"),
            ("etc/gitlab/ssl/", b'5', "", b""),
            (
                "/etc/gitlab/ssl/name",
                b'1',
                "/etc/gitlab/ssl/deep/key",
                b"",
            ),
        ]);
        let summary = look_through(&archive[..]).expect("good");
        assert_eq!(
            summary,
            Summary {
                bytes: 11,
                files: 2
            }
        );
        let dir = tempfile::tempdir().expect("temporary folder");
        assert_eq!(unpack(&archive[..], dir.path()), Ok(summary));
        let read = |name: &str| fs::read(dir.path().join(name)).expect(name);
        assert_eq!(
            (read("gitlab.rb"), read("ssl/name")),
            (b"settings".to_vec(), b"key".to_vec())
        );
        let metadata = fs::metadata(dir.path().join("gitlab.rb")).expect("metadata");
        // Without the bit that gives its user away.
        assert_eq!(metadata.mode() & 0o7777, 0o640);
        assert_eq!(metadata.mtime(), 1_702_758_263);
        let ssl = fs::metadata(dir.path().join("ssl")).expect("metadata");
        assert_eq!((ssl.mode() & 0o7777, ssl.mtime()), (0o640, 1_702_758_263));
    }

    #[test]
    fn whatever_leads_elsewhere_is_refused_by_name() {
        let file = |path| (path, b'0', "", &b"x"[..]);
        let of_kind = |path, kind| (path, kind, "", &b""[..]);
        let link = |path, kind, target| (path, kind, target, &b""[..]);
        let below = "does not lie below";
        let cases: Vec<(Vec<Raw<'_>>, &str)> = vec![
            (vec![file("etc/passwd")], below),
            (vec![file("/root/.ssh/authorized_keys")], below),
            (vec![file("etc/gitlabx/a")], below),
            (vec![of_kind("etc/", b'5')], below),
            (vec![file("/etc/gitlab/../shadow")], "`..`"),
            (vec![file("/../etc/gitlab/a")], "`..`"),
            (vec![of_kind("/etc/gitlab/a/..", b'5')], "`..`"),
            (
                vec![link("/etc/gitlab/s", b'2', "/etc/passwd")],
                "symbolic link",
            ),
            (vec![link("/etc/gitlab", b'2', "/root")], "symbolic link"),
            (vec![file("/etc/gitlab")], "place of a folder"),
            (vec![of_kind("/etc/gitlab/c", b'3')], "neither"),
            (vec![of_kind("/etc/gitlab/b", b'4')], "neither"),
            (vec![of_kind("/etc/gitlab/p", b'6')], "neither"),
            (vec![of_kind("/etc/gitlab/holes", b'S')], "has holes"),
            (vec![link("/etc/gitlab/h", b'1', "/etc/shadow")], below),
            (
                vec![link("/etc/gitlab/h", b'1', "/etc/gitlab/none")],
                "no file before it",
            ),
            (
                vec![FOLDER, link("/etc/gitlab/h", b'1', "/etc/gitlab/h")],
                "no file before it",
            ),
            (
                vec![FOLDER, link("/etc/gitlab/h", b'1', "/etc/gitlab")],
                "no file before it",
            ),
            (vec![SETTINGS, SETTINGS], "comes twice"),
            (
                vec![SETTINGS, file("/etc/gitlab/gitlab.rb/x")],
                "below a file",
            ),
            (
                vec![file("/etc/gitlab/a/b/c"), file("/etc/gitlab/a/b")],
                "comes twice",
            ),
            (vec![FOLDER, FOLDER], "comes twice"),
        ];
        for (members, why) in cases {
            let archive = tar(&members);
            let name = members.last().expect("a member").0;
            let error = look_through(&archive[..]).expect_err(name);
            assert!(error.contains(&format!("`{name}`")), "{name}: {error}");
            assert!(error.contains(why), "{name}: {error}");
            let dir = tempfile::tempdir().expect("temporary folder");
            assert_eq!(unpack(&archive[..], dir.path()), Err(error), "{name}");
        }
        let long = format!("/etc/gitlab/{}", "x".repeat(80));
        assert!(look_through(&tar(&[file(&long)])[..]).is_ok());
    }

    #[test]
    fn what_is_no_whole_archive_is_refused() {
        let archive = tar(&[FOLDER, SETTINGS]);
        for len in 0..archive.len() - 1 {
            assert!(look_through(&archive[..len]).is_err(), "cut at {len}");
        }
        let behind = [&archive[..], b"more"].concat();
        assert!(
            look_through(&behind[..])
                .expect_err("refused")
                .contains("behind its end")
        );
        assert!(
            look_through(&tar(&[FOLDER])[..])
                .expect_err("refused")
                .contains("no file")
        );
        let names: Vec<_> = (0..=MOST_MEMBERS)
            .map(|n| format!("/etc/gitlab/{n}"))
            .collect();
        let many: Vec<_> = names
            .iter()
            .map(|name| (name.as_str(), b'0', "", &b""[..]))
            .collect();
        assert!(
            look_through(&tar(&many)[..])
                .expect_err("refused")
                .contains("one too many")
        );
    }
}
