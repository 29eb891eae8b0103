//! The transfer engine against everything a line and a service can do.

mod support;

use std::fs;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::dropbox::{Dropbox, Fault, Moment, Options, Reply, StallAt, What};
use support::host::{Ended, Host};

const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");
const DATA: &str = "1702758583_2023_12_16_17.8.2_gitlab_backup.tar";
const PATH: &str = "/Data/1702758583_2023_12_16_17.8.2_gitlab_backup.tar";
const SEND: &str = "run --skip-create --only data --json";
const MIB: u64 = 1 << 20;

/// A machine with one data archive of this size.
fn with_archive(size: u64) -> (Dropbox, Host) {
    let dropbox = Dropbox::start(Options::default());
    let host = Host::new(PROGRAM, &dropbox);
    host.put_data_archive(DATA, size);
    (dropbox, host)
}

fn local(host: &Host) -> Vec<u8> {
    fs::read(host.path("var/opt/gitlab/backups").join(DATA)).expect("the archive")
}

fn row(ended: &Ended) -> Value {
    ended.json()["archives"][0]["uploads"][0].clone()
}

/// The one file at the destination is the archive, to the byte.
fn assert_stored(dropbox: &Dropbox, host: &Host, ended: &Ended) {
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(dropbox.archives().len(), 1, "{ended}");
    assert!(
        dropbox.content(PATH) == local(host),
        "the bytes differ: {ended}"
    );
    assert_eq!(
        row(ended)["content_hash"],
        dropbox.archives()[0].content_hash,
        "{ended}"
    );
    assert_eq!(
        fs::read_dir(host.path("state/uploads"))
            .expect("journals")
            .count(),
        0
    );
}

fn count(dropbox: &Dropbox, endpoint: &str) -> usize {
    dropbox
        .requests()
        .iter()
        .filter(|seen| seen.endpoint.ends_with(endpoint))
        .count()
}

#[test]
fn every_size_around_a_block_and_a_chunk() {
    for size in [
        8_192,
        4 * MIB - 512,
        4 * MIB,
        4 * MIB + 512,
        8 * MIB - 512,
        8 * MIB,
        8 * MIB + 512,
        16 * MIB,
        20 * MIB + 1_024,
    ] {
        let (dropbox, host) = with_archive(size);
        let config = host.config(&dropbox).replace("\"4 MiB\"", "\"8 MiB\"");
        host.write_config(&config);
        let ended = host.run(SEND);
        assert_stored(&dropbox, &host, &ended);
        assert_eq!(local(&host).len() as u64, size);
        let appends: Vec<_> = dropbox
            .requests()
            .into_iter()
            .filter(|seen| seen.endpoint.ends_with("append_v2"))
            .collect();
        // The first chunk is of 4 MiB, all others of 8, the one that closes of what is left.
        let whole = size - size % (4 * MIB);
        let chunks = u64::from(whole > 0) + whole.saturating_sub(4 * MIB).div_ceil(8 * MIB);
        assert_eq!(appends.len() as u64, chunks + 1);
        for append in &appends {
            assert!(append.arg["content_hash"].is_string());
        }
        let last = appends.last().expect("the closing append");
        assert_eq!(
            (&last.arg["close"], last.received),
            (&Value::from(true), size % (4 * MIB))
        );
        let finish = dropbox
            .requests()
            .into_iter()
            .find(|seen| seen.endpoint.ends_with("finish"));
        let commit = &finish.expect("a finish").arg["commit"];
        assert_eq!(
            (&commit["mode"], &commit["autorename"]),
            (&json!("add"), &json!(false))
        );
    }
}

#[test]
fn a_file_that_is_no_multiple_of_anything() {
    let (dropbox, host) = with_archive(9_000_000);
    // Behind the end of a tar zeros are allowed, any number of them.
    let path = host.path("var/opt/gitlab/backups").join(DATA);
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|file| file.set_len(9_000_449))
        .expect("grown");
    let ended = host.run(SEND);
    assert_stored(&dropbox, &host, &ended);
}

