//! One list of promises, kept by every destination there is: those with a server are tried against one that was
//! written by others, where it is installed.

mod support;

use std::any::Any;
use std::fs;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::DateTime;
use gitlab_pi_backup::content_hash::{Digest, hash_source};
use gitlab_pi_backup::destination::{Destination, Options, Settings, Shipment};
use gitlab_pi_backup::error::ErrorKind;
use gitlab_pi_backup::progress::{Progress, Show};
use gitlab_pi_backup::retry::Patience;
use gitlab_pi_backup::settings::Reader;
use gitlab_pi_backup::source::Source;
use gitlab_pi_backup::source::memory::MemorySource;
use support::dav::{self, Dav, Flavour};
use support::dropbox::{Dropbox, Options as DropboxOptions};
use support::host::Host;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");
const ID: &str = "1702758583_2023_12_16_17.8.2";
const DATA: &str = "1702758583_2023_12_16_17.8.2_gitlab_backup.tar";
const CONFIG: &str = "gitlab_config_1702758583_2023_12_16.tar";
const NEWER: &str = "1702858583_2023_12_18_17.8.2_gitlab_backup.tar";

/// A place, as long as this lives.
struct Place {
    name: &'static str,
    /// The lines of its table.
    lines: String,
    /// What keeps it alive.
    _server: Box<dyn Any>,
}

impl Place {
    fn new(name: &'static str, lines: String, server: impl Any) -> Place {
        let server = Box::new(server);
        Place {
            name,
            lines,
            _server: server,
        }
    }
}

/// A program that serves, as long as this lives.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Not by a macro, whose output a test that passes does not show.
fn skipped(what: &str) {
    writeln!(io::stderr(), "skipped: {what}").expect("standard error");
}

fn dropbox() -> Place {
    let dropbox = Dropbox::start(DropboxOptions::default());
    let DropboxOptions {
        app_key,
        refresh_token,
        ..
    } = DropboxOptions::default();
    let url = dropbox.url();
    let lines = format!(
        "type = \"dropbox\"\napp_key = \"{app_key}\"\nrefresh_token = \"{refresh_token}\"\napi_url = \"{url}\"\ncontent_url = \"{url}\"\n"
    );
    Place::new("dropbox", lines, dropbox)
}

fn webdav(name: &'static str, flavour: Flavour) -> Place {
    let dav = Dav::start(dav::Options {
        flavour,
        quota: Some(1 << 40),
        ..dav::Options::default()
    });
    Place::new(name, lines(&dav), dav)
}

