//! `export projects` as a job: whoever is told of runs is told of it, and nobody takes one for the other.

mod support;

use std::fs;

use serde_json::Value;
use support::gitlab_api::GitLabApi;
use support::gitlab_api::model::Outcome;
use support::host::Host;
use support::receiver::Receiver;
use support::s3::{self, S3};

const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");

/// GitLab, a bucket, somebody who is told, and a machine that knows all of them.
struct World {
    gitlab: GitLabApi,
    receiver: Receiver,
    host: Host,
    _s3: S3,
}

impl World {
    fn new() -> World {
        let (gitlab, receiver) = (GitLabApi::start(), Receiver::start());
        let s3 = S3::start(s3::Options::default());
        let mut host = Host::without_config(PROGRAM);
        host.set("STUB_NOW", "1702758583");
        fs::create_dir(host.path("metrics")).expect("a folder");
        let (url, token, place) = (gitlab.url(), gitlab.token(), s3.place("exports"));
        let of = |path: &str| receiver.url(path);
        let (run, exports, topic, hook) = (
            of("/ping/runs"),
            of("/ping/exports"),
            of("/topic"),
            of("/hook"),
        );
        let root = host.root().display().to_string();
        host.write_config(&host.config_with(&format!(
            "url = \"{url}\"\ntoken = \"{token}\"\n[destinations.store]\n{place}\n\
             [projects]\ndestination = \"store\"\ngroups = [\"group\"]\nhealthcheck_url = \"{exports}\"\n\
             [notify]\nhealthcheck_url = \"{run}\"\nntfy_url = \"{topic}\"\nwebhook_url = \"{hook}\"\n\
             metrics_file = \"{root}/metrics/backup.prom\"\n[report]\nfile = \"{root}/page.html\"\n"
        )));
        World {
            gitlab,
            receiver,
            host,
            _s3: s3,
        }
    }

    /// The exit status of an export, and who was told of it, in the order of their addresses.
    fn export(&self) -> (Option<i32>, Vec<String>) {
        self.receiver.forget();
        let ended = self.host.run("export projects");
        let mut told = self.receiver.targets();
        told.sort();
        (ended.status, told)
    }

    fn title(&self) -> String {
        let posted = self.receiver.the("/topic");
        posted.head.header("Title").unwrap_or_default().to_owned()
    }

