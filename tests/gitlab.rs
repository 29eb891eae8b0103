//! GitLab's commands in all their ways to fail: nothing stale passes for today's backup, and a doubtful
//! one is stored all the same.

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::dropbox::{Dropbox, Fault, Options, StallAt, What};
use support::host::{Ended, Host};

const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");
const CONFIG: &str = "gitlab_config_1702758583_2023_12_16.tar";
const DATA: &str = "1702758583_2023_12_16_17.8.2_gitlab_backup.tar";
const OLD_CONFIG: &str = "gitlab_config_1702000000_2023_12_08.tar";
const OLD_DATA: &str = "1702000000_2023_12_08_17.8.2_gitlab_backup.tar";

/// Runs the job on a machine that already has an older backup of each kind.
fn run_with(variable: &str, value: &str) -> (Dropbox, Host, Ended) {
    let dropbox = Dropbox::start(Options::default());
    let mut host = Host::new(PROGRAM, &dropbox);
    host.put_data_archive(OLD_DATA, 8_000);
    host.put_config_archive(OLD_CONFIG);
    host.set("STUB_NOW", "1702758583")
        .set("STUB_BACKGROUND", "2")
        .set(variable, value);
    let ended = host.run("run --json");
    (dropbox, host, ended)
}

fn stored(dropbox: &Dropbox) -> Vec<String> {
    let names = dropbox
        .archives()
        .into_iter()
        .map(|file| file.path_display.rsplit('/').next().map(str::to_owned));
    let mut names: Vec<_> = names.flatten().collect();
    names.sort();
    names
}

fn doubts(report: &Value, kind: &str) -> String {
    let archives = report["archives"].as_array().expect("archives");
    let archive = archives
        .iter()
        .find(|archive| archive["kind"] == kind)
        .expect("an archive");
    assert_eq!(archive["made_by_this_run"], true);
    archive["doubts"]
        .as_array()
        .expect("doubts")
        .iter()
        .map(|doubt| doubt.to_string() + "\n")
        .collect()
}

#[test]
fn a_failing_data_command_never_lets_an_old_archive_pass() {
    for (fail, says) in [
        ("exit-before", "ended with exit status 1"),
        ("no-archive", "left no new archive in"),
        ("old-archive", "left no new archive in"),
        ("killed", "was killed by signal 9"),
        ("pid-lock", "Backup and restore in progress"),
        ("truncated", "no whole tar"),
        ("truncated-silent", "no whole tar"),
        ("no-end", "ends without its two closing zero blocks"),
    ] {
        let (dropbox, _host, ended) = run_with("STUB_FAIL", fail);
        assert_eq!(ended.status, Some(1), "{fail}: {ended}");
        assert_eq!(ended.json()["status"], "failed", "{fail}");
        assert!(ended.err.contains(says), "{fail}: {ended}");
        // The config backup goes on all the same.
        assert_eq!(stored(&dropbox), [CONFIG], "{fail}: {ended}");
    }
}

#[test]
fn a_doubtful_data_archive_is_stored_and_the_run_fails() {
    for (fail, doubt) in [
        ("db-old", "reported a failure"),
        ("db-older", "reported a failure"),
        ("db-empty", "does not begin like a database dump"),
        ("db-new", "ended with exit status 1"),
        ("no-info", "no backup_information.yml"),
        ("repo-failed", "reported a failure"),
        ("repo-old", "reported a failure"),
        ("files-old", "reported a failure"),
    ] {
        let (dropbox, _host, ended) = run_with("STUB_FAIL", fail);
        assert_eq!(ended.status, Some(1), "{fail}: {ended}");
        assert_eq!(stored(&dropbox).len(), 2, "{fail}: {ended}");
        let report = ended.json();
        assert!(doubts(&report, "data").contains(doubt), "{fail}: {ended}");
        assert_eq!(doubts(&report, "config"), "", "{fail}");
        assert!(report["error"].is_string(), "{fail}: {ended}");
    }
}

#[test]
fn a_failing_config_command_does_not_keep_the_data_from_being_saved() {
    for (fail, says, stored_config) in [
        ("exit-before", "ended with exit status 1", false),
        ("no-archive", "left no new archive in", false),
        ("old-archive", "left no new archive in", false),
        ("truncated", "no whole tar", false),
        ("no-secrets", "no gitlab-secrets.json", true),
        ("dangling", "ended with exit status 1", true),
        (
            "not-installed",
            "Is your package installed correctly",
            false,
        ),
    ] {
        let (dropbox, _host, ended) = run_with("STUB_FAIL_ETC", fail);
        assert_eq!(ended.status, Some(1), "{fail}: {ended}");
        assert!(ended.err.contains(says), "{fail}: {ended}");
        let stored = stored(&dropbox);
        assert!(stored.contains(&DATA.to_owned()), "{fail}: {ended}");
        assert_eq!(
            stored.contains(&CONFIG.to_owned()),
            stored_config,
            "{fail}: {ended}"
        );
        assert!(!stored.contains(&OLD_CONFIG.to_owned()), "{fail}: {ended}");
    }
}

