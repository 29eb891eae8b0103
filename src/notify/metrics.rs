//! A file for the textfile collector of Prometheus' `node_exporter`.
//!
//! Everything in it is computed anew from the history, so a failed run takes nothing away: the newest archive
//! that is stored stays the newest that is stored. Names and units follow
//! <https://prometheus.io/docs/practices/naming/>.

mod exports;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::Path;

use chrono::{DateTime, Utc};

use crate::archive::ArchiveKind;
use crate::error::{Error, ErrorKind};
use crate::history::past::{PastExport, PastRehearsal, PastRun};
use crate::state::{can_publish, publish};

/// Where a rehearsal read this machine's own archives.
const LOCAL: &str = "local";

/// Kind and destination.
type Labels<'a> = Vec<(&'static str, &'a str)>;

/// Writes the file, whole.
pub fn write(path: &Path, text: &str) -> Result<(), Error> {
    publish(path, text).map_err(|error| failed(path, &error))
}

/// Whether it could be written, without changing it.
pub fn look(path: &Path) -> Result<String, Error> {
    can_publish(path).map_err(|error| failed(path, &error))?;
    Ok(format!("{} can be written", path.display()))
}

fn failed(path: &Path, error: &io::Error) -> Error {
    let action = format!("writing the metrics {}", path.display());
    let error_kind = error.kind();
    let error = Error::new(ErrorKind::Invalid, action, error.to_string());
    match error_kind {
        io::ErrorKind::NotFound => error.hint(
            "make the folder, and give it to node_exporter: --collector.textfile.directory=FOLDER",
        ),
        _ => error.hint("may this program write into that folder?"),
    }
}

/// What the history holds, the oldest first.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// With the one that has just ended.
    pub runs: Vec<PastRun>,
    /// Of any place.
    pub rehearsals: Vec<PastRehearsal>,
    /// Of projects, with the one that has just ended; none where projects are no longer exported.
    pub exports: Vec<PastExport>,
}

/// What the history tells. Of what is no longer configured only the last run tells: an archive that nobody renews
/// would look like one that is late, for years.
pub fn text(past: &Past, destinations: &[(String, Vec<ArchiveKind>)]) -> String {
    let mut text = String::new();
    let (runs, rehearsals) = (&past.runs, &past.rehearsals);
    if let Some(run) = runs.last() {
        last_run(&mut text, run);
        uploads(&mut text, run);
    }
    let good = runs.iter().rev().find(|run| run.status == "ok");
    let success = good.and_then(|run| run.finished_at);
    family(
        &mut text,
        "last_success_timestamp_seconds",
        "When the last run ended that did everything.",
        success.map(|at| (Vec::new(), seconds(at))),
    );
    archives(&mut text, runs, |kind, destination| {
        let mut known = destinations.iter();
        known.any(|(name, kinds)| {
            name == destination && kinds.iter().any(|own| own.as_str() == kind)
        })
    });
    rehearsed(&mut text, rehearsals, |destination| {
        destination == LOCAL || destinations.iter().any(|(name, _)| name == destination)
    });
    exports::exports(&mut text, &past.exports);
    text
}

fn last_run(text: &mut String, run: &PastRun) {
    let took = run
        .finished_at
        .zip(run.started_at)
        .map(|(end, start)| end - start);
    family(
        text,
        "last_run_timestamp_seconds",
        "When the last run ended.",
        run.finished_at.map(|at| (Vec::new(), seconds(at))),
    );
    family(
        text,
        "last_run_duration_seconds",
        "How long the last run took.",
        took.map(|took| (Vec::new(), took.num_seconds().to_string())),
    );
    family(
        text,
        "last_run_exit_status",
        "What the last run ended with: 0 well, 3 in part, else failed.",
        run.exit.map(|exit| (Vec::new(), exit.to_string())),
    );
}

