//! What every place must be good for: a backup goes there and comes back, by the real binary.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::support::backup::RealBackup;
use super::support::host::{Ended, Host};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");
pub const STAMP: u64 = 1_702_758_583;
pub const ID: &str = "1702758583_2023_12_16_17.8.2";
pub const CONFIG: &str = "gitlab_config_1702758583_2023_12_16.tar";
pub const DATA: &str = "1702758583_2023_12_16_17.8.2_gitlab_backup.tar";

/// A healthy machine with a real backup, which goes to one place, called `there`: these lines of its table.
pub fn host(place: &str) -> Host {
    let host = Host::without_config(PROGRAM);
    configure(&host, place);
    put(&host, 1, STAMP);
    host
}

pub fn configure(host: &Host, place: &str) {
    let root = host.root().display();
    host.write_config(&format!(
        "state_dir = \"{root}/state\"\n\
         [gitlab]\n\
         config_dir = \"{root}/etc/gitlab/config_backup\"\n\
         data_dir = \"{root}/var/opt/gitlab/backups\"\n\
         etc_dir = \"{root}/etc/gitlab\"\n\
         install_dir = \"{root}/opt/gitlab\"\n\
         [upload]\n\
         retry_for = \"3s\"\n\
         [retention]\n\
         keep_last = 1\n\
         keep_daily = 0\n\
         keep_weekly = 0\n\
         keep_monthly = 0\n\
         [destinations.there]\n\
         {place}\n"
    ));
}

pub fn put(host: &Host, seed: u64, stamp: u64) {
    let config = host.path("etc/gitlab/config_backup");
    fs::create_dir_all(&config).expect("a folder");
    RealBackup::new(seed).write_into(&host.path("var/opt/gitlab/backups"), &config, stamp);
}

/// A data archive of that many bytes.
pub fn put_data(host: &Host, size: u64) -> PathBuf {
    host.put_data_archive(DATA, size)
}

pub fn ok(host: &Host, arguments: &str) -> Ended {
    let ended = host.run(arguments);
    assert_eq!(ended.status, Some(0), "{arguments}: {ended}");
    ended
}

/// What came of the first upload of an archive of this kind.
pub fn upload<'a>(report: &'a Value, kind: &str) -> &'a Value {
    let archives = report["archives"].as_array().expect("archives");
    let archive = archives.iter().find(|archive| archive["kind"] == kind);
    &archive.expect("an archive of that kind")["uploads"][0]
}

/// Stored, listed, verified, rehearsed, restored, and pruned when another one is there.
pub fn round_trip(host: &Host) {
    let ended = ok(host, "run --skip-create --json");
    let report = ended.json();
    for kind in ["config", "data"] {
        assert_eq!(upload(&report, kind)["status"], "uploaded", "{ended}");
        assert_eq!(upload(&report, kind)["verified"], true, "{ended}");
    }
    let listed = ok(host, "list --destination there --json").json();
    let backups = listed["backups"].as_array().expect("backups");
    assert_eq!(backups.len(), 1, "{listed}");
    assert_eq!(backups[0]["backup_id"], ID, "{listed}");
    ok(host, "verify --destination there");
    ok(host, "rehearse --destination there");
    let to = host.path("restored");
    ok(
        host,
        &format!("restore --destination there --to {}", to.display()),
    );
    let here = host.path("var/opt/gitlab/backups").join(DATA);
    assert!(find(&to, DATA) == fs::read(here).expect("the archive"));
    let here = host.path("etc/gitlab/config_backup").join(CONFIG);
    assert!(find(&to, CONFIG) == fs::read(here).expect("the archive"));
    // Another one takes its place.
    put(host, 2, STAMP + 86_400);
    ok(host, "run --skip-create --no-prune");
    let backups = ok(host, "list --destination there --json").json();
    assert_eq!(backups["backups"].as_array().map(Vec::len), Some(2));
    // The newest that was rehearsed is kept, too.
    ok(host, "rehearse --destination there");
    let pruned = ok(host, "prune --destination there --json");
    let listed = ok(host, "list --destination there --json").json();
    let backups = listed["backups"].as_array().expect("backups");
    assert_eq!(backups.len(), 1, "{pruned}");
    assert_ne!(backups[0]["backup_id"], ID, "{listed}");
    ok(host, "verify --destination there");
}

/// The bytes of the file of that name somewhere below a folder.
fn find(folder: &Path, name: &str) -> Vec<u8> {
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.file_name().is_some_and(|found| found == name) {
                return fs::read(path).expect("a file");
            }
        }
    }
    panic!("{name} is not below {}", folder.display());
}
