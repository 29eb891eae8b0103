//! A temporary folder that plays the machine GitLab runs on, and the program as a user runs it there.

#![allow(dead_code, reason = "every test binary uses another part of it")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::backup::{RealBackup, sha256};
use super::dropbox::{Dropbox, Options};

/// A machine with GitLab's commands, folders and a configuration.
pub struct Host {
    dir: TempDir,
    program: PathBuf,
    /// Variables the program gets, `PATH` among them.
    variables: Vec<(OsString, OsString)>,
}

/// What the program left: exit status, standard output, standard error.
pub struct Ended {
    /// The exit status; none if a signal killed it.
    pub status: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ended {
    /// Standard output as the one JSON document it must be.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in {self}"))
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "exit {:?}\n--- out\n{}\n--- err\n{}",
            self.status, self.out, self.err
        )
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Ended {
        Ended {
            status: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Host {
    /// A healthy machine whose backups go to `dropbox`. `program` is the binary under test.
    pub fn new(program: &str, dropbox: &Dropbox) -> Host {
        let host = Host::without_config(program);
        host.write_config(&host.config(dropbox));
        host
    }

    /// A healthy machine without a configuration.
    pub fn without_config(program: &str) -> Host {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let root = dir.path();
        for folder in ["bin", "var/opt/gitlab/backups", "state"] {
            fs::create_dir_all(root.join(folder)).expect("folders");
        }
        let private = fs::Permissions::from_mode(0o700);
        fs::set_permissions(root.join("state"), private).expect("its mode");
        let stand_ins = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/gitlab");
        for name in [
            "gitlab-ctl",
            "gitlab-backup",
            "gitlab-backup-cli",
            "gitlab-rake",
        ] {
            symlink(stand_ins.join(name), root.join("bin").join(name)).expect("a link");
        }
        let path = format!("{}:/usr/bin:/bin", root.join("bin").display());
        let variables = [
            ("PATH", OsString::from(path)),
            ("HOME", root.into()),
            ("STUB_ROOT", root.into()),
            ("TMPDIR", std::env::temp_dir().into()),
        ];
        let variables = variables.map(|(name, value)| (name.into(), value)).into();
        let host = Host {
            program: program.into(),
            variables,
            dir,
        };
        host.install("17.8.2");
        host
    }

    /// Installs this version of GitLab's Linux package (`17.8.2`, `17.8.2-ee`), configured once.
    pub fn install(&self, version: &str) {
        let put = |name: &str, text: String| {
            let path = self.path("opt/gitlab").join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
            fs::write(path, text).expect("a file of the package");
        };
        let (edition, number) = match version.strip_suffix("-ee") {
            Some(number) => ("ee", number),
            None => ("ce", version),
        };
        put(
            "embedded/service/gitlab-rails/VERSION",
            format!("{version}\n"),
        );
        put(
            "version-manifest.txt",
            format!(
                "gitlab-{edition} {number}\n\n\
                 Component                 Installed Version   Version GUID\n\
                 --------------------------------------------------------------------------------\n\
                 gitlab-rails              v{version}          git:312ca8c808ebafc3dfe3f20b454b5099aff530e0\n"
            ),
        );
        put("etc/gitlab-rails-rc", "gitlab_user=git\n".to_owned());
    }

    /// Fills this GitLab: from now on `gitlab-backup create` packs exactly this.
    pub fn populate(&self, gitlab: &RealBackup) {
        let (state, etc) = (self.path("var/opt/gitlab/state"), self.path("etc/gitlab"));
        gitlab.write_state(&state, &etc);
        let secrets = sha256(gitlab.secrets().as_bytes());
        fs::write(self.path("var/opt/gitlab/reconfigured"), secrets + "\n").expect("a file");
    }

    /// Every file GitLab's data consist of, with its SHA-256: equal before and after, all is back.
    pub fn gitlab_state(&self) -> BTreeMap<String, String> {
        digests(&self.path("var/opt/gitlab/state"))
    }

    /// Every file of `/etc/gitlab` but the backups, with its SHA-256.
    pub fn gitlab_configuration(&self) -> BTreeMap<String, String> {
        let mut found = digests(&self.path("etc/gitlab"));
        found.retain(|name, _| !name.starts_with("config_backup/"));
        found
    }

    /// The machine dies; another takes its place, with the same version of GitLab, newly installed: its own
    /// keys, no data, no backups. The program's configuration is there, its state is not.
    pub fn wipe(&self) {
        for folder in ["var", "etc", "state", "down"] {
            let path = self.path(folder);
            if path.exists() {
                fs::remove_dir_all(path).expect("removed");
            }
        }
        for folder in ["var/opt/gitlab/backups", "state"] {
            fs::create_dir_all(self.path(folder)).expect("folders");
        }
        self.populate(&RealBackup::new(u64::MAX).projects(0));
    }

    /// Lets the folder stay, and says where it is.
    pub fn keep(self) -> PathBuf {
        self.dir.keep()
    }

    /// The folder that plays `/`.
    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    /// A path on this machine.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The usual configuration for a stand-in.
    pub fn config(&self, dropbox: &Dropbox) -> String {
        let root = self.root().display();
        let url = dropbox.url();
        let Options {
            app_key,
            refresh_token,
            ..
        } = Options::default();
        format!(
            "state_dir = \"{root}/state\"\n\
             [gitlab]\n\
             config_dir = \"{root}/etc/gitlab/config_backup\"\n\
             data_dir = \"{root}/var/opt/gitlab/backups\"\n\
             etc_dir = \"{root}/etc/gitlab\"\n\
             install_dir = \"{root}/opt/gitlab\"\n\
             [destinations.dropbox]\n\
             type = \"dropbox\"\n\
             app_key = \"{app_key}\"\n\
             refresh_token = \"{refresh_token}\"\n\
             api_url = \"{url}\"\n\
             content_url = \"{url}\"\n\
             [upload]\n\
             chunk_size = \"4 MiB\"\n"
        )
    }

    /// The part of the usual configuration that names no destination, and these tables.
    pub fn config_with(&self, tables: &str) -> String {
        let root = self.root().display();
        format!(
            "state_dir = \"{root}/state\"\n\
             [gitlab]\n\
             config_dir = \"{root}/etc/gitlab/config_backup\"\n\
             data_dir = \"{root}/var/opt/gitlab/backups\"\n\
             etc_dir = \"{root}/etc/gitlab\"\n\
             install_dir = \"{root}/opt/gitlab\"\n\
             {tables}"
        )
    }

    /// Writes the configuration, for root alone.
    pub fn write_config(&self, text: &str) {
        let path = self.path("config.toml");
        fs::write(&path, text).expect("the configuration");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
    }

    /// Sets a variable for the program from now on.
    pub fn set(&mut self, name: &str, value: impl Into<OsString>) -> &mut Host {
        let value = value.into();
        if let Some(version) = value.to_str().filter(|_| name == "STUB_VERSION") {
            self.install(version);
        }
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.into(), value));
        self
    }

    /// The program with these arguments (separated by blanks), its configuration and nothing of our
    /// environment.
    pub fn command(&self, arguments: &str) -> Command {
        let mut command = program(&self.program);
        command
            .env_clear()
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .env("GITLAB_PI_BACKUP_CONFIG", self.path("config.toml"))
            .args(arguments.split_ascii_whitespace())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs the program to its end.
    pub fn run(&self, arguments: &str) -> Ended {
        self.command(arguments)
            .output()
            .expect("the program runs")
            .into()
    }

    /// Starts the program.
    pub fn spawn(&self, arguments: &str) -> Child {
        self.command(arguments).spawn().expect("the program starts")
    }

    /// One of GitLab's commands as root's shell would run it; standard input is `/dev/null`.
    pub fn gitlab(&self, command: &str) -> Command {
        let mut words = command.split_ascii_whitespace();
        let name = words.next().expect("a command");
        let mut command = Command::new(self.path("bin").join(name));
        command
            .env_clear()
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// What the stand-ins wrote about their calls.
    pub fn calls(&self) -> String {
        fs::read_to_string(self.path("calls.log")).unwrap_or_default()
    }

    /// Puts a data archive of `size` bytes under a name of GitLab's, a whole tar with what it needs.
    pub fn put_data_archive(&self, name: &str, size: u64) -> PathBuf {
        let path = self.path("var/opt/gitlab/backups").join(name);
        write_tar(
            &path,
            size,
            &[
                ("backup_information.yml", b":skipped: ''\n"),
                ("db/database.sql.gz", DUMP),
            ],
        );
        path
    }

    /// Puts a small config archive under a name of GitLab's.
    pub fn put_config_archive(&self, name: &str) -> PathBuf {
        let gitlab = self.path("etc/gitlab");
        fs::create_dir_all(gitlab.join("config_backup")).expect("a folder");
        // The real one is mostly comments, too.
        let settings = "# gitlab_rails['backup_path'] = '/var/opt/gitlab/backups'\n".repeat(1_000);
        for (name, text) in [
            ("gitlab.rb", settings.as_str()),
            ("gitlab-secrets.json", "{}"),
        ] {
            fs::write(gitlab.join(name), text).expect("GitLab's configuration");
        }
        let path = gitlab.join("config_backup").join(name);
        write_tar(&path, 4096, &[("/etc/gitlab/gitlab-secrets.json", b"{}")]);
        path
    }
}

/// The files below a folder, by name, with their SHA-256.
fn digests(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(folder).expect("a name").to_string_lossy();
                let digest = sha256(&fs::read(&path).expect("a file"));
                found.insert(name.into_owned(), digest);
            }
        }
    }
    found
}

