//! The report page: the command that writes it, what it says of all kinds of histories, and how it looks in a browser.

#[path = "support/browser.rs"]
mod browser;
#[path = "support/past.rs"]
mod past;
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use browser::{Browser, View, without_policy};
use chrono::{FixedOffset, TimeDelta, Utc};
use gitlab_pi_backup::archive::ArchiveKind;
use gitlab_pi_backup::history::past::{exports, rehearsals, runs};
use gitlab_pi_backup::page::{Facts, html};
use gitlab_pi_backup::status::{Exports, Health, Known, judge};
use past::{backup_id, now, rehearsal, year};
use serde_json::{Value, json};
use support::dropbox::{Dropbox, Options};
use support::host::Host;

const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");

/// What an attacker, a damaged disk or a wrong clock could leave.
const HOSTILE: &str = "</style></title><script src=\"//evil.example/x.js\">alert(1)</script><img src=x onerror='alert(2)'>\u{202e}&amp;";

/// The page of a history.
fn page(entries: &[Value], change: impl Fn(&mut Health)) -> String {
    timed(entries, change).0
}

/// The same, and how long it took to make it of what had been read.
fn timed(entries: &[Value], change: impl Fn(&mut Health)) -> (String, Duration) {
    let destinations =
        ["dropbox", "office"].map(|name| (name.to_owned(), ArchiveKind::ALL.to_vec()));
    let past = exports(entries);
    let known = Known {
        runs: &runs(entries),
        rehearsals: &rehearsals(entries),
        destinations: &destinations,
        schedule: None,
        max_age: Some(Duration::from_hours(96)),
        exports: Exports {
            is_configured: !past.is_empty(),
            past: &past,
            schedule: None,
        },
    };
    let mut health = judge(&known, now());
    change(&mut health);
    let facts = Facts {
        known: &known,
        health: &health,
        history: Ok(0),
        schedule_error: None,
    };
    let start = Instant::now();
    let page = html(&facts, &now());
    (page, start.elapsed())
}

/// An export of projects so many hours ago, of which some failed.
fn export(hours_ago: i64, failed: usize, text: &str) -> Value {
    let at = now() - TimeDelta::hours(hours_ago);
    let failures: Vec<_> = (0..failed.min(20))
        .map(|_| json!({ "path": text, "error": format!("{text}\n  do this") }))
        .collect();
    let status = if failed == 0 { "ok" } else { "partial" };
    json!({ "command": "export projects", "run_id": text, "status": status,
        "exit": if failed == 0 { 0 } else { 3 }, "started_at": at,
        "finished_at": at + TimeDelta::minutes(65), "destination": text, "bytes": 3_u64 << 30,
        "counts": { "exported": 38, "already_done": 1, "failed": failed, "skipped": 2 },
        "failures": failures, "warnings": [text], "error": (failed > 900).then_some(text) })
}

/// As it is after a good run.
fn safe(health: &mut Health) {
    let made = now() - TimeDelta::minutes(187);
    health.healthy = true;
    health.backup_id = Some(format!("{}_2026_11_18_17.8.2", made.timestamp()));
    health.created_at = Some(made);
    health.age_seconds = Some(187 * 60);
    health.max_age_seconds = 5 * 86_400;
    health.next_run = Some(now() + TimeDelta::hours(70));
    health.reasons = Vec::new();
}

