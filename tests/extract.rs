//! One project's repositories out of a stored backup, as a user gets them.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use support::backup::git::git;
use support::backup::{Layout, Member, RealBackup, hashed, repack};
use support::dropbox::{Dropbox, Fault, Options, What};
use support::host::{Ended, Host};

const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");
const STAMP: u64 = 1_702_758_583;
const ID: &str = "1702758583_2023_12_16_17.8.2";
const DATA: &str = "/Data/1702758583_2023_12_16_17.8.2_gitlab_backup.tar";

/// Without git there is nothing to test here.
fn there_is_git() -> bool {
    let found = Command::new("git").arg("version").output().is_ok();
    if !found {
        // Not by a macro, whose output a test that passes does not show.
        writeln!(std::io::stderr(), "skipped: there is no `git` here").expect("standard error");
    }
    found
}

/// A machine whose backup is stored.
fn stored(backup: &RealBackup) -> (Dropbox, Host) {
    stored_members(&backup.members(STAMP), backup)
}

/// A machine whose backup is stored, with these members in its data archive.
fn stored_members(members: &[Member], backup: &RealBackup) -> (Dropbox, Host) {
    let dropbox = Dropbox::start(Options::default());
    let host = Host::new(PROGRAM, &dropbox);
    let config = host.path("etc/gitlab/config_backup");
    let paths = backup.write_into(&host.path("var/opt/gitlab/backups"), &config, STAMP);
    repack(members, &paths.data);
    let ended = host.run("run --skip-create");
    assert_eq!(ended.status, Some(0), "{ended}");
    (dropbox, host)
}

