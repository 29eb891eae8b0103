//! The engine `gitlab-backup-cli`, whose backup is a folder: made, sent as its tar, judged, restored and pruned, as a
//! user sees it.

mod support;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, mpsc};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::backup::RealBackup;
use support::dropbox::{Dropbox, Fault, Moment, Options, What};
use support::host::{Ended, Host};
use support::kill::kill_at;

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

#[test]
fn options_that_the_tool_does_not_have_are_faults_of_the_configuration() {
    for (line, key) in [
        ("skip = [\"registry\"]", "skip"),
        ("strategy = \"copy\"", "strategy"),
        ("stream = true", "stream"),
    ] {
        let (_dropbox, host) = healthy();
        let config = fs::read_to_string(host.path("config.toml")).expect("the configuration");
        let engine = "engine = \"gitlab-backup-cli\"\n";
        host.write_config(&config.replace(engine, &format!("{engine}{line}\n")));
        let ended = host.run("run");
        assert_eq!(ended.status, Some(2), "{ended}");
        for words in [
            &format!("`gitlab.{key}`"),
            "gitlab-backup-cli",
            "leave it out",
        ] {
            assert!(ended.err.contains(words), "{words}: {ended}");
        }
        assert_eq!(host.calls(), "");
    }
}

#[test]
fn what_the_tool_does_not_finish_is_no_backup_and_is_told() {
    for (fault, words) in [
        ("exit-before", "GitLab Backup failed: connection to server"),
        ("db-failed", "pg_dump: error: connection to server failed"),
        ("killed", "was killed by signal 9"),
        ("killed-moving", "was killed by signal 9"),
        ("no-archive", "left no new archive"),
        ("no-information", "has no backup_information.json"),
    ] {
        let (dropbox, mut host) = healthy();
        host.set("STUB_FAIL", fault);
        let ended = host.run("run --json");
        assert_eq!(ended.status, Some(1), "{fault}: {ended}");
        let report = ended.json();
        let mut steps = report["steps"].as_array().expect("steps").iter();
        let step = steps
            .find(|step| step["step"] == "data_command")
            .expect("a step");
        let error = step["error"].as_str().expect("an error");
        assert!(error.contains(words), "{fault}: {error}");
        // Nothing of the data was sent, and what the tool left is still there.
        let stored: Vec<_> = dropbox
            .archives()
            .into_iter()
            .map(|file| file.path_display)
            .collect();
        assert!(
            stored.iter().all(|path| !path.starts_with("/Data")),
            "{fault}: {stored:?}"
        );
        assert!(
            report["archives"]
                .as_array()
                .expect("rows")
                .iter()
                .all(|row| row["kind"] == "config"),
            "{fault}: {report}"
        );
        let left = names(&backups(&host));
        let expected = match fault {
            "exit-before" | "no-archive" => 0,
            "killed-moving" => 2,
            _ => 1,
        };
        assert_eq!(left.len(), expected, "{fault}: {left:?}");
        let listed = good(host.run("list --local --json")).json();
        assert_eq!(listed["backups"], Value::Array(Vec::new()), "{fault}");
        let staging = |host: &Host| {
            let document = host.run("doctor --offline --json").json();
            let mut checks = document["checks"].as_array().expect("checks").iter();
            checks
                .find(|check| check["check"] == "staging")
                .expect("the check")
                .clone()
        };
        let check = staging(&host);
        assert_eq!(
            check["status"],
            if expected == 0 { "ok" } else { "failed" },
            "{fault}: {check}"
        );
        for name in &left {
            let hint = check["hint"].as_str().expect("a hint");
            assert!(
                hint.contains(&backups(&host).join(name).display().to_string()),
                "{fault}: {hint}"
            );
        }
        // The next one is not held up by it, and is a whole one.
        host.set("STUB_FAIL", "").set("STUB_NOW", "1702758900");
        let report = good(host.run("run --json")).json();
        assert_eq!(
            report["backup_id"], "1702758900_2023_12_16_17.8.2",
            "{fault}"
        );
        let report = good(host.run("run --skip-create --json")).json();
        assert_eq!(
            report["backup_id"], "1702758900_2023_12_16_17.8.2",
            "{fault}"
        );
    }
}

