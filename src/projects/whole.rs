//! Whether a file is a whole export: what a restore would demand of it, before it is stored.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use crate::gitlab::format::export::whole_export;

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

/// A file, and why it could not be read: that says nothing against what is in it.
struct Watched {
    file: File,
    failure: Option<io::Error>,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer).map_err(|error| {
            let kind = error.kind();
            if kind != io::ErrorKind::Interrupted {
                self.failure = Some(error);
            }
            kind.into()
        })
    }
}

/// Reads it to its end. Blocks the thread.
pub(super) fn check(path: &Path) -> Result<(), Fault> {
    let file = File::open(path).map_err(Fault::Io)?;
    let watched = Watched {
        file,
        failure: None,
    };
    let mut input = BufReader::with_capacity(BUFFER_LEN, watched);
    let export = whole_export(&mut input);
    match (input.into_inner().failure, export) {
        (Some(error), _) => Err(Fault::Io(error)),
        (None, Ok(_)) => Ok(()),
        (None, Err(flaw)) => Err(Fault::Damaged(flaw.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::Write as _;

    use flate2::Compression;
    use flate2::bufread::MultiGzDecoder;
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
        let members: Vec<_> = names.iter().map(|name| (*name, b"0.2.4")).collect();
        export_of(&members)
    }

    fn export_of(members: &[(&str, &[u8; 5])]) -> Vec<u8> {
        let mut tar = Vec::new();
        for (name, data) in members {
            tar.extend(header(name, data.len()));
            tar.extend(*data);
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
            (export(&["./VERSION"]), "no tree/project.json"),
            // A restore would refuse it.
            (
                export(&["./VERSION", "./tree/project/issues.ndjson"]),
                "no tree/project.json",
            ),
            (export_of(&[("VERSION", b"\n\n\n\n\n")]), "no VERSION"),
            (export(&[]), "no VERSION"),
            (b"<html>maintenance</html>".to_vec(), "no gzip"),
            (gzip(b"not a tar"), "no whole tar"),
            (Vec::new(), "it is empty"),
        ] {
            let told = verdict(&bytes).expect("a fault");
            assert!(told.contains(expected), "{told}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_called_damaged() {
        // It can be opened, but nobody can read a folder.
        let dir = tempfile::tempdir().expect("temporary folder");
        assert!(matches!(check(dir.path()), Err(Fault::Io(_))));
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
