//! A machine with systemd, cron, both or neither, in a mount namespace of its own.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::host::{Ended, Host};

/// Who starts programs there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// A timer can be had.
    Systemd,
    /// A crontab can be had.
    Cron,
    /// Both.
    Both,
    /// None.
    Neither,
}

/// A host, and what stands for the folders of systemd and cron.
pub struct Machine {
    /// What else is on it.
    pub host: Host,
    program: PathBuf,
}

/// Whether mount namespaces can be had here; says so if not.
pub fn is_possible(test: &str) -> bool {
    let mut unshare = Command::new("unshare");
    let good = unshare
        .args(["-m", "mount", "--make-rprivate", "/"])
        .output();
    let good = good.is_ok_and(|output| output.status.success())
        && ["/etc/systemd/system", "/usr/lib/systemd/system"]
            .iter()
            .all(|folder| Path::new(folder).is_dir());
    if !good {
        let why = "needs root, mount namespaces and the folders of systemd";
        let _ = writeln!(std::io::stderr(), "{test}: SKIPPED, {why}");
    }
    good
}

impl Machine {
    /// A machine with a configuration.
    pub fn new(program: &str, init: Init) -> Machine {
        let host = Host::without_config(program);
        for folder in [
            "run/systemd",
            "etc/systemd/system",
            "usr/lib/systemd/system",
            "timers",
            "real",
        ] {
            fs::create_dir_all(host.path(folder)).expect("a folder");
        }
        let machine = Machine {
            host,
            program: program.into(),
        };
        if matches!(init, Init::Systemd | Init::Both) {
            fs::create_dir(machine.path("run/systemd/system")).expect("systemd");
            machine.bring("systemctl");
        }
        if matches!(init, Init::Cron | Init::Both) {
            machine.bring("crontab");
        }
        let root = machine.host.root().display();
        machine.host.write_config(&format!(
            "state_dir = \"{root}/state\"\n[gitlab]\nconfig_dir = \"{root}/etc/gitlab/config_backup\"\n\
             data_dir = \"{root}/var/opt/gitlab/backups\"\n\
             [destinations.dropbox]\ntype = \"dropbox\"\napp_key = \"k\"\nrefresh_token = \"t\"\n"
        ));
        machine
    }

    /// Puts a stand-in on it.
    pub fn bring(&self, name: &str) {
        let init = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/init");
        symlink(init.join(name), self.path("bin").join(name)).expect("a link");
    }

    /// A path on it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.host.path(name)
    }

    /// What a file holds; none if it is not there.
    pub fn read(&self, name: &str) -> Option<String> {
        let bytes = fs::read(self.path(name)).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Puts a file there.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        fs::write(path, text).expect("a file");
    }

    /// Runs the program there to its end.
    pub fn run(&self, arguments: &[&str]) -> Ended {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/init/namespace");
        let command = self.host.command("");
        let variables = command.get_envs();
        let mut unshare = Command::new("unshare");
        unshare
            .env_clear()
            .envs(variables.filter_map(|(name, value)| Some((name, value?))))
            .arg("-m")
            .arg(script)
            .arg(self.host.root())
            .arg(&self.program)
            .args(arguments);
        unshare.output().expect("unshare").into()
    }

    /// What programs of the system were called with since the last time, without questions.
    pub fn deeds(&self) -> Vec<String> {
        let calls = self.host.calls();
        let _ = fs::remove_file(self.path("calls.log"));
        let question = |line: &&str| line.contains(" show ") || line.ends_with(" -l");
        calls
            .lines()
            .filter(|line| !question(line))
            .map(str::to_owned)
            .collect()
    }

    /// Everything below the folders that stand for systemd's: modes, times of files, texts.
    pub fn tree(&self) -> BTreeMap<PathBuf, (u32, i64, Vec<u8>)> {
        let mut found = BTreeMap::new();
        let mut open = vec![self.path("etc/systemd/system"), self.path("timers")];
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(folder).expect("a folder").flatten() {
                let (path, metadata) = (entry.path(), entry.metadata().expect("metadata"));
                let mode = metadata.permissions().mode();
                let (time, text) = if metadata.is_dir() {
                    open.push(path.clone());
                    (0, Vec::new())
                } else {
                    let time = metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec();
                    (time, fs::read(&path).unwrap_or_default())
                };
                found.insert(path, (mode, time, text));
            }
        }
        found
    }
}
