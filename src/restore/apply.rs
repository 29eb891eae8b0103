//! A backup put back into GitLab: the steps of the runbook, in its order, each noted when it is done.
//!
//! The argument, in prose. Both archives are here and proved, and the config archive looked through, before
//! anything is changed. The former `/etc/gitlab` is moved, never deleted, and its new place is noted before it is
//! moved. The new one is made whole beside it, its inode noted, and then given its name, so that after a
//! power cut it can be told from one that somebody else made. GitLab's own commands are repeated from
//! their beginning if they were interrupted; all of them may be.

mod archives;
mod begin;
mod config;

use std::fs;
use std::io;
use std::path::PathBuf;

use begin::{begin, check_installed};
use chrono::{DateTime, Utc};

use super::directory::Unpacked;
use super::journal::Journal;
use super::part::Part;
use super::report::{Purpose, RestoreReport, StepStatus};
use super::runbook::{Known, Places, RunbookStep, Step, runbook};
use super::{Halt, Job, Wish, kept_path, rows};
use crate::archive::ArchiveKind;
use crate::gitlab::host::{run_command, tells_of_failure};

/// The folder in the state folder where the config archive waits: its own folder is moved away meanwhile.
const HOLD: &str = "restore";
/// Puts a backup back into GitLab. `confirm` shows each step before it is done, with its number and how many there
/// are, and says whether to go on.
pub async fn apply(
    job: &Job<'_>,
    now: DateTime<Utc>,
    mut confirm: impl AsyncFnMut(&RunbookStep, usize, usize) -> bool,
) -> RestoreReport {
    let mut report = RestoreReport::begin(Purpose::Apply);
    let result = match begin(job, now, &mut report).await {
        Err(halt) => Err(halt),
        Ok(journal) => {
            let mut applying = Applying {
                job,
                journal,
                data: None,
            };
            let result = applying.carry_out(&mut report, &mut confirm).await;
            let moved = applying.journal.kept.clone().filter(|kept| kept.exists());
            report.kept_config = moved;
            if result.is_ok() || !applying.journal.has_changed_something() && !is_stopped(&result) {
                applying.forget();
            }
            result
        }
    };
    report.conclude(result)
}

fn is_stopped(result: &Result<(), Halt>) -> bool {
    matches!(result, Err(Halt::Stopped(_)))
}

/// A restore at work.
struct Applying<'a> {
    job: &'a Job<'a>,
    journal: Journal,
    /// The data archive, proved, as long as it has not got its name.
    data: Option<Proved>,
}

/// A data archive that is proved and has no name yet.
enum Proved {
    File(Part),
    Directory(Unpacked),
}

