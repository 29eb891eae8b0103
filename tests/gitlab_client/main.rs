//! The client of GitLab's API against servers that answer as each test says: what GitLab, a proxy or the network
//! does, and what becomes of it.

#[path = "../support/mod.rs"]
mod support;

mod downloads;
mod exports;
mod lists;
mod program;
mod server;

use std::time::Duration;

use chrono::{DateTime, Utc};
use gitlab_pi_backup::error::{Error, ErrorKind};
use gitlab_pi_backup::gitlab::api::projects::Project;
use gitlab_pi_backup::gitlab::api::{Api, Settings};
use gitlab_pi_backup::retry::Patience;
use gitlab_pi_backup::settings::Reader;

use crate::server::{Answer, Server, lost};

/// Marked, so that it is found wherever it should not be.
const TOKEN: &str = "glpat-marked-secret";
const STALL: Duration = Duration::from_secs(5);

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}

/// A client that is configured so.
fn configured(lines: &str) -> Api {
    let mut reader = Reader::new(lines, [], None);
    let mut root = reader.root();
    let settings = Settings::read(&mut root);
    root.finish();
    let faults: Vec<_> = reader.finish().iter().map(ToString::to_string).collect();
    assert_eq!(faults, [""; 0]);
    Api::new(&settings, STALL)
}

fn client(server: &Server) -> Api {
    configured(&format!("url = \"{}\"\ntoken = \"{TOKEN}\"", server.url()))
}

/// Long enough for what is tried again, short enough for what is in vain.
fn patience() -> Patience {
    Patience::new(Duration::from_secs(10))
}

fn impatience() -> Patience {
    Patience::new(Duration::ZERO)
}

fn project(id: u64) -> String {
    format!("{{\"id\":{id},\"path_with_namespace\":\"group/p{id}\",\"archived\":false}}")
}

async fn look(api: &Api) -> Result<Project, Error> {
    api.project("group/app", &impatience()).await
}

/// Fails, and says why; the token is in no message.
fn refused<T>(result: Result<T, Error>) -> Error {
    let Err(error) = result else {
        panic!("it did not fail");
    };
    for text in [error.to_string(), format!("{error:?}")] {
        assert!(
            !text.contains(TOKEN) && !text.contains("marked-address"),
            "{text}"
        );
    }
    error
}

#[test]
fn who_asks_is_shown_and_connections_are_kept() {
    let server = Server::start(|_| Answer::new(200, project(7)));
    let api = client(&server);
    run(async {
        for _ in 0..5 {
            let project = look(&api).await.expect("a project");
            assert_eq!(
                (project.id, project.path_with_namespace.as_str()),
                (7, "group/p7")
            );
        }
    });
    let seen = server.seen();
    assert_eq!(seen.len(), 5);
    for seen in seen {
        assert_eq!(seen.line(), "GET /api/v4/projects/group%2Fapp");
        assert_eq!(seen.head.header("private-token"), Some(TOKEN));
        assert_eq!(seen.connection, 0);
    }
}

#[test]
fn what_is_no_answer_of_gitlab_is_named() {
    let html = "<!DOCTYPE html><html><head><title>Sign in · GitLab</title></head></html>";
    for (status, headers, body, kind, told) in [
        (
            200,
            "text/html",
            html,
            ErrorKind::Unexpected,
            "answered 200 with an HTML page (\"Sign in · GitLab\")\n  is `gitlab.url`",
        ),
        (
            200,
            "application/json",
            "{\"id\":",
            ErrorKind::Unexpected,
            "not what GitLab's API gives: EOF while parsing",
        ),
        (
            200,
            "application/json",
            "[]",
            ErrorKind::Unexpected,
            "not what GitLab's API gives: invalid length",
        ),
        (
            200,
            "application/json",
            "",
            ErrorKind::Unexpected,
            "not what GitLab's API gives: EOF",
        ),
        (
            404,
            "text/html",
            html,
            ErrorKind::Invalid,
            "answered 404 with an HTML page",
        ),
        (
            502,
            "text/html",
            html,
            ErrorKind::Unavailable,
            "GitLab is in maintenance, or starting",
        ),
        (
            401,
            "application/json",
            "{\"message\":\"401 Unauthorized\"}",
            ErrorKind::Unauthorized,
            "answered 401: Unauthorized\n  the token",
        ),
        // A debugging proxy that repeats what it was shown.
        (
            400,
            "application/json",
            "{\"message\":\"bad header PRIVATE-TOKEN: glpat-marked-secret\"}",
            ErrorKind::Invalid,
            "PRIVATE-TOKEN: [secret]",
        ),
    ] {
        let server =
            Server::start(move |_| Answer::new(status, body).with("Content-Type", headers));
        let error = refused(run(look(&client(&server))));
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(told), "{error}");
    }
    // What never ends is not collected.
    let server = Server::start(|_| Answer::new(200, vec![b' '; 9 << 20]));
    let error = refused(run(look(&client(&server))));
    assert!(error.to_string().contains("longer than 8.0 MiB"), "{error}");
}

