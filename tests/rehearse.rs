//! Proving that a backup restores, as a user sees it.

mod support;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;

use serde_json::{Value, json};
use support::backup::RealBackup;
use support::dropbox::{Dropbox, Fault, Options, What};
use support::host::{Ended, Host};

const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");
const STAMP: u64 = 1_702_758_583;
const ID: &str = "1702758583_2023_12_16_17.8.2";
const CONFIG: &str = "gitlab_config_1702758583_2023_12_16.tar";
const DATA: &str = "1702758583_2023_12_16_17.8.2_gitlab_backup.tar";

fn put(host: &Host, backup: &RealBackup, stamp: u64) {
    let config = host.path("etc/gitlab/config_backup");
    fs::create_dir_all(&config).expect("a folder");
    backup.write_into(&host.path("var/opt/gitlab/backups"), &config, stamp);
}

/// A machine whose real backup is stored.
fn stored() -> (Dropbox, Host) {
    let dropbox = Dropbox::start(Options::default());
    let host = Host::new(PROGRAM, &dropbox);
    put(&host, &RealBackup::new(1), STAMP);
    let ended = host.run("run --skip-create");
    assert_eq!(ended.status, Some(0), "{ended}");
    (dropbox, host)
}

/// `archive part status` of what is not ok; `skipped` is.
fn flaws(ended: &Ended) -> Vec<String> {
    let document = ended.json();
    let parts = document["parts"].as_array().expect("parts");
    assert!(!parts.is_empty(), "{ended}");
    let flawed = parts
        .iter()
        .filter(|part| part["status"] == "failed" || part["status"] == "warning");
    flawed
        .map(|part| {
            let text = |key: &str| part[key].as_str().expect("a text").to_owned();
            format!("{} {} {}", text("archive"), text("part"), text("status"))
        })
        .collect()
}

fn rehearsed_at(host: &Host, arguments: &str) -> Value {
    let ended = host.run(&format!("list --json {arguments}"));
    ended.json()["backups"][0]["rehearsed_at"].clone()
}

