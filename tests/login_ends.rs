//! What a log-in leaves behind, whatever happens on the way: on this machine, at the service, and in what is
//! told. And how a permission ends, and how the older script's is taken over.

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};
use support::dialogue::Piped;
use support::dropbox::{Dropbox, Fault, Moment, Options, Reply, What};
use support::host::{Ended, Host};
use support::kill::{kill_command_at, signal_at};
use support::log_in::{
    LOGGED_IN, NEXT, PREFIX, assert_logged_in, assert_nothing_stored, configured, machine, mode,
    plain, token_file, with_code,
};

const LOGIN: &str = "login --code -";
const SECRET: &str = "MARKED-app-secret-q7W3e5R9t1Y2u4I6o8P0a-S2d4F6";

fn start() -> Dropbox {
    Dropbox::start(Options::default())
}

/// With a secret no challenge is asked for, and a code can be obtained beforehand.
fn start_with_secret() -> (Dropbox, Host) {
    let dropbox = Dropbox::start(Options {
        app_secret: Some(SECRET.to_owned()),
        ..Options::default()
    });
    let host = configured(&dropbox, &format!("app_secret = \"{SECRET}\"\n"));
    (dropbox, host)
}

fn code(dropbox: &Dropbox) -> String {
    let page = "?client_id=standin-app-key&response_type=code&token_access_type=offline";
    dropbox.authorize(page).expect("a code")
}

/// A call whose standard input is this text.
fn call(host: &Host, arguments: &str, input: &str) -> Command {
    let path = host.path("input");
    fs::write(&path, input).expect("a file");
    let mut command = host.command(arguments);
    command.stdin(Stdio::from(File::open(path).expect("a file")));
    command
}

fn run(mut command: Command) -> Ended {
    command.output().expect("the program runs").into()
}

fn store(host: &Host, token: &str) {
    fs::write(token_file(host), format!("{token}\n")).expect("a token");
    fs::set_permissions(token_file(host), fs::Permissions::from_mode(0o600)).expect("its mode");
}

/// What the error says, without the word before it.
fn error(ended: &Ended, host: &Host) -> String {
    let text = plain(&ended.err, host);
    let (_, error) = text.rsplit_once("error: ").expect("an error");
    error.to_owned()
}

/// Files below a folder of the machine that a log-in may write to.
fn left(host: &Host) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(host.root()).expect("the root");
    let files = entries.map(|entry| entry.expect("an entry").path());
    let files = files.filter(|path| path.is_file() && !path.ends_with("input"));
    files
        .map(|path| {
            let name = path.file_name().expect("a name").to_string_lossy();
            (name.into_owned(), fs::read(&path).expect("a file"))
        })
        .collect()
}

/// Killed at any request, a log-in leaves what was there; and the next one works.
#[test]
fn killed_at_any_request() {
    for (n, moment) in (0..)
        .flat_map(|n| [Moment::Head, Moment::Applied].map(|moment| (n, moment)))
        .take(40)
    {
        let (dropbox, host) = start_with_secret();
        store(&host, "the old one");
        let before = left(&host);
        let ended = kill_command_at(&dropbox, call(&host, LOGIN, &code(&dropbox)), n, moment);
        if let Some(ended) = ended {
            assert_eq!(ended.status, Some(0), "{ended}");
            assert_eq!(n, 8, "a code, a token, two questions, a file four times");
            return;
        }
        assert_eq!(left(&host), before, "killed at {n} {moment:?}");
        let ended = run(call(&host, LOGIN, &code(&dropbox)));
        assert_eq!(ended.status, Some(0), "{ended}");
        assert_eq!(left(&host).len(), 2, "{:?}", left(&host).keys());
    }
    panic!("it has no end");
}

