//! What is wrong with a setting, and where it stands.

use std::fmt;

/// Something wrong with a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where it stands.
    pub(super) place: Place,
    /// What is wrong, without any secret.
    pub(super) message: String,
}

/// Where a setting was given.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// A line of the file, counted from 1.
    Line(usize),
    /// An environment variable.
    Variable(String),
    /// A systemd credential.
    Credential(String),
    /// Nowhere: it is missing.
    Nowhere,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Nowhere => f.write_str(&self.message),
            place => write!(f, "{place}: {}", self.message),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Line(line) => write!(f, "line {line}"),
            Place::Variable(name) => write!(f, "environment variable {name}"),
            Place::Credential(name) => write!(f, "credential {name}"),
            Place::Nowhere => f.write_str("nowhere"),
        }
    }
}

/// The nearest of the known keys, if it is near enough.
pub(super) fn did_you_mean(key: &str, known: &[String]) -> String {
    let nearest = known
        .iter()
        .map(|known| (strsim::jaro_winkler(key, known), known))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((likeness, known)) if likeness > 0.7 => format!("; did you mean `{known}`?"),
        _ => String::new(),
    }
}
