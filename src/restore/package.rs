//! A version of GitLab, and the package that has exactly it.

use crate::manifest::edition;

/// A version of GitLab as its packages name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// For Debian, Ubuntu and Raspberry Pi OS: `gitlab-ce=17.8.2-ce.0`.
    pub deb: String,
    /// For Red Hat's and its like: `gitlab-ce-17.8.2`.
    pub rpm: String,
}

/// The package that has exactly this version; none for a nightly build, which has no lasting one.
/// Checked with <https://packages.gitlab.com/gitlab/gitlab-ce>: a release is `17.8.2-ce.0`, a release
/// candidate `17.8.0-rc42.ce.0`.
pub fn package(version: &str) -> Option<Package> {
    let edition = edition(version);
    let number = version.strip_suffix("-ee").unwrap_or(version);
    if number.contains("pre") {
        return None;
    }
    let joint = if number.contains("-rc") { '.' } else { '-' };
    Some(Package {
        deb: format!("gitlab-{edition}={number}{joint}{edition}.0"),
        rpm: format!("gitlab-{edition}-{}", number.replace('-', "~")),
    })
}

/// `GitLab EE 17.8.2`.
pub fn product(version: &str) -> String {
    let number = version.strip_suffix("-ee").unwrap_or(version);
    format!("GitLab {} {number}", edition(version).to_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_as_gitlab_names_them() {
        for (version, deb, rpm) in [
            ("17.8.2", "gitlab-ce=17.8.2-ce.0", "gitlab-ce-17.8.2"),
            ("16.5.0-ee", "gitlab-ee=16.5.0-ee.0", "gitlab-ee-16.5.0"),
            (
                "15.0.0-rc42-ee",
                "gitlab-ee=15.0.0-rc42.ee.0",
                "gitlab-ee-15.0.0~rc42",
            ),
        ] {
            let expected = Package {
                deb: deb.to_owned(),
                rpm: rpm.to_owned(),
            };
            assert_eq!(package(version), Some(expected), "{version}");
        }
        assert_eq!(package("17.0.0-pre"), None);
    }
}
