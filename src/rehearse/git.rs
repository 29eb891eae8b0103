//! Git's own word on every bundle: fetched into an empty repository and checked there.
//!
//! A bundle lies in the scratch folder only while git reads it. Of an incremental backup all bundles have to
//! be kept until the last has been seen, as their order in the archive is anybody's guess.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::repositories::step_number;
use super::verdict::{Examples, PartVerdict, counted};
use crate::content_hash::Digest;
use crate::gitlab::format::Flaw;
use crate::gitlab::format::bundle::{self, Bundle};
use crate::process::git::{Program, Trouble};

/// A git command that takes longer is ended.
const TIMEOUT: Duration = Duration::from_hours(1);
/// What `git fsck` ends with when old objects are not as today's git writes them, but nothing is missing or
/// unreadable.
const FSCK_COMPLAINS: i32 = 1;

/// Runs git on bundles, in a folder of its own that is removed at the end.
pub(super) struct Git {
    program: Program,
    folder: PathBuf,
    /// Whether a repository can have more than one bundle.
    incremental: bool,
    repositories: u64,
    failed: Examples,
    /// What kept git from saying anything.
    unasked: Examples,
}

impl Git {
    /// The error says why git cannot be used, and what can be done.
    pub(super) fn begin(scratch: &Path, stop: Arc<AtomicBool>) -> Result<Git, String> {
        Git::begin_with(PathBuf::from("git"), scratch, stop)
    }

    fn begin_with(path: PathBuf, scratch: &Path, stop: Arc<AtomicBool>) -> Result<Git, String> {
        remove_left_over(scratch);
        let folder = own_folder(scratch).map_err(|error| {
            let scratch = scratch.display();
            format!(
                "{scratch}: no folder can be made there: {error}\n  name another one with --scratch"
            )
        })?;
        let git = Git {
            program: Program {
                path,
                timeout: TIMEOUT,
                folder: folder.clone(),
                stop,
            },
            folder,
            incremental: true,
            repositories: 0,
            failed: Examples::default(),
            unasked: Examples::default(),
        };
        let version = git.program.run(&[OsStr::new("version")]);
        match version {
            Ok(ended) if ended.status.success() => Ok(git),
            Ok(ended) => Err(format!("git does not run: {}", ended.words)),
            Err(error) => Err(format!(
                "git cannot be started: {error}\n  install it, or rehearse without --git"
            )),
        }
    }

    pub(super) fn set_incremental(&mut self, incremental: bool) {
        self.incremental = incremental;
    }

    /// Judges a bundle as [`bundle::check`] does, while a copy of it goes to git.
    pub(super) fn bundle(
        &mut self,
        stem: &[u8],
        contents: &mut dyn BufRead,
        each: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<Bundle, Flaw> {
        let path = self.folder.join("bundle");
        let (judged, copied) = match File::create(&path) {
            Ok(file) => {
                let mut tee = Tee {
                    input: contents,
                    copy: file,
                    failed: None,
                };
                let judged = bundle::check(&mut tee, each);
                (judged, tee.failed.map_or(Ok(()), Err))
            }
            Err(error) => (bundle::check(contents, each), Err(error)),
        };
        let shown = String::from_utf8_lossy(stem).into_owned();
        let taken = match (&judged, copied) {
            (Err(_), _) => Ok(()),
            (_, Err(error)) => Err(Trouble::Machine(format!("{}: {error}", path.display()))),
            (Ok(bundle), Ok(())) => match step_number(stem).filter(|_| self.incremental) {
                Some(number) => self
                    .keep(&path, stem, number, bundle)
                    .map_err(|error| Trouble::Machine(error.to_string())),
                None => self.prove(bundle.format.as_str(), &[&path]),
            },
        };
        self.note(&format!("{shown}.bundle"), taken);
        let _ = fs::remove_file(&path);
        judged
    }

    fn note(&mut self, of: &str, taken: Result<(), Trouble>) {
        match taken {
            Ok(()) => {}
            Err(Trouble::Bundle(why)) => self.failed.push(&format!("{of}: {why}")),
            Err(Trouble::Machine(why)) => self.unasked.push(&format!("{of}: {why}")),
        }
    }

    /// Puts a bundle aside, beside the others of its repository.
    fn keep(&self, path: &Path, stem: &[u8], number: u32, bundle: &Bundle) -> io::Result<()> {
        // `…/<repository>/<backup ID>/<number>`
        let repository = stem
            .rsplitn(3, |byte| *byte == b'/')
            .last()
            .unwrap_or_default();
        let kept = self
            .folder
            .join("kept")
            .join(Digest::of(repository).to_string());
        fs::create_dir_all(&kept)?;
        fs::write(kept.join("name"), repository)?;
        let name = format!("{number:06}.{}", bundle.format.as_str());
        fs::rename(path, kept.join(name))
    }

    /// Works off what was put aside; git's word on all bundles together.
    pub(super) fn finish(mut self) -> PartVerdict {
        if let Err(error) = self.prove_kept() {
            self.unasked
                .push(&format!("{}: {error}", self.folder.display()));
        }
        if self.failed.is_empty() && !self.unasked.is_empty() {
            PartVerdict::unknown(
                "git",
                format!("git could not do its work: {}", self.unasked),
            )
        } else if self.failed.is_empty() {
            let repositories = counted(self.repositories, "repository", "repositories");
            let detail = format!("git has fetched and checked {repositories}");
            PartVerdict::ok("git", detail)
        } else {
            PartVerdict::failed("git", self.failed.to_string())
        }
    }

    fn prove_kept(&mut self) -> io::Result<()> {
        let kept = self.folder.join("kept");
        let repositories = match fs::read_dir(&kept) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            repositories => repositories?,
        };
        for repository in repositories {
            let repository = repository?.path();
            let mut steps = BTreeMap::new();
            for step in fs::read_dir(&repository)? {
                let step = step?.path();
                if let Some(format) = step.extension() {
                    let format = format.to_string_lossy().into_owned();
                    steps.insert(step, format);
                }
            }
            let format = steps.values().next().cloned().unwrap_or_default();
            let paths: Vec<_> = steps.keys().map(PathBuf::as_path).collect();
            let name = fs::read(repository.join("name"))?;
            let proved = self.prove(&format, &paths);
            self.note(&String::from_utf8_lossy(&name), proved);
            fs::remove_dir_all(&repository)?;
        }
        Ok(())
    }

