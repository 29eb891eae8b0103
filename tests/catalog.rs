//! What is stored: the manifest a run leaves, `list` and `verify`, as a user sees them.

mod support;

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::FileExt;

use serde_json::{Value, json};
use support::backup::RealBackup;
use support::dropbox::{Dropbox, Fault, Options, What};
use support::host::{Ended, Host};

const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");
const STAMP: u64 = 1_702_758_583;
const ID: &str = "1702758583_2023_12_16_17.8.2";
const CONFIG: &str = "gitlab_config_1702758583_2023_12_16.tar";
const DATA: &str = "1702758583_2023_12_16_17.8.2_gitlab_backup.tar";

/// A machine with a real backup.
fn machine() -> (Dropbox, Host) {
    let dropbox = Dropbox::start(Options::default());
    let host = Host::new(PROGRAM, &dropbox);
    put_backup(&host, &RealBackup::new(1), STAMP);
    (dropbox, host)
}

fn put_backup(host: &Host, backup: &RealBackup, stamp: u64) {
    let (data, config) = (
        host.path("var/opt/gitlab/backups"),
        host.path("etc/gitlab/config_backup"),
    );
    fs::create_dir_all(&config).expect("a folder");
    backup.write_into(&data, &config, stamp);
}

/// A machine whose real backup is stored.
fn stored() -> (Dropbox, Host) {
    let (dropbox, host) = machine();
    let ended = host.run("run --skip-create --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    (dropbox, host)
}

fn manifest(dropbox: &Dropbox, id: &str) -> Value {
    serde_json::from_slice(&dropbox.content(&format!("/Manifests/{id}.json"))).expect("JSON")
}

fn list(host: &Host) -> Vec<Value> {
    let ended = host.run("list --json --destination dropbox");
    assert_eq!(ended.status, Some(0), "{ended}");
    ended.json()["backups"].as_array().expect("backups").clone()
}

/// `path status` of each row that is not as it should be.
fn wrong(ended: &Ended) -> Vec<String> {
    let document = ended.json();
    let rows = document["archives"].as_array().expect("archives");
    let wrong = rows.iter().filter(|row| row["status"] != "ok");
    wrong
        .map(|row| {
            let text = |key: &str| row[key].as_str().expect("a text").to_owned();
            format!("{} {}", text("path"), text("status"))
        })
        .collect()
}

#[test]
fn a_run_leaves_a_manifest_that_tells_what_is_stored() {
    let (dropbox, _host) = stored();
    let manifest = manifest(&dropbox, ID);
    assert_eq!(manifest["format"], 1);
    assert_eq!(manifest["backup_id"], ID);
    assert_eq!(manifest["gitlab_version"], "17.8.2");
    assert_eq!(manifest["edition"], "ce");
    assert_eq!(manifest["shrunk"], json!([]));
    assert_eq!(manifest["tool_version"], env!("CARGO_PKG_VERSION"));
    assert!(manifest["host"].is_string());
    let fingerprint = manifest["secrets_fingerprint"].as_str().expect("one");
    assert_eq!(fingerprint.len(), 64);
    for (number, kind, path) in [(0, "config", "/Config"), (1, "data", "/Data")] {
        let archive = &manifest["archives"][number];
        let name = archive["stored_name"].as_str().expect("a name");
        let files = dropbox.files();
        let file = files
            .iter()
            .find(|file| file.path_display == format!("{path}/{name}"))
            .expect("stored");
        assert_eq!(archive["kind"], kind);
        assert_eq!(archive["stored_hash"], file.content_hash);
        assert_eq!(archive["content_hash"], file.content_hash);
        assert_eq!(archive["stored_size"], file.size);
        assert_eq!(archive["doubts"], json!([]));
    }
    let contents = &manifest["archives"][1]["contents"];
    assert!(contents["parts"]["db"].as_u64() > Some(100), "{contents}");
    assert!(contents["repositories"].as_u64() >= Some(3), "{contents}");
    assert!(contents["bundles"].as_u64() >= Some(2), "{contents}");
}

#[test]
fn the_member_list_leads_to_every_file() {
    let (dropbox, host) = stored();
    let packed = dropbox.content(&format!("/Manifests/{ID}.members.gz"));
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(&packed[..])
        .read_to_string(&mut text)
        .expect("gzip");
    let data = fs::File::open(host.path("var/opt/gitlab/backups").join(DATA)).expect("open");
    let (mut archive, mut seen) = (String::new(), 0);
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        if let Some(name) = line["archive"].as_str() {
            name.clone_into(&mut archive);
            continue;
        }
        if archive != DATA {
            continue;
        }
        let (path, offset, size) = (
            line[0].as_str().expect("a path"),
            line[1].as_u64().expect("an offset"),
            line[2].as_u64().expect("a size"),
        );
        seen += 1;
        let mut bytes = vec![0; usize::try_from(size).expect("small")];
        data.read_exact_at(&mut bytes, offset).expect("read");
        if path.contains(".bundle") {
            assert!(bytes.starts_with(b"# v"), "{path}");
        } else if path.contains(".gz") {
            assert!(bytes.starts_with(&[0x1f, 0x8b]), "{path}");
        }
    }
    assert!(seen > 15, "{text}");
}

