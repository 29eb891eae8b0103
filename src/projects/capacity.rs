//! How many exports the machine that GitLab runs on bears at a time. Each takes GitLab some hundreds of megabytes
//! (<https://gitlab.com/gitlab-org/gitlab-foss/-/issues/61015>).

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::gitlab::api::Api;
use crate::retry::rhythm::Rhythm;
use crate::units::Size;

/// GitLab lets a user ask for so many in a minute: more at a time would wait for each other.
const USUAL: usize = 6;
/// With less memory GitLab makes one at a time; bytes. GitLab itself asks for 8 GB.
const SMALL: u64 = 7 << 30;
/// With less free memory nothing more is asked for; bytes.
const SCARCE: u64 = 192 << 20;
/// Memory that does not come back in so long is not waited for.
const LONGEST_WAIT: Duration = Duration::from_mins(10);

/// What the kernel says of the memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Memory {
    total: u64,
    available: u64,
}

/// How many exports are made at a time. `memory` is that of the machine GitLab runs on, none if that is another one.
fn concurrency(configured: Option<usize>, memory: Option<Memory>) -> usize {
    let small = memory.is_some_and(|memory| memory.total < SMALL);
    configured.unwrap_or(if small { 1 } else { USUAL }).max(1)
}

/// Reads `/proc/meminfo`, see proc(5).
fn parse(text: &str) -> Option<Memory> {
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let number = line.trim().strip_suffix(" kB")?.trim();
        number.parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(Memory {
        total: of("MemTotal:")?,
        available: of("MemAvailable:")?,
    })
}

fn memory() -> Option<Memory> {
    parse(&fs::read_to_string("/proc/meminfo").ok()?)
}

/// Whether a GitLab runs on this very machine: by its address, or because it is installed here.
pub fn is_here(api: &Api, install_dir: &Path) -> bool {
    api.is_here() || install_dir.join("embedded/service/gitlab-rails").is_dir()
}

/// How many exports are made at a time. `gitlab_is_here`: GitLab runs on this very machine.
pub(super) fn at_a_time(configured: Option<usize>, gitlab_is_here: bool) -> usize {
    let memory = gitlab_is_here.then(memory).flatten();
    concurrency(configured, memory)
}

/// Waits while this machine is short of memory, for some minutes at most.
pub(super) async fn memory_for_one_more() {
    let mut rhythm = Rhythm::default();
    while let Some(now) = memory().filter(|now| now.available < SCARCE) {
        let left = LONGEST_WAIT.saturating_sub(rhythm.elapsed());
        if left.is_zero() {
            return;
        }
        tracing::info!(
            "only {} of memory are free: the next export waits",
            Size(now.available)
        );
        rhythm.beat(left).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_on_small_machines_only() {
        let memory = |total: u64| {
            Some(Memory {
                total: total << 20,
                available: 0,
            })
        };
        for (configured, memory, expected) in [
            (None, None, 6),
            (None, memory(4_000), 1),
            // What an 8 GB Raspberry Pi has left of them.
            (None, memory(7_900), 6),
            (None, memory(64_000), 6),
            (Some(3), memory(4_000), 3),
            (Some(0), None, 1),
        ] {
            assert_eq!(concurrency(configured, memory), expected, "{memory:?}");
        }
    }

    #[test]
    fn what_the_kernel_says() {
        let text = "MemTotal:        8123456 kB\nMemFree:  1 kB\nMemAvailable:    2000 kB\n";
        let expected = Memory {
            total: 8_123_456 << 10,
            available: 2_000 << 10,
        };
        assert_eq!(parse(text), Some(expected));
        for text in ["", "MemTotal: x kB\nMemAvailable: 1 kB", "MemTotal: 1 kB"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