#[test]
fn faults_of_line_and_service_cost_a_retry_and_nothing_else() {
    let reply = |status| What::Reply(Reply::html(status));
    let faults = [
        ("500", What::server_error(500)),
        ("502 with a page", reply(502)),
        ("503", What::server_error(503)),
        ("a portal's redirect", reply(302)),
        ("429 with a time", What::too_many_requests(Some(1))),
        (
            "429 in plain text",
            What::Reply(Reply::text(429, "slow down").with("Retry-After", "1")),
        ),
        ("reset before the body", What::ResetBeforeBody),
        ("reset in the body", What::ResetInBody(100)),
        ("reset after the body", What::ResetAfterBody),
        ("a lost reply", What::LostReply),
        ("a reply cut off", What::TruncatedReply),
        ("broken JSON", What::BrokenJson),
        ("a page with 200", What::HtmlOk),
        ("an expired token", What::ExpiredToken),
    ];
    // Most of the time is pauses, so the endpoints share it.
    std::thread::scope(|scope| {
        for endpoint in [
            "token",
            "get_metadata",
            "get_space_usage",
            "start",
            "append_v2",
            "finish",
        ] {
            let faults = &faults;
            scope.spawn(move || {
                for (name, what) in faults {
                    if endpoint == "token" && *name == "an expired token" {
                        continue;
                    }
                    let (dropbox, host) = with_archive(4 * MIB + 512);
                    dropbox.fault(Fault::on(endpoint, what.clone()));
                    let ended = host.run(SEND);
                    assert!(ended.status == Some(0), "{name} at {endpoint}: {ended}");
                    assert_stored(&dropbox, &host, &ended);
                    let hit = dropbox.requests().iter().any(|seen| seen.faulted);
                    assert!(hit, "{name} never happened at {endpoint}");
                }
            });
        }
    });
}

#[test]
fn write_contention_is_waited_out() {
    let (dropbox, host) = with_archive(5 * MIB);
    dropbox.fault(Fault::on("finish", What::too_many_write_operations()).times(2));
    let ended = host.run(SEND);
    assert_stored(&dropbox, &host, &ended);
}

#[test]
fn a_storm_of_everything() {
    let (dropbox, host) = with_archive(30_000_000);
    for (i, what) in [
        What::ResetInBody(3_000_000),
        What::LostReply,
        What::server_error(500),
        What::LostReply,
        What::TruncatedReply,
        What::ExpiredToken,
        What::HtmlOk,
        What::LostReply,
    ]
    .into_iter()
    .enumerate()
    {
        dropbox.fault(Fault::on("append_v2", what).skip(i * 2));
    }
    dropbox.fault(Fault::on("finish", What::LostReply).times(2));
    let ended = host.run(SEND);
    assert_stored(&dropbox, &host, &ended);
    assert_eq!(count(&dropbox, "start"), 1);
}

#[test]
fn a_rate_limit_holds_all_workers_for_as_long_as_it_says() {
    let (dropbox, host) = with_archive(40 * MIB);
    dropbox.fault(Fault::on("append_v2", What::too_many_requests(Some(3))).skip(4));
    let ended = host.run(SEND);
    assert_stored(&dropbox, &host, &ended);
    let requests = dropbox.requests();
    let limited = requests
        .iter()
        .find(|seen| seen.status == Some(429))
        .expect("one was limited");
    // Those already on their way may still end; none may begin.
    let begun_inside = requests.iter().filter(|seen| {
        seen.at > limited.at + Duration::from_millis(300)
            && seen.at < limited.at + Duration::from_millis(2_900)
    });
    assert_eq!(begun_inside.count(), 0);
}

#[test]
fn a_rate_limit_beyond_patience_fails_at_once_and_says_when() {
    let (dropbox, host) = with_archive(9_000_000);
    dropbox.fault(Fault::on("append_v2", What::too_many_requests(Some(7_200))).forever());
    let start = Instant::now();
    let ended = host.run(SEND);
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(
        ended.err.contains("the server asks to wait 2h")
            && ended.err.contains("run it again after 20"),
        "{ended}"
    );
    assert!(start.elapsed() < Duration::from_secs(20));
    dropbox.clear_faults();
    let ended = host.run(SEND);
    assert_stored(&dropbox, &host, &ended);
    assert_eq!(count(&dropbox, "start"), 1, "the session goes on");
}

