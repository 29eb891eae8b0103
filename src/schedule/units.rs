//! The text of our systemd units. Pure: what is on this machine is told to it.
//!
//! The service is closed as far as GitLab's commands allow, which run as root, become other users (`chpst`, `su`),
//! and read and write what belongs to them. Each exception stands in the unit with its reason.

use std::path::Path;

use super::{Calendar, Job};
use crate::job;

/// The timer, and what it starts.
pub(super) const TIMER: &str = "gitlab-pi-backup.timer";
pub(super) const SERVICE: &str = "gitlab-pi-backup.service";
/// What the timer of a job starts.
pub(super) fn service_of(job: job::Job) -> String {
    format!("{}.service", job.unit())
}
/// Tells of a run that was killed.
const CRASHED: &str = "gitlab-pi-backup-crashed.service";
/// Every file of ours begins with this.
pub(super) const MARK: &str = "# Written by `gitlab-pi-backup schedule install`";
const WHOSE: &str = ", taken away by `gitlab-pi-backup schedule remove`.\n\
    # Changes of your own belong into a drop-in: systemctl edit ";
/// What a package's files begin with.
const PACKAGED: &str = "# Part of the package; `gitlab-pi-backup schedule install` switches it on.\n\
    # Changes of your own belong into a drop-in: systemctl edit ";
/// The state folder that systemd makes for a service.
const STATE_DIR: &str = "/var/lib/gitlab-pi-backup";

/// The units with their names, as one who has no package gets them or as a package brings them.
pub(super) fn units(job: &Job, calendar: &Calendar, packaged: bool) -> Vec<(&'static str, String)> {
    let texts = [
        (SERVICE, service(job)),
        (TIMER, timer(calendar)),
        (CRASHED, crashed(job)),
    ];
    let head = if packaged {
        PACKAGED.to_owned()
    } else {
        format!("{MARK}{WHOSE}")
    };
    texts
        .into_iter()
        .map(|(name, text)| (name, format!("{head}{name}\n\n{text}")))
        .collect()
}