/// Asked to stop, it takes away at the service what it had made there.
#[test]
fn stopped_at_any_request() {
    for n in 0..20 {
        let (dropbox, host) = start_with_secret();
        let command = call(&host, LOGIN, &code(&dropbox));
        let ended = signal_at(&dropbox, command, n, Moment::Applied, Signal::TERM);
        // Behind the last request there may be nothing left to stop.
        if n >= 7 && ended.status == Some(0) {
            assert_logged_in(&dropbox, &host);
            return;
        }
        assert_eq!(ended.status, Some(143), "{ended}");
        assert_eq!(
            error(&ended, &host),
            "stopped by SIGTERM; nothing was stored on this machine\n"
        );
        assert!(!token_file(&host).exists());
        // One that was granted in a reply that nobody waited for cannot be known.
        if n > 0 {
            assert_nothing_stored(&dropbox, &host, &ended.err);
        }
    }
    panic!("it has no end");
}

#[test]
fn a_probe_that_fails_is_told_and_nothing_is_stored() {
    type Change = fn(&Dropbox);
    let scenes: [(Change, &str); 6] = [
        (
            |dropbox| dropbox.set_quota(10),
            "dropbox: storing /gitlab-pi-backup-probe-RANDOM.txt: Dropbox refused: \
             path/insufficient_space (request ID)\n  make room in Dropbox\n",
        ),
        (
            |dropbox| dropbox.fault(Fault::on("files/upload", What::LyingHash).forever()),
            "dropbox: storing /gitlab-pi-backup-probe-RANDOM.txt: other bytes were stored\n  \
             tried again for 1s, in vain\n",
        ),
        (
            |dropbox| dropbox.fault(Fault::on("files/delete", What::server_error(503)).forever()),
            "dropbox: deleting /gitlab-pi-backup-probe-RANDOM.txt: Dropbox answered 503: \
             Internal Server Error (request ID)\n  tried again for 1s, in vain\n",
        ),
        (
            |dropbox| {
                let other = Reply::new(206, "application/octet-stream", "other bytes");
                dropbox.fault(Fault::on("files/download", What::Reply(other)));
            },
            "dropbox: proving the token with /gitlab-pi-backup-probe-RANDOM.txt: what was stored is not what is \
             read\n",
        ),
        (
            |dropbox| {
                let granted = json!({ "access_token": "x", "expires_in": 14400 });
                let fault = What::Reply(Reply::json(200, &granted));
                dropbox.fault(Fault::on("oauth2/token", fault));
            },
            "dropbox: exchanging the code: Dropbox granted access for some hours, but gave no refresh token\n  \
             open the address exactly as it was printed, and paste the code that page shows\n",
        ),
        (
            |dropbox| dropbox.fault(Fault::on("oauth2/token", What::HtmlOk).forever()),
            "dropbox: exchanging the code: the reply is cut off or no JSON\n  tried again for 1s, in vain\n",
        ),
    ];
    for (number, (change, says)) in scenes.into_iter().enumerate() {
        let dropbox = start();
        let host = configured(&dropbox, "");
        change(&dropbox);
        let ended = with_code(&dropbox, &host, LOGIN);
        assert_eq!(ended.status, Some(1), "{ended}");
        assert_eq!(error(&ended, &host), says);
        assert!(!token_file(&host).exists());
        // Where deleting is what fails, the file stays.
        assert_eq!(dropbox.files().len(), usize::from(number == 2), "{ended}");
        assert_eq!(dropbox.refresh_tokens().len(), 1, "{ended}");
    }
    // The service is gone before the page is opened.
    let dropbox = start();
    let host = configured(&dropbox, "");
    let mut piped = Piped::start(host.command(LOGIN));
    piped.wait_for("on standard input.\n");
    dropbox.shut_down();
    piped.enter("code\n");
    let ended = piped.end();
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(
        ended
            .err
            .contains("exchanging the code: no connection to the server"),
        "{ended}"
    );
    assert!(!token_file(&host).exists());
}

