//! The measurements, one function each.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::dropbox::{self, Dropbox};
use crate::gitlab_api::{Fault, Kind, Limit, What};
use crate::measure::Usage;
use crate::reference;
use crate::tables::{self, Bars, MIB, float, mib};
use crate::world::World;

/// What a large instance has.
const PROJECTS: usize = 1_000;
/// Innermost groups; with those they lie in, there are some more.
const GROUPS: usize = 200;
/// What a run may take, whatever it exports.
const MEMORY: f64 = 32.0;
const SECOND: Duration = Duration::from_secs(1);

/// An instance of groups in groups, three deep below `group`.
fn fill(world: &World, projects: usize, groups: usize) {
    for n in 0..projects {
        let group = n % groups;
        let (outer, inner) = (group / 50, group / 10);
        let path = format!("group/department{outer}/unit{inner}/team{group}/p{n}");
        world.gitlab.project(&path);
    }
}

fn memory_bar(bars: &mut Bars, what: &str, usage: Usage) {
    let measured = float(usage.peak_rss) / MIB;
    bars.at_most(
        format!("peak memory: {what}"),
        " MiB",
        MEMORY,
        Some(measured),
    );
}

/// What came of it: every project asked for once, and within the limits.
fn check(world: &World, bars: &mut Bars, what: &str, projects: usize, stored: usize) {
    let mut asked: BTreeMap<u64, u64> = BTreeMap::new();
    for one in world.gitlab.exports() {
        *asked.entry(one.project).or_default() += 1;
    }
    let most = asked.values().max().copied().unwrap_or(0);
    let all = Some(float(stored.min(asked.len()) as u64));
    bars.at_least(format!("{what}: exported"), "", float(projects as u64), all);
    bars.at_most(
        format!("{what}: exports of one project"),
        "",
        1.0,
        Some(float(most)),
    );
    for (limit, name, allowed) in [
        (Limit::Export, "exports asked for in any minute", 6.0),
        (
            Limit::Download,
            "downloads of a namespace in any minute",
            1.0,
        ),
    ] {
        let busiest = float(world.gitlab.busiest(limit).into());
        bars.at_most(format!("{what}: {name}"), "", allowed, Some(busiest));
    }
}

/// What GitLab was asked: by kind, all requests and those that a fault hit.
fn asked(world: &World, title: &str) {
    let mut kinds: BTreeMap<Kind, [u64; 2]> = BTreeMap::new();
    for seen in world.gitlab.requests() {
        let counts = kinds.entry(seen.kind).or_default();
        counts[0] += 1;
        counts[1] += u64::from(seen.faulted);
    }
    let rows = kinds.iter().map(|(kind, counts)| {
        let [all, hit] = counts.map(|count| count.to_string());
        vec![format!("{kind:?}"), all, hit]
    });
    let rows: Vec<_> = rows.collect();
    tables::print(title, &["request", "count", "hit by a fault"], &rows);
}

/// A large instance whose pages fail and which refuses now and then.
pub fn many(bars: &mut Bars) {
    let world = World::new(SECOND);
    fill(&world, PROJECTS, GROUPS);
    for fault in [
        Fault::on(Kind::GroupProjects, What::server_error(502)).one_in(4),
        Fault::on(Kind::GroupProjects, What::Cut(1_000)).skip(1),
        Fault::on(Kind::GroupProjects, What::too_many_requests(Some(1))).skip(5),
        Fault::on(Kind::Export, What::too_many_requests(Some(1))).one_in(29),
        Fault::on(Kind::Export, What::too_often()).one_in(67),
        Fault::on(Kind::ExportStatus, What::too_many_requests(Some(1))).one_in(101),
        Fault::on(Kind::ExportStatus, What::server_error(500)).one_in(97),
    ] {
        world.gitlab.fault(fault);
    }
    let usage = world.export("[\"group\"]", &world.bucket(), "");
    let objects = world.s3.objects(crate::world::BUCKET);
    let looks = world.s3.requests();
    let looks = looks.iter().filter(|seen| !seen.presigned).count();
    let seen = world.gitlab.requests();
    let polls = world.gitlab.count(Kind::ExportStatus);
    let own = seen.len() - polls + looks;
    let needed = PROJECTS.div_ceil(100) + 2 * PROJECTS;
    asked(
        &world,
        "1,000 projects in 200 nested groups, directly into a bucket",
    );
    println!(
        "\n{:.0} s; {looks} requests of our own to the bucket; without {polls} polls {own} requests, {needed} would \
         be the least; {} MiB at most.",
        usage.wall.as_secs_f64(),
        mib(usage.peak_rss)
    );
    check(&world, bars, "1,000 projects", PROJECTS, objects.len());
    let ratio = float(own as u64) / float(needed as u64);
    bars.at_most("1,000 projects: requests / the least", "", 1.1, Some(ratio));
    memory_bar(bars, "1,000 projects, direct", usage);
}

