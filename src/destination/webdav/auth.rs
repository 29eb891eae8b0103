//! What a server is shown: a user's password, or a token.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};

use crate::settings::Section;

/// A longer file holds no password; bytes.
const LONGEST_SECRET: u64 = 64 * 1024;

/// What the configuration says of it.
#[derive(Debug, Default)]
pub struct Credentials {
    username: Option<String>,
    /// A password if there is a username, else a token.
    secret: Option<Secret>,
}

/// Where a secret is.
#[derive(Debug)]
enum Secret {
    Given(SecretString),
    /// Read when the destination is set up.
    File(PathBuf),
}

/// Ready to be shown.
#[derive(Default)]
pub struct Auth {
    header: Option<HeaderValue>,
    /// What could come back in a reply.
    secrets: Vec<SecretString>,
}

impl Credentials {
    /// Reads the keys, and notes what contradicts itself.
    pub fn read(section: &mut Section<'_>) -> Credentials {
        let username = section.get::<String>("username");
        let password = secret(section, "password", "password_file");
        let token = secret(section, "token", "token_file");
        match (&username, &password, &token) {
            (_, Some(_), Some(_)) | (Some(_), _, Some(_)) => {
                section.fault("token", "give either this, or `username` and `password`");
            }
            (Some(_), None, None) => {
                section.fault(
                    "username",
                    "needs `password` or `password_file` beside it; Nextcloud gives app passwords under Settings, Security",
                );
            }
            (None, Some(_), None) => {
                section.fault("password", "needs `username` beside it");
            }
            _ => {}
        }
        if username.as_ref().is_some_and(|name| name.contains(':')) {
            section.fault("username", "takes no colon");
        }
        Credentials {
            username,
            secret: password.or(token),
        }
    }

    /// The file that holds the secret, if it is one that is used.
    pub fn file(&self) -> Option<&PathBuf> {
        match &self.secret {
            Some(Secret::File(path)) => Some(path),
            Some(Secret::Given(_)) | None => None,
        }
    }

    /// What is shown. The error says why it cannot be read, and the way out.
    pub fn auth(&self) -> Result<Auth, String> {
        let secret = match &self.secret {
            None => return Ok(Auth::default()),
            Some(Secret::Given(secret)) => secret.clone(),
            Some(Secret::File(path)) => read(path)?,
        };
        let (scheme, shown) = match &self.username {
            None => ("Bearer", secret.clone()),
            Some(name) => {
                let pair = format!("{name}:{}", secret.expose_secret());
                ("Basic", SecretString::from(STANDARD.encode(pair)))
            }
        };
        let header = HeaderValue::from_str(&format!("{scheme} {}", shown.expose_secret()));
        let mut header =
            header.map_err(|_| "the token has characters that no header takes".to_owned())?;
        header.set_sensitive(true);
        Ok(Auth {
            header: Some(header),
            secrets: vec![secret, shown],
        })
    }
}

/// A secret by its key, or by the key of its file: the one that stands nearer to the program counts.
fn secret(section: &mut Section<'_>, key: &str, file_key: &str) -> Option<Secret> {
    let given = section.secret(key);
    let file = section.get::<PathBuf>(file_key);
    match (given, file) {
        (Some(given), None) => Some(Secret::Given(given)),
        (None, Some(file)) => Some(Secret::File(file)),
        (None, None) => None,
        (Some(given), Some(file)) => match (section.in_file(key), section.in_file(file_key)) {
            (true, false) => Some(Secret::File(file)),
            (false, true) => Some(Secret::Given(given)),
            _ => {
                section.fault(file_key, &format!("give either this or `{key}`, not both"));
                Some(Secret::Given(given))
            }
        },
    }
}

fn read(path: &Path) -> Result<SecretString, String> {
    let mut text = String::new();
    let result =
        File::open(path).and_then(|file| file.take(LONGEST_SECRET).read_to_string(&mut text));
    match result {
        Ok(_) if text.trim().is_empty() => Err(format!(
            "{} is empty\n  write the password or token into it",
            path.display()
        )),
        Ok(_) => Ok(SecretString::from(text.trim_end_matches(['\r', '\n']))),
        Err(error) => Err(format!(
            "reading the password or token in {}: {error}\n  write it there, for root alone (chmod 600)",
            path.display()
        )),
    }
}

impl Auth {
    /// The value of an `Authorization` header, marked sensitive.
    pub fn header(&self) -> Option<HeaderValue> {
        self.header.clone()
    }

    /// A text from elsewhere without our secrets.
    pub fn redact(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.secrets {
            let secret = secret.expose_secret();
            if !secret.is_empty() {
                text = text.replace(secret, "[secret]");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Reader;

    fn read(text: &str) -> (Credentials, Vec<String>) {
        let mut reader = Reader::new(text, [], None);
        let mut root = reader.root();
        let credentials = Credentials::read(&mut root);
        root.finish();
        let faults = reader.finish();
        (
            credentials,
            faults.iter().map(ToString::to_string).collect(),
        )
    }

    fn shown(text: &str) -> String {
        let (credentials, faults) = read(text);
        assert_eq!(faults, [""; 0]);
        let auth = credentials.auth().unwrap_or_default();
        let header = auth.header().map(|header| {
            assert!(header.is_sensitive());
            header.to_str().unwrap_or_default().to_owned()
        });
        header.unwrap_or_default()
    }

    #[test]
    fn a_password_or_a_token_is_shown() {
        // As RFC 7617 has it.
        assert_eq!(
            shown("username = \"Aladdin\"\npassword = \"open sesame\"\n"),
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
        );
        assert_eq!(shown("token = \"abc\"\n"), "Bearer abc");
        assert_eq!(shown(""), "");
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("secret");
        std::fs::write(&path, "abc\n").expect("written");
        assert_eq!(shown(&format!("token_file = {path:?}\n")), "Bearer abc");
    }

    #[test]
    fn contradictions_are_faults_that_tell_no_secret() {
        for text in [
            "username = \"u\"\n",
            "password = \"marked-secret\"\n",
            "username = \"u\"\ntoken = \"marked-secret\"\n",
            "username = \"u:v\"\npassword = \"marked-secret\"\n",
            "username = \"u\"\npassword = \"marked-secret\"\npassword_file = \"/x\"\n",
        ] {
            let (_, faults) = read(text);
            assert!(faults.len() == 1, "{text}: {faults:?}");
            assert!(!faults[0].contains("marked-secret"), "{faults:?}");
        }
    }

    #[test]
    fn what_a_server_repeats_is_taken_out() {
        let (credentials, _) = read("username = \"u\"\npassword = \"marked-secret\"\n");
        let auth = credentials.auth().unwrap_or_default();
        let told = format!(
            "you sent {:?} marked-secret",
            auth.header()
                .map(|header| header.to_str().unwrap_or_default().to_owned())
        );
        assert_eq!(
            auth.redact(&told),
            "you sent Some(\"Basic [secret]\") [secret]"
        );
        assert!(credentials.file().is_none());
        let (credentials, _) = read("token_file = \"/nowhere/at/all\"\n");
        let error = credentials.auth().err().unwrap_or_default();
        assert!(error.contains("/nowhere/at/all: No such file"), "{error}");
    }
}
