//! Whatever happens, no secret comes out: not by output, log, state, nor the environment of a child.
//!
//! Every secret is long and marked, and any sixteen characters of one in a row count as found: a message
//! that cuts one off tells of it as well. Where a secret may be found is always named, so that a search
//! that finds nothing anywhere fails.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use support::dropbox::{Dropbox, Fault, Options, Reply, What};
use support::host::{Ended, Host};
use support::mail::{MailServer, Security, Trouble};
use support::receiver::{Answer, Receiver};

const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");
const CONFIG: &str = "gitlab_config_1702758583_2023_12_16.tar";
const DATA: &str = "1702758583_2023_12_16_17.8.2_gitlab_backup.tar";

const APP_SECRET: &str = "MARKED-app-secret-q7W3e5R9t1Y2u4I6o8P0a-S2d4F6";
const REFRESH_TOKEN: &str = "MARKED-refresh-token_z1X3c5V7b9N2m4-L6k8J0h2G4f6D8s0A1-q3W5";
const PROXY_PASSWORD: &str = "MARKED-proxy-password-m9N8b7V6c5X4z3";
/// Variables of other programs that a user may have set.
const FOREIGN: [(&str, &str); 7] = [
    ("GITLAB_TOKEN", "MARKED-glpat-1a2B3c4D5e6F7g8H9i0J"),
    ("GITLAB_OAUTH", "MARKED-oauth-k1L2m3N4o5P6q7R8s9T0"),
    ("AWS_ACCESS_KEY_ID", "MARKED-AKIA-u1V2w3X4y5Z6a7B8c9D0"),
    ("AWS_SECRET_ACCESS_KEY", "MARKED-aws-e1F2g3H4i5J6k7L8m9N0"),
    ("AWS_SESSION_TOKEN", "MARKED-session-o1P2q3R4s5T6u7V8w9X0"),
    (
        "GOOGLE_APPLICATION_CREDENTIALS",
        "/MARKED-google-y1Z2a3B4c5D6e7F8g9H0",
    ),
    (
        "BIGQUERY_SERVICE_ACCOUNT_JSON",
        "{\"MARKED-bigquery-i1J2k3L4m5N6o7\": 1}",
    ),
];

/// Where the secrets are given.
#[derive(Clone, Copy, Debug)]
enum Given {
    Config,
    Environment,
    TokenFile,
    Credentials,
}

impl Given {
    /// The files that hold them, then.
    fn files(self) -> &'static [&'static str] {
        match self {
            Given::Config => &["config.toml"],
            Given::Environment => &[],
            Given::TokenFile => &["config.toml", "secret/token"],
            Given::Credentials => &[
                "secret/destinations.dropbox.app_secret",
                "secret/destinations.dropbox.refresh_token",
            ],
        }
    }
}

fn account(tls: bool) -> Dropbox {
    Dropbox::start(Options {
        tls,
        app_secret: Some(APP_SECRET.into()),
        refresh_token: REFRESH_TOKEN.into(),
        ..Options::default()
    })
}

/// A machine whose user has secrets everywhere.
fn machine(dropbox: &Dropbox, given: Given) -> Host {
    let mut host = Host::without_config(PROGRAM);
    for folder in ["secret", "tmp"] {
        fs::create_dir(host.path(folder)).expect("a folder");
    }
    let report = host.path("report.html").display().to_string();
    let text =
        host.config(dropbox) + &format!("retry_for = \"2s\"\n[report]\nfile = \"{report}\"\n");
    let (before, after) = text.split_once("refresh_token = ").expect("a token");
    let (_, after) = after.split_once('\n').expect("a line");
    let secret = |name: &str, value: &str| {
        let path = host.path("secret").join(name);
        fs::write(&path, format!("{value}\n")).expect("a secret");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
        path.display().to_string()
    };
    let lines = match given {
        Given::Config => {
            format!("app_secret = \"{APP_SECRET}\"\nrefresh_token = \"{REFRESH_TOKEN}\"\n")
        }
        Given::TokenFile => format!(
            "app_secret = \"{APP_SECRET}\"\nrefresh_token_file = \"{}\"\n",
            secret("token", REFRESH_TOKEN)
        ),
        Given::Credentials => {
            secret("destinations.dropbox.app_secret", APP_SECRET);
            secret("destinations.dropbox.refresh_token", REFRESH_TOKEN);
            String::new()
        }
        Given::Environment => String::new(),
    };
    host.write_config(&format!("{before}{lines}{after}"));
    let (secrets, temporary) = (host.path("secret"), host.path("tmp"));
    if let Given::Environment = given {
        let prefix = "GITLAB_PI_BACKUP_DESTINATIONS__DROPBOX__";
        host.set(&format!("{prefix}APP_SECRET"), APP_SECRET);
        host.set(&format!("{prefix}REFRESH_TOKEN"), REFRESH_TOKEN);
    }
    host.set("CREDENTIALS_DIRECTORY", secrets);
    host.set("TMPDIR", temporary);
    for (name, value) in FOREIGN {
        host.set(name, value);
    }
    host.put_config_archive(CONFIG);
    host.put_data_archive(DATA, 5 << 20);
    host
}

