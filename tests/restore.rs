//! The way back as a user sees it: fetching, resuming, refusing, the plan. Putting it back into GitLab is
//! in `restore_apply.rs`, `restore_resume.rs` and `restore_refuse.rs`.

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::dropbox::{Dropbox, Fault, Moment, Options, What};
use support::host::{Ended, Host};
use support::kill::kill_at;
use support::lost::{names, skipped};

const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");
const ID: &str = "1702758583_2023_12_16_17.8.2";
const DATA: &str = "1702758583_2023_12_16_17.8.2_gitlab_backup.tar";
const CONFIG: &str = "gitlab_config_1702758583_2023_12_16.tar";
const MANIFEST: &str = "/Manifests/1702758583_2023_12_16_17.8.2.json";
/// Four parts, the last one short.
const SIZE: u64 = (6 << 20) + 1_024;

/// A backup that is stored and is no longer on the machine, and the bytes of its archives.
struct Stored {
    dropbox: Dropbox,
    host: Host,
    config: Vec<u8>,
    data: Vec<u8>,
}

fn stored_with(options: Options) -> Stored {
    let dropbox = Dropbox::start(options);
    let host = Host::new(PROGRAM, &dropbox);
    let paths = [
        host.put_config_archive(CONFIG),
        host.put_data_archive(DATA, SIZE),
    ];
    let [config, data] = paths.map(|path| {
        let bytes = fs::read(&path).expect("an archive");
        (path, bytes)
    });
    let ended = host.run("run --skip-create");
    assert_eq!(ended.status, Some(0), "{ended}");
    for (path, _) in [&config, &data] {
        fs::remove_file(path).expect("removed");
    }
    Stored {
        dropbox,
        host,
        config: config.1,
        data: data.1,
    }
}

fn stored() -> Stored {
    stored_with(Options::default())
}

impl Stored {
    fn to(&self) -> String {
        self.host.path("back").display().to_string()
    }

    /// Both archives are there, the same bytes, and nothing else is.
    fn assert_back(&self, ended: &Ended) {
        assert_eq!(ended.status, Some(0), "{ended}");
        let folder = self.host.path("back");
        assert_eq!(names(&folder), [DATA, CONFIG], "{ended}");
        for (name, bytes) in [(CONFIG, &self.config), (DATA, &self.data)] {
            let found = fs::read(folder.join(name)).expect("an archive");
            assert!(found == *bytes, "{name} differs: {ended}");
        }
    }

    /// It failed with exit status 1 and all of these words, and no archive has its name.
    fn assert_refused(&self, ended: &Ended, words: &[&str]) {
        assert_eq!(ended.status, Some(1), "{ended}");
        for word in words {
            assert!(ended.err.contains(word), "{word} is not in {ended}");
        }
        let folder = self.host.path("back");
        assert!(!folder.join(DATA).exists(), "{ended}");
    }

    /// Bytes that were downloaded.
    fn downloaded(&self) -> usize {
        let requests = self.dropbox.requests();
        requests
            .iter()
            .filter(|seen| seen.endpoint.ends_with("files/download"))
            .count()
    }
}

fn rows(ended: &Ended) -> Vec<(String, bool, String)> {
    let report = ended.json();
    let archives = report["archives"].as_array().expect("archives").iter();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    archives
        .map(|row| {
            let verified = row["verified"].as_bool().expect("a flag");
            (text(&row["kind"]), verified, text(&row["status"]))
        })
        .collect()
}

