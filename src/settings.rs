//! Reads settings one by one and collects every fault, so that a user mends a file once.
//!
//! A part of the program asks a [`Section`] for the keys it knows; what nobody asked for is unknown.
//! The environment beats a systemd credential beats the file. Variables that other programs know, too, count
//! where nothing of that is given. No message holds a secret's value.

mod fault;
mod variables;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use secrecy::SecretString;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use crate::settings::fault::{Place, did_you_mean};

pub use crate::settings::fault::Fault;

/// What every environment variable that is a setting starts with.
pub const ENV_PREFIX: &str = "GITLAB_PI_BACKUP_";
/// The one variable with that prefix that is no setting.
pub const ENV_CONFIG: &str = "GITLAB_PI_BACKUP_CONFIG";

/// A value and where it was given.
struct Entry {
    place: Place,
    value: EntryValue,
}

enum EntryValue {
    Table(Table),
    Other(toml::Value),
}

type Table = BTreeMap<String, Entry>;

/// Everything settings can come from.
pub struct Reader {
    table: Table,
    variables: BTreeMap<String, String>,
    /// Variables without our prefix; what they mean is for those who ask for one by its name.
    others: BTreeMap<String, String>,
    credentials: Option<PathBuf>,
    notes: RefCell<Notes>,
}

/// What was seen while reading.
#[derive(Default)]
struct Notes {
    faults: Vec<Fault>,
    /// The dotted keys that were asked for.
    asked: Vec<String>,
    used_variables: Vec<String>,
    /// What the variables of tables that nobody can judge start with.
    passed_over: Vec<String>,
    secret_in_file: bool,
}

impl Reader {
    /// Parses `text`. `credentials` is systemd's `$CREDENTIALS_DIRECTORY`.
    pub fn new(
        text: &str,
        variables: impl IntoIterator<Item = (String, String)>,
        credentials: Option<PathBuf>,
    ) -> Reader {
        let (document, errors) = DeTable::parse_recoverable(text);
        let line = |offset: usize| text[..offset.min(text.len())].matches('\n').count() + 1;
        let mut notes = Notes::default();
        for error in errors {
            // Only the message: the error as a whole would show the line, and with it a secret.
            let place = Place::Line(error.span().map_or(1, |span| line(span.start)));
            notes.faults.push(Fault {
                place,
                message: error.message().to_owned(),
            });
        }
        let (variables, others) = variables
            .into_iter()
            .filter(|(name, _)| name != ENV_CONFIG)
            .partition(|(name, _)| name.starts_with(ENV_PREFIX));
        let table = convert_table(document.into_inner(), &|offset| Place::Line(line(offset)));
        Reader {
            table,
            variables,
            others,
            credentials,
            notes: RefCell::new(notes),
        }
    }

    /// The outermost table; to be asked once.
    pub fn root(&mut self) -> Section<'_> {
        let table = std::mem::take(&mut self.table);
        Section {
            reader: self,
            path: String::new(),
            table,
            is_given: true,
            places: BTreeMap::new(),
            asked: Vec::new(),
        }
    }

    /// Whether the file itself holds a secret.
    pub fn secret_in_file(&self) -> bool {
        self.notes.borrow().secret_in_file
    }

    /// All faults, in the order of their lines; variables that nothing asked for among them.
    pub fn finish(self) -> Vec<Fault> {
        let mut notes = self.notes.into_inner();
        let known: Vec<_> = notes.asked.iter().map(|key| variable_name(key)).collect();
        for name in self
            .variables
            .keys()
            .filter(|name| !notes.used_variables.contains(name))
            .filter(|name| {
                !notes
                    .passed_over
                    .iter()
                    .any(|start| name.starts_with(start))
            })
        {
            let message = format!("is no setting{}", did_you_mean(name, &known));
            notes.faults.push(Fault {
                place: Place::Variable(name.clone()),
                message,
            });
        }
        notes.faults.sort_by(|a, b| a.place.cmp(&b.place));
        notes.faults
    }

    /// The dotted keys that were asked for, whether they were given or not.
    pub fn asked(&self) -> Vec<String> {
        self.notes.borrow().asked.clone()
    }
}

/// One table of the settings.
pub struct Section<'r> {
    reader: &'r Reader,
    /// Dotted; empty for the outermost.
    path: String,
    table: Table,
    is_given: bool,
    places: BTreeMap<String, Place>,
    asked: Vec<String>,
}

impl<'r> Section<'r> {
    /// Whether the file or a variable has this table, be it empty.
    pub fn is_given(&self) -> bool {
        self.is_given
    }

