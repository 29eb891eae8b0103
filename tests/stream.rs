//! `stream = true`: no tar on the local disk, the parts that GitLab leaves are sent as one.

mod support;

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use support::backup::RealBackup;
use support::dropbox::{Dropbox, Fault, Moment, Options, Reply, What};
use support::host::{Ended, Host};
use support::kill::kill_at;

const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");
const ID: &str = "1702758583_2023_12_16_17.8.2";
const NEXT: &str = "1702844983_2023_12_17_17.8.2";
const BACKUPS: &str = "var/opt/gitlab/backups";

fn machine() -> (Dropbox, Host) {
    let dropbox = Dropbox::start(Options::default());
    let mut host = Host::new(PROGRAM, &dropbox);
    host.write_config(&streaming(&host.config(&dropbox)));
    host.set("STUB_NOW", "1702758583");
    (dropbox, host)
}

fn streaming(config: &str) -> String {
    config.replace("[gitlab]\n", "[gitlab]\nstream = true\n")
}

/// Where a backup is stored.
fn stored(id: &str) -> String {
    format!("/Data/{id}_gitlab_backup.tar")
}

/// GitLab makes a backup, and leaves its parts.
fn make_parts(host: &Host) {
    let made = host.gitlab("gitlab-backup create SKIP=tar").output();
    let made = Ended::from(made.expect("the stand-in"));
    assert_eq!(made.status, Some(0), "{made}");
}

/// The names in GitLab's folder.
fn left(host: &Host) -> Vec<String> {
    let entries = fs::read_dir(host.path(BACKUPS)).expect("a folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<_> = names
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn tar(arguments: &[&str], archive: &Path) -> Vec<u8> {
    let mut command = Command::new("tar");
    let ended = command.args(arguments).arg("-f").arg(archive).output();
    let ended = ended.expect("GNU tar");
    assert!(ended.status.success(), "{ended:?}");
    ended.stdout
}

/// The archive that a destination holds, as a file here.
fn fetched(dropbox: &Dropbox, host: &Host, id: &str) -> PathBuf {
    let path = host.path(&format!("{id}.fetched"));
    fs::write(&path, dropbox.content(&stored(id))).expect("written");
    path
}

fn archives(dropbox: &Dropbox) -> Vec<String> {
    let mut paths: Vec<_> = dropbox
        .archives()
        .into_iter()
        .map(|file| file.path_display)
        .filter(|path| path.starts_with("/Data/"))
        .collect();
    paths.sort();
    paths
}

fn row<'a>(report: &'a Value, id: &str) -> &'a Value {
    let name = format!("{id}_gitlab_backup.tar");
    let rows = report["archives"].as_array().expect("archives");
    let mut of_it = rows.iter().filter(|row| row["name"] == name);
    let row = of_it.next().unwrap_or_else(|| panic!("{report}"));
    assert!(of_it.next().is_none(), "two rows: {report}");
    row
}

/// How many data backups GitLab was asked to make.
fn made(host: &Host) -> usize {
    let calls = host.calls();
    calls
        .lines()
        .filter(|line| line.starts_with("gitlab-backup argv=[create]"))
        .count()
}