#[test]
fn harmless_oddities_are_no_failure() {
    for (variable, value) in [
        ("STUB_FAIL", "noisy"),
        ("STUB_FAIL", "chatty-daemon"),
        ("STUB_FAIL", "files-changed"),
        ("STUB_FAIL_ETC", "noisy"),
        ("STUB_FAIL_ETC", "never-reconfigured"),
        ("STUB_VERSION", "16.5.0-ee"),
        ("STUB_VERSION", "14.8.0"),
    ] {
        let start = Instant::now();
        let (dropbox, _host, ended) = run_with(variable, value);
        assert_eq!(ended.status, Some(0), "{value}: {ended}");
        assert_eq!(dropbox.archives().len(), 2);
        assert!(start.elapsed() < Duration::from_mins(1), "{value}");
    }
}

#[test]
fn an_archive_that_grows_while_it_is_read_is_not_stored() {
    let dropbox = Dropbox::start(Options::default());
    let mut host = Host::new(PROGRAM, &dropbox);
    host.set("STUB_FAIL", "growing").set("STUB_BACKGROUND", "3");
    let slow = What::Stall(StallAt::Reply, Some(Duration::from_secs(1)));
    dropbox.fault(Fault::on("append_v2", slow));
    let ended = host.run("run --only data --json");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(ended.err.contains("changed while it was"), "{ended}");
    assert_eq!(dropbox.archives().len(), 0, "{ended}");
    // Its journal would be of no use.
    assert_eq!(
        fs::read_dir(host.path("state/uploads")).map_or(0, Iterator::count),
        0
    );
}

#[test]
fn a_command_that_hangs_is_ended_with_its_whole_group() {
    for fail in ["hang", "hang-term"] {
        let dropbox = Dropbox::start(Options::default());
        let mut host = Host::new(PROGRAM, &dropbox);
        host.write_config(
            &host
                .config(&dropbox)
                .replace("[gitlab]\n", "[gitlab]\ntimeout = \"1s\"\n"),
        );
        host.set("STUB_FAIL", fail).set("STUB_HANG", "300");
        let start = Instant::now();
        let ended = host.run("run --json");
        assert_eq!(ended.status, Some(1), "{ended}");
        assert!(ended.err.contains("took longer than 1s"), "{ended}");
        assert!(start.elapsed() < Duration::from_secs(30), "{fail}");
        let group = host.calls().lines().last().and_then(|line| {
            line.split("pgid=")
                .nth(1)?
                .split(' ')
                .next()
                .map(str::to_owned)
        });
        let group = group.expect("a process group");
        let living = fs::read_dir("/proc")
            .expect("processes")
            .filter_map(|entry| {
                let text = fs::read_to_string(entry.ok()?.path().join("stat")).ok()?;
                let fields: Vec<_> = text.rsplit(')').next()?.split_ascii_whitespace().collect();
                (fields[2] == group && fields[0] != "Z").then_some(text.clone())
            });
        assert_eq!(living.collect::<Vec<_>>(), [""; 0], "{fail}");
    }
}

#[test]
fn what_a_command_started_has_its_ten_seconds_too() {
    let dropbox = Dropbox::start(Options::default());
    let host = Host::new(PROGRAM, &dropbox);
    let cleaned = host.path("cleaned");
    // The leader ends at once, its child takes a moment to put things away.
    let script = format!(
        "(trap 'sleep 1; echo > {}; exit' TERM; sleep 300 & wait) & trap 'exit 1' TERM; wait",
        cleaned.display()
    );
    let config = host.config(&dropbox).replace(
        "[gitlab]\n",
        &format!(
            "[gitlab]\ntimeout = \"1s\"\ndata_command = [\"/bin/sh\", \"-c\", \"{script}\"]\n"
        ),
    );
    host.write_config(&config);
    let ended = host.run("run --only data");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(cleaned.exists(), "{ended}");
}

