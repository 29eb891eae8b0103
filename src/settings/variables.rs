//! Variables without our prefix, which other programs know, too: `GITLAB_TOKEN`. They count where a key is absent,
//! and only where somebody asks for them by name; an empty one counts as absent.

use secrecy::SecretString;
use serde::de::DeserializeOwned;

use super::fault::Place;
use super::{Reader, Section, from_text};

impl Reader {
    /// The variables without our prefix that have counted so far.
    pub fn used_of_others(&self) -> Vec<String> {
        let notes = self.notes.borrow();
        let used = notes.used_variables.iter();
        used.filter(|name| self.others.contains_key(*name))
            .cloned()
            .collect()
    }
}

impl Section<'_> {
    /// Like [`get`](Section::get); where the key is absent, this variable counts.
    pub fn get_or_variable<T: DeserializeOwned>(&mut self, key: &str, name: &str) -> Option<T> {
        let value = self.get(key);
        let Some(text) = self.text_of_variable(key, name) else {
            return value;
        };
        from_text(text.trim())
            .map_err(|message| self.note(Place::Variable(name.to_owned()), message))
            .ok()
    }

    /// Like [`secret`](Section::secret); where the key is absent, this variable counts.
    pub fn secret_or_variable(&mut self, key: &str, name: &str) -> Option<SecretString> {
        let value = self.secret(key);
        value.or_else(|| {
            let text = self.text_of_variable(key, name)?;
            Some(text.trim_end_matches(['\r', '\n']).into())
        })
    }

    /// What this variable says, if the key, which has been asked for, is absent. For what is written in another way
    /// than the key: a list with commas.
    pub fn text_of_variable(&mut self, key: &str, name: &str) -> Option<String> {
        if self.places.contains_key(key) {
            return None;
        }
        let text = self.reader.others.get(name)?;
        if text.trim().is_empty() {
            return None;
        }
        let place = Place::Variable(name.to_owned());
        self.places.insert(key.to_owned(), place);
        let mut notes = self.reader.notes.borrow_mut();
        notes.used_variables.push(name.to_owned());
        Some(text.clone())
    }

    /// Whether this variable without our prefix says something.
    pub fn has_variable(&self, name: &str) -> bool {
        let text = self.reader.others.get(name);
        text.is_some_and(|text| !text.trim().is_empty())
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use crate::settings::Reader;

    const OURS: &str = "GITLAB_PI_BACKUP_GITLAB__TOKEN";

    #[test]
    fn a_variable_of_others_counts_where_nothing_else_is_given() {
        for (file, variables, expected) in [
            ("", &[("TOKEN", "theirs\n")][..], Some("theirs")),
            ("", &[("TOKEN", " ")], None),
            ("", &[("TOKEN", "theirs"), (OURS, "ours")], Some("ours")),
            ("token = \"file\"", &[("TOKEN", "theirs")], Some("file")),
            ("token = \"file\"", &[("TOKEN", "")], Some("file")),
        ] {
            let pairs = variables.iter();
            let pairs = pairs.map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
            let mut reader = Reader::new(&format!("[gitlab]\n{file}\n"), pairs, None);
            let mut root = reader.root();
            let mut section = root.section("gitlab");
            let token = section.secret_or_variable("token", "TOKEN");
            let token = token.map(|token| token.expose_secret().to_owned());
            assert_eq!(token.as_deref(), expected, "{file} {variables:?}");
            section.finish();
            root.finish();
            let used = expected == Some("theirs");
            assert_eq!(reader.used_of_others().len(), usize::from(used));
            assert!(reader.finish().is_empty());
        }
    }

    #[test]
    fn a_wrong_one_is_told_by_its_name_and_a_wrong_key_is_not_mended_by_one() {
        for (file, told) in [
            ("", "environment variable COUNT: invalid type"),
            ("count = \"x\"", "line 2: `gitlab.count`: invalid type"),
        ] {
            let variables = [("COUNT".to_owned(), "many".to_owned())];
            let mut reader = Reader::new(&format!("[gitlab]\n{file}\n"), variables, None);
            let mut root = reader.root();
            let mut section = root.section("gitlab");
            assert!(section.has_variable("COUNT") && !section.has_variable("OTHER"));
            assert_eq!(section.get_or_variable::<u32>("count", "COUNT"), None);
            let place = section.place("count").unwrap_or_default();
            assert!(told.starts_with(&place), "{place}");
            section.finish();
            root.finish();
            let faults: Vec<_> = reader.finish().iter().map(ToString::to_string).collect();
            assert_eq!(faults.len(), 1, "{faults:?}");
            assert!(faults[0].starts_with(told), "{faults:?}");
        }
    }

    #[test]
    fn numbers_and_lists_are_read_as_those_of_our_own_variables() {
        let variables = [("COUNT".to_owned(), " 7 ".to_owned())];
        let mut reader = Reader::new("", variables, None);
        let mut root = reader.root();
        assert_eq!(root.get_or_variable::<u32>("count", "COUNT"), Some(7));
    }
}
