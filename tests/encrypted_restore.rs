//! The way back of encrypted backups: rehearsed, restored and extracted with the private key, and refused without it
//! or when anything is damaged.

mod support;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use support::backup::{RealBackup, hashed};
use support::dialogue::{Screen, echoes};
use support::dropbox::{Dropbox, Fault, Options, What};
use support::host::{Ended, Host};
use support::lost::{APPLY, lost};
use support::sealed::{Key, put_data, replace, seal, seal_stored, write_key};

const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");
const STAMP: u64 = 1_702_758_583;
const ID: &str = "1702758583_2023_12_16_17.8.2";
const NAME: &str = "1702758583_2023_12_16_17.8.2_gitlab_backup.tar";
const SEALED: &str = "/Data/1702758583_2023_12_16_17.8.2_gitlab_backup.tar.age";
/// A sealed chunk.
const CHUNK: usize = 64 * 1024 + 16;

/// A machine whose backup is stored encrypted, the archives as GitLab made them, and the key.
struct World {
    dropbox: Dropbox,
    host: Host,
    key: Key,
    data: Vec<u8>,
}

fn world(uploads: usize) -> World {
    let dropbox = Dropbox::start(Options::default());
    let host = Host::new(PROGRAM, &dropbox);
    let config = host.path("etc/gitlab/config_backup");
    let backup = RealBackup::new(1).uploads(uploads);
    let paths = backup.write_into(&host.path("var/opt/gitlab/backups"), &config, STAMP);
    let ended = host.run("run --skip-create");
    assert_eq!(ended.status, Some(0), "{ended}");
    let data = fs::read(paths.data).expect("read");
    let key = Key::new();
    seal_stored(&dropbox, ID, &key);
    key.write(&host);
    World {
        dropbox,
        host,
        key,
        data,
    }
}

impl World {
    fn restore(&self, arguments: &str) -> Ended {
        let (to, key) = (self.host.path("to"), self.host.path("key.txt"));
        self.host.run(&format!(
            "restore --json --to {} --identity {} {arguments}",
            to.display(),
            key.display()
        ))
    }

    fn rehearse(&self) -> Ended {
        let key = self.host.path("key.txt");
        self.host.run(&format!(
            "rehearse {ID} --json --identity {}",
            key.display()
        ))
    }

    /// Everything in the folder that archives were to be fetched to, hidden files too.
    fn fetched(&self) -> Vec<String> {
        let entries = fs::read_dir(self.host.path("to")).into_iter().flatten();
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        names
            .map(|name| name.to_string_lossy().into_owned())
            .collect()
    }

    /// Every way back is refused with these words, and leaves nothing.
    fn refused(&self, words: &[&str], what: &str) {
        let ended = self.restore("--only data");
        assert_eq!(ended.status, Some(1), "{what}: {ended}");
        for word in words {
            assert!(ended.err.contains(word), "{what}: {word}: {ended}");
        }
        assert_eq!(self.fetched(), [""; 0], "{what}: {ended}");
    }
}

#[test]
fn an_encrypted_backup_comes_back_as_gitlab_made_it() {
    let world = world(300_000);
    let ended = world.rehearse();
    assert_eq!(ended.status, Some(0), "{ended}");
    let report = ended.json();
    assert_eq!(report["restorable"], true);
    let parts = report["parts"].as_array().expect("parts");
    for part in ["hash", "db", "repositories", "encryption"] {
        let found = parts.iter().filter(|row| row["part"] == part);
        assert!(found.clone().count() > 0, "{part}: {ended}");
        assert!(
            found.into_iter().all(|row| row["status"] == "ok"),
            "{part}: {ended}"
        );
    }
    let ended = world.restore("");
    assert_eq!(ended.status, Some(0), "{ended}");
    let report = ended.json();
    assert_eq!(
        fs::read(world.host.path("to").join(NAME)).expect("fetched"),
        world.data
    );
    assert_eq!(report["archives"][1]["name"], NAME);
    assert_eq!(report["archives"][1]["size"], world.data.len());
    for row in 0..2 {
        assert_eq!(report["archives"][row]["verified"], true);
    }
    // Again: it is there, and known by its plain hash.
    let ended = world.restore("");
    assert_eq!(
        ended.json()["archives"][1]["status"],
        "already_present",
        "{ended}"
    );
    // The plan says how, without the key.
    let plan = world.host.run("restore --plan");
    assert_eq!(plan.status, Some(0), "{plan}");
    assert!(plan.out.contains("add --identity FILE"), "{plan}");
    let plan = world.host.run("restore --plan --identity /root/key.txt");
    assert!(plan.out.contains(" --identity /root/key.txt"), "{plan}");
}

