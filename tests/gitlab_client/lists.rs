//! Lists: all rows, whatever headers are left, and a list that is not whole is an error.

use gitlab_pi_backup::error::{Error, ErrorKind};
use gitlab_pi_backup::gitlab::api::Api;

use crate::server::{Answer, Seen, Server};
use crate::{client, impatience, project, refused, run};

/// Which headers are left of GitLab's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Left {
    All,
    Links,
    None,
}

fn parameter(seen: &Seen, name: &str) -> Option<u64> {
    let mut pairs = seen.head.query().split('&');
    let found = pairs.find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    found.and_then(|value| value.parse().ok())
}

fn rows(ids: impl Iterator<Item = u64>) -> String {
    let rows: Vec<_> = ids.map(project).collect();
    format!("[{}]", rows.join(","))
}

/// A page of `count` projects; `total` is what is told.
fn page(seen: &Seen, count: u64, total: u64, left: Left) -> Answer {
    assert_eq!(parameter(seen, "per_page"), Some(100));
    let page = parameter(seen, "page").expect("a page");
    let first = (page - 1) * 100 + 1;
    let last = count.min(page * 100);
    let more = last < count;
    let mut answer = Answer::new(200, rows(first..=last));
    if left == Left::All {
        let next = if more {
            (page + 1).to_string()
        } else {
            String::new()
        };
        answer = answer
            .with("X-Next-Page", next)
            .with("X-Total", total.to_string());
        answer = answer.with("X-Per-Page", "100");
    }
    if left != Left::None {
        // As by a GitLab that does not know what it is called outside.
        let link = |page: u64, rel: &str| {
            format!(
                "<http://gitlab.inside:8080/api/v4/groups/42/projects?per_page=100&page={page}>; rel=\"{rel}\""
            )
        };
        let next = if more {
            format!("{}, ", link(page + 1, "next"))
        } else {
            String::new()
        };
        answer = answer.with("Link", format!("{next}{}", link(1, "first")));
    }
    answer
}

/// Reads a group's list to its end, as the ids that came.
async fn read(api: &Api) -> Result<Vec<u64>, Error> {
    let mut pages = api.projects_of_group("42", &[("order_by", "id")]);
    let mut ids = Vec::new();
    while let Some(page) = pages.next(&impatience()).await? {
        ids.extend(page.iter().map(|project| project.id));
    }
    Ok(ids)
}

#[test]
fn every_list_is_read_to_its_last_page() {
    for count in [0, 1, 99, 100, 101, 200, 250] {
        for left in [Left::All, Left::Links, Left::None] {
            let server = Server::start(move |seen| page(seen, count, count, left));
            let ids = run(read(&client(&server))).expect("the list");
            assert_eq!(ids, (1..=count).collect::<Vec<_>>(), "{left:?}");
            // One more where nothing says that a full page was the last one.
            let full = u64::from(left == Left::None && count > 0 && count.is_multiple_of(100));
            let pages = count.div_ceil(100).max(1) + full;
            assert_eq!(server.seen().len() as u64, pages, "{count} {left:?}");
            assert!(server.lines()[0].starts_with("GET /api/v4/groups/42/projects?order_by=id"));
        }
    }
}

#[test]
fn a_keyset_list_is_followed_by_its_links() {
    let server = Server::start(|seen| {
        let after = parameter(seen, "id_after").unwrap_or(0);
        assert!(seen.head.query().contains("pagination=keyset"));
        assert_eq!(parameter(seen, "page"), None);
        let answer = Answer::new(200, rows(after + 1..=250.min(after + 100)));
        if after >= 200 {
            return answer;
        }
        let next = after + 100;
        answer.with("Link", format!(
            "<https://git.example/api/v4/projects?id_after={next}&order_by=id&pagination=keyset&per_page=100>; rel=\"next\""
        ))
    });
    let api = client(&server);
    let ids = run(async {
        let mut pages = api.projects(&[("pagination", "keyset"), ("order_by", "id")]);
        let mut ids = Vec::new();
        while let Some(page) = pages.next(&impatience()).await.expect("a page") {
            ids.extend(page.iter().map(|project| project.id));
        }
        ids
    });
    assert_eq!(ids, (1..=250).collect::<Vec<_>>());
    assert_eq!(server.seen().len(), 3);
}

#[test]
fn a_list_that_ends_short_is_read_once_more_and_then_an_error() {
    let server = Server::start(|seen| page(seen, 150, 250, Left::All));
    let error = refused(run(read(&client(&server))));
    assert_eq!(error.kind(), ErrorKind::Unexpected);
    let text = error.to_string();
    assert!(
        text.starts_with(
            "listing the projects of the group 42: the list ended after 150 of 250 rows, twice"
        ),
        "{text}"
    );
    assert_eq!(server.seen().len(), 4);
}

#[test]
fn a_list_that_changed_meanwhile_is_read_once_more() {
    // A project is deleted while the second page is asked for: what was the 101st row comes on no page.
    let server = Server::start(|seen| match seen.number {
        0 => page(seen, 250, 250, Left::All),
        1 => Answer::new(200, rows(102..=201))
            .with("X-Next-Page", "3")
            .with("X-Total", "249"),
        2 => Answer::new(200, rows(202..=250))
            .with("X-Next-Page", "")
            .with("X-Total", "249"),
        _ => {
            let page = parameter(seen, "page").expect("a page");
            let ids = (2..=250).filter(|id| (id - 2) / 100 + 1 == page);
            let next = if page < 3 {
                (page + 1).to_string()
            } else {
                String::new()
            };
            Answer::new(200, rows(ids))
                .with("X-Next-Page", next)
                .with("X-Total", "249")
        }
    });
    let mut ids = run(read(&client(&server))).expect("the list");
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids, (1..=250).collect::<Vec<_>>());
    assert_eq!(server.seen().len(), 6);
}

#[test]
fn a_list_without_an_end_is_given_up() {
    let server = Server::start(|seen| {
        let page = parameter(seen, "page").expect("a page");
        let next = if page == 3 { 1 } else { page + 1 };
        Answer::new(200, rows(1..=100)).with("X-Next-Page", next.to_string())
    });
    let error = refused(run(read(&client(&server))));
    assert!(error.to_string().contains("the list has no end"), "{error}");
    assert_eq!(server.seen().len(), 3);
    let server = Server::start(|_| Answer::new(200, "[]").with("X-Next-Page", "2"));
    let error = refused(run(read(&client(&server))));
    assert!(
        error
            .to_string()
            .contains("a page is empty, and not the last one"),
        "{error}"
    );
}