#[test]
fn a_token_that_expires_in_the_middle_is_renewed_once_for_all() {
    let (dropbox, host) = with_archive(40 * MIB);
    let dropbox = Arc::new(dropbox);
    let weak = Arc::downgrade(&dropbox);
    let expire = move || {
        if let Some(dropbox) = weak.upgrade() {
            dropbox.expire_tokens();
        }
    };
    dropbox.fault(Fault::on("append_v2", What::Call(Moment::Head, Arc::new(expire))).skip(3));
    let ended = host.run(SEND);
    assert_stored(&dropbox, &host, &ended);
    assert_eq!(count(&dropbox, "token"), 2);
}

#[test]
fn a_token_of_a_short_life_is_renewed_ahead() {
    let dropbox = Dropbox::start(Options {
        token_life: Duration::from_secs(2),
        ..Options::default()
    });
    let host = Host::new(PROGRAM, &dropbox);
    host.put_data_archive(DATA, 16 * MIB);
    dropbox.fault(
        Fault::on(
            "append_v2",
            What::Stall(StallAt::Reply, Some(Duration::from_secs(2))),
        )
        .times(4),
    );
    let ended = host.run(SEND);
    assert_stored(&dropbox, &host, &ended);
}

#[test]
fn a_session_that_is_gone_is_begun_anew() {
    for what in [What::SessionNotFound, What::SessionClosed] {
        for endpoint in ["append_v2", "finish"] {
            let (dropbox, host) = with_archive(9_000_000);
            dropbox.fault(Fault::on(endpoint, what.clone()));
            let ended = host.run(SEND);
            assert_stored(&dropbox, &host, &ended);
            assert_eq!(count(&dropbox, "start"), 2, "{ended}");
            assert_eq!(row(&ended)["bytes_sent"].as_u64(), Some(9_000_448));
        }
    }
}

#[test]
fn sessions_that_are_always_lost_fail_in_the_end() {
    let (dropbox, host) = with_archive(9_000_000);
    dropbox.fault(Fault::on("append_v2", What::SessionNotFound).forever());
    let ended = host.run(SEND);
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(
        ended.err.contains("3 upload sessions in a row were lost"),
        "{ended}"
    );
}

#[test]
fn what_arrived_otherwise_is_taken_away_and_sent_again() {
    let (dropbox, host) = with_archive(9_000_000);
    dropbox.fault(Fault::on("finish", What::WrongHash));
    let ended = host.run(SEND);
    assert_stored(&dropbox, &host, &ended);
    assert_eq!(count(&dropbox, "delete_v2"), 1);
    // A reply that lies about what lies there is not believed.
    let (dropbox, host) = with_archive(9_000_000);
    dropbox.fault(Fault::on("finish", What::LyingHash));
    let ended = host.run(SEND);
    assert_stored(&dropbox, &host, &ended);
    assert_eq!(
        (count(&dropbox, "start"), count(&dropbox, "delete_v2")),
        (1, 0)
    );
}

#[test]
fn a_connection_that_moves_nothing_is_given_up_and_a_slow_one_is_not() {
    for at in [StallAt::Head, StallAt::Body(1_000_000), StallAt::Reply] {
        let (dropbox, host) = with_archive(20 * MIB);
        let config =
            host.config(&dropbox).replace("\"4 MiB\"", "\"12 MiB\"") + "stall_timeout = \"2s\"\n";
        host.write_config(&config);
        // Replies are waited for a minute; the body is what stalls.
        dropbox.fault(Fault::on("append_v2", What::Stall(at, None)));
        let start = Instant::now();
        let ended = host.run(SEND);
        assert_stored(&dropbox, &host, &ended);
        assert!(start.elapsed() < Duration::from_secs(40), "{ended}");
    }
    let (dropbox, host) = with_archive(8 * MIB);
    host.write_config(&(host.config(&dropbox) + "stall_timeout = \"2s\"\nconcurrency = 1\n"));
    dropbox.fault(Fault::on("append_v2", What::SlowRead(MIB)).times(2));
    let ended = host.run(SEND);
    assert_stored(&dropbox, &host, &ended);
    assert_eq!(
        count(&dropbox, "append_v2"),
        3,
        "nothing was sent twice: {ended}"
    );
}