#[test]
fn one_project_comes_out_of_an_encrypted_backup() {
    if Command::new("git").arg("version").output().is_err() {
        // Not by a macro, whose output a test that passes does not show.
        writeln!(std::io::stderr(), "skipped: there is no `git` here").expect("standard error");
        return;
    }
    let world = world(3_000_000);
    let (out, key) = (world.host.path("out"), world.host.path("key.txt"));
    let arguments = format!("--json --to {} --identity {}", out.display(), key.display());
    let ended = world.host.run(&format!("extract demo/website {arguments}"));
    assert_eq!(ended.status, Some(0), "{ended}");
    assert!(out.join("website.git/HEAD").is_file());
    let downloaded = ended.json()["bytes_downloaded"].as_u64().expect("bytes");
    assert!(downloaded < 1_000_000, "{ended}");
    assert!(
        !ended.err.contains("instead"),
        "the lists were read: {ended}"
    );
    let listed = world.host.run(&format!(
        "extract --list --json --identity {}",
        key.display()
    ));
    assert_eq!(listed.status, Some(0), "{listed}");
    assert_eq!(listed.json()["projects"][1]["hashed"], hashed("@hashed", 1));
    for arguments in ["extract --list", "extract demo/website --to /tmp/x"] {
        let ended = world.host.run(arguments);
        assert_eq!(ended.status, Some(1), "{ended}");
        assert!(
            ended
                .err
                .contains("it is encrypted\n  name the file with the private key: --identity FILE"),
            "{ended}"
        );
    }
}

#[test]
fn gitlab_itself_comes_back_from_an_encrypted_backup() {
    let lost = lost();
    let key = Key::new();
    seal_stored(&lost.dropbox, ID, &key);
    let path = key.write(&lost.host);
    let ended = lost.host.run(APPLY);
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(ended.err.contains("--identity FILE"), "{ended}");
    let ended = lost
        .host
        .run(&format!("{APPLY} --identity {}", path.display()));
    lost.assert_back(&ended);
}

#[test]
fn without_the_right_key_nothing_is_written() {
    let world = world(60_000);
    let other = Key::new();
    let encrypted = seal(b"AGE-SECRET-KEY-1", &other.recipient());
    fs::write(world.host.path("sealed.txt"), encrypted).expect("written");
    let with = |name: &str, text: &str| {
        write_key(&world.host.path(name), text);
    };
    with("other.txt", &other.file());
    with("public.txt", &world.key.recipient());
    with("empty.txt", "# nothing\n");
    with("text.txt", "not a key at all\n");
    with(
        "damaged.txt",
        &world
            .key
            .file()
            .replace("AGE-SECRET-KEY-1", "AGE-SECRET-KEY-1QQQQ"),
    );
    with(
        "ssh.pem",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
    );
    for (name, words) in [
        (
            "other.txt",
            &["encrypted to other recipients (X25519)", "--identity FILE"][..],
        ),
        ("missing.txt", &["missing.txt: No such file"]),
        ("public.txt", &["it holds a public key"]),
        ("empty.txt", &["empty.txt"]),
        ("text.txt", &["text.txt"]),
        ("damaged.txt", &["damaged.txt"]),
        ("ssh.pem", &["ssh.pem"]),
        ("sealed.txt", &["not by a passphrase"]),
        (".", &["reading the identity file"]),
    ] {
        let identity = world.host.path(name);
        for command in [
            "restore --to TO",
            "rehearse",
            "extract demo/website --to TO",
        ] {
            let command = command.replace("TO", &world.host.path("to").display().to_string());
            let ended = world
                .host
                .run(&format!("{command} --identity {}", identity.display()));
            assert_eq!(ended.status, Some(1), "{name}: {ended}");
            for word in words {
                assert!(ended.err.contains(word), "{name}: {word}: {ended}");
            }
            let whole = format!("{}{}", ended.out, ended.err);
            assert!(!whole.contains("AGE-SECRET-KEY"), "{name}: {ended}");
            assert_eq!(world.fetched(), [""; 0], "{name}: {ended}");
        }
    }
    // None at all, where one is needed.
    for command in ["restore", "rehearse"] {
        let ended = world.host.run(command);
        assert_eq!(ended.status, Some(1), "{ended}");
        assert!(
            ended.err.contains("it is encrypted\n  name the file"),
            "{ended}"
        );
    }
    // That it was not proved says nothing about the backup.
    let rows = world.host.run("list --json --destination dropbox").json()["backups"].clone();
    assert_eq!(rows[0]["complete"], true);
}

