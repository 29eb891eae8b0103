//! For each check a machine on which it fails, alone, with its hint.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::support::dropbox::{Dropbox, Fault, Options, Reply, What};
use super::support::host::Host;
use super::{
    DATA, change_config, doctor, failed, healthy, is_root, mode, plain, put, record, script, skip,
};

/// Where GitLab notes who makes a backup.
const PID_FILE: &str = "opt/gitlab/embedded/service/gitlab-rails/tmp/backup_restore.pid";
const CONFIG: &str = "gitlab_config_1702758583_2023_12_16.tar";

/// A machine on which one check fails.
struct Case {
    check: &'static str,
    options: Options,
    spoil: fn(&Host, &Dropbox),
    /// What is told: the detail, and after `=>` the hint.
    told: String,
}

fn case(check: &'static str, spoil: fn(&Host, &Dropbox), told: impl Into<String>) -> Case {
    Case {
        check,
        options: Options::default(),
        spoil,
        told: told.into(),
    }
}

fn fails_alone(case: &Case) {
    let (dropbox, host) = healthy(case.options.clone());
    (case.spoil)(&host, &dropbox);
    let ended = doctor(&dropbox, &host, "--json");
    let expected = (case.check.to_owned(), case.told.clone() + "\n");
    assert_eq!(failed(&host, &ended), [expected], "{ended}");
    assert_eq!(ended.status, Some(1));
    let document = ended.json();
    assert_eq!(
        (&document["status"], &document["next"]),
        (&json!("failed"), &Value::Null)
    );
    let error = document["error"].as_str().expect("an error");
    assert!(error.starts_with(&format!("{}: ", case.check)), "{error}");
}

#[test]
fn each_check_of_the_configuration_fails_alone() {
    if !is_root() {
        return;
    }
    for case in [
        case(
            "configuration",
            |host, _| change_config(host, |text| format!("stat_dir = 1\n{text}")),
            "/host/config.toml: line 1: unknown key `stat_dir`; did you mean `state_dir`?\n\
             => config.example.toml shows every key with its default",
        ),
        case(
            "configuration",
            |host, _| change_config(host, |text| format!("stat_dir = 1\n{text}concurency = 1\n")),
            "/host/config.toml: 2 faults\nline 1: unknown key `stat_dir`; did you mean `state_dir`?\n\
             line 16: unknown key `upload.concurency`; did you mean `concurrency`?\n\
             => config.example.toml shows every key with its default",
        ),
        case(
            "permissions",
            |host, _| mode(&host.path("config.toml"), 0o644),
            "/host/config.toml holds secrets, but others may read or change it (mode 0644)\n\
             => chmod 600 /host/config.toml",
        ),
        case(
            "permissions",
            |host, _| mode(&host.path("state"), 0o755),
            "/host/state is open to others (mode 0755)\n=> chmod 700 /host/state",
        ),
        case(
            "permissions",
            |host, _| mode(host.root(), 0o777),
            "/host can be changed by others (mode 0777), and with it what is run as root\n=> chmod go-w /host",
        ),
        case(
            "permissions",
            |host, _| {
                chown(host.path("config.toml"), Some(65_534), None).expect("given away");
                chown(host.path("state"), Some(65_534), None).expect("given away");
            },
            "/host/config.toml belongs to the user with the number 65534, who can change what is run as root\n\
             /host/state belongs to the user with the number 65534\n\
             => chown root: /host/config.toml\nchown root: /host/state",
        ),
    ] {
        fails_alone(&case);
    }
}

