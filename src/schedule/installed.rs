//! What is installed on this machine, and whether it would start anything.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Access, access};
use rustix::process::geteuid;

use super::calendar::Calendar;
use super::crontab::{self, Crontab};
use super::files::ours;
use super::program::run;
use super::service::Service;
use super::units::{service_of, timer_of};
use super::{Installed, Manager};
use crate::gitlab::host::has_program;
use crate::job::Job;

/// There while systemd runs this machine (`sd_booted(3)`).
const BOOTED: &str = "/run/systemd/system";
/// So long for an answer.
const NOT_LONG: Duration = Duration::from_secs(5);
const AGAIN: &str = "gitlab-pi-backup schedule install";

/// How to install it once more at the same times: without being told them it would take the usual ones.
pub fn again<'a>(found: impl IntoIterator<Item = (Job, &'a Calendar)>) -> String {
    let found: Vec<_> = found.into_iter().collect();
    let of = |job: Job| found.iter().find(|(own, _)| *own == job);
    let run = of(Job::Run).map_or_else(Calendar::usual, |(_, calendar)| (*calendar).clone());
    let mut command = AGAIN.to_owned();
    for (job, calendar) in &found {
        let usual = match job {
            Job::Run => Calendar::usual(),
            Job::Projects => run.later(),
        };
        if let Some(at) = calendar.as_argument().filter(|_| **calendar != usual) {
            // Writing to a string cannot fail.
            let _ = write!(command, " {} '{at}'", option(*job));
        }
    }
    command
}

/// The option that says when a job starts.
pub(super) fn option(job: Job) -> &'static str {
    match job {
        Job::Run => "--at",
        Job::Projects => "--projects-at",
    }
}