    /// The value of a key, if it is given and right; a wrong one is noted and counts as absent.
    pub fn get<T: DeserializeOwned>(&mut self, key: &str) -> Option<T> {
        let dotted = self.ask(key);
        if let Some((name, text)) = self.variable(&dotted) {
            self.places
                .insert(key.to_owned(), Place::Variable(name.clone()));
            self.table.remove(key);
            return match from_text(&text) {
                Ok(value) => Some(value),
                Err(message) => {
                    self.note(Place::Variable(name), message);
                    None
                }
            };
        }
        let entry = self.table.remove(key)?;
        let place = entry.place;
        self.places.insert(key.to_owned(), place.clone());
        let EntryValue::Other(value) = entry.value else {
            self.note(
                place,
                format!("`{dotted}` is a table, but takes a single value"),
            );
            return None;
        };
        match T::deserialize(value) {
            Ok(value) => Some(value),
            Err(error) => {
                self.note(place, format!("`{dotted}`: {}", error.to_string().trim()));
                None
            }
        }
    }

    /// Like [`get`](Section::get), and its absence is a fault.
    pub fn require<T: DeserializeOwned>(&mut self, key: &str) -> Option<T> {
        let value = self.get(key);
        if value.is_none() && !self.places.contains_key(key) {
            let dotted = self.dotted(key);
            self.note(Place::Nowhere, format!("`{dotted}` is missing"));
        }
        value
    }

    /// A secret: from the environment, a systemd credential named by its dotted key, or the file.
    pub fn secret(&mut self, key: &str) -> Option<SecretString> {
        let dotted = self.ask(key);
        let entry = self.table.remove(key);
        if matches!(&entry, Some(entry) if matches!(entry.place, Place::Line(_))) {
            // Also if it does not count: it is a secret nevertheless.
            self.reader.notes.borrow_mut().secret_in_file = true;
        }
        if let Some((name, text)) = self.variable(&dotted) {
            self.places.insert(key.to_owned(), Place::Variable(name));
            return Some(text.into());
        }
        if let Some(path) = self
            .reader
            .credentials
            .as_ref()
            .map(|folder| folder.join(&dotted))
            && path.exists()
        {
            let place = Place::Credential(dotted);
            self.places.insert(key.to_owned(), place.clone());
            return match fs::read_to_string(&path) {
                Ok(text) => Some(text.trim_end_matches(['\r', '\n']).into()),
                Err(error) => {
                    self.note(place, format!("cannot be read: {error}"));
                    None
                }
            };
        }
        let entry = entry?;
        let place = entry.place;
        self.places.insert(key.to_owned(), place.clone());
        if let EntryValue::Other(toml::Value::String(text)) = entry.value {
            Some(text.into())
        } else {
            self.note(place, format!("`{dotted}` takes a text"));
            None
        }
    }

    /// Notes a fault of a key that has been asked for.
    pub fn fault(&mut self, key: &str, message: &str) {
        let place = self.places.get(key).cloned().unwrap_or(Place::Nowhere);
        let dotted = self.dotted(key);
        self.note(place, format!("`{dotted}`: {message}"));
    }

    /// Whether a key that has been asked for stands in the file.
    pub fn in_file(&self, key: &str) -> bool {
        matches!(self.places.get(key), Some(Place::Line(_)))
    }

    /// Where a key that has been asked for is given, in words; none if it is not.
    pub fn place(&self, key: &str) -> Option<String> {
        self.places.get(key).map(ToString::to_string)
    }