#[test]
fn archives_of_a_folder_that_was_not_there_before_are_not_todays() {
    let dropbox = Dropbox::start(Options::default());
    let host = Host::new(PROGRAM, &dropbox);
    let archive = host.put_data_archive(OLD_DATA, 8_000);
    let old = std::time::SystemTime::now() - Duration::from_hours(24);
    fs::File::options()
        .append(true)
        .open(archive)
        .and_then(|file| file.set_modified(old))
        .expect("an old file");
    // A disk that is mounted only while GitLab works.
    let (folder, away) = (host.path("var/opt/gitlab/backups"), host.path("away"));
    fs::rename(&folder, &away).expect("unmounted");
    let command = format!(
        "data_command = [\"mv\", \"{}\", \"{}\"]\n",
        away.display(),
        folder.display()
    );
    host.write_config(
        &host
            .config(&dropbox)
            .replace("[gitlab]\n", &format!("[gitlab]\n{command}")),
    );
    let ended = host.run("run --only data --json");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(ended.err.contains("left no new archive in"), "{ended}");
    assert_eq!(dropbox.archives().len(), 0);
}

#[test]
fn the_commands_run_as_under_cron_and_without_our_environment() {
    let dropbox = Dropbox::start(Options::default());
    let mut host = Host::new(PROGRAM, &dropbox);
    let config = host.config(&dropbox);
    host.write_config(&config.replace(
        "[gitlab]\n",
        "[gitlab]\nskip = [\"registry\", \"db\"]\nstrategy = \"copy\"\n",
    ));
    host.set("SKIP", "uploads")
        .set("CRON", "1")
        .set("BACKUP", "dump")
        .set("GITLAB_BACKUP_MAX_CONCURRENCY", "3");
    let ended = host.run("run --json");
    // A dump that was skipped on purpose is not missed.
    assert_eq!(ended.status, Some(0), "{ended}");
    let calls = host.calls();
    let data = calls
        .lines()
        .find(|line| line.starts_with("gitlab-backup "))
        .expect("a call");
    assert!(
        data.contains("argv=[create][SKIP=registry,db][STRATEGY=copy]"),
        "{data}"
    );
    for call in calls.lines() {
        assert!(
            call.contains("cwd=/ ") && call.contains("stdin=null") && call.contains("nice=10"),
            "{call}"
        );
        let names: Vec<_> = call
            .split("env=")
            .nth(1)
            .expect("names")
            .split(',')
            .collect();
        assert!(names.contains(&"GITLAB_BACKUP_MAX_CONCURRENCY"), "{call}");
        for name in ["SKIP", "CRON", "BACKUP", "GITLAB_PI_BACKUP_CONFIG"] {
            assert!(!names.contains(&name), "{call}");
        }
        let field = |name: &str| {
            call.split(name)
                .nth(1)
                .and_then(|rest| rest.split(' ').next())
                .map(str::to_owned)
        };
        assert_eq!(field(" pid="), field("pgid="), "{call}");
    }
}

#[test]
fn gitlab_that_is_not_installed_is_told_with_the_way_out() {
    let dropbox = Dropbox::start(Options::default());
    let mut host = Host::new(PROGRAM, &dropbox);
    host.set("PATH", "/nonexistent");
    let ended = host.run("run --json");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(
        ended.err.contains("it is not on this machine")
            && ended.err.contains("gitlab.config_command"),
        "{ended}"
    );
    assert_eq!(dropbox.archives().len(), 0);
}

#[test]
fn an_archive_under_a_link_or_of_the_wrong_shape_is_not_sent() {
    let dropbox = Dropbox::start(Options::default());
    let host = Host::new(PROGRAM, &dropbox);
    host.put_config_archive(OLD_CONFIG);
    let folder = host.path("var/opt/gitlab/backups");
    fs::write(folder.join(OLD_DATA), vec![7; 100_000]).expect("no tar");
    symlink("/etc/hostname", folder.join(DATA)).expect("a link");
    let ended = host.run("run --skip-create --json");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(
        ended
            .err
            .contains("no whole tar: it has a damaged header at byte 0"),
        "{ended}"
    );
    assert_eq!(stored(&dropbox), [OLD_CONFIG]);
    let row = &ended.json()["archives"][1]["uploads"][0];
    assert_eq!(
        (&row["status"], &row["verified"]),
        (&Value::from("failed"), &Value::from(false))
    );
}

#[test]
fn both_archives_of_one_second_are_told_apart_by_name() {
    let (dropbox, mut host, ended) = run_with("STUB_VERSION", "17.8.10");
    assert_eq!(ended.status, Some(0), "{ended}");
    host.set("STUB_VERSION", "17.8.2");
    let ended = host.run("run --json --only data");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(ended.json()["gitlab_version"], "17.8.2");
    assert_eq!(dropbox.archives().len(), 3);
}