#[test]
fn both_archives_come_back_with_the_same_bytes() {
    let stored = stored();
    let ended = stored
        .host
        .run(&format!("restore --to {} --json", stored.to()));
    stored.assert_back(&ended);
    assert_eq!(ended.err, "");
    let report = ended.json();
    assert_eq!(report["command"], "restore");
    assert_eq!(report["status"], "ok");
    assert_eq!(report["error"], Value::Null);
    assert_eq!(report["backup_id"], ID);
    assert_eq!(report["destination"], "dropbox");
    assert_eq!(report["gitlab_version"], "17.8.2");
    let step = &report["steps"][0];
    assert_eq!(
        (&step["step"], &step["status"]),
        (&"fetch".into(), &"ok".into())
    );
    let row = &report["archives"][1];
    assert_eq!(row["path"], format!("{}/{DATA}", stored.to()));
    assert_eq!(row["size"], SIZE);
    assert_eq!(row["bytes_fetched"], SIZE);
    let fetched = |kind: &str| (kind.to_owned(), true, "fetched".to_owned());
    assert_eq!(rows(&ended), [fetched("config"), fetched("data")]);
    let mode = |path: &Path| fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
    let folder = stored.host.path("back");
    assert_eq!(mode(&folder), 0o700);
    assert_eq!(
        (mode(&folder.join(DATA)), mode(&folder.join(CONFIG))),
        (0o600, 0o600)
    );

    // What is there already is proved, and not fetched again.
    let before = stored.downloaded();
    let ended = stored
        .host
        .run(&format!("restore latest --to {} --json", stored.to()));
    stored.assert_back(&ended);
    let present = |kind: &str| (kind.to_owned(), true, "already_present".to_owned());
    assert_eq!(rows(&ended), [present("config"), present("data")]);
    assert_eq!(stored.downloaded(), before);
}

#[test]
fn without_a_folder_they_go_where_gitlab_looks_for_them() {
    let stored = stored();
    let (config_dir, data_dir) = (
        stored.host.path("etc/gitlab/config_backup"),
        stored.host.path("var/opt/gitlab/backups"),
    );
    // A new machine: the folder of config archives is not there yet.
    fs::remove_dir_all(stored.host.path("etc")).expect("removed");
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        // GitLab runs as the one that its backups' folder belongs to.
        std::os::unix::fs::chown(&data_dir, Some(12_345), Some(54_321)).expect("given away");
    }
    let ended = stored.host.run(&format!("restore {ID}"));
    assert_eq!(ended.status, Some(0), "{ended}");
    if is_root {
        assert_eq!(ended.err, "");
    } else {
        assert!(ended.err.contains("  chown root:root "), "{ended}");
    }
    assert!(ended.out.lines().count() <= 3, "{ended}");
    assert!(
        ended
            .out
            .contains("ok: 1702758583_2023_12_16_17.8.2 is fetched and verified"),
        "{ended}"
    );
    assert!(fs::read(config_dir.join(CONFIG)).expect("read") == stored.config);
    assert!(fs::read(data_dir.join(DATA)).expect("read") == stored.data);
    assert_eq!((names(&config_dir).len(), names(&data_dir).len()), (1, 1));
    let data = fs::metadata(data_dir.join(DATA)).expect("metadata");
    assert_eq!(data.mode() & 0o777, 0o600);
    if is_root && user_git().is_none() {
        assert_eq!((data.uid(), data.gid()), (12_345, 54_321));
        let config = fs::metadata(config_dir.join(CONFIG)).expect("metadata");
        assert_eq!((config.uid(), config.gid()), (0, 0));
    }
}

fn user_git() -> Option<String> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    users
        .lines()
        .find(|line| line.starts_with("git:"))
        .map(str::to_owned)
}

#[test]
fn one_kind_alone() {
    let stored = stored();
    for (kind, name) in [("config", CONFIG), ("data", DATA)] {
        let folder = stored.host.path(kind);
        let arguments = format!("restore --only {kind} --to {} --json", folder.display());
        let ended = stored.host.run(&arguments);
        assert_eq!(ended.status, Some(0), "{ended}");
        assert_eq!(names(&folder), [name]);
        assert_eq!(rows(&ended).len(), 1);
    }
}

/// Runs the program until the `n`-th request reaches `moment`, and kills it there. False if it ended before.
fn killed_at(stored: &Stored, n: usize, moment: Moment, arguments: &str) -> bool {
    kill_at(&stored.dropbox, &stored.host, arguments, n, moment).is_none()
}

