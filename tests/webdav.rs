//! The program and a `WebDAV` server: what is stored, what is refused, and what a kill leaves.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::dav::{Dav, Flavour, Options, PASSWORD, USER, What};
use support::host::{Ended, Host};

const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");
const ID: &str = "1702758583_2023_12_16_17.8.2";
const DATA: &str = "1702758583_2023_12_16_17.8.2_gitlab_backup.tar";
const CONFIG: &str = "gitlab_config_1702758583_2023_12_16.tar";
const SEND: &str = "run --skip-create --json";
const SIZE: u64 = (5 << 20) + 1_024;

fn table(url: &str, more: &str) -> String {
    format!(
        "[destinations.cloud]\ntype = \"webdav\"\nurl = \"{url}\"\nusername = \"{USER}\"\npassword = \"{PASSWORD}\"\n{more}\n\
         [upload]\nretry_for = \"1s\"\n"
    )
}

fn host(dav: &Dav, more: &str) -> Host {
    let host = Host::without_config(PROGRAM);
    host.write_config(&host.config_with(&table(&dav.url(), more)));
    host.put_config_archive(CONFIG);
    host.put_data_archive(DATA, SIZE);
    host
}

fn machine(options: Options) -> (Dav, Host) {
    let dav = Dav::start(options);
    let host = host(&dav, "");
    (dav, host)
}

fn local(host: &Host) -> Vec<u8> {
    fs::read(host.path("var/opt/gitlab/backups").join(DATA)).expect("the archive")
}

/// Everything is there, whole, and nothing else.
fn assert_whole(dav: &Dav, host: &Host, ended: &Ended) {
    assert_eq!(ended.status, Some(0), "{ended}");
    let files = dav.files();
    let names: Vec<_> = files.keys().map(String::as_str).collect();
    let manifests = format!("/Manifests/{ID}");
    assert_eq!(
        names,
        [
            format!("/Config/{CONFIG}").as_str(),
            &format!("/Data/{DATA}"),
            &format!("{manifests}.json"),
            &format!("{manifests}.members.gz"),
            &format!("{manifests}.projects.gz"),
            "/RECOVERY.md"
        ],
        "{ended}"
    );
    assert!(
        files[&format!("/Data/{DATA}")] == local(host),
        "the bytes differ: {ended}"
    );
}

