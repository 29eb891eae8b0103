//! The fences: what the house rules promise about `src`, held by reading it.
//!
//! Every fence is a function from files to complaints, so that the last test can show that each of them
//! does hold somebody back. A table's exception that nobody needs any more is a complaint, too.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The floors; `x/*` are the files in the folder `x`. Imports go down, or stay on the floor.
const FLOORS: [(u8, &[&str]); 4] = [
    (
        1,
        &[
            "archive",
            "archive/*",
            "content_hash",
            "error",
            "http",
            "http/*",
            "process",
            "process/*",
            "progress",
            "retry",
            "retry/*",
            "seal",
            "seal/*",
            "settings",
            "settings/*",
            "source",
            "state",
            "stop",
            "tar",
            "tar/*",
            "units",
        ],
    ),
    (
        2,
        &[
            "source/*",
            "destination",
            "destination/*",
            "gitlab",
            "gitlab/*",
        ],
    ),
    (
        3,
        &[
            "backup",
            "backup/*",
            "catalog",
            "catalog/*",
            "doctor",
            "doctor/*",
            "extract",
            "extract/*",
            "guard",
            "history",
            "history/*",
            "hooks",
            "job",
            "listing",
            "local",
            "local/*",
            "login",
            "login/*",
            "manifest",
            "notify",
            "notify/*",
            "page",
            "page/*",
            "projects",
            "projects/*",
            "prune",
            "prune/*",
            "recovery",
            "rehearse",
            "rehearse/*",
            "report",
            "report/*",
            "retention",
            "restore",
            "restore/*",
            "retention/*",
            "schedule",
            "schedule/*",
            "status",
            "status/*",
            "sync",
            "sync/*",
            "verify",
        ],
    ),
    (
        4,
        &[
            "cli",
            "cli/*",
            "commands",
            "commands/*",
            "config",
            "config/*",
            "logging",
            "main",
        ],
    ),
];
/// The floor whose parts do not know each other.
const SIBLINGS: u8 = 2;

/// Who waits for time to pass, and why.
const SLEEPERS: [(&str, &str); 9] = [
    ("progress", "a log line every 30 seconds"),
    (
        "process",
        "the ten seconds between asking a process group to end and making it",
    ),
    ("retry", "the one loop that sleeps between attempts"),
    (
        "retry/rhythm",
        "pauses between two looks at what takes its time",
    ),
    (
        "retry/window",
        "keeps a limit of so many in so long, before anybody has to ask for it",
    ),
    (
        "schedule/clock",
        "looks every two seconds whether something has set the clock",
    ),
    ("http/watch", "looks at a connection at every tick"),
    ("http/body", "spreads a body over time: the bandwidth limit"),
    (
        "state",
        "waits for another run's lock, which the kernel announces to nobody",
    ),
];
const SLEEPS: [&str; 5] = [
    "sleep(",
    "sleep_until(",
    "interval(",
    "interval_at(",
    "park_timeout(",
];

/// Who takes a secret out of its wrapping, and what for.
const EXPOSERS: &[(&str, &str)] = &[
    (
        "destination/dropbox/auth",
        "puts it into a form or a header, and takes it out of replies",
    ),
    (
        "backup/seals",
        "writes the key of an encryption that is not done beside its upload's journal",
    ),
    (
        "destination/webdav/auth",
        "puts it into a header, and takes it out of replies",
    ),
    (
        "destination/opendal/keys",
        "hands it to OpenDAL, which takes plain strings, and takes it out of what comes back",
    ),
    (
        "gitlab/api",
        "puts the token into a header, and takes it out of replies",
    ),
    (
        "gitlab/api/exports",
        "tells GitLab the address that it puts an export to, and takes it out of replies",
    ),
    (
        "login/configuration",
        "writes the files that keep a refresh token and an app's secret",
    ),
    (
        "notify/address",
        "checks the address of a notification, and puts it into a request",
    ),
    (
        "notify/mail/smtp",
        "logs in at a mail server, and takes it out of replies",
    ),
    (
        "projects/spool",
        "writes the key of an encryption that is not done beside the export that is sent",
    ),
    (
        "seal/identities",
        "hands the private keys that it reads to what decrypts",
    ),
    (
        "seal/opening",
        "makes the key of a payload from the key of its file",
    ),
    (
        "seal/sealing",
        "makes the key of a payload from the key of its file, and keeps that for a journal",
    ),
];

