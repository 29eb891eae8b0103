//! A look at everything a run will need, before it takes hours to find out.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use super::Run;
use crate::archive::{ArchiveKind, newest};
use crate::destination::{Destination, Space};
use crate::error::Error;
use crate::history;
use crate::local::find_archives;
use crate::report::{SpaceReport, Step, StepReport, StepStatus};
use crate::retry::Patience;
use crate::units::{Size, Span};

/// No destination is waited for longer.
const PER_DESTINATION: Duration = Duration::from_secs(10);
/// What fails is tried again for so long: enough for a hiccup, and what is wrong is still said at once.
const TRIED_FOR: Duration = Duration::from_secs(2);

/// What a look at a destination showed.
#[derive(Default)]
struct Checked {
    problems: Vec<Problem>,
    space: Option<SpaceReport>,
    /// Why it is not there, if it need not be.
    absent: Option<String>,
}

/// What is wrong with a destination.
struct Problem {
    text: String,
    /// Nothing can be stored there as things are.
    fatal: bool,
}

impl Run<'_> {
    /// Says at once what is wrong. It keeps no backup from being made: uploads try again.
    pub(super) async fn preflight(&mut self) {
        let start = Instant::now();
        let sizes = self.last_sizes();
        self.warn_of_full_disk(&sizes);
        let checks = self
            .job
            .taking_part()
            .map(|destination| self.check(destination, &sizes));
        let checked = tokio::select! {
            checked = join_all(checks) => checked,
            _ = self.job.stop.requested() => Vec::new(),
        };
        let mut problems = Vec::new();
        let job = self.job;
        for (destination, checked) in job.taking_part().zip(checked) {
            if let Some(why) = &checked.absent {
                self.note_absent(destination, why);
            }
            problems.extend(checked.problems);
            self.report.space.extend(checked.space);
        }
        for problem in &problems {
            tracing::warn!("{}", problem.text);
        }
        if self.job.request.dry_run {
            self.failures.extend(
                problems
                    .iter()
                    .filter(|problem| problem.fatal)
                    .map(|problem| problem.text.clone()),
            );
        }
        let status = if problems.is_empty() {
            StepStatus::Ok
        } else {
            StepStatus::Failed
        };
        self.report.steps.push(StepReport {
            step: Step::Preflight,
            status,
            seconds: super::seconds(start.elapsed()),
            error: problems.into_iter().next().map(|problem| problem.text),
        });
    }

    async fn check(&self, destination: &Destination, sizes: &[(ArchiveKind, u64)]) -> Checked {
        let mut checked = Checked::default();
        let Checked {
            problems,
            space,
            absent,
        } = &mut checked;
        let optional = destination.is_optional();
        let fatal = |error: Error| Problem {
            text: error.to_string(),
            fatal: true,
        };
        let patience = Patience::new(TRIED_FOR);
        let looking = async {
            if let Err(error) = destination.authenticate(&patience).await {
                if optional && error.is_absent() {
                    *absent = Some(error.to_string());
                } else {
                    problems.push(fatal(error));
                }
                return;
            }
            let kinds = self
                .job
                .request
                .kinds
                .iter()
                .filter(|kind| destination.takes(**kind));
            let folders = kinds
                .map(|kind| destination.folder(*kind))
                .chain([destination.manifest_folder()])
                .filter(|folder| !folder.is_empty());
            for folder in folders {
                match destination.stat(folder, &patience).await {
                    Ok(Some(entry)) if entry.file.is_some() => problems.push(Problem {
                        text: format!(
                            "{}: {folder} is a file, not a folder\n  rename it, or choose another folder",
                            destination.name()
                        ),
                        fatal: true,
                    }),
                    // Made with the first archive.
                    Ok(_) => {}
                    Err(error) => return problems.push(fatal(error)),
                }
            }
            let needed: u64 = sizes
                .iter()
                .filter(|(kind, _)| destination.takes(*kind))
                .map(|(_, size)| size)
                .sum();
            match destination.space(&patience).await {
                Ok(Space { free, used, total }) => {
                    *space = Some(SpaceReport {
                        destination: destination.name().to_owned(),
                        free,
                        used,
                        total,
                    });
                    if let Some(free) = free.filter(|free| *free < needed) {
                        problems.push(Problem {
                            text: format!(
                                "{}: {} free, but the last backup took {}\n  make room there",
                                destination.name(),
                                Size(free),
                                Size(needed)
                            ),
                            fatal: false,
                        });
                    }
                }
                Err(error) => problems.push(Problem {
                    text: error.to_string(),
                    fatal: false,
                }),
            }
        };
        if timeout(PER_DESTINATION, looking).await.is_err() {
            let text = format!(
                "{}: no answer within {}",
                destination.name(),
                Span(PER_DESTINATION)
            );
            if optional {
                checked.absent = Some(text);
                return checked;
            }
            checked.problems.push(Problem {
                text: text
                    + "\n  check the network; it is tried again when there is something to send",
                fatal: true,
            });
        }
        checked
    }

    /// How large the last archive of each kind was, as far as this machine knows.
    fn last_sizes(&self) -> Vec<(ArchiveKind, u64)> {
        let runs = history::read_recent(self.job.state).unwrap_or_default();
        let size = |kind: ArchiveKind| {
            let archives = find_archives(self.job.gitlab, kind).unwrap_or_default();
            let here = newest(&archives, self.now).0.map(|archive| archive.size);
            here.or_else(|| history::last_size(&runs, kind.as_str()))
        };
        self.job
            .request
            .kinds
            .iter()
            .filter_map(|kind| Some((*kind, size(*kind)?)))
            .collect()
    }

    /// GitLab needs at least the room of another data archive, and as much again while it works.
    fn warn_of_full_disk(&self, sizes: &[(ArchiveKind, u64)]) {
        let request = &self.job.request;
        let last = sizes
            .iter()
            .find(|(kind, _)| *kind == ArchiveKind::Data)
            .map(|(_, size)| *size);
        let (Some(last), false) = (last, request.skip_create || request.dry_run) else {
            return;
        };
        let folder = &self.job.gitlab.data_dir;
        let Ok(disk) = rustix::fs::statvfs(folder) else {
            return;
        };
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free < last {
            tracing::warn!(
                "{}: {} free on this disk, less than the last data archive ({}); GitLab may fail\n  \
                 delete old archives, or let GitLab do it (`backup_keep_time` in gitlab.rb)",
                folder.display(),
                Size(free),
                Size(last)
            );
        }
    }
}
