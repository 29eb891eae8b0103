//! SIGKILL at a chosen moment: when the stand-in meets the n-th request.

#![allow(dead_code, reason = "not every test binary kills")]

use std::process::Command;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};

use super::dropbox::{Dropbox, Fault, Moment, What};
use super::host::{Ended, Host};

/// Runs the program until its `n`-th request from 0 reaches `moment`, and kills it there. None if it was
/// killed; how it ended, if it ended before.
pub fn kill_at(
    dropbox: &Dropbox,
    host: &Host,
    arguments: &str,
    n: usize,
    moment: Moment,
) -> Option<Ended> {
    kill_command_at(dropbox, host.command(arguments), n, moment)
}

/// The same of a command.
pub fn kill_command_at(
    dropbox: &Dropbox,
    command: Command,
    n: usize,
    moment: Moment,
) -> Option<Ended> {
    let ended = signal_at(dropbox, command, n, moment, Signal::KILL);
    ended.status.is_some().then_some(ended)
}

/// Runs a command, and sends it a signal when its `n`-th request from 0 reaches `moment`; how it ended.
pub fn signal_at(
    dropbox: &Dropbox,
    mut command: Command,
    n: usize,
    moment: Moment,
    signal: Signal,
) -> Ended {
    let target = Arc::new(AtomicI32::new(0));
    let victim = target.clone();
    let started = Arc::new(Mutex::new(()));
    let held = started.lock().expect("not poisoned");
    let wait = started.clone();
    let send = move || {
        drop(wait.lock());
        let pid = Pid::from_raw(victim.load(Ordering::SeqCst)).expect("a process");
        // Gone already where the request before this one was the last that it saw.
        let _ = kill_process(pid, signal);
    };
    dropbox.clear_faults();
    dropbox.fault(Fault::on("", What::Call(moment, Arc::new(send))).skip(n));
    let child = command.spawn().expect("the program starts");
    let process = i32::try_from(child.id()).expect("a process");
    target.store(process, Ordering::SeqCst);
    drop(held);
    let ended = Ended::from(child.wait_with_output().expect("ended"));
    dropbox.clear_faults();
    ended
}
