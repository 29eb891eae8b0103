//! The repositories of a data archive, in the three layouts that gitaly-backup and GitLab before it have
//! used (<https://gitlab.com/gitlab-org/gitaly/-/blob/master/internal/backup/locator.go>).
//!
//! A repository comes back if its manifest can be read, its list of references is there, and, where that
//! names any, its bundle is whole. Hooks are there only if it has some. An increment has no bundle if
//! nothing new was pushed, so that a missing one is no damage that could be seen here.

use std::io::{self, BufRead, Read};

use super::git::Git;
use super::ledger::{Ledger, Mark};
use super::verdict::{Examples, PartVerdict, counted};
use crate::gitlab::contents::Contents;
use crate::gitlab::format::manifest::{self, Manifest};
use crate::gitlab::format::refs::Agreement;
use crate::gitlab::format::{Flaw, bundle, refs, whole_tar};

/// References of one repository are compared with its bundle's if both together fit in here, in bytes.
const LONGEST_COMPARED: usize = 256 * 1024;
/// No backup ID is longer, in bytes.
const LONGEST_POINTER: u64 = 255;

/// What has been seen of all repositories so far.
pub(super) struct Repositories {
    ledger: Ledger,
    damaged: Examples,
    unjudged: Examples,
    /// The backup's ID, which a file that names one may hold.
    backup_id: Option<String>,
    neighbour: Neighbour,
    /// Repositories that somebody pushed to while they were backed up.
    moved: u64,
    has_latest_manifest: bool,
    has_pointer: bool,
}

/// A bundle and the list beside it stand next to each other, one of them first.
#[derive(Default)]
struct Neighbour {
    stem: Vec<u8>,
    listed: Option<Vec<u8>>,
    bundled: Option<Vec<u8>>,
}

impl Repositories {
    pub(super) fn new() -> Repositories {
        Repositories {
            ledger: Ledger::new(),
            damaged: Examples::default(),
            unjudged: Examples::default(),
            backup_id: None,
            neighbour: Neighbour::default(),
            moved: 0,
            has_latest_manifest: false,
            has_pointer: false,
        }
    }

    pub(super) fn set_backup_id(&mut self, id: Option<&str>) {
        self.backup_id = id.map(str::to_owned);
    }

    /// A file with its path below `repositories/`.
    pub(super) fn file(&mut self, path: &[u8], contents: &mut dyn BufRead, git: Option<&mut Git>) {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let judged = if path.starts_with(b"manifests/") && name.ends_with(b".toml") {
            self.manifest(path, name, contents)
        } else if name == b"LATEST" {
            self.pointer(path, contents)
        } else if let Some(stem) = path.strip_suffix(b".bundle") {
            self.bundle(stem, contents, git)
        } else if let Some(stem) = path.strip_suffix(b".refs") {
            self.list(stem, contents)
        } else if name.ends_with(b"custom_hooks.tar") {
            whole_tar(&mut { contents }).map(|_| ())
        } else {
            Ok(())
        };
        match judged {
            Ok(()) => {}
            Err(Flaw::Damaged(why)) => self.damaged.push(&with(path, &why)),
            Err(Flaw::Unjudged(why)) => self.unjudged.push(&with(path, &why)),
        }
    }

    fn manifest(
        &mut self,
        path: &[u8],
        name: &[u8],
        contents: &mut dyn BufRead,
    ) -> Result<(), Flaw> {
        let folder = &path[..path.len() - name.len()];
        let latest = name == b"+latest.toml";
        self.has_latest_manifest |= latest;
        let shown = [folder, b"+latest.toml"].concat();
        let side = if latest {
            Mark::ManifestThere
        } else {
            Mark::ManifestNeeded
        };
        self.ledger.mark(&[folder], side, &shown);
        let text = read_all(contents, manifest::LONGEST)?;
        let manifest = Manifest::parse(&text)?;
        // Gitaly writes the newest one twice, under its ID and as `+latest`.
        let shown = [folder, b"+latest.toml, or its copy under the backup's ID"].concat();
        let side = if latest {
            Mark::ManifestNeeded
        } else {
            Mark::ManifestThere
        };
        self.ledger
            .mark(&[b"the same", folder, &text], side, &shown);
        if manifest.non_existent {
            return Ok(());
        }
        for step in &manifest.steps {
            if let Some(stem) = step.ref_path.strip_suffix(".refs") {
                self.needs_list(stem.as_bytes());
            }
        }
        Ok(())
    }