#[test]
fn a_conflict_touches_nothing() {
    let (dropbox, host) = with_archive(9_000_000);
    let other = vec![0; local(&host).len()];
    for (what, says) in [
        ("other content", "a file of that name with other content"),
        ("same size", "a file of that name with other content"),
        ("folder", "a folder has that name"),
        ("capitals", "differs only in capitals"),
    ] {
        match what {
            "other content" => dropbox.put_file(PATH, b"other"),
            "same size" => dropbox.put_file(PATH, &other),
            "folder" => dropbox.put_folder(PATH),
            _ => dropbox.put_file(&PATH.replace("backup.tar", "BACKUP.tar"), &local(&host)),
        }
        let before = dropbox.archives();
        let ended = host.run(SEND);
        assert_eq!(ended.status, Some(1), "{what}: {ended}");
        assert_eq!(row(&ended)["status"], "conflict", "{what}: {ended}");
        assert!(
            ended.err.contains(says) && ended.err.contains("nothing was touched"),
            "{what}: {ended}"
        );
        let same = dropbox
            .archives()
            .iter()
            .zip(&before)
            .all(|(a, b)| a.rev == b.rev && a.path_display == b.path_display);
        assert!(same && dropbox.archives().len() == before.len(), "{what}");
        assert_eq!(count(&dropbox, "upload_session/start"), 0);
        dropbox.remove(PATH);
    }
    // A parent that is a file.
    dropbox.remove("/Data");
    dropbox.put_file("/Data", b"a file");
    let ended = host.run(SEND);
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(
        ended.err.contains("/Data is a file, not a folder"),
        "{ended}"
    );
}

#[test]
fn a_conflict_that_appears_during_the_upload() {
    let (dropbox, host) = with_archive(9_000_000);
    let dropbox = Arc::new(dropbox);
    let weak = Arc::downgrade(&dropbox);
    let put = move || {
        if let Some(dropbox) = weak.upgrade() {
            dropbox.put_file(PATH, b"somebody else's");
        }
    };
    dropbox.fault(Fault::on("finish", What::Call(Moment::Head, Arc::new(put))));
    let ended = host.run(SEND);
    assert_eq!(
        (ended.status, &row(&ended)["status"]),
        (Some(1), &json!("conflict")),
        "{ended}"
    );
    assert_eq!(dropbox.content(PATH), b"somebody else's");
}

#[test]
fn a_full_dropbox_is_seen_before_a_byte_is_sent() {
    let (dropbox, host) = with_archive(9_000_000);
    dropbox.set_quota(1_000_000);
    let ended = host.run(SEND);
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(
        ended
            .err
            .contains("it needs 8.5 MiB, but only 976.5 KiB are free"),
        "{ended}"
    );
    assert_eq!(count(&dropbox, "upload_session/start"), 0);
    // Filled by somebody else meanwhile: everything has arrived, the next run only finishes.
    dropbox.set_quota(1 << 40);
    dropbox.fault(Fault::on("finish", What::InsufficientSpace));
    let ended = host.run(SEND);
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(ended.err.contains("make room in Dropbox"), "{ended}");
    let before = count(&dropbox, "append_v2");
    let ended = host.run(SEND);
    assert_stored(&dropbox, &host, &ended);
    assert_eq!(
        (
            count(&dropbox, "append_v2"),
            row(&ended)["bytes_sent"].as_u64()
        ),
        (before, Some(0))
    );
}