    /// Brings a repository back from its bundles, in this order.
    fn prove(&mut self, format: &str, bundles: &[&Path]) -> Result<(), Trouble> {
        self.repositories += 1;
        let repository = self.folder.join("repository.git");
        let result = self.restore(format, bundles, &repository);
        let _ = fs::remove_dir_all(&repository);
        result
    }

    fn restore(&self, format: &str, bundles: &[&Path], repository: &Path) -> Result<(), Trouble> {
        let format = format!("--object-format={format}");
        let init = ["init", "--quiet", "--bare", "--template=", &format].map(OsStr::new);
        self.program
            .must(&[&init[..], &[repository.as_os_str()]].concat())?;
        let mut here = b"--git-dir=".to_vec();
        here.extend(repository.as_os_str().as_bytes());
        let here = OsStr::from_bytes(&here);
        for (number, bundle) in bundles.iter().enumerate() {
            let bundle = bundle.as_os_str();
            let verify = [
                here,
                OsStr::new("bundle"),
                OsStr::new("verify"),
                OsStr::new("--quiet"),
                bundle,
            ];
            self.program.must(&verify)?;
            // Each step below a name of its own: what was renamed in between cannot collide.
            let references = format!("+refs/*:refs/rehearsed/{number}/*");
            let fetch = ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head"].map(OsStr::new);
            self.program
                .must(&[&[here], &fetch[..], &[bundle, OsStr::new(&references)]].concat())?;
        }
        let fsck = ["fsck", "--full", "--no-dangling", "--no-progress"].map(OsStr::new);
        let ended = self
            .program
            .run(&[&[here], &fsck[..]].concat())
            .map_err(|error| Trouble::Machine(format!("git fsck: {error}")))?;
        match ended.status.code() {
            Some(0 | FSCK_COMPLAINS) => Ok(()),
            _ => Err(ended.trouble("git fsck")),
        }
    }
}

