//! A restore into GitLab that was begun and not finished: while there is one, GitLab is neither what it was
//! nor what it will be, so no backup of it is a good one, and nothing is pruned.

use super::journal::Journal;
use crate::state::StateDir;

/// Says so, with the way out, if a restore has changed something and is not finished.
pub fn unfinished(state: &StateDir) -> Option<String> {
    let path = Journal::path(state);
    let way_out = |id: &str| {
        format!(
            "finish it: gitlab-pi-backup restore {id} --apply; or, if GitLab is in order, delete {}",
            path.display()
        )
    };
    match Journal::load(state) {
        Ok(Some(journal)) if journal.has_changed_something() => Some(format!(
            "the restore of {} that was begun at {} is not finished\n  {}",
            journal.backup_id,
            journal.begun_at.format("%Y-%m-%d %H:%M UTC"),
            way_out(&journal.backup_id)
        )),
        Ok(_) => None,
        Err(why) => Some(why),
    }
}
