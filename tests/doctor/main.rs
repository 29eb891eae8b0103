//! `doctor`: a machine where all is well, and for each check one where it fails, alone, with its hint. Whatever is
//! found, nothing on the machine or at the destination is changed, and no secret is told.

#[path = "../support/mod.rs"]
mod support;

mod checks;
mod world;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use chrono::{SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};
use support::dropbox::{Dropbox, Fault, Options, StallAt, What};
use support::host::{Ended, Host};

const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");
const DATA: &str = "1702758583_2023_12_16_17.8.2_gitlab_backup.tar";
const ID: &str = "1702758583_2023_12_16_17.8.2";
const SECRET: &str = "standin-refresh-token";

/// Says so, where a test needs what this machine does not let it have.
fn skip(why: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

/// What belongs to root can only be looked at by root.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip("doctor is for root");
    }
    root
}

fn script(host: &Host, name: &str, text: &str) {
    let path = host.path("bin").join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}")).expect("a script");
    mode(&path, 0o755);
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}

/// A machine that is set up: a good run two days ago, a crontab, a mail program. No systemd, whatever this one has.
fn healthy(options: Options) -> (Dropbox, Host) {
    let dropbox = Dropbox::start(options);
    let host = Host::new(PROGRAM, &dropbox);
    fs::create_dir_all(host.path("etc/gitlab")).expect("a folder");
    for (name, text) in [
        (
            "gitlab.rb",
            "external_url 'http://x'
",
        ),
        ("gitlab-secrets.json", "{}"),
    ] {
        fs::write(host.path("etc/gitlab").join(name), text).expect("settings");
    }
    if let Ok(Some(git)) = nix::unistd::User::from_name("git") {
        let folder = host.path("var/opt/gitlab/backups");
        chown(folder, Some(git.uid.as_raw()), None).expect("given to GitLab");
    }
    script(&host, "systemctl", "echo LoadState=not-found\n");
    let crontab = host.path("crontab");
    script(
        &host,
        "crontab",
        &format!("[ \"$1\" = -l ] && exec cat {}\n", crontab.display()),
    );
    fs::write(crontab, format!("0 4 * * 3,6 {PROGRAM} run\n")).expect("a crontab");
    script(&host, "sendmail", "exit 0\n");
    record(&host, "ok", 2, 1 << 20, None);
    (dropbox, host)
}

/// The only run of the history: how it ended, how many days ago, with a data archive of so many bytes.
fn record(host: &Host, status: &str, days: i64, size: u64, error: Option<&str>) {
    let at = Utc::now() - TimeDelta::days(days) - TimeDelta::minutes(1);
    let at = at.to_rfc3339_opts(SecondsFormat::Secs, true);
    let run = json!({
        "command": "run", "run_id": "one", "status": status, "started_at": at, "finished_at": at, "backup_id": ID,
        "archives": [{ "kind": "data", "name": DATA, "size": size, "created_at": at, "made_by_this_run": true,
            "doubts": [], "uploads": [] }],
        "error": error,
    });
    fs::write(host.path("state/history.jsonl"), format!("{run}\n")).expect("a history");
}

/// Everything on the machine: paths with what would change if anything was done to them.
fn tree(host: &Host) -> Vec<(PathBuf, u64, u64, i64, i64, u32)> {
    let mut found = Vec::new();
    let mut open = vec![host.root().to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let metadata = fs::symlink_metadata(&path).expect("metadata");
            if metadata.is_dir() {
                open.push(path.clone());
            }
            found.push((
                path,
                metadata.ino(),
                metadata.len(),
                metadata.mtime(),
                metadata.mtime_nsec(),
                metadata.mode(),
            ));
        }
    }
    found.sort();
    found
}

/// Calls doctor; nothing is changed by it, here or there.
fn doctor(dropbox: &Dropbox, host: &Host, arguments: &str) -> Ended {
    unchanged(dropbox, host, || host.run(&format!("doctor {arguments}")))
}

