//! Encrypted archives, from a run to the program `age`: what is stored, what is known of it, what survives a kill,
//! and that no key is left anywhere.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use gitlab_pi_backup::content_hash::Digest;
use gitlab_pi_backup::seal::{CHUNK_LEN, Identities, Opening, TAG_LEN};
use secrecy::ExposeSecret as _;
use serde_json::Value;
use support::dropbox::{Dropbox, Moment, Options};
use support::host::{Ended, Host};
use support::kill::kill_at;

const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");
const DATA: &str = "1702758583_2023_12_16_17.8.2_gitlab_backup.tar";
const CONFIG: &str = "gitlab_config_1702758583_2023_12_16.tar";
const ID: &str = "1702758583_2023_12_16_17.8.2";
const SEND: &str = "run --skip-create --json";
const ONLY_DATA: &str = "run --skip-create --only data --json -vv";
const CHUNK: u64 = 4 << 20;
const SIZE: u64 = 3 * CHUNK + 1_024;

/// A machine with both archives, and the private key of whom they are encrypted to.
struct World {
    dropbox: Dropbox,
    host: Host,
    identity: age::x25519::Identity,
}

fn world() -> World {
    let world = World {
        dropbox: Dropbox::start(Options::default()),
        host: Host::without_config(PROGRAM),
        identity: age::x25519::Identity::generate(),
    };
    world.host.put_data_archive(DATA, SIZE);
    world.host.put_config_archive(CONFIG);
    world.configure(&format!("recipients = [\"{}\"]", world.public()));
    world
}

impl World {
    fn public(&self) -> String {
        self.identity.to_public().to_string()
    }

    fn configure(&self, encryption: &str) {
        let config = self.host.config(&self.dropbox);
        self.host
            .write_config(&format!("{config}[encryption]\n{encryption}\n"));
    }

    fn local(&self, name: &str) -> PathBuf {
        let folder = if name == CONFIG {
            "etc/gitlab/config_backup"
        } else {
            "var/opt/gitlab/backups"
        };
        self.host.path(folder).join(name)
    }

    /// What is stored under a path is this archive, encrypted to our key. Read by our own code, which
    /// `age_format.rs` holds against others': theirs is slow where it is not optimised.
    fn assert_holds(&self, path: &str, name: &str) {
        let mut stored = self.dropbox.content(path);
        let key = self.identity.to_string();
        let keys = Identities::parse(key.expose_secret().as_bytes(), || Err(String::new()));
        let opening = Opening::new(&stored, &keys.expect("a key")).expect("our header");
        let plain_len = opening.plain_len(stored.len() as u64).expect("a length");
        let plain = fs::read(self.local(name)).expect("the archive");
        assert_eq!(plain_len, plain.len() as u64, "{path}");
        let chunks = Opening::chunks(plain_len);
        for (number, expected) in (0..chunks).zip(plain.chunks(CHUNK_LEN)) {
            let start = usize::try_from(opening.chunk_start(number)).expect("small");
            let sealed = &mut stored[start..][..expected.len() + TAG_LEN];
            let opened = opening.open_chunk(number, number + 1 == chunks, sealed);
            assert!(
                opened.is_some_and(|opened| opened == expected),
                "{path}: chunk {number}"
            );
        }
    }

    fn paths(&self) -> BTreeSet<String> {
        let files = self.dropbox.files().into_iter();
        files.map(|file| file.path_display).collect()
    }

    fn manifest(&self) -> Value {
        let manifest = self.dropbox.content(&format!("/Manifests/{ID}.json"));
        serde_json::from_slice(&manifest).expect("a manifest")
    }