/// The schedule of one job.
pub fn of(found: &[Installed], job: Job) -> Option<&Installed> {
    found.iter().find(|found| found.job == job)
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

/// The schedules of this machine, at most one for each job. The error says what could not be asked.
pub fn installed() -> Result<Vec<Installed>, String> {
    let mut timers = Vec::new();
    if has_systemd() {
        for job in Job::ALL {
            timers.extend(Timer::ask(job)?.calendar(job));
        }
    }
    let calendars: Vec<_> = timers.iter().map(|(job, _, all)| (*job, all)).collect();
    let again = again(calendars);
    let timers = timers.into_iter();
    let mut found: Vec<_> = timers
        .map(|(job, timer, calendar)| timer.judge(job, calendar, &again))
        .collect();
    // Another user's crontab is none of ours, and root's is for root alone.
    let by_cron = if has_cron() && (geteuid().is_root() || found.is_empty()) {
        let told = if geteuid().is_root() {
            read()
        } else {
            Err("root's crontab can only be read by root".to_owned())
        };
        match told {
            Ok(crontab) => judge(&crontab),
            Err(_) if !found.is_empty() => Vec::new(),
            Err(why) => return Err(why),
        }
    } else {
        Vec::new()
    };
    for by_cron in by_cron {
        match found.iter_mut().find(|timer| timer.job == by_cron.job) {
            Some(timer) => timer.faults.push(format!(
                "root's crontab starts {}s, too\n  gitlab-pi-backup schedule remove --cron, \
                 and take out what is left by hand: crontab -e",
                by_cron.job.noun()
            )),
            None => found.push(by_cron),
        }
    }
    Ok(found)
}

impl Timer {
    /// Asks systemd for the units of a job.
    pub(super) fn ask(job: Job) -> Result<Timer, String> {
        let properties = "--property=Id,LoadState,ActiveState,UnitFileState,NeedDaemonReload,\
            TimersCalendar,ExecStart,ProtectSystem,ReadWritePaths,StateDirectory";
        let (timer, service) = (timer_of(job), service_of(job));
        let arguments = ["show", &timer, &service, properties, "--no-pager"];
        let ended = run("systemctl", &arguments, None, NOT_LONG)?;
        if !ended.status.success() {
            return Err(format!("asking systemd for {timer}: {}", ended.why()));
        }
        Ok(Timer::parse(&service, &String::from_utf8_lossy(&ended.out)))
    }

    /// Whether it starts something, now or after the next start of this machine.
    pub(super) fn is_on(&self) -> bool {
        self.is_enabled || self.is_active
    }

    /// Understands `systemctl show`: a paragraph for each unit.
    fn parse(service: &str, text: &str) -> Timer {
        let mut timer = Timer::default();
        for paragraph in text.split("\n\n") {
            let lines = || paragraph.lines().filter_map(|line| line.split_once('='));
            let value = |name: &str| {
                lines()
                    .find(|(key, _)| *key == name)
                    .map(|(_, value)| value)
            };
            timer.is_outdated |= value("NeedDaemonReload") == Some("yes");
            if value("Id") == Some(service) {
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

    /// With its times; none if nobody has installed it, though the package brings it.
    fn calendar(self, job: Job) -> Option<(Job, Timer, Calendar)> {
        let timer = timer_of(job);
        let is_ours = || {
            let mut ours = ours().into_keys();
            ours.any(|path| path.to_string_lossy().contains(&timer))
        };
        if !self.is_loaded || !self.is_on() && !is_ours() {
            return None;
        }
        let mut calendar = Calendar::default();
        for text in &self.calendars {
            match Calendar::parse(text) {
                Ok(more) => calendar = calendar.and(more),
                Err(why) => tracing::debug!("{timer}: {why}"),
            }
        }
        Some((job, self, calendar))
    }

    /// What it amounts to.
    fn judge(self, job: Job, calendar: Calendar, again: &str) -> Installed {
        let (timer, service) = (timer_of(job), service_of(job));
        let mut faults = Vec::new();
        if self.calendars.is_empty() {
            faults.push(format!("{timer} has no OnCalendar=\n  {AGAIN}"));
        }
        if !self.is_enabled {
            faults.push(format!(
                "{timer} is not enabled: it is gone after the next start of this machine\n  \
                 systemctl enable --now {timer}"
            ));
        }
        if !self.is_active {
            faults.push(format!(
                "{timer} is not active: it starts nothing\n  systemctl start {timer}"
            ));
        }
        if self.is_outdated {
            faults.push(
                "systemd has not read the changed units\n  systemctl daemon-reload".to_owned(),
            );
        }
        match &self.program {
            None => faults.push(format!(
                "{service} is not there, or starts nothing\n  {again}"
            )),
            Some(program) => faults.extend(not_runnable(program, &service, again)),
        }
        Installed {
            job,
            manager: Manager::Systemd,
            calendar,
            faults,
            service: Some(self.service),
        }
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
fn judge(text: &[u8]) -> Vec<Installed> {
    let crontab = Crontab::parse(text);
    let ours = crontab.ours.iter().filter_map(|line| {
        let (calendar, command) = crontab::understand(line)?;
        Some((crontab::job_of(command)?, calendar, command))
    });
    let by_hand = crontab.by_hand.iter().filter_map(|(job, line)| {
        let (calendar, command) = crontab::understand(line)?;
        Some((*job, calendar, command))
    });
    let mut found: Vec<Installed> = Vec::new();
    let mut programs = Vec::new();
    for (job, calendar, command) in ours.chain(by_hand) {
        programs.push((job, crontab::program(command)));
        match found.iter_mut().find(|found| found.job == job) {
            Some(found) => found.calendar = found.calendar.clone().and(calendar),
            None => found.push(by_cron(job, calendar)),
        }
    }
    if found.is_empty() && crontab.is_marked {
        let mut empty = by_cron(Job::Run, Calendar::default());
        empty.faults.push(format!(
            "the block in root's crontab starts nothing\n  {AGAIN} --cron"
        ));
        found.push(empty);
    }
    let again = again(found.iter().map(|found| (found.job, &found.calendar)));
    // What is found by cron's PATH, or behind another command, is not ours to judge.
    programs.retain(|(_, program)| program.starts_with('/'));
    for (job, program) in programs {
        let fault = not_runnable(&program, "root's crontab", &again);
        let found = found.iter_mut().filter(|found| found.job == job);
        for (found, fault) in found.zip(fault) {
            found.faults.push(fault);
        }
    }
    found
}

fn by_cron(job: Job, calendar: Calendar) -> Installed {
    Installed {
        job,
        manager: Manager::Cron,
        calendar,
        faults: Vec::new(),
        service: None,
    }
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
        let timer = Timer::parse("gitlab-pi-backup.service", text);
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
        let parse = |text| Timer::parse("gitlab-pi-backup.service", text);
        assert!(parse(missing).calendar(Job::Run).is_none());
        assert_eq!(parse(""), Timer::default());
    }

    #[test]
    fn a_crontab_is_judged_by_what_it_starts() {
        assert!(judge(b"0 1 * * * other\n").is_empty());
        let one = |text: &[u8]| {
            let mut found = judge(text);
            assert_eq!(found.len(), 1, "{found:?}");
            found.remove(0)
        };
        let found = one(b"0 4 * * 3,6 /nowhere/gitlab-pi-backup run\n");
        assert_eq!(found.calendar.to_string(), "Wed,Sat *-*-* 04:00:00");
        assert_eq!(found.faults.len(), 1, "{:?}", found.faults);
        let own = std::env::current_exe().expect("a path");
        let own = crontab::lines(&["@daily".to_owned()], &own.to_string_lossy(), None, "run");
        let found = one(&Crontab::default().with(&own));
        assert_eq!(found.faults, [""; 0]);
        assert_eq!(found.calendar.to_string(), "*-*-* 00:00:00");
        let empty = one(&Crontab::default().with(&[]));
        assert_eq!(empty.faults.len(), 1);
        let both = b"0 4 * * 3,6 gitlab-pi-backup run\n0 9 * * * /nowhere/gitlab-pi-backup export projects\n";
        let both = judge(both);
        let jobs: Vec<_> = both.iter().map(|found| found.job).collect();
        assert_eq!(jobs, Job::ALL);
        assert_eq!(both[0].faults, [""; 0]);
        assert!(
            both[1].faults[0]
                .ends_with("\n  gitlab-pi-backup schedule install --projects-at '*-*-* 09:00:00'"),
            "{:?}",
            both[1].faults
        );
    }
}
