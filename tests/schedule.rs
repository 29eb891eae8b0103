//! `schedule`: the program on machines with systemd, cron, both or neither.

mod support;

use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use support::machine::{Init, Machine, is_possible};

const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");
const ETC: &str = "etc/systemd/system";
const TIMER: &str = "etc/systemd/system/gitlab-pi-backup.timer";
const SERVICE: &str = "etc/systemd/system/gitlab-pi-backup.service";
const EXPORT_TIMER: &str = "etc/systemd/system/gitlab-pi-backup-projects.timer";
const EXPORT_SERVICE: &str = "etc/systemd/system/gitlab-pi-backup-projects.service";
const PROJECTS: &str = "[projects]\ndestination = \"dropbox\"\nall = true\n";
const DROP_IN: &str = "etc/systemd/system/gitlab-pi-backup.timer.d/schedule.conf";

fn install() -> [&'static str; 2] {
    ["schedule", "install"]
}

fn remove() -> [&'static str; 2] {
    ["schedule", "remove"]
}

#[test]
fn a_timer_is_installed_once_and_removed_without_a_trace() {
    if !is_possible("a_timer_is_installed_once_and_removed_without_a_trace") {
        return;
    }
    let machine = Machine::new(PROGRAM, Init::Systemd);
    let before = machine.tree();
    let first = machine.run(&install());
    assert_eq!(first.status, Some(0), "{first}");
    assert!(
        first
            .out
            .contains("runs start at Wed,Sat *-*-* 04:00:00; the next one on "),
        "{first}"
    );
    assert!(
        first
            .out
            .ends_with("how the backups are: sudo gitlab-pi-backup status\n"),
        "{first}"
    );
    assert!(first.out.contains("is in a build folder"), "{first}");
    assert_eq!(
        machine.deeds(),
        [
            "systemctl daemon-reload",
            "systemctl enable --now gitlab-pi-backup.timer"
        ]
    );
    let service = machine.read(SERVICE).expect("a service");
    let config = machine.path("config.toml").display().to_string();
    assert!(
        service.contains(&format!("\nExecStart={PROGRAM} -c {config} run\n")),
        "{service}"
    );
    let timer = machine.read(TIMER).expect("a timer");
    assert!(
        timer.contains("\nOnCalendar=Wed,Sat *-*-* 04:00:00\n"),
        "{timer}"
    );

    let tree = machine.tree();
    let second = machine.run(&install());
    assert_eq!(second.status, Some(0), "{second}");
    assert!(
        second.out.contains("nothing was to be changed\n"),
        "{second}"
    );
    assert_eq!(machine.tree(), tree, "not even the times");
    assert_eq!(machine.deeds(), [""; 0]);

    let other = machine.run(&["schedule", "install", "--at", "0 4 1 * 1", "--json"]);
    let report = other.json();
    assert_eq!(report["status"], "ok");
    assert_eq!(report["manager"], "systemd");
    assert_eq!(report["changed"], true);
    assert_eq!(report["calendar"][1], "Mon *-*-* 04:00:00");
    let changes: Vec<_> = report["files"]
        .as_array()
        .expect("files")
        .iter()
        .map(|file| &file["change"])
        .collect();
    assert_eq!(changes, ["unchanged", "unchanged", "written"], "{report}");
    assert_eq!(
        machine.deeds(),
        [
            "systemctl daemon-reload",
            "systemctl restart gitlab-pi-backup.timer"
        ]
    );

    machine.write("timers/stamp-gitlab-pi-backup.timer", "");
    let removed = machine.run(&remove());
    assert_eq!(removed.status, Some(0), "{removed}");
    assert_eq!(machine.tree(), before);
    assert_eq!(
        machine.deeds(),
        [
            "systemctl disable --now gitlab-pi-backup.timer",
            "systemctl daemon-reload"
        ]
    );
    let again = machine.run(&remove());
    assert_eq!(
        (again.status, again.out.as_str()),
        (Some(0), "there is no schedule to remove\n")
    );
    assert_eq!(machine.deeds(), [""; 0]);
}

