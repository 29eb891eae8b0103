//! GitLab's limits: kept, and not undercut by more than they must be.

use std::time::{Duration, Instant};

use super::support::gitlab_api::{Fault, GitLabApi, Kind, Limit, Limits, Options, Pace, What};
use super::support::s3;
use super::*;

fn gitlab(minute: Duration) -> GitLabApi {
    let gitlab = quick(GitLabApi::with(Options {
        minute,
        ..Options::default()
    }));
    gitlab.set(|settings| settings.limits = Limits::usual());
    gitlab
}

/// Exports `count` projects, six in every `minute`; how long that took.
fn take_turns(count: usize, minute: Duration) -> Duration {
    let seconds = minute.as_secs();
    let more = format!("export_limit = \"6/{seconds}s\"\ndownload_limit = \"1/{seconds}s\"");
    let world = World::with(gitlab(minute), s3::Options::default(), &more);
    for n in 0..count {
        world.gitlab.project(&format!("group/sub{}/p{n}", n % 7));
    }
    let start = Instant::now();
    let ended = world.host.run(EXPORT);
    let took = start.elapsed();
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(world.stored().len(), count);
    assert_eq!(world.gitlab.count(Kind::Export), count);
    assert_eq!(world.gitlab.exports().len(), count);
    assert!(world.gitlab.busiest(Limit::Export) <= 6);
    // One look at each.
    let looks = world.s3.requests();
    let looks = looks.iter().filter(|seen| seen.method == "HEAD").count();
    assert!(looks * 10 <= count * 11, "{looks} looks at {count} objects");
    took
}

#[test]
fn the_limit_of_exports_is_kept_and_used() {
    let minute = Duration::from_secs(3);
    let took = take_turns(18, minute);
    // Two of its minutes pass, and the last six are made.
    let least = minute * 2;
    assert!(took >= least, "{took:?}");
    assert!(took <= least + Duration::from_secs(3), "{took:?}");
}

#[test]
#[ignore = "half a minute"]
fn sixty_projects_take_no_longer_than_the_limit_makes_them() {
    let minute = Duration::from_secs(4);
    let took = take_turns(60, minute);
    let least = minute * 9;
    let told = format!("60 projects: {took:?}, at least {least:?}\n");
    let _ = std::io::Write::write_all(&mut std::io::stderr(), told.as_bytes());
    assert!(took <= least * 11 / 10, "{took:?} for {least:?}");
}

#[test]
fn downloads_of_a_namespace_wait_for_each_other_and_for_no_other() {
    let minute = Duration::from_secs(2);
    let gitlab = gitlab(minute);
    gitlab.set(|settings| settings.limits.export = None);
    let world = World::with(
        gitlab,
        s3::Options::default(),
        "export_limit = \"0\"\ndownload_limit = \"1/2s\"\ndirect = false",
    );
    for namespace in 0..6 {
        for n in 0..3 {
            world.gitlab.project(&format!("group/n{namespace}/p{n}"));
        }
    }
    let start = Instant::now();
    let ended = world.host.run(EXPORT);
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(world.stored().len(), 18);
    assert!(world.gitlab.busiest(Limit::Download) <= 1);
    assert_eq!(world.gitlab.count(Kind::Download), 18);
    // One after the other they would take 34 s.
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn what_an_earlier_process_asked_for_counts() {
    let minute = Duration::from_secs(4);
    let more = "export_limit = \"6/4s\"";
    let world = World::with(gitlab(minute), s3::Options::default(), more);
    for n in 0..4 {
        world.gitlab.project(&format!("group/p{n}"));
    }
    assert_eq!(world.host.run(EXPORT).status, Some(0));
    for n in 4..8 {
        world.gitlab.project(&format!("group/p{n}"));
    }
    let ended = world.host.run(EXPORT);
    assert_eq!(ended.status, Some(0), "{ended}");
    assert!(world.gitlab.busiest(Limit::Export) <= 6);
    let refused = world.gitlab.requests();
    assert!(
        refused.iter().all(|seen| seen.status != Some(429)),
        "{ended}"
    );
}

/// A large instance that misbehaves: every project once, and hardly a request too many.
fn large(projects: usize, groups: usize) {
    let gitlab = GitLabApi::with(Options {
        minute: Duration::from_secs(2),
        ..Options::default()
    });
    let moment = Duration::from_millis(2);
    gitlab.set(|settings| {
        settings.pace = Pace::Time {
            queued: moment,
            started: moment,
        };
        settings.limits.export = Some(600);
    });
    let more = "export_limit = \"600/2s\"\ndownload_limit = \"0\"";
    let world = World::with(gitlab, s3::Options::default(), more);
    for n in 0..projects {
        let group = n % groups;
        let deep = format!("group/g{}/s{group}", group / 10 * 10);
        world.gitlab.project(&format!("{deep}/p{n}"));
    }
    world
        .gitlab
        .fault(Fault::on(Kind::GroupProjects, What::server_error(502)).times(2));
    world
        .gitlab
        .fault(Fault::on(Kind::Export, What::too_many_requests(Some(1))).one_in(23));
    world
        .gitlab
        .fault(Fault::on(Kind::ExportStatus, What::too_many_requests(Some(1))).one_in(101));
    let ended = world.host.run(EXPORT);
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(world.stored().len(), projects);
    assert_eq!(world.gitlab.exports().len(), projects, "each once");
    let mut asked: Vec<_> = world
        .gitlab
        .exports()
        .iter()
        .map(|one| one.project)
        .collect();
    asked.sort_unstable();
    asked.dedup();
    assert_eq!(asked.len(), projects);
    let seen = world.gitlab.requests();
    let own = seen
        .iter()
        .filter(|seen| seen.kind != Kind::ExportStatus)
        .count();
    let looks = world.s3.requests();
    let looks = looks.iter().filter(|seen| !seen.presigned).count();
    let needed = projects.div_ceil(100) + 2 * projects;
    assert!(
        (own + looks) * 10 <= needed * 11,
        "{own} + {looks} requests, {needed} needed"
    );
}

#[test]
fn a_large_instance_that_misbehaves_is_exported_once() {
    large(40, 20);
}

#[test]
#[ignore = "some minutes"]
fn a_thousand_projects_in_two_hundred_groups() {
    large(1_000, 200);
}
