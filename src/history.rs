//! The history of runs, rehearsals and exports: one JSON line each, bounded.

mod export;
pub mod past;

use std::fs;
use std::io;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use crate::content_hash::Digest;
use crate::job::Job;
use crate::projects::report::ExportReport;
use crate::report::RunReport;
use crate::state::{StateDir, append_line, replace};

pub use crate::history::export::entry as export_entry;

/// Its name in the state folder.
const FILE: &str = "history.jsonl";
/// About nine years of two runs a week.
const LONGEST: usize = 1_000;
/// It is shortened when it has grown by this many lines over [`LONGEST`], not at every run.
const SLACK: usize = 100;
/// About a year of two runs a week and some rehearsals.
const RECENT: usize = 120;
/// Exports may be made every hour; that crowds no run out. Most of them are a few hundred bytes.
const MOST_EXPORTS: usize = 400;

/// Adds a run.
pub fn record(state: &StateDir, report: &RunReport) -> io::Result<()> {
    add(state, &entry(report)?)
}

/// Adds an export of projects: its counts and what failed, not a row for each project.
pub fn record_export(state: &StateDir, report: &ExportReport) -> io::Result<()> {
    state.make()?;
    add(state, &export::entry(report))
}

/// A run as it is recorded.
fn entry(report: &RunReport) -> io::Result<Value> {
    let mut value = serde_json::to_value(report)?;
    if let Some(object) = value.as_object_mut() {
        object.insert("exit".to_owned(), json!(report.exit_status()));
    }
    Ok(value)
}

/// Adds a rehearsal; `restorable` is none if the backup could not be read to its end.
pub fn record_rehearsal(
    state: &StateDir,
    backup_id: &str,
    destination: &str,
    restorable: Option<bool>,
    at: DateTime<Utc>,
) -> io::Result<()> {
    let value = json!({
        "command": "rehearse",
        "backup_id": backup_id,
        "destination": destination,
        "restorable": restorable,
        "finished_at": at.to_rfc3339_opts(SecondsFormat::Secs, true),
    });
    state.make()?;
    add(state, &value)
}

fn add(state: &StateDir, value: &Value) -> io::Result<()> {
    let path = state.path().join(FILE);
    append_line(&path, &value.to_string())?;
    let bytes = fs::read(&path)?;
    let is_long = |count: usize, most: usize| count > most + SLACK;
    let exports = lines(&bytes).filter(|line| is_export(line)).count();
    let others = lines(&bytes).count() - exports;
    if is_long(others, LONGEST) || is_long(exports, MOST_EXPORTS) {
        let kept = last(&bytes, LONGEST, MOST_EXPORTS);
        replace(
            &path,
            kept.join(&b'\n')
                .into_iter()
                .chain(*b"\n")
                .collect::<Vec<_>>(),
        )?;
    }
    Ok(())
}

/// Without empty ones. A bad memory card leaves bytes that are no text, which spoil their line only.
fn lines(bytes: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
}

/// The last lines in their order, so many of exports and so many of everything else.
fn last(bytes: &[u8], mut others: usize, mut exports: usize) -> Vec<&[u8]> {
    let mut kept = Vec::new();
    for line in lines(bytes).rev() {
        let left = if is_export(line) {
            &mut exports
        } else {
            &mut others
        };
        if *left > 0 {
            *left -= 1;
            kept.push(line);
        }
    }
    kept.reverse();
    kept
}

/// Whether a line is of an export, without understanding all of it: within a text of JSON no quotation mark stands
/// without a backslash, so nothing else can look so.
fn is_export(line: &[u8]) -> bool {
    let mark = format!("\"command\":\"{}\"", Job::Projects.command());
    line.windows(mark.len())
        .any(|window| window == mark.as_bytes())
}

/// Nothing if there is no file.
fn bytes(state: &StateDir) -> io::Result<Vec<u8>> {
    match fs::read(state.path().join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    }
}

/// All runs, the oldest first; damaged lines are passed over, a missing file is no run.
pub fn read(state: &StateDir) -> io::Result<Vec<Value>> {
    Ok(read_and_count_damage(state)?.0)
}

/// Like [`read`], but only the last year or so: what a run looks back to, so that its memory does not grow over the
/// years (an entry takes 20 KB).
pub fn read_recent(state: &StateDir) -> io::Result<Vec<Value>> {
    let bytes = bytes(state)?;
    let recent = last(&bytes, RECENT, RECENT).into_iter();
    Ok(recent
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect())
}

/// Like [`read`], with the number of damaged lines.
pub fn read_and_count_damage(state: &StateDir) -> io::Result<(Vec<Value>, usize)> {
    let bytes = bytes(state)?;
    let entries = lines(&bytes).filter_map(|line| serde_json::from_slice(line).ok());
    let entries: Vec<Value> = entries.collect();
    let damaged = lines(&bytes).count() - entries.len();
    Ok((entries, damaged))
}

