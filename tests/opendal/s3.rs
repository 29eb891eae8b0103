//! `type = "s3"`, against rclone's server.

use std::fs;
use std::time::{Duration, Instant};

use super::server::{BUCKET, Refusing, S3, SECRET, place};
use super::support::host::{Ended, Host};
use super::trip::{CONFIG, DATA, configure, host, ok, put_data, round_trip, upload};

#[test]
fn a_backup_goes_to_a_bucket_and_comes_back() {
    let Some(s3) = S3::start(false) else { return };
    round_trip(&host(&s3.place()));
}

#[test]
fn an_archive_of_many_parts_goes_under_tls_below_a_root() {
    let Some(s3) = S3::start(true) else { return };
    let ca_file = format!("ca_file = \"{}\"\n", s3.certificate().display());
    let host = host(&(s3.place() + &ca_file + "root = \"/pi/gitlab\"\n"));
    let path = put_data(&host, 42_000_000);
    let ended = ok(&host, "run --skip-create --json");
    let data = upload(&ended.json(), "data").clone();
    assert_eq!(data["verified"], true, "{ended}");
    assert_eq!(
        data["bytes_sent"],
        fs::metadata(&path).expect("there").len()
    );
    let there = fs::read(s3.object(&format!("pi/gitlab/Data/{DATA}"))).expect("stored");
    assert!(there == fs::read(path).expect("the archive"));
    assert!(s3.object(&format!("pi/gitlab/Config/{CONFIG}")).is_file());
}

/// A run that fails, and what it says; it says no secret.
fn refused(host: &Host, says: &[&str]) -> Ended {
    let ended = host.run("run --skip-create -vv");
    assert_eq!(ended.status, Some(1), "{ended}");
    for text in says {
        assert!(ended.err.contains(text), "`{text}` is not in {ended}");
    }
    assert!(!format!("{ended}").contains(SECRET), "{ended}");
    ended
}

#[test]
fn a_certificate_that_nobody_signed_is_refused_unless_it_is_named() {
    let Some(s3) = S3::start(true) else { return };
    let host = host(&s3.place());
    refused(&host, &["certificate is not trusted"]);
    let other = host.path("other.pem");
    fs::write(&other, "no certificate").expect("written");
    configure(
        &host,
        &format!("{}ca_file = \"{}\"\n", s3.place(), other.display()),
    );
    refused(&host, &["ca_file", "there is no certificate in it"]);
    assert!(!s3.object("Data").exists());
}

#[test]
fn a_bucket_that_is_missing_is_named_and_not_made() {
    let Some(s3) = S3::start(false) else { return };
    let host = host(&s3.place().replace(BUCKET, "another-bucket"));
    refused(&host, &["NoSuchBucket", "make the bucket"]);
    assert!(!s3.object("../another-bucket").exists());
}

#[test]
fn keys_that_are_wrong_are_told_at_once() {
    let Some(s3) = S3::start(false) else { return };
    let host = host(&s3.place().replace(SECRET, "wrong-but-secret-as-well"));
    let start = Instant::now();
    let ended = refused(
        &host,
        &["HTTP 403", "SignatureDoesNotMatch", "check the keys"],
    );
    assert!(!ended.err.contains("wrong-but-secret"), "{ended}");
    assert!(start.elapsed() < Duration::from_secs(3), "not tried again");
    let host = self::host(&s3.place().replace("AKIDEXAMPLE", "AKIDOTHERS"));
    refused(&host, &["HTTP 403", "InvalidAccessKeyId"]);
}

#[test]
fn a_clock_that_is_wrong_is_told_as_that() {
    let server = Refusing::start(403, "RequestTimeTooSkewed");
    let host = host(&place(&format!("http://127.0.0.1:{}", server.port)));
    refused(&host, &["RequestTimeTooSkewed", "timedatectl"]);
}

#[test]
fn a_server_in_trouble_is_tried_again_until_patience_ends() {
    let server = Refusing::start(503, "ServiceUnavailable");
    let host = host(&place(&format!("http://127.0.0.1:{}", server.port)));
    let start = Instant::now();
    refused(&host, &["HTTP 503", "tried again for"]);
    assert!(start.elapsed() > Duration::from_secs(2));
}

#[test]
fn a_secret_can_lie_in_a_file_of_its_own() {
    let Some(s3) = S3::start(false) else { return };
    let host = host("type = \"fs\"\nroot = \"/nowhere\"\n");
    let file = host.path("s3.secret");
    fs::write(&file, format!("{SECRET}\n")).expect("written");
    let line = format!("secret_access_key = \"{SECRET}\"");
    let named = format!("secret_access_key_file = \"{}\"", file.display());
    configure(&host, &s3.place().replace(&line, &named));
    // Others may read it.
    let ended = host.run("run --skip-create");
    assert_eq!(ended.status, Some(2), "{ended}");
    assert!(ended.err.contains("chmod 600"), "{ended}");
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&file, private).expect("its mode");
    ok(&host, "run --skip-create");
}

#[test]
fn a_kill_leaves_nothing_that_looks_complete() {
    let Some(s3) = S3::start(false) else { return };
    let host = host(&s3.place());
    let path = put_data(&host, 24_000_000);
    let archive = fs::read(&path).expect("the archive");
    let start = Instant::now();
    ok(&host, "run --skip-create -q");
    let whole = start.elapsed();
    for nth in 0..12 {
        // A place of its own each time: rclone remembers what it saw.
        configure(&host, &format!("{}root = \"/{nth}\"\n", s3.place()));
        let object = s3.object(&format!("{nth}/Data/{DATA}"));
        let mut child = host.spawn("run --skip-create -q");
        std::thread::sleep(whole * nth / 11);
        child.kill().expect("killed");
        child.wait().expect("waited for");
        if let Ok(there) = fs::read(&object) {
            assert!(there == archive, "{nth}: {} bytes are there", there.len());
        }
    }
    configure(&host, &format!("{}root = \"/again\"\n", s3.place()));
    ok(&host, "run --skip-create -q");
    let there = s3.object(&format!("again/Data/{DATA}"));
    assert!(fs::read(there).expect("stored") == archive);
}
