//! The README against the program: options, fields of `--json`, exit statuses, rights. What it says in words is for
//! people to check; what it lists is checked here.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, Ordering};

use clap::CommandFactory as _;
use gitlab_pi_backup::cli::Cli;
use gitlab_pi_backup::destination::dropbox::SCOPES;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::backup::RealBackup;
use support::dropbox::{Dropbox, Fault, Moment, Options, What};
use support::gitlab_api::{GitLabApi, Outcome};
use support::host::{Ended, Host};
use support::log_in;

const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");
const README: &str = include_str!("../README.md");
const STAMP: u64 = 1_702_758_583;
const DAY: u64 = 86_400;

/// The cells of the rows of the table whose head begins like this.
fn table(head: &str) -> Vec<Vec<String>> {
    let lines = README.lines().map(str::trim);
    let rows = lines.skip_while(|line| !line.starts_with(head)).skip(2);
    let rows: Vec<Vec<String>> = rows
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let line = line.replace("\\|", "¦");
            let cells = line.split('|').skip(1);
            cells.map(|cell| cell.trim().to_owned()).collect()
        })
        .collect();
    assert!(
        !rows.is_empty(),
        "there is no table that begins with {head}"
    );
    rows
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Whether a cell like `` `run`, `list` `` or `all` names a command.
fn names(cell: &str, command: &str) -> bool {
    cell == "all"
        || quoted(cell)
            .flat_map(str::split_ascii_whitespace)
            .any(|word| word == command)
}

fn commands() -> Vec<clap::Command> {
    let mut cli = Cli::command();
    cli.build();
    let own = cli.get_subcommands();
    own.filter(|command| command.get_name() != "help")
        .cloned()
        .collect()
}

#[test]
fn every_command_and_option_is_told_and_no_other() {
    let (told, options) = (table("| command |"), table("| option |"));
    let commands = commands();
    assert_eq!(told.len(), commands.len());
    let mut known = BTreeSet::new();
    for command in &commands {
        let name = command.get_name();
        assert!(
            told.iter().any(|row| names(&row[0], name)),
            "{name} is not told"
        );
        let values = command.get_positionals().filter(|it| !it.is_hide_set());
        let values = values.map(|argument| {
            let value = argument.get_value_names().expect("a built command")[0].as_str();
            if argument.is_required_set() {
                value.to_owned()
            } else {
                format!("[{value}]")
            }
        });
        let values: Vec<_> = values.collect();
        if !values.is_empty() {
            let usage = format!("`{name} {}`", values.join(" "));
            assert!(told.iter().any(|row| row[0] == usage), "{usage}");
        }
        let below = command
            .get_subcommands()
            .filter(|below| !below.is_hide_set());
        let below = below.filter(|below| below.get_name() != "help");
        let all = std::iter::once(command).chain(below);
        let arguments = all.flat_map(clap::Command::get_arguments);
        for argument in arguments.filter(|argument| !argument.is_hide_set()) {
            let Some(long) = argument.get_long() else {
                continue;
            };
            let long = format!("--{long}");
            let row = options.iter().find(|row| {
                let mut spellings = quoted(&row[0]).filter_map(|text| text.split(' ').next());
                spellings.any(|spelling| spelling == long) && names(&row[1], name)
            });
            assert!(row.is_some(), "{long} of {name} is not told");
            known.insert(long);
        }
    }
    for row in &options {
        for spelling in quoted(&row[0]).filter_map(|text| text.split(' ').next()) {
            assert!(
                known.contains(spelling) || !spelling.starts_with("--"),
                "there is no {spelling}"
            );
        }
    }
    let values: BTreeSet<_> = options.iter().flat_map(|row| quoted(&row[0])).collect();
    assert!(values.contains("--log-format text¦json"), "{values:?}");
}

#[test]
fn every_right_is_told() {
    let told = table("| right |");
    let told: BTreeSet<_> = told.iter().flat_map(|row| quoted(&row[0])).collect();
    assert_eq!(told, SCOPES.into());
}

