//! A git bundle: a header with references, then a pack
//! (<https://git-scm.com/docs/gitformat-bundle>, <https://git-scm.com/docs/gitformat-pack>).
//!
//! The checksum at its end proves every byte of the pack. What the header says is not covered by it; it is
//! compared with gitaly's own list of references where there is one.

use std::io::{self, BufRead};

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

use super::Flaw;

/// A longer line of the header is refused, in bytes. The longest are the first paragraphs of commit messages.
const LONGEST_LINE: usize = 1024 * 1024;

/// A whole bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// How many commits must be there already before it can be applied.
    pub prerequisites: u64,
    /// How many references it brings.
    pub references: u64,
    /// How many objects its pack has.
    pub objects: u32,
    /// Which hash names them.
    pub format: ObjectFormat,
}

/// Which hash names objects and ends the pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectFormat {
    /// Git's first one.
    Sha1,
    /// The one of new repositories that asked for it.
    Sha256,
}

impl ObjectFormat {
    /// Git's word for it: `sha1`, `sha256`.
    pub fn as_str(self) -> &'static str {
        match self {
            ObjectFormat::Sha1 => "sha1",
            ObjectFormat::Sha256 => "sha256",
        }
    }
}

/// Reads a bundle to the end of the input, showing each reference's object ID and name.
pub fn check(
    mut input: &mut dyn BufRead,
    each: &mut dyn FnMut(&[u8], &[u8]),
) -> Result<Bundle, Flaw> {
    let mut line = Vec::new();
    read_line(input, &mut line)?;
    let version = match &line[..] {
        b"# v2 git bundle" => 2,
        b"# v3 git bundle" => 3,
        _ => return Err(Flaw::damaged("it does not begin like a git bundle")),
    };
    let mut format = ObjectFormat::Sha1;
    let (mut prerequisites, mut references) = (0, 0);
    loop {
        read_line(input, &mut line)?;
        if line.is_empty() {
            break;
        }
        match line[0] {
            b'@' if version == 3 && prerequisites + references == 0 => {
                format = capability(&line[1..], format)?;
            }
            b'-' if references == 0 => {
                let (oid, rest) = split_oid(&line[1..], format)?;
                if !(rest.is_empty() || rest.starts_with(b" ")) || is_null(oid) {
                    return Err(Flaw::damaged("it has a damaged prerequisite"));
                }
                prerequisites += 1;
            }
            _ => {
                let (oid, rest) = split_oid(&line, format)?;
                let name = rest.strip_prefix(b" ").filter(|name| is_ref_name(name));
                let name = name.ok_or_else(|| Flaw::damaged("it has a damaged reference"))?;
                if is_null(oid) {
                    return Err(Flaw::damaged("it has a damaged reference"));
                }
                references += 1;
                each(oid, name);
            }
        }
    }
    if references == 0 {
        return Err(Flaw::damaged("it has no reference"));
    }
    let objects = check_pack(&mut input, format)?;
    Ok(Bundle {
        prerequisites,
        references,
        objects,
        format,
    })
}

/// Git refuses a capability it does not know; these are all there are.
fn capability(line: &[u8], format: ObjectFormat) -> Result<ObjectFormat, Flaw> {
    match line {
        b"object-format=sha1" => Ok(ObjectFormat::Sha1),
        b"object-format=sha256" => Ok(ObjectFormat::Sha256),
        _ if line.starts_with(b"filter=") => Ok(format),
        _ => Err(Flaw::damaged(
            "it asks for a capability that git does not have",
        )),
    }
}

