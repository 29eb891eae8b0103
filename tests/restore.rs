//! The way back as a user sees it: fetching, resuming, refusing, the plan. Putting it back into GitLab is
//! in `restore_apply.rs`.

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::dropbox::{Dropbox, Fault, Moment, Options, What};
use support::host::{Ended, Host};

const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");
const ID: &str = "1702758583_2023_12_16_17.8.2";
const DATA: &str = "1702758583_2023_12_16_17.8.2_gitlab_backup.tar";
const CONFIG: &str = "gitlab_config_1702758583_2023_12_16.tar";
const MANIFEST: &str = "/Manifests/1702758583_2023_12_16_17.8.2.json";
/// Four parts, the last one short.
const SIZE: u64 = (6 << 20) + 1_024;

/// A backup that is stored and is no longer on the machine, and the bytes of its archives.
struct Stored {
    dropbox: Dropbox,
    host: Host,
    config: Vec<u8>,
    data: Vec<u8>,
}

fn stored_with(options: Options) -> Stored {
    let dropbox = Dropbox::start(options);
    let host = Host::new(PROGRAM, &dropbox);
    let paths = [
        host.put_config_archive(CONFIG),
        host.put_data_archive(DATA, SIZE),
    ];
    let [config, data] = paths.map(|path| {
        let bytes = fs::read(&path).expect("an archive");
        (path, bytes)
    });
    let ended = host.run("run --skip-create");
    assert_eq!(ended.status, Some(0), "{ended}");
    for (path, _) in [&config, &data] {
        fs::remove_file(path).expect("removed");
    }
    Stored {
        dropbox,
        host,
        config: config.1,
        data: data.1,
    }
}

fn stored() -> Stored {
    stored_with(Options::default())
}

/// The names in a folder, hidden ones too.
fn names(folder: &Path) -> Vec<String> {
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

impl Stored {
    fn to(&self) -> String {
        self.host.path("back").display().to_string()
    }

    /// Both archives are there, the same bytes, and nothing else is.
    fn assert_back(&self, ended: &Ended) {
        assert_eq!(ended.status, Some(0), "{ended}");
        let folder = self.host.path("back");
        assert_eq!(names(&folder), [DATA, CONFIG], "{ended}");
        for (name, bytes) in [(CONFIG, &self.config), (DATA, &self.data)] {
            let found = fs::read(folder.join(name)).expect("an archive");
            assert!(found == *bytes, "{name} differs: {ended}");
        }
    }

    /// It failed with exit status 1 and all of these words, and no archive has its name.
    fn assert_refused(&self, ended: &Ended, words: &[&str]) {
        assert_eq!(ended.status, Some(1), "{ended}");
        for word in words {
            assert!(ended.err.contains(word), "{word} is not in {ended}");
        }
        let folder = self.host.path("back");
        assert!(!folder.join(DATA).exists(), "{ended}");
    }

    /// Bytes that were downloaded.
    fn downloaded(&self) -> usize {
        let requests = self.dropbox.requests();
        requests
            .iter()
            .filter(|seen| seen.endpoint.ends_with("files/download"))
            .count()
    }
}

fn rows(ended: &Ended) -> Vec<(String, bool, String)> {
    let report = ended.json();
    let archives = report["archives"].as_array().expect("archives").iter();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    archives
        .map(|row| {
            let verified = row["verified"].as_bool().expect("a flag");
            (text(&row["kind"]), verified, text(&row["status"]))
        })
        .collect()
}

#[test]
fn both_archives_come_back_with_the_same_bytes() {
    let stored = stored();
    let ended = stored
        .host
        .run(&format!("restore --to {} --json", stored.to()));
    stored.assert_back(&ended);
    assert_eq!(ended.err, "");
    let report = ended.json();
    assert_eq!(report["command"], "restore");
    assert_eq!(report["status"], "ok");
    assert_eq!(report["error"], Value::Null);
    assert_eq!(report["backup_id"], ID);
    assert_eq!(report["destination"], "dropbox");
    assert_eq!(report["gitlab_version"], "17.8.2");
    let step = &report["steps"][0];
    assert_eq!(
        (&step["step"], &step["status"]),
        (&"fetch".into(), &"ok".into())
    );
    let row = &report["archives"][1];
    assert_eq!(row["path"], format!("{}/{DATA}", stored.to()));
    assert_eq!(row["size"], SIZE);
    assert_eq!(row["bytes_fetched"], SIZE);
    let fetched = |kind: &str| (kind.to_owned(), true, "fetched".to_owned());
    assert_eq!(rows(&ended), [fetched("config"), fetched("data")]);
    let mode = |path: &Path| fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
    let folder = stored.host.path("back");
    assert_eq!(mode(&folder), 0o700);
    assert_eq!(
        (mode(&folder.join(DATA)), mode(&folder.join(CONFIG))),
        (0o600, 0o600)
    );

    // What is there already is proved, and not fetched again.
    let before = stored.downloaded();
    let ended = stored
        .host
        .run(&format!("restore latest --to {} --json", stored.to()));
    stored.assert_back(&ended);
    let present = |kind: &str| (kind.to_owned(), true, "already_present".to_owned());
    assert_eq!(rows(&ended), [present("config"), present("data")]);
    assert_eq!(stored.downloaded(), before);
}

#[test]
fn without_a_folder_they_go_where_gitlab_looks_for_them() {
    let stored = stored();
    let (config_dir, data_dir) = (
        stored.host.path("etc/gitlab/config_backup"),
        stored.host.path("var/opt/gitlab/backups"),
    );
    // A new machine: the folder of config archives is not there yet.
    fs::remove_dir_all(stored.host.path("etc")).expect("removed");
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        // GitLab runs as the one that its backups' folder belongs to.
        std::os::unix::fs::chown(&data_dir, Some(12_345), Some(54_321)).expect("given away");
    }
    let ended = stored.host.run(&format!("restore {ID}"));
    assert_eq!((ended.status, ended.err.as_str()), (Some(0), ""), "{ended}");
    assert!(ended.out.lines().count() <= 3, "{ended}");
    assert!(
        ended
            .out
            .contains("ok: 1702758583_2023_12_16_17.8.2 is fetched and verified"),
        "{ended}"
    );
    assert!(fs::read(config_dir.join(CONFIG)).expect("read") == stored.config);
    assert!(fs::read(data_dir.join(DATA)).expect("read") == stored.data);
    assert_eq!((names(&config_dir).len(), names(&data_dir).len()), (1, 1));
    let data = fs::metadata(data_dir.join(DATA)).expect("metadata");
    assert_eq!(data.mode() & 0o777, 0o600);
    if is_root && user_git().is_none() {
        assert_eq!((data.uid(), data.gid()), (12_345, 54_321));
        let config = fs::metadata(config_dir.join(CONFIG)).expect("metadata");
        assert_eq!((config.uid(), config.gid()), (0, 0));
    }
}

