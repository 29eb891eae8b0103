//! `[gitlab]`: where its API is, and who asks.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

use reqwest::Url;
use secrecy::SecretString;

use crate::error::{Error, ErrorKind};
use crate::http::is_loopback;
use crate::settings::Section;

/// What counts where the environment alone names who asks.
const USUAL: &str = "https://gitlab.com";
/// A longer file holds no token; bytes.
const LONGEST_TOKEN: u64 = 64 * 1024;

/// The keys of `[gitlab]` that are about its API.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    url: Option<Url>,
    token: Option<Token>,
    token_file: Option<PathBuf>,
    /// Whether the token is one of the variables of GitLab's own tools, where its address need not be given.
    by_environment: bool,
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
    /// Reads the keys. Where one is absent, the variables of GitLab's own tools count: `GITLAB_URL`, `GITLAB_TOKEN`,
    /// `GITLAB_OAUTH`.
    pub fn read(section: &mut Section<'_>) -> Settings {
        let allow_http = section.get("allow_http").unwrap_or(false);
        let mut settings = Settings {
            url: url(section, allow_http),
            ca_file: section.get("ca_file"),
            ..Settings::default()
        };
        settings.read_token(section);
        settings.ca_file = settings.ca_file.filter(|path| !path.as_os_str().is_empty());
        settings
    }

    fn read_token(&mut self, section: &mut Section<'_>) {
        let given = section.secret("token");
        let file = section.get::<PathBuf>("token_file");
        let file = file.filter(|path| !path.as_os_str().is_empty());
        // Of two the one that stands nearer to the program counts.
        let is_nearer = match (section.in_file("token"), section.in_file("token_file")) {
            (true, false) => false,
            (false, true) => true,
            _ => {
                if given.is_some() && file.is_some() {
                    section.fault("token_file", "give either this or `token`, not both");
                }
                true
            }
        };
        match (given, file) {
            (Some(token), None) => self.token = Some(Token::Private(token)),
            (Some(token), Some(_)) if is_nearer => self.token = Some(Token::Private(token)),
            (_, Some(file)) => self.token_file = Some(file),
            (None, None) => {
                let private = section.text_of_variable("token", "GITLAB_TOKEN");
                let token = private.map(|token| Token::Private(token.trim().into()));
                self.token = token.or_else(|| {
                    let oauth = section.text_of_variable("token", "GITLAB_OAUTH")?;
                    Some(Token::OAuth(oauth.trim().into()))
                });
                self.by_environment = self.token.is_some();
            }
        }
    }

    /// What has to be given before GitLab can be asked for anything, and how; none if nothing is missing.
    pub fn lacking(&self) -> Option<&'static str> {
        if self.token.is_none() && self.token_file.is_none() {
            return Some(
                "`gitlab.token` is missing: GitLab's API asks who it is that wants something\n  \
                 make a token with the scope `api` in GitLab (Edit profile > Access tokens), and put it into \
                 `gitlab.token`, a file that `gitlab.token_file` names, or the variable GITLAB_TOKEN",
            );
        }
        if self.url.is_none() && !self.by_environment {
            return Some(
                "`gitlab.url` is missing: it says where GitLab's API is\n  \
                 [gitlab]\n  url = \"https://gitlab.example.org\"",
            );
        }
        None
    }

    /// Whether the configuration itself says that the API is to be used: many a shell has a token for other tools.
    pub fn is_given(&self) -> bool {
        self.token_file.is_some() || (self.token.is_some() && !self.by_environment)
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
        let Some(path) = self.token_file.as_ref().filter(|_| self.token.is_none()) else {
            return Ok(self.token.clone());
        };
        let refuse = |what: String| {
            Error::new(ErrorKind::Invalid, "reading GitLab's token", what)
                .hint("write the token into it, for root alone (chmod 600)")
        };
        let mut text = String::new();
        let read =
            File::open(path).and_then(|file| file.take(LONGEST_TOKEN).read_to_string(&mut text));
        match read {
            Ok(_) if text.trim().is_empty() => Err(refuse(format!("{} is empty", path.display()))),
            Ok(_) => Ok(Some(Token::Private(text.trim().into()))),
            Err(error) => Err(refuse(format!("reading {}: {error}", path.display()))),
        }
    }
}