/// A history in which nothing is as it should be: texts that are code, times and numbers that cannot be.
fn hostile() -> Vec<Value> {
    let mut entries = year(40, now());
    for entry in &mut entries[10..] {
        entry["error"] = json!(format!("{HOSTILE}{}", "long ".repeat(2_000)));
        entry["backup_id"] = json!(HOSTILE);
        entry["status"] = json!("failed");
    }
    for (n, time) in [
        "1970-01-01T00:00:00Z",
        "9999-12-31T23:59:59Z",
        "0001-01-01T00:00:00Z",
        "+262142-12-31T23:59:59Z",
    ]
    .iter()
    .enumerate()
    {
        entries[n]["started_at"] = json!(time);
        entries[n]["finished_at"] = json!(time);
        entries.push(rehearsal(
            &format!("{HOSTILE}{n}"),
            HOSTILE,
            now(),
            Some(n == 1),
        ));
    }
    for (n, number) in [json!(-1e300), json!(1e300), json!(0)].iter().enumerate() {
        entries[20 + n]["steps"][1]["seconds"] = number.clone();
        entries[20 + n]["archives"][1]["size"] = json!(u64::MAX);
        entries[20 + n]["space"][0]["used"] = json!(u64::MAX);
        entries[20 + n]["space"][0]["total"] = json!(n);
    }
    entries.push(export(1, 2_000, &HOSTILE.repeat(30)));
    entries.push(json!({ "command": "export projects", "started_at": "9999-12-31T23:59:59Z" }));
    entries.push(
        json!({ "command": "export projects", "started_at": now(), "status": HOSTILE,
        "finished_at": "0001-01-01T00:00:00Z", "bytes": u64::MAX,
        "counts": { "failed": u64::MAX, "exported": u64::MAX } }),
    );
    entries.push(json!({ "command": "run" }));
    entries
        .push(json!({ "command": "run", "started_at": "2026-11-18T04:00:00Z", "status": HOSTILE }));
    entries
}

/// What a validator would say first: tags that are not closed, names that are not there or twice, headings that
/// jump, tables and drawings that cannot be read aloud.
fn complaints(html: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let (mut open, mut ids, mut references): (Vec<&str>, BTreeSet<&str>, Vec<&str>) =
        Default::default();
    let mut level = 0;
    let (head, rest) = html.split_once("<style>").expect("a style");
    let body = rest.split_once("</style>").expect("its end").1;
    for tag in head.split('<').chain(body.split('<').skip(1)).skip(1) {
        let (tag, _) = tag.split_once('>').expect("the end of a tag");
        let name = tag
            .trim_end_matches('/')
            .split_ascii_whitespace()
            .next()
            .expect("a name");
        let value = |key: &str| {
            let (_, rest) = tag.split_once(&format!(" {key}=\""))?;
            rest.split('"').next()
        };
        if let Some(name) = name.strip_prefix('/') {
            if open.pop() != Some(name) {
                complaints.push(format!("</{name}> closes nothing"));
            }
            continue;
        }
        if !tag.ends_with('/') && !matches!(name, "!doctype" | "meta") {
            open.push(name);
        }
        if value("id").is_some_and(|id| !ids.insert(id)) {
            complaints.push(format!("twice: {tag}"));
        }
        references.extend(
            value("aria-labelledby")
                .into_iter()
                .flat_map(str::split_ascii_whitespace),
        );
        references.extend(value("href").map(|href| href.trim_start_matches('#')));
        if let Some(heading) = name.strip_prefix('h').and_then(|n| n.parse::<u8>().ok()) {
            if heading > level + 1 {
                complaints.push(format!("<{tag}> after a heading of level {level}"));
            }
            level = heading;
        }
        let is_named = value("aria-labelledby").or(value("aria-label")).is_some();
        if matches!(name, "section") && !is_named || name == "th" && value("scope").is_none() {
            complaints.push(format!("<{tag}> lacks a name or a scope"));
        }
        if name == "svg"
            && value("aria-hidden").is_none()
            && !(is_named && value("role") == Some("img"))
        {
            complaints.push(format!("<{tag}> cannot be read aloud"));
        }
    }
    complaints.extend(open.iter().map(|name| format!("<{name}> is not closed")));
    complaints.extend(
        references
            .iter()
            .filter(|id| !ids.contains(*id))
            .map(|id| format!("there is no #{id}")),
    );
    complaints
}

