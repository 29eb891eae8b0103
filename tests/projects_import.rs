//! `restore --project`: what was exported is a project again, in an empty place, whatever happens on the way.

mod support;

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::backup::sha256;
use support::dropbox::{self, Dropbox};
use support::gitlab_api::archive::Archive;
use support::gitlab_api::{Access, Fault, GitLabApi, Kind, Limit, Mode, Options, Reply, What};
use support::host::{Ended, Host};
use support::sealed::{Key, seal};

const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");
const OLD: &str = "2026-11-20-04-00-00";
const NEW: &str = "2026-11-22-04-00-00";
const RESTORE: &str = "restore --project group/app --as rescue/app --json";

/// A GitLab with the group that projects are imported into, and a machine whose exports lie in a folder.
struct Site {
    gitlab: GitLabApi,
    host: Host,
}

impl Site {
    fn new() -> Site {
        Site::with(GitLabApi::start())
    }

    fn with(gitlab: GitLabApi) -> Site {
        let host = Host::without_config(PROGRAM);
        let site = Site { gitlab, host };
        site.gitlab.group("rescue");
        fs::create_dir_all(site.host.path("stored")).expect("a folder");
        site.configure(&site.folder(), "");
        site
    }

    /// The destination that is a folder.
    fn folder(&self) -> String {
        let root = self.host.path("stored").display().to_string();
        format!("[destinations.place]\ntype = \"fs\"\nroot = \"{root}\"\nrequire_mount = false\n")
    }

    /// Writes a configuration with this destination, and this in `[projects]`.
    fn configure(&self, destination: &str, projects: &str) {
        self.write(self.gitlab.token(), destination, projects);
    }

    fn write(&self, token: &str, destination: &str, projects: &str) {
        let url = self.gitlab.url();
        let api = format!("url = \"{url}\"\ntoken = \"{token}\"\n");
        let text = self.host.config_with(&format!(
            "{api}{destination}[projects]\ndestination = \"place\"\nall = true\n{projects}\
             [upload]\nstall_timeout = \"5s\"\nretry_for = \"10s\"\n"
        ));
        self.host.write_config(&text);
    }

    /// Stores an export of `group/app`, and returns its bytes; none is like another one.
    fn store(&self, name: &str) -> Vec<u8> {
        let bytes = export(name, 0);
        self.store_as(name, &bytes);
        bytes
    }

    fn store_as(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.host.path("stored/group/app").join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(&path, bytes).expect("an export");
        path
    }

    /// What came of the import: the hash of the file that GitLab got.
    fn imported(&self, path: &str) -> Option<String> {
        let project = self.gitlab.look(path)?;
        project.import.map(|import| import.sha256)
    }

    /// How many imports GitLab took.
    fn accepted(&self) -> usize {
        let requests = self.gitlab.requests();
        let took = |seen: &&support::gitlab_api::Seen| {
            seen.kind == Kind::Import && seen.status == Some(201)
        };
        requests.iter().filter(took).count()
    }

    /// What an import leaves behind in the state folder.
    fn left(&self) -> Vec<String> {
        let entries = fs::read_dir(self.host.path("state/imports"));
        let entries = entries.into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name != "sent.json").collect()
    }

    /// That it failed with this in its error, that nothing was made, and that nothing is left.
    fn refuses(&self, arguments: &str, words: &[&str]) -> Ended {
        let ended = self.host.run(arguments);
        assert_eq!(ended.status, Some(1), "{ended}");
        let document = ended.json();
        let error = document["error"].as_str().expect("an error");
        for word in words {
            assert!(error.contains(word), "{word}: {ended}");
        }
        assert_eq!(document["status"], "failed", "{ended}");
        assert_eq!(self.accepted(), 0, "{ended}");
        assert!(self.left().is_empty(), "{:?}: {ended}", self.left());
        ended
    }
}

/// An export as GitLab packs it, of about so many bytes.
fn export(seed: &str, bytes: u64) -> Vec<u8> {
    let packer = GitLabApi::start();
    packer.project_with("group/app", |project| {
        seed.clone_into(&mut project.description);
        project.export_bytes = bytes;
    });
    let project = packer.look("group/app").expect("a project");
    let archive = Archive::pack(&project, seed.len() as u64, "18.6.2-ee");
    archive.expect("packed").to_vec()
}