    fn uploads(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.host.path("state/uploads"))
            .into_iter()
            .flatten();
        entries
            .map(|entry| entry.expect("an entry").path())
            .collect()
    }

    /// The key that lies beside the journal of an interrupted upload, and its public header.
    fn kept(&self) -> Option<(String, String)> {
        let of_sealing = |path: &&PathBuf| path.extension().is_some_and(|e| e == "sealing");
        let uploads = self.uploads();
        let text = fs::read_to_string(uploads.iter().find(of_sealing)?).expect("readable");
        let file: Value = serde_json::from_str(&text).ok()?;
        let sealing = file["sealing"].as_str().expect("a sealing");
        let sealing: Value = serde_json::from_str(sealing).expect("JSON");
        let field = |name: &str| sealing[name].as_str().expect("text").to_owned();
        Some((field("file_key"), field("header")))
    }

    /// Interrupts the sending of the data archive when some of it has arrived.
    fn interrupted(&self) {
        let killed = kill_at(&self.dropbox, &self.host, ONLY_DATA, 10, Moment::Head);
        assert!(killed.is_none(), "not interrupted");
        assert!(self.kept().is_some(), "{:?}", self.uploads());
    }

    /// Nothing of an unfinished upload is left.
    fn assert_done(&self, ended: &Ended) {
        assert_eq!(ended.status, Some(0), "{ended}");
        assert_eq!(self.uploads(), [] as [PathBuf; 0], "{ended}");
        self.assert_holds(&format!("/Data/{DATA}.age"), DATA);
    }
}

fn row<'a>(report: &'a Value, name: &str) -> &'a Value {
    let rows = report["archives"].as_array().expect("archives");
    let row = rows.iter().find(|row| row["name"] == name);
    &row.expect("a row")["uploads"][0]
}

fn unzip(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut decoder = flate2::read::MultiGzDecoder::new(bytes);
    decoder.read_to_string(&mut text).expect("gzip");
    text
}

/// Every file below a folder, with its bytes.
fn files_below(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            all.extend(files_below(&path));
        } else {
            let bytes = fs::read(&path).expect("readable");
            all.push((path, bytes));
        }
    }
    all
}

#[test]
fn a_run_stores_what_age_decrypts_and_all_commands_know_it() {
    let world = world();
    let dry = world.host.run("run --dry-run --json");
    assert_eq!(dry.status, Some(0), "{dry}");
    let stored = [format!("/Config/{CONFIG}.age"), format!("/Data/{DATA}.age")];
    assert_eq!(row(&dry.json(), DATA)["path"], stored[1].as_str(), "{dry}");
    assert_eq!(row(&dry.json(), DATA)["status"], "would_upload", "{dry}");
    assert!(!world.host.path("state/uploads").exists());

    let ended = world.host.run(SEND);
    world.assert_done(&ended);
    world.assert_holds(&stored[0], CONFIG);
    let config = age::decrypt(&world.identity, &world.dropbox.content(&stored[0]));
    let plain = fs::read(world.local(CONFIG)).expect("the archive");
    assert!(config.expect("decrypted") == plain);
    let report = ended.json();
    let manifest = world.manifest();
    for (index, (name, path)) in [(CONFIG, &stored[0]), (DATA, &stored[1])]
        .into_iter()
        .enumerate()
    {
        let files = world.dropbox.files();
        let file = files
            .iter()
            .find(|file| file.path_display == *path)
            .expect("stored");
        let upload = row(&report, name);
        assert_eq!(upload["path"], path.as_str(), "{ended}");
        assert_eq!(upload["status"], "uploaded", "{ended}");
        assert_eq!(upload["verified"], true, "{ended}");
        assert_eq!(upload["bytes_sent"], file.size, "{ended}");
        let archive = &manifest["archives"][index];
        let plain = fs::read(world.local(name)).expect("the archive");
        let hash = gitlab_pi_backup::catalog::hash_of(&plain).to_string();
        let stored_hash =
            gitlab_pi_backup::catalog::hash_of(&world.dropbox.content(path)).to_string();
        assert_eq!(archive["name"], name);
        assert_eq!(archive["stored_name"], format!("{name}.age"));
        assert_eq!(archive["size"], plain.len(), "{manifest}");
        assert_eq!(archive["content_hash"], hash, "{manifest}");
        assert_eq!(archive["stored_size"], file.size, "{manifest}");
        assert_eq!(archive["stored_hash"], stored_hash, "{manifest}");
        assert_eq!(upload["content_hash"], stored_hash, "{ended}");
        assert_eq!(
            archive["recipients"],
            serde_json::json!([world.public()]),
            "{manifest}"
        );
    }
    assert_eq!(report["backup_id"], ID);

    // What the archives hold is as secret as they are.
    let lists: Vec<_> = world
        .paths()
        .into_iter()
        .filter(|path| path.contains(".members."))
        .collect();
    assert_eq!(lists, [format!("/Manifests/{ID}.members.gz.age")]);
    let list = age::decrypt(&world.identity, &world.dropbox.content(&lists[0])).expect("decrypted");
    let list = unzip(&list);
    assert!(
        list.contains(DATA) && list.contains("gitlab-secrets.json"),
        "{list}"
    );

    let recovery = String::from_utf8(world.dropbox.content("/RECOVERY.md")).expect("text");
    assert!(
        recovery.contains(&format!(
            "age -d -i key.txt -o /root/restore/{DATA} /root/restore/{DATA}.age"
        )),
        "{recovery}"
    );
    assert!(recovery.contains(&world.public()), "{recovery}");
    assert!(
        recovery.contains(&format!("restore {ID} --identity key.txt --apply")),
        "{recovery}"
    );

    assert_known(&world, &report);
}