#[test]
fn killed_at_every_request_in_turn_the_next_call_finishes() {
    let stored = stored();
    let arguments = format!("restore --to {}", stored.to());
    for moment in [Moment::Head, Moment::Applied] {
        let mut n = 0;
        while killed_at(&stored, n, moment, &arguments) {
            let ended = stored.host.run(&arguments);
            stored.assert_back(&ended);
            fs::remove_dir_all(stored.host.path("back")).expect("removed");
            n += 1;
        }
        assert!(n >= 8, "only {n} requests were tried");
        fs::remove_dir_all(stored.host.path("back")).expect("removed");
    }
}

#[test]
fn killed_again_and_again_it_still_comes_back_and_little_is_fetched_twice() {
    let stored = stored();
    let arguments = format!("restore --to {} --json", stored.to());
    let mut kills = 0;
    while killed_at(&stored, 8, Moment::Applied, &arguments) {
        kills += 1;
        assert!(kills < 20, "no progress over {kills} calls");
    }
    assert!(kills > 0);
    let ended = stored.host.run(&arguments);
    stored.assert_back(&ended);
}

/// Each file that the program makes may have so many bytes: a disk that is full in the middle of a file.
fn with_full_disk(stored: &Stored, bytes: u64, arguments: &str) -> Ended {
    let command = stored.host.command(arguments);
    let mut limited = Command::new("env");
    // Else the kernel would end the program instead of telling it.
    limited
        .args([
            "--ignore-signal=XFSZ",
            "prlimit",
            &format!("--fsize={bytes}"),
        ])
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear()
        .envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
    limited.output().expect("env and prlimit run").into()
}

#[test]
fn a_full_disk_is_told_and_the_next_call_goes_on() {
    let stored = stored();
    let arguments = format!("restore --to {} --json", stored.to());
    let ended = with_full_disk(&stored, 5 << 20, &arguments);
    stored.assert_refused(
        &ended,
        &["File too large", "make room", "the same command goes on"],
    );
    assert_eq!(ended.json()["steps"][0]["status"], "failed");
    let part = fs::metadata(part_file(&stored)).expect("kept").len();
    assert!((2 << 20..=5 << 20).contains(&part), "{part} bytes are kept");
    let ended = stored.host.run(&arguments);
    stored.assert_back(&ended);
    let row = &ended.json()["archives"][1];
    assert!(row["bytes_resumed"].as_u64() >= Some(2 << 20), "{ended}");
}

/// The part file of the data archive.
fn part_file(stored: &Stored) -> std::path::PathBuf {
    let folder = stored.host.path("back");
    let begin = format!(".{DATA}.");
    let all = names(&folder);
    let name = all.iter().find(|name| name.starts_with(&begin));
    folder.join(name.unwrap_or_else(|| panic!("no part file in {all:?}")))
}

#[test]
fn what_does_not_fit_is_told_before_anything_is_fetched() {
    let stored = stored();
    let folder = stored.host.path("back");
    fs::create_dir(&folder).expect("a folder");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"])
        .arg(&folder)
        .stderr(std::process::Stdio::null())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        skipped("a small disk cannot be mounted here; the figures are tested in restore::target");
        return;
    }
    let before = stored.downloaded();
    let ended = stored.host.run(&format!("restore --to {}", stored.to()));
    let left = names(&folder);
    let unmounted = Command::new("umount").arg(&folder).status();
    assert!(unmounted.is_ok_and(|status| status.success()));
    stored.assert_refused(
        &ended,
        &["6.0 MiB are needed", "4.0 MiB are free", "--to DIR"],
    );
    assert_eq!(left, [""; 0]);
    // Manifests are read, archives are not.
    assert!(stored.downloaded() <= before + 1, "{ended}");
}

