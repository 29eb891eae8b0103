//! What an upload takes, whatever its size: (`concurrency` + 2) parts of 8 MiB for an object store, pieces of 1 MiB
//! for a disk, and what the program takes anyway.

use std::fs;
use std::process::Child;
use std::time::Duration;

use super::server::S3;
use super::support::host::Host;
use super::trip::{configure, host, put_data};

/// The most memory that storing 256 MiB took, in MiB.
fn peak(host: &Host) -> u64 {
    let path = put_data(host, 1 << 20);
    // The rest is a hole: zeros behind the end of the tar.
    let file = fs::OpenOptions::new().write(true).open(path);
    file.and_then(|file| file.set_len(256 << 20))
        .expect("grown");
    most(host.spawn("run -q --skip-create --only data")) >> 10
}

/// In KiB, as the kernel counts it: without the pages of the program itself.
fn most(mut child: Child) -> u64 {
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let now = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
        peak = peak.max(now.unwrap_or(0));
        if let Some(ended) = child.try_wait().expect("waited for") {
            assert!(ended.success());
            return peak;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_disk_takes_little() {
    let host = host("type = \"fs\"\nroot = \"/nowhere\"");
    let root = host.path("disk");
    fs::create_dir_all(&root).expect("a folder");
    configure(
        &host,
        &format!(
            "type = \"fs\"\nroot = \"{}\"\nrequire_mount = false",
            root.display()
        ),
    );
    let peak = peak(&host);
    assert!(peak <= 16, "{peak} MiB");
}

#[test]
fn a_bucket_takes_the_parts_in_flight() {
    let Some(s3) = S3::start(false) else { return };
    let host = host(&s3.place());
    // Four at a time, if nothing else is said.
    let peak = peak(&host);
    assert!(peak <= (4 + 2) * 8 + 16, "{peak} MiB");
}