/// What the last run sent, by kind and destination; a kind may have several archives.
fn uploads(text: &mut String, run: &PastRun) {
    let mut all: BTreeMap<(&str, &str), (f64, u64, bool)> = BTreeMap::new();
    for archive in &run.archives {
        for upload in &archive.uploads {
            let key = (archive.kind.as_str(), upload.destination.as_str());
            let sum = all.entry(key).or_insert((0.0, 0, true));
            sum.0 += upload.seconds;
            // A history that was damaged may hold any number.
            sum.1 = sum.1.saturating_add(upload.bytes_sent);
            sum.2 &= is_stored(&upload.status);
        }
    }
    let rows = |value: fn(&(f64, u64, bool)) -> String| {
        all.iter().map(move |(key, sum)| (labels(*key), value(sum)))
    };
    family(
        text,
        "upload_seconds",
        "How long the last run sent.",
        rows(|sum| sum.0.to_string()),
    );
    family(
        text,
        "upload_bytes",
        "How much the last run sent.",
        rows(|sum| sum.1.to_string()),
    );
    family(
        text,
        "upload_status",
        "1 if what the last run was to send is stored, else 0.",
        rows(|sum| u8::from(sum.2).to_string()),
    );
}

/// The newest archive of each kind that is stored at each destination.
fn archives(text: &mut String, runs: &[PastRun], is_configured: impl Fn(&str, &str) -> bool) {
    let mut newest: BTreeMap<(&str, &str), (DateTime<Utc>, u64)> = BTreeMap::new();
    for archive in runs.iter().flat_map(|run| &run.archives) {
        let Some(created) = archive.created_at else {
            continue;
        };
        let stored = archive
            .uploads
            .iter()
            .filter(|upload| is_stored(&upload.status))
            .filter(|upload| is_configured(&archive.kind, &upload.destination));
        for upload in stored {
            let key = (archive.kind.as_str(), upload.destination.as_str());
            let known = newest.entry(key).or_insert((created, archive.size));
            if created >= known.0 {
                *known = (created, archive.size);
            }
        }
    }
    family(
        text,
        "archive_created_timestamp_seconds",
        "When the newest stored archive was made.",
        newest
            .iter()
            .map(|(key, (created, _))| (labels(*key), seconds(*created))),
    );
    family(
        text,
        "archive_size_bytes",
        "How large the newest stored archive is.",
        newest
            .iter()
            .map(|(key, (_, size))| (labels(*key), size.to_string())),
    );
}

/// The last rehearsal at each destination that came to an end.
fn rehearsed(
    text: &mut String,
    rehearsals: &[PastRehearsal],
    is_configured: impl Fn(&str) -> bool,
) {
    let ended = rehearsals
        .iter()
        .filter(|past| past.restorable.is_some() && is_configured(&past.destination));
    let last: BTreeMap<&str, &PastRehearsal> = ended
        .map(|past| (past.destination.as_str(), past))
        .collect();
    let labels = |destination| vec![("destination", destination)];
    family(
        text,
        "rehearsal_timestamp_seconds",
        "When a stored backup was last read as a whole.",
        last.iter()
            .map(|(name, past)| (labels(*name), seconds(past.finished_at))),
    );
    family(
        text,
        "rehearsal_restorable",
        "1 if it would have been restored, else 0.",
        last.iter().map(|(name, past)| {
            (
                labels(*name),
                u8::from(past.restorable == Some(true)).to_string(),
            )
        }),
    );
}

fn is_stored(status: &str) -> bool {
    matches!(status, "uploaded" | "already_present")
}

fn labels<'a>((kind, destination): (&'a str, &'a str)) -> Labels<'a> {
    vec![("kind", kind), ("destination", destination)]
}

fn seconds(at: DateTime<Utc>) -> String {
    at.timestamp().to_string()
}

/// A metric with all its rows; nothing if it has none.
fn family<'a>(
    text: &mut String,
    name: &str,
    help: &str,
    rows: impl IntoIterator<Item = (Labels<'a>, String)>,
) {
    let name = format!("gitlab_pi_backup_{name}");
    let mut rows = rows.into_iter().peekable();
    if rows.peek().is_some() {
        // Writing to a string cannot fail.
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n");
    }
    for (labels, value) in rows {
        let labels: Vec<_> = labels
            .iter()
            .map(|(label, value)| format!("{label}=\"{}\"", escaped(value)))
            .collect();
        let labels = if labels.is_empty() {
            String::new()
        } else {
            format!("{{{}}}", labels.join(","))
        };
        let _ = writeln!(text, "{name}{labels} {value}");
    }
}

