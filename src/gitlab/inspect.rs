//! A look into an archive before it is sent: is it a whole tar, and does it hold what a restore needs?
//!
//! GitLab's commands have ended with 0 although the database dump had failed
//! (<https://gitlab.com/gitlab-org/gitlab/-/issues/411497>), so the archive itself is asked. Only
//! headers and the first bytes of a few members are read; memory does not grow with the archive.

mod beginning;

use std::io::Read as _;

use self::beginning::{begins_like_a_dump, contents};
use super::cli;
use super::contents::{Contents, ContentsCounter, below};
use super::information::Information;
use crate::archive::{ArchiveKind, ArchiveName};
use crate::error::printable;
use crate::source::Source;
use crate::tar::{Member, Members, TarError};

/// Of a member whose contents are looked at, this many bytes at most.
const LONGEST_LOOK: u64 = 132 * 1024;

/// What is wrong with a whole archive; nothing, for a good one.
pub type Doubts = Vec<String>;

/// What a look into an archive showed.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// What is wrong with it.
    pub doubts: Doubts,
    /// What it holds.
    pub contents: Contents,
    /// What GitLab wrote about it, if it can be read.
    pub information: Option<Information>,
}

/// Reads the structure of an archive to its end and shows `each` member to the caller. An error says why
/// it is no whole tar; `skipped` names the parts GitLab was told to leave out. Blocks the thread.
pub fn look_into(
    source: &dyn Source,
    name: &ArchiveName,
    skipped: &[String],
    each: &mut dyn FnMut(&Member),
) -> Result<Inspection, TarError> {
    let mut members = Members::new(source);
    let mut count = 0_u64;
    let mut counter = ContentsCounter::within(name.folder());
    let mut seen = Seen::default();
    while let Some(member) = members.next_member()? {
        count += 1;
        match name.kind {
            ArchiveKind::Config => seen.config_member(&member),
            ArchiveKind::Data => {
                counter.member(&member.path, member.is_file, member.size);
                match below(&member.path, name.folder()) {
                    Some(path) => seen.data_member(path, &member, source, name),
                    None => seen.outside(&member),
                }
            }
        }
        each(&member);
    }
    let trailed = members.is_followed_by_data()?;
    source.release(0..source.len());
    if count == 0 {
        return Err(TarError::Damaged(
            "no whole tar: it has no member".to_owned(),
        ));
    }
    let mut doubts = match name.kind {
        ArchiveKind::Config => seen.config_doubts(),
        ArchiveKind::Data => seen.data_doubts(skipped, name),
    };
    if trailed {
        doubts.push(
            "there is data behind the end of the tar, which a restore would not see".to_owned(),
        );
    }
    let mut contents = counter.finish(seen.information.as_ref());
    contents.skipped = seen.skipped;
    Ok(Inspection {
        doubts,
        contents,
        information: seen.information,
    })
}

/// What has been found on the way.
#[derive(Default)]
struct Seen {
    secrets: bool,
    has_information: bool,
    information: Option<Information>,
    /// The parts that `backup_information.yml` says were skipped.
    skipped: Vec<String>,
    /// The main database's dump: whether it begins like one.
    database: Option<bool>,
    /// Other dumps that do not begin like one.
    other_dumps: Vec<String>,
    /// What the tool itself says that cannot be so.
    contradictions: Vec<String>,
    /// The first member of a folder's tar that does not lie in the folder, and the first that is neither a file nor
    /// a folder.
    outside: Option<String>,
    odd: Option<String>,
}

impl Seen {
    fn config_member(&mut self, member: &Member) {
        let name = member.path.rsplit(|byte| *byte == b'/').next();
        self.secrets |= member.is_file && member.size > 0 && name == Some(b"gitlab-secrets.json");
    }

    fn config_doubts(&self) -> Doubts {
        let missing =
            "there is no gitlab-secrets.json in it: without it no data backup can be decrypted";
        if self.secrets {
            Vec::new()
        } else {
            vec![missing.to_owned()]
        }
    }

