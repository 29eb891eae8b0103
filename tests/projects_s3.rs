//! Exports of projects in a bucket: the addresses that GitLab is given, the region that the bucket tells, what is kept.
//!
//! Against the stand-in for S3, and against rclone's server, which checks signatures, too.

#![cfg(feature = "s3")]

mod support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use gitlab_pi_backup::destination::{Destination, Settings};
use gitlab_pi_backup::error::ErrorKind;
use gitlab_pi_backup::projects::name::Template;
use gitlab_pi_backup::projects::prune::{Outcome, Request, prune};
use gitlab_pi_backup::projects::stored::{Project, exports, latest};
use gitlab_pi_backup::retention::RetentionPolicy;
use gitlab_pi_backup::retry::Patience;
use gitlab_pi_backup::settings::Reader;
use gitlab_pi_backup::units::Percent;
use secrecy::ExposeSecret as _;
use support::host::{Ended, Host};
use support::s3::{KEY_ID, Options, REGION, S3, SECRET, amazon_place};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");
const KEY: &str = "/team/sub.v1/äpp 🦊/2026-11-22-04-00-00.tar.gz";

fn destination(lines: &str) -> Destination {
    let text = format!("[destinations.there]\n{lines}");
    let mut reader = Reader::new(&text, [], None);
    let mut root = reader.root();
    let mut sections = root.section("destinations").sections();
    let (name, mut section) = sections.pop().expect("a destination");
    let settings = Settings::read(&name, &mut section, true).expect("settings");
    drop((section, sections, root));
    assert_eq!(reader.finish().len(), 0, "{lines}");
    Destination::new(settings, Duration::from_secs(5), 1)
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(future)
}

fn patience() -> Patience {
    Patience::new(Duration::from_secs(2))
}

fn address(place: &Destination, key: &str, valid: Duration) -> String {
    let signed = run(place.presigned_put(key, valid)).expect("signed");
    signed.expect("an address").expose_secret().to_owned()
}

const DAY: Duration = Duration::from_hours(24);

/// What comes back to a request as GitLab sends it.
fn http(method: &str, address: &str, more: &str, body: &[u8]) -> (u16, String) {
    let rest = address.strip_prefix("http://").expect("without TLS");
    let (host, path) = rest.split_once('/').expect("a path");
    let mut stream = TcpStream::connect(host).expect("a connection");
    let head = format!(
        "{method} /{path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: Ruby\r\nAccept: */*\r\n{more}\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("sent");
    stream.write_all(body).expect("sent");
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).expect("a reply");
    let reply = String::from_utf8_lossy(&reply).into_owned();
    let status = reply.split(' ').nth(1).and_then(|text| text.parse().ok());
    (status.expect("a status"), reply)
}

const GZIP: &str = "Content-Type: application/gzip\r\n";

/// rclone's server, which is nobody's stand-in.
struct Rclone {
    child: Child,
    folder: TempDir,
    url: String,
}