fn steps(document: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let rows = document["steps"].as_array().expect("steps").iter();
    rows.map(|row| (text(&row["step"]), text(&row["status"])))
        .collect()
}

fn assert_good(ended: &Ended) -> Value {
    assert_eq!(ended.status, Some(0), "{ended}");
    let document = ended.json();
    assert_eq!(
        (&document["command"], &document["status"]),
        (&Value::from("restore"), &Value::from("ok"))
    );
    document
}

#[test]
fn the_newest_export_is_a_project_again_bit_for_bit() {
    let site = Site::new();
    site.store(&format!("{OLD}.tar.gz"));
    let bytes = site.store(&format!("{NEW}.tar.gz"));
    // None of these is an export.
    site.store_as("2026-11-23-04-00-00.tar.gz.partial", b"x");
    site.store_as("9999-99-99-04-00-00.tar.gz", b"x");
    let ended = site.host.run(RESTORE);
    let document = assert_good(&ended);
    assert_eq!(site.imported("rescue/app"), Some(sha256(&bytes)));
    assert_eq!(site.gitlab.count(Kind::Import), 1);
    let id = site.gitlab.look("rescue/app").expect("a project").id;
    let project = &document["project"];
    assert_eq!(
        (&project["from"], &project["to"], &project["id"]),
        (&"group/app".into(), &"rescue/app".into(), &id.into())
    );
    assert_eq!(project["import_status"], "finished");
    let archive = &document["archives"][0];
    assert_eq!(archive["kind"], "project");
    assert_eq!(archive["path"], format!("/group/app/{NEW}.tar.gz"));
    assert_eq!(archive["size"], bytes.len());
    assert_eq!(archive["verified"], true);
    assert_eq!(document["gitlab_version"], "18.6.2-ee");
    let done = ["find", "look", "fetch", "upload", "import"].map(|step| (step.into(), "ok".into()));
    assert_eq!(steps(&document), done);
    assert!(site.left().is_empty(), "{:?}", site.left());
    // As text, another one, by its time.
    let ended = site.host.run(&format!(
        "restore --project group/app {OLD} --as rescue/older"
    ));
    assert_eq!(ended.status, Some(0), "{ended}");
    for word in [OLD, "rescue/older", "finished"] {
        assert!(ended.out.contains(word), "{word}: {ended}");
    }
    let token = site.gitlab.token();
    assert!(!ended.out.contains(token) && !ended.err.contains(token));
}

#[test]
fn without_another_path_it_goes_back_to_its_own() {
    let site = Site::new();
    let bytes = site.store(&format!("{NEW}.tar.gz"));
    site.gitlab.group("group");
    assert_good(&site.host.run("restore --project group/app --json"));
    assert_eq!(site.imported("group/app"), Some(sha256(&bytes)));
    // A user's own place.
    let to = format!("{}/app", support::gitlab_api::USER);
    let ended = site.host.run(&format!(
        "restore --project group/app latest --as {to} --json"
    ));
    assert_good(&ended);
    assert_eq!(site.imported(&to), Some(sha256(&bytes)));
}

#[test]
fn whoever_only_restores_need_not_say_what_is_exported() {
    let site = Site::new();
    let bytes = site.store(&format!("{NEW}.tar.gz"));
    let (url, token) = (site.gitlab.url(), site.gitlab.token());
    let api = format!("url = \"{url}\"\ntoken = \"{token}\"\n");
    let text = site.host.config_with(&(api + &site.folder()));
    site.host.write_config(&text);
    let restore = "restore --project group/app --as rescue/app --destination place --json";
    assert_good(&site.host.run(restore));
    assert_eq!(site.imported("rescue/app"), Some(sha256(&bytes)));
}

