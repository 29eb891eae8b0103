//! Lines and bars over time.
//!
//! Only what is drawn is SVG, stretched to whatever room there is; what is read beside it is text of the page, which
//! has the right size on every screen.

use std::cmp::Ordering;
use std::fmt::Write as _;

use chrono::{DateTime, Utc};

use super::text::{count, float};
use super::{Clock, Entry};
use crate::archive::ArchiveKind;
use crate::history::past::PastRun;
use crate::units::Size;

/// Of a drawing, whatever its size on the screen.
const WIDTH: f64 = 1_000.0;
const HEIGHT: f64 = 400.0;
/// Between the horizontal lines.
const STEPS: u32 = 4;
/// A line of more points looks the same.
const MOST_POINTS: usize = 240;
/// A year of two runs a week.
const MOST_BARS: usize = 104;
/// So few bars still look like bars.
const LEAST_SLOTS: usize = 12;
/// A value that a clock or a hand has spoilt must not make everything else invisible: a week.
const LONGEST_SECONDS: f64 = 7.0 * 86_400.0;

/// How large the archives of each kind were; nothing if there was none.
pub(super) fn sizes(runs: &[Entry<'_>], clock: &Clock<'_>) -> String {
    if runs.iter().all(|entry| entry.run.archives.is_empty()) {
        return String::new();
    }
    let mut html = "<section aria-labelledby=\"sizes\">\n<h2 id=\"sizes\">Size of the archives</h2>\n<div class=\"charts\">\n".to_owned();
    for kind in [ArchiveKind::Data, ArchiveKind::Config] {
        html += &size(kind, runs, clock);
    }
    html + "</div>\n</section>\n"
}

fn size(kind: ArchiveKind, runs: &[Entry<'_>], clock: &Clock<'_>) -> String {
    let points = points(kind, runs);
    let name = match kind {
        ArchiveKind::Data => "Data",
        ArchiveKind::Config => "Configuration",
    };
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        return format!(
            "<div>\n<h3>{name}</h3>\n<p class=\"note\">No archive has been recorded yet.</p>\n</div>\n"
        );
    };
    let most = points
        .iter()
        .map(|(_, size)| *size)
        .max()
        .unwrap_or_default();
    let scale = Scale::of_bytes(most);
    let span = (last.0 - first.0).as_seconds_f64();
    let x = |at: DateTime<Utc>| match span {
        0.0 => WIDTH / 2.0,
        span => (at - first.0).as_seconds_f64() / span * WIDTH,
    };
    let (mut line, mut ends) = (String::new(), String::new());
    for (n, (at, size)) in points.iter().enumerate() {
        let to = if n == 0 { 'M' } else { 'L' };
        // Writing to a string cannot fail, here and below.
        let _ = write!(line, "{to}{:.1} {:.1}", x(*at), scale.y(float(*size)));
    }
    let _ = write!(ends, "M{:.1} {:.1}h0", x(last.0), scale.y(float(last.1)));
    let drawn = format!(
        "<path class=\"area\" d=\"{line}L{:.1} {HEIGHT}L{:.1} {HEIGHT}z\"/><path class=\"line\" d=\"{line}\"/>\
         <path class=\"dot\" d=\"{ends}\"/>",
        x(last.0),
        x(first.0)
    );
    let day = clock.day(first.0);
    let since = match last.1.cmp(&first.1) {
        _ if points.len() == 1 => String::new(),
        Ordering::Greater => format!("+{} since {day}", Size(last.1 - first.1)),
        Ordering::Equal => format!("as on {day}"),
        Ordering::Less => format!("−{} since {day}", Size(first.1 - last.1)),
    };
    let labels = match points.len() {
        1 => vec![clock.day(first.0)],
        _ => vec![clock.day(first.0), clock.day(last.0)],
    };
    let told = format!(
        "{} from {} to {}: at first {}, at last {}, at most {}.",
        count(points.len(), "point"),
        clock.day(first.0),
        clock.day(last.0),
        Size(first.1),
        Size(last.1),
        Size(most)
    );
    format!(
        "<div>\n<h3>{name} <strong>{}</strong> <span>{since}</span></h3>\n{}</div>\n",
        Size(last.1),
        frame(
            &format!("size-{kind}"),
            &format!("{name} archives: size over time"),
            &told,
            &scale,
            &labels,
            &drawn
        )
    )
}

/// Each archive once, in the order of time, thinned out.
fn points(kind: ArchiveKind, runs: &[Entry<'_>]) -> Vec<(DateTime<Utc>, u64)> {
    let mut last_name = "";
    let mut points = Vec::new();
    for entry in runs {
        for archive in entry
            .run
            .archives
            .iter()
            .filter(|archive| archive.kind == kind.as_str())
        {
            if archive.name != last_name {
                last_name = &archive.name;
                points.push((entry.at, archive.size));
            }
        }
    }
    let all = points.len();
    let is_kept = |n: usize| {
        all <= MOST_POINTS
            || n + 1 == all
            || n * MOST_POINTS / all != (n + 1) * MOST_POINTS / all
            || n == 0
    };
    points
        .into_iter()
        .enumerate()
        .filter(|(n, _)| is_kept(*n))
        .map(|(_, point)| point)
        .collect()
}

/// What a run spends its time with: in words, and the step it is; the last one takes every other step.
const PARTS: [(&str, &str); 4] = [
    ("configuration backup", "config_command"),
    ("data backup", "data_command"),
    ("upload", "upload"),
    ("everything else", ""),
];

/// How long the runs took, and with what; nothing if there was none.
pub(super) fn durations(runs: &[Entry<'_>], clock: &Clock<'_>) -> String {
    let head =
        "<section aria-labelledby=\"durations\">\n<h2 id=\"durations\">Duration of the runs</h2>\n";
    let worked: Vec<_> = runs
        .iter()
        .filter(|entry| !entry.run.steps.is_empty())
        .collect();
    let shown = &worked[worked.len().saturating_sub(MOST_BARS)..];
    let (Some(first), Some(last)) = (shown.first(), shown.last()) else {
        return String::new();
    };
    let rows: Vec<_> = shown.iter().map(|entry| spent(entry.run)).collect();
    let total = |row: &[f64; PARTS.len()]| row.iter().sum::<f64>();
    let scale = Scale::of_seconds(rows.iter().map(total).fold(0.0, f64::max));
    let slot = WIDTH / float(rows.len().max(LEAST_SLOTS) as u64);
    let mut bars: [String; PARTS.len()] = Default::default();
    for (n, row) in rows.iter().enumerate() {
        let (left, width) = (slot * (float(n as u64) + 0.15), slot * 0.7);
        let mut below = 0.0;
        for (bar, seconds) in bars
            .iter_mut()
            .zip(row)
            .filter(|(_, seconds)| **seconds > 0.0)
        {
            let (top, bottom) = (scale.y(below + seconds), scale.y(below));
            let _ = write!(
                bar,
                "M{left:.1} {bottom:.1}V{top:.1}h{width:.1}V{bottom:.1}z"
            );
            below += seconds;
        }
    }
    let mut drawn = String::new();
    let mut legend = String::new();
    for (n, (name, _)) in PARTS.iter().enumerate() {
        let _ = write!(drawn, "<path class=\"p{n}\" d=\"{}\"/>", bars[n]);
        let _ = writeln!(legend, "<li><i class=\"p{n}\"></i>{name}</li>");
    }
    let (from, to) = (clock.day(first.at), clock.day(last.at));
    let labels = match rows.len() {
        1 => vec![from.clone()],
        // The last of them does not stand at the right.
        n if n < LEAST_SLOTS => vec![format!("{from} – {to}")],
        _ => vec![from.clone(), to.clone()],
    };
    let told = format!(
        "{} from {} to {}, the longest {}.",
        count(rows.len(), "run"),
        from,
        to,
        scale.told(rows.iter().map(total).fold(0.0, f64::max))
    );
    let chart = frame(
        "durations-chart",
        "How long each run took, by what it did",
        &told,
        &scale,
        &labels,
        &drawn,
    );
    format!("{head}{chart}<ul class=\"legend\">\n{legend}</ul>\n</section>\n")
}

/// Seconds of a run for each of [`PARTS`].
fn spent(run: &PastRun) -> [f64; PARTS.len()] {
    let mut spent = [0.0; PARTS.len()];
    for step in &run.steps {
        let named = PARTS.iter().position(|(_, name)| *name == step.step);
        // Numbers of a damaged line may be anything.
        if step.seconds.is_finite() {
            spent[named.unwrap_or(PARTS.len() - 1)] += step.seconds.clamp(0.0, LONGEST_SECONDS);
        }
    }
    spent
}

/// What the height means.
struct Scale {
    /// The value at the top.
    top: f64,
    unit: &'static str,
    factor: f64,
}

impl Scale {
    fn of_bytes(most: u64) -> Scale {
        let units = [
            ("B", 0),
            ("KiB", 10),
            ("MiB", 20),
            ("GiB", 30),
            ("TiB", 40),
            ("PiB", 50),
            ("EiB", 60),
        ];
        // 1,000 MiB is better told in GiB.
        let is_near = |shift: u32| most >= (1_u64 << shift) / 128 * 125;
        let unit = units.iter().rev().find(|(_, shift)| is_near(*shift));
        let (unit, shift) = unit.copied().unwrap_or(("B", 0));
        Scale::new(float(most), unit, float(1_u64 << shift))
    }

    fn of_seconds(most: f64) -> Scale {
        match most {
            ..180.0 => Scale::new(most, "s", 1.0),
            ..10_800.0 => Scale::new(most, "min", 60.0),
            _ => Scale::new(most, "h", 3_600.0),
        }
    }

    /// The least round number above `most` that divides into round steps.
    fn new(most: f64, unit: &'static str, factor: f64) -> Scale {
        // There is no half byte.
        let least = if matches!(unit, "B" | "s") { 1.0 } else { 0.01 };
        let step = (most / factor / f64::from(STEPS)).max(least);
        let power = 10_f64.powf(step.log10().floor());
        let round = [1.0, 2.0, 2.5, 5.0]
            .into_iter()
            .find(|round| round * power >= step * 0.999_999);
        Scale {
            top: round.unwrap_or(10.0) * power * f64::from(STEPS) * factor,
            unit,
            factor,
        }
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - value / self.top * HEIGHT
    }

    /// At a line, counted from below.
    fn label(&self, line: u32) -> String {
        if line == 0 {
            return "0".to_owned();
        }
        let value = self.top / self.factor * f64::from(line) / f64::from(STEPS);
        // At most two digits behind the point, and no zeros at their end.
        format!("{} {}", (value * 100.0).round() / 100.0, self.unit)
    }

    fn told(&self, value: f64) -> String {
        format!("{:.1} {}", value / self.factor, self.unit)
    }
}

/// A drawing with its axes.
fn frame(
    id: &str,
    title: &str,
    told: &str,
    scale: &Scale,
    labels: &[String],
    drawn: &str,
) -> String {
    let mut html = "<figure class=\"chart\">\n<div class=\"y\" aria-hidden=\"true\">".to_owned();
    let mut grid = String::new();
    for line in (0..=STEPS).rev() {
        let _ = write!(html, "<span>{}</span>", scale.label(line));
        let _ = write!(
            grid,
            "M0 {}H{WIDTH}",
            HEIGHT - HEIGHT * f64::from(line) / f64::from(STEPS)
        );
    }
    let _ = write!(
        html,
        "</div>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-labelledby=\"{id}-t {id}-d\"><title id=\"{id}-t\">{title}</title><desc id=\"{id}-d\">{told}</desc>\
         <path class=\"grid\" d=\"{grid}\"/>{drawn}</svg>\n<div class=\"x\" aria-hidden=\"true\">"
    );
    for label in labels {
        let _ = write!(html, "<span>{label}</span>");
    }
    html + "</div>\n</figure>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_round_and_hold_everything() {
        let labels = |scale: &Scale| {
            (1..=STEPS)
                .map(|line| scale.label(line))
                .collect::<Vec<_>>()
                .join(", ")
        };
        for (most, told) in [
            (0, "1 B, 2 B, 3 B, 4 B"),
            (3, "1 B, 2 B, 3 B, 4 B"),
            (120 << 10, "50 KiB, 100 KiB, 150 KiB, 200 KiB"),
            (1_010 << 20, "0.25 GiB, 0.5 GiB, 0.75 GiB, 1 GiB"),
            (1_500 << 20, "0.5 GiB, 1 GiB, 1.5 GiB, 2 GiB"),
            (2 << 30, "0.5 GiB, 1 GiB, 1.5 GiB, 2 GiB"),
            (u64::MAX, "5 EiB, 10 EiB, 15 EiB, 20 EiB"),
        ] {
            let scale = Scale::of_bytes(most);
            assert_eq!(labels(&scale), told);
            assert!((0.0..=HEIGHT).contains(&scale.y(float(most))), "{told}");
        }
        for (most, told) in [
            (0.0, "1 s, 2 s, 3 s, 4 s"),
            (90.0, "25 s, 50 s, 75 s, 100 s"),
            (372.0, "2 min, 4 min, 6 min, 8 min"),
            (30_000.0, "2.5 h, 5 h, 7.5 h, 10 h"),
        ] {
            assert_eq!(labels(&Scale::of_seconds(most)), told);
        }
    }
}
