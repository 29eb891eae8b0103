//! What is installed on this machine, and whether it would start anything.

use std::path::Path;
use std::time::Duration;

use rustix::fs::{Access, access};
use rustix::process::geteuid;

use super::calendar::Calendar;
use super::crontab::{self, Crontab};
use super::files::ours;
use super::program::run;
use super::service::Service;
use super::units::{SERVICE, TIMER};
use super::{Installed, Manager};
use crate::gitlab::host::has_program;

/// There while systemd runs this machine (`sd_booted(3)`).
const BOOTED: &str = "/run/systemd/system";
/// So long for an answer.
const NOT_LONG: Duration = Duration::from_secs(5);
const AGAIN: &str = "gitlab-pi-backup schedule install";

/// How to install it once more at the same times: without being told them it would take the usual ones.
pub fn again(calendar: &Calendar) -> String {
    match calendar.as_argument() {
        Some(at) if *calendar != Calendar::usual() => format!("{AGAIN} --at '{at}'"),
        _ => AGAIN.to_owned(),
    }
}

/// What systemd says of our units.
#[derive(Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a line of systemd's answer"
)]
pub(super) struct Timer {
    pub(super) is_loaded: bool,
    pub(super) is_enabled: bool,
    pub(super) is_active: bool,
    /// A unit file changed since systemd read it.
    pub(super) is_outdated: bool,
    /// What stands behind `OnCalendar=`.
    pub(super) calendars: Vec<String>,
    /// The program that the service starts.
    pub(super) program: Option<String>,
    service: Service,
}

/// Whether systemd runs this machine.
pub(super) fn has_systemd() -> bool {
    Path::new(BOOTED).is_dir()
}

/// Whether there is a cron that can be given a table.
pub(super) fn has_cron() -> bool {
    has_program("crontab")
}

/// The schedule of this machine, if it has one. The error says what could not be asked.
pub fn installed() -> Result<Option<Installed>, String> {
    let timer = if has_systemd() {
        Some(Timer::ask()?)
    } else {
        None
    };
    let timer = timer.and_then(|timer| timer.judge());
    // Another user's crontab is none of ours, and root's is for root alone.
    let by_cron = if has_cron() && (geteuid().is_root() || timer.is_none()) {
        let told = if geteuid().is_root() {
            read()
        } else {
            Err("root's crontab can only be read by root".to_owned())
        };
        match (told, &timer) {
            (Ok(crontab), _) => judge(&crontab),
            (Err(_), Some(_)) => None,
            (Err(why), None) => return Err(why),
        }
    } else {
        None
    };
    Ok(match (timer, by_cron) {
        (Some(mut timer), Some(_)) => {
            timer.faults.push(
                "root's crontab starts runs, too\n  gitlab-pi-backup schedule remove --cron, \
                 and take out what is left by hand: crontab -e"
                    .to_owned(),
            );
            Some(timer)
        }
        (timer, by_cron) => timer.or(by_cron),
    })
}

impl Timer {
    /// Asks systemd.
    pub(super) fn ask() -> Result<Timer, String> {
        let properties = "--property=Id,LoadState,ActiveState,UnitFileState,NeedDaemonReload,\
            TimersCalendar,ExecStart,ProtectSystem,ReadWritePaths,StateDirectory";
        let arguments = ["show", TIMER, SERVICE, properties, "--no-pager"];
        let ended = run("systemctl", &arguments, None, NOT_LONG)?;
        if !ended.status.success() {
            return Err(format!("asking systemd for {TIMER}: {}", ended.why()));
        }
        Ok(Timer::parse(&String::from_utf8_lossy(&ended.out)))
    }

    /// Understands `systemctl show`: a paragraph for each unit.
    fn parse(text: &str) -> Timer {
        let mut timer = Timer::default();
        for paragraph in text.split("\n\n") {
            let lines = || paragraph.lines().filter_map(|line| line.split_once('='));
            let value = |name: &str| {
                lines()
                    .find(|(key, _)| *key == name)
                    .map(|(_, value)| value)
            };
            timer.is_outdated |= value("NeedDaemonReload") == Some("yes");
            if value("Id") == Some(SERVICE) {
                let started = value("ExecStart").unwrap_or_default();
                let path = started.split_once("path=").map(|(_, rest)| rest);
                let path = path.and_then(|rest| rest.split(" ;").next());
                timer.program = path.map(|path| path.trim().to_owned());
                timer.service = Service::parse(value);
                continue;
            }
            timer.is_loaded = value("LoadState") == Some("loaded");
            timer.is_enabled =
                value("UnitFileState").is_some_and(|state| state.starts_with("enabled"));
            timer.is_active = value("ActiveState") == Some("active");
            for (_, value) in lines().filter(|(key, _)| *key == "TimersCalendar") {
                let parts = value.split("OnCalendar=").skip(1);
                let parts = parts.filter_map(|part| part.split([';', '}']).next());
                timer
                    .calendars
                    .extend(parts.map(|part| part.trim().to_owned()));
            }
        }
        timer
    }

