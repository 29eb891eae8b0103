//! Where our units are.

use std::path::Path;

/// Where an administrator's units are, and so ours.
const OURS: &str = "/etc/systemd/system";

/// Whether anything in there was written by us.
pub(super) fn are_ours() -> bool {
    let timer = Path::new(OURS).join("gitlab-pi-backup.timer");
    timer.exists()
        || timer
            .with_extension("timer.d")
            .join("schedule.conf")
            .exists()
}