#[test]
fn what_a_package_brought_only_gets_a_drop_in() {
    if !is_possible("what_a_package_brought_only_gets_a_drop_in") {
        return;
    }
    let machine = Machine::new(PROGRAM, Init::Systemd);
    let packaged = machine.run(&["schedule", "show", "--systemd", "--packaged", "--json"]);
    let files = packaged.json()["files"].as_array().expect("files").clone();
    assert_eq!(files.len(), 3, "{packaged}");
    // Whole units from before the package came.
    machine.run(&install());
    assert!(machine.read(SERVICE).is_some());
    for file in &files {
        let path = file["path"]
            .as_str()
            .expect("a path")
            .trim_start_matches('/');
        machine.write(path, file["text"].as_str().expect("a text"));
    }
    let installed = machine.run(&["schedule", "install", "--at", "daily"]);
    assert_eq!(installed.status, Some(0), "{installed}");
    assert!(
        machine.read(SERVICE).is_none() && machine.read(TIMER).is_none(),
        "{installed}"
    );
    let drop_in = machine.read(DROP_IN).expect("a drop-in");
    assert!(
        drop_in.ends_with("[Timer]\nOnCalendar=\nOnCalendar=*-*-* 00:00:00\n"),
        "{drop_in}"
    );
    // Another program and configuration than the package's.
    let other = machine
        .read(&format!("{ETC}/gitlab-pi-backup.service.d/schedule.conf"))
        .expect("one");
    assert!(
        other.contains(&format!("\nExecStart=\nExecStart={PROGRAM} -c ")),
        "{other}"
    );
    machine.deeds();
    let status = machine.run(&["status", "--json"]).json();
    assert!(status["next_run"].is_string(), "{status}");
    let removed = machine.run(&remove());
    assert_eq!(removed.status, Some(0), "{removed}");
    assert!(machine.tree().is_empty(), "{:?}", machine.tree().keys());
    // The package's units are there and nobody switched them on: that is no schedule.
    let status = machine.run(&["status", "--json"]).json();
    assert!(status["next_run"].is_null(), "{status}");
}

#[test]
fn what_somebody_else_wrote_is_left_alone() {
    if !is_possible("what_somebody_else_wrote_is_left_alone") {
        return;
    }
    let machine = Machine::new(PROGRAM, Init::Systemd);
    for name in [SERVICE, TIMER, DROP_IN] {
        machine.write(name, "[Timer]\nOnCalendar=Mon 05:00\n");
        let before = machine.tree();
        let refused = machine.run(&install());
        assert_eq!(refused.status, Some(1), "{refused}");
        assert!(
            refused
                .err
                .contains("was not written by `gitlab-pi-backup schedule install`"),
            "{refused}"
        );
        machine.run(&remove());
        assert_eq!(machine.tree(), before);
        fs::remove_file(machine.path(name)).expect("removed");
    }
    let _ = fs::remove_dir(machine.path(&format!("{TIMER}.d")));
    std::os::unix::fs::symlink("/dev/null", machine.path(TIMER)).expect("a link");
    let masked = machine.run(&install());
    assert!(
        masked
            .err
            .contains("is masked\n  systemctl unmask gitlab-pi-backup.timer"),
        "{masked}"
    );
    assert_eq!(machine.deeds(), [""; 0]);
}