/// Whether the last line is damaged: what happened last is not known.
pub fn is_end_damaged(state: &StateDir) -> io::Result<bool> {
    let bytes = bytes(state)?;
    let last = lines(&bytes).last();
    Ok(last.is_some_and(|line| serde_json::from_slice::<serde_json::Map<_, _>>(line).is_err()))
}

/// The rehearsals of a backup at a place that came to an end, the newest first: when, and whether it would
/// have been restorable.
pub fn rehearsals(
    runs: &[Value],
    backup_id: &str,
    destination: &str,
) -> impl Iterator<Item = (DateTime<Utc>, bool)> {
    let is =
        |entry: &Value, key: &str, text: &str| entry.get(key).and_then(Value::as_str) == Some(text);
    let of_this = move |entry: &&Value| {
        is(entry, "command", "rehearse")
            && is(entry, "backup_id", backup_id)
            && is(entry, "destination", destination)
    };
    let read = |entry: &Value| {
        let restorable = entry.get("restorable")?.as_bool()?;
        Some((
            entry.get("finished_at")?.as_str()?.parse().ok()?,
            restorable,
        ))
    };
    runs.iter().rev().filter(of_this).filter_map(read)
}

/// The content hash with which runs of this machine last stored an archive, anywhere.
pub fn content_hash(runs: &[Value], archive: &str) -> Option<Digest> {
    let archives = runs
        .iter()
        .rev()
        .filter_map(|run| run.get("archives")?.as_array());
    let named = archives
        .flatten()
        .filter(|row| row.get("name").and_then(Value::as_str) == Some(archive));
    let uploads = named.filter_map(|row| row.get("uploads")?.as_array());
    uploads
        .flatten()
        .find_map(|upload| Digest::parse(upload.get("content_hash")?.as_str()?))
}

/// The size in bytes of the last archive of a kind that a run knew.
pub fn last_size(runs: &[Value], kind: &str) -> Option<u64> {
    let archives = runs
        .iter()
        .rev()
        .filter_map(|run| run.get("archives")?.as_array());
    let mut of_kind = archives
        .flatten()
        .filter(|archive| archive.get("kind").and_then(Value::as_str) == Some(kind));
    of_kind.next()?.get("size")?.as_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_bounded_and_survives_damage() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let state = StateDir::new(dir.path());
        let path = dir.path().join(FILE);
        assert!(read(&state).expect("none yet").is_empty());
        let torn = b"{\"run_id\":\"old\"}\n\0\0\0\nnot json\n\xff\xfe\n\n";
        fs::write(&path, torn.repeat(LONGEST)).expect("write");
        let (runs, damaged) = read_and_count_damage(&state).expect("read");
        assert_eq!((runs.len(), damaged), (LONGEST, 3 * LONGEST));
        record(
            &state,
            &RunReport::begin("new".to_owned(), DateTime::UNIX_EPOCH),
        )
        .expect("recorded");
        let left = fs::read(&path).expect("read");
        assert_eq!(lines(&left).count(), LONGEST);
        let recent = read_recent(&state).expect("read");
        let runs = read(&state).expect("read");
        assert!(recent.len() <= RECENT && runs.ends_with(&recent));
        assert_eq!(
            recent.last().and_then(|run| run["run_id"].as_str()),
            Some("new")
        );
    }

    #[test]
    fn exports_crowd_no_run_out() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let state = StateDir::new(dir.path());
        let path = dir.path().join(FILE);
        // What only speaks of the command is no export.
        let run = "{\"command\":\"run\",\"error\":\"\\\"command\\\":\\\"export projects\\\"\"}\n";
        let export = "{\"command\":\"export projects\"}\n";
        let text = run.to_owned() + &export.repeat(MOST_EXPORTS + SLACK);
        fs::write(&path, text).expect("write");
        let of = |entries: &[Value], command: &str| {
            let entries = entries.iter();
            entries.filter(|entry| entry["command"] == command).count()
        };
        let recent = read_recent(&state).expect("read");
        assert_eq!((of(&recent, "run"), recent.len()), (1, RECENT + 1));
        let report = ExportReport::begin("e".to_owned(), "s3".to_owned(), DateTime::UNIX_EPOCH);
        record_export(&state, &report).expect("recorded");
        let all = read(&state).expect("read");
        assert_eq!(all[0]["command"], "run");
        assert_eq!(of(&all, "export projects"), MOST_EXPORTS);
        assert_eq!(all.last().map(|last| &last["run_id"]), Some(&json!("e")));
    }

    #[test]
    fn the_last_size_of_a_kind() {
        let run = |size: u64| json!({ "archives": [{ "kind": "config", "size": 1 }, { "kind": "data", "size": size }] });
        assert_eq!(
            last_size(&[run(5), run(7), json!({ "archives": [] })], "data"),
            Some(7)
        );
        assert_eq!(last_size(&[], "data"), None);
    }
}
