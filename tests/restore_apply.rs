//! A backup put back into GitLab: made, the machine wiped, restored, and everything equal.

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::backup::{Member, RealBackup, repack};
use support::dropbox::{Dropbox, Fault, Moment, Options, What};
use support::host::{Ended, Host};

const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");
const ID: &str = "1702758583_2023_12_16_17.8.2";
const DATA: &str = "1702758583_2023_12_16_17.8.2_gitlab_backup.tar";
const CONFIG: &str = "gitlab_config_1702758583_2023_12_16.tar";
const APPLY: &str = "restore --apply --yes --json";
/// What the outward contract promises to call, and nothing else.
const CALLS: [&str; 8] = [
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
struct Lost {
    dropbox: Dropbox,
    host: Host,
    state: BTreeMap<String, String>,
    configuration: BTreeMap<String, String>,
}

/// Made, stored, and then the machine died.
fn lost() -> Lost {
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
    /// GitLab has what it had, and nothing of the restore is left but the former configuration.
    fn assert_back(&self, ended: &Ended) {
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
            beside.iter().all(|name| !name.ends_with(".new")),
            "{beside:?}: {ended}"
        );
    }

    /// Nothing of GitLab's was touched, and nothing is left behind.
    fn assert_untouched(&self, ended: &Ended, before: &Snapshot) {
        assert_eq!(ended.status, Some(1), "{ended}");
        assert_eq!(Snapshot::of(&self.host), *before, "{ended}");
        assert!(!self.host.path("state/restore.json").exists(), "{ended}");
        assert!(!self.host.path("state/restore").exists(), "{ended}");
        assert_eq!(calls(&self.host), [""; 0], "{ended}");
    }
}

/// Everything below `etc` and `var`, with its bytes.
#[derive(Debug, PartialEq)]
struct Snapshot(BTreeMap<PathBuf, Vec<u8>>);