#[test]
fn from_dropbox_and_encrypted_it_arrives_as_gitlab_made_it() {
    let site = Site::new();
    let dropbox = Dropbox::start(dropbox::Options::default());
    let config = site.host.config(&dropbox);
    let (_, destination) = config.split_once("[destinations.dropbox]\n").expect("one");
    let (destination, _) = destination.split_once("[upload]").expect("the end");
    site.configure(&format!("[destinations.place]\n{destination}"), "");
    let bytes = export("dropbox", 9 << 20);
    let key = Key::new();
    let sealed = seal(&bytes, &key.recipient());
    dropbox.put_file(&format!("/group/app/{OLD}.tar.gz"), &bytes);
    dropbox.put_file(&format!("/group/app/{NEW}.tar.gz.age"), &sealed);
    let ended = site.refuses(RESTORE, &["it is encrypted", "--identity FILE"]);
    assert!(!ended.err.is_empty());
    let file = key.write(&site.host).display().to_string();
    let document = assert_good(&site.host.run(&format!("{RESTORE} --identity {file}")));
    assert_eq!(site.imported("rescue/app"), Some(sha256(&bytes)));
    let archive = &document["archives"][0];
    assert_eq!(archive["size"], bytes.len());
    assert_eq!(archive["path"], format!("/group/app/{NEW}.tar.gz.age"));
    // What is not encrypted needs no key.
    let ended = site.host.run(&format!(
        "restore --project group/app {OLD} --as rescue/b --json"
    ));
    assert_good(&ended);
    assert_eq!(site.imported("rescue/b"), Some(sha256(&bytes)));
}

#[test]
fn nothing_in_gitlab_is_ever_imported_over() {
    let site = Site::new();
    site.store(&format!("{NEW}.tar.gz"));
    site.gitlab.project("rescue/App");
    site.gitlab.group("rescue/Group");
    let taken = ["there is a project rescue/App already", "--as NEW/PATH"];
    site.refuses(RESTORE, &taken);
    let arguments = "restore --project group/app --as Rescue/APP --json";
    site.refuses(arguments, &taken[..1]);
    let arguments = "restore --project group/app --as rescue/group --json";
    site.refuses(arguments, &["there is a group rescue/Group already"]);
    assert_eq!(site.gitlab.count(Kind::Import), 0);
    // Nothing was fetched for it, either.
    let document = site.host.run(RESTORE).json();
    assert_eq!(steps(&document).last().expect("a step").0, "look");
    // Where something was once, and is no longer, there is room.
    site.gitlab.rename("rescue/App", "elsewhere/app");
    assert_good(&site.host.run(RESTORE));
    assert_eq!(site.accepted(), 1);
}

#[test]
fn what_takes_the_name_meanwhile_is_left_alone() {
    let site = Arc::new(Site::new());
    site.store(&format!("{NEW}.tar.gz"));
    let other = site.clone();
    let take = move || {
        other.gitlab.project("rescue/app");
    };
    let fault = Fault::on(Kind::Import, What::Before(Arc::new(take)));
    site.gitlab.fault(fault);
    site.refuses(RESTORE, &["has already been taken", "--as NEW/PATH"]);
    assert_eq!(site.imported("rescue/app"), None);
    site.gitlab.clear_faults();
}

#[test]
fn what_is_missing_is_said_with_the_way_out() {
    let site = Site::new();
    site.refuses(
        RESTORE,
        &["there is none in place:/group/app", "export projects"],
    );
    site.store(&format!("{OLD}.tar.gz"));
    let other = format!("restore --project group/app {NEW} --as rescue/app --json");
    site.refuses(&other, &["none of that time", OLD]);
    let arguments = "restore --project group/app --as no/group/app --json";
    site.refuses(
        arguments,
        &["no group or user no/group", "create the group first"],
    );
    site.store_as(&format!("{NEW}.tar.gz"), b"");
    site.refuses(&other, &["is empty", OLD]);
    // The newest that is none is passed over.
    let older = "restore --project group/app --as rescue/older --json";
    assert_good(&site.host.run(older));
    assert!(site.imported("rescue/older").is_some());
    // What the older Python program has stored is found, too.
    let bytes = site.store("2026-11-24-04-00-00.tgz");
    assert_good(&site.host.run(RESTORE));
    assert_eq!(site.imported("rescue/app"), Some(sha256(&bytes)));
}