/// What no file of ours does outside its tests, and what to do instead.
const FORBIDDEN: [(&str, &str); 15] = [
    ("println!", "reports are printed by `commands::print`"),
    ("print!", "reports are printed by `commands::print`"),
    ("dbg!", "is for the moment of writing"),
    ("todo!", "is for the moment of writing"),
    ("unimplemented!", "is for the moment of writing"),
    ("process::exit", "`main` returns the exit status"),
    ("process::abort", "`main` returns the exit status"),
    ("unsafe ", "there is always another way"),
    ("\"sh\"", "no shell: commands are lists"),
    ("\"bash\"", "no shell: commands are lists"),
    ("\"dash\"", "no shell: commands are lists"),
    ("\"/bin/", "no shell, and programs are found by PATH"),
    ("\"/usr/bin/env", "no shell, and programs are found by PATH"),
    ("sh -c", "no shell: commands are lists"),
    ("bash -c", "no shell: commands are lists"),
];

/// A longer file is asking to be two.
const LONGEST_FILE: usize = 500;
/// Files that may be longer, how long, and why.
const LONG_FILES: [(&str, usize, &str); 2] = [
    (
        "settings",
        600,
        "a quarter of it are tests of its one type, Section",
    ),
    (
        "destination/dropbox/journal",
        550,
        "a quarter of it are tests that damage a journal",
    ),
];

/// A file of `src`.
struct File {
    /// Its module: `destination/dropbox/auth`.
    name: String,
    text: String,
    /// Without comment lines and the test module at its foot.
    code: String,
}

impl File {
    fn new(name: &str, text: &str) -> File {
        let body = text.split("\n#[cfg(test)]\n").next().unwrap_or_default();
        let lines = body
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        File {
            name: name.to_owned(),
            text: text.to_owned(),
            code: lines.collect::<Vec<_>>().join("\n"),
        }
    }

    /// The part of the program it belongs to: `destination`.
    fn part(&self) -> &str {
        part(&self.name)
    }

    /// Every path that begins with a module: `crate::a::b`, `super::c`, `d::E`, from the crate's root on.
    fn paths(&self, all: &BTreeSet<&str>) -> Vec<Vec<String>> {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let here: Vec<_> = match self.name.as_str() {
            "main" => Vec::new(),
            name => name.split('/').map(str::to_owned).collect(),
        };
        let mut paths = Vec::new();
        for start in 0..self.code.len() {
            // A path starts with a word that nothing precedes.
            let text = &self.code.as_bytes()[start..];
            let before = start
                .checked_sub(1)
                .map(|i| self.code.as_bytes()[i] as char);
            if !is_word(text[0] as char) || before.is_some_and(|c| is_word(c) || c == ':') {
                continue;
            }
            let end = text
                .iter()
                .position(|byte| !is_word(*byte as char) && *byte != b':');
            let path = String::from_utf8_lossy(&text[..end.unwrap_or(text.len())]).into_owned();
            let words: Vec<_> = path.split("::").filter(|word| !word.is_empty()).collect();
            if !path.contains("::") {
                continue;
            }
            let ups = words.iter().take_while(|word| **word == "super").count();
            let child = format!("{}/{}", self.name, words[0]);
            let from = match words[0] {
                "crate" => Some((Vec::new(), 1)),
                "super" => Some((here[..here.len() - ups].to_vec(), ups)),
                "self" => Some((here.clone(), 1)),
                _ if all.contains(child.as_str()) => Some((here.clone(), 0)),
                _ => None,
            };
            if let Some((mut full, skip)) = from {
                full.extend(words[skip..].iter().map(|word| (*word).to_owned()));
                paths.push(full);
            }
        }
        paths
    }
}

fn part(name: &str) -> &str {
    name.split('/').next().unwrap_or_default()
}

