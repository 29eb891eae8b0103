//! A restore into GitLab that is interrupted: what the next call takes up, and what it does not.

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::backup::RealBackup;
use support::dropbox::Moment;
use support::host::{Ended, Host};
use support::kill::kill_at;
use support::lost::{APPLY, CALLS, DATA, ID, Lost, Snapshot, Terminal, calls, lost, names, steps};

#[test]
fn a_signal_is_heard_at_a_question() {
    let lost = lost();
    for (number, signal, status) in [(1, Signal::INT, 130), (4, Signal::TERM, 143)] {
        let mut terminal = Terminal::start(&lost.host, "restore --apply --json");
        assert!(terminal.asked());
        for _ in 1..number {
            terminal.answer("y\n");
            assert!(terminal.asked());
        }
        terminal.signal(signal);
        let ended = terminal.end();
        assert_eq!(ended.status, Some(status), "{ended}");
        assert_eq!(ended.json()["status"], "failed");
    }
    let ended = lost.host.run(APPLY);
    lost.assert_back(&ended);
}

#[test]
fn killed_after_each_step_the_next_call_goes_on_with_the_next() {
    let lost = lost();
    for killed_before in 1..=13 {
        lost.lose_again();
        let mut terminal = Terminal::start(&lost.host, "restore --apply --json");
        for _ in 1..killed_before {
            assert!(terminal.asked(), "{}", terminal.shown);
            terminal.answer("y\n");
        }
        assert!(terminal.asked(), "{}", terminal.shown);
        terminal.signal(Signal::KILL);
        assert_eq!(terminal.end().status, None);
        let ended = lost.host.run(APPLY);
        lost.assert_back(&ended);
        assert_eq!(
            calls(&lost.host),
            CALLS,
            "killed before step {killed_before}"
        );
        let before = steps(&ended)
            .iter()
            .filter(|(_, status)| status == "done_before")
            .count();
        assert_eq!(before, killed_before - 1, "{ended}");
        assert_eq!(ended.json()["archives"].as_array().map(Vec::len), Some(2));
    }
}

#[test]
fn what_is_here_and_noted_needs_no_destination() {
    let mut lost = lost();
    let mut terminal = Terminal::start(&lost.host, "restore --apply --json");
    assert!(terminal.asked());
    terminal.answer("y\n");
    assert!(terminal.asked());
    terminal.signal(Signal::KILL);
    terminal.end();
    lost.dropbox.shut_down();
    lost.host.set("GITLAB_PI_BACKUP_UPLOAD__RETRY_FOR", "1s");
    let ended = lost.host.run(APPLY);
    lost.assert_back(&ended);
    assert!(
        ended.err.contains("still the newest backup cannot be told"),
        "{ended}"
    );
}

#[test]
fn a_step_that_was_done_and_not_noted_is_repeated_without_harm() {
    let lost = lost();
    // Those that GitLab's commands do are tried below.
    for killed_before in [2, 3, 4, 5, 7] {
        lost.lose_again();
        let mut terminal = Terminal::start(&lost.host, "restore --apply --json");
        for _ in 1..killed_before {
            assert!(terminal.asked(), "{}", terminal.shown);
            terminal.answer("y\n");
        }
        assert!(terminal.asked(), "{}", terminal.shown);
        terminal.signal(Signal::KILL);
        terminal.end();
        // The power failed between the last thing that was done and the note of it.
        let path = lost.host.path("state/restore.json");
        let text = fs::read_to_string(&path).expect("a journal");
        let mut journal: Value = serde_json::from_str(&text).expect("JSON");
        let done = journal["done"].as_array_mut().expect("steps");
        assert_eq!(done.len(), killed_before - 1);
        done.pop();
        fs::write(&path, journal.to_string()).expect("written");
        let ended = lost.host.run(APPLY);
        lost.assert_back(&ended);
        let kept = ended.json()["kept_config"].as_str().map(PathBuf::from);
        assert!(kept.expect("a path").join("gitlab.rb").exists(), "{ended}");
        assert_eq!(names(&lost.host.path("etc")).len(), 2, "{ended}");
    }
}

