//! `[encryption]`: who can decrypt the archives.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

use super::Recipients;
use crate::archive::ArchiveKind;
use crate::settings::Section;

/// A longer file names no recipients; bytes.
const LONGEST_FILE: u64 = 1024 * 1024;

/// What is encrypted, and to whom.
#[derive(Clone, Debug)]
pub struct Encryption {
    recipients: Recipients,
    kinds: Vec<ArchiveKind>,
}

impl Encryption {
    /// Who can decrypt archives of this kind; none if they are not encrypted.
    pub fn of(&self, kind: ArchiveKind) -> Option<&Recipients> {
        self.kinds.contains(&kind).then_some(&self.recipients)
    }
}

/// `[encryption]`.
#[derive(Clone, Debug)]
pub struct Settings {
    recipients: Option<Recipients>,
    recipients_file: Option<PathBuf>,
    kinds: Vec<ArchiveKind>,
}

impl Settings {
    /// Reads the section; none if it is not there: then archives are stored as GitLab made them.
    pub fn read(section: &mut Section<'_>) -> Option<Settings> {
        let given = section.is_given();
        let recipients = section.get::<Vec<String>>("recipients");
        let recipients_file = section.get::<PathBuf>("recipients_file");
        // Both: with only one of them encrypted the other would still be open to whoever has the destination.
        let kinds = section
            .get("kinds")
            .unwrap_or_else(|| ArchiveKind::ALL.to_vec());
        if kinds.is_empty() {
            section.fault("kinds", "names no kind: give \"config\", \"data\" or both");
        }
        if !given {
            return None;
        }
        let parsed = recipients
            .filter(|given| !(given.is_empty() && recipients_file.is_some()))
            .and_then(|given| {
                let parsed = Recipients::parse(given.iter().map(String::as_str));
                parsed.map_err(|why| section.fault("recipients", &why)).ok()
            });
        if parsed.is_none() && recipients_file.is_none() && section.place("recipients").is_none() {
            section.fault(
                "recipients",
                "is missing: the public keys of those who can decrypt, like [\"age1…\"], or `recipients_file`",
            );
        }
        Some(Settings {
            recipients: parsed,
            recipients_file,
            kinds,
        })
    }

    /// With everybody who can decrypt, those in the file too. The error names what is wrong.
    pub fn resolve(&self) -> Result<Encryption, String> {
        let recipients = self.recipients()?;
        let kinds = self.kinds.clone();
        Ok(Encryption { recipients, kinds })
    }

    fn recipients(&self) -> Result<Recipients, String> {
        let inline = self.recipients.iter().flat_map(Recipients::public_keys);
        let mut texts: Vec<String> = inline.cloned().collect();
        let mut place = "`encryption.recipients`".to_owned();
        if let Some(path) = &self.recipients_file {
            place = format!("`encryption.recipients_file`: {}", path.display());
            let mut text = String::new();
            let read =
                File::open(path).and_then(|file| file.take(LONGEST_FILE).read_to_string(&mut text));
            read.map_err(|error| {
                format!("{place}: {error}\n  write the public keys into it, one a line")
            })?;
            texts.extend(Recipients::lines(&text).map(str::to_owned));
        }
        Recipients::parse(texts.iter().map(String::as_str)).map_err(|why| format!("{place}: {why}"))
    }
}