#[test]
fn what_cannot_be_switched_on_is_taken_back() {
    if !is_possible("what_cannot_be_switched_on_is_taken_back") {
        return;
    }
    let machine = Machine::new(PROGRAM, Init::Both);
    machine.write("crontab", "1 1 * * * other\n");
    let before = machine.tree();
    for failing in ["daemon-reload", "enable"] {
        machine.write("fail", failing);
        let failed = machine.run(&install());
        assert_eq!(failed.status, Some(1), "{failed}");
        assert!(
            failed
                .err
                .contains("Failed to do it: Access denied\n  what was written is taken back"),
            "{failed}"
        );
        assert_eq!(machine.tree(), before, "{failing}");
    }
    fs::remove_file(machine.path("fail")).expect("removed");
    machine.write("read-only", "");
    let failed = machine.run(&["schedule", "install", "--json"]);
    assert_eq!(failed.status, Some(1), "{failed}");
    let error = failed.json()["error"]
        .as_str()
        .expect("an error")
        .to_owned();
    assert!(error.contains("Read-only file system"), "{error}");
    assert_eq!(machine.tree(), before);
    fs::remove_file(machine.path("read-only")).expect("removed");
    machine.write("refuse", "");
    let failed = machine.run(&["schedule", "install", "--cron"]);
    assert_eq!(failed.status, Some(1), "{failed}");
    assert!(
        failed
            .err
            .contains("changing root's crontab: errors in crontab file"),
        "{failed}"
    );
    assert_eq!(
        machine.read("crontab").as_deref(),
        Some("1 1 * * * other\n")
    );
}

#[test]
fn a_crontab_keeps_its_other_lines_byte_for_byte() {
    if !is_possible("a_crontab_keeps_its_other_lines_byte_for_byte") {
        return;
    }
    let machine = Machine::new(PROGRAM, Init::Cron);
    let none = machine.run(&install());
    assert_eq!(none.status, Some(0), "{none}");
    machine.run(&remove());
    assert_eq!(machine.read("crontab"), None, "there was none before");
    let others: &[u8] = b"MAILTO=\"me\"\r\n# \xff\n\n5 5 * * * /usr/bin/other %x";
    machine.write("crontab", others);
    let first = machine.run(&install());
    assert_eq!(first.status, Some(0), "{first}");
    let text = fs::read(machine.path("crontab")).expect("a crontab");
    assert!(text.starts_with(others));
    let block = String::from_utf8_lossy(&text[others.len()..]).into_owned();
    let config = machine.path("config.toml");
    let line = format!("\n0 4 * * 3,6 {PROGRAM} -c {} run\n", config.display());
    assert!(block.contains(&line), "{block}");
    machine.deeds();
    let second = machine.run(&install());
    assert!(second.out.contains("nothing was to be changed"), "{second}");
    assert_eq!(machine.deeds(), [""; 0]);
    let other = machine.run(&["schedule", "install", "--at", "@daily"]);
    assert_eq!(other.status, Some(0), "{other}");
    let text = fs::read(machine.path("crontab")).expect("a crontab");
    assert_eq!(String::from_utf8_lossy(&text).matches(PROGRAM).count(), 1);
    let status = machine.run(&["status", "--json"]).json();
    assert!(
        status["next_run"]
            .as_str()
            .is_some_and(|time| time.contains("T00:00:00Z")),
        "{status}"
    );
    let removed = machine.run(&["schedule", "remove", "--cron"]);
    assert_eq!(removed.status, Some(0), "{removed}");
    assert_eq!(
        fs::read(machine.path("crontab")).expect("a crontab"),
        others
    );
    // A line by hand is nobody's business but told.
    machine.write("crontab", format!("0 4 * * * {PROGRAM} run\n"));
    let told = machine.run(&install());
    assert!(
        told.out
            .contains("a line that somebody wrote into root's crontab starts runs, too"),
        "{told}"
    );
}

#[test]
fn one_schedule_takes_the_place_of_the_other() {
    if !is_possible("one_schedule_takes_the_place_of_the_other") {
        return;
    }
    let machine = Machine::new(PROGRAM, Init::Both);
    let before = machine.tree();
    machine.run(&["schedule", "install", "--cron"]);
    assert!(machine.read("crontab").is_some() && machine.tree() == before);
    let timer = machine.run(&install());
    assert!(timer.out.contains("its block is taken out"), "{timer}");
    assert!(machine.read("crontab").is_none() && machine.read(TIMER).is_some());
    let cron = machine.run(&["schedule", "install", "--cron"]);
    assert!(
        cron.out
            .contains("the systemd timer would start runs, too: it is taken away"),
        "{cron}"
    );
    assert!(
        machine.read("crontab").is_some() && machine.tree() == before,
        "{cron}"
    );
    let removed = machine.run(&remove());
    assert_eq!(removed.status, Some(0), "{removed}");
    assert!(machine.read("crontab").is_none());
}

