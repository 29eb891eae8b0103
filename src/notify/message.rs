//! What is told, whoever it is told to.

mod export;

use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use crate::error::printable;
use crate::job::Job;
use crate::report::{RunReport, Status};

/// How something ended, as far as it decides how loudly it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Well.
    Ok,
    /// Well, and the run before had not.
    Recovered,
    /// Done in part.
    Partial,
    /// Not.
    Failed,
}

/// A message.
#[derive(Clone, Debug)]
pub struct Message {
    /// How it ended.
    pub verdict: Verdict,
    /// In one line.
    pub title: String,
    /// For people.
    pub text: String,
    /// The last lines of the log, where there is room for them.
    pub log: String,
    /// For programs.
    pub document: Value,
    /// The run's name.
    pub run_id: Option<String>,
    /// The machine it comes from.
    pub machine: String,
}

impl Verdict {
    /// Whether it is to be told even where only failures are.
    pub fn is_news(self) -> bool {
        self != Verdict::Ok
    }

    /// Whether it did not end well.
    pub fn is_failure(self) -> bool {
        matches!(self, Verdict::Partial | Verdict::Failed)
    }

    /// In a title.
    fn words(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Recovered => "is well again",
            Verdict::Partial => "done in part",
            Verdict::Failed => "FAILED",
        }
    }
}

impl Message {
    /// Of a run that came to an end. `recovered`: the one before had failed.
    pub fn of_run(report: &RunReport, recovered: bool, log: String, now: DateTime<Utc>) -> Message {
        let verdict = match report.status {
            Status::Ok | Status::DryRun if recovered => Verdict::Recovered,
            Status::Ok | Status::DryRun => Verdict::Ok,
            Status::Partial => Verdict::Partial,
            Status::Failed => Verdict::Failed,
        };
        let mut text = String::new();
        // What it is about comes first: a telephone shows the first line.
        if let Some(error) = &report.error {
            text = format!("{error}\n\n");
        }
        text += &report.text(now);
        let other = |error: &&String| Some(*error) != report.error.as_ref();
        let steps = report.steps.iter().filter_map(|step| step.error.as_ref());
        let mut others: Vec<_> = steps.chain(&report.warnings).filter(other).collect();
        others.dedup();
        if !others.is_empty() {
            text += "\nalso:\n";
            for error in others {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "- {error}");
            }
        }
        // A report holds nothing that cannot be written as JSON.
        let document = serde_json::to_value(report).unwrap_or_default();
        Message::new(Job::Run, verdict, verdict.words(), text, document)
            .with_run(&report.run_id)
            .with_log(log)
    }

    /// Of a job that could not begin.
    pub fn not_begun(job: Job, run_id: &str, error: &str, log: String) -> Message {
        Message::failure(job, error).with_run(run_id).with_log(log)
    }

    /// Of a job that could not tell anything itself.
    pub fn crashed(job: Job, reason: &str, now: DateTime<Utc>) -> Message {
        let at = now.to_rfc3339_opts(SecondsFormat::Secs, true);
        let (noun, unit) = (job.noun(), job.unit());
        let hint = format!(
            "what was uploaded is kept, and the next {noun} goes on there; journalctl -u {unit} shows what it said"
        );
        Message::failure(job, &format!("{reason} (found at {at})\n  {hint}"))
    }

    /// Of a rehearsal that did not prove a backup; `restorable` is none if it could not be read to its end.
    pub fn of_rehearsal(restorable: Option<bool>, text: String, document: Value) -> Message {
        let words = match restorable {
            Some(true) => "rehearsed",
            Some(false) => "NOT RESTORABLE",
            None => "rehearsal FAILED",
        };
        Message::new(Job::Run, Verdict::Failed, words, text, document)
    }

    /// To see whether messages arrive.
    pub fn test(job: Job, failure: bool) -> Message {
        let (verdict, status, words) = if failure {
            (Verdict::Failed, "failed", "TEST of a failure")
        } else {
            (Verdict::Ok, "ok", "TEST")
        };
        let text = if failure {
            "this is a test of how a failure is told; nothing has failed\n"
        } else {
            "this is a test; nothing was done\n"
        };
        let error = failure.then_some("this is a test; nothing has failed");
        let document =
            json!({ "command": "notify", "status": status, "error": error, "test": true });
        Message::new(job, verdict, words, text.to_owned(), document)
    }

    fn failure(job: Job, error: &str) -> Message {
        let document = json!({ "command": job.command(), "status": "failed", "error": error });
        let verdict = Verdict::Failed;
        let text = format!("{error}\n");
        Message::new(job, verdict, verdict.words(), text, document)
    }

    fn new(job: Job, verdict: Verdict, words: &str, text: String, document: Value) -> Message {
        let machine = machine();
        Message {
            verdict,
            title: format!("{} on {machine}: {words}", job.title()),
            text,
            log: String::new(),
            document,
            run_id: None,
            machine,
        }
    }

    fn with_run(mut self, run_id: &str) -> Message {
        self.run_id = Some(run_id.to_owned());
        self
    }

    fn with_log(mut self, log: String) -> Message {
        self.log = log;
        self
    }

    /// Text and as much of the end of the log as fits into `most` bytes.
    pub fn whole(&self, most: usize) -> String {
        let run = self
            .run_id
            .as_ref()
            .map(|id| format!(", run {id}"))
            .unwrap_or_default();
        let foot = format!("\non {}{run}\n", self.machine);
        let mut whole = beginning(&self.text, most.saturating_sub(foot.len())).to_owned() + &foot;
        let heading = "\nthe end of its log:\n";
        let log = end(&self.log, most.saturating_sub(whole.len() + heading.len()));
        if !log.is_empty() {
            whole += heading;
            whole += log;
        }
        whole
    }
}

