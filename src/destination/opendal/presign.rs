//! Addresses to which somebody else may put one file, by the signature that is in them.

use std::time::Duration;

use chrono::TimeDelta;
use reqwest::Url;
use secrecy::SecretString;

use super::Scheme;
use super::place::{OpenDal, key};
use crate::error::{Error, ErrorKind};
use crate::retry::{Patience, SHORT_PATIENCE, retry};

/// No signature is good for longer
/// (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-presigned-url.html>).
const LONGEST: Duration = Duration::from_hours(7 * 24);
/// Amazon refuses what was signed by a clock that is further off.
const MOST_SKEW: TimeDelta = TimeDelta::minutes(15);

impl OpenDal {
    /// An address to which somebody else may put a file for so long; none where the service has no such thing, or
    /// wants to be told more than an address can hold.
    pub async fn presigned_put(
        &self,
        path: &str,
        valid: Duration,
    ) -> Result<Option<SecretString>, Error> {
        if self.wire.settings.scheme != Scheme::S3 {
            return Ok(None);
        }
        let action = format!("{}: signing an address for {path}", self.name);
        let patience = Patience::short(SHORT_PATIENCE);
        // Settles the region, too.
        retry(&self.wire.pause, &patience, async || {
            self.client(&action).await.map(drop)
        })
        .await?;
        if let Some(lag) = self.clock_lag().filter(|lag| lag.abs() > MOST_SKEW) {
            let what = format!(
                "this machine's clock is {} minutes {} the service's",
                lag.abs().num_minutes(),
                if lag > TimeDelta::zero() {
                    "behind"
                } else {
                    "ahead of"
                },
            );
            let hint = "check it with `timedatectl`, and let it be set from the network";
            return Err(Error::new(ErrorKind::Unauthorized, &action, what).hint(hint));
        }
        let client = self.wire.settings.signer(&action)?;
        let signed = client.presign_write(key(path), valid.min(LONGEST)).await;
        let signed = signed.map_err(|error| self.error(&action, &error))?;
        let address = signed.uri().to_string();
        let is_enough = signed.header().is_empty() && signs_only_the_host(&address);
        Ok(is_enough.then(|| SecretString::from(address)))
    }
}

/// Whether whoever uses an address need not send headers of ours: a storage class, an ACL, a key.
fn signs_only_the_host(address: &str) -> bool {
    let Ok(url) = Url::parse(address) else {
        return false;
    };
    let mut signed = url
        .query_pairs()
        .filter(|(name, _)| name == "X-Amz-SignedHeaders");
    signed.next().is_some_and(|(_, names)| names == "host") && signed.next().is_none()
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;
    use crate::destination::opendal::Settings;
    use crate::settings::Reader;

    fn place(more: &str) -> OpenDal {
        let text = format!(
            "[s]\nbucket = \"my-bucket\"\naccess_key_id = \"AKID\"\nsecret_access_key = \"marked-secret\"\n\
             endpoint = \"https://s3.example.org\"\nregion = \"eu-west-1\"\n{more}"
        );
        let mut reader = Reader::new(&text, [], None);
        let mut root = reader.root();
        let settings = Settings::read(Scheme::S3, &mut root.section("s"));
        drop(root);
        assert_eq!(reader.finish().len(), 0, "{more}");
        OpenDal::new("s3", settings.expect("settings"), Duration::from_secs(1))
    }

    async fn signed(more: &str, path: &str, hours: u64) -> Option<String> {
        let address = place(more)
            .presigned_put(path, Duration::from_hours(hours))
            .await;
        let address = address.expect("signed");
        address.map(|address| address.expose_secret().to_owned())
    }

    #[tokio::test]
    async fn an_address_names_the_key_the_region_and_its_end() {
        let address = signed("", "/group/app/2026-11-22-04-00-00.tar.gz", 24).await;
        let address = address.expect("an address");
        for part in [
            "https://s3.example.org/my-bucket/group/app/2026-11-22-04-00-00.tar.gz?",
            "X-Amz-Algorithm=AWS4-HMAC-SHA256",
            "%2Feu-west-1%2Fs3%2Faws4_request",
            "X-Amz-Expires=86400",
            "X-Amz-SignedHeaders=host&",
            "X-Amz-Signature=",
        ] {
            assert!(address.contains(part), "{part} is not in {address}");
        }
        assert!(!address.contains("marked-secret"));
        let address = signed("root = \"/below/it\"", "/a/ü#?%🦊.tar.gz", 24 * 30).await;
        let address = address.expect("an address");
        assert!(address.contains("X-Amz-Expires=604800&"), "{address}");
        let key = "/my-bucket/below/it/a/%C3%BC%23%3F%25%F0%9F%A6%8A.tar.gz?";
        assert!(address.contains(key), "{address}");
    }

    #[tokio::test]
    async fn what_wants_more_than_the_bytes_is_not_signed() {
        for (more, signs) in [
            ("checksum_algorithm = \"crc32c\"", true),
            ("checksum_algorithm = \"none\"", true),
            ("session_token = \"token\"", true),
            ("default_storage_class = \"STANDARD_IA\"", false),
            ("default_acl = \"private\"", false),
            ("server_side_encryption = \"AES256\"", false),
            ("enable_request_payer = true", false),
        ] {
            assert_eq!(signed(more, "/a", 1).await.is_some(), signs, "{more}");
        }
    }
}
