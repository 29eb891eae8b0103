//! The text of our systemd units. Pure: what is on this machine is told to it.
//!
//! The service is closed as far as GitLab's commands allow, which run as root, become other users (`chpst`, `su`),
//! and read and write what belongs to them. Each exception stands in the unit with its reason.

mod sandbox;

use std::path::Path;

use self::sandbox::{EXPORT_ENDS, MAIL, NARROW_SANDBOX, RUN_ENDS, SANDBOX, WHAT_GITLAB_WRITES};
use super::{Calendar, Order, Start};
use crate::job::Job;

/// Every file of ours begins with this.
pub(super) const MARK: &str = "# Written by `gitlab-pi-backup schedule install`";
const WHOSE: &str = ", taken away by `gitlab-pi-backup schedule remove`.\n\
    # Changes of your own belong into a drop-in: systemctl edit ";
/// What a package's files begin with.
const PACKAGED: &str = "# Part of the package; `gitlab-pi-backup schedule install` switches it on.\n\
    # Changes of your own belong into a drop-in: systemctl edit ";
/// The state folder that systemd makes for a service.
const STATE_DIR: &str = "/var/lib/gitlab-pi-backup";

/// What starts a job.
pub(super) fn timer_of(job: Job) -> String {
    format!("{}.timer", job.unit())
}

/// What the timer of a job starts.
pub(super) fn service_of(job: Job) -> String {
    format!("{}.service", job.unit())
}

/// What tells of a job that was killed.
fn crashed_of(job: Job) -> String {
    format!("{}-crashed.service", job.unit())
}

/// The names of all units of a job.
pub(super) fn names(job: Job) -> [String; 3] {
    [service_of(job), timer_of(job), crashed_of(job)]
}

/// The units with their names, as one who has no package gets them or as a package brings them.
pub(super) fn units(order: &Order, packaged: bool) -> Vec<(String, String)> {
    let starts = order.starts.iter();
    let texts = starts.flat_map(|start| {
        let names = names(start.job).into_iter();
        names.zip([
            service(order, start.job),
            timer(start),
            crashed(order, start.job),
        ])
    });
    let head = if packaged {
        PACKAGED.to_owned()
    } else {
        format!("{MARK}{WHOSE}")
    };
    texts
        .map(|(name, text)| {
            let text = format!("{head}{name}\n\n{text}");
            (name, text)
        })
        .collect()
}

/// What must be added to a package's units so that they do the same: drop-ins by the name of their unit. What the
/// package does not bring has an empty text, and gets none.
pub(super) fn drop_ins(order: &Order, package: impl Fn(&str) -> String) -> Vec<(String, String)> {
    let head = format!("{MARK}, taken away by `gitlab-pi-backup schedule remove`.\n\n");
    let mut all = Vec::new();
    for start in &order.starts {
        let job = start.job;
        let times = on_calendar(&start.calendar);
        // An empty one takes back what the package says.
        let text = format!("{head}[Timer]\nOnCalendar=\n{times}");
        all.push((timer_of(job), text));
        for (unit, wanted) in [
            (service_of(job), service(order, job)),
            (crashed_of(job), crashed(order, job)),
        ] {
            let text = difference(&wanted, &package(&unit));
            if !text.is_empty() {
                all.push((unit, format!("{head}[Service]\n{text}")));
            }
        }
    }
    all.retain(|(unit, _)| !package(unit).is_empty());
    all
}

/// The lines that make the service that is there do what is wanted.
fn difference(wanted: &str, there: &str) -> String {
    let mut text = String::new();
    for key in ["ExecStartPre", "ExecStart"] {
        let of_key = |text: &str| settings(text, key);
        if of_key(wanted) != of_key(there) {
            text.extend([key, "=\n"]);
            text.extend(
                of_key(wanted)
                    .iter()
                    .map(|value| format!("{key}={value}\n")),
            );
        }
    }
    for key in [
        "LoadCredential",
        "LoadCredentialEncrypted",
        "ReadWritePaths",
    ] {
        let known = settings(there, key);
        let new = settings(wanted, key).into_iter();
        let new = new.filter(|value| !known.contains(value));
        text.extend(new.map(|value| format!("{key}={value}\n")));
    }
    text
}

