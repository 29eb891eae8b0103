//! provisional
use crate::gitlab::contents::Contents;
/// p
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// p
    pub shrink: u8,
}
/// p
pub fn shrinkage(before: &Contents, now: &Contents, threshold: u8) -> Vec<String> {
    if before.repositories * u64::from(100 - threshold) > now.repositories * 100 {
        vec![format!(
            "repositories fell from {} to {}",
            before.repositories, now.repositories
        )]
    } else {
        Vec::new()
    }
}