#[test]
fn each_check_of_gitlab_fails_alone() {
    if !is_root() {
        return;
    }
    for case in [
        case(
            "gitlab_commands",
            |host, _| fs::remove_file(host.path("bin/gitlab-backup")).expect("there"),
            "gitlab-backup is not on this machine, or cannot be run\n\
             => is GitLab installed? if it is elsewhere, set `gitlab.data_command`",
        ),
        case(
            "gitlab_commands",
            |host, _| fs::remove_file(host.path("opt/gitlab/etc/gitlab-rails-rc")).expect("there"),
            "GitLab is installed, but was never configured: there is no /host/opt/gitlab/etc/gitlab-rails-rc\n\
             => sudo gitlab-ctl reconfigure",
        ),
        case(
            "gitlab_version",
            |host, _| {
                for name in [
                    "embedded/service/gitlab-rails/VERSION",
                    "version-manifest.txt",
                ] {
                    fs::remove_file(host.path("opt/gitlab").join(name)).expect("there");
                }
            },
            "/host/opt/gitlab: nothing in it tells which version of GitLab this is\n\
             => a package of GitLab tells it: install it again, or set `gitlab.install_dir` to where it is",
        ),
        case(
            "backup_folders",
            |host, _| fs::remove_dir(host.path("var/opt/gitlab/backups")).expect("there"),
            "/host/var/opt/gitlab/backups: No such file or directory (os error 2)\n\
             => is GitLab configured? `sudo gitlab-ctl reconfigure` makes it; if it is elsewhere, set \
             `gitlab.data_dir` and `gitlab.config_dir`",
        ),
        case(
            "backup_folders",
            |host, _| put(host, "etc/gitlab/config_backup", ""),
            "/host/etc/gitlab/config_backup: Not a directory (os error 20)\n\
             => look at what is there: `ls -ld` and `findmnt`",
        ),
    ] {
        fails_alone(&case);
    }
}

#[test]
fn leftovers_of_each_kind_are_found() {
    if !is_root() {
        return;
    }
    for case in [
        case(
            "staging",
            |host, _| {
                put(host, "var/opt/gitlab/backups/db/database.sql.gz", "x");
                put(host, "var/opt/gitlab/backups/uploads.tar.gz", "x");
                put(host, "var/opt/gitlab/backups/notes.txt", "x");
            },
            "/host/var/opt/gitlab/backups: a backup that did not end left db, uploads.tar.gz\n\
             => if GitLab makes no backup now, delete it: sudo rm -r /host/var/opt/gitlab/backups/db \
             /host/var/opt/gitlab/backups/uploads.tar.gz",
        ),
        case(
            "staging",
            |host, _| put(host, &format!("var/opt/gitlab/backups/{DATA}"), ""),
            "/host/var/opt/gitlab/backups/1702758583_2023_12_16_17.8.2_gitlab_backup.tar is empty: the backup that wrote \
             it did not end\n=> it is of no use: sudo rm /host/var/opt/gitlab/backups/1702758583_2023_12_16_17.8.2_gitlab_backup.tar",
        ),
        case(
            "staging",
            |host, _| {
                let path = host.put_config_archive(CONFIG);
                let file = fs::OpenOptions::new()
                    .write(true)
                    .open(path)
                    .expect("the archive");
                file.set_len(600).expect("cut off");
            },
            "/host/etc/gitlab/config_backup/gitlab_config_1702758583_2023_12_16.tar is no whole tar: it is cut off in the \
             member that begins at byte 0 of 600: the backup that wrote it did not end\n\
             => it is of no use: sudo rm /host/etc/gitlab/config_backup/gitlab_config_1702758583_2023_12_16.tar",
        ),
        case(
            "staging",
            |host, _| put(host, PID_FILE, &std::process::id().to_string()),
            // The process that runs these tests.
            format!(
                "/host/{PID_FILE} names process {}, which is {} and no backup: GitLab would refuse to make one\n\
                 => sudo rm /host/{PID_FILE}",
                std::process::id(),
                fs::read_to_string("/proc/self/comm")
                    .expect("a name")
                    .trim()
            ),
        ),
    ] {
        fails_alone(&case);
    }
}

#[test]
fn each_check_of_room_fails_alone() {
    if !is_root() {
        return;
    }
    for case in [
        case(
            "backup_keep_time",
            |host, _| {
                put(
                    host,
                    "etc/gitlab/gitlab.rb",
                    "gitlab_rails['backup_keep_time'] = 86400\n",
                );
            },
            "GitLab deletes archives after 1d, but up to 4d pass between runs: one that could not be sent is gone before \
             the next\n=> set gitlab_rails['backup_keep_time'] in gitlab.rb to 1036800 or more, and run `sudo gitlab-ctl \
             reconfigure`",
        ),
        Case {
            options: Options {
                quota: u64::MAX / 2,
                ..Options::default()
            },
            ..case(
                "disk",
                |host, _| record(host, "ok", 2, 1 << 60, None),
                "/host/var/opt/gitlab/backups: … free on this disk; GitLab needs about 2097152.0 TiB to make an archive \
                 like the last one (1048576.0 TiB)\n=> delete old archives that are stored elsewhere (`local` in \
                 [retention] does), let it leave its backup unpacked, which needs half (`gitlab.stream = true`), or skip parts (`gitlab.skip`)",
            )
        },
    ] {
        fails_alone(&case);
    }
}

