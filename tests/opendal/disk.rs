//! `type = "fs"`.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use super::server::skip;
use super::support::host::{Ended, Host};
use super::trip::{CONFIG, DATA, PROGRAM, configure, host, ok, put_data, round_trip, upload};

fn folder(host: &Host) -> String {
    let root = host.path("disk");
    fs::create_dir_all(&root).expect("a folder");
    configure(
        host,
        &format!(
            "type = \"fs\"\nroot = \"{}\"\nrequire_mount = false",
            root.display()
        ),
    );
    root.display().to_string()
}

#[test]
fn a_backup_goes_to_a_folder_and_comes_back() {
    let host = host("type = \"fs\"\nroot = \"/nowhere\"");
    folder(&host);
    round_trip(&host);
}

#[test]
fn what_is_stored_is_for_root_alone_and_has_the_archives_time() {
    let host = host("type = \"fs\"\nroot = \"/nowhere\"");
    let root = folder(&host);
    ok(&host, "run --skip-create");
    for (folder, name) in [("Config", CONFIG), ("Data", DATA)] {
        let metadata = fs::metadata(format!("{root}/{folder}/{name}")).expect("stored");
        assert_eq!(metadata.mode() & 0o777, 0o600, "{name}");
        assert_eq!(metadata.mtime(), 1_702_758_583, "{name}");
    }
    let names = fs::read_dir(format!("{root}/Data")).expect("a folder");
    assert_eq!(names.count(), 1, "nothing else is left");
}

/// The program where a disk is mounted at the folder; none, and that is told, where that cannot be.
fn mounted(host: &Host, options: &str, arguments: &str) -> Option<Ended> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/init/disk");
    let folder = host.path("disk");
    let calling = |words: &[&str]| {
        let mut command = host.command("");
        let variables: Vec<_> = command.get_envs().collect();
        let mut unshare = Command::new("unshare");
        for (name, value) in variables {
            unshare.env(name, value.expect("a value"));
        }
        command = unshare;
        command.arg("-m").arg(&script).arg(&folder).arg(options);
        command.args(words).output()
    };
    if !calling(&["true"]).is_ok_and(|output| output.status.success()) {
        skip("mount namespaces cannot be had");
        return None;
    }
    let mut words = vec![PROGRAM];
    words.extend(arguments.split_ascii_whitespace());
    Some(calling(&words).expect("it was called before").into())
}

/// A machine whose backups go to a disk that is to be mounted.
fn on_a_disk() -> Host {
    let host = host("type = \"fs\"\nroot = \"/nowhere\"");
    let root = host.path("disk");
    fs::create_dir_all(&root).expect("a folder");
    let place = format!(
        "type = \"fs\"\nrequire_mount = true\nroot = \"{}\"",
        root.display()
    );
    configure(&host, &place);
    host
}

fn is_empty(host: &Host) -> bool {
    let mut found = fs::read_dir(host.path("disk")).expect("a folder");
    found.next().is_none()
}

#[test]
fn a_mount_point_without_its_disk_is_not_filled() {
    let host = on_a_disk();
    let ended = host.run("run --skip-create");
    assert_eq!(ended.status, Some(1), "{ended}");
    for text in ["no disk is mounted there", "require_mount = false"] {
        assert!(ended.err.contains(text), "{ended}");
    }
    assert!(is_empty(&host));
    // Nor where systemd has mounted the folder onto itself.
    let Some(ended) = mounted(&host, "bind", "run --skip-create") else {
        return;
    };
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(ended.err.contains("no disk is mounted there"), "{ended}");
    assert!(is_empty(&host));
    let ended = mounted(&host, "size=64m", "run --skip-create").expect("as before");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert!(is_empty(&host), "it went to the disk");
    fs::remove_dir(host.path("disk")).expect("removed");
    let ended = host.run("run --skip-create");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(ended.err.contains("is not there"), "{ended}");
    assert!(!host.path("disk").exists(), "no mount point is made");
}

#[test]
fn a_disk_that_cannot_take_it_says_why() {
    let host = on_a_disk();
    put_data(&host, 3_000_000);
    for (options, says) in [
        ("size=1m", "are free; nothing was sent"),
        ("size=64m,nr_inodes=3", "No space left on device"),
        ("size=64m,ro", "Read-only file system"),
    ] {
        let Some(ended) = mounted(&host, options, "run --skip-create") else {
            return;
        };
        assert_eq!(ended.status, Some(1), "{options}: {ended}");
        assert!(ended.err.contains(says), "{options}: {ended}");
        assert!(ended.err.contains("\n  "), "a way out: {ended}");
    }
}