impl Drop for Rclone {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Rclone {
    /// None, and that is told, if it is not installed.
    fn start() -> Option<Rclone> {
        let version = Command::new("rclone")
            .arg("version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if version.is_err() {
            let _ = writeln!(std::io::stderr(), "skipped: rclone is not installed");
            return None;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join("exports")).expect("a bucket");
        // Somebody else may take the port before the server does.
        for _ in 0..5 {
            let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            let at = free.local_addr().expect("an address").to_string();
            drop(free);
            let mut child = Command::new("rclone")
                .args(["serve", "s3", "--config", "/dev/null", "--addr", &at])
                .args(["--auth-key", &format!("{KEY_ID},{SECRET}")])
                .arg(folder.path())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("rclone starts");
            let deadline = Instant::now() + Duration::from_secs(20);
            while Instant::now() < deadline && child.try_wait().expect("a child").is_none() {
                if TcpStream::connect(&at).is_ok() {
                    let url = format!("http://{at}");
                    return Some(Rclone { child, folder, url });
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("rclone does not serve");
    }

    fn place(&self) -> Destination {
        let lines = amazon_place("exports");
        destination(&format!("endpoint = \"{}\"\n{lines}", self.url))
    }
}

/// What GitLab puts to an address is there, under the key, and was put there now.
fn takes_an_export(place: &Destination, stored: impl Fn() -> Vec<u8>) {
    let body: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let before = Utc::now() - TimeDelta::seconds(1);
    let there = address(place, KEY, DAY);
    assert_eq!(run(place.stat(KEY, &patience())).expect("a look"), None);
    let (status, reply) = http("PUT", &there, GZIP, &body);
    assert_eq!(status, 200, "{reply}");
    assert!(stored() == body);
    let found = run(place.stat(KEY, &patience())).expect("a look");
    let file = found.expect("it is there").file.expect("a file");
    assert_eq!(file.size, body.len() as u64);
    let modified = file.modified.expect("a time");
    assert!((before..=Utc::now()).contains(&modified), "{modified}");

    // It is good for nothing else.
    let refused = |method: &str, address: &str| {
        // With a body that nobody reads the connection would be reset.
        let (status, reply) = http(method, address, GZIP, b"");
        assert!((400..404).contains(&status), "{method} {reply}");
        assert!(reply.contains("SignatureDoesNotMatch"), "{method} {reply}");
    };
    refused("PUT", &there.replace("/team/", "/tean/"));
    refused(
        "PUT",
        &there.replace("X-Amz-Expires=86400", "X-Amz-Expires=604800"),
    );
    refused(
        "PUT",
        &there.replace("X-Amz-Signature=", "X-Amz-Signature=0"),
    );
    assert!(stored() == body);
}

#[test]
fn gitlab_can_put_an_export_to_an_address_and_nowhere_else() {
    let s3 = S3::start(Options::default());
    let place = destination(&s3.place("exports"));
    takes_an_export(&place, || s3.objects("exports")[&KEY[1..]].bytes.clone());
    let object = &s3.objects("exports")[&KEY[1..]];
    assert_eq!(object.content_type, "application/gzip");
    let there = address(&place, KEY, DAY);
    assert_eq!(http("GET", &there, "", b"").0, 403);
    assert_eq!(http("DELETE", &there, "", b"").0, 403);
    // The region was asked for once, by nobody who signed.
    let asked = s3.requests();
    let asked = asked.iter().filter(|seen| seen.path == "exports/");
    assert_eq!(asked.filter(|seen| seen.status == 403).count(), 1);
}

#[test]
fn rclones_server_takes_such_an_address_too() {
    let Some(rclone) = Rclone::start() else {
        return;
    };
    let place = rclone.place();
    let path = rclone.folder.path().join("exports").join(&KEY[1..]);
    takes_an_export(&place, || fs::read(&path).expect("stored"));
    let short = address(&place, "/a", Duration::from_secs(1));
    // Until it has certainly expired: whole seconds count.
    std::thread::sleep(Duration::from_millis(2100));
    let (status, reply) = http("PUT", &short, GZIP, b"");
    assert!(status >= 400 && reply.contains("AccessDenied"), "{reply}");
    assert!(!rclone.folder.path().join("exports/a").exists());
}

#[test]
fn an_address_ends_and_begins_with_its_time() {
    let s3 = S3::start(Options::default());
    let place = destination(&s3.place("exports"));
    let there = address(&place, KEY, DAY);
    for (ahead, status) in [(24 * 3600 + 60, 403), (24 * 3600 - 60, 200), (-3600, 403)] {
        s3.set_clock(ahead);
        assert_eq!(http("PUT", &there, GZIP, b"x").0, status, "{ahead}");
    }
}

#[test]
fn no_address_is_signed_by_a_clock_that_is_wrong() {
    let s3 = S3::start(Options::default());
    for (ahead, says) in [(3600, "59 minutes behind"), (-3600, "60 minutes ahead of")] {
        s3.set_clock(ahead);
        // Its answer to the question for the region tells its time.
        let place = destination(&s3.place("exports"));
        let error = run(place.presigned_put(KEY, DAY)).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Unauthorized);
        let text = error.to_string();
        let minute = says.replace("59", "60");
        assert!(text.contains(says) || text.contains(&minute), "{text}");
        assert!(text.contains("timedatectl"), "{text}");
    }
}

/// A machine whose archives go to a bucket.
fn host(lines: &str) -> Host {
    let host = Host::without_config(PROGRAM);
    host.write_config(&host.config_with(&format!(
        "[upload]\nretry_for = \"2s\"\n[destinations.there]\n{lines}"
    )));
    host.put_data_archive("1702758583_2023_12_16_17.8.2_gitlab_backup.tar", 20_000);
    host.put_config_archive("gitlab_config_1702758583_2023_12_16.tar");
    host
}

fn stores(host: &Host, status: i32, says: &[&str]) -> Ended {
    let ended = host.run("run --skip-create");
    assert_eq!(ended.status, Some(status), "{ended}");
    for text in says {
        assert!(ended.err.contains(text), "`{text}` is not in {ended}");
    }
    assert!(!format!("{ended}").contains(SECRET), "{ended}");
    ended
}

/// … who are reached by Amazon's own names.
fn amazon(lines: &str) -> (S3, Host) {
    let s3 = S3::start(Options {
        tls: true,
        buckets: vec![
            ("exports", REGION),
            ("dotted.exports", REGION),
            ("american", "us-east-1"),
        ],
        ..Options::default()
    });
    let mut host = host(lines);
    host.set("HTTPS_PROXY", s3.proxy_url())
        .set("SSL_CERT_FILE", s3.ca_file());
    (s3, host)
}

#[test]
fn amazons_buckets_are_found_in_whatever_region() {
    for bucket in ["exports", "dotted.exports", "american"] {
        let (s3, host) = amazon(&amazon_place(bucket));
        stores(&host, 0, &[]);
        assert!(s3.objects(bucket).len() >= 3, "{bucket}");
    }
    let wrong = amazon_place("exports") + "region = \"us-east-1\"\n";
    let (s3, host) = amazon(&wrong);
    stores(
        &host,
        0,
        &["the bucket is in the region eu-west-3, not in us-east-1"],
    );
    assert!(s3.objects("exports").len() >= 3);
}

#[test]
fn a_bucket_that_amazon_does_not_know_is_told() {
    let (_s3, host) = amazon(&amazon_place("no-such-bucket"));
    stores(
        &host,
        1,
        &["there is no bucket no-such-bucket", "make the bucket"],
    );
}

#[test]
fn an_endpoint_of_another_region_is_told_with_the_right_one() {
    let american = "endpoint = \"https://s3.us-east-1.amazonaws.com\"\n";
    for region in ["", "region = \"us-east-1\"\n"] {
        let (_s3, host) = amazon(&format!("{american}{region}{}", amazon_place("exports")));
        stores(
            &host,
            1,
            &["set `region = \"eu-west-3\"`, and an `endpoint` of that region"],
        );
    }
}

#[test]
fn a_server_of_ones_own_tells_its_region_or_is_taken_to_be_in_the_usual_one() {
    let s3 = S3::start(Options::default());
    stores(&host(&s3.place("exports")), 0, &[]);
    let wrong = s3.place("exports") + "region = \"us-east-1\"\n";
    stores(&host(&wrong), 1, &["set `region = \"eu-west-3\"`"]);
    let hidden = Options {
        hides_regions: true,
        buckets: vec![("exports", "us-east-1"), ("elsewhere", REGION)],
        ..Options::default()
    };
    let s3 = S3::start(hidden);
    stores(&host(&s3.place("exports")), 0, &[]);
    stores(
        &host(&s3.place("elsewhere")),
        1,
        &["set `region = \"eu-west-3\"`"],
    );
    stores(
        &host(&s3.place("missing")),
        1,
        &["NoSuchBucket", "make the bucket"],
    );
    s3.set_clock(3600);
    stores(
        &host(&s3.place("exports")),
        1,
        &["RequestTimeTooSkewed", "timedatectl"],
    );
    s3.set_clock(0);
    s3.fault("", "exports", 1000, 403, "AccessDenied");
    stores(
        &host(&s3.place("exports")),
        1,
        &["AccessDenied", "let these keys list the bucket"],
    );
}

fn policy(rules: &str) -> RetentionPolicy {
    let mut reader = Reader::new(&format!("[retention]\n{rules}"), [], None);
    let policy = RetentionPolicy::read(&mut reader.root().section("retention"));
    assert_eq!(reader.finish().len(), 0, "{rules}");
    policy.expect("a policy")
}

fn time(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).expect("a time").to_utc()
}

#[test]
fn pruning_goes_no_further_than_the_exports_of_one_project() {
    let s3 = S3::start(Options {
        page: 2,
        ..Options::default()
    });
    let now = time("2026-11-22T05:00:00Z");
    let stays = [
        "team/app/2026-11-22-04-00-00.tar.gz",
        "team/app/2026-11-21-04-00-00.tar.gz",
        "team/app/2021-05-06-07-08-09.tgz",
        "team/app/notes.txt",
        "team/app/sub/2026-11-01-04-00-00.tar.gz",
        "team/app2/2026-11-01-04-00-00.tar.gz",
        "team/2026-11-01-04-00-00.tar.gz",
    ];
    let goes = [
        "team/app/2026-11-19-04-00-00.tar.gz.age",
        "team/app/2026-11-20-04-00-00.tar.gz",
    ];
    for key in stays.iter().chain(&goes) {
        s3.put_object("exports", key, b"the export", now);
    }
    let place = destination(&s3.place("exports"));
    let name = Template::default();
    let project = Project {
        path: "team/app",
        id: 7,
    };
    let request = Request {
        name: &name,
        policy: &policy("keep_last = 2"),
        shrink: Percent(30),
        made: "/team/app/2026-11-22-04-00-00.tar.gz",
    };
    let mut outcome = Outcome::default();
    run(prune(
        &place,
        project,
        &request,
        &patience(),
        &now,
        &mut outcome,
    ));
    assert!(
        outcome.error.is_none() && outcome.warning.is_none(),
        "{outcome:?}"
    );
    let mut pruned: Vec<_> = outcome.pruned.iter().map(|row| &row.path[1..]).collect();
    pruned.sort_unstable();
    assert_eq!(pruned, goes);
    let left: Vec<_> = s3.objects("exports").into_keys().collect();
    let mut expected = stays.map(str::to_owned);
    expected.sort_unstable();
    assert_eq!(left, expected);

    let stored = run(exports(&place, &name, project, &patience())).expect("a list");
    assert_eq!(stored.len(), 3);
    assert_eq!(
        latest(&stored).map(|export| &export.key[1..]),
        Some(stays[0])
    );

    // A project without any export has none, and one that cannot be listed is an error.
    let nobody = Project {
        path: "nobody/app",
        id: 8,
    };
    let none = run(exports(&place, &name, nobody, &patience())).expect("a list");
    assert_eq!(none, []);
    s3.fault("GET", "exports", 1, 403, "AccessDenied");
    let mut outcome = Outcome::default();
    run(prune(
        &place,
        project,
        &request,
        &patience(),
        &now,
        &mut outcome,
    ));
    assert!(
        outcome.error.is_some() && outcome.pruned.is_empty(),
        "{outcome:?}"
    );
}

#[test]
fn a_destination_of_exports_alone_is_passed_over_by_what_is_about_backups() {
    let s3 = S3::start(Options::default());
    let disk = tempfile::tempdir().expect("a temporary folder");
    let exports = format!("{}kinds = []\n", s3.place("exports"));
    let with_disk = format!(
        "{exports}[destinations.disk]\ntype = \"fs\"\nrequire_mount = false\nroot = \"{}\"\n",
        disk.path().display()
    );
    let projects = "[projects]\ndestination = \"there\"\nall = true\n";

    let host = host(&format!("{with_disk}{projects}"));
    let ended = stores(&host, 0, &[]);
    assert!(!ended.err.contains("there"), "{ended}");
    for command in ["run --skip-create --dry-run", "verify", "sync"] {
        let ended = host.run(command);
        assert_eq!(ended.status, Some(0), "{command}: {ended}");
        assert!(!ended.out.contains("there:"), "{command}: {ended}");
    }
    assert_eq!(
        host.run("list --json").json()["backups"][0]["destination"],
        "disk"
    );
    let health = host.run("status --json").json();
    assert_eq!(health["destinations"].as_array().map(Vec::len), Some(1));
    assert_eq!(s3.requests().len(), 0, "{:?}", s3.requests());

    let told = |text: &str, says: &str| {
        host.write_config(&host.config_with(&format!("[destinations.there]\n{text}")));
        let ended = host.run("run --skip-create");
        assert_eq!(ended.status, Some(2), "{ended}");
        assert!(ended.err.contains(says), "{ended}");
    };
    told(&with_disk, "`destinations.there.kinds`: names no kind");
    let other = projects.replace("there", "disk");
    told(
        &format!("{with_disk}{other}"),
        "`destinations.there.kinds`: names no kind",
    );
    told(
        &format!("{exports}{projects}"),
        "no destination gets backups",
    );
}