/// Whether a text holds a part of the secret.
fn holds(text: &str, secret: &str) -> bool {
    (0..=secret.len() - 16).any(|start| text.contains(&secret[start..start + 16]))
}

/// All files below a folder, archives excepted: what is in them is GitLab's.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let archive = path.extension().is_some_and(|end| end == "tar");
        if path.is_dir() && !path.is_symlink() {
            found.extend(files(&path));
        } else if path.is_file() && !path.is_symlink() && !archive {
            found.push(path);
        }
    }
    found
}

/// Searches everything; where a secret was found.
fn found(dropbox: &Dropbox, host: &Host, ended: &Ended, more: &[&str]) -> BTreeSet<String> {
    let tokens = dropbox.requests().into_iter().filter_map(|seen| seen.token);
    let fixed = [APP_SECRET, REFRESH_TOKEN, PROXY_PASSWORD];
    let foreign = FOREIGN.iter().map(|(_, value)| value);
    let secrets: BTreeSet<String> = fixed
        .iter()
        .chain(foreign)
        .chain(more)
        .map(|secret| (*secret).to_owned())
        .chain(tokens)
        // What all access tokens begin with is no secret.
        .map(|secret| secret.trim_start_matches("sl.standin-").to_owned())
        .collect();
    let mut texts = vec![
        ("stdout".to_owned(), ended.out.clone()),
        ("stderr".to_owned(), ended.err.clone()),
    ];
    for path in files(host.root()) {
        let bytes = fs::read(&path).expect("a file");
        let name = path.strip_prefix(host.root()).expect("below the root");
        texts.push((
            name.display().to_string(),
            String::from_utf8_lossy(&bytes).into_owned(),
        ));
    }
    let held = |text: &str| secrets.iter().any(|secret| holds(text, secret));
    let found = texts.into_iter().filter(|(_, text)| held(text));
    found.map(|(name, _)| name).collect()
}

fn expected(given: Given) -> BTreeSet<String> {
    given
        .files()
        .iter()
        .map(|name| (*name).to_owned())
        .collect()
}

/// Secrets are where they were given and nowhere else.
fn assert_kept(scene: &str, dropbox: &Dropbox, host: &Host, given: Given, ended: &Ended) {
    assert!(!ended.err.contains("panicked"), "{scene}: {ended}");
    assert_eq!(
        found(dropbox, host, ended, &[]),
        expected(given),
        "{scene}: {ended}"
    );
}

/// The loudest there is, in both forms.
const LOUDEST: [&str; 2] = ["-vv --log-format text", "-vv --log-format json --json"];

