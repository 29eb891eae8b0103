//! One project's repositories out of a stored backup, without fetching the rest of it.
//!
//! The list of members that is stored beside the manifest tells where in the archive each file begins, the index of
//! projects whose repository is in which folder; only the files of that folder are fetched, and git makes
//! repositories of them. Where list or index are missing, as for backups of another program, the archive's headers
//! and its database dump are read instead, which takes longer.
//!
//! `members` where the files are · [`index`] whose they are · `choose` which project is meant · `find` both, asked of a backup · `plan` which files, in
//! which order · `build` git's part · `scratch` the folders on this machine · [`report`] what is told.

mod build;
mod choose;
mod find;
pub mod index;
mod members;
mod plan;
pub mod report;
mod scratch;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use self::build::{Built, LONGEST_LIST, Material, StepFiles, build};
use self::members::{Only, Place, is_there, listed, walk};
use self::plan::{Plan, plans};
use self::report::{ExtractReport, ExtractedRepository, ListReport, ListedProject};
use self::scratch::Scratch;
use crate::archive::ArchiveKind;
use crate::catalog::{self, FileStatus, StoredArchive, StoredFile};
use crate::destination::unsealed::Unsealed;
use crate::error::{Error, printable};
use crate::gitlab::layout::{RepositoryKind, place};
use crate::gitlab::projects::Project;
use crate::process::git::{Program, Trouble};
use crate::progress::{Progress, Show};
use crate::retry::Patience;
use crate::seal::Identities;

/// A git command that takes longer is ended.
const GIT_TIMEOUT: Duration = Duration::from_hours(1);
/// So many references are named that could not be brought back.
const NAMED: usize = 5;

/// What extracting works with.
pub struct Job<'a> {
    /// The backup, and where it is.
    pub found: &'a catalog::Found<'a>,
    /// What decrypts encrypted archives.
    pub identities: Option<&'a Identities>,
    /// How long something may go without progress.
    pub patience: &'a Patience,
    /// Who is told how far it is.
    pub show: Show,
    /// Set when the program is to end: git is ended, too.
    pub stop: Arc<AtomicBool>,
}

/// Brings a project's repositories into the folder `to`.
pub async fn extract(job: &Job<'_>, project: &str, to: &Path) -> ExtractReport {
    let backup = &job.found.backup;
    let mut report = ExtractReport::new(&backup.id, job.found.destination.name(), project);
    let mut reading = match Reading::begin(job).await {
        Ok(reading) => reading,
        Err(error) => return report.fail(error),
    };
    let made = reading.extract(project, to, &mut report).await;
    report.bytes_downloaded = reading.downloaded();
    match made {
        Ok(()) => report.succeed(),
        Err(error) => report.fail(error),
    }
}

/// Tells which projects' repositories are in a backup.
pub async fn list(job: &Job<'_>) -> ListReport {
    let backup = &job.found.backup;
    let mut report = ListReport::new(&backup.id, job.found.destination.name());
    let mut reading = match Reading::begin(job).await {
        Ok(reading) => reading,
        Err(error) => return report.fail(error),
    };
    let listed = reading.list().await;
    report.bytes_downloaded = reading.downloaded();
    match listed {
        Ok(projects) => report.succeed(projects),
        Err(error) => report.fail(error),
    }
}

/// A data archive that is read, and what has been read beside it.
struct Reading<'a> {
    job: &'a Job<'a>,
    stored: &'a StoredArchive,
    archive: Unsealed<'a>,
    /// Of files of ours, in bytes.
    beside: u64,
}

