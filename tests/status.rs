//! `status`: the program on machines whose backups are well, late, broken, unknown.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};
use gitlab_pi_backup::archive::ArchiveKind;
use gitlab_pi_backup::history::past::{rehearsals, runs};
use gitlab_pi_backup::status::{Exports, Known, judge};
use serde_json::{Value, json};
use support::backup::RealBackup;
use support::dropbox::{Dropbox, Options};
use support::host::Host;

const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");

fn now() -> u64 {
    u64::try_from(Utc::now().timestamp()).expect("a time")
}

fn put(host: &Host, stamp: u64) {
    let config = host.path("etc/gitlab/config_backup");
    fs::create_dir_all(&config).expect("a folder");
    let backup = RealBackup::new(1).projects(1);
    backup.write_into(&host.path("var/opt/gitlab/backups"), &config, stamp);
}

fn machine() -> (Dropbox, Host) {
    let dropbox = Dropbox::start(Options::default());
    let host = Host::new(PROGRAM, &dropbox);
    (dropbox, host)
}

#[test]
fn a_machine_is_followed_from_its_first_day_to_a_late_one() {
    let (_dropbox, host) = machine();
    let never = host.run("status");
    assert_eq!(never.status, Some(1), "{never}");
    assert!(
        never
            .out
            .starts_with("NOT HEALTHY: no run was ever recorded on this machine"),
        "{never}"
    );
    let nagios = host.run("status --nagios");
    assert_eq!(nagios.status, Some(2), "{nagios}");
    assert!(
        nagios
            .out
            .starts_with("GITLAB BACKUP CRITICAL - no run was ever recorded"),
        "{nagios}"
    );

    let stamp = now() - 7_200;
    put(&host, stamp);
    let run = host.run("run --skip-create --json");
    assert_eq!(run.status, Some(0), "{run}");
    let id = run.json()["backup_id"].as_str().expect("an ID").to_owned();
    let well = host.run("status");
    assert_eq!(well.status, Some(0), "{well}");
    assert!(
        well.out
            .starts_with("healthy: the newest complete backup is 2h old\n"),
        "{well}"
    );
    assert!(
        well.out.contains(&id) && well.out.contains("last rehearsal  none"),
        "{well}"
    );
    let report = host.run("status --json").json();
    assert_eq!(
        (&report["status"], &report["healthy"]),
        (&json!("ok"), &json!(true))
    );
    assert_eq!(report["backup_id"], json!(id));
    assert!(
        report["age_seconds"]
            .as_u64()
            .is_some_and(|age| (7_200..7_300).contains(&age))
    );
    assert_eq!(report["last_run"]["status"], "ok");
    assert_eq!(report["destinations"][0]["backup_id"], json!(id));
    assert_eq!(
        (&report["reasons"], &report["error"]),
        (&json!([]), &Value::Null)
    );
    let nagios = host.run("status --nagios --max-age 4d");
    assert_eq!(nagios.status, Some(0), "{nagios}");
    let expected = format!("GITLAB BACKUP OK - newest complete backup {id}, 2h old | age=72");
    assert!(nagios.out.starts_with(&expected), "{nagios}");
    assert!(
        nagios.out.contains("s;345600;345600;0 size=") && nagios.out.lines().count() == 1,
        "{nagios}"
    );

    let late = host.run("status --max-age 1h");
    assert_eq!(late.status, Some(1), "{late}");
    assert!(
        late.out
            .starts_with("NOT HEALTHY: the newest complete backup is 2h old, more than 1h\n"),
        "{late}"
    );
    assert_eq!(host.run("status --max-age 1h --nagios").status, Some(2));
    assert_eq!(host.run("-q status --max-age 1h").out, "");
}