/// Everything that asks knows what is stored as whole, without a key.
fn assert_known(world: &World, report: &Value) {
    let verified = world.host.run("verify --json");
    assert_eq!(verified.status, Some(0), "{verified}");
    for file in verified.json()["archives"].as_array().expect("archives") {
        assert_eq!(file["status"], "ok", "{verified}");
    }
    let listed = world.host.run("list --json").json();
    let backup = &listed["backups"][0];
    assert_eq!(
        (&backup["complete"], &backup["missing"]),
        (&Value::from(true), &serde_json::json!([])),
        "{listed}"
    );
    // The stand-in's stamp is years old: all that is asked is whether it is known as complete.
    let status = world.host.run("status --json --remote --max-age 4000d");
    assert_eq!(status.json()["backup_id"], ID, "{status}");

    let again = world.host.run(SEND);
    assert_eq!(again.status, Some(0), "{again}");
    for name in [CONFIG, DATA] {
        assert_eq!(
            row(&again.json(), name)["status"],
            "already_present",
            "{again}"
        );
        assert_eq!(
            row(&again.json(), name)["content_hash"],
            row(report, name)["content_hash"]
        );
    }
    let dry = world.host.run("run --dry-run --json");
    assert_eq!(row(&dry.json(), DATA)["status"], "already_present", "{dry}");
}

#[test]
fn one_flipped_byte_at_the_destination_is_found_by_verify() {
    let world = world();
    assert_eq!(world.host.run(SEND).status, Some(0));
    let path = format!("/Data/{DATA}.age");
    let mut bytes = world.dropbox.content(&path);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    world.dropbox.remove(&path);
    world.dropbox.put_file(&path, &bytes);
    let verified = world.host.run("verify --json");
    assert_eq!(verified.status, Some(1), "{verified}");
    assert!(verified.out.contains("\"hash\""), "{verified}");
}