#[test]
fn a_page_of_any_history_is_whole_and_names_no_address() {
    let all = [
        ("nothing", Vec::new()),
        ("one", year(1, now())),
        ("two", year(2, now())),
        ("a year", year(104, now())),
        ("hostile", hostile()),
    ];
    for (name, entries) in all {
        for page in [
            page(&entries, safe),
            page(&entries, |health| {
                health.healthy = false;
                health.created_at = None;
                health.reasons = vec![HOSTILE.to_owned(); 50];
            }),
        ] {
            assert_eq!(complaints(&page), [""; 0], "{name}");
            for forbidden in [
                "<script", "http://", "https://", "src=", "url(", "@import", "\u{202e}", "<img",
                "NaN", "inf",
            ] {
                assert!(
                    !page
                        .replace("onerror", "")
                        .replace("src=&", "")
                        .replace("src=x", "")
                        .contains(forbidden),
                    "{name}: {forbidden}"
                );
            }
            for must in [
                "<html lang=\"en\">",
                "default-src 'none'; style-src 'unsafe-inline'",
                "width=device-width, initial-scale=1",
                "<main>",
                "prefers-color-scheme: dark",
            ] {
                assert!(page.contains(must), "{name}: {must}");
            }
            // The only tags with an address lead into the page itself.
            let mut links = page.split("href=\"").skip(1);
            assert!(links.all(|link| link.starts_with('#')), "{name}");
        }
    }
    // The checker does find what it looks for.
    for broken in [
        "<p><b></p>",
        "<p id=\"a\"></p><p id=\"a\"></p>",
        "<h3></h3>",
        "<th></th>",
        "<svg></svg>",
        "<use href=\"#x\"/>",
    ] {
        assert!(
            !complaints(&format!("<style></style>{broken}")).is_empty(),
            "{broken}"
        );
    }
}

#[test]
fn the_first_thing_it_says_is_whether_the_backups_are_safe() {
    let at = |page: &str, text: &str| {
        page.find(text)
            .unwrap_or_else(|| panic!("{text} is not in {page}"))
    };
    let good = page(&year(104, now()), safe);
    let order = [
        "<h1 id=\"verdict\">Safe",
        "is 3h 7m old.",
        "id=\"places\"",
        "id=\"calendar\"",
        "id=\"sizes\"",
        "id=\"durations\"",
        "id=\"rehearsals\"",
        "id=\"runs\"",
    ];
    let places: Vec<_> = order.iter().map(|text| at(&good, text)).collect();
    assert!(places.is_sorted(), "{places:?}");
    for told in [
        "<title>Safe · GitLab backups</title>",
        "Sat 21 Nov 2026, 05:12</time><span>in 2d 22h",
        // Three hours before the page was made, five days later.
        "<dt>This holds until</dt><dd><time datetime=\"2026-11-23T04:05:00Z\">Mon 23 Nov 2026, 04:05</time>",
        "99 ok",
        "2 failed",
        "2 in part",
        "1 stopped",
        "<title>Wed 8 Jul 2026, failed: dropbox: refreshing the access token: the refresh token was revoked or belongs to another app</title>",
        "GiB a month",
        "not in sight",
        "never, as far as this machine knows",
        "stopped by SIGTERM; what was uploaded is kept for the next run",
    ] {
        at(&good, told);
    }
    assert_eq!(
        good.matches("<th scope=\"row\"><time").count(),
        10,
        "ten runs"
    );
    let bad = page(&year(3, now()), |health| {
        safe(health);
        health.healthy = false;
        health.reasons = vec!["it is too old\n  look: gitlab-pi-backup doctor".to_owned()];
    });
    at(&bad, "<h1 id=\"verdict\">Not safe");
    at(
        &bad,
        "<li>it is too old<span>look: gitlab-pi-backup doctor</span></li>",
    );
    assert!(!bad.contains("This holds until"));
    // Two runs are no trend, and a row that claims to be in the future is none of the past.
    let two = page(&year(2, now()), safe);
    assert_eq!(two.matches("<dd>not known yet</dd>").count(), 4);
    let none = page(&[], |health| health.healthy = false);
    at(&none, "<h1 id=\"verdict\">No complete backup");
    at(&none, "no run in the last year");
    assert!(!none.contains("id=\"sizes\""), "there is nothing to draw");
}

