//! The user's own commands around a run.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::dropbox::{Dropbox, Fault, Options, What};
use support::host::{Ended, Host};

const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");

/// A machine whose commands `before` and `after` are scripts with these bodies; each notes that it was there.
fn machine(before: &str, after: &str) -> (Dropbox, Host) {
    let dropbox = Dropbox::start(Options::default());
    let mut host = Host::new(PROGRAM, &dropbox);
    host.set("STUB_NOW", "1702758583");
    let note = host.path("notes").display().to_string();
    let script = |name: &str, body: &str| {
        let path = host.path("bin").join(name);
        let text = format!(
            "#!/bin/sh\necho {name} \"$@\" status=$BACKUP_STATUS exit=$BACKUP_EXIT id=$BACKUP_ID \
             run=${{BACKUP_RUN_ID:+given}} error=\"$BACKUP_ERROR\" >> {note}\n{body}\n"
        );
        fs::write(&path, text).expect("a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode");
    };
    script("look", before);
    script("tidy", after);
    let config = host.config(&dropbox);
    let hooks = "[hooks]\nbefore = [[\"look\", \"a b\", \"$HOME\"]]\nafter = [[\"tidy\"]]\n";
    host.write_config(&format!("{config}{hooks}"));
    (dropbox, host)
}

fn notes(host: &Host) -> String {
    fs::read_to_string(host.path("notes")).unwrap_or_default()
}

fn steps(ended: &Ended) -> Vec<String> {
    let report = ended.json();
    let steps = report["steps"].as_array().expect("steps").iter();
    let word = |value: &Value| value.as_str().expect("a word").to_owned();
    steps
        .map(|step| format!("{} {}", word(&step["step"]), word(&step["status"])))
        .collect()
}

#[test]
fn they_run_around_a_run_and_are_told_how_it_ended() {
    let (_dropbox, host) = machine("echo looking", "echo tidying >&2");
    let ended = host.run("run --json -v");
    assert_eq!(ended.status, Some(0), "{ended}");
    let steps = steps(&ended);
    assert_eq!(
        steps.first().map(String::as_str),
        Some("before ok"),
        "{steps:?}"
    );
    assert!(steps.contains(&"after ok".to_owned()), "{steps:?}");
    // No shell has looked at the words.
    assert_eq!(
        notes(&host),
        "look a b $HOME status= exit= id= run=given error=\n\
         tidy status=ok exit=0 id=1702758583_2023_12_16_17.8.2 run=given error=\n"
    );
    for line in ["hook: looking", "hook: tidying"] {
        assert!(ended.err.contains(line), "{ended}");
    }
}

#[test]
fn one_command_needs_no_list_of_lists() {
    let (dropbox, host) = machine("", "");
    let config = host.config(&dropbox);
    host.write_config(&format!("{config}[hooks]\nbefore = [\"look\", \"x\"]\n"));
    assert_eq!(host.run("run").status, Some(0));
    assert!(notes(&host).starts_with("look x "), "{}", notes(&host));
}

#[test]
fn a_failing_command_before_stops_the_run_and_what_is_after_still_runs() {
    let (dropbox, host) = machine("echo no such disk >&2; exit 3", "");
    let ended = host.run("run --json");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert_eq!(steps(&ended), ["before failed", "after ok"]);
    let told = "running `look a b $HOME`: ended with exit status 3\n  | no such disk";
    assert_eq!(ended.json()["error"], told);
    assert!(notes(&host).contains("\ntidy status=failed exit=1 id= run=given error=running `look"));
    // GitLab made nothing, and no destination was asked.
    assert_eq!((host.calls().as_str(), dropbox.requests().len()), ("", 0));
    let history = fs::read_to_string(host.path("state/history.jsonl")).expect("the history");
    assert!(history.contains("\"before\""), "{history}");
}

