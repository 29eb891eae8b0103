//! `type = "fs"`.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use super::trip::{CONFIG, DATA, configure, host, ok, round_trip};

fn folder(host: &super::support::host::Host) -> String {
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