/// The values of a key, in order.
fn settings(unit: &str, key: &str) -> Vec<String> {
    let lines = unit.lines().filter_map(|line| line.split_once('='));
    let values = lines.filter(|(name, _)| name.trim() == key);
    values.map(|(_, value)| value.trim().to_owned()).collect()
}

fn on_calendar(calendar: &Calendar) -> String {
    let lines = calendar.to_systemd().into_iter();
    lines.fold(String::new(), |text, line| {
        text + "OnCalendar="
            + &line
            + "
"
    })
}

fn timer(start: &Start) -> String {
    let calendar = &start.calendar;
    let times = on_calendar(calendar);
    let (what, missed) = match start.job {
        Job::Run => ("Back up GitLab", "A run that was missed"),
        Job::Projects => ("Export GitLab's projects", "An export that was missed"),
    };
    format!(
        "[Unit]\n\
         Description={what}: {calendar}\n\
         \n\
         [Timer]\n\
         {times}\
         # {missed} while the machine was off starts when it is on again.\n\
         Persistent=true\n\
         AccuracySec=1min\n\
         # No RandomizedDelaySec=: one machine is no herd, and `status` can tell when the next run starts.\n\
         \n\
         [Install]\n\
         WantedBy=timers.target\n"
    )
}

/// The program and its arguments.
fn command(job: &Order, arguments: &str) -> String {
    let program = argument(&job.program);
    match &job.config {
        Some(config) => format!("{program} -c {} {arguments}", argument(config)),
        None => format!("{program} {arguments}"),
    }
}

fn service(order: &Order, job: Job) -> String {
    let (program, start) = (
        argument(&order.program),
        command(order, &order.arguments(job)),
    );
    let (state, secrets, make_state) = (state(order), secrets(order), make_state(order));
    let (description, after, ending, writable, sandbox) = match job {
        Job::Run => (
            "Back up GitLab and bring the backup to every destination",
            "network-online.target gitlab-runsvdir.service".to_owned(),
            RUN_ENDS,
            WHAT_GITLAB_WRITES.to_owned() + &writable(order, &GITLAB),
            SANDBOX,
        ),
        Job::Projects => (
            "Export GitLab's projects and bring the exports to their destination",
            // Where both are to start at one time, the backup of the whole comes first.
            format!(
                "network-online.target gitlab-runsvdir.service {}",
                service_of(Job::Run)
            ),
            EXPORT_ENDS,
            writable(order, &[]),
            NARROW_SANDBOX,
        ),
    };
    let crashed = crashed_of(job);
    format!(
        "[Unit]\n\
         Description={description}\n\
         Wants=network-online.target\n\
         After={after}\n\
         # For a run that was killed; one that ends by itself tells by itself.\n\
         OnFailure={crashed}\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         # A Raspberry Pi has no clock of its own, and backups are ordered by time. Not After=time-sync.target: that\n\
         # waits for nobody or, where somebody made it wait, for ever. This takes whatever sets the clock (timesyncd,\n\
         # chrony, ntpsec), at most three minutes, and lets the run begin in any case.\n\
         ExecStartPre=-{program} schedule await-clock\n\
         {make_state}ExecStart={start}\n\
         # Stopped by systemd itself, after it left everything as the next run needs it. A run that was done in part\n\
         # (3) or that found another one at work (4) is left to show up in `systemctl --failed`: timers send no mail.\n\
         SuccessExitStatus=143\n\
         {ending}\
         \n\
         Nice=10\n\
         CPUWeight=20\n\
         IOWeight=20\n\
         IOSchedulingClass=idle\n\
         \n\
         {secrets}{state}\
         {writable}{MAIL}\
         # Where `ssh` keeps its socket, for a destination by SFTP.\n\
         Environment=XDG_STATE_HOME=/tmp\n\
         {sandbox}"
    )
}