/// What must be added to the package's units so that they do the same: drop-ins by the name of their unit.
pub(super) fn drop_ins(
    job: &Job,
    calendar: &Calendar,
    package: impl Fn(&str) -> String,
) -> Vec<(&'static str, String)> {
    let head = format!("{MARK}, taken away by `gitlab-pi-backup schedule remove`.\n\n");
    let times = on_calendar(calendar);
    // An empty one takes back what the package says.
    let mut all = vec![(TIMER, format!("{head}[Timer]\nOnCalendar=\n{times}"))];
    for (unit, wanted) in [(SERVICE, service(job)), (CRASHED, crashed(job))] {
        let there = package(unit);
        let mut text = String::new();
        for key in ["ExecStartPre", "ExecStart"] {
            let of_key = |text: &str| settings(text, key);
            if of_key(&wanted) != of_key(&there) {
                text.extend([key, "=\n"]);
                text.extend(
                    of_key(&wanted)
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
            let known = settings(&there, key);
            let new = settings(&wanted, key).into_iter();
            let new = new.filter(|value| !known.contains(value));
            text.extend(new.map(|value| format!("{key}={value}\n")));
        }
        if !text.is_empty() {
            all.push((unit, format!("{head}[Service]\n{text}")));
        }
    }
    all
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

fn timer(calendar: &Calendar) -> String {
    let times = on_calendar(calendar);
    format!(
        "[Unit]\n\
         Description=Back up GitLab: {calendar}\n\
         \n\
         [Timer]\n\
         {times}\
         # A run that was missed while the machine was off starts when it is on again.\n\
         Persistent=true\n\
         AccuracySec=1min\n\
         # No RandomizedDelaySec=: one machine is no herd, and `status` can tell when the next run starts.\n\
         \n\
         [Install]\n\
         WantedBy=timers.target\n"
    )
}

/// The program and its arguments.
fn command(job: &Job, arguments: &str) -> String {
    let program = argument(&job.program);
    match &job.config {
        Some(config) => format!("{program} -c {} {arguments}", argument(config)),
        None => format!("{program} {arguments}"),
    }
}

fn service(job: &Job) -> String {
    let (program, run) = (argument(&job.program), command(job, "run"));
    let (state, secrets, writable) = (state(job), secrets(job), writable(job, &GITLAB));
    let make_state = make_state(job);
    format!(
        "[Unit]\n\
         Description=Back up GitLab and bring the backup to every destination\n\
         Wants=network-online.target\n\
         After=network-online.target gitlab-runsvdir.service\n\
         # For a run that was killed; one that ends by itself tells by itself.\n\
         OnFailure={CRASHED}\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         # A Raspberry Pi has no clock of its own, and backups are ordered by time. Not After=time-sync.target: that\n\
         # waits for nobody or, where somebody made it wait, for ever. This takes whatever sets the clock (timesyncd,\n\
         # chrony, ntpsec), at most three minutes, and lets the run begin in any case.\n\
         ExecStartPre=-{program} schedule await-clock\n\
         {make_state}ExecStart={run}\n\
         # Stopped by systemd itself, after it left everything as the next run needs it. A run that was done in part\n\
         # (3) or that found another one at work (4) is left to show up in `systemctl --failed`: timers send no mail.\n\
         SuccessExitStatus=143\n\
         # The program ends GitLab's commands by itself, so that what was sent is kept; then the rest goes.\n\
         KillMode=mixed\n\
         TimeoutStopSec=2min\n\
         # How long GitLab's commands and an upload may take is in the configuration.\n\
         TimeoutStartSec=infinity\n\
         # If one of GitLab's commands is too big for the memory, the run is to tell of it, not to be ended with it.\n\
         OOMPolicy=continue\n\
         \n\
         Nice=10\n\
         CPUWeight=20\n\
         IOWeight=20\n\
         IOSchedulingClass=idle\n\
         \n\
         {secrets}{state}\
         # GitLab's: its configuration and what is backed up from it, its data with the staging of a backup, its log\n\
         # files, the lock of its backups. What is missing is passed over.\n\
         {writable}{MAIL}\
         # Where `ssh` keeps its socket, for a destination by SFTP.\n\
         Environment=XDG_STATE_HOME=/tmp\n\
         {SANDBOX}"
    )
}

fn crashed(job: &Job) -> String {
    let tell = command(job, "notify crashed");
    let (state, secrets, writable) = (state(job), secrets(job), writable(job, &[]));
    format!(
        "[Unit]\n\
         Description=Tell that a backup of GitLab was killed\n\
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

/// Where what is called `sendmail` puts a letter: Postfix, Exim, nullmailer, the `DragonFly` agent, `OpenSMTPD`.
const MAIL: &str = "# For a mail that goes by the local sendmail.\n\
    ReadWritePaths=-/var/spool/postfix -/var/spool/exim4 -/var/log/exim4 -/var/spool/nullmailer\n\
    ReadWritePaths=-/var/spool/dma -/var/spool/smtpd -/var/mail\n";

/// GitLab's folders that its backup commands write to.
const GITLAB: [&str; 2] = ["/var/opt/gitlab", "/var/log/gitlab"];

fn writable(job: &Job, gitlab: &[&str]) -> String {
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
fn secrets(job: &Job) -> String {
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
fn state(job: &Job) -> &'static str {
    if job.state_dir == Path::new(STATE_DIR) {
        "StateDirectory=gitlab-pi-backup\nStateDirectoryMode=0700\n"
    } else {
        ""
    }
}

/// Elsewhere it does not: what is missing when the service starts cannot be written to, either.
fn make_state(job: &Job) -> String {
    if job.state_dir == Path::new(STATE_DIR) {
        return String::new();
    }
    let folder = argument(&job.state_dir.display().to_string());
    format!("ExecStartPre=+-/bin/mkdir -p -m 0700 {folder}\n")
}

const SANDBOX: &str = "ProtectSystem=strict\n\
    # Not hidden: archives, tokens and this program may lie in a home.\n\
    ProtectHome=read-only\n\
    PrivateTmp=yes\n\
    PrivateDevices=yes\n\
    ProtectClock=yes\n\
    ProtectControlGroups=yes\n\
    ProtectHostname=yes\n\
    ProtectKernelLogs=yes\n\
    ProtectKernelModules=yes\n\
    ProtectKernelTunables=yes\n\
    LockPersonality=yes\n\
    RestrictNamespaces=yes\n\
    RestrictRealtime=yes\n\
    # GitLab's wrappers are started by root and go down to git, gitlab-psql, registry: they need no setuid program.\n\
    NoNewPrivileges=yes\n\
    # AF_NETLINK: names and routes are looked up by it.\n\
    RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK\n\
    # To become other users and end their processes, to read and keep what belongs to them, to lower priorities.\n\
    CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID\n\
    CapabilityBoundingSet=CAP_KILL CAP_SETGID CAP_SETUID CAP_SYS_NICE CAP_SYS_RESOURCE CAP_AUDIT_WRITE\n\
    # Left out, since GitLab's commands would fail: RestrictSUIDSGID= (its registry's folder is setgid, and\n\
    # `strategy = \"copy\"` copies that), MemoryDenyWriteExecute= (Ruby and git compile at run time), UMask= (git must\n\
    # read what root makes), PrivateNetwork=, PrivateUsers=, ProtectProc= (who holds the lock is looked up),\n\
    # SystemCallArchitectures= (a 32-bit GitLab on a 64-bit system), SystemCallFilter= (nobody can promise).\n";

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

    fn job() -> Job {
        Job {
            program: "/usr/bin/gitlab-pi-backup".to_owned(),
            config: None,
            state_dir: STATE_DIR.into(),
            gitlab_writable: vec!["/etc/gitlab".into(), "/var/opt/gitlab/backups".into()],
            writable: Vec::new(),
            credentials: Vec::new(),
        }
    }

    fn other() -> Job {
        Job {
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
        let units = units(&other(), &daily(), false);
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
        let packaged = super::units(&job(), &daily(), true);
        let there = |name: &str| {
            let unit = packaged.iter().find(|(unit, _)| *unit == name);
            unit.map(|(_, text)| text.clone()).expect(name)
        };
        let same = drop_ins(&job(), &daily(), there);
        let [(TIMER, text)] = &same[..] else {
            panic!("{same:?}")
        };
        assert!(text.ends_with(
            "\n[Timer]\nOnCalendar=\nOnCalendar=*-*-01 04:00:00\nOnCalendar=Mon *-*-* 04:00:00\n"
        ));
        let others = drop_ins(&other(), &daily(), there);
        let names: Vec<_> = others.iter().map(|(name, _)| *name).collect();
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
