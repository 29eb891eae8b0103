//! A small program of the system, asked and answered within a bounded time.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use crate::gitlab::host::find_program;

/// More of its output is of no interest, in bytes.
const LONGEST_OUTPUT: u64 = 4 << 20;

/// What became of it.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) out: Vec<u8>,
    pub(super) err: String,
}

impl Ended {
    /// Its first words of complaint, or how it ended.
    pub(super) fn why(&self) -> String {
        let first = self
            .err
            .lines()
            .map(str::trim)
            .find(|line| !line.is_empty());
        first.map_or_else(|| self.status.to_string(), str::to_owned)
    }
}

/// Runs a program that is found by `PATH`, in a bare environment. The error says that it is missing, cannot be
/// started, or takes too long.
pub(super) fn run(
    name: &str,
    arguments: &[&str],
    input: Option<&[u8]>,
    limit: Duration,
) -> Result<Ended, String> {
    let shown = format!("`{name} {}`", arguments.join(" "));
    let program =
        find_program(name).ok_or_else(|| format!("{shown}: {name} is not on this machine"))?;
    let path = program
        .parent()
        .unwrap_or(OsStr::new("/").as_ref())
        .to_owned();
    let mut command = Command::new(&program);
    command
        .args(arguments)
        .current_dir("/")
        .env_clear()
        // Its messages are read.
        .env("LC_ALL", "C")
        .env("SYSTEMD_COLORS", "0")
        .env("SYSTEMD_PAGER", "")
        .env(
            "PATH",
            format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", path.display()),
        )
        .stdin(if input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let failed = |error: std::io::Error| format!("{shown}: {error}");
    let mut child = command.spawn().map_err(failed)?;
    let deadline = Instant::now() + limit;
    if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
        let input = input.to_vec();
        // One that does not read all of it says why by its exit status.
        thread::spawn(move || pipe.write_all(&input));
    }
    let out = child.stdout.take().map(gather);
    let err = child.stderr.take().map(gather);
    let wait = |reader: Option<Receiver<Vec<u8>>>| {
        let left = deadline.saturating_duration_since(Instant::now());
        reader.map_or(Ok(Vec::new()), |reader| reader.recv_timeout(left))
    };
    let read = wait(out).and_then(|out| Ok((out, wait(err)?)));
    let Ok((out, err)) = read else {
        // It may have ended by itself just now.
        let _ = child.kill();
        let _ = child.wait();
        let seconds = limit.as_secs();
        return Err(format!("{shown} did not end within {seconds} s"));
    };
    let status = child.wait().map_err(failed)?;
    let err = String::from_utf8_lossy(&err).into_owned();
    Ok(Ended { status, out, err })
}

/// Reads a pipe to its end, in the background.
fn gather(pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is good enough.
        let _ = pipe.take(LONGEST_OUTPUT).read_to_end(&mut bytes);
        sender.send(bytes)
    });
    receiver
}
