//! The program itself, where GitLab's API is configured: what `doctor` says of it, and what is missing.

use std::fs;

use chrono::{TimeDelta, Utc};

use crate::server::{Answer, Seen, Server, lost};
use crate::support::host::{Ended, Host};

const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");
const TOKEN: &str = "glpat-marked-secret";

/// A machine with a folder to store things in; `more` belongs to `[gitlab]`.
fn machine(more: &str, projects: bool) -> Host {
    let host = Host::without_config(PROGRAM);
    let folder = host.path("store");
    fs::create_dir(&folder).expect("a folder");
    let projects = if projects {
        "[projects]\ndestination = \"disk\"\nall = true\n"
    } else {
        ""
    };
    host.write_config(&host.config_with(&format!(
        "{more}\n{projects}[destinations.disk]\ntype = \"fs\"\nroot = \"{}\"\n[upload]\nretry_for = \"1s\"\n",
        folder.display()
    )));
    host
}

/// As GitLab tells of a token that is good until this many days from now.
fn gitlab(days: i64) -> impl Fn(&Seen) -> Answer {
    let day = (Utc::now() + TimeDelta::days(days)).date_naive();
    move |seen| match seen.head.path() {
        "/api/v4/personal_access_tokens/self" => Answer::new(
            200,
            format!(
                "{{\"name\":\"t\",\"scopes\":[\"api\"],\"active\":true,\"expires_at\":\"{day}\"}}"
            ),
        ),
        "/api/v4/version" => Answer::new(200, "{\"version\":\"17.8.2\"}"),
        _ => Answer::new(404, "{\"error\":\"404 Not Found\"}"),
    }
}

/// The check of the API: how it ended, and what is told; none if there is none.
fn check(host: &Host, arguments: &str) -> Option<(String, String)> {
    let ended = host.run(&format!("doctor --json -vv {arguments}"));
    unmarked(&ended);
    let document = ended.json();
    let checks = document["checks"].as_array().expect("checks");
    let mut named = checks.iter().filter(|check| check["check"] == "gitlab_api");
    let check = named.next()?;
    assert!(named.next().is_none());
    let text = |field: &str| check[field].as_str().unwrap_or_default().to_owned();
    Some((
        text("status"),
        format!("{}\n{}", text("detail"), text("hint")),
    ))
}

fn unmarked(ended: &Ended) {
    assert!(!ended.to_string().contains("marked-secret"), "{ended}");
}

#[test]
fn doctor_says_whose_token_it_is_and_how_long_it_is_good() {
    let server = Server::start(gitlab(100));
    let lines = format!("url = \"{}\"\ntoken = \"{TOKEN}\"", server.url());
    let host = machine(&lines, false);
    let (status, told) = check(&host, "").expect("a check");
    assert_eq!(status, "ok", "{told}");
    assert!(
        told.starts_with("127.0.0.1: GitLab 17.8.2, token accepted, good until 2"),
        "{told}"
    );
    assert!(told.ends_with('\n'), "{told}");
    let asked = server.seen().len();
    let (status, told) = check(&host, "--offline").expect("a check");
    assert_eq!((status.as_str(), told.as_str()), ("skipped", "--offline\n"));
    assert_eq!(server.seen().len(), asked);
    // In time, and no failure yet.
    let server = Server::start(gitlab(10));
    let lines = format!("url = \"{}\"\ntoken = \"{TOKEN}\"", server.url());
    let (status, told) = check(&machine(&lines, false), "").expect("a check");
    assert_eq!(status, "ok", "{told}");
    assert!(told.contains("expires in 10 days"), "{told}");
    // Who does not use it is not asked for it, whatever the shell has for other tools.
    let mut host = machine("", false);
    host.set("GITLAB_TOKEN", TOKEN);
    assert_eq!(check(&host, "--offline"), None);
}