#[test]
fn nothing_that_is_there_is_overwritten() {
    let stored = stored();
    let folder = stored.host.path("back");
    fs::create_dir(&folder).expect("a folder");
    let target = stored.host.path("target");
    fs::write(&target, b"linked").expect("written");
    let other = vec![7; stored.data.len()];
    for number in 0..4 {
        let path = folder.join(DATA);
        match number {
            0 => fs::write(&path, b"short").expect("written"),
            1 => fs::write(&path, &other).expect("written"),
            2 => symlink(&target, &path).expect("a link"),
            _ => fs::create_dir(&path).expect("a folder"),
        }
        let before = stored.downloaded();
        let ended = stored.host.run(&format!("restore --to {}", stored.to()));
        assert_eq!(ended.status, Some(1), "{ended}");
        assert!(
            ended
                .err
                .contains(&format!("{} is there already", path.display())),
            "{ended}"
        );
        assert!(ended.err.contains("move it away"), "{ended}");
        assert_eq!(names(&folder), [DATA], "{ended}");
        assert!(stored.downloaded() <= before + 1, "{ended}");
        match number {
            0 => assert_eq!(fs::read(&path).expect("read"), b"short"),
            1 => assert_eq!(fs::read(&path).expect("read"), other),
            2 => assert_eq!(fs::read(&target).expect("read"), b"linked"),
            _ => fs::remove_dir(&path).expect("removed"),
        }
        if number < 3 {
            fs::remove_file(&path).expect("removed");
        }
    }
}

/// Leaves a part file with two whole parts, and half of another.
fn interrupted(stored: &Stored) -> (String, std::path::PathBuf) {
    let arguments = format!("restore --to {} --json", stored.to());
    let ended = with_full_disk(stored, 5 << 20, &arguments);
    assert_eq!(ended.status, Some(1), "{ended}");
    (arguments, part_file(stored))
}

#[test]
fn a_damaged_part_is_thrown_away_and_all_is_fetched_anew() {
    let stored = stored();
    let (arguments, part) = interrupted(&stored);
    let mut bytes = fs::read(&part).expect("a part");
    bytes[1_000] ^= 1;
    fs::write(&part, &bytes).expect("written");
    let ended = stored.host.run(&arguments);
    stored.assert_back(&ended);
    assert!(
        ended.err.contains("is damaged; it is fetched anew"),
        "{ended}"
    );
    assert_eq!(ended.json()["archives"][1]["bytes_resumed"], 0);
}

#[test]
fn a_part_of_any_length_is_continued() {
    let stored = stored();
    let (arguments, _) = interrupted(&stored);
    for len in [0, 1, (2 << 20) + 1, 4 << 20, SIZE - 1, SIZE, SIZE + 1] {
        fs::remove_file(stored.host.path("back").join(DATA)).ok();
        let part = stored.host.path("back").join(part_name(&stored));
        let len = usize::try_from(len).expect("small");
        let mut bytes = stored.data.clone();
        bytes.resize(len, 0);
        fs::write(&part, &bytes).expect("written");
        let ended = stored.host.run(&arguments);
        stored.assert_back(&ended);
    }
}

fn part_name(stored: &Stored) -> String {
    let files = stored.dropbox.files();
    let data = files
        .iter()
        .find(|file| file.path_display.ends_with(DATA))
        .expect("stored");
    format!(".{DATA}.{}.part", &data.content_hash[..16])
}

#[test]
fn a_link_in_the_place_of_the_part_is_not_followed() {
    let stored = stored();
    let folder = stored.host.path("back");
    fs::create_dir(&folder).expect("a folder");
    let target = stored.host.path("target");
    fs::write(&target, b"theirs").expect("written");
    symlink(&target, folder.join(part_name(&stored))).expect("a link");
    let ended = stored.host.run(&format!("restore --to {}", stored.to()));
    stored.assert_back(&ended);
    assert_eq!(fs::read(&target).expect("read"), b"theirs");
}

