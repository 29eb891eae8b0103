//! Exports come through this machine.

use super::support::dropbox::{Dropbox, Options};
use super::support::gitlab_api::{Fault, GitLabApi, Kind, Outcome, Reply, Validators, What};
use super::*;

#[test]
fn a_folder_gets_every_export_as_gitlab_made_it() {
    let world = World::folder("");
    let paths = ["group/a", "group/b", "group/sub/c"];
    for path in paths {
        world
            .gitlab
            .project_with(path, |project| project.export_bytes = 300_000);
    }
    let ended = world.host.run(EXPORT);
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(rows(&ended), all(&paths, "exported"), "{ended}");
    for row in ended.json()["projects"].as_array().expect("rows") {
        let path = row["path"].as_str().expect("a path");
        assert!(world.read(row) == world.gitlab.archive(path), "{row}");
        assert_eq!(row["direct"], false);
    }
    world.assert_tidy();
    assert_eq!(world.gitlab.count(Kind::Download), 3);
}

#[test]
fn dropbox_gets_them_by_the_usual_engine_encrypted_too() {
    let identity = age::x25519::Identity::generate();
    for encrypted in [false, true] {
        let dropbox = Dropbox::start(Options::default());
        let gitlab = quick(GitLabApi::start());
        let host = Host::without_config(PROGRAM);
        let place = dropbox_place(&host, &dropbox);
        let more = if encrypted {
            let public = identity.to_public();
            format!("[encryption]\nrecipients = [\"{public}\"]")
        } else {
            String::new()
        };
        configure(&host, &gitlab, &place, &more);
        gitlab.project_with("group/App", |project| project.export_bytes = 9 << 20);
        let ended = host.run(EXPORT);
        assert_eq!(ended.status, Some(0), "{ended}");
        let row = row(&ended);
        let stored = dropbox.content(row["key"].as_str().expect("a key"));
        assert_eq!(row["size"], stored.len());
        let plain = if encrypted {
            age::decrypt(&identity, &stored).expect("decrypted")
        } else {
            stored
        };
        assert!(plain == gitlab.archive("group/App"), "{encrypted}: {ended}");
    }
}

#[test]
fn a_download_that_breaks_goes_on_where_it_was() {
    let world = World::folder("");
    world
        .gitlab
        .project_with("group/app", |project| project.export_bytes = 400_000);
    for bytes in [100_000, 1] {
        let cut = Fault::on(Kind::Download, What::Cut(bytes));
        world.gitlab.fault(cut);
    }
    let ended = world.host.run(EXPORT);
    assert_eq!(ended.status, Some(0), "{ended}");
    assert!(world.read(&row(&ended)) == world.gitlab.archive("group/app"));
    let asked = world.gitlab.requests();
    let ranges: Vec<_> = asked.iter().filter_map(|seen| seen.range.clone()).collect();
    assert!(!ranges.is_empty(), "{ended}");
    assert_eq!(world.gitlab.exports().len(), 1);
    world.assert_tidy();
}

#[test]
fn what_comes_damaged_is_downloaded_once_more_and_made_once_more() {
    for (times, asked, status) in [(1, 1, 0), (2, 2, 0), (9, 2, 1)] {
        for what in [What::Truncated(150_000), What::Changed] {
            let world = World::folder("timeout = \"12s\"");
            world
                .gitlab
                .project_with("group/app", |project| project.export_bytes = 400_000);
            let shown = format!("{what:?}, {times} times");
            world
                .gitlab
                .fault(Fault::on(Kind::Download, what).times(times));
            let ended = world.host.run(EXPORT);
            assert_eq!(ended.status, Some(status), "{shown}: {ended}");
            assert_eq!(world.gitlab.exports().len(), asked, "{shown}: {ended}");
            if status == 0 {
                assert!(world.read(&row(&ended)) == world.gitlab.archive("group/app"));
            } else {
                assert!(error(&ended).contains("no whole"), "{shown}: {ended}");
                let files = std::fs::read_dir(world.host.path("away")).expect("there");
                assert_eq!(files.count(), 0, "{shown}: half a file");
            }
            world.assert_tidy();
        }
    }
}

