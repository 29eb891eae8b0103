//! The configuration and the command line, right and wrong, as a user sees them.

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use serde_json::{Value, json};
use support::dropbox::{Dropbox, Options};
use support::host::{Ended, Host};

const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");
const CONFIG: &str = "gitlab_config_1702758583_2023_12_16.tar";
const DATA: &str = "1702758583_2023_12_16_17.8.2_gitlab_backup.tar";
/// A secret that no message may hold.
const SECRET: &str = "marked-secret-0123456789";
/// The least that is right.
const LEAST: &str = "[destinations.dropbox]\ntype = \"dropbox\"\napp_key = \"k\"\n";

/// A machine without a configuration, and what it must not have touched.
fn bare() -> Host {
    Host::without_config(PROGRAM)
}

/// A machine with one archive, and the account it goes to.
fn with_archive() -> (Dropbox, Host) {
    let dropbox = Dropbox::start(Options::default());
    let host = Host::new(PROGRAM, &dropbox);
    host.put_data_archive(DATA, 13 << 20);
    host.put_config_archive(CONFIG);
    (dropbox, host)
}

/// Refused before anything was done: nothing on stdout, no command, no lock, no secret told.
fn assert_refused(host: &Host, ended: &Ended, parts: &[&str]) {
    assert_eq!(ended.status, Some(2), "{ended}");
    assert_eq!(ended.out, "", "{ended}");
    for part in parts {
        assert!(ended.err.contains(part), "`{part}` is not in {ended}");
    }
    assert!(!ended.err.contains(SECRET), "{ended}");
    assert_eq!(host.calls(), "");
    let state = fs::read_dir(host.path("state")).expect("the folder of the host");
    assert_eq!(state.count(), 0);
}

/// What a message says of faults, without the line that names the file.
fn faults(ended: &Ended) -> Vec<&str> {
    ended.err.lines().skip(1).map(str::trim).collect()
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}

/// Where and whereto the dry run would send the data archive.
fn target(ended: &Ended) -> (Value, Value) {
    assert_eq!(ended.status, Some(0), "{ended}");
    let report = ended.json();
    let archives = report["archives"].as_array().expect("archives").iter();
    let mut data = archives.filter(|archive| archive["kind"] == "data");
    let upload = &data.next().expect("the data archive")["uploads"][0];
    (upload["destination"].clone(), upload["path"].clone())
}

/// The longest append the account got, in bytes.
fn longest_append(dropbox: &Dropbox) -> u64 {
    let requests = dropbox.requests().into_iter();
    let appends = requests.filter(|seen| seen.endpoint.ends_with("append_v2"));
    appends.map(|seen| seen.received).max().expect("an append")
}

