//! Clients that were not written by us drive the stand-in for Dropbox, and read what our program stored.
//!
//! The SDK and rclone know the real service. If they find their way around the stand-in, it is like the
//! real one where our program needs it. Where a client is not installed its tests are skipped, and say so.

mod support;

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use support::dropbox::{Dropbox, Options};
use support::host::Host;

const DATA: &str = "1702758583_2023_12_16_17.8.2_gitlab_backup.tar";
const CONFIG: &str = "gitlab_config_1702758583_2023_12_16.tar";

/// Whether a client can be called; if not, that is told.
fn is_here(program: &str, arguments: &[&str]) -> bool {
    let called = Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let here = called.is_ok_and(|status| status.success());
    let emulated = cfg!(target_arch = "aarch64")
        && std::env::var_os("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER").is_some();
    if here && emulated {
        // It would be the stand-in that is emulated, for minutes, and not the program.
        let told = writeln!(
            io::stderr(),
            "skipped: {program} is tried without an emulator"
        );
        told.expect("standard error");
        return false;
    }
    if !here {
        let call = arguments.join(" ");
        // Not by a macro, whose output a test that passes does not show.
        let told = writeln!(
            io::stderr(),
            "skipped: `{program} {call}` does not work here"
        );
        told.expect("standard error");
    }
    here
}

fn sdk_is_here() -> bool {
    is_here("python3", &["-c", "import dropbox"])
}

fn rclone_is_here() -> bool {
    is_here("rclone", &["version"])
}

fn start(options: Options) -> Dropbox {
    Dropbox::start(Options {
        tls: true,
        ..options
    })
}

/// Calls a script with the address of the stand-in, and with what else it wants to know.
fn drive(dropbox: &Dropbox, program: &str, script: &str, more: &[&str]) -> Output {
    let scripts = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/support/peers");
    let output = Command::new(program)
        .arg(scripts.join(script))
        .arg(dropbox.proxy_url())
        .arg(dropbox.ca_file().expect("with TLS"))
        .args(more)
        .env_remove("NO_PROXY")
        .env_remove("no_proxy")
        .stdin(Stdio::null())
        .output();
    output.expect("a program that was called before")
}

/// The script came to its end and says so.
fn assert_ok(output: &Output, last: &str) {
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{out}\n{err}");
    assert_eq!(out.lines().last(), Some(last), "{err}");
}

#[test]
fn the_sdk_finds_everything_as_it_expects() {
    if !sdk_is_here() {
        return;
    }
    let dropbox = start(Options {
        quota: 100 << 20,
        ..Options::default()
    });
    let output = drive(&dropbox, "python3", "proof_sdk.py", &["account"]);
    assert_ok(&output, "ok account");
}

#[test]
fn the_sdk_logs_in_with_a_secret_and_sees_a_token_expire() {
    if !sdk_is_here() {
        return;
    }
    let dropbox = start(Options {
        app_secret: Some("s3cret".into()),
        token_life: std::time::Duration::from_secs(1),
        ..Options::default()
    });
    let output = drive(&dropbox, "python3", "proof_sdk.py", &["secrets"]);
    assert_ok(&output, "ok secrets");
}

#[test]
fn rclone_finds_everything_as_it_expects() {
    if !rclone_is_here() {
        return;
    }
    let dropbox = start(Options {
        app_secret: Some("s3cret".into()),
        ..Options::default()
    });
    let output = drive(&dropbox, "sh", "proof_rclone.sh", &[]);
    assert_ok(&output, "ok rclone");
}

/// Our program stores, by Dropbox's own host names; rclone reads.
#[test]
fn rclone_reads_what_the_program_stored() {
    if !rclone_is_here() {
        return;
    }
    let dropbox = start(Options::default());
    let mut host = Host::new(env!("CARGO_BIN_EXE_gitlab-pi-backup"), &dropbox);
    let archives = [
        ("Config", host.put_config_archive(CONFIG)),
        ("Data", host.put_data_archive(DATA, (21 << 20) + 512)),
    ];
    let text = host.config(&dropbox);
    let lines = text.lines().filter(|line| !line.contains("_url = "));
    host.write_config(&lines.collect::<Vec<_>>().join("\n"));
    host.set("HTTPS_PROXY", dropbox.proxy_url());
    host.set("SSL_CERT_FILE", dropbox.ca_file().expect("with TLS"));
    let ended = host.run("run --skip-create --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    let report = ended.json();

    let Options {
        app_key,
        refresh_token,
        ..
    } = Options::default();
    let settings = format!(
        "[box]\ntype = dropbox\nclient_id = {app_key}\ntoken = {{\"access_token\":\"old\",\"token_type\":\"bearer\",\
         \"refresh_token\":\"{refresh_token}\",\"expiry\":\"2020-01-01T00:00:00Z\"}}\n"
    );
    fs::write(host.path("rclone.conf"), settings).expect("rclone's configuration");
    let rclone = |arguments: &[&str]| {
        let output = Command::new("rclone")
            .args(arguments)
            .env("RCLONE_CONFIG", host.path("rclone.conf"))
            .env("HTTPS_PROXY", dropbox.proxy_url())
            .env("SSL_CERT_FILE", dropbox.ca_file().expect("with TLS"))
            .env_remove("NO_PROXY")
            .env_remove("no_proxy")
            .output()
            .expect("rclone was called before");
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "rclone {arguments:?}: {err}");
        output.stdout
    };
    for (number, (folder, local)) in archives.iter().enumerate() {
        let name = local.file_name().expect("a name").to_string_lossy();
        let remote = format!("box:{folder}/{name}");
        let bytes = rclone(&["cat", &remote]);
        assert!(
            bytes == fs::read(local).expect("the archive"),
            "{remote} differs"
        );
        let there = rclone(&["hashsum", "dropbox", &remote]);
        let here = rclone(&["hashsum", "dropbox", &local.display().to_string()]);
        assert_eq!(there, here, "{remote}");
        let hash = report["archives"][number]["uploads"][0]["content_hash"].as_str();
        let there = String::from_utf8(there).expect("a hash and a name");
        assert_eq!(there.split_ascii_whitespace().next(), hash, "{remote}");
        let listed = rclone(&["lsf", "--format", "ps", &format!("box:{folder}")]);
        assert_eq!(
            String::from_utf8_lossy(&listed),
            format!("{name};{}\n", bytes.len())
        );
    }
}
