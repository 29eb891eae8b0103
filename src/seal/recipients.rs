//! Who can decrypt: age's own public keys, and those of SSH.

use age::ssh::ParseRecipientKeyError;

/// So many may there be: the header of every archive names each.
const MOST: usize = 100;
/// What a private key of age's begins with, in whatever capitals.
const PRIVATE: &str = "AGE-SECRET-KEY-";

/// The public keys that archives are encrypted to: at least one.
#[derive(Clone, PartialEq, Eq)]
pub struct Recipients {
    all: Vec<String>,
}

/// One of them.
pub(super) enum Recipient {
    X25519(age::x25519::Recipient),
    Ssh(Box<age::ssh::Recipient>),
}

impl Recipients {
    /// Of these public keys, as `age-keygen` and `ssh-keygen` print them. The error names the one that is wrong.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Recipients, String> {
        let mut all: Vec<String> = Vec::new();
        for text in texts {
            let canonical = parse(text)?.to_string();
            if !all.contains(&canonical) {
                all.push(canonical);
            }
        }
        match all.len() {
            0 => Err("names nobody who could decrypt".to_owned()),
            1..=MOST => Ok(Recipients { all }),
            _ => Err(format!("names more than {MOST} recipients")),
        }
    }

    /// The lines of a recipients file: a key each; empty ones and those that begin with `#` are passed over.
    pub fn lines(text: &str) -> impl Iterator<Item = &str> {
        let lines = text.lines().map(str::trim);
        lines.filter(|line| !line.is_empty() && !line.starts_with('#'))
    }

    /// The public keys, without comments.
    pub fn public_keys(&self) -> &[String] {
        &self.all
    }

    /// As the age crate takes them.
    pub(super) fn parsed(&self) -> Result<Vec<Recipient>, String> {
        self.all.iter().map(|text| parse(text)).collect()
    }
}

impl std::fmt::Debug for Recipients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.all).finish()
    }
}

impl std::fmt::Display for Recipient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Recipient::X25519(recipient) => recipient.fmt(f),
            Recipient::Ssh(recipient) => recipient.fmt(f),
        }
    }
}

impl Recipient {
    /// As the age crate's encryptor takes it.
    pub(super) fn as_age(&self) -> &dyn age::Recipient {
        match self {
            Recipient::X25519(recipient) => recipient,
            Recipient::Ssh(recipient) => &**recipient,
        }
    }
}

fn parse(text: &str) -> Result<Recipient, String> {
    let text = text.trim();
    // Not one character of it is repeated: it stands where others may read it.
    if text.to_ascii_uppercase().contains(PRIVATE) || text.contains("PRIVATE KEY") {
        return Err(
            "holds a private key, with which everybody who reads this can decrypt the backups\n    \
             give the public key (`age-keygen -y FILE` prints it), keep the private one on another machine, \
             and make a new pair if this file was not yours alone"
                .to_owned(),
        );
    }
    if text.starts_with("ssh-") || text.starts_with("ecdsa-") || text.starts_with("sk-") {
        let wrong = |why: &str| format!("`{}`: {why}", shown(text));
        let ssh = text.parse().map_err(|error| match error {
            ParseRecipientKeyError::RsaModulusTooSmall => {
                wrong("an RSA key of less than 2048 bits is not safe")
            }
            ParseRecipientKeyError::RsaModulusTooLarge => wrong("an RSA key so long is not known"),
            ParseRecipientKeyError::Unsupported(_) => {
                wrong("of the keys of SSH only ssh-ed25519 and ssh-rsa can decrypt")
            }
            _ => wrong("is no public key of SSH, or not a whole one"),
        })?;
        return Ok(Recipient::Ssh(Box::new(ssh)));
    }
    match text.parse() {
        Ok(recipient) => Ok(Recipient::X25519(recipient)),
        Err(_) if text.starts_with("age1") => Err(format!(
            "`{}`: is no public key of age's, or not a whole one; the line `# public key:` of a key file has it",
            shown(text)
        )),
        Err(_) => Err(format!(
            "`{}`: is no public key: one begins with `age1`, `ssh-ed25519` or `ssh-rsa`",
            shown(text)
        )),
    }
}

/// Enough of it to be found.
fn shown(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(80)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";
    const ED25519: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHsKLqeplhpW+uObz5dvMgjz1OxfM/XXUB+VHtZ6isGN";

    #[test]
    fn several_kinds_are_taken_each_once() {
        let commented = format!("{ED25519} alice@example.org");
        let recipients = Recipients::parse([AGE, &commented, &format!(" {AGE}\n"), ED25519]);
        let recipients = recipients.expect("good");
        assert_eq!(recipients.public_keys(), [AGE, ED25519]);
        let file = format!("# ours\n\n{AGE}\r\n  {ED25519}\n");
        assert_eq!(Recipients::lines(&file).collect::<Vec<_>>(), [AGE, ED25519]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |text: &str| Recipients::parse([AGE, text]).expect_err(text);
        for (text, why) in [
            (
                "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pb",
                "of age's",
            ),
            ("age1", "`age1`"),
            ("alice", "`alice`: is no public key"),
            ("", "is no public key"),
            ("ssh-ed25519 AAAA", "not a whole one"),
            ("ssh-ed25519", "not a whole one"),
            (
                "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBEmKSENjQEezOmxkZMy7opKgwFB9nkt5YRrYMjNuG5N87uRgg6CLrbo5wAdT/y6v0mKV0U2w0WZ2YB/++Tpockg=",
                "can decrypt",
            ),
        ] {
            assert!(error(text).contains(why), "{text}: {}", error(text));
        }
        assert!(Recipients::parse([]).expect_err("none").contains("nobody"));
        let many: Vec<_> = (0..=MOST)
            .map(|_| age::x25519::Identity::generate().to_public().to_string())
            .collect();
        let error = Recipients::parse(many.iter().map(String::as_str)).expect_err("too many");
        assert!(error.contains("more than 100"), "{error}");
    }

    #[test]
    fn a_private_key_is_told_and_not_repeated() {
        let key = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";
        for text in [
            key.to_owned(),
            key.to_lowercase(),
            format!("age1 {key}"),
            "-----BEGIN OPENSSH PRIVATE KEY-----\nabc".to_owned(),
        ] {
            let error = Recipients::parse([text.as_str()]).expect_err("refused");
            assert!(error.contains("private key"), "{error}");
            assert!(!error.to_uppercase().contains("GQ9778"), "{error}");
        }
    }
}
