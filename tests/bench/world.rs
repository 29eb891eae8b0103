//! GitLab, an object store, and a machine that exports from the one to the other, all over TLS.

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::dropbox::Dropbox;
use crate::gitlab_api::{GitLabApi, Limits, Options, Pace};
use crate::host::Host;
use crate::measure::{self, Usage};
use crate::s3::{self, S3};

/// The program under test, as `cargo bench` built it: like a release.
const OURS: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");
/// The certificates that clients of the world outside trust, too.
const SYSTEM: &str = "/etc/ssl/certs/ca-certificates.crt";
/// The bucket.
pub const BUCKET: &str = "exports";

/// All three.
pub struct World {
    pub gitlab: GitLabApi,
    pub s3: S3,
    pub host: Host,
    minute: Duration,
}

impl World {
    /// GitLab's usual limits, in minutes of this length.
    pub fn new(minute: Duration) -> World {
        let s3 = S3::start(s3::Options {
            tls: true,
            ..s3::Options::default()
        });
        let gitlab = GitLabApi::with(Options {
            tls: true,
            minute,
            upload_ca: Some(s3.ca_file().to_owned()),
            ..Options::default()
        });
        let moment = Duration::from_millis(5);
        gitlab.set(|settings| {
            settings.limits = Limits::usual();
            settings.pace = Pace::Time {
                queued: moment,
                started: moment,
            };
        });
        let mut host = Host::without_config(OURS);
        let roots = host.path("roots.pem");
        // As many as a client has to keep anywhere.
        let system = fs::read_to_string(SYSTEM).unwrap_or_default();
        let own = [gitlab.ca_file().expect("TLS"), s3.ca_file()];
        let own = own.map(|path| fs::read_to_string(path).expect("a certificate"));
        fs::write(&roots, system + &own.concat()).expect("certificates");
        host.set("SSL_CERT_FILE", roots);
        World {
            gitlab,
            s3,
            host,
            minute,
        }
    }

    /// Trusts the stand-in for Dropbox, too.
    pub fn trust(&self, dropbox: &Dropbox) {
        let path = self.host.path("roots.pem");
        let known = fs::read_to_string(&path).expect("certificates");
        let ca = fs::read_to_string(dropbox.ca_file().expect("TLS")).expect("a certificate");
        fs::write(path, known + &ca).expect("certificates");
    }

    /// The lines of the bucket.
    pub fn bucket(&self) -> String {
        self.s3.place(BUCKET)
    }

    /// The lines of a folder of this machine.
    pub fn folder(&self) -> String {
        let root = self.host.path("away");
        fs::create_dir_all(&root).expect("a folder");
        format!("type = \"fs\"\nroot = \"{}\"", root.display())
    }

    /// Exports `groups` to a place, and says what that cost.
    ///
    /// # Panics
    ///
    /// If not everything is exported.
    pub fn export(&self, groups: &str, place: &str, more: &str) -> Usage {
        let (url, token) = (self.gitlab.url(), self.gitlab.token());
        let minute = self.minute.as_secs();
        self.host.write_config(&self.host.config_with(&format!(
            "url = \"{url}\"\ntoken = \"{token}\"\n\
             [destinations.store]\n{place}\n\
             [projects]\ndestination = \"store\"\ngroups = {groups}\nconcurrency = 6\n\
             export_limit = \"6/{minute}s\"\ndownload_limit = \"1/{minute}s\"\n{more}\n"
        )));
        measure::run(wrapped(&self.host.command("export projects")))
    }
}

/// The same command inside the wrapper that measures it.
fn wrapped(command: &Command) -> Command {
    let mut wrapped = measure::wrapped(command.get_program());
    wrapped.args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            wrapped.env(name, value);
        }
    }
    wrapped
}
