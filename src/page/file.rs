//! The page as a file that a web server may show.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use crate::state::{private_file, sync_folder};

/// The page tells names and errors, no secrets, and is of use only to people who are not root.
const MODE: u32 = 0o644;

/// Puts the page at `path`: whoever reads it there finds the old one or the new one, whole. One that is there keeps its
/// mode and owner. The folder may belong to others, so that no link is followed. The error says the way out.
pub fn write(path: &Path, html: &str) -> Result<(), String> {
    let failed = |error: &io::Error, hint: &str| {
        format!(
            "writing the report page {}: {error}\n  {hint}",
            path.display()
        )
    };
    let refused = |what: &str, hint: &str| {
        format!(
            "writing the report page {}: {what}\n  {hint}",
            path.display()
        )
    };
    let Some(name) = path.file_name() else {
        return Err(refused(
            "it is no name of a file",
            "name one, like /var/www/html/backup.html",
        ));
    };
    let old = match fs::symlink_metadata(path) {
        Ok(old) if old.is_file() => Some(old),
        Ok(old) if old.is_dir() => {
            return Err(refused(
                "it is a folder",
                "name a file in it, like backup.html",
            ));
        }
        Ok(old) if old.is_symlink() => {
            return Err(refused(
                "it is a link, and links are not followed",
                "name the file it leads to; `-` is standard output",
            ));
        }
        Ok(_) => return Err(refused("it is no regular file", "`-` is standard output")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(&error, "name another file")),
    };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        let hint = format!("make it first: mkdir -p {}", folder.display());
        return Err(refused("its folder does not exist", &hint));
    }
    let mut new_name = std::ffi::OsString::from(".");
    new_name.push(name);
    new_name.push(".new");
    let new = folder.join(new_name);
    let written = put(&new, html, old.as_ref())
        .and_then(|()| fs::rename(&new, path))
        .and_then(|()| sync_folder(folder));
    written.map_err(|error| {
        // What is left of it is in nobody's way, and taken away by the next one.
        let _ = fs::remove_file(&new);
        failed(&error, "make room, or name a file where you may write")
    })
}

fn put(new: &PathBuf, html: &str, old: Option<&fs::Metadata>) -> io::Result<()> {
    let create = || -> io::Result<File> {
        private_file(OpenOptions::new().write(true).create_new(true)).open(new)
    };
    let mut file = match create() {
        // Left by a power cut.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(new)?;
            create()?
        }
        other => other?,
    };
    file.write_all(html.as_bytes())?;
    if let Some(old) = old {
        // Only root may give a file away; who else replaces it owns it.
        let _ = fchown(&file, Some(old.uid()), Some(old.gid()));
    }
    let mode = old.map_or(MODE, |old| old.mode() & 0o777);
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn it_is_for_all_unless_somebody_decided_otherwise() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("page.html");
        let mode = || fs::metadata(&path).expect("there").mode() & 0o777;
        write(&path, "one").expect("written");
        assert_eq!(
            (fs::read_to_string(&path).expect("read"), mode()),
            ("one".to_owned(), 0o644)
        );
        fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("its mode");
        fs::write(dir.path().join(".page.html.new"), "left over").expect("written");
        write(&path, "two").expect("written");
        assert_eq!(
            (fs::read_to_string(&path).expect("read"), mode()),
            ("two".to_owned(), 0o640)
        );
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1);
    }

    #[test]
    fn what_is_no_place_for_it_is_left_alone() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let victim = dir.path().join("victim");
        fs::write(&victim, "precious").expect("written");
        symlink(&victim, dir.path().join("link")).expect("a link");
        symlink(&victim, dir.path().join(".page.new")).expect("a link");
        for (name, told) in [
            ("link", "links are not followed"),
            ("", "is a folder"),
            ("none/page", "does not exist\n  make it first: mkdir -p"),
            ("victim/page", "name another file"),
        ] {
            let error = write(&dir.path().join(name), "page").expect_err("refused");
            assert!(error.contains(told), "{error}");
        }
        for path in ["/", "/dev/null", ".."] {
            assert!(write(Path::new(path), "page").is_err(), "{path}");
        }
        write(&dir.path().join("page"), "page").expect("written");
        assert_eq!(fs::read_to_string(&victim).expect("read"), "precious");
    }
}