/// Reads up to the next line feed, and takes it away.
fn read_line(input: &mut dyn BufRead, line: &mut Vec<u8>) -> Result<(), Flaw> {
    line.clear();
    loop {
        let piece = match input.fill_buf() {
            Ok(piece) => piece,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        if piece.is_empty() {
            let what = if line.is_empty() {
                "it is cut off in the header"
            } else {
                "a line is cut off"
            };
            return Err(Flaw::damaged(what));
        }
        let feed = piece.iter().position(|byte| *byte == b'\n');
        let len = feed.unwrap_or(piece.len());
        if line.len() + len > LONGEST_LINE {
            return Err(Flaw::damaged("its header has an overlong line"));
        }
        line.extend_from_slice(&piece[..len]);
        input.consume(len + usize::from(feed.is_some()));
        if feed.is_some() {
            return Ok(());
        }
    }
}

fn split_oid(line: &[u8], format: ObjectFormat) -> Result<(&[u8], &[u8]), Flaw> {
    let len = match format {
        ObjectFormat::Sha1 => 40,
        ObjectFormat::Sha256 => 64,
    };
    match line.split_at_checked(len) {
        Some((oid, rest)) if is_hex(oid) => Ok((oid, rest)),
        _ => Err(Flaw::damaged("its header has a damaged object ID")),
    }
}

/// Whether these are digits of an object ID, which git writes in lower case.
pub(super) fn is_hex(digits: &[u8]) -> bool {
    digits
        .iter()
        .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

/// The object ID that stands for none.
pub(super) fn is_null(oid: &[u8]) -> bool {
    oid.iter().all(|digit| *digit == b'0')
}

/// Whether `git bundle create --all` and `git show-ref --head` can name this: HEAD, or what stands below
/// `refs` and is as `git check-ref-format` allows.
pub fn is_ref_name(name: &[u8]) -> bool {
    name == b"HEAD" || name.starts_with(b"refs/") && is_well_formed(name)
}

fn is_well_formed(name: &[u8]) -> bool {
    let holds = |needle: &[u8]| name.windows(needle.len()).any(|window| window == needle);
    let forbidden = |byte: &u8| *byte <= b' ' || *byte == 0x7f || b"~^:?*[\\".contains(byte);
    let component =
        |part: &[u8]| !part.is_empty() && !part.starts_with(b".") && !part.ends_with(b".lock");
    !name.iter().any(forbidden)
        && !holds(b"..")
        && !holds(b"@{")
        && !name.ends_with(b".")
        && name.split(|byte| *byte == b'/').all(component)
}

/// Reads a pack to the end of the input; how many objects it has.
fn check_pack(input: &mut dyn BufRead, format: ObjectFormat) -> Result<u32, Flaw> {
    let mut header = [0; 12];
    input
        .read_exact(&mut header)
        .map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Flaw::damaged("it is cut off where its pack begins"),
            _ => error.into(),
        })?;
    let word = |at: usize| {
        u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    if &header[..4] != b"PACK" || !matches!(word(4), 2 | 3) {
        return Err(Flaw::damaged("its pack does not begin like one"));
    }
    let (algorithm, hash_len) = match format {
        ObjectFormat::Sha1 => (&SHA1_FOR_LEGACY_USE_ONLY, 20),
        ObjectFormat::Sha256 => (&SHA256, 32),
    };
    let mut context = Context::new(algorithm);
    context.update(&header);
    // The last bytes are the checksum; which are the last is known only at the end.
    let mut held = Vec::with_capacity(2 * hash_len);
    loop {
        let piece = match input.fill_buf() {
            Ok(piece) => piece,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        let len = piece.len();
        if len == 0 {
            break;
        }
        let (sure, last) = piece.split_at(len.saturating_sub(hash_len));
        let surplus = (held.len() + last.len()).saturating_sub(hash_len);
        context.update(&held[..surplus.min(held.len())]);
        held.drain(..surplus.min(held.len()));
        context.update(sure);
        held.extend_from_slice(last);
        input.consume(len);
    }
    if held.len() < hash_len || context.finish().as_ref() != held {
        return Err(Flaw::damaged("the checksum of its pack is wrong"));
    }
    Ok(word(8))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    /// A full bundle and one on top of it, kept as git made them, so that no test needs git. In an empty folder:
    ///
    /// ```sh
    /// git init -q -b main --object-format=sha1       # or sha256
    /// git commit -q --allow-empty -m first
    /// git bundle create -q sha1.bundle --all
    /// git commit -q --allow-empty -m second
    /// git bundle create -q sha1-next.bundle main~1..main
    /// ```
    fn bundles(format: &str) -> (Vec<u8>, Vec<u8>) {
        macro_rules! kept {
            ($name:literal) => {
                include_bytes!(concat!(
                    env!("CARGO_MANIFEST_DIR"),
                    "/tests/support/backup/bundles/",
                    $name,
                    ".bundle"
                ))
                .to_vec()
            };
        }
        match format {
            "sha1" => (kept!("sha1"), kept!("sha1-next")),
            _ => (kept!("sha256"), kept!("sha256-next")),
        }
    }

    fn read(bytes: &[u8], piece: usize) -> Result<(Bundle, Vec<String>), String> {
        let mut names = Vec::new();
        let mut each = |oid: &[u8], name: &[u8]| {
            assert!(is_hex(oid));
            names.push(String::from_utf8_lossy(name).into_owned());
        };
        let mut input = io::BufReader::with_capacity(piece, bytes);
        match check(&mut input, &mut each) {
            Ok(bundle) => Ok((bundle, names)),
            Err(flaw) => Err(flaw.to_string()),
        }
    }

    #[test]
    fn bundles_of_git_are_whole() {
        for format in ["sha1", "sha256"] {
            let (full, next) = bundles(format);
            for piece in [1, 7, 19, 20, 33, 8192] {
                let (bundle, names) = read(&full, piece).expect(format);
                assert_eq!(
                    (bundle.prerequisites, bundle.references, bundle.objects),
                    (0, 2, 2)
                );
                assert_eq!(bundle.format.as_str(), format);
                assert_eq!(names, ["refs/heads/main", "HEAD"]);
                assert_eq!(read(&next, piece).expect(format).0.prerequisites, 1);
            }
        }
    }

    #[test]
    fn every_cut_and_every_flipped_bit_of_the_pack_is_noticed() {
        for format in ["sha1", "sha256"] {
            let (mut full, _) = bundles(format);
            for len in 0..full.len() {
                assert!(read(&full[..len], 8192).is_err(), "cut at {len}");
            }
            let pack = full.windows(4).position(|w| w == b"PACK").expect("a pack");
            for at in pack..full.len() {
                full[at] ^= 4;
                assert!(read(&full, 8192).is_err(), "at {at}");
                full[at] ^= 4;
            }
        }
    }

    #[test]
    fn a_header_that_git_would_not_write_is_refused() {
        let (full, _) = bundles("sha1");
        let at = full
            .windows(2)
            .position(|w| w == b"\n\n")
            .expect("a header");
        let (header, pack) = (
            String::from_utf8_lossy(&full[..=at]).into_owned(),
            &full[at + 1..],
        );
        for (from, to, what) in [
            ("# v2", "# v4", "begin like a git bundle"),
            (
                "# v2 git bundle\n",
                "# v3 git bundle\n@object-format=sha1\n@x=y\n",
                "capability",
            ),
            (
                "# v2 git bundle\n",
                "# v3 git bundle\n@object-format=sha256\n",
                "object ID",
            ),
            (
                "# v2 git bundle\n",
                "# v2 git bundle\n@object-format=sha1\n",
                "object ID",
            ),
            (" refs/heads/main", "\trefs/heads/main", "reference"),
            (" HEAD", " HEAX", "reference"),
            (" refs/heads/main", " sefs/heads/main", "reference"),
            (" refs/heads/main", " refs/heads/ma~n", "reference"),
            (" refs/heads/main", " refs/heads/../n", "reference"),
            (" refs/heads/main", " refs/heads/.hid", "reference"),
            (" refs/heads/main", " refs//heads/main", "reference"),
            (" refs/heads/main", " refs/heads/m.lock", "reference"),
        ] {
            let bytes = [header.replacen(from, to, 1).as_bytes(), pack].concat();
            let error = read(&bytes, 8192).expect_err(to);
            assert!(error.contains(what), "{to}: {error}");
        }
        assert!(read(&[b"# v2 git bundle\n", pack].concat(), 99).is_err());
    }

    #[test]
    fn an_endless_line_costs_no_memory() {
        let mut endless = b"# v2 git bundle\n-".chain(io::repeat(b'a'));
        let mut endless = io::BufReader::new(&mut endless);
        let flaw = check(&mut endless, &mut |_, _| {}).expect_err("endless");
        assert!(flaw.to_string().contains("overlong"), "{flaw}");
    }
}