#[test]
fn only_the_config_archive_is_encrypted_if_so_configured() {
    let world = world();
    world.configure(&format!(
        "recipients = [\"{}\"]\nkinds = [\"config\"]",
        world.public()
    ));
    let ended = world.host.run(SEND);
    assert_eq!(ended.status, Some(0), "{ended}");
    world.assert_holds(&format!("/Config/{CONFIG}.age"), CONFIG);
    let plain = fs::read(world.local(DATA)).expect("the archive");
    assert!(world.dropbox.content(&format!("/Data/{DATA}")) == plain);
    let manifest = world.manifest();
    assert_eq!(
        manifest["archives"][0]["stored_name"],
        format!("{CONFIG}.age")
    );
    assert_eq!(manifest["archives"][1]["stored_name"], DATA);
    assert_eq!(manifest["archives"][1]["recipients"], Value::Null);
    let list = unzip(
        &world
            .dropbox
            .content(&format!("/Manifests/{ID}.members.gz")),
    );
    assert!(
        list.contains(DATA) && !list.contains("gitlab-secrets.json"),
        "{list}"
    );
    let hidden = world
        .dropbox
        .content(&format!("/Manifests/{ID}.members.gz.age"));
    let hidden = unzip(&age::decrypt(&world.identity, &hidden).expect("decrypted"));
    assert!(hidden.contains("gitlab-secrets.json"), "{hidden}");
    let listed = world.host.run("list --json").json();
    assert_eq!(listed["backups"][0]["complete"], true, "{listed}");
}

/// Whether a program can be called; if not, that is told.
fn call(program: &str, arguments: &[&str]) -> bool {
    let Ok(output) = Command::new(program).args(arguments).output() else {
        let told = writeln!(io::stderr(), "skipped: there is no `{program}` here");
        told.expect("standard error");
        return false;
    };
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {err}");
    true
}

#[test]
fn keys_of_ssh_and_a_file_of_recipients() {
    let world = world();
    let text = |name: &str| world.host.path(name).display().to_string();
    for kind in ["ed25519", "rsa"] {
        if !call(
            "ssh-keygen",
            &[
                "-q",
                "-t",
                kind,
                "-N",
                "",
                "-C",
                "alice@pi",
                "-f",
                &text(kind),
            ],
        ) {
            return;
        }
    }
    let public = |kind: &str| fs::read_to_string(text(kind) + ".pub").expect("a public key");
    let file = format!("# ours\n\n{}\n{}", public("ed25519"), public("rsa"));
    fs::write(text("recipients"), file).expect("written");
    world.configure(&format!(
        "recipients = [\"{}\"]\nrecipients_file = \"{}\"",
        world.public(),
        text("recipients")
    ));
    let ended = world.host.run(SEND);
    world.assert_done(&ended);
    assert_eq!(
        world.manifest()["archives"][0]["recipients"]
            .as_array()
            .map(Vec::len),
        Some(3)
    );
    let stored = world.dropbox.content(&format!("/Data/{DATA}.age"));
    fs::write(text("stored.age"), stored).expect("written");
    let plain = fs::read(world.local(DATA)).expect("the archive");
    fs::write(text("native"), world.identity.to_string().expose_secret()).expect("written");
    for kind in ["native", "ed25519", "rsa"] {
        if !call(
            "age",
            &[
                "-d",
                "-i",
                &text(kind),
                "-o",
                &text("plain"),
                &text("stored.age"),
            ],
        ) {
            return;
        }
        assert!(
            fs::read(text("plain")).expect("decrypted") == plain,
            "{kind}"
        );
        fs::remove_file(text("plain")).expect("removed");
    }
}

#[test]
fn killed_at_every_request_the_next_run_goes_on_with_the_same_key() {
    let mut n = 0;
    let mut resumed = 0;
    loop {
        let world = world();
        if kill_at(&world.dropbox, &world.host, ONLY_DATA, n, Moment::Applied).is_some() {
            break;
        }
        let kept = world.kept();
        let has_journal = world
            .uploads()
            .iter()
            .any(|path| path.extension().is_some_and(|e| e == "journal"));
        let ended = world.host.run(ONLY_DATA);
        world.assert_done(&ended);
        let upload = row(&ended.json(), DATA).clone();
        if upload["bytes_resumed"].as_u64() > Some(0) {
            resumed += 1;
        }
        if let Some((key, header)) = kept.filter(|_| has_journal) {
            use base64::Engine as _;
            let header = base64::prelude::BASE64_STANDARD
                .decode(header)
                .expect("base64");
            let stored = world.dropbox.content(&format!("/Data/{DATA}.age"));
            assert!(
                stored.starts_with(&header),
                "request {n}: another key: {ended}"
            );
            assert!(
                !ended.err.contains(&key) && !ended.out.contains(&key),
                "request {n}"
            );
            for (path, bytes) in files_below(&world.host.path("state")) {
                let found = bytes
                    .windows(key.len())
                    .any(|window| window == key.as_bytes());
                assert!(!found, "request {n}: {}", path.display());
            }
        }
        assert_eq!(
            world.manifest()["archives"][0]["stored_name"],
            format!("{DATA}.age")
        );
        let again = world.host.run(ONLY_DATA);
        assert_eq!(
            row(&again.json(), DATA)["status"],
            "already_present",
            "request {n}: {again}"
        );
        n += 1;
    }
    assert!(n >= 11, "only {n} requests were tried");
    assert!(resumed > 0, "none was resumed");
}