/// The older Python script, as its users have filled it in.
fn script(token: &str) -> String {
    format!(
        "# PREREQ: sudo pip3 install dropbox\nimport dropbox\nimport os\n\n\
         LOCAL_GITLAB_CONFIG_PATH    = \"/etc/gitlab/config_backup\"\n\
         LOCAL_GITLAB_DATA_PATH      = \"/srv/gitlab/backups\"\n\n\
         DROPBOX_APP_KEY     = \"standin-app-key\"  # of my app\n\
         DROPBOX_APP_SECRET  = '{SECRET}'\n\
         DROPBOX_REFRESH_TOKEN = \"{token}\"\n\
         DROPBOX_DESTINATION_CONFIG  = \"/Config\"\n\
         DROPBOX_DESTINATION_DATA    = \"/Backups\" + \"/Data\"\n\n\
         def getNewAccessToken():\n    return \"DROPBOX_APP_KEY = 'x'\"\n"
    )
}

#[test]
fn the_older_script_becomes_a_configuration() {
    let dropbox = Dropbox::start(Options {
        app_secret: Some(SECRET.to_owned()),
        ..Options::default()
    });
    let host = machine(&dropbox);
    let token = Options::default().refresh_token;
    fs::write(host.path("backup.py"), script(&token)).expect("a script");
    let path = host.path("backup.py").display().to_string();
    let arguments = format!("login --from-script {path}");
    let ended = host.run(&arguments);
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(ended.err, "");
    let note = "note: the script still holds the secrets, and may still be started by cron; remove both once a \
        backup of this program is verified\n";
    assert_eq!(
        plain(&ended.out, &host),
        format!("{LOGGED_IN}  first configuration: ROOT/config.toml\n{note}{NEXT}")
    );
    assert_eq!(
        fs::read_to_string(token_file(&host)).expect("a token"),
        token.clone() + "\n"
    );
    for name in ["config.toml", "dropbox.token"] {
        assert_eq!(mode(&host.path(name)), 0o600, "{name}");
    }
    let text = fs::read_to_string(host.path("config.toml")).expect("a configuration");
    let given: Vec<_> = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    let secret = format!("app_secret = \"{SECRET}\"");
    let token_line = format!("refresh_token_file = \"{}\"", token_file(&host).display());
    assert_eq!(
        given,
        [
            "[gitlab]",
            "data_dir = \"/srv/gitlab/backups\"",
            "[destinations.dropbox]",
            "type = \"dropbox\"",
            "app_key = \"standin-app-key\"",
            &secret,
            &token_line,
            "data_folder = \"/Backups/Data\"",
        ]
    );
    let ended = host.run("list --json");
    assert_eq!(ended.status, Some(0), "{ended}");

    // Once more: what is there is not touched, and what would have been written is shown without the secret.
    let before = left(&host);
    let ended = host.run(&arguments);
    assert_eq!(ended.status, Some(2), "{ended}");
    let says = error(&ended, &host);
    assert!(
        says.starts_with(
            "there is a configuration ROOT/config.toml already, and it is never overwritten\n  \
             move it away and type the command again, or take over what you need of this:\n\n# The"
        ),
        "{says}"
    );
    assert!(
        says.contains("\napp_secret = \"…\"\n") && says.contains("data_folder = \"/Backups/Data\"")
    );
    assert_eq!(left(&host), before);
}

