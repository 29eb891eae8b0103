//! The stand-in for GitLab's API: python-gitlab, which knows the real one, finds its way around it.

#[path = "opendal/server.rs"]
#[allow(dead_code, reason = "the tests of destinations use all of it")]
mod server;
mod support;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use server::{BUCKET, KEY_ID, S3, SECRET};
use support::gitlab_api::{Access, GitLabApi, Kind, Limits, Options};

/// A minute that does not end while a test counts calls in it.
const CENTURY: Duration = Duration::from_hours(100 * 365 * 24);

/// Whether python-gitlab can be called; if not, that is told.
fn python_gitlab_is_here() -> bool {
    let called = Command::new("python3")
        .args(["-c", "import gitlab"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let here = called.is_ok_and(|status| status.success());
    if !here {
        // Not by a macro, whose output a test that passes does not show.
        let told = writeln!(
            io::stderr(),
            "skipped: `python3 -c 'import gitlab'` does not work here"
        );
        told.expect("standard error");
    }
    here
}

/// Calls a part of the script.
fn drive(gitlab: &GitLabApi, part: &str, more: &[&str]) -> Output {
    let script =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/support/peers/proof_gitlab.py");
    let ca_file = gitlab.ca_file().map(|path| path.display().to_string());
    let output = Command::new("python3")
        .arg(script)
        .args([
            &gitlab.url(),
            gitlab.token(),
            ca_file.as_deref().unwrap_or("-"),
            part,
        ])
        .args(more)
        .stdin(Stdio::null())
        .output();
    output.expect("a program that was called before")
}

/// The script came to its end and says so.
fn assert_ok(output: &Output, last: &str) {
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{out}\n{err}");
    assert_eq!(out.lines().last(), Some(last), "{err}");
}

/// What the script expects to find.
fn populate(gitlab: &GitLabApi) {
    for (group, count) in [
        ("top", 10),
        ("top/a", 11),
        ("top/a/deep", 12),
        ("top/b", 12),
    ] {
        for number in 0..count {
            gitlab.project_with(&format!("{group}/p{number}"), |project| {
                project.archived = group == "top/b" && number < 2;
            });
        }
    }
    for number in 0..3 {
        let path = format!("other/s{number}");
        gitlab.project(&path);
        gitlab.share(&path, "top", Access::Reporter);
    }
}

#[test]
fn python_gitlab_lists_everything() {
    if !python_gitlab_is_here() {
        return;
    }
    let gitlab = GitLabApi::start();
    populate(&gitlab);
    assert_ok(&drive(&gitlab, "listing", &[]), "ok listing");
}

#[test]
fn python_gitlab_exports_and_downloads() {
    if !python_gitlab_is_here() {
        return;
    }
    let gitlab = GitLabApi::with(Options {
        tls: true,
        ..Options::default()
    });
    populate(&gitlab);
    assert_ok(&drive(&gitlab, "export", &[]), "ok export");
}

/// The store is a real one, which checks signatures.
#[test]
fn python_gitlab_has_an_export_uploaded() {
    if !python_gitlab_is_here() {
        return;
    }
    for tls in [false, true] {
        let Some(store) = S3::start(tls) else { return };
        let certificate = tls.then(|| store.certificate().to_owned());
        let gitlab = GitLabApi::with(Options {
            upload_ca: certificate.clone(),
            ..Options::default()
        });
        populate(&gitlab);
        let url = store.url();
        let mut more = vec![url.as_str(), KEY_ID, SECRET, BUCKET];
        let certificate = certificate.map(|path| path.display().to_string());
        more.extend(certificate.as_deref());
        assert_ok(&drive(&gitlab, "upload", &more), "ok upload");
        let told: Vec<_> = gitlab
            .exports()
            .iter()
            .map(|export| export.uploaded)
            .collect();
        assert_eq!(told, [Some(200), Some(403)]);
        let stored = std::fs::read(store.object("top/a/deep/p1/1.tar.gz")).expect("an object");
        let packed = gitlab.exports()[0].archive.clone().expect("an archive");
        assert!(stored == packed.to_vec());
    }
}

#[test]
fn python_gitlab_imports() {
    if !python_gitlab_is_here() {
        return;
    }
    let gitlab = GitLabApi::start();
    populate(&gitlab);
    gitlab.change("top/a/deep/p1", |project| project.export_bytes = 3 << 20);
    assert_ok(&drive(&gitlab, "imports", &[]), "ok imports");
    let back = gitlab.look("top/b/back").expect("a project");
    let packed = gitlab.exports()[0].archive.clone().expect("an archive");
    assert_eq!(back.import.expect("an import").sha256, packed.sha256);
}

#[test]
fn python_gitlab_sees_the_errors_it_knows() {
    if !python_gitlab_is_here() {
        return;
    }
    let gitlab = GitLabApi::with(Options {
        minute: CENTURY,
        ..Options::default()
    });
    populate(&gitlab);
    gitlab.project("apart/app");
    gitlab.set(|settings| settings.limits = Limits::usual());
    let guest = gitlab.token_of("guest", &["api"]);
    gitlab.member("top", "guest", Access::Guest);
    let reader = gitlab.token_of("backup", &["read_api"]);
    let expired = gitlab.token_of("backup", &["api"]);
    let revoked = gitlab.token_of("backup", &["api"]);
    gitlab.expire(&expired);
    gitlab.revoke(&revoked);
    let tokens = [&guest, &reader, &expired, &revoked].map(String::as_str);
    assert_ok(&drive(&gitlab, "errors", &tokens), "ok errors");
    assert_eq!(gitlab.count(Kind::Export), 2 + 7);
    assert_eq!(gitlab.exports().len(), 6);
}