/// Not only a run can go on: `sync` has the key as well.
#[test]
fn a_sync_goes_on_where_a_run_was_killed() {
    let mut resumed = 0;
    for n in (9..40).step_by(2) {
        let world = world();
        let killed = kill_at(
            &world.dropbox,
            &world.host,
            "run --skip-create --json",
            n,
            Moment::Applied,
        );
        if killed.is_some() {
            break;
        }
        let kept = world.kept();
        let ended = world.host.run("sync --json");
        assert_eq!(ended.status, Some(0), "request {n}: {ended}");
        let report = ended.json();
        let mut rows = report["archives"].as_array().into_iter().flatten();
        // None, if all was stored but for the last manifest.
        let data = rows.find(|row| row["name"] == DATA);
        if let Some((_, header)) = kept
            && data.is_some_and(|row| row["uploads"][0]["bytes_resumed"].as_u64() > Some(0))
        {
            use base64::Engine as _;
            let header = base64::prelude::BASE64_STANDARD.decode(header);
            let stored = world.dropbox.content(&format!("/Data/{DATA}.age"));
            assert!(stored.starts_with(&header.expect("base64")), "{ended}");
            resumed += 1;
        }
        world.assert_holds(&format!("/Data/{DATA}.age"), DATA);
        assert!(world.kept().is_none(), "request {n}: a key is left");
    }
    assert!(resumed > 0, "none was resumed");
}

/// The next run makes a backup of its own; the one before is finished all the same.
#[test]
fn what_was_stored_just_before_the_kill_is_known_to_a_run_that_makes_another() {
    let mut n = 8;
    loop {
        let mut world = world();
        if kill_at(&world.dropbox, &world.host, ONLY_DATA, n, Moment::Applied).is_some() {
            break;
        }
        world.host.set("STUB_NOW", "1702999999");
        let ended = world.host.run("run --json");
        world.assert_done(&ended);
        assert_eq!(
            world.manifest()["archives"][0]["stored_name"],
            format!("{DATA}.age"),
            "request {n}: {ended}"
        );
        n += 1;
    }
    assert!(n >= 11, "only {n} requests were tried");
}

#[test]
fn an_archive_that_changed_gets_another_key() {
    let world = world();
    world.interrupted();
    let (_, header) = world.kept().expect("kept");
    world.host.put_data_archive(DATA, SIZE + 512);
    let ended = world.host.run(ONLY_DATA);
    world.assert_done(&ended);
    assert!(
        ended.err.contains("is given up: the file has changed"),
        "{ended}"
    );
    assert_other_key(&world, &header);
}

fn assert_other_key(world: &World, header: &str) {
    use base64::Engine as _;
    let header = base64::prelude::BASE64_STANDARD
        .decode(header)
        .expect("base64");
    let stored = world.dropbox.content(&format!("/Data/{DATA}.age"));
    assert!(!stored.starts_with(&header), "the same key");
}

