//! What brings a repository back: its bundles in their order, each with the list of references beside it.

use std::collections::BTreeMap;

use super::members::Place;
use crate::destination::unsealed::Unsealed;
use crate::error::{Error, printable};
use crate::gitlab::format::manifest::{self, Manifest};
use crate::gitlab::layout::{Piece, RepositoryKind, place};
use crate::retry::Patience;

/// No backup ID is longer, in bytes.
const LONGEST_POINTER: u64 = 255;

/// The way back of one repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) kind: RepositoryKind,
    /// In the order they are applied.
    pub(super) steps: Vec<Files>,
    /// What HEAD points to, if it is told.
    pub(super) head: Option<String>,
    /// Git's word for the hash that names objects, if it is told.
    pub(super) object_format: Option<String>,
}

/// What one step consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Files {
    pub(super) bundle: Option<Place>,
    pub(super) references: Option<Place>,
    pub(super) hooks: Option<Place>,
}

impl Files {
    pub(super) fn all(&self) -> impl Iterator<Item = &Place> {
        let all = [&self.bundle, &self.references, &self.hooks];
        all.into_iter().flatten()
    }
}

impl Plan {
    /// Bytes that have to be fetched.
    pub(super) fn size(&self) -> u64 {
        let files = self.steps.iter().flat_map(Files::all);
        files.map(|file| file.size).sum()
    }

    /// The largest of its bundles, in bytes.
    pub(super) fn bundles(&self) -> u64 {
        let bundles = self.steps.iter().filter_map(|step| step.bundle.as_ref());
        bundles.map(|bundle| bundle.size).sum()
    }

    /// Whether there is nothing in the repository.
    pub(super) fn is_empty(&self) -> bool {
        let nothing = |file: &Option<Place>| file.as_ref().is_none_or(|file| file.size == 0);
        self.steps
            .iter()
            .all(|step| step.bundle.is_none() && nothing(&step.references))
    }

    /// What stands for it in the archive: its first bundle, or its list of references.
    pub(super) fn member(&self) -> Option<&Place> {
        let first = |file: fn(&Files) -> &Option<Place>| {
            self.steps.iter().find_map(move |step| file(step).as_ref())
        };
        first(|step| &step.bundle).or_else(|| first(|step| &step.references))
    }
}

/// The plans of one project's repositories, from the files that belong to them.
pub(super) async fn plans(
    archive: &Unsealed<'_>,
    files: &[Place],
    backup_id: &str,
    patience: &Patience,
) -> Result<Vec<Plan>, Error> {
    let mut plans = Vec::new();
    for kind in RepositoryKind::ALL {
        let of_kind = |file: &&Place| place(file.below()).is_some_and(|of| of.kind == kind);
        let files: Vec<_> = files.iter().filter(of_kind).collect();
        if files.is_empty() {
            continue;
        }
        let planned = match newest_manifest(&files, backup_id) {
            Some(file) => by_manifest(archive, kind, &files, file, patience).await?,
            None => None,
        };
        let plan = if let Some(plan) = planned {
            plan
        } else {
            let latest = latest(archive, &files, patience).await?;
            by_names(kind, &files, latest.as_deref())
        };
        if !plan.steps.is_empty() {
            plans.push(plan);
        }
    }
    Ok(plans)
}

/// Gitaly's own word: `+latest`, else the one of this backup, else the newest by its name.
fn newest_manifest<'a>(files: &[&'a Place], backup_id: &str) -> Option<&'a Place> {
    let ranked = files.iter().filter_map(|file| {
        let Piece::Manifest(name) = place(file.below())?.piece else {
            return None;
        };
        Some((name == "+latest", name == backup_id, name, *file))
    });
    let newest = ranked.max_by_key(|(latest, of_this, name, _)| (*latest, *of_this, *name));
    newest.map(|(.., file)| file)
}

/// As a manifest says; none if it cannot be read. Of a repository that did not exist there are no steps.
async fn by_manifest(
    archive: &Unsealed<'_>,
    kind: RepositoryKind,
    files: &[&Place],
    file: &Place,
    patience: &Patience,
) -> Result<Option<Plan>, Error> {
    let text = if file.size <= manifest::LONGEST {
        archive.read(file.offset, file.size, patience).await?
    } else {
        Vec::new()
    };
    let manifest = match Manifest::parse(&text) {
        Ok(manifest) => manifest,
        Err(flaw) => {
            let path = printable(&file.path);
            tracing::warn!(
                "{path}: {flaw}; the repository is put together by the names of its files"
            );
            return Ok(None);
        }
    };
    let named = |path: &str| {
        let found = files.iter().find(|file| file.below() == path);
        found.map(|file| (*file).clone())
    };
    let steps = manifest.steps.iter().map(|step| Files {
        bundle: named(&step.bundle_path),
        references: named(&step.ref_path),
        hooks: named(&step.custom_hooks_path),
    });
    let told = |text: String| Some(text).filter(|text| !text.is_empty());
    Ok(Some(Plan {
        kind,
        steps: if manifest.non_existent {
            Vec::new()
        } else {
            steps.collect()
        },
        head: told(manifest.head_reference),
        object_format: told(manifest.object_format),
    }))
}

