//! The steps that bring the data back, by the tool that made the data archive.

use super::{Known, Places, RunbookStep, Step, by_hand, gitlab, words};
use crate::archive::ArchiveName;
use crate::units::Size;

/// The folder that an archive is the tar of.
fn directory(name: &str) -> Option<String> {
    let name = ArchiveName::parse(name)?;
    name.folder().map(str::to_owned)
}

fn place_directory(name: &str, id: &str, places: &Places<'_>) -> RunbookStep {
    let folder = places.data_dir.display();
    let title = format!("have the folder {id} in {folder}, as it was");
    match places.fetched.filter(|folder| *folder != places.data_dir) {
        Some(fetched) => {
            let mut command = words("tar -xpf");
            command.push(fetched.join(name).display().to_string());
            command.extend(["-C".to_owned(), folder.to_string()]);
            by_hand(Step::PlaceData, &title, Some(command))
        }
        None => by_hand(Step::PlaceData, &title, None)
            .note("the first step has unpacked it there, with its owners and modes"),
    }
}

/// Has the data archive where GitLab looks for it.
pub(super) fn place_data(name: &str, size: u64, places: &Places<'_>) -> RunbookStep {
    if let Some(id) = directory(name) {
        return place_directory(name, &id, places);
    }
    let target = places.data_dir.join(name);
    let folder = places.data_dir.display();
    let title = format!("have {name} in {folder}, owned by git:git");
    let command = match places.fetched.filter(|folder| *folder != places.data_dir) {
        Some(fetched) => {
            let mut command = words("install -o git -g git -m 600");
            command.push(fetched.join(name).display().to_string());
            command.push(target.display().to_string());
            command
        }
        None => vec![
            "chown".to_owned(),
            "git:git".to_owned(),
            target.display().to_string(),
        ],
    };
    by_hand(Step::PlaceData, &title, Some(command)).note(&format!(
        "GitLab unpacks it beside itself: about {} more are needed in {folder}",
        Size(size)
    ))
}

/// Lets GitLab take it.
pub(super) fn restore_data(known: &Known<'_>) -> Vec<RunbookStep> {
    let title = "restore database, repositories and files: what GitLab holds now is replaced";
    let mut restoring = if known
        .data
        .is_some_and(|(name, _)| directory(name).is_some())
    {
        let restore = format!("gitlab-backup-cli restore all {}", known.backup_id);
        gitlab(Step::RestoreData, title, &restore)
            .note(
                "gitlab-backup-cli is an experiment of GitLab's, since 17.0: \
                 `gitlab-backup-cli help` shows what it can restore in this version",
            )
            .note("it is in /opt/gitlab/bin, if the shell does not find it")
    } else {
        let restore = format!("gitlab-backup restore BACKUP={} force=yes", known.backup_id);
        let mut restoring = gitlab(Step::RestoreData, title, &restore);
        // Its other question, about `authorized_keys`.
        restoring.environment.insert("GITLAB_ASSUME_YES", "1");
        restoring
    };
    if !known.skipped.is_empty() {
        restoring.notes.push(format!(
            "left out of this backup (SKIP), and not restored: {}",
            known.skipped.join(", ")
        ));
    }
    let again = "let GitLab take the restored data";
    let puma = "stop what answers requests";
    let sidekiq = "stop what works in the background";
    vec![
        gitlab(Step::StopPuma, puma, "gitlab-ctl stop puma"),
        gitlab(Step::StopSidekiq, sidekiq, "gitlab-ctl stop sidekiq"),
        restoring,
        gitlab(Step::ReconfigureAgain, again, "gitlab-ctl reconfigure"),
    ]
}
