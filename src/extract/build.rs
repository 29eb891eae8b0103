//! Git makes a repository of bundles, in a folder of its own.
//!
//! Nothing in a bundle is trusted: git runs without anybody's settings and hooks, takes only objects out of it, and
//! checks at the end that all of them are there. The references are written here, from gitaly's list: a bundle of
//! an increment names only what changed.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::printable;
use crate::gitlab::format::bundle::{self, ObjectFormat, is_ref_name};
use crate::gitlab::format::{Flaw, refs, whole_tar};
use crate::process::git::{Program, Trouble};

/// A longer list of references is not read, in bytes: more than half a million of them.
pub(super) const LONGEST_LIST: u64 = 64 * 1024 * 1024;
/// What `git fsck` ends with when old objects are not as today's git writes them, but nothing is missing or
/// unreadable.
const FSCK_COMPLAINS: i32 = 1;
/// The name that hooks get in a repository: git itself never looks there.
const HOOKS: &str = "custom_hooks.tar";

/// What a repository is made of; all files lie on this machine.
pub(super) struct Material {
    /// In their order.
    pub(super) steps: Vec<StepFiles>,
    pub(super) head: Option<String>,
    pub(super) object_format: Option<String>,
}

/// The files of one step.
#[derive(Default)]
pub(super) struct StepFiles {
    /// With the name it has in the archive.
    pub(super) bundle: Option<(String, PathBuf)>,
    pub(super) references: Option<(String, PathBuf)>,
    pub(super) hooks: Option<(String, PathBuf)>,
}

/// What was made.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Built {
    /// References, HEAD not counted.
    pub(super) refs: u64,
    /// References whose objects are in no bundle: somebody pushed while the backup was made.
    pub(super) lost: Vec<String>,
}

type References = BTreeMap<Vec<u8>, Vec<u8>>;

/// Makes a bare repository at `place`, where nothing is. Blocks the thread.
pub(super) fn build(git: &Program, material: &Material, place: &Path) -> Result<Built, Trouble> {
    let mut format = material.object_format.clone();
    let mut bundled = References::new();
    for (name, path) in material
        .steps
        .iter()
        .filter_map(|step| step.bundle.as_ref())
    {
        let mut taken = 0;
        let mut each = |oid: &[u8], reference: &[u8]| {
            taken += (oid.len() + reference.len()) as u64;
            if taken <= LONGEST_LIST {
                bundled.insert(reference.to_vec(), oid.to_vec());
            }
        };
        let judged = bundle::check(&mut open(path)?, &mut each);
        let judged = judged.map_err(|flaw| damaged(name, &flaw))?;
        if taken > LONGEST_LIST {
            let what = "it names more references than can be looked at";
            return Err(Trouble::Bundle(format!("{}: {what}", printable(name))));
        }
        format.get_or_insert(judged.format.as_str().to_owned());
    }
    let listed = last_list(material)?;
    let format = format.unwrap_or_else(|| of_list(listed.as_ref()));
    let format = OsString::from(format!("--object-format={format}"));
    let init = ["init", "--quiet", "--bare", "--template="].map(OsStr::new);
    git.must(&[&init[..], &[&format, place.as_os_str()]].concat())?;
    let mut here = OsString::from("--git-dir=");
    here.push(place);
    let here = here.as_os_str();
    for (name, path) in material
        .steps
        .iter()
        .filter_map(|step| step.bundle.as_ref())
    {
        let with_name = |trouble| match trouble {
            Trouble::Bundle(why) => Trouble::Bundle(format!("{}: {why}", printable(name))),
            machine @ Trouble::Machine(_) => machine,
        };
        for words in [&["bundle", "verify"][..], &["bundle", "unbundle"]] {
            let words: Vec<_> = words.iter().map(OsStr::new).collect();
            git.must(&[&[here], &words[..], &[path.as_os_str()]].concat())
                .map_err(with_name)?;
        }
    }
    // An empty list beside a bundle is damage, and the bundle is what is left.
    let listed = listed.filter(|listed| !listed.is_empty() || bundled.is_empty());
    let wanted = listed.unwrap_or_else(|| bundled.clone());
    let (references, lost) = present(git, here, &wanted, &bundled)?;
    // Gitaly makes no bundle only where nothing is new, and then everything is there.
    let mut steps = material.steps.iter();
    if references != wanted && steps.any(|step| step.bundle.is_none() && step.references.is_some())
    {
        let what = "a bundle that belongs to it is missing in the archive: objects that its list of references \
                    names are not there";
        return Err(Trouble::Bundle(what.to_owned()));
    }
    let head = material.head.clone();
    let head = head
        .filter(|head| head.starts_with("refs/heads/"))
        .or_else(|| head_of(&references));
    let refs = write_references(&references, place)?;
    if let Some(head) = head {
        let words = ["symbolic-ref", "HEAD", &head].map(OsStr::new);
        git.must(&[&[here], &words[..]].concat())?;
    }
    check(git, here)?;
    let hooks = material
        .steps
        .iter()
        .rev()
        .find_map(|step| step.hooks.as_ref());
    if let Some((name, path)) = hooks {
        whole_tar(&mut open(path)?).map_err(|flaw| damaged(name, &flaw))?;
        fs::rename(path, place.join(HOOKS)).map_err(|error| machine(path, &error))?;
    }
    Ok(Built { refs, lost })
}

