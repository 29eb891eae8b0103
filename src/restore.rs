//! The way back: a stored backup is fetched, proved and put where GitLab looks for it, and with `--apply` put back
//! into GitLab.
//!
//! Nothing that is there is ever overwritten, nothing that is not proved gets a name, and whatever is
//! interrupted goes on where it stopped when the same command is called again.
//!
//! [`mod@runbook`] the steps, the one list that `--plan` prints and `--apply` carries out · [`package`] the package
//! to install · `download` one archive into a folder, resumed and proved · `part` the hidden file it is written
//! into · `target` folders, free space, owners ·
//! `directory` a backup that is a folder, unpacked as it comes ·
//! `apply` the steps, carried out · `unpack` the config archive, trusted in nothing · `journal` what is
//! done already · `wish` what is to be fetched · [`report`] what is told at the end.

mod apply;
mod directory;
mod download;
mod journal;
pub mod package;
mod part;
pub mod report;
pub mod runbook;
mod target;
mod unfinished;
mod unpack;
mod wish;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::archive::{ArchiveKind, ArchiveName};
use crate::catalog::{self, Found, Wanted};
use crate::destination::Destination;
use crate::error::{Error, ErrorKind};
use crate::gitlab::host::Settings;
use crate::progress::Show;
use crate::restore::download::{Present, download, look};
use crate::restore::part::begun;
use crate::restore::report::{
    ArchiveStatus, Purpose, RestoreReport, RestoredArchive, StepRow, StepStatus,
};
use crate::restore::runbook::{Known, Places, runbook};
use crate::restore::target::{Folder, Need, Owner, check_room, own};
use crate::restore::wish::{Wish, tell_of_identity, wish};
use crate::retry::Patience;
use crate::seal::Identities;
use crate::state::StateDir;
use crate::stop::{Stop, StopSignal};

pub use crate::restore::apply::apply;
pub use crate::restore::unfinished::unfinished;

/// What a restore works with.
pub struct Job<'a> {
    /// `[gitlab]`.
    pub gitlab: &'a Settings,
    /// The destinations that are asked for the backup.
    pub destinations: Vec<&'a Destination>,
    /// How long something may go without progress.
    pub retry_for: Duration,
    /// Cache and journal.
    pub state: &'a StateDir,
    /// Which backup.
    pub wanted: Wanted,
    /// What decrypts encrypted archives.
    pub identities: Option<&'a Identities>,
    /// The file it is in, for what is told.
    pub identity: Option<&'a Path>,
    /// Who is told how far a download is.
    pub show: Show,
    /// Whether the program has been asked to stop.
    pub stop: &'a Stop,
}

/// Why a restore ends early.
#[derive(Debug)]
enum Halt {
    /// In the words of an error.
    Failed(String),
    /// By a signal.
    Stopped(StopSignal),
}

impl From<String> for Halt {
    fn from(message: String) -> Halt {
        Halt::Failed(message)
    }
}

impl From<Error> for Halt {
    fn from(error: Error) -> Halt {
        Halt::Failed(error.to_string())
    }
}

/// An archive, its folder, and whose it will be.
struct Order {
    wish: Wish,
    folder: Arc<Folder>,
    owner: Owner,
    present: Present,
    /// The folder that it becomes, if it is the tar of one and its place is where GitLab looks for it.
    unpacked: Option<String>,
}

impl Order {
    /// Where it will be.
    fn path(&self) -> PathBuf {
        let name = self.unpacked.as_deref().unwrap_or(&self.wish.name);
        self.folder.path.join(name)
    }
}

/// Fetches a backup, or one kind of it, and places it in GitLab's folders, or in `to`.
pub async fn fetch(job: &Job<'_>, to: Option<&Path>, only: Option<ArchiveKind>) -> RestoreReport {
    let mut report = RestoreReport::begin(Purpose::Fetch);
    let work = fetch_into(job, to, only, &mut report);
    let result = job.unless_stopped(work).await;
    report.conclude(result)
}

/// Tells what would be done to put a backup back into GitLab; fetches nothing. `to` is where the archives
/// would be fetched to.
pub async fn plan(job: &Job<'_>, to: Option<&Path>, now: DateTime<Utc>) -> RestoreReport {
    let mut report = RestoreReport::begin(Purpose::Plan);
    let work = plan_into(job, to, now, &mut report);
    let result = job.unless_stopped(work).await;
    report.conclude(result)
}