#[test]
fn the_whole_job_wherever_the_secrets_come_from() {
    for given in [
        Given::Config,
        Given::Environment,
        Given::TokenFile,
        Given::Credentials,
    ] {
        let dropbox = account(false);
        let mut host = machine(&dropbox, given);
        for (options, now) in LOUDEST.into_iter().zip(["1795000000", "1795000001"]) {
            host.set("STUB_NOW", now);
            let ended = host.run(&format!("run {options}"));
            assert_eq!(ended.status, Some(0), "{given:?} {ended}");
            assert!(ended.err.contains("new access token"), "not loud: {ended}");
            assert_kept(&format!("{given:?}"), &dropbox, &host, given, &ended);
        }
        // The children's arguments and environment were in what was searched.
        let children = fs::read_to_string(host.path("env.log")).expect("environments");
        assert!(
            host.calls().contains("argv=[backup-etc]") && host.calls().contains("argv=[create]")
        );
        assert!(children.contains("\nSTUB_ROOT="), "{children}");
        let names = children
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(name, _)| name);
        let ours: Vec<_> = names
            .filter(|name| {
                name.starts_with("GITLAB_PI_BACKUP_")
                    || *name == "CREDENTIALS_DIRECTORY"
                    || FOREIGN.iter().any(|(foreign, _)| foreign == name)
            })
            .collect();
        assert_eq!(ours, [""; 0], "{given:?}");
        assert!(dropbox.requests().iter().any(|seen| seen.token.is_some()));
    }
}

/// What goes wrong, at which endpoint, with which reply, and the exit status.
type Scene = (&'static str, &'static str, Reply, i32);

/// A service that repeats secrets in its errors, at each place a text of its own can get to.
fn scenes(token: &str) -> Vec<Scene> {
    let form = format!("refresh_token={REFRESH_TOKEN}&client_secret={APP_SECRET}");
    let all = format!("Bearer {token}; {form}");
    // A text is shortened for messages, so a secret may be cut in two.
    let cut = |status, before, told: &str| Reply::text(status, "x".repeat(before) + " " + told);
    let text = |status: u16, told: &str| cut(status, 9, told);
    let tag = |status: u16, tag: &Value| {
        Reply::json(status, &json!({ "error": tag, "error_summary": all }))
    };
    let nested = json!({ ".tag": "path", "path": { ".tag": token } });
    let scope = json!({ ".tag": "missing_scope", "required_scope": token });
    let oauth = |error: &str, description: &str| {
        Reply::json(
            400,
            &json!({ "error": error, "error_description": description }),
        )
    };
    let bad_token = json!({ "access_token": format!("{token}\n") });
    let half = format!("{{\"access_token\": \"{token}");
    let elsewhere = format!("http://127.0.0.1:1/?{REFRESH_TOKEN}");
    vec![
        (
            "refused with the secrets",
            TOKEN,
            oauth("invalid_grant", &form),
            1,
        ),
        ("refused by the token", TOKEN, oauth(REFRESH_TOKEN, ""), 1),
        ("refused as text", TOKEN, text(400, &form), 1),
        ("refused, cut in the token", TOKEN, cut(400, 150, &form), 1),
        ("refused, cut in the secret", TOKEN, cut(400, 100, &form), 1),
        ("down", TOKEN, text(503, &form), 1),
        (
            "granted in part",
            TOKEN,
            Reply::new(200, "application/json", half),
            1,
        ),
        ("granted a bad one", TOKEN, Reply::json(200, &bad_token), 1),
        (
            "sent elsewhere",
            TOKEN,
            text(302, &form).with("Location", elsewhere),
            1,
        ),
        ("401", "append", tag(401, &json!({ ".tag": token })), 1),
        ("401 for a right", "append", tag(401, &scope), 1),
        ("401 as text", "append", text(401, &all), 1),
        ("400", "append", text(400, &all), 1),
        ("400, cut in the token", "append", cut(400, 160, &all), 1),
        ("400, cut early", "start", cut(400, 175, &all), 1),
        ("400, looking", "get_metadata", text(400, &all), 1),
        ("403", "finish", tag(403, &json!(token)), 1),
        ("403, cut", "finish", cut(403, 160, &all), 1),
        ("409", "append", tag(409, &nested), 1),
        ("409, starting", "start", tag(409, &nested), 1),
        ("409, finishing", "finish", tag(409, &nested), 1),
        ("409, looking", "get_metadata", tag(409, &nested), 1),
        (
            // An unanswered question keeps nothing from being stored.
            "409, asking for space",
            "get_space_usage",
            tag(409, &json!(token)),
            0,
        ),
        ("418", "append", cut(418, 160, &all), 1),
        ("500, then well", "append", cut(500, 160, &all), 0),
        (
            "429, then well",
            "append",
            text(429, &all).with("Retry-After", "1"),
            0,
        ),
        (
            "its number",
            "append",
            Reply::text(400, "no").with("X-Dropbox-Request-Id", token),
            1,
        ),
    ]
}