#[test]
fn doctor_says_what_keeps_projects_from_being_exported() {
    let html = "<html><title>Sign in</title></html>";
    for (status, kind, body, told) in [
        (
            401,
            "application/json",
            "{\"message\":\"401 Unauthorized\"}",
            "answered 401: Unauthorized\nthe token is not one of this GitLab",
        ),
        (
            401,
            "application/json",
            "{\"error\":\"invalid_token\",\"error_description\":\"Token is expired.\"}",
            "the token has expired: make a new one",
        ),
        (
            200,
            "application/json",
            "{\"name\":\"t\",\"scopes\":[\"read_api\"],\"active\":true}",
            "has only the scopes read_api\nit takes the scope `api`",
        ),
        (
            200,
            "text/html",
            html,
            "an HTML page (\"Sign in\")\nis `gitlab.url`",
        ),
        (
            503,
            "text/html",
            html,
            "an HTML page (\"Sign in\")\nGitLab is in maintenance",
        ),
    ] {
        let server = Server::start(move |_| Answer::new(status, body).with("Content-Type", kind));
        let lines = format!("url = \"{}\"\ntoken = \"{TOKEN}\"", server.url());
        let (status, text) = check(&machine(&lines, false), "").expect("a check");
        assert_eq!(status, "failed", "{text}");
        assert!(text.contains(told), "{text}");
    }
    let server = Server::under_tls(gitlab(100));
    let lines = format!("url = \"{}\"\ntoken = \"{TOKEN}\"", server.url());
    let (status, text) = check(&machine(&lines, true), "").expect("a check");
    assert_eq!(status, "failed", "{text}");
    assert!(
        text.contains("certificate is not trusted") && text.contains("`gitlab.ca_file`"),
        "{text}"
    );
    let lines = format!("{lines}\nca_file = {:?}", server.ca_file());
    let (status, text) = check(&machine(&lines, true), "").expect("a check");
    assert_eq!(status, "ok", "{text}");
    // Nobody there at all.
    let gone = Server::start(|_| lost());
    let lines = format!("url = \"{}\"\ntoken = \"{TOKEN}\"", gone.url());
    drop(gone);
    let (status, text) = check(&machine(&lines, true), "").expect("a check");
    assert_eq!(status, "failed");
    assert!(text.contains("no connection to the server"), "{text}");
}

#[test]
fn what_is_missing_is_told_before_anything_is_done() {
    let server = Server::start(|_| lost());
    let url = format!("url = \"{}\"", server.url());
    for (lines, told) in [
        (
            url.as_str(),
            "`gitlab.token` is missing: GitLab's API asks who it is that wants something\n  make a token",
        ),
        (
            "token = \"glpat-marked-secret\"",
            "`gitlab.url` is missing: it says where GitLab's API is\n  [gitlab]\n  url = ",
        ),
    ] {
        let host = machine(lines, true);
        for arguments in ["export projects", "export projects --dry-run -vv"] {
            let ended = host.run(arguments);
            unmarked(&ended);
            assert_eq!((ended.status, ended.out.as_str()), (Some(2), ""), "{ended}");
            assert!(ended.err.contains(told), "{ended}");
        }
        let (status, text) = check(&host, "--offline").expect("a check");
        assert_eq!(status, "failed", "{text}");
        assert!(text.contains("is missing"), "{text}");
        // What has nothing to do with it goes on.
        assert_ne!(host.run("run --dry-run").status, Some(2));
    }
    assert!(server.seen().is_empty());
}

#[test]
fn what_only_this_shell_has_is_told() {
    let server = Server::start(gitlab(100));
    let mut host = machine("", true);
    host.set("GITLAB_TOKEN", TOKEN);
    host.set("GITLAB_URL", server.url());
    let (status, told) = check(&host, "").expect("a check");
    assert_eq!(status, "ok", "{told}");
    let environment = |arguments: &str| {
        let ended = host.run(&format!("doctor --json --offline {arguments}"));
        unmarked(&ended);
        let document = ended.json();
        let checks = document["checks"].as_array().expect("checks").iter();
        let mut found = checks.filter(|check| check["check"] == "environment");
        found.next().expect("a check")["detail"].to_string()
    };
    let told = environment("");
    assert!(told.contains("GITLAB_TOKEN, GITLAB_URL"), "{told}");
    let told = environment("--as-cron");
    let told = told.replace("GITLAB_PI_BACKUP_CONFIG, ", "");
    assert!(
        told.contains("only this shell has GITLAB_TOKEN, GITLAB_URL"),
        "{told}"
    );
}
