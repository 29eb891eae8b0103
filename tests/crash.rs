//! SIGKILL at every request of an upload in turn, and what survives it.

mod support;

use std::fs;

use serde_json::Value;
use support::dropbox::{Dropbox, Moment, Options};
use support::host::{Ended, Host};
use support::kill::kill_at;

const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");
const DATA: &str = "1702758583_2023_12_16_17.8.2_gitlab_backup.tar";
const PATH: &str = "/Data/1702758583_2023_12_16_17.8.2_gitlab_backup.tar";
const ID: &str = "1702758583_2023_12_16_17.8.2";
const SEND: &str = "run --skip-create --only data --json";
const CHUNK: u64 = 4 << 20;
/// Four appends.
const SIZE: u64 = 3 * CHUNK + 1_024;

fn machine() -> (Dropbox, Host) {
    let dropbox = Dropbox::start(Options::default());
    let host = Host::new(PROGRAM, &dropbox);
    host.put_data_archive(DATA, SIZE);
    (dropbox, host)
}

/// Runs the program until the `n`-th request reaches `moment`, and kills it there. False if the run
/// ended before.
fn killed_at(dropbox: &Dropbox, host: &Host, n: usize, moment: Moment) -> bool {
    kill_at(dropbox, host, SEND, n, moment).is_none()
}

/// Bytes of appends that the stand-in took.
fn appended(dropbox: &Dropbox) -> u64 {
    let appends = dropbox
        .requests()
        .into_iter()
        .filter(|seen| seen.endpoint.ends_with("append_v2"));
    appends.map(|seen| seen.received).sum()
}

fn assert_whole(dropbox: &Dropbox, host: &Host, ended: &Ended) {
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(dropbox.archives().len(), 1, "{ended}");
    let local = fs::read(host.path("var/opt/gitlab/backups").join(DATA)).expect("the archive");
    assert!(dropbox.content(PATH) == local, "the bytes differ: {ended}");
    let manifest = dropbox.content(&format!("/Manifests/{ID}.json"));
    let manifest: Value = serde_json::from_slice(&manifest).expect("a manifest");
    assert_eq!(manifest["archives"][0]["stored_size"], SIZE, "{manifest}");
    assert!(!dropbox.content("/RECOVERY.md").is_empty());
    assert_eq!(
        fs::read_dir(host.path("state/uploads"))
            .expect("journals")
            .count(),
        0
    );
}

/// Under an emulator everything takes ten times as long, and the moment of a kill does not depend on the processor.
fn is_emulated() -> bool {
    cfg!(target_arch = "aarch64")
        && std::env::var_os("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER").is_some()
}

#[test]
fn killed_at_every_request_in_turn_the_next_run_finishes() {
    let all = [Moment::Applied, Moment::Head, Moment::Body];
    let moments = if is_emulated() { &all[..1] } else { &all };
    for moment in moments.iter().copied() {
        let mut n = 0;
        loop {
            let (dropbox, host) = machine();
            if !killed_at(&dropbox, &host, n, moment) {
                break;
            }
            let ended = host.run(SEND);
            assert_whole(&dropbox, &host, &ended);
            let again = appended(&dropbox) - SIZE.min(appended(&dropbox));
            assert!(
                again <= 4 * CHUNK,
                "request {n}: {again} bytes were sent again"
            );
            let row = &ended.json()["archives"][0]["uploads"][0];
            let sum = row["bytes_sent"]
                .as_u64()
                .zip(row["bytes_resumed"].as_u64())
                .map(|(a, b)| a + b);
            let present = row["status"] == "already_present";
            assert!(sum == Some(SIZE) || present, "request {n}: {ended}");
            n += 1;
        }
        assert!(n >= 11, "only {n} requests were tried");
    }
}

#[test]
fn killed_again_and_again_it_still_arrives() {
    let (dropbox, host) = machine();
    let mut kills = 0;
    // A request further each time, so that every run gets a little done.
    while killed_at(&dropbox, &host, 8 + kills, Moment::Applied) {
        kills += 1;
        assert!(kills < 40, "no progress over {kills} runs");
    }
    let ended = host.run(SEND);
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(dropbox.archives().len(), 1);
}

/// Leaves an upload with some chunks acknowledged.
fn interrupted() -> (Dropbox, Host, std::path::PathBuf) {
    let (dropbox, host) = machine();
    assert!(killed_at(&dropbox, &host, 10, Moment::Head));
    let journal = fs::read_dir(host.path("state/uploads"))
        .expect("journals")
        .next()
        .expect("one")
        .expect("entry");
    (dropbox, host, journal.path())
}