#[test]
fn a_good_backup_is_restorable_and_that_is_remembered() {
    let (dropbox, host) = stored();
    assert_eq!(rehearsed_at(&host, "--destination dropbox"), Value::Null);
    let ended = host.run("rehearse --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    let report = ended.json();
    assert_eq!(report["command"], "rehearse");
    assert_eq!(report["status"], "ok");
    assert_eq!(report["restorable"], true);
    assert_eq!(report["backup_id"], ID);
    assert_eq!(report["destination"], "dropbox");
    assert_eq!(flaws(&ended), [""; 0], "{ended}");
    let parts = report["parts"].as_array().expect("parts");
    for part in [
        "tar",
        "hash",
        "secrets",
        "settings",
        "information",
        "db",
        "repositories",
        "uploads",
    ] {
        assert!(
            parts.iter().any(|row| row["part"] == part),
            "{part} is not judged: {ended}"
        );
    }
    assert!(rehearsed_at(&host, "--destination dropbox").is_string());
    let history = fs::read_to_string(host.path("state/history.jsonl")).expect("history");
    assert!(history.contains("\"command\":\"rehearse\""), "{history}");
    // Another machine knows it too.
    let other = Host::new(PROGRAM, &dropbox);
    assert!(rehearsed_at(&other, "").is_string());
    let text = host.run("rehearse latest --destination dropbox").out;
    assert!(
        text.ends_with(&format!("restorable: {ID} at dropbox\n")),
        "{text}"
    );
}

#[test]
fn an_archive_that_was_damaged_where_it_is_stored_is_not_restorable() {
    for (kind, at, parts) in [("Data", 40_000, "hash"), ("Config", 4_000, "hash")] {
        let (dropbox, host) = stored();
        let path = format!("/{kind}/{}", if kind == "Data" { DATA } else { CONFIG });
        let mut bytes = dropbox.content(&path);
        bytes[at] ^= 0x10;
        dropbox.remove(&path);
        dropbox.put_file(&path, &bytes);
        let ended = host.run(&format!("rehearse {ID} --json"));
        assert_eq!(ended.status, Some(1), "{ended}");
        assert_eq!(ended.json()["restorable"], false);
        assert!(
            flaws(&ended)
                .iter()
                .any(|flaw| flaw.ends_with(&format!("{parts} failed"))),
            "{ended}"
        );
        assert_eq!(rehearsed_at(&host, "--destination dropbox"), Value::Null);
    }
}

#[test]
fn what_failed_its_rehearsal_counts_no_more_until_it_succeeds() {
    let (dropbox, host) = stored();
    // The archive itself is what was stored; what was stored cannot be restored.
    let mut broken = RealBackup::new(1).members(STAMP + 3_600);
    let dump = broken
        .iter_mut()
        .find(|member| member.path.contains("database.sql"))
        .expect("a dump");
    dump.data.truncate(dump.data.len() * 3 / 4);
    let id = RealBackup::new(1).id(STAMP + 3_600);
    let path = host
        .path("var/opt/gitlab/backups")
        .join(format!("{id}_gitlab_backup.tar"));
    support::backup::repack(&broken, &path);
    assert_eq!(host.run("run --skip-create --only data").status, Some(0));
    let ended = host.run("rehearse --json");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert_eq!(ended.json()["backup_id"], id);
    assert!(
        flaws(&ended).iter().any(|flaw| flaw.ends_with("db failed")),
        "{ended}"
    );
    let rows = host.run("list --json --destination dropbox").json()["backups"].clone();
    assert_eq!(
        (&rows[0]["complete"], &rows[1]["complete"]),
        (&json!(false), &json!(true))
    );
    // The newest complete one is now the one before.
    let ended = host.run("rehearse --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(ended.json()["backup_id"], ID);
    let proof = format!("/Manifests/{id}.proof.json");
    assert!(
        dropbox
            .content(&proof)
            .windows(19)
            .any(|w| w == b"failed_rehearsal_at")
    );
}

#[test]
fn an_archive_that_was_cut_where_it_is_stored_is_not_restorable() {
    let (dropbox, host) = stored();
    let path = format!("/Data/{DATA}");
    let bytes = dropbox.content(&path);
    dropbox.remove(&path);
    dropbox.put_file(&path, &bytes[..bytes.len() / 2]);
    let ended = host.run(&format!("rehearse {ID} --json"));
    assert_eq!(ended.status, Some(1), "{ended}");
    let flaws = flaws(&ended);
    for part in ["tar failed", "size failed", "hash failed"] {
        assert!(
            flaws.iter().any(|flaw| flaw.ends_with(part)),
            "{part}: {ended}"
        );
    }
    // It is no longer complete, so it is not what is taken unasked.
    let ended = host.run("rehearse");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(
        ended.err.contains("no backup is complete") && ended.err.contains(ID),
        "{ended}"
    );
}

#[test]
fn on_this_disk_nothing_is_asked_of_anybody_and_nothing_is_written() {
    let (dropbox, host) = stored();
    let data = host.path("var/opt/gitlab/backups");
    let before = (
        dropbox.requests().len(),
        fs::metadata(&data).expect("metadata").mtime_nsec(),
    );
    let ended = host.run("rehearse --local --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(ended.json()["destination"], "local");
    assert_eq!(flaws(&ended), [""; 0], "{ended}");
    assert_eq!(
        before,
        (
            dropbox.requests().len(),
            fs::metadata(&data).expect("metadata").mtime_nsec()
        )
    );
    assert!(rehearsed_at(&host, "--local").is_string());

    // A bit that no checksum of gzip's or git's covers: only the hash that was stored tells.
    let path = data.join(DATA);
    let mut bytes = fs::read(&path).expect("read");
    let at = bytes
        .windows(4)
        .position(|window| window == b"PGDM")
        .unwrap_or(700);
    bytes[at] ^= 1;
    fs::write(&path, bytes).expect("written");
    let ended = host.run("rehearse --local --json");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(
        flaws(&ended)
            .iter()
            .any(|flaw| flaw.ends_with("hash failed")),
        "{ended}"
    );
}

#[test]
fn a_line_that_breaks_proves_nothing_and_one_that_hiccups_does_no_harm() {
    let (dropbox, mut host) = stored();
    dropbox.fault(Fault::on("download", What::server_error(503)).times(2));
    let ended = host.run("rehearse --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    host.set("GITLAB_PI_BACKUP_UPLOAD__RETRY_FOR", "1s");
    fs::remove_dir_all(host.path("state/cache")).expect("removed");
    // The manifest and the proof can be read, the second archive cannot.
    dropbox.fault(
        Fault::on("download", What::server_error(503))
            .skip(3)
            .forever(),
    );
    let ended = host.run("rehearse --json");
    assert_eq!(ended.status, Some(1), "{ended}");
    let report = ended.json();
    assert_eq!(report["restorable"], Value::Null);
    assert!(
        report["error"].as_str().expect("an error").contains("503"),
        "{ended}"
    );
    assert!(!ended.err.contains("panic"), "{ended}");
}

#[test]
fn what_is_missing_is_told() {
    let (dropbox, host) = stored();
    let ended = host.run("rehearse 1702758583_2023_12_16_17.8.3");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(
        ended
            .err
            .contains("there is no backup 1702758583_2023_12_16_17.8.3"),
        "{ended}"
    );
    assert!(ended.err.contains(ID), "the way out: {ended}");
    dropbox.remove(&format!("/Config/{CONFIG}"));
    let ended = host.run(&format!("rehearse {ID} --json"));
    assert_eq!(ended.status, Some(1), "{ended}");
    assert_eq!(flaws(&ended), ["(config archive) archive failed"]);
    fs::remove_file(host.path("etc/gitlab/config_backup").join(CONFIG)).expect("removed");
    let ended = host.run("rehearse --local --json");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert_eq!(flaws(&ended), ["(config archive) archive failed"]);

    let dropbox = Dropbox::start(Options::default());
    let host = Host::new(PROGRAM, &dropbox);
    for arguments in ["rehearse", "rehearse --local"] {
        let ended = host.run(arguments);
        assert_eq!(ended.status, Some(1), "{ended}");
        assert!(
            ended.err.contains("make one: gitlab-pi-backup run"),
            "{ended}"
        );
    }
    for arguments in [
        "rehearse --git",
        "rehearse --scratch /tmp",
        "rehearse --local --destination dropbox",
        "rehearse --git --scratch /nowhere",
        "rehearse --destination other",
    ] {
        assert_eq!(host.run(arguments).status, Some(2), "{arguments}");
    }
}

#[test]
fn backups_of_another_program_and_older_gitlabs_can_be_proved() {
    let dropbox = Dropbox::start(Options::default());
    let host = Host::new(PROGRAM, &dropbox);
    let backup = RealBackup::legacy(3);
    put(&host, &backup, STAMP);
    let id = backup.id(STAMP);
    let name = format!("{id}_gitlab_backup.tar");
    let data = fs::read(host.path("var/opt/gitlab/backups").join(&name)).expect("read");
    let config = fs::read(host.path("etc/gitlab/config_backup").join(CONFIG)).expect("read");
    dropbox.put_file(&format!("/Data/{name}"), &data);
    dropbox.put_file(&format!("/Config/{CONFIG}"), &config);
    let ended = host.run(&format!("rehearse {id} --json"));
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(flaws(&ended), [""; 0], "{ended}");
    assert!(rehearsed_at(&host, "--destination dropbox").is_string());
}

#[test]
fn what_shrank_against_the_backup_before_is_a_warning() {
    let (_dropbox, host) = stored();
    put(&host, &RealBackup::new(1).projects(1), STAMP + 86_400);
    assert_eq!(host.run("run --skip-create").status, Some(3));
    let ended = host.run("rehearse --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(ended.json()["restorable"], true);
    let flaws = flaws(&ended);
    assert!(
        flaws.len() == 1 && flaws[0].ends_with("previous warning"),
        "{ended}"
    );
}

#[test]
fn a_manifest_that_contradicts_the_archive_is_told() {
    let (dropbox, host) = stored();
    let path = format!("/Manifests/{ID}.json");
    let mut manifest: Value = serde_json::from_slice(&dropbox.content(&path)).expect("JSON");
    manifest["archives"][1]["contents"]["repositories"] = json!(99);
    manifest["archives"][1]["contents"]["parts"]["uploads"] = json!(1);
    dropbox.put_file(&path, manifest.to_string().as_bytes());
    let ended = host.run("rehearse --json");
    assert_eq!(ended.status, Some(1), "{ended}");
    let flaws = flaws(&ended);
    assert!(
        flaws.iter().any(|flaw| flaw.ends_with("parts failed")),
        "{ended}"
    );
    // Damaged, it stands in the way of nothing else.
    dropbox.put_file(&path, b"{\"format\":1");
    let ended = host.run(&format!("rehearse {ID} --json"));
    assert_eq!(ended.status, Some(1), "{ended}");
    assert_eq!(self::flaws(&ended), [format!("{ID}.json manifest failed")]);
}

#[test]
fn git_is_asked_where_it_is_installed() {
    let (_dropbox, mut host) = stored();
    if std::process::Command::new("git")
        .arg("--version")
        .output()
        .is_err()
    {
        // Not by a macro, whose output a test that passes does not show.
        writeln!(std::io::stderr(), "skipped: there is no `git` here").expect("standard error");
        return;
    }
    host.set("PATH", std::env::var_os("PATH").expect("a path"));
    let scratch = host.path("scratch");
    fs::create_dir(&scratch).expect("a folder");
    let ended = host.run(&format!(
        "rehearse --git --scratch {} --json",
        scratch.display()
    ));
    assert_eq!(ended.status, Some(0), "{ended}");
    assert!(
        ended.out.contains("\"part\":\"git\",\"status\":\"ok\""),
        "{ended}"
    );
    assert_eq!(
        fs::read_dir(&scratch).expect("a folder").count(),
        0,
        "it is left empty"
    );
    // That there is none here says nothing about the backup.
    host.set("PATH", "/nowhere");
    let ended = host.run(&format!(
        "rehearse --git --scratch {} --json",
        scratch.display()
    ));
    assert_eq!(ended.status, Some(1), "{ended}");
    assert_eq!(ended.json()["restorable"], Value::Null, "{ended}");
    assert!(ended.err.contains("rehearse without --git"), "{ended}");
    assert!(rehearsed_at(&host, "--destination dropbox").is_string());
    assert_eq!(
        host.run("list --json --destination dropbox").json()["backups"][0]["complete"],
        true
    );
}
