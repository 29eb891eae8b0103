//! Verdicts: one for each part of an archive, however much is wrong with it.

use std::fmt;

use serde::Serialize;

use crate::error::printable;

/// How many damaged things are named; the others are counted.
const MOST_EXAMPLES: usize = 5;
/// A longer text is shortened, in characters.
const LONGEST_EXAMPLE: usize = 300;

/// Whether a part would be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PartStatus {
    /// It would.
    Ok,
    /// It would not, or not wholly.
    Failed,
    /// It is not there, as it should be, or it cannot be judged.
    Skipped,
    /// It would, but somebody should look at it.
    Warning,
    /// It could not be asked, for a reason of this machine.
    Unknown,
}

/// What there is to say about one part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartVerdict {
    /// GitLab's word for it (`db`, `repositories`, `uploads`, …), `information`, `secrets`, `settings`, or what
    /// was compared (`tar`, `size`, `hash`, `parts`, `skipped`, `git`).
    pub part: String,
    /// Whether it would be restored.
    pub status: PartStatus,
    /// Why, in one line, and where the user can act, how in a second. Holds no secret.
    pub detail: String,
}

impl PartVerdict {
    pub(super) fn new(part: &str, status: PartStatus, detail: impl Into<String>) -> PartVerdict {
        PartVerdict {
            part: part.to_owned(),
            status,
            detail: detail.into(),
        }
    }

    pub(super) fn ok(part: &str, detail: impl Into<String>) -> PartVerdict {
        PartVerdict::new(part, PartStatus::Ok, detail)
    }

    pub(super) fn failed(part: &str, detail: impl Into<String>) -> PartVerdict {
        PartVerdict::new(part, PartStatus::Failed, detail)
    }

    pub(super) fn warning(part: &str, detail: impl Into<String>) -> PartVerdict {
        PartVerdict::new(part, PartStatus::Warning, detail)
    }

    pub(super) fn unknown(part: &str, detail: impl Into<String>) -> PartVerdict {
        PartVerdict::new(part, PartStatus::Unknown, detail)
    }

    pub(super) fn skipped(part: &str, detail: impl Into<String>) -> PartVerdict {
        PartVerdict::new(part, PartStatus::Skipped, detail)
    }
}

/// The first few of any number of texts.
#[derive(Debug, Default)]
pub(super) struct Examples {
    first: Vec<String>,
    total: u64,
}

impl Examples {
    /// One more; what was read from the archive is made printable.
    pub(super) fn push(&mut self, text: &str) {
        self.total += 1;
        if self.first.len() < MOST_EXAMPLES {
            self.first.push(printable(&shortened(text)));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.total == 0
    }
}

impl fmt::Display for Examples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.first.join("; "))?;
        match self.total - self.first.len() as u64 {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

/// `1 repository`, `2 repositories`.
pub(super) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(LONGEST_EXAMPLE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_are_few_and_short_and_printable() {
        let mut examples = Examples::default();
        assert!(examples.is_empty());
        examples.push("\u{1b}[2J");
        assert_eq!(examples.to_string(), "\u{fffd}[2J");
        for _ in 0..1000 {
            examples.push(&"é".repeat(10_000));
        }
        assert!(examples.to_string().len() < 4000);
        assert!(
            examples.to_string().ends_with("; and 996 more"),
            "{examples}"
        );
    }

    #[test]
    fn the_json_form_is_the_contract() {
        let verdict = PartVerdict::failed("db", "it is empty");
        let json = serde_json::to_string(&verdict).expect("JSON");
        assert_eq!(
            json,
            r#"{"part":"db","status":"failed","detail":"it is empty"}"#
        );
    }
}
