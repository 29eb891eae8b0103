//! The file itself: what stands in it, and who may read it.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::environment::{as_file, is_given};
use crate::units::MIB;

/// A longer file is something else, or has no end; bytes.
const LONGEST: u64 = MIB;

/// What stands in it; an error says how to get on.
pub(super) fn text_of(path: &Path) -> Result<String, String> {
    read(path).map_err(|error| {
        let way_out = match error.kind() {
            io::ErrorKind::NotFound => as_file(is_given).unwrap_or(
                "let `sudo gitlab-pi-backup login` write one, write one as config.example.toml shows, or name \
                 another with -c",
            ),
            io::ErrorKind::PermissionDenied => "run as root, or name another with -c",
            _ => "name another with -c",
        };
        format!(
            "reading the configuration {}: {error}\n  {way_out}",
            path.display()
        )
    })
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = File::open(path)?;
    file.take(LONGEST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LONGEST {
        return Err(io::Error::other("it is too long to be one"));
    }
    Ok(text)
}

/// A fault if group or others may read or write a file with secrets; a missing file has none.
pub(super) fn open_to_others(path: &Path) -> Option<String> {
    let metadata = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    let mode = metadata.permissions().mode() & 0o777;
    (mode & 0o077 != 0).then(|| {
        format!(
            "{} holds secrets, but others may read or change it (mode {mode:04o})\n    chmod 600 {}",
            path.display(),
            path.display()
        )
    })
}