    fn outside(&mut self, member: &Member) {
        let name = || printable(&String::from_utf8_lossy(&member.path));
        self.outside.get_or_insert_with(name);
    }

    fn data_member(
        &mut self,
        path: &[u8],
        member: &Member,
        source: &dyn Source,
        name: &ArchiveName,
    ) {
        let path = printable(&String::from_utf8_lossy(path));
        let path = path.as_str();
        if !member.is_file {
            if name.folder().is_some() && !member.path.ends_with(b"/") {
                self.odd.get_or_insert_with(|| path.to_owned());
            }
            return;
        }
        if name.folder().is_some() && path == cli::INFORMATION {
            self.has_information = member.size > 0;
            match cli::information(&beginning(member, source), name) {
                Ok(told) => {
                    self.information = Some(told.information);
                    self.contradictions = told.faults;
                }
                Err(why) => self.contradictions = vec![why],
            }
        } else if name.folder().is_none() && path == "backup_information.yml" {
            self.has_information = member.size > 0;
            let text = beginning(member, source);
            self.information = Information::parse(&text).ok();
            self.skipped = Information::skipped_in(&String::from_utf8_lossy(&text));
        } else if let Some(name) = path
            .strip_prefix("db/")
            .filter(|name| name.contains(".sql"))
        {
            let good = begins_like_a_dump(contents(member, source));
            if name.starts_with("database.sql") {
                self.database = Some(good);
            } else if !good {
                self.other_dumps.push(path.to_owned());
            }
        }
    }

    fn data_doubts(&self, skipped: &[String], name: &ArchiveName) -> Doubts {
        let mut doubts = Vec::new();
        let information = match name.folder() {
            Some(_) => cli::INFORMATION,
            None => "backup_information.yml",
        };
        if !self.has_information {
            doubts.push(format!(
                "there is no {information} in it: GitLab cannot restore it"
            ));
        }
        let contradictions = self.contradictions.iter();
        doubts.extend(contradictions.map(|what| format!("{information}: {what}")));
        if let Some(outside) = &self.outside {
            let folder = name.folder().unwrap_or_default();
            doubts.push(format!("{outside} does not lie in {folder}"));
        }
        if let Some(odd) = &self.odd {
            doubts.push(format!(
                "{odd} is neither a file nor a folder, and cannot be restored"
            ));
        }
        if !skipped.iter().chain(&self.skipped).any(|part| part == "db") {
            match self.database {
                Some(true) => {}
                Some(false) => {
                    doubts
                        .push("db/database.sql.gz does not begin like a database dump".to_owned());
                }
                None => doubts
                    .push("there is no database dump in it, and `db` was not skipped".to_owned()),
            }
        }
        doubts.extend(
            self.other_dumps
                .iter()
                .map(|path| format!("{path} does not begin like a database dump")),
        );
        doubts
    }
}