#[test]
fn a_left_over_upload_is_finished_first_even_when_a_new_backup_is_made() {
    let (dropbox, mut host, _) = interrupted();
    host.set("STUB_NOW", "1702999999");
    let dry = host.run("run --dry-run --only data --json");
    assert_eq!(dry.status, Some(0), "{dry}");
    let row = &dry.json()["archives"][0]["uploads"][0];
    assert_eq!(row["status"], "would_upload");
    assert!(row["bytes_resumed"].as_u64() >= Some(CHUNK), "{dry}");
    let ended = host.run("run --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    let report = ended.json();
    let rows: Vec<_> = report["archives"]
        .as_array()
        .expect("archives")
        .iter()
        .collect();
    assert_eq!(rows.len(), 3);
    assert_eq!(
        (&rows[0]["name"], &rows[0]["made_by_this_run"]),
        (&Value::from(DATA), &Value::from(false))
    );
    assert!(
        rows[0]["uploads"][0]["bytes_resumed"].as_u64() >= Some(CHUNK),
        "{ended}"
    );
    assert_eq!(report["backup_id"], "1702999999_2023_12_19_17.8.2");
    assert_eq!(dropbox.archives().len(), 3);
}

#[test]
fn journals_that_cannot_be_used_lose_nothing() {
    type Damage = fn(&std::path::Path);
    let damages: [(&str, Damage); 5] = [
        ("corrupt", |path| {
            fs::write(path, b"\0\0\0\0 no journal").expect("written");
        }),
        ("empty", |path| fs::write(path, b"").expect("written")),
        ("of a later version", |path| {
            let text = fs::read_to_string(path).expect("a journal");
            fs::write(path, text.replacen("\"format\":1", "\"format\":9", 1)).expect("written");
        }),
        ("of another session", |path| {
            // A journal from somewhere else: its first line is right, its session unknown to the service.
            let text = fs::read_to_string(path).expect("a journal");
            fs::write(
                path,
                text.lines().next().expect("a line").to_owned() + "\n{\"torn\":",
            )
            .expect("written");
        }),
        ("of another folder", |path| {
            fs::rename(path, path.with_file_name("nobody.x.journal")).expect("moved");
        }),
    ];
    for (name, damage) in damages {
        let (dropbox, host, journal) = interrupted();
        if name == "of another session" {
            dropbox.forget_sessions();
        }
        damage(&journal);
        let ended = host.run(SEND);
        assert_eq!(ended.status, Some(0), "{name}: {ended}");
        assert_eq!(dropbox.archives().len(), 1, "{name}: {ended}");
        if ["corrupt", "empty", "of a later version"].contains(&name) {
            assert!(ended.err.contains("is put aside"), "{name}: {ended}");
            let aside = fs::read_dir(host.path("state/uploads"))
                .expect("journals")
                .count();
            assert_eq!(aside, 1, "{name}: it is kept to look at");
        }
    }
}

#[test]
fn a_left_over_whose_file_is_gone_or_changed_is_given_up() {
    for change in ["gone", "changed"] {
        let (dropbox, mut host, _) = interrupted();
        host.set("STUB_NOW", "1702999999");
        let path = host.path("var/opt/gitlab/backups").join(DATA);
        match change {
            "gone" => fs::remove_file(&path).expect("removed"),
            _ => fs::OpenOptions::new()
                .append(true)
                .open(&path)
                .and_then(|file| file.set_len(SIZE + 512))
                .expect("grown"),
        }
        let ended = host.run("run --json");
        assert_eq!(ended.status, Some(0), "{ended}");
        assert!(ended.err.contains("is given up"), "{ended}");
        assert_eq!(dropbox.archives().len(), 2);
        assert_eq!(
            fs::read_dir(host.path("state/uploads"))
                .expect("journals")
                .count(),
            0
        );
    }
}

#[test]
fn a_left_over_of_a_destination_that_is_gone_is_dropped() {
    let (dropbox, host, _) = interrupted();
    host.write_config(
        &host
            .config(&dropbox)
            .replace("destinations.dropbox", "destinations.other"),
    );
    let ended = host.run(SEND);
    assert_eq!(ended.status, Some(0), "{ended}");
    assert!(ended.err.contains("no longer configured"), "{ended}");
}

#[test]
fn a_left_over_that_fails_makes_the_run_fail() {
    let (dropbox, mut host, _) = interrupted();
    host.set("STUB_NOW", "1702999999");
    dropbox.put_file(PATH, b"somebody else's");
    let ended = host.run("run --json");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert_eq!(
        dropbox.archives().len(),
        3,
        "the new backup is stored all the same"
    );
    assert_eq!(dropbox.content(PATH), b"somebody else's");
}

#[test]
fn what_was_finished_just_before_the_kill_needs_no_room_any_more() {
    let (dropbox, host) = machine();
    assert!(killed_at(&dropbox, &host, 11, Moment::Applied));
    assert_eq!(
        dropbox.archives().len(),
        1,
        "finished, but its journal is still there"
    );
    dropbox.set_quota(SIZE + 20_000);
    let ended = host.run(SEND);
    assert_whole(&dropbox, &host, &ended);
}

#[test]
fn a_full_state_disk_keeps_nothing_from_being_stored() {
    let (dropbox, host) = machine();
    let state = host.path("state");
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
        .arg(&state)
        .stderr(std::process::Stdio::null())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        // Another way to have no room: a folder where the journals' folder would be made.
        fs::write(state.join("uploads"), b"in the way").expect("written");
    }
    // Whatever room there is, is taken.
    let mut filler = fs::File::create(state.join("filler")).expect("a file");
    while std::io::Write::write_all(&mut filler, &[1; 4_096]).is_ok()
        && fs::metadata(state.join("filler")).is_ok_and(|m| m.len() < 1 << 20)
    {}
    drop(filler);
    let ended = host.run(SEND);
    let unmounted = std::process::Command::new("umount")
        .arg(&state)
        .stderr(std::process::Stdio::null())
        .status();
    assert!(unmounted.is_ok());
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(dropbox.archives().len(), 1);
    assert!(
        ended.err.contains("start over") || ended.err.contains("start it over"),
        "{ended}"
    );
}