#[test]
fn scripts_that_cannot_be_taken_over() {
    let dropbox = start();
    let host = machine(&dropbox);
    let path = host.path("backup.py");
    let arguments = format!("login --from-script {}", path.display());
    let way_out = "\n  fill that in there, or log in without it: sudo gitlab-pi-backup login\n";
    let refused = |says: &str| {
        let ended = host.run(&arguments);
        assert_eq!(ended.status, Some(2), "{ended}");
        assert_eq!(
            error(&ended, &host),
            format!("reading the script ROOT/backup.py:{says}")
        );
        assert!(!ended.to_string().contains("MARKED"), "{ended}");
        assert!(!host.path("config.toml").exists() && !token_file(&host).exists());
    };
    refused(" No such file or directory (os error 2)\n");
    fs::write(&path, "print('hello')\n").expect("a script");
    refused(&format!(
        "\n  it is not the script: it assigns neither DROPBOX_APP_KEY, DROPBOX_APP_SECRET nor \
         DROPBOX_REFRESH_TOKEN{way_out}"
    ));
    let text = script("<you-have-to-edit-this-field>")
        .replace("'MARKED", "os.environ['KEY'] or 'MARKED")
        .replace("\"standin-app-key\"", "\"\"")
        .replace("\"/Backups\"", "base()");
    fs::write(&path, text).expect("a script");
    refused(&format!(
        "\n  DROPBOX_APP_KEY is empty\n  \
         DROPBOX_APP_SECRET is not in the script: it is read from the environment (KEY)\n  \
         DROPBOX_REFRESH_TOKEN was never filled in\n  \
         DROPBOX_DESTINATION_DATA is no text that stands in the script: it is known only when the script runs{way_out}"
    ));
    fs::write(&path, script("x").replace("DROPBOX_APP_SECRET", "SECRET")).expect("a script");
    refused(&format!("\n  DROPBOX_APP_SECRET is missing{way_out}"));
    fs::write(&path, vec![b'x'; 3 << 20]).expect("a file");
    refused(" it is too long to be the script\n");
    fs::write(&path, [0xff, 0xfe, 0]).expect("a file");
    refused(" stream did not contain valid UTF-8\n");
    // The app's key is right, and the token is dead.
    fs::write(&path, script("dead")).expect("a script");
    let ended = host.run(&format!("{arguments} --json"));
    assert_eq!(ended.status, Some(1), "{ended}");
    let document = ended.json();
    assert_eq!(document["configuration"], Value::Null);
    assert!(
        document["error"]
            .as_str()
            .expect("one")
            .contains("refreshing the access token")
    );
    assert!(!host.path("config.toml").exists() && !token_file(&host).exists());
}

/// Its token is from before the app had all rights: the reply names none, so only the probe finds out.
#[test]
fn an_old_token_that_lacks_rights() {
    let lacking = |scopes: &[&str], app: &[&str]| {
        let dropbox = Dropbox::start(Options {
            app_secret: Some(SECRET.to_owned()),
            scopes: scopes.iter().map(ToString::to_string).collect(),
            ..Options::default()
        });
        dropbox.tick(app);
        let host = machine(&dropbox);
        let token = Options::default().refresh_token;
        fs::write(host.path("backup.py"), script(&token)).expect("a script");
        let path = host.path("backup.py").display().to_string();
        let ended = host.run(&format!("login --from-script {path} --json"));
        assert_eq!(ended.status, Some(1), "{ended}");
        assert!(!host.path("config.toml").exists() && !token_file(&host).exists());
        assert_eq!(dropbox.files().len(), 0, "{ended}");
        // It is not ours to revoke.
        assert_eq!(dropbox.refresh_tokens(), [token]);
        let document = ended.json();
        assert!(
            document["error"]
                .as_str()
                .expect("one")
                .contains("was not stored\n  tick")
        );
        let missing = document["missing_scopes"].clone();
        serde_json::from_value::<Vec<String>>(missing).expect("names")
    };
    let all = [
        "account_info.read",
        "files.content.read",
        "files.content.write",
        "files.metadata.read",
    ];
    assert_eq!(lacking(&[], &all), all);
    assert_eq!(lacking(&all, &[]), all);
    for one in all {
        let others: Vec<_> = all.into_iter().filter(|scope| *scope != one).collect();
        assert_eq!(lacking(&others, &all), [one]);
        assert_eq!(lacking(&all, &others), [one]);
    }
}