#[test]
fn what_is_damaged_is_never_sent() {
    let site = Site::new();
    let bytes = export("damaged", 200_000);
    let mut flipped = bytes.clone();
    let near_the_end = bytes.len() - 6;
    flipped[near_the_end] ^= 1;
    for damaged in [
        bytes[..bytes.len() / 2].to_vec(),
        bytes[..bytes.len() - 1].to_vec(),
        flipped,
        b"<!DOCTYPE html><html></html>".to_vec(),
        [&bytes[..], b"more"].concat(),
    ] {
        site.store_as(&format!("{NEW}.tar.gz"), &damaged);
        site.refuses(
            RESTORE,
            &["the stored export is damaged", "name it by its time"],
        );
    }
    assert_eq!(site.gitlab.count(Kind::Import), 0);
    // Nor what is encrypted and damaged.
    let key = Key::new();
    let file = key.write(&site.host).display().to_string();
    let mut sealed = seal(&bytes, &key.recipient());
    let middle = sealed.len() / 2;
    sealed[middle] ^= 1;
    site.store_as("2026-11-25-04-00-00.tar.gz.age", &sealed);
    site.refuses(&format!("{RESTORE} --identity {file}"), &["is damaged"]);
    let other = Key::new();
    let file = support::sealed::write_key(&site.host.path("other.txt"), &other.file());
    let wrong = format!("{RESTORE} --identity {}", file.display());
    site.refuses(&wrong, &["decrypting"]);
    assert_eq!(site.gitlab.count(Kind::Import), 0);
}

#[test]
fn what_gitlab_refuses_is_told_in_its_words_with_the_way_out() {
    let site = Site::new();
    site.store(&format!("{NEW}.tar.gz"));
    for (reply, words) in [
        (
            Reply::message(413, "413 Request Entity Too Large"),
            &["413: the export is too large", "Maximum import size"][..],
        ),
        (Reply::html(413), &["413", "client_max_body_size"]),
        (
            Reply::message(400, "File is too big (is: 12 MiB, max: 10 MiB)"),
            &["File is too big", "Maximum import size"],
        ),
        (
            Reply::message(403, "403 Forbidden"),
            &["403", "import source", "Import and export settings"],
        ),
        (
            Reply::message(404, "404 Namespace Not Found"),
            &["Namespace Not Found", "rescue"],
        ),
        (
            Reply::message(400, "Namespace is not valid"),
            &["Namespace is not valid"],
        ),
        (
            Reply::message(400, "Path can contain only letters and digits"),
            &["Path can contain only", "--as NEW/PATH"],
        ),
        (
            Reply::message(400, "Project namespace path app is a reserved name"),
            &["reserved name", "--as NEW/PATH"],
        ),
    ] {
        site.gitlab
            .fault(Fault::on(Kind::Import, What::Reply(reply)));
        // Only what is sent is limited to six a minute.
        let _ = fs::remove_file(site.host.path("state/imports/sent.json"));
        site.refuses(RESTORE, words);
    }
    let token = site.gitlab.token_of("reader", &["read_api"]);
    site.gitlab.member("rescue", "reader", Access::Owner);
    site.write(&token, &site.folder(), "");
    let _ = fs::remove_file(site.host.path("state/imports/sent.json"));
    site.refuses(RESTORE, &["lacks the scope `api`"]);
    let token = site.gitlab.token_of("guest", &["api"]);
    site.gitlab.member("rescue", "guest", Access::Guest);
    site.write(&token, &site.folder(), "");
    site.refuses(RESTORE, &["Namespace is not valid"]);
    site.gitlab.expire(&token);
    site.refuses(RESTORE, &["the token has expired"]);
    assert_eq!(
        site.gitlab.look("rescue/app").map(|project| project.id),
        None
    );
}