#[test]
fn what_the_history_cannot_know_the_destinations_tell() {
    let (dropbox, host) = machine();
    let stamp = now() - 7_200;
    put(&host, stamp);
    let run = host.run("run --skip-create --json");
    assert_eq!(run.status, Some(0), "{run}");
    let id = run.json()["backup_id"].as_str().expect("an ID").to_owned();
    assert_eq!(host.run("status --remote").status, Some(0));
    let rehearsed = host.run("rehearse");
    assert_eq!(rehearsed.status, Some(0), "{rehearsed}");
    let told = host.run("status --remote");
    assert!(
        told.out.contains(&format!("{id} at dropbox: restorable")),
        "{told}"
    );
    dropbox.remove(&format!("/Manifests/{id}.json"));
    assert_eq!(host.run("status").status, Some(0));
    let gone = host.run("status --remote");
    assert_eq!(gone.status, Some(1), "{gone}");
    assert!(
        gone.out.contains("no backup is complete") && gone.out.contains("no manifest"),
        "{gone}"
    );
    dropbox.revoke();
    let refused = host.run("status --remote --json");
    assert_eq!(refused.status, Some(1), "{refused}");
    assert!(
        refused.json()["error"]
            .as_str()
            .is_some_and(|why| why.contains("refresh token")),
        "{refused}"
    );
    let refused = host.run("status --remote --nagios");
    assert_eq!(refused.status, Some(3), "{refused}");
    assert!(
        refused.out.starts_with("GITLAB BACKUP UNKNOWN - dropbox"),
        "{refused}"
    );
    // A run that fails is told although the backup before is fresh.
    put(&host, stamp + 60);
    assert_eq!(host.run("run --skip-create").status, Some(1));
    let failed = host.run("status");
    assert_eq!(failed.status, Some(1), "{failed}");
    assert!(
        failed
            .out
            .contains("is not complete: the config archive is not at dropbox"),
        "{failed}"
    );
    assert!(
        failed.out.contains("the last run of ") && failed.out.contains("last error: "),
        "{failed}"
    );
}

#[test]
fn what_cannot_be_looked_at_is_unknown_to_monitoring() {
    let (_dropbox, host) = machine();
    for arguments in ["status --nagios --max-age soon", "status --nagios --bogus"] {
        let usage = host.run(arguments);
        assert_eq!(usage.status, Some(3), "{usage}");
        assert!(
            usage.out.starts_with("GITLAB BACKUP UNKNOWN - error: "),
            "{usage}"
        );
        assert_eq!(usage.out.lines().count(), 1, "{usage}");
    }
    for arguments in ["--json status --nagios", "status --nagios --json"] {
        let both = host.run(arguments);
        assert_eq!(both.status, Some(2), "{both}");
        assert_eq!(both.json()["status"], "failed", "{both}");
    }
    fs::create_dir_all(host.path("state/history.jsonl")).expect("a folder");
    let unreadable = host.run("status --nagios");
    assert_eq!(unreadable.status, Some(3), "{unreadable}");
    assert!(
        unreadable
            .out
            .starts_with("GITLAB BACKUP UNKNOWN - reading the history in "),
        "{unreadable}"
    );
    let unreadable = host.run("status --json");
    assert_eq!(unreadable.status, Some(1), "{unreadable}");
    assert_eq!(unreadable.json()["status"], "failed");
    host.write_config("[destinations.dropbox]\ntype = \"dropbox\"\nbogus | = 1\n");
    let config = host.run("status --nagios");
    assert_eq!(config.status, Some(3), "{config}");
    assert!(
        config
            .out
            .starts_with("GITLAB BACKUP UNKNOWN - the configuration "),
        "{config}"
    );
    assert!(
        config.out.lines().count() == 1 && !config.out.contains('|'),
        "{config}"
    );
    assert_eq!(host.run("status").status, Some(2));
}

