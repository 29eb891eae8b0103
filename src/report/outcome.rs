//! How a run ended: status, error and exit status follow from what is in its report, and from nothing else.

use super::{ManifestReport, ManifestStatus, RunReport, Status, Step};
use crate::archive::ArchiveKind;
use crate::stop::StopSignal;

/// Everything the outcome of a run follows from.
pub struct Outcome {
    /// The kinds that were asked for.
    pub kinds: Vec<ArchiveKind>,
    /// For each destination that takes part: its name and the kinds it gets of them.
    pub destinations: Vec<(String, Vec<ArchiveKind>)>,
    /// What failed beside steps and uploads: a left-over upload, a missing archive.
    pub failures: Vec<String>,
    /// The signal that stopped the run.
    pub stopped: Option<StopSignal>,
    /// Whether nothing was to be done.
    pub dry_run: bool,
}

impl RunReport {
    /// Decides status, error and exit status from everything that is in the report.
    pub fn conclude(&mut self, outcome: &Outcome) {
        let mut failures = Vec::new();
        if let Some(signal) = outcome.stopped {
            failures.push(format!(
                "stopped by {}; what was uploaded is kept for the next run",
                signal.name()
            ));
        }
        // A command's failure makes the run fail; what preflight met is told by the uploads.
        let steps = self.steps.iter().filter(|step| {
            matches!(
                step.step,
                Step::Before | Step::ConfigCommand | Step::DataCommand
            )
        });
        failures.extend(steps.filter_map(|step| step.error.clone()));
        failures.extend(outcome.failures.iter().cloned());
        let doubts = self.archives.iter().flat_map(|archive| {
            let told = |doubt: &String| format!("{}: {doubt}", archive.name);
            archive.doubts.iter().map(told)
        });
        failures.extend(doubts);
        // A left-over that was finished does not stand for the archive of today.
        let holds = |destination: &str, kind: ArchiveKind| {
            let mut rows = self
                .archives
                .iter()
                .filter(|archive| archive.kind == kind)
                .flat_map(|archive| &archive.uploads)
                .filter(|upload| upload.destination == destination)
                .peekable();
            rows.peek().is_some() && rows.all(|upload| upload.status.is_stored())
        };
        let failed = |manifest: &ManifestReport| manifest.status == ManifestStatus::Failed;
        let manifest_lacks = |destination: &str| {
            let mut manifests = self.manifests.iter();
            manifests.any(|row| row.destination == destination && failed(row))
        };
        let asked = |kinds: &Vec<ArchiveKind>| -> Vec<ArchiveKind> {
            let asked = kinds.iter().filter(|kind| outcome.kinds.contains(kind));
            asked.copied().collect()
        };
        let has_all = |name: &str, kinds: &[ArchiveKind]| {
            kinds.iter().all(|kind| holds(name, *kind)) && !manifest_lacks(name)
        };
        let is_absent = |name: &str| {
            let mut absent = self.absent.iter();
            absent.any(|absent| absent.destination == name)
        };
        let names = || outcome.destinations.iter().map(|(name, _)| name);
        // What may be absent is passed over, but for what is then nowhere.
        let is_elsewhere = |kind: &ArchiveKind| names().any(|name| holds(name, *kind));
        let complete: Vec<bool> = outcome
            .destinations
            .iter()
            .map(|(name, kinds)| (name, asked(kinds)))
            .filter(|(_, kinds)| !kinds.is_empty())
            .filter_map(|(name, kinds)| {
                let has_all = has_all(name, &kinds);
                let passed_over = !has_all && is_absent(name) && kinds.iter().all(is_elsewhere);
                (!passed_over).then_some(has_all)
            })
            .collect();
        let uploads = self.archives.iter().flat_map(|archive| &archive.uploads);
        let upload_errors = uploads.filter_map(|upload| upload.error.clone());
        let manifest_errors = self.manifests.iter().filter_map(|row| row.error.clone());
        let absent = self
            .absent
            .iter()
            .map(|absent| format!("{} is not there: {}", absent.destination, absent.error));
        let warnings = self.warnings.iter().cloned().chain(absent);
        (self.status, self.exit) = if outcome.dry_run {
            (
                if failures.is_empty() {
                    Status::DryRun
                } else {
                    Status::Failed
                },
                u8::from(!failures.is_empty()),
            )
        } else if !failures.is_empty() || !complete.contains(&true) {
            (Status::Failed, 1)
        } else if complete.contains(&false) || !self.warnings.is_empty() {
            (Status::Partial, 3)
        } else {
            (Status::Ok, 0)
        };
        if let Some(signal) = outcome.stopped {
            self.exit = signal.exit_status();
        }
        if self.exit != 0 {
            let mut errors = failures
                .into_iter()
                .chain(upload_errors)
                .chain(manifest_errors)
                .chain(warnings);
            self.error = errors.next();
        }
    }