#[test]
fn an_import_that_fails_is_told_and_one_that_lacks_something_is_partial() {
    let site = Site::new();
    let bytes = site.store(&format!("{NEW}.tar.gz"));
    site.gitlab.set(|settings| {
        settings.import_error =
            Some("Import version mismatch: Required 0.2.4 but was 0.1.8".into());
    });
    let ended = site.host.run(RESTORE);
    assert_eq!(ended.status, Some(1), "{ended}");
    let document = ended.json();
    let error = document["error"].as_str().expect("an error");
    for word in [
        "Required 0.2.4 but was 0.1.8",
        "delete it there before the next try",
    ] {
        assert!(error.contains(word), "{ended}");
    }
    assert_eq!(document["project"]["import_status"], "failed");
    assert!(site.left().is_empty(), "{:?}", site.left());
    // It is there, if only in part: nothing is imported over it.
    let again = site.host.run(RESTORE);
    assert!(again.err.contains("there is a project"), "{again}");
    site.gitlab.delete("rescue/app");
    let many = (0..30).map(|n| ("issues".to_owned(), format!("\u{1b}[2J{n}")));
    let failed: Vec<_> = std::iter::once((
        "merge_requests".to_owned(),
        "ActiveRecord::RecordInvalid".to_owned(),
    ))
    .chain(many)
    .collect();
    site.gitlab.set(|settings| {
        settings.import_error = None;
        settings.failed_relations = failed;
    });
    let ended = site.host.run(RESTORE);
    assert_eq!(ended.status, Some(3), "{ended}");
    let document = ended.json();
    assert_eq!(document["status"], "partial");
    let failed = document["project"]["failed_relations"]
        .as_array()
        .expect("a list");
    assert_eq!(failed.len(), 31);
    assert_eq!(failed[0]["relation_name"], "merge_requests");
    assert_eq!(failed[0]["exception_class"], "ActiveRecord::RecordInvalid");
    assert_eq!(failed[1]["line_number"], 1);
    assert!(failed[0]["created_at"].is_string());
    assert_eq!(site.imported("rescue/app"), Some(sha256(&bytes)));
    let ended = site
        .host
        .run("restore --project group/app --as rescue/text");
    assert_eq!(ended.status, Some(3), "{ended}");
    assert!(
        ended.out.contains("not imported: merge_requests"),
        "{ended}"
    );
    assert!(ended.out.contains("and 11 more"), "{ended}");
    assert!(!ended.out.contains('\u{1b}'), "{ended}");
}

#[test]
fn a_lost_reply_never_makes_a_second_project_nor_none() {
    let site = Site::new();
    let bytes = site.store(&format!("{NEW}.tar.gz"));
    site.gitlab.fault(Fault::on(Kind::Import, What::LostReply));
    assert_good(&site.host.run(RESTORE));
    assert_eq!(site.imported("rescue/app"), Some(sha256(&bytes)));
    assert_eq!(site.gitlab.count(Kind::Import), 1);
    // One that never arrived is sent again.
    for what in [
        What::Reset,
        What::server_error(502),
        What::server_error(500),
    ] {
        site.gitlab.delete("rescue/app");
        site.gitlab.forget_requests();
        let _ = fs::remove_file(site.host.path("state/imports/sent.json"));
        site.gitlab.fault(Fault::on(Kind::Import, what));
        assert_good(&site.host.run(RESTORE));
        assert_eq!(site.gitlab.count(Kind::Import), 2);
        assert_eq!(site.imported("rescue/app"), Some(sha256(&bytes)));
    }
}

#[test]
fn a_clock_that_is_wrong_hides_no_import() {
    for clock_ahead in [-86_400, 86_400] {
        let gitlab = GitLabApi::with(Options {
            clock_ahead,
            ..Options::default()
        });
        let site = Site::with(gitlab);
        site.store(&format!("{NEW}.tar.gz"));
        site.gitlab.fault(Fault::on(Kind::Import, What::LostReply));
        assert_good(&site.host.run(RESTORE));
        assert_eq!(site.gitlab.count(Kind::Import), 1);
    }
}

/// Runs the program until its `n`-th request reaches GitLab, before it is carried out or after, and sends it a signal
/// there.
fn signalled(site: &Site, n: usize, after: bool, signal: Signal) -> Ended {
    let target = Arc::new(AtomicI32::new(0));
    let started = Arc::new(Mutex::new(()));
    let (victim, wait) = (target.clone(), started.clone());
    let held = started.lock().expect("not poisoned");
    let send: Arc<dyn Fn() + Send + Sync> = Arc::new(move || {
        drop(wait.lock());
        let pid = Pid::from_raw(victim.load(Ordering::SeqCst)).expect("a process");
        // Gone already where the request before this one was the last that it saw.
        let _ = kill_process(pid, signal);
    });
    let what = if after {
        What::After(send)
    } else {
        What::Before(send)
    };
    site.gitlab.clear_faults();
    site.gitlab.fault(Fault::on(Kind::Any, what).skip(n));
    let child = site.host.spawn(RESTORE);
    let id = i32::try_from(child.id()).expect("a process");
    target.store(id, Ordering::SeqCst);
    drop(held);
    let ended = Ended::from(child.wait_with_output().expect("ended"));
    site.gitlab.clear_faults();
    ended
}

