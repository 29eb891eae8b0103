//! `export projects` as its users meet it: GitLab's API and the places that exports go to are stand-ins, the program
//! is the real one.

mod support;

use std::fs;

use serde_json::Value;
use support::dropbox::Dropbox;
use support::gitlab_api::{Fault, GitLabApi, Kind, What};
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
        World::with(GitLabApi::start(), s3::Options::default(), more)
    }

    fn with(gitlab: GitLabApi, options: s3::Options, more: &str) -> World {
        let s3 = S3::start(options);
        let host = Host::without_config(PROGRAM);
        let place = s3.place("exports");
        let tables = tables(&gitlab, &format!("[destinations.store]\n{place}"), more);
        host.write_config(&host.config_with(&tables));
        World { gitlab, s3, host }
    }

    /// The keys in the bucket, without the time.
    fn stored(&self) -> Vec<String> {
        let objects = self.s3.objects("exports");
        let folder = |key: &String| key.rsplit_once('/').map(|(folder, _)| folder.to_owned());
        objects.keys().filter_map(folder).collect()
    }
}

/// What follows `[gitlab]`: where its API is, and where exports go.
fn tables(gitlab: &GitLabApi, place: &str, more: &str) -> String {
    let (url, token) = (gitlab.url(), gitlab.token());
    format!(
        "url = \"{url}\"\ntoken = \"{token}\"\n{place}\n\
         [projects]\ndestination = \"store\"\ngroups = [\"group\"]\nconcurrency = 6\n{more}\n"
    )
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

#[test]
fn gitlab_puts_exports_into_the_bucket_by_itself() {
    let world = World::direct("");
    for path in ["group/app", "group/sub/deep/lib", "other/not"] {
        world.gitlab.project(path);
    }
    let ended = world.host.run(EXPORT);
    assert_eq!(ended.status, Some(0), "{ended}");
    let paths = ["group/app", "group/sub/deep/lib"];
    assert_eq!(rows(&ended), all(&paths, "exported"), "{ended}");
    assert_eq!(world.stored(), paths);
    for row in ended.json()["projects"].as_array().expect("rows") {
        assert_eq!(row["direct"], true, "{row}");
        let key = row["key"].as_str().expect("a key");
        let object = &world.s3.objects("exports")[&key[1..]];
        assert_eq!(row["size"], object.bytes.len(), "{row}");
        let path = row["path"].as_str().expect("a path");
        assert!(object.bytes == world.gitlab.archive(path));
    }
    assert_eq!(world.gitlab.count(Kind::Download), 0);

    // The same day again: nothing is asked for.
    let again = world.host.run(EXPORT);
    assert_eq!(again.status, Some(0), "{again}");
    assert_eq!(rows(&again), all(&paths, "already_done"), "{again}");
    assert_eq!(world.gitlab.count(Kind::Export), 2);
}