fn unchanged(dropbox: &Dropbox, host: &Host, call: impl FnOnce() -> Ended) -> Ended {
    let stored = || {
        let files = dropbox.files().into_iter();
        files
            .map(|file| (file.path_display, file.content_hash))
            .collect::<Vec<_>>()
    };
    let before = (tree(host), stored());
    let ended = call();
    assert_eq!((tree(host), stored()), before, "{ended}");
    assert_eq!(host.calls(), "", "GitLab's commands are not run");
    assert!(!ended.to_string().contains(SECRET), "{ended}");
    ended
}

/// A text without what differs from machine to machine and from day to day.
fn plain(host: &Host, text: &str) -> String {
    let root = host.root().display().to_string();
    let text = text.replace(&root, "/host").replace(PROGRAM, "/program");
    let cut = |line: &str| {
        for (start, end) in [("backups: ", " free"), ("-probe-", ".txt")] {
            if let Some((before, after)) = line.split_once(start)
                && let Some(end) = after.find(end)
            {
                return format!("{before}{start}…{}", &after[end..]);
            }
        }
        match line.split_once("crontab, next ") {
            Some((before, _)) => format!("{before}crontab, next …"),
            None => line.to_owned(),
        }
    };
    text.lines().map(|line| cut(line) + "\n").collect()
}

const HEALTHY: &str = "\
ok       configuration     /host/config.toml
ok       permissions       nobody else can change what is run, or read what is kept
ok       environment       from this shell: GITLAB_PI_BACKUP_CONFIG
         `doctor --as-cron` looks at it without them
ok       gitlab_commands   /host/bin/gitlab-ctl, /host/bin/gitlab-backup
ok       gitlab_version    GitLab CE 17.8.2
ok       backup_folders    /host/var/opt/gitlab/backups, /host/etc/gitlab/config_backup (made by the first backup)
ok       staging           no backup that did not end has left anything
ok       backup_keep_time  GitLab deletes no archives by itself
ok       disk              /host/var/opt/gitlab/backups: … free, the last data archive has 1.0 MiB
ok       credentials       dropbox: accepted, for standin@example.com
ok       scopes            dropbox: a small file was stored, read back and deleted
ok       folders           dropbox: /Config (made with the first archive), /Data (made with the first archive), /Manifests (made with the first archive)
ok       quota             dropbox: 2.0 TiB free, the last backup took 1.0 MiB
ok       clock             as the destination's
ok       state             /host/state: one run
ok       lock              free
ok       unfinished        no restore was left unfinished
ok       schedule          root's crontab, next …
ok       last_run          ok, 2d ago: 1702758583_2023_12_16_17.8.2
skipped  notifications     none are configured; cron mails what a run prints
ok       mail              cron mails by /host/bin/sendmail
ok: 20 checks passed, 1 skipped
";

#[test]
fn all_is_well() {
    if !is_root() {
        return;
    }
    let (dropbox, host) = healthy(Options::default());
    let ended = doctor(&dropbox, &host, "");
    assert_eq!((ended.status, ended.err.as_str()), (Some(0), ""), "{ended}");
    assert_eq!(plain(&host, &ended.out), HEALTHY);
    let document = doctor(&dropbox, &host, "--json").json();
    assert_eq!(
        (
            &document["command"],
            &document["status"],
            &document["error"],
            &document["next"]
        ),
        (&json!("doctor"), &json!("ok"), &Value::Null, &Value::Null)
    );
    let first = json!({ "check": "configuration", "status": "ok", "hint": null,
        "detail": host.path("config.toml").display().to_string() });
    assert_eq!(document["checks"][0], first);
    let ended = doctor(&dropbox, &host, "-q");
    assert_eq!(
        (ended.status, ended.out.as_str(), ended.err.as_str()),
        (Some(0), "", "")
    );
}