#[test]
fn a_file_that_cannot_be_read() {
    let host = bare();
    fs::write(host.path("file"), "").expect("a file");
    fs::create_dir(host.path("folder")).expect("a folder");
    symlink(host.path("nowhere"), host.path("dangling")).expect("a link");
    symlink(host.path("loop"), host.path("loop")).expect("a link");
    fs::write(host.path("latin1"), b"# \xfcber\n").expect("a file");
    for (name, reason) in [
        ("missing", "No such file"),
        ("folder", "directory"),
        ("dangling", "No such file"),
        ("loop", "symbolic links"),
        ("file/below", "Not a directory"),
        ("latin1", "UTF-8"),
        ("/dev/zero", "too long"),
    ] {
        let path = host.path(name).display().to_string();
        let ended = host.run(&format!("run -c {path}"));
        let parts = [
            "reading the configuration",
            &path,
            reason,
            "name another with -c",
        ];
        assert_refused(&host, &ended, &parts);
    }
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    let cases: &[(&str, &[&str])] = &[
        (
            "",
            &["no destination is configured; add a table like this\n    [destinations.dropbox]\n"],
        ),
        (
            "state_dir = \"/x\"\n[destinations]\n",
            &["no destination is configured"],
        ),
        ("state_dir = 7\n", &["line 1: `state_dir`"]),
        ("gitlab = \"x\"\n", &["line 1: `gitlab` must be a table"]),
        (
            "[gitlab]\nnice = \"high\"\n",
            &["line 2: `gitlab.nice`", "\"high\""],
        ),
        ("[gitlab]\nnice = -1\n", &["line 2: `gitlab.nice`"]),
        (
            "[gitlab]\nskip = \"registry\"\n",
            &["line 2: `gitlab.skip`"],
        ),
        (
            "[gitlab]\n\ntimeout = \"soon\"\n",
            &["line 3: `gitlab.timeout`", "90s"],
        ),
        (
            "[gitlab.timeout]\nx = 1\n",
            &["line 1: `gitlab.timeout` is a table"],
        ),
        (
            "[upload]\nchunk_size = \"17 MiB\"\n",
            &["line 2: `upload.chunk_size`", "4 MiB"],
        ),
        (
            "[upload]\nchunk_size = \"152 MiB\"\n",
            &["line 2: `upload.chunk_size`", "148 MiB"],
        ),
        (
            "[upload]\nchunk_size = true\n",
            &["line 2: `upload.chunk_size`"],
        ),
        (
            "[upload]\nbandwidth_limit = \"fast\"\n",
            &["line 2: `upload.bandwidth_limit`"],
        ),
        (
            "[upload]\nconcurency = 2\n",
            &["line 2: unknown key `upload.concurency`; did you mean `concurrency`?"],
        ),
        (
            "[gitlab]\nSkip = []\n",
            &["line 2: unknown key `gitlab.Skip`; did you mean `skip`?"],
        ),
        (
            "[uplaod]\nx = 1\n",
            &["line 1: unknown table `uplaod`; did you mean `upload`?"],
        ),
        (
            "statedir = \"/x\"\n",
            &["line 1: unknown key `statedir`; did you mean `state_dir`?"],
        ),
        ("zzz = 1\n", &["line 1: unknown key `zzz`\n"]),
        ("a = 1\na = 2\n", &["line 2: duplicate key"]),
        ("[upload]\n[gitlab]\n[upload]\n", &["line 3: duplicate key"]),
        ("a = \n", &["line 1: "]),
        (
            "[destinations.dropbox]\ntype = \"dropbox\"\n",
            &["`destinations.dropbox.app_key` is missing"],
        ),
        (
            "[destinations.dropbox]\napp_key = \"k\"\n",
            &["`destinations.dropbox.type` is missing"],
        ),
        (
            "[destinations.dropbox]\ntype = \"dropbx\"\n",
            &["line 2: `destinations.dropbox.type`", "dropbox"],
        ),
        (
            "[destinations]\ndropbox = \"k\"\n",
            &["line 2: `destinations.dropbox` must be a table"],
        ),
        (
            "[destinations.Box]\ntype = \"dropbox\"\napp_key = \"k\"\n",
            &["line 2: ", "lower-case"],
        ),
    ];
    for (text, parts) in cases {
        let host = bare();
        host.write_config(text);
        let ended = host.run("run");
        let path = host.path("config.toml").display().to_string();
        assert_refused(&host, &ended, &[&[path.as_str()], *parts].concat());
    }
}

#[test]
fn several_faults_are_told_together_in_the_order_of_their_lines() {
    let host = bare();
    host.write_config(
        "state_dir = 1\n\
         [gitlab]\n\
         nice = 99\n\
         timeout = \"6 fortnights\"\n\
         [upload]\n\
         concurrency = 0\n\
         chunk_sise = \"8 MiB\"\n\
         [destinations.dropbox]\n\
         type = \"dropbox\"\n",
    );
    let ended = host.run("run");
    assert_refused(&host, &ended, &["has 6 faults:"]);
    let told: Vec<_> = faults(&ended)
        .iter()
        .map(|fault| fault.split(": ").next().unwrap_or_default().to_owned())
        .collect();
    let missing = "`destinations.dropbox.app_key` is missing";
    assert_eq!(
        told,
        ["line 1", "line 3", "line 4", "line 6", "line 7", missing],
        "{ended}"
    );
}