#[test]
fn what_is_complete_at_a_destination_is_told_by_its_manifests() {
    let newest = |entries: &[Value]| {
        let page = page(entries, safe);
        let cells = page.split("<dt>Newest complete</dt><dd>").skip(1);
        let cells: Vec<_> = cells
            .map(|cell| cell.split('<').next().unwrap_or_default().to_owned())
            .collect();
        (cells[0].clone(), cells[1].clone())
    };
    let mut entries = year(6, now());
    entries.retain(|entry| entry["command"] == "run");
    let told = |dropbox: &str, office: &str| (dropbox.to_owned(), office.to_owned());
    assert_eq!(newest(&entries), told("3h 10m ago", "3h 10m ago"));
    // The last but one was stopped, at both.
    let last = entries.last_mut().expect("a run");
    last["manifests"][1]["status"] = json!("failed");
    assert_eq!(newest(&entries), told("3h 10m ago", "4d 3h ago"));
    let id = entries.last().expect("a run")["backup_id"].clone();
    let id = id.as_str().expect("an ID").to_owned();
    let mut rehearsed = entries.clone();
    rehearsed.push(rehearsal("dropbox", &id, now(), Some(false)));
    assert_eq!(newest(&rehearsed), told("4d 3h ago", "4d 3h ago"));
    rehearsed.push(rehearsal("dropbox", &id, now(), None));
    assert_eq!(
        newest(&rehearsed),
        told("4d 3h ago", "4d 3h ago"),
        "that says nothing new"
    );
    rehearsed.push(rehearsal("dropbox", &id, now(), Some(true)));
    assert_eq!(newest(&rehearsed), told("3h 10m ago", "4d 3h ago"));
    entries.last_mut().expect("a run")["archives"][1]["doubts"] = json!(["no database"]);
    assert_eq!(newest(&entries), told("4d 3h ago", "4d 3h ago"));
    assert!(id.starts_with(&backup_id(now() - TimeDelta::minutes(190))));
}

#[test]
fn exports_of_projects_have_a_section_where_there_are_any() {
    let mut entries = year(4, now());
    let without = page(&entries, |_| {});
    assert!(!without.contains("Project exports"), "{without}");
    entries.push(export(100, 0, "group/app"));
    entries.push(export(3, 30, "group/<b>app"));
    let html = page(&entries, |_| {});
    assert_eq!(complaints(&html), [""; 0]);
    for part in [
        "<h2 id=\"exports\">Project exports</h2>",
        "The last one began 3h ago: in part, 71 projects: 38 exported, 1 already done, 30 failed, 2 skipped.",
        "<li>group/&lt;b&gt;app<span>group/&lt;b&gt;app</span></li>",
        "<li>and 10 more</li>",
        "<td class=\"number\">1h 5m</td><td class=\"number\">3.0 GiB</td>",
        "30 of 71 projects failed",
        "<dt>Next project export</dt><dd>none is scheduled</dd>",
    ] {
        assert!(html.contains(part), "{part} is not in {html}");
    }
    let (_, section) = html.split_once("id=\"exports\"").expect("the section");
    let (section, _) = section.split_once("</section>").expect("its end");
    assert_eq!(section.matches("<th scope=\"row\">").count(), 2);
}

/// Nothing else may be backed up by a machine whose token lets it export projects.
#[test]
fn a_machine_that_only_exports_is_judged_by_that() {
    let entries = [export(100, 0, "a")];
    let past = exports(&entries);
    for (max_age, word, lead) in [
        (120, "Safe", "The last good project export is 4d 4h old."),
        (24, "Not safe", "The last good project export is 4d 4h old."),
    ] {
        let known = Known {
            runs: &[],
            rehearsals: &[],
            destinations: &[("s3".to_owned(), Vec::new())],
            schedule: None,
            max_age: Some(Duration::from_hours(max_age)),
            exports: Exports {
                is_configured: true,
                past: &past,
                schedule: None,
            },
        };
        let facts = Facts {
            health: &judge(&known, now()),
            known: &known,
            history: Ok(0),
            schedule_error: None,
        };
        let html = html(&facts, &now());
        assert!(
            html.contains(&format!("<h1 id=\"verdict\">{word}</h1>")),
            "{html}"
        );
        assert!(html.contains(lead), "{html}");
        assert!(html.contains("id=\"exports\""), "{html}");
        // Nothing is told of what is not done here.
        for of_runs in [
            "Next run<",
            "A year of runs",
            "No run has been recorded yet",
            "Last rehearsals",
            "Newest complete",
        ] {
            assert!(!html.contains(of_runs), "{of_runs}: {html}");
        }
        assert_eq!(complaints(&html), [""; 0]);
    }
}