#[test]
fn other_recipients_are_not_served_with_the_old_key() {
    let mut world = world();
    world.interrupted();
    let (_, header) = world.kept().expect("kept");
    world.identity = age::x25519::Identity::generate();
    world.configure(&format!("recipients = [\"{}\"]", world.public()));
    let ended = world.host.run(ONLY_DATA);
    world.assert_done(&ended);
    assert!(
        ended.err.contains("other recipients; beginning anew"),
        "{ended}"
    );
    assert_other_key(&world, &header);
}

#[test]
fn an_upload_that_was_begun_in_the_clear_is_begun_anew() {
    let world = world();
    world.host.write_config(&world.host.config(&world.dropbox));
    assert!(kill_at(&world.dropbox, &world.host, ONLY_DATA, 9, Moment::Head).is_none());
    world.configure(&format!("recipients = [\"{}\"]", world.public()));
    let ended = world.host.run(ONLY_DATA);
    world.assert_done(&ended);
    assert!(!world.paths().contains(&format!("/Data/{DATA}")), "{ended}");
}

/// The bytes that arrived are not those the key would seal now, whatever the file's times say.
#[test]
fn a_key_never_seals_other_bytes() {
    let world = world();
    world.interrupted();
    let (_, header) = world.kept().expect("kept");
    let is_journal = |path: &&PathBuf| path.extension().is_some_and(|e| e == "journal");
    let uploads = world.uploads();
    let journal = uploads.iter().find(is_journal).expect("a journal");
    let text = fs::read_to_string(journal).expect("readable");
    let mut changed = String::new();
    for line in text.lines() {
        let value: Value = serde_json::from_str(line).expect("JSON");
        let Some(block) = value["line"]["chunk"]["blocks"][0].as_str() else {
            changed += line;
            changed += "\n";
            continue;
        };
        let inner = &line[line.find("\"line\":").expect("a line") + 7..line.len() - 1];
        let inner = inner.replace(block, &"0".repeat(64));
        let sum = Digest::of(inner.as_bytes()).to_string();
        changed += &["{\"sum\":\"", &sum[..8], "\",\"line\":", &inner, "}\n"].concat();
    }
    assert_ne!(changed, text, "some chunk had been acknowledged");
    fs::write(journal, changed).expect("written");
    let ended = world.host.run(ONLY_DATA);
    world.assert_done(&ended);
    assert!(
        ended.err.contains("its file is not what was sent of it"),
        "{ended}"
    );
    assert_other_key(&world, &header);
}

#[test]
fn without_its_key_an_upload_is_begun_anew() {
    for text in ["", "{\"format\":1", "{\"format\":9}"] {
        let world = world();
        world.interrupted();
        let (_, header) = world.kept().expect("kept");
        for path in world.uploads() {
            if path.extension().is_some_and(|e| e == "sealing") {
                fs::write(path, text).expect("written");
            }
        }
        let ended = world.host.run(ONLY_DATA);
        world.assert_done(&ended);
        assert!(
            ended.err.contains("the key of its encryption is gone"),
            "{ended}"
        );
        assert_other_key(&world, &header);
    }
}

#[test]
fn what_is_there_is_known_by_the_manifest_too_and_else_not_touched() {
    let world = world();
    assert_eq!(world.host.run(SEND).status, Some(0));
    let state = world.host.path("state");
    fs::remove_dir_all(state.join("sealed")).expect("removed");
    let ended = world.host.run(SEND);
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(
        row(&ended.json(), DATA)["status"],
        "already_present",
        "{ended}"
    );

    // Neither notes nor a manifest: it may be anything.
    for name in ["sealed", "backups", "cache"] {
        fs::remove_dir_all(state.join(name)).expect("removed");
    }
    for path in world.paths() {
        if path.starts_with("/Manifests/") {
            world.dropbox.remove(&path);
        }
    }
    let path = format!("/Data/{DATA}.age");
    let before = world.dropbox.content(&path);
    let ended = world.host.run(SEND);
    assert_eq!(ended.status, Some(1), "{ended}");
    assert_eq!(row(&ended.json(), DATA)["status"], "conflict", "{ended}");
    assert!(
        ended.err.contains("nothing tells that it is this archive"),
        "{ended}"
    );
    assert!(world.dropbox.content(&path) == before);
    assert_eq!(world.uploads(), [] as [PathBuf; 0]);
}