#[test]
fn a_key_that_others_can_read_is_told() {
    let world = world(60_000);
    let key = world.host.path("key.txt");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("a mode");
    let ended = world.restore("");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert!(
        ended
            .err
            .contains("others may read this private key (mode 0644)"),
        "{ended}"
    );
    assert!(
        ended.err.contains(&format!("chmod 600 {}", key.display())),
        "{ended}"
    );
}

#[test]
fn every_damage_to_every_chunk_is_refused() {
    let world = world(200_000);
    let whole = world.dropbox.content(SEALED);
    let begin = header_len(&whole);
    let chunks: Vec<&[u8]> = whole[begin..].chunks(CHUNK).collect();
    assert!(chunks.len() > 3, "{}", chunks.len());
    let head = &whole[..begin];
    let mut cases: Vec<(String, Vec<u8>)> = Vec::new();
    let join = |chunks: &[&[u8]]| [head, &chunks.concat()].concat();
    for number in 0..chunks.len() {
        let at = chunks[number].len() * (number + 1) / (chunks.len() + 1);
        let mut bytes = whole.clone();
        bytes[begin + number * CHUNK + at] ^= 0x20;
        cases.push((format!("byte {at} of chunk {number} flipped"), bytes));
        let mut left: Vec<_> = chunks.clone();
        left.remove(number);
        cases.push((format!("chunk {number} dropped"), join(&left)));
        let mut twice = chunks.clone();
        twice.insert(number, chunks[number]);
        cases.push((format!("chunk {number} twice"), join(&twice)));
        if number > 0 {
            let mut swapped = chunks.clone();
            swapped.swap(number - 1, number);
            cases.push((format!("chunk {number} swapped"), join(&swapped)));
        }
        cases.push((
            format!("cut before chunk {number}"),
            join(&chunks[..number]),
        ));
    }
    cases.push((
        "cut within the header".to_owned(),
        whole[..begin / 2].to_vec(),
    ));
    cases.push((
        "one byte less".to_owned(),
        whole[..whole.len() - 1].to_vec(),
    ));
    cases.push(("one byte more".to_owned(), [&whole[..], b"x"].concat()));
    let mut bytes = whole.clone();
    bytes[begin - 20] ^= 1;
    cases.push(("header damaged".to_owned(), bytes));
    cases.push(("not age's".to_owned(), world.data.clone()));
    for (what, bytes) in &cases {
        // The manifest agrees: only the format itself protects.
        put_data(&world.dropbox, ID, bytes);
        world.refused(&["another backup"], what);
    }
    // A rehearsal says that it would not restore.
    for (what, bytes) in [&cases[1], &cases[cases.len() - 4]] {
        put_data(&world.dropbox, ID, bytes);
        let ended = world.rehearse();
        assert_eq!(ended.status, Some(1), "{what}: {ended}");
        assert_eq!(ended.json()["restorable"], false, "{what}: {ended}");
    }
    put_data(&world.dropbox, ID, &whole);
    let ended = world.restore(&format!("--only data {ID}"));
    assert_eq!(ended.status, Some(0), "{ended}");
}

