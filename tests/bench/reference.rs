//! gitlab-backup-management, the program of 2021 that does nothing but this: python-gitlab lists a group, boto3 signs
//! an address, and after every sixth project it sleeps for a minute.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::measure;
use crate::s3;
use crate::world::{BUCKET, World};

/// Where its `app.py` lies, in a folder with a `venv` that has what its requirements.txt names.
const VARIABLE: &str = "GITLAB_BACKUP_MANAGEMENT";

/// Runs it unchanged, but for where S3 is and how long a minute is.
const DRIVER: &str = "
import os, runpy, sys, time
import boto3
client, sleep, minute = boto3.client, time.sleep, float(os.environ['MINUTE'])
boto3.client = lambda *a, **more: client(*a, endpoint_url=os.environ['S3'], **more)
time.sleep = lambda seconds: sleep(seconds * minute / 60)
runpy.run_path(sys.argv[1], run_name='__main__')
";

/// The program, if it is here; says how to get it if not.
pub fn installed() -> Option<PathBuf> {
    let app = std::env::var_os(VARIABLE).map(PathBuf::from);
    let app = app.filter(|app| app.is_file());
    if app.is_none() {
        println!(
            "Missing: gitlab-backup-management; {VARIABLE}=FOLDER/app.py, with its requirements in FOLDER/venv \
             (https://github.com/PierrickMartos/gitlab-backup-management)"
        );
    }
    app
}

/// Lets it export these groups; how long it takes.
///
/// # Panics
///
/// If it fails.
pub fn export(app: &PathBuf, world: &World, groups: &[u64], minute: Duration) -> Duration {
    let groups: Vec<String> = groups.iter().map(u64::to_string).collect();
    let roots = world.host.path("roots.pem");
    let python = app.with_file_name("venv/bin/python3");
    let mut command: Command = measure::plain(python);
    command
        .args(["-c", DRIVER])
        .arg(app)
        .env("HOME", world.host.root())
        .env("MINUTE", minute.as_secs_f64().to_string())
        .env("S3", world.s3.url())
        .env("REQUESTS_CA_BUNDLE", &roots)
        .env("AWS_CA_BUNDLE", &roots)
        .env("AWS_DEFAULT_REGION", s3::REGION)
        .env("AWS_ACCESS_KEY_ID", s3::KEY_ID)
        .env("AWS_SECRET_ACCESS_KEY", s3::SECRET)
        .env("AWS_S3_BUCKET", BUCKET)
        .env("GITLAB_URL", world.gitlab.url())
        .env("GITLAB_TOKEN", world.gitlab.token())
        .env("GROUPS_TO_BACKUP", groups.join(","));
    let begun = Instant::now();
    let output = command.output().expect("python3 starts");
    let took = begun.elapsed();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "gitlab-backup-management fails: {told}"
    );
    took
}
