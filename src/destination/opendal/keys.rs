//! The keys of each service, as OpenDAL names them, and what is asked of their values.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use opendal::Operator;
use reqwest::Url;
use secrecy::{ExposeSecret as _, SecretString};

use super::{Scheme, disk};
use crate::error::{Error, ErrorKind};
use crate::http::is_loopback;
use crate::settings::Section;

/// What a key takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Text,
    Flag,
    /// A text that is never shown; `NAME_file` names a file that holds it.
    Secret,
    /// The path of a file that holds a secret, which OpenDAL or `ssh` reads by itself.
    SecretFile,
}

/// A key, what it takes, and whether it must be given.
type Key = (&'static str, Takes, bool);

const S3: &[Key] = &[
    ("bucket", Takes::Text, true),
    ("endpoint", Takes::Text, false),
    ("region", Takes::Text, false),
    ("access_key_id", Takes::Text, true),
    ("secret_access_key", Takes::Secret, true),
    ("session_token", Takes::Secret, false),
    ("enable_virtual_host_style", Takes::Flag, false),
    ("checksum_algorithm", Takes::Text, false),
    ("default_storage_class", Takes::Text, false),
    ("default_acl", Takes::Text, false),
    ("server_side_encryption", Takes::Text, false),
    ("server_side_encryption_aws_kms_key_id", Takes::Text, false),
    (
        "server_side_encryption_customer_algorithm",
        Takes::Text,
        false,
    ),
    ("server_side_encryption_customer_key", Takes::Secret, false),
    (
        "server_side_encryption_customer_key_md5",
        Takes::Text,
        false,
    ),
    ("disable_list_objects_v2", Takes::Flag, false),
    ("enable_request_payer", Takes::Flag, false),
];
const SFTP: &[Key] = &[
    ("endpoint", Takes::Text, true),
    ("user", Takes::Text, false),
    ("key", Takes::SecretFile, false),
    ("known_hosts_strategy", Takes::Text, false),
];
const GCS: &[Key] = &[
    ("bucket", Takes::Text, true),
    ("endpoint", Takes::Text, false),
    ("scope", Takes::Text, false),
    ("service_account", Takes::Text, false),
    ("credential", Takes::Secret, false),
    ("credential_path", Takes::SecretFile, false),
    ("predefined_acl", Takes::Text, false),
    ("default_storage_class", Takes::Text, false),
];
const AZBLOB: &[Key] = &[
    ("container", Takes::Text, true),
    ("endpoint", Takes::Text, true),
    ("account_name", Takes::Text, true),
    ("account_key", Takes::Secret, false),
    ("sas_token", Takes::Secret, false),
];
const B2: &[Key] = &[
    ("bucket", Takes::Text, true),
    ("bucket_id", Takes::Text, true),
    ("application_key_id", Takes::Text, true),
    ("application_key", Takes::Secret, true),
];

/// Of which one at least must be given.
fn one_of(scheme: Scheme) -> &'static [&'static str] {
    match scheme {
        Scheme::Gcs => &["credential_path", "credential"],
        Scheme::Azblob => &["account_key", "sas_token"],
        Scheme::Fs | Scheme::S3 | Scheme::Sftp | Scheme::B2 => &[],
    }
}

fn keys(scheme: Scheme) -> &'static [Key] {
    match scheme {
        Scheme::Fs => &[],
        Scheme::S3 => S3,
        Scheme::Sftp => SFTP,
        Scheme::Gcs => GCS,
        Scheme::Azblob => AZBLOB,
        Scheme::B2 => B2,
    }
}

/// A value that was given.
#[derive(Debug)]
enum Value {
    Text(String),
    Secret(SecretString),
    /// Read when it is needed: what the configuration's files alone show says nothing about it.
    FromFile(PathBuf),
}

