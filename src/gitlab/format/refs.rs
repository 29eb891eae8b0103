//! Gitaly's list of a repository's references beside its bundle, in the form of `git show-ref`.
//!
//! Gitaly lists the references first and makes the bundle afterwards, in a repository that people may be
//! pushing to (`internal/backup/backup.go`): that the two differ is no damage by itself. Only what no push
//! can explain is.

use std::collections::HashMap;
use std::io::{self, BufRead};

use super::Flaw;
use super::bundle::{is_hex, is_null, is_ref_name};

/// A longer line is refused, in bytes.
const LONGEST_LINE: usize = 64 * 1024;
/// Two random object IDs differ in nearly all of their digits; ones that differ in so few are one, damaged.
const ALMOST_EQUAL: usize = 4;

/// Whether a list of references and a bundle's header are of one repository at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// The same names with the same objects.
    Same,
    /// Somebody pushed between the one and the other.
    Moved,
    /// They differ as only damage makes them differ.
    Damaged,
}

/// Reads a list to the end of the input, showing each line's object ID and name; how many lines there are
/// besides HEAD's.
pub fn check(input: &mut dyn BufRead, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<u64, Flaw> {
    let mut line = Vec::new();
    let mut count = 0;
    let mut oid_len = None;
    let damaged = || Flaw::damaged("it has a damaged line");
    loop {
        let piece = match input.fill_buf() {
            Ok(piece) => piece,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        if piece.is_empty() {
            let whole = line.is_empty();
            return whole
                .then_some(count)
                .ok_or(Flaw::damaged("its last line is cut off"));
        }
        let feed = piece.iter().position(|byte| *byte == b'\n');
        let len = feed.unwrap_or(piece.len());
        if line.len() + len > LONGEST_LINE {
            return Err(damaged());
        }
        line.extend_from_slice(&piece[..len]);
        input.consume(len + usize::from(feed.is_some()));
        if feed.is_some() {
            let (oid, name) = parts(&line).ok_or_else(damaged)?;
            if *oid_len.get_or_insert(oid.len()) != oid.len() {
                return Err(damaged());
            }
            count += u64::from(name != b"HEAD");
            each(oid, name);
            line.clear();
        }
    }
}

fn parts(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let blank = line.iter().position(|byte| *byte == b' ')?;
    let (oid, name) = (&line[..blank], &line[blank + 1..]);
    let good = matches!(oid.len(), 40 | 64) && is_hex(oid) && !is_null(oid) && is_ref_name(name);
    good.then_some((oid, name))
}

/// Compares the lines of a list with those of a bundle's header.
pub fn compare(list: &[u8], header: &[u8]) -> Agreement {
    let lines = |text| <[u8]>::split(text, |byte| *byte == b'\n').filter_map(parts);
    let mut bundled: HashMap<_, _> = lines(header).map(|(oid, name)| (name, oid)).collect();
    let mut agreement = Agreement::Same;
    let mut listed_only = Vec::new();
    for (oid, name) in lines(list) {
        let Some(other) = bundled.remove(name) else {
            listed_only.push((oid, name));
            continue;
        };
        let differing = oid.iter().zip(other).filter(|(a, b)| a != b).count();
        if oid.len() != other.len() || (1..=ALMOST_EQUAL).contains(&differing) {
            return Agreement::Damaged;
        }
        if differing > 0 {
            agreement = Agreement::Moved;
        }
    }
    if listed_only.is_empty() && bundled.is_empty() {
        return agreement;
    }
    // What is left in `bundled` is in the bundle only.
    for (name, oid) in bundled {
        let twin =
            |&(other_oid, other): &(&[u8], &[u8])| oid == other_oid && has_flipped_bit(name, other);
        if listed_only.iter().any(twin) {
            return Agreement::Damaged;
        }
    }
    Agreement::Moved
}

/// Whether two names differ in one bit of one letter. Digits do not count: GitLab numbers references that
/// come and go all the time (`refs/pipelines/1`).
fn has_flipped_bit(a: &[u8], b: &[u8]) -> bool {
    let mut differing = a.iter().zip(b).filter(|(a, b)| a != b);
    let (first, second) = (differing.next(), differing.next());
    let flipped = |(a, b): (&u8, &u8)| {
        (a ^ b).is_power_of_two() && !(a.is_ascii_digit() && b.is_ascii_digit())
    };
    a.len() == b.len() && second.is_none() && first.is_some_and(flipped)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\
312ca8c808ebafc3dfe3f20b454b5099aff530e0 HEAD
312ca8c808ebafc3dfe3f20b454b5099aff530e0 refs/heads/main
9e1c2b7d80ebafc3dfe3f20b454b5099aff530e1 refs/tags/v1
";

    fn read(text: &str) -> Result<u64, String> {
        let mut input = io::BufReader::with_capacity(5, text.as_bytes());
        check(&mut input, &mut |_, _| {}).map_err(|flaw| flaw.to_string())
    }

    #[test]
    fn only_lines_of_git_are_taken() {
        assert_eq!(read(LIST), Ok(2));
        assert_eq!(read(""), Ok(0));
        for (from, to) in [
            ("312c", "312g"),
            ("312c", "312"),
            (" refs/heads", "refs/heads"),
            ("refs/heads", "refs/he ads"),
            ("v1\n", "v1"),
            ("v1\n", "v1\n\n"),
            (
                "312ca8c808ebafc3dfe3f20b454b5099aff530e0 HEAD",
                "0000000000000000000000000000000000000000 HEAD",
            ),
            (
                "9e1c2b7d80ebafc3dfe3f20b454b5099aff530e1",
                "312ca8c808ebafc3dfe3f20b454b5099aff530e0312ca8c808ebafc3dfe3f20b",
            ),
        ] {
            assert!(read(&LIST.replacen(from, to, 1)).is_err(), "{to}");
        }
    }

    #[test]
    fn a_push_is_told_from_damage() {
        let compare =
            |from: &str, to: &str| compare(LIST.as_bytes(), LIST.replacen(from, to, 1).as_bytes());
        assert_eq!(compare("", ""), Agreement::Same);
        let pushed = "31abcdef00112233445566778899aabbccddeeff";
        assert_eq!(
            compare(
                "312ca8c808ebafc3dfe3f20b454b5099aff530e0 HEAD",
                &format!("{pushed} HEAD")
            ),
            Agreement::Moved
        );
        assert_eq!(compare("refs/tags/v1", "refs/tags/v2"), Agreement::Moved);
        assert_eq!(
            compare(
                "9e1c2b7d80ebafc3dfe3f20b454b5099aff530e1 refs/tags/v1\n",
                ""
            ),
            Agreement::Moved
        );
        assert_eq!(compare("312ca8", "312ca9"), Agreement::Damaged);
        assert_eq!(compare("refs/tags/v1", "refs/tags/w1"), Agreement::Damaged);
        assert_eq!(compare("refs/tags/v1", "refs/tags/v3"), Agreement::Moved);
        assert_eq!(compare("refs/tags/v1", "refs/tags/x1"), Agreement::Moved);
        assert_eq!(
            compare(
                "9e1c2b7d80ebafc3dfe3f20b454b5099aff530e1 refs/tags/v1",
                &format!("{pushed} refs/tags/w1")
            ),
            Agreement::Moved
        );
        assert_eq!(super::compare(b"", LIST.as_bytes()), Agreement::Moved);
    }
}
