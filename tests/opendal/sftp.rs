//! `type = "sftp"`, against OpenSSH's server: `cargo test --features sftp --test opendal`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::server::{Server, skip};
use super::trip::{DATA, configure, host, ok, put_data, round_trip};

/// sshd on a port of the loopback, with keys of its own.
struct Sshd {
    server: Server,
    folder: TempDir,
}

impl Sshd {
    fn start() -> Option<Sshd> {
        let daemon = Path::new("/usr/sbin/sshd");
        let subsystem = "/usr/lib/openssh/sftp-server";
        if !daemon.exists()
            || !Path::new(subsystem).exists()
            || !rustix::process::geteuid().is_root()
        {
            skip("needs root and the OpenSSH server");
            return None;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path();
        for name in ["host_key", "user_key"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(path.join(name))
                .stdin(Stdio::null())
                .status();
            assert!(made.expect("it runs").success());
        }
        fs::copy(path.join("user_key.pub"), path.join("authorized_keys")).expect("copied");
        fs::create_dir_all("/run/sshd").expect("its folder");
        let shown = path.display();
        let config = format!(
            "HostKey {shown}/host_key\nAuthorizedKeysFile {shown}/authorized_keys\nStrictModes no\n\
             PidFile none\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n\
             Subsystem sftp {subsystem}\nListenAddress 127.0.0.1\n"
        );
        fs::write(path.join("sshd_config"), config).expect("written");
        let server = Server::start(|port| {
            let mut command = Command::new(daemon);
            command.args(["-D", "-e", "-p", &port.to_string(), "-f"]);
            command.arg(path.join("sshd_config"));
            command
        });
        Some(Sshd { server, folder })
    }

    fn place(&self, key: &str) -> String {
        let path = self.folder.path().display();
        format!(
            "type = \"sftp\"\nendpoint = \"ssh://root@127.0.0.1:{}\"\nkey = \"{path}/{key}\"\nroot = \"{path}/there\"\n\
             known_hosts_strategy = \"accept\"\n",
            self.server.port
        )
    }
}

#[test]
fn a_backup_goes_to_a_machine_and_comes_back() {
    let Some(sshd) = Sshd::start() else { return };
    round_trip(&host(&sshd.place("user_key")));
}

#[test]
fn a_key_that_is_not_known_there_is_refused() {
    let Some(sshd) = Sshd::start() else { return };
    let host = host(&sshd.place("host_key"));
    let ended = host.run("run --skip-create");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(ended.err.contains("authorized_keys"), "{ended}");
    let open = fs::Permissions::from_mode(0o644);
    fs::set_permissions(sshd.folder.path().join("user_key"), open).expect("its mode");
    configure(&host, &sshd.place("user_key"));
    let ended = host.run("run --skip-create");
    assert_eq!(ended.status, Some(2), "others may read the key: {ended}");
}

#[test]
fn what_a_killed_upload_left_is_removed_and_never_looks_complete() {
    let Some(sshd) = Sshd::start() else { return };
    let host = host(&sshd.place("user_key"));
    let path = put_data(&host, 12_000_000);
    let data = sshd.folder.path().join("there/Data");
    fs::create_dir_all(&data).expect("a folder");
    let left = data.join(format!(".{DATA}.0123456789abcdef.partial"));
    fs::write(&left, "half").expect("written");
    ok(&host, "run --skip-create -q --only data");
    assert!(!left.exists());
    let there = fs::read(data.join(DATA)).expect("stored");
    assert!(there == fs::read(path).expect("the archive"));
}
