//! The encryption of archives, in age's format (<https://age-encryption.org/v1>): a header that keeps the key of
//! this one file for each of its recipients, a nonce, then the payload in chunks of 64 KiB.
//!
//! The header, with its MAC, is written and read by the `age` crate. Only the payload's chunks are sealed and
//! opened here, so that this can be done in any order, by several threads, and go on after a power cut.

mod identities;
mod opening;
mod payload;
mod recipients;
mod sealing;
mod settings;

pub use identities::Identities;
pub use opening::{OpenFailure, Opening};
pub use payload::{CHUNK_LEN, SEALED_CHUNK_LEN, TAG_LEN};
pub use recipients::Recipients;
pub use sealing::Sealing;
pub use settings::{Encryption, Settings};

/// What the name of an encrypted file ends in.
pub const SUFFIX: &str = ".age";
/// No header that this program writes is longer, and no longer one is read; bytes.
pub const LONGEST_HEADER: usize = 256 * 1024;
