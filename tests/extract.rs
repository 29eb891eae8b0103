//! One project's repositories out of a stored backup, as a user gets them.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use support::backup::git::{git, templates};
use support::backup::{Layout, Member, RealBackup, hashed, repack};
use support::dropbox::{Dropbox, Fault, Options, What};
use support::host::{Ended, Host, write_tar};

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
    assert_eq!(
        (&report["command"], &report["status"]),
        (&json!("extract"), &json!("ok"))
    );
    assert_eq!(
        (&report["backup_id"], &report["error"]),
        (&json!(ID), &Value::Null)
    );
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
    let line = text
        .out
        .lines()
        .find(|line| line.starts_with("demo/website"));
    assert!(
        line.is_some_and(|line| line.ends_with("repository, wiki")),
        "{text}"
    );
    assert!(
        text.out
            .lines()
            .last()
            .is_some_and(|line| line.contains(ID)),
        "{text}"
    );
    for arguments in [
        "extract",
        "extract demo/website",
        "extract --list demo/website 1_2",
        "extract --list --to /tmp",
    ] {
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
    assert_eq!(
        (rows.as_array().map(Vec::len), &rows[0]["refs"]),
        (Some(1), &json!(0))
    );
    let repository = host.path("out/scratch.git");
    assert_eq!(ask(&repository, &["for-each-ref"]), "");
    assert_eq!(
        ask(&repository, &["symbolic-ref", "HEAD"]).trim(),
        "refs/heads/main"
    );
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
        for told in [
            "no list of its members is stored",
            "no index of projects is stored",
        ] {
            assert!(ended.err.contains(told), "{ended}");
        }
        let out = host.path("out");
        is_as_it_was(
            &out.join("website.git"),
            &backup,
            &format!("{}.git", hashed("@hashed", 1)),
        );
        assert!(out.join("website.wiki.git").is_dir(), "{layout:?}");
        assert!(
            out.join("website.git/custom_hooks.tar").is_file(),
            "{layout:?}"
        );
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
        (
            "projects",
            b"nothing".to_vec(),
            "the database dump is read instead",
        ),
        (
            "members",
            list[..list.len() / 2].to_vec(),
            "its headers are read instead",
        ),
        (
            "members",
            support::backup::gzip(shifted.as_bytes()),
            "headers are read instead",
        ),
    ] {
        put(ending, &bytes);
        let ended = extract(&host, "demo/website");
        assert_eq!(ended.status, Some(0), "{ended}");
        assert!(ended.err.contains(told), "{ended}");
        assert_eq!(made(&host).len(), 2);
        fs::remove_dir_all(host.path("out")).expect("removed");
    }
}

#[test]
fn what_cannot_be_extracted_is_told_with_a_way_out() {
    let (dropbox, mut host) = stored(&RealBackup::new(1));
    refused(
        &host,
        "demo/web-site",
        &[
            "there is no project `demo/web-site`",
            "did you mean demo/website",
        ],
    );
    refused(
        &host,
        "xyzzy",
        &["there is no project `xyzzy`", "extract --list"],
    );
    refused(
        &host,
        &hashed("@hashed", 99),
        &["there is no repository of @hashed/", "extract --list"],
    );
    refused(
        &host,
        "demo/website 1702758583_2023_12_16_17.8.3",
        &["there is no backup", ID],
    );
    // The folder.
    fs::write(host.path("file"), b"").expect("written");
    for (to, why) in [
        (host.path("file"), "not a directory"),
        (host.path("file/below"), "file/below"),
        (PathBuf::from("/proc/none"), "/proc/none"),
    ] {
        let ended = host.run(&format!("extract demo/website --to {}", to.display()));
        assert_eq!(ended.status, Some(1), "{ended}");
        assert!(
            ended.err.contains(why) && ended.err.contains("--to DIR"),
            "{ended}"
        );
    }
    fs::create_dir_all(host.path("out/website.wiki.git")).expect("a folder");
    let ended = extract(&host, "demo/website");
    assert!(
        ended.err.contains("website.wiki.git is there already"),
        "{ended}"
    );
    assert_eq!(made(&host), ["website.wiki.git".to_owned()].into());
    fs::remove_dir_all(host.path("out")).expect("removed");
    // The machine.
    let path = std::env::var_os("PATH").expect("a path");
    host.set("PATH", "/nowhere");
    refused(
        &host,
        "demo/website",
        &["git cannot be started", "install it"],
    );
    host.set("PATH", path);
    // The line.
    host.set("GITLAB_PI_BACKUP_UPLOAD__RETRY_FOR", "1s");
    dropbox.fault(
        Fault::on("download", What::server_error(503))
            .skip(3)
            .forever(),
    );
    refused(&host, "demo/website", &["503"]);
    dropbox.clear_faults();
    // The backup.
    dropbox.remove(DATA);
    refused(
        &host,
        &format!("demo/website {ID}"),
        &["has no data archive there", "`gitlab-pi-backup list`"],
    );
}