#[test]
fn another_archive_under_the_same_name_is_a_conflict() {
    let world = world();
    assert_eq!(world.host.run(SEND).status, Some(0));
    world.host.put_data_archive(DATA, SIZE - 512);
    let ended = world.host.run(SEND);
    assert_eq!(ended.status, Some(1), "{ended}");
    assert_eq!(row(&ended.json(), DATA)["status"], "conflict", "{ended}");
}

#[test]
fn what_was_stored_in_the_clear_before_stays_known() {
    let world = world();
    world.host.write_config(&world.host.config(&world.dropbox));
    assert_eq!(world.host.run(SEND).status, Some(0));
    world.configure(&format!("recipients = [\"{}\"]", world.public()));
    let listed = world.host.run("list --json").json();
    assert_eq!(listed["backups"][0]["complete"], true, "{listed}");
    assert_eq!(world.host.run("verify").status, Some(0));
}

#[test]
fn local_archives_go_when_they_are_stored_encrypted() {
    let mut world = world();
    let config = world.host.config(&world.dropbox);
    let encryption = format!("[encryption]\nrecipients = [\"{}\"]\n", world.public());
    world.host.write_config(&format!(
        "{config}{encryption}[retention]\nlocal = 1\n[guard]\nshrink = \"100%\"\n"
    ));
    assert_eq!(world.host.run(SEND).status, Some(0));
    world.host.set("STUB_NOW", "1702999999");
    let ended = world.host.run("run --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert!(!world.local(DATA).exists(), "{ended}");
    assert!(!world.local(CONFIG).exists(), "{ended}");
}

#[test]
fn wrong_recipients_are_faults_of_the_configuration() {
    let world = world();
    let secret = world.identity.to_string().expose_secret().to_owned();
    let file = world.host.path("recipients");
    let in_file = |text: &str| {
        fs::write(&file, text).expect("written");
        format!("recipients_file = \"{}\"", file.display())
    };
    let cases = [
        (
            "recipients = []".to_owned(),
            "`encryption.recipients`: names nobody",
        ),
        (String::new(), "`encryption.recipients`: is missing"),
        (
            "kinds = [\"data\"]".to_owned(),
            "`encryption.recipients`: is missing",
        ),
        (
            "recipients = [\"age1x\"]".to_owned(),
            "line 16: `encryption.recipients`: `age1x`",
        ),
        (
            format!("recipients = [\"{secret}\"]"),
            "holds a private key",
        ),
        (
            format!("recipients = [\"{}\"]\nkinds = []", world.public()),
            "`encryption.kinds`: names no kind",
        ),
        (
            format!("recipient = [\"{}\"]", world.public()),
            "unknown key `encryption.recipient`",
        ),
        (
            "recipients_file = \"/nonexistent\"".to_owned(),
            "`encryption.recipients_file`: /nonexistent",
        ),
        (in_file("# nobody\n"), "names nobody who could decrypt"),
    ];
    for (encryption, message) in cases {
        world.configure(&encryption);
        for arguments in ["run", "run -vv --json", "run --dry-run"] {
            let ended = world.host.run(arguments);
            assert_eq!(ended.status, Some(2), "{encryption}: {ended}");
            assert!(
                ended.err.contains(message) || ended.out.contains(message),
                "{encryption}: {ended}"
            );
            assert!(!ended.to_string().contains(&secret[15..40]), "{ended}");
        }
    }
    for text in [format!("{}\nage1bad\n", world.public()), secret.clone()] {
        world.configure(&in_file(&text));
        let ended = world.host.run("run");
        assert_eq!(ended.status, Some(2), "{ended}");
        assert!(ended.err.contains("recipients_file"), "{ended}");
        assert!(!ended.to_string().contains(&secret[15..40]), "{ended}");
    }
    assert!(world.dropbox.files().is_empty());
}