#[test]
fn killed_at_every_request_the_next_call_finishes_and_sends_nothing_twice() {
    for after in [false, true] {
        for n in 0.. {
            let site = Site::new();
            let bytes = site.store(&format!("{NEW}.tar.gz"));
            // What it does while GitLab is at work is in the next test.
            site.gitlab.set(|settings| settings.import_polls = [0, 0]);
            let killed = signalled(&site, n, after, Signal::KILL);
            if killed.status.is_some() {
                assert!(n >= 7, "only {n} requests were tried: {killed}");
                break;
            }
            let ended = site.host.run(RESTORE);
            let document = assert_good(&ended);
            assert_eq!(site.imported("rescue/app"), Some(sha256(&bytes)), "{n}");
            assert_eq!(site.accepted(), 1, "{n} {after}: {ended}");
            assert_eq!(document["project"]["import_status"], "finished");
            assert!(site.left().is_empty(), "{n}: {:?}", site.left());
        }
    }
}

#[test]
fn stopped_it_says_so_and_the_same_command_follows_what_gitlab_is_at() {
    let stopped = (0..20).find_map(|n| {
        let site = Site::new();
        let bytes = site.store(&format!("{NEW}.tar.gz"));
        site.gitlab.set(|settings| settings.import_polls = [1, 1]);
        let ended = signalled(&site, n, true, Signal::TERM);
        let document = ended.json();
        assert_eq!(ended.status, Some(143), "{ended}");
        let error = document["error"].as_str().expect("an error");
        assert!(error.contains("stopped by SIGTERM"), "{ended}");
        assert_eq!(document["status"], "failed");
        let is_followed = document["project"]["id"].is_u64();
        is_followed.then_some((site, bytes))
    });
    let (site, bytes) = stopped.expect("it never came so far");
    // Meanwhile a newer one is stored: GitLab is at the other.
    site.store("2026-11-23-04-00-00.tar.gz");
    let document = assert_good(&site.host.run(RESTORE));
    assert_eq!(site.imported("rescue/app"), Some(sha256(&bytes)));
    assert_eq!(site.accepted(), 1);
    let before =
        ["find", "look", "fetch", "upload"].map(|step| (step.into(), "done_before".into()));
    assert_eq!(steps(&document)[..4], before);
    assert_eq!(document["archives"][0]["status"], "already_present");
    // And that is over now.
    site.refuses_now(RESTORE);
}

impl Site {
    /// That there is something now.
    fn refuses_now(&self, arguments: &str) {
        let ended = self.host.run(arguments);
        assert_eq!(ended.status, Some(1), "{ended}");
        assert!(ended.err.contains("there is a project"), "{ended}");
    }
}

#[test]
fn what_takes_too_long_is_followed_by_the_next_call() {
    let site = Site::new();
    site.store(&format!("{NEW}.tar.gz"));
    site.configure(&site.folder(), "timeout = \"1s\"\n");
    site.gitlab.set(|settings| settings.import_polls = [0, 3]);
    let ended = site.host.run(RESTORE);
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(ended.err.contains("run the same command again"), "{ended}");
    site.configure(&site.folder(), "");
    assert_good(&site.host.run(RESTORE));
    assert_eq!(site.gitlab.count(Kind::Import), 1);
}

#[test]
fn a_project_that_is_deleted_meanwhile_is_told_and_can_be_imported_anew() {
    let site = Arc::new(Site::new());
    site.store(&format!("{NEW}.tar.gz"));
    let other = site.clone();
    let delete = move || other.gitlab.delete("rescue/app");
    site.gitlab.set(|settings| settings.import_polls = [0, 5]);
    let fault = Fault::on(Kind::ImportStatus, What::Before(Arc::new(delete)));
    site.gitlab.fault(fault.skip(1));
    let ended = site.host.run(RESTORE);
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(ended.err.contains("somebody has deleted it"), "{ended}");
    site.gitlab.clear_faults();
    site.gitlab.set(|settings| settings.import_polls = [0, 0]);
    assert_good(&site.host.run(RESTORE));
}

