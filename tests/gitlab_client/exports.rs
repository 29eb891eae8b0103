//! Asking for exports: once, within the limit, and refusals that say who can do what about them.

use std::time::Duration;

use futures_util::future::join_all;
use gitlab_pi_backup::error::{Error, ErrorKind};
use gitlab_pi_backup::gitlab::api::Api;
use gitlab_pi_backup::gitlab::api::exports::{ExportStatus, Refused, refused as why};
use gitlab_pi_backup::units::Quota;
use secrecy::SecretString;

use crate::server::{Answer, Server, lost};
use crate::{client, impatience, patience, project, refused, run};

const SECOND: Duration = Duration::from_secs(1);

fn address() -> SecretString {
    "https://s3.example/bucket/key?X-Amz-Signature=marked-address".into()
}

fn accepted() -> Answer {
    Answer::new(202, "{\"message\":\"202 Accepted\"}")
}

async fn ask(api: &Api) -> Result<(), Error> {
    api.request_export(42, Some(&address()), &patience(), || Ok(()))
        .await
}

fn posts(server: &Server) -> usize {
    let seen = server.seen();
    seen.iter()
        .filter(|seen| seen.head.method == "POST")
        .count()
}

#[test]
fn an_export_is_asked_for_as_gitlab_wants_it() {
    let server = Server::start(|_| accepted());
    run(ask(&client(&server))).expect("accepted");
    run(client(&server).request_export(42, None, &impatience(), || Ok(()))).expect("accepted");
    let seen = server.seen();
    assert_eq!(seen[0].line(), "POST /api/v4/projects/42/export");
    assert_eq!(
        seen[0].body,
        "upload%5Burl%5D=https%3A%2F%2Fs3.example%2Fbucket%2Fkey%3FX-Amz-Signature%3Dmarked-address&\
         upload%5Bhttp_method%5D=PUT"
    );
    assert_eq!(seen[1].body, "");
    // Whoever keeps a record of it is told before anything is sent, and can forbid it.
    let server = Server::start(|_| accepted());
    let api = client(&server).limited(Quota(Some((1, SECOND * 60))), Quota(None));
    run(async {
        for _ in 0..3 {
            let forbidden = || Err(Error::new(ErrorKind::Invalid, "writing it down", "no room"));
            let asked = api.request_export(42, None, &impatience(), forbidden).await;
            assert!(refused(asked).to_string().contains("no room"));
        }
    });
    assert!(server.seen().is_empty());
}

#[test]
fn what_was_asked_for_is_not_asked_for_again_because_the_answer_was_lost() {
    let status =
        |status: &str| Answer::new(200, format!("{{\"id\":42,\"export_status\":\"{status}\"}}"));
    // GitLab has begun: that is the answer.
    let server = Server::start(move |seen| match seen.number {
        0 => lost(),
        _ => status("queued"),
    });
    run(ask(&client(&server))).expect("accepted");
    assert_eq!(posts(&server), 1);
    // It has not: it is asked again.
    for fault in [0, 502] {
        let server = Server::start(move |seen| match seen.number {
            0 => Answer::new(fault, ""),
            1 => status("none"),
            _ => accepted(),
        });
        run(ask(&client(&server))).expect("accepted");
        assert_eq!(posts(&server), 2);
    }
}