/// A machine with two backups stored, and what retention needs to delete one.
fn machine() -> (Dropbox, Host) {
    let dropbox = Dropbox::start(Options::default());
    let host = Host::new(PROGRAM, &dropbox);
    let config = host.config(&dropbox);
    let metrics = host.path("backup.prom");
    host.write_config(&format!(
        "{config}[retention]\nkeep_last = 1\nlocal = 1\n\
         [hooks]\nbefore = [\"true\"]\nafter = [\"true\"]\n\
         [notify]\nmetrics_file = \"{}\"\n",
        metrics.display()
    ));
    (dropbox, host)
}

fn put(host: &Host, seed: u64, projects: u64, stamp: u64) {
    let config = host.path("etc/gitlab/config_backup");
    fs::create_dir_all(&config).expect("a folder");
    let backup = RealBackup::new(seed).projects(projects);
    backup.write_into(&host.path("var/opt/gitlab/backups"), &config, stamp);
}

/// A log-in through pipes.
fn logged_in() -> Ended {
    let dropbox = Dropbox::start(Options::default());
    let host = log_in::configured(&dropbox, "");
    log_in::with_code(&dropbox, &host, "login --code - --json")
}

/// What can be extracted, and a project.
fn extracted(host: &Host) -> Vec<Ended> {
    let to = host.path("extracted").display().to_string();
    let project = format!("extract demo/website --to {to} --json");
    vec![host.run("extract --list --json"), host.run(&project)]
}

/// A machine that exports the projects of a group.
fn exporting() -> (GitLabApi, Host) {
    let gitlab = GitLabApi::start();
    gitlab.project("team/app");
    let host = Host::without_config(PROGRAM);
    let disk = host.path("disk");
    fs::create_dir(&disk).expect("a folder");
    host.write_config(&host.config_with(&format!(
        "url = \"{}\"\ntoken = \"{}\"\n\
         [projects]\ndestination = \"disk\"\ngroups = [\"team\"]\n\
         [upload]\nretry_for = \"1s\"\n\
         [destinations.disk]\ntype = \"fs\"\nroot = \"{}\"\nrequire_mount = false\n",
        gitlab.url(),
        gitlab.token(),
        disk.display()
    )));
    (gitlab, host)
}

/// What would be exported, what is, and what was; and what fails.
fn exported() -> Vec<Ended> {
    let (gitlab, host) = exporting();
    let mut ended = vec![host.run("export projects --dry-run --json")];
    ended.push(host.run("export projects --json"));
    gitlab.project_with("team/broken", |project| project.outcome = Outcome::Fails);
    ended.push(host.run("export projects --json"));
    ended
}

