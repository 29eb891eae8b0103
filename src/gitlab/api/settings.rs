//! `[gitlab]`: where its API is, and who asks.

use std::fs;
use std::path::PathBuf;

use reqwest::Url;
use secrecy::SecretString;

use crate::error::{Error, ErrorKind};
use crate::settings::Section;

/// What counts where the environment names a token and no address.
const USUAL: &str = "https://gitlab.com";

/// The keys of `[gitlab]` that are about its API.
#[derive(Clone, Debug)]
pub struct Settings {
    url: Option<Url>,
    token: Option<Token>,
    token_file: Option<PathBuf>,
    /// The certificate of an authority of one's own.
    pub ca_file: Option<PathBuf>,
}

/// Who asks.
#[derive(Clone, Debug)]
pub enum Token {
    /// A personal, group or project access token.
    Private(SecretString),
    /// An OAuth token.
    OAuth(SecretString),
}

impl Settings {
    /// Reads the keys.
    pub fn read(section: &mut Section<'_>) -> Settings {
        let url = section.get::<String>("url");
        let parsed = url.as_deref().and_then(|url| Url::parse(url).ok());
        let parsed = parsed.filter(Url::has_host);
        if url.is_some() && parsed.is_none() {
            section.fault(
                "url",
                "takes an address, like \"https://gitlab.example.org\"",
            );
        }
        Settings {
            url: parsed,
            token: section.secret("token").map(Token::Private),
            token_file: section.get("token_file"),
            ca_file: section.get("ca_file"),
        }
    }

    /// Where GitLab is.
    pub fn url(&self) -> Url {
        let usual = || Url::parse(USUAL).expect("a fixed address");
        self.url.clone().unwrap_or_else(usual)
    }

    /// A file outside the configuration that holds a secret, if one is used.
    pub fn secret_file(&self) -> Option<&PathBuf> {
        self.token_file.as_ref()
    }

    /// The token, read when it is needed.
    pub(super) fn token(&self) -> Result<Option<Token>, Error> {
        match (&self.token, &self.token_file) {
            (Some(token), _) => Ok(Some(token.clone())),
            (None, None) => Ok(None),
            (None, Some(path)) => match fs::read_to_string(path) {
                Ok(text) => Ok(Some(Token::Private(text.trim().into()))),
                Err(error) => {
                    let what = format!("reading {}: {error}", path.display());
                    Err(Error::new(
                        ErrorKind::Invalid,
                        "reading GitLab's token",
                        what,
                    ))
                }
            },
        }
    }
}