fn lines(dav: &Dav) -> String {
    format!(
        "type = \"webdav\"\nurl = \"{}\"\nusername = \"{}\"\npassword = \"{}\"\n",
        dav.url(),
        dav::USER,
        dav::PASSWORD
    )
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// Starts a server in a folder of its own, and waits until it takes connections. None, and that is told, where the
/// program does not work here.
fn serve(
    program: &str,
    arguments: impl Fn(&Path, u16) -> Vec<String>,
) -> Option<(Server, TempDir, u16)> {
    let version = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !version.is_ok_and(|status| status.success()) {
        skipped(&format!("`{program} --version` does not work here"));
        return None;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let port = free_port();
    let server = Command::new(program)
        .args(arguments(folder.path(), port))
        .env("RCLONE_CONFIG", "/dev/null")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a program that was called before");
    let mut server = Server(server);
    let begun = Instant::now();
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        let ended = server.0.try_wait().expect("a child");
        assert!(ended.is_none(), "{program} ended: {ended:?}");
        assert!(
            begun.elapsed() < Duration::from_mins(1),
            "{program} does not listen"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Some((server, folder, port))
}

fn rclone_webdav() -> Option<Place> {
    let (server, folder, port) = serve("rclone", |folder, port| {
        let address = format!("127.0.0.1:{port}");
        [
            "serve",
            "webdav",
            &folder.display().to_string(),
            "--addr",
            &address,
            "--user",
            "pi",
            "--pass",
            "secret",
        ]
        .map(str::to_owned)
        .into()
    })?;
    let lines = format!(
        "type = \"webdav\"\nurl = \"http://127.0.0.1:{port}\"\nusername = \"pi\"\npassword = \"secret\"\n"
    );
    Some(Place::new("webdav by rclone", lines, (server, folder)))
}

fn wsgidav() -> Option<Place> {
    let (server, folder, port) = serve("wsgidav", |folder, port| {
        let (folder, port) = (folder.display().to_string(), port.to_string());
        [
            "--host",
            "127.0.0.1",
            "--port",
            &port,
            "--root",
            &folder,
            "--auth",
            "anonymous",
            "--no-config",
            "-q",
        ]
        .map(str::to_owned)
        .into()
    })?;
    let lines = format!("type = \"webdav\"\nurl = \"http://127.0.0.1:{port}/\"\n");
    Some(Place::new("webdav by wsgidav", lines, (server, folder)))
}

/// A folder of this machine.
#[cfg(feature = "fs")]
fn folder() -> Place {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path().display();
    let lines = format!("type = \"fs\"\nroot = \"{root}\"\nrequire_mount = false\n");
    Place::new("fs", lines, folder)
}

#[cfg(feature = "s3")]
fn rclone_s3() -> Option<Place> {
    let (server, folder, port) = serve("rclone", |folder, port| {
        fs::create_dir(folder.join("bucket")).expect("a bucket");
        let (folder, address) = (folder.display().to_string(), format!("127.0.0.1:{port}"));
        [
            "serve",
            "s3",
            &folder,
            "--addr",
            &address,
            "--auth-key",
            "AKIDEXAMPLE,secret-key",
            "--vfs-cache-mode",
            "off",
        ]
        .map(str::to_owned)
        .into()
    })?;
    let lines = format!(
        "type = \"s3\"\nbucket = \"bucket\"\nendpoint = \"http://127.0.0.1:{port}\"\n\
         access_key_id = \"AKIDEXAMPLE\"\nsecret_access_key = \"secret-key\"\n"
    );
    Some(Place::new("s3 by rclone", lines, (server, folder)))
}

/// All there are here; each is a world of its own.
fn places() -> Vec<Place> {
    let mut places = vec![
        dropbox(),
        webdav("webdav", Flavour::Plain),
        webdav("nextcloud", Flavour::Nextcloud),
        webdav("owncloud", Flavour::OwnCloud),
    ];
    #[cfg(feature = "fs")]
    places.push(folder());
    #[cfg(feature = "s3")]
    places.extend(rclone_s3());
    places.extend(rclone_webdav());
    places.extend(wsgidav());
    places
}

fn client(place: &Place) -> Destination {
    let mut reader = Reader::new(&place.lines, [], None);
    let mut root = reader.root();
    let settings = Settings::read("place", &mut root, false);
    root.finish();
    let faults: Vec<_> = reader.finish().iter().map(ToString::to_string).collect();
    assert!(faults.is_empty(), "{}: {faults:?}", place.name);
    Destination::new(settings.expect("settings"), Duration::from_secs(20), 1)
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(future)
}

fn patience() -> Patience {
    Patience::new(Duration::from_secs(20))
}

fn source(bytes: &[u8]) -> Arc<dyn Source> {
    Arc::new(MemorySource::new(bytes.to_vec()))
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let next = std::iter::repeat_with(move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state.to_be_bytes()[0]
    });
    next.take(len).collect()
}

async fn store(
    destination: &Destination,
    path: &str,
    bytes: &[u8],
) -> Result<Digest, gitlab_pi_backup::error::Error> {
    let source = source(bytes);
    let fingerprint = source.fingerprint().expect("memory");
    let journals = tempfile::tempdir().expect("a temporary folder");
    let options = Options {
        chunk_len: 4 << 20,
        concurrency: 2,
        bandwidth: None,
        retry_for: Duration::from_secs(20),
        room: None,
    };
    let progress = Progress::new(Show::Nothing, "test", source.len());
    let shipment = Shipment {
        source,
        fingerprint: &fingerprint,
        source_path: Path::new("/memory"),
        path,
        doubts: &[],
        client_modified: DateTime::from_timestamp(1_702_758_583, 0).expect("a time"),
        journals: Some(journals.path()),
        options: &options,
        progress: &progress,
    };
    destination.store(&shipment).await
}

async fn put(destination: &Destination, path: &str, bytes: &[u8]) {
    let source = source(bytes);
    let hash = hash_source(&*source).expect("memory");
    let stored = destination.put(path, &source, hash, &patience()).await;
    let stored = stored.unwrap_or_else(|error| panic!("{path}: {error}"));
    assert_eq!(stored.size, bytes.len() as u64, "{path}");
}

#[test]
fn every_place_keeps_its_promises() {
    for place in places() {
        let name = place.name;
        let destination = client(&place);
        run(async {
            destination
                .authenticate(&patience())
                .await
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            let space = destination
                .space(&patience())
                .await
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(
                space.free.is_none_or(|free| free > 1_000_000),
                "{name}: {space:?}"
            );
            assert_eq!(
                destination.list("/Data", &patience()).await.expect(name),
                None,
                "{name}"
            );
            let path = format!("/Data/{DATA}");
            assert_eq!(
                destination.stat(&path, &patience()).await.expect(name),
                None,
                "{name}"
            );
            missing(&destination, name, &path).await;

            for len in [9_000_001, 4 << 20] {
                let bytes = noise(len);
                let path = format!("/Data/{len}_{DATA}");
                let hash = store(&destination, &path, &bytes)
                    .await
                    .unwrap_or_else(|error| panic!("{name}: {error}"));
                assert_eq!(
                    hash,
                    hash_source(&*source(&bytes)).expect("memory"),
                    "{name}"
                );
                stored(&destination, name, &path, &bytes).await;
                // A second archive of that name is refused, and nothing is touched.
                let error = store(&destination, &path, b"other").await;
                let error = error.expect_err(name);
                assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{name}: {error}");
                stored(&destination, name, &path, &bytes).await;
            }
            odd_names(&destination, name).await;
            replaced_and_deleted(&destination, name).await;
        });
    }
}

async fn missing(destination: &Destination, name: &str, path: &str) {
    let error = destination
        .read(path, 0, 10, &patience())
        .await
        .expect_err(name);
    assert_eq!(error.kind(), ErrorKind::NotFound, "{name}: {error}");
    assert!(
        !destination
            .delete(path, "0123456789", &patience())
            .await
            .expect(name),
        "{name}"
    );
}

async fn stored(destination: &Destination, name: &str, path: &str, bytes: &[u8]) {
    let entry = destination
        .stat(path, &patience())
        .await
        .expect(name)
        .expect(name);
    assert_eq!(
        entry.name,
        path.rsplit('/').next().expect("a name"),
        "{name}"
    );
    let file = entry.file.clone().expect(name);
    assert_eq!(file.size, bytes.len() as u64, "{name}");
    assert!(
        file.content_hash
            .is_none_or(|hash| hash == hash_source(&*source(bytes)).expect("memory")),
        "{name}"
    );
    let listed = destination
        .list("/Data", &patience())
        .await
        .expect(name)
        .expect(name);
    assert!(
        listed.contains(&entry),
        "{name}: {entry:?} is not in {listed:?}"
    );
    assert!(
        listed.iter().all(|entry| !entry.name.ends_with(".partial")),
        "{name}: {listed:?}"
    );
    let len = bytes.len() as u64;
    for (offset, wanted) in [
        (0, 10),
        (4_000_000, 1_000_000),
        (len - 5, 100),
        (len, 100),
        (len + 5, 100),
        (0, u64::MAX),
    ] {
        let part = destination.read(path, offset, wanted, &patience()).await;
        let part = part.unwrap_or_else(|error| panic!("{name}: {offset}: {error}"));
        let begin = usize::try_from(offset.min(len)).expect("small");
        let end =
            usize::try_from(offset.saturating_add(wanted.min(4 << 20)).min(len)).expect("small");
        assert!(
            part == bytes[begin.min(end)..end],
            "{name}: {offset}+{wanted}: {} bytes",
            part.len()
        );
    }
}

async fn odd_names(destination: &Destination, name: &str) {
    let names = [
        "a b.tar",
        "ä €.tar",
        "50%.tar",
        "100%25.tar",
        "a+b&c=d.tar",
        "semi;colon,comma.tar",
        "'quoted'.tar",
        "#hash.tar",
        "[x](y)!$@~^.tar",
        ".hidden.tar",
    ];
    // WsgiDAV takes an unescaped destination apart once more.
    let is_taken = |odd: &&str| name != "webdav by wsgidav" || !odd.contains([';', '#', '%']);
    let names: Vec<_> = names.into_iter().filter(is_taken).collect();
    for odd in &names {
        put(destination, &format!("/Odd folder/ü/{odd}"), odd.as_bytes()).await;
    }
    let listed = destination
        .list("/Odd folder/ü", &patience())
        .await
        .expect(name)
        .expect(name);
    let mut found: Vec<_> = listed.iter().map(|entry| entry.name.as_str()).collect();
    let mut wanted = names.clone();
    found.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(found, wanted, "{name}");
    for odd in names {
        let bytes = destination
            .read(&format!("/Odd folder/ü/{odd}"), 0, 100, &patience())
            .await;
        assert_eq!(bytes.expect(name), odd.as_bytes(), "{name}");
    }
    let outer = destination
        .list("/Odd folder", &patience())
        .await
        .expect(name)
        .expect(name);
    assert!(
        outer.len() == 1 && outer[0].file.is_none() && outer[0].name == "ü",
        "{name}: {outer:?}"
    );
}

async fn replaced_and_deleted(destination: &Destination, name: &str) {
    let path = "/Manifests/small.json";
    let rev = async || {
        let entry = destination.stat(path, &patience()).await.expect(name);
        entry.and_then(|entry| entry.file).expect(name).rev
    };
    put(destination, path, b"first").await;
    let first = rev().await;
    put(destination, path, b"second and longer").await;
    assert_eq!(
        destination
            .read(path, 0, 100, &patience())
            .await
            .expect(name),
        b"second and longer",
        "{name}"
    );
    // Only what was meant is deleted.
    let error = destination
        .delete(path, &first, &patience())
        .await
        .expect_err(name);
    assert_eq!(error.kind(), ErrorKind::Invalid, "{name}: {error}");
    assert_eq!(
        destination.read(path, 0, 6, &patience()).await.expect(name),
        b"second",
        "{name}"
    );
    assert!(
        destination
            .delete(path, &rev().await, &patience())
            .await
            .expect(name),
        "{name}"
    );
    assert_eq!(
        destination.stat(path, &patience()).await.expect(name),
        None,
        "{name}"
    );
    assert!(
        !destination
            .delete(path, &first, &patience())
            .await
            .expect(name),
        "{name}"
    );
}

#[test]
fn a_big_folder_is_listed_to_its_end() {
    let dav = Dav::start(dav::Options::default());
    for number in 0..5_000 {
        dav.put_file(&format!("/Data/{number}_{DATA}"), b"x");
    }
    let destination = client(&Place::new("webdav", lines(&dav), ()));
    let listed = run(destination.list("/Data", &patience())).expect("a listing");
    assert_eq!(listed.expect("a folder").len(), 5_000);
}

#[test]
fn the_whole_way_there_and_back() {
    for place in places() {
        let name = place.name;
        let host = Host::without_config(PROGRAM);
        let retention =
            "[retention]\nkeep_last = 1\nkeep_daily = 0\nkeep_weekly = 0\nkeep_monthly = 0\n";
        host.write_config(
            &host.config_with(&format!("[destinations.place]\n{}{retention}", place.lines)),
        );
        host.put_config_archive(CONFIG);
        host.put_data_archive(DATA, 3_000_000);
        let good = |arguments: &str| {
            let ended = host.run(arguments);
            assert_eq!(ended.status, Some(0), "{name}: {arguments}: {ended}");
            ended
        };
        assert_eq!(
            good("run --dry-run --json").json()["archives"][1]["uploads"][0]["status"],
            "would_upload",
            "{name}"
        );
        assert_eq!(
            good("run --skip-create --json").json()["archives"][1]["uploads"][0]["status"],
            "uploaded",
            "{name}"
        );
        let row = good("list --json --destination place").json()["backups"][0].clone();
        assert_eq!(
            (&row["backup_id"], &row["complete"]),
            (&ID.into(), &true.into()),
            "{name}"
        );
        good("verify");
        good("status --max-age 9000d");
        good("status --max-age 9000d --remote");
        let back = host.path("back");
        good(&format!("restore {ID} --to {}", back.display()));
        for archive in [
            host.path("var/opt/gitlab/backups").join(DATA),
            host.path("etc/gitlab/config_backup").join(CONFIG),
        ] {
            let restored =
                fs::read(back.join(archive.file_name().expect("a name"))).expect("restored");
            assert!(
                restored == fs::read(&archive).expect("the archive"),
                "{name}"
            );
        }
        // A newer one pushes it out.
        host.put_data_archive(NEWER, 3_100_000);
        host.put_config_archive("gitlab_config_1702858583_2023_12_18.tar");
        let pruned = good("run --skip-create --json").json()["pruned"].clone();
        let paths: Vec<_> = pruned
            .as_array()
            .expect("rows")
            .iter()
            .map(|row| row["path"].as_str().unwrap_or_default())
            .collect();
        assert!(
            paths.contains(&format!("/Data/{DATA}").as_str()),
            "{name}: {paths:?}"
        );
        let rows = good("list --json --destination place").json()["backups"].clone();
        assert_eq!(rows.as_array().map(Vec::len), Some(1), "{name}: {rows}");
        let rehearsed = host.run("rehearse --json").json();
        // What the archives of this test lack is told; that their bytes are as they were stored, too.
        let parts = rehearsed["parts"].as_array().expect("parts");
        let hashes = parts
            .iter()
            .filter(|part| part["part"] == "hash" && part["status"] == "ok");
        assert_eq!(hashes.count(), 2, "{name}: {rehearsed}");
    }
}