impl<'a> Reading<'a> {
    async fn begin(job: &'a Job<'a>) -> Result<Reading<'a>, String> {
        let (backup, destination) = (&job.found.backup, job.found.destination);
        let stored = backup.archive(ArchiveKind::Data);
        let there = stored.and_then(|stored| Some((stored, stored.found.as_ref()?)));
        let Some((stored, file)) = there else {
            return Err(format!(
                "{}: {} has no data archive there, and repositories are in no other\n  \
                 name another backup or destination: `gitlab-pi-backup list` shows them",
                destination.name(),
                backup.id
            ));
        };
        if stored.status() != FileStatus::Ok {
            tracing::warn!(
                "{}:{}: it is not what the manifest says; what is damaged in it will be refused",
                destination.name(),
                stored.path
            );
        }
        Ok(Reading {
            job,
            stored,
            archive: open(job, file).await?,
            beside: 0,
        })
    }

    /// All bytes that came from the destination, the catalog's not counted.
    fn downloaded(&self) -> u64 {
        self.beside + self.archive.fetched()
    }

    async fn extract(
        &mut self,
        wanted: &str,
        to: &Path,
        report: &mut ExtractReport,
    ) -> Result<(), String> {
        let (project, mut files) = self.find(wanted).await?;
        report.project.clone_from(&project.path);
        let archive = &self.archive;
        if let Some(first) = files.first()
            && !is_there(archive, first, self.job.patience)
                .await
                .map_err(text)?
        {
            tracing::warn!(
                "{}: the list of its members is not of this archive; its headers are read instead",
                archive.place()
            );
            let only = Only::Of(project.disk_path.clone());
            let found = walk(archive, &only, self.job.patience).await;
            files = found.map_err(text)?.repositories;
        }
        let plans = plans(
            archive,
            &files,
            &self.job.found.backup.id,
            self.job.patience,
        )
        .await;
        let mut plans = plans.map_err(text)?;
        // A wiki that nobody ever wrote in is in every backup.
        plans.retain(|plan| plan.kind == RepositoryKind::Repository || !plan.is_empty());
        if plans.is_empty() {
            return Err(self.no_repository(&project));
        }
        let name = folder_name(&project)?;
        let scratch = Scratch::new(to)?;
        let places = plans.iter().map(|plan| {
            let name = format!("{name}{}.git", plan.kind.suffix());
            scratch.place(&name)
        });
        let places = places.collect::<Result<Vec<_>, _>>()?;
        // The bundles of one repository, and all that git unpacks.
        let unpacked: u64 = plans.iter().map(Plan::bundles).sum();
        let largest = plans.iter().map(Plan::size).max().unwrap_or(0);
        scratch.check_room(unpacked + largest)?;
        let git = self.git(&scratch).await?;
        let total = plans.iter().map(Plan::size).sum();
        let progress = Progress::new(self.job.show, printable(&project.path), total);
        let mut made = Vec::new();
        for (plan, place) in plans.iter().zip(places) {
            let folder = scratch.path().join(plan.kind.as_str());
            let built = tokio::select! {
                built = self.bring(plan, &git, &folder, &progress) => built?,
                () = progress.log_now_and_then() => unreachable!("it goes on for ever"),
            };
            if !built.lost.is_empty() {
                tracing::warn!(
                    "{}: references whose commits are in no bundle are left out: {}\n  \
                     somebody pushed while the backup was made; the backup before or after may have them",
                    place.display(),
                    listed(built.lost.iter().map(String::as_str), NAMED)
                );
            }
            report.repositories.push(ExtractedRepository {
                kind: plan.kind,
                path: place.clone(),
                member: plan.member().map(|file| printable(&file.path)),
                refs: built.refs,
                bytes: plan.size(),
            });
            made.push((folder, place));
        }
        scratch.place_all(&made)
    }

    /// Fetches what a repository is made of, and makes it at `place`.
    async fn bring(
        &self,
        plan: &Plan,
        git: &Arc<Program>,
        place: &Path,
        progress: &Progress,
    ) -> Result<Built, String> {
        let mut steps = Vec::new();
        let mut number = 0;
        for files in &plan.steps {
            let mut step = StepFiles::default();
            if let Some(list) = files
                .references
                .as_ref()
                .filter(|list| list.size > LONGEST_LIST)
            {
                return Err(format!(
                    "{}: {}: it is longer than {LONGEST_LIST} bytes",
                    self.archive.place(),
                    printable(&list.path)
                ));
            }
            for (file, slot) in [
                (&files.bundle, &mut step.bundle),
                (&files.references, &mut step.references),
                (&files.hooks, &mut step.hooks),
            ] {
                if let Some(file) = file {
                    number += 1;
                    let path = git.folder.join(format!("{}.{number}", plan.kind.as_str()));
                    self.fetch(file, &path, progress).await?;
                    *slot = Some((file.path.clone(), path));
                }
            }
            steps.push(step);
        }
        let material = Material {
            steps,
            head: plan.head.clone(),
            object_format: plan.object_format.clone(),
        };
        let (git, place) = (git.clone(), place.to_owned());
        let building = tokio::task::spawn_blocking(move || {
            let built = build(&git, &material, &place);
            for step in material.steps {
                for (_, path) in [step.bundle, step.references, step.hooks]
                    .into_iter()
                    .flatten()
                {
                    // Hooks have moved; the others only take room.
                    let _ = std::fs::remove_file(path);
                }
            }
            built
        });
        let built = building
            .await
            .map_err(|_| "the program is ending".to_owned())?;
        built.map_err(|trouble| {
            let kind = plan.kind.as_str();
            match trouble {
                Trouble::Bundle(why) => format!(
                    "{}: the {kind} cannot be brought back: {why}\n  \
                     extract it from another backup, or from another destination",
                    self.archive.place()
                ),
                Trouble::Machine(why) => format!("making the {kind} on this machine: {why}"),
            }
        })
    }

    async fn fetch(&self, file: &Place, path: &Path, progress: &Progress) -> Result<(), String> {
        let fail = |error: io::Error| format!("writing {}: {error}", path.display());
        let out = Arc::new(File::create_new(path).map_err(fail)?);
        let mut offset = 0;
        let mut failed = None;
        let fetched = self
            .archive
            .fetch(file.range(), self.job.patience, async |bytes| {
                let len = bytes.len() as u64;
                let out = out.clone();
                let writing = tokio::task::spawn_blocking(move || out.write_all_at(&bytes, offset));
                let written = writing
                    .await
                    .unwrap_or_else(|error| Err(io::Error::other(error)));
                offset += len;
                progress.add(len);
                written.map_err(|error| {
                    let told = Error::new(
                        crate::error::ErrorKind::Invalid,
                        "writing",
                        error.to_string(),
                    );
                    failed = Some(error);
                    told
                })
            });
        let fetched = fetched.await;
        match failed {
            Some(error) => {
                Err(fail(error) + "\n  make room there, or name another folder with --to DIR")
            }
            None => fetched.map_err(text),
        }
    }

    /// Git, if it is on this machine.
    async fn git(&self, scratch: &Scratch) -> Result<Arc<Program>, String> {
        let git = Arc::new(Program {
            path: PathBuf::from("git"),
            timeout: GIT_TIMEOUT,
            folder: scratch.path().to_owned(),
            stop: self.job.stop.clone(),
        });
        let asked = git.clone();
        let version =
            tokio::task::spawn_blocking(move || asked.run(&[std::ffi::OsStr::new("version")]))
                .await;
        match version.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(ended) if ended.status.success() => Ok(git),
            Ok(ended) => Err(format!("git does not run: {}", printable(&ended.words))),
            Err(error) => Err(format!(
                "git cannot be started: {error}\n  install it (apt install git): it makes repositories of bundles"
            )),
        }
    }
}

