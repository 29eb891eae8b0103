//! Several destinations: what each gets, one that fails, one that may be absent, and `sync`, which brings it up to
//! date.

mod support;

use std::fs;

use serde_json::Value;
use support::dav::{self, Dav, What};
use support::host::{Ended, Host};

const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");
const SEND: &str = "run --skip-create --json";
/// A refused connection: nobody listens on port 1.
const NOBODY: &str = "http://127.0.0.1:1/dav/";

fn data(n: u64) -> String {
    format!("170{n}758583_2023_12_16_17.8.2_gitlab_backup.tar")
}

fn id(n: u64) -> String {
    format!("170{n}758583_2023_12_16_17.8.2")
}

fn table(name: &str, url: &str, more: &str) -> String {
    let (user, password) = (dav::USER, dav::PASSWORD);
    format!(
        "[destinations.{name}]\ntype = \"webdav\"\nurl = \"{url}\"\nusername = \"{user}\"\npassword = \"{password}\"\n{more}\n"
    )
}

fn configure(host: &Host, tables: &[String]) {
    let text = host.config_with(&tables.concat());
    host.write_config(&format!("{text}[upload]\nretry_for = \"1s\"\n"));
}

/// A machine with a backup.
fn machine() -> Host {
    let host = Host::without_config(PROGRAM);
    put_backup(&host, 2);
    host
}

fn put_backup(host: &Host, n: u64) {
    host.put_config_archive(&format!("gitlab_config_170{n}758583_2023_12_16.tar"));
    host.put_data_archive(&data(n), 300_000 + n * 1_024);
}

fn server() -> Dav {
    Dav::start(dav::Options::default())
}

fn has(dav: &Dav, n: u64) -> bool {
    let files = dav.files();
    let has = |path: String| files.contains_key(&path);
    has(format!("/Data/{}", data(n))) && has(format!("/Manifests/{}.json", id(n)))
}

