//! The stand-in for GitLab's API, seen from a socket: what every fault does to a request, how exports end, and how
//! calls are counted.

mod support;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::backup::gunzip;
use support::gitlab_api::{
    Fault, GitLabApi, Kind, Limit, Limits, Mode, Options, Outcome, Pace, What,
};
use support::receiver::Receiver;

/// A minute that does not end while a test counts calls in it.
const CENTURY: Duration = Duration::from_hours(100 * 365 * 24);

/// What came back.
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines();
        let mut fields = lines.filter_map(|line| line.split_once(": "));
        fields
            .find(|(own, _)| own.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// Whether as much came as was promised.
    fn is_whole(&self) -> bool {
        self.header("Content-Length") == Some(&self.body.len().to_string())
    }
}

/// One request on a connection of its own; with a form it is a POST.
fn ask(
    gitlab: &GitLabApi,
    path: &str,
    form: Option<&str>,
    more: &str,
) -> Result<Answer, ErrorKind> {
    let address = gitlab.url().trim_start_matches("http://").to_owned();
    let mut socket = TcpStream::connect(address).expect("a server");
    let method = if form.is_some() { "POST" } else { "GET" };
    let form = form.unwrap_or_default();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nPRIVATE-TOKEN: {}\r\n{more}Content-Type: \
         application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
        gitlab.token(),
        form.len()
    );
    // A reset may come while sending; then reading tells.
    let _ = socket.write_all(request.as_bytes());
    let mut reply = Vec::new();
    socket
        .read_to_end(&mut reply)
        .map_err(|error| error.kind())?;
    let end = reply.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.ok_or(ErrorKind::UnexpectedEof)?;
    let head = String::from_utf8_lossy(&reply[..end]).into_owned();
    Ok(Answer {
        status: head[9..12].parse().expect("a status"),
        head,
        body: reply.split_off(end + 4),
    })
}

fn get(gitlab: &GitLabApi, path: &str) -> Answer {
    ask(gitlab, &format!("/api/v4{path}"), None, "").expect("an answer")
}

fn post(gitlab: &GitLabApi, path: &str, form: &str) -> Answer {
    ask(gitlab, &format!("/api/v4{path}"), Some(form), "").expect("an answer")
}

fn status(gitlab: &GitLabApi, id: u64) -> String {
    let told = get(gitlab, &format!("/projects/{id}/export")).json();
    told["export_status"].as_str().expect("a word").to_owned()
}

/// The statuses up to the first that is told twice in a row.
fn statuses(gitlab: &GitLabApi, id: u64) -> Vec<String> {
    let mut seen = vec![status(gitlab, id)];
    for _ in 0..10_000 {
        let next = status(gitlab, id);
        if seen.last() != Some(&next) {
            seen.push(next);
        } else if !["queued", "started", "regeneration_in_progress"].contains(&next.as_str()) {
            return seen;
        }
    }
    panic!("it goes on and on: {seen:?}");
}