impl Applying<'_> {
    async fn carry_out(
        &mut self,
        report: &mut RestoreReport,
        confirm: &mut impl AsyncFnMut(&RunbookStep, usize, usize) -> bool,
    ) -> Result<(), Halt> {
        self.notice_lost_data()?;
        report.steps = rows(self.steps());
        for row in &mut report.steps {
            if self.journal.has_done(row.step.step) {
                row.status = StepStatus::DoneBefore;
            }
        }
        report.checks_only = self.journal.has_done(Step::Start);
        if self.journal.has_done(Step::Fetch) {
            report.archives = self.obtain().await?;
        }
        let count = report.steps.len();
        let mut failures = Vec::new();
        for index in 0..count {
            if report.steps[index].status == StepStatus::DoneBefore {
                continue;
            }
            let step = report.steps[index].step.clone();
            let agreed = confirm(&step, index + 1, count);
            let agreed = tokio::select! {
                biased;
                signal = self.job.stop.requested() => return Err(Halt::Stopped(signal)),
                agreed = agreed => agreed,
            };
            if !agreed {
                return Err(Halt::Failed(self.declined(index + 1, count, &step)));
            }
            let done = self.carry_out_step(&step, report).await;
            let row = &mut report.steps[index];
            match done {
                Ok(status) => {
                    row.status = status;
                    self.journal.finish(step.step, self.job.state)?;
                }
                Err(halt) => {
                    row.status = StepStatus::Failed;
                    let Halt::Failed(error) = halt else {
                        return Err(halt);
                    };
                    row.error = Some(error.clone());
                    let told = format!("step {} of {count}: {error}", index + 1);
                    // Both checks are always made: each tells something else.
                    if !matches!(step.step, Step::Check | Step::CheckSecrets) {
                        return Err(Halt::Failed(told + &self.way_on()));
                    }
                    failures.push(told);
                }
            }
        }
        match failures.join("\n") {
            told if told.is_empty() => Ok(()),
            told => Err(Halt::Failed(format!(
                "{told}\n  all of the backup is restored; the same command repeats only what failed\n  \
                 to be done with it, delete {}",
                Journal::path(self.job.state).display()
            ))),
        }
    }

    fn steps(&self) -> Vec<RunbookStep> {
        let gitlab = self.job.gitlab;
        let name = |kind| {
            let wish = self.wish(kind);
            Some((wish.name.as_str(), wish.size))
        };
        let known = Known {
            backup_id: &self.journal.backup_id,
            version: self.journal.gitlab_version.as_deref(),
            config: name(ArchiveKind::Config),
            data: name(ArchiveKind::Data),
            skipped: &self.journal.skipped,
        };
        let places = Places {
            etc_dir: &gitlab.etc_dir,
            kept: &self.kept(),
            config_dir: &gitlab.config_dir,
            data_dir: &gitlab.data_dir,
            fetched: None,
        };
        runbook(&known, &places)
    }

    async fn carry_out_step(
        &mut self,
        step: &RunbookStep,
        report: &mut RestoreReport,
    ) -> Result<StepStatus, Halt> {
        match step.step {
            Step::Fetch => report.archives = self.obtain().await?,
            Step::Version => check_installed(self.job, &self.journal)?,
            Step::MoveConfig => return self.move_config(),
            Step::UnpackConfig => self.unpack_config().await?,
            Step::PlaceData => self.place_data()?,
            Step::RestoreData => {
                self.have_data_placed(report).await?;
                self.run(step).await?;
            }
            Step::Reconfigure
            | Step::StopPuma
            | Step::StopSidekiq
            | Step::ReconfigureAgain
            | Step::Start
            | Step::Check
            | Step::CheckSecrets => self.run(step).await?,
        }
        Ok(StepStatus::Ok)
    }

    /// Runs a command of GitLab's as the step shows it.
    async fn run(&self, step: &RunbookStep) -> Result<(), Halt> {
        let words = step
            .command
            .as_deref()
            .expect("a step of GitLab's has a command");
        let judge = match step.step {
            Step::RestoreData => tells_of_failure,
            Step::CheckSecrets => cannot_decrypt,
            Step::Check => |line: &str| line == "Try fixing it:" || tells_of_failure(line),
            _ => |_: &str| false,
        };
        let Job { gitlab, stop, .. } = self.job;
        let ended = run_command(gitlab, words, &step.environment, judge, stop).await;
        match (ended, stop.signal()) {
            (Ok(()), _) => Ok(()),
            // Some of it may only not be up yet: on a Raspberry Pi that takes minutes.
            (Err(failure), _) if step.step == Step::Check && failure.ended_well => {
                let again = step.shell().unwrap_or_default();
                tracing::warn!(
                    "GitLab's check of itself found something to fix\n  \
                     see it, in some minutes: {again}"
                );
                Ok(())
            }
            (Err(_), Some(signal)) => Err(Halt::Stopped(signal)),
            (Err(failure), None) => Err(Halt::Failed(failure.message)),
        }
    }

    /// All is done, or nothing is: what was only needed on the way goes away.
    fn forget(&self) {
        let hold = self.hold();
        let removed =
            Journal::remove(self.job.state).and_then(|()| match fs::remove_dir_all(&hold) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                removed => removed,
            });
        if let Err(error) = removed {
            tracing::warn!("tidying up {}: {error}", self.job.state.path().display());
        }
    }

    fn declined(&self, number: usize, count: usize, step: &RunbookStep) -> String {
        let changed = if self.journal.has_changed_something() {
            ""
        } else {
            "; nothing was changed"
        };
        format!(
            "stopped before step {number} of {count}, {}, as was answered{changed}{}",
            step.title,
            self.way_on()
        )
    }

    /// How to go on after what is told before.
    fn way_on(&self) -> String {
        let mut text = "\n  the same command goes on from there".to_owned();
        if let Some(kept) = self.journal.kept.as_ref().filter(|kept| kept.exists()) {
            text.push_str("; the former configuration is in ");
            text.push_str(&kept.display().to_string());
        }
        text
    }

    fn wish(&self, kind: ArchiveKind) -> &Wish {
        let mut wishes = self.journal.wishes.iter();
        wishes
            .find(|wish| wish.kind == kind)
            .expect("a journal names both")
    }

    /// Where the config archive waits.
    fn hold(&self) -> PathBuf {
        self.job.state.path().join(HOLD)
    }

    fn kept(&self) -> PathBuf {
        kept_path(&self.job.gitlab.etc_dir, self.journal.begun_at)
    }
}

/// Whether a line of `gitlab:doctor:secrets` tells of rows that cannot be decrypted: `- Group failures: 1`,
/// `Total: 1 row(s) affected`. It ends with 0 all the same
/// (<https://docs.gitlab.com/administration/raketasks/check/>).
fn cannot_decrypt(line: &str) -> bool {
    let positive = |text: &str| {
        let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
        digits.bytes().any(|digit| digit != b'0')
    };
    let told = ["failures: ", "Total: "]
        .into_iter()
        .filter_map(|word| line.split_once(word));
    told.map(|(_, rest)| rest).any(positive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_cannot_be_decrypted_are_heard() {
        let line = |text: &str| format!("I, [2020-06-11T17:18:14.938335 #27148]  INFO -- : {text}");
        for bad in [
            "- Group failures: 1",
            "- Ci::Variable failures: 10",
            "Total: 2 row(s) affected",
        ] {
            assert!(cannot_decrypt(&line(bad)), "{bad}");
        }
        for good in [
            "Checking encrypted values in the database",
            "- User failures: 0",
            "Total: 0 row(s) affected",
            "Done!",
        ] {
            assert!(!cannot_decrypt(&line(good)), "{good}");
        }
    }
}