/// By HTTPS, or by HTTP on this very machine, as a token is shown there; elsewhere only if the user says so.
fn url(section: &mut Section<'_>, allow_http: bool) -> Option<Url> {
    let text = section.get_or_variable::<String>("url", "GITLAB_URL")?;
    let text = text.trim().trim_end_matches('/');
    // Some tools want the API's own address.
    let text = text.strip_suffix("/api/v4").unwrap_or(text);
    let url = Url::parse(text).ok().filter(Url::has_host);
    let Some(url) = url else {
        section.fault(
            "url",
            "takes an address, like \"https://gitlab.example.org\"",
        );
        return None;
    };
    let fault = if !url.username().is_empty() || url.password().is_some() {
        Some("takes an address without a name or password: the token goes into `token`")
    } else if url.query().is_some() || url.fragment().is_some() {
        Some("takes an address without `?` and `#`")
    } else {
        match url.scheme() {
            "https" => None,
            "http" if allow_http || is_loopback(&url) => None,
            _ => Some(
                "takes an address that starts with https:// (http:// only to this machine's loopback, or with \
                 `allow_http = true`: then whoever is on the way reads the token and the exports); \
                 a certificate of your own goes into `ca_file`",
            ),
        }
    };
    match fault {
        Some(fault) => {
            section.fault("url", fault);
            None
        }
        None => Some(url),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Reader;
    use secrecy::ExposeSecret as _;

    fn read(text: &str, variables: &[(&str, &str)]) -> (Settings, Vec<String>) {
        let variables = variables.iter();
        let variables = variables.map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        let mut reader = Reader::new(text, variables, None);
        let mut root = reader.root();
        let settings = Settings::read(&mut root);
        root.finish();
        let faults = reader.finish();
        (settings, faults.iter().map(ToString::to_string).collect())
    }

    fn shown(settings: &Settings) -> String {
        match settings.token() {
            Ok(Some(Token::Private(token))) => format!("private {}", token.expose_secret()),
            Ok(Some(Token::OAuth(token))) => format!("oauth {}", token.expose_secret()),
            Ok(None) => "none".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn addresses_that_a_token_may_be_shown_to() {
        for (text, expected) in [
            ("https://git.example", Ok("https://git.example/")),
            (
                "https://git.example/git/lab/",
                Ok("https://git.example/git/lab"),
            ),
            ("https://git.example/api/v4/", Ok("https://git.example/")),
            ("http://127.0.0.1:8080", Ok("http://127.0.0.1:8080/")),
            ("http://localhost", Ok("http://localhost/")),
            ("http://[::1]:80", Ok("http://[::1]/")),
            ("http://git.example", Err("starts with https://")),
            ("ftp://git.example", Err("starts with https://")),
            ("git.example", Err("takes an address, like")),
            (
                "https://u:marked@git.example",
                Err("without a name or password"),
            ),
            (
                "https://git.example/?private_token=marked",
                Err("without `?`"),
            ),
        ] {
            let (settings, faults) = read(&format!("url = \"{text}\""), &[]);
            let url = settings.url.as_ref().map(ToString::to_string);
            assert_eq!(url.as_deref(), expected.ok(), "{text}");
            let all = faults.join("\n");
            let told = expected.err().unwrap_or_default();
            assert!(all.contains(told), "{all}");
            assert!(!all.contains("marked"), "{all}");
        }
        let (settings, faults) = read("url = \"http://git.lan\"\nallow_http = true", &[]);
        assert_eq!(
            (settings.url().as_str(), faults.len()),
            ("http://git.lan/", 0)
        );
    }

    #[test]
    fn who_asks_is_told_by_the_nearest() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "of the file\n").expect("written");
        let by_file = format!("token_file = {:?}", file.path());
        let theirs = ("GITLAB_TOKEN", "theirs\n");
        for (text, variables, expected) in [
            ("", &[][..], "none"),
            ("token = \"a\"", &[theirs], "private a"),
            ("", &[theirs, ("GITLAB_OAUTH", "o")], "private theirs"),
            (
                "",
                &[("GITLAB_TOKEN", ""), ("GITLAB_OAUTH", "o")],
                "oauth o",
            ),
            (&by_file, &[theirs], "private of the file"),
            (
                &by_file,
                &[("GITLAB_PI_BACKUP_TOKEN", "ours")],
                "private ours",
            ),
            ("token = \"a\"\ntoken_file = \"\"", &[], "private a"),
        ] {
            let (settings, faults) = read(text, variables);
            assert_eq!((shown(&settings), faults.len()), (expected.to_owned(), 0));
        }
        let (_, faults) = read(&format!("token = \"marked\"\n{by_file}"), &[]);
        assert_eq!(
            faults,
            ["line 2: `token_file`: give either this or `token`, not both"]
        );
        let (settings, _) = read("token_file = \"/nowhere/token\"", &[]);
        assert!(shown(&settings).contains("reading /nowhere/token: No such file"));
        std::fs::write(file.path(), " \n").expect("written");
        let (settings, _) = read(&by_file, &[]);
        assert!(shown(&settings).contains("is empty\n  write the token into it"));
    }

    #[test]
    fn what_is_missing_is_told_and_gitlab_com_is_meant_by_the_environment_alone() {
        for (text, variables, lacking) in [
            ("", &[][..], Some("`gitlab.token` is missing")),
            (
                "url = \"https://a.b\"",
                &[],
                Some("`gitlab.token` is missing"),
            ),
            ("token = \"a\"", &[], Some("`gitlab.url` is missing")),
            ("token = \"a\"\nurl = \"https://a.b\"", &[], None),
            ("token = \"a\"", &[("GITLAB_URL", "https://a.b")], None),
            ("", &[("GITLAB_TOKEN", "a"), ("GITLAB_URL", "")], None),
            // A token of one's own GitLab is not shown to another one because an address was forgotten.
            (
                "",
                &[("GITLAB_PI_BACKUP_TOKEN", "a")],
                Some("`gitlab.url` is missing"),
            ),
        ] {
            let (settings, faults) = read(text, variables);
            assert_eq!(faults, [""; 0]);
            let told = settings.lacking();
            assert_eq!(told.is_some(), lacking.is_some(), "{text} {variables:?}");
            assert!(
                told.unwrap_or_default()
                    .starts_with(lacking.unwrap_or_default())
            );
        }
        let (settings, _) = read("", &[("GITLAB_TOKEN", "a")]);
        assert_eq!(settings.url().as_str(), "https://gitlab.com/");
        let (settings, _) = read("", &[("GITLAB_TOKEN", "a"), ("GITLAB_URL", "https://a.b/")]);
        assert_eq!(settings.url().as_str(), "https://a.b/");
    }
}