#[test]
fn a_whole_folder_with_something_wrong_is_sent_doubted_and_never_complete() {
    for (fault, words) in [
        (
            "other-id",
            "`backup_id` is 11702758583_2023_12_16_17.8.2, and the folder's name says",
        ),
        (
            "other-version",
            "`gitlab_version` is 16.11.0, and the folder's name says 17.8.2",
        ),
        (
            "later-metadata",
            "metadata version 3, and this program knows 2 alone",
        ),
        ("db-empty", "does not begin like a database dump"),
        ("no-db", "there is no database dump in it"),
        ("link", "link is neither a file nor a folder"),
    ] {
        let (dropbox, mut host) = healthy();
        host.set("STUB_FAIL", fault);
        let ended = host.run("run --json");
        assert_eq!(ended.status, Some(1), "{fault}: {ended}");
        let report = ended.json();
        let row = data(&report);
        let doubts = row["doubts"].as_array().expect("doubts");
        assert_eq!(doubts.len(), 1, "{fault}: {row}");
        assert!(
            doubts[0]
                .as_str()
                .is_some_and(|doubt| doubt.contains(words)),
            "{fault}: {row}"
        );
        assert_eq!(row["uploads"][0]["status"], "uploaded", "{fault}");
        assert!(!dropbox.content(DATA).is_empty());
        let listed = good(host.run("list --destination dropbox --json")).json();
        assert_eq!(listed["backups"][0]["complete"], false, "{fault}: {listed}");
        let rehearsal = host.run(&format!("rehearse {ID} --json"));
        assert_eq!(rehearsal.status, Some(1), "{fault}: {rehearsal}");
        assert_eq!(rehearsal.json()["restorable"], false, "{fault}");
    }
    // A part that is missing is no doubt, for GitLab may keep it elsewhere; whoever rehearses is told.
    let (_dropbox, mut host) = healthy();
    host.set("STUB_FAIL", "no-uploads");
    good(host.run("run"));
    let rehearsal = good(host.run("rehearse --json")).json();
    let mut parts = rehearsal["parts"].as_array().expect("parts").iter();
    let uploads = parts
        .find(|part| part["part"] == "uploads")
        .expect("a verdict");
    assert_eq!(uploads["status"], "warning", "{uploads}");
}

/// Writes a byte behind the end of a file each time a request meets this moment.
fn grow(dropbox: &Dropbox, path: &Path, skip: usize, times: usize) {
    let path = path.to_owned();
    let grow = move || {
        let mut file = fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .expect("the file");
        file.write_all(b"x").expect("grown");
    };
    let call = What::Call(Moment::Head, Arc::new(grow));
    dropbox.fault(Fault::on("append_v2", call).skip(skip).times(times));
}

#[test]
fn a_folder_that_changes_while_it_is_read_is_read_again() {
    let (dropbox, mut host) = healthy();
    host.set("STUB_SIZE", "9000000");
    good(host.run("run --only config"));
    let folder = backups(&host).join(ID);
    grow(&dropbox, &folder.join("uploads.tar.gz"), 0, 1);
    let ended = host.run("run --only data --json");
    let report = ended.json();
    assert_eq!(ended.status, Some(0), "{ended}");
    assert!(
        ended
            .err
            .contains(&format!("{ID}/uploads.tar.gz has changed")),
        "{ended}"
    );
    assert!(ended.err.contains("it is read again"), "{ended}");
    let row = data(&report);
    assert_eq!(row["uploads"].as_array().map(Vec::len), Some(1), "{row}");
    assert_eq!(row["uploads"][0]["status"], "uploaded");
    // What is stored is the folder as it is, and nothing of the first reading.
    good(host.run("verify"));
    let again = good(host.run("run --skip-create --json")).json();
    assert_eq!(data(&again)["uploads"][0]["status"], "already_present");
    assert_eq!(again["manifests"][0]["status"], "unchanged");
    assert_eq!(names(&host.path("state/uploads")), [""; 0]);
}