    /// `LATEST` names the newest backup of a repository, or the newest step of a backup.
    fn pointer(&mut self, path: &[u8], contents: &mut dyn BufRead) -> Result<(), Flaw> {
        self.has_pointer = true;
        let text = read_all(contents, LONGEST_POINTER)?;
        let word = text.trim_ascii_end();
        let folder = path.strip_suffix(b"LATEST").unwrap_or_default();
        let plain = |byte: &u8| byte.is_ascii_graphic() && *byte != b'/';
        if word.is_empty() || !word.iter().all(plain) || matches!(word, b"." | b"..") {
            return Err(Flaw::Damaged("it names no backup".to_owned()));
        }
        let digits = word.len() >= 3 && word.iter().all(u8::is_ascii_digit);
        if digits && self.backup_id.as_deref().map(str::as_bytes) != Some(word) {
            self.ledger
                .mark(&[b"pointer", folder], Mark::RefsThere, path);
            self.needs_list(&[folder, b"001"].concat());
            self.needs_list(&[folder, word].concat());
        } else {
            let inner = [folder, word, b"/"].concat();
            let shown = [&inner, &b"LATEST"[..]].concat();
            self.ledger
                .mark(&[b"pointer", &inner], Mark::RefsNeeded, &shown);
        }
        Ok(())
    }

    fn bundle(
        &mut self,
        stem: &[u8],
        contents: &mut dyn BufRead,
        git: Option<&mut Git>,
    ) -> Result<(), Flaw> {
        let shown = [stem, b".bundle"].concat();
        self.ledger.mark(&[stem], Mark::BundleThere, &shown);
        let mut lines = Some(Vec::new());
        let mut each = |oid: &[u8], name: &[u8]| remember(&mut lines, oid, name);
        let first = is_first_step(stem);
        let judged = match git {
            Some(git) => git.bundle(stem, contents, &mut each),
            None => bundle::check(contents, &mut each),
        }?;
        if first && judged.prerequisites > 0 {
            return Err(Flaw::Damaged(
                "it cannot be restored alone: it needs commits that are in no bundle before it"
                    .to_owned(),
            ));
        }
        self.beside(stem).bundled = lines;
        self.compare()
    }

    fn list(&mut self, stem: &[u8], contents: &mut dyn BufRead) -> Result<(), Flaw> {
        let shown = [stem, b".refs"].concat();
        self.ledger.mark(&[stem], Mark::RefsThere, &shown);
        if contents.fill_buf()?.is_empty() {
            self.ledger.mark(&[stem], Mark::RefsEmpty, &[]);
        }
        let mut lines = Some(Vec::new());
        let mut each = |oid: &[u8], name: &[u8]| remember(&mut lines, oid, name);
        let count = refs::check(contents, &mut each)?;
        if count > 0 && is_first_step(stem) {
            let shown = [stem, b".bundle"].concat();
            self.ledger.mark(&[stem], Mark::BundleNeeded, &shown);
        }
        self.beside(stem).listed = lines;
        self.compare()
    }

    fn needs_list(&mut self, stem: &[u8]) {
        let shown = [stem, b".refs"].concat();
        self.ledger.mark(&[stem], Mark::RefsNeeded, &shown);
    }

    fn beside(&mut self, stem: &[u8]) -> &mut Neighbour {
        if self.neighbour.stem != stem {
            self.neighbour = Neighbour {
                stem: stem.to_vec(),
                ..Neighbour::default()
            };
        }
        &mut self.neighbour
    }

    fn compare(&mut self) -> Result<(), Flaw> {
        let Neighbour {
            listed: Some(listed),
            bundled: Some(bundled),
            ..
        } = &self.neighbour
        else {
            return Ok(());
        };
        match refs::compare(listed, bundled) {
            Agreement::Same => Ok(()),
            Agreement::Moved => {
                self.moved += 1;
                Ok(())
            }
            Agreement::Damaged => Err(Flaw::Damaged(
                "the list of references and the bundle's header contradict each other".to_owned(),
            )),
        }
    }

