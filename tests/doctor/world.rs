//! Another world than that of the shell: mounts, cron, signals.

use std::fs;
use std::process::Command;
use std::sync::{Arc, Mutex, mpsc};

use rustix::process::{Pid, Signal, kill_process};

use super::support::dropbox::{Fault, Moment, Options, StallAt, What};
use super::support::host::{Ended, Host};
use super::{
    PROGRAM, change_config, doctor, failed, healthy, is_root, mode, plain, script, skip, unchanged,
};

const MARKED: &str = "MARKED-password-a1B2c3D4e5F6";

/// What is done first in a world of its own, in which file systems can be mounted; none where that is not allowed.
fn elsewhere(host: &Host, commands: &str, arguments: &str) -> Option<Ended> {
    let may = Command::new("unshare")
        .args(["-m", "mount", "-t", "tmpfs", "none", "/mnt"])
        .output();
    if !may.is_ok_and(|ended| ended.status.success()) {
        skip("no file system can be mounted here");
        return None;
    }
    let call = host.command(arguments);
    let mut command = Command::new("unshare");
    let words = call
        .get_args()
        .map(|word| word.to_string_lossy().into_owned());
    let words: Vec<_> = words.collect();
    let text = format!(
        "set -e; {commands}; exec {} {}",
        call.get_program().display(),
        words.join(" ")
    );
    command.args(["-m", "sh", "-c", &text]).env_clear();
    for (name, value) in call.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    Some(command.output().expect("it runs").into())
}

#[test]
fn a_folder_on_a_disk_that_is_mounted_read_only() {
    if !is_root() {
        return;
    }
    for (check, name, told) in [
        (
            "backup_folders",
            "var/opt/gitlab/backups",
            "/host/var/opt/gitlab/backups: Read-only file system (os error 30)",
        ),
        (
            "state",
            "state",
            "/host/state: Read-only file system (os error 30)",
        ),
    ] {
        let (dropbox, host) = healthy(Options::default());
        let folder = host.path(name).display().to_string();
        let mounts = format!("mount --bind {folder} {folder}; mount -o remount,bind,ro {folder}");
        let mut skipped = false;
        let ended = unchanged(&dropbox, &host, || {
            elsewhere(&host, &mounts, "doctor --json").unwrap_or_else(|| {
                skipped = true;
                host.run("doctor --json")
            })
        });
        if skipped {
            return;
        }
        let hint = "look at `findmnt` and `dmesg`: a disk that fails is mounted read-only; if it is sound, `mount -o \
                    remount,rw` it";
        let expected = (check.to_owned(), format!("{told}\n=> {hint}\n"));
        assert_eq!(failed(&host, &ended), [expected], "{ended}");
    }
}

/// A timer of systemd: it sends no mail, so somebody has to be told otherwise.
#[test]
fn a_timer_whose_failure_nobody_hears_of() {
    if !is_root() {
        return;
    }
    let (dropbox, host) = healthy(Options::default());
    let timer = |state: &str| {
        let shown = format!(
            "cat <<EOF\nId=gitlab-pi-backup.timer\nLoadState=loaded\nActiveState={state}\nUnitFileState=enabled\n\
             NeedDaemonReload=no\nTimersCalendar={{ OnCalendar=Wed,Sat *-*-* 04:00:00 ; next_elapse=(null) }}\n\n\
             Id=gitlab-pi-backup.service\nLoadState=loaded\nActiveState=inactive\nUnitFileState=static\n\
             NeedDaemonReload=no\nExecStart={{ path={PROGRAM} ; argv[]={PROGRAM} run ; ignore_errors=no }}\nEOF\n"
        );
        script(&host, "systemctl", &shown);
    };
    fs::write(host.path("crontab"), "").expect("a crontab");
    timer("active");
    let booted = "mount -t tmpfs none /run; mkdir -p /run/systemd/system";
    let Some(ended) = elsewhere(&host, booted, "doctor --json") else {
        return;
    };
    let told = "nobody is told when a run fails: systemd sends no mail\n\
                => configure [notify], and try it: gitlab-pi-backup notify test\n";
    let notifications = ("notifications".to_owned(), told.to_owned());
    assert_eq!(
        failed(&host, &ended),
        std::slice::from_ref(&notifications),
        "{ended}"
    );
    timer("inactive");
    let ended = elsewhere(&host, booted, "doctor --json").expect("as before");
    let told = "gitlab-pi-backup.timer is not active: it starts nothing\n\
                => systemctl start gitlab-pi-backup.timer\n";
    assert_eq!(
        failed(&host, &ended),
        [("schedule".to_owned(), told.to_owned()), notifications],
        "{ended}"
    );
    drop(dropbox);
}