#[test]
fn a_folder_that_goes_on_changing_fails_with_the_files_name() {
    let (dropbox, mut host) = healthy();
    host.set("STUB_SIZE", "9000000");
    let folder = backups(&host).join(ID);
    grow(&dropbox, &folder.join("uploads.tar.gz"), 0, 1_000);
    let ended = host.run("run --only data --json");
    assert_eq!(ended.status, Some(1), "{ended}");
    let report = ended.json();
    let error = data(&report)["uploads"][0]["error"]
        .as_str()
        .expect("an error");
    assert!(
        error.contains(&format!("{ID}/uploads.tar.gz has changed")),
        "{error}"
    );
    assert!(dropbox.archives().is_empty());
    let begun = dropbox
        .requests()
        .into_iter()
        .filter(|seen| seen.endpoint.ends_with("upload_session/start"));
    assert_eq!(begun.count(), 3, "each reading has a session of its own");
    // Once it is at rest it is sent.
    dropbox.clear_faults();
    let report = good(host.run("run --skip-create --only data --json")).json();
    assert_eq!(data(&report)["uploads"][0]["status"], "uploaded");
}

#[test]
fn after_a_kill_the_upload_goes_on_where_it_was() {
    let (dropbox, mut host) = healthy();
    host.set("STUB_SIZE", "12000000");
    // At the part that closes the session: by then the two chunks before it have been acknowledged.
    let (send_pid, pid) = mpsc::channel();
    let pid = Mutex::new(pid);
    let kill = move || {
        let pid = pid.lock().expect("not poisoned").recv().expect("a process");
        kill_process(Pid::from_raw(pid).expect("a process"), Signal::KILL).expect("killed");
    };
    let call = What::Call(Moment::Head, Arc::new(kill));
    dropbox.fault(Fault::on("append_v2", call).skip(2));
    let child = host.spawn("run --only data");
    let process = i32::try_from(child.id()).expect("a process");
    send_pid.send(process).expect("somebody waits");
    let killed = Ended::from(child.wait_with_output().expect("ended"));
    assert_eq!(killed.status, None, "{killed}");
    dropbox.clear_faults();
    let report = good(host.run("run --skip-create --only data --json")).json();
    let upload = &data(&report)["uploads"][0];
    assert_eq!(upload["status"], "uploaded", "{upload}");
    assert!(
        upload["bytes_resumed"].as_u64() >= Some(8 << 20),
        "{upload}"
    );
    let again = good(host.run("run --skip-create --only data --json")).json();
    assert_eq!(data(&again)["uploads"][0]["status"], "already_present");
}

#[test]
fn old_folders_are_pruned_when_they_are_stored_and_nothing_else_is() {
    let (dropbox, mut host) = healthy_with("[retention]\nkeep_last = 5\nlocal = 1\n");
    let id = |stamp: u64| format!("{stamp}_2023_12_16_17.8.2");
    for stamp in [1_702_758_583_u64, 1_702_758_600] {
        host.set("STUB_NOW", stamp.to_string());
        good(host.run("run --no-prune"));
    }
    // One that differs from what is stored, and one that is stored nowhere.
    let spoiled = 1_702_758_590;
    host.set("STUB_NOW", spoiled.to_string());
    good(host.run("run --no-prune"));
    fs::write(backups(&host).join(id(spoiled)).join("more"), "x").expect("written");
    let unsent = backups(&host).join(id(1_702_758_580));
    fs::create_dir(&unsent).expect("a folder");
    fs::write(unsent.join("backup_information.json"), "{}").expect("written");
    let ended = host.run("prune --json");
    let document = ended.json();
    let local = |id: &str| {
        let mut rows = document["plan"].as_array().expect("a plan").iter();
        let row = rows.find(|row| row["destination"] == "local" && row["backup_id"] == id);
        row.unwrap_or_else(|| panic!("{id} in {document}"))["action"].clone()
    };
    assert_eq!(local(&id(1_702_758_600)), "keep");
    assert_eq!(local(&id(1_702_758_583)), "delete");
    assert_eq!(local(&id(1_702_758_580)), "keep");
    let left = names(&backups(&host));
    assert_eq!(
        left,
        [id(1_702_758_580), id(spoiled), id(1_702_758_600)],
        "{ended}"
    );
    assert_eq!(
        dropbox
            .archives()
            .iter()
            .filter(|file| file.path_display.starts_with("/Data"))
            .count(),
        3
    );
}