#[test]
fn the_parts_are_stored_as_gitlabs_own_tar_and_removed() {
    let (dropbox, host) = machine();
    host.write_config(
        &streaming(&host.config(&dropbox)).replace("stream", "skip = [\"pages\"]\nstream"),
    );
    for foreign in [
        "notes.txt",
        "1702000000_2023_12_08_17.8.2_gitlab_backup.tar",
    ] {
        fs::write(host.path(BACKUPS).join(foreign), b"not yours").expect("a foreign file");
    }
    fs::create_dir(host.path(BACKUPS).join("pages")).expect("a foreign folder");
    let ended = host.run("run --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert!(host.calls().contains("SKIP=pages,tar"), "{}", host.calls());
    let report = ended.json();
    assert_eq!(report["backup_id"], ID);
    assert_eq!(row(&report, ID)["made_by_this_run"], true);
    assert_eq!(row(&report, ID)["uploads"][0]["status"], "uploaded");
    assert_eq!(
        left(&host),
        [
            "1702000000_2023_12_08_17.8.2_gitlab_backup.tar",
            "notes.txt",
            "pages"
        ]
    );
    let members = String::from_utf8(tar(&["-t"], &fetched(&dropbox, &host, ID))).expect("names");
    let members: Vec<_> = members.lines().collect();
    assert_eq!(
        members[..3],
        ["backup_information.yml", "db/", "db/database.sql.gz"]
    );
    let tops: Vec<_> = members
        .iter()
        .filter(|member| member.trim_end_matches('/').split('/').count() == 1)
        .collect();
    assert_eq!(
        tops,
        [
            &"backup_information.yml",
            &"db/",
            &"repositories/",
            &"uploads.tar.gz",
            &"builds.tar.gz",
            &"artifacts.tar.gz",
            &"lfs.tar.gz",
            &"terraform_state.tar.gz",
            &"packages.tar.gz",
            &"ci_secure_files.tar.gz",
            &"external_diffs.tar.gz",
        ]
    );
    let manifest = dropbox.content(&format!("/Manifests/{ID}.json"));
    let manifest: Value = serde_json::from_slice(&manifest).expect("a manifest");
    assert_eq!(manifest["archives"].as_array().map(Vec::len), Some(2));
    assert!(
        !dropbox
            .content(&format!("/Manifests/{ID}.members.gz"))
            .is_empty()
    );
    for command in ["verify", "rehearse", "status --max-age 9000d", "list"] {
        let ended = host.run(command);
        assert_eq!(ended.status, Some(0), "{command}: {ended}");
    }
}

#[test]
fn the_bytes_are_those_of_the_parts_and_the_same_each_time() {
    let (dropbox, mut host) = machine();
    host.set("STUB_SIZE", "9000000");
    make_parts(&host);
    let copy = host.path("copy");
    let copied = Command::new("cp")
        .arg("-a")
        .arg(host.path(BACKUPS))
        .arg(&copy)
        .status();
    assert!(copied.expect("cp").success());
    let staging = staging(&host);
    assert_eq!(staging["status"], "ok", "{staging}");
    assert!(staging["detail"].to_string().contains(ID), "{staging}");
    let dry = host.run("run --dry-run --only data --json");
    assert_eq!(dry.status, Some(0), "{dry}");
    assert_eq!(row(&dry.json(), ID)["uploads"][0]["status"], "would_upload");
    let listed = host.run("list --local");
    assert!(listed.out.contains(ID), "{listed}");
    let rehearsed = host.run("rehearse --local");
    assert!(rehearsed.out.contains(ID), "{rehearsed}");
    assert_eq!(archives(&dropbox), [""; 0]);

    let ended = host.run("run --skip-create --only data --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(row(&ended.json(), ID)["made_by_this_run"], false);
    assert_eq!(left(&host), [""; 0]);
    let unpacked = host.path("unpacked");
    fs::create_dir(&unpacked).expect("a folder");
    let first = fetched(&dropbox, &host, ID);
    let arguments = ["-xp", "-C", unpacked.to_str().expect("a path")];
    tar(&arguments, &first);
    let same = Command::new("diff")
        .arg("-r")
        .args([&copy, &unpacked])
        .output()
        .expect("diff");
    assert!(
        same.status.success(),
        "{}",
        String::from_utf8_lossy(&same.stdout)
    );
    // What GNU tar makes of them: the same bytes.
    let members = [
        "backup_information.yml",
        "db",
        "repositories",
        "uploads.tar.gz",
    ];
    let rest = "builds artifacts pages lfs terraform_state packages ci_secure_files external_diffs";
    let again = host.path("again.tar");
    let packed = Command::new("tar")
        .args(["--format=gnu", "--numeric-owner", "--sort=name", "-cf"])
        .arg(&again)
        .arg("-C")
        .arg(&copy)
        .args(members)
        .args(rest.split(' ').map(|part| format!("{part}.tar.gz")))
        .status();
    assert!(packed.expect("GNU tar").success());
    let (first, again) = (
        fs::read(first).expect("read"),
        fs::read(again).expect("read"),
    );
    assert!(first == again, "{} and {} bytes", first.len(), again.len());
}

#[test]
fn gitlab_restores_what_was_streamed() {
    let (dropbox, host) = machine();
    host.populate(&RealBackup::new(7).projects(3));
    let before = host.gitlab_state();
    let ended = host.run("run");
    assert_eq!(ended.status, Some(0), "{ended}");
    host.wipe();
    assert_ne!(host.gitlab_state(), before);
    let ended = host.run("restore --apply --yes");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(host.gitlab_state(), before);
    assert_eq!(archives(&dropbox), [stored(ID)]);
}

/// What `doctor` says of what lies in GitLab's folder.
fn staging(host: &Host) -> Value {
    let report = host.run("doctor --offline --json").json();
    let checks = report["checks"].as_array().expect("checks");
    let mut staging = checks.iter().filter(|check| check["check"] == "staging");
    staging.next().expect("the check").clone()
}

#[test]
fn unsent_parts_go_first_and_then_a_new_backup_is_made() {
    let (dropbox, mut host) = machine();
    make_parts(&host);
    host.set("STUB_NOW", "1702844983");
    let ended = host.run("run --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(archives(&dropbox), [stored(ID), stored(NEXT)]);
    let report = ended.json();
    assert_eq!(report["backup_id"], NEXT);
    assert_eq!(row(&report, ID)["made_by_this_run"], false);
    assert_eq!(row(&report, NEXT)["made_by_this_run"], true);
    assert_eq!(left(&host), [""; 0]);
}

#[test]
fn the_configuration_that_was_made_with_the_parts_is_named_beside_them() {
    let (dropbox, mut host) = machine();
    make_parts(&host);
    host.put_config_archive("gitlab_config_1702758500_2023_12_16.tar");
    host.set("STUB_NOW", "1702844983");
    let ended = host.run("run --skip-create --only config --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    let ended = host.run("run");
    assert_eq!(ended.status, Some(0), "{ended}");
    let manifest = dropbox.content(&format!("/Manifests/{ID}.json"));
    let manifest: Value = serde_json::from_slice(&manifest).expect("a manifest");
    let names = manifest["archives"].to_string();
    assert!(names.contains("gitlab_config_1702758500"), "{names}");
}

#[test]
fn nothing_new_is_made_while_unsent_parts_cannot_be_sent() {
    let (dropbox, mut host) = machine();
    make_parts(&host);
    let before = left(&host);
    host.set("STUB_NOW", "1702844983");
    dropbox.fault(Fault::on("upload_session/finish$", What::Reply(full())).forever());
    let ended = host.run("run --json");
    assert_eq!(ended.status, Some(1), "{ended}");
    let report = ended.json();
    let error = report["error"].as_str().expect("an error");
    assert!(error.contains("nothing new is made"), "{error}");
    assert!(error.contains("dropbox"), "{error}");
    assert_eq!(left(&host), before);
    assert_eq!(made(&host), 1, "{}", host.calls());
    // As soon as it can be sent, all goes on.
    dropbox.clear_faults();
    let ended = host.run("run");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(archives(&dropbox), [stored(ID), stored(NEXT)]);
}

#[test]
fn one_place_without_it_and_the_parts_stay() {
    let (dropbox, mut host) = machine();
    let away = Dropbox::start(Options::default());
    let second = host.config(&away);
    let second = second.split("[destinations.dropbox]").nth(1).expect("it");
    let second = second.split("[upload]").next().expect("it");
    let config = streaming(&host.config(&dropbox)) + "[destinations.away]" + second;
    host.write_config(&config);
    away.fault(Fault::on("upload_session/start$", What::Reply(full())).forever());
    let ended = host.run("run --json");
    assert_eq!(ended.status, Some(3), "{ended}");
    assert!(ended.err.contains("the parts of"), "{ended}");
    assert!(left(&host).contains(&"db".to_owned()));
    // That place alone: the other is not known to hold it still.
    away.clear_faults();
    let ended = host.run("run --skip-create --only data --destination away");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert!(left(&host).contains(&"db".to_owned()));
    host.set("STUB_NOW", "1702844983");
    let ended = host.run("run");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(left(&host), [""; 0]);
    for place in [&dropbox, &away] {
        assert_eq!(archives(place), [stored(ID), stored(NEXT)]);
    }
}

fn full() -> Reply {
    let error = json!({
        "error_summary": "path/insufficient_space/..",
        "error": { ".tag": "path", "path": { ".tag": "insufficient_space" } },
    });
    Reply::json(409, &error)
}

#[test]
fn killed_at_any_request_the_next_run_goes_on() {
    const SEND: &str = "run --skip-create --only data --json";
    let mut n = 0;
    let mut resumed = 0;
    loop {
        let (dropbox, mut host) = machine();
        host.set("STUB_SIZE", "9000000");
        make_parts(&host);
        if kill_at(&dropbox, &host, SEND, n, Moment::Applied).is_some() {
            break;
        }
        let ended = host.run(SEND);
        // Killed behind the last request, all is done already.
        let is_done = !archives(&dropbox).is_empty() && left(&host).is_empty();
        assert!(is_done, "request {n}: {ended}");
        let report = ended.json();
        if let Some(row) = report["archives"].get(0) {
            let upload = &row["uploads"][0];
            resumed += upload["bytes_resumed"].as_u64().expect("a number");
            assert_eq!(ended.status, Some(0), "request {n}: {ended}");
        }
        let names = tar(&["-t"], &fetched(&dropbox, &host, ID));
        assert!(names.starts_with(b"backup_information.yml\ndb/\n"));
        n += 1;
    }
    assert!(n >= 8, "only {n} requests were tried");
    assert!(
        resumed > 4 << 20,
        "only {resumed} bytes were not sent again"
    );
}

#[test]
fn a_doubtful_backup_is_stored_and_its_parts_stay_until_the_next() {
    let (dropbox, mut host) = machine();
    host.set("STUB_FAIL", "db-new");
    let ended = host.run("run --json");
    assert_eq!(ended.status, Some(1), "{ended}");
    let report = ended.json();
    assert!(
        !row(&report, ID)["doubts"]
            .as_array()
            .expect("doubts")
            .is_empty()
    );
    assert_eq!(archives(&dropbox), [stored(ID)]);
    assert!(left(&host).contains(&"backup_information.yml".to_owned()));
    assert!(
        ended.err.contains("something is wrong with them"),
        "{ended}"
    );
    host.set("STUB_FAIL", "").set("STUB_NOW", "1702844983");
    let ended = host.run("run --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(archives(&dropbox), [stored(ID), stored(NEXT)]);
    assert_eq!(left(&host), [""; 0]);
}

#[test]
fn what_gitlab_did_not_end_is_no_backup_and_stops_nothing() {
    let (dropbox, mut host) = machine();
    host.set("STUB_FAIL", "killed");
    let ended = host.run("run");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert_eq!(archives(&dropbox), [""; 0]);
    assert!(ended.err.contains("did not come to its end") || ended.err.contains("killed"));
    assert!(left(&host).contains(&"db".to_owned()));
    host.set("STUB_FAIL", "").set("STUB_NOW", "1702844983");
    let ended = host.run("run");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(archives(&dropbox), [stored(NEXT)]);
    assert_eq!(left(&host), ["tmp"; 0]);
}

#[test]
fn what_does_not_belong_together_is_neither_sent_nor_deleted_nor_written_over() {
    type Deed = fn(&Path);
    let cases: [(&str, Deed, &str); 6] = [
        (
            "unreadable",
            |folder| fs::write(folder.join("backup_information.yml"), "nonsense\n").expect("x"),
            "line 1 of it is none of GitLab's",
        ),
        (
            "of another version",
            |folder| {
                let path = folder.join("backup_information.yml");
                let text = fs::read_to_string(&path).expect("text");
                let other = text.replace("gitlab_version: 17.8.2", "gitlab_version: 17.9.0");
                fs::write(path, other).expect("written");
            },
            "contradicts the time or the version",
        ),
        (
            "without a database",
            |folder| fs::remove_dir_all(folder.join("db")).expect("removed"),
            "db, the folder of the database, is missing",
        ),
        (
            "with an older part",
            |folder| {
                let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000);
                let file = File::open(folder.join("lfs.tar.gz")).expect("a part");
                file.set_modified(time).expect("its time");
            },
            "lfs.tar.gz beside it is older than this backup",
        ),
        (
            "with a later part",
            |folder| {
                let time = SystemTime::now() + Duration::from_hours(2);
                let file = File::open(folder.join("db")).expect("a part");
                file.set_modified(time).expect("its time");
            },
            "db beside it was written after this backup was done",
        ),
        (
            "with a link",
            |folder| {
                fs::rename(folder.join("repositories"), folder.join("elsewhere")).expect("moved");
                symlink("elsewhere", folder.join("repositories")).expect("a link");
            },
            "repositories beside it is not a folder",
        ),
    ];
    for (what, deed, expected) in cases {
        let (dropbox, mut host) = machine();
        make_parts(&host);
        deed(&host.path(BACKUPS));
        let before = left(&host);
        host.set("STUB_NOW", "1702844983");
        let staging = staging(&host);
        assert_eq!(staging["status"], "failed", "{what}: {staging}");
        let detail = staging["detail"].as_str().expect("a detail");
        assert!(detail.contains(expected), "{what}: {staging}");
        for command in ["run --json", "run --skip-create --only data --json"] {
            let ended = host.run(command);
            assert_eq!(ended.status, Some(1), "{what}: {ended}");
            let report = ended.json();
            let error = report["error"].as_str().expect("an error");
            assert!(error.contains(expected), "{what}: {error}");
            assert!(error.contains("sudo rm -r"), "{what}: {error}");
            assert_eq!(left(&host), before, "{what}");
            assert_eq!(archives(&dropbox), [""; 0], "{what}");
            assert_eq!(made(&host), 1, "{what}");
        }
    }
}

#[test]
fn parts_that_change_while_they_are_sent_are_not_stored() {
    let (dropbox, mut host) = machine();
    host.set("STUB_SIZE", "9000000");
    make_parts(&host);
    let part = host.path(BACKUPS).join("uploads.tar.gz");
    let grow = move || {
        use std::io::Write as _;
        let file = fs::OpenOptions::new().append(true).open(&part);
        file.and_then(|mut file| file.write_all(b"more"))
            .expect("grown");
    };
    let call = What::Call(Moment::Applied, std::sync::Arc::new(grow));
    dropbox.fault(Fault::on("upload_session/append_v2$", call));
    let ended = host.run("run --skip-create --only data --json");
    assert_eq!(ended.status, Some(1), "{ended}");
    let report = ended.json();
    let error = report["error"].as_str().expect("an error");
    assert!(error.contains("chang"), "{error}");
    assert_eq!(archives(&dropbox), [""; 0]);
    assert!(left(&host).contains(&"uploads.tar.gz".to_owned()));
}

#[test]
fn what_cannot_be_taken_along_is_a_doubt() {
    let (dropbox, host) = machine();
    make_parts(&host);
    fs::write(host.path(BACKUPS).join("novelties.tar.gz"), b"new").expect("written");
    let _socket = UnixListener::bind(host.path(BACKUPS).join("db/socket")).expect("a socket");
    let ended = host.run("run --skip-create --only data --json");
    assert_eq!(ended.status, Some(1), "{ended}");
    let report = ended.json();
    let doubts = row(&report, ID)["doubts"].to_string();
    assert!(doubts.contains("novelties.tar.gz"), "{doubts}");
    assert!(doubts.contains("db/socket is neither file"), "{doubts}");
    assert_eq!(archives(&dropbox), [stored(ID)]);
    assert!(left(&host).contains(&"novelties.tar.gz".to_owned()));
}

/// Under an emulator the kernel counts the emulator.
fn is_emulated() -> bool {
    cfg!(target_arch = "aarch64")
        && std::env::var_os("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER").is_some()
}

#[test]
fn next_to_nothing_is_written_to_the_local_disk() {
    if is_emulated() {
        return;
    }
    let dropbox = Dropbox::start(Options {
        keep_bytes: false,
        ..Options::default()
    });
    let mut host = Host::new(PROGRAM, &dropbox);
    host.write_config(&streaming(&host.config(&dropbox)));
    host.set("STUB_NOW", "1702758583")
        .set("STUB_SIZE", "67108864");
    make_parts(&host);
    // The kernel counts what goes to a disk, and nothing in a file system that has none.
    let counted = |io: &str| -> u64 {
        let line = io
            .lines()
            .find_map(|line| line.strip_prefix("write_bytes: "));
        line.and_then(|line| line.parse().ok()).unwrap_or(0)
    };
    let mut child = host.spawn("run -q --skip-create --only data");
    let (io, status) = (
        format!("/proc/{}/io", child.id()),
        format!("/proc/{}/status", child.id()),
    );
    let (mut written, mut memory) = (0, 0);
    let ended = loop {
        // A process that has ended still has its counters until it is waited for.
        written = written.max(counted(&fs::read_to_string(&io).unwrap_or_default()));
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let now = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        memory = memory.max(now.unwrap_or(0));
        if text.contains("State:\tZ") {
            written = written.max(counted(&fs::read_to_string(&io).unwrap_or_default()));
            break child.wait().expect("its end");
        }
        if let Some(ended) = child.try_wait().expect("waited for") {
            break ended;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    assert!(ended.success());
    assert!(written <= 1 << 20, "{written} bytes were written");
    assert!(memory <= 32 * 1024, "{memory} KiB");
    assert_eq!(left(&host), [""; 0]);
    let _ = writeln!(
        std::io::stderr(),
        "{written} bytes written, {memory} KiB of memory for 64 MiB of parts"
    );
}
