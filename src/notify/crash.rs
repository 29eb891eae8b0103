//! How a run ended that could not tell it itself. systemd says so to what it starts then, see `OnFailure=` in
//! [systemd.unit(5)](https://www.freedesktop.org/software/systemd/man/latest/systemd.unit.html) and `$MONITOR_…` in
//! [systemd.exec(5)](https://www.freedesktop.org/software/systemd/man/latest/systemd.exec.html).

use crate::error::printable;
use crate::job::Job;

/// What a run ends with that has told how it ended, or has nothing to tell: that another one is at work.
const TOLD: [&str; 6] = ["1", "3", "4", "129", "130", "143"];

/// What is to be told, in words; none if the job has told it.
pub fn reason(job: Job, variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    let value = |name: &str| {
        let value = variable(&format!("MONITOR_{name}")).filter(|value| !value.is_empty());
        value.map(|value| printable(&value))
    };
    let (code, status) = (value("EXIT_CODE"), value("EXIT_STATUS").unwrap_or_default());
    let result = value("SERVICE_RESULT");
    let noun = job.noun();
    let why = match result.as_deref() {
        Some("oom-kill") => ": there was not enough memory",
        Some("timeout") => ": it took longer than systemd allows",
        Some("watchdog") => ": it hung",
        _ => "",
    };
    match (code.as_deref(), status.as_str()) {
        (Some("exited"), "0") => None,
        (Some("exited"), status) if TOLD.contains(&status) => None,
        (Some("exited"), "2") => Some(format!(
            "the {noun} ended with status 2: the configuration is wrong, so nothing was done"
        )),
        (Some("exited"), "101") => Some(format!(
            "the {noun} ended by a fault of the program (status 101)"
        )),
        (Some("exited"), status) => Some(format!("the {noun} ended with status {status}")),
        (Some("killed" | "dumped"), signal) => {
            Some(format!("the {noun} was killed by signal {signal}{why}"))
        }
        // systemd could not start it.
        _ => Some(match result {
            Some(result) => format!("the {noun} crashed ({result}){why}"),
            None => format!("the {noun} crashed"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_run_has_told_is_not_told_again() {
        for (result, code, status, words) in [
            ("exit-code", "exited", "1", None),
            ("exit-code", "exited", "3", None),
            ("exit-code", "exited", "4", None),
            ("exit-code", "exited", "143", None),
            ("success", "exited", "0", None),
            (
                "exit-code",
                "exited",
                "2",
                Some("the configuration is wrong"),
            ),
            (
                "exit-code",
                "exited",
                "101",
                Some("by a fault of the program"),
            ),
            ("exit-code", "exited", "226", Some("ended with status 226")),
            ("signal", "killed", "KILL", Some("killed by signal KILL")),
            (
                "oom-kill",
                "killed",
                "KILL",
                Some("signal KILL: there was not enough memory"),
            ),
            (
                "timeout",
                "killed",
                "KILL",
                Some("longer than systemd allows"),
            ),
            ("watchdog", "dumped", "ABRT", Some("signal ABRT: it hung")),
            ("resources", "", "", Some("the run crashed (resources)")),
            ("", "", "", Some("the run crashed")),
        ] {
            let variable = |name: &str| {
                Some(match name {
                    "MONITOR_SERVICE_RESULT" => result.to_owned(),
                    "MONITOR_EXIT_CODE" => code.to_owned(),
                    _ => status.to_owned(),
                })
            };
            let told = reason(Job::Run, variable);
            match words {
                Some(words) => assert!(
                    told.as_deref().is_some_and(|told| told.contains(words)),
                    "{told:?}"
                ),
                None => assert_eq!(told, None, "{status}"),
            }
        }
        for (job, told) in [
            (Job::Run, "the run crashed"),
            (Job::Projects, "the project export crashed"),
        ] {
            assert_eq!(reason(job, |_| None).as_deref(), Some(told));
        }
    }
}