async fn plan_into(
    job: &Job<'_>,
    to: Option<&Path>,
    now: DateTime<Utc>,
    report: &mut RestoreReport,
) -> Result<(), Halt> {
    let found = job.find().await?;
    report.describe(&found);
    let stored = |kind| {
        let archive = found.backup.archive(kind)?;
        let there = archive.found.as_ref()?.size;
        let size = archive
            .expected
            .as_ref()
            .map_or(there, |expected| expected.size);
        Some((archive.name.as_str(), size))
    };
    for kind in ArchiveKind::ALL {
        if let Some((name, size)) = stored(kind) {
            let folder = to.unwrap_or_else(|| job.gitlab.folder(kind));
            let unpacked = ArchiveName::parse(name)
                .filter(|_| folder == job.gitlab.folder(kind))
                .and_then(|name| name.folder().map(str::to_owned));
            report.archives.push(RestoredArchive {
                kind,
                name: name.to_owned(),
                path: folder.join(unpacked.as_deref().unwrap_or(name)),
                size,
                verified: false,
                status: ArchiveStatus::Planned,
                bytes_fetched: 0,
                bytes_resumed: 0,
            });
        }
    }
    let known = Known {
        backup_id: &found.backup.id,
        version: report.gitlab_version.as_deref(),
        config: stored(ArchiveKind::Config),
        data: stored(ArchiveKind::Data),
        skipped: &report.skipped,
    };
    let kept = kept_path(&job.gitlab.etc_dir, now);
    let places = Places {
        etc_dir: &job.gitlab.etc_dir,
        kept: &kept,
        config_dir: &job.gitlab.config_dir,
        data_dir: &job.gitlab.data_dir,
        fetched: to,
    };
    let mut steps = runbook(&known, &places);
    if let Some(fetching) = steps.first_mut() {
        tell_of_identity(fetching, &found.backup, job.identity);
    }
    report.steps = rows(steps);
    Ok(())
}

async fn fetch_into(
    job: &Job<'_>,
    to: Option<&Path>,
    only: Option<ArchiveKind>,
    report: &mut RestoreReport,
) -> Result<(), Halt> {
    let found = job.find().await?;
    report.describe(&found);
    report.warn_of_doubts();
    let mut orders = Vec::new();
    for kind in ArchiveKind::ALL
        .into_iter()
        .filter(|kind| only.is_none_or(|only| only == *kind))
    {
        let wish = wish(job, &found, kind, only.is_none()).await?;
        let path = to.unwrap_or_else(|| job.gitlab.folder(kind));
        let folder = Arc::new(Folder::open(path)?);
        // In a folder of the caller's choice an archive is the caller's own.
        let owner = if path == job.gitlab.folder(kind) {
            Owner::of(kind, job.gitlab)
        } else {
            Owner::Caller
        };
        let unpacked = directory::folder_of(&wish).filter(|_| path == job.gitlab.folder(kind));
        let is_tar = kind == ArchiveKind::Data && unpacked.is_none();
        if is_tar && folder.is_new && owner == Owner::of_folder(path) {
            tracing::warn!(
                "{} was missing, and whom GitLab runs as is not known on this machine\n  \
                 when it is installed: chown git:git {}",
                path.display(),
                path.join(&wish.name).display()
            );
        }
        let present = match &unpacked {
            Some(id) => directory::look(&wish, id, &folder).await?,
            None => look(&wish, &folder).await?,
        };
        orders.push(Order {
            wish,
            folder,
            owner,
            present,
            unpacked,
        });
    }
    let mut step = runbook::fetch(&found.backup.id, only, to);
    tell_of_identity(&mut step, &found.backup, job.identity);
    let mut fetching = StepRow {
        step,
        status: StepStatus::Failed,
        error: None,
    };
    let fetched = async {
        check(&orders)?;
        for order in &orders {
            let row = bring(job, found.destination, order).await?;
            report.archives.push(row);
        }
        Ok(())
    };
    let fetched = fetched.await;
    if fetched.is_ok() {
        fetching.status = StepStatus::Ok;
    }
    report.steps.push(fetching);
    fetched
}

