//! From the files of a destination to its backups.

use std::collections::BTreeSet;

use super::{Catalog, FileStatus, Missing, RECOVERY, StoredArchive, StoredBackup, StoredFile};
use crate::archive::{ArchiveKind, ArchiveName, belonging};
use crate::destination::Destination;
use crate::manifest::{Manifest, Problem, Proof};
use crate::seal::SUFFIX;

/// Which of our files beside a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum OwnPart {
    Manifest,
    Members,
    Projects,
    Proof,
}

/// A file of ours and the ID of the backup it is about.
pub(super) struct Own {
    pub(super) id: String,
    pub(super) part: OwnPart,
    pub(super) file: StoredFile,
}

/// The files of a destination by what they are.
#[derive(Default)]
pub(super) struct Sorted {
    configs: Vec<(ArchiveName, StoredFile)>,
    data: Vec<(ArchiveName, StoredFile)>,
    pub(super) own: Vec<Own>,
    unknown: Vec<StoredFile>,
}

impl Sorted {
    pub(super) fn new(destination: &Destination, files: Vec<StoredFile>) -> Sorted {
        let mut sorted = Sorted::default();
        let lies_in =
            |file: &StoredFile, folder: &str| file.path == format!("{folder}/{}", file.name);
        for file in files {
            let archive = ArchiveName::parse(file.name.strip_suffix(".age").unwrap_or(&file.name));
            let own = own_part(&file.name);
            match (archive, own) {
                (Some(name), _)
                    if lies_in(&file, destination.folder(name.kind)) && file.size > 0 =>
                {
                    match name.kind {
                        ArchiveKind::Config => sorted.configs.push((name, file)),
                        ArchiveKind::Data => sorted.data.push((name, file)),
                    }
                }
                (_, Some((id, part))) if lies_in(&file, destination.manifest_folder()) => {
                    sorted.own.push(Own { id, part, file });
                }
                _ if file.name == RECOVERY => {}
                _ => sorted.unknown.push(file),
            }
        }
        sorted
    }

    pub(super) fn into_catalog(
        self,
        destination: &Destination,
        mut own: Vec<(Own, Vec<u8>)>,
    ) -> Catalog {
        own.sort_by_key(|(own, _)| own.part);
        let names = names(&own, &self.data);
        let mut catalog = Catalog {
            destination: destination.name().to_owned(),
            kinds: destination.kinds().to_vec(),
            backups: Vec::new(),
            spare_configs: Vec::new(),
            unknown: self.unknown,
        };
        for name in names {
            let of_this = |own: &Own| Some(own.id.as_str()) == name.backup_id();
            let (of_this, others) = own.into_iter().partition(|(own, _)| of_this(own));
            own = others;
            catalog.backups.push(backup(
                destination,
                name,
                of_this,
                &self.configs,
                &self.data,
            ));
        }
        // Member lists and proofs whose backup is gone.
        catalog
            .unknown
            .extend(own.into_iter().map(|(own, _)| own.file));
        let used = |file: &StoredFile| {
            let archives = catalog.backups.iter().flat_map(|backup| &backup.archives);
            archives
                .flat_map(|archive| &archive.found)
                .any(|found| found.path == file.path)
        };
        let spare: Vec<_> = self
            .configs
            .into_iter()
            .map(|(_, file)| file)
            .filter(|file| !used(file))
            .collect();
        let stray: Vec<_> = self
            .data
            .into_iter()
            .map(|(_, file)| file)
            .filter(|file| !used(file))
            .collect();
        catalog.spare_configs = spare;
        // The same archive once encrypted and once not: the one that the manifest does not name.
        catalog.unknown.extend(stray);
        catalog.unknown.sort_by(|a, b| a.path.cmp(&b.path));
        catalog
    }
}

/// The data archives of all backups, the newest first; one for each ID. Should both tools have made one of the
/// same ID, it is the one that the manifest names.
fn names(own: &[(Own, Vec<u8>)], data: &[(ArchiveName, StoredFile)]) -> Vec<ArchiveName> {
    let of_manifests = own.iter().filter(|(own, _)| own.part == OwnPart::Manifest);
    let mut names: Vec<_> = of_manifests
        .filter_map(|(own, bytes)| {
            let manifest = Manifest::parse(bytes, &own.id).ok();
            let told = manifest
                .as_ref()
                .and_then(|manifest| manifest.archive(ArchiveKind::Data));
            let told = told.and_then(|told| ArchiveName::parse(&told.name));
            let mut there = data.iter().map(|(name, _)| name);
            let there = there.find(|name| name.backup_id() == Some(own.id.as_str()));
            told.or_else(|| there.cloned())
                .or_else(|| ArchiveName::of_backup(&own.id))
        })
        .collect();
    let without = data.iter().map(|(name, _)| name);
    let known: BTreeSet<_> = names.iter().filter_map(ArchiveName::backup_id).collect();
    let without = without.filter(|name| name.backup_id().is_none_or(|id| !known.contains(id)));
    let without: Vec<_> = without.cloned().collect();
    names.extend(without);
    names.sort_by(|a, b| b.age_order(a));
    names.dedup_by(|a, b| a.backup_id() == b.backup_id());
    names
}

