//! What a restore into GitLab starts from: an earlier call's unfinished work, or the backup that is found; and what is
//! looked at before anything else.

use std::fs;
use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};

use super::super::directory::folder_of;
use super::super::journal::Journal;
use super::super::package::{package, product};
use super::super::report::RestoreReport;
use super::super::runbook::Step;
use super::super::{Halt, Job, kept_path, wish};
use crate::archive::{ArchiveKind, ArchiveName};
use crate::catalog::{Found, Wanted};
use crate::gitlab::host::{Engine, has_program};
use crate::gitlab::installed::{Installed, installed};

/// An unfinished restore that is older is not taken up unless its backup is named.
const RECENT: TimeDelta = TimeDelta::hours(24);

/// Takes up what an earlier call left unfinished, or finds the backup.
pub(super) async fn begin(
    job: &Job<'_>,
    now: DateTime<Utc>,
    report: &mut RestoreReport,
) -> Result<Journal, Halt> {
    if let Some(journal) = Journal::load(job.state)? {
        report.backup_id = Some(journal.backup_id.clone());
        report.destination = Some(journal.destination.clone());
        report.gitlab_version.clone_from(&journal.gitlab_version);
        report.skipped.clone_from(&journal.skipped);
        report.doubts.clone_from(&journal.doubts);
        return match &job.wanted {
            Wanted::Id(id) if *id != journal.backup_id => Err(Halt::Failed(format!(
                "the restore of {} is not finished, so {id} is not begun\n  \
                 finish it: gitlab-pi-backup restore {} --apply\n  \
                 or give it up: delete {}",
                journal.backup_id,
                journal.backup_id,
                Journal::path(job.state).display()
            ))),
            wanted => {
                if *wanted == Wanted::Latest {
                    check_still_meant(job, &journal, now).await?;
                }
                check_installed(job, &journal)?;
                tracing::info!("going on with the restore of {}", journal.backup_id);
                Ok(journal)
            }
        };
    }
    let found = job.unless_stopped(job.find()).await?;
    report.describe(&found);
    check_all_asked(job, &found)?;
    report.warn_of_doubts();
    let mut begun_at = now;
    // Nothing has the name that what is moved away will get.
    while fs::symlink_metadata(kept_path(&job.gitlab.etc_dir, begun_at)).is_ok() {
        begun_at += TimeDelta::seconds(1);
    }
    let mut journal = Journal::new(&found.backup.id, found.destination.name(), begun_at);
    for kind in ArchiveKind::ALL {
        journal.wishes.push(wish(job, &found, kind, true).await?);
    }
    if let Some(wish) = journal.wishes.iter().find(|wish| wish.hash.is_none()) {
        return Err(Halt::Failed(format!(
            "{}:{}: no content hash is known, so it cannot be proved; nothing was changed\n  \
             fetch it with `restore`, and follow `restore --plan` by hand",
            journal.destination, wish.stored_path
        )));
    }
    journal.gitlab_version.clone_from(&report.gitlab_version);
    journal.skipped.clone_from(&report.skipped);
    journal.doubts.clone_from(&report.doubts);
    check_installed(job, &journal)?;
    check_etc_dir(&job.gitlab.etc_dir)?;
    journal.save(job.state)?;
    Ok(journal)
}

/// Who gives no ID means the newest backup, not one whose restore was begun long ago and forgotten: GitLab may have
/// been repaired otherwise since, and would be set back. An unfinished restore is only taken up unnamed if it is recent
/// and still of the newest backup. A machine that has no network yet is no reason against it.
async fn check_still_meant(
    job: &Job<'_>,
    journal: &Journal,
    now: DateTime<Utc>,
) -> Result<(), Halt> {
    let id = &journal.backup_id;
    let refused = |why: &str| {
        Halt::Failed(format!(
            "the restore of {id} that was begun at {} is not finished, and {why}; this call changed nothing\n  \
             finish it: gitlab-pi-backup restore {id} --apply\n  \
             or begin anew with the newest backup: delete {}",
            journal.begun_at.format("%Y-%m-%d %H:%M UTC"),
            Journal::path(job.state).display()
        ))
    };
    if !is_recent(journal.begun_at, now) {
        return Err(refused("that is more than a day ago"));
    }
    let found = match job.unless_stopped(job.find()).await {
        Ok(found) => found,
        Err(Halt::Failed(error)) => {
            tracing::warn!("whether {id} is still the newest backup cannot be told: {error}");
            return Ok(());
        }
        Err(halt) => return Err(halt),
    };
    let mut wishes = journal.wishes.iter();
    let begun = wishes
        .find(|wish| wish.kind == ArchiveKind::Data)
        .and_then(|wish| ArchiveName::parse(&wish.name));
    if begun.is_some_and(|begun| found.backup.data_name.age_order(&begun).is_gt()) {
        let (newer, place) = (&found.backup.id, found.destination.name());
        return Err(refused(&format!("{newer} at `{place}` is newer")));
    }
    Ok(())
}