#[test]
fn a_lost_machine_gets_everything_back_by_the_same_tool() {
    let dropbox = Dropbox::start(Options::default());
    let mut host = Host::new(PROGRAM, &dropbox);
    let config = host.config(&dropbox);
    host.write_config(&config.replace("[gitlab]\n", "[gitlab]\nengine = \"gitlab-backup-cli\"\n"));
    host.populate(&RealBackup::new(5));
    host.set("STUB_NOW", "1702758583");
    good(host.run("run"));
    good(host.run("rehearse"));
    let (mut state, configuration) = (host.gitlab_state(), host.gitlab_configuration());
    // No version of that tool so far has this part.
    state.retain(|name, _| !name.starts_with("external_diffs"));
    host.wipe();
    let plan = good(host.run("restore --plan"));
    for line in [
        format!("gitlab-backup-cli restore all {ID}"),
        format!("have the folder {ID} in"),
    ] {
        assert!(plan.out.contains(&line), "{plan}");
    }
    assert!(!plan.out.contains("gitlab-backup restore"), "{plan}");
    let recovery = String::from_utf8(dropbox.content("/RECOVERY.md")).expect("a text");
    for line in [
        format!("tar -xpf /root/restore/{ID}.tar -C /var/opt/gitlab/backups"),
        format!("gitlab-backup-cli restore all {ID}"),
    ] {
        assert!(recovery.contains(&line), "{recovery}");
    }
    let ended = good(host.run("restore --apply --yes --json"));
    assert!(
        host.calls()
            .contains(&format!("gitlab-backup-cli argv=[restore][all][{ID}]")),
        "{}",
        host.calls()
    );
    let mut back = host.gitlab_state();
    back.retain(|name, _| !name.starts_with("external_diffs"));
    assert_eq!(back, state, "{ended}");
    assert_eq!(host.gitlab_configuration(), configuration, "{ended}");
    assert_eq!(names(&backups(&host)), [ID]);
}

#[test]
fn where_the_tool_is_missing_nothing_is_restored() {
    let (_dropbox, host, _) = stored();
    fs::remove_file(host.path("bin/gitlab-backup-cli")).expect("removed");
    let ended = host.run("restore --apply --yes");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(
        ended
            .err
            .contains("made by `gitlab-backup-cli`, and there is none"),
        "{ended}"
    );
    assert!(ended.err.contains("nothing was changed"), "{ended}");
    let doctor = host.run("doctor --offline");
    assert!(
        doctor
            .out
            .contains("gitlab-backup-cli is not on this machine"),
        "{doctor}"
    );
}

#[test]
fn what_is_damaged_or_hostile_is_never_placed() {
    let (dropbox, host, tar) = stored();
    take_away(&host);
    let mut spoiled = tar.clone();
    let middle = spoiled.len() / 2;
    spoiled[middle] ^= 1;
    let ended = {
        dropbox.put_file(DATA, &spoiled);
        host.run("restore --only data")
    };
    assert_eq!(ended.status, Some(1), "{ended}");
    assert_eq!(names(&backups(&host)), [""; 0], "{ended}");
    // Without a manifest its hash is the destination's own; the tar is trusted in nothing all the same.
    dropbox.remove(&format!("/Manifests/{ID}.json"));
    let outside = host.path("outside");
    let mut hostile = Vec::new();
    for (name, data) in [
        (format!("{ID}/backup_information.json"), &b"{}"[..]),
        (format!("{ID}/../../outside"), b"x"),
    ] {
        hostile.extend(support::host::tar_header(&name, data.len() as u64));
        hostile.extend(data);
        hostile.resize(hostile.len().next_multiple_of(512), 0);
    }
    hostile.resize(hostile.len() + 1024, 0);
    dropbox.put_file(DATA, &hostile);
    let ended = host.run(&format!("restore {ID} --only data"));
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(ended.err.contains("`..` in its name"), "{ended}");
    assert_eq!(names(&backups(&host)), [""; 0], "{ended}");
    assert!(!outside.exists());
}