#[test]
fn the_end_of_a_permission() {
    let page = "https://www.dropbox.com/account/connected_apps";
    let rest = format!(
        "  what is stored there stays; the app can be disconnected at {page}\n  \
         runs fail from now on: log in again with `sudo gitlab-pi-backup -c ROOT/config.toml login dropbox`, or end \
         them with\n  `sudo gitlab-pi-backup -c ROOT/config.toml schedule remove`\n"
    );
    let token = Options::default().refresh_token;
    let revoke = "login --revoke";
    let ends = |host: &Host, says: &str| {
        let ended = host.run(revoke);
        assert_eq!(ended.status, Some(0), "{ended}");
        assert_eq!(plain(&ended.out, host), format!("dropbox: {says}\n{rest}"));
        assert!(!token_file(host).exists());
    };
    let (now, before) = (
        "the refresh token is revoked, and ROOT/dropbox.token is removed",
        "the refresh token was worthless already, and ROOT/dropbox.token is removed",
    );
    let dropbox = start();
    let host = configured(&dropbox, "");
    store(&host, &token);
    ends(&host, now);
    assert_eq!(dropbox.refresh_tokens(), [""; 0]);
    store(&host, &token);
    ends(&host, before);
    // It is gone.
    let ended = host.run(revoke);
    assert_eq!(ended.status, Some(1), "{ended}");
    assert_eq!(
        error(&ended, &host),
        format!(
            "dropbox: there is no refresh token in ROOT/dropbox.token, so there is nothing to revoke\n  \
             if the app is still allowed, disconnect it at {page}\n"
        )
    );
    // The reply is lost, the token is dead.
    let dropbox = start();
    let host = configured(&dropbox, "");
    store(&host, &token);
    dropbox.fault(Fault::on("token/revoke", What::LostReply));
    ends(&host, before);
    // A token without any right is revoked as well.
    let dropbox = Dropbox::start(Options {
        scopes: Vec::new(),
        ..Options::default()
    });
    let host = configured(&dropbox, "");
    store(&host, &token);
    ends(&host, now);
    // Nobody answers, or the app is not known: it stays.
    for (endpoint, what) in [
        ("token/revoke", What::server_error(503)),
        ("oauth2/token", What::server_error(502)),
        (
            "oauth2/token",
            What::Reply(Reply::json(
                400,
                &json!({ "error": "invalid_client: Invalid client_id" }),
            )),
        ),
    ] {
        let dropbox = start();
        let host = configured(&dropbox, "");
        store(&host, &token);
        dropbox.fault(Fault::on(endpoint, what).forever());
        let ended = host.run("login --revoke --json");
        assert_eq!(ended.status, Some(1), "{ended}");
        let says = ended.json()["error"].as_str().expect("one").to_owned();
        assert!(
            says.starts_with("dropbox: revoking the refresh token: "),
            "{says}"
        );
        assert!(token_file(&host).exists());
        assert_eq!(ended.json()["token_file"], Value::Null);
    }
    // It stands elsewhere.
    let dropbox = start();
    let mut host = configured(&dropbox, "");
    host.set(&format!("{PREFIX}REFRESH_TOKEN"), &token);
    ends(
        &host,
        "the refresh token is revoked, and it still stands in the environment variable \
         GITLAB_PI_BACKUP_DESTINATIONS__DROPBOX__REFRESH_TOKEN: take it out there",
    );
    assert_eq!(dropbox.refresh_tokens(), [""; 0]);
}

/// Whether this user may mount; if not, that is told.
fn may_mount() -> bool {
    let tried = Command::new("unshare")
        .args(["-m", "true"])
        .stderr(Stdio::null())
        .status();
    let may = tried.is_ok_and(|status| status.success());
    if !may {
        // Not by a macro, whose output a test that passes does not show.
        let told = writeln!(io::stderr(), "skipped: `unshare -m` does not work here");
        told.expect("standard error");
    }
    may
}

/// The program with a folder in the place of `/etc`, and no other configuration named.
fn with_etc(host: &Host, etc: &Path, mount: &str, arguments: &str) -> Command {
    let inner = host.command(arguments);
    let mut command = Command::new("unshare");
    let script = format!("mount --bind \"$0\" /etc && {mount} exec \"$@\"");
    command
        .args(["-m", "sh", "-c", &script])
        .arg(etc)
        .arg(inner.get_program())
        .args(inner.get_args())
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for (name, value) in inner.get_envs() {
        command.env(name, value.expect("a value"));
    }
    command.env_remove("GITLAB_PI_BACKUP_CONFIG");
    command
}