/// A large instance whose exports all come through this machine.
pub fn through(bars: &mut Bars) {
    let world = World::new(SECOND);
    fill(&world, PROJECTS, GROUPS);
    let usage = world.export("[\"group\"]", &world.bucket(), "direct = false");
    let objects = world.s3.objects(crate::world::BUCKET);
    asked(
        &world,
        "1,000 projects in 200 nested groups, through this machine",
    );
    let (wall, memory) = (usage.wall.as_secs_f64(), mib(usage.peak_rss));
    println!("\n{wall:.0} s; {memory} MiB at most.");
    check(
        &world,
        bars,
        "1,000 projects, through",
        PROJECTS,
        objects.len(),
    );
    memory_bar(bars, "1,000 projects, through this machine", usage);
}

/// Sixty projects, of which GitLab exports six in a minute.
pub fn pace(bars: &mut Bars) {
    let minute = 6 * SECOND;
    // It sees neither a second page of a group, which has twenty projects, nor groups in it.
    let filled = || {
        let world = World::new(minute);
        for n in 0..60 {
            world.gitlab.project(&format!("group{}/p{n}", n / 20));
        }
        world
    };
    let least = (9 * minute).as_secs_f64();
    let mut rows = Vec::new();
    let mut row = |name: &str, world: &World, took: Duration| {
        let wall = took.as_secs_f64();
        let refused = world.gitlab.refused().to_string();
        let objects = world.s3.objects(crate::world::BUCKET).len().to_string();
        let minutes = wall / minute.as_secs_f64();
        rows.push(vec![
            name.to_owned(),
            format!("{wall:.1}"),
            format!("{minutes:.2}"),
            objects,
            refused,
        ]);
        wall
    };
    let world = filled();
    let groups = "[\"group0\", \"group1\", \"group2\"]";
    let usage = world.export(groups, &world.bucket(), "");
    let ours = row("gitlab-pi-backup", &world, usage.wall);
    let busiest = world.gitlab.busiest(Limit::Export);
    let theirs = reference::installed().map(|app| {
        let world = filled();
        let groups = [0, 1, 2].map(|n| world.gitlab.group(&format!("group{n}")));
        let took = reference::export(&app, &world, &groups, minute);
        row("gitlab-backup-management", &world, took)
    });
    tables::print(
        &format!(
            "60 projects, 6 exports in a minute of {} s",
            minute.as_secs()
        ),
        &["program", "wall s", "in its minutes", "objects", "refused"],
        &rows,
    );
    bars.at_most(
        "60 projects: exports asked for in any minute",
        "",
        6.0,
        Some(f64::from(busiest)),
    );
    bars.at_most(
        "60 projects: wall / nine minutes",
        "",
        1.1,
        Some(ours / least),
    );
    let ratio = theirs.map(|theirs| ours / theirs);
    bars.at_most("60 projects: our wall / the reference's", "", 1.0, ratio);
}

/// Few projects, and a large one.
pub fn memory(bars: &mut Bars) {
    for (what, more) in [("direct", ""), ("through this machine", "direct = false")] {
        let world = World::new(SECOND);
        fill(&world, 10, 10);
        let usage = world.export("[\"group\"]", &world.bucket(), more);
        memory_bar(bars, &format!("10 projects, {what}"), usage);
    }
    let mut rows = Vec::new();
    let encrypted = age::x25519::Identity::generate().to_public();
    let encrypted = format!("[encryption]\nrecipients = [\"{encrypted}\"]\n");
    for (place, more) in [
        ("a folder", ""),
        ("a bucket", "direct = false\n"),
        ("Dropbox", ""),
        ("Dropbox, encrypted", &encrypted),
    ] {
        let world = World::new(SECOND);
        world.gitlab.project_with("group/large", |project| {
            project.export_bytes = 1 << 30;
        });
        let dropbox = Dropbox::start(dropbox::Options {
            tls: true,
            keep_bytes: false,
            ..dropbox::Options::default()
        });
        world.trust(&dropbox);
        let lines = match place {
            "a folder" => world.folder(),
            "a bucket" => world.bucket(),
            _ => {
                let dropbox::Options {
                    app_key,
                    refresh_token,
                    ..
                } = dropbox::Options::default();
                let url = dropbox.url();
                format!(
                    "type = \"dropbox\"\napp_key = \"{app_key}\"\nrefresh_token = \"{refresh_token}\"\n\
                     api_url = \"{url}\"\ncontent_url = \"{url}\""
                )
            }
        };
        let usage = world.export("[\"group\"]", &lines, more);
        rows.push(vec![
            place.to_owned(),
            format!("{:.1}", usage.wall.as_secs_f64()),
            format!("{:.1}", usage.cpu.as_secs_f64()),
            mib(usage.peak_rss),
        ]);
        memory_bar(
            bars,
            &format!("1 GiB through this machine to {place}"),
            usage,
        );
    }
    tables::print(
        "One project of 1 GiB, through this machine",
        &["to", "wall s", "CPU s", "peak RSS MiB"],
        &rows,
    );
}
