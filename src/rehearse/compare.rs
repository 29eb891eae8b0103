//! Whether an archive is still what it was when it was stored.

use std::collections::BTreeSet;
use std::fmt::Display;

use super::repositories::held;
use super::verdict::{Examples, PartStatus, PartVerdict};
use super::{Examination, Expected};
use crate::gitlab::contents::Contents;

/// Adds what was compared to the verdicts; where one stands already, only a difference.
pub(super) fn compare(examination: &mut Examination, expected: &Expected) {
    let (size, hash) = (examination.size, examination.content_hash);
    let size = difference(&size, &expected.size);
    let hash = difference(&hash, &expected.content_hash);
    let mut compared = vec![("size", size), ("hash", hash)];
    let is = &examination.contents;
    // Of a config archive nothing is counted.
    if let Some(was) = expected
        .contents
        .as_ref()
        .filter(|was| **was != Contents::default() || *is != **was)
    {
        compared.push(("parts", parts(is, was)));
        compared.push(("repositories", difference(&held(is), &held(was))));
        compared.push(("skipped", difference(&skipped(is), &skipped(was))));
    }
    for (part, difference) in compared {
        let verdicts = &mut examination.verdicts;
        let found = verdicts.iter_mut().find(|verdict| verdict.part == part);
        match (found, difference) {
            (Some(verdict), Some(figures)) => {
                verdict.status = PartStatus::Failed;
                verdict.detail = format!("{}; {figures}", verdict.detail);
            }
            (Some(_), None) => {}
            (None, Some(figures)) => verdicts.push(PartVerdict::failed(part, figures)),
            (None, None) => verdicts.push(PartVerdict::ok(part, "as it was stored")),
        }
    }
}

fn difference<T: PartialEq + Display>(is: &T, was: &T) -> Option<String> {
    (is != was).then(|| format!("{is} now, {was} when it was stored"))
}

fn parts(is: &Contents, was: &Contents) -> Option<String> {
    let names: BTreeSet<_> = is.parts.keys().chain(was.parts.keys()).collect();
    let mut differing = Examples::default();
    for part in names {
        let size = |contents: &Contents| match contents.parts.get(part) {
            Some(size) => size.to_string(),
            None => "absent".to_owned(),
        };
        if let Some(figures) = difference(&size(is), &size(was)) {
            differing.push(&format!("{part}: {figures}"));
        }
    }
    (!differing.is_empty()).then(|| differing.to_string())
}

fn skipped(contents: &Contents) -> String {
    let words: BTreeSet<_> = contents.skipped.iter().map(String::as_str).collect();
    format!("[{}]", words.into_iter().collect::<Vec<_>>().join(","))
}
