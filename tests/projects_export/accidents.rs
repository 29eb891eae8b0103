//! What goes wrong with one project costs no other one anything, and what is well is not made twice.

use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use rustix::process::{Pid, Signal, kill_process};

use super::support::gitlab_api::{Fault, Kind, Outcome, Pace, What};
use super::*;

#[test]
fn one_broken_project_stops_no_other() {
    for kind in [Kind::ExportStatus, Kind::Export, Kind::Download] {
        let retry = "[upload]\nretry_for = \"1s\"";
        let world = match kind {
            Kind::Download => World::folder(retry),
            _ => World::direct(retry),
        };
        let world = world.one_at_a_time();
        let ids: Vec<_> = (0..4)
            .map(|n| world.gitlab.project(&format!("group/p{n}")))
            .collect();
        let of = format!("/projects/{}/", ids[1]);
        let broken = Fault::on(kind, What::server_error(500)).of(&of);
        world.gitlab.fault(broken.forever());
        let ended = world.host.run(EXPORT);
        assert_eq!(ended.status, Some(3), "{kind:?}: {ended}");
        let failed = |(_, status): &(String, String)| status == "failed";
        let failed: Vec<_> = rows(&ended).into_iter().filter(failed).collect();
        assert_eq!(failed, all(&["group/p1"], "failed"), "{kind:?}: {ended}");
        assert!(ended.out.contains("GitLab answered 500"), "{ended}");
    }
}

#[test]
fn gitlab_that_answers_nothing_any_more_is_not_asked_for_each_project() {
    let world = World::direct("[upload]\nretry_for = \"1s\"").one_at_a_time();
    for n in 0..9 {
        world.gitlab.project(&format!("group/p{n}"));
    }
    let down = |kind| Fault::on(kind, What::server_error(502)).forever();
    world.gitlab.fault(down(Kind::ExportStatus));
    world.gitlab.fault(down(Kind::Version).skip(1));
    let ended = world.host.run(EXPORT);
    assert_eq!(ended.status, Some(1), "{ended}");
    assert_eq!(ended.out.matches("not tried").count(), 8, "{ended}");
}

#[test]
fn an_odd_answer_costs_no_second_export() {
    // Looked over at once, and more often than that: then at the end of the run.
    for times in [1, 4] {
        let world = World::direct("");
        world.gitlab.project("group/app");
        let page = Fault::on(Kind::ExportStatus, What::html_ok());
        world.gitlab.fault(page.skip(1).times(times));
        let ended = world.host.run(EXPORT);
        assert_eq!(ended.status, Some(0), "{times}: {ended}");
        assert_eq!(world.gitlab.exports().len(), 1, "{times}: {ended}");
        assert_eq!(row(&ended)["direct"], true, "{times}: {ended}");
    }
}

#[test]
fn a_long_queue_is_waited_for() {
    let world = World::direct("timeout = \"36s\"");
    world.gitlab.set(|settings| {
        settings.pace = Pace::Polls {
            unseen: 4,
            queued: 0,
            started: 0,
        };
    });
    world.gitlab.project("group/app");
    let ended = world.host.run(EXPORT);
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(world.gitlab.exports().len(), 1, "{ended}");
    assert_eq!(row(&ended)["direct"], true, "{ended}");
}

#[test]
fn what_comes_after_nobody_waited_for_it_is_taken() {
    let world = World::direct("timeout = \"6s\"");
    world.gitlab.project_with("group/app", |project| {
        project.outcome = Outcome::Lost;
    });
    let (gitlab, s3) = (Arc::new(world.gitlab), Arc::new(world.s3));
    let by = gitlab.clone();
    let works = move || by.change("group/app", |project| project.outcome = Outcome::Works);
    let second = Fault::on(Kind::Export, What::Before(Arc::new(works)));
    gitlab.fault(second.skip(1));
    let (asked, to) = (gitlab.clone(), s3.clone());
    let arrive = move || {
        let upload = asked.exports()[0].upload.clone().expect("an address");
        let path = upload.split('?').next().unwrap_or_default();
        let key = path.split_once("/exports/").expect("in the bucket").1;
        to.put_object("exports", key, b"late, and well", Utc::now());
    };
    gitlab.fault(Fault::on(Kind::Download, What::Before(Arc::new(arrive))));
    let ended = world.host.run(EXPORT);
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(gitlab.exports().len(), 2, "{ended}");
    let objects = s3.objects("exports");
    let bytes: Vec<_> = objects.values().map(|object| &object.bytes[..]).collect();
    assert_eq!(bytes, [b"late, and well"], "{ended}");
    assert_eq!(row(&ended)["size"], 14, "{ended}");
}