    /// A table below this one; empty if it is not given.
    #[must_use]
    pub fn section(&mut self, key: &str) -> Section<'r> {
        self.asked.push(key.to_owned());
        let path = self.dotted(key);
        let mut table = Table::new();
        let start = variable_name(&path);
        let names_it = |name: &String| {
            let rest = name.strip_prefix(&start);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("__"))
        };
        let mut variables = self.reader.variables.keys();
        let is_given = self.table.contains_key(key) || variables.any(names_it);
        if let Some((name, text)) = self.variable(&path) {
            match DeTable::parse(&format!("v = {text}")).map(|document| {
                convert_table(document.into_inner(), &|_| Place::Variable(name.clone()))
            }) {
                Ok(mut document) => match document.remove("v").map(|entry| entry.value) {
                    Some(EntryValue::Table(given)) => table = given,
                    _ => self.note(
                        Place::Variable(name),
                        "takes a TOML table, like `{ key = \"value\" }`".into(),
                    ),
                },
                Err(error) => self.note(
                    Place::Variable(name),
                    format!("is no TOML table: {}", error.message()),
                ),
            }
            self.table.remove(key);
        }
        match self.table.remove(key) {
            Some(Entry {
                value: EntryValue::Table(given),
                ..
            }) => table = given,
            Some(Entry { place, .. }) => {
                self.note(place, format!("`{path}` must be a table"));
            }
            None => {}
        }
        Section {
            reader: self.reader,
            path,
            table,
            is_given,
            places: BTreeMap::new(),
            asked: Vec::new(),
        }
    }

    /// The tables below this one, with their names: those of the file, and those that only variables name.
    pub fn sections(mut self) -> Vec<(String, Section<'r>)> {
        let mut names: Vec<String> = self.table.keys().cloned().collect();
        let prefix = format!("{}__", variable_name(&self.path));
        for variable in self.reader.variables.keys() {
            let Some(rest) = variable.strip_prefix(&prefix) else {
                continue;
            };
            // A key of the table, or the table as a whole.
            let name = rest.split_once("__").map_or(rest, |(name, _)| name);
            if !names.iter().any(|known| mangle(known) == name) {
                names.push(name.to_lowercase());
            }
        }
        for (i, name) in names.iter().enumerate() {
            if let Some(other) = names[..i]
                .iter()
                .find(|other| mangle(other) == mangle(name))
            {
                let (name, other) = (self.dotted(name), self.dotted(other));
                let message =
                    format!("`{other}` and `{name}` share their environment variables: rename one");
                self.note(Place::Nowhere, message);
            }
        }
        names
            .into_iter()
            .map(|name| (name.clone(), self.section(&name)))
            .collect()
    }

    /// The rest of this table cannot be judged, as what decides over its keys is wrong: none is unknown.
    pub fn pass_over(&mut self) {
        self.table.clear();
        let start = format!("{}__", variable_name(&self.path));
        self.reader.notes.borrow_mut().passed_over.push(start);
    }

    /// Notes every key of this table that was not asked for.
    pub fn finish(self) {
        for (key, entry) in &self.table {
            let what = if matches!(entry.value, EntryValue::Table(_)) {
                "table"
            } else {
                "key"
            };
            let dotted = self.dotted(key);
            let message = format!(
                "unknown {what} `{dotted}`{}",
                did_you_mean(key, &self.asked)
            );
            self.note(entry.place.clone(), message);
        }
    }

    fn ask(&mut self, key: &str) -> String {
        let dotted = self.dotted(key);
        self.asked.push(key.to_owned());
        self.reader.notes.borrow_mut().asked.push(dotted.clone());
        dotted
    }

    fn dotted(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// The variable that sets a key, if there is one: its name and value.
    fn variable(&self, dotted: &str) -> Option<(String, String)> {
        let (name, text) = self
            .reader
            .variables
            .get_key_value(&variable_name(dotted))?;
        self.reader
            .notes
            .borrow_mut()
            .used_variables
            .push(name.clone());
        Some((name.clone(), text.clone()))
    }

    fn note(&self, place: Place, message: String) {
        self.reader
            .notes
            .borrow_mut()
            .faults
            .push(Fault { place, message });
    }
}

/// The environment variable of a key: `destinations.my-box.app_key` →
/// `GITLAB_PI_BACKUP_DESTINATIONS__MY_BOX__APP_KEY`.
pub fn variable_name(dotted: &str) -> String {
    let parts: Vec<_> = dotted.split('.').map(mangle).collect();
    format!("{ENV_PREFIX}{}", parts.join("__"))
}

fn mangle(key: &str) -> String {
    key.to_uppercase().replace('-', "_")
}

/// A text as the key's type: as it stands, or else as a TOML value (numbers, lists, tables).
fn from_text<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let as_text = T::deserialize(toml::Value::String(text.to_owned()));
    as_text.or_else(|error| {
        ValueDeserializer::parse(text)
            .and_then(T::deserialize)
            .map_err(|_| error.to_string().trim().to_owned())
    })
}

