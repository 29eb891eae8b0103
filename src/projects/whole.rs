//! Whether a file is a whole export: a gzip that ends with its right checksum, a tar in it that comes to its end,
//! and in that what GitLab's import looks for.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use crate::tar::TarError;
use crate::tar::stream::TarStream;

/// How much is read of the file at a time, in bytes.
const BUFFER_LEN: usize = 128 * 1024;

/// Why a file is no whole export.
#[derive(Debug)]
pub(super) enum Fault {
    /// It could not be read.
    Io(io::Error),
    /// What is wrong with it.
    Damaged(String),
}

/// Reads it to its end. Blocks the thread.
pub(super) fn check(path: &Path) -> Result<(), Fault> {
    let file = File::open(path).map_err(Fault::Io)?;
    let gzip = MultiGzDecoder::new(BufReader::with_capacity(BUFFER_LEN, file));
    let mut tar = TarStream::new(gzip);
    // Older GitLabs have one file, `project.json`, in the place of the folder `tree`.
    let (mut has_version, mut has_tree) = (false, false);
    loop {
        let entry = match tar.next_entry() {
            Ok(Some(entry)) => entry,
            Ok(None) => break,
            Err(error) => return Err(fault(error)),
        };
        let name = entry.path.strip_prefix(b"./").unwrap_or(&entry.path);
        has_version |= name == b"VERSION";
        has_tree |= name.starts_with(b"tree/") || name == b"tree" || name == b"project.json";
    }
    // Only at its end does gzip tell its checksum.
    let end = tar.finish().map_err(fault)?;
    let what = match (has_version, has_tree) {
        _ if end.has_data_behind => "something follows the end of its tar",
        (false, _) => "there is no VERSION in it",
        (_, false) => "there is no tree/ in it",
        (true, true) => return Ok(()),
    };
    Err(Fault::Damaged(what.to_owned()))
}

fn fault(error: TarError) -> Fault {
    match error {
        TarError::Damaged(what) => Fault::Damaged(what),
        // The decompressor's words for what is no gzip, or not a whole one.
        TarError::Read(error)
            if matches!(
                error.kind(),
                io::ErrorKind::InvalidInput
                    | io::ErrorKind::InvalidData
                    | io::ErrorKind::UnexpectedEof
            ) =>
        {
            Fault::Damaged(format!("no whole gzip: {error}"))
        }
        TarError::Read(error) => Fault::Io(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::{Read as _, Write as _};

    use flate2::Compression;
    use flate2::write::GzEncoder;

    fn header(name: &str, len: usize) -> [u8; 512] {
        let mut header = [0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..108].copy_from_slice(b"0000600\0");
        header[124..136].copy_from_slice(format!("{len:011o}\0").as_bytes());
        header[148..156].fill(b' ');
        header[156] = b'0';
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        header
    }

    fn export(names: &[&str]) -> Vec<u8> {
        let mut tar = Vec::new();
        for name in names {
            tar.extend(header(name, 5));
            tar.extend(b"0.2.4");
            tar.resize(tar.len().next_multiple_of(512), 0);
        }
        tar.resize(tar.len() + 1024, 0);
        gzip(&tar)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(bytes).expect("written");
        gzip.finish().expect("finished")
    }

    fn unzip(bytes: &[u8]) -> Option<Vec<u8>> {
        let mut tar = Vec::new();
        MultiGzDecoder::new(bytes).read_to_end(&mut tar).ok()?;
        Some(tar)
    }

    fn verdict(bytes: &[u8]) -> Option<String> {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("a.tar.gz");
        std::fs::write(&path, bytes).expect("written");
        match check(&path) {
            Ok(()) => None,
            Err(Fault::Damaged(what)) => Some(what),
            Err(Fault::Io(error)) => panic!("{error}"),
        }
    }

    #[test]
    fn what_gitlab_makes_is_whole() {
        for names in [
            &["./VERSION", "./tree/project.json"][..],
            &["VERSION", "tree/project.json"],
            &["./VERSION", "./project.json"],
        ] {
            assert_eq!(verdict(&export(names)), None, "{names:?}");
        }
    }

    #[test]
    fn what_is_no_export_is_refused() {
        for (bytes, expected) in [
            (export(&["./tree/project.json"]), "no VERSION"),
            (export(&["./VERSION"]), "no tree/"),
            (export(&[]), "no VERSION"),
            (b"<html>maintenance</html>".to_vec(), "no whole gzip"),
            (gzip(b"not a tar"), "no whole tar"),
            (Vec::new(), "no whole"),
        ] {
            let told = verdict(&bytes).expect("a fault");
            assert!(told.contains(expected), "{told}");
        }
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_noticed() {
        let whole = export(&["./VERSION", "./tree/project.json"]);
        for cut in 0..whole.len() {
            assert!(verdict(&whole[..cut]).is_some(), "cut at {cut}");
        }
        // Behind the ten bytes of its header, where a changed one changes nothing.
        for at in 10..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x10;
            // Unless it unpacks to the very same: one run of zeros may be told as another.
            let is_same = unzip(&changed).is_some_and(|tar| Some(tar) == unzip(&whole));
            assert!(verdict(&changed).is_some() || is_same, "changed at {at}");
        }
    }
}
