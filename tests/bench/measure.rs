//! What one process costs: time, processor, memory.
//!
//! The kernel tells a parent what its children used, all of them together; so every client gets a parent
//! of its own, this program in another role.

use std::ffi::OsString;
use std::os::fd::AsFd as _;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use serde_json::{Value, json};

/// What a process and its children used.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// From start to end.
    pub wall: Duration,
    /// User and system time together.
    pub cpu: Duration,
    /// The most memory it had resident, in bytes.
    ///
    /// Of the shared pages those it touched. It is never less than what this program had when it started
    /// the client (some 3 MiB): the kernel counts the moment between fork and exec.
    pub peak_rss: u64,
    /// What it wrote to files on a disk, in bytes, whole pages: the `write_bytes` of `/proc/PID/io`.
    pub written: u64,
}

/// A command for `program` inside the wrapper, with nothing of our environment but the `PATH`.
pub fn wrapped(program: impl Into<OsString>) -> Command {
    let own = std::env::current_exe().expect("this program has a path");
    let mut command = plain(own);
    command.arg("measure").arg(program.into());
    command
}

/// A command for `program` with nothing of our environment but the `PATH`.
pub fn plain(program: impl Into<OsString>) -> Command {
    let mut command = Command::new(program.into());
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// The wrapper's role: runs the command in `arguments` and prints what it used.
pub fn wrapper(mut arguments: impl Iterator<Item = String>) -> ExitCode {
    let program = arguments.next().expect("a program to measure");
    let errors = std::io::stderr().as_fd().try_clone_to_owned();
    let begun = Instant::now();
    let status = Command::new(program)
        .args(arguments)
        .stdout(errors.map_or_else(|_| Stdio::null(), Stdio::from))
        .status();
    let wall = begun.elapsed();
    let used = getrusage(UsageWho::RUSAGE_CHILDREN).expect("the kernel's count");
    let cpu = used.user_time().num_microseconds() + used.system_time().num_microseconds();
    println!(
        "{}",
        json!({
            "wall": u64::try_from(wall.as_micros()).unwrap_or(u64::MAX),
            "cpu": cpu,
            "peak_rss": used.max_rss() * 1024,
            // The kernel hands it up in blocks of 512 bytes.
            "written": used.block_writes() * 512,
        })
    );
    match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Runs a [`wrapped`] command.
///
/// # Panics
///
/// If it fails: a client that does not do the work is not measured.
pub fn run(mut command: Command) -> Usage {
    let output = command.output().expect("this program starts itself");
    assert!(
        output.status.success(),
        "{command:?} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let used: Value = serde_json::from_slice(&output.stdout).expect("what the wrapper printed");
    let number = |name: &str| used[name].as_u64().expect("a number");
    Usage {
        wall: Duration::from_micros(number("wall")),
        cpu: Duration::from_micros(number("cpu")),
        peak_rss: number("peak_rss"),
        written: number("written"),
    }
}

/// The middle one of an odd number of values, the upper middle one of an even number.
pub fn median<T: PartialOrd + Copy>(values: impl IntoIterator<Item = T>) -> T {
    let mut values: Vec<T> = values.into_iter().collect();
    values.sort_by(|a, b| a.partial_cmp(b).expect("ordinary numbers"));
    values[values.len() / 2]
}