#[test]
fn a_second_run_writes_nothing_again() {
    let (dropbox, host) = stored();
    let before = dropbox.requests().len();
    let ended = host.run("run --skip-create --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(ended.json()["manifests"][0]["status"], "unchanged");
    let requests = dropbox.requests();
    let wrote = requests[before..]
        .iter()
        .filter(|seen| seen.endpoint.contains("upload") || seen.endpoint.contains("download"));
    assert_eq!(wrote.count(), 0);
}

#[test]
fn a_manifest_that_could_not_be_written_is_written_by_the_next_run() {
    let (dropbox, mut host) = machine();
    host.set("GITLAB_PI_BACKUP_UPLOAD__RETRY_FOR", "1s");
    dropbox.fault(Fault::on("files/upload$", What::server_error(503)).forever());
    let ended = host.run("run --skip-create --json");
    assert_eq!(ended.status, Some(1), "{ended}");
    let report = ended.json();
    assert_eq!(report["archives"][1]["uploads"][0]["status"], "uploaded");
    assert_eq!(report["manifests"][0]["status"], "failed");
    assert!(
        report["error"].as_str().expect("an error").contains("503"),
        "{ended}"
    );
    assert_eq!(list(&host)[0]["missing"], json!(["manifest"]));

    // A newer backup is made meanwhile; the older one gets its manifest all the same.
    dropbox.clear_faults();
    host.populate(&RealBackup::new(1));
    host.set("STUB_NOW", "1702999999");
    let ended = host.run("run --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    let rows = ended.json()["manifests"].as_array().expect("rows").clone();
    let ids: Vec<_> = rows
        .iter()
        .map(|row| row["backup_id"].as_str().expect("an ID"))
        .collect();
    assert_eq!(ids, [ID, "1702999999_2023_12_19_17.8.2"]);
    let rows = list(&host);
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|row| row["complete"] == true), "{rows:?}");
    assert!(
        rows.iter().all(|row| row["verified_at"].is_string()),
        "{rows:?}"
    );
    assert!(
        rows.iter().all(|row| row["rehearsed_at"].is_null()),
        "{rows:?}"
    );
    assert!(
        rows.iter().all(|row| row["secrets_stored"] == true),
        "{rows:?}"
    );
}