/// The endpoint that grants access tokens.
const TOKEN: &str = "/oauth2/token";

/// Plays a scene; what leaked, if anything did.
fn leak(number: usize) -> Option<String> {
    let dropbox = account(false);
    let host = machine(&dropbox, Given::TokenFile);
    let token = dropbox.access_token();
    let (scene, endpoint, reply, status) = scenes(&token).swap_remove(number);
    if endpoint != TOKEN {
        // One that both the account and the scene know.
        let granted = json!({ "access_token": token, "token_type": "bearer", "expires_in": 14400 });
        dropbox.fault(Fault::on(TOKEN, What::Reply(Reply::json(200, &granted))).forever());
    }
    let times = if status == 0 { 1 } else { usize::MAX };
    dropbox.fault(Fault::on(endpoint, What::Reply(reply)).times(times));
    let ended = host.run(&format!("run --skip-create {}", LOUDEST[number % 2]));
    assert_eq!(ended.status, Some(status), "{scene}: {ended}");
    let mut hit = dropbox.requests().into_iter();
    assert!(
        hit.any(|seen| seen.faulted && seen.endpoint.contains(endpoint)),
        "{scene}: {ended}"
    );
    let found = found(&dropbox, &host, &ended, &[&token]);
    (found != expected(Given::TokenFile)).then(|| format!("{scene}: {found:?}\n{ended}"))
}

/// Scenes at once: most of them wait for the patience of the program.
const PLAYERS: usize = 4;

#[test]
fn a_service_that_repeats_what_it_was_sent() {
    let count = scenes("").len();
    let leaks = std::thread::scope(|scope| {
        let play = |first: usize| (first..count).step_by(PLAYERS).filter_map(leak).collect();
        let players: Vec<_> = (0..PLAYERS)
            .map(|first| scope.spawn(move || play(first)))
            .collect();
        let join = |player: std::thread::ScopedJoinHandle<'_, Vec<String>>| player.join();
        let leaks = players
            .into_iter()
            .map(|player| join(player).expect("a scene went wrong"));
        leaks.collect::<Vec<_>>().concat()
    });
    assert!(
        leaks.is_empty(),
        "{} leaks:\n{}",
        leaks.len(),
        leaks.join("\n")
    );
}

#[test]
fn tokens_that_are_refused_or_expire() {
    let dropbox = account(false);
    let host = machine(&dropbox, Given::Config);
    dropbox.fault(Fault::on("append", What::ExpiredToken));
    let ended = host.run("run --skip-create -vv");
    assert_eq!(ended.status, Some(0), "{ended}");
    let tokens: BTreeSet<_> = dropbox
        .requests()
        .into_iter()
        .filter_map(|seen| seen.token)
        .collect();
    assert!(tokens.len() > 1, "no token was renewed");
    assert_kept("expired", &dropbox, &host, Given::Config, &ended);
    dropbox.revoke();
    for options in LOUDEST {
        let ended = host.run(&format!("run {options}"));
        assert_eq!(ended.status, Some(1), "{ended}");
        assert_kept("revoked", &dropbox, &host, Given::Config, &ended);
    }
    // A token file that holds more than a token.
    let host = machine(&dropbox, Given::TokenFile);
    let wrong = format!("{REFRESH_TOKEN}\n{REFRESH_TOKEN}\nÄ\u{1}");
    fs::write(host.path("secret/token"), wrong).expect("a token file");
    let ended = host.run("run -vv");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert_kept("two lines", &dropbox, &host, Given::TokenFile, &ended);
}