/// Nothing but the options of the account.
fn as_it_is(_: &Host, _: &Dropbox) {}

fn without(rights: &str) -> String {
    format!(
        "dropbox: the token lacks the right {rights}\n\
         => tick {rights} under Permissions in the Dropbox app console, submit, and obtain a new token, for an old one \
         keeps the old rights: sudo gitlab-pi-backup login dropbox"
    )
}

#[test]
fn each_missing_right_is_named() {
    if !is_root() {
        return;
    }
    for rights in [
        &["account_info.read"][..],
        &["files.content.read"],
        &["files.content.write"],
        &["files.metadata.read"],
        &[
            "account_info.read",
            "files.content.read",
            "files.metadata.read",
        ],
    ] {
        let mut options = Options::default();
        options.scopes.retain(|own| !rights.contains(&own.as_str()));
        fails_alone(&Case {
            options,
            ..case("scopes", as_it_is, without(&rights.join(", ")))
        });
    }
    fails_alone(&case(
        "scopes",
        |_, dropbox| {
            let text = "Error in call to API function \"files/upload\": Your app is not permitted to access this endpoint \
                because it does not have the required scope 'files.content.write'.";
            dropbox.fault(Fault::on(
                "files/upload",
                What::Reply(Reply::text(400, text)),
            ));
        },
        without("files.content.write"),
    ));
}

#[test]
fn each_check_of_the_destination_fails_alone() {
    if !is_root() {
        return;
    }
    let ahead = |seconds| Options {
        clock_ahead: seconds,
        ..Options::default()
    };
    for case in [
        case(
            "credentials",
            |_, dropbox| dropbox.revoke(),
            "dropbox: refreshing the access token: Dropbox answered 400: invalid_grant: refresh token is invalid or revoked\n\
             => the refresh token was revoked or belongs to another app; obtain a new refresh token: sudo gitlab-pi-backup \
             login dropbox",
        ),
        case(
            "credentials",
            |_, dropbox| dropbox.shut_down(),
            "dropbox: refreshing the access token: no connection to the server: Connection refused (os error 111)\n\
             => check the network and the proxy settings\ntried again for 2s, in vain",
        ),
        case(
            "scopes",
            |_, dropbox| {
                let reply = Reply::new(206, "application/octet-stream", "something else");
                dropbox.fault(Fault::on("files/download", What::Reply(reply)));
            },
            "dropbox: proving the token with /gitlab-pi-backup-probe-….txt: what was stored is not what is read\n\
             => run it again; if it stays, look at proxies on the way: `doctor -vv` tells more",
        ),
        case(
            "folders",
            |_, dropbox| dropbox.put_file("/Data", b"x"),
            "dropbox: /Data is a file, not a folder\n=> rename it, or choose another folder",
        ),
        case(
            "quota",
            |host, dropbox| {
                dropbox.set_quota(5 << 20);
                record(host, "ok", 2, 6 << 20, None);
            },
            "dropbox: 5.0 MiB free, the last backup took 6.0 MiB\n=> make room there, or let [retention] do it: \
             `gitlab-pi-backup prune --dry-run` shows what it would delete",
        ),
        case(
            "quota",
            |_, dropbox| dropbox.set_quota(0),
            "dropbox: 0 B free, the last backup took 1.0 MiB\n=> make room there, or let [retention] do it: \
             `gitlab-pi-backup prune --dry-run` shows what it would delete",
        ),
        Case {
            options: ahead(3_610),
            ..case(
                "clock",
                as_it_is,
                "it is 1h behind the destination's\n\
                 => let it be set: `timedatectl set-ntp true`, then `timedatectl status`",
            )
        },
        Case {
            options: ahead(-3_590),
            ..case(
                "clock",
                as_it_is,
                "it is 59m 50s ahead of the destination's\n\
                 => let it be set: `timedatectl set-ntp true`, then `timedatectl status`",
            )
        },
    ] {
        fails_alone(&case);
    }
}