#[test]
fn refused_credentials_say_what_to_do_and_the_backup_is_still_made() {
    let change = |from: &str, to: &str| {
        let dropbox = Dropbox::start(Options {
            app_secret: Some("the-secret".to_owned()),
            ..Options::default()
        });
        let host = Host::new(PROGRAM, &dropbox);
        let config = host
            .config(&dropbox)
            .replace("[upload]", "app_secret = \"the-secret\"\n[upload]");
        host.write_config(&config.replace(from, to));
        let ended = host.run("run --json");
        assert!(host.calls().contains("gitlab-backup"), "{ended}");
        (ended, dropbox.archives().len())
    };
    let (ended, files) = change("", "");
    assert_eq!((ended.status, files), (Some(0), 2), "{ended}");
    for (from, to, says) in [
        (
            "standin-refresh-token",
            "another",
            "obtain a new refresh token",
        ),
        ("the-secret", "wrong", "check `app_key` and `app_secret`"),
        (
            "standin-app-key",
            "wrong",
            "check `app_key` and `app_secret`",
        ),
        (
            "app_secret = \"the-secret\"\n",
            "",
            "needs `app_secret` for every refresh",
        ),
    ] {
        let (ended, files) = change(from, to);
        assert_eq!((ended.status, files), (Some(1), 0), "{to}: {ended}");
        assert!(ended.err.contains(says), "{to}: {ended}");
    }
    let scopes = vec![
        "account_info.read".to_owned(),
        "files.metadata.read".to_owned(),
    ];
    let dropbox = Dropbox::start(Options {
        scopes,
        ..Options::default()
    });
    let host = Host::new(PROGRAM, &dropbox);
    let ended = host.run("run");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(ended.err.contains("files.content.write"), "{ended}");
    // A missing token file is a matter of the host, not of the configuration.
    let config = host.config(&dropbox);
    let line = config
        .lines()
        .find(|line| line.starts_with("refresh_token"))
        .expect("a token");
    host.write_config(&config.replace(line, "refresh_token_file = \"/nonexistent/token\""));
    let ended = host.run("run");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(
        ended.err.contains("no refresh token in /nonexistent/token"),
        "{ended}"
    );
}

#[test]
fn no_network_is_told_in_words() {
    let (dropbox, host) = with_archive(9_000_000);
    let config = host.config(&dropbox) + "retry_for = \"1s\"\nstall_timeout = \"2s\"\n";
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = format!("http://{}", listener.local_addr().expect("its address"));
    for (url, says) in [
        ("http://127.0.0.1:9", "no connection to the server"),
        (
            "https://name.invalid",
            "the server's name could not be looked up",
        ),
        (silent.as_str(), "no reply within 2s"),
    ] {
        host.write_config(&config.replace(&dropbox.url(), url));
        let ended = host.run(SEND);
        assert_eq!(ended.status, Some(1), "{ended}");
        assert!(ended.err.contains(says), "{url}: {ended}");
    }
}

#[test]
fn a_self_signed_proxy_is_refused_until_it_is_trusted() {
    let dropbox = Dropbox::start(Options {
        tls: true,
        ..Options::default()
    });
    let mut host = Host::new(PROGRAM, &dropbox);
    host.put_data_archive(DATA, 5 * MIB);
    let start = Instant::now();
    let ended = host.run(SEND);
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(
        ended.err.contains("certificate is not trusted") && ended.err.contains("SSL_CERT_FILE"),
        "{ended}"
    );
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "it is not tried again for an hour"
    );
    host.set("SSL_CERT_FILE", dropbox.ca_file().expect("a certificate"));
    let ended = host.run(SEND);
    assert_stored(&dropbox, &host, &ended);
}

#[test]
fn the_real_host_names_through_a_proxy() {
    let dropbox = Dropbox::start(Options {
        tls: true,
        ..Options::default()
    });
    let mut host = Host::new(PROGRAM, &dropbox);
    host.put_data_archive(DATA, 9_000_000);
    let config: String = host
        .config(&dropbox)
        .lines()
        .filter(|line| !line.contains("_url"))
        .map(|line| line.to_owned() + "\n")
        .collect();
    host.write_config(&config);
    host.set("HTTPS_PROXY", dropbox.proxy_url())
        .set("SSL_CERT_FILE", dropbox.ca_file().expect("a certificate"));
    let ended = host.run(SEND);
    assert_stored(&dropbox, &host, &ended);
}