/// An `/etc` with nothing but what TLS looks for.
fn empty_etc(host: &mut Host) -> std::path::PathBuf {
    let etc = host.path("other-etc");
    fs::create_dir(&etc).expect("a folder");
    let system = "/etc/ssl/certs/ca-certificates.crt";
    let certificates = host.path("certificates");
    fs::copy(system, &certificates).expect("the system's certificates");
    host.set("SSL_CERT_FILE", certificates);
    etc
}

#[test]
fn where_everything_is_looked_for() {
    if !may_mount() {
        return;
    }
    let dropbox = start();
    let mut host = machine(&dropbox);
    host.set(&format!("{PREFIX}APP_KEY"), "standin-app-key");
    let etc = empty_etc(&mut host);
    let mut piped = Piped::start(with_etc(&host, &etc, "", LOGIN));
    piped.wait_for("on standard input.\n");
    let page = support::log_in::address(&piped.text()).to_owned();
    piped.enter(&dropbox.authorize(&page).expect("a code"));
    let ended = piped.end();
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(
        ended.out,
        LOGGED_IN.replace("ROOT", "/etc/gitlab-pi-backup")
            + "  first configuration: /etc/gitlab-pi-backup/config.toml\nnext: sudo gitlab-pi-backup doctor\n"
    );
    let ours = etc.join("gitlab-pi-backup");
    assert_eq!(mode(&ours), 0o700);
    let text = fs::read_to_string(ours.join("config.toml")).expect("a configuration");
    assert!(!text.contains("refresh_token_file"), "{text}");
    for name in ["config.toml", "dropbox.token"] {
        assert_eq!(mode(&ours.join(name)), 0o600, "{name}");
    }
    assert_eq!(fs::read_dir(&ours).expect("a folder").count(), 2);
    // What comes next finds it.
    let ended = run(with_etc(&host, &etc, "", "list"));
    assert_eq!(ended.status, Some(0), "{ended}");
}

#[test]
fn an_etc_that_cannot_be_written() {
    if !may_mount() {
        return;
    }
    let dropbox = start();
    let mut host = machine(&dropbox);
    host.set(&format!("{PREFIX}APP_KEY"), "standin-app-key");
    let etc = empty_etc(&mut host);
    let read_only = "mount -o remount,bind,ro /etc &&";
    // Nobody is sent to a page in vain.
    let ended = run(with_etc(&host, &etc, read_only, LOGIN));
    assert_eq!(ended.status, Some(1), "{ended}");
    assert_eq!(
        ended.err,
        "error: /etc/gitlab-pi-backup/config.toml could not be written: /etc: Read-only file system (os error 30)\n  \
         run as root, and on a disk that is mounted for writing; nothing was asked or stored\n"
    );
    // With a configuration as well.
    let ours = etc.join("gitlab-pi-backup");
    fs::create_dir(&ours).expect("a folder");
    let text = "[destinations.dropbox]\ntype = \"dropbox\"\napp_key = \"standin-app-key\"\n";
    fs::write(ours.join("config.toml"), text).expect("a configuration");
    let ended = run(with_etc(&host, &etc, read_only, "login"));
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(
        ended.err.starts_with(
            "error: /etc/gitlab-pi-backup/dropbox.token could not be written: /etc/gitlab-pi-backup: Read-only"
        ),
        "{ended}"
    );
    // The disk is full when it comes to it: nothing of the first configuration stays.
    fs::remove_file(ours.join("config.toml")).expect("removed");
    let full = "mount -t tmpfs -o size=4k,mode=700 none /etc/gitlab-pi-backup && echo x > /etc/gitlab-pi-backup/x &&";
    let mut piped = Piped::start(with_etc(&host, &etc, full, LOGIN));
    piped.wait_for("on standard input.\n");
    let page = support::log_in::address(&piped.text()).to_owned();
    piped.enter(&dropbox.authorize(&page).expect("a code"));
    let ended = piped.end();
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(
        ended.err.ends_with(
            "error: writing a first configuration /etc/gitlab-pi-backup/config.toml: No space left on device (os \
             error 28)\n  nothing was stored; mend it and log in again\n"
        ),
        "{ended}"
    );
    assert_eq!(dropbox.refresh_tokens().len(), 1, "nobody knows it");
}

