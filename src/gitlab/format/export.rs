//! The export of a project (<https://docs.gitlab.com/user/project/settings/import_export/>): a tar in gzip, with its
//! format's version, and the project as a tree of JSON files.

use std::io::{BufRead, Read};

use super::Flaw;
use super::compressed::{Expanded, expand};
use crate::tar::stream::TarStream;
use crate::tar::{EntryKind, TarError};

/// No version is longer, in bytes.
const LONGEST_VERSION: u64 = 100;

/// What an export tells of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Export {
    /// How many members it has.
    pub members: u64,
    /// The version of its format, `0.2.4`; a GitLab that does not know it refuses it.
    pub version: String,
    /// The version of the GitLab that made it, if it says.
    pub gitlab_version: Option<String>,
}

/// Reads an export to its end: every checksum, every member.
pub fn whole_export(input: impl BufRead) -> Result<Export, Flaw> {
    let expanded = expand(input)?;
    if !matches!(expanded, Expanded::Gzip(_)) {
        return Err(Flaw::damaged("it is no gzip"));
    }
    let mut tar = TarStream::new(expanded);
    let (mut export, mut has_tree) = (Export::default(), false);
    let mut first = None;
    loop {
        let entry = match tar.next_entry() {
            Ok(Some(entry)) => entry,
            Ok(None) => break,
            Err(TarError::Damaged(what)) => {
                first = first.or(Some(what));
                continue;
            }
            Err(TarError::Read(error)) => return Err(error.into()),
        };
        export.members += 1;
        if entry.kind != EntryKind::File {
            continue;
        }
        let path = entry.path.strip_prefix(b"./").unwrap_or(&entry.path);
        match path {
            b"VERSION" => export.version = version(&mut tar)?,
            b"GITLAB_VERSION" => {
                export.gitlab_version =
                    Some(version(&mut tar)?).filter(|version| !version.is_empty());
            }
            // Until GitLab 13 the tree was one file.
            b"tree/project.json" | b"project.json" => has_tree = true,
            _ => {}
        }
    }
    // What a decompressor says at its end explains a tar that could not be read.
    let end = tar.finish().map_err(|error| match error {
        TarError::Damaged(what) => Flaw::Damaged(what),
        TarError::Read(error) => error.into(),
    })?;
    match first {
        Some(what) => Err(Flaw::Damaged(what)),
        None if end.has_data_behind => {
            Err(Flaw::damaged("there is data behind the end of the tar"))
        }
        None if export.version.is_empty() => Err(Flaw::damaged("no export: it has no VERSION")),
        None if !has_tree => Err(Flaw::damaged("no export: it has no tree/project.json")),
        None => Ok(export),
    }
}

/// A short text without what does not belong into a version.
fn version<R: Read>(tar: &mut TarStream<R>) -> Result<String, Flaw> {
    let mut bytes = Vec::new();
    let contents = tar.contents();
    contents.take(LONGEST_VERSION).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let good = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    Ok(text.trim().chars().filter(good).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write as _;

    fn member(name: &str, data: &[u8]) -> Vec<u8> {
        let mut header = [0_u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..108].copy_from_slice(b"0000644\0");
        header[124..136].copy_from_slice(format!("{:011o}\0", data.len()).as_bytes());
        header[148..156].fill(b' ');
        header[156] = b'0';
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let mut all = header.to_vec();
        all.extend(data);
        all.resize(all.len().next_multiple_of(512), 0);
        all
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).expect("in memory");
        encoder.finish().expect("in memory")
    }

    fn export(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut tar: Vec<u8> = members
            .iter()
            .flat_map(|(name, data)| member(name, data))
            .collect();
        tar.resize(tar.len() + 1024, 0);
        gzip(&tar)
    }

    const WHOLE: [(&str, &[u8]); 4] = [
        ("./VERSION", b"0.2.4\n"),
        ("./GITLAB_VERSION", b"17.8.2-ee\n"),
        ("./tree/project.json", b"{}"),
        ("./tree/project/issues.ndjson", &[b'x'; 70_000]),
    ];

    #[test]
    fn a_whole_export_tells_its_versions() {
        let whole = Export {
            members: 4,
            version: "0.2.4".to_owned(),
            gitlab_version: Some("17.8.2-ee".to_owned()),
        };
        assert_eq!(whole_export(&export(&WHOLE)[..]), Ok(whole));
        let old = [("VERSION", &b"0.2.4"[..]), ("project.json", b"{}")];
        assert!(whole_export(&export(&old)[..]).is_ok());
    }

    #[test]
    fn what_is_no_whole_export_is_refused_with_the_reason() {
        let whole = export(&WHOLE);
        let mut flipped = whole.clone();
        let near_the_end = flipped.len() - 5;
        flipped[near_the_end] ^= 1;
        let unended: Vec<u8> = WHOLE.iter().flat_map(|(n, d)| member(n, d)).collect();
        for (bytes, what) in [
            (Vec::new(), "it is empty"),
            (b"<html>".to_vec(), "no gzip"),
            (whole[..whole.len() / 2].to_vec(), ""),
            (whole[..whole.len() - 1].to_vec(), ""),
            (flipped, "gzip"),
            ([&whole[..], b"more"].concat(), "something else follows"),
            (export(&WHOLE[1..]), "no VERSION"),
            (export(&[("VERSION", b"\n"), WHOLE[2]]), "no VERSION"),
            (export(&WHOLE[..2]), "no tree/project.json"),
            (gzip(&unended), "two closing zero blocks"),
            (gzip(b""), "two closing zero blocks"),
        ] {
            let flaw = whole_export(&bytes[..]).expect_err(what);
            assert!(flaw.to_string().contains(what), "{what}: {flaw}");
        }
    }
}