    /// The one verdict on all of them.
    pub(super) fn verdict(self, contents: &Contents) -> PartVerdict {
        let Repositories {
            ledger,
            mut damaged,
            unjudged,
            moved,
            ..
        } = self;
        let missing = ledger.missing();
        // Gitaly 16.6 to 16.9 wrote manifests under backup IDs alone, and pointers beside them.
        let manifests = if self.has_latest_manifest || !self.has_pointer {
            missing.manifests
        } else {
            0
        };
        let total = missing.refs + missing.bundles + manifests;
        let mut named = 0;
        let most = usize::try_from(total).unwrap_or(usize::MAX);
        for name in missing.names.iter().take(most) {
            if manifests > 0 || !name.starts_with("manifests/") {
                damaged.push(&format!("{name} is missing"));
                named += 1;
            }
        }
        let counts = held(contents);
        let mut problems = Vec::new();
        if total > named {
            problems.push(format!(
                "missing in all: bundles {}, lists of references {}, manifests {manifests}",
                missing.bundles, missing.refs
            ));
        }
        if missing.contradicted > 0 {
            let bundles = counted(missing.contradicted, "bundle has", "bundles have");
            problems.push(format!("{bundles} an empty list of references beside it"));
        }
        if !damaged.is_empty() {
            problems.insert(0, damaged.to_string());
        }
        if !problems.is_empty() {
            return PartVerdict::failed(
                "repositories",
                format!("{counts}; damaged: {}", problems.join("; ")),
            );
        }
        let detail = match moved {
            0 => counts,
            _ => format!("{counts}; {moved} were pushed to while they were backed up"),
        };
        if unjudged.is_empty() {
            PartVerdict::ok("repositories", detail)
        } else {
            PartVerdict::skipped("repositories", format!("{detail}; not judged: {unjudged}"))
        }
    }
}

/// How many repositories and bundles there are.
pub(super) fn held(contents: &Contents) -> String {
    let repositories = counted(contents.repositories, "repository", "repositories");
    format!(
        "{repositories}, {}",
        counted(contents.bundles, "bundle", "bundles")
    )
}

fn with(path: &[u8], why: &str) -> String {
    format!("{}: {why}", String::from_utf8_lossy(path))
}

/// Keeps a line as long as there are not too many.
fn remember(lines: &mut Option<Vec<u8>>, oid: &[u8], name: &[u8]) {
    if let Some(text) = lines {
        if text.len() + oid.len() + name.len() + 2 > LONGEST_COMPARED / 2 {
            *lines = None;
        } else {
            text.extend([oid, b" ", name, b"\n"].concat());
        }
    }
}

/// Increments are called `002`, `003`, …; everything else stands at the beginning.
pub(super) fn is_first_step(stem: &[u8]) -> bool {
    step_number(stem).is_none_or(|number| number <= 1)
}

/// The number of a step, from a path without its ending.
pub(super) fn step_number(stem: &[u8]) -> Option<u32> {
    let name = stem.rsplit(|byte| *byte == b'/').next()?;
    let digits = (3..=6).contains(&name.len()) && name.iter().all(u8::is_ascii_digit);
    str::from_utf8(name).ok().filter(|_| digits)?.parse().ok()
}