    /// What it amounts to; none if nobody has installed it, though the package brings it.
    fn judge(&self) -> Option<Installed> {
        let is_packaged_only = !self.is_enabled && !self.is_active && ours().is_empty();
        if !self.is_loaded || is_packaged_only {
            return None;
        }
        let mut faults = Vec::new();
        let mut calendar = Calendar::default();
        for text in &self.calendars {
            match Calendar::parse(text) {
                Ok(more) => calendar = calendar.and(more),
                Err(why) => tracing::debug!("{TIMER}: {why}"),
            }
        }
        if self.calendars.is_empty() {
            faults.push(format!("{TIMER} has no OnCalendar=\n  {AGAIN}"));
        }
        if !self.is_enabled {
            faults.push(format!(
                "{TIMER} is not enabled: it is gone after the next start of this machine\n  \
                 systemctl enable --now {TIMER}"
            ));
        }
        if !self.is_active {
            faults.push(format!(
                "{TIMER} is not active: it starts nothing\n  systemctl start {TIMER}"
            ));
        }
        if self.is_outdated {
            faults.push(
                "systemd has not read the changed units\n  systemctl daemon-reload".to_owned(),
            );
        }
        match &self.program {
            None => faults.push(format!(
                "{SERVICE} is not there, or starts nothing\n  {}",
                again(&calendar)
            )),
            Some(program) => faults.extend(not_runnable(program, SERVICE, &again(&calendar))),
        }
        Some(Installed {
            manager: Manager::Systemd,
            calendar,
            faults,
            service: Some(self.service.clone()),
        })
    }
}

/// Root's crontab.
pub(super) fn read() -> Result<Vec<u8>, String> {
    let ended = run("crontab", &["-l"], None, NOT_LONG)?;
    // Every cron says this of one that is not there, and ends with 1.
    let none = ended.err.contains("no crontab for") || ended.err.contains("can't open 'root'");
    if ended.status.success() {
        Ok(ended.out)
    } else if none {
        Ok(Vec::new())
    } else {
        Err(format!(
            "reading root's crontab by `crontab -l`: {}",
            ended.why()
        ))
    }
}

/// What root's crontab starts: our block, or lines that somebody wrote by hand.
fn judge(text: &[u8]) -> Option<Installed> {
    let crontab = Crontab::parse(text);
    let lines: Vec<_> = crontab.ours.iter().chain(&crontab.by_hand).collect();
    if lines.is_empty() && !crontab.is_marked {
        return None;
    }
    let mut calendar = Calendar::default();
    let mut faults = Vec::new();
    if lines.is_empty() {
        faults.push(format!(
            "the block in root's crontab starts nothing\n  {AGAIN} --cron"
        ));
    }
    let starts: Vec<_> = lines
        .iter()
        .filter_map(|line| crontab::understand(line))
        .collect();
    for (when, _) in &starts {
        calendar = calendar.and(when.clone());
    }
    for (_, command) in starts {
        let program = crontab::program(command);
        // What is found by cron's PATH, or behind another command, is not ours to judge.
        if program.starts_with('/') {
            faults.extend(not_runnable(&program, "root's crontab", &again(&calendar)));
        }
    }
    Some(Installed {
        manager: Manager::Cron,
        calendar,
        faults,
        service: None,
    })
}

/// A fault if the program cannot be started.
fn not_runnable(program: &str, by: &str, again: &str) -> Option<String> {
    let path = Path::new(program);
    let good = path.is_file() && access(path, Access::EXEC_OK).is_ok();
    (!good).then(|| format!("{by} starts {program}, which is not there, or no program\n  {again}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemd_says_is_understood() {
        let text = "Id=gitlab-pi-backup.timer\nLoadState=loaded\nActiveState=active\nUnitFileState=enabled\n\
            NeedDaemonReload=no\n\
            TimersCalendar={ OnCalendar=Wed,Sat *-*-* 04:00:00 ; next_elapse=Wed 2026-11-25 04:00:00 UTC }\n\
            TimersCalendar={ OnCalendar=*-*-01 12:00:00 ; next_elapse=(null) }\n\n\
            Id=gitlab-pi-backup.service\nLoadState=loaded\nActiveState=inactive\nUnitFileState=static\n\
            NeedDaemonReload=yes\n\
            ExecStart={ path=/usr/bin/gitlab-pi-backup ; argv[]=/usr/bin/gitlab-pi-backup run ; \
            ignore_errors=no ; start_time=[n/a] ; stop_time=[n/a] ; pid=0 ; code=(null) ; status=0/0 }\n";
        let timer = Timer::parse(text);
        let expected = Timer {
            is_loaded: true,
            is_enabled: true,
            is_active: true,
            is_outdated: true,
            calendars: vec![
                "Wed,Sat *-*-* 04:00:00".to_owned(),
                "*-*-01 12:00:00".to_owned(),
            ],
            program: Some("/usr/bin/gitlab-pi-backup".to_owned()),
            service: timer.service.clone(),
        };
        assert_eq!(timer, expected);
        assert_ne!(timer.service, Service::default());
        let missing = "Id=gitlab-pi-backup.timer\nLoadState=not-found\nActiveState=inactive\nUnitFileState=\n";
        assert!(Timer::parse(missing).judge().is_none());
        assert_eq!(Timer::parse(""), Timer::default());
    }

    #[test]
    fn a_crontab_is_judged_by_what_it_starts() {
        assert!(judge(b"0 1 * * * other\n").is_none());
        let found = judge(b"0 4 * * 3,6 /nowhere/gitlab-pi-backup run\n").expect("by hand");
        assert_eq!(found.calendar.to_string(), "Wed,Sat *-*-* 04:00:00");
        assert_eq!(found.faults.len(), 1, "{:?}", found.faults);
        let own = std::env::current_exe().expect("a path");
        let own = crontab::lines(&["@daily".to_owned()], &own.to_string_lossy(), None);
        let found = judge(&Crontab::default().with(&own)).expect("ours");
        assert_eq!(found.faults, [""; 0]);
        assert_eq!(found.calendar.to_string(), "*-*-* 00:00:00");
        let empty = judge(&Crontab::default().with(&[])).expect("a block");
        assert_eq!(empty.faults.len(), 1);
    }
}