/// Whether all orders can be carried out: nothing is in the way, and there is room.
fn check(orders: &[Order]) -> Result<(), Halt> {
    for order in orders {
        in_the_way(&order.path(), &order.present)?;
    }
    let needs: Vec<_> = orders
        .iter()
        .filter(|order| order.present == Present::Nothing)
        .map(|order| Need {
            folder: &order.folder,
            bytes: match order.unpacked {
                Some(_) => order.wish.size,
                None => order.wish.size - begun(&order.wish, &order.folder),
            },
        })
        .collect();
    Ok(check_room(&needs)?)
}

/// Something that has the name of an archive and is not that archive.
fn in_the_way(path: &Path, present: &Present) -> Result<(), Halt> {
    let Present::Other(what) = present else {
        return Ok(());
    };
    Err(Halt::Failed(format!(
        "{} is there already, and it is not the stored archive: {what}; nothing is overwritten\n  \
         move it away, or fetch to another folder with --to DIR",
        path.display()
    )))
}

/// Fetches, proves and places one archive, if it is not there.
async fn bring(
    job: &Job<'_>,
    destination: &Destination,
    order: &Order,
) -> Result<RestoredArchive, Halt> {
    let Order {
        wish,
        folder,
        owner,
        unpacked,
        ..
    } = order;
    let mut row = RestoredArchive {
        kind: wish.kind,
        name: wish.name.clone(),
        path: order.path(),
        size: wish.size,
        verified: true,
        status: ArchiveStatus::AlreadyPresent,
        bytes_fetched: 0,
        bytes_resumed: 0,
    };
    if order.present == Present::Same {
        // A folder is compared with its owners.
        if unpacked.is_none() {
            own(&row.path, owner)?;
        }
        return Ok(row);
    }
    let verified = if let Some(id) = unpacked {
        let fetched = directory::unpack(job, destination, wish, id, folder).await?;
        fetched.place()?;
        row.unpacked(&fetched, wish.size);
        fetched.verified
    } else {
        let fetched = download(job, destination, wish, folder).await?;
        fetched.part.place(wish, owner)?;
        row.fetched(&fetched, wish.size);
        fetched.verified
    };
    if !verified {
        tracing::warn!(
            "{}: neither a manifest nor {} tells a content hash; only its size is known to be right",
            row.path.display(),
            destination.name()
        );
    }
    Ok(row)
}

/// What the present `/etc/gitlab` is moved to.
fn kept_path(etc_dir: &Path, now: DateTime<Utc>) -> PathBuf {
    let mut name = etc_dir.as_os_str().to_owned();
    name.push(now.format(".%Y%m%dT%H%M%SZ").to_string());
    name.into()
}

/// Steps that are still to be done.
fn rows(steps: Vec<runbook::RunbookStep>) -> Vec<StepRow> {
    let planned = |step| StepRow {
        step,
        status: StepStatus::Planned,
        error: None,
    };
    steps.into_iter().map(planned).collect()
}

impl Job<'_> {
    async fn find(&self) -> Result<Found<'_>, Halt> {
        let patience = || Patience::short(self.retry_for);
        let destinations = self.destinations.iter().copied();
        let found = catalog::find(destinations, &self.wanted, self.state, patience).await;
        found.map_err(|error| match error.kind() {
            ErrorKind::NotFound => Halt::Failed(format!("looking for a backup: {error}")),
            _ => error.into(),
        })
    }

    async fn unless_stopped<T>(
        &self,
        work: impl Future<Output = Result<T, Halt>>,
    ) -> Result<T, Halt> {
        tokio::select! {
            done = work => done,
            signal = self.stop.requested() => Err(Halt::Stopped(signal)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An archive with these contents that is wanted.
    pub(super) fn wish(content: &[u8]) -> Wish {
        let hash = catalog::hash_of(content);
        Wish {
            kind: ArchiveKind::Data,
            name: "a.tar".to_owned(),
            stored_path: "/Data/a.tar".to_owned(),
            stored_size: content.len() as u64,
            stored_hash: None,
            size: content.len() as u64,
            hash: Some(hash),
            key: hash,
            rev: String::new(),
        }
    }
}