fn read_all(contents: &mut dyn BufRead, longest: u64) -> Result<Vec<u8>, Flaw> {
    let mut text = Vec::new();
    contents.take(longest + 1).read_to_end(&mut text)?;
    if text.len() as u64 > longest {
        io::copy(contents, &mut io::sink())?;
        return Err(Flaw::Unjudged(format!("it is longer than {longest} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::super::verdict::PartStatus;
    use super::*;

    const OID: &str = "312ca8c808ebafc3dfe3f20b454b5099aff530e0";

    fn manifest(id: &str) -> String {
        format!(
            "object_format = 'sha1'\n[[steps]]\nbundle_path = 's/a.git/{id}/001.bundle'\nref_path = 's/a.git/{id}/001.refs'\n"
        )
    }

    fn judge(files: &[(&str, &str)], id: Option<&str>) -> (PartStatus, String) {
        let mut repositories = Repositories::new();
        repositories.set_backup_id(id);
        for (path, text) in files {
            repositories.file(path.as_bytes(), &mut text.as_bytes(), None);
        }
        let verdict = repositories.verdict(&Contents::default());
        (verdict.status, verdict.detail)
    }

    fn complaint(files: &[(&str, &str)]) -> String {
        let (status, detail) = judge(files, None);
        assert_eq!(status, PartStatus::Failed, "{detail}");
        detail
    }

    #[test]
    fn what_a_manifest_names_must_be_there() {
        let text = manifest("7_x");
        let latest = ("manifests/s/a.git/+latest.toml", text.as_str());
        let copy = ("manifests/s/a.git/7_x.toml", text.as_str());
        let list = ("s/a.git/7_x/001.refs", "");
        for files in [[latest, copy, list], [list, copy, latest]] {
            assert_eq!(judge(&files, None).0, PartStatus::Ok);
            for left_out in 0..3 {
                let mut files = files.to_vec();
                let (name, _) = files.remove(left_out);
                let detail = complaint(&files);
                let name = if name == copy.0 { latest.0 } else { name };
                assert!(
                    detail.contains(name) && detail.contains("is missing"),
                    "{detail}"
                );
            }
        }
        let other = text.replace("sha1", "sha256");
        let detail = complaint(&[(latest.0, &other), copy, list]);
        assert!(detail.contains("+latest.toml, or its copy"), "{detail}");
        // An older copy stands beside the newest.
        let older = ("manifests/s/a.git/6_x.toml", other.as_str());
        assert_eq!(judge(&[older, latest, copy, list], None).0, PartStatus::Ok);
    }

    #[test]
    fn a_list_and_a_bundle_go_together_in_the_first_step_only() {
        let lines = format!("{OID} HEAD\n{OID} refs/heads/main\n");
        let detail = complaint(&[("a/7_x/001.refs", &lines)]);
        assert!(detail.contains("a/7_x/001.bundle is missing"), "{detail}");
        let detail = complaint(&[("a/b.refs", &lines)]);
        assert!(detail.contains("a/b.bundle is missing"), "{detail}");
        assert_eq!(
            judge(&[("a/7_x/002.refs", &lines), ("a/c.refs", "")], None).0,
            PartStatus::Ok
        );
        let detail = complaint(&[("a.refs", ""), ("a.bundle", "x")]);
        assert!(detail.contains("1 bundle has an empty list"), "{detail}");
    }

    #[test]
    fn pointers_lead_somewhere() {
        let good = [
            ("a/LATEST", "7_x"),
            ("a/7_x/LATEST", "001"),
            ("a/7_x/001.refs", ""),
        ];
        assert_eq!(judge(&good, None).0, PartStatus::Ok);
        let detail = complaint(&[good[0], good[2]]);
        assert!(detail.contains("a/7_x/LATEST is missing"), "{detail}");
        let detail = complaint(&good[..2]);
        assert!(detail.contains("a/7_x/001.refs is missing"), "{detail}");
        for text in ["", "\n", "..", "a/b", "7_x\u{1}"] {
            assert!(complaint(&[("a/LATEST", text)]).contains("names no backup"));
        }
        // `BACKUP=2024`
        let digits = [
            ("a/LATEST", "2024"),
            ("a/2024/LATEST", "001"),
            ("a/2024/001.refs", ""),
        ];
        assert_eq!(judge(&digits, Some("2024")).0, PartStatus::Ok);
        // Gitaly 16.8: pointers, and manifests that are called by their IDs alone.
        let text = manifest("7_x");
        let both = [
            ("a/LATEST", "7_x"),
            ("a/7_x/LATEST", "001"),
            ("a/7_x/001.refs", ""),
            ("s/a.git/7_x/001.refs", ""),
            ("manifests/s/a.git/7_x.toml", &text),
        ];
        assert_eq!(judge(&both, None).0, PartStatus::Ok);
    }

    #[test]
    fn steps_are_told_by_their_names() {
        for (stem, number) in [
            (&b"a/7_x/001"[..], Some(1)),
            (b"a/7_x/002", Some(2)),
            (b"1000", Some(1000)),
            (b"a/12", None),
            (b"a/1234567", None),
            (b"a/b.wiki", None),
        ] {
            assert_eq!(step_number(stem), number);
        }
        assert!(is_first_step(b"a/001") && is_first_step(b"a/b") && !is_first_step(b"a/002"));
    }
}