/// A Raspberry Pi that has no clock of its own may start with a time some hours back.
fn is_recent(begun_at: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    (now - begun_at).abs() < RECENT
}

/// An older backup is not put back only because the destination with the newest one did not answer.
fn check_all_asked(job: &Job<'_>, found: &Found<'_>) -> Result<(), Halt> {
    if job.wanted != Wanted::Latest || found.unasked.is_empty() {
        return Ok(());
    }
    let (id, destination) = (&found.backup.id, found.destination.name());
    Err(Halt::Failed(format!(
        "{id} at `{destination}` is the newest backup that was found, but `{}` could not be asked; nothing was changed\n  \
         call it again when that answers, or restore what was found: \
         gitlab-pi-backup restore {id} --apply, or --destination {destination}",
        found.unasked.join("`, `")
    )))
}

/// GitLab refuses the backup of any other version or edition, when its database is already gone.
pub(super) fn check_installed(job: &Job<'_>, journal: &Journal) -> Result<(), Halt> {
    if journal.has_done(Step::RestoreData) {
        return Ok(());
    }
    let wanted = journal.gitlab_version.as_deref();
    let install = wanted.and_then(package).map_or_else(
        || "install the version that made the backup".to_owned(),
        |package| {
            format!(
                "install exactly this one: apt-get install {} (with rpm packages: dnf install {})",
                package.deb, package.rpm
            )
        },
    );
    let by_cli = journal.wishes.iter().any(|wish| folder_of(wish).is_some());
    let cli = Engine::GitlabBackupCli.program();
    if by_cli && !has_program(cli) {
        return Err(Halt::Failed(format!(
            "the backup was made by `{cli}`, and there is none on this machine; nothing was changed\n  {install}"
        )));
    }
    match (installed(job.gitlab), wanted) {
        (Installed::Lacks(program), _) => Err(Halt::Failed(format!(
            "GitLab is not installed: there is no `{program}` on this machine; nothing was changed\n  {install}"
        ))),
        (Installed::Version(present), Some(wanted)) if present != wanted => {
            Err(Halt::Failed(format!(
                "the backup is of {}, and {} is installed; nothing was changed\n  {install}",
                product(wanted),
                product(&present)
            )))
        }
        (Installed::Version(_), Some(_)) => Ok(()),
        (Installed::Unknown, _) | (_, None) => {
            tracing::warn!(
                "whether the installed GitLab is of the backup's version cannot be told from {}; GitLab will compare itself",
                job.gitlab.install_dir.display()
            );
            Ok(())
        }
    }
}

fn check_etc_dir(etc: &Path) -> Result<(), Halt> {
    let Ok(metadata) = fs::symlink_metadata(etc) else {
        return Ok(());
    };
    if metadata.is_dir() {
        return Ok(());
    }
    Err(Halt::Failed(format!(
        "{} is no folder, so it is not replaced; nothing was changed\n  \
         if it is a link, set `gitlab.etc_dir` to where it leads",
        etc.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_later_it_is_no_longer_recent_whichever_way_the_clock_went() {
        let now = DateTime::from_timestamp(1_702_758_583, 0).expect("a time");
        for (seconds, recent) in [
            (0, true),
            (86_399, true),
            (86_400, false),
            (90 * 86_400, false),
        ] {
            for way in [-1, 1] {
                let begun_at = now + TimeDelta::seconds(way * seconds);
                assert_eq!(is_recent(begun_at, now), recent, "{begun_at}");
            }
        }
    }
}