/// One mistake is one fault: what belongs to a destination of unknown type is not called unknown.
#[test]
fn a_mistyped_type_is_one_fault() {
    for first in ["type = \"dropbx\"\n", ""] {
        let host = bare();
        host.write_config(&format!(
            "[destinations.dropbox]\n{first}app_key = \"k\"\napp_secret = \"{SECRET}\"\nrefresh_token = \"{SECRET}\"\n"
        ));
        let ended = host.run("run");
        assert_refused(
            &host,
            &ended,
            &["destinations.dropbox.type", "has a fault:"],
        );
    }
}

#[test]
fn keys_of_later_features_are_unknown() {
    let host = bare();
    host.write_config(&format!("{LEAST}[records]\nstore = \"sqlite\"\n"));
    let line = "line 4: unknown table `records`";
    assert_refused(&host, &host.run("run"), &[line]);
}

#[test]
fn a_token_of_gitlab_is_shown_to_nobody() {
    // Whoever is on the way would read it.
    for (url, told) in [
        (
            format!("http://git.example/{SECRET}"),
            "line 5: `gitlab.url`: takes an address that starts with https://",
        ),
        (
            format!("https://u:{SECRET}@git.example"),
            "line 5: `gitlab.url`: takes an address without a name or password",
        ),
        (
            SECRET.to_owned(),
            "line 5: `gitlab.url`: takes an address, like",
        ),
    ] {
        let host = bare();
        host.write_config(&format!("{LEAST}[gitlab]\nurl = \"{url}\"\n"));
        assert_refused(&host, &host.run("run"), &[told]);
    }
    // Others on this machine would, too.
    let host = bare();
    let path = host.path("gitlab.token");
    fs::write(&path, SECRET).expect("written");
    mode(&path, 0o644);
    host.write_config(&format!("{LEAST}[gitlab]\ntoken_file = {path:?}\n"));
    assert_refused(
        &host,
        &host.run("run"),
        &["gitlab.token holds secrets, but others may", "chmod 600"],
    );
    let host = bare();
    host.write_config(&format!("{LEAST}[gitlab]\ntoken = \"{SECRET}\"\n"));
    mode(&host.path("config.toml"), 0o644);
    assert_refused(
        &host,
        &host.run("run"),
        &["config.toml holds secrets, but others may"],
    );
}

#[test]
fn a_fault_in_a_line_with_a_secret_does_not_tell_it() {
    for line in [
        format!("refresh_token = \"{SECRET}"),
        format!("refresh_token = {SECRET}"),
        format!("refresh_token = '{SECRET}\" # twice: {SECRET}"),
        format!("refresh_token \"{SECRET}\""),
        format!("refresh_token = \"{SECRET}\" \"{SECRET}\""),
        format!("refresh_token = \"\\{SECRET}\""),
        format!("refresh_token = \"{SECRET}\\u12\""),
        format!("refresh_token = [\"{SECRET}\"]"),
        format!("refresh_token = {{ a = \"{SECRET}\" }}"),
        format!("refresh_tokn = \"{SECRET}\""),
        format!("app_secret = \"{SECRET}\"\napp_secret = \"{SECRET}\""),
        format!("app_secret = {SECRET}\nrefresh_token = \"{SECRET}"),
    ] {
        let host = bare();
        host.write_config(&format!("{LEAST}{line}\n"));
        for arguments in ["run", "run -vv", "run -vv --log-format json"] {
            assert_refused(&host, &host.run(arguments), &["line "]);
        }
        let ended = host.run("run --json");
        assert!(!ended.out.contains(SECRET), "{ended}");
    }
    // Tables in variables hold secrets, too.
    for value in [
        format!("{{ type = \"dropbox\", refresh_token = \"{SECRET}\""),
        format!("{{ refresh_token = {SECRET} }}"),
        SECRET.to_owned(),
    ] {
        let mut host = bare();
        host.write_config(LEAST);
        host.set("GITLAB_PI_BACKUP_DESTINATIONS__DROPBOX", value.as_str());
        let ended = host.run("run");
        assert_refused(&host, &ended, &["GITLAB_PI_BACKUP_DESTINATIONS__DROPBOX"]);
    }
}

