//! `export projects` as a user meets it: which projects are selected, what a dry run tells, what the environment alone
//! is enough for, and what is said when something is wrong. The stand-in is GitLab's API.

mod support;

use std::fs;
use std::path::Path;

use serde_json::Value;
use support::gitlab_api::{Access, Fault, GitLabApi, Kind, Mode, Reply, What};
use support::host::{Ended, Host};
use support::s3::{KEY_ID, S3, SECRET};
use support::{dropbox, s3};

const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");

/// A machine that exports to a folder of its own; `projects` are the keys that select.
fn machine(gitlab: &GitLabApi, projects: &str) -> Host {
    let host = Host::without_config(PROGRAM);
    fs::create_dir_all(host.path("disk")).expect("a folder");
    let disk = format!(
        "[destinations.disk]\ntype = \"fs\"\nroot = \"{}\"\nrequire_mount = false\n",
        host.path("disk").display()
    );
    configure(
        &host,
        gitlab,
        &format!("destination = \"disk\"\n{projects}"),
        &disk,
    );
    host
}

fn configure(host: &Host, gitlab: &GitLabApi, projects: &str, more: &str) {
    let (url, token) = (gitlab.url(), gitlab.token());
    host.write_config(&host.config_with(&format!(
        "url = \"{url}\"\ntoken = \"{token}\"\n\
         [projects]\nexport_limit = \"0\"\ndownload_limit = \"0\"\n{projects}\n\
         [upload]\nretry_for = \"3s\"\n{more}"
    )));
}

