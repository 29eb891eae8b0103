//! How the service ended, for systemd before 251: what `OnFailure=` starts is told nothing there, and every failed
//! run, though it told how it ended, would look like one that was killed.

use std::time::Duration;

use super::installed::has_systemd;
use super::program::run;
use super::units::service_of;
use crate::job::Job;

const NOT_LONG: Duration = Duration::from_secs(10);

/// What later versions hand over: the names of variables, and their values. Empty where systemd cannot be asked.
pub fn ended(job: Job) -> Vec<(&'static str, String)> {
    if !has_systemd() {
        return Vec::new();
    }
    let properties = "--property=Result,ExecMainCode,ExecMainStatus";
    let service = service_of(job);
    let arguments = ["show", &service, properties, "--no-pager"];
    match run("systemctl", &arguments, None, NOT_LONG) {
        Ok(ended) if ended.status.success() => understand(&String::from_utf8_lossy(&ended.out)),
        _ => Vec::new(),
    }
}

fn understand(text: &str) -> Vec<(&'static str, String)> {
    let lines = text.lines().filter_map(|line| line.split_once('='));
    let told = lines.filter_map(|(key, value)| {
        let (name, value) = match (key, value) {
            ("Result", _) => ("MONITOR_SERVICE_RESULT", value),
            // As waitid(2) numbers them.
            ("ExecMainCode", "1") => ("MONITOR_EXIT_CODE", "exited"),
            ("ExecMainCode", "2") => ("MONITOR_EXIT_CODE", "killed"),
            ("ExecMainCode", "3") => ("MONITOR_EXIT_CODE", "dumped"),
            ("ExecMainStatus", _) => ("MONITOR_EXIT_STATUS", value),
            _ => return None,
        };
        Some((name, value.to_owned()))
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::crash::reason;

    #[test]
    fn a_run_that_told_how_it_ended_is_told_from_one_that_was_killed() {
        let told = |text: &str| {
            let told = understand(text);
            reason(Job::Run, |name| {
                let mut told = told.iter();
                told.find(|(key, _)| *key == name)
                    .map(|(_, value)| value.clone())
            })
        };
        assert_eq!(
            told("Result=exit-code\nExecMainCode=1\nExecMainStatus=4\n"),
            None
        );
        assert_eq!(
            told("Result=signal\nExecMainCode=2\nExecMainStatus=9\n").as_deref(),
            Some("the run was killed by signal 9")
        );
        assert_eq!(
            told("Result=resources\nExecMainCode=0\nExecMainStatus=0\n").as_deref(),
            Some("the run crashed (resources)")
        );
        assert_eq!(told("").as_deref(), Some("the run crashed"));
    }
}