fn crashed(order: &Order, job: Job) -> String {
    let (what, arguments) = match job {
        Job::Run => ("a backup of GitLab", "notify crashed"),
        Job::Projects => (
            "an export of GitLab's projects",
            "notify crashed --projects",
        ),
    };
    let tell = command(order, arguments);
    let (state, secrets, writable) = (state(order), secrets(order), writable(order, &[]));
    format!(
        "[Unit]\n\
         Description=Tell that {what} was killed\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         # How it ended is in $MONITOR_SERVICE_RESULT and the like, from systemd 251 on; before, systemd is asked.\n\
         ExecStart={tell}\n\
         TimeoutStartSec=5min\n\
         \n\
         {secrets}{state}\
         {writable}{MAIL}\
         {SANDBOX}"
    )
}

/// GitLab's folders that its backup commands write to.
const GITLAB: [&str; 2] = ["/var/opt/gitlab", "/var/log/gitlab"];

fn writable(job: &Order, gitlab: &[&str]) -> String {
    let mut paths: Vec<String> = gitlab.iter().map(|path| (*path).to_owned()).collect();
    let is_gitlab = !gitlab.is_empty();
    let own = job.gitlab_writable.iter().filter(|_| is_gitlab);
    paths.extend(
        own.chain(&job.writable)
            .map(|path| path.display().to_string()),
    );
    if job.state_dir != Path::new(STATE_DIR) {
        paths.push(job.state_dir.display().to_string());
    }
    let mut told = Vec::new();
    for path in paths {
        let covered = |above: &String| Path::new(&path).starts_with(above);
        if !told.iter().any(covered) {
            told.push(path);
        }
    }
    let lines = told.iter().map(|path| word(&format!("-{path}")));
    lines.fold(String::new(), |text, path| {
        text + "ReadWritePaths=" + &path + "\n"
    })
}

/// The secrets that the configuration takes from systemd.
fn secrets(job: &Order) -> String {
    let line = |credential: &super::Credential| {
        let key = if credential.is_encrypted {
            "LoadCredentialEncrypted"
        } else {
            "LoadCredential"
        };
        // One path to the end of the line: no quoting there.
        let path = credential.path.display().to_string().replace('%', "%%");
        format!("{key}={}:{path}\n", credential.name)
    };
    job.credentials.iter().map(line).collect()
}

/// The folder of lock, journals and history, where systemd can make it.
fn state(job: &Order) -> &'static str {
    if job.state_dir == Path::new(STATE_DIR) {
        "StateDirectory=gitlab-pi-backup\nStateDirectoryMode=0700\n"
    } else {
        ""
    }
}

/// Elsewhere it does not: what is missing when the service starts cannot be written to, either.
fn make_state(job: &Order) -> String {
    if job.state_dir == Path::new(STATE_DIR) {
        return String::new();
    }
    let folder = argument(&job.state_dir.display().to_string());
    format!("ExecStartPre=+-/bin/mkdir -p -m 0700 {folder}\n")
}

/// A word of a command, in which `$` would begin a variable.
fn argument(text: &str) -> String {
    word(&text.replace('$', "$$"))
}

