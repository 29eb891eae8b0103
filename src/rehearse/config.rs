//! A config archive: the keys that decrypt the data, and the settings.

use std::io::{self, BufRead};

use super::verdict::{PartStatus, PartVerdict};
use crate::gitlab::contents::below_top;
use crate::gitlab::format::{Flaw, secrets, settings};
use crate::tar::{Entry, EntryKind};

/// What has been seen of a config archive.
#[derive(Default)]
pub(super) struct Config {
    secrets: Option<Result<(), Flaw>>,
    settings: Option<Result<(), Flaw>>,
}

impl Config {
    pub(super) fn member(&mut self, entry: &Entry, contents: &mut dyn BufRead) {
        let look: fn(&mut dyn io::Read) -> Result<(), Flaw>;
        let place = match below_top(&entry.path) {
            b"etc/gitlab/gitlab-secrets.json" => {
                look = secrets::check;
                &mut self.secrets
            }
            b"etc/gitlab/gitlab.rb" => {
                look = settings::check;
                &mut self.settings
            }
            _ => return,
        };
        let found = match entry.kind {
            EntryKind::File if !entry.is_sparse => look(&mut { contents }),
            EntryKind::File | EntryKind::HardLink => {
                let what = "it is not stored as a plain file of its own".to_owned();
                Err(Flaw::Unjudged(what))
            }
            _ => return,
        };
        *place = Some(found);
    }

    pub(super) fn verdicts(self) -> Vec<PartVerdict> {
        let mut secrets = verdict("secrets", "gitlab-secrets.json", self.secrets);
        if secrets.status == PartStatus::Skipped {
            secrets.status = PartStatus::Warning;
        }
        let settings = verdict("settings", "gitlab.rb", self.settings);
        vec![secrets, settings]
    }
}

fn verdict(part: &str, name: &str, found: Option<Result<(), Flaw>>) -> PartVerdict {
    match found {
        None => PartVerdict::failed(part, format!("there is no /etc/gitlab/{name} in it")),
        Some(Ok(())) => PartVerdict::ok(part, format!("{name} is whole")),
        Some(Err(Flaw::Damaged(why))) => PartVerdict::failed(part, format!("{name}: {why}")),
        Some(Err(Flaw::Unjudged(why))) => PartVerdict::skipped(part, format!("{name}: {why}")),
    }
}