/// What git says of a repository.
fn ask(repository: &Path, words: &[&str]) -> String {
    let output = git(repository).args(words).output().expect("git runs");
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn extract(host: &Host, arguments: &str) -> Ended {
    host.run(&format!(
        "extract --json --to {} {arguments}",
        host.path("out").display()
    ))
}

/// The names in the folder that was given.
fn made(host: &Host) -> BTreeSet<String> {
    let entries = fs::read_dir(host.path("out")).into_iter().flatten();
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

/// An extraction that failed with these words, and left nothing.
fn refused(host: &Host, arguments: &str, words: &[&str]) -> Ended {
    let ended = extract(host, arguments);
    assert_eq!(ended.status, Some(1), "{ended}");
    for word in words {
        assert!(ended.err.contains(word), "{word}: {ended}");
    }
    assert!(!ended.err.contains("panicked"), "{ended}");
    assert_eq!(ended.json()["status"], "failed", "{ended}");
    assert_eq!(made(host), BTreeSet::new(), "{ended}");
    ended
}

/// The references of a repository are those of the list beside its bundle, and HEAD leads to its branch.
fn is_as_it_was(repository: &Path, backup: &RealBackup, relative: &str) {
    let stored = backup.repositories().into_iter();
    let mut stored = stored.filter(|stored| stored.relative == relative);
    let found = stored.next().expect("a repository").repository;
    let found = found.expect("not empty");
    let listed = String::from_utf8(found.refs.clone()).expect("text");
    assert_eq!(ask(repository, &["show-ref", "--head"]), listed);
    assert_eq!(
        ask(repository, &["symbolic-ref", "HEAD"]).trim(),
        found.head
    );
    ask(repository, &["fsck", "--full", "--strict"]);
}

#[test]
fn a_project_comes_back_as_repositories_that_git_clones() {
    if !there_is_git() {
        return;
    }
    let backup = RealBackup::new(1);
    let (_dropbox, host) = stored(&backup);
    let ended = extract(&host, "demo/website");
    assert_eq!(ended.status, Some(0), "{ended}");
    let report = ended.json();
    let out = host.path("out");
    assert_eq!(
        made(&host),
        ["website.git".into(), "website.wiki.git".into()].into()
    );
    let relative = format!("{}.git", hashed("@hashed", 1));
    is_as_it_was(&out.join("website.git"), &backup, &relative);
    let wiki = format!("{}.wiki.git", hashed("@hashed", 1));
    is_as_it_was(&out.join("website.wiki.git"), &backup, &wiki);
    // Hooks are there, and git does not run them.
    assert!(out.join("website.git/custom_hooks.tar").is_file());
    assert_eq!(report["command"], "extract");
    assert_eq!(report["status"], "ok");
    assert_eq!(report["error"], Value::Null);
    assert_eq!(report["backup_id"], ID);
    assert_eq!(report["destination"], "dropbox");
    assert_eq!(report["project"], "demo/website");
    let rows = report["repositories"].as_array().expect("rows");
    let kinds: Vec<_> = rows
        .iter()
        .map(|row| row["kind"].as_str().expect("a kind"))
        .collect();
    assert_eq!(kinds, ["repository", "wiki"]);
    assert_eq!(
        rows[0]["path"],
        out.join("website.git").display().to_string()
    );
    assert_eq!(
        rows[0]["member"],
        format!("repositories/default/{relative}/{ID}/001.bundle")
    );
    let refs = ask(&out.join("website.git"), &["for-each-ref"])
        .lines()
        .count();
    assert_eq!(rows[0]["refs"], refs);
    assert!(
        report["bytes_downloaded"].as_u64() >= rows[0]["bytes"].as_u64(),
        "{ended}"
    );
    // As a user goes on.
    let clone = host.path("clone");
    let status = Command::new("git")
        .args(["clone", "--quiet"])
        .args([out.join("website.git"), clone.clone()])
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .status();
    assert!(status.expect("git runs").success());
    assert_eq!(
        fs::read_to_string(clone.join("NEWS")).expect("a file"),
        "merged\n"
    );
    // Again: nothing is overwritten.
    let before = fs::read_dir(&out).expect("a folder").count();
    let ended = extract(&host, "demo/website");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(
        ended.err.contains("website.git is there already"),
        "{ended}"
    );
    assert_eq!(fs::read_dir(&out).expect("a folder").count(), before);
}

#[test]
fn what_can_be_had_is_listed() {
    let (dropbox, host) = stored(&RealBackup::new(1));
    let ended = host.run("extract --list --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    let report = ended.json();
    assert_eq!((&report["command"], &report["status"]), (&json!("extract"), &json!("ok")));
    assert_eq!((&report["backup_id"], &report["error"]), (&json!(ID), &Value::Null));
    let rows = report["projects"].as_array().expect("rows");
    let told: Vec<_> = rows
        .iter()
        .map(|row| json!([row["path"], row["repository"], row["wiki"], row["design"]]))
        .collect();
    // The snippet's repository belongs to no project.
    assert_eq!(
        told,
        [
            json!(["demo/apps/shop", true, false, false]),
            json!(["demo/website", true, true, false]),
            json!(["root/scratch", false, false, false]),
            json!([null, true, false, false]),
        ]
    );
    assert_eq!(rows[1]["hashed"], hashed("@hashed", 1));
    assert!(rows[1]["size"].as_u64() > Some(500), "{ended}");
    assert_eq!(rows[3]["hashed"], hashed("@snippets", 1));
    // Nothing of the archive was fetched.
    let downloads = dropbox.requests().into_iter();
    let mut downloads = downloads.filter(|seen| seen.endpoint == "/2/files/download");
    assert!(downloads.all(|seen| seen.arg["path"] != DATA));
    let text = host.run(&format!("extract --list {ID}"));
    assert_eq!(text.status, Some(0), "{text}");
    let line = text.out.lines().find(|line| line.starts_with("demo/website"));
    assert!(line.is_some_and(|line| line.ends_with("repository, wiki")), "{text}");
    assert!(text.out.lines().last().is_some_and(|line| line.contains(ID)), "{text}");
    for arguments in ["extract", "extract demo/website", "extract --list demo/website 1_2", "extract --list --to /tmp"] {
        assert_eq!(host.run(arguments).status, Some(2), "{arguments}");
    }
}

#[test]
fn a_project_is_found_by_whatever_names_it() {
    if !there_is_git() {
        return;
    }
    let (_dropbox, host) = stored(&RealBackup::new(1));
    let disk = hashed("@hashed", 2);
    let hash = disk.rsplit('/').next().expect("a hash");
    for wanted in [
        "demo/apps/shop",
        "Demo/Apps/Shop",
        "shop",
        "/demo/apps/shop.git",
        &disk,
        &format!("{disk}.git"),
        hash,
    ] {
        let ended = extract(&host, wanted);
        assert_eq!(ended.status, Some(0), "{ended}");
        assert_eq!(ended.json()["project"], "demo/apps/shop", "{wanted}");
        assert_eq!(made(&host), ["shop.git".to_owned()].into(), "{wanted}");
        fs::remove_dir_all(host.path("out")).expect("removed");
    }
    let snippet = extract(&host, &hashed("@snippets", 1));
    assert_eq!(snippet.status, Some(0), "{snippet}");
    assert_eq!(snippet.json()["repositories"][0]["refs"], 1);
}

#[test]
fn an_empty_repository_comes_back_empty() {
    if !there_is_git() {
        return;
    }
    let (_dropbox, host) = stored(&RealBackup::new(1));
    let ended = extract(&host, "root/scratch");
    assert_eq!(ended.status, Some(0), "{ended}");
    let rows = ended.json()["repositories"].clone();
    assert_eq!((rows.as_array().map(Vec::len), &rows[0]["refs"]), (Some(1), &json!(0)));
    let repository = host.path("out/scratch.git");
    assert_eq!(ask(&repository, &["for-each-ref"]), "");
    assert_eq!(ask(&repository, &["symbolic-ref", "HEAD"]).trim(), "refs/heads/main");
}

#[test]
fn older_layouts_and_backups_of_another_program_can_be_extracted() {
    if !there_is_git() {
        return;
    }
    for (layout, version) in [
        (Layout::Manifest, "16.11.0"),
        (Layout::Pointer, "15.11.0"),
        (Layout::Legacy, "15.2.0"),
    ] {
        let dropbox = Dropbox::start(Options::default());
        let host = Host::new(PROGRAM, &dropbox);
        let backup = RealBackup::new(2).layout(layout).version(version);
        let folder = tempfile::tempdir().expect("a folder");
        let paths = backup.write_into(folder.path(), folder.path(), STAMP);
        for (kind, path) in [("Data", &paths.data), ("Config", &paths.config)] {
            let name = path.file_name().expect("a name").to_string_lossy();
            dropbox.put_file(&format!("/{kind}/{name}"), &fs::read(path).expect("read"));
        }
        let ended = extract(&host, &format!("demo/website {}", paths.id));
        assert_eq!(ended.status, Some(0), "{ended}");
        for told in ["no list of its members is stored", "no index of projects is stored"] {
            assert!(ended.err.contains(told), "{ended}");
        }
        let out = host.path("out");
        is_as_it_was(&out.join("website.git"), &backup, &format!("{}.git", hashed("@hashed", 1)));
        assert!(out.join("website.wiki.git").is_dir(), "{layout:?}");
        assert!(out.join("website.git/custom_hooks.tar").is_file(), "{layout:?}");
    }
}

#[test]
fn a_list_or_an_index_that_cannot_be_used_costs_only_time() {
    if !there_is_git() {
        return;
    }
    let (dropbox, host) = stored(&RealBackup::new(1));
    let put = |ending: &str, bytes: &[u8]| {
        let path = format!("/Manifests/{ID}.{ending}.gz");
        dropbox.remove(&path);
        dropbox.put_file(&path, bytes);
    };
    let list = dropbox.content(&format!("/Manifests/{ID}.members.gz"));
    let shifted = support::backup::gunzip(&list);
    let shifted = String::from_utf8(shifted).expect("text");
    let shifted = shifted.replace(".bundle\",", ".bundle\",1");
    for (ending, bytes, told) in [
        ("projects", b"nothing".to_vec(), "the database dump is read instead"),
        ("members", list[..list.len() / 2].to_vec(), "its headers are read instead"),
        ("members", support::backup::gzip(shifted.as_bytes()), "headers are read instead"),
    ] {
        put(ending, &bytes);
        let ended = extract(&host, "demo/website");
        assert_eq!(ended.status, Some(0), "{ended}");
        assert!(ended.err.contains(told), "{ended}");
        assert_eq!(made(&host).len(), 2);
        fs::remove_dir_all(host.path("out")).expect("removed");
    }
}