fn user_git() -> Option<String> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    users
        .lines()
        .find(|line| line.starts_with("git:"))
        .map(str::to_owned)
}

#[test]
fn one_kind_alone() {
    let stored = stored();
    for (kind, name) in [("config", CONFIG), ("data", DATA)] {
        let folder = stored.host.path(kind);
        let arguments = format!("restore --only {kind} --to {} --json", folder.display());
        let ended = stored.host.run(&arguments);
        assert_eq!(ended.status, Some(0), "{ended}");
        assert_eq!(names(&folder), [name]);
        assert_eq!(rows(&ended).len(), 1);
    }
}

/// Runs the program until the `n`-th request reaches `moment`, and kills it there. False if it ended before.
fn killed_at(stored: &Stored, n: usize, moment: Moment, arguments: &str) -> bool {
    let target = Arc::new(AtomicI32::new(0));
    let victim = target.clone();
    let started = Arc::new(Mutex::new(()));
    let held = started.lock().expect("not poisoned");
    let wait = started.clone();
    let kill = move || {
        drop(wait.lock());
        let pid = Pid::from_raw(victim.load(Ordering::SeqCst)).expect("a process");
        // Gone already where the request before this one was the last that it saw.
        let _ = kill_process(pid, Signal::KILL);
    };
    stored.dropbox.clear_faults();
    stored
        .dropbox
        .fault(Fault::on("", What::Call(moment, Arc::new(kill))).skip(n));
    let child = stored.host.spawn(arguments);
    target.store(
        i32::try_from(child.id()).expect("a process"),
        Ordering::SeqCst,
    );
    drop(held);
    let ended = Ended::from(child.wait_with_output().expect("ended"));
    stored.dropbox.clear_faults();
    ended.status.is_none()
}

#[test]
fn killed_at_every_request_in_turn_the_next_call_finishes() {
    let stored = stored();
    let arguments = format!("restore --to {}", stored.to());
    for moment in [Moment::Head, Moment::Applied] {
        let mut n = 0;
        while killed_at(&stored, n, moment, &arguments) {
            let ended = stored.host.run(&arguments);
            stored.assert_back(&ended);
            fs::remove_dir_all(stored.host.path("back")).expect("removed");
            n += 1;
        }
        assert!(n >= 8, "only {n} requests were tried");
        fs::remove_dir_all(stored.host.path("back")).expect("removed");
    }
}

#[test]
fn killed_again_and_again_it_still_comes_back_and_little_is_fetched_twice() {
    let stored = stored();
    let arguments = format!("restore --to {} --json", stored.to());
    let mut kills = 0;
    while killed_at(&stored, 8, Moment::Applied, &arguments) {
        kills += 1;
        assert!(kills < 20, "no progress over {kills} calls");
    }
    assert!(kills > 0);
    let ended = stored.host.run(&arguments);
    stored.assert_back(&ended);
}
