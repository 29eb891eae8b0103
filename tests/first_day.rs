//! The first day, as somebody lives it who has never seen this program: from the package to a verified backup and a
//! schedule by the commands that each one before prints, and no other.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use support::dialogue::Screen;
use support::dropbox::{Dropbox, Options};
use support::log_in::{PREFIX, PROGRAM, address};
use support::machine::{Init, Machine, is_possible};

/// What the package does when it is installed: itself the first command.
const INSTALLED: &str = include_str!("../.ci/debian/postinst");
/// From an unpacked package and a Dropbox app to backups that make themselves.
const MOST_COMMANDS: usize = 5;

/// The arguments of the command that a text names as the next one; none if it names none.
fn next(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.contains("ext: sudo "))?;
    let (_, command) = line.split_once("sudo gitlab-pi-backup")?;
    let command = command.trim_end_matches('\'').trim();
    // The namespace's program is found by its path, and this configuration by the environment, too.
    Some(command.to_owned())
}

/// A machine with GitLab, systemd and the package, and nothing that the program has written.
fn machine(dropbox: &Dropbox) -> Machine {
    let mut machine = Machine::new(PROGRAM, Init::Systemd);
    fs::remove_file(machine.path("config.toml")).expect("no configuration");
    let root = machine.host.root().display().to_string();
    for (key, folder) in [
        ("STATE_DIR", "state"),
        ("GITLAB__CONFIG_DIR", "etc/gitlab/config_backup"),
        ("GITLAB__DATA_DIR", "var/opt/gitlab/backups"),
        ("GITLAB__ETC_DIR", "etc/gitlab"),
        ("GITLAB__INSTALL_DIR", "opt/gitlab"),
    ] {
        let folder = format!("{root}/{folder}");
        machine.host.set(&format!("GITLAB_PI_BACKUP_{key}"), folder);
    }
    for key in ["API_URL", "CONTENT_URL"] {
        machine.host.set(&format!("{PREFIX}{key}"), dropbox.url());
    }
    let settings = [
        ("gitlab.rb", "external_url 'http://x'\n"),
        ("gitlab-secrets.json", "{}"),
    ];
    for (name, text) in settings {
        machine.write(&format!("etc/gitlab/{name}"), text);
    }
    fs::create_dir_all(machine.path("etc/gitlab/config_backup")).expect("a folder");
    let state = fs::Permissions::from_mode(0o700);
    fs::set_permissions(machine.path("state"), state).expect("its mode");
    machine
}

#[test]
fn five_commands_each_printed_by_the_one_before() {
    if !is_possible("five_commands_each_printed_by_the_one_before") {
        return;
    }
    let dropbox = Dropbox::start(Options::default());
    let machine = machine(&dropbox);

    let mut typed = vec!["apt install".to_owned()];
    let login = next(INSTALLED).expect("what the package prints");
    assert_eq!(login, "login");
    let mut screen = Screen::start(&machine.host.command(&login));
    screen.wait_for("App key: ");
    screen.enter(&format!("{}\n", Options::default().app_key));
    screen.wait_for("paste it): ");
    let code = dropbox.authorize(address(&screen.text())).expect("a code");
    screen.enter(&format!("{code}\n"));
    screen.wait_for("[Y/n] ");
    screen.enter("\n");
    let (status, shown) = screen.end();
    assert_eq!(status, Some(0), "{shown}");
    typed.push(login);

    let mut text = shown;
    while let Some(command) = next(&text) {
        let words: Vec<_> = command.split_ascii_whitespace().collect();
        let ended = machine.run(&words);
        assert_eq!(ended.status, Some(0), "{command}: {ended}");
        text = ended.out;
        typed.push(command);
        assert!(typed.len() <= MOST_COMMANDS, "{typed:?}");
    }
    let last = |command: &str| typed.iter().any(|typed| typed.ends_with(command));
    assert!(
        last("doctor") && last(" run") && last("schedule install"),
        "{typed:?}"
    );

    let stored = dropbox.files().into_iter();
    let stored: Vec<_> = stored.map(|file| file.path_display).collect();
    for folder in ["/Config/", "/Data/", "/Manifests/"] {
        assert!(
            stored.iter().any(|path| path.starts_with(folder)),
            "{stored:?}"
        );
    }
    assert!(
        machine
            .read("etc/systemd/system/gitlab-pi-backup.timer")
            .is_some()
    );
    let doctor = machine.run(&["doctor"]);
    assert!(next(&doctor.out).is_none(), "{doctor}");
    let status = machine.run(&["status"]);
    assert_eq!(status.status, Some(0), "{status}");
}