#[test]
fn an_export_that_is_gone_before_it_is_downloaded_is_made_again() {
    let world = World::folder("");
    world.gitlab.project("group/app");
    let gone = What::Reply(Reply::message(404, "404 Not found or has expired"));
    world.gitlab.fault(Fault::on(Kind::Download, gone));
    let ended = world.host.run(EXPORT);
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(world.gitlab.exports().len(), 2);
}

#[test]
fn downloads_from_an_object_store_of_gitlabs_and_old_exports() {
    let world = World::folder("");
    world.gitlab.set(|settings| {
        settings.object_storage = true;
        settings.per_user = false;
    });
    world.gitlab.project("group/app");
    for _ in 0..2 {
        let ended = world.host.run(EXPORT);
        assert_eq!(ended.status, Some(0), "{ended}");
        assert!(world.read(&row(&ended)) == world.gitlab.archive("group/app"));
        // As if a day had passed: what GitLab still has of the run before is not taken for a new one.
        std::fs::remove_dir_all(world.host.path("state/projects")).expect("forgotten");
        std::fs::remove_dir_all(world.host.path("away/group")).expect("emptied");
    }
    assert_eq!(world.gitlab.exports().len(), 2);
}

#[test]
fn a_failure_of_one_project_leaves_the_others_alone() {
    let world = World::folder("timeout = \"12s\"");
    for n in 0..5 {
        world.gitlab.project(&format!("group/p{n}"));
    }
    world
        .gitlab
        .change("group/p2", |project| project.outcome = Outcome::Fails);
    let ended = world.host.run(EXPORT);
    assert_eq!(ended.status, Some(3), "{ended}");
    let failed: Vec<_> = rows(&ended)
        .into_iter()
        .filter(|(_, status)| status == "failed")
        .collect();
    assert_eq!(failed, all(&["group/p2"], "failed"));
    assert!(ended.err.contains("group/p2"), "{ended}");
    world.assert_tidy();
}

#[test]
fn what_lies_there_already_is_not_touched() {
    let world = World::folder("");
    world.gitlab.project("group/app");
    let folder = world.host.path("away/group/app");
    std::fs::create_dir_all(&folder).expect("a folder");
    let now = chrono::Utc::now();
    for seconds in 0..30 {
        let time = now + chrono::TimeDelta::seconds(seconds);
        let name = format!("{}.tar.gz", time.format("%Y-%m-%d-%H-%M-%S"));
        std::fs::write(folder.join(name), "theirs").expect("a file");
    }
    let ended = world.host.run(EXPORT);
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(error(&ended).contains("nothing was touched"), "{ended}");
    assert!(error(&ended).contains("\n  the next run"), "{ended}");
    for entry in std::fs::read_dir(folder).expect("the folder") {
        let path = entry.expect("an entry").path();
        assert_eq!(std::fs::read(path).expect("a file"), b"theirs");
    }
}

#[test]
fn retention_prunes_each_project_by_itself() {
    let world = World::folder("[retention]\nkeep_last = 2");
    for name in ["a", "b"] {
        world.gitlab.project(&format!("group/{name}"));
        let folder = world.host.path("away/group").join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        for day in 1..=3 {
            let old = folder.join(format!("2026-01-0{day}-04-00-00.tar.gz"));
            std::fs::write(old, "old").expect("a file");
        }
    }
    let ended = world.host.run(EXPORT);
    assert_eq!(ended.status, Some(0), "{ended}");
    let pruned = ended.json()["pruned"].as_array().map(Vec::len);
    assert_eq!(pruned, Some(4), "{ended}");
    for name in ["a", "b"] {
        let left = std::fs::read_dir(world.host.path("away/group").join(name)).expect("it");
        assert_eq!(left.count(), 2);
    }
}

#[test]
fn a_download_that_breaks_and_those_that_wait_for_its_place_share_one_limit() {
    let world = World::folder("export_limit = \"0\"\ndownload_limit = \"1/1s\"");
    let paths = ["group/a", "group/b", "group/c"];
    for path in paths {
        world
            .gitlab
            .project_with(path, |project| project.export_bytes = 400_000);
    }
    let cut = Fault::on(Kind::Download, What::Cut(100_000));
    world.gitlab.fault(cut.times(2));
    let ended = world.host.run(EXPORT);
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(rows(&ended), all(&paths, "exported"), "{ended}");
    assert_eq!(world.gitlab.count(Kind::Download), 5);
    world.assert_tidy();
}

