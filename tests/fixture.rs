//! What other tests stand on: backups as GitLab makes them (git, gzip, tar and `PostgreSQL`'s rules agree),
//! and a stand-in for GitLab that restores them, or refuses to, as GitLab does.

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;

use support::backup::{Layout, Member, RealBackup, git, gunzip, repack};
use support::host::{Ended, Host};

const STAMP: u64 = 1_702_758_583;
const ID: &str = "1702758583_2023_12_16_17.8.2";

/// Whether there is git; without it the tests that ask git skip, and say so.
fn git_is_here() -> bool {
    let here = Command::new("git").arg("--version").output().is_ok();
    if !here {
        // Not by a macro, whose output a test that passes does not show.
        writeln!(std::io::stderr(), "skipped: there is no `git` here").expect("standard error");
    }
    here
}

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
    if !git_is_here() {
        return;
    }
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

/// The bytes of a bundle are zlib's and git's of the day; what is in it has one name, its references.
#[test]
fn the_kept_bundles_are_what_git_makes() {
    if !git_is_here() {
        return;
    }
    let write = std::env::var_os("GIT_BUNDLES").is_some_and(|value| value == "write");
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/backup/bundles");
    let folder = tempfile::tempdir().expect("a temporary folder");
    run(
        "git",
        &["init", "--quiet", "--bare", "empty"],
        folder.path(),
    );
    for seed in [1, 2] {
        let made = git::make(seed);
        let parts = [
            ("site", made.site),
            ("code", made.code),
            ("wiki", made.wiki),
        ];
        for (name, made) in parts {
            let path = |end: &str| kept.join(format!("{name}-{seed}.{end}"));
            if write {
                fs::write(path("bundle"), &made.bundle).expect("a bundle");
                fs::write(path("refs"), &made.refs).expect("its references");
            }
            assert_eq!(
                fs::read(path("refs")).expect("its references"),
                made.refs,
                "{name} {seed}"
            );
            let bundle = path("bundle").display().to_string();
            let empty = folder.path().join("empty");
            run("git", &["bundle", "verify", "--quiet", &bundle], &empty);
            let listed = run("git", &["bundle", "list-heads", &bundle], &empty);
            let mut listed: Vec<_> = listed.lines().collect();
            let refs = String::from_utf8_lossy(&made.refs);
            let mut refs: Vec<_> = refs.lines().collect();
            listed.sort_unstable();
            refs.sort_unstable();
            assert_eq!(listed, refs, "{name} {seed}");
        }
    }
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

fn gitlab(host: &Host, command: &str) -> Ended {
    host.gitlab(command).output().expect("it runs").into()
}

fn good(host: &Host, command: &str) -> Ended {
    let ended = gitlab(host, command);
    assert_eq!(ended.status, Some(0), "{command}: {ended}");
    ended
}

/// A machine with two backups: `(id, name of the data archive)` of the one to restore.
fn machine() -> (Host, String) {
    let mut host = Host::without_config("/nonexistent");
    host.populate(&RealBackup::new(11));
    host.set("STUB_NOW", STAMP.to_string());
    good(&host, "gitlab-ctl backup-etc");
    good(&host, "gitlab-backup create");
    (host, ID.to_owned())
}

/// Takes both archives away, and gives them to the machine that follows.
fn move_to_new_machine(host: &Host) -> Vec<u8> {
    let data = host.path(&format!("var/opt/gitlab/backups/{ID}_gitlab_backup.tar"));
    let config = host.path("etc/gitlab/config_backup/gitlab_config_1702758583_2023_12_16.tar");
    let (data, config) = (
        fs::read(data).expect("data"),
        fs::read(config).expect("config"),
    );
    host.wipe();
    let path = host.path(&format!("var/opt/gitlab/backups/{ID}_gitlab_backup.tar"));
    fs::write(&path, data).expect("data");
    config
}

fn put_configuration_back(host: &Host, config: &[u8]) {
    fs::remove_dir_all(host.path("etc/gitlab")).expect("the new one's");
    let archive = host.path("config.tar");
    fs::write(&archive, config).expect("an archive");
    // The members are rooted: below this machine's root.
    run(
        "tar",
        &["-xf", archive.to_str().expect("a path")],
        host.root(),
    );
}

#[test]
fn the_stand_in_packs_its_state_as_the_fixture_does() {
    let (host, id) = machine();
    let archive = host.path(&format!("var/opt/gitlab/backups/{id}_gitlab_backup.tar"));
    let unpack = |archive: &Path, name: &str| {
        let folder = host.path(name);
        fs::create_dir(&folder).expect("a folder");
        run("tar", &["-xf", archive.to_str().expect("a path")], &folder);
        run(
            "sh",
            &[
                "-c",
                "for part in *.tar.gz; do gzip -dc $part | tar -tf - | sort; done; gzip -d db/*.gz; find . -type f ! -name '*.tar.gz' -print0 | sort -z | xargs -0 sha256sum",
            ],
            &folder,
        )
    };
    let fixture = host.path("fixture.tar");
    repack(&RealBackup::new(11).members(STAMP), &fixture);
    assert_eq!(unpack(&archive, "stand-in"), unpack(&fixture, "fixture"));
}

#[test]
fn a_wiped_machine_is_restored_step_by_step() {
    let (host, id) = machine();
    let (data, settings) = (host.gitlab_state(), host.gitlab_configuration());
    assert!(
        data.len() > 10 && settings.len() == 5,
        "{data:?} {settings:?}"
    );
    let config = move_to_new_machine(&host);
    assert_ne!(host.gitlab_state(), data);
    assert_ne!(host.gitlab_configuration(), settings);

    put_configuration_back(&host, &config);
    assert_eq!(host.gitlab_configuration(), settings);
    good(&host, "gitlab-ctl reconfigure");
    good(&host, "gitlab-ctl stop puma");
    good(&host, "gitlab-ctl stop sidekiq");
    assert_eq!(gitlab(&host, "gitlab-ctl status").status, Some(6));
    let ended = good(
        &host,
        &format!("gitlab-backup restore BACKUP={id} force=yes"),
    );
    // What a Linux package says although all is well.
    assert!(
        ended
            .out
            .contains("ERROR:  must be owner of extension pg_trgm"),
        "{ended}"
    );
    assert_eq!(host.gitlab_state(), data);
    good(&host, "gitlab-ctl reconfigure");
    good(&host, "gitlab-ctl start");
    let check = good(&host, "gitlab-rake gitlab:check SANITIZE=true");
    assert!(
        check
            .out
            .ends_with("Checking GitLab subtasks ... Finished\n")
            && !check.out.contains("Try fixing it"),
        "{check}"
    );
    let secrets = good(&host, "gitlab-rake gitlab:doctor:secrets");
    assert!(
        secrets
            .out
            .contains(" INFO -- : Total: 0 row(s) affected\n"),
        "{secrets}"
    );
    good(&host, "gitlab-rake gitlab:uploads:check");
    assert!(
        !host
            .path("var/opt/gitlab/backups/backup_information.yml")
            .exists()
    );
}

#[test]
fn foreign_keys_are_noticed_and_so_is_a_forgotten_reconfigure() {
    let (host, id) = machine();
    let config = move_to_new_machine(&host);
    for service in ["puma", "sidekiq"] {
        good(&host, &format!("gitlab-ctl stop {service}"));
    }
    good(
        &host,
        &format!("gitlab-backup restore BACKUP={id} force=yes"),
    );
    let bad = "Total: 3 row(s) affected";
    let secrets = good(&host, "gitlab-rake gitlab:doctor:secrets VERBOSE=1");
    assert!(
        secrets.out.contains(bad)
            && secrets
                .out
                .contains("DEBUG -- :   - Ci::Variable[2]: value"),
        "{secrets}"
    );
    put_configuration_back(&host, &config);
    let secrets = good(&host, "gitlab-rake gitlab:doctor:secrets");
    assert!(secrets.out.contains(bad), "{secrets}");
    good(&host, "gitlab-ctl reconfigure");
    let secrets = good(&host, "gitlab-rake gitlab:doctor:secrets");
    assert!(
        secrets.out.contains("Total: 0 row(s) affected"),
        "{secrets}"
    );
    // And the check says what is down.
    let check = good(&host, "gitlab-rake gitlab:check SANITIZE=true");
    assert!(
        check.out.contains("Sidekiq: ... Running? ... no")
            && check.out.contains("self-check failed"),
        "{check}"
    );
}

#[test]
fn a_restore_is_refused_as_gitlab_refuses_it() {
    let (mut host, id) = machine();
    let before = host.gitlab_state();
    let archive = host.path(&format!("var/opt/gitlab/backups/{id}_gitlab_backup.tar"));
    let second = host.path("var/opt/gitlab/backups/dump_gitlab_backup.tar");
    let restore = format!("gitlab-backup restore BACKUP={id} force=yes");
    let refused = |host: &Host, command: &str, status: i32, says: &str| {
        let ended = gitlab(host, command);
        assert_eq!(ended.status, Some(status), "{command}: {ended}");
        assert!(
            format!("{ended}").contains(says),
            "{says} is not in {ended}"
        );
        assert_eq!(host.gitlab_state(), before, "{command}");
    };
    refused(
        &host,
        "gitlab-backup restore BACKUP=other force=yes",
        1,
        "The backup file other_gitlab_backup.tar does not exist!",
    );
    fs::copy(&archive, &second).expect("a second one");
    refused(
        &host,
        "gitlab-backup restore force=yes",
        1,
        "Found more than one backup:",
    );
    fs::remove_file(&second).expect("removed");
    // Closed stdin: nobody answers.
    refused(
        &host,
        &format!("gitlab-backup restore BACKUP={id}"),
        1,
        "undefined method `chomp' for nil",
    );
    refused(
        &host,
        &format!("{restore} strayword"),
        1,
        "Don't know how to build task 'strayword'",
    );

    for version in ["17.8.3", "17.8.2-ee"] {
        host.set("STUB_VERSION", version);
        let says = format!(
            "Your current GitLab version ({version}) differs from the GitLab version in the backup!"
        );
        refused(&host, &restore, 1, &says);
    }
    let manifest =
        fs::read_to_string(host.path("opt/gitlab/version-manifest.txt")).expect("a manifest");
    assert!(manifest.starts_with("gitlab-ee 17.8.2\n"), "{manifest}");
    host.set("STUB_VERSION", "17.8.2");
    refused(
        &host,
        "gitlab-rake gitlab:nonsense",
        1,
        "Don't know how to build task",
    );

    host.set("STUB_GIT_USER", "daemon");
    refused(&host, &restore, 1, "Cannot open: Permission denied");
    fs::set_permissions(&archive, fs::Permissions::from_mode(0o604)).expect("a mode");
    good(&host, "gitlab-ctl stop puma");
    good(&host, "gitlab-ctl stop sidekiq");
    good(&host, &restore);
    assert_eq!(host.gitlab_state(), before);

    fs::remove_file(host.path("opt/gitlab/etc/gitlab-rails-rc")).expect("removed");
    refused(
        &host,
        &restore,
        2,
        "could not load /opt/gitlab/etc/gitlab-rails-rc",
    );
    good(&host, "gitlab-ctl stop postgresql");
    good(&host, "gitlab-ctl reconfigure");
    refused(&host, &restore, 1, "PG::ConnectionBad");
    fs::remove_file(host.path("etc/gitlab/gitlab.rb")).expect("removed");
    refused(
        &host,
        "gitlab-ctl reconfigure",
        1,
        "There was an error running gitlab-ctl reconfigure",
    );
}

#[test]
fn services_that_were_left_running_write_into_the_restored_database() {
    let (host, id) = machine();
    let before = host.gitlab_state();
    good(&host, "gitlab-ctl stop sidekiq");
    good(
        &host,
        &format!("gitlab-backup restore BACKUP={id} force=yes"),
    );
    assert_ne!(host.gitlab_state(), before);
    good(&host, "gitlab-ctl stop puma");
    good(
        &host,
        &format!("gitlab-backup restore BACKUP={id} force=yes"),
    );
    assert_eq!(host.gitlab_state(), before);
}

#[test]
fn faults_come_at_the_call_they_are_asked_for_and_a_second_restore_mends_them() {
    let (mut host, id) = machine();
    let before = host.gitlab_state();
    good(&host, "gitlab-ctl stop puma");
    good(&host, "gitlab-ctl stop sidekiq");
    let restore = format!("gitlab-backup restore BACKUP={id} force=yes");
    let mut calls = 0;
    for (fault, status) in [
        ("aborts", Some(1)),
        ("killed", None),
        ("repositories", Some(1)),
        ("db-errors", Some(1)),
    ] {
        host.set("STUB_FAIL_RESTORE", format!("{fault}@{}", calls + 1));
        // What came after the backup has to go.
        fs::write(host.path("var/opt/gitlab/state/uploads/later"), "x").expect("an upload");
        let ended = gitlab(&host, &restore);
        assert_eq!(ended.status, status, "{fault}: {ended}");
        assert_ne!(host.gitlab_state(), before, "{fault}");
        let ended = good(&host, &restore);
        assert_eq!(
            ended.out.contains("but the process is not running"),
            fault == "killed",
            "{ended}"
        );
        assert_eq!(host.gitlab_state(), before, "{fault}");
        calls += 2;
    }
    // `force` is not enough where the database had errors; this is.
    host.set("STUB_FAIL_RESTORE", "db-errors")
        .set("GITLAB_ASSUME_YES", "1");
    good(&host, &restore);
    let last = host
        .calls()
        .lines()
        .last()
        .map(str::to_owned)
        .expect("a call");
    assert!(
        last.contains(&format!("argv=[restore][BACKUP={id}][force=yes]"))
            && last.contains(" assume_yes=1 "),
        "{last}"
    );

    host.set("STUB_FAIL_RECONFIGURE", "chef@2")
        .set("STUB_FAIL_RAKE", "aborts@1");
    assert_eq!(gitlab(&host, "gitlab-ctl reconfigure").status, Some(0));
    assert_eq!(gitlab(&host, "gitlab-ctl reconfigure").status, Some(1));
    assert_eq!(gitlab(&host, "gitlab-ctl reconfigure").status, Some(0));
    assert_eq!(gitlab(&host, "gitlab-rake gitlab:check").status, Some(1));
    assert_eq!(gitlab(&host, "gitlab-rake gitlab:check").status, Some(0));
}

#[test]
fn older_backups_are_restored_by_the_version_that_made_them() {
    let mut host = Host::without_config("/nonexistent");
    host.set("STUB_VERSION", "15.2.0")
        .set("GITLAB_ASSUME_YES", "1");
    let legacy = RealBackup::legacy(4);
    host.populate(&legacy);
    let before = host.gitlab_state();
    host.wipe();
    let folder = host.path("var/opt/gitlab/backups");
    legacy.write_into(&folder, &host.path("etc/gitlab/config_backup"), STAMP);
    for service in ["puma", "sidekiq"] {
        good(&host, &format!("gitlab-ctl stop {service}"));
    }
    good(&host, "gitlab-backup restore");
    assert_eq!(host.gitlab_state(), before);
}

#[test]
fn a_fault_that_does_not_exist_is_no_silent_success() {
    let mut host = Host::without_config("/nonexistent");
    for (variable, command) in [
        ("STUB_FAIL", "gitlab-backup create"),
        ("STUB_FAIL_ETC", "gitlab-ctl backup-etc"),
        ("STUB_FAIL_RESTORE", "gitlab-backup restore"),
        ("STUB_FAIL_RECONFIGURE", "gitlab-ctl reconfigure"),
        ("STUB_FAIL_RAKE", "gitlab-rake gitlab:check"),
    ] {
        host.set(variable, "db-failed");
        let ended = gitlab(&host, command);
        assert_eq!(ended.status, Some(70), "{command}: {ended}");
        host.set(variable, "");
    }
    // A folder of old backups is not yet a configuration: it is furnished, as it always was.
    fs::create_dir_all(host.path("etc/gitlab/config_backup")).expect("a folder");
    good(&host, "gitlab-ctl backup-etc");
    assert!(host.path("etc/gitlab/gitlab-secrets.json").exists());
}
