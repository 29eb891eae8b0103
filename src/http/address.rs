//! Whose address it is.

use std::net::IpAddr;

use reqwest::Url;

/// Whether it is this very machine's own, so that nobody is on the way to it.
pub fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_told_from_what_looks_like_it() {
        for (url, expected) in [
            ("http://localhost:80/a", true),
            ("http://127.9.0.1", true),
            ("http://[::1]", true),
            ("http://127.0.0.1.example.org", false),
            ("http://localhost.example.org", false),
            ("http://192.168.0.1", false),
        ] {
            let url = Url::parse(url).expect("an address");
            assert_eq!(is_loopback(&url), expected, "{url}");
        }
    }
}