/// Up to the first chunk: the lines of the header, and a nonce.
fn header_len(sealed: &[u8]) -> usize {
    let mac = sealed
        .windows(5)
        .position(|window| window == b"\n--- ")
        .expect("a MAC");
    let end = sealed[mac + 1..]
        .iter()
        .position(|byte| *byte == b'\n')
        .expect("its end");
    mac + 1 + end + 1 + 16
}

#[test]
fn what_is_stored_must_be_what_was_stored() {
    let world = world(60_000);
    // Whole, and encrypted to the right key, but of other bytes: the manifest's plain hash tells.
    let mut other = world.data.clone();
    let at = other.len() - 3_000;
    other[at] ^= 1;
    put_data(&world.dropbox, ID, &seal(&other, &world.key.recipient()));
    world.refused(
        &["damaged: its content hash is", "nothing is placed"],
        "other bytes",
    );
    // And another length.
    other.truncate(other.len() - 512);
    put_data(&world.dropbox, ID, &seal(&other, &world.key.recipient()));
    world.refused(&["bytes, not "], "fewer bytes");
}

#[test]
fn an_interrupted_restore_goes_on_at_a_chunk() {
    let mut world = world(16_000_000);
    world.host.set("GITLAB_PI_BACKUP_UPLOAD__RETRY_FOR", "1s");
    // The manifest, the looks into headers and some parts of the archive arrive.
    world.dropbox.fault(
        Fault::on("download", What::server_error(503))
            .skip(7)
            .forever(),
    );
    let ended = world.restore("--only data");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(
        ended.err.contains("the same command goes on from there"),
        "{ended}"
    );
    assert_eq!(world.fetched().len(), 1, "{ended}");
    world.dropbox.clear_faults();
    let ended = world.restore("--only data");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert!(
        ended.json()["archives"][0]["bytes_resumed"].as_u64() > Some(1_000_000),
        "{ended}"
    );
    assert_eq!(
        fs::read(world.host.path("to").join(NAME)).expect("fetched"),
        world.data
    );
}

#[test]
fn archives_encrypted_by_hand_come_back_without_a_manifest() {
    let world = world(100_000);
    for file in ["json", "members.gz.age", "projects.gz.age"] {
        world.dropbox.remove(&format!("/Manifests/{ID}.{file}"));
    }
    let ended = world.host.run(&format!(
        "rehearse {ID} --json --identity {}",
        world.host.path("key.txt").display()
    ));
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(ended.json()["restorable"], true);
    let ended = world.restore(ID);
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(ended.json()["archives"][1]["verified"], false);
    assert_eq!(
        fs::read(world.host.path("to").join(NAME)).expect("fetched"),
        world.data
    );
}

/// Runs a program of age's; none where it is not installed.
fn age(words: &[&str], input: &[u8]) -> Option<Vec<u8>> {
    let child = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else {
        let told = writeln!(
            std::io::stderr(),
            "skipped: there is no `{}` here",
            words[0]
        );
        told.expect("standard error");
        return None;
    };
    let mut stdin = child.stdin.take().expect("its input");
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input).expect("its input"));
        child.wait_with_output().expect("its output")
    });
    assert!(output.status.success(), "{words:?}");
    Some(output.stdout)
}