#[test]
fn a_download_that_cannot_be_had_is_given_up_and_leaves_the_others_alone() {
    for (what, is_store, told) in [
        // Always at the same place, and it cannot be continued: no progress, however much comes.
        (What::Cut(100_000), false, "the connection broke"),
        (
            What::Reply(Reply::message(500, "oops")),
            false,
            "answered 500",
        ),
        (
            What::Reply(Reply::message(503, "oops")),
            true,
            "answered 503",
        ),
    ] {
        let world = World::folder("[upload]\nretry_for = \"2s\"").one_at_a_time();
        world.gitlab.set(|settings| {
            settings.validators = Validators::NoRanges;
            settings.object_storage = is_store;
        });
        let id = world
            .gitlab
            .project_with("group/a", |project| project.export_bytes = 400_000);
        world.gitlab.project("group/b");
        let of = if is_store {
            format!("X-Amz-Signature={id:x}")
        } else {
            format!("/projects/{id}/")
        };
        let fault = Fault::on(Kind::Download, what).of(&of).forever();
        world.gitlab.fault(fault);
        let ended = world.host.run(EXPORT);
        assert_eq!(ended.status, Some(3), "{ended}");
        let expected = [
            ("group/a".to_owned(), "failed".to_owned()),
            ("group/b".to_owned(), "exported".to_owned()),
        ];
        assert_eq!(rows(&ended), expected, "{ended}");
        let error = ended.json()["projects"][0]["error"].to_string();
        assert!(error.contains(told), "{ended}");
    }
}

#[test]
fn a_role_that_allows_no_download_skips_its_project_only() {
    let world = World::folder("").one_at_a_time();
    let id = world.gitlab.project("group/a");
    world.gitlab.project("group/b");
    let forbidden = What::Reply(Reply::message(403, "403 Forbidden"));
    let of = format!("/projects/{id}/");
    world
        .gitlab
        .fault(Fault::on(Kind::Download, forbidden).of(&of).forever());
    let ended = world.host.run(EXPORT);
    let expected = [
        ("group/a".to_owned(), "skipped".to_owned()),
        ("group/b".to_owned(), "exported".to_owned()),
    ];
    assert_eq!(rows(&ended), expected, "{ended}");
    let error = ended.json()["projects"][0]["error"].to_string();
    assert!(error.contains("the role Maintainer"), "{ended}");
}

#[test]
fn an_export_of_yesterday_is_not_taken_for_the_one_that_was_asked_for() {
    let world = World::folder("");
    world.gitlab.set(|settings| settings.per_user = false);
    world.gitlab.project("group/app");
    let ended = world.host.run(EXPORT);
    assert_eq!(ended.status, Some(0), "{ended}");
    let old = world.gitlab.archive("group/app");
    std::fs::remove_dir_all(world.host.path("state/projects")).expect("forgotten");
    std::fs::remove_dir_all(world.host.path("away/group")).expect("emptied");
    let yesterday = chrono::Utc::now() - chrono::TimeDelta::days(1);
    let still_there = Reply::new(200, "application/gzip", old).with(
        "Last-Modified",
        yesterday.format("%a, %d %b %Y %T GMT").to_string(),
    );
    world
        .gitlab
        .fault(Fault::on(Kind::Download, What::Reply(still_there)));
    world.gitlab.forget_requests();
    let ended = world.host.run(EXPORT);
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(world.gitlab.count(Kind::Download), 2, "{ended}");
    assert!(world.read(&row(&ended)) == world.gitlab.archive("group/app"));
    world.assert_tidy();
}

/// The lines of a destination at a stand-in for Dropbox.
pub fn dropbox_place(host: &Host, dropbox: &Dropbox) -> String {
    let config = host.config(dropbox);
    let from = config.find("type = \"dropbox\"").expect("the destination");
    let end = config.find("[upload]").expect("the end");
    config[from..end].to_owned()
}
