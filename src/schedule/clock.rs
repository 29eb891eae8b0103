//! Waiting, a bounded time, until something has set the clock.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::program::run;
use crate::gitlab::host::has_program;

/// There when timesyncd has set the clock.
const TIMESYNCD: &str = "/run/systemd/timesync/synchronized";
/// Between two looks.
const PAUSE: Duration = Duration::from_secs(2);
const NOT_LONG: Duration = Duration::from_secs(10);

/// Waits until the clock is set, by whatever program: the kernel knows, and `timedatectl` tells. `None`: nobody can
/// be asked. `Some(false)`: it was not set within `limit`.
pub fn await_clock(limit: Duration) -> Option<bool> {
    let begin = Instant::now();
    loop {
        if Path::new(TIMESYNCD).exists() {
            return Some(true);
        }
        if !has_program("timedatectl") {
            return None;
        }
        let arguments = ["show", "--property=NTPSynchronized", "--value"];
        // Without an answer there is nothing to wait for.
        let asked = run("timedatectl", &arguments, None, NOT_LONG).ok()?;
        match asked.out.trim_ascii() {
            b"yes" => return Some(true),
            b"no" if asked.status.success() => {}
            _ => return None,
        }
        if begin.elapsed() + PAUSE > limit {
            return Some(false);
        }
        thread::sleep(PAUSE);
    }
}