/// Cron's environment, and nothing of this one: what only this shell has is told by name, never by value.
#[test]
fn as_cron_it_has_nothing_of_this_shell() {
    if !is_root() {
        return;
    }
    let (dropbox, mut host) = healthy(Options::default());
    let root = host.root().display().to_string();
    let commands = format!(
        "[gitlab]\nconfig_command = [\"{root}/bin/gitlab-ctl\", \"backup-etc\"]\n\
         data_command = [\"{root}/bin/gitlab-backup\", \"create\"]\n"
    );
    change_config(&host, |text| text.replace("[gitlab]\n", &commands));
    let config = host.path("config.toml").display().to_string();
    let ended = doctor(
        &dropbox,
        &host,
        &format!("-c {config} --as-cron --json --offline"),
    );
    let document = ended.json();
    let checks = document["checks"].as_array().expect("checks");
    let told = |name: &str| {
        let check = checks
            .iter()
            .find(|check| check["check"] == name)
            .expect("the check");
        (
            check["status"].as_str().expect("a word"),
            check["detail"].as_str().expect("a text"),
        )
    };
    assert_eq!(
        told("environment"),
        (
            "ok",
            "as cron gives it; nothing that only this shell has is needed"
        )
    );
    assert_eq!(told("gitlab_commands").0, "ok");
    // PATH is cron's: programs of this shell's are not found.
    assert_eq!(
        told("gitlab_version"),
        ("skipped", "there is no gitlab-ctl: GitLab runs elsewhere")
    );

    let prefix = "GITLAB_PI_BACKUP_DESTINATIONS__DROPBOX__";
    host.set(&format!("{prefix}REFRESH_TOKEN"), MARKED);
    host.set("https_proxy", format!("http://user:{MARKED}@127.0.0.1:9"));
    let ended = host.run("doctor --as-cron --json --offline");
    assert!(!ended.to_string().contains(MARKED), "{ended}");
    assert_eq!(ended.status, Some(1));
    let told = "only this shell has GITLAB_PI_BACKUP_CONFIG, GITLAB_PI_BACKUP_DESTINATIONS__DROPBOX__REFRESH_TOKEN, \
        https_proxy: runs that cron or systemd start do without\n\
        => put settings into the configuration file; a proxy or certificates into the crontab above the entry, or into the \
        unit: `systemctl edit gitlab-pi-backup.service`, [Service], Environment=\n";
    assert!(
        failed(&host, &ended).contains(&("environment".to_owned(), told.to_owned())),
        "{ended}"
    );

    let ended = host.run("doctor --as-cron --offline");
    assert!(!ended.to_string().contains(MARKED), "{ended}");
    assert_eq!((ended.status, ended.err.as_str()), (Some(1), ""), "{ended}");
    assert!(
        plain(&host, &ended.out).starts_with("ok       configuration     /host/config.toml\n"),
        "{ended}"
    );
    let ended = host.run("doctor --as-cron --offline -q");
    assert!(
        ended.out.is_empty()
            && ended
                .err
                .contains("error: environment: only this shell has"),
        "{ended}"
    );
}

/// Stopped, it leaves its document; so does the one that plays cron, which hands the signal on.
#[test]
fn a_signal_ends_it() {
    if !is_root() {
        return;
    }
    for arguments in ["doctor --json", "doctor --as-cron --json"] {
        let (dropbox, host) = healthy(Options::default());
        let (sender, receiver) = mpsc::channel();
        let sender = Mutex::new(sender);
        let asked = move || {
            let _ = sender.lock().expect("not poisoned").send(());
        };
        dropbox.fault(Fault::on(
            "oauth2/token",
            What::Call(Moment::Head, Arc::new(asked)),
        ));
        dropbox.fault(Fault::on("files/get_metadata", What::Stall(StallAt::Reply, None)).forever());
        let child = host.spawn(arguments);
        receiver.recv().expect("it asks");
        let pid = Pid::from_child(&child);
        kill_process(pid, Signal::TERM).expect("signalled");
        let ended = Ended::from(child.wait_with_output().expect("ended"));
        assert_eq!(ended.status, Some(143), "{ended}");
        let document = ended.json();
        assert_eq!(document["status"], "failed");
        assert_eq!(document["error"], "stopped by SIGTERM");
    }
}

/// However the configuration is named, who may change its folder decides what is run.
#[test]
fn a_configuration_that_is_named_from_its_folder() {
    if !is_root() {
        return;
    }
    let (_dropbox, host) = healthy(Options::default());
    mode(host.root(), 0o777);
    let mut command = host.command("-c config.toml doctor --offline --json");
    let output = command.current_dir(host.root()).output();
    let ended: Ended = output.expect("the program runs").into();
    let told = "/host can be changed by others (mode 0777), and with it what is run as root\n=> chmod go-w /host\n";
    assert_eq!(
        failed(&host, &ended),
        [("permissions".to_owned(), told.to_owned())],
        "{ended}"
    );
}
