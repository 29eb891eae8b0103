//! Our files among systemd's, and that only ours are touched.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::Order;
use super::units::{MARK, drop_ins, names, service_of, timer_of, units};
use crate::job::Job;
use crate::state::sync_folder;

/// An administrator's units.
const ADMIN: &str = "/etc/systemd/system";
/// The units of packages.
const PACKAGES: [&str; 2] = ["/usr/lib/systemd/system", "/lib/systemd/system"];
const DROP_IN: &str = "schedule.conf";
/// What is longer is none of ours, in bytes.
const LONGEST: u64 = 64 * 1024;

/// Texts by path; none: there is no such file.
pub(super) type Files = BTreeMap<PathBuf, Option<String>>;

/// The folder of units that a package brought, if one did.
pub(super) fn package() -> Option<&'static Path> {
    let folders = PACKAGES.iter().map(Path::new);
    let is_ours = |folder: &&Path| {
        let text = |unit: String| fs::read_to_string(folder.join(unit)).unwrap_or_default();
        text(timer_of(Job::Run)).contains("OnCalendar=")
            && text(service_of(Job::Run)).contains("gitlab-pi-backup run")
    };
    folders.into_iter().find(is_ours)
}

/// What is to be there: whole units, or drop-ins where a package brought the units.
pub(super) fn wanted(order: &Order, package: Option<&Path>) -> Files {
    // One that the package lacks is no reason to fail.
    let there = |unit: &str| {
        let path = package.map(|folder| folder.join(unit));
        path.and_then(|path| fs::read_to_string(path).ok())
            .unwrap_or_default()
    };
    let whole = units(order, false).into_iter();
    let whole = whole.filter(|(unit, _)| there(unit).is_empty());
    let whole = whole.map(|(unit, text)| (Path::new(ADMIN).join(unit), Some(text)));
    let drop_ins = drop_ins(order, there).into_iter();
    let drop_ins = drop_ins.map(|(unit, text)| (drop_in(&unit), Some(text)));
    whole.chain(drop_ins).collect()
}

fn drop_in(unit: &str) -> PathBuf {
    Path::new(ADMIN).join(format!("{unit}.d")).join(DROP_IN)
}

/// Every place where a file of ours may be.
fn places() -> impl Iterator<Item = PathBuf> {
    let units = Job::ALL.into_iter().flat_map(names);
    units.flat_map(|unit| [Path::new(ADMIN).join(&unit), drop_in(&unit)])
}

/// The files of ours that are there.
pub(super) fn ours() -> Files {
    let ours = places().filter_map(|path| {
        let text = read(&path).ok()??;
        text.starts_with(MARK).then_some((path, Some(text)))
    });
    ours.collect()
}

/// The error names a file that somebody else put where ours would be.
pub(super) fn refuse_foreign() -> Result<(), String> {
    for path in places() {
        let shown = path.display();
        let is_link = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_symlink());
        let text = read(&path).map_err(|error| format!("reading {shown}: {error}"))?;
        match text {
            None if !is_link => {}
            Some(text) if !is_link && text.starts_with(MARK) => {}
            _ if is_link && fs::read_link(&path).is_ok_and(|to| to == Path::new("/dev/null")) => {
                let name = path
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                return Err(format!(
                    "{shown}: the unit is masked\n  systemctl unmask {name}"
                ));
            }
            _ => {
                return Err(format!(
                    "{shown}: is there already, and was not written by `gitlab-pi-backup schedule install`\n  \
                     move it away, or keep it and start runs by it"
                ));
            }
        }
    }
    Ok(())
}

/// The text of a file that may be missing; without what is no text.
fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() && metadata.len() <= LONGEST => {
            Ok(Some(String::from_utf8_lossy(&fs::read(path)?).into_owned()))
        }
        // Whatever it is, it is not ours.
        Ok(_) => Ok(Some(String::new())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes these files so, and those alone; on a failure all is as it was. What is so already is not touched.
pub(super) fn apply(files: &Files) -> Result<(), String> {
    let mut before = Files::new();
    for (path, text) in files {
        let there = read(path).ok().flatten();
        if there == *text {
            continue;
        }
        before.insert(path.clone(), there);
        let done = match text {
            Some(text) => write(path, text),
            None => remove(path),
        };
        if let Err(error) = done {
            take_back(&before);
            let doing = if text.is_some() {
                "writing"
            } else {
                "removing"
            };
            return Err(format!(
                "{doing} {}: {error}\n  nothing is changed; is the file system mounted read-only, or full?",
                path.display()
            ));
        }
    }
    Ok(())
}

/// As good as it goes: what hinders it was told already.
pub(super) fn take_back(before: &Files) {
    for (path, text) in before {
        let _ = match text {
            Some(text) => write(path, text),
            None => remove(path),
        };
    }
}

/// Replaces a file whole, for all to read; a folder for drop-ins is made.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    if !folder.is_dir() {
        fs::create_dir(folder)?;
        fs::set_permissions(folder, Permissions::from_mode(0o755))?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = folder.join(name);
    let writing = || {
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o644)
            .open(&new)?;
        file.write_all(text.as_bytes())?;
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        sync_folder(folder)
    };
    writing().inspect_err(|_| {
        let _ = fs::remove_file(&new);
        remove_folder(folder);
    })
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if let Some(folder) = path.parent() {
        remove_folder(folder);
    }
    Ok(())
}

/// A folder of drop-ins, if nobody has others in it.
fn remove_folder(folder: &Path) {
    if folder.extension().is_some_and(|extension| extension == "d") {
        // One that is not empty stays.
        let _ = fs::remove_dir(folder);
    }
}
