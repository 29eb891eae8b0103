//! The engine `gitlab-backup-cli`, whose backup is a folder: made, sent as its tar, judged, restored and pruned, as a
//! user sees it.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use support::dropbox::{Dropbox, Options};
use support::host::{Ended, Host};

const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");
const ID: &str = "1702758583_2023_12_16_17.8.2";
const DATA: &str = "/Data/1702758583_2023_12_16_17.8.2.tar";

/// A machine whose GitLab is backed up by that tool; `more` goes into the configuration.
fn healthy_with(more: &str) -> (Dropbox, Host) {
    let dropbox = Dropbox::start(Options::default());
    let mut host = Host::new(PROGRAM, &dropbox);
    let config = host
        .config(&dropbox)
        .replace("[gitlab]\n", "[gitlab]\nengine = \"gitlab-backup-cli\"\n");
    host.write_config(&(config + more));
    host.set("STUB_NOW", "1702758583");
    (dropbox, host)
}

fn healthy() -> (Dropbox, Host) {
    healthy_with("")
}

fn backups(host: &Host) -> PathBuf {
    host.path("var/opt/gitlab/backups")
}

/// The names in a folder, hidden ones too.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
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

/// Status of the one upload of the data archive, and the archive's row.
fn data(report: &Value) -> &Value {
    let archives = report["archives"].as_array().expect("archives");
    let mut data = archives.iter().filter(|archive| archive["kind"] == "data");
    let row = data.next().expect("a data archive");
    assert!(data.next().is_none(), "one row for each archive: {report}");
    row
}

fn good(ended: Ended) -> Ended {
    assert_eq!(ended.status, Some(0), "{ended}");
    ended
}

#[test]
fn the_folder_is_made_sent_as_its_tar_and_judged_like_any_backup() {
    let (dropbox, host) = healthy();
    let report = good(host.run("run --json")).json();
    assert_eq!(report["backup_id"], ID);
    assert_eq!(report["gitlab_version"], "17.8.2");
    let row = data(&report);
    assert_eq!(row["name"], format!("{ID}.tar"));
    assert_eq!(row["made_by_this_run"], true);
    assert_eq!(row["doubts"], Value::Array(Vec::new()));
    assert_eq!(row["uploads"][0]["path"], DATA);
    assert_eq!(row["uploads"][0]["status"], "uploaded");
    assert!(
        host.calls()
            .contains("gitlab-backup-cli argv=[backup][all]"),
        "{}",
        host.calls()
    );
    // Nothing but the folder is on this machine, and the tar is of it.
    assert_eq!(names(&backups(&host)), [ID]);
    let stored = dropbox.content(DATA);
    assert_eq!(row["size"], stored.len());
    let unpacked = tempfile::tempdir().expect("a temporary folder");
    let tar = unpacked.path().join("a.tar");
    fs::write(&tar, &stored).expect("written");
    let mut unpack = Command::new("tar");
    unpack.arg("-xf").arg(&tar).arg("-C").arg(unpacked.path());
    assert!(unpack.status().expect("tar runs").success());
    let mut compare = Command::new("diff");
    compare
        .arg("-r")
        .arg(unpacked.path().join(ID))
        .arg(backups(&host).join(ID));
    assert!(compare.status().expect("diff runs").success());

    let again = good(host.run("run --skip-create --json")).json();
    assert_eq!(data(&again)["uploads"][0]["status"], "already_present");
    let listed = good(host.run("list --json")).json();
    let rows = listed["backups"].as_array().expect("rows");
    assert_eq!(rows.len(), 2, "{listed}");
    for row in rows {
        assert_eq!(
            (row["backup_id"].as_str(), row["complete"].as_bool()),
            (Some(ID), Some(true)),
            "{row}"
        );
        assert_eq!(row["gitlab_version"], "17.8.2");
        assert!(row["size"].as_u64() >= Some(stored.len() as u64), "{row}");
    }
    assert_eq!(listed["unknown"], Value::Array(Vec::new()));
    good(host.run("verify"));
    good(host.run("status --max-age 3650d"));
    good(host.run("status --max-age 3650d --remote"));
    for place in ["", " --local"] {
        let rehearsal = good(host.run(&format!("rehearse{place} --json"))).json();
        assert_eq!(rehearsal["restorable"], true);
        let parts = rehearsal["parts"].as_array().expect("parts");
        let of_data: Vec<_> = parts
            .iter()
            .filter(|part| part["archive"] == format!("{ID}.tar"))
            .map(|part| format!("{} {}", part["part"], part["status"]).replace('"', ""))
            .collect();
        for expected in [
            "tar ok",
            "information ok",
            "db ok",
            "repositories ok",
            "uploads ok",
            "ci_secure_files ok",
            "hash ok",
        ] {
            assert!(
                of_data.iter().any(|part| part == expected),
                "{expected}: {of_data:?}"
            );
        }
        assert!(
            of_data
                .iter()
                .all(|part| part.ends_with(" ok") || part.starts_with("repositories")),
            "{of_data:?}"
        );
    }
}

