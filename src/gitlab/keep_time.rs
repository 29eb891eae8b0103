//! `backup_keep_time`: how long GitLab leaves archives on this machine.
//!
//! It stands in `gitlab.rb`, which is a program in Ruby; only a plain assignment of numbers is understood. GitLab
//! itself goes by what the last `gitlab-ctl reconfigure` made of it.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::time::Duration;

/// A longer file is not read, in bytes; GitLab's template has some 150 kB.
const LONGEST: u64 = 2 * 1024 * 1024;

/// What `gitlab.rb` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepTime {
    /// Nothing: all archives stay.
    Unset,
    /// Archives older than this are deleted at the next backup.
    Of(Duration),
    /// Something in this line that only Ruby understands.
    Unclear(usize),
}

/// Reads the setting.
pub fn keep_time(etc_dir: &Path) -> io::Result<KeepTime> {
    let mut bytes = Vec::new();
    let file = File::open(etc_dir.join("gitlab.rb"))?;
    file.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(read(&String::from_utf8_lossy(&bytes)))
}

/// The last assignment counts, as in Ruby.
fn read(text: &str) -> KeepTime {
    let mut found = KeepTime::Unset;
    let mut comment = false;
    for (number, line) in text.lines().enumerate() {
        if line.starts_with("=begin") || line.starts_with("=end") {
            comment = line.starts_with("=begin");
        }
        let code = line.trim_start();
        if comment || code.starts_with('#') || !code.contains("backup_keep_time") {
            continue;
        }
        found = value(code).map_or(KeepTime::Unclear(number + 1), |seconds| match seconds {
            0 => KeepTime::Unset,
            seconds => KeepTime::Of(Duration::from_secs(seconds)),
        });
    }
    found
}

/// `gitlab_rails['backup_keep_time'] = 7 * 86_400 # a week` → 604800; `nil` is 0.
fn value(code: &str) -> Option<u64> {
    let rest = code.strip_prefix("gitlab_rails[")?;
    let key = ["'backup_keep_time']", "\"backup_keep_time\"]"];
    let rest = key.iter().find_map(|key| rest.strip_prefix(key))?;
    let value = rest.trim_start().strip_prefix('=')?;
    let value = value.split('#').next()?.trim().trim_end_matches(';');
    if value == "nil" {
        return Some(0);
    }
    value.split('*').try_fold(1_u64, |product, factor| {
        let factor = factor.trim().replace('_', "").parse().ok()?;
        product.checked_mul(factor)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_numbers_are_understood_and_nothing_else_is_guessed() {
        let of = |seconds| KeepTime::Of(Duration::from_secs(seconds));
        for (text, expected) in [
            ("", KeepTime::Unset),
            (
                "# gitlab_rails['backup_keep_time'] = 604800\n",
                KeepTime::Unset,
            ),
            ("gitlab_rails['backup_keep_time'] = 604800\n", of(604_800)),
            (
                "  gitlab_rails[\"backup_keep_time\"]=7 * 86_400 # a week\r\n",
                of(604_800),
            ),
            ("gitlab_rails['backup_keep_time'] = 0", KeepTime::Unset),
            ("gitlab_rails['backup_keep_time'] = nil", KeepTime::Unset),
            (
                "gitlab_rails['backup_keep_time'] = 1\ngitlab_rails['backup_keep_time'] = 2",
                of(2),
            ),
            (
                "=begin\ngitlab_rails['backup_keep_time'] = 1\n=end\n",
                KeepTime::Unset,
            ),
            (
                "a = 1\ngitlab_rails['backup_keep_time'] = WEEK\n",
                KeepTime::Unclear(2),
            ),
            (
                "gitlab_rails['backup_keep_time'] = 99999999999 * 99999999999",
                KeepTime::Unclear(1),
            ),
            (
                "x if gitlab_rails['backup_keep_time'] == 1",
                KeepTime::Unclear(1),
            ),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
    }
}