#[test]
fn a_machine_without_either_and_bad_times_are_told() {
    if !is_possible("a_machine_without_either_and_bad_times_are_told") {
        return;
    }
    let machine = Machine::new(PROGRAM, Init::Neither);
    let told = |arguments: &[&str], status: i32, what: &str| {
        let ended = machine.run(arguments);
        assert_eq!(ended.status, Some(status), "{ended}");
        assert!(ended.err.contains(what), "{what} is not in {ended}");
    };
    told(
        &install(),
        1,
        "runs neither systemd nor a cron that takes a crontab\n  install one",
    );
    told(
        &["schedule", "install", "--systemd"],
        1,
        "systemd does not run this machine\n  schedule install --cron",
    );
    told(
        &["schedule", "install", "--cron"],
        1,
        "no `crontab` is on this machine",
    );
    told(&["schedule", "show"], 1, "neither systemd nor a cron");
    for (spec, what) in [
        ("noon", "--at `noon` is no calendar: `noon` is no weekday"),
        ("@reboot", "`@reboot` is no time"),
        ("25:00", "`25` is no hour, which is 0 to 23"),
        ("0 4 * * 8", "`8` is no day of week, which is 0 to 7"),
        (
            "04:00 Europe/Berlin",
            "leave it out for the time of this machine, or write UTC",
        ),
    ] {
        told(&["schedule", "install", "--at", spec], 2, what);
    }
    told(
        &["schedule", "install", "--cron", "--at", "04:00 UTC"],
        2,
        "cron knows no time zones",
    );
    told(
        &["schedule", "install", "--cron", "--systemd"],
        2,
        "cannot be used with",
    );
    let machine = Machine::new(PROGRAM, Init::Systemd);
    let never = machine.run(&["schedule", "install", "--at", "*-02-30"]);
    assert!(
        never.status == Some(1) && never.err.contains("no such time comes any more"),
        "{never}"
    );
    // Without a configuration every run would fail.
    fs::remove_file(machine.path("config.toml")).expect("removed");
    let without = machine.run(&install());
    assert!(
        without.status == Some(2) && without.err.contains("reading the configuration"),
        "{without}"
    );
    let mut command = machine.host.command("schedule install");
    let ended: support::host::Ended = command
        .uid(65534)
        .gid(65534)
        .output()
        .expect("started")
        .into();
    assert!(
        ended
            .err
            .contains("only root can install a schedule\n  sudo gitlab-pi-backup schedule install"),
        "{ended}"
    );
}

#[test]
fn the_clock_is_awaited_but_not_for_ever() {
    if !is_possible("the_clock_is_awaited_but_not_for_ever") {
        return;
    }
    let machine = Machine::new(PROGRAM, Init::Systemd);
    let begin = std::time::Instant::now();
    let nobody = machine.run(&["schedule", "await-clock"]);
    assert_eq!(nobody.status, Some(0), "{nobody}");
    machine.bring("timedatectl");
    let second = machine.run(&["schedule", "await-clock"]);
    assert_eq!(second.status, Some(0), "{second}");
    assert_eq!(machine.host.calls().matches("timedatectl").count(), 2);
    machine.write("run/systemd/timesync/synchronized", "");
    machine.run(&["schedule", "await-clock"]);
    assert_eq!(machine.host.calls().matches("timedatectl").count(), 2);
    assert!(begin.elapsed().as_secs() < 20);
}