#[test]
fn a_file_that_changes_or_goes_away_during_its_upload_is_not_stored() {
    type Change = fn(&std::path::Path);
    let changes: [(&str, Change); 4] = [
        ("changed", |path| {
            use std::os::unix::fs::FileExt;
            let file = fs::OpenOptions::new().write(true).open(path).expect("open");
            file.write_at(b"changed", 1_000_000).expect("written");
        }),
        ("truncated", |path| {
            fs::OpenOptions::new()
                .write(true)
                .open(path)
                .and_then(|file| file.set_len(1_000_000))
                .expect("cut");
        }),
        ("replaced", |path| {
            let other = path.with_extension("other");
            fs::copy(path, &other)
                .and_then(|_| fs::rename(&other, path))
                .expect("replaced");
        }),
        ("deleted", |path| fs::remove_file(path).expect("deleted")),
    ];
    for (name, change) in changes {
        let (dropbox, host) = with_archive(30_000_000);
        let path = host.path("var/opt/gitlab/backups").join(DATA);
        dropbox.fault(
            Fault::on(
                "append_v2",
                What::Call(Moment::Head, Arc::new(move || change(&path))),
            )
            .skip(4),
        );
        let ended = host.run(SEND);
        assert_eq!(ended.status, Some(1), "{name}: {ended}");
        assert_eq!(dropbox.archives().len(), 0, "{name}: {ended}");
        assert!(
            ended.err.contains("changed")
                || ended.err.contains("No such file")
                || ended.err.contains("another file")
                || ended.err.contains("ends earlier"),
            "{name}: {ended}"
        );
        assert_eq!(
            fs::read_dir(host.path("state/uploads"))
                .expect("journals")
                .count(),
            0,
            "{name}"
        );
    }
}

#[test]
fn only_the_bytes_that_were_looked_into_are_stored() {
    let (dropbox, host) = with_archive(9_000_000);
    let path = host.path("var/opt/gitlab/backups").join(DATA);
    let change = move || {
        let file = fs::OpenOptions::new().append(true).open(&path);
        file.and_then(|mut file| std::io::Write::write_all(&mut file, &vec![7; 100_000]))
            .expect("grown");
    };
    // Between the look into the archive and its upload.
    let call = What::Call(Moment::Head, Arc::new(change));
    dropbox.fault(Fault::on("get_space_usage", call).skip(1));
    let ended = host.run(SEND);
    assert_eq!(ended.status, Some(1), "{ended}");
    assert_eq!(dropbox.archives().len(), 0, "{ended}");
}

#[test]
fn a_bandwidth_limit_is_kept_by_all_together() {
    let (dropbox, host) = with_archive(8 * MIB);
    host.write_config(&(host.config(&dropbox) + "bandwidth_limit = \"4 MiB/s\"\n"));
    let start = Instant::now();
    let ended = host.run(SEND);
    assert_stored(&dropbox, &host, &ended);
    let took = start.elapsed();
    assert!(
        took > Duration::from_millis(1_700) && took < Duration::from_secs(8),
        "{took:?}"
    );
}

#[test]
fn connections_are_used_again() {
    let (dropbox, host) = with_archive(40 * MIB);
    let ended = host.run(SEND);
    assert_stored(&dropbox, &host, &ended);
    let connections: std::collections::HashSet<_> = dropbox
        .requests()
        .iter()
        .map(|seen| seen.connection)
        .collect();
    // One for each of the four workers, one for the rest of the content host, one for the other.
    assert!(connections.len() <= 6, "{}", connections.len());
    let appends = AtomicUsize::new(0);
    for seen in dropbox.requests() {
        appends.fetch_add(
            usize::from(seen.endpoint.ends_with("append_v2")),
            Ordering::Relaxed,
        );
    }
    assert_eq!(appends.into_inner(), 11);
}
