//! Retention, as a user sees it: what is kept and why, what is deleted in which order, and what never is.

mod support;

use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::backup::RealBackup;
use support::dropbox::{Dropbox, Fault, Moment, Options, What};
use support::host::{Ended, Host};
use support::kill::kill_at;

const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");
const DAY: u64 = 86_400;
const FIRST: u64 = 1_702_758_583;

/// A machine with so many backups stored, a day apart, of which the last `keep` are to be kept.
fn machine(backups: u64, retention: &str) -> (Dropbox, Host) {
    let dropbox = Dropbox::start(Options::default());
    let host = Host::new(PROGRAM, &dropbox);
    for n in 0..backups {
        store(&host, &RealBackup::new(1), FIRST + n * DAY);
    }
    set_retention(&host, &dropbox, retention);
    (dropbox, host)
}

fn set_retention(host: &Host, dropbox: &Dropbox, retention: &str) {
    host.write_config(&format!(
        "{}[retention]\n{retention}\n",
        host.config(dropbox)
    ));
}

fn put(host: &Host, backup: &RealBackup, stamp: u64) {
    let config = host.path("etc/gitlab/config_backup");
    fs::create_dir_all(&config).expect("a folder");
    backup.write_into(&host.path("var/opt/gitlab/backups"), &config, stamp);
}

fn store(host: &Host, backup: &RealBackup, stamp: u64) {
    put(host, backup, stamp);
    let ended = host.run("run --skip-create --no-prune --json");
    assert!(matches!(ended.status, Some(0 | 3)), "{ended}");
}

fn id(n: u64) -> String {
    RealBackup::new(1).id(FIRST + n * DAY)
}

/// The IDs at the destination, the newest first, and whether each is complete.
fn stored(host: &Host) -> Vec<(String, bool)> {
    let ended = host.run("list --json --destination dropbox");
    assert_eq!(ended.status, Some(0), "{ended}");
    let document = ended.json();
    let rows = document["backups"].as_array().expect("rows").iter();
    let row = |row: &Value| {
        let id = row["backup_id"].as_str().expect("an ID").to_owned();
        (id, row["complete"] == true)
    };
    rows.map(row).collect()
}

fn complete(numbers: impl IntoIterator<Item = u64>) -> Vec<(String, bool)> {
    numbers.into_iter().map(|n| (id(n), true)).collect()
}