/// `[destinations.NAME]` of a type that OpenDAL knows.
#[derive(Debug)]
pub struct Settings {
    pub(super) scheme: Scheme,
    /// Where everything lies, in the service's own words; it begins with `/`.
    pub(super) root: String,
    pub(super) require_mount: bool,
    /// An address that is not encrypted, and so never goes through a proxy.
    pub(super) is_plain: bool,
    pub(super) ca_file: Option<PathBuf>,
    values: Vec<(&'static str, Value)>,
    /// Those that came from files, once they have been read.
    read: Mutex<Vec<SecretString>>,
    secret_file: Option<PathBuf>,
    /// The region of a bucket, by its own word.
    pub(super) region: OnceLock<String>,
}

impl Settings {
    /// Reads the keys that only this type has. None if something is missing; that is noted.
    pub fn read(scheme: Scheme, section: &mut Section<'_>) -> Option<Settings> {
        if !scheme.is_built_in() {
            section.fault("type", &scheme.lacking());
            section.pass_over();
            return None;
        }
        let root = root(scheme, section);
        let mut settings = Settings {
            scheme,
            root: root.clone().unwrap_or_default(),
            require_mount: true,
            is_plain: false,
            ca_file: None,
            values: Vec::new(),
            read: Mutex::default(),
            secret_file: None,
            region: OnceLock::new(),
        };
        let mut complete = root.is_some();
        if scheme == Scheme::Fs {
            let ought_to_be = || disk::ought_to_be_mounted(Path::new(&settings.root));
            settings.require_mount = section.get("require_mount").unwrap_or_else(ought_to_be);
        }
        for &(key, takes, required) in keys(scheme) {
            complete &= settings.take(section, key, takes, required);
        }
        let one_of = one_of(scheme);
        if !one_of.is_empty() && !one_of.iter().any(|key| settings.has(key)) {
            section.require::<String>(one_of[0]);
            section.fault(one_of[0], &format!("or give `{}`", one_of[1]));
            complete = false;
        }
        if matches!(scheme, Scheme::S3 | Scheme::Gcs | Scheme::Azblob) {
            let allow_http = section.get("allow_http").unwrap_or(false);
            complete &= settings.check_endpoint(section, allow_http);
        }
        if !matches!(scheme, Scheme::Fs | Scheme::Sftp) {
            settings.ca_file = section
                .get::<PathBuf>("ca_file")
                .filter(|path| !path.as_os_str().is_empty());
        }
        complete &= settings.check_the_rest(section);
        complete.then_some(settings)
    }

    /// Whether the value is there, or need not be.
    fn take(
        &mut self,
        section: &mut Section<'_>,
        key: &'static str,
        takes: Takes,
        required: bool,
    ) -> bool {
        let value = match takes {
            Takes::Flag => section
                .get::<bool>(key)
                .map(|flag| Value::Text(flag.to_string())),
            Takes::Text if required => section.require::<String>(key).map(Value::Text),
            Takes::Text => section.get::<String>(key).map(Value::Text),
            Takes::SecretFile => {
                let path = section.get::<String>(key);
                self.secret_file = path.clone().map(PathBuf::from).or(self.secret_file.take());
                path.map(Value::Text)
            }
            Takes::Secret => {
                let file = format!("{key}_file");
                let secret = section.secret(key);
                let path = section.get::<PathBuf>(&file);
                if section.in_file(key) && section.in_file(&file) {
                    section.fault(&file, &format!("give either this or `{key}`, not both"));
                }
                match (secret, path) {
                    (Some(secret), _) => Some(Value::Secret(secret)),
                    (None, Some(path)) => {
                        self.secret_file = Some(path.clone());
                        Some(Value::FromFile(path))
                    }
                    (None, None) => {
                        if required {
                            // Notes that it is missing.
                            section.require::<String>(key);
                        }
                        None
                    }
                }
            }
        };
        let is_empty = matches!(&value, Some(Value::Text(text)) if text.is_empty());
        if is_empty && required {
            section.fault(key, "must not be empty");
        }
        let there = value.is_some() && !is_empty;
        if let Some(value) = value.filter(|_| !is_empty) {
            self.values.push((key, value));
        }
        there || !required
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.values.iter().any(|(known, _)| *known == key)
    }

    pub(super) fn text(&self, key: &str) -> Option<&str> {
        let (_, value) = self.values.iter().find(|(known, _)| *known == key)?;
        match value {
            Value::Text(text) => Some(text),
            Value::Secret(_) | Value::FromFile(_) => None,
        }
    }