#[test]
fn stored_bytes_that_are_not_what_the_manifest_says_are_never_placed() {
    let path = format!("/Data/{DATA}");
    // Cut off at the destination.
    let stored = stored();
    let cut = stored.data[..stored.data.len() - 512].to_vec();
    stored.dropbox.remove(&path);
    stored.dropbox.put_file(&path, &cut);
    let arguments = format!("restore {ID} --to {}", stored.to());
    let ended = stored.host.run(&arguments);
    stored.assert_refused(&ended, &[&path, "as the manifest says", "--only config"]);
    assert_eq!(names(&stored.host.path("back")), [""; 0], "{ended}");
    // Of the right size, and the destination tells another hash.
    let mut flipped = stored.data.clone();
    flipped[3_000_000] ^= 1;
    stored.dropbox.remove(&path);
    stored.dropbox.put_file(&path, &flipped);
    let ended = stored.host.run(&arguments);
    stored.assert_refused(&ended, &[&path, "another content than the manifest says"]);
    // `latest` does not even see it.
    let ended = stored.host.run(&format!("restore --to {}", stored.to()));
    stored.assert_refused(&ended, &["no backup is complete", "name it"]);
    // The config archive can still be had.
    let ended = stored.host.run(&format!("{arguments} --only config"));
    assert_eq!(ended.status, Some(0), "{ended}");
}

#[test]
fn an_archive_that_is_damaged_on_its_way_or_at_its_place_is_told() {
    // A destination that tells no hashes: only the bytes themselves can show it.
    let stored = stored();
    let path = format!("/Data/{DATA}");
    let mut flipped = stored.data.clone();
    flipped[3_000_000] ^= 1;
    let lying = Dropbox::start(Options {
        verify_hashes: false,
        ..Options::default()
    });
    for file in stored.dropbox.files() {
        let bytes = stored.dropbox.content(&file.path_display);
        lying.put_file(&file.path_display, &bytes);
    }
    lying.remove(&path);
    lying.put_file(&path, &flipped);
    stored.host.write_config(&stored.host.config(&lying));
    let ended = stored
        .host
        .run(&format!("restore {ID} --to {}", stored.to()));
    stored.assert_refused(&ended, &[&path, "is damaged", "gitlab-pi-backup list"]);
    assert_eq!(
        names(&stored.host.path("back")),
        [CONFIG],
        "no part is left: {ended}"
    );
}

#[test]
fn an_archive_that_is_replaced_while_it_is_fetched_is_never_mixed() {
    let stored = stored();
    let path = format!("/Data/{DATA}");
    let mut other = stored.data.clone();
    // Every part of it: which one is asked for last is not said.
    for byte in &mut other {
        *byte ^= 0x55;
    }
    let shared = Arc::new(stored);
    let swap = shared.clone();
    let replace = move || {
        swap.dropbox.put_file(&path, &other);
    };
    // Config archive, then the parts of the data archive: before the last ones.
    let fault = What::Call(Moment::Head, Arc::new(replace));
    shared
        .dropbox
        .fault(Fault::on("files/download", fault).skip(3));
    let arguments = format!("restore {ID} --to {}", shared.to());
    let ended = shared.host.run(&arguments);
    shared.assert_refused(&ended, &["it was replaced while it was fetched"]);
    assert_eq!(names(&shared.host.path("back")), [CONFIG], "{ended}");
    let ended = shared.host.run(&arguments);
    shared.assert_refused(&ended, &["another content than the manifest says"]);
}

#[test]
fn a_destination_that_fails_half_way_is_told_and_what_was_fetched_is_kept() {
    let stored = stored();
    let config = stored.host.config(&stored.dropbox) + "retry_for = \"2s\"\n";
    stored.host.write_config(&config);
    let arguments = format!("restore --to {} --json", stored.to());
    let fault = Fault::on("files/download", What::server_error(503))
        .skip(3)
        .forever();
    stored.dropbox.fault(fault);
    let ended = stored.host.run(&arguments);
    stored.assert_refused(
        &ended,
        &["503", "tried again for", "the same command goes on"],
    );
    stored.dropbox.clear_faults();
    // A hiccup is not even told.
    stored
        .dropbox
        .fault(Fault::on("files/download", What::ResetBeforeBody).times(3));
    stored
        .dropbox
        .fault(Fault::on("files/download", What::TruncatedReply).skip(4));
    let ended = stored.host.run(&arguments);
    stored.assert_back(&ended);
}