#[test]
fn what_is_shown_is_what_is_installed_and_systemd_takes_it() {
    if !is_possible("what_is_shown_is_what_is_installed_and_systemd_takes_it") {
        return;
    }
    let machine = Machine::new(PROGRAM, Init::Systemd);
    machine.write("credentials/destinations.dropbox.refresh_token", "secret");
    machine.write("credentials.encrypted/gitlab.token", "secret");
    let config = machine.read("config.toml").expect("a configuration");
    let more = "[notify]\nmetrics_file = \"/var/lib/metrics/gitlab.prom\"\n[report]\nfile = \"/srv/www/b.html\"\n";
    machine.host.write_config(&(config + more + PROJECTS));
    let shown = machine.run(&["schedule", "show", "--json", "--at", "0 4 1,15 * 5"]);
    let files = shown.json()["files"].as_array().expect("files").clone();
    let text = machine.run(&["schedule", "show", "--at", "0 4 1,15 * 5"]);
    let installed = machine.run(&["schedule", "install", "--at", "0 4 1,15 * 5"]);
    assert_eq!(installed.status, Some(0), "{installed}");
    for file in &files {
        let path = file["path"].as_str().expect("a path");
        let content = file["text"].as_str().expect("a text");
        assert_eq!(
            machine.read(path.trim_start_matches('/')).as_deref(),
            Some(content)
        );
        assert!(text.out.contains(&format!("# {path}\n{content}")), "{text}");
    }
    let service = machine.read(SERVICE).expect("a service");
    assert!(
        service.contains("\nLoadCredential=destinations.dropbox.refresh_token:"),
        "{service}"
    );
    assert!(
        service.contains("\nLoadCredentialEncrypted=gitlab.token:"),
        "{service}"
    );
    assert!(!service.contains("secret\n"), "{service}");
    for path in ["/var/lib/metrics", "/srv/www", "/var/opt/gitlab"] {
        let line = format!("\nReadWritePaths=-{path}\n");
        assert!(service.contains(&line), "{line} is not in {service}");
    }
    // The service of exports starts nothing of GitLab's, and may write to none of its folders.
    let exports = machine.read(EXPORT_SERVICE).expect("a service");
    for path in ["/var/lib/metrics", "/srv/www"] {
        let line = format!("\nReadWritePaths=-{path}\n");
        assert!(exports.contains(&line), "{line} is not in {exports}");
    }
    assert!(
        !exports.contains("ReadWritePaths=-/var/opt/gitlab"),
        "{exports}"
    );
    assert!(
        exports.contains("\nLoadCredentialEncrypted=gitlab.token:"),
        "{exports}"
    );
    let folder = machine.path(ETC);
    let mut analyze = Command::new("systemd-analyze");
    analyze.env("SYSTEMD_UNIT_PATH", format!("{}:", folder.display()));
    analyze.args(["verify", "--man=no"]);
    for unit in [
        "gitlab-pi-backup.service",
        "gitlab-pi-backup.timer",
        "gitlab-pi-backup-crashed.service",
        "gitlab-pi-backup-projects.service",
        "gitlab-pi-backup-projects.timer",
        "gitlab-pi-backup-projects-crashed.service",
    ] {
        analyze.arg(folder.join(unit));
    }
    let Ok(output) = analyze.output() else {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED in part: there is no systemd-analyze"
        );
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let of_ours: Vec<_> = said
        .lines()
        .filter(|line| line.contains("gitlab-pi-backup"))
        .collect();
    assert!(output.status.success() && of_ours.is_empty(), "{said}");
}

/// What may be written is decided where a link leads, and backups often lie on a disk of their own.
#[test]
fn a_folder_that_is_a_link_is_writable_where_it_leads() {
    if !is_possible("a_folder_that_is_a_link_is_writable_where_it_leads") {
        return;
    }
    let machine = Machine::new(PROGRAM, Init::Systemd);
    let config = machine.read("config.toml").expect("a configuration");
    let data = config.replace(
        &machine.path("var/opt/gitlab/backups").display().to_string(),
        &machine.path("gitlab/backups").display().to_string(),
    );
    assert_ne!(data, config);
    for (link, to) in [
        ("gitlab/backups", "disk/data"),
        ("etc/gitlab/config_backup", "disk/config"),
    ] {
        fs::create_dir_all(machine.path(to)).expect("a folder");
        let link = machine.path(link);
        fs::create_dir_all(link.parent().expect("a folder")).expect("a folder");
        // It is one of those that a host comes with.
        let _ = fs::remove_dir(&link);
        std::os::unix::fs::symlink(machine.path(to), &link).expect("a link");
    }
    machine.host.write_config(&data);
    let installed = machine.run(&install());
    assert_eq!(installed.status, Some(0), "{installed}");
    let service = machine.read(SERVICE).expect("a service");
    for folder in ["disk/data", "disk/config"] {
        let folder = machine.path(folder).canonicalize().expect("a folder");
        let line = format!("\nReadWritePaths=-{}\n", folder.display());
        assert!(service.contains(&line), "{line} is not in {service}");
    }
}