#[test]
fn what_a_fault_does_to_a_request() {
    let gitlab = GitLabApi::start();
    let id = gitlab.project("group/app");
    let export = format!("/projects/{id}/export");
    gitlab.fault(
        Fault::on(Kind::Project, What::server_error(502))
            .skip(1)
            .of("app"),
    );
    gitlab.fault(Fault::on(Kind::Project, What::html_ok()).skip(3));
    let told: Vec<_> = (0..4)
        .map(|_| get(&gitlab, "/projects/group%2Fapp"))
        .collect();
    let codes: Vec<_> = told.iter().map(|answer| answer.status).collect();
    assert_eq!(codes, [200, 502, 200, 200]);
    assert_eq!(told[2].json()["id"], id);
    assert!(told[3].body.starts_with(b"<!DOCTYPE html>"));

    gitlab.fault(Fault::on(Kind::Export, What::Reset));
    let lost = ask(&gitlab, &format!("/api/v4{export}"), Some(""), "");
    assert_eq!(lost.err(), Some(ErrorKind::ConnectionReset));
    assert!(gitlab.exports().is_empty());
    gitlab.fault(Fault::on(Kind::Export, What::LostReply));
    let lost = ask(&gitlab, &format!("/api/v4{export}"), Some(""), "");
    assert_eq!(lost.err(), Some(ErrorKind::ConnectionReset));
    assert_eq!(gitlab.exports().len(), 1);
    assert_eq!(statuses(&gitlab, id), ["queued", "started", "finished"]);

    let download = format!("{export}/download");
    let right = get(&gitlab, &download).body;
    assert_eq!(right, gitlab.archive("group/app"));
    gitlab.fault(Fault::on(Kind::Download, What::Cut(50)));
    gitlab.fault(Fault::on(Kind::Download, What::Truncated(60)).skip(1));
    gitlab.fault(Fault::on(Kind::Download, What::Changed).skip(2));
    gitlab.fault(Fault::on(Kind::Download, What::Slow(right.len() as u64 * 20)).skip(3));
    let cut = get(&gitlab, &download);
    assert!(cut.body == right[..50] && !cut.is_whole());
    let short = get(&gitlab, &download);
    assert!(short.body == right[..60] && short.is_whole());
    let changed = get(&gitlab, &download);
    let differ = changed
        .body
        .iter()
        .zip(&right)
        .filter(|(one, two)| one != two);
    assert!(differ.count() == 1 && changed.is_whole());
    let begun = Instant::now();
    assert!(get(&gitlab, &download).body == right && begun.elapsed() > Duration::from_millis(30));

    gitlab.fault(Fault::on(Kind::Any, What::too_many_requests(Some(7))).one_in(3));
    let told: Vec<_> = (0..6).map(|_| get(&gitlab, "/user")).collect();
    let codes: Vec<_> = told.iter().map(|answer| answer.status).collect();
    assert_eq!(codes, [200, 200, 429, 200, 200, 429]);
    assert_eq!(told[2].header("Retry-After"), Some("7"));
    gitlab.clear_faults();
    gitlab.fault(Fault::on(Kind::Any, What::Expired).skip(1).forever());
    let codes: Vec<_> = (0..3).map(|_| get(&gitlab, "/user").status).collect();
    assert_eq!(codes, [200, 401, 401]);
    gitlab.clear_faults();
    for (mode, code) in [
        (Mode::Maintenance, 503),
        (Mode::Proxy, 200),
        (Mode::Normal, 200),
    ] {
        gitlab.mode(mode);
        let told = get(&gitlab, "/user");
        assert_eq!(told.status, code);
        assert_eq!(
            told.body.starts_with(b"<!DOCTYPE html>"),
            mode != Mode::Normal
        );
    }
    assert_eq!(
        gitlab.requests().iter().filter(|seen| seen.faulted).count(),
        2 + 2 + 4 + 2 + 2
    );
}

#[test]
fn a_project_goes_between_the_list_and_its_export() {
    let gitlab = Arc::new(GitLabApi::start());
    let ids = ["group/gone", "group/moved"].map(|path| gitlab.project(path));
    let server = Arc::downgrade(&gitlab);
    let go = move || {
        let gitlab = server.upgrade().expect("running");
        gitlab.delete("group/gone");
        gitlab.rename("group/moved", "elsewhere/moved");
    };
    gitlab.fault(Fault::on(Kind::Export, What::Before(Arc::new(go))));
    assert_eq!(
        get(&gitlab, "/groups/group/projects")
            .json()
            .as_array()
            .map(Vec::len),
        Some(2)
    );
    assert_eq!(
        post(&gitlab, &format!("/projects/{}/export", ids[0]), "").status,
        404
    );
    assert_eq!(
        post(&gitlab, &format!("/projects/{}/export", ids[1]), "").status,
        202
    );
    let refused = post(&gitlab, "/projects/group%2Fmoved/export", "");
    assert_eq!(refused.status, 405);
    assert_eq!(
        refused.json()["message"],
        "Non GET methods are not allowed for moved projects"
    );
    let sent_on = get(&gitlab, "/projects/group%2Fmoved/export?x=y");
    assert_eq!(sent_on.status, 301);
    let place = sent_on.header("Location").expect("a place");
    assert_eq!(
        place,
        format!("{}/api/v4/projects/{}/export?x=y", gitlab.url(), ids[1])
    );
    let told = get(&gitlab, &format!("/projects/{}", ids[1])).json();
    assert_eq!(told["path_with_namespace"], "elsewhere/moved");
}

