//! What is asked of a backup before anything of a repository is fetched: which project, and where its files are.

use std::io;

use super::choose::{Wish, choose};
use super::members::{self, Only, Place, read_list, walk};
use super::report::ListedProject;
use super::{Reading, index, open, table, text};
use crate::catalog::StoredFile;
use crate::destination::fetch::Arriving;
use crate::error::printable;
use crate::gitlab::projects::Project;
use crate::seal::SUFFIX;

/// What projects in a dump may take in memory, in bytes.
const MOST_OF_A_DUMP: usize = 256 * 1024 * 1024;

impl<'a> Reading<'a> {
    /// The project that is meant, and the files of its repositories.
    pub(super) async fn find(&mut self, wanted: &str) -> Result<(Project, Vec<Place>), String> {
        let index = self.index().await;
        let disk_path = match Wish::new(wanted) {
            Wish::DiskPath(path) => {
                let known = index
                    .iter()
                    .flatten()
                    .find(|project| project.disk_path == path);
                let project = known.cloned().unwrap_or_else(|| Project {
                    id: 0,
                    path: path.clone(),
                    disk_path: path,
                });
                let found = self.members(&Only::Of(project.disk_path.clone())).await?;
                if found.repositories.is_empty() {
                    return Err(self.no_repository(&project));
                }
                return Ok((project, found.repositories));
            }
            Wish::Path(path) => path,
        };
        let (project, files) = if let Some(index) = index {
            let project = self.choose(&index, &disk_path)?;
            let only = Only::Of(project.disk_path.clone());
            (project, self.members(&only).await?.repositories)
        } else {
            let mut found = self.members(&Only::All).await?;
            let projects = self.read_dump(found.database.as_ref()).await?;
            let project = self.choose(&projects, &disk_path)?;
            found.keep(&project.disk_path);
            (project, found.repositories)
        };
        if files.is_empty() {
            return Err(self.no_repository(&project));
        }
        Ok((project, files))
    }

    fn choose(&self, projects: &[Project], path: &str) -> Result<Project, String> {
        let chosen = choose(projects, path).cloned();
        chosen.map_err(|why| format!("looking for a project in {}: {why}", self.archive.place()))
    }

    pub(super) fn no_repository(&self, project: &Project) -> String {
        let skipped = self.stored.expected.as_ref().is_some_and(|expected| {
            expected
                .contents
                .skipped
                .iter()
                .any(|part| part == "repositories")
        });
        let way_out = if skipped {
            "GitLab was told to leave `repositories` out of it; name another backup"
        } else {
            "`gitlab-pi-backup extract --list` shows what is there; another backup may have it"
        };
        let (path, disk) = (printable(&project.path), printable(&project.disk_path));
        let of = if path == disk {
            disk
        } else {
            format!("{path} ({disk})")
        };
        format!(
            "{}: there is no repository of {of} in it\n  {way_out}",
            self.archive.place()
        )
    }

    /// The index of projects, if there is one.
    async fn index(&mut self) -> Option<Vec<Project>> {
        let file = self.own_file(".projects.gz")?;
        let archive = self.stored.name.as_str().to_owned();
        let read = self
            .read_own(file, move |bytes| index::read(bytes, &archive))
            .await;
        read.inspect_err(|error| tracing::warn!("{error}; the database dump is read instead"))
            .ok()
    }

    /// What is in the archive: as the stored list tells, else as the archive itself does.
    async fn members(&mut self, only: &Only) -> Result<members::Found, String> {
        let place = self.archive.place();
        let again = "its headers are read instead, which takes longer";
        if let Some(file) = self.own_file(".members.gz") {
            let (archive, len) = (self.stored.name.as_str().to_owned(), self.archive.len());
            let wanted = only.clone();
            let read = self.read_own(file, move |bytes| read_list(bytes, &archive, len, &wanted));
            match read.await {
                Ok(found) => return Ok(found),
                Err(error) => tracing::warn!("{error}; {again}"),
            }
        } else {
            tracing::warn!("{place}: no list of its members is stored; {again}");
        }
        walk(&self.archive, only, self.job.patience)
            .await
            .map_err(text)
    }

    fn own_file(&self, ending: &str) -> Option<&'a StoredFile> {
        let backup = &self.job.found.backup;
        let name = format!("{}{ending}", backup.id);
        let is_it =
            |file: &&StoredFile| file.name.strip_suffix(SUFFIX).unwrap_or(&file.name) == name;
        // Two of them where one kind alone is encrypted: a list is encrypted like its archive.
        let archive = self.stored.path.ends_with(SUFFIX);
        let like = |file: &&StoredFile| file.name.ends_with(SUFFIX) == archive;
        let mut all = backup.own_files.iter().filter(is_it);
        all.clone().find(like).or_else(|| all.next())
    }

    /// Reads a file of ours as it comes.
    async fn read_own<T: Send + 'static>(
        &mut self,
        file: &StoredFile,
        read: impl FnOnce(Arriving) -> io::Result<T> + Send + 'static,
    ) -> Result<T, String> {
        let own = open(self.job, file).await?;
        let streamed = own
            .stream(0..own.len(), self.job.patience, |_| {}, read)
            .await;
        self.beside += own.fetched();
        let read = streamed.map_err(text)?;
        read.map_err(|error| format!("{} cannot be used: {error}", own.place()))
    }

    /// The projects as the database has them.
    async fn read_dump(&self, dump: Option<&Place>) -> Result<Vec<Project>, String> {
        let place = self.archive.place();
        let way_out = "name the project by its hashed path, @hashed/…, or take another backup";
        let Some(dump) = dump else {
            return Err(format!(
                "{place}: there is no database dump in it that would tell whose repository is where\n  {way_out}"
            ));
        };
        tracing::warn!(
            "{place}: no index of projects is stored; the database dump is read instead"
        );
        let range = dump.range();
        let read = |bytes| index::read_dump(bytes, MOST_OF_A_DUMP);
        let streamed = self
            .archive
            .stream(range, self.job.patience, |_| {}, read)
            .await;
        streamed.map_err(text)?.map_err(|error| {
            format!(
                "{place}: {}: it cannot be read: {error}\n  {way_out}",
                printable(&dump.path)
            )
        })
    }

    pub(super) async fn list(&mut self) -> Result<Vec<ListedProject>, String> {
        let index = self.index().await;
        let found = self.members(&Only::All).await?;
        let projects = match index {
            Some(projects) => projects,
            None => match self.read_dump(found.database.as_ref()).await {
                Ok(projects) => projects,
                Err(error) => {
                    tracing::warn!("{error}");
                    Vec::new()
                }
            },
        };
        Ok(table(&projects, &found.repositories))
    }
}
