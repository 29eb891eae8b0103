//! `[retention]`: how many backups are kept, and of what.

use std::time::Duration;

use serde::Deserialize;

use crate::settings::Section;
use crate::units::Span;

/// What happens to backups that have no manifest, like those an older program stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unmanaged {
    /// They stay.
    #[default]
    Keep,
    /// The rules apply to them.
    Prune,
}

/// `[retention]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetentionPolicy {
    /// The newest so many.
    pub keep_last: u32,
    /// The newest of each of so many days.
    pub keep_daily: u32,
    /// The newest of each of so many ISO weeks.
    pub keep_weekly: u32,
    /// The newest of each of so many months.
    pub keep_monthly: u32,
    /// The newest of each of so many years.
    pub keep_yearly: u32,
    /// All that are younger than this when the newest was made; zero: no such rule.
    pub keep_within: Duration,
    /// Backups without a manifest.
    pub unmanaged: Unmanaged,
    /// How many archives of each kind stay on this machine; none: GitLab's own setting decides.
    pub local: Option<u32>,
}

impl RetentionPolicy {
    /// Reads the section; without it nothing is ever deleted. Deleting has to be asked for: a section
    /// without any rule deletes nothing at the destinations, and rules that keep nothing are at fault.
    pub fn read(section: &mut Section<'_>) -> Option<RetentionPolicy> {
        let last = section.get("keep_last");
        let counts = ["keep_daily", "keep_weekly", "keep_monthly", "keep_yearly"];
        let counts = counts.map(|key| section.get::<u32>(key));
        let within = section.get("keep_within").map(|Span(span)| span);
        let is_any_given = last.is_some() || counts.iter().any(Option::is_some) || within.is_some();
        let [daily, weekly, monthly, yearly] = counts.map(Option::unwrap_or_default);
        let policy = RetentionPolicy {
            // Beside other rules two, so that one that turns out bad has a neighbour.
            keep_last: last.unwrap_or(if is_any_given { 2 } else { 0 }),
            keep_daily: daily,
            keep_weekly: weekly,
            keep_monthly: monthly,
            keep_yearly: yearly,
            keep_within: within.unwrap_or_default(),
            unmanaged: section.get("unmanaged").unwrap_or_default(),
            local: section.get("local"),
        };
        if is_any_given && !policy.has_rules() {
            section.fault(
                "keep_last",
                "no rule keeps anything: at least one keep_… must be above 0\n    \
                 to delete nothing at the destinations, leave all of them away",
            );
        }
        if policy.local == Some(0) {
            section.fault("local", "takes 1 or more: the newest archives stay");
        }
        section.is_given().then_some(policy)
    }

    /// Whether anything is deleted at the destinations at all.
    pub fn has_rules(&self) -> bool {
        let counts = [
            self.keep_last,
            self.keep_daily,
            self.keep_weekly,
            self.keep_monthly,
            self.keep_yearly,
        ];
        counts.iter().any(|count| *count > 0) || !self.keep_within.is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Reader;

    fn read(text: &str) -> (Option<RetentionPolicy>, String) {
        let mut reader = Reader::new(text, [], None);
        let mut root = reader.root();
        let mut section = root.section("retention");
        let policy = RetentionPolicy::read(&mut section);
        section.finish();
        root.finish();
        let faults: Vec<_> = reader.finish().iter().map(ToString::to_string).collect();
        (policy, faults.join("\n"))
    }

    #[test]
    fn deleting_has_to_be_asked_for() {
        assert_eq!(read(""), (None, String::new()));
        let (policy, _) = read("[retention]\nkeep_daily = 7\n");
        let policy = policy.expect("a policy");
        assert_eq!((policy.keep_last, policy.keep_daily), (2, 7));
        assert_eq!((policy.keep_weekly, policy.local), (0, None));
        assert_eq!(policy.unmanaged, Unmanaged::Keep);
        assert!(policy.has_rules());
        for text in ["", "local = 1", "unmanaged = \"prune\""] {
            let (policy, faults) = read(&format!("[retention]\n{text}\n"));
            assert_eq!(
                (policy.map(|it| it.has_rules()), faults),
                (Some(false), String::new())
            );
        }
        for (text, fault) in [
            (
                "keep_last = 0",
                "line 2: `retention.keep_last`: no rule keeps anything",
            ),
            (
                "keep_last = 0\nkeep_within = \"0d\"",
                "line 2: `retention.keep_last`: no rule keeps anything",
            ),
            (
                "keep_last = -1",
                "line 2: `retention.keep_last`: invalid value",
            ),
            (
                "keep_last = 1\nlocal = 0",
                "line 3: `retention.local`: takes 1 or more",
            ),
            (
                "keep_last = 1\nunmanaged = \"drop\"",
                "line 3: `retention.unmanaged`: unknown variant `drop`",
            ),
            (
                "keep_lats = 1",
                "unknown key `retention.keep_lats`; did you mean `keep_last`?",
            ),
        ] {
            let (_, faults) = read(&format!("[retention]\n{text}\n"));
            assert!(faults.contains(fault), "{text}: {faults}");
        }
    }
}