/// A word: quoted where it must be, and without specifiers.
fn word(text: &str) -> String {
    let text = text.replace('%', "%%");
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@%$:,=".contains(c);
    if text.chars().all(is_plain) {
        return text;
    }
    let escaped = text
        .replace('\\', r"\\")
        .replace('"', "\\\"")
        .replace('\n', r"\n");
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::super::Credential;
    use super::*;

    const TIMER: &str = "gitlab-pi-backup.timer";
    const SERVICE: &str = "gitlab-pi-backup.service";
    const CRASHED: &str = "gitlab-pi-backup-crashed.service";

    fn job() -> Order {
        Order {
            starts: vec![Start {
                job: Job::Run,
                calendar: daily(),
            }],
            program: "/usr/bin/gitlab-pi-backup".to_owned(),
            config: None,
            state_dir: STATE_DIR.into(),
            gitlab_writable: vec!["/etc/gitlab".into(), "/var/opt/gitlab/backups".into()],
            writable: Vec::new(),
            credentials: Vec::new(),
        }
    }

    fn other() -> Order {
        Order {
            program: "/opt/a b/50%$x".to_owned(),
            config: Some("/etc/other.toml".to_owned()),
            state_dir: "/srv/state".into(),
            writable: vec!["/var/lib/node exporter".into()],
            credentials: vec![Credential {
                name: "destinations.dropbox.refresh_token".to_owned(),
                path: "/etc/x/credentials/destinations.dropbox.refresh_token".into(),
                is_encrypted: false,
            }],
            ..job()
        }
    }

    fn daily() -> Calendar {
        Calendar::parse("0 4 1 * 1").expect("a calendar")
    }

    #[test]
    fn the_units_say_what_is_started_and_what_may_be_written() {
        let units = units(&other(), false);
        let text = |name: &str| {
            let unit = units.iter().find(|(unit, _)| *unit == name);
            unit.map(|(_, text)| text.as_str()).expect(name)
        };
        let service = text(SERVICE);
        for line in [
            "ExecStartPre=-\"/opt/a b/50%%$$x\" schedule await-clock",
            "ExecStart=\"/opt/a b/50%%$$x\" -c /etc/other.toml run",
            "ExecStartPre=+-/bin/mkdir -p -m 0700 /srv/state",
            "LoadCredential=destinations.dropbox.refresh_token:/etc/x/credentials/destinations.dropbox.refresh_token",
            "ReadWritePaths=-/var/opt/gitlab",
            "ReadWritePaths=-/etc/gitlab",
            "ReadWritePaths=-/srv/state",
            "ReadWritePaths=\"-/var/lib/node exporter\"",
        ] {
            assert!(
                service.lines().any(|there| there == line),
                "{line} is not in\n{service}"
            );
        }
        // Below another one, and systemd's to make.
        assert!(!service.contains("gitlab/backups") && !service.contains("StateDirectory="));
        assert!(
            text(TIMER).contains("\nOnCalendar=*-*-01 04:00:00\nOnCalendar=Mon *-*-* 04:00:00\n")
        );
        assert!(text(CRASHED).contains(" -c /etc/other.toml notify crashed\n"));
        assert!(units.iter().all(|(_, text)| text.starts_with(MARK)));
    }

    #[test]
    fn a_package_only_needs_what_differs() {
        let packaged = super::units(&job(), true);
        let there = |name: &str| {
            let unit = packaged.iter().find(|(unit, _)| *unit == name);
            unit.map(|(_, text)| text.clone()).unwrap_or_default()
        };
        let same = drop_ins(&job(), there);
        let [(unit, text)] = &same[..] else {
            panic!("{same:?}")
        };
        assert_eq!(unit, TIMER);
        assert!(text.ends_with(
            "\n[Timer]\nOnCalendar=\nOnCalendar=*-*-01 04:00:00\nOnCalendar=Mon *-*-* 04:00:00\n"
        ));
        let others = drop_ins(&other(), there);
        let names: Vec<_> = others.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, [TIMER, SERVICE, CRASHED]);
        assert!(
            others[1].1.contains("\nExecStart=\nExecStart=\"/opt"),
            "{}",
            others[1].1
        );
        assert!(!others[1].1.contains("/etc/gitlab\n"), "{}", others[1].1);
        assert!(others.iter().all(|(_, text)| text.starts_with(MARK)));
    }
}
