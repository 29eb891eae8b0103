//! A backup put back into GitLab: made, the machine wiped, restored, and everything equal.

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use support::backup::RealBackup;
use support::lost::{
    APPLY, CALLS, CONFIG, DATA, ID, Snapshot, Terminal, calls, lost, names, skipped, steps,
};

#[test]
fn made_wiped_restored_and_everything_is_equal() {
    let lost = lost();
    let ended = lost.host.run(APPLY);
    lost.assert_back(&ended);
    assert_eq!(calls(&lost.host), CALLS);
    let report = ended.json();
    assert_eq!(report["status"], "ok");
    assert_eq!(report["backup_id"], ID);
    assert_eq!(report["archives"][1]["verified"], true);
    let kept = report["kept_config"].as_str().expect("a path");
    assert!(Path::new(kept).join("gitlab.rb").exists());
    assert!(
        steps(&ended).iter().all(|(_, status)| status == "ok"),
        "{ended}"
    );
    // What each step shows is what was run.
    let rows = report["steps"].as_array().expect("steps");
    let shown: Vec<_> = rows
        .iter()
        .filter(|row| {
            row["command"][0]
                .as_str()
                .is_some_and(|word| ["gitlab-ctl", "gitlab-backup", "gitlab-rake"].contains(&word))
        })
        .map(|row| {
            let words: Vec<_> = row["command"].as_array().expect("words").iter().collect();
            let words: Vec<_> = words
                .iter()
                .map(|word| word.as_str().expect("a word"))
                .collect();
            let arguments = format!("[{}]", words[1..].join("]["));
            let assumed = if row["environment"]["GITLAB_ASSUME_YES"] == "1" {
                " assume_yes=1"
            } else {
                ""
            };
            format!("{} {arguments}{assumed}", words[0])
        })
        .collect();
    assert_eq!(shown, CALLS);
}

#[test]
fn a_good_restore_is_short_and_says_where_the_former_configuration_is() {
    let lost = lost();
    let ended = lost.host.run("restore latest --apply --yes");
    lost.assert_back(&ended);
    assert!(
        ended.out.lines().count() + ended.err.lines().count() <= 15,
        "{ended}"
    );
    assert!(
        ended.err.starts_with("step 1 of 13: fetch the archives"),
        "{ended}"
    );
    assert!(
        ended.out.contains("the former configuration is kept in "),
        "{ended}"
    );
    assert!(
        ended.out.contains(&format!("ok: {ID} is restored")),
        "{ended}"
    );
}

#[test]
fn on_a_new_machine_there_is_nothing_to_move() {
    let lost = lost();
    fs::remove_dir_all(lost.host.path("etc/gitlab")).expect("removed");
    fs::remove_dir_all(lost.host.path("var/opt/gitlab/backups")).expect("removed");
    let ended = lost.host.run(APPLY);
    lost.assert_back(&ended);
    assert_eq!(
        steps(&ended)[2],
        ("move_config".to_owned(), "skipped".to_owned())
    );
    assert_eq!(ended.json()["kept_config"], Value::Null);
    assert_eq!(names(&lost.host.path("etc")), ["gitlab"]);
}

#[test]
fn archives_that_are_here_are_not_fetched_and_older_ones_are_kept() {
    let lost = lost();
    let ended = lost.host.run("restore");
    assert_eq!(ended.status, Some(0), "{ended}");
    let older = "gitlab_config_1602758583_2020_10_15.tar";
    let config = lost.host.path("etc/gitlab/config_backup");
    fs::write(config.join(older), b"older").expect("written");
    let before = lost.dropbox.requests().len();
    let ended = lost.host.run(APPLY);
    lost.assert_back(&ended);
    let downloads = lost.dropbox.requests().into_iter().skip(before);
    let archives = downloads.filter(|seen| {
        seen.arg["path"]
            .as_str()
            .is_some_and(|path| path.ends_with(DATA) || path.ends_with(CONFIG))
    });
    assert_eq!(
        archives
            .filter(|seen| seen.endpoint.ends_with("files/download"))
            .count(),
        0
    );
    let kept = PathBuf::from(ended.json()["kept_config"].as_str().expect("a path"));
    assert_eq!(
        fs::read(kept.join("config_backup").join(older)).expect("kept"),
        b"older"
    );
}