#[test]
fn a_file_with_secrets_that_others_can_read_is_refused() {
    let (dropbox, mut host) = with_archive();
    let path = host.path("config.toml");
    for bits in [0o644, 0o640, 0o604, 0o620, 0o602, 0o660] {
        mode(&path, bits);
        let chmod = format!("chmod 600 {}", path.display());
        let found = format!("mode {bits:04o}");
        let ended = host.run("run --dry-run");
        assert_refused(&host, &ended, &[&chmod, &found]);
    }
    for bits in [0o600, 0o400, 0o700] {
        mode(&path, bits);
        assert_eq!(host.run("run --dry-run").status, Some(0));
    }
    // A secret that is given elsewhere as well is still a secret.
    mode(&path, 0o644);
    host.set(
        "GITLAB_PI_BACKUP_DESTINATIONS__DROPBOX__REFRESH_TOKEN",
        Options::default().refresh_token,
    );
    assert_refused(&host, &host.run("run --dry-run"), &["chmod 600"]);
    // Without a secret the same file may be read by all.
    let text = host.config(&dropbox);
    let without: Vec<_> = text
        .lines()
        .filter(|line| !line.starts_with("refresh_token"))
        .collect();
    host.write_config(&without.join("\n"));
    mode(&path, 0o644);
    let ended = host.run("run --dry-run");
    assert_eq!(ended.status, Some(0), "{ended}");
    // A table in a variable is no part of the file.
    let destination = json!({
        "type": "dropbox", "app_key": Options::default().app_key, "api_url": dropbox.url(),
        "content_url": dropbox.url(), "refresh_token": Options::default().refresh_token,
    });
    let table = destination.to_string().replace("\":", "\"=");
    host.set("GITLAB_PI_BACKUP_DESTINATIONS__DROPBOX", table);
    let ended = host.run("run --dry-run");
    assert_eq!(ended.status, Some(0), "{ended}");
}

#[test]
fn a_token_file_that_others_can_read_is_refused() {
    let (dropbox, host) = with_archive();
    let token = host.path("dropbox.token");
    fs::write(&token, Options::default().refresh_token + "\n").expect("a token");
    let text = host.config(&dropbox);
    let lines = text
        .lines()
        .map(|line| match line.strip_prefix("refresh_token = ") {
            Some(_) => format!("refresh_token_file = \"{}\"\n", token.display()),
            None => format!("{line}\n"),
        });
    host.write_config(&lines.collect::<String>());
    mode(&token, 0o640);
    let chmod = format!("chmod 600 {}", token.display());
    assert_refused(&host, &host.run("run --dry-run"), &[&chmod, "mode 0640"]);
    mode(&token, 0o400);
    let ended = host.run("run --dry-run");
    assert_eq!(ended.status, Some(0), "{ended}");
    // Both at once: which one counts?
    host.write_config(&text.replace(
        "refresh_token = ",
        &format!(
            "refresh_token_file = \"{}\"\nrefresh_token = ",
            token.display()
        ),
    ));
    assert_refused(&host, &host.run("run --dry-run"), &["not both"]);
    // That there is none is no fault of the file: it is seen when the token is needed.
    fs::remove_file(&token).expect("a token");
    host.write_config(&text.replace(
        "refresh_token = ",
        &format!("refresh_token_file = \"{}\" #", token.display()),
    ));
    let ended = host.run("run --dry-run");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(ended.err.contains(&token.display().to_string()), "{ended}");
}

#[test]
fn an_unknown_destination_on_the_command_line() {
    let (dropbox, host) = with_archive();
    let ended = host.run("run --destination dropbox --destination dorpbox");
    assert_refused(&host, &ended, &["`dorpbox`", "knows: dropbox"]);
    assert_eq!(dropbox.requests().len(), 0);
}

#[test]
fn wrong_arguments_are_usage_errors() {
    for (arguments, part) in [
        ("run --bogus", "--bogus"),
        ("run --dryrun", "--dry-run"),
        ("run --only both", "`config` or `data`"),
        ("run --wait soon", "--wait"),
        ("run --wait", "--wait"),
        ("run --destination", "--destination"),
        ("run extra", "extra"),
        ("run -v -q", "cannot be used"),
        ("--log-format xml run", "xml"),
        ("backup", "backup"),
        ("run --config", "--config"),
        ("", "Usage"),
    ] {
        let host = bare();
        host.write_config("this is not even looked at");
        assert_refused(&host, &host.run(arguments), &[part]);
        let ended = host.run(&format!("--json {arguments}"));
        assert_eq!(ended.status, Some(2), "{ended}");
        let document = ended.json();
        assert_eq!(document["command"], Value::Null, "{ended}");
        assert_eq!(document["status"], "failed", "{ended}");
        let error = document["error"].as_str().expect("an error");
        assert!(error.contains(part) || arguments.is_empty(), "{ended}");
        assert!(!ended.err.contains("error: error:"), "{ended}");
    }
}