#[test]
fn how_exports_end() {
    let gitlab = GitLabApi::start();
    let mut ids = Vec::new();
    for (name, outcome, expected) in [
        (
            "works",
            Outcome::Works,
            vec!["queued", "started", "finished"],
        ),
        ("fails", Outcome::Fails, vec!["queued", "started", "failed"]),
        (
            "silent",
            Outcome::FailsSilently,
            vec!["queued", "started", "none"],
        ),
        ("lost", Outcome::Lost, vec!["none"]),
    ] {
        let id = gitlab.project_with(&format!("group/{name}"), |project| {
            project.outcome = outcome;
        });
        assert_eq!(status(&gitlab, id), "none");
        assert_eq!(
            post(&gitlab, &format!("/projects/{id}/export"), "").status,
            202
        );
        assert_eq!(statuses(&gitlab, id), expected, "{name}");
        ids.push(id);
    }
    let (works, fails) = (ids[0], ids[1]);
    // A request throws away what is there; what somebody asks for in a browser does not.
    gitlab.regenerate("group/works");
    assert_eq!(
        statuses(&gitlab, works),
        ["regeneration_in_progress", "finished"]
    );
    post(&gitlab, &format!("/projects/{works}/export"), "");
    let download = format!("/projects/{works}/export/download");
    assert_eq!(get(&gitlab, &download).status, 404);
    assert_eq!(statuses(&gitlab, works), ["queued", "started", "finished"]);
    gitlab.expire_exports();
    assert_eq!(
        (
            status(&gitlab, works).as_str(),
            get(&gitlab, &download).status
        ),
        ("none", 404)
    );
    // A failure stays on record: also while the next job has not been taken up.
    gitlab.change("group/fails", |project| project.outcome = Outcome::Works);
    gitlab.set(|settings| {
        settings.pace = Pace::Polls {
            unseen: 1,
            queued: 0,
            started: 1,
        }
    });
    post(&gitlab, &format!("/projects/{fails}/export"), "");
    assert_eq!(statuses(&gitlab, fails), ["failed", "started", "finished"]);

    gitlab.change("group/works", |project| project.outcome = Outcome::Hangs);
    gitlab.set(|settings| settings.pace = Pace::default());
    post(&gitlab, &format!("/projects/{works}/export"), "");
    assert!((0..50).all(|_| status(&gitlab, works) == "queued"));

    gitlab.set(|settings| settings.pace = Pace::Held);
    post(&gitlab, &format!("/projects/{fails}/export"), "");
    assert!((0..5).all(|_| status(&gitlab, fails) == "queued"));
    gitlab.work();
    assert_eq!(status(&gitlab, fails), "finished");
    let millisecond = Duration::from_millis(1);
    gitlab.set(|settings| {
        settings.pace = Pace::Time {
            queued: millisecond,
            started: millisecond,
        }
    });
    post(&gitlab, &format!("/projects/{fails}/export"), "");
    assert_eq!(
        statuses(&gitlab, fails).last().map(String::as_str),
        Some("finished")
    );

    gitlab.set(|settings| settings.export_limit = Some(1000));
    gitlab.change("group/fails", |project| project.export_bytes = 1001);
    assert_eq!(
        post(&gitlab, &format!("/projects/{fails}/export"), "").status,
        400
    );
    gitlab.set(|settings| settings.export_enabled = false);
    assert_eq!(
        post(&gitlab, &format!("/projects/{fails}/export"), "").json()["message"],
        "404 Not Found"
    );
}