#[test]
fn keys_of_age_and_of_ssh_open_what_age_encrypted() {
    let world = world(100_000);
    let ssh = |name: &str, words: &[&str]| {
        let path = world.host.path(name);
        let made = Command::new("ssh-keygen")
            .args(["-q", "-C", "", "-f"])
            .arg(&path)
            .args(words)
            .status();
        made.is_ok_and(|status| status.success()).then_some(path)
    };
    let native = age(&["age-keygen"], b"").map(|text| {
        let text = String::from_utf8(text).expect("text");
        let public = text
            .lines()
            .find_map(|line| line.strip_prefix("# public key: "));
        let public = public.expect("a public key").to_owned();
        (write_key(&world.host.path("native.txt"), &text), public)
    });
    let of_ssh = |path: &Path| fs::read_to_string(path.with_extension("pub")).expect("public");
    let mut keys: Vec<_> = native.into_iter().collect();
    for (name, words) in [
        ("ed25519", &["-t", "ed25519", "-N", ""][..]),
        ("rsa", &["-t", "rsa", "-b", "2048", "-N", ""]),
    ] {
        keys.extend(ssh(name, words).map(|path| {
            let public = of_ssh(&path).trim().to_owned();
            (path, public)
        }));
    }
    let other = Key::new().recipient();
    for (path, public) in keys {
        // To several: this is one of them.
        let words = ["age", "-r", &other, "-r", &public];
        let Some(sealed) = age(&words, &world.data) else {
            return;
        };
        put_data(&world.dropbox, ID, &sealed);
        fs::remove_dir_all(world.host.path("to")).ok();
        let ended = world.host.run(&format!(
            "restore --only data --json --to {} --identity {}",
            world.host.path("to").display(),
            path.display()
        ));
        assert_eq!(ended.status, Some(0), "{}: {ended}", path.display());
        assert_eq!(
            fs::read(world.host.path("to").join(NAME)).expect("fetched"),
            world.data
        );
    }
}

#[test]
fn a_passphrase_is_asked_for_on_the_terminal_and_shown_nowhere() {
    let world = world(60_000);
    let encryptor = age::Encryptor::with_user_passphrase("correct horse".to_owned().into());
    let mut protected = Vec::new();
    let mut writer = encryptor.wrap_output(&mut protected).expect("memory");
    writer
        .write_all(world.key.file().as_bytes())
        .expect("memory");
    writer.finish().expect("memory");
    let path = world.host.path("key.age");
    fs::write(&path, protected).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a mode");
    let arguments = format!(
        "restore --only data --to {} --identity {}",
        world.host.path("to").display(),
        path.display()
    );
    // Nobody is there to be asked.
    let ended = world.host.run(&arguments);
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(
        ended.err.contains("standard input is no terminal"),
        "{ended}"
    );
    for (passphrase, status) in [("wrong", 1), ("correct horse", 0)] {
        let mut screen = Screen::start(&world.host.command(&arguments));
        screen.wait_for("Passphrase for ");
        let terminal = screen.terminal();
        while echoes(&terminal) {
            std::thread::yield_now();
        }
        screen.enter(&format!("{passphrase}\n"));
        let (ended, shown) = screen.end();
        assert_eq!(ended, Some(status), "{shown}");
        assert!(
            !shown.contains(passphrase) || passphrase == "wrong",
            "{shown}"
        );
        assert_eq!(
            shown.contains("the passphrase is wrong"),
            status == 1,
            "{shown}"
        );
        assert!(echoes(&terminal), "{shown}");
    }
    assert_eq!(
        fs::read(world.host.path("to").join(NAME)).expect("fetched"),
        world.data
    );
}

#[test]
fn what_is_stored_tells_nothing_that_is_believed_unproved() {
    let world = world(60_000);
    // A member list and an index that are encrypted to somebody else, or damaged.
    let list = format!("/Manifests/{ID}.members.gz.age");
    replace(&world.dropbox, &list, &seal(b"x", &Key::new().recipient()));
    let ended = world.host.run(&format!(
        "extract --list --json --identity {}",
        world.host.path("key.txt").display()
    ));
    assert_eq!(ended.status, Some(0), "{ended}");
    assert!(
        ended.err.contains("its headers are read instead"),
        "{ended}"
    );
    assert_eq!(ended.json()["projects"][0]["path"], json!("demo/apps/shop"));
    assert_eq!(ended.json()["error"], Value::Null);
}
