//! What backups that did not end have left in GitLab's folders. GitLab stages its parts beside the finished archives; what
//! a killed backup left there fills the disk, and has found its way into later ones
//! (<https://gitlab.com/gitlab-org/gitlab/-/issues/362981>).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use chrono::Utc;

use super::{Check, CheckStatus};
use crate::archive::{ArchiveKind, ArchiveName, Form, newest};
use crate::gitlab::cli::Unfinished;
use crate::gitlab::host::{Engine, Settings};
use crate::gitlab::parts::{self, Found};
use crate::local::{find_archives, half_made};
use crate::source::file::FileSource;
use crate::tar::{Members, TarError};

const NAME: &str = "staging";
/// What GitLab stages in the folder of its backups, beside the parts below.
const STAGED: [&str; 4] = ["backup_information.yml", "db", "repositories", "tmp"];
/// Parts that become one file each.
const PARTS: [&str; 11] = [
    "artifacts",
    "builds",
    "ci_secure_files",
    "external_diffs",
    "lfs",
    "packages",
    "pages",
    "registry",
    "terraform_state",
    "uploads",
    "snippets",
];
/// Where GitLab notes the process that makes or restores a backup, below where it is installed.
const PID_FILE: &str = "embedded/service/gitlab-rails/tmp/backup_restore.pid";

/// `running`: a run of ours is at work.
pub(super) fn check(gitlab: &Settings, running: bool) -> Check {
    let pid_file = gitlab.install_dir.join(PID_FILE);
    let owner = owner(&pid_file);
    match &owner {
        Owner::Gitlab(pid) => {
            return Check::ok(
                NAME,
                format!("GitLab makes or restores a backup now (process {pid})"),
            );
        }
        _ if running => return Check::ok(NAME, "a run is at work"),
        Owner::Other(pid, name) => {
            let shown = pid_file.display();
            let what = format!(
                "{shown} names process {pid}, which is {name} and no backup: GitLab would refuse to make one"
            );
            return Check::failed(NAME, &what).hint(format!("sudo rm {shown}"));
        }
        Owner::Gone(_) | Owner::None => {}
    }
    let data = &gitlab.data_dir;
    let unsent = unsent(gitlab);
    if let Some(refused) = unsent.clone().filter(|it| it.status == CheckStatus::Failed) {
        return refused;
    }
    let names = match fs::read_dir(data) {
        Ok(entries) => entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()),
        Err(error) => return Check::skipped(NAME, format!("{}: {error}", data.display())),
    };
    let mut left: Vec<String> = names
        .filter(|name| is_staged(name, &data.join(name)))
        .collect();
    left.sort();
    let (by_cli, at_work) = of_cli(gitlab);
    if let Some(process) = at_work {
        let program = Engine::GitlabBackupCli.program();
        return Check::ok(
            NAME,
            format!("{program} makes a backup now (process {process})"),
        );
    }
    if let Some(first) = by_cli.first() {
        let paths: Vec<_> = by_cli
            .iter()
            .map(|half| half.path.display().to_string())
            .collect();
        let more = match by_cli.len() {
            1 => String::new(),
            count => format!(", and {} more", count - 1),
        };
        let what = format!(
            "{} {}{more}: a backup that did not end left it",
            paths[0], first.why
        );
        return Check::failed(NAME, &what).hint(format!(
            "if GitLab makes no backup now, delete it: sudo rm -r {}",
            paths.join(" ")
        ));
    }
    if unsent.is_none() && !left.is_empty() {
        let what = format!(
            "{}: a backup that did not end left {}",
            data.display(),
            left.join(", ")
        );
        let paths: Vec<_> = left
            .iter()
            .map(|name| data.join(name).display().to_string())
            .collect();
        return Check::failed(NAME, &what).hint(format!(
            "if GitLab makes no backup now, delete it: sudo rm -r {}",
            paths.join(" ")
        ));
    }
    for kind in ArchiveKind::ALL {
        if let Some((path, what)) = broken(gitlab, kind) {
            let shown = path.display();
            return Check::failed(
                NAME,
                &format!("{shown} {what}: the backup that wrote it did not end"),
            )
            .hint(format!("it is of no use: sudo rm {shown}"));
        }
    }
    if let Some(unsent) = unsent {
        return unsent;
    }
    match owner {
        Owner::Gone(pid) => Check::ok(
            NAME,
            format!("nothing is left but a note of process {pid}, which is gone"),
        )
        .hint(format!(
            "GitLab before 16.0 refuses to make a backup because of it: sudo rm {}",
            pid_file.display()
        )),
        _ => Check::ok(NAME, "no backup that did not end has left anything"),
    }
}

/// What `gitlab-backup-cli` left, and the process that still works in one of them.
fn of_cli(gitlab: &Settings) -> (Vec<Unfinished>, Option<u32>) {
    let left = half_made(gitlab);
    let works = |process: &u32| matches!(owner_of(*process), Owner::Gitlab(_));
    let at_work = left.iter().filter_map(|half| half.process).find(works);
    (left, at_work)
}