#[test]
fn a_folder_of_config_archives_elsewhere_stays_where_it_is() {
    let lost = lost();
    let elsewhere = lost.host.path("srv/config");
    let config = lost.host.config(&lost.dropbox).replace(
        &lost
            .host
            .path("etc/gitlab/config_backup")
            .display()
            .to_string(),
        &elsewhere.display().to_string(),
    );
    lost.host.write_config(&config);
    let ended = lost.host.run(APPLY);
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(lost.host.gitlab_state(), lost.state);
    assert_eq!(names(&elsewhere), [CONFIG]);
    assert!(!lost.host.path("etc/gitlab/config_backup").exists());
}

#[test]
fn on_a_terminal_each_step_is_shown_and_asked_for() {
    let lost = lost();
    let mut terminal = Terminal::start(&lost.host, "restore --apply --json");
    let mut count = 0;
    while terminal.asked() {
        count += 1;
        assert!(
            terminal.shown.contains(&format!("step {count} of 13: ")),
            "{}",
            terminal.shown
        );
        terminal.answer(if count % 2 == 0 { "y\n" } else { "YES\n" });
    }
    assert_eq!(count, 13);
    let ended = terminal.end();
    assert!(
        ended
            .err
            .contains("    GITLAB_ASSUME_YES=1 gitlab-backup restore BACKUP="),
        "{ended}"
    );
    lost.assert_back(&ended);
    assert_eq!(calls(&lost.host), CALLS);
}

#[test]
fn yes_to_all_asks_no_more() {
    let lost = lost();
    let mut terminal = Terminal::start(&lost.host, "restore --apply --json");
    assert!(terminal.asked());
    terminal.answer("a\n");
    let ended = terminal.end();
    assert_eq!(ended.err.matches("go on?").count(), 1, "{ended}");
    lost.assert_back(&ended);
}

#[test]
fn no_stops_and_says_how_to_go_on() {
    let lost = lost();
    let before = Snapshot::of(&lost.host);
    for answer in ["n\n", "\n", "\u{4}"] {
        let mut terminal = Terminal::start(&lost.host, "restore --apply --json");
        assert!(terminal.asked());
        terminal.answer(answer);
        let ended = terminal.end();
        lost.assert_untouched(&ended, &before);
        assert!(ended.err.contains("stopped before step 1 of 13"), "{ended}");
        assert!(ended.err.contains("nothing was changed"), "{ended}");
    }
    let mut terminal = Terminal::start(&lost.host, "restore --apply --json");
    for _ in 0..5 {
        assert!(terminal.asked());
        terminal.answer("y\n");
    }
    assert!(terminal.asked());
    terminal.answer("no\n");
    let ended = terminal.end();
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(ended.err.contains("stopped before step 6 of 13"), "{ended}");
    assert!(
        ended.err.contains("the former configuration is in "),
        "{ended}"
    );
    assert_eq!(
        steps(&ended)[4],
        ("reconfigure".to_owned(), "ok".to_owned())
    );
    assert_eq!(
        steps(&ended)[5],
        ("place_data".to_owned(), "planned".to_owned())
    );
    let ended = lost.host.run(APPLY);
    lost.assert_back(&ended);
    assert_eq!(
        steps(&ended)[4],
        ("reconfigure".to_owned(), "done_before".to_owned())
    );
    assert_eq!(calls(&lost.host), CALLS);
}