/// `action: reasons` of each row at a place.
fn plan(ended: &Ended, place: &str) -> Vec<String> {
    let document = ended.json();
    let rows = document["plan"].as_array().expect("a plan").iter();
    let rows = rows.filter(|row| row["destination"] == place);
    let text = |row: &Value| {
        let reasons = row["reasons"].as_array().expect("reasons").iter();
        let reasons: Vec<_> = reasons
            .map(|reason| reason.as_str().expect("a text"))
            .collect();
        format!(
            "{}: {}",
            row["action"].as_str().expect("an action"),
            reasons.join(", ")
        )
    };
    rows.map(text).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn the_plan_comes_first_and_what_it_says_is_done() {
    let (dropbox, host) = machine(4, "keep_last = 2");
    let before = dropbox.files().len();
    let ended = host.run("prune --dry-run --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(ended.json()["status"], "dry_run");
    let expected = [
        "keep: newest complete backup, last 1",
        "keep: last 2",
        "delete: no rule keeps it",
        "delete: no rule keeps it",
    ];
    assert_eq!(plan(&ended, "dropbox"), expected);
    assert_eq!(dropbox.files().len(), before, "nothing was deleted");

    let ended = host.run("prune --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(plan(&ended, "dropbox"), expected);
    assert_eq!(stored(&host), complete([3, 2]));
    let document = ended.json();
    let deleted: Vec<_> = document["pruned"]
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| row["path"].as_str().expect("a path").to_owned())
        .collect();
    let of = |n: u64| {
        let (id, stamp) = (id(n), FIRST + n * DAY);
        let config = format!("/Config/gitlab_config_{stamp}_2023_12_{}.tar", 16 + n);
        [
            vec![format!("/Manifests/{id}.json")],
            vec![
                format!("/Manifests/{id}.members.gz"),
                format!("/Manifests/{id}.projects.gz"),
            ],
            vec![format!("/Data/{id}_gitlab_backup.tar")],
            vec![config],
        ]
    };
    let expected: Vec<_> = of(0)
        .into_iter()
        .zip(of(1))
        .flat_map(|(a, b)| [a, b].concat())
        .collect();
    assert_eq!(
        deleted, expected,
        "all manifests first, the keys last, the oldest backup first"
    );
    // Local archives are GitLab's own business unless `local` says otherwise.
    assert_eq!(names(&host.path("var/opt/gitlab/backups")).len(), 4);
    let again = host.run("prune");
    assert_eq!(again.status, Some(0), "{again}");
    assert!(again.out.contains("ok: 2 kept, 0 deleted"), "{again}");
}

#[test]
fn a_run_prunes_at_its_end_unless_told_not_to_or_failed() {
    let (dropbox, mut host) = machine(3, "keep_last = 2");
    host.populate(&RealBackup::new(1));
    host.set("STUB_NOW", (FIRST + 5 * DAY).to_string());
    host.set("STUB_FAIL", "db-new");
    let failed = host.run("run --json");
    assert_eq!(failed.status, Some(1), "{failed}");
    assert_eq!(failed.json()["pruned"], json!([]));
    let count = |host: &Host| {
        stored(host)
            .iter()
            .filter(|(_, complete)| *complete)
            .count()
    };
    assert_eq!(count(&host), 3, "a failed run deletes nothing");

    host.set("STUB_FAIL", "")
        .set("STUB_NOW", (FIRST + 6 * DAY).to_string());
    let ended = host.run("run --no-prune --json");
    assert!(matches!(ended.status, Some(0 | 3)), "{ended}");
    assert_eq!(ended.json()["pruned"], json!([]));
    assert_eq!(count(&host), 4);
    assert_eq!(host.run("prune --accept-shrink").status, Some(0));
    assert_eq!(count(&host), 2);
    host.set("STUB_NOW", (FIRST + 7 * DAY).to_string());
    let ended = host.run("run --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert!(
        !ended.json()["pruned"].as_array().expect("rows").is_empty(),
        "{ended}"
    );
    let steps = ended.json()["steps"].clone();
    let last = steps
        .as_array()
        .and_then(|steps| steps.last())
        .expect("a step")
        .clone();
    assert_eq!(
        (&last["step"], &last["status"]),
        (&json!("prune"), &json!("ok"))
    );
    assert_eq!(count(&host), 2);
    let text = String::from_utf8(dropbox.content("/RECOVERY.md")).expect("text");
    assert!(
        !text.contains(&id(0)),
        "it names what is there after pruning: {text}"
    );
}

#[test]
fn killed_at_every_request_nothing_looks_whole_that_is_not_and_the_next_pruning_finishes() {
    let mut kills = 0;
    for n in 0.. {
        let (dropbox, host) = machine(3, "keep_last = 1");
        if let Some(ended) = kill_at(&dropbox, &host, "prune", n, Moment::Applied) {
            assert_eq!(ended.status, Some(0), "{ended}");
            break;
        }
        kills += 1;
        for (backup, whole) in stored(&host) {
            let stamp = backup.split('_').next().expect("a stamp").to_owned();
            let archives = dropbox.archives();
            let there = archives
                .iter()
                .filter(|file| file.path_display.contains(&stamp));
            assert!(
                !whole || there.count() == 2,
                "kill {n}: {backup} looks whole"
            );
        }
        assert!(stored(&host).contains(&(id(2), true)), "kill {n}");
        let ended = host.run("prune --json");
        assert_eq!(ended.status, Some(0), "kill {n}: {ended}");
        assert_eq!(stored(&host), complete([2]), "kill {n}");
        assert_eq!(dropbox.archives().len(), 2, "kill {n}");
        assert_eq!(dropbox.files().len(), 6, "kill {n}: {:?}", dropbox.files());
        assert_eq!(names(&host.path("state/prune")), [""; 0], "kill {n}");
    }
    assert!(kills >= 10, "only {kills} requests were tried");
}

#[test]
fn what_shrank_freezes_pruning_until_somebody_says_that_it_is_right() {
    let (dropbox, host) = machine(2, "keep_last = 1");
    put(&host, &RealBackup::new(1).projects(1), FIRST + 2 * DAY);
    let ended = host.run("run --skip-create --json");
    assert_eq!(ended.status, Some(3), "{ended}");
    let report = ended.json();
    assert_eq!(report["status"], "partial");
    let warnings = report["warnings"].to_string();
    assert!(warnings.contains("repositories"), "{ended}");
    assert_eq!(report["pruned"], json!([]));
    assert_eq!(stored(&host).len(), 3, "nothing was pruned");

    let dry = host.run("prune --dry-run --json");
    assert_eq!(dry.status, Some(0), "{dry}");
    assert!(
        plan(&dry, "dropbox")
            .iter()
            .all(|row| row.starts_with("keep: ")),
        "{dry}"
    );
    let frozen = host.run("prune --json");
    assert_eq!(frozen.status, Some(3), "{frozen}");
    assert!(frozen.err.contains("prune --accept-shrink"), "{frozen}");
    // Another healthy run does not thaw it.
    put(&host, &RealBackup::new(1).projects(1), FIRST + 3 * DAY);
    let ended = host.run("run --skip-create --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(stored(&host).len(), 4);

    let accepted = host.run("prune --accept-shrink --json");
    assert_eq!(accepted.status, Some(0), "{accepted}");
    assert_eq!(stored(&host), complete([3]));
    assert_eq!(dropbox.archives().len(), 2);
}

#[test]
fn a_config_archive_that_a_kept_backup_refers_to_stays() {
    let (dropbox, host) = machine(1, "keep_last = 1");
    // Data alone, twice: both name the one config archive of that day.
    let folder = host.path("var/opt/gitlab/backups");
    let old = folder.join(format!("{}_gitlab_backup.tar", id(0)));
    let newer = RealBackup::new(1).id(FIRST + 3_600);
    fs::copy(&old, folder.join(format!("{newer}_gitlab_backup.tar"))).expect("copied");
    let ended = host.run("run --skip-create --only data --no-prune");
    assert_eq!(ended.status, Some(0), "{ended}");
    let ended = host.run("prune --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(stored(&host), [(newer, true)]);
    assert_eq!(dropbox.archives().len(), 2);
}

#[test]
fn what_is_not_known_or_not_whole_is_never_deleted() {
    let (dropbox, host) = machine(3, "keep_last = 1");
    dropbox.put_file("/Data/dump_gitlab_backup.tar", b"by hand");
    dropbox.put_file("/Data/notes.txt", b"by hand");
    dropbox.put_file(
        "/Config/gitlab_config_1600000000_2020_09_13.tar",
        b"of no backup",
    );
    let unmanaged = "/Data/1600000000_2020_09_13_13.3.5_gitlab_backup.tar";
    dropbox.put_file(unmanaged, b"of the older script");
    // The second one is damaged: it is not counted, and stays to be looked at.
    dropbox.remove(&format!("/Data/{}_gitlab_backup.tar", id(1)));
    let ended = host.run("prune --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    let rows = plan(&ended, "dropbox");
    assert!(rows[1].starts_with("keep: incomplete: /Data/"), "{rows:?}");
    assert!(rows[2].starts_with("delete"), "{rows:?}");
    assert_eq!(rows[3], "keep: no manifest (unmanaged = keep)");
    let left: Vec<_> = dropbox
        .files()
        .into_iter()
        .map(|file| file.path_display)
        .collect();
    for path in [
        "/Data/dump_gitlab_backup.tar",
        "/Data/notes.txt",
        unmanaged,
        "/Config/gitlab_config_1600000000_2020_09_13.tar",
    ] {
        assert!(
            left.iter().any(|there| there == path),
            "{path} is gone: {left:?}"
        );
    }
    set_retention(&host, &dropbox, "keep_last = 1\nunmanaged = \"prune\"");
    let ended = host.run("prune --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    let left: Vec<_> = dropbox
        .files()
        .into_iter()
        .map(|file| file.path_display)
        .collect();
    assert!(!left.iter().any(|there| there == unmanaged), "{left:?}");
    assert!(
        left.iter()
            .any(|there| there == "/Data/dump_gitlab_backup.tar"),
        "{left:?}"
    );
}

#[test]
fn a_clock_that_is_behind_deletes_nothing() {
    let (dropbox, host) = machine(2, "keep_last = 1");
    let future = "4102444800_2100_01_01_17.8.2";
    let data = dropbox.content(&format!("/Data/{}_gitlab_backup.tar", id(1)));
    dropbox.put_file(&format!("/Data/{future}_gitlab_backup.tar"), &data);
    let before = dropbox.files().len();
    let ended = host.run("prune --json");
    assert_eq!(ended.status, Some(3), "{ended}");
    assert!(ended.err.contains("set the clock"), "{ended}");
    assert_eq!(dropbox.files().len(), before);
    assert!(
        plan(&ended, "dropbox")
            .iter()
            .all(|row| row.starts_with("keep: ")),
        "{ended}"
    );
}

#[test]
fn on_this_machine_only_what_is_verified_elsewhere_goes() {
    let (dropbox, host) = machine(4, "keep_last = 9\nlocal = 1");
    let folder = host.path("var/opt/gitlab/backups");
    let path = |n: u64| folder.join(format!("{}_gitlab_backup.tar", id(n)));
    // Not stored any more; other content under the same name and size.
    dropbox.remove(&format!("/Data/{}_gitlab_backup.tar", id(0)));
    let mut bytes = fs::read(path(1)).expect("read");
    bytes[600] ^= 1;
    fs::write(path(1), bytes).expect("written");
    fs::write(folder.join("dump_gitlab_backup.tar"), b"by hand").expect("written");
    let dry = host.run("prune --dry-run --json");
    assert_eq!(dry.status, Some(0), "{dry}");
    let rows = plan(&dry, "local");
    assert!(rows.contains(&"keep: local 1".to_owned()), "{rows:?}");
    assert!(
        rows.contains(&"keep: not verified at any destination".to_owned()),
        "{rows:?}"
    );
    assert!(
        rows.contains(&"delete: verified at dropbox".to_owned()),
        "{rows:?}"
    );
    let ended = host.run("prune --json");
    assert_eq!(ended.status, Some(3), "{ended}");
    assert!(
        ended.err.contains("its content is not what is stored"),
        "{ended}"
    );
    let left: Vec<_> = [0, 1, 2, 3].map(|n| path(n).exists()).into();
    assert_eq!(left, [true, true, false, true]);
    assert!(folder.join("dump_gitlab_backup.tar").exists());
    assert_eq!(names(&host.path("etc/gitlab/config_backup")).len(), 1);
    // Nothing is deleted here because it will be deleted there.
    set_retention(&host, &dropbox, "keep_last = 1\nlocal = 1");
    assert_eq!(stored(&host).len(), 4);
}

#[test]
fn without_a_policy_and_without_the_lock_nothing_is_done() {
    let dropbox = Dropbox::start(Options::default());
    let mut host = Host::new(PROGRAM, &dropbox);
    let ended = host.run("prune --json");
    assert_eq!(ended.status, Some(2), "{ended}");
    assert!(ended.err.contains("no [retention]"), "{ended}");
    set_retention(&host, &dropbox, "keep_last = 1");
    let ended = host.run("prune");
    assert_eq!(ended.status, Some(0), "{ended}");
    host.set("STUB_FAIL", "hang").set("STUB_HANG", "60");
    let mut first = host.spawn("run");
    while !host.calls().contains("gitlab-backup") {
        std::thread::yield_now();
    }
    assert_eq!(host.run("prune").status, Some(4));
    assert_eq!(host.run("prune --dry-run").status, Some(0));
    let pid = Pid::from_raw(i32::try_from(first.id()).expect("a process")).expect("a process");
    kill_process(pid, Signal::TERM).expect("told");
    first.wait().expect("ended");
    dropbox.revoke();
    let ended = host.run("prune --json");
    assert_eq!(ended.status, Some(3), "{ended}");
}

#[test]
fn two_doomed_backups_of_one_config_archive_leave_nothing_half_when_interrupted() {
    let (dropbox, host) = machine(1, "keep_last = 1");
    let folder = host.path("var/opt/gitlab/backups");
    let old = folder.join(format!("{}_gitlab_backup.tar", id(0)));
    let second = RealBackup::new(1).id(FIRST + 3_600);
    fs::copy(&old, folder.join(format!("{second}_gitlab_backup.tar"))).expect("copied");
    assert_eq!(
        host.run("run --skip-create --only data --no-prune").status,
        Some(0)
    );
    store(&host, &RealBackup::new(1), FIRST + 2 * DAY);
    // Everything before the last deletion happens.
    dropbox.fault(
        Fault::on("delete_v2", What::server_error(503))
            .skip(6)
            .forever(),
    );
    let mut command = host.command("prune --json");
    command.env("GITLAB_PI_BACKUP_UPLOAD__RETRY_FOR", "1s");
    let ended = Ended::from(command.output().expect("it runs"));
    assert_eq!(ended.status, Some(3), "{ended}");
    assert_eq!(
        ended.json()["pruned"].as_array().map(Vec::len),
        Some(6),
        "{ended}"
    );
    dropbox.clear_faults();
    let ended = host.run("prune --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(stored(&host), complete([2]));
    assert_eq!(dropbox.archives().len(), 2);
}

#[test]
fn what_shrank_protects_the_archives_of_this_machine_too() {
    let (_dropbox, host) = machine(2, "keep_last = 9\nlocal = 1");
    put(&host, &RealBackup::new(1).projects(1), FIRST + 2 * DAY);
    assert_eq!(host.run("run --skip-create --no-prune").status, Some(3));
    let ended = host.run("prune --json");
    assert_eq!(ended.status, Some(3), "{ended}");
    assert_eq!(names(&host.path("var/opt/gitlab/backups")).len(), 3);
    assert_eq!(host.run("prune --accept-shrink").status, Some(0));
    assert_eq!(names(&host.path("var/opt/gitlab/backups")).len(), 1);
}

#[test]
fn dead_credentials_are_told_in_a_dry_run_as_well() {
    let (dropbox, host) = machine(1, "keep_last = 1");
    dropbox.revoke();
    assert_eq!(host.run("prune --dry-run").status, Some(1));
}