#[test]
fn a_kill_leaves_nothing_that_looks_complete_and_the_next_run_tidies_up() {
    let host = host("type = \"fs\"\nroot = \"/nowhere\"");
    let root = folder(&host);
    let archive = put_data(&host, 24_000_000);
    let archive = fs::read(archive).expect("the archive");
    let start = Instant::now();
    ok(&host, "run --skip-create -q");
    let whole = start.elapsed();
    let data = Path::new(&root).join("Data");
    for nth in 0..12 {
        fs::remove_dir_all(&root).expect("removed");
        fs::create_dir(&root).expect("made");
        let mut child = host.spawn("run --skip-create -q");
        std::thread::sleep(whole * nth / 11);
        child.kill().expect("killed");
        child.wait().expect("waited for");
        if let Ok(there) = fs::read(data.join(DATA)) {
            assert!(there == archive, "{nth}: {} bytes are there", there.len());
        }
    }
    fs::remove_file(data.join(DATA)).ok();
    fs::create_dir_all(&data).expect("a folder");
    let left = data.join(format!(".{DATA}.0123456789abcdef.partial"));
    fs::write(&left, "half").expect("written");
    fs::write(data.join("somebody's"), "file").expect("written");
    let listed = host.run("list --destination there --json");
    assert!(!listed.out.contains("partial"), "{listed}");
    ok(&host, "run --skip-create -q --only data");
    let names = fs::read_dir(&data).expect("a folder");
    let mut names: Vec<_> = names
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    names.sort();
    assert_eq!(names, [DATA, "somebody's"]);
    assert!(fs::read(data.join(DATA)).expect("stored") == archive);
}

#[test]
fn what_is_there_is_not_replaced() {
    let host = host("type = \"fs\"\nroot = \"/nowhere\"");
    let root = folder(&host);
    let there = Path::new(&root).join("Data").join(DATA);
    fs::create_dir_all(there.parent().expect("a folder")).expect("folders");
    fs::write(&there, "another").expect("written");
    let ended = host.run("run --skip-create --json");
    let report = ended.json();
    assert_eq!(upload(&report, "data")["status"], "conflict", "{ended}");
    assert_eq!(fs::read(&there).expect("there"), b"another");
}

#[test]
fn settings_that_are_wrong_are_told_together() {
    let host = host("type = \"fs\"\nroot = \"/nowhere\"");
    for (place, says) in [
        (
            "type = \"fs\"",
            vec!["`destinations.there.root` is missing"],
        ),
        (
            "type = \"fs\"\nroot = \"disk\"",
            vec!["takes a path that starts with `/`"],
        ),
        (
            "type = \"fs\"\nroot = \"/a/../b\"",
            vec!["without `.` and `..`"],
        ),
        ("type = \"fs\"\nroot = \"/\"", vec!["a folder of its own"]),
        (
            "type = \"fs\"\nroot = \"/a\"\nrequire_mont = false\nbucket = \"b\"",
            vec![
                "did you mean `require_mount`",
                "unknown key `destinations.there.bucket`",
            ],
        ),
        (
            "type = \"s3\"",
            vec![
                "bucket` is missing",
                "access_key_id` is missing",
                "secret_access_key` is missing",
            ],
        ),
        (
            "type = \"s3\"\nbucket = \"b\"\naccess_key_id = \"a\"\nsecret_access_key = \"s\"\nendpoint = \"http://nas.lan\"",
            vec!["allow_http = true"],
        ),
        (
            "type = \"s3\"\nbucket = \"b\"\naccess_key_id = \"a\"\nsecret_acces_key = \"s\"\nregion = \"x\"",
            vec!["did you mean `secret_access_key`"],
        ),
    ] {
        configure(&host, place);
        let ended = host.run("list");
        assert_eq!(ended.status, Some(2), "{place}: {ended}");
        for text in says {
            assert!(
                ended.err.contains(text),
                "{place}: `{text}` is not in {ended}"
            );
        }
    }
    if cfg!(not(feature = "sftp")) {
        configure(&host, "type = \"sftp\"\nendpoint = \"pi@nas\"");
        let ended = host.run("list");
        assert_eq!(ended.status, Some(2), "{ended}");
        for text in [
            "not in this build",
            "dropbox, webdav, fs, s3",
            "--features sftp",
        ] {
            assert!(ended.err.contains(text), "`{text}` is not in {ended}");
        }
    }
}
