//! A machine that was backed up and died, and what a restore into its GitLab is measured by.

#![allow(dead_code, reason = "every test binary uses another part of it")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::backup::RealBackup;
use super::dropbox::{Dropbox, Options};
use super::host::{Ended, Host};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");
pub const ID: &str = "1702758583_2023_12_16_17.8.2";
pub const DATA: &str = "1702758583_2023_12_16_17.8.2_gitlab_backup.tar";
pub const CONFIG: &str = "gitlab_config_1702758583_2023_12_16.tar";
pub const APPLY: &str = "restore --apply --yes --json";
/// What the outward contract promises to call, and nothing else.
pub const CALLS: [&str; 8] = [
    "gitlab-ctl [reconfigure]",
    "gitlab-ctl [stop][puma]",
    "gitlab-ctl [stop][sidekiq]",
    "gitlab-backup [restore][BACKUP=1702758583_2023_12_16_17.8.2][force=yes] assume_yes=1",
    "gitlab-ctl [reconfigure]",
    "gitlab-ctl [start]",
    "gitlab-rake [gitlab:check][SANITIZE=true]",
    "gitlab-rake [gitlab:doctor:secrets]",
];

/// A GitLab with a backup at the stand-in for Dropbox.
pub struct Lost {
    pub dropbox: Dropbox,
    pub host: Host,
    pub state: BTreeMap<String, String>,
    pub configuration: BTreeMap<String, String>,
}

/// Made, stored, and then the machine died.
pub fn lost() -> Lost {
    let dropbox = Dropbox::start(Options::default());
    let mut host = Host::new(PROGRAM, &dropbox);
    host.populate(&RealBackup::new(5));
    host.set("STUB_NOW", "1702758583");
    let ended = host.run("run");
    assert_eq!(ended.status, Some(0), "{ended}");
    let (state, configuration) = (host.gitlab_state(), host.gitlab_configuration());
    host.wipe();
    fs::remove_file(host.path("calls.log")).expect("calls");
    Lost {
        dropbox,
        host,
        state,
        configuration,
    }
}

impl Lost {
    /// The machine that was restored dies, too.
    pub fn lose_again(&self) {
        self.host.wipe();
        for name in ["calls.log", "count"] {
            fs::remove_file(self.host.path(name)).ok();
        }
    }

    /// GitLab has what it had, and nothing of the restore is left but the former configuration.
    pub fn assert_back(&self, ended: &Ended) {
        assert_eq!(ended.status, Some(0), "{ended}");
        assert_eq!(self.host.gitlab_state(), self.state, "{ended}");
        assert_eq!(
            self.host.gitlab_configuration(),
            self.configuration,
            "{ended}"
        );
        let config = self.host.path("etc/gitlab/config_backup");
        assert_eq!(names(&config), [CONFIG], "{ended}");
        assert_eq!(
            fs::metadata(&config).expect("metadata").mode() & 0o777,
            0o700
        );
        assert_eq!(
            names(&self.host.path("var/opt/gitlab/backups")),
            [DATA],
            "{ended}"
        );
        assert!(!self.host.path("state/restore.json").exists(), "{ended}");
        assert!(!self.host.path("state/restore").exists(), "{ended}");
        let beside: Vec<_> = names(&self.host.path("etc"));
        assert!(
            beside.iter().all(|name| !name.contains("new")),
            "{beside:?}: {ended}"
        );
    }

    /// Nothing of GitLab's was touched, and nothing is left behind.
    pub fn assert_untouched(&self, ended: &Ended, before: &Snapshot) {
        assert_eq!(ended.status, Some(1), "{ended}");
        assert_eq!(Snapshot::of(&self.host), *before, "{ended}");
        assert!(!self.host.path("state/restore.json").exists(), "{ended}");
        assert!(!self.host.path("state/restore").exists(), "{ended}");
        assert_eq!(calls(&self.host), [""; 0], "{ended}");
    }
}

