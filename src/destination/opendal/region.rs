//! The region of a bucket, which every signature names: told by the bucket itself.
//!
//! Amazon answers anybody who asks for the head of a bucket with its region, also where it refuses or redirects
//! (<https://docs.aws.amazon.com/AmazonS3/latest/API/API_HeadBucket.html>). So it need not be in the
//! configuration, and one that is wrong there is put right.

use bytes::Bytes;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Url;

use super::Scheme;
use super::keys::Settings;
use super::place::OpenDal;
use crate::error::{Error, ErrorKind};
use crate::http::{Method, Payload, Request};

/// Knows the buckets of every region.
const AMAZON: &str = "https://s3.amazonaws.com";
/// What servers other than Amazon's mostly take for theirs.
const USUAL: &str = "us-east-1";
/// Tells the region of a bucket.
const HEADER: &str = "x-amz-bucket-region";
/// No region has a longer name.
const LONGEST_NAME: usize = 40;

impl Settings {
    /// Whether the bucket is found under Amazon's own address, whatever its region.
    pub(super) fn is_amazon(&self) -> bool {
        let is_own = |endpoint: &str| endpoint.trim_end_matches('/') == AMAZON;
        self.scheme == Scheme::S3 && self.text("endpoint").is_none_or(is_own)
    }

    /// Where the bucket is asked for its region; none if nobody need ask. A server that is not Amazon's is believed
    /// to be what the configuration says it is.
    fn where_to_ask(&self) -> Option<Url> {
        if self.scheme != Scheme::S3 {
            return None;
        }
        let given = self.text("region");
        let endpoint = match (self.is_amazon(), given) {
            (true, None) => AMAZON.to_owned(),
            // The very address that everything else goes to.
            (true, Some(region)) => format!("https://s3.{region}.amazonaws.com"),
            (false, None) => self.text("endpoint")?.trim_end_matches('/').to_owned(),
            (false, Some(_)) => return None,
        };
        let bucket = utf8_percent_encode(self.text("bucket")?, NON_ALPHANUMERIC).to_string();
        // A dash and a dot are no letters.
        let bucket = bucket.replace("%2D", "-").replace("%2E", ".");
        let bucket = bucket.replace("%5F", "_");
        Url::parse(&format!("{endpoint}/{bucket}")).ok()
    }

    /// What follows from an answer, or from none: the region that counts, or why there is none.
    fn conclude(&self, told: &Result<Told, Error>, action: &str) -> Result<String, Error> {
        let given = self.text("region");
        let region = told.as_ref().ok().and_then(|told| told.region.as_deref());
        match (region, given, told) {
            (Some(region), ..) => {
                if let Some(given) = given.filter(|given| *given != region) {
                    tracing::warn!(
                        "{action}: the bucket is in the region {region}, not in {given}; mend `region` in the \
                         configuration, or leave it out"
                    );
                }
                Ok(region.to_owned())
            }
            (None, Some(given), _) => Ok(given.to_owned()),
            (None, None, Err(error)) => Err(error.clone()),
            (None, None, Ok(_)) if !self.is_amazon() => Ok(USUAL.to_owned()),
            (None, None, Ok(told)) => {
                let bucket = self.text("bucket").unwrap_or_default();
                let (kind, what, hint) = match told.status {
                    404 => (
                        ErrorKind::Invalid,
                        format!("HTTP 404: there is no bucket {bucket}"),
                        "make the bucket, or mend its name in the configuration",
                    ),
                    500.. | 429 => (
                        ErrorKind::Unavailable,
                        format!("HTTP {}, asked for the region of the bucket", told.status),
                        "",
                    ),
                    status => (
                        ErrorKind::Invalid,
                        format!("HTTP {status}, and no word of the region of the bucket {bucket}"),
                        "give its `region` in the configuration",
                    ),
                };
                let error = Error::new(kind, action, what);
                Err(if hint.is_empty() {
                    error
                } else {
                    error.hint(hint)
                })
            }
        }
    }
}

/// What the bucket said.
struct Told {
    status: u16,
    region: Option<String>,
}