#[test]
fn without_the_network_it_takes_no_time() {
    if !is_root() {
        return;
    }
    let (dropbox, host) = healthy(Options::default());
    let begun = Instant::now();
    let ended = doctor(&dropbox, &host, "--offline");
    let taken = begun.elapsed();
    assert_eq!(ended.status, Some(0), "{ended}");
    assert!(dropbox.requests().is_empty());
    assert!(taken < Duration::from_secs(2), "{taken:?}");
    let out = plain(&host, &ended.out);
    for line in [
        "skipped  credentials       dropbox: --offline\n",
        "skipped  scopes            dropbox: --offline\n",
        "skipped  folders           dropbox: --offline\n",
        "skipped  quota             dropbox: --offline\n",
        "ok       clock             not behind the last run; not compared with a server: --offline\n",
        "ok: 16 checks passed, 5 skipped\n",
    ] {
        assert!(out.contains(line), "{line}{out}");
    }
}

/// Each step on the way names the next one.
#[test]
fn what_comes_next_is_the_last_line() {
    if !is_root() {
        return;
    }
    let (dropbox, host) = healthy(Options::default());
    let last = |arguments: &str| {
        let ended = doctor(&dropbox, &host, arguments);
        assert_eq!(ended.status, Some(0), "{ended}");
        plain(&host, ended.out.lines().last().expect("a line"))
    };
    fs::write(host.path("crontab"), "@daily other\n").expect("a crontab");
    let next =
        |command: &str| format!("next: sudo gitlab-pi-backup -c /host/config.toml {command}\n");
    assert_eq!(last(""), next("schedule install"));
    fs::remove_file(host.path("state/history.jsonl")).expect("no run yet");
    assert_eq!(last(""), next("run"));
    let config = host.path("config.toml").display().to_string();
    assert_eq!(last(&format!("-c {config}")), next("run"));

    let ended = host.run("run");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert!(
        plain(&host, &ended.out).ends_with(&next("schedule install")),
        "{ended}"
    );
    assert!(!host.run("run --skip-create").out.contains("next:"));
}

/// A file below a folder of the machine, with the folders above it.
fn put(host: &Host, name: &str, text: &str) {
    let path = host.path(name);
    fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
    fs::write(path, text).expect("a file");
}

/// The failed checks of a document, each as it is told.
fn failed(host: &Host, ended: &Ended) -> Vec<(String, String)> {
    let document = ended.json();
    let checks = document["checks"].as_array().expect("checks").iter();
    let failed = checks.filter(|check| check["status"] == "failed");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    failed
        .map(|check| {
            let told = format!(
                "{}\n=> {}",
                text(&check["detail"]),
                check["hint"].as_str().unwrap_or("(none)")
            );
            (text(&check["check"]), plain(host, &told))
        })
        .collect()
}

/// What cannot be read is one failed check; the machine is examined all the same, as a machine by default.
#[test]
fn without_a_configuration_the_machine_is_examined_all_the_same() {
    if !is_root() {
        return;
    }
    let (dropbox, host) = healthy(Options::default());
    let missing = host.path("missing.toml").display().to_string();
    let ended = doctor(&dropbox, &host, &format!("-c {missing} --offline"));
    assert_eq!((ended.status, ended.err.as_str()), (Some(1), ""), "{ended}");
    let out = plain(&host, &ended.out);
    let first = "FAILED   configuration     reading the configuration /host/missing.toml: No such file or directory (os error 2)\n         \
        let `sudo gitlab-pi-backup login` write one, write one as config.example.toml shows, or name another with -c\n";
    assert!(out.starts_with(first), "{out}");
    for line in [
        "ok       gitlab_commands   /host/bin/gitlab-ctl, /host/bin/gitlab-backup\n",
        "skipped  credentials       needs a destination in the configuration\n",
        "skipped  quota             needs a destination in the configuration\n",
        "ok       schedule          root's crontab, next …\n",
    ] {
        assert!(out.contains(line), "{line}{out}");
    }
    assert!(
        out.lines()
            .last()
            .is_some_and(|line| line.starts_with("FAILED: ")),
        "{out}"
    );
    assert!(!out.contains("next: "), "{out}");
    // Only the arguments alone are a matter of usage.
    assert_eq!(host.run("doctor --bogus").status, Some(2));
}