    /// HTTPS, or HTTP to this very machine, or wherever the user says that it may go.
    fn check_endpoint(&mut self, section: &mut Section<'_>, allow_http: bool) -> bool {
        let Some(text) = self.text("endpoint") else {
            return true;
        };
        let url = Url::parse(text).ok().filter(|url| {
            url.has_host()
                && url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
        });
        let (loopback, scheme) = url
            .as_ref()
            .map_or((false, ""), |url| (is_loopback(url), url.scheme()));
        self.is_plain = scheme == "http";
        let allowed = scheme == "https" || (self.is_plain && (loopback || allow_http));
        if !allowed {
            section.fault(
                "endpoint",
                "takes an address that starts with https:// (http:// only to this machine's loopback, or with \
                 `allow_http = true`: then whoever is on the way reads the backups)",
            );
        }
        allowed
    }

    /// What only one service asks of its values.
    fn check_the_rest(&mut self, section: &mut Section<'_>) -> bool {
        let mut good = true;
        match self.scheme {
            Scheme::S3 => {
                if let Some(algorithm) = self.text("checksum_algorithm")
                    && !["crc32c", "none"].contains(&algorithm)
                {
                    section.fault("checksum_algorithm", "takes \"crc32c\" or \"none\"");
                    good = false;
                }
            }
            Scheme::Sftp => {
                for key in ["endpoint", "user"] {
                    // `ssh` would take it for an option.
                    if self.text(key).is_some_and(|text| text.starts_with('-')) {
                        section.fault(key, "must not begin with `-`");
                        good = false;
                    }
                }
                let strategies = ["strict", "accept", "add"];
                if let Some(strategy) = self.text("known_hosts_strategy")
                    && !strategies.contains(&strategy.to_lowercase().as_str())
                {
                    section.fault(
                        "known_hosts_strategy",
                        "takes \"strict\", \"add\" or \"accept\"",
                    );
                    good = false;
                }
            }
            Scheme::Fs | Scheme::Gcs | Scheme::Azblob | Scheme::B2 => {}
        }
        good
    }

    /// A file outside the configuration that holds a secret of this destination, if one is used.
    pub fn secret_file(&self) -> Option<&PathBuf> {
        self.secret_file.as_ref()
    }

    /// The folder of this machine that it is, if it is one.
    pub fn folder(&self) -> Option<&Path> {
        (self.scheme == Scheme::Fs).then(|| Path::new(&self.root))
    }

    /// The checksum that goes with each part, by a header that only some servers know: Amazon's does.
    fn checksum(&self) -> Option<&str> {
        let is_amazons = || {
            self.text("endpoint").is_none_or(|endpoint| {
                Url::parse(endpoint).is_ok_and(|url| {
                    url.host_str()
                        .is_some_and(|host| host.ends_with(".amazonaws.com"))
                })
            })
        };
        match self.text("checksum_algorithm") {
            Some("none") => None,
            Some(algorithm) => Some(algorithm),
            None => is_amazons().then_some("crc32c"),
        }
    }

    /// The secrets, to be taken out of whatever comes back.
    pub(super) fn redact(&self, text: &str) -> String {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let given = self.values.iter().filter_map(|(_, value)| match value {
            Value::Secret(secret) => Some(secret),
            _ => None,
        });
        let mut text = text.to_owned();
        for secret in given.chain(read.iter()) {
            if !secret.expose_secret().is_empty() {
                text = text.replace(secret.expose_secret(), "…");
            }
        }
        text
    }

    /// OpenDAL's client with these settings; it looks for nothing in the environment, in other files, or at a
    /// cloud's own addresses.
    pub(super) fn operator(&self, action: &str) -> Result<Operator, Error> {
        self.build(action, self.checksum())
    }

    /// Like [`Settings::operator`], to sign addresses: no checksum is known of what somebody else will send.
    pub(super) fn signer(&self, action: &str) -> Result<Operator, Error> {
        self.build(action, None)
    }

