//! `gitlab-secrets.json`: without the keys in it a restored database cannot be decrypted
//! (<https://docs.gitlab.com/administration/backup_restore/troubleshooting_backup_gitlab/#when-the-secrets-file-is-lost>).
//!
//! Nothing that stands in it is repeated in any message, the parser's own words included.

use std::collections::BTreeMap;
use std::io::Read;

use serde_json::value::RawValue;

use super::Flaw;

/// A longer one is not read, in bytes; GitLab's has some 30 kB.
const LONGEST: u64 = 1024 * 1024;

/// The keys every version of GitLab since 8.11 writes, and cannot make anew.
const KEYS: [&str; 3] = ["db_key_base", "secret_key_base", "otp_key_base"];

/// A JSON object whose values are looked over, but not taken apart.
type Object<'a> = BTreeMap<String, &'a RawValue>;

/// Reads the whole file.
pub fn check(input: &mut dyn Read) -> Result<(), Flaw> {
    let mut text = Vec::new();
    input.take(LONGEST + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LONGEST {
        return Err(Flaw::Unjudged(format!("it is longer than {LONGEST} bytes")));
    }
    if text.trim_ascii().is_empty() {
        return Err(Flaw::damaged("it is empty"));
    }
    let secrets: Object = serde_json::from_slice(&text).map_err(|error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        Flaw::Damaged(format!("it is no JSON object: {place}"))
    })?;
    let Some(rails) = secrets.get("gitlab_rails") else {
        return Err(Flaw::Unjudged(lacks(&KEYS)));
    };
    let rails: Object = serde_json::from_str(rails.get())
        .map_err(|_| Flaw::damaged("its `gitlab_rails` is no JSON object"))?;
    let has = |key: &str| {
        let value = rails
            .get(key)
            .and_then(|raw| serde_json::from_str(raw.get()).ok());
        value.is_some_and(|text: String| !text.trim().is_empty())
    };
    let missing: Vec<_> = KEYS.into_iter().filter(|key| !has(key)).collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(Flaw::Unjudged(lacks(&missing)))
    }
}

/// Another program may keep them elsewhere: somebody should look, but it is no damage.
fn lacks(keys: &[&str]) -> String {
    let keys = keys.join(", ");
    format!("it lacks {keys}: what GitLab encrypted with that could not be read after a restore")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRETS: &str = r#"{
  "gitlab_workhorse": {"secret_token": "SECRET"},
  "gitlab_rails": {"secret_key_base": "SECRET1", "db_key_base": "SECRET2", "otp_key_base": "SECRET3",
    "active_record_encryption_primary_key": ["SECRET4"], "openid_connect_signing_key": "SECRET5"}
 }
"#;

    #[test]
    fn the_keys_must_be_there_and_are_never_told() {
        assert_eq!(check(&mut SECRETS.as_bytes()), Ok(()));
        for (from, to, what) in [
            ("db_key_base", "db_key_bbse", "db_key_base"),
            ("\"SECRET3\"", "\"\"", "otp_key_base"),
            ("\"SECRET3\"", "7", "otp_key_base"),
            ("\"gitlab_rails\"", "\"gitlab_sails\"", "db_key_base"),
            ("{\n", "[\n", "line"),
            ("{\"secret_key_base\": ", "[", "line"),
            (
                "\"gitlab_rails\": {",
                "\"gitlab_rails\": [\"SECRET\"], \"x\": {",
                "gitlab_rails",
            ),
            ("}\n", "}\nSECRET", "line"),
            ("SECRET1", "SECRET\u{1}", "line"),
        ] {
            let flaw = check(&mut SECRETS.replacen(from, to, 1).as_bytes()).expect_err(to);
            assert!(flaw.to_string().contains(what), "{to}: {flaw}");
            assert!(!flaw.to_string().contains("SECRET"), "{flaw}");
        }
        for cut in 0..SECRETS.trim_end().len() {
            assert!(
                check(&mut &SECRETS.as_bytes()[..cut]).is_err(),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn hostile_ones_do_no_harm() {
        let nested = "[".repeat(1_000_000);
        assert!(check(&mut nested.as_bytes()).is_err());
        assert!(matches!(
            check(&mut std::io::repeat(b' ')),
            Err(Flaw::Unjudged(_))
        ));
    }
}