fn floor(name: &str) -> Option<u8> {
    let folder = name.contains('/').then(|| format!("{}/*", part(name)));
    let listed = |names: &[&str]| names.contains(&folder.as_deref().unwrap_or(name));
    FLOORS
        .iter()
        .find(|(_, names)| listed(names))
        .map(|(floor, _)| *floor)
}

fn sources() -> Vec<File> {
    fn collect(folder: &Path, name: &str, files: &mut Vec<File>) {
        for entry in fs::read_dir(folder).expect("a folder of src") {
            let path = entry.expect("an entry").path();
            let stem = path.file_stem().expect("a name").to_string_lossy();
            let name = if name.is_empty() {
                stem.into_owned()
            } else {
                format!("{name}/{stem}")
            };
            if path.is_dir() {
                collect(&path, &name, files);
            } else {
                let text = fs::read_to_string(&path).expect("a source file");
                files.push(File::new(name.trim_end_matches("/mod"), &text));
            }
        }
    }
    let mut files = Vec::new();
    collect(&root().join("src"), "", &mut files);
    assert!(files.len() > 30, "src was not found: {} files", files.len());
    files
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Only what stands at the foot of a file is left out by the other fences.
fn tests_stand_at_the_foot(files: &[File]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files {
        let Some((_, foot)) = file.text.split_once("#[cfg(test)]") else {
            continue;
        };
        let module = foot.strip_prefix("\nmod tests {\n");
        if module.is_none_or(|rest| rest.find("\n}") != Some(rest.trim_end().len() - 2)) {
            complaints.push(format!(
                "{}: #[cfg(test)] belongs before one `mod tests` at the foot of the file",
                file.name
            ));
        }
    }
    complaints
}

fn imports_go_down(files: &[File]) -> Vec<String> {
    let all: BTreeSet<_> = files.iter().map(|file| file.name.as_str()).collect();
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| file.name != "lib") {
        let Some(here) = floor(&file.name) else {
            complaints.push(format!("{}: stands on no floor", file.name));
            continue;
        };
        for path in file.paths(&all) {
            let shown = path.join("::");
            let mut prefix = path;
            while !prefix.is_empty() && !all.contains(prefix.join("/").as_str()) {
                prefix.pop();
            }
            let target = prefix.join("/");
            let name = &file.name;
            let complaint = match floor(&target) {
                None => format!("{name}: `{shown}` names no module; write a path for each `use`"),
                Some(there) if there > here => {
                    format!("{name} (floor {here}) looks up to {target} (floor {there})")
                }
                Some(SIBLINGS) if here == SIBLINGS && part(&target) != file.part() => {
                    format!("{name} knows its sibling {target}")
                }
                Some(_) => continue,
            };
            complaints.push(complaint);
        }
    }
    complaints
}

/// Only the files of a table hold one of these; and all of them do.
fn only(files: &[File], table: &[(&str, &str)], needles: &[&str]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files {
        let found = needles.iter().find(|needle| file.code.contains(*needle));
        let listed = table.iter().any(|(name, _)| *name == file.name);
        match (found, listed) {
            (Some(needle), false) => complaints.push(format!("{} holds `{needle}`", file.name)),
            (None, true) => complaints.push(format!("{} is an exception for nothing", file.name)),
            _ => {}
        }
    }
    complaints
}

fn one_place_knows_http_and_dropbox(files: &[File]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files {
        let statements = file.code.split(';').map(str::trim);
        let client = |statement: &str| {
            statement.contains("reqwest::blocking")
                || statement.contains("reqwest::get")
                || statement
                    .split("reqwest::")
                    .skip(1)
                    .any(|rest| rest.contains("Client") && !rest.starts_with("header"))
        };
        if file.part() != "http" && statements.clone().any(client) {
            complaints.push(format!("{} makes its own HTTP client", file.name));
        }
        let its = ["Operator", "services", "Error", "Buffer", "Writer", "raw"];
        let names_opendal = |code: &str| {
            code.contains("use opendal")
                || its
                    .iter()
                    .any(|name| code.contains(&format!("opendal::{name}")))
        };
        if !file.name.starts_with("destination/opendal") && names_opendal(&file.code) {
            complaints.push(format!("{} names OpenDAL", file.name));
        }
        let hosts = ["dropboxapi", "dropbox.com"];
        if !file.name.starts_with("destination/dropbox")
            && hosts.iter().any(|host| file.code.contains(host))
        {
            complaints.push(format!("{} names a host of Dropbox", file.name));
        }
    }
    complaints
}

