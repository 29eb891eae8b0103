//! The program as somebody talks to it: on a pseudo-terminal of its own, or through pipes.

#![allow(dead_code, reason = "not every test binary talks")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, ChildStderr, ChildStdin, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use super::host::Ended;

/// The program on a terminal that is its controlling one: what it prints and what is typed come together, as
/// on a screen, and closing it is a hangup.
pub struct Screen {
    child: Child,
    /// None once it is closed.
    master: Option<File>,
    shown: Vec<u8>,
}

impl Screen {
    /// Starts a command there.
    pub fn start(command: &Command) -> Screen {
        // Closed in every child: one that kept it open would keep it from being closed here.
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).expect("a terminal");
        unlockpt(&master).expect("unlocked");
        let slave = ioctl_tiocgptpeer(&master, flags).expect("its other side");
        let copy = || Stdio::from(slave.try_clone().expect("a copy"));
        let child = with_controlling_terminal(command)
            .stdin(copy())
            .stdout(copy())
            .stderr(copy())
            .spawn()
            .expect("the program starts");
        Screen {
            child,
            master: Some(master.into()),
            shown: Vec::new(),
        }
    }

    /// Waits until this is shown behind what was shown before. Panics if the program ends instead.
    pub fn wait_for(&mut self, text: &str) {
        let start = self.shown.len();
        let found = |shown: &[u8]| String::from_utf8_lossy(&shown[start..]).contains(text);
        while !found(&self.shown) {
            assert!(self.read(), "{text} never came:\n{}", self.text());
        }
    }

    fn read(&mut self) -> bool {
        let mut byte = [0];
        // The end of a terminal is an error.
        let read = self.master.as_mut().map(|master| master.read(&mut byte));
        let read = matches!(read, Some(Ok(1)));
        self.shown.extend(read.then_some(byte[0]));
        read
    }

    /// Types.
    pub fn enter(&mut self, text: &str) {
        let master = self.master.as_mut().expect("open");
        master.write_all(text.as_bytes()).expect("typed");
    }

    /// What has been shown.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown).replace("\r\n", "\n")
    }

    /// The terminal itself, for looking at its modes when the program is gone.
    pub fn terminal(&self) -> File {
        let master = self.master.as_ref().expect("open");
        master.try_clone().expect("a copy")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a process"));
        kill_process(pid.expect("a process"), signal).expect("there");
    }

    /// Closes the terminal; how the program ended.
    pub fn close(mut self) -> Option<i32> {
        self.master = None;
        self.child.wait().expect("ended").code()
    }

    /// Waits for the end of the program, which still shows what it has to; its exit status and the whole screen.
    pub fn end(mut self) -> (Option<i32>, String) {
        while self.read() {}
        let status = self.child.wait().expect("ended").code();
        (status, self.text())
    }
}

/// Whether a terminal shows what is typed.
pub fn echoes(terminal: &File) -> bool {
    let modes = tcgetattr(terminal.as_fd()).expect("its modes").local_modes;
    modes.contains(LocalModes::ECHO)
}

fn with_controlling_terminal(command: &Command) -> Command {
    let mut with = Command::new("setsid");
    with.arg("--ctty")
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear();
    for (name, value) in command.get_envs() {
        with.env(name, value.expect("a value"));
    }
    with
}

/// The program with pipes for standard input, output and error.
pub struct Piped {
    child: Child,
    input: Option<ChildStdin>,
    errors: ChildStderr,
    said: Vec<u8>,
}

impl Piped {
    /// Starts a command there.
    pub fn start(mut command: Command) -> Piped {
        let mut child = command.stdin(Stdio::piped()).spawn().expect("it starts");
        Piped {
            input: child.stdin.take(),
            errors: child.stderr.take().expect("a pipe"),
            child,
            said: Vec::new(),
        }
    }

    /// Waits until this has been said on standard error.
    pub fn wait_for(&mut self, text: &str) {
        let start = self.said.len();
        let mut byte = [0];
        while !String::from_utf8_lossy(&self.said[start..]).contains(text) {
            let read = self.errors.read(&mut byte).expect("readable");
            assert_eq!(read, 1, "{text} never came:\n{}", self.text());
            self.said.push(byte[0]);
        }
    }

    /// What has been said on standard error.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.said).into_owned()
    }

    /// Writes to standard input.
    pub fn enter(&mut self, text: &str) {
        let input = self.input.as_mut().expect("open");
        input.write_all(text.as_bytes()).expect("written");
    }

    /// Closes standard input and waits for the end.
    pub fn end(mut self) -> Ended {
        drop(self.input.take());
        self.errors.read_to_end(&mut self.said).expect("readable");
        let mut out = String::new();
        let mut stdout = self.child.stdout.take().expect("a pipe");
        stdout.read_to_string(&mut out).expect("text");
        let status = self.child.wait().expect("ended").code();
        Ended {
            status,
            out,
            err: self.text(),
        }
    }
}