impl Snapshot {
    fn of(host: &Host) -> Snapshot {
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

/// GitLab's commands that were called, with their arguments.
fn calls(host: &Host) -> Vec<String> {
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
fn steps(ended: &Ended) -> Vec<(String, String)> {
    let report = ended.json();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let steps = report["steps"].as_array().expect("steps").iter();
    steps
        .map(|step| (text(&step["step"]), text(&step["status"])))
        .collect()
}

#[test]
fn made_wiped_restored_and_everything_is_equal() {
    let lost = lost();
    let ended = lost.host.run(APPLY);
    lost.assert_back(&ended);
    assert_eq!(calls(&lost.host), CALLS);
    let report = ended.json();
    assert_eq!(report["status"], "ok");
    assert_eq!(report["backup_id"], ID);
    assert_eq!(report["archives"][1]["verified"], true);
    let kept = report["kept_config"].as_str().expect("a path");
    assert!(Path::new(kept).join("gitlab.rb").exists());
    assert!(
        steps(&ended).iter().all(|(_, status)| status == "ok"),
        "{ended}"
    );
    // What each step shows is what was run.
    let rows = report["steps"].as_array().expect("steps");
    let shown: Vec<_> = rows
        .iter()
        .filter(|row| {
            row["command"][0]
                .as_str()
                .is_some_and(|word| ["gitlab-ctl", "gitlab-backup", "gitlab-rake"].contains(&word))
        })
        .map(|row| {
            let words: Vec<_> = row["command"].as_array().expect("words").iter().collect();
            let words: Vec<_> = words
                .iter()
                .map(|word| word.as_str().expect("a word"))
                .collect();
            let arguments: String = words[1..].iter().map(|word| format!("[{word}]")).collect();
            let assumed = if row["environment"]["GITLAB_ASSUME_YES"] == "1" {
                " assume_yes=1"
            } else {
                ""
            };
            format!("{} {arguments}{assumed}", words[0])
        })
        .collect();
    assert_eq!(shown, CALLS);
}

#[test]
fn a_good_restore_is_short_and_says_where_the_former_configuration_is() {
    let lost = lost();
    let ended = lost.host.run("restore latest --apply --yes");
    lost.assert_back(&ended);
    assert!(
        ended.out.lines().count() + ended.err.lines().count() <= 15,
        "{ended}"
    );
    assert!(
        ended.err.starts_with("step 1 of 13: fetch the archives"),
        "{ended}"
    );
    assert!(
        ended.out.contains("the former configuration is kept in "),
        "{ended}"
    );
    assert!(
        ended.out.contains(&format!("ok: {ID} is restored")),
        "{ended}"
    );
}

#[test]
fn on_a_new_machine_there_is_nothing_to_move() {
    let lost = lost();
    fs::remove_dir_all(lost.host.path("etc/gitlab")).expect("removed");
    fs::remove_dir_all(lost.host.path("var/opt/gitlab/backups")).expect("removed");
    let ended = lost.host.run(APPLY);
    lost.assert_back(&ended);
    assert_eq!(
        steps(&ended)[2],
        ("move_config".to_owned(), "skipped".to_owned())
    );
    assert_eq!(ended.json()["kept_config"], Value::Null);
    assert_eq!(names(&lost.host.path("etc")), ["gitlab"]);
}

#[test]
fn archives_that_are_here_are_not_fetched_and_older_ones_are_kept() {
    let lost = lost();
    let ended = lost.host.run("restore");
    assert_eq!(ended.status, Some(0), "{ended}");
    let older = "gitlab_config_1602758583_2020_10_15.tar";
    let config = lost.host.path("etc/gitlab/config_backup");
    fs::write(config.join(older), b"older").expect("written");
    let before = lost.dropbox.requests().len();
    let ended = lost.host.run(APPLY);
    lost.assert_back(&ended);
    let downloads = lost.dropbox.requests().into_iter().skip(before);
    let archives = downloads.filter(|seen| {
        seen.arg["path"]
            .as_str()
            .is_some_and(|path| path.ends_with(".tar"))
    });
    assert_eq!(
        archives
            .filter(|seen| seen.endpoint.ends_with("files/download"))
            .count(),
        0
    );
    let kept = PathBuf::from(ended.json()["kept_config"].as_str().expect("a path"));
    assert_eq!(
        fs::read(kept.join("config_backup").join(older)).expect("kept"),
        b"older"
    );
}

#[test]
fn a_folder_of_config_archives_elsewhere_stays_where_it_is() {
    let lost = lost();
    let elsewhere = lost.host.path("srv/config");
    let config = lost.host.config(&lost.dropbox).replace(
        &lost
            .host
            .path("etc/gitlab/config_backup")
            .display()
            .to_string(),
        &elsewhere.display().to_string(),
    );
    lost.host.write_config(&config);
    let ended = lost.host.run(APPLY);
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(lost.host.gitlab_state(), lost.state);
    assert_eq!(names(&elsewhere), [CONFIG]);
    assert!(!lost.host.path("etc/gitlab/config_backup").exists());
}

/// The program on a terminal, answering its questions.
struct Terminal {
    child: Child,
    keyboard: File,
    screen: BufReader<ChildStderr>,
    shown: String,
}

impl Terminal {
    fn start(host: &Host, arguments: &str) -> Terminal {
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
    fn asked(&mut self) -> bool {
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

    fn answer(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).expect("typed");
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a process"));
        kill_process(pid.expect("a process"), signal).expect("there");
    }

    fn end(mut self) -> Ended {
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

#[test]
fn on_a_terminal_each_step_is_shown_and_asked_for() {
    let lost = lost();
    let mut terminal = Terminal::start(&lost.host, "restore --apply --json");
    let mut count = 0;
    while terminal.asked() {
        count += 1;
        assert!(
            terminal.shown.contains(&format!("step {count} of 13: ")),
            "{}",
            terminal.shown
        );
        terminal.answer(if count % 2 == 0 { "y\n" } else { "YES\n" });
    }
    assert_eq!(count, 13);
    let ended = terminal.end();
    assert!(
        ended
            .err
            .contains("    GITLAB_ASSUME_YES=1 gitlab-backup restore BACKUP="),
        "{ended}"
    );
    lost.assert_back(&ended);
    assert_eq!(calls(&lost.host), CALLS);
}

#[test]
fn yes_to_all_asks_no_more() {
    let lost = lost();
    let mut terminal = Terminal::start(&lost.host, "restore --apply --json");
    assert!(terminal.asked());
    terminal.answer("a\n");
    let ended = terminal.end();
    assert_eq!(ended.err.matches("go on?").count(), 1, "{ended}");
    lost.assert_back(&ended);
}

#[test]
fn no_stops_and_says_how_to_go_on() {
    let lost = lost();
    let before = Snapshot::of(&lost.host);
    for answer in ["n\n", "\n", "\u{4}"] {
        let mut terminal = Terminal::start(&lost.host, "restore --apply --json");
        assert!(terminal.asked());
        terminal.answer(answer);
        let ended = terminal.end();
        lost.assert_untouched(&ended, &before);
        assert!(ended.err.contains("stopped before step 1 of 13"), "{ended}");
        assert!(ended.err.contains("nothing was changed"), "{ended}");
    }
    let mut terminal = Terminal::start(&lost.host, "restore --apply --json");
    for _ in 0..5 {
        assert!(terminal.asked());
        terminal.answer("y\n");
    }
    assert!(terminal.asked());
    terminal.answer("no\n");
    let ended = terminal.end();
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(ended.err.contains("stopped before step 6 of 13"), "{ended}");
    assert!(
        ended.err.contains("the former configuration is in "),
        "{ended}"
    );
    assert_eq!(
        steps(&ended)[4],
        ("reconfigure".to_owned(), "ok".to_owned())
    );
    assert_eq!(
        steps(&ended)[5],
        ("place_data".to_owned(), "planned".to_owned())
    );
    let ended = lost.host.run(APPLY);
    lost.assert_back(&ended);
    assert_eq!(
        steps(&ended)[4],
        ("reconfigure".to_owned(), "done_before".to_owned())
    );
    assert_eq!(calls(&lost.host), CALLS);
}

#[test]
fn a_signal_is_heard_at_a_question() {
    let lost = lost();
    for (number, signal, status) in [(1, Signal::INT, 130), (4, Signal::TERM, 143)] {
        let mut terminal = Terminal::start(&lost.host, "restore --apply --json");
        assert!(terminal.asked());
        for _ in 1..number {
            terminal.answer("y\n");
            assert!(terminal.asked());
        }
        terminal.signal(signal);
        let ended = terminal.end();
        assert_eq!(ended.status, Some(status), "{ended}");
        assert_eq!(ended.json()["status"], "failed");
    }
    let ended = lost.host.run(APPLY);
    lost.assert_back(&ended);
}

#[test]
fn killed_after_each_step_the_next_call_goes_on_with_the_next() {
    for killed_before in 1..=13 {
        let lost = lost();
        let mut terminal = Terminal::start(&lost.host, "restore --apply --json");
        for _ in 1..killed_before {
            assert!(terminal.asked(), "{}", terminal.shown);
            terminal.answer("y\n");
        }
        assert!(terminal.asked(), "{}", terminal.shown);
        terminal.signal(Signal::KILL);
        assert_eq!(terminal.end().status, None);
        // What is needed is here: no destination is asked again once it is.
        if killed_before > 1 {
            lost.dropbox.shut_down();
        }
        let ended = lost.host.run(APPLY);
        lost.assert_back(&ended);
        assert_eq!(
            calls(&lost.host),
            CALLS,
            "killed before step {killed_before}"
        );
        let before = steps(&ended)
            .iter()
            .filter(|(_, status)| status == "done_before")
            .count();
        assert_eq!(before, killed_before - 1, "{ended}");
    }
}

/// Lets GitLab's `n`-th command (from 1 on) kill the program: before it does its work, or after.
fn kill_at_call(host: &Host, n: usize, after: bool) {
    for name in ["gitlab-ctl", "gitlab-backup", "gitlab-rake"] {
        let path = host.path("bin").join(name);
        let real = fs::read_link(&path).map_or_else(
            |_| host.path("real").join(name),
            |target| {
                fs::create_dir_all(host.path("real")).expect("a folder");
                let moved = host.path("real").join(name);
                symlink(target, &moved).expect("a link");
                moved
            },
        );
        fs::remove_file(&path).expect("removed");
        let (count, real) = (host.path("count"), real.display().to_string());
        let count = count.display();
        let early = if after { "" } else { "kill -9 $PPID; exit 1" };
        let late = if after { "kill -9 $PPID" } else { ":" };
        let text = format!(
            "#!/bin/sh\nn=$(($(cat '{count}' 2>/dev/null || echo 0) + 1))\necho $n >'{count}'\n\
             if [ $n != {n} ]; then exec '{real}' \"$@\"; fi\n{early}\n'{real}' \"$@\"\n{late}\n"
        );
        fs::write(&path, text).expect("a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode");
    }
}

#[test]
fn killed_in_each_of_gitlabs_commands_it_is_repeated() {
    for after in [false, true] {
        for n in 1..=CALLS.len() {
            let lost = lost();
            kill_at_call(&lost.host, n, after);
            let killed = lost.host.run(APPLY);
            assert_eq!(killed.status, None, "{killed}");
            let ended = lost.host.run(APPLY);
            lost.assert_back(&ended);
            let mut expected = CALLS.to_vec();
            if after {
                expected.insert(n, CALLS[n - 1]);
            }
            assert_eq!(calls(&lost.host), expected, "killed at call {n}");
        }
    }
}

#[test]
fn killed_while_fetching_it_goes_on_with_the_same_backup() {
    let lost = lost();
    let mut kills = 0;
    for n in 0.. {
        let target = Arc::new(AtomicI32::new(0));
        let victim = target.clone();
        let started = Arc::new(Mutex::new(()));
        let held = started.lock().expect("not poisoned");
        let wait = started.clone();
        let kill = move || {
            drop(wait.lock());
            let pid = Pid::from_raw(victim.load(Ordering::SeqCst)).expect("a process");
            let _ = kill_process(pid, Signal::KILL);
        };
        lost.dropbox.clear_faults();
        let fault = What::Call(Moment::Applied, Arc::new(kill));
        lost.dropbox.fault(Fault::on("", fault).skip(n));
        let child = lost.host.spawn(APPLY);
        target.store(
            i32::try_from(child.id()).expect("a process"),
            Ordering::SeqCst,
        );
        drop(held);
        let ended = Ended::from(child.wait_with_output().expect("ended"));
        lost.dropbox.clear_faults();
        if ended.status.is_some() {
            lost.assert_back(&ended);
            break;
        }
        kills += 1;
    }
    assert!(kills >= 6, "only {kills} requests were tried");
    assert_eq!(calls(&lost.host), CALLS);
}