#[test]
fn with_json_a_fault_is_one_document() {
    let host = bare();
    let missing = host.run("run --json");
    host.write_config("[gitlab]\nnice = 99\n");
    for (ended, part) in [
        (missing, "reading the configuration"),
        (host.run("run --json"), "line 2: `gitlab.nice`"),
        (
            host.run("--json run -vv --log-format json"),
            "line 2: `gitlab.nice`",
        ),
    ] {
        assert_eq!(ended.status, Some(2), "{ended}");
        let document = ended.json();
        assert_eq!(document["command"], "run", "{ended}");
        assert_eq!(document["status"], "failed", "{ended}");
        let error = document["error"].as_str().expect("an error");
        assert!(error.contains(part), "{ended}");
        assert!(
            ended.err.contains(part),
            "the error goes to stderr as well: {ended}"
        );
    }
}

#[test]
fn the_file_is_found_by_argument_variable_and_default() {
    let (_dropbox, mut host) = with_archive();
    let elsewhere = host.path("elsewhere.toml");
    fs::rename(host.path("config.toml"), &elsewhere).expect("a configuration");
    // What `Host` names in the variable is gone.
    assert_eq!(host.run("run --dry-run").status, Some(2));
    for arguments in ["-c FILE run --dry-run", "run --dry-run --config FILE"] {
        let ended = host.run(&arguments.replace("FILE", &elsewhere.display().to_string()));
        assert_eq!(ended.status, Some(0), "{ended}");
    }
    let with_variable = |value: &str| {
        let mut command = host.command("run --dry-run");
        command.env("GITLAB_PI_BACKUP_CONFIG", value);
        Ended::from(command.output().expect("the program runs"))
    };
    let ended = with_variable(&elsewhere.display().to_string());
    assert_eq!(ended.status, Some(0), "{ended}");
    for empty_or_missing in [true, false] {
        let mut command = host.command("run --dry-run");
        if empty_or_missing {
            command.env("GITLAB_PI_BACKUP_CONFIG", "");
        } else {
            command.env_remove("GITLAB_PI_BACKUP_CONFIG");
        }
        let ended = Ended::from(command.output().expect("the program runs"));
        let default = "/etc/gitlab-pi-backup/config.toml";
        if !Path::new(default).exists() {
            assert_refused(&host, &ended, &[default]);
        }
    }
    // `-c` beats the variable.
    host.set("GITLAB_PI_BACKUP_CONFIG", elsewhere);
    let ended = host.run("run --dry-run -c /nowhere/config.toml");
    assert_refused(&host, &ended, &["/nowhere/config.toml"]);
}

#[test]
fn variables_beat_the_file_and_take_its_types() {
    let (dropbox, mut host) = with_archive();
    let lists = [
        (
            "GITLAB_PI_BACKUP_DESTINATIONS__DROPBOX__DATA_FOLDER",
            "/Elsewhere",
        ),
        ("GITLAB_PI_BACKUP_UPLOAD__CHUNK_SIZE", "8 MiB"),
        ("GITLAB_PI_BACKUP_UPLOAD__CONCURRENCY", "1"),
        (
            "GITLAB_PI_BACKUP_GITLAB__SKIP",
            "[\"registry\", \"artifacts\"]",
        ),
        ("GITLAB_PI_BACKUP_GITLAB__NICE", "3"),
        ("GITLAB_PI_BACKUP_GUARD__SHRINK", "100%"),
        ("GITLAB_PI_BACKUP_DESTINATIONS__DROPBOX__KINDS", "['data']"),
    ];
    for (name, value) in lists {
        host.set(name, value);
    }
    let ended = host.run("run --skip-create --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(
        dropbox.archives()[0].path_display,
        format!("/Elsewhere/{DATA}")
    );
    assert_eq!(longest_append(&dropbox), 8 << 20);
    let ended = host.run("run");
    assert_eq!(ended.status, Some(0), "{ended}");
    let calls = host.calls();
    assert!(
        calls.contains("[SKIP=registry,artifacts]") && calls.contains("nice=3"),
        "{calls}"
    );
    let paths: Vec<_> = dropbox
        .archives()
        .into_iter()
        .map(|file| file.path_display)
        .collect();
    assert!(
        paths.iter().all(|path| path.starts_with("/Elsewhere/")),
        "{paths:?}"
    );
}