#[test]
fn a_download_that_was_interrupted_goes_on_where_it_stopped() {
    let site = Site::new();
    let dropbox = Dropbox::start(dropbox::Options::default());
    let config = site.host.config(&dropbox);
    let (_, destination) = config.split_once("[destinations.dropbox]\n").expect("one");
    let (destination, _) = destination.split_once("[upload]").expect("the end");
    site.configure(&format!("[destinations.place]\n{destination}"), "");
    let bytes = export("large", 30 << 20);
    let path = format!("/group/app/{NEW}.tar.gz");
    dropbox.put_file(&path, &bytes);
    let killed = support::kill::kill_at(&dropbox, &site.host, RESTORE, 14, dropbox::Moment::Head);
    assert!(killed.is_none(), "it ended before");
    let part = site.left();
    let part = part
        .iter()
        .find(|name| name.contains(".part"))
        .expect("a part");
    let part = site.host.path("state/imports").join(part);
    let metadata = fs::metadata(&part).expect("a part");
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777,
        0o600
    );
    assert!(metadata.len() > 4 << 20, "{} bytes", metadata.len());
    let document = assert_good(&site.host.run(RESTORE));
    let archive = &document["archives"][0];
    let resumed = archive["bytes_resumed"].as_u64().expect("a number");
    assert!(resumed >= 4 << 20, "{resumed}");
    assert_eq!(archive["bytes_fetched"], bytes.len() as u64 - resumed);
    assert_eq!(site.imported("rescue/app"), Some(sha256(&bytes)));
    assert!(site.left().is_empty(), "{:?}", site.left());
    // What was fetched of another content, or is damaged on this disk, is no beginning.
    for damage in [true, false] {
        let killed = support::kill::kill_at(
            &dropbox,
            &site.host,
            &again(damage),
            14,
            dropbox::Moment::Head,
        );
        assert!(killed.is_none(), "it ended before");
        let bytes = if damage {
            let left = site.left();
            let part = left
                .iter()
                .find(|name| name.contains(".part"))
                .expect("a part");
            let part = site.host.path("state/imports").join(part);
            let mut begun = fs::read(&part).expect("a part");
            begun[100_000] ^= 1;
            fs::write(&part, begun).expect("written");
            bytes.clone()
        } else {
            let other = export("another", 30 << 20);
            dropbox.remove(&path);
            dropbox.put_file(&path, &other);
            other
        };
        let document = assert_good(&site.host.run(&again(damage)));
        assert_eq!(document["archives"][0]["bytes_resumed"], 0);
        let to = format!("rescue/app-{damage}");
        assert_eq!(site.imported(&to), Some(sha256(&bytes)));
    }
}

fn again(damage: bool) -> String {
    format!("restore --project group/app --as rescue/app-{damage} --json")
}

#[test]
fn the_limit_on_imports_is_kept_by_all_calls_together() {
    let gitlab = GitLabApi::with(Options {
        minute: Duration::from_secs(2),
        ..Options::default()
    });
    let site = Site::with(gitlab);
    site.store(&format!("{NEW}.tar.gz"));
    site.gitlab.set(|settings| {
        settings.limits.import = Some(1);
        settings.import_polls = [0, 0];
    });
    let import = |n: u32| {
        let to = format!("restore --project group/app --as rescue/app{n} --json");
        assert_good(&site.host.run(&to));
    };
    site.configure(&site.folder(), "import_limit = \"1/2s\"\n");
    (0..3).for_each(import);
    assert_eq!(site.gitlab.busiest(Limit::Import), 1);
    // GitLab says no without a word on when to come back.
    site.configure(&site.folder(), "import_limit = \"3/2s\"\n");
    (3..5).for_each(import);
    assert_eq!(site.accepted(), 5);
    assert!(site.gitlab.busiest(Limit::Import) <= 2);
}

#[test]
fn gitlab_that_is_away_is_waited_for_and_told() {
    let site = Site::new();
    let bytes = site.store(&format!("{NEW}.tar.gz"));
    site.gitlab
        .fault(Fault::on(Kind::Any, What::server_error(502)).times(2));
    site.gitlab
        .fault(Fault::on(Kind::ImportStatus, What::Reset));
    assert_good(&site.host.run(RESTORE));
    assert_eq!(site.imported("rescue/app"), Some(sha256(&bytes)));
    site.gitlab.delete("rescue/app");
    site.gitlab.mode(Mode::Proxy);
    let ended = site.host.run(RESTORE);
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(ended.err.contains("gitlab.url"), "{ended}");
}

