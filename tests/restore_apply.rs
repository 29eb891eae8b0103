//! A backup put back into GitLab: made, the machine wiped, restored, and everything equal.

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::backup::RealBackup;
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
    /// The machine that was restored dies, too.
    fn lose_again(&self) {
        self.host.wipe();
        for name in ["calls.log", "count"] {
            fs::remove_file(self.host.path(name)).ok();
        }
    }

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
            beside.iter().all(|name| !name.contains("new")),
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

/// Says that a test does not try something here. Not by a macro, whose output a test that passes does not show.
fn skipped(why: &str) {
    let told = writeln!(io::stderr(), "skipped: {why}");
    told.expect("standard error");
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
            let arguments = format!("[{}]", words[1..].join("]["));
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
            .is_some_and(|path| path.ends_with(DATA) || path.ends_with(CONFIG))
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
    let lost = lost();
    for killed_before in 1..=13 {
        lost.lose_again();
        let mut terminal = Terminal::start(&lost.host, "restore --apply --json");
        for _ in 1..killed_before {
            assert!(terminal.asked(), "{}", terminal.shown);
            terminal.answer("y\n");
        }
        assert!(terminal.asked(), "{}", terminal.shown);
        terminal.signal(Signal::KILL);
        assert_eq!(terminal.end().status, None);
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
        assert_eq!(ended.json()["archives"].as_array().map(Vec::len), Some(2));
    }
}

#[test]
fn what_is_here_and_noted_needs_no_destination() {
    let lost = lost();
    let mut terminal = Terminal::start(&lost.host, "restore --apply --json");
    assert!(terminal.asked());
    terminal.answer("y\n");
    assert!(terminal.asked());
    terminal.signal(Signal::KILL);
    terminal.end();
    lost.dropbox.shut_down();
    let ended = lost.host.run(APPLY);
    lost.assert_back(&ended);
}

#[test]
fn a_step_that_was_done_and_not_noted_is_repeated_without_harm() {
    let lost = lost();
    // Those that GitLab's commands do are tried below.
    for killed_before in [2, 3, 4, 5, 7] {
        lost.lose_again();
        let mut terminal = Terminal::start(&lost.host, "restore --apply --json");
        for _ in 1..killed_before {
            assert!(terminal.asked(), "{}", terminal.shown);
            terminal.answer("y\n");
        }
        assert!(terminal.asked(), "{}", terminal.shown);
        terminal.signal(Signal::KILL);
        terminal.end();
        // The power failed between the last thing that was done and the note of it.
        let path = lost.host.path("state/restore.json");
        let text = fs::read_to_string(&path).expect("a journal");
        let mut journal: Value = serde_json::from_str(&text).expect("JSON");
        let done = journal["done"].as_array_mut().expect("steps");
        assert_eq!(done.len(), killed_before - 1);
        done.pop();
        fs::write(&path, journal.to_string()).expect("written");
        let ended = lost.host.run(APPLY);
        lost.assert_back(&ended);
        let kept = ended.json()["kept_config"].as_str().map(PathBuf::from);
        assert!(kept.expect("a path").join("gitlab.rb").exists(), "{ended}");
        assert_eq!(names(&lost.host.path("etc")).len(), 2, "{ended}");
    }
}

#[test]
fn what_was_unpacked_half_is_unpacked_anew() {
    let lost = lost();
    let mut terminal = Terminal::start(&lost.host, "restore --apply --json");
    for _ in 1..4 {
        assert!(terminal.asked());
        terminal.answer("y\n");
    }
    assert!(terminal.asked());
    terminal.signal(Signal::KILL);
    terminal.end();
    let etc = lost.host.path("etc");
    let kept = names(&etc)
        .into_iter()
        .find(|name| name.starts_with("gitlab.2"))
        .expect("kept");
    let new = etc.join(format!("{kept}.new"));
    fs::create_dir(&new).expect("a folder");
    fs::write(new.join("gitlab.rb"), b"half").expect("written");
    symlink("/etc/passwd", new.join("link")).expect("a link");
    let ended = lost.host.run(APPLY);
    lost.assert_back(&ended);
}

