//! Clients that were not written by us drive the stand-in for S3: if they find their way around it, and are refused
//! where S3 refuses them, it is like the real one. Where a client is not installed, that is told.

mod support;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use support::s3::{KEY_ID, Options, REGION, S3, SECRET};

/// Whether a client can be called; if not, that is told.
fn is_here(program: &str, arguments: &[&str]) -> bool {
    let called = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let here = called.is_ok_and(|status| status.success());
    if !here {
        let call = arguments.join(" ");
        let _ = writeln!(
            std::io::stderr(),
            "skipped: `{program} {call}` does not work here"
        );
    }
    here
}

fn told(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn amazons_own_library_finds_its_way_around() {
    if !is_here("python3", &["-c", "import boto3"]) {
        return;
    }
    let s3 = S3::start(Options {
        page: 4,
        ..Options::default()
    });
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/support/peers/proof_s3.py");
    let output = Command::new("python3")
        .arg(script)
        .args([&s3.url(), REGION, "exports", KEY_ID, SECRET])
        .stdin(Stdio::null())
        .output()
        .expect("a program that was called before");
    assert!(output.stdout.ends_with(b"proved\n"), "{}", told(&output));
}

fn rclone(s3: &S3, region: &str, arguments: &[&str]) -> Output {
    let variable = |key: &str| format!("RCLONE_CONFIG_S_{key}");
    Command::new("rclone")
        .args(["--config", "/dev/null", "--retries", "1"])
        .args(["--low-level-retries", "1"])
        .args(arguments)
        .env(variable("TYPE"), "s3")
        .env(variable("PROVIDER"), "Other")
        .env(variable("ENDPOINT"), s3.url())
        .env(variable("REGION"), region)
        .env(variable("ACCESS_KEY_ID"), KEY_ID)
        .env(variable("SECRET_ACCESS_KEY"), SECRET)
        .stdin(Stdio::null())
        .output()
        .expect("a program that was called before")
}

#[test]
fn rclone_copies_checks_and_is_refused() {
    if !is_here("rclone", &["version"]) {
        return;
    }
    let s3 = S3::start(Options {
        page: 3,
        ..Options::default()
    });
    let folder = tempfile::tempdir().expect("a temporary folder");
    for number in 0..7 {
        let path = folder.path().join(format!("f/{number}"));
        std::fs::create_dir_all(&path).expect("a folder");
        std::fs::write(path.join("a ü"), format!("content {number}")).expect("written");
    }
    let local = folder.path().to_str().expect("a path");
    for arguments in [
        ["copy", local, "s:exports/rclone"],
        ["check", local, "s:exports/rclone"],
    ] {
        let output = rclone(&s3, REGION, &arguments);
        assert!(output.status.success(), "{}", told(&output));
    }
    assert_eq!(s3.objects("exports").len(), 7);
    assert_eq!(s3.objects("exports")["rclone/f/6/a ü"].bytes, b"content 6");
    let output = rclone(&s3, "us-east-1", &["lsf", "s:exports"]);
    assert!(
        told(&output).contains("AuthorizationHeaderMalformed"),
        "{}",
        told(&output)
    );
    for ahead in [-3600, 3600] {
        s3.set_clock(ahead);
        let output = rclone(&s3, REGION, &["lsf", "s:exports"]);
        assert!(!output.status.success(), "{}", told(&output));
        let skewed = s3.requests().iter().any(|seen| seen.status == 403);
        assert!(skewed, "{}", told(&output));
        s3.forget();
    }
}