#[test]
fn what_was_unpacked_half_is_unpacked_anew() {
    let lost = lost();
    let mut terminal = Terminal::start(&lost.host, "restore --apply --json");
    for _ in 1..4 {
        assert!(terminal.asked());
        terminal.answer("y\n");
    }
    assert!(terminal.asked());
    terminal.signal(Signal::KILL);
    terminal.end();
    let etc = lost.host.path("etc");
    let kept = names(&etc)
        .into_iter()
        .find(|name| name.starts_with("gitlab.2"))
        .expect("kept");
    let new = etc.join(format!("{kept}.new"));
    fs::create_dir(&new).expect("a folder");
    fs::write(new.join("gitlab.rb"), b"half").expect("written");
    symlink("/etc/passwd", new.join("link")).expect("a link");
    let ended = lost.host.run(APPLY);
    lost.assert_back(&ended);
}

/// Lets GitLab's `n`-th command (from 1 on) kill the program when it has done its work.
fn kill_at_call(host: &Host, n: usize) {
    for name in ["gitlab-ctl", "gitlab-backup", "gitlab-rake"] {
        let path = host.path("bin").join(name);
        let real = fs::read_link(&path).map_or_else(
            |_| host.path("real").join(name),
            |target| {
                fs::create_dir_all(host.path("real")).expect("a folder");
                let moved = host.path("real").join(name);
                symlink(target, &moved).expect("a link");
                moved
            },
        );
        fs::remove_file(&path).expect("removed");
        let (count, real) = (host.path("count"), real.display().to_string());
        let count = count.display();
        let text = format!(
            "#!/bin/sh\nn=$(($(cat '{count}' 2>/dev/null || echo 0) + 1))\necho $n >'{count}'\n\
             if [ $n != {n} ]; then exec '{real}' \"$@\"; fi\n'{real}' \"$@\"\nkill -9 $PPID\n"
        );
        fs::write(&path, text).expect("a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode");
    }
}

#[test]
fn killed_in_each_of_gitlabs_commands_it_is_repeated() {
    let lost = lost();
    for n in 1..=CALLS.len() {
        lost.lose_again();
        kill_at_call(&lost.host, n);
        let killed = lost.host.run(APPLY);
        assert_eq!(killed.status, None, "{killed}");
        let ended = lost.host.run(APPLY);
        lost.assert_back(&ended);
        let mut expected = CALLS.to_vec();
        expected.insert(n, CALLS[n - 1]);
        assert_eq!(calls(&lost.host), expected, "killed at call {n}");
    }
}

#[test]
fn killed_while_fetching_it_goes_on_with_the_same_backup() {
    let lost = lost();
    let mut kills = 0;
    for n in 0.. {
        let killed = kill_at(&lost.dropbox, &lost.host, APPLY, n, Moment::Applied);
        if let Some(ended) = killed {
            lost.assert_back(&ended);
            break;
        }
        kills += 1;
    }
    assert!(kills >= 6, "only {kills} requests were tried");
    assert_eq!(calls(&lost.host), CALLS);
}

#[test]
fn one_restore_at_a_time() {
    let mut lost = lost();
    // A second, newer backup, of another GitLab.
    lost.host.populate(&RealBackup::new(6));
    lost.host.set("STUB_NOW", "1702858583");
    let ended = lost.host.run("run");
    assert_eq!(ended.status, Some(0), "{ended}");
    lost.host.wipe();
    fs::remove_file(lost.host.path("calls.log")).expect("calls");
    lost.host.set("STUB_FAIL_RECONFIGURE", "chef@1");
    let first = format!("restore {ID} --apply --yes --json");
    let ended = lost.host.run(&first);
    assert_eq!(ended.status, Some(1), "{ended}");
    let before = Snapshot::of(&lost.host);
    let journal = lost.host.path("state/restore.json");
    assert_eq!(
        fs::metadata(&journal).expect("metadata").mode() & 0o777,
        0o600
    );
    let ended = lost
        .host
        .run("restore 1702858583_2023_12_18_17.8.2 --apply --yes --json");
    assert_eq!(ended.status, Some(1), "{ended}");
    for word in [
        ID,
        "is not finished",
        "finish it: gitlab-pi-backup restore",
        "delete ",
        &journal.display().to_string(),
    ] {
        assert!(ended.err.contains(word), "{word} is not in {ended}");
    }
    assert_eq!(Snapshot::of(&lost.host), before, "{ended}");
    // `latest` is the newer one by now, so it has to be said which one is meant.
    let ended = lost.host.run(APPLY);
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(
        ended
            .err
            .contains("1702858583_2023_12_18_17.8.2 at `dropbox` is newer"),
        "{ended}"
    );
    assert_eq!(Snapshot::of(&lost.host), before, "{ended}");
    let ended = lost.host.run(&first);
    lost.assert_back(&ended);
    // With the journal deleted the other one is begun from its first step.
    lost.host.set("STUB_FAIL_RECONFIGURE", "chef@4");
    let ended = lost.host.run(APPLY);
    assert_eq!(ended.status, Some(1), "{ended}");
    assert_eq!(ended.json()["backup_id"], "1702858583_2023_12_18_17.8.2");
    fs::write(&journal, b"{").expect("damaged");
    let ended = lost.host.run(&first);
    assert!(ended.err.contains("delete this file"), "{ended}");
    fs::remove_file(&journal).expect("deleted");
    let ended = lost.host.run(&first);
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(lost.host.gitlab_state(), lost.state);
}