#[test]
fn days_are_those_of_the_people_who_read_it() {
    let entries = year(1, "2026-11-18T02:00:00Z".parse().expect("a time"));
    let known = Known {
        runs: &runs(&entries),
        rehearsals: &[],
        destinations: &[],
        schedule: None,
        max_age: None,
        exports: Exports::default(),
    };
    let facts = Facts {
        health: &judge(&known, now()),
        known: &known,
        history: Ok(3),
        schedule_error: Some("no systemd".to_owned()),
    };
    for (hours, day) in [
        (0, "Tue 17 Nov 2026, ok"),
        (1, "Tue 17 Nov 2026, ok"),
        (2, "Wed 18 Nov 2026, ok"),
    ] {
        let zone = FixedOffset::east_opt(hours * 3_600).expect("a zone");
        let page = html(&facts, &now().with_timezone(&zone));
        assert!(page.contains(day), "{hours}: {day}");
        assert!(
            page.contains("3 lines of the history cannot be read"),
            "{page}"
        );
        assert!(
            page.contains("<dd>not known<span>no systemd</span>"),
            "{page}"
        );
    }
}

#[test]
fn it_stays_small_and_quick_however_long_the_history() {
    let mut entries = year(1_000, now());
    for entry in &mut entries {
        let error = entry["error"]
            .as_str()
            .map_or(String::new(), |error| error.repeat(40));
        entry["error"] = json!(format!("{error}{}", "<&>".repeat(400)));
    }
    let mut crowded = entries.clone();
    for (n, entry) in crowded.iter_mut().enumerate() {
        let at = now() - TimeDelta::seconds(i64::try_from(n).expect("small"));
        entry["started_at"] = json!(at.to_rfc3339());
    }
    for entries in [entries, crowded] {
        let (page, took) = timed(&entries, safe);
        assert!(page.len() < 300_000, "{} bytes", page.len());
        // 20 ms as tests are built, on two shared cores; optimised less. Other tests run beside this one.
        assert!(took < Duration::from_millis(500), "{took:?}");
    }
}

#[test]
fn the_command_writes_it_without_asking_anybody() {
    let dropbox = Dropbox::start(Options::default());
    let host = Host::new(PROGRAM, &dropbox);
    let target = host.path("page.html");
    let write =
        |arguments: &str| host.run(&format!("report --html {} {arguments}", target.display()));
    fs::remove_dir(host.path("state")).expect("removed");
    let ended = write("");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert!(
        ended.out.contains("page.html: the report page, "),
        "{ended}"
    );
    assert!(!host.path("state").exists(), "it only looks");
    assert_eq!(
        fs::metadata(&target).expect("there").permissions().mode() & 0o777,
        0o644
    );
    let html = fs::read_to_string(&target).expect("a page");
    assert!(html.contains("This machine remembers no run."), "{html}");
    assert_eq!(complaints(&html), [""; 0]);
    assert_eq!(dropbox.requests().len(), 0);

    let report = write("--json").json();
    let size = fs::metadata(&target).expect("there").len();
    assert_eq!(
        report,
        json!({ "command": "report", "status": "ok", "path": target, "size": size, "error": null })
    );
    assert_eq!(write("-q").out, "");
    let ended = host.run("report --html -");
    assert!(
        ended.status == Some(0)
            && ended.out.starts_with("<!doctype html>")
            && ended.out.ends_with("</html>\n"),
        "{ended}"
    );

    let ended = host.run("report --html - --json");
    assert_eq!(
        (ended.status, ended.json()["status"].as_str()),
        (Some(2), Some("failed")),
        "{ended}"
    );
    assert!(
        ended
            .err
            .contains("standard output takes only one of both\n  name a file"),
        "{ended}"
    );
    assert_eq!(host.run("report").status, Some(2));
    for (file, told) in [
        (
            "none/page.html",
            "its folder does not exist\n  make it first: mkdir -p",
        ),
        ("state", "it is a folder\n  name a file in it"),
    ] {
        fs::create_dir_all(host.path("state")).expect("a folder");
        let ended = host.run(&format!(
            "report --json --html {}",
            host.path(file).display()
        ));
        assert_eq!(ended.status, Some(1), "{ended}");
        assert!(ended.err.contains(told), "{ended}");
        assert!(
            ended.json()["error"]
                .as_str()
                .is_some_and(|error| error.starts_with("writing the report page"))
        );
    }
}