/// Which backup the pointer of a repository names.
async fn latest(
    archive: &Unsealed<'_>,
    files: &[&Place],
    patience: &Patience,
) -> Result<Option<String>, Error> {
    let pointer = files
        .iter()
        .find(|file| place(file.below()).is_some_and(|of| of.piece == Piece::Pointer("")));
    let Some(pointer) = pointer.filter(|file| file.size <= LONGEST_POINTER) else {
        return Ok(None);
    };
    let text = archive.read(pointer.offset, pointer.size, patience).await?;
    Ok(String::from_utf8(text)
        .ok()
        .map(|text| text.trim().to_owned()))
}

/// By the names of the files alone: the steps of the backup that is `latest`, else the newest file of each number.
fn by_names(kind: RepositoryKind, files: &[&Place], latest: Option<&str>) -> Plan {
    let mut steps: BTreeMap<(u32, &str), Files> = BTreeMap::new();
    for &file in files {
        let Some(of) = place(file.below()) else {
            continue;
        };
        let (step, slot): (_, fn(&mut Files) -> &mut Option<Place>) = match of.piece {
            Piece::Bundle(step) => (step, |files| &mut files.bundle),
            Piece::References(step) => (step, |files| &mut files.references),
            Piece::Hooks(step) => (step, |files| &mut files.hooks),
            Piece::Manifest(_) | Piece::Pointer(_) => continue,
        };
        *slot(steps.entry((step.number, step.backup)).or_default()) = Some(file.clone());
    }
    if let Some(latest) = latest.filter(|latest| steps.keys().any(|(_, id)| id == latest)) {
        steps.retain(|(_, id), _| *id == latest);
    }
    // The oldest layout has no IDs, which sort before all others.
    let mut newest: BTreeMap<u32, Files> = BTreeMap::new();
    for ((number, _), files) in steps {
        newest.insert(number, files);
    }
    Plan {
        kind,
        steps: newest.into_values().collect(),
        head: None,
        object_format: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(paths: &[&str]) -> Vec<Place> {
        let file = |(number, path): (usize, &&str)| Place {
            path: format!("repositories/{path}"),
            offset: 512 * number as u64,
            size: 1,
        };
        paths.iter().enumerate().map(file).collect()
    }

    fn bundles(paths: &[&str], latest: Option<&str>) -> Vec<String> {
        let files = files(paths);
        let files: Vec<_> = files.iter().collect();
        let plan = by_names(RepositoryKind::Repository, &files, latest);
        let bundles = plan.steps.iter().filter_map(|step| step.bundle.as_ref());
        bundles.map(|bundle| bundle.below().to_owned()).collect()
    }

    #[test]
    fn steps_stand_in_their_order_whatever_the_files_order() {
        let found = bundles(
            &[
                "default/@hashed/a.git/9_b/003.bundle",
                "default/@hashed/a.git/7_a/001.bundle",
                "default/@hashed/a.git/7_a/001.refs",
                "default/@hashed/a.git/8_c/002.bundle",
            ],
            None,
        );
        assert_eq!(
            found,
            [
                "default/@hashed/a.git/7_a/001.bundle",
                "default/@hashed/a.git/8_c/002.bundle",
                "default/@hashed/a.git/9_b/003.bundle"
            ]
        );
    }

    #[test]
    fn a_pointer_chooses_and_without_one_the_newest_does() {
        let paths = [
            "@hashed/a/1700000000_x/001.bundle",
            "@hashed/a/1700000000_x/002.bundle",
            "@hashed/a/1600000000_x/001.bundle",
        ];
        assert_eq!(bundles(&paths, Some("1600000000_x")), [paths[2]]);
        assert_eq!(bundles(&paths, Some("1500000000_x")), paths[..2]);
        assert_eq!(bundles(&paths, None), paths[..2]);
        assert_eq!(bundles(&["a/b.bundle"], None), ["a/b.bundle"]);
    }

    #[test]
    fn the_newest_manifest_is_taken() {
        let newest = |paths: &[&str]| {
            let files = files(paths);
            let files: Vec<_> = files.iter().collect();
            newest_manifest(&files, "8_x").map(|file| file.below().to_owned())
        };
        let all = ["+latest", "8_x", "9_x", "7_x"];
        let all = all.map(|name| format!("manifests/default/a.git/{name}.toml"));
        let all: Vec<_> = all.iter().map(String::as_str).collect();
        for first in 0..4 {
            assert_eq!(newest(&all[first..]).as_deref(), Some(all[first]));
        }
        assert_eq!(newest(&["a.bundle"]), None);
    }
}