/// <https://prometheus.io/docs/instrumenting/exposition_formats/#comments-help-text-and-type-information>
fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::past;
    use serde_json::{Value, json};

    fn read(entries: &[Value]) -> Past {
        Past {
            runs: past::runs(entries),
            rehearsals: past::rehearsals(entries),
            exports: past::exports(entries),
        }
    }

    fn run(end: &str, status: &str, exit: u8, archives: &Value) -> Value {
        json!({ "command": "run", "run_id": end, "status": status, "exit": exit, "archives": archives,
            "started_at": "2023-12-16T20:00:00Z", "finished_at": end })
    }

    fn archive(created: &str, size: u64, status: &str) -> Value {
        let upload = json!({ "destination": "drop\"box\\\n", "status": status, "seconds": 1.5, "bytes_sent": size });
        json!({ "kind": "data", "name": created, "size": size, "created_at": created, "uploads": [upload] })
    }

    #[test]
    fn a_failed_run_takes_nothing_away_and_no_row_is_there_twice() {
        let entries = [
            run(
                "2023-12-16T20:30:00Z",
                "ok",
                0,
                &json!([archive("2023-12-16T20:29:43Z", 7, "uploaded")]),
            ),
            run(
                "2023-12-17T20:10:00Z",
                "failed",
                1,
                &json!([
                    archive("2023-12-15T20:29:43Z", 5, "uploaded"),
                    archive("2023-12-17T20:00:00Z", 9, "failed"),
                ]),
            ),
            json!({ "command": "rehearse", "backup_id": "b", "destination": "local", "restorable": false,
                "finished_at": "2023-12-16T21:00:00Z" }),
            json!({ "command": "rehearse", "backup_id": "b", "destination": "local", "restorable": null,
                "finished_at": "2023-12-16T22:00:00Z" }),
        ];
        let text = text(
            &read(&entries),
            &[("drop\"box\\\n".to_owned(), ArchiveKind::ALL.to_vec())],
        );
        let at = "{kind=\"data\",destination=\"drop\\\"box\\\\\\n\"}";
        for line in [
            "last_run_timestamp_seconds 1702843800".to_owned(),
            "last_run_exit_status 1".into(),
            "last_success_timestamp_seconds 1702758600".into(),
            format!("archive_created_timestamp_seconds{at} 1702758583"),
            format!("archive_size_bytes{at} 7"),
            format!("upload_seconds{at} 3"),
            format!("upload_bytes{at} 14"),
            format!("upload_status{at} 0"),
            "rehearsal_timestamp_seconds{destination=\"local\"} 1702760400".into(),
            "rehearsal_restorable{destination=\"local\"} 0".into(),
        ] {
            let line = format!("gitlab_pi_backup_{line}");
            assert_eq!(
                text.lines().filter(|own| *own == line).count(),
                1,
                "{line} in\n{text}"
            );
        }
        let names: Vec<_> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(name, _)| name)
            .collect();
        let mut single = names.clone();
        single.dedup();
        assert_eq!(names, single);
    }

    #[test]
    fn an_empty_history_has_no_metrics() {
        assert_eq!(text(&Past::default(), &[]), "");
        let past = Past {
            runs: vec![PastRun::default()],
            ..Past::default()
        };
        let text = text(&past, &[]);
        assert_eq!(text, "");
    }

    #[test]
    fn what_is_no_longer_configured_is_not_late() {
        let stored = |end: &str, destination: &str| {
            let rows = [(ArchiveKind::Config, 1), (ArchiveKind::Data, u64::MAX)].map(|(kind, sent)| {
                let upload = json!({ "destination": destination, "status": "uploaded", "bytes_sent": sent });
                json!({ "kind": kind.as_str(), "created_at": end, "uploads": [upload, upload] })
            });
            run(end, "ok", 0, &json!(rows))
        };
        let entries = [
            stored("2023-12-13T04:00:00Z", "former"),
            stored("2023-12-16T04:00:00Z", "pi"),
            json!({ "command": "rehearse", "backup_id": "b", "destination": "former", "restorable": true,
                "finished_at": "2023-12-13T12:00:00Z" }),
        ];
        let known = [("pi".to_owned(), vec![ArchiveKind::Data])];
        let text = text(&read(&entries), &known);
        assert!(
            !text.contains("former") && !text.contains("rehearsal"),
            "{text}"
        );
        let created: Vec<_> = text
            .lines()
            .filter(|line| line.contains("_archive_created_timestamp_seconds{"))
            .collect();
        let row = "gitlab_pi_backup_archive_created_timestamp_seconds{kind=\"data\",destination=\"pi\"} 1702699200";
        assert_eq!(created, [row]);
        // What a damaged history says twice is no overflow.
        assert!(text.contains(&format!(
            "{{kind=\"data\",destination=\"pi\"}} {}\n",
            u64::MAX
        )));
    }
}