/// The newest list of references; none if there never was one.
fn last_list(material: &Material) -> Result<Option<References>, Trouble> {
    let mut lists = material
        .steps
        .iter()
        .rev()
        .filter_map(|step| step.references.as_ref());
    let Some((name, path)) = lists.next() else {
        return Ok(None);
    };
    let mut listed = References::new();
    let mut each = |oid: &[u8], reference: &[u8]| {
        listed.insert(reference.to_vec(), oid.to_vec());
    };
    refs::check(&mut open(path)?, &mut each).map_err(|flaw| damaged(name, &flaw))?;
    Ok(Some(listed))
}

/// The format of the objects in a list, by the length of their names.
fn of_list(listed: Option<&References>) -> String {
    let oid = listed.and_then(|listed| listed.values().next());
    let format = if oid.is_some_and(|oid| oid.len() == 64) {
        ObjectFormat::Sha256
    } else {
        ObjectFormat::Sha1
    };
    format.as_str().to_owned()
}

/// Those of the wanted references whose objects are there: gitaly lists them first and makes the bundle afterwards.
/// What was pushed in between is as the bundle has it.
fn present(
    git: &Program,
    here: &OsStr,
    wanted: &References,
    bundled: &References,
) -> Result<(References, Vec<String>), Trouble> {
    let missing = missing(git, here, wanted.values().chain(bundled.values()))?;
    let mut there = References::new();
    let mut lost = Vec::new();
    for (name, oid) in wanted {
        let other = || bundled.get(name).filter(|oid| !missing.contains(*oid));
        if !missing.contains(oid) {
            there.insert(name.clone(), oid.clone());
        } else if let Some(other) = other() {
            there.insert(name.clone(), other.clone());
        } else {
            lost.push(printable(&String::from_utf8_lossy(name)));
        }
    }
    Ok((there, lost))
}

/// Those of these objects that the repository has not.
fn missing<'a>(
    git: &Program,
    here: &OsStr,
    oids: impl Iterator<Item = &'a Vec<u8>>,
) -> Result<HashSet<Vec<u8>>, Trouble> {
    let (asked, told) = (git.folder.join("asked"), git.folder.join("told"));
    let write = || -> io::Result<(File, File)> {
        let mut lines = BufWriter::new(File::create(&asked)?);
        for oid in oids {
            lines.write_all(oid)?;
            lines.write_all(b"\n")?;
        }
        lines.flush()?;
        Ok((File::open(&asked)?, File::create(&told)?))
    };
    let (input, output) = write().map_err(|error| machine(&asked, &error))?;
    let words = ["cat-file", "--batch-check"].map(OsStr::new);
    git.between(&[&[here], &words[..]].concat(), input, output)?;
    let mut missing = HashSet::new();
    for line in open(&told)?.split(b'\n') {
        let line = line.map_err(|error| machine(&told, &error))?;
        missing.extend(line.strip_suffix(b" missing").map(<[u8]>::to_vec));
    }
    Ok(missing)
}

/// The branch that HEAD stands for in a list, where nobody tells it: one with the same commit.
fn head_of(references: &References) -> Option<String> {
    let head = references.get(&b"HEAD"[..]);
    let branches = references
        .iter()
        .filter(|(name, _)| name.starts_with(b"refs/heads/"));
    let mut fitting: Vec<_> = branches
        .filter(|(_, oid)| head.is_none_or(|head| head == *oid))
        .map(|(name, _)| name)
        .collect();
    let usual = |name: &&Vec<u8>| match name.as_slice() {
        b"refs/heads/main" => 0,
        b"refs/heads/master" => 1,
        _ => 2,
    };
    fitting.sort_by_key(usual);
    let first: &[u8] = fitting.first()?;
    Some(str::from_utf8(first).ok()?.to_owned())
}