/// With `stream`: the parts of a whole backup that lie there, or why what lies there is none.
fn unsent(gitlab: &Settings) -> Option<Check> {
    let data = &gitlab.data_dir;
    match parts::look(data).ok().filter(|_| gitlab.stream)? {
        Found::Parts(parts) => {
            let (name, shown) = (parts.name, data.display());
            let what = format!("{shown}: the parts of {name} lie there");
            let hint = "the next run sends what of them is not stored yet, and removes them";
            Some(Check::ok(NAME, what).hint(hint))
        }
        Found::Refused(why) => Some(Check::failed(NAME, &why)),
        Found::Unfinished(_) | Found::Nothing => None,
    }
}

/// Whether something is what GitLab stages: a folder or file of a name it uses, not empty.
fn is_staged(name: &str, path: &Path) -> bool {
    let part = name
        .strip_suffix(".tar.gz")
        .is_some_and(|part| PARTS.contains(&part));
    if !part && !STAGED.contains(&name) {
        return false;
    }
    // GitLab lets empty folders be.
    fs::read_dir(path).map_or(true, |mut entries| entries.next().is_some())
}

/// An archive that is empty, or the newest one if it is cut off; and what it is.
fn broken(gitlab: &Settings, kind: ArchiveKind) -> Option<(PathBuf, String)> {
    let folder = gitlab.folder(kind);
    let empty = fs::read_dir(folder)
        .ok()?
        .filter_map(Result::ok)
        .find(|entry| {
            let name = entry.file_name();
            let name = name.to_str().and_then(ArchiveName::parse);
            let empty = |metadata: &fs::Metadata| metadata.is_file() && metadata.len() == 0;
            name.is_some_and(|name| name.kind == kind)
                && entry.metadata().is_ok_and(|metadata| empty(&metadata))
        });
    if let Some(entry) = empty {
        return Some((entry.path(), "is empty".to_owned()));
    }
    let archives = find_archives(gitlab, kind).ok()?;
    let newest = newest(&archives, Utc::now()).0?;
    // A folder cannot be cut off.
    if newest.form != Form::File {
        return None;
    }
    let source = FileSource::open(&newest.path).ok()?;
    let mut members = Members::new(&source);
    loop {
        match members.next_member() {
            Ok(Some(_)) => {}
            Err(TarError::Damaged(what)) => {
                return Some((newest.path.clone(), format!("is {what}")));
            }
            Ok(None) | Err(TarError::Read(_)) => return None,
        }
    }
}

/// Whom GitLab's note of a backup at work names.
#[derive(Debug, PartialEq, Eq)]
enum Owner {
    /// There is no note.
    None,
    /// A process that is no more.
    Gone(u32),
    /// A process of GitLab's.
    Gitlab(u32),
    /// A process that has the same number by chance, and its name.
    Other(u32, String),
}

/// A longer file holds no process's number; bytes.
const LONGEST_NOTE: u64 = 64;

fn owner(pid_file: &Path) -> Owner {
    // The folder is GitLab's: what is no file of a few digits is none of its notes.
    let is_note = |found: fs::Metadata| found.is_file() && found.len() <= LONGEST_NOTE;
    let is_note = fs::symlink_metadata(pid_file).is_ok_and(is_note);
    let text = is_note.then(|| fs::read_to_string(pid_file).ok()).flatten();
    let Some(pid) = text.and_then(|text| text.trim().parse::<u32>().ok()) else {
        return Owner::None;
    };
    owner_of(pid)
}

fn owner_of(pid: u32) -> Owner {
    let command = match fs::read(format!("/proc/{pid}/cmdline")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Owner::Gone(pid),
        command => command.unwrap_or_default(),
    };
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    if ["rake", "ruby", "gitlab", "bundle"]
        .iter()
        .any(|word| command.contains(word))
    {
        return Owner::Gitlab(pid);
    }
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Owner::Other(
        pid,
        name.trim().chars().filter(|c| !c.is_control()).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whom_the_note_names() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let file = dir.path().join("pid");
        assert_eq!(owner(&file), Owner::None);
        for (text, expected) in [
            ("", Owner::None),
            ("x", Owner::None),
            ("4194999\n", Owner::Gone(4_194_999)),
        ] {
            fs::write(&file, text).expect("write");
            assert_eq!(owner(&file), expected, "{text}");
        }
        // What would have to be waited for.
        fs::remove_file(&file).expect("removed");
        let pipe = std::process::Command::new("mkfifo").arg(&file).status();
        assert!(pipe.expect("mkfifo").success());
        assert_eq!(owner(&file), Owner::None);
        fs::remove_file(&file).expect("removed");
        // The first process of a machine is none of GitLab's.
        fs::write(&file, "1").expect("write");
        assert!(matches!(owner(&file), Owner::Other(1, _)));
    }

    #[test]
    fn only_what_gitlab_stages_is_told() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let put = |name: &str| fs::write(dir.path().join(name), "x").expect("write");
        for name in [
            "uploads.tar.gz",
            "notes.tar.gz",
            "backup_information.yml",
            "README",
        ] {
            put(name);
        }
        fs::create_dir(dir.path().join("tmp")).expect("an empty folder");
        fs::create_dir(dir.path().join("db")).expect("a folder");
        put("db/database.sql.gz");
        let staged = |name: &str| is_staged(name, &dir.path().join(name));
        let names = [
            "uploads.tar.gz",
            "notes.tar.gz",
            "backup_information.yml",
            "README",
            "tmp",
            "db",
        ];
        assert_eq!(names.map(staged), [true, false, true, false, false, true]);
    }
}