/// `place` makes the place of a key of where it begins in the text.
fn convert_table(table: DeTable<'_>, place: &dyn Fn(usize) -> Place) -> Table {
    table
        .into_iter()
        .map(|(key, value)| {
            let found_at = place(key.span().start);
            let span = value.span();
            let value = match value.into_inner() {
                DeValue::Table(table) => EntryValue::Table(convert_table(table, place)),
                other => {
                    let deserializer = ValueDeserializer::from(Spanned::new(span, other));
                    // A value that TOML knows and `Value` does not does not exist; were there one, its key
                    // would be refused as one of the wrong type.
                    let value = toml::Value::deserialize(deserializer);
                    EntryValue::Other(value.unwrap_or_else(|_| toml::Value::Array(Vec::new())))
                }
            };
            (
                key.into_inner().into_owned(),
                Entry {
                    place: found_at,
                    value,
                },
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Size;
    use secrecy::ExposeSecret;

    fn reader(text: &str, variables: &[(&str, &str)]) -> Reader {
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Reader::new(text, variables, None)
    }

    fn faults(reader: Reader) -> Vec<String> {
        reader.finish().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn all_faults_are_told_together_with_their_lines() {
        let mut reader = reader(
            "a = 1\n[upload]\nchunk_sise = \"1 MiB\"\nconcurrency = \"x\"\nlist = 3\n",
            &[],
        );
        let mut root = reader.root();
        let mut upload = root.section("upload");
        assert_eq!(upload.get::<Size>("chunk_size"), None);
        assert_eq!(upload.get::<u32>("concurrency"), None);
        assert_eq!(upload.get::<Vec<String>>("list"), None);
        assert_eq!(upload.require::<String>("name"), None);
        upload.finish();
        root.finish();
        assert_eq!(
            faults(reader),
            [
                "line 1: unknown key `a`",
                "line 3: unknown key `upload.chunk_sise`; did you mean `chunk_size`?",
                "line 4: `upload.concurrency`: invalid type: string \"x\", expected u32",
                "line 5: `upload.list`: invalid type: integer `3`, expected a sequence",
                "`upload.name` is missing",
            ]
        );
    }

    #[test]
    fn variables_beat_the_file_and_take_the_keys_type() {
        let mut reader = reader(
            "[d.my-box]\nkey = \"file\"\ncount = 1\n",
            &[
                ("GITLAB_PI_BACKUP_D__MY_BOX__KEY", "123"),
                ("GITLAB_PI_BACKUP_D__MY_BOX__COUNT", "7"),
                ("GITLAB_PI_BACKUP_D__MY_BOX__LIST", "[\"a\", \"b\"]"),
                ("GITLAB_PI_BACKUP_D__OTHER__KEY", "only here"),
                ("GITLAB_PI_BACKUP_D__MY_BOX__LISTE", "x"),
                ("GITLAB_PI_BACKUP_CONFIG", "/x"),
                ("PATH", "/bin"),
            ],
        );
        let mut root = reader.root();
        let sections = root.section("d").sections();
        let mut names = Vec::new();
        for (name, mut section) in sections {
            if name == "my-box" {
                assert_eq!(section.get::<u8>("count"), Some(7));
                assert_eq!(
                    section.get::<Vec<String>>("list"),
                    Some(vec!["a".into(), "b".into()])
                );
            }
            let key = section
                .secret("key")
                .map(|secret| secret.expose_secret().to_owned());
            names.push((name, key));
            section.finish();
        }
        root.finish();
        let expected = [
            ("my-box".to_owned(), Some("123".to_owned())),
            ("other".into(), Some("only here".into())),
        ];
        assert_eq!(names, expected);
        assert_eq!(
            faults(reader),
            [
                "environment variable GITLAB_PI_BACKUP_D__MY_BOX__LISTE: is no setting; \
              did you mean `GITLAB_PI_BACKUP_D__MY_BOX__LIST`?"
            ]
        );
    }

    #[test]
    fn a_table_can_come_from_a_variable_and_a_secret_from_a_credential() {
        let dir = tempfile::tempdir().expect("temporary folder");
        std::fs::write(dir.path().join("t.token"), "from systemd\n").expect("write");
        let variables = [("GITLAB_PI_BACKUP_U".to_owned(), "{ n = 3 }".to_owned())];
        let mut reader = Reader::new(
            "[t]\ntoken = \"file\"\n",
            variables,
            Some(dir.path().to_owned()),
        );
        let mut root = reader.root();
        let (mut u, mut t) = (root.section("u"), root.section("t"));
        assert!(u.is_given() && t.is_given() && !root.section("v").is_given());
        assert_eq!(u.get::<u8>("n"), Some(3));
        let token = t.secret("token");
        assert_eq!(
            token.map(|t| t.expose_secret().to_owned()).as_deref(),
            Some("from systemd")
        );
        root.finish();
        assert_eq!(faults(reader), [""; 0]);
    }

    #[test]
    fn names_that_one_variable_would_mean_are_a_fault() {
        let mut reader = reader("[d.my-box]\n[d.my_box]\n", &[]);
        let mut root = reader.root();
        assert_eq!(root.section("d").sections().len(), 2);
        root.finish();
        let expected = "`d.my-box` and `d.my_box` share their environment variables: rename one";
        assert_eq!(faults(reader), [expected]);
    }

    #[test]
    fn no_message_holds_a_secret() {
        for text in [
            "token = marked-secret\n",
            "token = [\"marked-secret\"]\n",
            "token = \"marked-secret\nx = 1\n",
        ] {
            let mut reader = reader(text, &[]);
            let mut root = reader.root();
            root.secret("token");
            root.finish();
            let faults = faults(reader).join("\n");
            assert!(
                !faults.is_empty() && !faults.contains("marked-secret"),
                "{faults}"
            );
        }
    }
}