#[test]
fn an_interrupted_restore_is_begun_anew_and_leaves_nothing() {
    let (dropbox, mut host) = healthy();
    host.set("STUB_SIZE", "9000000");
    good(host.run("run"));
    let kept = take_away(&host);
    let mut killed = 0;
    for n in 0..40 {
        match kill_at(&dropbox, &host, "restore --only data", n, Moment::Applied) {
            None => killed += 1,
            Some(ended) => {
                good(ended);
                break;
            }
        }
        let left = names(&backups(&host));
        assert!(left.iter().all(|name| name.starts_with('.')), "{left:?}");
    }
    assert!(killed > 3, "{killed}");
    assert_eq!(names(&backups(&host)), [ID]);
    assert_same(&backups(&host).join(ID), &kept);
}

#[test]
fn another_place_is_brought_up_to_date_and_projects_are_found_in_it() {
    let dropbox = Dropbox::start(Options::default());
    let mut host = Host::new(PROGRAM, &dropbox);
    let config = host.config(&dropbox);
    let config = config.replace("[gitlab]\n", "[gitlab]\nengine = \"gitlab-backup-cli\"\n");
    host.write_config(&config);
    host.populate(&RealBackup::new(5));
    host.set("STUB_NOW", "1702758583");
    good(host.run("run"));
    let disk = host.path("disk");
    fs::create_dir(&disk).expect("a folder");
    host.write_config(&format!(
        "{config}[destinations.disk]\ntype = \"fs\"\nroot = \"{}\"\nrequire_mount = false\n",
        disk.display()
    ));
    good(host.run("sync"));
    let stored = fs::read(disk.join(&DATA[1..])).expect("the tar");
    assert!(stored == dropbox.content(DATA), "the same tar everywhere");
    good(host.run("verify --destination disk"));
    good(host.run("rehearse --destination disk"));
    let listed = good(host.run("extract --list --json")).json();
    let projects = listed["projects"].as_array().expect("projects");
    let path = "demo/website";
    assert!(
        projects.iter().any(|project| project["path"] == path),
        "{listed}"
    );
    let to = host.path("out");
    good(host.run(&format!("extract {path} --to {}", to.display())));
    assert!(!names(&to).is_empty());
}

#[test]
fn an_encrypted_one_comes_back_as_the_folder_it_was() {
    if Command::new("age").arg("--version").output().is_err() {
        // Not by a macro, whose output a test that passes does not show.
        writeln!(std::io::stderr(), "skipped: there is no `age` here").expect("standard error");
        return;
    }
    let (dropbox, host, tar) = stored();
    let kept = take_away(&host);
    let (plain, key) = (host.path("plain.tar"), host.path("key"));
    fs::write(&plain, tar).expect("written");
    let made = Command::new("age-keygen").arg("-o").arg(&key).output();
    let told = String::from_utf8(made.expect("age-keygen runs").stderr).expect("a text");
    let recipient = told
        .trim()
        .rsplit(' ')
        .next()
        .expect("a recipient")
        .to_owned();
    let sealed = Command::new("age")
        .args(["-r", &recipient])
        .arg(&plain)
        .output();
    dropbox.put_file(&format!("{DATA}.age"), &sealed.expect("age runs").stdout);
    dropbox.remove(DATA);
    dropbox.remove(&format!("/Manifests/{ID}.json"));
    let key = key.display();
    let rehearsal = host
        .run(&format!("rehearse {ID} --identity {key} --json"))
        .json();
    assert_eq!(rehearsal["restorable"], true, "{rehearsal}");
    let ended = host.run(&format!("restore {ID} --only data"));
    assert_eq!(ended.status, Some(1), "{ended}");
    assert_eq!(names(&backups(&host)), [""; 0], "{ended}");
    good(host.run(&format!("restore {ID} --only data --identity {key}")));
    assert_eq!(names(&backups(&host)), [ID]);
    assert_same(&backups(&host).join(ID), &kept);
}