#[test]
fn a_failing_command_is_shown_and_repeated_by_the_next_call() {
    // Which fault, what is told, at which step it stops.
    let cases = [
        (
            "STUB_FAIL_RECONFIGURE",
            "chef@1",
            "ended with exit status 1",
            5,
        ),
        (
            "STUB_FAIL_RECONFIGURE",
            "killed@2",
            "was killed by signal 9",
            10,
        ),
        ("STUB_FAIL_RESTORE", "exit-before@1", "rake aborted!", 9),
        ("STUB_FAIL_RESTORE", "killed@1", "was killed by signal 9", 9),
        ("STUB_FAIL_RESTORE", "aborts@1", "rake aborted!", 9),
        (
            "STUB_FAIL_RESTORE",
            "repositories@1",
            "Backup::Error: gitaly-backup exit status 1",
            9,
        ),
    ];
    for (variable, fault, told, step) in cases {
        let mut lost = lost();
        lost.host.set(variable, fault);
        let ended = lost.host.run(APPLY);
        assert_eq!(ended.status, Some(1), "{fault}: {ended}");
        let error = ended.json()["error"].as_str().expect("an error").to_owned();
        assert!(
            error.starts_with(&format!("step {step} of 13: running `gitlab-")),
            "{error}"
        );
        assert!(error.contains(told) && error.contains("  | "), "{error}");
        assert!(
            error.contains("the same command goes on from there"),
            "{error}"
        );
        assert!(error.contains("the former configuration is in "), "{error}");
        assert_eq!(steps(&ended)[step - 1].1, "failed");
        let ended = lost.host.run(APPLY);
        lost.assert_back(&ended);
        let mut expected = CALLS.to_vec();
        let call = CALLS
            .iter()
            .enumerate()
            .map(|(n, _)| n)
            .find(|n| *n == [0, 0, 0, 0, 0, 0, 1, 2, 3, 4][step - 1]);
        let call = call.expect("a call");
        expected.insert(call, CALLS[call]);
        assert_eq!(calls(&lost.host), expected, "{fault}");
    }
}

#[test]
fn what_gitlab_asks_beside_all_is_answered() {
    let mut lost = lost();
    lost.host.set("STUB_FAIL_RESTORE", "db-errors");
    let ended = lost.host.run(APPLY);
    lost.assert_back(&ended);
}

#[test]
fn gitlabs_own_user_can_read_the_archive() {
    let user = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let nobody = user.lines().find_map(|line| {
        line.strip_prefix("nobody:x:")?
            .split(':')
            .next()?
            .parse()
            .ok()
    });
    let Some(nobody) = nobody.filter(|_| rustix::process::geteuid().is_root()) else {
        skipped("only root can give a file away");
        return;
    };
    let mut lost = lost();
    std::os::unix::fs::chown(lost.host.path("var/opt/gitlab/backups"), Some(nobody), None)
        .expect("given");
    lost.host.set("STUB_GIT_USER", "nobody");
    // Fetched before by root for root: it is given away all the same.
    let ended = lost.host.run("restore");
    assert_eq!(ended.status, Some(0), "{ended}");
    let archive = lost.host.path("var/opt/gitlab/backups").join(DATA);
    std::os::unix::fs::chown(&archive, Some(0), Some(0)).expect("taken back");
    fs::set_permissions(&archive, fs::Permissions::from_mode(0o640)).expect("its mode");
    let ended = lost.host.run(APPLY);
    lost.assert_back(&ended);
    let metadata = fs::metadata(&archive).expect("metadata");
    assert_eq!((metadata.uid(), metadata.mode() & 0o777), (nobody, 0o600));
}