#[test]
fn an_upload_is_one_request_with_its_length_and_is_not_told_of() {
    let store = Receiver::start();
    let gitlab = GitLabApi::start();
    let id = gitlab.project("group/app");
    let ask_for = |path: &str| {
        let form = format!("upload[url]={}&upload[http_method]=PUT", store.url(path));
        assert_eq!(
            post(&gitlab, &format!("/projects/{id}/export"), &form).status,
            202
        );
        statuses(&gitlab, id).pop().expect("a status")
    };
    assert_eq!(ask_for("/bucket/key?X-Amz-Signature=secret"), "finished");
    let posted = store.posted();
    assert_eq!(posted.len(), 1);
    assert_eq!(
        (posted[0].head.method.as_str(), posted[0].head.path()),
        ("PUT", "/bucket/key")
    );
    assert_eq!(
        posted[0].head.header("Content-Type"),
        Some("application/gzip")
    );
    let len = gitlab.archive("group/app").len().to_string();
    assert_eq!(posted[0].head.header("Content-Length"), Some(len.as_str()));
    let place = store.url("/bucket/key");
    assert_eq!(gitlab.exports()[0].place(), Some(place.as_str()));

    gitlab.set(|settings| settings.keeps_uploaded = false);
    assert_eq!(ask_for("/again"), "none");
    gitlab.set(|settings| settings.upload_ceiling = Some(100));
    assert_eq!(ask_for("/large"), "none");
    gitlab.set(|settings| settings.upload_ceiling = None);
    gitlab.change("group/app", |project| {
        project.outcome = Outcome::UploadRefused;
    });
    assert_eq!(ask_for("/refused"), "none");
    let told: Vec<_> = gitlab
        .exports()
        .iter()
        .map(|export| export.uploaded)
        .collect();
    assert_eq!(told, [Some(200), Some(200), Some(400), Some(400)]);
    assert_eq!(store.posted().len(), 2);
    gitlab.set(|settings| settings.local_requests = false);
    let form = format!("upload[url]={}", store.url("/"));
    let refused = post(&gitlab, &format!("/projects/{id}/export"), &form);
    assert_eq!(
        (refused.status, &refused.json()["message"]["url"][0]),
        (
            400,
            &json!("is blocked: Requests to localhost are not allowed")
        )
    );
}

#[test]
fn calls_are_counted_in_fixed_windows_with_those_that_are_refused() {
    let gitlab = GitLabApi::with(Options {
        minute: CENTURY,
        ..Options::default()
    });
    let ids = ["one/a", "one/b", "two/c"].map(|path| gitlab.project(path));
    for id in ids {
        post(&gitlab, &format!("/projects/{id}/export"), "");
        statuses(&gitlab, id);
    }
    gitlab.set(|settings| settings.limits = Limits::usual());
    let codes = ids.map(|id| get(&gitlab, &format!("/projects/{id}/export/download")).status);
    assert_eq!(codes, [200, 429, 200], "one of each namespace");
    let more: Vec<_> = (0..5)
        .map(|_| post(&gitlab, &format!("/projects/{}/export", ids[0]), "").status)
        .collect();
    assert_eq!(more, [202, 202, 202, 429, 429]);
    assert_eq!(
        (
            gitlab.busiest(Limit::Export),
            gitlab.busiest(Limit::Download),
            gitlab.refused()
        ),
        (8, 2, 3)
    );
    gitlab.set(|settings| {
        settings.limits.requests = Some(30);
        settings.limits.told = true;
    });
    let told = get(&gitlab, "/user");
    assert_eq!(told.header("RateLimit-Limit"), Some("30"));
    assert!(told.header("RateLimit-Reset").is_some() && told.header("Retry-After").is_none());
    let refused = std::iter::repeat_with(|| get(&gitlab, "/user")).find(|told| told.status == 429);
    let refused = refused.expect("a refusal");
    assert_eq!(
        (
            refused.body.as_slice(),
            refused.header("RateLimit-Remaining")
        ),
        (&b"Retry later\n"[..], Some("0"))
    );
    assert!(refused.header("Retry-After").is_some());

    let quick = GitLabApi::with(Options {
        minute: Duration::from_millis(30),
        ..Options::default()
    });
    let id = quick.project("group/app");
    quick.set(|settings| settings.limits = Limits::usual());
    let mut codes =
        std::iter::repeat_with(|| post(&quick, &format!("/projects/{id}/export"), "").status);
    // However fast this machine is: a window ends, and the next one begins.
    assert!(codes.by_ref().take(20_000).any(|code| code == 429));
    assert!(codes.take(20_000).any(|code| code == 202));
}