#[test]
fn a_project_without_a_repository_is_told() {
    let backup = RealBackup::new(1);
    let mut members = backup.members(STAMP);
    let disk = hashed("@hashed", 2);
    members.retain(|member| !member.path.contains(&disk));
    let (_dropbox, host) = stored_members(&members, &backup);
    let told = format!("there is no repository of demo/apps/shop ({disk})");
    refused(&host, "demo/apps/shop", &[&told]);
    let skipping = RealBackup::new(1).skip(&["repositories"]);
    let (_dropbox, host) = stored(&skipping);
    refused(
        &host,
        "demo/website",
        &["GitLab was told to leave `repositories` out"],
    );
}

#[test]
fn without_a_database_only_hashed_paths_lead_to_a_repository() {
    if !there_is_git() {
        return;
    }
    let (_dropbox, host) = stored(&RealBackup::new(1).skip(&["db"]));
    refused(
        &host,
        "demo/website",
        &[
            "there is no database dump in it",
            "name the project by its hashed path",
        ],
    );
    let ended = extract(&host, &hashed("@hashed", 1));
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(made(&host).len(), 2);
    let listed = host.run("extract --list --json");
    assert_eq!(listed.status, Some(0), "{listed}");
    assert_eq!(listed.json()["projects"][0]["path"], Value::Null);
}

#[test]
fn projects_that_are_not_told_apart_are_listed() {
    let backup = RealBackup::new(1);
    let mut members = backup.members(STAMP);
    let dump = members
        .iter_mut()
        .find(|member| member.path == "db/database.sql.gz");
    let dump = dump.expect("a dump");
    let text = String::from_utf8(support::backup::gunzip(&dump.data)).expect("text");
    dump.data = support::backup::gzip(text.replace("root/scratch", "root/website").as_bytes());
    let (_dropbox, host) = stored_members(&members, &backup);
    refused(
        &host,
        "website",
        &[
            "there are several projects `website`",
            "demo/website, root/website",
        ],
    );
}

/// Puts these bytes in the place of what is stored.
fn alter(dropbox: &Dropbox, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = dropbox.content(DATA);
    change(&mut bytes);
    dropbox.remove(DATA);
    dropbox.put_file(DATA, &bytes);
}

/// Where this stands in an archive.
fn find(bytes: &[u8], what: &[u8]) -> usize {
    bytes
        .windows(what.len())
        .position(|window| window == what)
        .expect("it is there")
}

#[test]
fn damage_is_refused_and_hurts_no_other_project() {
    if !there_is_git() {
        return;
    }
    let backup = RealBackup::new(1);
    let (dropbox, host) = stored(&backup);
    let site = backup.repositories()[0]
        .repository
        .clone()
        .expect("not empty");
    alter(&dropbox, |bytes| {
        let at = find(bytes, &site.bundle);
        bytes[at + site.bundle.len() - 40] ^= 1;
    });
    let words = &[
        "the repository cannot be brought back",
        "001.bundle",
        "another backup",
    ];
    refused(&host, &format!("demo/website {ID}"), words);
    let ended = extract(&host, &format!("demo/apps/shop {ID}"));
    assert_eq!(ended.status, Some(0), "{ended}");
    assert!(
        ended.err.contains("it is not what the manifest says"),
        "{ended}"
    );
    // A list of references with a damaged line.
    let (dropbox, host) = stored(&backup);
    alter(&dropbox, |bytes| {
        let at = find(bytes, &site.refs);
        bytes[at + 3] = b'?';
    });
    refused(
        &host,
        &format!("demo/website {ID}"),
        &["001.refs", "damaged"],
    );
}

