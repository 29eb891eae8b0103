//! Gitaly's manifest of a repository's backup: the steps that bring it back
//! (<https://gitlab.com/gitlab-org/gitaly/-/blob/master/internal/backup/backup.go>).

use serde::Deserialize;

use super::Flaw;
use super::bundle::is_ref_name;

/// A longer one is not read, in bytes: more than a thousand increments.
pub const LONGEST: u64 = 512 * 1024;

/// What `+latest.toml` and `<backup ID>.toml` say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Manifest {
    /// The repository had no reference: there is no bundle, and a restore makes it anew.
    pub empty: bool,
    /// There was no repository: a restore does nothing.
    pub non_existent: bool,
    /// In the order in which they are applied.
    pub steps: Vec<Step>,
    /// `sha1` or `sha256`; empty in older ones.
    pub object_format: String,
    /// What HEAD points to; empty in older ones.
    pub head_reference: String,
}

/// One full or incremental step; its paths start at the folder `repositories`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Step {
    /// There only if the step brings objects.
    pub bundle_path: String,
    /// There even if it has no line.
    pub ref_path: String,
    /// There only if the repository has hooks.
    pub custom_hooks_path: String,
}

impl Manifest {
    /// Reads one, and looks for what gitaly would refuse.
    pub fn parse(text: &[u8]) -> Result<Manifest, Flaw> {
        let text = str::from_utf8(text).map_err(|_| Flaw::damaged("it is not UTF-8"))?;
        let manifest: Manifest = toml::from_str(text).map_err(|error| {
            let what = error
                .message()
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned();
            Flaw::Damaged(format!("it is no TOML of gitaly's: {what}"))
        })?;
        if manifest.non_existent {
            return Ok(manifest);
        }
        if manifest.steps.is_empty() {
            return Err(Flaw::damaged("it names no steps"));
        }
        if !matches!(manifest.object_format.as_str(), "" | "sha1" | "sha256") {
            return Err(Flaw::damaged(
                "it names an object format that git does not have",
            ));
        }
        let head = manifest.head_reference.as_bytes();
        if !(head.is_empty() || is_ref_name(head)) {
            return Err(Flaw::damaged("it names a HEAD that cannot be one"));
        }
        for step in &manifest.steps {
            let paths = [(&step.bundle_path, ".bundle"), (&step.ref_path, ".refs")];
            for (path, ending) in paths {
                if !(path.is_empty() || is_inside(path) && path.ends_with(ending)) {
                    return Err(Flaw::damaged("it names a path that cannot be one"));
                }
            }
        }
        Ok(manifest)
    }
}

fn is_inside(path: &str) -> bool {
    !path.contains('\0') && path.split('/').all(|name| !matches!(name, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF_17_8: &str = "\
empty = false
non_existent = false
object_format = 'sha1'
head_reference = 'refs/heads/main'

[[steps]]
bundle_path = 'default/@hashed/6b/86/6b86.git/1739332803_2025_02_12_17.8.2/001.bundle'
ref_path = 'default/@hashed/6b/86/6b86.git/1739332803_2025_02_12_17.8.2/001.refs'
custom_hooks_path = 'default/@hashed/6b/86/6b86.git/1739332803_2025_02_12_17.8.2/001.custom_hooks.tar'

[[steps]]
bundle_path = 'default/@hashed/6b/86/6b86.git/1739419203_2025_02_13_17.8.2/002.bundle'
ref_path = 'default/@hashed/6b/86/6b86.git/1739419203_2025_02_13_17.8.2/002.refs'
previous_ref_path = 'default/@hashed/6b/86/6b86.git/1739332803_2025_02_12_17.8.2/001.refs'
";

    #[test]
    fn what_gitaly_writes_is_read() {
        let manifest = Manifest::parse(OF_17_8.as_bytes()).expect("a manifest");
        assert_eq!(manifest.steps.len(), 2);
        assert!(manifest.steps[1].ref_path.ends_with("002.refs"));
        assert!(!manifest.empty);
        let none = Manifest::parse(b"empty = true\nnon_existent = true\nobject_format = ''\n");
        assert!(none.expect("a manifest").non_existent);
    }

    #[test]
    fn what_gitaly_would_refuse_is_a_flaw() {
        for (from, to) in [
            ("empty = false", "empty = fblse"),
            ("empty = false", "empty = 'false'"),
            ("'sha1'", "'sha0'"),
            ("'sha1'", "'sha1"),
            ("refs/heads/main", "refs/heads/ma in"),
            ("[[steps]]", "[[stepr]]"),
            ("001.bundle", "001.bundlf"),
            ("'default/@hashed", "'/etc"),
            ("'default/@hashed", "'../default"),
        ] {
            let text = OF_17_8.replace(from, to);
            assert!(Manifest::parse(text.as_bytes()).is_err(), "{to}");
        }
        let nested = "a = ".to_owned() + &"[".repeat(100_000);
        assert!(Manifest::parse(nested.as_bytes()).is_err());
        assert!(Manifest::parse(&OF_17_8.as_bytes()[..600]).is_err());
    }
}
