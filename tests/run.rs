//! The main job, as a user sees it.

mod support;

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use support::dropbox::{Dropbox, Fault, Moment, Options, What};
use support::host::{Ended, Host};

const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");

fn healthy() -> (Dropbox, Host) {
    let dropbox = Dropbox::start(Options::default());
    let mut host = Host::new(PROGRAM, &dropbox);
    host.set("STUB_NOW", "1702758583");
    (dropbox, host)
}

/// Status of the one upload of an archive of this kind.
fn upload<'a>(report: &'a Value, kind: &str) -> &'a Value {
    let archives = report["archives"].as_array().expect("archives");
    let of_kind = archives
        .iter()
        .find(|archive| archive["kind"] == kind)
        .expect("an archive of the kind");
    &of_kind["uploads"][0]
}

fn paths(dropbox: &Dropbox) -> Vec<String> {
    let mut paths: Vec<_> = dropbox
        .archives()
        .into_iter()
        .map(|file| file.path_display)
        .collect();
    paths.sort();
    paths
}

const CONFIG: &str = "gitlab_config_1702758583_2023_12_16.tar";
const DATA: &str = "1702758583_2023_12_16_17.8.2_gitlab_backup.tar";

#[test]
fn both_backups_are_made_and_stored_and_a_second_run_sends_nothing() {
    let (dropbox, mut host) = healthy();
    host.set("STUB_SIZE", "9000000");
    let ended = host.run("run --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(ended.err, "");
    let report = ended.json();
    assert_eq!(report["command"], "run");
    assert_eq!(report["status"], "ok");
    assert_eq!(report["error"], Value::Null);
    assert_eq!(report["backup_id"], "1702758583_2023_12_16_17.8.2");
    assert_eq!(report["gitlab_version"], "17.8.2");
    let steps = report["steps"].as_array().expect("steps").iter();
    let steps: Vec<_> = steps
        .map(|step| format!("{} {}", step["step"], step["status"]))
        .collect();
    let expected = [
        "preflight",
        "config_command",
        "data_command",
        "upload",
        "manifest",
    ];
    assert_eq!(steps, expected.map(|step| format!("\"{step}\" \"ok\"")));
    assert_eq!(
        paths(&dropbox),
        [format!("/Config/{CONFIG}"), format!("/Data/{DATA}")]
    );
    for file in dropbox.archives() {
        let kind = if file.path_display.starts_with("/Config") {
            "config"
        } else {
            "data"
        };
        let row = upload(&report, kind);
        assert_eq!(row["status"], "uploaded");
        assert_eq!(row["verified"], true);
        assert_eq!(row["path"], file.path_display);
        assert_eq!(row["content_hash"], file.content_hash);
        assert_eq!(
            (row["bytes_sent"].as_u64(), row["bytes_resumed"].as_u64()),
            (Some(file.size), Some(0))
        );
        assert_eq!(file.client_modified, "2023-12-16T20:29:43Z");
        let folder = if kind == "config" {
            "etc/gitlab/config_backup"
        } else {
            "var/opt/gitlab/backups"
        };
        let name = file.path_display.rsplit('/').next().expect("a name");
        assert_eq!(
            dropbox.content(&file.path_display),
            fs::read(host.path(folder).join(name)).expect("local")
        );
    }
    assert_eq!(
        fs::read_dir(host.path("state/uploads"))
            .expect("journals")
            .count(),
        0
    );
    assert_eq!(
        fs::read_to_string(host.path("state/history.jsonl"))
            .expect("history")
            .lines()
            .count(),
        1
    );

    let before = dropbox.requests().len();
    let ended = host.run("run --skip-create --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(upload(&ended.json(), "data")["status"], "already_present");
    assert_eq!(upload(&ended.json(), "data")["verified"], true);
    let sent = dropbox
        .requests()
        .into_iter()
        .skip(before)
        .filter(|seen| seen.endpoint.contains("upload"))
        .count();
    assert_eq!(sent, 0);
}

#[test]
fn crons_mail_is_short_and_quiet_is_quiet() {
    let (_dropbox, host) = healthy();
    let ended = host.run("run");
    assert_eq!((ended.status, ended.err.as_str()), (Some(0), ""), "{ended}");
    assert!((3..=15).contains(&ended.out.lines().count()), "{ended}");
    assert!(
        ended.out.contains(DATA) && ended.out.contains("uploaded and verified"),
        "{ended}"
    );
    let ended = host.run("run -q --skip-create");
    assert_eq!(
        (ended.status, ended.out.as_str(), ended.err.as_str()),
        (Some(0), "", "")
    );
    let ended = host.run("run -v --skip-create --log-format json");
    assert!(
        ended
            .err
            .lines()
            .all(|line| serde_json::from_str::<Value>(line).is_ok()),
        "{ended}"
    );
    let ended = host.run("run -v");
    assert!(ended.err.contains("gitlab: Dumping"), "{ended}");
}

#[test]
fn a_dry_run_tells_what_would_go_and_changes_nothing() {
    let (dropbox, host) = healthy();
    let state = || {
        let mut names = Vec::new();
        let mut folders = vec![host.root().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)
                .expect("list")
                .map(|entry| entry.expect("entry"))
            {
                let metadata = entry.metadata().expect("metadata");
                names.push((
                    entry.path(),
                    metadata.ino(),
                    metadata.len(),
                    metadata.mtime_nsec(),
                ));
                if metadata.is_dir() {
                    folders.push(entry.path());
                }
            }
        }
        names.sort();
        names
    };
    fs::remove_dir(host.path("state")).expect("no state yet");
    fs::create_dir_all(host.path("etc/gitlab/config_backup")).expect("a folder");
    let before = state();
    let ended = host.run("run --dry-run");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert!(ended.out.contains("there is nothing to upload"), "{ended}");
    assert_eq!(state(), before);
    host.put_data_archive(DATA, 5_000_000);
    host.put_config_archive(CONFIG);
    dropbox.put_file(
        &format!("/Config/{CONFIG}"),
        &fs::read(host.path("etc/gitlab/config_backup").join(CONFIG)).expect("read"),
    );
    let before = state();
    let ended = host.run("run --dry-run --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    let report = ended.json();
    assert_eq!(report["status"], "dry_run");
    assert_eq!(upload(&report, "data")["status"], "would_upload");
    assert_eq!(upload(&report, "data")["path"], format!("/Data/{DATA}"));
    assert_eq!(upload(&report, "config")["status"], "already_present");
    assert_eq!(state(), before);
    assert_eq!(host.calls(), "");
    assert_eq!(dropbox.archives().len(), 1);
    // A conflict is told, and is no failure of a dry run; dead credentials are.
    dropbox.put_file(&format!("/Data/{DATA}"), b"other");
    let ended = host.run("run --dry-run --json");
    assert_eq!(
        (ended.status, &upload(&ended.json(), "data")["status"]),
        (Some(0), &Value::from("conflict"))
    );
    dropbox.revoke();
    let ended = host.run("run --dry-run --json");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert_eq!(ended.json()["status"], "failed");
}

#[test]
fn the_newest_by_stamp_is_sent_whatever_else_lies_there() {
    let (dropbox, host) = healthy();
    let data = host.path("var/opt/gitlab/backups");
    let old = host.put_data_archive("1702758582_2023_12_16_17.9.0_gitlab_backup.tar", 6_000);
    host.put_data_archive("1702758583_2023_12_16_17.8.10_gitlab_backup.tar", 6_000);
    host.put_data_archive(DATA, 7_000);
    host.put_config_archive(CONFIG);
    // The modification time says nothing.
    fs::File::open(&old)
        .and_then(|file| file.set_modified(SystemTime::now()))
        .expect("touched");
    for name in [
        "1495527122_gitlab_backup.tar",
        "dump_gitlab_backup.tar",
        "-1902758583_2030_12_16_17.8.2_gitlab_backup.tar",
        "253402300800_10000_01_01_17.8.2_gitlab_backup.tar",
        "1702758584_2023_12_16_17.8.2_gitlab_backup.tar.part",
    ] {
        host.put_data_archive(name, 6_000);
    }
    fs::write(
        data.join("1702758585_2023_12_16_17.8.2_gitlab_backup.tar"),
        b"",
    )
    .expect("an empty file");
    fs::create_dir(data.join("1702758586_2023_12_16_17.8.2_gitlab_backup.tar")).expect("a folder");
    symlink(
        data.join(DATA),
        data.join("1702758587_2023_12_16_17.8.2_gitlab_backup.tar"),
    )
    .expect("a link");
    let no_text: &std::ffi::OsStr =
        std::os::unix::ffi::OsStrExt::from_bytes(b"1702758588_\xff_gitlab_backup.tar");
    fs::write(data.join(no_text), b"x").expect("a name that is no UTF-8");
    let future = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("now")
        .as_secs()
        + 90_000;
    host.put_data_archive(
        &format!("{future}_2030_01_01_17.8.2_gitlab_backup.tar"),
        6_000,
    );
    for i in 0..3_000 {
        fs::write(data.join(format!("{i}.tmp")), b"").expect("one of thousands");
    }
    let ended = host.run("run --skip-create --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert!(
        ended.err.contains("1 days ahead of this machine's clock"),
        "{ended}"
    );
    assert_eq!(
        paths(&dropbox),
        [format!("/Config/{CONFIG}"), format!("/Data/{DATA}")]
    );
}

#[test]
fn one_kind_alone_and_destinations_by_name() {
    let (dropbox, host) = healthy();
    let ended = host.run("run --only config --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(ended.json()["backup_id"], Value::Null);
    assert_eq!(ended.json()["steps"][2]["status"], "skipped");
    assert_eq!(paths(&dropbox), [format!("/Config/{CONFIG}")]);
    assert!(!host.calls().contains("gitlab-backup"));

    let config = host.config(&dropbox);
    let second = config[config.find("type = ").expect("a destination")..]
        .split("[upload]")
        .next();
    let second = format!(
        "{config}[destinations.data-only]\nkinds = [\"data\"]\ndata_folder = \"/B\"\n{}",
        second.expect("keys")
    );
    host.write_config(&second);
    let ended = host.run("run --destination data-only --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(
        paths(&dropbox),
        [format!("/B/{DATA}"), format!("/Config/{CONFIG}")]
    );
    let ended = host.run("run --destination nowhere");
    assert_eq!(ended.status, Some(2), "{ended}");
    assert!(
        ended.err.contains("no destination is named `nowhere`")
            && ended.err.contains("data-only, dropbox"),
        "{ended}"
    );
}

#[test]
fn a_kind_that_goes_nowhere_is_a_usage_error() {
    let (dropbox, host) = healthy();
    let config = host.config(&dropbox);
    host.write_config(&config.replace("[upload]", "kinds = [\"data\"]\n[upload]"));
    let ended = host.run("run --only config");
    assert_eq!(ended.status, Some(2), "{ended}");
    assert!(ended.err.contains("gets the kind config"), "{ended}");
    assert_eq!(host.calls(), "");
}

#[test]
fn a_signal_while_waiting_for_the_lock_leaves_its_document() {
    let (_dropbox, mut host) = healthy();
    let lock = fs::File::create(host.path("state/lock")).expect("a lock");
    lock.lock().expect("locked");
    let child = host.spawn("run --wait 1m --json");
    let pid = rustix::process::Pid::from_child(&child);
    let status = format!("/proc/{}/status", child.id());
    // It waits once it listens for the signal.
    let listens = |text: String| {
        let mask = text
            .lines()
            .find_map(|line| line.strip_prefix("SigCgt:").map(str::to_owned));
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .is_some_and(|mask| mask & (1 << 14) != 0)
    };
    if std::env::var_os("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER").is_none() {
        while !listens(fs::read_to_string(&status).unwrap_or_default()) {
            std::thread::sleep(Duration::from_millis(10));
        }
    } else {
        // An emulator catches every signal itself.
        std::thread::sleep(Duration::from_secs(3));
    }
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
    let ended = Ended::from(child.wait_with_output().expect("ended"));
    assert_eq!(ended.status, Some(143), "{ended}");
    assert!(
        ended.json()["error"]
            .as_str()
            .expect("an error")
            .contains("SIGTERM"),
        "{ended}"
    );
    host.set("HTTP_PROXY", "http://127.0.0.1:9");
    drop(lock);
    // And loopback is never reached through a proxy.
    assert_eq!(host.run("run").status, Some(0));
}

#[test]
fn one_destination_down_does_not_stop_the_other() {
    let (dropbox, host) = healthy();
    let config = host
        .config(&dropbox)
        .replace("[upload]\n", "[upload]\nretry_for = \"1s\"\n");
    let second = config[config.find("type = ").expect("a destination")..]
        .split("[upload]")
        .next()
        .expect("keys");
    let second = second.replace(&dropbox.url(), "http://127.0.0.1:9");
    host.write_config(&format!("{config}[destinations.a-down]\n{second}"));
    let ended = host.run("run --json");
    assert_eq!(ended.status, Some(3), "{ended}");
    let report = ended.json();
    assert_eq!(report["status"], "partial");
    assert!(
        report["error"]
            .as_str()
            .expect("an error")
            .contains("a-down"),
        "{ended}"
    );
    assert!(ended.err.contains("no connection to the server"), "{ended}");
    assert_eq!(dropbox.archives().len(), 2);
    let ended = host.run("run --skip-create --destination a-down");
    assert_eq!(ended.status, Some(1), "{ended}");
}

#[test]
fn the_lock_lets_one_run_at_a_time() {
    let (_dropbox, mut host) = healthy();
    host.set("STUB_FAIL", "hang").set("STUB_HANG", "60");
    let mut first = host.spawn("run");
    while !host.calls().contains("gitlab-backup") {
        std::thread::sleep(Duration::from_millis(20));
    }
    let second = host.run("run --json");
    assert_eq!(second.status, Some(4), "{second}");
    assert!(
        second.json()["error"]
            .as_str()
            .expect("an error")
            .contains(&first.id().to_string()),
        "{second}"
    );
    assert_eq!(host.run("run --wait 1s").status, Some(4));
    assert_eq!(host.run("run --dry-run").status, Some(0));
    // The kernel frees it however the holder ends.
    first.kill().expect("killed");
    first.wait().expect("ended");
    host.set("STUB_FAIL", "");
    let pids = fs::read_to_string(host.path("calls.log")).expect("calls");
    let group = pids
        .lines()
        .last()
        .and_then(|line| line.split("pgid=").nth(1)?.split(' ').next()?.parse().ok());
    let group =
        rustix::process::Pid::from_raw(group.expect("a process group")).expect("a process group");
    rustix::process::kill_process_group(group, rustix::process::Signal::KILL).expect("ended");
    let ended = host.run("run --skip-create --only config --wait 5s");
    assert_eq!(ended.status, Some(0), "{ended}");
}

#[test]
fn signals_end_it_soon_and_what_was_sent_is_kept() {
    for (signal, status, name) in [
        (rustix::process::Signal::TERM, 143, "SIGTERM"),
        (rustix::process::Signal::INT, 130, "SIGINT"),
    ] {
        let (dropbox, host) = healthy();
        host.put_data_archive(DATA, 30 << 20);
        let reached = std::sync::Arc::new(std::sync::Barrier::new(2));
        let there = reached.clone();
        dropbox.fault(
            Fault::on(
                "append_v2",
                What::Call(
                    Moment::Head,
                    std::sync::Arc::new(move || {
                        there.wait();
                    }),
                ),
            )
            .skip(5),
        );
        let child = host.spawn("run --skip-create --only data --json");
        let pid = rustix::process::Pid::from_child(&child);
        reached.wait();
        rustix::process::kill_process(pid, signal).expect("signalled");
        let ended = Ended::from(child.wait_with_output().expect("ended"));
        assert_eq!(ended.status, Some(status), "{ended}");
        let report = ended.json();
        assert!(
            report["error"].as_str().expect("an error").contains(name),
            "{ended}"
        );
        assert_eq!(report["status"], "failed");
        let ended = host.run("run --skip-create --only data --json");
        assert_eq!(ended.status, Some(0), "{ended}");
        let report = ended.json();
        let row = upload(&report, "data");
        assert!(row["bytes_resumed"].as_u64() >= Some(4 << 20), "{ended}");
        let sum = row["bytes_resumed"].as_u64().expect("a number")
            + row["bytes_sent"].as_u64().expect("a number");
        assert_eq!(sum, 30 << 20);
        assert_eq!(report["archives"].as_array().map(Vec::len), Some(1));
    }
}

#[test]
fn a_signal_ends_gitlabs_command_too() {
    let (_dropbox, mut host) = healthy();
    host.set("STUB_FAIL", "hang").set("STUB_HANG", "600");
    let child = host.spawn("run --json");
    while !host.calls().contains("gitlab-backup") {
        std::thread::sleep(Duration::from_millis(20));
    }
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&child),
        rustix::process::Signal::TERM,
    )
    .expect("signalled");
    let ended = Ended::from(child.wait_with_output().expect("ended"));
    assert_eq!(ended.status, Some(143), "{ended}");
    assert_eq!(ended.json()["steps"][2]["status"], "failed");
    let calls = host.calls();
    let pid = calls
        .lines()
        .last()
        .and_then(|line| line.split(" pid=").nth(1)?.split(' ').next())
        .expect("a process");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    assert!(
        status.is_empty() || status.contains("State:\tZ"),
        "{status}"
    );
}

#[test]
fn a_closed_or_full_output_keeps_no_backup_from_being_stored() {
    for output in ["full", "closed"] {
        let (dropbox, host) = healthy();
        let mut command = host.command("run");
        if output == "full" {
            command.stdout(
                fs::OpenOptions::new()
                    .write(true)
                    .open("/dev/full")
                    .expect("/dev/full"),
            );
        } else {
            let (reader, writer) = std::io::pipe().expect("a pipe");
            drop(reader);
            command.stdout(OwnedFd::from(writer));
        }
        let mut child = command.spawn().expect("started");
        let mut err = String::new();
        child
            .stderr
            .take()
            .expect("standard error")
            .read_to_string(&mut err)
            .expect("read");
        assert_eq!(child.wait().expect("ended").code(), Some(0), "{err}");
        assert!(!err.contains("panic"), "{err}");
        assert_eq!(dropbox.archives().len(), 2);
    }
}

#[test]
fn an_unusable_state_folder_is_told_before_anything_is_done() {
    let (dropbox, host) = healthy();
    fs::remove_dir(host.path("state")).expect("removed");
    fs::write(host.path("state"), b"in the way").expect("written");
    let ended = host.run("run --json");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(
        ended.json()["error"]
            .as_str()
            .expect("an error")
            .contains("set `state_dir`"),
        "{ended}"
    );
    assert_eq!((host.calls().as_str(), dropbox.requests().len()), ("", 0));
}

#[test]
fn missing_folders_and_archives_are_failures() {
    let (dropbox, host) = healthy();
    let ended = host.run("run --skip-create --json");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(
        ended.json()["error"]
            .as_str()
            .expect("an error")
            .contains("check `gitlab.config_dir`"),
        "{ended}"
    );
    fs::create_dir_all(host.path("etc/gitlab/config_backup")).expect("a folder");
    let ended = host.run("run --skip-create");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(ended.out.contains("FAILED"), "{ended}");
    assert!(
        ended.err.contains("there is no config archive in"),
        "{ended}"
    );
    fs::remove_dir(host.path("var/opt/gitlab/backups")).expect("removed");
    fs::write(host.path("var/opt/gitlab/backups"), b"a file").expect("written");
    assert_eq!(host.run("run --dry-run").status, Some(1));
    assert_eq!(dropbox.archives().len(), 0);
}