fn rows(ended: &Ended, place: &str) -> Vec<String> {
    let report = ended.json();
    let archives = report["archives"].as_array().expect("archives");
    let uploads = archives
        .iter()
        .filter_map(|row| row["uploads"].as_array())
        .flatten();
    let here = uploads.filter(|upload| upload["destination"] == place);
    here.map(|upload| upload["status"].as_str().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn config_here_and_data_there_and_one_that_fails_stops_nobody() {
    let (a, b) = (server(), server());
    let host = machine();
    let tables = [
        table("a", &a.url(), "kinds = [\"config\"]"),
        table("b", &b.url(), "kinds = [\"data\"]"),
    ];
    configure(&host, &tables);
    b.fault("PUT", &data(2), 0, usize::MAX, What::Answer(500, "oops"));
    let ended = host.run(SEND);
    assert_eq!(ended.status, Some(3), "{ended}");
    assert_eq!(
        (rows(&ended, "a"), rows(&ended, "b")),
        (vec!["uploaded".to_owned()], vec!["failed".to_owned()])
    );
    assert!(a.files().keys().any(|path| path.starts_with("/Config/")));
    b.clear_faults();
    let ended = host.run(SEND);
    assert_eq!(ended.status, Some(0), "{ended}");
    assert!(a.files().keys().all(|path| !path.starts_with("/Data/")));
    assert!(b.files().keys().all(|path| !path.starts_with("/Config/")));
    assert!(has(&b, 2));
    let status = host.run("status --max-age 9000d --remote");
    assert_eq!(status.status, Some(0), "{status}");
}

#[test]
fn what_may_be_absent_is_no_failure_and_sync_brings_it_up_to_date() {
    let (a, b) = (server(), server());
    let host = machine();
    let tables = |url: &str| {
        [
            table("a", &a.url(), ""),
            table("disk", url, "optional = true"),
        ]
    };
    configure(&host, &tables(NOBODY));
    let ended = host.run(SEND);
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(rows(&ended, "disk"), [""; 0], "{ended}");
    let report = ended.json();
    assert_eq!(report["absent"][0]["destination"], "disk", "{ended}");
    assert_eq!(report["steps"][0]["status"], "ok", "{ended}");
    let told = host.run("run --skip-create");
    assert!(
        told.out.contains("disk is not there, and need not be"),
        "{told}"
    );
    for arguments in [
        "list",
        "verify",
        "status --max-age 9000d",
        "status --max-age 9000d --remote",
        "sync",
        "run --dry-run",
    ] {
        let ended = host.run(arguments);
        assert_eq!(ended.status, Some(0), "{arguments}: {ended}");
    }
    let doctor = host.run("doctor --json").json();
    let checks = doctor["checks"].as_array().expect("checks");
    let told = |check: &&Value| {
        check["detail"]
            .as_str()
            .is_some_and(|detail| detail.starts_with("disk: not there, and need not be"))
    };
    let skipped: Vec<_> = checks.iter().filter(told).collect();
    assert!(
        !skipped.is_empty() && skipped.iter().all(|check| check["status"] == "skipped"),
        "{doctor}"
    );

    // It is there again, and lacks two.
    put_backup(&host, 3);
    assert_eq!(host.run(SEND).status, Some(0));
    configure(&host, &tables(&b.url()));
    let ended = host.run("sync --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(rows(&ended, "disk"), ["uploaded"; 4], "{ended}");
    assert_eq!(rows(&ended, "a"), [""; 0], "{ended}");
    assert!(has(&b, 2) && has(&b, 3), "{ended}");
    assert!(b.files().contains_key("/RECOVERY.md"));
    // The newest first.
    assert!(
        ended.json()["archives"][0]["name"]
            .as_str()
            .is_some_and(|name| name.contains("1703758583")),
        "{ended}"
    );
    let list = host.run("list --destination disk --json").json();
    assert_eq!(
        (
            &list["backups"][0]["complete"],
            &list["backups"][1]["complete"]
        ),
        (&true.into(), &true.into()),
        "{list}"
    );
    // And again: nothing is to be done.
    b.forget();
    let ended = host.run("sync");
    assert_eq!(
        (ended.status, ended.out.trim()),
        (Some(0), "ok: no destination lacks a backup of this machine"),
        "{ended}"
    );
    assert!(
        b.requests()
            .iter()
            .all(|request| !request.starts_with("PUT"))
    );
}

#[test]
fn credentials_that_are_refused_are_a_failure_all_the_same() {
    let (a, b) = (server(), server());
    let host = machine();
    let wrong = table("disk", &b.url(), "optional = true").replace(dav::PASSWORD, "wrong");
    configure(&host, &[table("a", &a.url(), ""), wrong]);
    for arguments in [SEND, "list --json", "sync --json"] {
        let ended = host.run(arguments);
        assert_eq!(ended.status, Some(3), "{arguments}: {ended}");
    }
}

#[test]
fn what_is_nowhere_is_a_failure_whatever_may_be_absent() {
    let a = server();
    let host = machine();
    configure(&host, &[table("disk", NOBODY, "optional = true")]);
    let ended = host.run(SEND);
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(
        ended.json()["error"]
            .as_str()
            .is_some_and(|error| error.contains("disk is not there")),
        "{ended}"
    );
    let tables = [
        table("a", &a.url(), "kinds = [\"config\"]"),
        table("disk", NOBODY, "optional = true"),
    ];
    configure(&host, &tables);
    assert_eq!(host.run(SEND).status, Some(3));
    for arguments in ["verify --destination disk", "rehearse --destination disk"] {
        assert_eq!(host.run(arguments).status, Some(1), "{arguments}");
    }
}

#[test]
fn sync_sends_no_more_than_retention_keeps_and_nothing_doubtful() {
    let a = server();
    let host = machine();
    for n in 3..6 {
        put_backup(&host, n);
    }
    // Damaged, and doubtful.
    put_backup(&host, 6);
    fs::write(
        host.path("var/opt/gitlab/backups").join(data(6)),
        [7; 5_000],
    )
    .expect("written");
    put_backup(&host, 7);
    support::host::write_tar(
        &host.path("var/opt/gitlab/backups").join(data(7)),
        10_240,
        &[("x", b"y")],
    );
    let retention =
        "[retention]\nkeep_last = 4\nkeep_daily = 0\nkeep_weekly = 0\nkeep_monthly = 0\n";
    configure(&host, &[table("a", &a.url(), ""), retention.to_owned()]);
    let ended = host.run("sync --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    let sent: Vec<_> = (2..8).filter(|n| has(&a, *n)).collect();
    assert_eq!(sent, [4, 5], "{ended}");
    let passed_over = &ended.json()["passed_over"];
    assert_eq!(
        (&passed_over[0]["backup_id"], &passed_over[1]["backup_id"]),
        (&id(7).into(), &id(6).into()),
        "{ended}"
    );
    assert!(
        passed_over[0]["reason"]
            .as_str()
            .is_some_and(|why| why.contains("backup_information")),
        "{ended}"
    );
    assert!(ended.json()["pruned"].is_null());
    assert!(host.calls().is_empty(), "no command of GitLab's is run");
}

#[test]
fn a_sync_that_fails_says_where() {
    let (a, b) = (server(), server());
    let host = machine();
    configure(&host, &[table("a", &a.url(), ""), table("b", &b.url(), "")]);
    b.fault("PUT", &data(2), 0, usize::MAX, What::Answer(507, ""));
    let ended = host.run("sync --json");
    assert_eq!(ended.status, Some(3), "{ended}");
    assert!(has(&a, 2) && !has(&b, 2));
    assert!(
        ended.json()["error"]
            .as_str()
            .is_some_and(|error| error.contains("b: uploading to /Data/")),
        "{ended}"
    );
    let ended = host.run("sync --destination b");
    assert_eq!(ended.status, Some(1), "{ended}");
    let unknown = host.run("sync --destination c");
    assert_eq!(unknown.status, Some(2), "{unknown}");
    b.clear_faults();
    // What is there without its manifest gets it, and nothing is sent twice.
    b.put_file(
        &format!("/Data/{}", data(2)),
        &fs::read(host.path("var/opt/gitlab/backups").join(data(2))).expect("the archive"),
    );
    let ended = host.run("sync --destination b --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert!(has(&b, 2));
    assert_eq!(rows(&ended, "b"), ["already_present"; 2], "{ended}");
}