/// Everything below `etc` and `var`, with its bytes.
#[derive(Debug, PartialEq)]
pub struct Snapshot(BTreeMap<PathBuf, Vec<u8>>);

impl Snapshot {
    pub fn of(host: &Host) -> Snapshot {
        let mut found = BTreeMap::new();
        let mut open = vec![host.path("etc"), host.path("var")];
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten() {
                let path = entry.expect("an entry").path();
                let is_folder = fs::symlink_metadata(&path).expect("metadata").is_dir();
                found.insert(path.clone(), fs::read(&path).unwrap_or_default());
                if is_folder {
                    open.push(path);
                }
            }
        }
        Snapshot(found)
    }
}

/// Says that a test does not try something here. Not by a macro, whose output a test that passes does not show.
pub fn skipped(why: &str) {
    let told = writeln!(io::stderr(), "skipped: {why}");
    told.expect("standard error");
}

pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<_> = entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

/// GitLab's commands that were called, with their arguments.
pub fn calls(host: &Host) -> Vec<String> {
    let log = host.calls();
    let call = |line: &str| {
        let (program, rest) = line.split_once(" argv=").expect("a call");
        let arguments = rest.split(" cwd=").next().expect("arguments");
        let assumed = if rest.contains(" assume_yes=1 ") {
            " assume_yes=1"
        } else {
            ""
        };
        format!("{program} {arguments}{assumed}")
    };
    log.lines().map(call).collect()
}

/// Status of each step.
pub fn steps(ended: &Ended) -> Vec<(String, String)> {
    let report = ended.json();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let steps = report["steps"].as_array().expect("steps").iter();
    steps
        .map(|step| (text(&step["step"]), text(&step["status"])))
        .collect()
}

/// The program on a terminal, answering its questions.
pub struct Terminal {
    pub child: Child,
    pub keyboard: File,
    pub screen: BufReader<ChildStderr>,
    pub shown: String,
}

impl Terminal {
    pub fn start(host: &Host, arguments: &str) -> Terminal {
        let pair = nix::pty::openpty(None, None).expect("a terminal");
        let mut child = host
            .command(arguments)
            .stdin(Stdio::from(pair.slave))
            .spawn()
            .expect("the program starts");
        let screen = BufReader::new(child.stderr.take().expect("a pipe"));
        Terminal {
            child,
            keyboard: pair.master.into(),
            screen,
            shown: String::new(),
        }
    }

    /// Waits for the next question. False if the program ended instead.
    pub fn asked(&mut self) -> bool {
        let mut byte = [0];
        let start = self.shown.len();
        while self.screen.read(&mut byte).expect("readable") == 1 {
            self.shown.push(byte[0] as char);
            if self.shown[start..].ends_with("[a]ll: ") {
                return true;
            }
        }
        false
    }

    pub fn answer(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).expect("typed");
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a process"));
        kill_process(pid.expect("a process"), signal).expect("there");
    }

    pub fn end(mut self) -> Ended {
        while self.asked() {}
        let mut out = String::new();
        let mut stdout = self.child.stdout.take().expect("a pipe");
        stdout.read_to_string(&mut out).expect("text");
        let status = self.child.wait().expect("ended").code();
        Ended {
            status,
            out,
            err: self.shown,
        }
    }
}

/// Adds a second destination with the same Dropbox and folders of its own, `second`, asked at another address.
pub fn add_second(lost: &Lost, address: &str) {
    let config = lost.host.config(&lost.dropbox);
    let (first, rest) = config.split_once("[upload]").expect("the last part");
    let (_, second) = first.split_once("[destinations.dropbox]\n").expect("it");
    let second = second.replace(&lost.dropbox.url(), address);
    lost.host.write_config(&format!(
        "{first}[destinations.second]\nmanifest_folder = \"/M2\"\nconfig_folder = \"/C2\"\ndata_folder = \"/D2\"\n{second}[upload]{rest}"
    ));
}

/// An address where nobody answers.
pub fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    format!("http://{address}")
}