#[test]
fn quiet_tells_what_failed_on_standard_error() {
    if !is_root() {
        return;
    }
    let (dropbox, host) = healthy(Options::default());
    mode(&host.path("state"), 0o755);
    let ended = doctor(&dropbox, &host, "-q --offline");
    let told =
        "error: permissions: /host/state is open to others (mode 0755)\n  chmod 700 /host/state\n";
    assert_eq!((ended.status, ended.out.as_str()), (Some(1), ""));
    assert_eq!(plain(&host, &ended.err), told);
}

/// A backup that is being made is no leftover of one.
#[test]
fn while_gitlab_is_at_work_nothing_is_a_leftover() {
    if !is_root() {
        return;
    }
    let (dropbox, host) = healthy(Options::default());
    put(&host, "var/opt/gitlab/backups/db/database.sql.gz", "x");
    // Something with a name like GitLab's own.
    script(&host, "rake", "read line\n");
    let mut backup = Command::new(host.path("bin/rake"));
    let mut backup = backup
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("it runs");
    let name = "opt/gitlab/embedded/service/gitlab-rails/tmp/backup_restore.pid";
    put(&host, name, &backup.id().to_string());
    let out = plain(&host, &doctor(&dropbox, &host, "--offline").out);
    let line = format!(
        "ok       staging           GitLab makes or restores a backup now (process {})\n",
        backup.id()
    );
    assert!(out.contains(&line), "{out}");
    drop(backup.stdin.take());
    backup.wait().expect("it ends");
    fs::remove_dir_all(host.path("var/opt/gitlab/backups/db")).expect("there");
    let ended = doctor(&dropbox, &host, "--offline");
    let line = format!(
        "ok       staging           nothing is left but a note of process {}, which is gone\n         \
         GitLab before 16.0 refuses to make a backup because of it: sudo rm /host/{name}\n",
        backup.id()
    );
    assert!(plain(&host, &ended.out).contains(&line), "{ended}");
    assert_eq!(ended.status, Some(0));
}

/// Who is told is asked as well; without the network as far as this machine can tell.
#[test]
fn who_is_told_is_looked_at() {
    if !is_root() {
        return;
    }
    let (dropbox, host) = healthy(Options::default());
    fs::create_dir(host.path("metrics")).expect("a folder");
    change_config(&host, |text| {
        let folder = host.path("metrics").display().to_string();
        let url = dropbox.url();
        format!(
            "{text}[notify]\nwebhook_url = \"{url}/{SECRET}\"\nmetrics_file = \"{folder}/x.prom\"\n"
        )
    });
    for (arguments, told) in [
        (
            "",
            "ok       notifications     webhook: the server answers\n         metrics: /host/metrics/x.prom can be written\n",
        ),
        (
            "--offline",
            "ok       notifications     webhook: configured; not asked without a network\n         \
             metrics: /host/metrics/x.prom can be written\n",
        ),
    ] {
        let ended = doctor(&dropbox, &host, arguments);
        assert_eq!(ended.status, Some(0), "{ended}");
        let out = plain(&host, &ended.out);
        assert!(out.contains(told), "{told}{out}");
    }
}

/// No destination is waited for longer than ten seconds, and what hangs is what fails.
#[test]
fn a_destination_that_does_not_answer() {
    if !is_root() {
        return;
    }
    let (dropbox, host) = healthy(Options::default());
    dropbox.put_file("/Data/x", b"x");
    let stall = What::Stall(StallAt::Reply, None);
    dropbox.fault(Fault::on("files/list_folder", stall).forever());
    let begun = Instant::now();
    let ended = doctor(&dropbox, &host, "--json");
    let taken = begun.elapsed();
    assert!((9..13).contains(&taken.as_secs()), "{taken:?}");
    let told = "dropbox: no answer within 10s\n=> check the network\n";
    assert_eq!(
        failed(&host, &ended),
        [("folders".to_owned(), told.to_owned())],
        "{ended}"
    );
}

fn change_config(host: &Host, change: impl Fn(String) -> String) {
    let text = fs::read_to_string(host.path("config.toml")).expect("the configuration");
    host.write_config(&change(text));
}