/// Entries as a run of this machine would record them, so many days ago.
fn recorded(days: i64) -> String {
    let begin = Utc::now() - TimeDelta::days(days);
    let stamp = begin.timestamp();
    let id = format!("{stamp}_2024_01_01_17.8.2");
    let archive = |kind: &str, name: String| {
        json!({ "kind": kind, "name": name, "size": 1_000, "made_by_this_run": true, "doubts": [],
            "created_at": begin, "uploads": [{ "destination": "dropbox", "path": "/x", "status": "uploaded",
            "bytes_sent": 1_000, "bytes_resumed": 0, "content_hash": "0".repeat(64), "verified": true,
            "seconds": 1.5, "error": null }] })
    };
    let steps: Vec<_> = [
        "preflight",
        "config_command",
        "data_command",
        "upload",
        "manifest",
        "prune",
    ]
    .iter()
    .map(|step| json!({ "step": step, "status": "ok", "seconds": 1.0, "error": null }))
    .collect();
    let run = json!({ "command": "run", "run_id": stamp.to_string(), "status": "ok", "exit": 0,
        "started_at": begin, "finished_at": begin, "backup_id": id, "gitlab_version": "17.8.2", "steps": steps,
        "archives": [archive("config", format!("gitlab_config_{stamp}_2024_01_01.tar")),
            archive("data", format!("{id}_gitlab_backup.tar"))],
        "manifests": [{ "destination": "dropbox", "backup_id": id, "path": "/y", "status": "written", "error": null }],
        "pruned": [], "warnings": [], "error": null });
    format!("{run}\n")
}

#[test]
fn a_history_may_be_long_and_hurt() {
    let (_dropbox, host) = machine();
    fs::create_dir_all(host.path("state")).expect("a folder");
    let write = |bytes: &[u8]| fs::write(host.path("state/history.jsonl"), bytes).expect("written");
    let years: String = (1..=1_100).rev().map(recorded).collect();
    write(years.as_bytes());
    let begin = Instant::now();
    let long = host.run("status");
    let took = begin.elapsed();
    assert_eq!(long.status, Some(0), "{long}");
    assert!(long.out.contains("is 1d old"), "{long}");
    // Much less where the program is optimised.
    assert!(took.as_millis() < 2_000, "{took:?}");
    // Damaged long ago: told, no alarm. At its end: what happened last is not known.
    let good = recorded(1);
    for hurt in [
        "\0\0\0\0\n",
        "{\"command\":\"run\",\"arch\n",
        "not json\n",
        "7\n",
    ] {
        write([hurt.as_bytes(), good.as_bytes()].concat().as_slice());
        let old = host.run("status");
        assert_eq!(old.status, Some(0), "{old}");
        assert!(old.out.contains("has damaged lines (1)"), "{hurt:?} {old}");
        write(
            [good.as_bytes(), hurt.trim_end().as_bytes()]
                .concat()
                .as_slice(),
        );
        let end = host.run("status");
        assert_eq!(end.status, Some(1), "{hurt:?} {end}");
        assert!(
            end.out
                .contains("the last one among them: the next run makes it good"),
            "{end}"
        );
    }
    write(b"\xff\xfe\n");
    assert_eq!(host.run("status").status, Some(1));
    // Of a wrong type, as an older or a later program may have written it.
    let odd = "{\"command\":\"run\",\"archives\":7}\n";
    write([odd.as_bytes(), good.as_bytes()].concat().as_slice());
    let old = host.run("status");
    assert!(
        old.status == Some(0) && old.out.contains("has damaged lines (1)"),
        "{old}"
    );
    write([good.as_bytes(), odd.as_bytes()].concat().as_slice());
    assert_eq!(host.run("status").status, Some(1));
    // Nobody may touch a backup while GitLab is half restored.
    write(good.as_bytes());
    fs::write(host.path("state/restore.json"), "{").expect("written");
    let restoring = host.run("status");
    assert_eq!(restoring.status, Some(1), "{restoring}");
    assert!(restoring.out.contains("restore.json"), "{restoring}");
}