#[test]
fn a_signal_ends_gitlabs_command_and_the_next_call_repeats_it() {
    let mut lost = lost();
    lost.host.set("STUB_FAIL_RESTORE", "hang@1");
    let child = lost.host.spawn(APPLY);
    let begun = Instant::now();
    while !lost.host.calls().contains("gitlab-backup argv=[restore]") {
        assert!(
            begun.elapsed() < Duration::from_mins(1),
            "it is never called"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process")).expect("a process");
    kill_process(pid, Signal::TERM).expect("there");
    let ended = Ended::from(child.wait_with_output().expect("ended"));
    assert_eq!(ended.status, Some(143), "{ended}");
    assert_eq!(
        steps(&ended)[8],
        ("restore_data".to_owned(), "failed".to_owned())
    );
    let ended = lost.host.run(APPLY);
    lost.assert_back(&ended);
}

/// Answers yes to so many questions, and waits for the next one.
fn up_to_step(lost: &Lost, number: usize) -> Terminal {
    let mut terminal = Terminal::start(&lost.host, "restore --apply --json");
    for _ in 1..number {
        assert!(terminal.asked(), "{}", terminal.shown);
        terminal.answer("y\n");
    }
    assert!(terminal.asked(), "{}", terminal.shown);
    terminal
}

#[test]
fn a_data_archive_that_was_taken_away_after_it_was_placed_is_fetched_again() {
    let lost = lost();
    let archive = lost.host.path("var/opt/gitlab/backups").join(DATA);
    // Between two calls, as when GitLab's keep time is over.
    let terminal = up_to_step(&lost, 9);
    terminal.signal(Signal::KILL);
    terminal.end();
    fs::remove_file(&archive).expect("placed");
    let ended = lost.host.run(APPLY);
    lost.assert_back(&ended);
    assert!(
        ended.err.contains("is no longer as it was placed"),
        "{ended}"
    );
    let rows = steps(&ended);
    assert_eq!(rows[5], ("place_data".to_owned(), "ok".to_owned()));
    assert_eq!(rows[7].1, "done_before");
    assert_eq!(ended.json()["archives"][1]["status"], "fetched");
    assert_eq!(calls(&lost.host), CALLS);
    // While the program waits for an answer.
    lost.lose_again();
    let mut terminal = up_to_step(&lost, 9);
    fs::remove_file(&archive).expect("placed");
    terminal.answer("a\n");
    let ended = terminal.end();
    lost.assert_back(&ended);
    assert_eq!(ended.json()["archives"][1]["status"], "fetched");
}

#[test]
fn a_data_archive_that_was_changed_after_it_was_placed_is_told_and_not_restored() {
    let lost = lost();
    let archive = lost.host.path("var/opt/gitlab/backups").join(DATA);
    let terminal = up_to_step(&lost, 9);
    terminal.signal(Signal::KILL);
    terminal.end();
    fs::write(&archive, b"cut off").expect("written");
    let ended = lost.host.run(APPLY);
    assert_eq!(ended.status, Some(1), "{ended}");
    for word in [DATA, "it has 7 bytes", "move it away"] {
        assert!(ended.err.contains(word), "{word}: {ended}");
    }
    assert_eq!(calls(&lost.host), CALLS[..3], "{ended}");
    assert_eq!(fs::read(&archive).expect("kept"), b"cut off");
    fs::remove_file(&archive).expect("moved away");
    let ended = lost.host.run(APPLY);
    lost.assert_back(&ended);
}

/// As if the unfinished restore had been begun so many hours ago.
fn age(lost: &Lost, hours: i64) {
    let path = lost.host.path("state/restore.json");
    let text = fs::read_to_string(&path).expect("a journal");
    let mut journal: Value = serde_json::from_str(&text).expect("JSON");
    let begun_at = chrono::Utc::now() - chrono::TimeDelta::hours(hours);
    journal["begun_at"] = begun_at.to_rfc3339().into();
    fs::write(&path, journal.to_string()).expect("written");
}

/// The unfinished restore is refused, and everything stays as it is.
fn assert_not_taken_up(lost: &Lost) {
    let before = Snapshot::of(&lost.host);
    let journal = lost.host.path("state/restore.json");
    let (noted, called) = (fs::read(&journal).expect("there"), calls(&lost.host));
    for arguments in ["restore --apply --yes", "restore latest --apply --yes"] {
        let ended = lost.host.run(arguments);
        assert_eq!(ended.status, Some(1), "{ended}");
        for word in [
            &format!("the restore of {ID} that was begun at 2"),
            "is not finished, and that is more than a day ago",
            &format!("finish it: gitlab-pi-backup restore {ID} --apply"),
            &format!("delete {}", journal.display()),
        ] {
            assert!(ended.err.contains(word), "{word} is not in {ended}");
        }
        assert!(!ended.out.contains("ok: "), "{ended}");
    }
    assert_eq!(Snapshot::of(&lost.host), before);
    assert_eq!(fs::read(&journal).expect("there"), noted);
    assert_eq!(calls(&lost.host), called);
}

#[test]
fn a_forgotten_restore_is_not_taken_up_unless_it_is_named() {
    let lost = lost();
    // The former configuration is moved away, and the new one is not there yet.
    let terminal = up_to_step(&lost, 4);
    terminal.signal(Signal::KILL);
    terminal.end();
    age(&lost, 25);
    assert_not_taken_up(&lost);
    // A day is not over: it is taken up as far as the next question.
    age(&lost, 23);
    let mut terminal = Terminal::start(&lost.host, "restore --apply --json");
    assert!(terminal.asked(), "{}", terminal.shown);
    assert!(
        terminal.shown.contains("step 4 of 13"),
        "{}",
        terminal.shown
    );
    terminal.signal(Signal::KILL);
    terminal.end();
    age(&lost, 24 * 90);
    assert_not_taken_up(&lost);
    let kept = lost.host.path("etc").join("gitlab.old");
    let mut beside = names(&lost.host.path("etc")).into_iter();
    let moved = beside
        .find(|name| name.starts_with("gitlab.2"))
        .expect("kept");
    fs::rename(lost.host.path("etc").join(moved), &kept).expect("renamed");
    // Without its note it is begun anew, also by `latest`.
    fs::remove_file(lost.host.path("state/restore.json")).expect("deleted");
    let ended = lost.host.run(APPLY);
    lost.assert_back(&ended);
    assert!(kept.join("gitlab.rb").exists());
}

#[test]
fn a_call_that_only_repeats_checks_says_so() {
    let mut lost = lost();
    lost.host.set("STUB_FAIL_RAKE", "aborts@1");
    let ended = lost.host.run(APPLY);
    assert_eq!(ended.status, Some(1), "{ended}");
    assert_eq!(ended.json()["checks_only"], false);
    age(&lost, 25);
    assert_not_taken_up(&lost);
    // Named it is finished, however old it is.
    let ended = lost.host.run(&format!("restore {ID} --apply --yes"));
    lost.assert_back(&ended);
    let first = format!("this call restored nothing: an earlier one restored {ID}; only checks");
    assert!(ended.out.starts_with(&first), "{ended}");
    assert!(!ended.out.contains("is restored"), "{ended}");
    assert_eq!(calls(&lost.host)[CALLS.len()..], CALLS[6..7]);
    lost.lose_again();
    let ended = lost.host.run(APPLY);
    assert_eq!(ended.status, Some(1), "{ended}");
    let ended = lost.host.run(APPLY);
    lost.assert_back(&ended);
    assert_eq!(ended.json()["checks_only"], true);
    let before = steps(&ended)
        .into_iter()
        .filter(|(_, status)| status == "done_before");
    assert_eq!(before.count(), 12, "{ended}");
}
