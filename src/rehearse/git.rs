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
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use super::repositories::step_number;
use super::verdict::{Examples, PartVerdict};
use crate::content_hash::Digest;
use crate::gitlab::format::Flaw;
use crate::gitlab::format::bundle::{self, Bundle};

/// A git command that takes longer is ended.
const TIMEOUT: Duration = Duration::from_hours(1);
/// Of what git says, no more than this is kept, in bytes.
const LONGEST_WORDS: u64 = 4096;
/// What `git fsck` ends with when old objects are not as today's git writes them, but nothing is missing or
/// unreadable.
const FSCK_COMPLAINS: i32 = 1;

/// Runs git on bundles, in a folder of its own that is removed at the end.
pub(super) struct Git {
    program: PathBuf,
    timeout: Duration,
    folder: PathBuf,
    /// Whether a repository can have more than one bundle.
    incremental: bool,
    repositories: u64,
    failed: Examples,
}

impl Git {
    /// The error says why git cannot be used, and what can be done.
    pub(super) fn begin(scratch: &Path) -> Result<Git, String> {
        Git::begin_with(PathBuf::from("git"), TIMEOUT, scratch)
    }

    fn begin_with(program: PathBuf, timeout: Duration, scratch: &Path) -> Result<Git, String> {
        let folder = own_folder(scratch).map_err(|error| {
            let scratch = scratch.display();
            format!(
                "{scratch}: no folder can be made there: {error}\n  name another one with --scratch"
            )
        })?;
        let git = Git {
            program,
            timeout,
            folder,
            incremental: true,
            repositories: 0,
            failed: Examples::default(),
        };
        let version = git.run(&[OsStr::new("version")]);
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
            (_, Err(error)) => Err(format!("{}: {error}", path.display())),
            (Ok(bundle), Ok(())) => match step_number(stem).filter(|_| self.incremental) {
                Some(number) => self
                    .keep(&path, stem, number, bundle)
                    .map_err(|e| e.to_string()),
                None => self.prove(bundle.format.as_str(), &[&path]),
            },
        };
        if let Err(why) = taken {
            self.failed.push(&format!("{shown}.bundle: {why}"));
        }
        let _ = fs::remove_file(&path);
        judged
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
            self.failed
                .push(&format!("{}: {error}", self.folder.display()));
        }
        if self.failed.is_empty() {
            let detail = format!(
                "git has fetched and checked {} repositories",
                self.repositories
            );
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
            if let Err(why) = self.prove(&format, &paths) {
                let name = fs::read(repository.join("name"))?;
                self.failed
                    .push(&format!("{}: {why}", String::from_utf8_lossy(&name)));
            }
            fs::remove_dir_all(&repository)?;
        }
        Ok(())
    }

    /// Brings a repository back from its bundles, in this order.
    fn prove(&mut self, format: &str, bundles: &[&Path]) -> Result<(), String> {
        self.repositories += 1;
        let repository = self.folder.join("repository.git");
        let result = self.restore(format, bundles, &repository);
        let _ = fs::remove_dir_all(&repository);
        result
    }

    fn restore(&self, format: &str, bundles: &[&Path], repository: &Path) -> Result<(), String> {
        let format = format!("--object-format={format}");
        let init = ["init", "--quiet", "--bare", "--template=", &format].map(OsStr::new);
        self.must(&[&init[..], &[repository.as_os_str()]].concat())?;
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
            self.must(&verify)?;
            // Each step below a name of its own: what was renamed in between cannot collide.
            let references = format!("+refs/*:refs/rehearsed/{number}/*");
            let fetch = ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head"].map(OsStr::new);
            self.must(&[&[here], &fetch[..], &[bundle, OsStr::new(&references)]].concat())?;
        }
        let fsck = ["fsck", "--full", "--no-dangling", "--no-progress"].map(OsStr::new);
        let ended = self
            .run(&[&[here], &fsck[..]].concat())
            .map_err(|error| error.to_string())?;
        match ended.status.code() {
            Some(0 | FSCK_COMPLAINS) => Ok(()),
            _ => Err(ended.complaint("git fsck")),
        }
    }

    fn must(&self, words: &[&OsStr]) -> Result<(), String> {
        let name = words.iter().find(|word| !word.as_bytes().starts_with(b"-"));
        let name = format!(
            "git {}",
            name.map_or_else(Default::default, |name| name.to_string_lossy())
        );
        let ended = self
            .run(words)
            .map_err(|error| format!("{name}: {error}"))?;
        if ended.status.success() {
            Ok(())
        } else {
            Err(ended.complaint(&name))
        }
    }

    /// Nobody's settings, no hooks, no network, no questions, none of our secrets.
    fn run(&self, words: &[&OsStr]) -> io::Result<Ended> {
        let mut command = Command::new(&self.program);
        command.env_clear();
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        for (name, value) in [
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ALLOW_PROTOCOL", "file"),
            ("LC_ALL", "C"),
        ] {
            command.env(name, value);
        }
        for setting in [
            "core.hooksPath=/dev/null",
            "protocol.file.allow=always",
            "fetch.unpackLimit=1",
            "gc.auto=0",
            "maintenance.auto=false",
        ] {
            command.args(["-c", setting]);
        }
        command
            .args(words)
            .env("HOME", &self.folder)
            .current_dir(&self.folder)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let mut stderr = child.stderr.take().expect("it is piped");
        let (told, ended) = channel();
        // Git's errors end when git does, and all that it has started.
        thread::spawn(move || {
            let mut words = Vec::new();
            let _ = stderr.by_ref().take(LONGEST_WORDS).read_to_end(&mut words);
            let _ = io::copy(&mut stderr, &mut io::sink());
            let _ = told.send(words);
        });
        let words = match ended.recv_timeout(self.timeout) {
            Ok(words) => words,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                if let Some(group) = i32::try_from(child.id())
                    .ok()
                    .and_then(rustix::process::Pid::from_raw)
                {
                    let _ =
                        rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
                }
                format!("ended after {} seconds", self.timeout.as_secs()).into_bytes()
            }
        };
        Ok(Ended {
            status: child.wait()?,
            words: String::from_utf8_lossy(&words).into_owned(),
        })
    }
}

impl Drop for Git {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// How a command ended, and what it said of errors.
struct Ended {
    status: ExitStatus,
    words: String,
}

impl Ended {
    fn complaint(&self, name: &str) -> String {
        let words: Vec<_> = self.words.lines().take(3).map(str::trim).collect();
        format!("{name}: {}: {}", self.status, words.join(" · "))
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