/// Writes them as git packs them (<https://git-scm.com/docs/git-pack-refs>); how many there are.
fn write_references(references: &References, place: &Path) -> Result<u64, Trouble> {
    let path = place.join("packed-refs");
    let named: Vec<_> = references
        .iter()
        .filter(|(name, _)| *name != b"HEAD")
        .collect();
    for (name, _) in &named {
        let slashes = (0..name.len()).filter(|at| name[*at] == b'/');
        let above = slashes
            .map(|at| &name[..at])
            .find(|above| references.contains_key(*above));
        if !is_ref_name(name) || above.is_some() {
            let name = printable(&String::from_utf8_lossy(name));
            let why = format!("the list of references contradicts itself about {name}");
            return Err(Trouble::Bundle(why));
        }
    }
    let write = || -> io::Result<()> {
        let mut lines = BufWriter::new(File::create(&path)?);
        lines.write_all(b"# pack-refs with: sorted \n")?;
        for (name, oid) in &named {
            lines.write_all(&[oid, &b" "[..], name, b"\n"].concat())?;
        }
        lines.flush()
    };
    write().map_err(|error| machine(&path, &error))?;
    Ok(named.len() as u64)
}

/// All that the references lead to is there and whole.
fn check(git: &Program, here: &OsStr) -> Result<(), Trouble> {
    let words = ["fsck", "--full", "--no-dangling", "--no-progress"].map(OsStr::new);
    let ended = git
        .run(&[&[here], &words[..]].concat())
        .map_err(|error| Trouble::Machine(format!("git fsck: {error}")))?;
    match ended.status.code() {
        Some(0 | FSCK_COMPLAINS) => Ok(()),
        _ => Err(ended.trouble("git fsck")),
    }
}

fn open(path: &Path) -> Result<BufReader<File>, Trouble> {
    let file = File::open(path).map_err(|error| machine(path, &error))?;
    Ok(BufReader::with_capacity(64 * 1024, file))
}

fn damaged(name: &str, flaw: &Flaw) -> Trouble {
    Trouble::Bundle(format!("{}: {flaw}", printable(name)))
}

fn machine(path: &Path, error: &io::Error) -> Trouble {
    Trouble::Machine(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references(lines: &[(&str, &str)]) -> References {
        let pair = |(name, oid): &(&str, &str)| (name.as_bytes().to_vec(), oid.as_bytes().to_vec());
        lines.iter().map(pair).collect()
    }

    #[test]
    fn head_is_the_branch_with_its_commit() {
        for (lines, head) in [
            (
                &[
                    ("HEAD", "1"),
                    ("refs/heads/a", "1"),
                    ("refs/heads/main", "2"),
                ][..],
                Some("a"),
            ),
            (
                &[
                    ("HEAD", "1"),
                    ("refs/heads/a", "1"),
                    ("refs/heads/main", "1"),
                ],
                Some("main"),
            ),
            (
                &[("refs/heads/a", "1"), ("refs/heads/master", "1")],
                Some("master"),
            ),
            (&[("HEAD", "3"), ("refs/heads/a", "1")], None),
            (&[("refs/tags/a", "1")], None),
        ] {
            let expected = head.map(|head| format!("refs/heads/{head}"));
            assert_eq!(head_of(&references(lines)), expected);
        }
    }

    #[test]
    fn references_that_no_repository_can_have_are_refused() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let oid = "1".repeat(40);
        let write = |names: &[&str]| {
            let lines: Vec<_> = names.iter().map(|name| (*name, oid.as_str())).collect();
            write_references(&references(&lines), dir.path())
        };
        assert_eq!(
            write(&["HEAD", "refs/heads/b", "refs/heads/a"]).ok(),
            Some(2)
        );
        let text = fs::read_to_string(dir.path().join("packed-refs")).expect("written");
        let expected = format!("{oid} refs/heads/a\n{oid} refs/heads/b\n");
        assert!(text.ends_with(&expected), "{text}");
        for names in [
            &["refs/heads/a", "refs/heads/a/b"][..],
            &["refs/heads/../x"],
            &["config"],
        ] {
            assert!(matches!(write(names), Err(Trouble::Bundle(_))), "{names:?}");
        }
    }
}
