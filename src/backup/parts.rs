//! Parts that GitLab left unpacked (`stream = true`): sent before anything new is made, since the next backup
//! would write over them, and removed when every place that takes data holds them.
//!
//! What is removed is what was sent, to the last file: the fingerprint over all of them is compared before. The
//! parts of a doubtful backup stay until the next one is made, so that what is wrong can be looked at.

use std::io;
use std::time::Duration;

use super::send::Ready;
use super::{Chosen, Run, step_of};
use crate::archive::{ArchiveKind, Form};
use crate::gitlab::parts::{self, Found};
use crate::local;
use crate::report::{StepStatus, UploadStatus};

impl Run<'_> {
    /// What a run that was killed while it removed parts left of them.
    pub(super) async fn finish_removals(&mut self) {
        if self.job.request.dry_run {
            return;
        }
        let folder = self.job.gitlab.data_dir.clone();
        let finishing = tokio::task::spawn_blocking(move || parts::finish_removals(&folder));
        match finishing.await.unwrap_or_else(|_| Ok(Vec::new())) {
            Ok(finished) => {
                for id in finished {
                    tracing::info!(
                        "the parts of {id}, which are stored, are removed: an earlier run had begun it"
                    );
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.warn(format!(
                "removing parts that are stored: {error}\n  delete what is left there by hand"
            )),
        }
    }

    /// Sends the parts that lie here; whether GitLab may make a new backup.
    pub(super) async fn send_parts_first(&mut self) -> bool {
        if !self.job.gitlab.stream || !self.job.request.kinds.contains(&ArchiveKind::Data) {
            return true;
        }
        let folder = &self.job.gitlab.data_dir;
        // GitLab makes the folder itself; whatever else is wrong with it shows when it does.
        let Ok(found) = parts::look(folder) else {
            return true;
        };
        let why = match found {
            Found::Nothing => return true,
            Found::Unfinished(what) => {
                tracing::warn!("{what}; the new backup takes its place");
                return true;
            }
            Found::Refused(why) => why,
            Found::Parts(_) => match local::find_parts(folder) {
                Ok(Some(archive)) => {
                    tracing::info!(
                        "the parts of {} lie here: they are sent first",
                        archive.name
                    );
                    let chosen = Chosen {
                        archive,
                        made_by_this_run: false,
                        doubts: Vec::new(),
                    };
                    match self.bring_parts(chosen).await {
                        None => return true,
                        Some(why) => why,
                    }
                }
                Ok(None) => "they were there, and are not".to_owned(),
                Err(error) => format!("{}: {error}", folder.display()),
            },
        };
        let error = format!(
            "nothing new is made, it would write over the parts of a backup that are not stored everywhere: {why}"
        );
        self.step(
            step_of(ArchiveKind::Config),
            StepStatus::Skipped,
            Duration::ZERO,
            None,
        );
        let data = step_of(ArchiveKind::Data);
        self.step(data, StepStatus::Failed, Duration::ZERO, Some(error));
        false
    }

    /// Sends, proves and removes the parts of an earlier run; why they must stay, if they must.
    async fn bring_parts(&mut self, chosen: Chosen) -> Option<String> {
        let mut ready = [self.look(chosen).await];
        if let Err(error) = &ready[0].opened {
            return Some(format!(
                "{error}\n  is GitLab at work on them? else delete them"
            ));
        }
        let mut record = self.record(&ready).await;
        self.send(&ready[0]).await;
        if let Some(record) = &mut record {
            self.finish_record(record, true).await;
        }
        let lacking = self.lacking(&ready[0]);
        if !lacking.is_empty() {
            return Some(format!(
                "{} is not stored at {}\n  see above why; `run --skip-create` sends it alone",
                ready[0].archive.name,
                lacking.join(", ")
            ));
        }
        // An earlier run has told what is wrong with what it stored; and GitLab is about to write over it.
        let told = self.only_found_there(&ready[0]);
        let name = ready[0].archive.name.as_str();
        let row = self.report.archives.iter_mut().find(|row| row.name == name);
        if let Some(row) = row.filter(|_| told) {
            row.doubts.clear();
        }
        ready[0].doubts.clear();
        self.remove_parts(&ready).await;
        None
    }

    /// Removes the parts among what was sent, if they are stored wherever data go.
    pub(super) async fn remove_parts(&mut self, ready: &[Ready]) {
        let parts = ready
            .iter()
            .find(|ready| ready.archive.form == Form::Parts && ready.opened.is_ok());
        let (Some(ready), false) = (parts, self.job.is_stopped() || self.job.request.dry_run)
        else {
            return;
        };
        let Ok(opened) = &ready.opened else { return };
        let name = ready.archive.name.clone();
        let lacking = self.lacking(ready);
        if !lacking.is_empty() {
            tracing::warn!(
                "the parts of {name} stay: they are not stored at {}",
                lacking.join(", ")
            );
            return;
        }
        if !ready.doubts.is_empty() {
            tracing::warn!(
                "the parts of {name} stay, though they are stored, because something is wrong with them; \
                 the next run removes them before it makes new ones"
            );
            return;
        }
        let (path, expected) = (ready.archive.path.clone(), opened.fingerprint.clone());
        let shown = path.parent().unwrap_or(&path).display().to_string();
        let removing = {
            let name = name.clone();
            tokio::task::spawn_blocking(move || local::remove_parts(&path, &name, &expected))
        };
        match removing.await.unwrap_or(Ok(false)) {
            Ok(true) => {
                tracing::info!("the parts of {name} are removed from {shown}: they are stored");
            }
            Ok(false) => self.warn(format!(
                "the parts of {name} in {shown} are no longer what was stored; they stay\n  \
                 look at them, then delete them by hand"
            )),
            Err(error) => self.warn(format!(
                "removing the parts of {name} from {shown}: {error}\n  \
                 they are stored; the next run tries again"
            )),
        }
    }

    /// Where an archive should be and is not known to be, after what this run did. A place that may be absent, and
    /// is, has no row: it is not waited for.
    fn lacking(&self, ready: &Ready) -> Vec<String> {
        let rows = || {
            let rows = self.report.archives.iter();
            let of_it = rows.filter(|row| row.name == ready.archive.name.as_str());
            of_it.flat_map(|row| &row.uploads)
        };
        let is_asked = |name: &str| self.job.taking_part().any(|place| place.name() == name);
        let mut lacking = Vec::new();
        let mut proved = 0;
        for place in self.job.destinations {
            if !place.takes(ArchiveKind::Data) {
                continue;
            }
            let row = rows().find(|upload| upload.destination == place.name());
            let is_there = row.map(|upload| upload.status.is_stored() && upload.verified);
            let is_absent = row.is_none() && place.is_optional() && is_asked(place.name());
            proved += usize::from(is_there == Some(true));
            if is_there != Some(true) && !is_absent {
                lacking.push(place.name().to_owned());
            }
        }
        if proved == 0 && lacking.is_empty() {
            lacking.push("any destination".to_owned());
        }
        lacking
    }

    /// Whether every place had it before this run.
    fn only_found_there(&self, ready: &Ready) -> bool {
        let rows = self.report.archives.iter();
        let of_it = rows.filter(|row| row.name == ready.archive.name.as_str());
        of_it
            .flat_map(|row| &row.uploads)
            .all(|upload| upload.status == UploadStatus::AlreadyPresent)
    }

    /// Something that needs a person, though all is stored.
    fn warn(&mut self, warning: String) {
        tracing::warn!("{warning}");
        self.report.warnings.push(warning);
    }
}