/// Numbers that look random and are the same every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }

    fn one_of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[usize::try_from(self.roll(words.len() as u64)).expect("small")]
    }
}

const BEGIN: u64 = 1_700_000_000;

fn names(number: u64) -> [(&'static str, String); 2] {
    let stamp = BEGIN + number * 200_000;
    [
        ("config", format!("gitlab_config_{stamp}_2023_11_14.tar")),
        (
            "data",
            format!("{stamp}_2023_11_14_17.8.2_gitlab_backup.tar"),
        ),
    ]
}

fn id(number: u64) -> String {
    names(number)[1].1.replace("_gitlab_backup.tar", "")
}

/// A history in which anything may have gone wrong.
fn history(dice: &mut Dice) -> Vec<Value> {
    let mut entries = Vec::new();
    let count = dice.roll(9);
    for number in 0..count {
        let mut archives = Vec::new();
        let mut row = |dice: &mut Dice, of: u64, made: bool| {
            for (kind, name) in names(of) {
                if dice.roll(12) == 0 && !made {
                    continue;
                }
                let upload = |dice: &mut Dice, place: &str| {
                    let status = dice.one_of(&[
                        "uploaded",
                        "uploaded",
                        "already_present",
                        "failed",
                        "conflict",
                    ]);
                    json!({ "destination": place, "status": status,
                        "verified": status != "failed" && dice.roll(20) > 0 })
                };
                let mut uploads = vec![upload(dice, "a")];
                if dice.roll(3) > 0 {
                    uploads.push(upload(dice, "b"));
                }
                let doubts: &[&str] = if dice.roll(15) == 0 { &["odd"] } else { &[] };
                archives.push(
                    json!({ "kind": kind, "name": name, "size": 5, "made_by_this_run": made,
                    "doubts": doubts, "uploads": uploads }),
                );
            }
        };
        if number > 0 && dice.roll(2) == 0 {
            let of = dice.roll(number);
            row(dice, of, false);
        }
        row(dice, number, true);
        let mut manifests = Vec::new();
        for of in [number, dice.roll(number + 1)] {
            for place in ["a", "b"] {
                let status = dice.one_of(&["written", "written", "unchanged", "failed"]);
                if dice.roll(4) > 0 {
                    manifests.push(
                        json!({ "destination": place, "backup_id": id(of), "status": status }),
                    );
                }
            }
        }
        entries.push(
            json!({ "command": "run", "status": dice.one_of(&["ok", "ok", "partial", "failed"]),
            "backup_id": id(number), "archives": archives, "manifests": manifests,
            "steps": [{ "step": "config_command", "status": "ok" }] }),
        );
        if dice.roll(4) == 0 {
            let restorable = [json!(true), json!(false), Value::Null]
                [usize::try_from(dice.roll(3)).expect("small")]
            .clone();
            entries.push(
                json!({ "command": "rehearse", "backup_id": id(dice.roll(number + 1)),
                "destination": dice.one_of(&["a", "b"]), "restorable": restorable,
                "finished_at": "2023-12-01T00:00:00Z" }),
            );
        }
    }
    entries
}

/// Whether a kind of a backup is at a place: read off the entries, one question at a time.
fn is_there(entries: &[Value], number: u64, kind: usize, place: &str) -> bool {
    let name = &names(number)[kind].1;
    let rows = || {
        let archives = entries
            .iter()
            .filter_map(|entry| entry["archives"].as_array())
            .flatten();
        archives.filter(|row| row["name"] == **name)
    };
    let doubtful = rows().any(|row| row["doubts"] != json!([]));
    let uploads = rows().filter_map(|row| row["uploads"].as_array()).flatten();
    let mut uploads =
        uploads.filter(|row| row["destination"] == *place && row["status"] != "failed");
    let last = uploads.next_back();
    let stored = last.is_some_and(|row| row["status"] != "conflict" && row["verified"] == true);
    let mut manifests = entries
        .iter()
        .filter_map(|entry| entry["manifests"].as_array())
        .flatten();
    let manifest = manifests.any(|row| {
        row["destination"] == *place && row["backup_id"] == id(number) && row["status"] != "failed"
    });
    let mut rehearsals = entries.iter().filter(|entry| {
        entry["command"] == "rehearse"
            && entry["backup_id"] == id(number)
            && entry["destination"] == *place
    });
    let last = rehearsals.rfind(|entry| !entry["restorable"].is_null());
    let failed = last.is_some_and(|entry| entry["restorable"] == false);
    stored && manifest && !doubtful && !failed
}

#[test]
fn any_history_is_judged_as_a_slow_reader_would() {
    let mut dice = Dice(4_711);
    let settings = [
        vec![("a".to_owned(), ArchiveKind::ALL.to_vec())],
        vec![
            ("a".to_owned(), ArchiveKind::ALL.to_vec()),
            ("b".to_owned(), ArchiveKind::ALL.to_vec()),
        ],
        vec![
            ("a".to_owned(), vec![ArchiveKind::Config]),
            ("b".to_owned(), vec![ArchiveKind::Data]),
        ],
        vec![("b".to_owned(), vec![ArchiveKind::Data])],
    ];
    let mut verdicts = BTreeMap::new();
    for round in 0..3_000_usize {
        let entries = history(&mut dice);
        let destinations = &settings[round % settings.len()];
        let (runs, rehearsals) = (runs(&entries), rehearsals(&entries));
        let known = Known {
            runs: &runs,
            rehearsals: &rehearsals,
            destinations,
            schedule: None,
            max_age: Some(std::time::Duration::from_hours(24 * 365 * 50)),
            exports: Exports::default(),
        };
        let now = DateTime::from_timestamp(1_800_000_000, 0).expect("a time");
        let health = judge(&known, now);
        let gets = |kind: usize| {
            let places = destinations.iter();
            places
                .filter(move |(_, kinds)| kinds.contains(&ArchiveKind::ALL[kind]))
                .map(|(name, _)| name)
        };
        let wanted: Vec<_> = (0..2).filter(|kind| gets(*kind).count() > 0).collect();
        let complete = |number: &u64| {
            wanted
                .iter()
                .all(|kind| gets(*kind).any(|place| is_there(&entries, *number, *kind, place)))
        };
        let count = runs.len() as u64;
        let newest = (0..count).rev().find(complete);
        assert_eq!(health.backup_id, newest.map(id), "{entries:#?}");
        for (place, (name, kinds)) in health.destinations.iter().zip(destinations) {
            let all = |number: &u64| {
                let mut kinds = kinds
                    .iter()
                    .map(|kind| usize::from(*kind == ArchiveKind::Data));
                kinds.all(|kind| is_there(&entries, *number, kind, name))
            };
            assert_eq!(
                place.backup_id,
                (0..count).rev().find(all).map(id),
                "{name} {entries:#?}"
            );
        }
        let failed = runs.last().is_some_and(|run| run.status == "failed");
        let well = count > 0 && newest == Some(count - 1) && !failed;
        assert_eq!(health.healthy, well, "{:?} {entries:#?}", health.reasons);
        *verdicts
            .entry((health.healthy, newest.is_some()))
            .or_insert(0) += 1;
    }
    // Of every sort enough.
    assert!(
        verdicts.len() == 3 && verdicts.values().all(|count| *count > 150),
        "{verdicts:?}"
    );
}

/// An export of projects, so many hours ago, as it is recorded.
fn export(hours_ago: i64, status: &str, failed: u64, error: Option<&str>) -> Value {
    let at = Utc::now() - TimeDelta::hours(hours_ago);
    let failure = json!({ "path": "team/app", "error": "GitLab took too long | really\n  wait" });
    let failures = if failed > 0 {
        vec![failure]
    } else {
        Vec::new()
    };
    json!({ "command": "export projects", "run_id": "e", "status": status, "started_at": at, "finished_at": at,
        "destination": "dropbox", "bytes": 7, "counts": { "exported": 40, "failed": failed },
        "failures": failures, "error": error })
}

#[test]
fn exports_of_projects_are_judged_beside_the_backups() {
    let (dropbox, host) = machine();
    put(&host, now() - 7_200);
    assert_eq!(host.run("run --skip-create").status, Some(0));
    let well = host.run("status --json");
    assert_eq!(
        (well.status, &well.json()["projects"]),
        (Some(0), &Value::Null),
        "{well}"
    );
    let projects = "[projects]\ndestination = \"dropbox\"\nall = true\n";
    host.write_config(&(host.config(&dropbox) + projects));
    let history = host.path("state/history.jsonl");
    let before = fs::read_to_string(&history).expect("the history");
    let write = |entries: &[Value]| {
        let lines: Vec<_> = entries.iter().map(|entry| format!("{entry}\n")).collect();
        fs::write(&history, before.clone() + &lines.concat()).expect("written");
    };
    let never = host.run("status");
    assert_eq!(never.status, Some(1), "{never}");
    let expected = "no project export was ever recorded on this machine; \
                    nothing would start one: gitlab-pi-backup schedule install";
    assert!(never.out.contains(expected), "{never}");
    // Only the history knows of them.
    let remote = host.run("status --remote");
    assert!(
        remote.status == Some(0) && remote.out.contains("note: no project export was ever"),
        "{remote}"
    );

    write(&[export(3, "ok", 0, None)]);
    let good = host.run("status");
    assert_eq!(good.status, Some(0), "{good}");
    assert!(good.out.contains(", ok: 40 exported\n"), "{good}");
    let report = host.run("status --json").json();
    let told = &report["projects"];
    assert_eq!(
        (&told["status"], &told["exported"], &told["failed"]),
        (&json!("ok"), &json!(40), &json!(0))
    );
    assert_eq!(told["last_run"]["run_id"], "e");
    assert_eq!(told["next_run"], Value::Null);
    let age = told["age_seconds"].as_u64().expect("an age");
    assert!((10_800..10_900).contains(&age), "{told}");
    let nagios = host.run("status --nagios");
    assert_eq!(nagios.status, Some(0), "{nagios}");
    assert!(
        nagios.out.contains("; projects exported 3h ago | age=")
            && nagios.out.contains(" projects_age=108")
            && nagios.out.ends_with(" projects_failed=0;;0;0\n"),
        "{nagios}"
    );
    assert_eq!(host.run("status --max-age 2h").status, Some(1));

    write(&[export(30, "ok", 0, None), export(3, "partial", 2, None)]);
    let partial = host.run("status --nagios");
    assert_eq!(partial.status, Some(2), "{partial}");
    assert!(
        partial
            .out
            .starts_with("GITLAB BACKUP CRITICAL - in the last project export of ")
            && partial
                .out
                .contains("2 of 42 projects failed: team/app: GitLab took too long / really |"),
        "{partial}"
    );
    write(&[
        export(30, "ok", 0, None),
        export(
            3,
            "failed",
            0,
            Some("the token is refused\n  make a new one"),
        ),
    ]);
    let failed = host.run("status");
    assert!(
        failed.status == Some(1) && failed.out.contains(" failed: the token is refused\n"),
        "{failed}"
    );
    write(&[export(24 * 6, "ok", 0, None)]);
    let old = host.run("status");
    assert!(
        old.status == Some(1)
            && old
                .out
                .contains("the last good project export is 6d old, more than 5d"),
        "{old}"
    );
    // What cannot be understood of them is damage.
    write(&[json!({ "command": "export projects", "counts": 7 })]);
    let odd = host.run("status");
    assert!(
        odd.status == Some(1)
            && odd
                .out
                .contains("has damaged lines (1), the last one among them"),
        "{odd}"
    );
}
