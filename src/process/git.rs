//! One git command at a time, with nothing of ours around it: for repositories that nobody vouches for.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// Of what git says, no more than this is kept, in bytes.
const LONGEST_WORDS: u64 = 4096;

/// How often somebody looks whether the program is to end.
const GLANCE: Duration = Duration::from_millis(100);
/// What git says when it is the machine that fails, and not the bundle.
const OF_MACHINE: [&str; 6] = [
    "No space left on device",
    "Disk quota exceeded",
    "Read-only file system",
    "Permission denied",
    "Input/output error",
    "ut of memory",
];

/// What a program ends with that could not be started, or not be loaded: the shell's and the loader's words.
const NOT_STARTED: [i32; 2] = [126, 127];

/// Which git, and where it works.
pub struct Program {
    /// A path, or a name that `PATH` leads to.
    pub path: PathBuf,
    /// A command that takes longer is ended.
    pub timeout: Duration,
    /// Its home, and where it is started.
    pub folder: PathBuf,
    /// Somebody wants the program to end.
    pub stop: Arc<AtomicBool>,
}

/// Why git did not say that all is well.
#[derive(Debug)]
pub enum Trouble {
    /// Its word on what it was given.
    Bundle(String),
    /// It could not do its work here: no room, no time, no git.
    Machine(String),
}

impl Program {
    /// Nobody's settings, no hooks, no network, no questions, none of our secrets. What it writes goes nowhere.
    pub fn run(&self, words: &[&OsStr]) -> io::Result<Ended> {
        self.run_with(words, Stdio::null(), Stdio::null())
    }

    /// Runs it; it reads `input` and writes `output`.
    pub fn between(&self, words: &[&OsStr], input: File, output: File) -> Result<(), Trouble> {
        must_succeed(words, self.run_with(words, input.into(), output.into()))
    }

    fn run_with(&self, words: &[&OsStr], input: Stdio, output: Stdio) -> io::Result<Ended> {
        let mut command = Command::new(&self.path);
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
            .stdin(input)
            .stdout(output)
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
        let begun = Instant::now();
        let words = loop {
            match ended.recv_timeout(GLANCE.min(self.timeout)) {
                Ok(words) => break Some(words),
                Err(RecvTimeoutError::Timeout)
                    if begun.elapsed() < self.timeout && !self.stop.load(Ordering::Relaxed) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break None,
            }
        };
        if words.is_none()
            && let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw)
        {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let status = child.wait()?;
        let Some(words) = words else {
            let what = format!("ended after {} seconds", begun.elapsed().as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, what));
        };
        Ok(Ended {
            status,
            words: String::from_utf8_lossy(&words).into_owned(),
        })
    }

    /// Runs it; the error says what it was, how it ended, and what git said.
    pub fn must(&self, words: &[&OsStr]) -> Result<(), Trouble> {
        must_succeed(words, self.run(words))
    }
}

fn must_succeed(words: &[&OsStr], ended: io::Result<Ended>) -> Result<(), Trouble> {
    let name = words.iter().find(|word| !word.as_bytes().starts_with(b"-"));
    let name = format!(
        "git {}",
        name.map_or_else(Default::default, |name| name.to_string_lossy())
    );
    let ended = ended.map_err(|error| Trouble::Machine(format!("{name}: {error}")))?;
    if ended.status.success() {
        Ok(())
    } else {
        Err(ended.trouble(&name))
    }
}

/// How a command ended, and what it said of errors.
pub struct Ended {
    /// How.
    pub status: ExitStatus,
    /// The beginning of what it wrote to standard error.
    pub words: String,
}

impl Ended {
    /// What is to be said of the command `name` that ended so.
    pub fn trouble(&self, name: &str) -> Trouble {
        let words: Vec<_> = self.words.lines().take(3).map(str::trim).collect();
        let complaint = format!("{name}: {}: {}", self.status, words.join(" · "));
        let of_machine = OF_MACHINE.iter().any(|words| self.words.contains(words));
        let ran = self
            .status
            .code()
            .is_some_and(|code| !NOT_STARTED.contains(&code));
        // Something has killed it, it never began, or it said what it lacks.
        if !ran || of_machine {
            Trouble::Machine(complaint)
        } else {
            Trouble::Bundle(complaint)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    /// A program that does this instead of git.
    fn stub(folder: &std::path::Path, text: &str) -> Program {
        let path = folder.join("stub");
        let text = format!("#!/bin/sh\n[ \"$1\" = probe ] && exit\n{text}\n");
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("a mode");
        // A child that another test starts in this moment may hold the file open for writing.
        while Command::new(&path).arg("probe").status().is_err() {
            thread::yield_now();
        }
        Program {
            path,
            timeout: Duration::from_mins(1),
            folder: folder.to_owned(),
            stop: Arc::default(),
        }
    }

    #[test]
    fn what_hangs_is_ended_with_all_that_it_started() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let mut stub = stub(dir.path(), "sleep 60 & sleep 60");
        stub.timeout = Duration::from_millis(200);
        let began = Instant::now();
        let failed = stub
            .must(&[OsStr::new("--x"), OsStr::new("init")])
            .expect_err("it hangs");
        let Trouble::Machine(why) = failed else {
            panic!("{failed:?}")
        };
        assert!(why.starts_with("git init: ended after"), "{why}");
        assert!(began.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn what_git_says_is_told_and_is_short() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let stub = stub(dir.path(), "echo fatal: no >&2; seq 100000 >&2; exit 7");
        let failed = stub.must(&[OsStr::new("fetch")]).expect_err("it fails");
        let Trouble::Bundle(why) = failed else {
            panic!("{failed:?}")
        };
        assert_eq!(why, "git fetch: exit status: 7: fatal: no · 1 · 2");
    }

    #[test]
    fn what_the_machine_lacks_is_no_word_on_the_bundle() {
        let dir = tempfile::tempdir().expect("temporary folder");
        for text in [
            "echo 'fatal: write error: No space left on device' >&2; exit 128",
            "kill -KILL $$",
            "exit 127",
        ] {
            let failed = stub(dir.path(), text).must(&[OsStr::new("fetch")]);
            assert!(
                matches!(failed, Err(Trouble::Machine(_))),
                "{text}: {failed:?}"
            );
        }
        let mut stub = stub(dir.path(), "sleep 60");
        stub.stop.store(true, Ordering::Relaxed);
        assert!(matches!(stub.must(&[]), Err(Trouble::Machine(_))));
        stub.path = dir.path().join("missing");
        assert!(matches!(stub.must(&[]), Err(Trouble::Machine(_))));
    }

    #[test]
    fn none_of_our_environment_reaches_git() {
        let dir = tempfile::tempdir().expect("temporary folder");
        stub(dir.path(), "env >told").must(&[]).expect("it runs");
        let told = fs::read_to_string(dir.path().join("told")).expect("told");
        let names = told
            .lines()
            .filter_map(|line| Some(line.split_once('=')?.0));
        let mut names: Vec<_> = names
            .filter(|name| !matches!(*name, "PWD" | "SHLVL" | "_" | "OLDPWD"))
            .collect();
        names.sort_unstable();
        let allowed = [
            "GIT_ALLOW_PROTOCOL",
            "GIT_CONFIG_GLOBAL",
            "GIT_CONFIG_NOSYSTEM",
            "GIT_TERMINAL_PROMPT",
            "HOME",
            "LC_ALL",
            "PATH",
        ];
        assert_eq!(names, allowed);
    }
}