fn own_part(name: &str) -> Option<(String, OwnPart)> {
    let endings = [
        (".proof.json", OwnPart::Proof),
        (".members.gz", OwnPart::Members),
        (".projects.gz", OwnPart::Projects),
        (".json", OwnPart::Manifest),
    ];
    // Lists of what is in an encrypted archive are encrypted, too.
    let plain = name.strip_suffix(SUFFIX);
    let (id, part) = endings.iter().find_map(|(ending, part)| {
        let is_list = matches!(part, OwnPart::Members | OwnPart::Projects);
        let name = plain.filter(|_| is_list).unwrap_or(name);
        Some((name.strip_suffix(ending)?, *part))
    })?;
    ArchiveName::of_backup(id).map(|_| (id.to_owned(), part))
}

/// Puts together what is known of one backup.
fn backup(
    destination: &Destination,
    name: ArchiveName,
    own: Vec<(Own, Vec<u8>)>,
    configs: &[(ArchiveName, StoredFile)],
    data: &[(ArchiveName, StoredFile)],
) -> StoredBackup {
    let id = name.backup_id().unwrap_or_default().to_owned();
    let part = |part: OwnPart| {
        own.iter()
            .find(|(own, _)| own.part == part)
            .map(|(_, bytes)| bytes)
    };
    let manifest = part(OwnPart::Manifest).map(|bytes| Manifest::parse(bytes, &id));
    let (proof, proof_problem) = match part(OwnPart::Proof).map(|bytes| Proof::parse(bytes)) {
        None => (Proof::default(), None),
        Some(Ok(proof)) => (proof, None),
        Some(Err(problem)) => (Proof::default(), Some(problem)),
    };
    let mut archives = Vec::new();
    let all = [(ArchiveKind::Config, configs), (ArchiveKind::Data, data)];
    for (kind, stored) in all {
        let expected = match &manifest {
            Some(Ok(manifest)) => manifest.archive(kind),
            _ => None,
        };
        if let Some(expected) = expected {
            let path = destination.path(kind, &expected.stored_name);
            let found = stored.iter().find(|(_, file)| file.path == path);
            archives.push(StoredArchive {
                kind,
                name: ArchiveName::parse(&expected.name)
                    .expect("looked at when the manifest was read"),
                path,
                expected: Some(expected.clone()),
                found: found.map(|(_, file)| file.clone()),
            });
            continue;
        }
        // Also where the manifest names none: stored by a later run of this kind alone, perhaps.
        let found = match kind {
            ArchiveKind::Config if manifest.as_ref().is_none_or(Result::is_err) => {
                belonging(&name, stored, |(name, _)| name)
            }
            ArchiveKind::Config => None,
            ArchiveKind::Data => stored.iter().find(|(found, _)| *found == name),
        };
        archives.extend(found.map(|(name, file)| StoredArchive {
            kind,
            name: name.clone(),
            path: file.path.clone(),
            expected: None,
            found: Some(file.clone()),
        }));
    }
    let missing = missing(destination, manifest.as_ref(), &archives);
    let own_files = own.into_iter().map(|(own, _)| own.file).collect();
    StoredBackup {
        id,
        data_name: name,
        manifest,
        archives,
        proof,
        proof_problem,
        own_files,
        missing,
    }
}

fn missing(
    destination: &Destination,
    manifest: Option<&Result<Manifest, Problem>>,
    archives: &[StoredArchive],
) -> Vec<Missing> {
    let mut missing = Vec::new();
    for kind in ArchiveKind::ALL
        .into_iter()
        .filter(|kind| destination.takes(*kind))
    {
        let archive = archives.iter().find(|archive| archive.kind == kind);
        let why = match archive.map(|archive| (archive, archive.status())) {
            None => format!("no {kind} archive"),
            Some((archive, FileStatus::Missing)) => format!("{} is not there", archive.path),
            Some((archive, FileStatus::Size)) => {
                format!("{} has another size than the manifest says", archive.path)
            }
            Some((archive, FileStatus::Hash)) => format!(
                "{} has another content than the manifest says",
                archive.path
            ),
            Some((archive, FileStatus::Ok | FileStatus::Stray)) => {
                if archive.expected.is_some() || !matches!(manifest, Some(Ok(_))) {
                    continue;
                }
                format!("{} is not in the manifest", archive.path)
            }
        };
        missing.push(Missing {
            what: kind.as_str(),
            why,
        });
    }
    match manifest {
        None => missing.push(Missing {
            what: "manifest",
            why: "no manifest".to_owned(),
        }),
        Some(Err(why)) => missing.push(Missing {
            what: "manifest",
            why: format!("the manifest cannot be used: {why}"),
        }),
        Some(Ok(_)) => {}
    }
    missing
}
