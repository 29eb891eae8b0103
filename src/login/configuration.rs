//! What a log-in leaves on this machine: a first configuration, and the refresh token.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use secrecy::{ExposeSecret, SecretString};

use crate::state::{self, StateDir};

/// Stands for a secret where one would be shown.
const HIDDEN: &str = "…";

/// A configuration for a machine that has none.
#[derive(Debug)]
pub struct First {
    /// The destination's name.
    pub name: String,
    /// Names the app.
    pub app_key: String,
    /// None for an app authorised by PKCE.
    pub app_secret: Option<SecretString>,
    /// Where the refresh token is; none: where it is looked for without being told.
    pub token_file: Option<PathBuf>,
    /// Where archives are put; none: the default.
    pub config_folder: Option<String>,
    /// The same of data archives.
    pub data_folder: Option<String>,
    /// Where GitLab puts its archives; none: the default.
    pub config_dir: Option<String>,
    /// The same of data archives.
    pub data_dir: Option<String>,
}

impl First {
    /// For this app, and nothing else but defaults.
    pub fn new(name: &str, app_key: &str, token_file: Option<PathBuf>) -> First {
        First {
            name: name.to_owned(),
            app_key: app_key.to_owned(),
            app_secret: None,
            token_file,
            config_folder: None,
            data_folder: None,
            config_dir: None,
            data_dir: None,
        }
    }

    /// As it is written.
    pub fn text(&self) -> String {
        self.with_secret(|secret| secret.expose_secret())
    }

    /// As it may be shown: without the secret.
    pub fn shown(&self) -> String {
        self.with_secret(|_| HIDDEN)
    }

    fn with_secret<'a>(&'a self, tell: impl Fn(&'a SecretString) -> &'a str) -> String {
        let line = |key: &str, value: Option<&str>| {
            let quoted = |value: &str| toml::Value::from(value).to_string();
            value.map_or(String::new(), |value| {
                format!("{key} = {}\n", quoted(value))
            })
        };
        let token_file = self.token_file.as_ref().map(|path| path.to_string_lossy());
        let gitlab = line("config_dir", self.config_dir.as_deref())
            + &line("data_dir", self.data_dir.as_deref());
        let gitlab = match gitlab.as_str() {
            "" => gitlab,
            _ => format!("# Where GitLab puts its archives.\n[gitlab]\n{gitlab}\n"),
        };
        [
            "# The configuration of gitlab-pi-backup. config.example.toml, in the program's documentation, shows every\n\
             # setting with its default and its meaning. For root alone: chmod 600.\n\n",
            &gitlab,
            "# The place that archives are sent to; the table's name is its name.\n",
            &format!("[destinations.{}]\ntype = \"dropbox\"\n", self.name),
            &line("app_key", Some(&self.app_key)),
            &line("app_secret", self.app_secret.as_ref().map(tell)),
            &line("refresh_token_file", token_file.as_deref()),
            &line("config_folder", self.config_folder.as_deref()),
            &line("data_folder", self.data_folder.as_deref()),
            "\n# Without this table nothing is ever deleted. With it, what no rule keeps is deleted at the end of a good\n\
             # run; `gitlab-pi-backup prune --dry-run` tells beforehand what that would be.\n\
             # [retention]\n# keep_daily = 7\n# keep_weekly = 4\n# keep_monthly = 6\n",
        ]
        .concat()
    }

    /// Writes it, in a folder for its owner alone that is made if it is missing; what is there already is never
    /// touched.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        make_folder_of(path)?;
        state::create(path, self.text())
    }
}

/// Stores a refresh token in the place of the one that may be there.
pub fn store_token(path: &Path, token: &SecretString) -> io::Result<()> {
    make_folder_of(path)?;
    state::replace(path, format!("{}\n", token.expose_secret()))
}

/// Whether a file of this name could be written here, before anybody is asked for anything: the error that
/// writing it would end with, and the folder that shows it.
pub fn is_writable(path: &Path) -> Result<(), (PathBuf, io::Error)> {
    let exists = |folder: &&Path| folder.symlink_metadata().is_ok();
    let Some(folder) = path.ancestors().skip(1).find(exists) else {
        return Ok(());
    };
    let usable = access(folder, Access::WRITE_OK | Access::EXEC_OK);
    let usable = usable.map_err(io::Error::from);
    let usable = usable.and_then(|()| {
        if folder.is_dir() {
            Ok(())
        } else {
            Err(io::ErrorKind::NotADirectory.into())
        }
    });
    usable.map_err(|error| (folder.to_owned(), error))
}

fn make_folder_of(path: &Path) -> io::Result<()> {
    path.parent()
        .map_or(Ok(()), |folder| StateDir::new(folder).make())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_was_given_whatever_it_holds() {
        let nasty = "a\"b'c\\d\u{e4}#\n";
        let first = First {
            app_secret: Some("s3cret\"".to_owned().into()),
            config_folder: Some("/Elsewhere".to_owned()),
            data_dir: Some("/srv/backups".to_owned()),
            ..First::new("my-box", nasty, Some("/x/my-box.token".into()))
        };
        let table: toml::Table = first.text().parse().expect("TOML");
        let place = &table["destinations"]["my-box"];
        assert_eq!(place["app_key"].as_str(), Some(nasty));
        assert_eq!(place["app_secret"].as_str(), Some("s3cret\""));
        assert_eq!(
            place["refresh_token_file"].as_str(),
            Some("/x/my-box.token")
        );
        assert_eq!(place["config_folder"].as_str(), Some("/Elsewhere"));
        assert_eq!(place.get("data_folder"), None);
        assert_eq!(table["gitlab"]["data_dir"].as_str(), Some("/srv/backups"));
        let shown = first.shown();
        assert!(
            !shown.contains("s3cret") && shown.contains("app_secret = \"…\""),
            "{shown}"
        );
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let text = First::new("dropbox", "key", None).text();
        let given: Vec<_> = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .collect();
        assert_eq!(
            given,
            [
                "[destinations.dropbox]",
                "type = \"dropbox\"",
                "app_key = \"key\""
            ]
        );
    }

    #[test]
    fn a_place_that_cannot_be_written_is_known_before() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("file");
        std::fs::write(&file, "").expect("a file");
        assert!(is_writable(&folder.path().join("a/b/c")).is_ok());
        let (place, error) = is_writable(&file.join("below")).expect_err("a file is no folder");
        assert_eq!(place, file);
        assert!(
            matches!(
                error.kind(),
                io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied
            ),
            "{error}"
        );
    }
}