    /// The value of a row of the metrics.
    fn metric(&self, row: &str) -> Option<String> {
        let text = fs::read_to_string(self.host.path("metrics/backup.prom")).expect("the metrics");
        let row = format!("gitlab_pi_backup_{row} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&row))?;
        Some(value.to_owned())
    }

    fn status(&self) -> Value {
        self.host.run("status --json").json()
    }
}

#[test]
fn a_failure_is_told_with_its_reason_and_the_first_good_one_behind_it() {
    let world = World::new();
    for path in ["group/app", "group/sub/lib"] {
        world.gitlab.project(path);
    }
    world
        .gitlab
        .change("group/sub/lib", |project| project.outcome = Outcome::Fails);
    let failed = [
        "POST /hook",
        "POST /ping/exports/fail",
        "POST /ping/exports/start",
        "POST /topic",
    ];
    assert_eq!(
        world.export(),
        (Some(3), failed.map(str::to_owned).to_vec())
    );
    let title = world.title();
    assert!(
        title.starts_with("GitLab project exports on ") && title.ends_with(": done in part"),
        "{title}"
    );
    let body = world.receiver.the("/topic").body.clone();
    assert!(
        body.contains("2 projects: 1 exported, 1 failed\n")
            && body.contains("\nfailed:\n- group/sub/lib: "),
        "{body}"
    );
    let document: Value = serde_json::from_str(&world.receiver.the("/hook").body).expect("JSON");
    assert_eq!(
        (&document["command"], &document["counts"]["failed"]),
        (&"export projects".into(), &1.into())
    );
    assert_eq!(document["failures"][0]["path"], "group/sub/lib");
    // Under `pruned` the command itself tells a list.
    assert_eq!(
        (&document["pruned_count"], &document["pruned"]),
        (&0.into(), &Value::Null)
    );
    let history = fs::read_to_string(world.host.path("state/history.jsonl")).expect("the history");
    let recorded: Value = serde_json::from_str(&history).expect("one line");
    assert_eq!(recorded, document, "what is told is what is recorded");
    assert_eq!(
        world.metric("projects{status=\"failed\"}").as_deref(),
        Some("1")
    );
    assert_eq!(
        world.metric("projects_last_run_exit_status").as_deref(),
        Some("3")
    );
    let page = fs::read_to_string(world.host.path("page.html")).expect("a page");
    assert!(page.contains("<li>group/sub/lib<span>"), "{page}");

    // The next one makes it good: only what failed is asked for again.
    world
        .gitlab
        .change("group/sub/lib", |project| project.outcome = Outcome::Works);
    let well = [
        "POST /hook",
        "POST /ping/exports",
        "POST /ping/exports/start",
        "POST /topic",
    ];
    assert_eq!(world.export(), (Some(0), well.map(str::to_owned).to_vec()));
    assert!(
        world.title().ends_with(": is well again"),
        "{}",
        world.title()
    );
    let body = world.receiver.the("/topic").body.clone();
    assert!(
        body.contains("2 projects: 1 exported, 1 already done\n"),
        "{body}"
    );
    // And that is no news any more.
    let pings = ["POST /ping/exports", "POST /ping/exports/start"];
    assert_eq!(world.export(), (Some(0), pings.map(str::to_owned).to_vec()));
}

#[test]
fn runs_and_exports_leave_what_is_known_of_each_other_alone() {
    let world = World::new();
    world.gitlab.project("group/app");
    assert_eq!(world.export().0, Some(0));
    let start = world.metric("projects_last_start_timestamp_seconds");
    assert!(start.is_some() && world.metric("last_run_exit_status").is_none());
    // No run is taken for done because an export was.
    let status = world.status();
    assert_eq!(status["last_run"], Value::Null, "{status}");
    assert_eq!(status["projects"]["status"], "ok", "{status}");
    let reasons = status["reasons"].to_string();
    assert!(reasons.contains("no run was ever recorded"), "{reasons}");

    world.receiver.forget();
    let run = world.host.run("run");
    assert_eq!(run.status, Some(0), "{run}");
    assert_eq!(
        world.receiver.targets(),
        ["POST /ping/runs/start", "POST /ping/runs"],
        "an export before it makes it no recovery"
    );
    let created = "archive_created_timestamp_seconds{kind=\"data\",destination=\"store\"}";
    let both = |world: &World| {
        [
            world.metric("last_run_exit_status"),
            world.metric(created),
            world.metric("projects_last_start_timestamp_seconds"),
        ]
    };
    let after_run = both(&world);
    assert_eq!(
        after_run,
        [Some("0".to_owned()), Some("1702758583".to_owned()), start]
    );

    // GitLab refuses the token: the export fails, and runs are as well as they were.
    world.gitlab.revoke(world.gitlab.token());
    let (status, told) = world.export();
    assert_eq!(status, Some(1));
    assert!(
        told.contains(&"POST /ping/exports/fail".to_owned())
            && !told.iter().any(|target| target.contains("/ping/runs")),
        "{told:?}"
    );
    assert!(world.title().ends_with(": FAILED"), "{}", world.title());
    let told = world.receiver.the("/topic").body.clone();
    assert!(told.contains("token"), "{told}");
    assert_eq!(both(&world)[..2], after_run[..2]);
    let status = world.status();
    assert_eq!(
        (&status["last_run"]["status"], &status["projects"]["status"]),
        (&"ok".into(), &"failed".into()),
        "{status}"
    );
    assert!(
        status["reasons"]
            .to_string()
            .contains("the last project export of "),
        "{status}"
    );
    let export = world.host.run("export projects --dry-run");
    assert_ne!(export.status, Some(0), "{export}");
    assert_eq!(
        world.status()["projects"]["last_run"],
        status["projects"]["last_run"],
        "a dry run is none"
    );
}

/// No GitLab, no backups: what those would need is no fault of this machine.
#[test]
fn a_machine_that_only_exports_is_examined_as_such() {
    let world = World::new();
    world.gitlab.project("group/app");
    let host = &world.host;
    let config = fs::read_to_string(host.path("config.toml")).expect("the configuration");
    host.write_config(&config.replace("[projects]", "kinds = []\n[projects]"));
    for name in ["bin/gitlab-ctl", "bin/gitlab-backup"] {
        fs::remove_file(host.path(name)).expect("removed");
    }
    fs::remove_dir_all(host.path("var/opt/gitlab/backups")).expect("removed");
    assert_eq!(world.export().0, Some(0));

    let document = host.run("doctor --json").json();
    let checks = document["checks"].as_array().expect("checks");
    let check = |name: &str| {
        let mut named = checks.iter().filter(|check| check["check"] == name);
        let check = named.next().expect("the check");
        let text = |field: &str| check[field].as_str().unwrap_or_default().to_owned();
        (text("status"), text("detail"))
    };
    for name in ["gitlab_commands", "backup_folders"] {
        let why = "no destination gets backups: only projects are exported";
        assert_eq!(check(name), ("skipped".to_owned(), why.to_owned()));
    }
    for name in [
        "gitlab_version",
        "staging",
        "backup_keep_time",
        "disk",
        "folders",
        "gitlab_api",
        "state",
        "last_export",
    ] {
        let (status, detail) = check(name);
        assert_ne!(status, "failed", "{name}: {detail}");
    }
    assert_eq!(check("folders").1, "store: / (1 entry)");
    let state = check("state").1;
    assert!(state.ends_with("state: one project export"), "{state}");

    let verified = host.run("verify");
    assert_eq!(verified.status, Some(2), "{verified}");
    let says = "no destination gets backups: `kinds` of each is empty\n  see `kinds`";
    assert!(verified.err.contains(says), "{verified}");
}

#[test]
fn a_test_says_of_which_job_it_is() {
    let world = World::new();
    world.receiver.forget();
    let ended = world.host.run("notify test --as failure");
    assert_eq!(ended.status, Some(0), "{ended}");
    for path in ["/ping/runs/fail", "/ping/exports/fail"] {
        let body = world.receiver.the(path).body.clone();
        let says = "this is a test of how a failure is told; nothing has failed\n";
        assert!(body.contains(says), "{body}");
    }
    let body = world.receiver.the("/ping/exports/fail").body.clone();
    assert!(!body.to_lowercase().contains("gitlab backup"), "{body}");
}