#[test]
fn a_table_can_come_from_a_variable() {
    let (dropbox, mut host) = with_archive();
    let Options {
        app_key,
        refresh_token,
        ..
    } = Options::default();
    let url = dropbox.url();
    host.set(
        "GITLAB_PI_BACKUP_UPLOAD",
        "{ chunk_size = \"8 MiB\", concurrency = 2 }",
    );
    let ended = host.run("run --skip-create");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(longest_append(&dropbox), 8 << 20);
    // The tables of destinations, of which the file has none.
    host.set("GITLAB_PI_BACKUP_UPLOAD", "{}");
    let text = host.config(&dropbox);
    let (before, _) = text.split_once("[destinations").expect("a table");
    host.write_config(before);
    let inner = format!(
        "{{ type = \"dropbox\", app_key = \"{app_key}\", refresh_token = \"{refresh_token}\", \
         api_url = \"{url}\", content_url = \"{url}\", data_folder = \"/Inline\" }}"
    );
    for (name, value) in [
        (
            "GITLAB_PI_BACKUP_DESTINATIONS",
            format!("{{ inline = {inner} }}"),
        ),
        ("GITLAB_PI_BACKUP_DESTINATIONS__INLINE", inner),
    ] {
        let mut command = host.command("run --dry-run --json");
        let ended = Ended::from(command.env(name, value).output().expect("the program runs"));
        let (destination, path) = target(&ended);
        assert_eq!(destination, "inline", "{name}");
        assert_eq!(path, format!("/Inline/{DATA}"), "{name}");
    }
}

#[test]
fn wrong_variables_are_faults_that_name_them() {
    let cases: &[(&str, &str, &[&str])] = &[
        (
            "UPLOAD__CHUNK_SISE",
            "8 MiB",
            &["did you mean `GITLAB_PI_BACKUP_UPLOAD__CHUNK_SIZE`?"],
        ),
        (
            "DESTINATIONS__DROPBOX__REFRESH_TOKN",
            SECRET,
            &["`GITLAB_PI_BACKUP_DESTINATIONS__DROPBOX__REFRESH_TOKEN`"],
        ),
        ("STATEDIR", "/x", &["`GITLAB_PI_BACKUP_STATE_DIR`"]),
        (
            "RETENTION__KEEP_LATS",
            "2",
            &["did you mean `GITLAB_PI_BACKUP_RETENTION__KEEP_LAST`?"],
        ),
        (
            "RETENTION",
            "{ keep_last = 0 }",
            &["`retention.keep_last`: no rule keeps anything"],
        ),
        (
            "GUARD__SHRINK",
            "120%",
            &["`120%` is not a percentage; write it like `30%`"],
        ),
        ("HOOKS__BEFORE", "mount /mnt", &["takes commands as lists"]),
        ("HOOKS__BEFOR", "[]", &["`GITLAB_PI_BACKUP_HOOKS__BEFORE`"]),
        (
            "NOTIFY__WEBHOOK_URL",
            SECRET,
            &["`notify.webhook_url`: is no address"],
        ),
        ("NOTIFY__ON", "never", &["expected `failure` or `always`"]),
        ("NOTIFY__EMAIL", "me@example.org", &["TOML table"]),
        ("CONFIG_FILE", "/x", &["is no setting"]),
        ("UPLOAD__CONCURRENCY", "many", &["\"many\""]),
        ("UPLOAD__CONCURRENCY", "99", &["takes 1 to 32"]),
        ("UPLOAD__CONCURRENCY", "", &["UPLOAD__CONCURRENCY"]),
        ("GITLAB__SKIP", "registry", &["sequence"]),
        ("GITLAB__SKIP", "[\"registry\"", &["GITLAB__SKIP"]),
        ("UPLOAD", "8 MiB", &["TOML table"]),
        (
            "UPLOAD",
            "{ chunk_sise = \"8 MiB\" }",
            &["`upload.chunk_sise`; did you mean `chunk_size`?"],
        ),
    ];
    for (name, value, parts) in cases {
        let (_dropbox, mut host) = with_archive();
        let name = format!("GITLAB_PI_BACKUP_{name}");
        host.set(&name, *value);
        let ended = host.run("run --dry-run");
        assert_refused(&host, &ended, &[&[name.as_str()], *parts].concat());
        assert!(!ended.err.contains("line 0"), "{ended}");
    }
}