    fn build(&self, action: &str, checksum: Option<&str>) -> Result<Operator, Error> {
        let mut pairs = vec![("root".to_owned(), self.root.clone())];
        for (key, value) in &self.values {
            let text = match value {
                Value::Text(_) if *key == "checksum_algorithm" => continue,
                Value::Text(_) if *key == "region" && self.region.get().is_some() => continue,
                Value::Text(text) => text.clone(),
                Value::Secret(secret) => secret.expose_secret().to_owned(),
                Value::FromFile(path) => {
                    let read = fs::read_to_string(path).map_err(|error| {
                        let what = format!("`{key}_file` {}: {error}", path.display());
                        Error::new(ErrorKind::Unauthorized, action, what)
                            .hint("put the secret into that file, for root alone (chmod 600)")
                    })?;
                    let secret = read.trim_end_matches(['\r', '\n']).to_owned();
                    let mut known = self.read.lock().unwrap_or_else(PoisonError::into_inner);
                    known.push(SecretString::from(secret.clone()));
                    secret
                }
            };
            pairs.push(((*key).to_owned(), text));
        }
        let mut set = |key: &str, value: &str| pairs.push((key.to_owned(), value.to_owned()));
        match self.scheme {
            Scheme::S3 => {
                set("disable_config_load", "true");
                set("disable_ec2_metadata", "true");
                if let Some(algorithm) = checksum {
                    set("checksum_algorithm", algorithm);
                }
                if let Some(region) = self.region.get() {
                    set("region", region);
                }
                if self.is_amazon() && !self.has("enable_virtual_host_style") {
                    // Amazon's certificate is good for one more name, not for several.
                    let bucket = self.text("bucket").unwrap_or_default();
                    set(
                        "enable_virtual_host_style",
                        if bucket.contains('.') {
                            "false"
                        } else {
                            "true"
                        },
                    );
                }
            }
            Scheme::Gcs => {
                set("disable_config_load", "true");
                set("disable_vm_metadata", "true");
            }
            Scheme::Fs | Scheme::Sftp | Scheme::Azblob | Scheme::B2 => {}
        }
        let built = build_operator(self.scheme, pairs);
        built.map_err(|error| {
            let what = self.redact(&error.to_string());
            Error::new(ErrorKind::Invalid, action, what)
                .hint("look at the keys of this destination in the configuration")
        })
    }
}

/// Where everything lies at the service; a disk's must be said.
fn root(scheme: Scheme, section: &mut Section<'_>) -> Option<String> {
    let root = if scheme == Scheme::Fs {
        section.require::<String>("root")?
    } else {
        section.get("root").unwrap_or_else(|| "/".to_owned())
    };
    let bad = |part: &str| part == "." || part == "..";
    if !root.starts_with('/') || root.split('/').any(bad) || root.contains('\0') {
        section.fault(
            "root",
            "takes a path that starts with `/`, without `.` and `..`",
        );
        return None;
    }
    if scheme == Scheme::Fs && root.trim_end_matches('/').is_empty() {
        section.fault("root", "takes a folder of its own, not `/`");
        return None;
    }
    Some(root)
}

fn build_operator(scheme: Scheme, pairs: Vec<(String, String)>) -> opendal::Result<Operator> {
    match scheme {
        #[cfg(feature = "fs")]
        Scheme::Fs => Operator::from_iter::<opendal::services::Fs>(pairs),
        #[cfg(feature = "s3")]
        Scheme::S3 => Operator::from_iter::<opendal::services::S3>(pairs),
        #[cfg(feature = "sftp")]
        Scheme::Sftp => Operator::from_iter::<opendal::services::Sftp>(pairs),
        #[cfg(feature = "gcs")]
        Scheme::Gcs => Operator::from_iter::<opendal::services::Gcs>(pairs),
        #[cfg(feature = "azblob")]
        Scheme::Azblob => Operator::from_iter::<opendal::services::Azblob>(pairs),
        #[cfg(feature = "b2")]
        Scheme::B2 => Operator::from_iter::<opendal::services::B2>(pairs),
        #[allow(unreachable_patterns, reason = "with every feature each has its line")]
        _ => {
            drop(pairs);
            Err(opendal::Error::new(
                opendal::ErrorKind::Unsupported,
                "this type is not in this build",
            ))
        }
    }
}