#[test]
fn a_server_that_is_not_there_or_comes_back() {
    let gone = Server::start(|_| lost());
    let api = client(&gone);
    drop(gone);
    let error = refused(run(look(&api)));
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let text = error.to_string();
    assert!(
        text.starts_with("looking at the project group/app: no connection to the server"),
        "{text}"
    );
    // Down, in maintenance, a lost answer: it is asked again.
    let server = Server::start(|seen| match seen.number {
        0 => lost(),
        1 => Answer::new(502, "<html>").with("Content-Type", "text/html"),
        2 => Answer::new(200, project(7)).cut(10),
        _ => Answer::new(200, project(7)),
    });
    let api = client(&server);
    run(api.project("7", &patience())).expect("a project");
    assert_eq!(server.seen().len(), 4);
}

#[test]
fn a_certificate_of_ones_own() {
    let server = Server::under_tls(|_| Answer::new(200, project(7)));
    let error = refused(run(look(&client(&server))));
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let text = error.to_string();
    assert!(
        text.contains("certificate is not trusted") && text.contains("`gitlab.ca_file`"),
        "{text}"
    );
    assert!(server.seen().is_empty());
    let (url, ca) = (server.url(), server.ca_file().display().to_string());
    let lines = format!("url = \"{url}\"\ntoken = \"{TOKEN}\"\nca_file = ");
    run(look(&configured(&format!("{lines}\"{ca}\"")))).expect("a project");
    let dir = tempfile::tempdir().expect("a folder");
    for (name, text, told) in [
        ("absent.pem", None, "No such file"),
        ("empty.pem", Some(""), "it is empty"),
        (
            "key.pem",
            Some("nothing"),
            "there is no certificate in it\n  `gitlab.ca_file` takes a file in PEM form",
        ),
    ] {
        let path = dir.path().join(name);
        if let Some(text) = text {
            std::fs::write(&path, text).expect("written");
        }
        let error = refused(run(look(&configured(&format!("{lines}{path:?}")))));
        let text = error.to_string();
        assert!(text.contains(told) && text.contains(name), "{text}");
    }
}

#[test]
fn where_it_sends_on_to_is_followed_only_within_the_same_api() {
    // A project that has moved.
    let server = Server::start(|seen| match seen.head.path() {
        "/api/v4/projects/7" => Answer::new(200, project(7)),
        _ => Answer::new(301, "").with("Location", "/api/v4/projects/7"),
    });
    let moved = run(look(&client(&server))).expect("a project");
    assert_eq!(moved.id, 7);
    assert_eq!(server.seen()[1].head.header("private-token"), Some(TOKEN));
    // Another server never sees the token.
    let other = Server::start(|_| Answer::new(200, project(7)));
    for (to, told) in [
        (
            format!("{}/api/v4/projects/7?x=marked-address", other.url()),
            format!("`gitlab.url = \"{}\"`", other.url()),
        ),
        (
            "https://git.example/lab/api/v4/projects/7".to_owned(),
            "`gitlab.url = \"https://git.example/lab\"`".to_owned(),
        ),
        ("/users/sign_in".to_owned(), "a login page".to_owned()),
    ] {
        let server = Server::start(move |_| Answer::new(302, "").with("Location", to.clone()));
        let error = refused(run(look(&client(&server))));
        assert!(error.to_string().contains(&told), "{error}");
        assert_eq!(server.seen().len(), 1);
    }
    assert!(other.seen().is_empty());
    let around = Server::start(|_| Answer::new(302, "").with("Location", "/api/v4/projects/8"));
    let error = refused(run(look(&client(&around))));
    assert!(error.to_string().contains("again and again"), "{error}");
    let nowhere = Server::start(|_| Answer::new(302, ""));
    let error = refused(run(look(&client(&nowhere))));
    assert!(error.to_string().contains("sends on to nowhere"), "{error}");
}

