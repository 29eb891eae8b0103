//! What the history tells of the exports of projects.

use super::{family, seconds};
use crate::history::past::PastExport;

/// The last of `exports` is the one that has just ended, or was the last; nothing if there is none.
pub(super) fn exports(text: &mut String, exports: &[PastExport]) {
    let Some(last) = exports.last() else {
        return;
    };
    let time = |at| (Vec::new(), seconds(at));
    family(
        text,
        "projects_last_start_timestamp_seconds",
        "When the last export of projects began.",
        last.started_at.map(time),
    );
    family(
        text,
        "projects_last_run_timestamp_seconds",
        "When the last export of projects ended.",
        last.finished_at.map(time),
    );
    let took = last.finished_at.zip(last.started_at);
    family(
        text,
        "projects_last_run_duration_seconds",
        "How long the last export of projects took.",
        took.map(|(end, start)| (Vec::new(), (end - start).num_seconds().to_string())),
    );
    family(
        text,
        "projects_last_run_exit_status",
        "What the last export of projects ended with: 0 well, 3 in part, else failed.",
        last.exit.map(|exit| (Vec::new(), exit.to_string())),
    );
    let good = exports.iter().rev().find(|export| export.status == "ok");
    family(
        text,
        "projects_last_success_timestamp_seconds",
        "When the last export of projects ended that did everything.",
        good.and_then(|export| export.finished_at).map(time),
    );
    let counts = last.counts.named();
    family(
        text,
        "projects",
        "How many projects ended so in the last export.",
        counts.map(|(status, count)| (vec![("status", status)], count.to_string())),
    );
    family(
        text,
        "projects_bytes",
        "How much the last export of projects stored.",
        [(Vec::new(), last.bytes.to_string())],
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::past;
    use serde_json::json;

    #[test]
    fn the_last_one_is_told_and_the_last_good_one() {
        let of = |end: &str, status: &str, exit: u8, failed: u64| {
            json!({ "command": "export projects", "status": status, "exit": exit, "bytes": 7,
                "started_at": "2026-11-22T04:00:00Z", "finished_at": end,
                "counts": { "exported": 5, "failed": failed } })
        };
        let entries = [
            of("2026-11-22T04:10:00Z", "ok", 0, 0),
            of("2026-11-22T04:20:00Z", "partial", 3, 2),
        ];
        let mut text = String::new();
        exports(&mut text, &past::exports(&entries));
        for line in [
            "last_start_timestamp_seconds 1795320000",
            "last_run_timestamp_seconds 1795321200",
            "last_run_duration_seconds 1200",
            "last_run_exit_status 3",
            "last_success_timestamp_seconds 1795320600",
            "bytes 7",
        ] {
            let line = format!("gitlab_pi_backup_projects_{line}");
            assert!(text.lines().any(|own| own == line), "{line} in\n{text}");
        }
        for (status, count) in [
            ("exported", 5),
            ("already_done", 0),
            ("failed", 2),
            ("skipped", 0),
        ] {
            let line = format!("gitlab_pi_backup_projects{{status=\"{status}\"}} {count}");
            assert!(text.lines().any(|own| own == line), "{line} in\n{text}");
        }
        let mut none = String::new();
        exports(&mut none, &[]);
        assert_eq!(none, "");
    }
}