impl OpenDal {
    /// Settles the region, once, before anything is signed.
    pub(super) async fn learn_region(&self, action: &str) -> Result<(), Error> {
        let settings = &self.wire.settings;
        let Some(url) = settings.where_to_ask() else {
            return Ok(());
        };
        if settings.region.get().is_some() {
            return Ok(());
        }
        let request = Request {
            method: Method::HEAD,
            url,
            headers: Vec::new(),
            body: Payload::Bytes(Bytes::new()),
            reply_wait: self.wire.http.stall(),
        };
        let reply = self.wire.http.line().send(action, request).await;
        let told = reply.map(|reply| Told {
            status: reply.status,
            region: reply
                .headers
                .get(HEADER)
                .and_then(|value| value.to_str().ok())
                .filter(|name| is_name(name))
                .map(str::to_owned),
        });
        let region = settings.conclude(&told, action)?;
        tracing::debug!("{action}: the region is {region}");
        // Whoever else asked at the same time was told the same.
        let _ = settings.region.set(region);
        Ok(())
    }
}

/// It becomes part of an address.
fn is_name(text: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-';
    (1..=LONGEST_NAME).contains(&text.len()) && text.chars().all(good)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Reader;

    fn settings(more: &str) -> Settings {
        let text = format!(
            "[s]\nbucket = \"my-bucket\"\naccess_key_id = \"a\"\nsecret_access_key = \"s\"\n{more}"
        );
        let mut reader = Reader::new(&text, [], None);
        let mut root = reader.root();
        let settings = Settings::read(Scheme::S3, &mut root.section("s"));
        drop(root);
        assert_eq!(reader.finish().len(), 0, "{more}");
        settings.expect("settings")
    }

    #[test]
    fn a_bucket_is_asked_where_its_region_is_not_sure() {
        for (more, url) in [
            ("", Some("https://s3.amazonaws.com/my-bucket")),
            (
                "endpoint = \"https://s3.amazonaws.com/\"",
                Some("https://s3.amazonaws.com/my-bucket"),
            ),
            (
                "region = \"eu-west-1\"",
                Some("https://s3.eu-west-1.amazonaws.com/my-bucket"),
            ),
            (
                "endpoint = \"https://minio.lan:9000\"",
                Some("https://minio.lan:9000/my-bucket"),
            ),
            ("endpoint = \"https://minio.lan\"\nregion = \"here\"", None),
        ] {
            let asked = settings(more).where_to_ask();
            assert_eq!(asked.as_ref().map(Url::as_str), url, "{more}");
        }
    }

    #[test]
    fn what_the_bucket_says_counts_then_what_was_given_then_what_is_usual() {
        let told = |status, region: Option<&str>| {
            let region = region.map(str::to_owned);
            Ok(Told { status, region })
        };
        let minio = "endpoint = \"https://minio.lan\"";
        let given = "region = \"eu-west-1\"";
        for (more, told, expected) in [
            ("", told(403, Some("eu-west-3")), Ok("eu-west-3")),
            ("", told(301, Some("eu-west-3")), Ok("eu-west-3")),
            ("", told(400, Some("eu-west-3")), Ok("eu-west-3")),
            ("", told(200, Some("eu-west-3")), Ok("eu-west-3")),
            (given, told(301, Some("eu-west-3")), Ok("eu-west-3")),
            (given, told(404, None), Ok("eu-west-1")),
            (minio, told(403, None), Ok("us-east-1")),
            (minio, told(403, Some("garage")), Ok("garage")),
            ("", told(404, None), Err("there is no bucket my-bucket")),
            ("", told(503, None), Err("HTTP 503")),
            ("", told(403, None), Err("give its `region`")),
        ] {
            let found = settings(more).conclude(&told, "looking");
            match expected {
                Ok(region) => assert_eq!(found.expect("a region"), region, "{more}"),
                Err(text) => {
                    let error = found.expect_err("an error").to_string();
                    assert!(error.contains(text), "{error}");
                }
            }
        }
        // Without an answer what was given counts as well.
        let silent = Err(Error::new(ErrorKind::Unavailable, "looking", "no line"));
        assert_eq!(
            settings(given).conclude(&silent, "a").expect("it"),
            "eu-west-1"
        );
        assert!(settings("").conclude(&silent, "a").is_err());
    }

    #[test]
    fn a_region_is_a_word() {
        for (name, good) in [
            ("eu-west-1", true),
            ("", false),
            ("eu.evil.example", false),
            ("a/b", false),
            (&"a".repeat(41), false),
        ] {
            assert_eq!(is_name(name), good, "{name}");
        }
    }
}