#[test]
fn tls_and_proxies() {
    let dropbox = account(true);
    let mut host = machine(&dropbox, Given::Environment);
    for options in LOUDEST {
        let ended = host.run(&format!("run --skip-create --only data {options}"));
        assert_eq!(ended.status, Some(1), "{ended}");
        let all = ended.out.clone() + &ended.err;
        assert!(all.contains("certificate is not trusted"), "{ended}");
        assert_kept("untrusted", &dropbox, &host, Given::Environment, &ended);
    }
    host.set("SSL_CERT_FILE", dropbox.ca_file().expect("with TLS"));
    let ended = host.run("run -vv");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_kept("trusted", &dropbox, &host, Given::Environment, &ended);

    // Through a proxy with a password, to Dropbox's own names.
    let text = host.config(&dropbox);
    let lines = text.lines().filter(|line| {
        !["api_url", "content_url", "refresh_token"]
            .iter()
            .any(|key| line.starts_with(key))
    });
    host.write_config(&(lines.collect::<Vec<_>>().join("\n") + "\nretry_for = \"2s\"\n"));
    let proxy = dropbox
        .proxy_url()
        .replace("//", &format!("//user:{PROXY_PASSWORD}@"));
    host.set("https_proxy", &proxy);
    host.set("HTTPS_PROXY", &proxy);
    host.set("ALL_PROXY", &proxy);
    let before = dropbox.requests().len();
    for (options, now) in LOUDEST.into_iter().zip(["1795000000", "1795000001"]) {
        host.set("STUB_NOW", now);
        let ended = host.run(&format!("run {options}"));
        assert_eq!(ended.status, Some(0), "{ended}");
        assert_kept("by proxy", &dropbox, &host, Given::Environment, &ended);
    }
    assert!(
        dropbox.requests().len() > before,
        "nothing went through the proxy"
    );
    dropbox.shut_down();
    for options in LOUDEST {
        let ended = host.run(&format!("run --skip-create --only data {options}"));
        assert_eq!(ended.status, Some(1), "{ended}");
        assert_kept("no proxy", &dropbox, &host, Given::Environment, &ended);
    }
}

