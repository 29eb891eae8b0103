//! The usual tools: GNU tar and gzip, found by the test's own `PATH`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

/// A member of an archive.
#[derive(Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name; a folder's ends in `/`. It may begin with one, hold `..`, and occur twice.
    pub path: String,
    /// Permissions.
    pub mode: u32,
    /// Contents, of a file.
    pub data: Vec<u8>,
    /// Where it leads, of a symbolic link.
    pub link: Option<String>,
    /// Unix seconds.
    pub modified: u64,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:o} {} bytes", self.path, self.mode, self.data.len())
    }
}

impl Member {
    /// A regular file.
    pub fn file(path: &str, mode: u32, data: impl Into<Vec<u8>>) -> Member {
        Member {
            path: path.to_owned(),
            mode,
            data: data.into(),
            link: None,
            modified: 1_702_758_583,
        }
    }

    /// A folder.
    pub fn folder(path: &str, mode: u32) -> Member {
        assert!(path.ends_with('/'), "{path}");
        Member::file(path, mode, Vec::new())
    }

    /// A symbolic link.
    pub fn link(path: &str, target: &str) -> Member {
        Member {
            link: Some(target.to_owned()),
            ..Member::file(path, 0o777, Vec::new())
        }
    }

    /// Puts it where it belongs.
    pub fn write(&self, path: &Path) {
        if self.path.ends_with('/') {
            fs::create_dir_all(path).expect("a folder");
        } else {
            fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
            if let Some(target) = &self.link {
                symlink(target, path).expect("a link");
                return;
            }
            fs::write(path, &self.data).expect("a file");
        }
        fs::set_permissions(path, fs::Permissions::from_mode(self.mode)).expect("a mode");
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(self.modified);
        let set = File::open(path).and_then(|file| file.set_modified(modified));
        set.expect("a time");
    }
}

/// Packs members in this order with GNU tar, as an archive of mode 0600.
pub fn repack(members: &[Member], path: &Path) {
    let staging = tempfile::tempdir().expect("a temporary folder");
    // Each has a folder of its own, so that names may repeat; tar takes that away again.
    let mut list = Vec::new();
    for (number, member) in members.iter().enumerate() {
        let rooted = member
            .path
            .strip_prefix('/')
            .map(|path| format!("@/{path}"));
        let path = rooted.unwrap_or_else(|| member.path.clone());
        let name = format!("{number}/{}", path.replace("..", "@@"));
        member.write(&staging.path().join(&name));
        list.extend(name.bytes());
        list.push(0);
    }
    fs::write(staging.path().join("list"), list).expect("a list");
    let rooted = members.iter().any(|member| member.path.starts_with('/'));
    let owner = if rooted { "root:0" } else { "git:998" };
    let status = Command::new("tar")
        .arg("--create")
        .args(["--absolute-names", "--no-recursion", "--owner", owner])
        .args(["--group", owner, "--directory"])
        .arg(staging.path())
        .args(["--transform", "flags=r;s,^[0-9]*/,,"])
        .args(["--transform", "flags=r;s,^@/,/,"])
        .args(["--transform", "flags=r;s,@@,..,g"])
        .args(["--null", "--files-from"])
        .arg(staging.path().join("list"))
        .arg("--file")
        .arg(path)
        .status();
    assert!(status.expect("GNU tar").success(), "{}", path.display());
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("a mode");
}

/// `./` with these files below it, packed and compressed as GitLab's file tasks do.
pub fn part(files: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    static EMPTY: OnceLock<Vec<u8>> = OnceLock::new();
    if files.is_empty() {
        return EMPTY.get_or_init(|| gzip(&tar_of(files))).clone();
    }
    gzip(&tar_of(files))
}

/// The hooks of a repository, as gitaly packs them.
pub fn custom_hooks() -> Vec<u8> {
    let hook = b"#!/bin/sh\necho 'hello from the server'\n".to_vec();
    tar_of(&[("custom_hooks/pre-receive".to_owned(), hook)].into())
}

fn tar_of(files: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    let staging = tempfile::tempdir().expect("a temporary folder");
    for (path, data) in files {
        Member::file(path, 0o644, data.clone()).write(&staging.path().join(path));
    }
    let what = if files.keys().any(|path| path.starts_with("custom_hooks/")) {
        "custom_hooks"
    } else {
        "."
    };
    let tar = Command::new("tar")
        .args(["--sort=name", "--mtime=@1702758583", "--mode=u+rwX,go+rX"])
        .args(["--owner=git:998", "--group=git:998", "--directory"])
        .arg(staging.path())
        .args(["--create", "--file", "-", what])
        .output()
        .expect("GNU tar");
    assert!(tar.status.success(), "{tar:?}");
    tar.stdout
}

/// `gzip -c -1`, GitLab's default.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    pipe(Command::new("gzip").args(["-n", "-c", "-1"]), bytes)
}

/// `gzip -dc`.
pub fn gunzip(bytes: &[u8]) -> Vec<u8> {
    pipe(Command::new("gzip").arg("-dc"), bytes)
}

/// What a command answers to an input.
pub fn pipe(command: &mut Command, input: &[u8]) -> Vec<u8> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("a command");
    let mut stdin = child.stdin.take().expect("its input");
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input).expect("its input"));
        child.wait_with_output().expect("its output")
    });
    assert!(output.status.success(), "{command:?}");
    output.stdout
}
