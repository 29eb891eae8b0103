//! Memory that does not grow: with the archive, the chunk, or (much) with the connections.

mod support;

use std::fs;
use std::process::Child;
use std::time::Duration;

use support::dropbox::{Dropbox, Options};
use support::gitlab_api::{GitLabApi, Pace};
use support::host::Host;
use support::s3::{self, S3};

const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");
const DATA: &str = "1702758583_2023_12_16_17.8.2_gitlab_backup.tar";

/// The most memory that sending `size` bytes ever took, in KiB.
fn peak(size: u64, chunk_size: &str, concurrency: usize) -> u64 {
    peak_with(size, chunk_size, concurrency, "")
}

/// The same with more in the configuration.
fn peak_with(size: u64, chunk_size: &str, concurrency: usize, more: &str) -> u64 {
    let dropbox = Dropbox::start(Options {
        tls: true,
        keep_bytes: false,
        ..Options::default()
    });
    let mut host = Host::new(PROGRAM, &dropbox);
    host.put_data_archive(DATA, 1 << 20);
    // The rest of a big archive is a hole: zeros behind the end of the tar.
    let path = host.path("var/opt/gitlab/backups").join(DATA);
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|file| file.set_len(size))
        .expect("grown");
    let config = host
        .config(&dropbox)
        .replace("\"4 MiB\"", &format!("\"{chunk_size}\""));
    host.write_config(&format!("{config}concurrency = {concurrency}\n{more}"));
    host.set("SSL_CERT_FILE", dropbox.ca_file().expect("a certificate"));
    most(host.spawn("run -q --skip-create --only data"))
}

/// The most memory that a program takes until its good end, in KiB, as the kernel counts it: without the pages of
/// the program itself, of which an unoptimised one has many. The benchmark counts all of it.
fn most(mut child: Child) -> u64 {
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let ended = loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let now = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
        peak = peak.max(now.unwrap_or(0));
        if let Some(ended) = child.try_wait().expect("waited for") {
            break ended;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    assert!(ended.success());
    peak
}

/// Under an emulator the kernel counts the emulator.
fn is_emulated() -> bool {
    cfg!(target_arch = "aarch64")
        && std::env::var_os("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER").is_some()
}

#[test]
fn an_upload_takes_the_same_little_memory_whatever_is_sent() {
    if is_emulated() {
        return;
    }
    let small = peak(1 << 20, "16 MiB", 4);
    let mut peaks = vec![small];
    for (size, chunk_size, concurrency) in [
        (64 << 20, "4 MiB", 4),
        (256 << 20, "16 MiB", 4),
        (320 << 20, "64 MiB", 4),
        (256 << 20, "4 MiB", 12),
    ] {
        peaks.push(peak(size, chunk_size, concurrency));
    }
    assert!(
        peaks[..4].iter().all(|peak| *peak <= 6 * 1024),
        "{peaks:?} KiB"
    );
    let (four, twelve) = (peaks[2], peaks[4]);
    assert!(
        twelve.saturating_sub(four) <= 8 * 512,
        "{peaks:?} KiB with 4 connections, the last with 12"
    );
}

#[test]
fn an_encrypted_upload_takes_hardly_more() {
    if is_emulated() {
        return;
    }
    let public = age::x25519::Identity::generate().to_public();
    let encryption = format!("[encryption]\nrecipients = [\"{public}\"]\n");
    let plain = peak(64 << 20, "16 MiB", 4);
    let peaks: Vec<_> = [64 << 20, 256 << 20]
        .map(|size| peak_with(size, "16 MiB", 4, &encryption))
        .into();
    assert!(
        peaks.iter().all(|peak| *peak <= 6 * 1024),
        "{peaks:?} KiB, {plain} KiB in the clear"
    );
    assert!(
        peaks[1].saturating_sub(peaks[0]) <= 1024,
        "{peaks:?} KiB: it grows with the archive"
    );
}

#[test]
fn a_restore_takes_the_same_little_memory_whatever_is_fetched() {
    if is_emulated() {
        return;
    }
    let fetching = |size: usize| {
        let dropbox = Dropbox::start(Options {
            tls: true,
            ..Options::default()
        });
        let mut host = Host::new(PROGRAM, &dropbox);
        host.set("SSL_CERT_FILE", dropbox.ca_file().expect("a certificate"));
        let bytes: Vec<u8> = (0..size).map(|n| n.to_le_bytes()[1]).collect();
        dropbox.put_file(&format!("/Data/{DATA}"), &bytes);
        let id = DATA.trim_end_matches("_gitlab_backup.tar");
        let most = most(host.spawn(&format!("restore {id} --only data -q")));
        let restored = host.path("var/opt/gitlab/backups").join(DATA);
        assert!(fs::read(restored).expect("restored") == bytes);
        most
    };
    let peaks = [1 << 20, 64 << 20, 320 << 20].map(fetching);
    assert!(peaks.iter().all(|peak| *peak <= 20 * 1024), "{peaks:?} KiB");
    assert!(
        peaks[2].saturating_sub(peaks[1]) <= 4 * 1024,
        "{peaks:?} KiB"
    );
}

/// The most memory that exports of `count` projects of `size` bytes take, in KiB.
fn exporting(count: usize, size: u64, direct: bool) -> u64 {
    let gitlab = GitLabApi::start();
    let moment = Duration::from_millis(5);
    gitlab.set(|settings| {
        settings.pace = Pace::Time {
            queued: moment,
            started: moment,
        };
    });
    for n in 0..count {
        gitlab.project_with(&format!("group/n{}/p{n}", n % 5), |project| {
            project.export_bytes = size;
        });
    }
    let s3 = S3::start(s3::Options::default());
    let host = Host::without_config(PROGRAM);
    let (url, token, place) = (gitlab.url(), gitlab.token(), s3.place("exports"));
    host.write_config(&host.config_with(&format!(
        "url = \"{url}\"\ntoken = \"{token}\"\n\
         [destinations.store]\n{place}\
         [projects]\ndestination = \"store\"\ngroups = [\"group\"]\nconcurrency = 6\n\
         export_limit = \"0\"\ndownload_limit = \"0\"\ndirect = {direct}\n"
    )));
    let most = most(host.spawn("export projects -q"));
    assert_eq!(s3.objects("exports").len(), count);
    most
}

#[test]
fn exports_take_the_same_little_memory_however_many_and_large() {
    if is_emulated() {
        return;
    }
    let peaks = [
        exporting(2, 1 << 15, true),
        exporting(24, 1 << 15, true),
        exporting(2, 1 << 15, false),
        exporting(2, 24 << 20, false),
        exporting(1, 64 << 20, false),
    ];
    let told = format!("exports: {peaks:?} KiB\n");
    let _ = std::io::Write::write_all(&mut std::io::stderr(), told.as_bytes());
    // Of an upload two parts are in memory, each shorter than 10 MiB.
    assert!(peaks.iter().all(|peak| *peak <= 22 * 1024), "{peaks:?} KiB");
    assert!(
        peaks[1].saturating_sub(peaks[0]) <= 1024 && peaks[4].saturating_sub(peaks[3]) <= 4 * 1024,
        "{peaks:?} KiB: it grows with what is exported"
    );
}