/// The beginning of a member that is a short text.
fn beginning(member: &Member, source: &dyn Source) -> Vec<u8> {
    let mut text = Vec::new();
    let mut contents = contents(member, source).take(LONGEST_LOOK);
    // What cannot be read cannot be understood either.
    contents.read_to_end(&mut text).ok();
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::file::FileSource;
    use std::fs;
    use std::io::Write;
    use std::path::Path;
    use std::process::Command;

    const DUMP: &[u8] = b"--\n-- PostgreSQL database dump\n--\n\n";

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder
            .write_all(data)
            .and_then(|()| encoder.finish())
            .expect("gzip")
    }

    /// A tar by GNU tar of these files.
    fn tar(dir: &Path, files: &[(&str, &[u8])]) -> FileSource {
        let tree = dir.join("tree");
        let _ = fs::remove_dir_all(&tree);
        let path = dir.join("a.tar");
        for (name, data) in files {
            let file = tree.join(name);
            fs::create_dir_all(file.parent().expect("a parent")).expect("folder");
            fs::write(file, data).expect("write");
        }
        let names = fs::read_dir(&tree)
            .expect("list")
            .map(|e| e.expect("entry").file_name());
        let status = Command::new("tar")
            .arg("-cf")
            .arg(&path)
            .arg("-C")
            .arg(&tree)
            .args(names)
            .status();
        assert!(status.expect("tar runs").success());
        FileSource::open(&path).expect("open")
    }

    fn name(kind: ArchiveKind) -> ArchiveName {
        let name = match kind {
            ArchiveKind::Config => "gitlab_config_1714053314_2024_04_25.tar",
            ArchiveKind::Data => "1714053314_2024_04_25_17.8.2_gitlab_backup.tar",
        };
        ArchiveName::parse(name).expect("a name")
    }

    #[test]
    fn a_folder_is_doubted_for_what_contradicts_its_name() {
        const ID: &str = "1714053314_2024_04_25_17.8.2";
        let name = ArchiveName::of_directory(ID).expect("an ID");
        let information = format!(
            "{{\"metadata_version\": 2, \"backup_id\": \"{ID}\", \"created_at\": \"2024-04-25T13:55:14Z\", \
             \"gitlab_version\": \"17.8.2\"}}"
        );
        let dump = gzip(DUMP);
        let doubts = |files: &[(&str, &[u8])]| {
            let dir = tempfile::tempdir().expect("temporary folder");
            let files: Vec<_> = files
                .iter()
                .map(|(path, data)| (path.replace("ID", ID), *data))
                .collect();
            let files: Vec<_> = files
                .iter()
                .map(|(path, data)| (path.as_str(), *data))
                .collect();
            let seen = look_into(&tar(dir.path(), &files), &name, &[], &mut |_| {});
            seen.expect("a whole tar").doubts.join("; ")
        };
        let good: [(&str, &[u8]); 2] = [
            ("ID/backup_information.json", information.as_bytes()),
            ("ID/db/database.sql.gz", &dump),
        ];
        assert_eq!(doubts(&good), "");
        let other = information.replace("\"17.8.2\"", "\"17.8.3\"");
        for (files, doubt) in [
            (&[good[1]][..], "there is no backup_information.json"),
            (&[good[0]], "there is no database dump"),
            (
                &[good[1], (good[0].0, other.as_bytes())],
                "`gitlab_version` is 17.8.3",
            ),
            (
                &[good[1], (good[0].0, b"{")],
                "backup_information.json: it is no JSON",
            ),
            (&[good[0], good[1], ("db/x", b"x")], "db/ does not lie in"),
            (
                &[good[0], ("db/database.sql.gz", &dump)],
                "there is no database dump",
            ),
            // What the other tool writes tells nothing here.
            (
                &[good[1], ("ID/backup_information.yml", b":skipped: ''\n")],
                "there is no backup_information.json",
            ),
        ] {
            assert!(doubts(files).contains(doubt), "{doubt}: {}", doubts(files));
        }
    }

    fn doubts(files: &[(&str, &[u8])], kind: ArchiveKind, skipped: &[&str]) -> String {
        let dir = tempfile::tempdir().expect("temporary folder");
        let skipped: Vec<_> = skipped.iter().map(|part| (*part).to_owned()).collect();
        look_into(&tar(dir.path(), files), &name(kind), &skipped, &mut |_| {})
            .expect("a whole tar")
            .doubts
            .join("; ")
    }

    #[test]
    fn a_data_archive_is_doubted_for_what_a_restore_would_miss() {
        let information: (&str, &[u8]) = ("backup_information.yml", b":skipped: \n");
        let without_db: (&str, &[u8]) = ("backup_information.yml", b":skipped: registry,db\n");
        let good = gzip(DUMP);
        let much = DUMP.repeat(100_000);
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        let zstd = ruzstd::encoding::compress_to_vec(&much[..], level);
        let (empty, junk) = (gzip(b""), gzip(b"pg_dump: error"));
        let data =
            |db: &[u8], name: &str| doubts(&[information, (name, db)], ArchiveKind::Data, &[]);
        assert_eq!(data(&good, "db/database.sql.gz"), "");
        assert_eq!(data(DUMP, "db/database.sql.gz"), "");
        assert_eq!(data(b"\n\\restrict abc\n", "db/database.sql"), "");
        assert_eq!(data(&zstd, "db/database.sql.gz"), "");
        let dumpless = "db/database.sql.gz does not begin like a database dump";
        for bad in [
            &empty[..],
            &junk,
            b"",
            &good[..5],
            &[0x28, 0xb5, 0x2f, 0xfd, 9, 9],
        ] {
            assert_eq!(data(bad, "db/database.sql.gz"), dumpless);
        }
        assert!(data(&good, "db/other").contains("no database dump"));
        assert_eq!(doubts(&[without_db], ArchiveKind::Data, &[]), "");
        assert_eq!(doubts(&[information], ArchiveKind::Data, &["db"]), "");
        assert!(
            doubts(&[("db/database.sql.gz", &good)], ArchiveKind::Data, &[])
                .contains("backup_information.yml")
        );
        let two = [
            information,
            ("db/database.sql.gz", &good),
            ("db/ci_database.sql.gz", &empty),
        ];
        assert!(doubts(&two, ArchiveKind::Data, &[]).contains("db/ci_database.sql.gz does not"));
    }

    #[test]
    fn a_config_archive_needs_its_secrets() {
        let config = |name| {
            doubts(
                &[("etc/gitlab/gitlab.rb", b"x"), (name, b"{}")],
                ArchiveKind::Config,
                &[],
            )
        };
        assert_eq!(config("etc/gitlab/gitlab-secrets.json"), "");
        assert!(config("etc/gitlab/gitlab-secrets.json.bak").contains("gitlab-secrets.json"));
        assert!(
            doubts(
                &[("etc/gitlab/gitlab-secrets.json", b"")],
                ArchiveKind::Config,
                &[]
            )
            .contains("decrypted")
        );
    }

    #[test]
    fn what_an_archive_holds_is_told_with_every_member() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let files: [(&str, &[u8]); 3] = [
            (
                "backup_information.yml",
                b":gitlab_version: 17.8.2\n:skipped: registry\n",
            ),
            ("db/database.sql.gz", DUMP),
            ("repositories/manifests/default/a.git/+latest.toml", b"x"),
        ];
        let source = tar(dir.path(), &files);
        let mut names = Vec::new();
        let each = &mut |member: &Member| {
            if member.is_file {
                names.push(String::from_utf8_lossy(&member.path).into_owned());
            }
        };
        let seen = look_into(&source, &name(ArchiveKind::Data), &[], each).expect("whole");
        names.sort();
        assert_eq!(names, files.map(|(name, _)| name));
        assert_eq!(seen.contents.parts["db"], DUMP.len() as u64);
        assert_eq!(seen.contents.repositories, 1);
        assert_eq!(seen.contents.skipped, ["registry"]);
        assert_eq!(seen.contents.gitlab_version.as_deref(), Some("17.8.2"));
        assert_eq!(
            seen.information.and_then(|told| told.gitlab_version),
            seen.contents.gitlab_version
        );
    }

    #[test]
    fn what_lies_behind_the_end_is_noticed() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let source = tar(dir.path(), &[("etc/gitlab/gitlab-secrets.json", b"{}")]);
        let whole = fs::read(source.path()).expect("read");
        for (end, count) in [(&[0; 5000][..], 0), (&[&[0; 5000][..], b"x"].concat(), 1)] {
            fs::write(source.path(), [&whole[..], end].concat()).expect("write");
            let source = FileSource::open(source.path()).expect("open");
            assert_eq!(
                look_into(&source, &name(ArchiveKind::Config), &[], &mut |_| {})
                    .expect("whole")
                    .doubts
                    .len(),
                count
            );
        }
    }
}
