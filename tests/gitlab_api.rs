//! The stand-in for GitLab's API: python-gitlab, which knows the real one, finds its way around it.

mod support;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use support::gitlab_api::{Access, GitLabApi};

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
    let gitlab = GitLabApi::start();
    populate(&gitlab);
    assert_ok(&drive(&gitlab, "export", &[]), "ok export");
}