impl Drop for Git {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Takes away what a killed process has left.
fn remove_left_over(scratch: &Path) {
    for entry in fs::read_dir(scratch).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name
            .to_str()
            .and_then(|name| name.strip_prefix("rehearse."));
        let process = process.and_then(|rest| rest.split_once('.')?.0.parse::<u32>().ok());
        if process.is_some_and(|process| !Path::new("/proc").join(process.to_string()).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn own_folder(scratch: &Path) -> io::Result<PathBuf> {
    let mut number = 0;
    loop {
        let folder = scratch.join(format!("rehearse.{}.{number}", std::process::id()));
        match fs::DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < 1000 => {
                number += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Writes what is read; that it cannot is told at the end, as reading goes on.
struct Tee<'a> {
    input: &'a mut dyn BufRead,
    copy: File,
    failed: Option<io::Error>,
}

impl BufRead for Tee<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.input.fill_buf()
    }

    fn consume(&mut self, len: usize) {
        if self.failed.is_none() {
            let piece = self.input.fill_buf().map(|piece| &piece[..len]);
            self.failed = piece.and_then(|piece| self.copy.write_all(piece)).err();
        }
        self.input.consume(len);
    }
}

impl Read for Tee<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.fill_buf()?.read(buf)?;
        self.consume(len);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::super::verdict::PartStatus;
    use super::*;
    use std::process::Command;

    fn git(folder: &Path, words: &[&str]) -> Vec<u8> {
        let output = Command::new("git")
            .current_dir(folder)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            .args(["-c", "user.name=A", "-c", "user.email=a@example.org"])
            .args(words)
            .output()
            .expect("git runs");
        assert!(output.status.success(), "{words:?}: {output:?}");
        output.stdout
    }

    /// Where there is none, what needs it is skipped.
    fn there_is_git() -> bool {
        let found = Command::new("git").arg("version").output().is_ok();
        if !found {
            // Not by a macro, whose output a test that passes does not show.
            writeln!(io::stderr(), "skipped: there is no `git` here").expect("standard error");
        }
        found
    }

    /// A full bundle and two increments; in between a branch becomes a folder of branches.
    fn chain(format: &str) -> [Vec<u8>; 3] {
        let dir = tempfile::tempdir().expect("temporary folder");
        let commit = |message| {
            fs::write(dir.path().join("file"), message).expect("written");
            git(dir.path(), &["add", "file"]);
            git(dir.path(), &["commit", "-q", "-m", message]);
        };
        let head = || String::from_utf8(git(dir.path(), &["rev-parse", "HEAD"])).expect("hex");
        let bundle =
            |since: &str| git(dir.path(), &["bundle", "create", "-q", "-", "--all", since]);
        git(
            dir.path(),
            &[
                "init",
                "-q",
                "-b",
                "main",
                &format!("--object-format={format}"),
            ],
        );
        commit("first");
        git(dir.path(), &["branch", "topic"]);
        let first = git(dir.path(), &["bundle", "create", "-q", "-", "--all"]);
        let since = format!("^{}", head().trim());
        git(dir.path(), &["branch", "-D", "topic"]);
        commit("second");
        git(dir.path(), &["branch", "topic/a"]);
        let second = bundle(&since);
        let since = format!("^{}", head().trim());
        commit("third");
        [first, second, bundle(&since)]
    }

    fn prove(scratch: &Path, bundles: &[(&str, &[u8])], incremental: bool) -> PartVerdict {
        let mut git = Git::begin(scratch, Arc::default()).expect("git runs");
        git.set_incremental(incremental);
        for (stem, bundle) in bundles {
            git.bundle(stem.as_bytes(), &mut &**bundle, &mut |_, _| {})
                .expect("whole");
        }
        let verdict = git.finish();
        assert_eq!(
            fs::read_dir(scratch).expect("listed").count(),
            0,
            "nothing is left behind"
        );
        verdict
    }

    #[test]
    fn increments_are_applied_in_their_order_wherever_they_stand() {
        if !there_is_git() {
            return;
        }
        let scratch = tempfile::tempdir().expect("temporary folder");
        for format in ["sha1", "sha256"] {
            let [first, second, third] = chain(format);
            let whole = [
                ("r/9_b/003", &third[..]),
                ("r/7_a/001", &first),
                ("s/7_a/001", &first),
                ("r/8_a/002", &second),
            ];
            let verdict = prove(scratch.path(), &whole, true);
            assert_eq!(
                (verdict.status, verdict.detail.as_str()),
                (PartStatus::Ok, "git has fetched and checked 2 repositories")
            );
            let verdict = prove(scratch.path(), &[whole[0], whole[1]], true);
            assert_eq!(verdict.status, PartStatus::Failed);
            assert!(
                verdict.detail.contains("r: git bundle: exit status"),
                "{}",
                verdict.detail
            );
        }
    }

    #[test]
    fn git_finds_what_the_pack_does_not_bring() {
        if !there_is_git() {
            return;
        }
        let scratch = tempfile::tempdir().expect("temporary folder");
        let [mut first, ..] = chain("sha1");
        assert_eq!(
            prove(scratch.path(), &[("a", &first)], false).status,
            PartStatus::Ok
        );
        let at = first
            .windows(11)
            .position(|w| w == b" refs/heads")
            .expect("a reference");
        first[at - 1] = if first[at - 1] == b'0' { b'1' } else { b'0' };
        let verdict = prove(scratch.path(), &[("a", &first)], false);
        assert_eq!(verdict.status, PartStatus::Failed);
        assert!(
            verdict.detail.starts_with("a.bundle: git fetch: "),
            "{}",
            verdict.detail
        );
    }

    #[test]
    fn a_git_that_is_missing_is_told_with_the_way_out() {
        let scratch = tempfile::tempdir().expect("temporary folder");
        let missing = Git::begin_with(PathBuf::from("no-such-git"), scratch.path(), Arc::default());
        let error = missing.err().expect("missing");
        assert!(
            error.contains("\n  install it, or rehearse without --git"),
            "{error}"
        );
        assert_eq!(fs::read_dir(scratch.path()).expect("listed").count(), 0);
        let error = Git::begin(Path::new("/nowhere"), Arc::default())
            .err()
            .expect("missing");
        assert!(
            error.contains("\n  name another one with --scratch"),
            "{error}"
        );
    }
}