#[test]
fn what_was_pushed_while_the_backup_was_made_is_as_the_bundle_has_it() {
    if !there_is_git() {
        return;
    }
    let backup = RealBackup::new(1);
    let mut members = backup.members(STAMP);
    let list = format!(
        "repositories/default/{}.git/{ID}/001.refs",
        hashed("@hashed", 1)
    );
    let list = members
        .iter_mut()
        .find(|member| member.path == list)
        .expect("a list");
    let text = String::from_utf8(list.data.clone()).expect("text");
    let topic = text.lines().find(|line| line.ends_with("refs/heads/topic"));
    let topic = topic.expect("a branch");
    let gone = "1".repeat(40);
    let moved = format!("{gone} refs/heads/gone\n{gone} refs/heads/topic");
    list.data = text.replace(topic, &moved).into_bytes();
    let (_dropbox, host) = stored_members(&members, &backup);
    let ended = extract(&host, "demo/website");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert!(
        ended.err.contains("are left out: refs/heads/gone\n"),
        "{ended}"
    );
    assert_eq!(
        ask(&host.path("out/website.git"), &["show-ref", "--head"]),
        text
    );
}

/// A full backup of a repository and two increments, with the references after each; in between a branch becomes a
/// folder of branches.
fn chain() -> [(Vec<u8>, Vec<u8>); 3] {
    let dir = tempfile::tempdir().expect("a folder");
    let run = |words: &[&str]| {
        let mut git = Command::new("git");
        git.current_dir(dir.path())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            .args(["-c", "user.name=A", "-c", "user.email=a@example.org"])
            .args(words);
        let output = git.output().expect("git runs");
        assert!(output.status.success(), "{words:?}: {output:?}");
        output.stdout
    };
    let commit = |message: &str| {
        fs::write(dir.path().join("file"), message).expect("written");
        run(&["add", "file"]);
        run(&["commit", "-q", "-m", message]);
        String::from_utf8(run(&["rev-parse", "HEAD"]))
            .expect("hex")
            .trim()
            .to_owned()
    };
    let step = |since: &[&str]| {
        let bundle = run(&[&["bundle", "create", "-q", "-", "--all"], since].concat());
        (bundle, run(&["show-ref", "--head"]))
    };
    run(&["init", "-q", "-b", "trunk"]);
    let first = commit("first");
    run(&["branch", "topic"]);
    run(&["branch", "kept"]);
    let one = step(&[]);
    run(&["branch", "-D", "topic"]);
    let second = commit("second");
    run(&["branch", "topic/a"]);
    let two = step(&[&format!("^{first}")]);
    commit("third");
    [one, two, step(&[&format!("^{second}")])]
}

/// Whether it is gitaly's manifest of a repository.
fn is_toml(member: &Member) -> bool {
    member.path.rsplit('.').next() == Some("toml")
}

#[test]
fn increments_are_applied_in_their_order() {
    if !there_is_git() {
        return;
    }
    let backup = RealBackup::new(1);
    let chain = chain();
    let ids = [
        "1702000000_2023_12_08_17.8.2",
        "1702400000_2023_12_12_17.8.2",
        ID,
    ];
    let disk = format!("default/{}.git", hashed("@hashed", 2));
    let mut manifest = "empty = false\nnon_existent = false\nobject_format = 'sha1'\n\
                        head_reference = 'refs/heads/trunk'\n"
        .to_owned();
    let mut members = backup.members(STAMP);
    members.retain(|member| !member.path.starts_with(&format!("repositories/{disk}/")));
    for (number, (bundle, refs)) in chain.iter().enumerate().rev() {
        let stem = format!("{disk}/{}/00{}", ids[number], number + 1);
        for (ending, data) in [("bundle", bundle), ("refs", refs)] {
            let path = format!("repositories/{stem}.{ending}");
            members.push(Member::file(&path, 0o600, data.clone()));
        }
    }
    for (number, id) in ids.iter().enumerate() {
        let stem = format!("{disk}/{id}/00{}", number + 1);
        let told = format!(
            "\n[[steps]]\nbundle_path = '{stem}.bundle'\nref_path = '{stem}.refs'\ncustom_hooks_path = ''\n"
        );
        manifest.push_str(&told);
    }
    let toml = format!("repositories/manifests/{disk}/");
    let tomls = members
        .iter_mut()
        .filter(|member| member.path.starts_with(&toml));
    for member in tomls.filter(|member| is_toml(member)) {
        member.data = manifest.clone().into_bytes();
    }
    let refs = String::from_utf8(chain[2].1.clone()).expect("text");
    assert!(refs.contains("refs/heads/topic/a") && refs.contains("refs/heads/kept"));
    // By the manifest; and by the names alone, where that is damaged.
    for damaged in [false, true] {
        for member in members
            .iter_mut()
            .filter(|member| damaged && is_toml(member))
        {
            member.data.truncate(30);
        }
        let (_dropbox, host) = stored_members(&members, &backup);
        let ended = extract(&host, "demo/apps/shop");
        assert_eq!(ended.status, Some(0), "{ended}");
        let repository = host.path("out/shop.git");
        assert_eq!(ask(&repository, &["show-ref", "--head"]), refs);
        assert_eq!(
            ask(&repository, &["symbolic-ref", "HEAD"]).trim(),
            "refs/heads/trunk"
        );
        assert_eq!(
            ask(&repository, &["rev-list", "--count", "HEAD"]).trim(),
            "3"
        );
    }
    // Without the one in the middle the last cannot be applied.
    members.retain(|member| !member.path.ends_with("/002.bundle"));
    let (_dropbox, host) = stored_members(&members, &backup);
    refused(
        &host,
        "demo/apps/shop",
        &["003.bundle", "prerequisite commits"],
    );
}