#[test]
fn long_lists_are_not_counted_and_end_for_page_numbers() {
    let gitlab = GitLabApi::start();
    for number in 0..31 {
        gitlab.project(&format!("group/p{number}"));
    }
    gitlab.set(|settings| (settings.counted_up_to, settings.offset_limit) = (30, 20));
    let list = get(
        &gitlab,
        "/groups/group/projects?per_page=10&page=2&order_by=id&sort=asc",
    );
    assert_eq!(
        (list.header("X-Total"), list.header("X-Next-Page")),
        (None, Some("3"))
    );
    assert!(!list.head.contains("rel=\"last\"") && list.head.contains("rel=\"next\""));
    assert_eq!(
        get(&gitlab, "/groups/group/projects?per_page=10&page=4").header("X-Next-Page"),
        Some("")
    );
    assert_eq!(get(&gitlab, "/projects?per_page=10&page=2").status, 200);
    assert_eq!(get(&gitlab, "/projects?per_page=10&page=3").status, 405);
    assert_eq!(get(&gitlab, "/projects?per_page=0").status, 400);
    assert_eq!(
        get(&gitlab, "/projects?per_page=1000").header("X-Per-Page"),
        None,
        "beyond the end"
    );
    gitlab.set(|settings| settings.offset_limit = 50_000);
    assert_eq!(
        get(&gitlab, "/projects?per_page=1000").header("X-Per-Page"),
        Some("100")
    );
    let mut next = Some("/projects?pagination=keyset&order_by=id&sort=asc&per_page=10".to_owned());
    let mut rows = Vec::new();
    while let Some(path) = next {
        let page = get(&gitlab, &path);
        rows.push(page.json().as_array().map_or(0, Vec::len));
        let link = page
            .header("Link")
            .and_then(|link| link.split(['<', '>']).nth(1));
        next = link
            .and_then(|link| link.split_once("/api/v4"))
            .map(|(_, path)| path.to_owned());
    }
    assert_eq!(rows, [10, 10, 10, 1, 0]);
}

#[test]
fn large_exports_lie_in_a_file_and_can_lie_in_an_object_store() {
    let gitlab = GitLabApi::start();
    let id = gitlab.project_with("group/large", |project| project.export_bytes = 20 << 20);
    post(&gitlab, &format!("/projects/{id}/export"), "");
    statuses(&gitlab, id);
    gitlab.set(|settings| settings.object_storage = true);
    let sent_on = get(&gitlab, &format!("/projects/{id}/export/download"));
    let place = sent_on.header("Location").expect("a place").to_owned();
    let place = place.strip_prefix(&gitlab.url()).expect("here");
    let whole = ask(&gitlab, place, None, "").expect("an answer");
    assert!(whole.is_whole() && whole.body == gitlab.archive("group/large"));
    assert!(
        (20_900_000..22_000_000).contains(&whole.body.len()),
        "{}",
        whole.body.len()
    );
    let tag = whole.header("ETag").expect("a tag");
    let more = format!("Range: bytes=20000000-\r\nIf-Range: {tag}\r\n");
    let rest = ask(&gitlab, place, None, &more).expect("an answer");
    assert!(rest.status == 206 && rest.body == whole.body[20_000_000..]);
    let tar = gunzip(&whole.body);
    assert!(tar.ends_with(&[0; 1024]));
    assert!(
        tar.chunks(512)
            .any(|block| block.starts_with(b"./tree/project.json\0"))
    );

    // Another GitLab fetches it from there.
    let other = GitLabApi::start();
    other.group("elsewhere");
    let form = format!("url={}{place}&path=back&namespace=elsewhere", gitlab.url());
    let told = post(&other, "/projects/remote-import", &form);
    assert_eq!(
        (told.status, &told.json()["import_status"]),
        (201, &json!("scheduled"))
    );
    let import = other
        .look("elsewhere/back")
        .and_then(|project| project.import);
    let import = import.expect("an import");
    let packed = gitlab.exports()[0].archive.clone().expect("an archive");
    assert_eq!(
        (import.sha256.as_str(), import.error),
        (packed.sha256.as_str(), None)
    );
    let form = format!("url={}/nothing&path=lost&namespace=elsewhere", gitlab.url());
    assert_eq!(post(&other, "/projects/remote-import", &form).status, 201);
    let import = "/projects/elsewhere%2Flost/import";
    let words: Vec<_> = (0..3).map(|_| get(&other, import).json()).collect();
    assert_eq!(words[2]["import_status"], "failed");
}