#[test]
fn a_history_that_is_damaged_or_cannot_be_read_is_told() {
    let dropbox = Dropbox::start(Options::default());
    let host = Host::new(PROGRAM, &dropbox);
    let history = host.path("state/history.jsonl");
    let lines = |entries: &[Value]| {
        entries
            .iter()
            .map(|entry| entry.to_string() + "\n")
            .collect::<String>()
    };
    let mut bytes = lines(&year(104, Utc::now())).into_bytes();
    bytes.extend(b"\xff\xfe\0\n{\"command\":\"run\",\"run_");
    fs::write(&history, bytes).expect("the history");
    let held = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(host.path("state/lock"));
    let held = held.expect("the lock");
    held.try_lock().expect("nobody holds it");
    let ended = host.run("report --html -");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert!(
        ended.out.contains("2 lines of the history cannot be read"),
        "{ended}"
    );
    assert!(ended.out.contains("99 ok"), "{ended}");
    assert_eq!(complaints(&ended.out), [""; 0]);

    // A folder in its place: root, too, cannot read that.
    fs::remove_file(&history).expect("removed");
    fs::create_dir(&history).expect("a folder");
    let ended = host.run("report --html -");
    assert_eq!(ended.status, Some(0), "{ended}");
    for told in [
        "<h1 id=\"verdict\">Not known",
        "reading the history in ",
        "What earlier runs did cannot be read.",
    ] {
        assert!(ended.out.contains(told), "{told}: {ended}");
    }
}

#[test]
fn each_run_and_rehearsal_writes_it_where_it_is_wanted() {
    let dropbox = Dropbox::start(Options::default());
    let host = Host::new(PROGRAM, &dropbox);
    let folder = host.path("www");
    let target = folder.join("backup.html");
    let config = format!(
        "{}[report]\nfile = \"{}\"\n",
        host.config(&dropbox),
        target.display()
    );
    host.write_config(&config);
    host.put_config_archive("gitlab_config_1702820194_2023_12_17.tar");
    host.put_data_archive("1702820198_2023_12_17_16.5.1_gitlab_backup.tar", 6 << 20);
    let ended = host.run("run --skip-create --json");
    assert_eq!(
        ended.status,
        Some(0),
        "that it cannot be written changes nothing: {ended}"
    );
    assert!(
        ended.err.contains("writing the report page") && ended.err.contains("mkdir -p"),
        "{ended}"
    );
    let space = &ended.json()["space"][0];
    assert_eq!(space["destination"], "dropbox");
    let (free, used, total) = (
        space["free"].as_u64(),
        space["used"].as_u64(),
        space["total"].as_u64(),
    );
    assert_eq!(
        free.zip(used).map(|(free, used)| free + used),
        total.filter(|total| *total > 0),
        "{space}"
    );

    fs::create_dir(&folder).expect("a folder");
    assert_eq!(host.run("run --dry-run").status, Some(0));
    assert!(!target.exists(), "a dry run writes nothing");
    assert_eq!(host.run("run --skip-create").status, Some(0));
    let page = || fs::read_to_string(&target).expect("a page");
    let first = page();
    assert!(
        first.contains("2 ok") && first.contains("1702820198_2023_12_17_16.5.1"),
        "{first}"
    );
    assert!(first.contains("of ") && first.contains("% used"), "{first}");
    assert!(
        first.contains("never, as far as this machine knows"),
        "{first}"
    );
    // It is no real archive, so that it cannot be restorable.
    assert_eq!(host.run("rehearse").status, Some(1));
    assert!(page().contains("not restorable"));
    dropbox.revoke();
    assert_eq!(host.run("run --skip-create").status, Some(1));
    assert!(
        page().contains("1 failed") && page().contains("refreshing the access token: "),
        "{}",
        page()
    );
}