#[test]
fn a_signal_stops_it_and_the_next_call_goes_on() {
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let stored = stored();
        let arguments = format!("restore --to {} --json", stored.to());
        let target = Arc::new(AtomicI32::new(0));
        let victim = target.clone();
        let started = Arc::new(Mutex::new(()));
        let held = started.lock().expect("not poisoned");
        let wait = started.clone();
        let stop = move || {
            drop(wait.lock());
            let pid = Pid::from_raw(victim.load(Ordering::SeqCst)).expect("a process");
            kill_process(pid, signal).expect("there");
        };
        let fault = |what| Fault::on("files/download", what).skip(4);
        stored
            .dropbox
            .fault(fault(What::Call(Moment::Head, Arc::new(stop))));
        let stall = What::Stall(support::dropbox::StallAt::Reply, None);
        stored.dropbox.fault(fault(stall).forever());
        let child = stored.host.spawn(&arguments);
        target.store(
            i32::try_from(child.id()).expect("a process"),
            Ordering::SeqCst,
        );
        drop(held);
        let ended = Ended::from(child.wait_with_output().expect("ended"));
        assert_eq!(ended.status, Some(status), "{ended}");
        let report = ended.json();
        assert_eq!(report["status"], "failed");
        assert!(
            report["error"]
                .as_str()
                .is_some_and(|error| error.starts_with("stopped by SIG"))
        );
        stored.dropbox.clear_faults();
        let ended = stored.host.run(&arguments);
        stored.assert_back(&ended);
    }
}

#[test]
fn what_is_not_there_is_told_with_what_is() {
    let dropbox = Dropbox::start(Options::default());
    let host = Host::new(PROGRAM, &dropbox);
    let ended = host.run("restore --json");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(
        ended
            .err
            .contains("there is no backup\n  make one: gitlab-pi-backup run"),
        "{ended}"
    );
    assert_eq!(ended.json()["backup_id"], Value::Null);
    let stored = stored();
    let unknown = "1602758583_2020_10_15_13.4.0";
    for arguments in [
        format!("restore {unknown}"),
        format!("restore {unknown} --plan"),
    ] {
        let ended = stored.host.run(&arguments);
        assert_eq!(ended.status, Some(1), "{ended}");
        assert!(
            ended.err.contains(&format!("there is no backup {unknown}")),
            "{ended}"
        );
        assert!(ended.err.contains(ID), "{ended}");
    }
    let ended = stored.host.run("restore --destination dorpbox");
    assert_eq!(ended.status, Some(2), "{ended}");
}

#[test]
fn a_missing_kind_is_told_with_the_way_out() {
    let stored = stored();
    stored.dropbox.remove(&format!("/Config/{CONFIG}"));
    let arguments = format!("restore {ID} --to {}", stored.to());
    let ended = stored.host.run(&arguments);
    stored.assert_refused(&ended, &["the config archive cannot be had", "--only data"]);
    let ended = stored.host.run(&format!("{arguments} --only data"));
    assert_eq!(ended.status, Some(0), "{ended}");
    let ended = stored.host.run(&format!("{arguments} --only config"));
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(ended.err.contains("name another backup"), "{ended}");
    let ended = stored.host.run(&format!("restore {ID} --plan"));
    assert_eq!(ended.status, Some(0), "{ended}");
    assert!(ended.out.contains("no config archive is stored"), "{ended}");
    assert!(!ended.out.contains("tar -xpf"), "{ended}");
    let ended = stored.host.run(&format!("restore {ID} --apply --yes"));
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(
        ended.err.contains("the config archive cannot be had"),
        "{ended}"
    );
    assert_eq!(stored.host.calls(), "");
}