/// The names of everything below a folder.
fn tree(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            let name = path.strip_prefix(folder).expect("below it");
            found.push(name.display().to_string());
            if path.is_dir() {
                open.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The paths of the rows with this status.
fn paths(ended: &Ended, status: &str) -> Vec<String> {
    let json = ended.json();
    let rows = json["projects"].as_array().expect("projects").iter();
    let rows = rows.filter(|row| row["status"] == status);
    rows.map(|row| row["path"].as_str().expect("a path").to_owned())
        .collect()
}

fn row(ended: &Ended, path: &str) -> Value {
    let json = ended.json();
    let mut rows = json["projects"].as_array().expect("projects").iter();
    let row = rows.find(|row| row["path"] == path);
    row.unwrap_or_else(|| panic!("{path} is not in {ended}"))
        .clone()
}

/// The first error, as `--json` tells it.
fn error(ended: &Ended) -> String {
    ended.json()["error"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// Groups four deep, a shared project, an archived one, one of somebody else, one of the user's own.
fn world() -> GitLabApi {
    let gitlab = GitLabApi::start();
    gitlab.project("team/app");
    gitlab.project("team/sub/web");
    gitlab.project("team/sub/deep/deeper/db");
    gitlab.project_with("team/old", |project| project.archived = true);
    gitlab.project("other/tool");
    gitlab.share("other/tool", "team", Access::Maintainer);
    gitlab.project("third/alone");
    gitlab.project("backup/mine");
    gitlab
}

#[test]
fn projects_are_selected_as_the_configuration_says() {
    let gitlab = world();
    let (team, app) = (
        gitlab.group("team"),
        gitlab.look("team/app").expect("it").id,
    );
    let all_of_team = "other/tool team/app team/old team/sub/deep/deeper/db team/sub/web";
    for (projects, expected) in [
        (format!("groups = [{team}]"), all_of_team),
        ("groups = [\"team\"]".to_owned(), all_of_team),
        // Twice the same: each project once.
        (format!("groups = [\"team\", \"team/sub\", {team}]\nprojects = [{app}]"), all_of_team),
        ("groups = [\"team/sub\"]".to_owned(), "team/sub/deep/deeper/db team/sub/web"),
        ("groups = [\"team\"]\narchived = false\nshared = false".to_owned(),
            "team/app team/sub/deep/deeper/db team/sub/web"),
        ("groups = [\"team\"]\ninclude = [\"team/**\"]\nexclude = [\"team/sub/deep/**\"]".to_owned(),
            "team/app team/old team/sub/web"),
        ("groups = [\"third\"]\nprojects = [\"team/old\"]\narchived = false\nexclude = [\"team/*\"]".to_owned(),
            "team/old third/alone"),
        ("all = true\narchived = false".to_owned(),
            "backup/mine other/tool team/app team/sub/deep/deeper/db team/sub/web third/alone"),
        ("projects = [\"backup/mine\", \"third/alone\"]".to_owned(), "backup/mine third/alone"),
    ] {
        let host = machine(&gitlab, &projects);
        let ended = host.run("export projects --dry-run --json");
        assert_eq!(ended.status, Some(0), "{projects}: {ended}");
        assert_eq!(paths(&ended, "would_export").join(" "), expected, "{projects}");
        assert_eq!(ended.json()["status"], "dry_run");
        let first = &ended.json()["projects"][0];
        let (path, key) = (first["path"].as_str(), first["key"].as_str());
        let (path, key) = (path.expect("a path"), key.expect("a key"));
        assert!(key.starts_with(&format!("/{path}/20")) && key.ends_with(".tar.gz"), "{key}");
        // A dry run writes nothing, anywhere, and asks for nothing.
        assert_eq!(tree(&host.path("state")), [""; 0]);
        assert_eq!(tree(&host.path("disk")), [""; 0]);
    }
    assert_eq!(gitlab.count(Kind::Export), 0);
    assert!(gitlab.requests().iter().all(|seen| seen.method == "GET"));
}

#[test]
fn lists_are_read_to_their_last_page_through_faults() {
    let gitlab = GitLabApi::start();
    for number in 0..230 {
        gitlab.project(&format!("team/g{}/p{number:03}", number % 7));
    }
    for (projects, kind) in [
        ("groups = [\"team\"]", Kind::GroupProjects),
        ("all = true", Kind::Projects),
    ] {
        gitlab.fault(Fault::on(kind, What::server_error(502)).skip(1));
        gitlab.fault(Fault::on(kind, What::too_many_requests(Some(1))).skip(2));
        let host = machine(&gitlab, projects);
        let ended = host.run("export projects --dry-run --json");
        assert_eq!(ended.status, Some(0), "{ended}");
        assert_eq!(paths(&ended, "would_export").len(), 230, "{projects}");
        let text = host.run("export projects --dry-run");
        assert_eq!(text.out.lines().count(), 231, "{text}");
        assert!(
            text.out.contains("team/g0/p000 -> /team/g0/p000/20"),
            "{text}"
        );
        assert!(
            text.out
                .ends_with("dry run: 230 would be exported to disk; nothing was changed\n"),
            "{text}"
        );
    }
}

#[test]
fn a_group_that_refuses_hides_no_other() {
    for refusal in [
        What::Reply(Reply::message(403, "403 Forbidden")),
        What::server_error(500),
    ] {
        let gitlab = world();
        gitlab.fault(Fault::on(Kind::GroupProjects, refusal).of("team").forever());
        let host = machine(&gitlab, "groups = [\"team\", \"third\"]");
        let ended = host.run("export projects --json");
        assert_eq!(ended.status, Some(3), "{ended}");
        assert_eq!(paths(&ended, "exported"), ["third/alone"], "{ended}");
    }
}

#[test]
fn what_cannot_be_found_is_told_and_the_rest_is_exported() {
    let gitlab = world();
    gitlab.group("empty");
    let unknown = "is its number or its path with the groups above it right";
    for (projects, status, part, exported) in [
        ("groups = [\"nowhere\"]", 1, unknown, ""),
        ("groups = [4242, \"third\"]", 3, unknown, "third/alone"),
        (
            "groups = [\"backup\", \"third\"]",
            3,
            "backup is a person, and no group",
            "third/alone",
        ),
        ("projects = [\"third/gone\"]", 1, "third/gone: ", ""),
        (
            "projects = [\"third/gone\", \"third/alone\"]",
            3,
            "third/gone: ",
            "third/alone",
        ),
        ("groups = [\"empty\"]", 1, "no project is selected", ""),
        ("groups = [\"empty\", \"third\"]", 0, "", "third/alone"),
        (
            "groups = [\"third\"]\ninclude = [\"nothing/*\"]",
            1,
            "no project is selected",
            "",
        ),
    ] {
        let host = machine(&gitlab, projects);
        let ended = host.run("export projects --json");
        assert_eq!(ended.status, Some(status), "{projects}: {ended}");
        assert!(error(&ended).contains(part), "{projects}: {ended}");
        assert_eq!(
            paths(&ended, "exported").join(" "),
            exported,
            "{projects}: {ended}"
        );
        let expected = match status {
            0 => "ok",
            3 => "partial",
            _ => "failed",
        };
        assert_eq!(ended.json()["status"], expected, "{ended}");
    }
    let host = machine(&gitlab, "groups = [\"empty\", \"third\"]");
    let ended = host.run("export projects");
    assert!(
        ended
            .out
            .contains("warning: the group empty has no projects"),
        "{ended}"
    );
    assert!(ended.out.lines().count() <= 15, "{ended}");
}

#[test]
fn a_project_that_was_asked_for_and_is_gone_has_no_number() {
    let gitlab = world();
    let host = machine(&gitlab, "projects = [\"third/gone\"]");
    let ended = host.run("export projects --dry-run --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    let row = row(&ended, "third/gone");
    assert!(row["id"].is_null() && row["key"].is_null(), "{row}");
    let error = row["error"].as_str().unwrap_or_default();
    assert!(
        error.contains("\n  ") && error.contains("`projects.projects`"),
        "{row}"
    );
}

#[test]
fn who_may_not_is_told_so() {
    let gitlab = world();
    let guest = gitlab.token_of("visitor", &["api"]);
    gitlab.member("third", "visitor", Access::Reporter);
    let poor = gitlab.token_of("poor", &["read_api"]);
    let gone = gitlab.token_of("gone", &["api"]);
    gitlab.expire(&gone);
    for (token, status, rows, parts) in [
        (
            guest.as_str(),
            1,
            "third/alone",
            &["third/alone", "Maintainer"][..],
        ),
        (&poor, 1, "", &["scope", "`api`"]),
        (&gone, 1, "", &["expired"]),
        ("glpat-nobody-knows-it", 1, "", &["401"]),
    ] {
        let host = machine(&gitlab, "groups = [\"third\"]");
        let config = fs::read_to_string(host.path("config.toml")).expect("the configuration");
        host.write_config(&config.replace(gitlab.token(), token));
        let ended = host.run("export projects --json");
        assert_eq!(ended.status, Some(status), "{parts:?}: {ended}");
        for part in parts {
            assert!(error(&ended).contains(part), "{part}: {ended}");
        }
        assert_eq!(paths(&ended, "skipped").join(" "), rows, "{ended}");
        assert!(
            !ended.out.contains(token) && !ended.err.contains(token),
            "{ended}"
        );
    }
    // Nothing of the kind is known before anything is asked.
    let host = machine(&gitlab, "groups = [\"third\"]");
    let config = fs::read_to_string(host.path("config.toml")).expect("the configuration");
    host.write_config(&config.replace("token = ", "# token = "));
    let ended = host.run("export projects");
    assert_eq!(ended.status, Some(2), "{ended}");
    assert!(ended.err.contains("`gitlab.token` is missing"), "{ended}");
}

#[test]
fn a_gitlab_that_is_not_there_is_told_once() {
    let gitlab = world();
    let host = machine(
        &gitlab,
        "groups = [\"team\", \"third\"]\nprojects = [\"team/app\"]",
    );
    for (mode, part) in [(Mode::Maintenance, "503"), (Mode::Proxy, "HTML")] {
        gitlab.mode(mode);
        for arguments in ["export projects --json", "export projects --dry-run --json"] {
            let ended = host.run(arguments);
            assert_eq!(ended.status, Some(1), "{ended}");
            assert!(error(&ended).contains(part), "{ended}");
            assert_eq!(ended.json()["projects"], serde_json::json!([]));
        }
        gitlab.mode(Mode::Normal);
    }
    gitlab.shut_down();
    let ended = host.run("export projects --json");
    assert_eq!(ended.status, Some(1), "{ended}");
}

#[test]
fn a_path_that_has_no_place_is_a_failure_of_its_own() {
    let gitlab = GitLabApi::start();
    gitlab.project("team/app");
    // GitLab has no two such projects; whoever answers in its place may.
    gitlab.project("team/other");
    gitlab.change("team/other", |project| {
        project.full_path = "TEAM/App".to_owned();
    });
    gitlab.project("team/../etc");
    gitlab.project("team/a\u{1b}[31mb");
    let long = format!("team/{}", "p".repeat(255));
    gitlab.project(&long);
    let host = machine(&gitlab, "all = true\nname = \"{path}-{time}.tar.gz\"");
    let ended = host.run("export projects --dry-run --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(
        paths(&ended, "would_export"),
        ["TEAM/App", "team/app"],
        "{ended}"
    );
    assert_eq!(
        paths(&ended, "failed"),
        ["team/../etc", "team/a\\u{1b}[31mb", &long],
        "{ended}"
    );
    let text = host.run("export projects --dry-run");
    assert!(!text.out.contains('\u{1b}'), "{text}");
    // Dropbox ignores case.
    let account = dropbox::Dropbox::start(dropbox::Options::default());
    let usual = host.config(&account);
    let (_, place) = usual.split_once("[destinations").expect("a table");
    let place = place.split("[upload]").next().expect("the table");
    let place = format!("[destinations{place}");
    configure(
        &host,
        &gitlab,
        "destination = \"dropbox\"\ngroups = [\"team\"]",
        &place,
    );
    let ended = host.run("export projects --dry-run --json");
    assert_eq!(
        paths(&ended, "would_export"),
        ["TEAM/App", long.as_str()],
        "{ended}"
    );
    let refused = row(&ended, "team/app");
    let told = refused["error"].as_str().unwrap_or_default();
    assert!(
        told.contains("TEAM/App") && told.contains("{id}"),
        "{refused}"
    );
    let by_id = "destination = \"dropbox\"\nname = \"{id}/{time}.tar.gz\"\ngroups = [\"team\"]";
    configure(&host, &gitlab, by_id, &place);
    let ended = host.run("export projects --dry-run --json");
    assert_eq!(paths(&ended, "would_export").len(), 3, "{ended}");
}

#[test]
fn what_is_exported_is_there_and_not_exported_again_today() {
    let gitlab = world();
    let host = machine(&gitlab, "groups = [\"team/sub\"]");
    let ended = host.run("export projects");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert!(ended.out.starts_with("ok: 2 exported ("), "{ended}");
    assert_eq!(ended.out.lines().count(), 1, "{ended}");
    let stored = tree(&host.path("disk"));
    let archives = stored.iter().filter(|name| name.ends_with(".tar.gz"));
    assert_eq!(archives.count(), 2, "{stored:?}");
    let ended = host.run("export projects --dry-run --json");
    assert_eq!(paths(&ended, "already_done").len(), 2, "{ended}");
    let ended = host.run("export projects --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(paths(&ended, "already_done").len(), 2, "{ended}");
    assert_eq!(gitlab.count(Kind::Export), 2);
    assert_eq!(host.run("export projects -q").out, "");
}

#[test]
fn another_run_that_is_at_work_keeps_it_from_starting_but_no_dry_run() {
    let gitlab = world();
    let host = machine(&gitlab, "groups = [\"third\"]");
    let lock = fs::File::create(host.path("state/lock")).expect("the lock");
    lock.try_lock().expect("nobody holds it");
    let ended = host.run("export projects --json");
    assert_eq!(ended.status, Some(4), "{ended}");
    assert_eq!(ended.json()["command"], "export projects");
    assert_eq!(host.run("export projects --dry-run").status, Some(0));
    assert_eq!(gitlab.count(Kind::Export), 0);
}

/// A machine whose environment is that of gitlab-backup-management, and that has no configuration.
fn by_environment(gitlab: &GitLabApi, store: &S3) -> Host {
    let mut host = Host::without_config(PROGRAM);
    let state = host.path("state");
    host.set("GITLAB_TOKEN", gitlab.token())
        .set("GITLAB_URL", gitlab.url())
        .set("GROUPS_TO_BACKUP", " team/sub , third,")
        .set("AWS_S3_BUCKET", "exports")
        .set("AWS_ACCESS_KEY_ID", KEY_ID)
        .set("AWS_SECRET_ACCESS_KEY", SECRET)
        .set("AWS_ENDPOINT_URL", store.url())
        .set("GITLAB_PI_BACKUP_UPLOAD__RETRY_FOR", "5s")
        .set("GITLAB_PI_BACKUP_STATE_DIR", state);
    host
}

/// Without a configuration, unless this very machine has one.
fn run_without_file(host: &Host, arguments: &str) -> Option<Ended> {
    if Path::new("/etc/gitlab-pi-backup/config.toml").exists() {
        return None;
    }
    let mut command = host.command(arguments);
    command.env_remove("GITLAB_PI_BACKUP_CONFIG");
    Some(Ended::from(command.output().expect("the program runs")))
}

#[test]
fn the_environment_of_the_older_program_is_enough() {
    let (gitlab, store) = (world(), S3::start(s3::Options::default()));
    let host = by_environment(&gitlab, &store);
    let Some(ended) = run_without_file(&host, "export projects --json") else {
        return;
    };
    assert_eq!(ended.status, Some(0), "{ended}");
    let exported = ["team/sub/deep/deeper/db", "team/sub/web", "third/alone"];
    assert_eq!(paths(&ended, "exported"), exported, "{ended}");
    assert_eq!(ended.json()["destination"], "s3");
    let objects = store.objects("exports");
    assert_eq!(objects.len(), 3, "{:?}", objects.keys());
    for path in exported {
        let row = row(&ended, path);
        assert_eq!(row["direct"], true, "{row}");
        let key = row["key"].as_str().expect("a key").trim_start_matches('/');
        assert_eq!(objects[key].bytes, gitlab.archive(path), "{key}");
        assert_eq!(objects[key].content_type, "application/gzip");
    }
    // No byte of an export passed through this machine, and no secret is told or kept.
    assert_eq!(gitlab.count(Kind::Download), 0);
    let ended = run_without_file(&host, "export projects --dry-run -vv").expect("as before");
    for name in tree(&host.path("state")) {
        let bytes = fs::read(host.path("state").join(&name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        for secret in [gitlab.token(), SECRET, "X-Amz-Signature"] {
            assert!(!text.contains(secret), "{name}");
            assert!(
                !ended.err.contains(secret) && !ended.out.contains(secret),
                "{ended}"
            );
        }
    }
}

#[test]
fn what_the_environment_lacks_is_named_all_together() {
    let (gitlab, store) = (world(), S3::start(s3::Options::default()));
    let mut host = by_environment(&gitlab, &store);
    for name in ["GITLAB_TOKEN", "AWS_S3_BUCKET", "AWS_SECRET_ACCESS_KEY"] {
        host.set(name, "");
    }
    let Some(ended) = run_without_file(&host, "export projects") else {
        return;
    };
    assert_eq!(ended.status, Some(2), "{ended}");
    let lacks = "the environment lacks GITLAB_TOKEN, AWS_S3_BUCKET, AWS_SECRET_ACCESS_KEY\n";
    assert!(ended.err.contains(lacks), "{ended}");
    assert!(!ended.err.contains(KEY_ID), "{ended}");
    // Amazon's keys lie around on many machines: without the rest they mean nothing.
    host.set("GROUPS_TO_BACKUP", "");
    let ended = run_without_file(&host, "export projects").expect("as before");
    assert_eq!(ended.status, Some(2), "{ended}");
    assert!(
        ended.err.contains("reading the configuration /etc/"),
        "{ended}"
    );
    // A wrong value is told by the name of its variable.
    let mut host = by_environment(&gitlab, &store);
    host.set("GROUPS_TO_BACKUP", "42,https://gitlab.com/team");
    let ended = run_without_file(&host, "export projects").expect("as before");
    assert_eq!(ended.status, Some(2), "{ended}");
    let told = "the environment has a fault:\n  environment variable GROUPS_TO_BACKUP: `https://gitlab.com/team` is neither";
    assert!(ended.err.contains(told), "{ended}");
}

/// A schedule hands no environment on, and what judges a machine reads its file: each says what to write.
#[test]
fn what_needs_a_file_says_what_to_write_into_it() {
    let (gitlab, store) = (world(), S3::start(s3::Options::default()));
    let mut host = by_environment(&gitlab, &store);
    let lines = [
        "the environment alone is enough for `export projects` and `restore --project` only; write a file",
        "[projects]\n",
        "groups = [\"…\"]                   # GROUPS_TO_BACKUP\n",
        "kinds = []                       # exports only\n",
    ];
    for (command, status) in [("schedule show", 2), ("status", 2), ("doctor --offline", 1)] {
        let Some(ended) = run_without_file(&host, command) else {
            return;
        };
        assert_eq!(ended.status, Some(status), "{command}: {ended}");
        let told = format!("{}{}", ended.out, ended.err);
        for line in lines {
            assert!(told.contains(line), "{command}: {line}: {ended}");
        }
        assert!(!told.contains("gitlab-pi-backup login"), "{ended}");
        assert!(!told.contains(gitlab.token()) && !told.contains(SECRET));
    }
    host.set("AWS_S3_BUCKET", "");
    let ended = run_without_file(&host, "status").expect("as before");
    assert!(ended.err.contains("gitlab-pi-backup login"), "{ended}");
}

#[test]
fn the_environment_of_the_older_program_changes_nothing_else() {
    let (gitlab, store) = (world(), S3::start(s3::Options::default()));
    let host = by_environment(&gitlab, &store);
    if let Some(ended) = run_without_file(&host, "run --dry-run") {
        assert_eq!(ended.status, Some(2), "{ended}");
        assert!(
            ended.err.contains("reading the configuration /etc/"),
            "{ended}"
        );
    }
    // With a file that names its own destination the variables of Amazon say nothing; a key beats a variable.
    let disk = format!(
        "[destinations.disk]\ntype = \"fs\"\nroot = \"{}\"\nrequire_mount = false\n",
        host.path("disk").display()
    );
    fs::create_dir_all(host.path("disk")).expect("a folder");
    for (projects, expected) in [
        ("groups = [\"third\"]", "third/alone"),
        ("", "team/sub/deep/deeper/db team/sub/web third/alone"),
    ] {
        let projects = format!("destination = \"disk\"\n{projects}");
        configure(&host, &gitlab, &projects, &disk);
        let ended = host.run("export projects --dry-run --json");
        assert_eq!(ended.status, Some(0), "{ended}");
        assert_eq!(paths(&ended, "would_export").join(" "), expected, "{ended}");
        assert_eq!(ended.json()["destination"], "disk");
    }
    // And with a file that exports nothing, nothing is exported.
    host.write_config(&host.config_with(&disk));
    let ended = host.run("export projects");
    assert_eq!(ended.status, Some(2), "{ended}");
    assert!(
        ended.err.contains("the configuration has no [projects]"),
        "{ended}"
    );
    assert_eq!(gitlab.count(Kind::Export), 0);
}

#[test]
fn a_state_folder_that_is_not_ours_is_told_with_the_way_out() {
    let (gitlab, store) = (world(), S3::start(s3::Options::default()));
    let mut host = by_environment(&gitlab, &store);
    fs::write(host.path("file"), "").expect("a file");
    let below = host.path("file/state");
    host.set("GITLAB_PI_BACKUP_STATE_DIR", below);
    let Some(ended) = run_without_file(&host, "export projects --json") else {
        return;
    };
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(
        error(&ended).contains("GITLAB_PI_BACKUP_STATE_DIR"),
        "{ended}"
    );
    assert_eq!(gitlab.count(Kind::Export), 0);
}

#[test]
fn a_signal_ends_it_and_what_is_done_is_kept() {
    let gitlab = world();
    let host = machine(&gitlab, "groups = [\"team\"]\nconcurrency = 1");
    let child = host.spawn("export projects --json");
    let id = i32::try_from(child.id()).expect("a process");
    let stop = std::sync::Arc::new(move || {
        let id = rustix::process::Pid::from_raw(id).expect("a process");
        rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("it is there");
    });
    gitlab.fault(Fault::on(Kind::ExportStatus, What::Before(stop)).skip(4));
    let ended = Ended::from(child.wait_with_output().expect("ended"));
    assert_eq!(ended.status, Some(143), "{ended}");
    assert!(
        error(&ended).starts_with("stopped by SIGTERM; what was exported is kept"),
        "{ended}"
    );
    let done = paths(&ended, "exported").len();
    assert!(done < 5, "{ended}");
    let before = gitlab.count(Kind::Export);
    let ended = host.run("export projects --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(paths(&ended, "already_done").len(), done, "{ended}");
    assert!(gitlab.count(Kind::Export) >= before, "{ended}");
    assert_eq!(
        gitlab.count(Kind::Export),
        5,
        "each was asked for once: {ended}"
    );
}