#[test]
fn in_a_browser_it_can_be_read_on_every_screen() {
    let Some(browser) = Browser::find() else {
        return;
    };
    let script = include_str!("support/look.js");
    let mut exported = year(104, now());
    exported.push(export(30, 0, "group/app"));
    exported.push(export(3, 1_000, &"group-with-a-long-name/".repeat(11)));
    let exports_page = page(&exported, |_| {});
    let year = page(&year(104, now()), safe);
    let unsafe_page = page(&hostile(), |health| {
        safe(health);
        health.healthy = false;
        health.reasons = vec![
            format!("{HOSTILE}{}", "unbroken".repeat(60)),
            "short".to_owned(),
        ];
    });
    for (html, width, dark) in [
        (&year, 360, false),
        (&year, 360, true),
        (&year, 1_280, false),
        (&year, 1_280, true),
        (&unsafe_page, 360, true),
        (&unsafe_page, 1_280, false),
        (&page(&[], |_| {}), 360, false),
        (&exports_page, 360, false),
        (&exports_page, 1_280, true),
    ] {
        let view = View {
            width,
            height: 740,
            dark,
        };
        let told = browser.ask(html, view, script);
        assert_eq!(
            (&told["dark"], &told["width"]),
            (&json!(dark), &json!(width)),
            "{view:?}"
        );
        assert!(
            told["scroll"]
                .as_u64()
                .is_some_and(|scroll| scroll <= u64::from(width)),
            "{view:?} {told}"
        );
        for fault in ["beyond", "pale", "small", "overlapping"] {
            assert_eq!(told[fault], json!([]), "{view:?} {fault}");
        }
        assert!(
            told["texts"].as_u64().is_some_and(|texts| texts > 20),
            "{told}"
        );
        for (name, ratio) in told["signs"].as_object().expect("signs") {
            assert!(
                ratio.as_f64().is_some_and(|ratio| ratio >= 4.5),
                "{view:?} {name} {ratio}"
            );
        }
        let names = told["names"].as_array().expect("drawings");
        assert!(
            names.len() >= 2 && names.iter().all(|name| name != ""),
            "{names:?}"
        );
    }
    // The ruler does find what is wrong.
    let broken = year.replace("<h1", "<h1 style=\"width:2000px;color:#bbb;font-size:8px\"");
    let told = browser.ask(
        &broken,
        View {
            width: 360,
            height: 740,
            dark: false,
        },
        script,
    );
    for fault in ["beyond", "pale", "small"] {
        assert_ne!(told[fault], json!([]), "{fault}");
    }
}

#[test]
fn in_a_browser_it_is_light_by_day_dark_by_night_and_asks_for_nothing() {
    let Some(browser) = Browser::find() else {
        return;
    };
    let html = page(&year(104, now()), safe);
    for (width, height) in [(360, 740), (1_280, 900)] {
        let (day, asked_by_day) = browser.picture(
            &html,
            View {
                width,
                height,
                dark: false,
            },
        );
        let (night, asked_by_night) = browser.picture(
            &html,
            View {
                width,
                height,
                dark: true,
            },
        );
        assert_eq!((day.width, day.height, night.width), (width, height, width));
        assert!(day.brightness() > 200.0, "{}", day.brightness());
        assert!(night.brightness() < 60.0, "{}", night.brightness());
        // The sign of the verdict.
        assert!(day.count([0x1a, 0x73, 0x48]) > 500 && night.count([0x4f, 0xc7, 0x8d]) > 500);
        assert_eq!((asked_by_day, asked_by_night), (Vec::new(), Vec::new()));
    }
    // Even if an address got into it, nothing would be asked for; and if it were, this test would see it.
    let leaking = html.replace(
        "<main>",
        "<main><img src=\"http://leak.example/x.png\" alt=\"\">",
    );
    let view = View {
        width: 360,
        height: 740,
        dark: false,
    };
    assert_eq!(browser.picture(&leaking, view).1, [""; 0]);
    assert_eq!(
        browser.picture(&without_policy(&leaking), view).1,
        ["http://leak.example/x.png"]
    );
}
