//! The backups that tests make are what GitLab makes: git, gzip, tar and `PostgreSQL`'s rules agree.

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use support::backup::{Layout, Member, RealBackup, gunzip, repack};

const STAMP: u64 = 1_702_758_583;
const ID: &str = "1702758583_2023_12_16_17.8.2";

fn run(command: &str, arguments: &[&str], folder: &Path) -> String {
    let output = Command::new(command)
        .args(arguments)
        .current_dir(folder)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("TZ", "UTC")
        .output()
        .expect("a command");
    assert!(
        output.status.success(),
        "{command} {arguments:?}: {output:?}"
    );
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn the_archives_are_laid_out_like_gitlabs_and_the_same_for_the_same_seed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let start = Instant::now();
    let make = |seed: u64, name: &str| {
        let folder = folder.path().join(name);
        RealBackup::new(seed).write_into(&folder, &folder.join("config"), STAMP)
    };
    let paths = make(1, "a");
    // Tests make many of them.
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    let read = |path: &Path| std::fs::read(path).expect("an archive");
    assert_eq!(read(&paths.data), read(&make(1, "b").data));
    assert_eq!(read(&paths.config), read(&make(1, "b").config));
    assert_ne!(read(&paths.data), read(&make(2, "c").data));

    assert_eq!(paths.id, ID);
    let list = run(
        "tar",
        &["-tvf", paths.data.to_str().expect("a path")],
        folder.path(),
    );
    let lines: Vec<_> = list.lines().collect();
    assert!(
        lines[0].starts_with("-rw-r--r-- git/git") && lines[0].ends_with(" backup_information.yml"),
        "{list}"
    );
    assert!(
        lines[1].starts_with("drwxr-xr-x git/git") && lines[1].ends_with(" db/"),
        "{list}"
    );
    assert!(
        lines[2].starts_with("-rw-------") && lines[2].ends_with(" db/database.sql.gz"),
        "{list}"
    );
    assert!(
        lines[3].starts_with("drwx------") && lines[3].ends_with(" repositories/"),
        "{list}"
    );
    assert!(
        lines[lines.len() - 1].ends_with(" external_diffs.tar.gz"),
        "{list}"
    );
    let config = run(
        "tar",
        &["-tPf", paths.config.to_str().expect("a path")],
        folder.path(),
    );
    assert!(
        config.starts_with("/etc/gitlab/\n")
            && config.contains("\n/etc/gitlab/gitlab-secrets.json\n"),
        "{config}"
    );
}

#[test]
fn git_takes_every_bundle_and_its_references_are_those_listed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let members = RealBackup::new(3).projects(4).members(STAMP);
    let find = |path: &str| members.iter().find(|member| member.path == path);
    let mut seen = BTreeSet::new();
    for member in &members {
        let manifest = member.path.starts_with("repositories/manifests/")
            && member.path.ends_with(&format!("/{ID}.toml"));
        if !manifest {
            continue;
        }
        let latest = member.path.replace(&format!("{ID}.toml"), "+latest.toml");
        assert_eq!(find(&latest).map(|it| &it.data), Some(&member.data));
        let text = std::str::from_utf8(&member.data).expect("text");
        let toml: toml::Table = text.parse().expect("TOML");
        let step = &toml["steps"][0];
        let named = |key: &str| {
            find(&format!(
                "repositories/{}",
                step[key].as_str().expect("a path")
            ))
        };
        let refs = named("ref_path").expect("references");
        let bundle = named("bundle_path");
        assert_eq!(toml["empty"].as_bool(), Some(bundle.is_none()), "{text}");
        seen.insert((
            bundle.is_some(),
            named("custom_hooks_path").is_some(),
            member.path.contains(".wiki.git"),
        ));
        let Some(bundle) = bundle else {
            assert_eq!(refs.data, b"");
            continue;
        };
        let file = folder.path().join("bundle");
        std::fs::write(&file, &bundle.data).expect("a bundle");
        let name = seen.len().to_string() + &member.path.replace('/', "_");
        run(
            "git",
            &["clone", "--quiet", "--mirror", "bundle", &name],
            folder.path(),
        );
        let shown = run("git", &["show-ref", "--head"], &folder.path().join(&name));
        assert_eq!(shown.as_bytes(), refs.data);
        run("git", &["fsck", "--strict"], &folder.path().join(&name));
        let head = run("git", &["symbolic-ref", "HEAD"], &folder.path().join(&name));
        assert_eq!(toml["head_reference"].as_str(), Some(head.trim_end()));
    }
    // A project with hooks, one without, empty ones, a wiki with pages.
    let all = [
        (true, true, false),
        (true, false, false),
        (false, false, false),
        (true, false, true),
        (false, false, true),
    ];
    assert_eq!(seen, all.into());
    let stored = RealBackup::new(3).projects(4).repositories();
    assert_eq!(stored.len(), 9);
}

