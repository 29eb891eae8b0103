//! The parts of a backup that GitLab did not pack, because it was told to skip `tar`: which entries of its
//! folder they are, in which order its own tar would hold them, and whether they belong together.
//!
//! GitLab stages its parts in the folder of its backups, and what a run that was killed left there has found
//! its way into later backups (<https://gitlab.com/gitlab-org/gitlab/-/issues/362981>). So the parts of one
//! backup are those that were written between the time in its `backup_information.yml`, where the backup began,
//! and the time of that file, which GitLab writes when all else is done.

mod removal;

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

pub use self::removal::{finish_removals, remove};
use super::contents::PARTS;
use super::information::Information;
use crate::archive::{ArchiveName, Identity};
use crate::error::printable;

/// What says that parts are a backup, the first member of GitLab's tar.
pub const INFORMATION: &str = "backup_information.yml";
/// The first of GitLab's parts are folders; the others are files, with `.tar.gz` behind their names.
const FOLDERS: [&str; 2] = ["db", "repositories"];
/// A longer `backup_information.yml` is none of GitLab's; bytes.
const LONGEST_INFORMATION: u64 = 1024 * 1024;
/// The clocks of a file server and of this machine may differ by so much; backups lie hours apart. Seconds.
const SLACK: i64 = 60;

/// The parts of one backup.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The name GitLab would have given its tar.
    pub name: ArchiveName,
    /// What they are called in the folder, in the order of GitLab's tar.
    pub members: Vec<OsString>,
    /// Of `backup_information.yml`: what tells these parts from others.
    pub identity: Identity,
    /// What seems to belong to it and is no part that is known.
    pub left_out: Vec<String>,
}

/// What of a backup lies unpacked in GitLab's folder.
#[derive(Clone, Debug)]
pub enum Found {
    /// No part of any.
    Nothing,
    /// What a run of GitLab's left that did not come to its end; in words. It is no backup: GitLab's next run
    /// writes over it.
    Unfinished(String),
    /// Parts that make no backup that can be trusted; in words.
    Refused(String),
    /// A backup.
    Parts(Parts),
}

/// What of a backup lies in `folder`, which is GitLab's for its backups.
pub fn look(folder: &Path) -> io::Result<Found> {
    let mut seen = Seen::default();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        // One that vanishes between the listing and the look is as good as never listed.
        if let Ok(metadata) = entry.metadata() {
            seen.entry(name, metadata);
        }
    }
    let Some(information) = seen.information.take() else {
        return Ok(match seen.shown() {
            None => Found::Nothing,
            Some(parts) => Found::Unfinished(format!(
                "{}: {parts} without a {INFORMATION}: a backup of GitLab's that did not come to its end",
                folder.display()
            )),
        });
    };
    let path = folder.join(INFORMATION);
    Ok(match seen.judge(&information, &path) {
        Err(Fault::Unfinished(what)) => Found::Unfinished(format!("{}: {what}", path.display())),
        Err(Fault::Refused(what)) => Found::Refused(format!(
            "{}: {what}\n  look at the parts beside it; what is of no use must be deleted by hand: {}",
            path.display(),
            seen.deletion(folder)
        )),
        Ok(parts) => Found::Parts(parts),
    })
}

/// The backup unpacked in the folder of this `backup_information.yml`, if it is the one called `name`.
pub fn named(information: &Path, name: &ArchiveName) -> io::Result<(PathBuf, Parts)> {
    let folder = information.parent().unwrap_or(Path::new("/"));
    match look(folder)? {
        Found::Parts(parts) if parts.name == *name => Ok((folder.to_owned(), parts)),
        Found::Refused(why) => Err(io::Error::new(io::ErrorKind::InvalidData, why)),
        Found::Parts(Parts { name, .. }) => Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("the parts there are those of {name}"),
        )),
        Found::Unfinished(_) | Found::Nothing => Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the parts are no longer there",
        )),
    }
}

/// Whether an archive at this path is parts.
pub fn is_information(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == INFORMATION)
}

enum Fault {
    Unfinished(String),
    Refused(String),
}

#[derive(Default)]
struct Seen {
    information: Option<Metadata>,
    /// By their place in GitLab's order.
    parts: Vec<(usize, String, Metadata)>,
    /// Other files that are called as parts are.
    similar: Vec<(String, Metadata)>,
}

/// Where a part stands in GitLab's tar, after `backup_information.yml`.
fn place(name: &str) -> Option<usize> {
    let folder = FOLDERS.iter().position(|folder| *folder == name);
    folder.or_else(|| {
        let part = name.strip_suffix(".tar.gz")?;
        let place = PARTS.iter().position(|known| *known == part)?;
        (place >= FOLDERS.len()).then_some(place)
    })
}