    /// Something failed after all was stored: a good run is done in part, any other stays what it is.
    pub fn not_all_well(&mut self, error: &str) {
        if self.exit == 0 {
            (self.status, self.exit) = (Status::Partial, 3);
            self.error = Some(error.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{
        AbsentReport, ArchiveReport, StepReport, StepStatus, UploadReport, UploadStatus,
    };
    use ArchiveKind::{Config, Data};
    use UploadStatus::{AlreadyPresent, Conflict, Failed, Uploaded, WouldUpload};
    use chrono::DateTime;

    fn archive(
        kind: ArchiveKind,
        uploads: &[(&str, UploadStatus)],
        doubts: &[&str],
    ) -> ArchiveReport {
        let upload = |(destination, status): &(&str, UploadStatus)| UploadReport {
            destination: (*destination).to_owned(),
            path: "/x".to_owned(),
            status: *status,
            bytes_sent: 0,
            bytes_resumed: 0,
            content_hash: None,
            verified: status.is_stored(),
            seconds: 0.0,
            error: (!status.is_stored()).then(|| "why".to_owned()),
        };
        ArchiveReport {
            kind,
            name: "a".to_owned(),
            size: 1,
            created_at: DateTime::UNIX_EPOCH,
            made_by_this_run: true,
            doubts: doubts.iter().map(|doubt| (*doubt).to_owned()).collect(),
            uploads: uploads.iter().map(upload).collect(),
        }
    }

    fn exit(archives: Vec<ArchiveReport>, change: impl Fn(&mut RunReport, &mut Outcome)) -> u8 {
        let mut outcome = Outcome {
            kinds: ArchiveKind::ALL.to_vec(),
            destinations: vec![
                ("a".to_owned(), vec![Config, Data]),
                ("b".to_owned(), vec![Data]),
            ],
            failures: Vec::new(),
            stopped: None,
            dry_run: false,
        };
        let mut report = RunReport::begin("id".to_owned(), DateTime::UNIX_EPOCH);
        report.archives = archives;
        change(&mut report, &mut outcome);
        report.conclude(&outcome);
        assert_eq!(report.error.is_some(), report.exit != 0);
        report.exit_status()
    }

    #[test]
    fn the_exit_status_follows_from_the_report() {
        let nothing = |_: &mut RunReport, _: &mut Outcome| {};
        let config = |status| archive(Config, &[("a", status)], &[]);
        let data = |a, b| archive(Data, &[("a", a), ("b", b)], &[]);
        assert_eq!(
            exit(
                vec![config(Uploaded), data(Uploaded, AlreadyPresent)],
                nothing
            ),
            0
        );
        assert_eq!(
            exit(vec![config(Uploaded), data(Uploaded, Failed)], nothing),
            3
        );
        assert_eq!(
            exit(vec![config(Conflict), data(Uploaded, Uploaded)], nothing),
            3
        );
        assert_eq!(
            exit(vec![config(Failed), data(Uploaded, Failed)], nothing),
            1
        );
        let doubtful = archive(Data, &[("a", Uploaded), ("b", Uploaded)], &["no database"]);
        assert_eq!(exit(vec![config(Uploaded), doubtful], nothing), 1);
        let all = || vec![config(Uploaded), data(Uploaded, Uploaded)];
        assert_eq!(
            exit(all(), |_, outcome| outcome
                .failures
                .push("left over".to_owned())),
            1
        );
        assert_eq!(
            exit(all(), |_, outcome| outcome.stopped =
                Some(StopSignal::Terminate)),
            143
        );
        let failed_command = |report: &mut RunReport, _: &mut Outcome| {
            let error = Some("exit 1".to_owned());
            report.steps.push(StepReport {
                step: Step::DataCommand,
                status: StepStatus::Failed,
                seconds: 0.0,
                error,
            });
        };
        assert_eq!(exit(all(), failed_command), 1);
        // Yesterday's archive was finished, today's was not stored.
        let today = archive(Data, &[("a", Failed), ("b", Uploaded)], &[]);
        assert_eq!(
            exit(
                vec![config(Uploaded), data(Uploaded, Uploaded), today],
                nothing
            ),
            3
        );
        let only_config_fails =
            |_: &mut RunReport, outcome: &mut Outcome| outcome.kinds = vec![Config];
        assert_eq!(exit(vec![config(Failed)], only_config_fails), 1);
        let only = |_: &mut RunReport, outcome: &mut Outcome| outcome.kinds = vec![Config];
        assert_eq!(exit(vec![config(Uploaded)], only), 0);
        let failed_before = |report: &mut RunReport, _: &mut Outcome| {
            let (step, status) = (Step::Before, StepStatus::Failed);
            let error = Some("no disk".to_owned());
            report.steps.push(StepReport {
                step,
                status,
                seconds: 0.0,
                error,
            });
        };
        assert_eq!(exit(Vec::new(), failed_before), 1);
        let absent = |names: &'static [&'static str]| {
            move |report: &mut RunReport, _: &mut Outcome| {
                report.absent.extend(names.iter().map(|name| AbsentReport {
                    destination: (*name).to_owned(),
                    error: "no route".to_owned(),
                }));
            }
        };
        let data_at = |name| archive(Data, &[(name, Uploaded)], &[]);
        // What may be absent is no failure, as long as everything is somewhere.
        assert_eq!(
            exit(vec![config(Uploaded), data_at("a")], absent(&["b"])),
            0
        );
        assert_eq!(exit(vec![data_at("b")], absent(&["a"])), 3);
        assert_eq!(exit(Vec::new(), absent(&["a", "b"])), 1);
        assert_eq!(exit(vec![config(Failed), data_at("a")], absent(&["b"])), 1);
        let dry = |_: &mut RunReport, outcome: &mut Outcome| outcome.dry_run = true;
        assert_eq!(
            exit(
                vec![config(WouldUpload), data(Conflict, AlreadyPresent)],
                dry
            ),
            0
        );
        assert_eq!(exit(Vec::new(), dry), 0);
    }
}