/// The beginning of a database dump.
const DUMP: &[u8] = b"--\n-- PostgreSQL database dump\n--\n";

/// What fills a tar up to its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ballast {
    /// Bytes that do not repeat.
    Noise,
    /// A hole: takes no room on the disk.
    Hole,
}

/// Writes a tar of exactly `size` bytes: these members, ballast that never repeats, two zero blocks.
pub fn write_tar(path: &Path, size: u64, members: &[(&str, &[u8])]) {
    fill_tar(path, size, members, Ballast::Noise).expect("an archive");
}

/// Writes a tar of exactly `size` bytes, of any size: these members, ballast if there is room for it, two zero
/// blocks.
pub fn fill_tar(
    path: &Path,
    size: u64,
    members: &[(&str, &[u8])],
    ballast: Ballast,
) -> io::Result<()> {
    let mut tar = Vec::new();
    for (name, data) in members {
        tar.extend(tar_header(name, data.len() as u64));
        tar.extend(*data);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    let room = size.checked_sub(tar.len() as u64 + 3 * 512);
    let room = room.map(|room| {
        tar.extend(tar_header("uploads.tar.gz", room));
        room.next_multiple_of(512)
    });
    let end = tar.len() as u64 + room.unwrap_or(0);
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut out = BufWriter::with_capacity(1 << 20, options.open(path)?);
    out.write_all(&tar)?;
    if ballast == Ballast::Noise {
        // A page of noise, numbered: quick to make, and no two pages are alike.
        let mut state = size | 1;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .take(512)
        .flatten()
        .collect();
        let mut left = room.unwrap_or(0);
        for number in 0_u64.. {
            if left == 0 {
                break;
            }
            let len = left.min(4096);
            out.write_all(&number.to_le_bytes())?;
            out.write_all(&noise[8..usize::try_from(len).expect("a page")])?;
            left -= len;
        }
    }
    out.into_inner()?.set_len(end + TAR_END)
}

/// A tar ends with two blocks of zeros.
pub const TAR_END: u64 = 2 * 512;

/// The header of a member of `len` bytes.
pub fn tar_header(name: &str, len: u64) -> [u8; 512] {
    let mut header = [0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..108].copy_from_slice(b"0000600\0");
    header[124..136].copy_from_slice(format!("{len:011o}\0").as_bytes());
    header[148..156].fill(b' ');
    header[156] = b'0';
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// The binary under test, started by an emulator where it is built for another machine.
pub fn program(path: &Path) -> Command {
    let runner = if cfg!(target_arch = "aarch64") {
        std::env::var("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER").unwrap_or_default()
    } else {
        String::new()
    };
    let mut words = runner.split_ascii_whitespace();
    match words.next() {
        Some(emulator) => {
            let mut command = Command::new(emulator);
            command.args(words).arg(path);
            command
        }
        None => Command::new(path),
    }
}