impl Seen {
    fn entry(&mut self, name: String, metadata: Metadata) {
        if name == INFORMATION {
            self.information = Some(metadata);
        } else if let Some(place) = place(&name) {
            self.parts.push((place, name, metadata));
            self.parts.sort_by_key(|(place, ..)| *place);
        } else if name.ends_with(".tar.gz") && metadata.is_file() {
            self.similar.push((name, metadata));
            self.similar.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
    }

    /// The parts as a list, if there are any.
    fn shown(&self) -> Option<String> {
        let names: Vec<_> = self
            .parts
            .iter()
            .map(|(_, name, _)| name.as_str())
            .collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// The command that takes all of it away.
    fn deletion(&self, folder: &Path) -> String {
        let names = self.parts.iter().map(|(_, name, _)| name.as_str());
        let paths = names
            .chain([INFORMATION])
            .map(|name| folder.join(name).display().to_string());
        format!("sudo rm -r {}", paths.collect::<Vec<_>>().join(" "))
    }

    fn judge(&self, metadata: &Metadata, path: &Path) -> Result<Parts, Fault> {
        let refused = |what: String| Err(Fault::Refused(what));
        let information = match read(path) {
            Ok(text) => Information::parse(&text),
            Err(error) => return refused(format!("it cannot be read: {error}")),
        };
        let information = match information {
            Ok(information) => information,
            Err(line) => {
                return refused(format!(
                    "line {} of it is none of GitLab's: whose parts lie beside it cannot be told",
                    line.0
                ));
            }
        };
        let is_skipped = |part: &str| information.skipped.iter().any(|skipped| skipped == part);
        if !is_skipped("tar") {
            let what = "GitLab was about to pack these parts, and did not come to its end";
            return Err(Fault::Unfinished(what.to_owned()));
        }
        let (name, begun) = name_of(&information).map_err(Fault::Refused)?;
        let done = metadata.mtime();
        let mut members = vec![OsString::from(INFORMATION)];
        for (_, part, found) in &self.parts {
            let word = part.strip_suffix(".tar.gz").unwrap_or(part);
            // What lies there is not of this backup, and GitLab's tar would not hold it.
            if is_skipped(word) {
                continue;
            }
            let is_folder = FOLDERS.contains(&part.as_str());
            if (is_folder && !found.is_dir()) || (!is_folder && !found.is_file()) {
                let should = if is_folder { "a folder" } else { "a file" };
                return refused(format!("{part} beside it is not {should}"));
            }
            // An incremental backup goes on in what was unpacked from the one before.
            let may_be_older = information.is_incremental() && part == "repositories";
            if found.mtime() < begun - SLACK && !may_be_older {
                return refused(format!(
                    "{part} beside it is older than this backup: it is left from another one"
                ));
            }
            if found.mtime() > done + SLACK {
                return refused(format!(
                    "{part} beside it was written after this backup was done: it is of another one"
                ));
            }
            members.push(part.into());
        }
        if !is_skipped("db") && !members.iter().any(|member| member == "db") {
            return refused("db, the folder of the database, is missing beside it".to_owned());
        }
        let of_this_time = |metadata: &Metadata| {
            metadata.mtime() >= begun - SLACK && metadata.mtime() <= done + SLACK
        };
        let left_out = self
            .similar
            .iter()
            .filter(|(_, metadata)| of_this_time(metadata));
        let left_out = left_out.map(|(name, _)| {
            format!(
                "{} was written during this backup, but is no part of GitLab's that is known: it was left out",
                printable(name)
            )
        });
        Ok(Parts {
            name,
            members,
            identity: Identity::of(&[metadata]),
            left_out: left_out.collect(),
        })
    }
}

/// The whole text; a link, or a file that is too long, is an error.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file: File = OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(flags.bits()).expect("open flags fit an int"))
        .open(path)?;
    let mut text = Vec::new();
    if file.metadata()?.is_file() {
        file.take(LONGEST_INFORMATION + 1).read_to_end(&mut text)?;
    }
    if text.is_empty() || text.len() as u64 > LONGEST_INFORMATION {
        return Err(io::Error::other("it is no file of GitLab's"));
    }
    Ok(text)
}

/// The name of GitLab's tar, and when the backup was begun. An error says what contradicts what.
fn name_of(information: &Information) -> Result<(ArchiveName, i64), String> {
    let created_at = information
        .created_at
        .ok_or("it does not say when the backup was begun")?;
    let version = information
        .gitlab_version
        .as_deref()
        .ok_or("it does not say which version of GitLab made the backup")?;
    let stamp = created_at.timestamp();
    // GitLab before 15 did not write the ID, but made it in the same way.
    let made = || format!("{stamp}_{}_{version}", created_at.format("%Y_%m_%d"));
    let id = information.backup_id.clone().unwrap_or_else(made);
    let Some(name) = ArchiveName::of_backup(&id) else {
        return Err(format!(
            "the backup ID `{}` is none that GitLab makes itself; without `BACKUP=` it would",
            printable(&id)
        ));
    };
    if name.version.as_deref() != Some(version) || i64::try_from(name.stamp) != Ok(stamp) {
        return Err(format!(
            "the backup ID `{}` contradicts the time or the version beside it",
            printable(&id)
        ));
    }
    Ok((name, stamp))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "1702758583_2023_12_16_17.8.2";

    fn information(skipped: &str, more: &str) -> String {
        format!(
            ":db_version: '1'\n:backup_created_at: 2023-12-16 20:29:43.000000000 Z\n:gitlab_version: 17.8.2\n\
             :tar_version: tar\n:skipped: {skipped}\n{more}"
        )
    }

    /// A folder with these parts (a folder, if its name has no dot) and this information.
    fn folder(parts: &[&str], information: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("temporary folder");
        for part in parts {
            let path = dir.path().join(part);
            if part.contains('.') {
                fs::write(path, "x").expect("written");
            } else {
                fs::create_dir(path).expect("made");
            }
        }
        if !information.is_empty() {
            fs::write(dir.path().join(INFORMATION), information).expect("written");
        }
        dir
    }

    #[test]
    fn the_parts_of_a_backup_are_found_in_gitlabs_order_and_nothing_else() {
        let parts = [
            "tmp",
            "uploads.tar.gz",
            "lfs.tar.gz",
            "artifacts.tar.gz",
            "repositories",
            "notes.txt",
            "db",
            "1702758583_2023_12_16_17.8.2_gitlab_backup.tar",
            "uploads",
        ];
        for (skipped, more, expected) in [
            (
                "tar",
                format!(":backup_id: {ID}\n"),
                "db repositories uploads.tar.gz artifacts.tar.gz lfs.tar.gz",
            ),
            // GitLab before 15: no ID.
            (
                "artifacts,tar",
                String::new(),
                "db repositories uploads.tar.gz lfs.tar.gz",
            ),
            (
                "tar,db,repositories",
                String::new(),
                "uploads.tar.gz artifacts.tar.gz lfs.tar.gz",
            ),
        ] {
            let dir = folder(&parts, &information(skipped, &more));
            let Found::Parts(found) = look(dir.path()).expect("looked") else {
                panic!("{skipped}");
            };
            assert_eq!(found.name.backup_id(), Some(ID));
            let members = found.members.iter().map(|name| name.to_string_lossy());
            let members = members.collect::<Vec<_>>().join(" ");
            assert_eq!(members, format!("{INFORMATION} {expected}"));
            assert_eq!(found.left_out, [""; 0]);
        }
    }

    #[test]
    fn what_is_no_backup_says_why() {
        let id = |id: &str| information("tar", &format!(":backup_id: {id}\n"));
        let without = |key: &str| {
            let text = id(ID);
            let lines = text.lines().filter(|line| !line.starts_with(key));
            lines.map(|line| line.to_owned() + "\n").collect::<String>()
        };
        let contradiction = "contradicts the time or the version";
        let unfinished = |what| Some((false, what));
        let refused = |what| Some((true, what));
        for (part, text, expected) in [
            ("notes.txt", String::new(), None),
            ("db", String::new(), unfinished("did not come to its end")),
            ("db", information("''", ""), unfinished("was about to pack")),
            ("db", "\n\u{1}\n".into(), refused("line 2 of it is none")),
            (
                "db",
                id("dump"),
                refused("`dump` is none that GitLab makes"),
            ),
            (
                "db",
                id("1702758583_2023_12_16_17.8.3"),
                refused(contradiction),
            ),
            (
                "db",
                id("1702758584_2023_12_16_17.8.2"),
                refused(contradiction),
            ),
            ("db", without(":gitlab_version"), refused("which version")),
            (
                "db",
                without(":backup_created_at"),
                refused("when the backup was begun"),
            ),
            (
                "repositories",
                id(ID),
                refused("db, the folder of the database"),
            ),
            ("db", "x".repeat(1 << 21), refused("it is no file")),
        ] {
            let dir = folder(&[part], &text);
            match (look(dir.path()).expect("looked"), expected) {
                (Found::Nothing, None) => {}
                (Found::Unfinished(what), Some((false, expected)))
                | (Found::Refused(what), Some((true, expected))) => {
                    assert!(what.contains(expected), "{what}");
                }
                (found, expected) => panic!("{found:?} instead of {expected:?}"),
            }
        }
        let dir = folder(&["db"], "");
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join(INFORMATION)).expect("a link");
        assert!(matches!(look(dir.path()), Ok(Found::Refused(_))));
        assert!(look(&dir.path().join("missing")).is_err());
    }

    #[test]
    fn an_incremental_backup_goes_on_in_older_repositories() {
        let full = ":full_backup_id: 1702000000_2023_12_08_17.8.2\n";
        for (more, is_taken) in [(full, true), ("", false)] {
            let more = format!(":backup_id: {ID}\n{more}");
            let dir = folder(&["db", "repositories"], &information("tar", &more));
            let long_ago = std::time::SystemTime::UNIX_EPOCH;
            File::open(dir.path().join("repositories"))
                .and_then(|folder| folder.set_modified(long_ago))
                .expect("its time");
            let found = look(dir.path()).expect("looked");
            assert_eq!(matches!(found, Found::Parts(_)), is_taken, "{found:?}");
        }
    }
}