#[test]
fn kinds_that_are_made_alone_find_each_other() {
    let dropbox = Dropbox::start(Options::default());
    let mut host = Host::new(PROGRAM, &dropbox);
    host.set("STUB_NOW", "1702758583");
    let ended = host.run("run --only data --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(list(&host)[0]["missing"], json!(["config"]));
    host.set("STUB_NOW", "1702760000");
    let ended = host.run("run --only config --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    let rows = list(&host);
    assert_eq!(rows[0]["complete"], true, "{rows:?}");
    assert_eq!(
        manifest(&dropbox, ID)["archives"][0]["name"],
        "gitlab_config_1702760000_2023_12_16.tar"
    );
    // The other way round: the config archive of a while ago belongs to the data archive.
    host.set("STUB_NOW", "1702770000");
    assert_eq!(host.run("run --only data").status, Some(0));
    assert!(list(&host).iter().all(|row| row["complete"] == true));
}

#[test]
fn recovery_md_names_what_is_there_now() {
    let (dropbox, host) = stored();
    let text = String::from_utf8(dropbox.content("/RECOVERY.md")).expect("text");
    for part in [
        ID,
        CONFIG,
        DATA,
        "gitlab-ce=17.8.2-ce.0",
        &format!("gitlab-backup restore BACKUP={ID} force=yes"),
        "| complete |",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    put_backup(
        &host,
        &RealBackup::new(1).version("17.9.0-ee"),
        STAMP + 90_000,
    );
    assert_eq!(host.run("run --skip-create").status, Some(0));
    let text = String::from_utf8(dropbox.content("/RECOVERY.md")).expect("text");
    assert!(
        text.contains("gitlab-ee=17.9.0-ee.0") && text.contains(ID),
        "{text}"
    );
}

#[test]
fn list_shows_this_machine_and_the_destinations() {
    let (dropbox, host) = stored();
    let ended = host.run("list --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    let document = ended.json();
    assert_eq!(document["command"], "list");
    assert_eq!(document["status"], "ok");
    let rows = document["backups"].as_array().expect("rows");
    let places: Vec<_> = rows
        .iter()
        .map(|row| row["destination"].as_str().expect("a place"))
        .collect();
    assert_eq!(places, ["dropbox", "local"]);
    for row in rows {
        assert_eq!(row["backup_id"], ID);
        assert_eq!(row["created_at"], "2023-12-16T20:29:43Z");
        assert_eq!(row["gitlab_version"], "17.8.2");
        assert_eq!(row["kinds"], json!(["config", "data"]));
        assert_eq!(row["complete"], true);
    }
    assert_eq!(rows[0]["size"], rows[1]["size"]);
    let before = dropbox.requests().len();
    let ended = host.run("list --local --json");
    assert_eq!(ended.json()["backups"].as_array().map(Vec::len), Some(1));
    assert_eq!(dropbox.requests().len(), before, "nobody was asked");
    let text = host.run("list").out;
    assert!(
        text.contains(ID) && text.contains("complete") && text.contains("never"),
        "{text}"
    );
}

#[test]
fn backups_of_another_program_are_listed_and_verified_as_far_as_they_can_be() {
    let (dropbox, host) = machine();
    let read = |folder: &str, name: &str| fs::read(host.path(folder).join(name)).expect("read");
    let data = read("var/opt/gitlab/backups", DATA);
    dropbox.put_file(&format!("/Data/{DATA}"), &data);
    dropbox.put_file(
        &format!("/Config/{CONFIG}"),
        &read("etc/gitlab/config_backup", CONFIG),
    );
    dropbox.put_file("/Data/dump_gitlab_backup.tar", b"not ours to judge");
    let rows = list(&host);
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0]["missing"], json!(["manifest"]));
    assert_eq!(rows[0]["kinds"], json!(["config", "data"]));
    assert_eq!(rows[0]["complete"], false);
    let ended = host.run("verify --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(wrong(&ended), ["/Data/dump_gitlab_backup.tar stray"]);
    // What lies here under that name has another size.
    dropbox.remove(&format!("/Data/{DATA}"));
    dropbox.put_file(&format!("/Data/{DATA}"), &data[..data.len() - 512]);
    let ended = host.run("verify --json");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert_eq!(wrong(&ended)[0], format!("/Data/{DATA} size"));
}

#[test]
fn verify_names_every_difference() {
    type Damage = fn(&Dropbox);
    let data = format!("/Data/{DATA}");
    let config = format!("/Config/{CONFIG}");
    let cases: [(&str, Damage, Vec<String>); 6] = [
        ("nothing", |_| {}, vec![]),
        (
            "deleted",
            |dropbox| dropbox.remove(&format!("/Data/{DATA}")),
            vec![format!("{data} missing")],
        ),
        (
            "truncated",
            |dropbox| {
                let bytes = dropbox.content(&format!("/Data/{DATA}"));
                dropbox.remove(&format!("/Data/{DATA}"));
                dropbox.put_file(&format!("/Data/{DATA}"), &bytes[..bytes.len() - 512]);
            },
            vec![format!("{data} size")],
        ),
        (
            "other content",
            |dropbox| {
                let mut bytes = dropbox.content(&format!("/Config/{CONFIG}"));
                bytes[5_000] ^= 1;
                dropbox.remove(&format!("/Config/{CONFIG}"));
                dropbox.put_file(&format!("/Config/{CONFIG}"), &bytes);
            },
            vec![format!("{config} hash")],
        ),
        (
            "renamed",
            |dropbox| {
                let bytes = dropbox.content(&format!("/Config/{CONFIG}"));
                dropbox.remove(&format!("/Config/{CONFIG}"));
                dropbox.put_file("/Config/old.tar", &bytes);
            },
            vec![
                format!("{config} missing"),
                "/Config/old.tar stray".to_owned(),
            ],
        ),
        (
            "a damaged manifest",
            |dropbox| dropbox.put_file(&format!("/Manifests/{ID}.json"), b"{\"format\":1,"),
            vec![format!("/Manifests/{ID}.json hash")],
        ),
    ];
    for (name, damage, expected) in cases {
        let (dropbox, host) = stored();
        damage(&dropbox);
        let before = dropbox.requests().len();
        let ended = host.run("verify --json");
        assert_eq!(
            ended.status,
            Some(i32::from(!expected.is_empty())),
            "{name}: {ended}"
        );
        assert_eq!(wrong(&ended), expected, "{name}: {ended}");
        assert_eq!(
            ended.json()["error"].is_null(),
            expected.is_empty(),
            "{name}: {ended}"
        );
        let requests = dropbox.requests().into_iter().skip(before);
        let reads = requests.filter(|seen| seen.endpoint.contains("download"));
        let of_archives =
            reads.filter(|seen| !seen.arg["path"].to_string().contains("/Manifests/"));
        assert_eq!(of_archives.count(), 0, "{name}: archives were read");
        let row = &list(&host)[0];
        assert_eq!(row["complete"], expected.is_empty(), "{name}: {row}");
        // A proof is noted only of what is whole.
        let proof = dropbox
            .files()
            .iter()
            .any(|file| file.path_display.ends_with(".proof.json"));
        assert_eq!(proof, expected.is_empty(), "{name}");
    }
}

#[test]
fn manifests_that_lie_are_not_believed() {
    for (name, change, word) in [
        ("a later version", "\"format\": 2", "install a newer"),
        (
            "another backup",
            "\"backup_id\": \"1702758583_2023_12_16_17.8.3\"",
            "another backup",
        ),
        (
            "another place",
            "\"stored_name\": \"../../etc/passwd\"",
            "wrong archive",
        ),
    ] {
        let (dropbox, host) = stored();
        let text =
            String::from_utf8(dropbox.content(&format!("/Manifests/{ID}.json"))).expect("text");
        let key = change.split(':').next().expect("a key");
        let lines = text.lines().map(|line| {
            if line.trim_start().starts_with(key) {
                format!("{change},")
            } else {
                line.to_owned()
            }
        });
        let changed: Vec<_> = lines.collect();
        dropbox.put_file(
            &format!("/Manifests/{ID}.json"),
            changed.join("\n").as_bytes(),
        );
        let ended = host.run("verify");
        assert_eq!(ended.status, Some(1), "{name}: {ended}");
        assert!(ended.out.contains(word), "{name}: {ended}");
        let rows = list(&host);
        assert_eq!(rows[0]["missing"], json!(["manifest"]), "{name}");
        assert_eq!(rows[0]["kinds"], json!(["config", "data"]), "{name}");
    }
}

#[test]
fn what_is_not_there_is_told_with_a_way_out() {
    let dropbox = Dropbox::start(Options::default());
    let host = Host::new(PROGRAM, &dropbox);
    let ended = host.run("list --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(ended.json()["backups"], json!([]));
    let ended = host.run("verify");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(
        ended.err.contains("make one: gitlab-pi-backup run"),
        "{ended}"
    );

    let (dropbox, host) = stored();
    let ended = host.run("verify 1702758583_2023_12_16_17.8.3 --json");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(
        ended
            .err
            .contains("there is no backup 1702758583_2023_12_16_17.8.3"),
        "{ended}"
    );
    dropbox.revoke();
    let ended = host.run("list --json");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert_eq!(ended.json()["status"], "failed");
    // What is on this machine is shown all the same.
    assert_eq!(ended.json()["backups"].as_array().map(Vec::len), Some(1));
    assert_eq!(host.run("verify").status, Some(1));
    assert_eq!(
        host.run("list --local --destination dropbox").status,
        Some(2)
    );
    assert_eq!(host.run("verify --destination other").status, Some(2));
}

#[test]
fn two_backups_of_one_second_stay_apart() {
    let (_dropbox, host) = machine();
    put_backup(&host, &RealBackup::new(1).version("17.8.10"), STAMP);
    // The greater name in byte order is the newest: 17.8.2.
    assert_eq!(host.run("run --skip-create").status, Some(0));
    fs::remove_file(host.path("var/opt/gitlab/backups").join(DATA)).expect("removed");
    assert_eq!(host.run("run --skip-create").status, Some(0));
    let rows = list(&host);
    let ids: Vec<_> = rows
        .iter()
        .map(|row| row["backup_id"].as_str().expect("an ID"))
        .collect();
    assert_eq!(ids, [ID, "1702758583_2023_12_16_17.8.10"]);
    // Both have the same config archive.
    assert!(rows.iter().all(|row| row["complete"] == true), "{rows:?}");
}

#[test]
fn what_was_wrong_when_it_was_made_stays_wrong() {
    let dropbox = Dropbox::start(Options::default());
    let mut host = Host::new(PROGRAM, &dropbox);
    host.set("STUB_NOW", "1702758583")
        .set("STUB_FAIL", "db-new");
    assert_eq!(host.run("run").status, Some(1));
    let doubts = manifest(&dropbox, ID)["archives"][1]["doubts"].clone();
    assert!(!doubts.as_array().expect("doubts").is_empty());
    host.set("STUB_FAIL", "");
    let ended = host.run("run --skip-create --json");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert_eq!(manifest(&dropbox, ID)["archives"][1]["doubts"], doubts);
    // Nor does it get better where nothing is remembered.
    fs::remove_dir_all(host.path("state")).expect("removed");
    host.run("run --skip-create");
    assert_eq!(manifest(&dropbox, ID)["archives"][1]["doubts"], doubts);
    assert_eq!(list(&host)[0]["complete"], false);
}

#[test]
fn what_one_run_owes_is_not_forgotten_by_another() {
    let (dropbox, host) = machine();
    let second = format!(
        "{}[destinations.second]\ntype = \"dropbox\"\nmanifest_folder = \"/M2\"\nconfig_folder = \"/C2\"\ndata_folder = \"/D2\"\n",
        host.config(&dropbox)
    );
    let keys = host.config(&dropbox);
    let keys = keys.split("type = \"dropbox\"\n").nth(1).expect("keys");
    let keys = keys.split("[upload]").next().expect("keys");
    host.write_config(&format!("{second}{keys}"));
    dropbox.fault(Fault::on("files/upload$", What::server_error(503)).forever());
    let mut command = host.command("run --skip-create");
    command.env("GITLAB_PI_BACKUP_UPLOAD__RETRY_FOR", "1s");
    assert_eq!(
        Ended::from(command.output().expect("it runs")).status,
        Some(1)
    );
    dropbox.clear_faults();
    assert_eq!(
        host.run("run --skip-create --destination dropbox").status,
        Some(0)
    );
    let ended = host.run("run --skip-create --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    let rows = host.run("list --json --destination second").json()["backups"].clone();
    assert_eq!(rows[0]["complete"], true, "{rows}");
}

#[test]
fn what_is_not_ours_is_not_replaced() {
    let (dropbox, host) = machine();
    dropbox.put_file("/RECOVERY.md", b"my own notes");
    dropbox.put_file(
        &format!("/Manifests/{ID}.json"),
        b"{\"format\": 2, \"new\": true}",
    );
    let ended = host.run("run --skip-create --json");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(ended.err.contains("install a newer"), "{ended}");
    assert_eq!(
        dropbox.content(&format!("/Manifests/{ID}.json")),
        b"{\"format\": 2, \"new\": true}"
    );
    dropbox.remove(&format!("/Manifests/{ID}.json"));
    assert_eq!(host.run("run --skip-create").status, Some(0));
    assert_eq!(dropbox.content("/RECOVERY.md"), b"my own notes");
    assert!(
        dropbox
            .content("/Manifests/RECOVERY.md")
            .starts_with(b"# How to get")
    );
}

/// A token from before there was anything to read back.
#[test]
fn without_the_right_to_read_contents_backups_are_stored_all_the_same() {
    let scopes = [
        "account_info.read",
        "files.metadata.read",
        "files.content.write",
    ];
    let dropbox = Dropbox::start(Options {
        scopes: scopes.map(str::to_owned).to_vec(),
        ..Options::default()
    });
    let host = Host::new(PROGRAM, &dropbox);
    put_backup(&host, &RealBackup::new(1), STAMP);
    let ended = host.run("run --skip-create --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(ended.json()["manifests"][0]["status"], "written");
    // What this machine wrote it need not read.
    for arguments in ["list", "verify", "run --skip-create"] {
        let ended = host.run(arguments);
        assert_eq!(ended.status, Some(0), "{arguments}: {ended}");
    }
    // Another one has to, and no archive can be read back.
    let other = Host::new(PROGRAM, &dropbox);
    for (host, arguments) in [
        (&host, "rehearse"),
        (&host, "restore --to fetched"),
        (&other, "list"),
        (&other, "verify"),
    ] {
        let arguments = arguments.replace("fetched", &host.path("fetched").display().to_string());
        let ended = host.run(&arguments);
        assert_eq!(ended.status, Some(1), "{arguments}: {ended}");
        assert!(
            ended.err.contains("lacks the right `files.content.read`"),
            "{arguments}: {ended}"
        );
    }
}