fn nothing_forbidden(files: &[File]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files {
        for (needle, why) in FORBIDDEN {
            if file.code.contains(needle) {
                complaints.push(format!("{} holds `{needle}`: {why}", file.name));
            }
        }
    }
    complaints
}

fn no_file_is_too_long(files: &[File]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files {
        let lines = file.text.lines().count();
        let exception = LONG_FILES.iter().find(|(name, ..)| *name == file.name);
        let longest = exception.map_or(LONGEST_FILE, |(_, longest, _)| *longest);
        if lines > longest {
            complaints.push(format!(
                "{}: {lines} lines are asking to be two files",
                file.name
            ));
        }
        if exception.is_some() && lines <= LONGEST_FILE {
            complaints.push(format!("{} is an exception for nothing", file.name));
        }
    }
    complaints
}

/// Every module of the crate stands in the map at the top of `lib.rs`, on its floor.
fn the_map_is_whole(files: &[File]) -> Vec<String> {
    let lib = files
        .iter()
        .find(|file| file.name == "lib")
        .expect("lib.rs");
    let mut complaints = Vec::new();
    let mut mapped = Vec::new();
    let mut current = 0;
    for line in lib
        .text
        .lines()
        .filter_map(|line| line.strip_prefix("//! "))
    {
        if let Some(rest) = line.strip_prefix("Floor ") {
            current = rest[..1].parse().expect("a number after `Floor`");
        }
        for name in line
            .split("[`")
            .skip(1)
            .filter_map(|rest| rest.split("`]").next())
        {
            mapped.push(name.to_owned());
            let name = name.replace("::", "/");
            if floor(&name) != Some(current) {
                complaints.push(format!("the map puts {name} on floor {current}"));
            }
        }
    }
    let top = |file: &&File| !file.name.contains('/') && !["lib", "main"].contains(&&*file.name);
    for file in files.iter().filter(top) {
        if !lib.code.contains(&format!("pub mod {};", file.name)) {
            complaints.push(format!("{} is no module of the crate", file.name));
        } else if !mapped.contains(&file.name) {
            complaints.push(format!("{} is not on the map", file.name));
        }
    }
    complaints
}

/// Every dependency says in its line what it is for.
fn dependencies_say_what_for(manifest: &str) -> Vec<String> {
    let reasoned = |name: &str| {
        manifest.lines().any(|line| {
            let (given, rest) = line.split_once('=').unwrap_or_default();
            let reason = rest.rsplit_once("# ").map_or("", |(_, reason)| reason);
            given.trim() == name && !reason.trim().is_empty()
        })
    };
    let parsed: toml::Table = manifest.parse().expect("Cargo.toml");
    let mut tables: Vec<(&str, &toml::Value)> = Vec::new();
    let targets = parsed.get("target").and_then(toml::Value::as_table);
    for table in [&parsed].into_iter().chain(
        targets
            .into_iter()
            .flat_map(|t| t.values())
            .filter_map(toml::Value::as_table),
    ) {
        for (key, value) in table
            .iter()
            .filter(|(key, _)| key.ends_with("dependencies"))
        {
            tables.push((key, value));
        }
    }
    let mut complaints = Vec::new();
    for (table, value) in tables {
        for name in value.as_table().expect("a table").keys() {
            if !reasoned(name) {
                complaints.push(format!("[{table}] {name}: what is it for?"));
            }
        }
    }
    complaints
}

fn assert_none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn imports_go_down_only() {
    assert_none(&tests_stand_at_the_foot(&sources()));
    assert_none(&imports_go_down(&sources()));
}

#[test]
fn only_the_retry_loop_sleeps() {
    assert_none(&only(&sources(), &SLEEPERS, &SLEEPS));
}

#[test]
fn only_the_http_client_knows_http_and_only_dropbox_knows_dropbox() {
    assert_none(&one_place_knows_http_and_dropbox(&sources()));
}