#[test]
fn no_project_takes_the_place_of_another_that_moved() {
    let world = World::direct("").one_at_a_time();
    world.gitlab.project("group/app");
    let second = world.gitlab.project("group/app-new");
    let gitlab = Arc::new(world.gitlab);
    let (by, once) = (gitlab.clone(), Once::new());
    let change = move || {
        once.call_once(|| {
            by.rename("group/app", "group/app-old");
            by.rename("group/app-new", "group/app");
        });
    };
    let look = Fault::on(Kind::ExportStatus, What::Before(Arc::new(change)));
    gitlab.fault(look.of(&format!("/projects/{second}/")));
    let ended = world.host.run(EXPORT);
    assert_eq!(ended.status, Some(3), "{ended}");
    let expected = [("group/app", "exported"), ("group/app-new", "failed")];
    let expected = expected.map(|(path, status)| (path.to_owned(), status.to_owned()));
    assert_eq!(rows(&ended), expected, "{ended}");
    assert!(ended.out.contains("the next run exports it"), "{ended}");
    assert_eq!(gitlab.count(Kind::Export), 1, "{ended}");
    assert_eq!(world.s3.objects("exports").len(), 1, "{ended}");
}

#[test]
fn retention_follows_a_project_that_moved() {
    let world = World::direct("[retention]\nkeep_last = 2");
    let id = world.gitlab.project("group/app");
    for day in 1..=3 {
        for name in ["app", "moved"] {
            let key = format!("group/{name}/2026-01-0{day}-04-00-00.tar.gz");
            let at = Utc::now() - TimeDelta::days(9);
            world.s3.put_object("exports", &key, b"old", at);
        }
    }
    let gitlab = Arc::new(world.gitlab);
    let (by, once) = (gitlab.clone(), Once::new());
    let change = move || once.call_once(|| by.rename("group/app", "group/moved"));
    let look = Fault::on(Kind::ExportStatus, What::Before(Arc::new(change)));
    gitlab.fault(look.of(&format!("/projects/{id}/")));
    let ended = world.host.run(EXPORT);
    assert_eq!(ended.status, Some(0), "{ended}");
    let report = ended.json();
    assert_eq!(report["warnings"].as_array().map(Vec::len), Some(0));
    assert_eq!(report["pruned"].as_array().map(Vec::len), Some(2));
    let objects = world.s3.objects("exports");
    let of = |name: &str| objects.keys().filter(|key| key.starts_with(name)).count();
    assert_eq!((of("group/app/"), of("group/moved/")), (3, 2), "{ended}");
}

#[test]
fn where_nothing_arrives_gitlab_is_asked_to_bring_a_few_only() {
    let world = World::direct("timeout = \"12s\"").one_at_a_time();
    for n in 0..6 {
        let path = format!("group/p{n}");
        world.gitlab.project_with(&path, |project| {
            project.outcome = Outcome::UploadRefused;
        });
    }
    let ended = world.host.run(EXPORT);
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(world.stored().len(), 6);
    let asked = world.gitlab.exports();
    let direct = asked.iter().filter(|one| one.upload.is_some()).count();
    assert_eq!(direct, 3, "{ended}");
    let report = ended.json();
    let warnings = report["warnings"].as_array().expect("warnings");
    assert_eq!(warnings.len(), 1, "{ended}");
    assert!(
        warnings[0].to_string().contains("none of 3 came"),
        "{ended}"
    );
}

#[test]
fn what_was_done_before_a_stop_is_told() {
    let world = World::direct("[retention]\nkeep_last = 1");
    world.gitlab.project("group/app");
    for day in 1..=3 {
        let key = format!("group/app/2026-01-0{day}-04-00-00.tar.gz");
        let at = Utc::now() - TimeDelta::days(9);
        world.s3.put_object("exports", &key, b"old", at);
    }
    // The second of the three is not to be deleted now.
    let busy = "SlowDown";
    world
        .s3
        .fault("DELETE", "2026-01-02", usize::MAX, 503, busy);
    let child = world.host.command(EXPORT).spawn().expect("it starts");
    let since = Instant::now();
    let is_stuck = || {
        let seen = world.s3.requests();
        seen.iter()
            .any(|seen| seen.method == "DELETE" && seen.status == 503)
    };
    while !is_stuck() && since.elapsed() < Duration::from_mins(1) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process"));
    kill_process(pid.expect("a process"), Signal::TERM).expect("signalled");
    let ended = Ended::from(child.wait_with_output().expect("ended"));
    assert_eq!(ended.status, Some(143), "{ended}");
    assert_eq!(row(&ended)["status"], "exported", "{ended}");
    let report = ended.json();
    let pruned = report["pruned"].as_array().expect("what was deleted");
    assert_eq!(pruned.len(), 1, "{ended}");
    assert!(pruned[0]["path"].to_string().contains("2026-01-03"));
}