/// What the configuration names later, the service does not know; and other times than before are told.
#[test]
fn a_configuration_that_was_changed_is_missed_by_doctor() {
    if !is_possible("a_configuration_that_was_changed_is_missed_by_doctor") {
        return;
    }
    let machine = Machine::new(PROGRAM, Init::Systemd);
    let folder = machine.path("metrics");
    fs::create_dir(&folder).expect("a folder");
    let schedule = |machine: &Machine| {
        let checks = machine.run(&["doctor", "--offline", "--json"]).json()["checks"].clone();
        let mut checks = checks.as_array().expect("checks").iter();
        let check = checks.find(|check| check["check"] == "schedule");
        let check = check.expect("a check").clone();
        [
            check["status"].clone(),
            check["detail"].clone(),
            check["hint"].clone(),
        ]
    };
    let at = ["schedule", "install", "--at", "Mon 03:00"];
    let installed = machine.run(&at);
    assert_eq!(installed.status, Some(0), "{installed}");
    assert_eq!(schedule(&machine)[0], "ok", "{:?}", schedule(&machine));
    let config = machine.read("config.toml").expect("a configuration");
    let file = folder.join("gitlab.prom");
    let more = format!("[notify]\nmetrics_file = \"{}\"\n", file.display());
    machine.host.write_config(&(config + &more));
    let told = format!(
        "the service was installed before the configuration named {}, and may not write there",
        folder.display()
    );
    let way_out = "gitlab-pi-backup schedule install --at 'Mon *-*-* 03:00:00'";
    assert_eq!(schedule(&machine), ["failed", &told, way_out]);
    assert!(!machine.run(&at).out.contains("until now runs started"));
    assert_eq!(schedule(&machine)[0], "ok", "{:?}", schedule(&machine));
    let usual = machine.run(&install());
    let note = "note: until now runs started at Mon *-*-* 03:00:00; `schedule install --at 'Mon *-*-* 03:00:00'`";
    assert!(usual.out.contains(note), "{usual}");
}

