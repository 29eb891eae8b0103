//! `export projects` as its users meet it: GitLab's API and the places that exports go to are stand-ins, the program
//! is the real one.

#[path = "../support/mod.rs"]
mod support;

mod accidents;
mod crash;
mod direct;
mod limits;
mod through;

use serde_json::Value;
use support::gitlab_api::{GitLabApi, Pace};
use support::host::{Ended, Host};
use support::s3::{self, S3};

const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");
const EXPORT: &str = "export projects --json";

/// GitLab, a bucket, and a machine that knows both.
struct World {
    gitlab: GitLabApi,
    s3: S3,
    host: Host,
}

impl World {
    /// Exports of `group` go to the bucket; `more` is the rest of `[projects]`.
    fn direct(more: &str) -> World {
        World::with(quick(GitLabApi::start()), s3::Options::default(), more)
    }

    fn with(gitlab: GitLabApi, options: s3::Options, more: &str) -> World {
        let s3 = S3::start(options);
        let host = Host::without_config(PROGRAM);
        configure(&host, &gitlab, &s3.place("exports"), more);
        World { gitlab, s3, host }
    }

    /// Exports of `group` go to a folder of this machine.
    fn folder(more: &str) -> World {
        let world = World::direct(more);
        let place = folder(&world.host);
        configure(&world.host, &world.gitlab, &place, more);
        world
    }

    /// In the order of their paths, each when the one before is done.
    fn one_at_a_time(self) -> World {
        let path = self.host.path("config.toml");
        let config = std::fs::read_to_string(path).expect("the configuration");
        let config = config.replace("concurrency = 6", "concurrency = 1");
        self.host.write_config(&config);
        self
    }

    /// The keys in the bucket, without the time.
    fn stored(&self) -> Vec<String> {
        let objects = self.s3.objects("exports");
        let folder = |key: &String| key.rsplit_once('/').map(|(folder, _)| folder.to_owned());
        objects.keys().filter_map(folder).collect()
    }

    /// The bytes that a row tells of, in the folder.
    fn read(&self, row: &Value) -> Vec<u8> {
        let key = row["key"].as_str().expect("a key");
        std::fs::read(self.host.path("away").join(&key[1..])).expect("stored")
    }

    /// Nothing is left on this machine but what is known of the exports.
    fn assert_tidy(&self) {
        let left = std::fs::read_dir(self.host.path("state/projects")).expect("the folder");
        let names = left.map(|entry| entry.expect("an entry").file_name());
        let strays: Vec<_> = names
            .filter(|name| !name.to_string_lossy().ends_with(".jsonl"))
            .collect();
        assert!(strays.is_empty(), "{strays:?}");
    }
}

/// Exports take no longer than they must.
fn quick(gitlab: GitLabApi) -> GitLabApi {
    let a_moment = std::time::Duration::from_millis(5);
    gitlab.set(|settings| {
        settings.pace = Pace::Time {
            queued: a_moment,
            started: a_moment,
        };
    });
    gitlab
}

/// The lines of a destination in a folder of this machine.
fn folder(host: &Host) -> String {
    let root = host.path("away");
    std::fs::create_dir_all(&root).expect("a folder");
    format!("type = \"fs\"\nroot = \"{}\"", root.display())
}

/// Writes a configuration: where GitLab's API is, and where exports go.
fn configure(host: &Host, gitlab: &GitLabApi, place: &str, more: &str) {
    let (url, token) = (gitlab.url(), gitlab.token());
    // The stand-in has no limits unless it is told some.
    let unlimited = if more.contains("export_limit") {
        ""
    } else {
        "export_limit = \"0\"\ndownload_limit = \"0\"\n"
    };
    host.write_config(&host.config_with(&format!(
        "url = \"{url}\"\ntoken = \"{token}\"\n\
         [destinations.store]\n{place}\n\
         [projects]\ndestination = \"store\"\ngroups = [\"group\"]\nconcurrency = 6\n\
         {unlimited}{more}\n"
    )));
}

/// The statuses of the rows, by their paths.
fn rows(ended: &Ended) -> Vec<(String, String)> {
    let report = ended.json();
    let rows = report["projects"].as_array().expect("rows").iter();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    rows.map(|row| (text(&row["path"]), text(&row["status"])))
        .collect()
}

fn all(paths: &[&str], status: &str) -> Vec<(String, String)> {
    let row = |path: &&str| ((*path).to_owned(), status.to_owned());
    paths.iter().map(row).collect()
}

/// The only row.
fn row(ended: &Ended) -> Value {
    let report = ended.json();
    let rows = report["projects"].as_array().expect("rows");
    assert_eq!(rows.len(), 1, "{ended}");
    rows[0].clone()
}

/// What the only row says went wrong.
fn error(ended: &Ended) -> String {
    let row = row(ended);
    row["error"].as_str().unwrap_or_default().to_owned()
}