#[test]
fn older_layouts_have_no_manifests() {
    let bundles = |members: &[Member]| {
        let paths = members.iter().map(|member| member.path.clone());
        paths
            .filter(|path| path.ends_with("bundle"))
            .collect::<Vec<_>>()
    };
    let hash = "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b";
    let legacy = RealBackup::legacy(5).projects(1).members(STAMP);
    assert_eq!(
        bundles(&legacy),
        [
            format!("repositories/@hashed/6b/86/{hash}.bundle"),
            format!("repositories/@hashed/6b/86/{hash}.wiki.bundle"),
            format!("repositories/@snippets/6b/86/{hash}.bundle"),
        ]
    );
    let pointer = RealBackup::new(5)
        .version("15.11.0")
        .layout(Layout::Pointer)
        .members(STAMP);
    let id = "1702758583_2023_12_16_15.11.0";
    assert_eq!(
        bundles(&pointer)[0],
        format!("repositories/@hashed/6b/86/{hash}.wiki/{id}/001.bundle")
    );
    for members in [legacy, pointer] {
        assert!(
            !members
                .iter()
                .any(|member| member.path.contains("manifests"))
        );
    }
}

#[test]
fn parts_can_be_skipped_and_members_altered() {
    let members = RealBackup::new(1).skip(&["uploads", "db"]).members(STAMP);
    let text = String::from_utf8_lossy(&members[0].data).into_owned();
    assert!(text.contains("\n:skipped: uploads,db\n"), "{text}");
    assert_eq!(members[1].path, "repositories/");
    assert!(!members.iter().any(|member| member.path == "uploads.tar.gz"));

    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("evil.tar");
    let evil = [
        Member::file("../above", 0o644, "1"),
        Member::file("/etc/absolute", 0o644, "2"),
        Member::file("twice", 0o644, "3"),
        Member::file("twice", 0o600, "4"),
        Member::link("link", "../../etc/passwd"),
    ];
    repack(&evil, &path);
    let list = run(
        "tar",
        &["-tvPf", path.to_str().expect("a path")],
        folder.path(),
    );
    let names: Vec<_> = list
        .lines()
        .map(|line| line.split_once(':').expect("a time").1)
        .collect();
    let names: Vec<_> = names.iter().map(|name| name[3..].trim()).collect();
    assert_eq!(
        names,
        [
            "../above",
            "/etc/absolute",
            "twice",
            "twice",
            "link -> ../../etc/passwd"
        ]
    );
}

#[test]
fn the_dump_is_one_that_postgresql_can_read() {
    let dump = RealBackup::new(1).database();
    let members = RealBackup::new(1).members(STAMP);
    assert_eq!(gunzip(&members[2].data), dump.as_bytes());
    assert!(dump.starts_with(
        "--\n-- PostgreSQL database dump\n--\n\n-- Dumped from database version 14.15\n"
    ));
    assert!(dump.ends_with("--\n-- PostgreSQL database dump complete\n--\n\n"));
    let newer = RealBackup::new(1).version("18.6.2").database();
    assert!(
        newer.contains("\n\\restrict ") && newer.contains("\n\\unrestrict "),
        "{newer}"
    );
    // What COPY reads: as many columns as were announced, until a line of its own says so.
    let (mut rows, mut columns) = (0, None);
    for line in dump.lines() {
        match columns {
            None if line.starts_with("COPY ") => columns = Some(line.matches(',').count() + 1),
            Some(_) if line == "\\." => columns = None,
            Some(count) => {
                assert_eq!(line.split('\t').count(), count, "{line}");
                rows += 1;
            }
            None => {}
        }
    }
    assert_eq!((rows, columns), (3 + 3 + 3 + 3 + 6, None));
}