#[test]
fn secrets_are_unwrapped_in_few_places() {
    assert_none(&only(
        &sources(),
        EXPOSERS,
        &["expose_secret", "ExposeSecret"],
    ));
}

#[test]
fn no_printing_no_exit_no_shell() {
    assert_none(&nothing_forbidden(&sources()));
}

#[test]
fn files_are_short() {
    assert_none(&no_file_is_too_long(&sources()));
}

#[test]
fn the_map_names_every_module() {
    assert_none(&the_map_is_whole(&sources()));
}

#[test]
fn every_dependency_has_a_reason() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    assert_none(&dependencies_say_what_for(&manifest));
}

/// Made-up files, one sin each.
#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn the_fences_hold_somebody_back() {
    type Fence = fn(&[File]) -> Vec<String>;
    let world = |name: &str, text: &str| {
        let mut files: Vec<_> = sources()
            .into_iter()
            .filter(|file| file.name != name)
            .collect();
        files.push(File::new(name, text));
        files
    };
    let long = "// one\n".repeat(601);
    let sins: [(&str, &str, Fence); 25] = [
        (
            "error",
            "use crate::retry;\nuse crate::gitlab::host;",
            imports_go_down,
        ),
        ("error", "use super::report::RunReport;", imports_go_down),
        (
            "source",
            "mod file;\npub use file::FileSource;",
            imports_go_down,
        ),
        ("source", "pub use self::file::FileSource;", imports_go_down),
        (
            "gitlab/host",
            "fn f(d: &crate::destination::Destination) {}",
            imports_go_down,
        ),
        (
            "gitlab/host",
            "use super::super::destination::dropbox;",
            imports_go_down,
        ),
        (
            "destination",
            "use crate::source::file::FileSource;",
            imports_go_down,
        ),
        ("backup/send", "use crate::config::Config;", imports_go_down),
        ("report", "use crate::*;", imports_go_down),
        ("report", "use crate::{units, commands};", imports_go_down),
        ("report", "use super::{commands};", imports_go_down),
        ("utils", "", imports_go_down),
        (
            "units",
            "#[cfg(test)]\nuse std::fmt;\nuse crate::cli;",
            tests_stand_at_the_foot,
        ),
        (
            "units",
            "\n#[cfg(test)]\nmod tests {\n}\nuse crate::cli;\n",
            tests_stand_at_the_foot,
        ),
        ("tar", "async fn f() { tokio::time::sleep(d).await }", |f| {
            only(f, &SLEEPERS, &SLEEPS)
        }),
        ("retry", "// sleep() no more", |f| {
            only(f, &SLEEPERS, &SLEEPS)
        }),
        ("config", "fn f() { s.expose_secret(); }", |f| {
            only(f, EXPOSERS, &["expose_secret"])
        }),
        (
            "gitlab/host",
            "use reqwest::{\n    Client,\n    Url,\n};",
            one_place_knows_http_and_dropbox,
        ),
        (
            "gitlab/host",
            "let x = \"https://api.dropboxapi.com\";",
            one_place_knows_http_and_dropbox,
        ),
        (
            "destination",
            "use opendal::Operator;",
            one_place_knows_http_and_dropbox,
        ),
        (
            "gitlab/host",
            "Command::new(\"sh\").arg(\"-c\");",
            nothing_forbidden,
        ),
        ("commands/run", "eprintln!(\"x\");", nothing_forbidden),
        ("settings", &long, no_file_is_too_long),
        ("settings", "short again", no_file_is_too_long),
        ("newcomer", "", the_map_is_whole),
    ];
    for (name, text, fence) in sins {
        let complaints = fence(&world(name, text));
        assert_eq!(complaints.len(), 1, "{name}: {text}\n{complaints:?}");
        assert!(complaints[0].contains(name), "{complaints:?}");
    }
    let manifest = "[dependencies]\na = \"1\" # does a thing\nb = \"2\"\n[target.'cfg(unix)'.dev-dependencies]\nc = \"3\"\n";
    let complaints = dependencies_say_what_for(manifest);
    assert_eq!(
        complaints,
        [
            "[dependencies] b: what is it for?",
            "[dev-dependencies] c: what is it for?"
        ]
    );
}