#[test]
fn a_failing_command_after_leaves_a_run_done_in_part() {
    let (dropbox, host) = machine("", "exit 1");
    let config = host.config(&dropbox);
    host.write_config(&format!(
        "{config}[hooks]\nafter = [[\"missing-program\"], [\"tidy\"]]\n"
    ));
    let ended = host.run("run");
    assert_eq!(ended.status, Some(3), "{ended}");
    let expected = "partial: 1702758583_2023_12_16_17.8.2 is stored, but `hooks.after` failed\n";
    assert!(ended.out.ends_with(expected), "{ended}");
    // The first failure is told, and the others have run nevertheless.
    let told = "running `missing-program`: it is not on this machine\n  see `[hooks]` in the configuration";
    assert!(ended.err.contains(told), "{ended}");
    assert!(
        notes(&host).starts_with("tidy status=ok exit=0"),
        "{}",
        notes(&host)
    );
    // A run that failed anyway has failed.
    dropbox.fault(Fault::on("", What::server_error(403)).forever());
    host.write_config(&format!(
        "{config}retry_for = \"1s\"\n[hooks]\nafter = [\"tidy\"]\n"
    ));
    let ended = host.run("run --skip-create --json");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(notes(&host).contains("tidy status=failed exit=1"));
    assert_ne!(
        ended.json()["error"],
        "running `tidy`: ended with exit status 1"
    );
}

#[test]
fn a_dry_run_runs_none() {
    let (_dropbox, host) = machine("", "");
    host.put_config_archive("gitlab_config_1702758583_2023_12_16.tar");
    host.put_data_archive("1702758583_2023_12_16_17.8.2_gitlab_backup.tar", 9_000);
    let ended = host.run("run --dry-run");
    assert_eq!(
        (ended.status, notes(&host).as_str()),
        (Some(0), ""),
        "{ended}"
    );
}

#[test]
fn a_command_that_hangs_is_ended_with_all_it_has_started() {
    let (dropbox, host) = machine("sleep 600 & echo $! > \"$STUB_ROOT/child\"; wait", "");
    let config = host.config(&dropbox);
    host.write_config(&format!(
        "{config}[hooks]\nbefore = [\"look\"]\ntimeout = \"1s\"\n"
    ));
    let ended = host.run("run");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(
        ended.err.contains("running `look`: took longer than 1s"),
        "{ended}"
    );
    assert_gone(host.path("child"));
}

#[test]
fn a_signal_ends_the_command_and_what_is_after_cleans_up() {
    let (_dropbox, host) = machine(
        "sleep 600 & echo $! > \"$STUB_ROOT/child.new\"; mv \"$STUB_ROOT/child.new\" \"$STUB_ROOT/child\"; wait",
        "",
    );
    let child = host.spawn("run --json");
    let begun = Instant::now();
    while !host.path("child").exists() {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "the command never began"
        );
        std::thread::yield_now();
    }
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process")).expect("a process");
    kill_process(pid, Signal::TERM).expect("there");
    let ended = Ended::from(child.wait_with_output().expect("ended"));
    assert_eq!(ended.status, Some(143), "{ended}");
    assert_eq!(steps(&ended), ["before failed", "after ok"]);
    assert!(
        notes(&host).contains("tidy status=failed exit=143"),
        "{}",
        notes(&host)
    );
    assert_gone(host.path("child"));
}

fn assert_gone(child: PathBuf) {
    let pid = fs::read_to_string(child).expect("a process");
    let state = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    // Dead and not yet collected counts as gone.
    assert!(state.is_empty() || state.contains(") Z "), "{state}");
}

#[test]
fn they_learn_no_secret() {
    let (_dropbox, mut host) = machine("env > \"$STUB_ROOT/environment\"", "");
    host.set(
        "GITLAB_PI_BACKUP_NOTIFY__WEBHOOK_URL",
        "http://127.0.0.1:1/MARKED-hook-secret",
    );
    host.set("GITLAB_TOKEN", "MARKED-token");
    host.run("run");
    let environment = fs::read_to_string(host.path("environment")).expect("the environment");
    assert!(environment.contains("BACKUP_RUN_ID=") && !environment.contains("MARKED"));
}