/// Every field with the texts it has that are words of the program, not of people.
fn fields(value: &Value, found: &mut BTreeSet<(String, String)>) {
    match value {
        Value::Array(list) => list.iter().for_each(|value| fields(value, found)),
        Value::Object(object) => {
            for (name, value) in object {
                let is_word = matches!(
                    name.as_str(),
                    "step" | "status" | "action" | "kind" | "check"
                );
                let word = value.as_str().filter(|_| is_word).unwrap_or_default();
                found.insert((name.clone(), word.to_owned()));
                // Its fields are the names of variables.
                if name != "environment" {
                    fields(value, found);
                }
            }
        }
        _ => {}
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of all commands")]
fn every_field_of_json_is_told_and_no_other() {
    let (dropbox, host) = machine();
    put(&host, 1, 4, STAMP);
    let first = host.run("run --skip-create --json");
    put(&host, 1, 1, STAMP + DAY);
    // One repository where there were seven: it has shrunk, and nothing is pruned.
    let second = host.run("run --skip-create --json");
    assert_eq!((first.status, second.status), (Some(0), Some(3)));
    dropbox.put_file("/Data/notes.txt", b"x");
    let restored = host.path("restored").display().to_string();
    let page = host.path("page.html").display().to_string();
    let mut documents: Vec<(&str, Vec<Ended>)> = vec![
        ("run", vec![first, second, host.run("run --dry-run --json")]),
        ("list", vec![host.run("list --json")]),
        ("verify", vec![host.run("verify --json")]),
        (
            "rehearse",
            vec![
                host.run("rehearse --json"),
                host.run("rehearse --local --json"),
            ],
        ),
        (
            "restore",
            vec![
                host.run("restore --plan --json"),
                host.run(&format!("restore --to {restored} --json")),
                host.run(&format!("restore --to {restored} --json")),
            ],
        ),
        ("prune", vec![host.run("prune --accept-shrink --json")]),
        ("status", vec![host.run("status --json")]),
        (
            "schedule",
            vec![
                host.run("schedule show --systemd --json"),
                host.run("schedule show --cron --json"),
            ],
        ),
        (
            "doctor",
            vec![
                host.run("doctor --json"),
                host.run("doctor --offline --json"),
            ],
        ),
        ("completions", vec![host.run("completions bash --json")]),
        (
            "man",
            vec![
                host.run("man --json"),
                host.run(&format!("man {} --json", host.path("man").display())),
            ],
        ),
        (
            "report",
            vec![host.run(&format!("report --html {page} --json"))],
        ),
        ("notify", vec![host.run("notify test --json")]),
        ("extract", extracted(&host)),
        ("export projects", exported()),
        // A token that stands in the configuration: nothing is asked, but it is revoked, last of all.
        (
            "login",
            vec![logged_in(), host.run("login --revoke --json")],
        ),
    ];
    // What is told of every document.
    let (_, common) = README.split_once("## JSON").expect("the part");
    let common: BTreeSet<_> = quoted(common.split('|').next().unwrap_or_default()).collect();
    for (command, documents) in &mut documents {
        let mut found = BTreeSet::new();
        for ended in documents.iter() {
            let document = ended.json();
            assert_eq!(document["command"], *command, "{ended}");
            fields(&document, &mut found);
        }
        let rows = table(&format!("| field of `{command}` |"));
        let text: Vec<_> = rows
            .iter()
            .flatten()
            .flat_map(|cell| quoted(cell))
            .collect();
        let told: BTreeSet<&str> = text
            .iter()
            .flat_map(|text| text.split(['.', '[', ']']))
            .filter(|word| !word.is_empty())
            .collect();
        for (name, word) in &found {
            assert!(
                told.contains(name.as_str()) || common.contains(name.as_str()),
                "{command}: the field {name} is not told"
            );
            assert!(
                word.is_empty() || told.contains(word.as_str()) || common.contains(word.as_str()),
                "{command}: {name} = {word} is not told"
            );
        }
        // What the first column names is a field.
        let fields: BTreeSet<_> = found.iter().map(|(name, _)| name.as_str()).collect();
        for name in rows.iter().flat_map(|row| quoted(&row[0])) {
            for name in name.split(['.', '[', ']']).filter(|name| !name.is_empty()) {
                assert!(fields.contains(name), "{command}: there is no field {name}");
            }
        }
    }
}

/// Whether the table tells of this exit status of this command.
fn is_told(status: i32, command: &str) -> bool {
    let mut current = String::new();
    table("| exit status |").iter().any(|row| {
        if !row[0].is_empty() {
            current.clone_from(&row[0]);
        }
        let mut statuses = current.split(", ").map(str::parse);
        statuses.any(|told| told == Ok(status)) && names(&row[1], command)
    })
}

#[test]
fn every_exit_status_is_told() {
    let commands = commands();
    let names: Vec<_> = commands.iter().map(clap::Command::get_name).collect();
    let (dropbox, host) = machine();
    put(&host, 1, 1, STAMP);
    let mut seen = BTreeSet::new();
    let mut look = |host: &Host, arguments: &str| {
        let ended = host.run(arguments);
        let status = ended.status.expect("it ends by itself");
        let command = arguments.split(' ').next().expect("a command").to_owned();
        assert!(is_told(status, &command), "{command} is not told: {ended}");
        seen.insert((command, status));
    };
    let restored = host.path("restored").display().to_string();
    let page = host.path("page.html").display().to_string();
    let with_what_it_needs = |command: &str| match command {
        "run" => "run --skip-create".to_owned(),
        "restore" => format!("restore --to {restored}"),
        "completions" => "completions zsh".to_owned(),
        "extract" => "extract --list".to_owned(),
        "report" => format!("report --html {page}"),
        "schedule" => "schedule show --systemd".to_owned(),
        "notify" => "notify test".to_owned(),
        // The archives are old.
        "status" => "status --max-age 10000d".to_owned(),
        other => other.to_owned(),
    };
    // Three exports: all is well, one fails, all that is new fails; then GitLab is gone.
    let (gitlab, exporting) = exporting();
    look(&exporting, "export projects");
    gitlab.project_with("team/broken", |project| project.outcome = Outcome::Fails);
    look(&exporting, "export projects");
    look(&exporting, "export projects --bogus");
    let held = fs::File::create(exporting.path("state/lock")).expect("the lock");
    held.try_lock().expect("nobody holds it");
    look(&exporting, "export projects");
    drop(held);
    gitlab.shut_down();
    look(&exporting, "export projects");
    // What tries `login` is in a file of its own.
    let own = ["login", "export"];
    let names: Vec<_> = names
        .into_iter()
        .filter(|name| !own.contains(name))
        .collect();
    for status in [0, 1, 2, 129, 130, 143] {
        assert!(is_told(status, "login"), "{status}");
    }
    let all: Vec<_> = names.iter().map(|name| with_what_it_needs(name)).collect();
    for arguments in &all {
        look(&host, arguments);
        look(&host, &format!("{arguments} --bogus"));
    }
    look(&host, "report --html /nowhere/page.html");
    let held = fs::OpenOptions::new()
        .write(true)
        .open(host.path("state/lock"))
        .expect("the lock");
    held.try_lock().expect("nobody holds it");
    for arguments in &all {
        look(&host, arguments);
    }
    drop(held);
    dropbox.revoke();
    for arguments in &all {
        look(&host, arguments);
    }
    for command in names.into_iter().chain(["export"]) {
        let statuses: Vec<_> = seen
            .iter()
            .filter(|(name, _)| name == command)
            .map(|(_, status)| *status)
            .collect();
        let expected: &[i32] = match command {
            "run" | "restore" | "sync" => &[0, 1, 2, 4],
            "prune" => &[0, 2, 3, 4],
            "export" => &[0, 1, 2, 3, 4],
            // They need neither network nor, but for `notify`, a configuration.
            "completions" | "man" | "schedule" | "notify" => &[0, 2],
            _ => &[0, 1, 2],
        };
        // Only root can read root's crontab.
        if command != "doctor" || rustix::process::geteuid().is_root() {
            assert_eq!(statuses, expected, "{command}");
        }
        for status in [129, 130, 143] {
            assert!(is_told(status, command), "{command} {status}");
        }
    }
    assert!(is_told(3, "run") && is_told(3, "list"));
    assert!(!is_told(1, "notify") && is_told(3, "notify"));
    assert!(!is_told(4, "list") && !is_told(3, "rehearse"));
}

/// Also a command that only looks: its exit status is the signal's.
#[test]
fn a_listing_that_is_stopped_says_so() {
    let (dropbox, host) = machine();
    let target = Arc::new(AtomicI32::new(0));
    let started = Arc::new(Mutex::new(()));
    let (victim, wait) = (target.clone(), started.clone());
    let held = started.lock().expect("not poisoned");
    let stop = move || {
        drop(wait.lock());
        let pid = Pid::from_raw(victim.load(Ordering::SeqCst)).expect("a process");
        kill_process(pid, Signal::TERM).expect("there");
    };
    let fault = |what| Fault::on("files/list_folder", what);
    dropbox.fault(fault(What::Call(Moment::Head, Arc::new(stop))));
    let stall = What::Stall(support::dropbox::StallAt::Reply, None);
    dropbox.fault(fault(stall).forever());
    let child = host.spawn("list --json");
    let id = i32::try_from(child.id()).expect("a process");
    target.store(id, Ordering::SeqCst);
    drop(held);
    let ended = Ended::from(child.wait_with_output().expect("ended"));
    assert_eq!(ended.status, Some(143), "{ended}");
    let document = ended.json();
    assert_eq!(document["status"], "failed");
    assert_eq!(document["error"], "stopped by SIGTERM");
}