/// Somebody else writes a configuration while the user is at the page.
#[test]
fn a_configuration_that_appears_meanwhile_is_not_touched() {
    let dropbox = start();
    let mut host = machine(&dropbox);
    host.set(&format!("{PREFIX}APP_KEY"), "standin-app-key");
    let mut piped = Piped::start(host.command(LOGIN));
    piped.wait_for("on standard input.\n");
    host.write_config("# somebody else's\n");
    let page = support::log_in::address(&piped.text()).to_owned();
    piped.enter(&dropbox.authorize(&page).expect("a code"));
    let ended = piped.end();
    assert_eq!(ended.status, Some(1), "{ended}");
    assert_eq!(
        error(&ended, &host),
        "writing a first configuration ROOT/config.toml: File exists (os error 17)\n  \
         nothing was stored; mend it and log in again\n"
    );
    assert_nothing_stored(&dropbox, &host, &ended.err);
    let text = fs::read_to_string(host.path("config.toml")).expect("it");
    assert_eq!(text, "# somebody else's\n");
    assert_eq!(left(&host).len(), 1, "{:?}", left(&host).keys());
}

/// Whether a text holds a part of the secret.
fn holds(text: &str, secret: &str) -> bool {
    let windows = secret.as_bytes().windows(16);
    windows.into_iter().any(|part| {
        let part = std::str::from_utf8(part).expect("ASCII");
        text.contains(part)
    })
}

/// As loud as it gets, with a service that repeats what it was sent.
#[test]
fn no_secret_comes_out() {
    for options in ["-vv", "-vv --log-format json --json"] {
        for repeats in [false, true] {
            let (dropbox, host) = start_with_secret();
            let code = code(&dropbox);
            let old = Options::default().refresh_token;
            store(&host, &old);
            if repeats {
                let told = json!({ "error": "invalid_grant", "error_description": format!("{code} {SECRET}") });
                dropbox.fault(Fault::on(
                    "oauth2/token",
                    What::Reply(Reply::json(400, &told)),
                ));
            }
            let ended = run(call(&host, &format!("{LOGIN} {options}"), &code));
            assert_eq!(ended.status, Some(i32::from(repeats)), "{ended}");
            assert!(
                repeats || ended.err.contains("new access token"),
                "not loud: {ended}"
            );
            assert_eq!(repeats, ended.err.contains("[secret]"), "{ended}");
            let mut secrets = vec![code, SECRET.to_owned()];
            secrets.extend(dropbox.refresh_tokens());
            let tokens = dropbox.requests().into_iter().filter_map(|seen| seen.token);
            secrets.extend(tokens);
            assert!(repeats || secrets.len() > 8, "{}", secrets.len());
            for secret in &secrets {
                let secret = secret.trim_start_matches("sl.standin-");
                let secret = secret.trim_start_matches("standin-refresh-");
                if secret.len() >= 16 {
                    assert!(!holds(&ended.out, secret), "{ended}");
                    assert!(!holds(&ended.err, secret), "{ended}");
                }
                for (name, bytes) in left(&host) {
                    let expected = name == "dropbox.token" || name == "config.toml";
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    assert!(expected || !text.contains(secret), "{name}");
                }
            }
            if !repeats {
                let ended = run(call(&host, &format!("login --revoke {options}"), ""));
                assert_eq!(ended.status, Some(0), "{ended}");
                for secret in dropbox.requests().into_iter().filter_map(|seen| seen.token) {
                    let secret = secret.trim_start_matches("sl.standin-");
                    assert!(
                        !holds(&ended.out, secret) && !holds(&ended.err, secret),
                        "{ended}"
                    );
                }
            }
        }
    }
    let dropbox = start();
    let host = configured(&dropbox, "");
    let ended = with_code(&dropbox, &host, LOGIN);
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_logged_in(&dropbox, &host);
}