/// The file knows nothing of the destination.
#[test]
fn a_destination_whose_every_key_comes_from_the_environment() {
    let (dropbox, mut host) = with_archive();
    let Options {
        app_key,
        refresh_token,
        ..
    } = Options::default();
    let text = host.config(&dropbox);
    let (before, _) = text.split_once("[destinations").expect("a table");
    host.write_config(before);
    mode(&host.path("config.toml"), 0o644);
    let prefix = "GITLAB_PI_BACKUP_DESTINATIONS__MY_BOX__";
    for (key, value) in [
        ("TYPE", "dropbox"),
        ("APP_KEY", &app_key),
        ("REFRESH_TOKEN", &refresh_token),
        ("API_URL", &dropbox.url()),
        ("CONTENT_URL", &dropbox.url()),
        ("DATA_FOLDER", "/From/Env"),
    ] {
        host.set(&format!("{prefix}{key}"), value);
    }
    let ended = host.run("run --dry-run --json");
    let (destination, path) = target(&ended);
    assert_eq!(destination, "my_box");
    assert_eq!(path, format!("/From/Env/{DATA}"));
    assert_eq!(
        host.run("run --dry-run --destination my_box").status,
        Some(0)
    );
}

/// In each row the source that counts has the right token, and what it beats a wrong one.
#[test]
fn environment_beats_credential_beats_file() {
    let right = Options::default().refresh_token;
    let wrong = "wrong-token";
    let rows = [
        (None, None, Some(&*right), 0),
        (None, None, Some(wrong), 1),
        (None, Some(&*right), Some(wrong), 0),
        (None, Some(&*right), None, 0),
        (None, Some(wrong), Some(&*right), 1),
        (Some(&*right), Some(wrong), Some(wrong), 0),
        (Some(&*right), None, None, 0),
        (Some(wrong), Some(&*right), Some(&*right), 1),
    ];
    for (variable, credential, file, status) in rows {
        let (dropbox, mut host) = with_archive();
        let text = host.config(&dropbox);
        let text = match file {
            Some(token) => text.replace(&right, token),
            None => text.replace("refresh_token", "# refresh_token"),
        };
        host.write_config(&text);
        if let Some(token) = variable {
            host.set(
                "GITLAB_PI_BACKUP_DESTINATIONS__DROPBOX__REFRESH_TOKEN",
                token,
            );
        }
        if let Some(token) = credential {
            let folder = host.path("credentials");
            fs::create_dir(&folder).expect("a folder");
            let name = "destinations.dropbox.refresh_token";
            fs::write(folder.join(name), format!("{token}\n")).expect("a credential");
            host.set("CREDENTIALS_DIRECTORY", folder);
        }
        let ended = host.run("run --dry-run");
        let row = (variable, credential, file);
        assert_eq!(ended.status, Some(status), "{row:?} {ended}");
    }
}