#[test]
fn each_refusal_says_who_can_do_what() {
    for (status, body, refusal, hint) in [
        (
            403,
            "{\"message\":\"403 Forbidden\"}",
            Some(Refused::Role),
            "takes the role Maintainer",
        ),
        (
            404,
            "{\"message\":\"404 Project Not Found\"}",
            Some(Refused::Gone),
            "was deleted",
        ),
        (
            400,
            "{\"message\":{\"url\":[\"is blocked: Requests to the local network are not allowed\"]}}",
            Some(Refused::Address),
            "`projects.direct = false`",
        ),
        (
            400,
            "{\"message\":{\"url\":[\"https://s3.example/bucket/key?X-Amz-Signature=marked-address is blocked\"]}}",
            None,
            "`projects.direct = false`",
        ),
        (
            400,
            "{\"message\":\"https%3A%2F%2Fs3.example%2Fbucket%2Fkey%3FX-Amz-Signature%3Dmarked-address\"}",
            None,
            "",
        ),
        (
            403,
            "{\"error\":\"insufficient_scope\",\"scope\":\"api\"}",
            None,
            "lacks the scope `api`",
        ),
        (
            401,
            "{\"message\":\"401 Unauthorized\"}",
            None,
            "make a new one",
        ),
    ] {
        let server = Server::start(move |_| Answer::new(status, body));
        let error = refused(run(ask(&client(&server))));
        assert_eq!(why(&error), refusal, "{error}");
        assert!(error.to_string().contains(hint), "{error}");
        assert_eq!(posts(&server), 1);
    }
    // Where the project is there and its exports are not, they are switched off.
    let server = Server::start(|seen| match seen.head.path() {
        "/api/v4/projects/42" => Answer::new(200, project(42)),
        _ => Answer::new(404, "{\"error\":\"404 Not Found\"}"),
    });
    let api = client(&server);
    let error = refused(run(ask(&api)));
    assert_eq!(why(&error), Some(Refused::Disabled), "{error}");
    assert!(
        error
            .to_string()
            .contains("lets no project be exported\n  an administrator can allow it"),
        "{error}"
    );
    let error = refused(run(api.export_state(42, &impatience())));
    assert_eq!(why(&error), Some(Refused::Disabled), "{error}");
    // In maintenance GitLab can only be read: that passes.
    let server = Server::start(|seen| match (seen.number, seen.head.method.as_str()) {
        (0, _) => Answer::new(
            403,
            "{\"message\":\"You cannot perform write operations on a read-only instance\"}",
        ),
        (_, "GET") => Answer::new(200, "{\"export_status\":\"none\"}"),
        _ => accepted(),
    });
    run(ask(&client(&server))).expect("accepted in the end");
}

#[test]
fn a_status_that_is_not_known_is_no_error() {
    for (told, expected) in [
        ("none", ExportStatus::None),
        ("queued", ExportStatus::Queued),
        (
            "regeneration_in_progress",
            ExportStatus::RegenerationInProgress,
        ),
        ("failed", ExportStatus::Failed),
        ("archived", ExportStatus::Other),
    ] {
        let server =
            Server::start(move |_| Answer::new(200, format!("{{\"export_status\":\"{told}\"}}")));
        let status = run(client(&server).export_state(42, &impatience()));
        assert_eq!(status.expect("a status").status, expected);
    }
}

#[test]
fn no_second_ever_sees_more_than_the_limit() {
    let server = Server::start(|_| accepted());
    let api = client(&server).limited(Quota(Some((3, SECOND))), Quota(None));
    run(async {
        let asked = join_all((0..10).map(|id| {
            let api = &api;
            async move { api.request_export(id, None, &patience(), || Ok(())).await }
        }));
        for result in asked.await {
            result.expect("accepted");
        }
    });
    let at: Vec<_> = server.seen().iter().map(|seen| seen.at).collect();
    assert_eq!(at.len(), 10);
    for four in at.windows(4) {
        assert!(four[3] - four[0] >= Duration::from_millis(990), "{at:?}");
    }
    assert!(at[9] - at[0] < SECOND * 4, "{at:?}");
}

#[test]
fn a_limit_that_says_nothing_ends_with_the_minute_of_gitlabs_clock() {
    let limited = "{\"message\":{\"error\":\"This endpoint has been requested too many times. Try again later.\"}}";
    let server = Server::start(move |seen| match (seen.number, seen.head.method.as_str()) {
        (0, _) => Answer::new(429, limited).with("Date", "Mon, 23 Nov 2026 04:00:45 GMT"),
        (_, "GET") => Answer::new(200, "{\"export_status\":\"none\"}"),
        _ => accepted(),
    });
    // A minute that is 3 s long ends at every third second; and what is not limited goes on meanwhile.
    let api = client(&server).limited(Quota(Some((6, SECOND * 3))), Quota(None));
    run(async {
        let (asked, looked) = tokio::join!(ask(&api), async {
            while server.seen().is_empty() {
                tokio::task::yield_now().await;
            }
            api.export_state(7, &impatience()).await
        });
        asked.expect("accepted");
        looked.expect("a status");
    });
    let seen = server.seen();
    assert_eq!(seen[1].head.method, "GET");
    assert!(seen[1].at - seen[0].at < SECOND);
    let waited = seen[2].at - seen[0].at;
    assert!(waited >= SECOND * 3 && waited < SECOND * 5, "{waited:?}");
    // The real one would be waited for until 04:01:01.
    let server = Server::start(move |_| {
        Answer::new(429, limited).with("Date", "Mon, 23 Nov 2026 04:00:45 GMT")
    });
    let error = refused(run(client(&server).request_export(
        42,
        None,
        &impatience(),
        || Ok(()),
    )));
    assert_eq!(
        error.kind(),
        ErrorKind::RateLimited(Some(SECOND * 16)),
        "{error}"
    );
}
