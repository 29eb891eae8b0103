//! The destinations: what each has, how full it is, and when it will be full.

use std::fmt::Write as _;

use chrono::TimeDelta;

use super::growth::{Room, Trend, room};
use super::text::{Escaped, first_line, float};
use super::{Clock, Entry, Facts};
use crate::archive::ArchiveKind;
use crate::status::Place;
use crate::units::Size;

/// Beyond it nobody plans.
const LONGEST_OUTLOOK_DAYS: f64 = 3_650.0;

const LONGEST_ERROR: usize = 200;

/// A card for each.
pub(super) fn section(facts: &Facts<'_>, runs: &[Entry<'_>], clock: &Clock<'_>) -> String {
    let mut html = "<section aria-labelledby=\"places\">\n<h2 id=\"places\">Destinations</h2>\n<div class=\"cards\">\n".to_owned();
    for (name, kinds) in facts.known.destinations {
        let mut places = facts.health.destinations.iter();
        let place = places.find(|place| place.destination == *name);
        html += &card(name, kinds, place, runs, clock);
    }
    html + "</div>\n</section>\n"
}

fn card(
    name: &str,
    kinds: &[ArchiveKind],
    place: Option<&Place>,
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
        match place.and_then(|place| place.created_at) {
            Some(made) => format!("{} ago", clock.age(made)),
            None => "none known".to_owned(),
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
    html += "</dl>\n";
    if let Some(error) = place.and_then(|place| place.error.as_deref()) {
        let error = Escaped(first_line(error, LONGEST_ERROR));
        let _ = writeln!(html, "<p class=\"trouble\">{error}</p>");
    }
    html + "</article>\n"
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