#[test]
fn a_pause_that_gitlab_asks_for_holds_for_everybody() {
    let server = Server::start(|seen| match seen.number {
        0 => Answer::new(429, "Retry later\n").with("Retry-After", "1"),
        _ => Answer::new(200, project(7)),
    });
    let api = client(&server);
    run(async {
        let patience = patience();
        let first = api.project("1", &patience);
        let second = async {
            // Asks when the first one has its answer.
            while server.seen().is_empty() {
                tokio::task::yield_now().await;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            api.project("2", &patience).await
        };
        let (first, second) = tokio::join!(first, second);
        first.and(second).expect("both in the end");
    });
    let seen = server.seen();
    assert_eq!(seen.len(), 3);
    for later in &seen[1..] {
        let waited = later.at - seen[0].at;
        assert!(waited >= Duration::from_secs(1), "{waited:?}");
    }
}

#[test]
fn it_slows_down_before_anything_is_refused() {
    let server = Server::start(|seen| {
        let left = if seen.number == 0 { "0" } else { "100" };
        let now = Utc::now();
        Answer::new(200, project(7))
            .with("RateLimit-Remaining", left)
            .with("RateLimit-Reset", (now.timestamp() + 2).to_string())
            .with("Date", now.to_rfc2822())
    });
    let api = client(&server);
    run(async {
        for _ in 0..3 {
            look(&api).await.expect("a project");
        }
    });
    let seen = server.seen();
    let waited = seen[1].at - seen[0].at;
    assert!(waited >= Duration::from_millis(1_900), "{waited:?}");
    assert!(seen[2].at - seen[1].at < Duration::from_secs(1));
}

#[test]
fn what_the_token_may_is_known_before_anything_is_asked_for() {
    let now: DateTime<Utc> = "2026-11-22T04:00:00Z".parse().expect("a time");
    let token = |json: &'static str| {
        move |seen: &server::Seen| match seen.head.path() {
            "/api/v4/personal_access_tokens/self" => Answer::new(200, json),
            "/api/v4/version" => Answer::new(200, "{\"version\":\"17.8.2-ee\",\"revision\":\"x\"}"),
            _ => Answer::new(404, "{\"error\":\"404 Not Found\"}"),
        }
    };
    let server = Server::start(token(
        "{\"name\":\"t\",\"scopes\":[\"api\"],\"active\":true,\"expires_at\":\"2026-11-30\"}",
    ));
    let access = run(client(&server).access(&impatience())).expect("access");
    assert_eq!(access.version.as_deref(), Some("17.8.2-ee"));
    let warning = access.warning(now).expect("a warning");
    assert!(warning.contains("in 8 days, on 2026-11-30"), "{warning}");
    let server = Server::start(token(
        "{\"name\":\"t\",\"scopes\":[\"read_api\"],\"active\":true}",
    ));
    let error = refused(run(client(&server).access(&impatience())));
    assert_eq!(
        (error.kind(), error.lacks()),
        (ErrorKind::Unauthorized, &["api".to_owned()][..])
    );
    // OAuth, and GitLab before 15.5.
    let server = Server::start(|seen| match seen.head.path() {
        "/api/v4/user" => Answer::new(200, "{\"username\":\"jane\"}"),
        "/api/v4/version" => Answer::new(403, "{}"),
        _ => Answer::new(404, "{\"error\":\"404 Not Found\"}"),
    });
    let access = run(client(&server).access(&impatience())).expect("access");
    assert_eq!(access.words(), "token of jane accepted");
    // The user of a token without any scope for it.
    let server = Server::start(|_| {
        Answer::new(
            403,
            "{\"error\":\"insufficient_scope\",\"error_description\":\"more\",\"scope\":\"api\"}",
        )
    });
    let error = refused(run(client(&server).access(&impatience())));
    assert!(
        error
            .to_string()
            .contains("lacks the scope `api`: make a new one"),
        "{error}"
    );
    // None at all is known without asking.
    let server = Server::start(|_| lost());
    let api = configured(&format!("url = \"{}\"", server.url()));
    let error = refused(run(api.access(&impatience())));
    assert!(
        error.to_string().contains("there is no token\n  make one"),
        "{error}"
    );
    assert!(server.seen().is_empty());
}