#[test]
fn what_the_arguments_and_the_configuration_show_is_told_before_anything_is_done() {
    let site = Site::new();
    site.store(&format!("{NEW}.tar.gz"));
    for (arguments, words) in [
        ("restore --as a/b", "--project"),
        ("restore --project app", "group/app"),
        ("restore --project group//app", "group/app"),
        ("restore --project group/../app", "group/app"),
        (
            "restore --project https://gitlab.com/group/app",
            "group/app",
        ),
        ("restore --project group/app --as app", "group/app"),
        (
            "restore --project group/app --as rescue/app?",
            "letters, digits",
        ),
        ("restore --project group/app --as rescue/-app", "beginning"),
        ("restore --project group/app --as rescue/app.git", "`.git`"),
        ("restore --project group/app --to x", "--to"),
        ("restore --project group/app --only data", "--only"),
        ("restore --project group/app --plan", "--plan"),
        ("restore --project group/app --apply --yes", "--apply"),
        (
            "restore --project group/app 1702758583_2023_12_16_17.8.2",
            "names no export",
        ),
        (
            "restore --project group/app --destination nowhere",
            "nowhere",
        ),
    ] {
        let ended = site.host.run(&format!("{arguments} --json"));
        assert_eq!(ended.status, Some(2), "{arguments}: {ended}");
        assert!(ended.err.contains(words), "{arguments}: {ended}");
        assert_eq!(ended.json()["status"], "failed");
    }
    // One that gets exports alone is known, too.
    site.configure(&(site.folder() + "kinds = []\n"), "");
    let nowhere = "restore --project group/app --destination nowhere";
    let ended = site.host.run(nowhere);
    assert!(ended.err.contains("knows: place\n"), "{ended}");
    let without = site.host.config_with(&site.folder());
    site.host.write_config(&without);
    let ended = site.host.run(RESTORE);
    assert_eq!(ended.status, Some(2), "{ended}");
    assert!(ended.err.contains("no [projects]"), "{ended}");
    assert!(ended.err.contains("--destination"), "{ended}");
    assert_eq!(site.gitlab.count(Kind::Any), 0);
    assert!(!site.host.path("state/imports").exists());
}

#[test]
fn another_run_is_waited_for_or_not() {
    let site = Site::new();
    site.store(&format!("{NEW}.tar.gz"));
    let lock = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(site.host.path("state/lock"))
        .expect("the lock");
    lock.try_lock().expect("nobody holds it");
    let ended = site.host.run(RESTORE);
    assert_eq!(ended.status, Some(4), "{ended}");
    assert_eq!(site.gitlab.count(Kind::Any), 0);
    let child = site.host.spawn(&format!("{RESTORE} --wait 1m"));
    drop(lock);
    let ended = Ended::from(child.wait_with_output().expect("ended"));
    assert_good(&ended);
}

#[test]
fn exports_that_are_named_by_the_projects_number_are_found_as_long_as_gitlab_knows_it() {
    let site = Site::new();
    let id = site.gitlab.project("group/app");
    let bytes = export("numbered", 0);
    let name = format!("../../by-number/{id}/{NEW}.tar.gz");
    fs::create_dir_all(site.host.path("stored/group/app")).expect("a folder");
    fs::create_dir_all(site.host.path(&format!("stored/by-number/{id}"))).expect("a folder");
    site.store_as(&name, &bytes);
    let template = "name = \"by-number/{id}/{time}.tar.gz\"\n";
    site.configure(&site.folder(), template);
    assert_good(&site.host.run(RESTORE));
    assert_eq!(site.imported("rescue/app"), Some(sha256(&bytes)));
    site.gitlab.delete("group/app");
    let ended = site
        .host
        .run("restore --project group/app --as rescue/b --json");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(
        ended.err.contains("named by the project's number"),
        "{ended}"
    );
}

#[test]
fn without_a_token_or_an_address_nothing_is_tried() {
    let site = Site::new();
    site.store(&format!("{NEW}.tar.gz"));
    let (folder, projects) = (
        site.folder(),
        "[projects]\ndestination = \"place\"\nall = true\n",
    );
    let url = format!("url = \"{}\"\n", site.gitlab.url());
    for (api, word) in [(url.as_str(), "token"), ("token = \"x\"\n", "url")] {
        let text = site.host.config_with(&format!("{api}{folder}{projects}"));
        site.host.write_config(&text);
        let ended = site.host.run(RESTORE);
        assert_eq!(ended.status, Some(2), "{ended}");
        assert!(ended.err.contains(&format!("gitlab.{word}")), "{ended}");
    }
    assert_eq!(site.gitlab.count(Kind::Any), 0);
}
