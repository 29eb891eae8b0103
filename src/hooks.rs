//! The user's own commands before and after a run: a disk to mount, a service to stop.
//!
//! They get the discipline of GitLab's commands: no shell, a process group of their own, standard input
//! closed, every line to the log, none of our secrets in their environment.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::process::{self, CommandFailure, Invocation, Output};
use crate::settings::Section;
use crate::stop::Stop;
use crate::units::Span;

/// Commands after a run that somebody stopped: whoever stopped it waits for them.
const AFTER_A_SIGNAL: Duration = Duration::from_secs(30);
/// All of them together, less than systemd waits before it kills; each still gets [`LEAST`].
const ALL_AFTER_A_SIGNAL: Duration = Duration::from_mins(1);
/// Enough to begin something that goes on by itself.
const LEAST: Duration = Duration::from_secs(1);

/// Linux takes 128 KiB in a variable (`MAX_ARG_STRLEN` in execve(2)); nobody reads as much, in bytes.
const LONGEST_ERROR: usize = 16 * 1024;

/// `[hooks]`.
#[derive(Clone, Debug)]
pub struct Settings {
    before: Vec<Vec<String>>,
    after: Vec<Vec<String>>,
    timeout: Duration,
}

/// One command, or several.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "takes commands as lists, like [[\"mount\", \"/mnt/backup\"]]"
)]
enum Commands {
    One(Vec<String>),
    Several(Vec<Vec<String>>),
}

/// What the commands after a run are told about it, by their environment.
#[derive(Clone, Copy, Debug)]
pub struct Outcome<'a> {
    /// `ok`, `partial`, `failed`.
    pub status: &'a str,
    /// What the program will end with, if they end well.
    pub exit: u8,
    /// Of the data archive that was made or chosen.
    pub backup_id: Option<&'a str>,
    /// The run's name in the history.
    pub run_id: &'a str,
    /// The first thing that made it fail.
    pub error: Option<&'a str>,
}

impl Settings {
    /// Reads the section; without it there are no commands.
    pub fn read(section: &mut Section<'_>) -> Settings {
        let settings = Settings {
            before: commands(section, "before"),
            after: commands(section, "after"),
            timeout: section
                .get("timeout")
                .unwrap_or(Span(Duration::from_mins(10)))
                .0,
        };
        if settings.timeout.is_zero() {
            section.fault("timeout", "takes at least one second");
        }
        settings
    }

    /// Whether there are commands before a run.
    pub fn has_before(&self) -> bool {
        !self.before.is_empty()
    }

    /// Whether there are commands after it.
    pub fn has_after(&self) -> bool {
        !self.after.is_empty()
    }

    /// The programs that are called, for whoever looks whether they are there.
    pub fn programs(&self) -> impl Iterator<Item = &str> {
        let commands = self.before.iter().chain(&self.after);
        commands.filter_map(|words| words.first().map(String::as_str))
    }

    /// Runs the commands before a run, one after the other; the first that fails is the last.
    pub async fn before(&self, run_id: &str, stop: &Stop) -> Result<(), CommandFailure> {
        let environment = BTreeMap::from([("BACKUP_RUN_ID", run_id)]);
        for words in &self.before {
            run(words, &environment, self.timeout, Some(stop)).await?;
        }
        Ok(())
    }

    /// Runs the commands after a run, all of them: what one of them was to clean up does not depend on another.
    /// The error is the first failure.
    pub async fn after(&self, outcome: &Outcome<'_>, stop: &Stop) -> Result<(), CommandFailure> {
        let exit = outcome.exit.to_string();
        // No variable takes a zero byte, and with one that is too long no command would be started.
        let error = outcome.error.unwrap_or_default();
        let error = error[..error.floor_char_boundary(LONGEST_ERROR)].replace('\0', "");
        let environment = BTreeMap::from([
            ("BACKUP_STATUS", outcome.status),
            ("BACKUP_EXIT", exit.as_str()),
            ("BACKUP_ID", outcome.backup_id.unwrap_or_default()),
            ("BACKUP_RUN_ID", outcome.run_id),
            ("BACKUP_ERROR", error.as_str()),
        ]);
        // A signal that came before them has been obeyed already.
        let stopped = stop.signal().is_some();
        let begun = Instant::now();
        let mut result = Ok(());
        for words in &self.after {
            let (timeout, stop) = if stopped {
                let allowed = allowed_after_a_signal(begun.elapsed());
                (self.timeout.min(allowed), None)
            } else {
                (self.timeout, Some(stop))
            };
            let ended = run(words, &environment, timeout, stop).await;
            result = result.and(ended);
        }
        result
    }
}

/// How long a command may take when those before it took `elapsed`.
fn allowed_after_a_signal(elapsed: Duration) -> Duration {
    let left = ALL_AFTER_A_SIGNAL.saturating_sub(elapsed);
    AFTER_A_SIGNAL.min(left).max(LEAST)
}