#[test]
fn a_check_that_fails_leaves_everything_else_done() {
    let mut lost = lost();
    lost.host.set("STUB_FAIL_RAKE", "aborts@1");
    let ended = lost.host.run(APPLY);
    assert_eq!(ended.status, Some(1), "{ended}");
    assert_eq!(
        calls(&lost.host),
        CALLS,
        "the second check is made all the same"
    );
    let error = ended.json()["error"].as_str().expect("an error").to_owned();
    assert!(
        error.contains("step 12 of 13") && error.contains("NoMethodError"),
        "{error}"
    );
    assert!(error.contains("all of the backup is restored"), "{error}");
    assert_eq!(lost.host.gitlab_state(), lost.state);
    let ended = lost.host.run(APPLY);
    lost.assert_back(&ended);
    assert_eq!(
        calls(&lost.host)[CALLS.len()..],
        CALLS[6..7],
        "only what failed is repeated"
    );
    let mut lost = support::lost::lost();
    lost.host.set("STUB_FAIL_RAKE", "check");
    let ended = lost.host.run(APPLY);
    lost.assert_back(&ended);
    assert!(
        ended
            .err
            .contains("GitLab's check of itself found something to fix"),
        "{ended}"
    );
}

#[test]
fn keys_that_do_not_belong_to_the_data_are_noticed() {
    let lost = lost();
    // The config archive of another GitLab, under the right name, and nothing that tells better.
    let other = tempfile::tempdir().expect("a temporary folder");
    let paths =
        RealBackup::new(77).write_into(other.path(), &other.path().join("c"), 1_702_758_583);
    lost.dropbox.put_file(
        &format!("/Config/{CONFIG}"),
        &fs::read(paths.config).expect("read"),
    );
    lost.dropbox.remove(&format!("/Manifests/{ID}.json"));
    let ended = lost
        .host
        .run(&format!("restore {ID} --apply --yes --json -vv"));
    assert_eq!(ended.status, Some(1), "{ended}");
    let error = ended.json()["error"].as_str().expect("an error").to_owned();
    assert!(
        error.contains("step 13 of 13: running `gitlab-rake gitlab:doctor:secrets`"),
        "{error}"
    );
    assert!(
        error.contains("| I, [") && error.contains("Ci::Variable failures: "),
        "{error}"
    );
    assert_eq!(lost.host.gitlab_state(), lost.state);
    // Nothing of the keys is told.
    let secrets = RealBackup::new(77).secrets();
    let keys = secrets.split('"').filter(|word| word.len() >= 32);
    assert!(keys.clone().count() > 0);
    for key in keys {
        assert!(
            !ended.err.contains(key) && !ended.out.contains(key),
            "{ended}"
        );
    }
}

#[test]
fn files_come_back_with_their_modes_and_times() {
    let lost = lost();
    let ended = lost.host.run(APPLY);
    lost.assert_back(&ended);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let listing = |command: &mut Command| {
        let output = command.env("LC_ALL", "C").output().expect("GNU tar");
        assert!(output.status.success());
        String::from_utf8(output.stdout).expect("text")
    };
    let archive = lost.host.path("etc/gitlab/config_backup").join(CONFIG);
    let packed =
        listing(Command::new("tar").args(["-tvf", &archive.display().to_string(), "--full-time"]));
    let again = folder.path().join("again.tar");
    let config = lost.host.path("etc/gitlab/config_backup");
    let command = Command::new("tar")
        .args([
            "--exclude".as_ref(),
            config
                .strip_prefix(lost.host.root())
                .expect("inside")
                .as_os_str(),
        ])
        .arg("-C")
        .arg(lost.host.root())
        .arg("-cf")
        .arg(&again)
        .arg("etc/gitlab")
        .status();
    assert!(command.expect("GNU tar").success());
    let restored =
        listing(Command::new("tar").args(["-tvf", &again.display().to_string(), "--full-time"]));
    let files = |text: &str| {
        let files = text.lines().filter(|line| line.starts_with('-'));
        let mut files: Vec<_> = files.map(|line| line.replace(" /etc/", " etc/")).collect();
        files.sort();
        files
    };
    assert_eq!(files(&packed), files(&restored));
    assert!(files(&packed).len() >= 3, "{packed}");
}