#[test]
fn a_backup_without_a_usable_manifest_can_be_named() {
    for manifest in [None, Some(&b"{ not JSON"[..]), Some(b"{\"format\":99}")] {
        let stored = stored();
        stored.dropbox.remove(MANIFEST);
        if let Some(bytes) = manifest {
            stored.dropbox.put_file(MANIFEST, bytes);
        }
        let ended = stored.host.run(&format!("restore --to {}", stored.to()));
        stored.assert_refused(&ended, &["no backup is complete", ID]);
        let ended = stored
            .host
            .run(&format!("restore {ID} --to {} --json", stored.to()));
        stored.assert_back(&ended);
        // By what the destination tells.
        assert!(
            rows(&ended).iter().all(|(_, verified, _)| *verified),
            "{ended}"
        );
        assert_eq!(
            ended.err.contains("the manifest cannot be used"),
            manifest.is_some(),
            "{ended}"
        );
    }
}

#[test]
fn what_nobody_knows_the_hash_of_is_fetched_and_said_to_be_unproved() {
    let dropbox = Dropbox::start(Options {
        verify_hashes: false,
        ..Options::default()
    });
    let host = Host::new(PROGRAM, &dropbox);
    dropbox.put_file(&format!("/Config/{CONFIG}"), b"config");
    dropbox.put_file(&format!("/Data/{DATA}"), b"data");
    let folder = host.path("back");
    let ended = host.run(&format!("restore {ID} --to {} --json", folder.display()));
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(fs::read(folder.join(DATA)).expect("read"), b"data");
    assert!(
        rows(&ended).iter().all(|(_, verified, _)| !verified),
        "{ended}"
    );
    assert!(
        ended.err.contains("only its size is known to be right"),
        "{ended}"
    );
    let ended = host.run(&format!("restore {ID} --apply --yes"));
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(
        ended.err.contains("cannot be proved") && ended.err.contains("--plan"),
        "{ended}"
    );
}

#[test]
fn doubts_are_told() {
    let stored = stored();
    let manifest = String::from_utf8(stored.dropbox.content(MANIFEST)).expect("text");
    let doubtful = manifest.replacen(
        "\"doubts\": []",
        "\"doubts\": [\"there is something wrong\"]",
        1,
    );
    assert_ne!(doubtful, manifest);
    stored.dropbox.remove(MANIFEST);
    stored.dropbox.put_file(MANIFEST, doubtful.as_bytes());
    let ended = stored
        .host
        .run(&format!("restore {ID} --to {} --json", stored.to()));
    stored.assert_back(&ended);
    assert!(
        ended
            .err
            .contains("doubtful: config: there is something wrong"),
        "{ended}"
    );
    assert_eq!(
        ended.json()["doubts"][0],
        "config: there is something wrong"
    );
    let ended = stored.host.run(&format!("restore {ID} --plan"));
    assert!(
        ended
            .out
            .contains("doubtful: config: there is something wrong"),
        "{ended}"
    );
}

#[test]
fn the_plan_tells_every_step_and_fetches_nothing() {
    let stored = stored();
    let before = stored.downloaded();
    let ended = stored.host.run("restore --plan");
    assert_eq!((ended.status, ended.err.as_str()), (Some(0), ""), "{ended}");
    let etc = stored.host.path("etc/gitlab").display().to_string();
    let backups = stored
        .host
        .path("var/opt/gitlab/backups")
        .display()
        .to_string();
    for part in [
        "1702758583_2023_12_16_17.8.2 of GitLab CE 17.8.2, stored at dropbox",
        "\n 1. fetch the archives",
        "      apt-get install gitlab-ce=17.8.2-ce.0\n",
        "dnf install gitlab-ce-17.8.2",
        &format!("      mv {etc} {etc}.2"),
        &format!("config: {CONFIG}, 4.0 KiB"),
        "      gitlab-ctl reconfigure\n",
        &format!("{backups}/{DATA}\n"),
        "      GITLAB_ASSUME_YES=1 gitlab-backup restore BACKUP=1702758583_2023_12_16_17.8.2 force=yes\n",
        "\n13. prove that the restored keys decrypt",
        "32-bit system: there are packages up to 17.11",
    ] {
        assert!(ended.out.contains(part), "{part} is not in {ended}");
    }
    let ended = stored
        .host
        .run(&format!("restore {ID} --plan --json --to {}", stored.to()));
    assert_eq!(ended.status, Some(0), "{ended}");
    let report = ended.json();
    assert_eq!(report["status"], "ok");
    let steps = report["steps"].as_array().expect("steps");
    assert_eq!(steps.len(), 13);
    for step in steps {
        assert_eq!(step["status"], "planned");
        assert!(step["title"].is_string() && step["step"].is_string());
        assert!(step["command"].is_array() || step["command"].is_null());
    }
    assert_eq!(
        steps[8]["command"],
        serde_json::json!([
            "gitlab-backup",
            "restore",
            format!("BACKUP={ID}"),
            "force=yes"
        ])
    );
    assert_eq!(steps[8]["environment"]["GITLAB_ASSUME_YES"], "1");
    let row = &report["archives"][1];
    assert_eq!(
        (&row["status"], &row["verified"]),
        (&"planned".into(), &false.into())
    );
    assert_eq!(row["path"], format!("{}/{DATA}", stored.to()));
    assert_eq!(stored.downloaded(), before);
    assert!(!stored.host.path("back").exists());
    assert_eq!(stored.host.calls(), "");
}