/// A machine that was set up for runs alone gets to export projects, and stops doing so.
#[test]
#[expect(clippy::too_many_lines, reason = "one machine's story, told in order")]
fn exports_get_a_timer_beside_that_of_runs_and_lose_it_again() {
    if !is_possible("exports_get_a_timer_beside_that_of_runs_and_lose_it_again") {
        return;
    }
    let machine = Machine::new(PROGRAM, Init::Systemd);
    let nothing = machine.tree();
    let config = machine.read("config.toml").expect("a configuration");
    let check = |machine: &Machine| {
        let checks = machine.run(&["doctor", "--offline", "--json"]).json()["checks"].clone();
        let mut checks = checks.as_array().expect("checks").iter();
        let check = checks.find(|check| check["check"] == "schedule");
        let check = check.expect("a check");
        (check["status"].clone(), check["detail"].to_string())
    };
    machine.run(&install());
    let runs_alone = machine.tree();
    assert!(!machine.read(SERVICE).expect("a service").contains("--wait"));
    machine.deeds();

    machine.host.write_config(&(config.clone() + PROJECTS));
    let (status, detail) = check(&machine);
    assert!(
        status == "failed" && detail.contains("nothing starts project exports"),
        "{detail}"
    );
    let status = machine.run(&["status"]);
    assert!(
        status.out.contains(
            "note: nothing starts project exports by itself: gitlab-pi-backup schedule install"
        ),
        "{status}"
    );
    let both = machine.run(&install());
    assert_eq!(both.status, Some(0), "{both}");
    for line in [
        "runs start at Wed,Sat *-*-* 04:00:00; the next one on ",
        "project exports start at Wed,Sat *-*-* 05:00:00; the next one on ",
    ] {
        assert!(both.out.contains(line), "{line} is not in {both}");
    }
    assert_eq!(
        machine.deeds(),
        [
            "systemctl daemon-reload",
            "systemctl enable --now gitlab-pi-backup-projects.timer"
        ]
    );
    // None is given up because the other one takes long.
    for (service, command) in [(SERVICE, "run"), (EXPORT_SERVICE, "export projects")] {
        let text = machine.read(service).expect("a service");
        assert!(text.contains(&format!(" {command} --wait 12h\n")), "{text}");
    }
    let timer = machine.read(EXPORT_TIMER).expect("a timer");
    assert!(
        timer.contains("\nOnCalendar=Wed,Sat *-*-* 05:00:00\n"),
        "{timer}"
    );
    let (status, detail) = check(&machine);
    assert!(
        status == "ok" && detail.contains("; project exports next "),
        "{detail}"
    );
    let status = machine.run(&["status", "--json"]).json();
    assert!(
        status["projects"]["next_run"]
            .as_str()
            .is_some_and(|next| next.contains("T05:00:00Z")),
        "{status}"
    );
    let again = machine.run(&install());
    assert!(again.out.contains("nothing was to be changed"), "{again}");
    let report = machine
        .run(&["schedule", "show", "--json", "--projects-at", "daily"])
        .json();
    assert_eq!(report["calendar"], report["jobs"][0]["calendar"]);
    assert_eq!(
        (&report["jobs"][0]["job"], &report["jobs"][1]["job"]),
        (&"run".into(), &"export projects".into())
    );
    assert_eq!(report["jobs"][1]["calendar"][0], "*-*-* 00:00:00");

    let other = machine.run(&["schedule", "install", "--projects-at", "Sun 12:00"]);
    assert_eq!(other.status, Some(0), "{other}");
    assert!(
        other
            .out
            .contains("until now project exports started at Wed,Sat *-*-* 05:00:00"),
        "{other}"
    );
    assert_eq!(
        machine.deeds(),
        [
            "systemctl daemon-reload",
            "systemctl restart gitlab-pi-backup-projects.timer"
        ]
    );

    machine.host.write_config(&config);
    let (status, detail) = check(&machine);
    assert!(
        status == "failed" && detail.contains("there is no [projects]"),
        "{detail}"
    );
    let refused = machine.run(&["schedule", "install", "--projects-at", "Sun 12:00"]);
    assert!(
        refused.status == Some(2)
            && refused
                .err
                .contains("--projects-at: no project is exported"),
        "{refused}"
    );
    machine.write("timers/stamp-gitlab-pi-backup-projects.timer", "");
    let less = machine.run(&install());
    assert_eq!(less.status, Some(0), "{less}");
    let names = |tree: std::collections::BTreeMap<_, _>| tree.into_keys().collect::<Vec<_>>();
    assert_eq!(names(machine.tree()), names(runs_alone));
    assert_eq!(
        machine.deeds(),
        [
            "systemctl disable --now gitlab-pi-backup-projects.timer",
            "systemctl daemon-reload"
        ]
    );

    machine.host.write_config(&(config + PROJECTS));
    machine.run(&install());
    machine.deeds();
    machine.run(&remove());
    assert_eq!(machine.tree(), nothing);
    assert_eq!(
        machine.deeds(),
        [
            "systemctl disable --now gitlab-pi-backup.timer",
            "systemctl disable --now gitlab-pi-backup-projects.timer",
            "systemctl daemon-reload"
        ]
    );
    // If the second cannot be switched on, the first is off again, too.
    let projects = "enable --now gitlab-pi-backup-projects.timer";
    machine.write("fail", projects);
    let failed = machine.run(&install());
    assert_eq!(failed.status, Some(1), "{failed}");
    fs::remove_file(machine.path("fail")).expect("removed");
    assert_eq!(machine.tree(), nothing);
}