/// A row for each project that has a repository, and for each repository that no project is known of.
fn table(projects: &[Project], files: &[Place]) -> Vec<ListedProject> {
    let mut rows: BTreeMap<&str, ListedProject> = BTreeMap::new();
    for file in files {
        let Some(of) = place(file.below()) else {
            continue;
        };
        let row = rows.entry(of.base).or_insert_with(|| ListedProject {
            path: None,
            hashed: printable(of.base),
            size: 0,
            repository: false,
            wiki: false,
            design: false,
        });
        row.size += file.size;
        let has = match of.kind {
            RepositoryKind::Repository => &mut row.repository,
            RepositoryKind::Wiki => &mut row.wiki,
            RepositoryKind::Design => &mut row.design,
        };
        // An empty one has a list without a line, and a manifest that says so.
        *has |= file.below().ends_with(".bundle");
    }
    let mut table = Vec::new();
    for project in projects {
        if let Some(mut row) = rows.remove(project.disk_path.as_str()) {
            row.path = Some(printable(&project.path));
            table.push(row);
        }
    }
    // Snippets, group wikis, and what the database no longer knows.
    table.extend(rows.into_values());
    table
}

/// What the repositories are called.
fn folder_name(project: &Project) -> Result<String, String> {
    let name = project.path.rsplit('/').next().unwrap_or_default();
    let bad = name.is_empty()
        || matches!(name, "." | "..")
        || name.len() > 200
        || name.chars().any(char::is_control);
    if bad {
        return Err(format!(
            "{} is no name for a folder\n  name the project by its hashed path: {}",
            printable(name),
            printable(&project.disk_path)
        ));
    }
    Ok(name.to_owned())
}

async fn open<'a>(job: &Job<'a>, file: &StoredFile) -> Result<Unsealed<'a>, String> {
    let destination = job.found.destination;
    let (path, size) = (&file.path, file.size);
    let opening = Unsealed::open(destination, path, size, job.identities, job.patience);
    opening.await.map_err(text)
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "it is what `map_err` hands on"
)]
fn text(error: Error) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(path: &str) -> Project {
        Project {
            id: 1,
            path: path.to_owned(),
            disk_path: "@hashed/a/b/c".to_owned(),
        }
    }

    #[test]
    fn a_path_from_the_database_leads_nowhere_else() {
        for (path, name) in [
            ("demo/app", "app"),
            ("@hashed/a/b/c", "c"),
            ("demo/..x", "..x"),
        ] {
            assert_eq!(folder_name(&project(path)).as_deref(), Ok(name));
        }
        let long = "x".repeat(300);
        for path in ["demo/..", "..", "", "demo/", "demo/a\0b", "demo/.", &long] {
            assert!(folder_name(&project(path)).is_err(), "{path}");
        }
    }

    #[test]
    fn what_can_be_had_is_a_row_for_each_project() {
        let file = |path: &str| Place {
            path: format!("repositories/{path}"),
            offset: 0,
            size: 10,
        };
        let files = [
            file("manifests/default/@hashed/a/b/c.git/+latest.toml"),
            file("default/@hashed/a/b/c.git/1_x/001.bundle"),
            file("default/@hashed/a/b/c.wiki.git/1_x/001.refs"),
            file("default/@snippets/1.git/1_x/001.bundle"),
        ];
        let rows = table(&[project("demo/app"), project("demo/none")], &files);
        let told: Vec<_> = rows
            .iter()
            .map(|row| {
                (
                    row.path.as_deref(),
                    row.hashed.as_str(),
                    row.size,
                    row.repository,
                    row.wiki,
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                (Some("demo/app"), "@hashed/a/b/c", 30, true, false),
                (None, "@snippets/1", 10, true, false)
            ]
        );
    }
}