/// The name of this machine, as a mail header and a terminal can take it.
pub fn machine() -> String {
    let system = rustix::system::uname();
    let name = printable(&system.nodename().to_string_lossy());
    if name.trim().is_empty() {
        "an unnamed machine".to_owned()
    } else {
        name
    }
}

/// The lines of an error as one, without what would steer a terminal.
fn lines_of(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    printable(&lines.collect::<Vec<_>>().join(": "))
}

/// At most so many bytes from the beginning, in whole characters.
pub fn beginning(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

/// At most so many bytes from the end, in whole lines.
fn end(text: &str, most: usize) -> &str {
    let Some(cut) = text.len().checked_sub(most).filter(|cut| *cut > 0) else {
        return text;
    };
    let rest = &text[text.ceil_char_boundary(cut)..];
    rest.split_once('\n').map_or("", |(_, lines)| lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(status: Status) -> RunReport {
        let mut report = RunReport::begin("20231216T202943Z-1f".to_owned(), DateTime::UNIX_EPOCH);
        report.status = status;
        report
    }

    #[test]
    fn the_title_says_it_all() {
        for (status, recovered, verdict, words) in [
            (Status::Ok, false, Verdict::Ok, ": ok"),
            (Status::Ok, true, Verdict::Recovered, ": is well again"),
            (Status::Partial, true, Verdict::Partial, ": done in part"),
            (Status::Failed, false, Verdict::Failed, ": FAILED"),
        ] {
            let message = Message::of_run(
                &report(status),
                recovered,
                String::new(),
                DateTime::UNIX_EPOCH,
            );
            assert_eq!(message.verdict, verdict);
            assert!(message.title.ends_with(words), "{}", message.title);
            assert_eq!(verdict.is_news(), verdict != Verdict::Ok);
            assert_eq!(message.document["run_id"], "20231216T202943Z-1f");
        }
    }

    #[test]
    fn the_error_comes_first_and_the_log_fits_in() {
        let mut report = report(Status::Failed);
        report.error = Some("what failed".to_owned());
        report.warnings = vec!["what shrank".to_owned()];
        let log = "first line ä\n".repeat(1_000) + "last line\n";
        let message = Message::of_run(&report, false, log, DateTime::UNIX_EPOCH);
        let whole = message.whole(100_000);
        assert!(whole.starts_with("what failed\n\n"), "{whole}");
        assert!(whole.contains("- what shrank\n") && whole.contains("the end of its log:\nfirst"));
        for most in (0..14_000).step_by(97) {
            let whole = message.whole(most);
            assert!(whole.len() <= most.max(100), "{most}: {}", whole.len());
            let log = whole.split_once("of its log:\n").map_or("", |(_, log)| log);
            assert!(
                log.is_empty() || log.ends_with("last line\n"),
                "{most}: {log}"
            );
            assert!(
                log.is_empty() || log.starts_with("first line") || log.starts_with("last line")
            );
        }
    }

    #[test]
    fn a_test_says_that_it_is_one() {
        for failure in [false, true] {
            let message = Message::test(Job::Run, failure);
            assert_eq!(message.verdict.is_failure(), failure);
            assert!(message.title.contains("TEST") && message.text.contains("this is a test"));
            assert_eq!(message.document["test"], true);
        }
    }
}