/// Lets GitLab's `n`-th command (from 1 on) kill the program when it has done its work.
fn kill_at_call(host: &Host, n: usize) {
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
        let text = format!(
            "#!/bin/sh\nn=$(($(cat '{count}' 2>/dev/null || echo 0) + 1))\necho $n >'{count}'\n\
             if [ $n != {n} ]; then exec '{real}' \"$@\"; fi\n'{real}' \"$@\"\nkill -9 $PPID\n"
        );
        fs::write(&path, text).expect("a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode");
    }
}

#[test]
fn killed_in_each_of_gitlabs_commands_it_is_repeated() {
    let lost = lost();
    for n in 1..=CALLS.len() {
        lost.lose_again();
        kill_at_call(&lost.host, n);
        let killed = lost.host.run(APPLY);
        assert_eq!(killed.status, None, "{killed}");
        let ended = lost.host.run(APPLY);
        lost.assert_back(&ended);
        let mut expected = CALLS.to_vec();
        expected.insert(n, CALLS[n - 1]);
        assert_eq!(calls(&lost.host), expected, "killed at call {n}");
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

#[test]
fn a_failing_command_is_shown_and_repeated_by_the_next_call() {
    // Which fault, what is told, at which step it stops.
    let cases = [
        (
            "STUB_FAIL_RECONFIGURE",
            "chef@1",
            "ended with exit status 1",
            5,
        ),
        (
            "STUB_FAIL_RECONFIGURE",
            "killed@2",
            "was killed by signal 9",
            10,
        ),
        ("STUB_FAIL_RESTORE", "exit-before@1", "rake aborted!", 9),
        ("STUB_FAIL_RESTORE", "killed@1", "was killed by signal 9", 9),
        ("STUB_FAIL_RESTORE", "aborts@1", "rake aborted!", 9),
        (
            "STUB_FAIL_RESTORE",
            "repositories@1",
            "Backup::Error: gitaly-backup exit status 1",
            9,
        ),
    ];
    for (variable, fault, told, step) in cases {
        let mut lost = lost();
        lost.host.set(variable, fault);
        let ended = lost.host.run(APPLY);
        assert_eq!(ended.status, Some(1), "{fault}: {ended}");
        let error = ended.json()["error"].as_str().expect("an error").to_owned();
        assert!(
            error.starts_with(&format!("step {step} of 13: running `gitlab-")),
            "{error}"
        );
        assert!(error.contains(told) && error.contains("  | "), "{error}");
        assert!(
            error.contains("the same command goes on from there"),
            "{error}"
        );
        assert!(error.contains("the former configuration is in "), "{error}");
        assert_eq!(steps(&ended)[step - 1].1, "failed");
        let ended = lost.host.run(APPLY);
        lost.assert_back(&ended);
        let mut expected = CALLS.to_vec();
        let call = CALLS
            .iter()
            .enumerate()
            .map(|(n, _)| n)
            .find(|n| *n == [0, 0, 0, 0, 0, 0, 1, 2, 3, 4][step - 1]);
        let call = call.expect("a call");
        expected.insert(call, CALLS[call]);
        assert_eq!(calls(&lost.host), expected, "{fault}");
    }
}

#[test]
fn what_gitlab_asks_beside_all_is_answered() {
    let mut lost = lost();
    lost.host.set("STUB_FAIL_RESTORE", "db-errors");
    let ended = lost.host.run(APPLY);
    lost.assert_back(&ended);
}

#[test]
fn gitlabs_own_user_can_read_the_archive() {
    let user = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let nobody = user.lines().find_map(|line| {
        line.strip_prefix("nobody:x:")?
            .split(':')
            .next()?
            .parse()
            .ok()
    });
    let Some(nobody) = nobody.filter(|_| rustix::process::geteuid().is_root()) else {
        skipped("only root can give a file away");
        return;
    };
    let mut lost = lost();
    std::os::unix::fs::chown(lost.host.path("var/opt/gitlab/backups"), Some(nobody), None)
        .expect("given");
    lost.host.set("STUB_GIT_USER", "nobody");
    // Fetched before by root for root: it is given away all the same.
    let ended = lost.host.run("restore");
    assert_eq!(ended.status, Some(0), "{ended}");
    let archive = lost.host.path("var/opt/gitlab/backups").join(DATA);
    std::os::unix::fs::chown(&archive, Some(0), Some(0)).expect("taken back");
    fs::set_permissions(&archive, fs::Permissions::from_mode(0o640)).expect("its mode");
    let ended = lost.host.run(APPLY);
    lost.assert_back(&ended);
    let metadata = fs::metadata(&archive).expect("metadata");
    assert_eq!((metadata.uid(), metadata.mode() & 0o777), (nobody, 0o600));
}

#[test]
fn a_check_that_fails_leaves_everything_else_done() {
    let mut lost = lost();
    lost.host.set("STUB_FAIL_RAKE", "aborts@1");
    let ended = lost.host.run(APPLY);
    assert_eq!(ended.status, Some(1), "{ended}");
    assert_eq!(
        calls(&lost.host),
        CALLS,
        "the second check is made all the same"
    );
    let error = ended.json()["error"].as_str().expect("an error").to_owned();
    assert!(
        error.contains("step 12 of 13") && error.contains("NoMethodError"),
        "{error}"
    );
    assert!(error.contains("all of the backup is restored"), "{error}");
    assert_eq!(lost.host.gitlab_state(), lost.state);
    let ended = lost.host.run(APPLY);
    lost.assert_back(&ended);
    assert_eq!(
        calls(&lost.host)[CALLS.len()..],
        CALLS[6..7],
        "only what failed is repeated"
    );
    let mut lost = self::lost();
    lost.host.set("STUB_FAIL_RAKE", "check");
    let ended = lost.host.run(APPLY);
    lost.assert_back(&ended);
    assert!(
        ended
            .err
            .contains("GitLab's check of itself found something to fix"),
        "{ended}"
    );
}

#[test]
fn keys_that_do_not_belong_to_the_data_are_noticed() {
    let lost = lost();
    // The config archive of another GitLab, under the right name, and nothing that tells better.
    let other = tempfile::tempdir().expect("a temporary folder");
    let paths =
        RealBackup::new(77).write_into(other.path(), &other.path().join("c"), 1_702_758_583);
    lost.dropbox.put_file(
        &format!("/Config/{CONFIG}"),
        &fs::read(paths.config).expect("read"),
    );
    lost.dropbox.remove(&format!("/Manifests/{ID}.json"));
    let ended = lost
        .host
        .run(&format!("restore {ID} --apply --yes --json -vv"));
    assert_eq!(ended.status, Some(1), "{ended}");
    let error = ended.json()["error"].as_str().expect("an error").to_owned();
    assert!(
        error.contains("step 13 of 13: running `gitlab-rake gitlab:doctor:secrets`"),
        "{error}"
    );
    assert!(
        error.contains("| I, [") && error.contains("Ci::Variable failures: "),
        "{error}"
    );
    assert_eq!(lost.host.gitlab_state(), lost.state);
    // Nothing of the keys is told.
    let secrets = RealBackup::new(77).secrets();
    let keys = secrets.split('"').filter(|word| word.len() >= 32);
    assert!(keys.clone().count() > 0);
    for key in keys {
        assert!(
            !ended.err.contains(key) && !ended.out.contains(key),
            "{ended}"
        );
    }
}

#[test]
fn another_version_or_edition_is_told_before_anything_is_fetched() {
    for (installed, told) in [
        ("17.8.1", "GitLab CE 17.8.1 is installed"),
        ("17.8.2-ee", "GitLab EE 17.8.2 is installed"),
        ("18.0.0", "GitLab CE 18.0.0 is installed"),
    ] {
        let lost = lost();
        lost.host.install(installed);
        let before = Snapshot::of(&lost.host);
        let ended = lost.host.run("restore --apply --yes");
        lost.assert_untouched(&ended, &before);
        assert!(ended.err.contains(told), "{ended}");
        assert!(
            ended.err.contains("apt-get install gitlab-ce=17.8.2-ce.0 "),
            "{ended}"
        );
    }
    // Other ways to tell the version.
    let rails = "opt/gitlab/embedded/service/gitlab-rails/VERSION";
    let lost = lost();
    fs::remove_file(lost.host.path(rails)).expect("removed");
    let ended = lost.host.run(APPLY);
    lost.assert_back(&ended);
    assert_eq!(ended.err.matches("WARN").count(), 0, "{ended}");
    let lost = self::lost();
    fs::write(
        lost.host.path("opt/gitlab/version-manifest.txt"),
        "gitlab-ee 17.8.2\n",
    )
    .expect("written");
    fs::remove_file(lost.host.path(rails)).expect("removed");
    let ended = lost.host.run(APPLY);
    assert!(
        ended.err.contains("GitLab EE 17.8.2 is installed"),
        "{ended}"
    );
    fs::remove_file(lost.host.path("opt/gitlab/version-manifest.txt")).expect("removed");
    let ended = lost.host.run(APPLY);
    lost.assert_back(&ended);
    assert!(ended.err.contains("cannot be told"), "{ended}");
}

#[test]
fn gitlab_that_is_not_installed_is_told_with_its_package() {
    for missing in ["gitlab-ctl", "gitlab-backup", "gitlab-rake"] {
        let lost = lost();
        fs::remove_file(lost.host.path("bin").join(missing)).expect("removed");
        let before = Snapshot::of(&lost.host);
        let ended = lost.host.run("restore --apply --yes");
        lost.assert_untouched(&ended, &before);
        assert!(
            ended
                .err
                .contains(&format!("GitLab is not installed: there is no `{missing}`")),
            "{ended}"
        );
        assert!(
            ended.err.contains("apt-get install gitlab-ce=17.8.2-ce.0 "),
            "{ended}"
        );
    }
}

/// A member of a tar by hand: its path, its type, where it leads, its contents.
type Raw<'a> = (&'a str, u8, &'a str, &'a [u8]);

fn tar(members: &[Raw<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (path, kind, link, data) in members {
        let mut header = [0_u8; 512];
        header[..path.len()].copy_from_slice(path.as_bytes());
        header[100..108].copy_from_slice(b"0000644\0");
        header[124..136].copy_from_slice(format!("{:011o}\0", data.len()).as_bytes());
        header[148..156].fill(b' ');
        header[156] = *kind;
        header[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header[257..265].copy_from_slice(b"ustar  \0");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        bytes.extend(header);
        bytes.extend(*data);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

#[test]
fn hostile_config_archives_are_refused_and_nothing_is_touched() {
    let lost = lost();
    let good = ("/etc/gitlab/gitlab.rb", b'0', "", &b"x"[..]);
    let outside = lost.host.path("outside");
    let up = format!("/etc/gitlab/../../../../../../../..{}", outside.display());
    let (up, absolute) = (up.as_str(), outside.to_str().expect("text"));
    let cases: [(&str, Vec<Raw<'_>>); 14] = [
        (up, vec![good, (up, b'0', "", b"x")]),
        (absolute, vec![good, (absolute, b'0', "", b"x")]),
        ("/etc/passwd", vec![good, ("/etc/passwd", b'0', "", b"x")]),
        (
            "/etc/gitlab/ssl",
            vec![
                good,
                ("/etc/gitlab/ssl", b'2', "/etc", b""),
                ("/etc/gitlab/ssl/x", b'0', "", b"x"),
            ],
        ),
        (
            "/etc/gitlab/hard",
            vec![good, ("/etc/gitlab/hard", b'1', "/etc/passwd", b"")],
        ),
        (
            "/etc/gitlab/hard",
            vec![
                ("/etc/gitlab/hard", b'1', "/etc/gitlab/gitlab.rb", b""),
                good,
            ],
        ),
        (
            "/etc/gitlab/device",
            vec![good, ("/etc/gitlab/device", b'4', "", b"")],
        ),
        (
            "/etc/gitlab/tty",
            vec![good, ("/etc/gitlab/tty", b'3', "", b"")],
        ),
        (
            "/etc/gitlab/pipe",
            vec![good, ("/etc/gitlab/pipe", b'6', "", b"")],
        ),
        (
            "/etc/gitlab/holes",
            vec![good, ("/etc/gitlab/holes", b'S', "", b"")],
        ),
        ("/etc/gitlab/gitlab.rb", vec![good, good]),
        (
            "/etc/gitlab/gitlab.rb/x",
            vec![good, ("/etc/gitlab/gitlab.rb/x", b'0', "", b"x")],
        ),
        (
            "/etc/gitlab",
            vec![("/etc/gitlab", b'2', "/tmp", b""), good],
        ),
        (
            "etc/gitlab.d/x",
            vec![good, ("etc/gitlab.d/x", b'0', "", b"x")],
        ),
    ];
    lost.dropbox.remove(&format!("/Manifests/{ID}.json"));
    let before = Snapshot::of(&lost.host);
    let run = |bytes: &[u8]| {
        lost.dropbox.put_file(&format!("/Config/{CONFIG}"), bytes);
        let ended = lost.host.run(&format!("restore {ID} --apply --yes --json"));
        lost.assert_untouched(&ended, &before);
        assert!(!outside.exists(), "{ended}");
        assert!(ended.err.contains("nothing was changed"), "{ended}");
        ended
    };
    for (name, members) in cases {
        let ended = run(&tar(&members));
        assert!(
            ended.err.contains(&format!("its member `{name}`")),
            "{name}: {ended}"
        );
    }
    // Cut off, followed by something, and no tar at all.
    let whole = tar(&[good]);
    run(&whole[..whole.len() - 700]);
    run(&[&whole[..], &[1; 512]].concat());
    run(&[7; 4_096]);
    let escape = tar(&[("/etc/gitlab/\u{1b}[2J/../x", b'0', "", b"x")]);
    assert!(!run(&escape).err.contains('\u{1b}'));
}

#[test]
fn whatever_has_the_name_of_the_data_archive_is_not_overwritten() {
    let lost = lost();
    fs::write(
        lost.host.path("var/opt/gitlab/backups").join(DATA),
        b"another",
    )
    .expect("written");
    let before = Snapshot::of(&lost.host);
    let ended = lost.host.run(APPLY);
    lost.assert_untouched(&ended, &before);
    assert!(ended.err.contains("is there already"), "{ended}");
}

#[test]
fn an_etc_gitlab_that_cannot_be_moved_is_told() {
    let lost = lost();
    let etc = lost.host.path("etc/gitlab");
    let elsewhere = lost.host.path("srv");
    fs::rename(&etc, &elsewhere).expect("moved");
    symlink(&elsewhere, &etc).expect("a link");
    let before = Snapshot::of(&lost.host);
    let ended = lost.host.run(APPLY);
    lost.assert_untouched(&ended, &before);
    assert!(
        ended.err.contains("is no folder") && ended.err.contains("gitlab.etc_dir"),
        "{ended}"
    );
    fs::remove_file(&etc).expect("removed");
    fs::rename(&elsewhere, &etc).expect("moved back");
    let mounted = Command::new("mount")
        .arg("--bind")
        .args([&etc, &etc])
        .stderr(Stdio::null())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        skipped("nothing can be mounted here");
        return;
    }
    let ended = lost.host.run(APPLY);
    let unmounted = Command::new("umount").arg(&etc).status();
    assert!(unmounted.is_ok_and(|status| status.success()));
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(
        ended.err.contains("it is a mount point: unmount it"),
        "{ended}"
    );
    assert_eq!(calls(&lost.host), [""; 0]);
    let ended = lost.host.run(APPLY);
    lost.assert_back(&ended);
}

#[test]
fn one_restore_at_a_time() {
    let mut lost = lost();
    // A second, newer backup, of another GitLab.
    lost.host.populate(&RealBackup::new(6));
    lost.host.set("STUB_NOW", "1702858583");
    let ended = lost.host.run("run");
    assert_eq!(ended.status, Some(0), "{ended}");
    lost.host.wipe();
    fs::remove_file(lost.host.path("calls.log")).expect("calls");
    lost.host.set("STUB_FAIL_RECONFIGURE", "chef@1");
    let first = format!("restore {ID} --apply --yes --json");
    let ended = lost.host.run(&first);
    assert_eq!(ended.status, Some(1), "{ended}");
    let before = Snapshot::of(&lost.host);
    let journal = lost.host.path("state/restore.json");
    assert_eq!(
        fs::metadata(&journal).expect("metadata").mode() & 0o777,
        0o600
    );
    let ended = lost
        .host
        .run("restore 1702858583_2023_12_18_17.8.2 --apply --yes --json");
    assert_eq!(ended.status, Some(1), "{ended}");
    for word in [
        ID,
        "is not finished",
        "finish it: gitlab-pi-backup restore",
        "delete ",
        &journal.display().to_string(),
    ] {
        assert!(ended.err.contains(word), "{word} is not in {ended}");
    }
    assert_eq!(Snapshot::of(&lost.host), before, "{ended}");
    // `latest` is the newer one by now; the same command goes on with the one it has begun.
    let ended = lost.host.run(APPLY);
    lost.assert_back(&ended);
    // With the journal deleted the other one is begun from its first step.
    lost.host.set("STUB_FAIL_RECONFIGURE", "chef@4");
    let ended = lost.host.run(APPLY);
    assert_eq!(ended.status, Some(1), "{ended}");
    assert_eq!(ended.json()["backup_id"], "1702858583_2023_12_18_17.8.2");
    fs::write(&journal, b"{").expect("damaged");
    let ended = lost.host.run(&first);
    assert!(ended.err.contains("delete this file"), "{ended}");
    fs::remove_file(&journal).expect("deleted");
    let ended = lost.host.run(&first);
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(lost.host.gitlab_state(), lost.state);
}

#[test]
fn a_signal_ends_gitlabs_command_and_the_next_call_repeats_it() {
    let mut lost = lost();
    lost.host.set("STUB_FAIL_RESTORE", "hang@1");
    let child = lost.host.spawn(APPLY);
    let begun = Instant::now();
    while !lost.host.calls().contains("gitlab-backup argv=[restore]") {
        assert!(
            begun.elapsed() < Duration::from_mins(1),
            "it is never called"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process")).expect("a process");
    kill_process(pid, Signal::TERM).expect("there");
    let ended = Ended::from(child.wait_with_output().expect("ended"));
    assert_eq!(ended.status, Some(143), "{ended}");
    assert_eq!(
        steps(&ended)[8],
        ("restore_data".to_owned(), "failed".to_owned())
    );
    let ended = lost.host.run(APPLY);
    lost.assert_back(&ended);
}

#[test]
fn files_come_back_with_their_modes_and_times() {
    let lost = lost();
    let ended = lost.host.run(APPLY);
    lost.assert_back(&ended);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let listing = |command: &mut Command| {
        let output = command.env("LC_ALL", "C").output().expect("GNU tar");
        assert!(output.status.success());
        String::from_utf8(output.stdout).expect("text")
    };
    let archive = lost.host.path("etc/gitlab/config_backup").join(CONFIG);
    let packed =
        listing(Command::new("tar").args(["-tvf", &archive.display().to_string(), "--full-time"]));
    let again = folder.path().join("again.tar");
    let config = lost.host.path("etc/gitlab/config_backup");
    let command = Command::new("tar")
        .args([
            "--exclude".as_ref(),
            config
                .strip_prefix(lost.host.root())
                .expect("inside")
                .as_os_str(),
        ])
        .arg("-C")
        .arg(lost.host.root())
        .arg("-cf")
        .arg(&again)
        .arg("etc/gitlab")
        .status();
    assert!(command.expect("GNU tar").success());
    let restored =
        listing(Command::new("tar").args(["-tvf", &again.display().to_string(), "--full-time"]));
    let files = |text: &str| {
        let files = text.lines().filter(|line| line.starts_with('-'));
        let mut files: Vec<_> = files.map(|line| line.replace(" /etc/", " etc/")).collect();
        files.sort();
        files
    };
    assert_eq!(files(&packed), files(&restored));
    assert!(files(&packed).len() >= 3, "{packed}");
}