#[test]
fn every_secret_can_be_a_credential() {
    let dropbox = Dropbox::start(Options {
        app_secret: Some("the-apps-secret".into()),
        ..Options::default()
    });
    let mut host = Host::new(PROGRAM, &dropbox);
    host.put_data_archive(DATA, 8192);
    host.put_config_archive(CONFIG);
    let text = host
        .config(&dropbox)
        .replace("refresh_token", "# refresh_token");
    host.write_config(&text);
    mode(&host.path("config.toml"), 0o644);
    let folder = host.path("credentials");
    fs::create_dir(&folder).expect("a folder");
    host.set("CREDENTIALS_DIRECTORY", &folder);
    assert_eq!(host.run("run --dry-run").status, Some(1));
    for (name, value) in [
        ("destinations.dropbox.app_secret", "the-apps-secret\r\n"),
        (
            "destinations.dropbox.refresh_token",
            &Options::default().refresh_token,
        ),
    ] {
        fs::write(folder.join(name), value).expect("a credential");
    }
    let ended = host.run("run --dry-run");
    assert_eq!(ended.status, Some(0), "{ended}");
    // One that is there and cannot be read is a fault, and names no other place.
    fs::remove_file(folder.join("destinations.dropbox.app_secret")).expect("a credential");
    fs::create_dir(folder.join("destinations.dropbox.app_secret")).expect("a folder");
    let ended = host.run("run --dry-run");
    assert_refused(
        &host,
        &ended,
        &["credential destinations.dropbox.app_secret"],
    );
}

#[test]
fn help_and_version_need_no_configuration() {
    let host = bare();
    for (arguments, part) in [
        ("--help", "Usage: gitlab-pi-backup"),
        ("-h", "Usage: gitlab-pi-backup"),
        ("help", "Usage: gitlab-pi-backup"),
        ("run --help", "--skip-create"),
        ("help run", "--skip-create"),
        ("--version", env!("CARGO_PKG_VERSION")),
        ("-V", env!("CARGO_PKG_VERSION")),
    ] {
        let ended = host.run(arguments);
        assert_eq!((ended.status, ended.err.as_str()), (Some(0), ""), "{ended}");
        assert!(ended.out.contains(part), "{ended}");
        assert!(!ended.out.contains("$`"), "markup: {ended}");
    }
    let version = host.run("--version").out;
    assert_eq!(
        version,
        format!("gitlab-pi-backup {}\n", env!("CARGO_PKG_VERSION"))
    );
}

/// The outward contract's options of every command …
const OF_ALL: [&str; 7] = [
    "-c",
    "-v",
    "-q",
    "--json",
    "--log-format",
    "--no-progress",
    "-h",
];
/// … and of each. A list like this is the point: programs outside this project rely on these names, so none
/// may go or come without the contract saying so.
const CONTRACT: [(&str, &[&str]); 9] = [
    ("export projects", &["--dry-run", "--wait"]),
    (
        "run",
        &[
            "--dry-run",
            "--skip-create",
            "--only",
            "--destination",
            "--no-prune",
            "--wait",
        ],
    ),
    ("list", &["--local", "--destination"]),
    ("verify", &["--destination"]),
    (
        "rehearse",
        &[
            "--local",
            "--destination",
            "--identity",
            "--git",
            "--scratch",
        ],
    ),
    (
        "prune",
        &["--dry-run", "--destination", "--accept-shrink", "--wait"],
    ),
    (
        "restore",
        &[
            "--project",
            "--as",
            "--to",
            "--only",
            "--destination",
            "--identity",
            "--plan",
            "--apply",
            "--yes",
            "--wait",
        ],
    ),
    (
        "extract",
        &["--to", "--list", "--destination", "--identity"],
    ),
    ("sync", &["--destination", "--wait"]),
];

#[test]
fn every_command_has_the_options_of_the_contract_and_no_others() {
    for (command, own) in CONTRACT {
        let ended = bare().run(&format!("{command} --help"));
        assert_eq!((ended.status, ended.err.as_str()), (Some(0), ""), "{ended}");
        let expected: Vec<_> = OF_ALL.iter().chain(own).copied().collect();
        let mut missing = expected.clone();
        let lines = ended.out.lines().map(str::trim);
        for line in lines.filter(|line| line.starts_with('-') && !line.starts_with("- ")) {
            let spellings: Vec<_> = line
                .split([' ', ',', '<', '.'])
                .filter(|word| word.starts_with('-'))
                .take(2)
                .collect();
            let known = spellings.iter().any(|spelling| expected.contains(spelling));
            assert!(known, "{command}: not in the contract: {line}");
            missing.retain(|option| !spellings.contains(option));
        }
        assert_eq!(missing, [""; 0], "{ended}");
    }
}