/// A machine after `run`, whose backup is stored, and the bytes of its tar.
fn stored() -> (Dropbox, Host, Vec<u8>) {
    let (dropbox, host) = healthy();
    good(host.run("run"));
    let tar = dropbox.content(DATA);
    (dropbox, host, tar)
}

/// Moves the folder away, to be compared with.
fn take_away(host: &Host) -> PathBuf {
    let kept = host.path("kept");
    fs::rename(backups(host).join(ID), &kept).expect("moved");
    kept
}

fn assert_same(a: &Path, b: &Path) {
    let mut compare = Command::new("diff");
    compare.arg("-r").arg(a).arg(b);
    assert!(compare.status().expect("diff runs").success());
    let listing = |folder: &Path| {
        let mut list = Command::new("find");
        list.arg(".")
            .args(["-printf", "%P %m %U:%G %Ts\\n"])
            .current_dir(folder);
        let out = list.output().expect("find runs").stdout;
        let mut lines: Vec<_> = String::from_utf8_lossy(&out)
            .lines()
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines
    };
    assert_eq!(listing(a), listing(b));
}

#[test]
fn it_comes_back_as_the_folder_it_was_and_is_never_overwritten() {
    let (_dropbox, host, tar) = stored();
    let kept = take_away(&host);
    let report = good(host.run("restore --only data --json")).json();
    let row = &report["archives"][0];
    assert_eq!(row["path"], backups(&host).join(ID).display().to_string());
    assert_eq!(
        (row["status"].as_str(), row["verified"].as_bool()),
        (Some("fetched"), Some(true))
    );
    assert_eq!(
        (row["size"].as_u64(), row["bytes_fetched"].as_u64()),
        (Some(tar.len() as u64), Some(tar.len() as u64))
    );
    assert_eq!(names(&backups(&host)), [ID]);
    assert_same(&backups(&host).join(ID), &kept);
    // It is the same backup: nothing is fetched again, nothing sent.
    let report = good(host.run("restore --only data --json")).json();
    assert_eq!(report["archives"][0]["status"], "already_present");
    let report = good(host.run("run --skip-create --json")).json();
    assert_eq!(data(&report)["uploads"][0]["status"], "already_present");
    // What is there and is something else stays.
    fs::write(backups(&host).join(ID).join("db/database.sql.gz"), "mine").expect("written");
    let ended = host.run("restore --only data");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(ended.err.contains("nothing is overwritten"), "{ended}");
    assert_eq!(
        fs::read(backups(&host).join(ID).join("db/database.sql.gz")).expect("read"),
        b"mine"
    );
    // Elsewhere it is a tar, which is fetched on where it was interrupted, and is unpacked by hand.
    let to = host.path("elsewhere");
    let report =
        good(host.run(&format!("restore --only data --to {} --json", to.display()))).json();
    assert_eq!(
        report["archives"][0]["path"],
        to.join(format!("{ID}.tar")).display().to_string()
    );
    assert_eq!(
        fs::read(to.join(format!("{ID}.tar"))).expect("the tar"),
        tar
    );
}
