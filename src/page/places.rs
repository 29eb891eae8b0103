//! The destinations: what each has, how full it is, and when it will be full.

use std::fmt::Write as _;

use chrono::{DateTime, TimeDelta, Utc};

use super::growth::{Room, Trend, room};
use super::text::{Escaped, first_line, float};
use super::{Clock, Entry};
use crate::archive::{ArchiveKind, ArchiveName};
use crate::history::past::{PastRehearsal, PastRun};
use crate::status::Known;
use crate::units::Size;

/// Beyond it nobody plans.
const LONGEST_OUTLOOK_DAYS: f64 = 3_650.0;

/// A card for each.
pub(super) fn section(known: &Known<'_>, runs: &[Entry<'_>], clock: &Clock<'_>) -> String {
    let mut html = "<section aria-labelledby=\"places\">\n<h2 id=\"places\">Destinations</h2>\n<div class=\"cards\">\n".to_owned();
    for (name, kinds) in known.destinations {
        html += &card(name, kinds, known, runs, clock);
    }
    html + "</div>\n</section>\n"
}

fn card(
    name: &str,
    kinds: &[ArchiveKind],
    known: &Known<'_>,
    runs: &[Entry<'_>],
    clock: &Clock<'_>,
) -> String {
    let gets: Vec<_> = kinds.iter().map(|kind| kind.as_str()).collect();
    let mut html = format!(
        "<article class=\"card\">\n<h3>{} <span>{}</span></h3>\n",
        Escaped(first_line(name, 60)),
        gets.join(" + ")
    );
    let room = room(runs, name, clock);
    html += &room.as_ref().map(bar).unwrap_or_default();
    html += "<dl>\n";
    let mut fact = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(html, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    };
    fact(
        "Newest complete",
        match newest_complete(known, name, kinds) {
            Some(made) => format!("{} ago", clock.age(made)),
            None => "none that is remembered".to_owned(),
        },
    );
    fact("Free", room.as_ref().map_or("not known".to_owned(), free));
    fact(
        "Growth",
        room.as_ref().map_or("not known".to_owned(), growth),
    );
    fact(
        "Full",
        room.as_ref()
            .map_or("not known".to_owned(), |room| full(room, clock)),
    );
    html + "</dl>\n</article>\n"
}

fn free(room: &Room) -> String {
    match (room.free, room.total) {
        (Some(free), Some(total)) => format!("{} of {}", Size(free), Size(total)),
        (Some(free), None) => Size(free).to_string(),
        (None, _) => "not known".to_owned(),
    }
}

fn growth(room: &Room) -> String {
    match room.trend {
        Trend::NotKnown => "not known yet".to_owned(),
        Trend::NotGrowing => "none".to_owned(),
        Trend::Growing { per_day, .. } => format!("{} a month", bytes(per_day * 30.44)),
    }
}

fn full(room: &Room, clock: &Clock<'_>) -> String {
    match room.trend {
        Trend::NotKnown => "not known yet".to_owned(),
        Trend::NotGrowing if room.free == Some(0) => "now".to_owned(),
        Trend::NotGrowing => "not in sight".to_owned(),
        Trend::Growing {
            full_in_days: None, ..
        } => "not known".to_owned(),
        Trend::Growing {
            full_in_days: Some(days),
            ..
        } if days > LONGEST_OUTLOOK_DAYS => "not within ten years".to_owned(),
        Trend::Growing {
            full_in_days: Some(days),
            ..
        } => {
            let at = room.measured_at + TimeDelta::minutes(whole(days * 1_440.0));
            match (at - clock.now()).num_days() {
                ..1 => "now".to_owned(),
                1 => "in a day".to_owned(),
                days => format!("in {days} days, {}", clock.local(at).format("%b %Y")),
            }
        }
    }
}

/// How much is taken, as a bar.
fn bar(room: &Room) -> String {
    let (Some(used), Some(total)) = (room.used, room.total.filter(|total| *total > 0)) else {
        return String::new();
    };
    let percent = (float(used) / float(total) * 100.0).min(100.0);
    let class = match percent {
        ..80.0 => "",
        ..95.0 => " part",
        _ => " bad",
    };
    format!(
        "<svg class=\"bar{class}\" viewBox=\"0 0 100 4\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"{percent:.0} % used\"><rect class=\"all\" width=\"100\" height=\"4\"/>\
         <rect width=\"{percent:.1}\" height=\"4\"/></svg>\n"
    )
}

fn bytes(bytes: f64) -> Size {
    Size(u64::try_from(whole(bytes)).unwrap_or_default())
}

/// Within what fits; beyond it a number says no more than the largest.
#[expect(
    clippy::cast_possible_truncation,
    reason = "it is kept within bounds, and `as` saturates"
)]
fn whole(number: f64) -> i64 {
    number.round() as i64
}

/// When the newest backup was made that was seen complete there. A manifest is stored last, when all that it names is;
/// where no data go there is none.
fn newest_complete(
    known: &Known<'_>,
    destination: &str,
    kinds: &[ArchiveKind],
) -> Option<DateTime<Utc>> {
    if !kinds.contains(&ArchiveKind::Data) {
        let configs = known
            .runs
            .iter()
            .flat_map(|run| &run.archives)
            .filter(|archive| archive.kind == "config");
        let stored = configs.filter(|archive| {
            archive.doubts.is_empty()
                && archive
                    .uploads
                    .iter()
                    .any(|upload| upload.destination == destination && upload.verified)
        });
        return stored
            .filter_map(|archive| ArchiveName::parse(&archive.name))
            .map(|name| name.created_at())
            .max();
    }
    let manifests = known.runs.iter().flat_map(|run| &run.manifests);
    let stored = manifests.filter(|row| row.destination == destination && row.status != "failed");
    let failed = |id: &str| {
        let mut rehearsed = known.rehearsals.iter().rev();
        let last = rehearsed.find(|past| is_of(past, id, destination));
        last.is_some_and(|past| past.restorable == Some(false))
    };
    let mut names: Vec<_> = stored
        .filter_map(|row| ArchiveName::of_backup(&row.backup_id))
        .collect();
    names.sort_by(ArchiveName::age_order);
    let good = |name: &&ArchiveName| {
        let id = name.backup_id().unwrap_or_default();
        !is_doubtful(known.runs, id) && !failed(id)
    };
    names.iter().rev().find(good).map(ArchiveName::created_at)
}

/// A rehearsal that came to an end.
fn is_of(past: &PastRehearsal, backup_id: &str, destination: &str) -> bool {
    past.backup_id == backup_id && past.destination == destination && past.restorable.is_some()
}

fn is_doubtful(runs: &[PastRun], backup_id: &str) -> bool {
    let of_it = runs
        .iter()
        .rev()
        .filter(|run| run.backup_id.as_deref() == Some(backup_id));
    of_it
        .flat_map(|run| &run.archives)
        .any(|archive| !archive.doubts.is_empty())
}