fn commands(section: &mut Section<'_>, key: &str) -> Vec<Vec<String>> {
    let commands = match section.get::<Commands>(key) {
        None => Vec::new(),
        Some(Commands::One(words)) if words.is_empty() => Vec::new(),
        Some(Commands::One(words)) => vec![words],
        Some(Commands::Several(commands)) => commands,
    };
    let has_program = |words: &Vec<String>| words.first().is_some_and(|word| !word.is_empty());
    if !commands.iter().all(has_program) {
        section.fault(
            key,
            "takes a program and its arguments in each list, like [[\"mount\", \"/mnt/backup\"]]",
        );
    } else if commands.iter().flatten().any(|word| word.contains('\0')) {
        section.fault(key, "takes no zero bytes");
    }
    commands
}

async fn run(
    words: &[String],
    environment: &BTreeMap<&str, &str>,
    timeout: Duration,
    stop: Option<&Stop>,
) -> Result<(), CommandFailure> {
    let invocation = Invocation {
        words,
        environment,
        priority: None,
        timeout,
        output: Output {
            label: "hook",
            plain: process::without_colours,
            tells_of_failure: |_| false,
        },
        where_to_look: "see `[hooks]` in the configuration; no shell looks at it: a command is a list of words",
    };
    process::run(&invocation, stop).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Reader;

    fn read(text: &str) -> (Settings, Vec<String>) {
        let mut reader = Reader::new(text, [], None);
        let mut root = reader.root();
        let mut section = root.section("hooks");
        let settings = Settings::read(&mut section);
        section.finish();
        root.finish();
        let faults = reader.finish();
        (settings, faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn after_a_signal_all_that_hang_end_before_systemd_kills() {
        let (mut elapsed, mut allowed) = (Duration::ZERO, Vec::new());
        for _ in 0..4 {
            let next = allowed_after_a_signal(elapsed);
            elapsed += next;
            allowed.push(next.as_secs());
        }
        assert_eq!(allowed, [30, 30, 1, 1]);
        assert_eq!(
            allowed_after_a_signal(Duration::from_secs(50)).as_secs(),
            10
        );
    }

    #[test]
    fn one_command_is_a_list_and_several_are_a_list_of_lists() {
        for (text, commands) in [
            ("", 0),
            ("[hooks]\nbefore = []\n", 0),
            ("[hooks]\nbefore = [\"mount\", \"/mnt\"]\n", 1),
            ("[hooks]\nbefore = [[\"mount\", \"/mnt\"], [\"true\"]]\n", 2),
        ] {
            let (settings, faults) = read(text);
            assert_eq!(faults, [""; 0], "{text}");
            assert_eq!(settings.before.len(), commands, "{text}");
            assert!(!settings.has_after());
        }
        let (settings, _) = read("[hooks]\nbefore = [\"mount\", \"/mnt\"]\n");
        assert_eq!(settings.programs().collect::<Vec<_>>(), ["mount"]);
    }

    #[tokio::test]
    async fn an_endless_error_keeps_no_command_from_cleaning_up() {
        let (settings, _) = read("[hooks]\nafter = [\"sh\", \"-c\", \"test -n $BACKUP_ERROR\"]\n");
        let error = "ä".repeat(100_000);
        let outcome = Outcome {
            status: "failed",
            exit: 1,
            backup_id: None,
            run_id: "one",
            error: Some(&error),
        };
        let stop = Stop::listen().expect("signals");
        settings.after(&outcome, &stop).await.expect("it began");
    }

    #[test]
    fn what_is_no_command_is_a_fault() {
        for (line, fault) in [
            (
                "before = \"mount /mnt\"",
                "`hooks.before`: takes commands as lists",
            ),
            (
                "before = [[]]",
                "`hooks.before`: takes a program and its arguments",
            ),
            (
                "after = [[\"\", \"x\"]]",
                "`hooks.after`: takes a program and its arguments",
            ),
            (
                "after = [\"a\", [\"b\"]]",
                "`hooks.after`: takes commands as lists",
            ),
            ("after = [1]", "`hooks.after`: takes commands as lists"),
            (
                "before = [\"a\\u0000b\"]",
                "`hooks.before`: takes no zero bytes",
            ),
            (
                "timeout = \"0s\"",
                "`hooks.timeout`: takes at least one second",
            ),
            (
                "befor = []",
                "unknown key `hooks.befor`; did you mean `before`?",
            ),
        ] {
            let (_, faults) = read(&format!("[hooks]\n{line}\n"));
            assert_eq!(faults.len(), 1, "{line}: {faults:?}");
            assert!(
                faults[0].starts_with("line 2: ") && faults[0].contains(fault),
                "{faults:?}"
            );
        }
    }
}