#[test]
fn each_check_of_the_state_fails_alone() {
    if !is_root() {
        return;
    }
    for case in [
        case(
            "state",
            |host, _| {
                fs::remove_dir_all(host.path("state")).expect("there");
                put(host, "state", "");
            },
            "/host/state: not a directory\n=> delete what is in its place, or set `state_dir` to another folder",
        ),
        case(
            "state",
            |host, _| {
                fs::remove_file(host.path("state/history.jsonl")).expect("there");
                fs::create_dir(host.path("state/history.jsonl")).expect("a folder");
            },
            "/host/state: the history cannot be read: Is a directory (os error 21)\n\
             => delete history.jsonl in it to begin anew; the backups are not touched",
        ),
        case(
            "state",
            |host, _| put(host, "state/uploads", ""),
            "/host/state/uploads: the journals of uploads cannot be read: Not a directory (os error 20)\n\
             => look at what is there: `ls -ld` and `findmnt`",
        ),
        case(
            "lock",
            |host, _| fs::create_dir(host.path("state/lock")).expect("a folder"),
            "/host/state/lock: it is no file\n=> no run can take it: delete it when no run is at work",
        ),
        case(
            "unfinished",
            |host, _| put(host, "state/restore.json", "{"),
            "reading what an earlier restore has done, /host/state/restore.json: it is damaged: EOF while parsing an \
             object at line 1 column 1\n=> delete this file to begin anew: all steps are then done again",
        ),
    ] {
        fails_alone(&case);
    }
    let (dropbox, host) = healthy(Options::default());
    let lock = fs::File::create(host.path("state/lock")).expect("a file");
    lock.lock().expect("nobody else's");
    let own = std::process::id();
    let out = plain(&host, &doctor(&dropbox, &host, "").out);
    let line =
        format!("ok       lock              held by process {own} for 0s: a run is at work\n");
    assert!(out.contains(&line), "{out}");
    let long_ago = SystemTime::now() - Duration::from_hours(9 * 24);
    lock.set_modified(long_ago).expect("a time");
    let told = format!(
        "held by process {own} for 9d: the next run cannot start\n\
         => look at what it does, and end it: sudo kill {own}; nothing is lost by that\n"
    );
    let ended = doctor(&dropbox, &host, "--json");
    assert_eq!(failed(&host, &ended), [("lock".to_owned(), told)]);
}

#[test]
fn each_check_of_the_schedule_fails_alone() {
    if !is_root() {
        return;
    }
    for case in [
        case(
            "schedule",
            |host, _| {
                put(
                    host,
                    "crontab",
                    "0 4 * * 3,6 /nowhere/gitlab-pi-backup run\n",
                );
            },
            "root's crontab starts /nowhere/gitlab-pi-backup, which is not there, or no program\n\
             => gitlab-pi-backup schedule install",
        ),
        case(
            "schedule",
            |host, _| script(host, "crontab", "echo no such table >&2; exit 2\n"),
            "reading root's crontab by `crontab -l`: no such table\n=> what do `crontab -l` and `systemctl list-timers` say?",
        ),
        case(
            "notifications",
            |host, _| {
                let notify = "[notify]\nwebhook_url = \"http://127.0.0.1:9/standin-refresh-token\"\n\
                    metrics_file = \"/nowhere/x.prom\"\n";
                change_config(host, |text| text + notify);
            },
            "reaching the webhook: no connection to the server: Connection refused (os error 111)\n\
             writing the metrics /nowhere/x.prom: No such file or directory (os error 2)\n\
             => check the network and the proxy settings\n\
             make the folder, and give it to node_exporter: --collector.textfile.directory=FOLDER",
        ),
        case(
            "last_run",
            |host, _| {
                record(
                    host,
                    "failed",
                    1,
                    7,
                    Some(
                        "running `gitlab-backup create`: ended with exit status 1\n  | pg_dump: died",
                    ),
                );
            },
            "failed, 1d ago: running `gitlab-backup create`: ended with exit status 1\n=> | pg_dump: died",
        ),
        case(
            "last_run",
            |host, _| record(host, "ok", 6, 7, None),
            "6d ago, but the schedule starts one at least every 4d\n=> is what starts it alive? `systemctl list-timers`, \
             `journalctl -u gitlab-pi-backup` or `journalctl -u cron`",
        ),
    ] {
        fails_alone(&case);
    }
    if [
        "/usr/sbin/sendmail",
        "/usr/lib/sendmail",
        "/usr/bin/sendmail",
    ]
    .iter()
    .any(|path| Path::new(path).exists())
    {
        return skip("this machine has a mail program");
    }
    fails_alone(&case(
        "mail",
        |host, _| fs::remove_file(host.path("bin/sendmail")).expect("there"),
        "nobody is told when a run fails: cron has no program to mail by (sendmail)\n\
         => configure [notify], or install one: sudo apt-get install msmtp-mta",
    ));
}
