//! `/etc/gitlab` as a Linux package leaves it.

use std::fmt::Write as _;

use serde_json::json;

use super::pack::Member;
use super::{Random, hex};

/// The members of a config archive, as `tar --absolute-names --dereference -- /etc/gitlab` names them.
pub fn members(seed: u64) -> Vec<Member> {
    let mut random = Random::new(seed ^ 0x00c0_ffee);
    let pem = |random: &mut Random, what: &str| pem(what, &random.bytes(600));
    vec![
        Member::folder("/etc/gitlab/", 0o775),
        Member::file("/etc/gitlab/gitlab.rb", 0o600, settings()),
        Member::file("/etc/gitlab/gitlab-secrets.json", 0o600, secrets(seed)),
        Member::folder("/etc/gitlab/ssl/", 0o755),
        Member::file(
            "/etc/gitlab/ssl/gitlab.example.org.crt",
            0o644,
            pem(&mut random, "CERTIFICATE"),
        ),
        Member::file(
            "/etc/gitlab/ssl/gitlab.example.org.key",
            0o600,
            pem(&mut random, "PRIVATE KEY"),
        ),
        Member::folder("/etc/gitlab/trusted-certs/", 0o755),
        Member::file(
            "/etc/gitlab/trusted-certs/our-own-ca.crt",
            0o644,
            pem(&mut random, "CERTIFICATE"),
        ),
    ]
}

/// `gitlab-secrets.json` with the keys that GitLab 17 generates.
pub fn secrets(seed: u64) -> String {
    let mut random = Random::new(seed ^ 0x005e_c2e7);
    let mut key = |bytes: usize| hex(random.bytes(bytes));
    let signing_key = pem("RSA PRIVATE KEY", key(300).as_bytes());
    let secrets = json!({
        "gitlab_workhorse": {"secret_token": key(32)},
        "gitlab_shell": {"secret_token": key(64)},
        "gitlab_rails": {
            "secret_key_base": key(64),
            "db_key_base": key(64),
            "otp_key_base": key(64),
            "encrypted_settings_key_base": key(64),
            "openid_connect_signing_key": signing_key,
            "active_record_encryption_primary_key": [key(16)],
            "active_record_encryption_deterministic_key": [key(16)],
            "active_record_encryption_key_derivation_salt": key(16),
        },
        "gitlab_pages": {"gitlab_secret": key(32), "api_secret_key": key(32)},
        "gitlab_kas": {"api_secret_key": key(32), "private_api_secret_key": key(32)},
        "suggested_reviewers": {"api_secret_key": key(32)},
        "registry": {"http_secret": key(64), "internal_key": pem("RSA PRIVATE KEY", key(300).as_bytes())},
        "letsencrypt": {"auto_enabled": false},
        "postgresql": {"internal_certificate": null},
    });
    serde_json::to_string_pretty(&secrets).expect("JSON") + "\n"
}

/// `gitlab.rb`: what counts is a line, the rest are comments.
fn settings() -> String {
    let mut text = "## GitLab configuration settings\n\
        ##! This file is generated during initial installation and **is not** modified during upgrades.\n\n\
        ################################################################################\n\
        external_url 'https://gitlab.example.org'\n\n"
        .to_owned();
    for number in 0..600 {
        let _ = write!(
            text,
            "### Setting {number}\n###! Docs: https://docs.gitlab.com/omnibus/settings/\n\
             # gitlab_rails['setting_{number}'] = true\n\n"
        );
    }
    text + "# gitlab_rails['backup_path'] = \"/var/opt/gitlab/backups\"\n# gitlab_rails['backup_keep_time'] = 604800\n"
}

fn pem(what: &str, bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = format!("-----BEGIN {what}-----\n");
    for line in bytes.chunks(64) {
        text.extend(
            line.iter()
                .map(|byte| char::from(ALPHABET[usize::from(byte & 63)])),
        );
        text.push('\n');
    }
    text + &format!("-----END {what}-----\n")
}
