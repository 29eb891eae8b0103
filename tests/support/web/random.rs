//! Random identifiers: tests run side by side and must never mistake one server's names for another's.

use std::fmt::Write as _;

use ring::rand::{SecureRandom as _, SystemRandom};

/// Random bytes.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .expect("the system's random source");
    bytes
}

/// 32 random hexadecimal digits.
pub fn id() -> String {
    hex(&bytes::<16>())
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            write!(text, "{byte:02x}").expect("a string takes everything");
            text
        })
}
