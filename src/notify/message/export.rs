//! What is told of an export of projects: how many, and which of them failed with what reasons.

use std::fmt::Write as _;

use serde_json::Value;

use super::{Message, Verdict, lines_of};
use crate::error::printable;
use crate::history::past::PastExport;
use crate::job::Job;
use crate::units::{Size, Span};

/// More are not read; the report page and `--json` have them.
const MOST: usize = 10;

impl Message {
    /// Of an export that came to an end, as it is recorded. `recovered`: the one before had failed; `document`: for
    /// programs.
    pub fn of_export(
        export: &PastExport,
        document: Value,
        recovered: bool,
        log: String,
    ) -> Message {
        let verdict = match export.status.as_str() {
            "ok" | "dry_run" if recovered => Verdict::Recovered,
            "ok" | "dry_run" => Verdict::Ok,
            "partial" => Verdict::Partial,
            _ => Verdict::Failed,
        };
        Message::new(
            Job::Projects,
            verdict,
            verdict.words(),
            text(export),
            document,
        )
        .with_run(&export.run_id)
        .with_log(log)
    }
}

fn text(export: &PastExport) -> String {
    let mut text = String::new();
    // What it is about comes first: a telephone shows the first line.
    if let Some(error) = &export.error {
        text = format!("{error}\n\n");
    }
    // Writing to a string cannot fail, here and below.
    let _ = writeln!(text, "{}", counts(export));
    let took = export.finished_at.zip(export.started_at);
    let took = took.and_then(|(end, start)| (end - start).to_std().ok());
    let sent =
        (export.bytes > 0).then(|| format!("{} to {}", Size(export.bytes), export.destination));
    let facts = [sent, took.map(|took| format!("in {}", Span(took)))];
    let facts: Vec<_> = facts.into_iter().flatten().collect();
    if !facts.is_empty() {
        let _ = writeln!(text, "{}", facts.join(", "));
    }
    if !export.failures.is_empty() {
        text += "\nfailed:\n";
    }
    for failure in export.failures.iter().take(MOST) {
        let why = failure.error.as_deref().unwrap_or("it does not say why");
        let _ = writeln!(text, "- {}: {}", printable(&failure.path), lines_of(why));
    }
    let shown = export.failures.len().min(MOST) as u64;
    if export.counts.failed > shown {
        let _ = writeln!(text, "- and {} more", export.counts.failed - shown);
    }
    if !export.warnings.is_empty() {
        text += "\nalso:\n";
    }
    for warning in export.warnings.iter().take(MOST) {
        let _ = writeln!(text, "- {}", lines_of(warning));
    }
    text
}

/// `41 projects: 38 exported, 2 already done, 1 failed`.
fn counts(export: &PastExport) -> String {
    let all = export.counts.all();
    let named = export.counts.named().into_iter();
    let named = named.filter(|(_, count)| *count > 0);
    let named: Vec<_> = named
        .map(|(name, count)| format!("{count} {}", name.replace('_', " ")))
        .collect();
    match (all, named.join(", ")) {
        (0, _) => "no project was exported".to_owned(),
        (1, named) => format!("1 project: {named}"),
        (all, named) => format!("{all} projects: {named}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::past::exports;
    use serde_json::json;

    fn export(value: Value) -> PastExport {
        let mut value = value;
        value["command"] = json!("export projects");
        let mut exports = exports(&[value]);
        exports.pop().expect("an export")
    }

    #[test]
    fn the_title_says_which_job_and_how_it_ended() {
        for (status, recovered, verdict, words) in [
            ("ok", false, Verdict::Ok, ": ok"),
            ("ok", true, Verdict::Recovered, ": is well again"),
            ("partial", true, Verdict::Partial, ": done in part"),
            ("failed", false, Verdict::Failed, ": FAILED"),
        ] {
            let past = export(json!({ "run_id": "e", "status": status }));
            let message =
                Message::of_export(&past, json!({ "run_id": "e" }), recovered, String::new());
            assert_eq!(message.verdict, verdict);
            assert!(message.title.starts_with("GitLab project exports on "));
            assert!(message.title.ends_with(words), "{}", message.title);
            assert_eq!(message.run_id.as_deref(), Some("e"));
        }
    }

    #[test]
    fn what_failed_is_named_with_its_reason_and_the_rest_is_counted() {
        let failures: Vec<_> = (0..20)
            .map(|number| json!({ "path": format!("group/\u{1b}{number}"), "error": "GitLab said no\n  ask it" }))
            .collect();
        let past = export(
            json!({ "status": "partial", "destination": "s3", "bytes": 3 * 1024 * 1024,
            "counts": { "exported": 4, "already_done": 1, "failed": 900 }, "failures": failures,
            "started_at": "2026-11-22T04:00:00Z", "finished_at": "2026-11-22T05:01:00Z",
            "warnings": ["one was not pruned"] }),
        );
        let text = text(&past);
        let (head, rest) = text.split_once("\n\nfailed:\n").expect("what failed");
        assert_eq!(
            head,
            "905 projects: 4 exported, 1 already done, 900 failed\n3.0 MiB to s3, in 1h 1m"
        );
        assert!(
            rest.starts_with("- group/\u{fffd}0: GitLab said no: ask it\n"),
            "{rest}"
        );
        assert!(
            rest.ends_with("- and 890 more\n\nalso:\n- one was not pruned\n"),
            "{rest}"
        );
        let refused = export(
            json!({ "status": "failed", "error": "the token is refused\n  make a new one" }),
        );
        let told = super::text(&refused);
        assert_eq!(
            told,
            "the token is refused\n  make a new one\n\nno project was exported\n"
        );
    }
}
