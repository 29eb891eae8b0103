//! Where a message goes by HTTP. The address is the key to it: whoever knows it can send there, so it is a
//! secret, and only here it is taken out of its wrapping.

use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};

/// A checked address that cannot be printed.
#[derive(Clone, Debug)]
pub struct Address(SecretString);

impl Address {
    /// Checks it; an empty one is none. The error says what is taken, and nothing of what was given.
    pub fn new(text: SecretString) -> Result<Option<Address>, &'static str> {
        if text.expose_secret().is_empty() {
            return Ok(None);
        }
        let url = Url::parse(text.expose_secret()).map_err(|_| {
            "is no address; it takes one that starts with https:// (or http:// in your own network)"
        })?;
        if !matches!(url.scheme(), "https" | "http") || !url.has_host() {
            return Err(
                "takes an address that starts with https:// (or http:// in your own network)",
            );
        }
        Ok(Some(Address(text)))
    }

    /// The address, to be put into a request.
    pub fn url(&self) -> Url {
        Url::parse(self.0.expose_secret()).expect("checked when it was read")
    }

    /// The same with another last part of its path.
    pub fn below(&self, part: &str) -> Url {
        let mut url = self.url();
        let path = format!("{}/{part}", url.path().trim_end_matches('/'));
        url.set_path(&path);
        url
    }

    /// The server alone: asking it for its front page sends nothing to anybody.
    pub fn server(&self) -> Url {
        let mut url = self.url();
        url.set_path("/");
        url.set_query(None);
        url.set_fragment(None);
        url
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_go_before_the_query() {
        let address = Address::new("https://hc.example.org/ping/key/slug/?create=1".into());
        let address = address.expect("right").expect("an address");
        let expected = "https://hc.example.org/ping/key/slug/fail?create=1";
        assert_eq!(address.below("fail").as_str(), expected);
        assert_eq!(address.server().as_str(), "https://hc.example.org/");
    }

    #[test]
    fn what_is_no_address_is_told_without_it() {
        for text in [
            "marked",
            "ftp://marked/",
            "https://",
            "mailto:marked",
            "/marked",
        ] {
            let error = Address::new(text.into()).expect_err("no address");
            assert!(
                error.contains("https://") && !error.contains("marked"),
                "{error}"
            );
        }
        let address = Address::new("https://marked.example.org".into());
        assert!(address.is_ok() && !format!("{address:?}").contains("marked"));
        assert!(Address::new("".into()).is_ok_and(|address| address.is_none()));
    }
}