/// Journal, lock and history are for their owner alone, whatever the umask.
#[test]
fn what_is_kept_is_for_root_alone() {
    for umask in ["000", "022", "077"] {
        let dropbox = account(false);
        let host = machine(&dropbox, Given::Config);
        fs::remove_dir(host.path("state")).expect("the program makes it");
        // The upload is broken off, so its journal stays.
        dropbox.fault(Fault::on("finish", What::server_error(503)).forever());
        let plain = host.command("run --skip-create --only data -vv");
        let mut command = Command::new("sh");
        command.args(["-c", "umask \"$0\" && exec \"$@\"", umask]);
        command
            .arg(plain.get_program())
            .args(plain.get_args())
            .env_clear();
        for (name, value) in plain.get_envs() {
            command.env(name, value.expect("a value"));
        }
        let output = command.stdin(Stdio::null()).output().expect("a shell");
        let ended = Ended::from(output);
        assert_eq!(ended.status, Some(1), "{ended}");
        let state = host.path("state");
        let mut names = Vec::new();
        for path in files(&state) {
            assert_eq!(mode(&path), 0o600, "{}, umask {umask}", path.display());
            names.push(
                path.file_name()
                    .expect("a name")
                    .to_string_lossy()
                    .into_owned(),
            );
        }
        assert_eq!(mode(&state), 0o700, "umask {umask}");
        assert_eq!(mode(&state.join("uploads")), 0o700, "umask {umask}");
        assert_eq!(mode(&state.join("backups")), 0o700, "umask {umask}");
        names.sort();
        // Lock, history, journal; the backup's record, its archives' member lists and its index of projects.
        assert_eq!(names.len(), 7, "{names:?}");
        assert!(
            names.contains(&"history.jsonl".into()) && names.contains(&"lock".into()),
            "{names:?}"
        );
        assert_kept("broken off", &dropbox, &host, Given::Config, &ended);
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("metadata").permissions().mode() & 0o777
}

/// Every one of them is in an address or a file; whoever is told may repeat what it was sent.
const NOTIFIED: [&str; 5] = [
    "MARKED-ping-key-a1S2d3F4g5H6j7K8",
    "MARKED-webhook-q1W2e3R4t5Y6u7I8",
    "MARKED-topic-z1X2c3V4b5N6m7L8",
    "MARKED-ntfy-password-p0O9i8U7y6T5r4",
    "MARKED-mail-password-m1N2b3V4c5X6z7",
];

/// Whoever is told is told no secret, and nobody else learns how they are told.
#[test]
fn notifications() {
    let [ping, hook, topic, password, mail] = NOTIFIED;
    for by_environment in [false, true] {
        let mut clock = 1_795_000_000;
        let dropbox = account(false);
        let mut host = machine(&dropbox, Given::Config);
        let receiver = Receiver::start();
        let login = format!("\0me\0{mail}");
        let login = BASE64_STANDARD.encode(login);
        // It repeats what it was sent: the login is refused with it.
        let server = MailServer::start(Security::Implicit, Some(&login), Trouble::Echo("AUTH"));
        let other = MailServer::start(Security::Implicit, Some(&login), Trouble::None);
        let user = format!("//me:{password}@");
        let addresses = [
            ("healthcheck_url", receiver.url(&format!("/{ping}"))),
            ("webhook_url", receiver.url(&format!("/x?key={hook}"))),
            (
                "ntfy_url",
                receiver.url(&format!("/{topic}")).replace("//", &user),
            ),
        ];
        fs::write(host.path("secret/mail"), format!("{mail}\n")).expect("a secret");
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(host.path("secret/mail"), mode).expect("its mode");
        let mut text = fs::read_to_string(host.path("config.toml")).expect("the configuration");
        text += "[notify]\non = \"always\"\ntimeout = \"1s\"\n";
        for (key, address) in addresses {
            if by_environment {
                host.set(
                    &format!("GITLAB_PI_BACKUP_NOTIFY__{}", key.to_uppercase()),
                    address,
                );
            } else {
                text += &[key, " = \"", &address, "\"\n"].concat();
            }
        }
        let expected: BTreeSet<_> = ["config.toml".to_owned(), "secret/mail".to_owned()].into();
        for (server, answers, status) in [
            (&other, [Answer::Status(200)], "ok"),
            (&server, [Answer::Status(403)], "failed"),
        ] {
            receiver.answer("/", &answers);
            let (url, file) = (server.url(), host.path("secret/mail"));
            host.write_config(&format!(
                "{text}email = {{ to = \"a@b.org\", from = \"c@d.org\", smtp = \"{url}\", \
                 username = \"me\", password_file = \"{}\" }}\n",
                file.display()
            ));
            host.set("SSL_CERT_FILE", server.ca_file());
            for options in LOUDEST {
                clock += 1;
                host.set("STUB_NOW", clock.to_string());
                for command in ["run", "notify test", "notify crashed"] {
                    let ended = host.run(&format!("{command} {options}"));
                    if command == "run" {
                        assert_eq!(ended.status, Some(0), "{ended}");
                        let history = fs::read_to_string(host.path("state/history.jsonl"));
                        let history = history.expect("the history");
                        let last: Value = history
                            .lines()
                            .last()
                            .and_then(|line| serde_json::from_str(line).ok())
                            .expect("a run");
                        assert_eq!(last["status"], "ok", "{ended}");
                    }
                    // The history is written before anybody is told.
                    if command == "run" && options.contains("--json") {
                        let report = ended.json();
                        let mut steps = report["steps"].as_array().expect("steps").iter();
                        let step = steps.find(|step| step["step"] == "notify");
                        assert_eq!(step.expect("the step")["status"], status, "{ended}");
                    }
                    let found = found(&dropbox, &host, &ended, &NOTIFIED);
                    assert_eq!(found, expected, "{command}: {ended}");
                    assert!(!ended.err.contains(&login) && !ended.out.contains(&login));
                }
            }
        }
        // What was sent holds only what it takes to get there.
        let all = [APP_SECRET, REFRESH_TOKEN].into_iter().chain(NOTIFIED);
        let all: Vec<_> = all.chain(FOREIGN.map(|(_, value)| value)).collect();
        let posted = receiver.posted();
        assert!(posted.len() >= 16, "{:?}", receiver.targets());
        for posted in posted {
            let held = all.iter().find(|secret| holds(&posted.body, secret));
            assert_eq!(held, None, "{} {}", posted.head.target, posted.body);
        }
        let mails = other.mails();
        assert!(mails.len() >= 4, "{}", mails.len());
        for mail in mails {
            assert!(
                !all.iter().any(|secret| holds(&mail.text, secret)),
                "{}",
                mail.text
            );
        }
    }
}