#[test]
fn what_the_arguments_show_alone_is_a_usage_error() {
    let stored = stored();
    let before = stored.dropbox.requests().len();
    for (arguments, word) in [
        ("restore --plan --apply", "--apply"),
        ("restore --apply --to /tmp/x", "--to"),
        ("restore --apply --only data", "--only"),
        ("restore --plan --only data", "--only"),
        ("restore --yes", "--apply"),
        ("restore --plan --yes", "--yes"),
        ("restore --only both", "`config` or `data`"),
        ("restore a b", "b"),
        ("restore --plan --wait 1s", "--wait"),
        ("restore --apply", "--yes"),
    ] {
        for json in ["", " --json"] {
            let ended = stored.host.run(&format!("{arguments}{json}"));
            assert_eq!(ended.status, Some(2), "{arguments}: {ended}");
            assert!(ended.err.contains(word), "{arguments}: {ended}");
            if json == " --json" {
                assert_eq!(ended.json()["status"], "failed");
            }
        }
    }
    assert_eq!(stored.dropbox.requests().len(), before);
    assert!(!Path::new("/tmp/x").exists());
}

#[test]
fn it_takes_the_lock_and_the_plan_does_not() {
    let stored = stored();
    let lock = fs::OpenOptions::new()
        .write(true)
        .open(stored.host.path("state/lock"))
        .expect("the lock of the run");
    lock.lock().expect("free");
    for arguments in [
        "restore --json",
        "restore --apply --yes --json",
        "restore --wait 1s --json",
    ] {
        let ended = stored.host.run(arguments);
        assert_eq!(ended.status, Some(4), "{ended}");
        assert_eq!(ended.json()["command"], "restore");
    }
    assert_eq!(stored.host.run("restore --plan").status, Some(0));
    lock.unlock().expect("held");
    assert_eq!(stored.host.run("restore").status, Some(0));
}

#[test]
fn a_whole_part_that_was_given_away_already_needs_only_its_name() {
    if !rustix::process::geteuid().is_root() || user_git().is_some() {
        skipped("only root can give a file away");
        return;
    }
    let stored = stored();
    let folder = stored.host.path("var/opt/gitlab/backups");
    let part = folder.join(part_name(&stored));
    fs::write(&part, &stored.data).expect("written");
    for path in [&folder, &part] {
        std::os::unix::fs::chown(path, Some(12_345), Some(12_345)).expect("given away");
    }
    let ended = stored.host.run("restore --only data --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(names(&folder), [DATA]);
    let row = &ended.json()["archives"][0];
    assert_eq!(
        (&row["bytes_resumed"], &row["bytes_fetched"]),
        (&SIZE.into(), &0.into())
    );
    let metadata = fs::metadata(folder.join(DATA)).expect("metadata");
    assert_eq!((metadata.uid(), metadata.gid()), (12_345, 12_345));
}