#[test]
fn an_archive_is_proved_before_it_has_its_name() {
    for flavour in [Flavour::Plain, Flavour::Nextcloud, Flavour::OwnCloud] {
        let (dav, host) = machine(Options {
            flavour,
            ..Options::default()
        });
        let ended = host.run(SEND);
        assert_whole(&dav, &host, &ended);
        let rows = &ended.json()["archives"];
        assert_eq!(rows[1]["uploads"][0]["status"], "uploaded", "{ended}");
        assert_eq!(rows[1]["uploads"][0]["bytes_sent"], SIZE);
        let requests = dav.requests();
        let of = |method: &str, name: &str| {
            requests
                .iter()
                .filter(|request| request.starts_with(method) && request.contains(name))
                .count()
        };
        assert_eq!((of("PUT", DATA), of("MOVE", DATA)), (1, 1), "{requests:?}");
        // Where the server tells no hash of its own, all of it is read back.
        let read_back = usize::from(flavour == Flavour::Plain);
        assert_eq!(of("GET", DATA), read_back, "{flavour:?}: {requests:?}");
        assert!(
            !requests
                .iter()
                .any(|request| *request == format!("PUT /Data/{DATA}")),
            "{requests:?}"
        );
        // Again: nothing is sent and nothing is read.
        dav.forget();
        let again = host.run(SEND);
        assert_eq!(again.status, Some(0), "{again}");
        assert_eq!(
            again.json()["archives"][1]["uploads"][0]["status"],
            "already_present",
            "{again}"
        );
        let requests = dav.requests();
        let of_archives = |request: &&String| {
            let is_archive = request.contains(DATA) || request.contains(CONFIG);
            is_archive && !request.starts_with("PROPFIND")
        };
        assert_eq!(
            requests.iter().filter(of_archives).count(),
            0,
            "{requests:?}"
        );
        let verified = host.run("verify --json");
        assert_eq!(verified.status, Some(0), "{verified}");
        let detail = verified.json()["archives"][1]["detail"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        assert!(detail.contains("rehearse"), "{verified}");
    }
}

#[test]
fn what_is_there_is_told_by_records_manifests_or_its_bytes() {
    let (dav, host) = machine(Options::default());
    assert_eq!(host.run(SEND).status, Some(0));
    let path = format!("/Data/{DATA}");
    let outcome = || {
        dav.forget();
        let ended = host.run(SEND);
        let status = ended.json()["archives"][1]["uploads"][0]["status"].clone();
        let read = dav
            .requests()
            .iter()
            .any(|request| *request == format!("GET {path}"));
        (status, read, ended)
    };
    // This machine has forgotten everything: the manifest there knows.
    fs::remove_dir_all(host.path("state/backups")).expect("removed");
    let (status, read, ended) = outcome();
    assert_eq!(
        (status, read),
        (Value::from("already_present"), false),
        "{ended}"
    );
    // Somebody has put it there once more: the same bytes, called otherwise.
    dav.put_file(&path, &local(&host));
    let (status, read, ended) = outcome();
    assert_eq!(
        (status, read),
        (Value::from("already_present"), true),
        "{ended}"
    );
    let (status, read, ended) = outcome();
    assert_eq!(
        (status, read),
        (Value::from("already_present"), false),
        "{ended}"
    );
    // Other bytes of the same size.
    let mut other = local(&host);
    other[1_000_000] ^= 1;
    dav.put_file(&path, &other);
    let (status, _, ended) = outcome();
    assert_eq!(
        (status, ended.status),
        (Value::from("conflict"), Some(1)),
        "{ended}"
    );
    assert!(dav.files()[&path] == other, "nothing is touched");
    // Of another size: nobody reads it.
    dav.put_file(&path, b"short");
    let (status, read, ended) = outcome();
    assert_eq!((status, read), (Value::from("conflict"), false), "{ended}");
}

#[test]
fn without_manifest_and_record_it_is_read_back() {
    let (dav, host) = machine(Options::default());
    dav.put_file(&format!("/Data/{DATA}"), &local(&host));
    let dry = host.run("run --dry-run --json");
    let row = dry.json()["archives"][1]["uploads"][0].clone();
    assert_eq!(
        (&row["status"], &row["verified"]),
        (&Value::from("already_present"), &Value::from(false)),
        "{dry}"
    );
    let ended = host.run(SEND);
    assert_whole(&dav, &host, &ended);
    let row = ended.json()["archives"][1]["uploads"][0].clone();
    assert_eq!(
        (&row["status"], &row["verified"]),
        (&Value::from("already_present"), &Value::from(true)),
        "{ended}"
    );
}

/// What is done to a server before it is asked.
type Prepare = Box<dyn Fn(&Dav)>;

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn what_servers_refuse_is_told_with_the_way_out() {
    let answer = |status, text| {
        move |dav: &Dav| dav.fault("PUT", "", 0, usize::MAX, What::Answer(status, text))
    };
    let cases: [(&str, Options, Prepare, &[&str]); 14] = [
        (
            "423",
            Options::default(),
            Box::new(answer(423, "")),
            &["answered 423", "locked"],
        ),
        (
            "413",
            Options::default(),
            Box::new(answer(413, "<html>big</html>")),
            &["answered 413 with a web page", "client_max_body_size"],
        ),
        (
            "403",
            Options {
                read_only: true,
                ..Options::default()
            },
            Box::new(|_| ()),
            &["answered 403", "read-only"],
        ),
        (
            "507",
            Options::default(),
            Box::new(answer(507, "")),
            &["answered 507", "make room"],
        ),
        (
            "full",
            Options {
                quota: Some(1_000_000),
                ..Options::default()
            },
            Box::new(|_| ()),
            &["only", "free"],
        ),
        (
            "500",
            Options::default(),
            Box::new(answer(500, "oops")),
            &["answered 500: oops", "tried again"],
        ),
        (
            "a page",
            Options::default(),
            Box::new(|dav| {
                dav.fault(
                    "PROPFIND",
                    "",
                    0,
                    usize::MAX,
                    What::Answer(200, "<html>Log in</html>"),
                );
            }),
            &["answered 200", "is `url` the address of a WebDAV folder"],
        ),
        (
            "a page as 207",
            Options::default(),
            Box::new(|dav| {
                dav.fault(
                    "PROPFIND",
                    "",
                    0,
                    usize::MAX,
                    What::Answer(207, "<html>Log in</html>"),
                );
            }),
            &["the reply is a <html>"],
        ),
        (
            "no folder",
            Options::default(),
            Box::new(Dav::remove_root),
            &["looking at the folder of `url`: it is not there"],
        ),
        (
            "elsewhere",
            Options::default(),
            Box::new(|dav| {
                dav.fault(
                    "",
                    "",
                    0,
                    usize::MAX,
                    What::Redirect("https://login.example.org/sso?ticket=marked-ticket".to_owned()),
                );
            }),
            &["sends on to https://login.example.org/sso, another server"],
        ),
        (
            "round and round",
            Options::default(),
            Box::new(|dav| {
                dav.fault(
                    "",
                    "",
                    0,
                    usize::MAX,
                    What::Redirect("/remote.php/dav/files/pi/x".to_owned()),
                );
            }),
            &["sends on again and again"],
        ),
        (
            "swallows",
            Options {
                swallows: 7,
                ..Options::default()
            },
            Box::new(|_| ()),
            &["were sent, but", "arrived"],
        ),
        (
            "corrupts",
            Options {
                corrupts: true,
                ..Options::default()
            },
            Box::new(|_| ()),
            &["stored other bytes than were sent"],
        ),
        (
            "lies",
            Options {
                lies: 512,
                ..Options::default()
            },
            Box::new(|_| ()),
            &["were sent, but", "arrived"],
        ),
    ];
    for (name, options, prepare, told) in cases {
        let (dav, host) = machine(options);
        prepare(&dav);
        let ended = host.run(SEND);
        assert_eq!(ended.status, Some(1), "{name}: {ended}");
        let error = ended.json()["error"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        for part in told {
            assert!(
                error.contains(part) || ended.err.contains(part),
                "{name}: {part} is not in {ended}"
            );
        }
        assert!(
            !dav.files().contains_key(&format!("/Data/{DATA}")),
            "{name}"
        );
        for secret in [PASSWORD, "cGk6bWFya2Vk", "marked-ticket"] {
            assert!(
                !ended.err.contains(secret) && !ended.out.contains(secret),
                "{name}: {ended}"
            );
        }
    }
}

#[test]
fn wrong_credentials_are_told_and_not_repeated() {
    let dav = Dav::start(Options::default());
    let host = host(&dav, "");
    let text = host
        .config_with(&table(&dav.url(), ""))
        .replace(PASSWORD, "marked-wrong");
    host.write_config(&text);
    for arguments in ["run --skip-create -vv", "list -vv", "verify", "doctor"] {
        let ended = host.run(arguments);
        assert_ne!(ended.status, Some(0), "{arguments}: {ended}");
        let all = format!("{}{}", ended.out, ended.err);
        assert!(all.contains("answered 401"), "{arguments}: {ended}");
        assert!(all.contains("app passwords"), "{arguments}: {ended}");
        for secret in ["marked-wrong", "cGk6bWFya2VkLXdyb25n"] {
            assert!(!all.contains(secret), "{arguments}: {ended}");
        }
    }
    assert!(dav.files().is_empty());
}

#[test]
fn a_certificate_of_ones_own_is_trusted_when_it_is_named() {
    let dav = Dav::start(Options {
        tls: true,
        ..Options::default()
    });
    let strange = host(&dav, "");
    let ended = strange.run(SEND);
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(ended.err.contains("certificate is not trusted"), "{ended}");
    let ca = dav.ca_file().display();
    let host = host(&dav, &format!("ca_file = \"{ca}\""));
    assert_whole(&dav, &host, &host.run(SEND));
    for (text, told) in [("", "is empty"), ("nonsense", "no certificate in it")] {
        let path = host.path("ca.pem");
        fs::write(&path, text).expect("written");
        host.write_config(&host.config_with(&table(
            &dav.url(),
            &format!("ca_file = \"{}\"", path.display()),
        )));
        let ended = host.run("list");
        assert_eq!(ended.status, Some(1), "{ended}");
        assert!(
            ended.err.contains(told) && ended.err.contains("ca_file"),
            "{ended}"
        );
    }
}

#[test]
fn secrets_come_from_files_too() {
    let dav = Dav::start(Options::default());
    let host = host(&dav, "");
    let path = host.path("cloud.password");
    fs::write(&path, format!("{PASSWORD}\n")).expect("written");
    let line = format!("password = \"{PASSWORD}\"");
    let text = host.config_with(&table(&dav.url(), ""));
    host.write_config(&text.replace(&line, &format!("password_file = \"{}\"", path.display())));
    let open = host.run("list");
    assert_eq!(open.status, Some(2), "{open}");
    assert!(open.err.contains("chmod 600"), "{open}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
    assert_whole(&dav, &host, &host.run(SEND));
}

#[test]
fn what_is_wrong_in_the_file_is_told_with_its_line() {
    let host = Host::without_config(PROGRAM);
    for (lines, told) in [
        ("", "`destinations.cloud.url` is missing"),
        (
            "url = \"http://192.168.1.9/dav\"",
            "line 9: `destinations.cloud.url`: takes an address that starts with https://",
        ),
        (
            "url = \"https://u:marked@h/\"",
            "`destinations.cloud.url`: takes an address without a name or password",
        ),
        (
            "url = \"https://h/?a=marked\"",
            "`destinations.cloud.url`: takes an address without `?`",
        ),
        (
            "url = \"cloud\"",
            "`destinations.cloud.url`: takes an address, like",
        ),
        (
            "url = \"https://h/\"\nusername = \"u\"",
            "line 10: `destinations.cloud.username`: needs `password`",
        ),
        (
            "url = \"https://h/\"\npassword = \"marked\"",
            "`destinations.cloud.password`: needs `username`",
        ),
        (
            "url = \"https://h/\"\ntoken = \"marked\"\nusername = \"u\"",
            "`destinations.cloud.token`: give either this",
        ),
        (
            "url = \"https://h/\"\nbucket = \"x\"",
            "unknown key `destinations.cloud.bucket`",
        ),
        (
            "url = \"https://h/\"\nendpoint = \"https://h/\"",
            "`destinations.cloud.endpoint`: give either this or `url`",
        ),
    ] {
        host.write_config(&host.config_with(&format!(
            "[destinations.cloud]\ntype = \"webdav\"\n{lines}\n"
        )));
        let ended = host.run("list");
        assert_eq!(ended.status, Some(2), "{lines}: {ended}");
        assert!(ended.err.contains(told), "{told} is not in {ended}");
        assert!(!ended.err.contains("marked"), "{ended}");
    }
}

/// The same, borrowed.
type Refine<'a> = &'a dyn Fn(&Dav);

#[test]
fn odd_servers_are_got_along_with() {
    let cases: [(&str, Options, Refine<'_>); 6] = [
        (
            "no ranges",
            Options {
                no_ranges: true,
                ..Options::default()
            },
            &|_| (),
        ),
        (
            "no etags",
            Options {
                no_etags: true,
                ..Options::default()
            },
            &|_| (),
        ),
        (
            "behind a proxy",
            Options {
                behind_proxy: true,
                ..Options::default()
            },
            &|_| (),
        ),
        ("a lost MOVE", Options::default(), &|dav| {
            dav.fault("MOVE", DATA, 0, 1, What::LostReply);
        }),
        ("a lost PUT", Options::default(), &|dav| {
            dav.fault("PUT", DATA, 0, 1, What::LostReply);
        }),
        ("a slash missing", Options::default(), &|dav| {
            dav.fault(
                "PROPFIND",
                "/Data",
                0,
                1,
                What::Redirect("/remote.php/dav/files/pi/Data/".to_owned()),
            );
        }),
    ];
    for (name, options, prepare) in cases {
        let (dav, host) = machine(options);
        prepare(&dav);
        let ended = host.run(SEND);
        assert_whole(&dav, &host, &ended);
        let restored = host.run(&format!(
            "restore {ID} --to {} --json",
            host.path("back").display()
        ));
        assert_eq!(restored.status, Some(0), "{name}: {restored}");
        assert!(
            fs::read(host.path("back").join(DATA)).expect("restored") == local(&host),
            "{name}"
        );
    }
}

#[test]
fn what_comes_there_meanwhile_is_not_touched() {
    let (dav, host) = machine(Options::default());
    let dav = Arc::new(dav);
    let path = format!("/Data/{DATA}");
    let (other, at) = (Arc::downgrade(&dav), path.clone());
    let come = move || {
        if let Some(dav) = other.upgrade() {
            dav.put_file(&at, b"somebody else's");
        }
    };
    dav.fault("MOVE", DATA, 0, 1, What::AtHead(Arc::new(come)));
    let ended = host.run(SEND);
    assert_eq!(ended.status, Some(1), "{ended}");
    assert_eq!(
        ended.json()["archives"][1]["uploads"][0]["status"],
        "conflict",
        "{ended}"
    );
    assert_eq!(dav.files()[&path], b"somebody else's");
    assert!(
        !dav.files().keys().any(|path| path.ends_with(".partial")),
        "{ended}"
    );
}

/// Runs the program until the `n`-th request of this method from 0 reaches the moment that `what` makes, and
/// kills it there. Whether it was killed.
fn killed_at(
    dav: &Dav,
    host: &Host,
    (method, n): (&'static str, usize),
    what: impl Fn(Arc<dyn Fn() + Send + Sync>) -> What,
) -> bool {
    let target = Arc::new(AtomicI32::new(0));
    let started = Arc::new(Mutex::new(()));
    let held = started.lock().expect("not poisoned");
    let (victim, wait) = (target.clone(), started.clone());
    let kill = move || {
        drop(wait.lock());
        let pid = Pid::from_raw(victim.load(Ordering::SeqCst)).expect("a process");
        // Gone already where the request before this one was the last that it saw.
        let _ = kill_process(pid, Signal::KILL);
    };
    dav.fault(method, "", n, 1, what(Arc::new(kill)));
    let child = host.spawn(SEND);
    let process = i32::try_from(child.id()).expect("a process");
    target.store(process, Ordering::SeqCst);
    drop(held);
    let output = child.wait_with_output().expect("ended");
    dav.clear_faults();
    output.status.code().is_none()
}

#[test]
fn killed_at_every_request_there_is_never_half_an_archive_and_the_next_run_finishes() {
    type Moment = fn(Arc<dyn Fn() + Send + Sync>) -> What;
    // Everything else changes nothing there.
    let moments: [(&str, Moment); 4] = [
        ("PUT", What::AtHead),
        ("PUT", What::InBody),
        ("MOVE", What::AtHead),
        ("MOVE", What::AtEnd),
    ];
    for (method, moment) in moments {
        let mut kills = 0;
        loop {
            let dav = Dav::start(Options::default());
            let host = host(&dav, "");
            host.put_data_archive(DATA, 300 << 10);
            if !killed_at(&dav, &host, (method, kills), moment) {
                break;
            }
            let files = dav.files();
            let whole = local(&host);
            for (path, bytes) in &files {
                let is_half = path.ends_with(&format!("/{DATA}")) && *bytes != whole;
                assert!(!is_half, "{method} {kills}: {path} is not whole");
            }
            let is_told = files.contains_key(&format!("/Manifests/{ID}.json"));
            assert!(
                !is_told || files.contains_key(&format!("/Data/{DATA}")),
                "{method} {kills}"
            );
            let ended = host.run(SEND);
            assert_whole(&dav, &host, &ended);
            kills += 1;
        }
        assert!(kills >= 5, "only {kills} moments were tried");
    }
}
