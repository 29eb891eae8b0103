//! The name a file has while it is on its way to a place that can rename: hidden, and nobody takes it for an
//! archive. What a killed program left is known by it, too.

use std::fmt::Write as _;
use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};

const SUFFIX: &str = ".partial";
/// Digits that tell two of the same name apart.
const DIGITS: usize = 16;
/// What somebody else may still be writing is left alone for so long.
const LEFT_ALONE: Duration = Duration::from_hours(24);

/// `/Data/a.tar` → `/Data/.a.tar.0123456789abcdef.partial`.
pub(super) fn partial(path: &str) -> String {
    let mut random = [0; DIGITS / 2];
    // Without a random source the name is one that is known to be ours all the same.
    let _ = SystemRandom::new().fill(&mut random);
    let mut digits = String::new();
    for byte in random {
        // Writing to a string cannot fail.
        let _ = write!(digits, "{byte:02x}");
    }
    let (folder, name) = split(path);
    format!("{folder}/.{name}.{digits}{SUFFIX}")
}

/// The folder, empty for the root, and the name in it.
pub(super) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// Whether a file of that name is one on its way.
pub(super) fn is_partial(name: &str) -> bool {
    target(name).is_some()
}

/// Whether what an upload left under `name`, untouched for `age`, is to go before `wanted` is stored.
pub(super) fn is_left_over(name: &str, wanted: &str, age: Duration) -> bool {
    target(name).is_some_and(|target| target == wanted || age >= LEFT_ALONE)
}

/// The name it was to get.
fn target(name: &str) -> Option<&str> {
    let rest = name.strip_prefix('.')?.strip_suffix(SUFFIX)?;
    let (target, digits) = rest.rsplit_once('.')?;
    let good = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    (good && !target.is_empty()).then_some(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_on_its_way_is_known_and_no_other() {
        let made = partial("/Data/1_gitlab_backup.tar");
        let (folder, name) = split(&made);
        assert_eq!(folder, "/Data");
        assert!(is_partial(name), "{name}");
        assert_ne!(made, partial("/Data/1_gitlab_backup.tar"));
        for other in [
            "1_gitlab_backup.tar",
            ".partial",
            ".a.partial",
            ".a.0123456789abcde.partial",
            ".a.0123456789abcdeg.partial",
            "a.0123456789abcdef.partial",
            "..0123456789abcdef.partial",
            ".hidden",
        ] {
            assert!(!is_partial(other), "{other}");
        }
    }

    #[test]
    fn what_is_left_of_the_same_file_goes_and_of_others_after_a_day() {
        let day = Duration::from_hours(24);
        let left = ".a.tar.0123456789abcdef.partial";
        assert!(is_left_over(left, "a.tar", Duration::ZERO));
        assert!(!is_left_over(left, "b.tar", day / 2));
        assert!(is_left_over(left, "b.tar", 2 * day));
        assert!(!is_left_over("a.tar", "a.tar", 8 * day));
    }
}