#[test]
fn exports_get_a_line_in_the_crontab() {
    if !is_possible("exports_get_a_line_in_the_crontab") {
        return;
    }
    let machine = Machine::new(PROGRAM, Init::Cron);
    let others = "MAILTO=me\n5 5 * * * other\n";
    machine.write("crontab", others);
    machine.run(&install());
    let config = machine.read("config.toml").expect("a configuration");
    machine.host.write_config(&(config + PROJECTS));
    let both = machine.run(&install());
    assert_eq!(both.status, Some(0), "{both}");
    let text = machine.read("crontab").expect("a crontab");
    let config = machine.path("config.toml").display().to_string();
    let block = format!(
        "\n0 4 * * 3,6 {PROGRAM} -c {config} run --wait 12h\n\
         0 5 * * 3,6 {PROGRAM} -c {config} export projects --wait 12h\n"
    );
    assert!(text.contains(&block), "{text}");
    let again = machine.run(&install());
    assert!(again.out.contains("nothing was to be changed"), "{again}");
    let status = machine.run(&["status", "--json"]).json();
    for (next, hour) in [
        (&status["next_run"], "T04:00:00Z"),
        (&status["projects"]["next_run"], "T05:00:00Z"),
    ] {
        assert!(
            next.as_str().is_some_and(|next| next.contains(hour)),
            "{status}"
        );
    }
    let bad = machine.run(&["schedule", "install", "--projects-at", "04:00 UTC"]);
    assert!(
        bad.status == Some(2) && bad.err.contains("cron knows no time zones"),
        "{bad}"
    );
    machine.run(&remove());
    assert_eq!(machine.read("crontab").as_deref(), Some(others));
    // A line that somebody wrote by hand is told, and counts.
    let by_hand = format!("{others}30 6 * * 1 {PROGRAM} -c {config} export projects\n");
    machine.write("crontab", &by_hand);
    let told = machine.run(&install());
    assert!(
        told.out
            .contains("a line that somebody wrote into root's crontab starts project exports, too"),
        "{told}"
    );
}

/// The real `crontab`, with a spool of its own.
#[test]
fn the_real_crontab_takes_the_block() {
    let name = "the_real_crontab_takes_the_block";
    if !is_possible(name) {
        return;
    }
    if !std::path::Path::new("/usr/bin/crontab").is_file()
        || !std::path::Path::new("/var/spool/cron").is_dir()
    {
        let _ = writeln!(
            std::io::stderr(),
            "{name}: SKIPPED, there is no crontab (apt install cron)"
        );
        return;
    }
    let machine = Machine::new(PROGRAM, Init::Neither);
    machine.write("real/crontab", "");
    fs::create_dir_all(machine.path("spool/crontabs")).expect("a folder");
    let first = machine.run(&install());
    assert_eq!(first.status, Some(0), "{first}");
    let text = machine.read("spool/crontabs/root").expect("a crontab");
    assert!(
        text.contains(&format!("\n0 4 * * 3,6 {PROGRAM} -c ")),
        "{text}"
    );
    let second = machine.run(&install());
    assert!(second.out.contains("nothing was to be changed"), "{second}");
    let removed = machine.run(&remove());
    assert_eq!(removed.status, Some(0), "{removed}");
    assert!(machine.read("spool/crontabs/root").is_none());
    // It takes no line without an end; one that got there by another way keeps nobody from removing the block.
    machine.write("spool/crontabs/root", "1 1 * * * other");
    assert_eq!(machine.run(&install()).status, Some(0));
    let removed = machine.run(&remove());
    assert_eq!(removed.status, Some(0), "{removed}");
    let text = machine.read("spool/crontabs/root").expect("a crontab");
    assert!(
        text.contains("1 1 * * * other") && !text.contains("gitlab-pi-backup"),
        "{text}"
    );
}
