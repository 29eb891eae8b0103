//! The formats inside GitLab's archives, each judged by reading it once from front to back.
//!
//! What a restore would refuse is a flaw; what this program cannot judge with certainty is never one.
//! Nothing read is trusted: every length has a limit, and no text read is repeated where it is secret.

pub mod bundle;
pub mod compressed;
pub mod copy;
pub mod dump;
pub mod export;
pub mod manifest;
pub mod refs;
pub mod secrets;
pub mod settings;

use std::fmt;
use std::io::{self, Read};

use crate::tar::TarError;
use crate::tar::stream::TarStream;

/// Why something is not known to be whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// A restore would fail, or bring back less than there was.
    Damaged(String),
    /// It is of a form that cannot be judged here.
    Unjudged(String),
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Flaw::Damaged(what) | Flaw::Unjudged(what) => f.write_str(what),
        }
    }
}

impl From<io::Error> for Flaw {
    fn from(error: io::Error) -> Flaw {
        match error.kind() {
            io::ErrorKind::Unsupported => Flaw::Unjudged(error.to_string()),
            _ => Flaw::Damaged(error.to_string()),
        }
    }
}

impl Flaw {
    fn damaged(what: impl Into<String>) -> Flaw {
        Flaw::Damaged(what.into())
    }
}

/// Reads a tar to the end of the input, beyond its closing blocks; how many members it has.
pub fn whole_tar(input: &mut dyn Read) -> Result<u64, Flaw> {
    let mut tar = TarStream::new(input);
    let mut members = 0;
    let mut first = None;
    loop {
        match tar.next_entry() {
            Ok(Some(_)) => members += 1,
            Ok(None) => break,
            Err(TarError::Damaged(what)) => {
                first = first.or(Some(what));
            }
            Err(TarError::Read(error)) => return Err(error.into()),
        }
    }
    // What a decompressor says at its end explains a tar that could not be read.
    let end = tar.finish().map_err(|error| match error {
        TarError::Damaged(what) => Flaw::Damaged(what),
        TarError::Read(error) => error.into(),
    })?;
    match first {
        Some(what) => Err(Flaw::Damaged(what)),
        None if members == 0 => Err(Flaw::damaged("no whole tar: it has no member")),
        None if end.has_data_behind => Err(Flaw::damaged(
            "there is data behind the end of the tar, which a restore would not see",
        )),
        None => Ok(members),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tar_is_whole_or_not() {
        let header = |kind: u8| {
            let mut header = [0_u8; 512];
            header[0] = b'a';
            header[124..135].copy_from_slice(b"00000000000");
            header[148..156].fill(b' ');
            header[156] = kind;
            let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
            header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
            header
        };
        let end = vec![0; 1024];
        let whole = [&header(b'0')[..], &header(b'5'), &end].concat();
        assert_eq!(whole_tar(&mut &whole[..]), Ok(2));
        for (bytes, what) in [
            (end.clone(), "no member"),
            (Vec::new(), "ends without its two closing zero blocks"),
            (
                whole[..1024].to_vec(),
                "ends without its two closing zero blocks at byte 1024",
            ),
            ([&whole[..], b"x"].concat(), "behind the end"),
        ] {
            let flaw = whole_tar(&mut &bytes[..]).expect_err(what);
            assert!(flaw.to_string().contains(what), "{flaw}");
        }
    }
}