/// What the stand-in has sent of archives, lists and indexes.
/// What GitLab's lists name and no bundle brings is damage, not an empty or an older repository.
#[test]
fn a_bundle_that_is_missing_is_told() {
    if !there_is_git() {
        return;
    }
    let backup = RealBackup::new(1);
    let folder = format!("repositories/default/{}.git/", hashed("@hashed", 2));
    let mut members = backup.members(STAMP);
    let before = members.len();
    members
        .retain(|member| !(member.path.starts_with(&folder) && member.path.ends_with(".bundle")));
    assert!(members.len() < before, "there was a bundle");
    let (_dropbox, host) = stored_members(&members, &backup);
    let ended = extract(&host, "demo/apps/shop");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(ended.err.contains("missing"), "{ended}");
    assert!(made(&host).is_empty(), "{ended}");
}

fn downloaded(dropbox: &Dropbox) -> u64 {
    let downloads = dropbox.requests().into_iter();
    let downloads = downloads.filter(|seen| seen.endpoint == "/2/files/download");
    downloads.map(|seen| seen.answered).sum()
}

#[test]
fn of_many_projects_only_one_is_downloaded() {
    if !there_is_git() {
        return;
    }
    let dropbox = Dropbox::start(Options::default());
    let host = Host::new(PROGRAM, &dropbox);
    let name = format!("{ID}_gitlab_backup.tar");
    host.put_config_archive("gitlab_config_1702758583_2023_12_16.tar");
    // In the oldest layout, whose names are the shortest: 500 projects of 21 kB each, and nothing else.
    let backup = RealBackup::new(1).projects(500);
    let code = templates(1).code;
    let dump = support::backup::gzip(backup.database().as_bytes());
    let names: Vec<_> = (1..=500)
        .flat_map(|id| {
            ["bundle", "refs"].map(|end| format!("repositories/{}.{end}", hashed("@hashed", id)))
        })
        .collect();
    let mut members = vec![
        ("backup_information.yml", &b":skipped: ''\n"[..]),
        ("db/database.sql.gz", &dump),
    ];
    members.extend(names.iter().map(|name| {
        let is_bundle = name.ends_with(".bundle");
        (
            name.as_str(),
            if is_bundle {
                &code.bundle[..]
            } else {
                &code.refs
            },
        )
    }));
    let path = host.path("var/opt/gitlab/backups").join(name);
    write_tar(&path, 0, &members);
    let ended = host.run("run --skip-create");
    assert_eq!(ended.status, Some(0), "{ended}");
    let size = fs::metadata(&path).expect("there").len();
    let before = downloaded(&dropbox);
    let ended = extract(&host, "demo/project-321");
    assert_eq!(ended.status, Some(0), "{ended}");
    let used = downloaded(&dropbox) - before;
    let told = ended.json()["bytes_downloaded"].as_u64().expect("bytes");
    let figures = format!("{used} of {size} bytes were downloaded, {told} are told");
    writeln!(std::io::stderr(), "{figures}").expect("standard error");
    // Index and list are those of all projects: in a larger archive they are a smaller part.
    assert!(used * 100 <= size * 3, "{figures}");
    // What the catalog reads, manifest and proof, is not counted.
    assert!(told <= used && told + 8_000 > used, "{figures}");
    ask(&host.path("out/project-321.git"), &["fsck", "--full"]);
}
