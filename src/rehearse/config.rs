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

#[cfg(test)]
mod tests {
    use super::super::verdict::PartStatus;
    use super::*;
    use PartStatus::{Failed, Ok, Skipped, Warning};

    fn entry(path: &str, kind: EntryKind) -> Entry {
        Entry {
            path: path.into(),
            kind,
            size: 0,
            link: Vec::new(),
            mode: 0o600,
            uid: 0,
            gid: 0,
            uname: Vec::new(),
            gname: Vec::new(),
            mtime: 0,
            is_sparse: false,
        }
    }

    #[test]
    fn both_files_are_looked_for_where_a_restore_puts_them() {
        let secrets =
            r#"{"gitlab_rails":{"db_key_base":"a","secret_key_base":"b","otp_key_base":"c"}}"#;
        let status = |root: &str, kind: EntryKind| {
            let mut config = Config::default();
            for (name, text) in [("gitlab-secrets.json", secrets), ("gitlab.rb", "a 'b'\n")] {
                config.member(&entry(&format!("{root}{name}"), kind), &mut text.as_bytes());
            }
            config
                .verdicts()
                .into_iter()
                .map(|verdict| verdict.status)
                .collect::<Vec<_>>()
        };
        assert_eq!(status("/etc/gitlab/", EntryKind::File), [Ok, Ok]);
        assert_eq!(status("etc/gitlab/", EntryKind::File), [Ok, Ok]);
        assert_eq!(
            status("/etc/gitlab/old/", EntryKind::File),
            [Failed, Failed]
        );
        assert_eq!(status("/etc/gitlab/", EntryKind::Folder), [Failed, Failed]);
        // Two names of one file: the contents stand at the first.
        assert_eq!(
            status("/etc/gitlab/", EntryKind::HardLink),
            [Warning, Skipped]
        );
    }
}
