//! What is asked of the user, on a terminal or through a pipe.
//!
//! Everything here is written to standard error: standard output is for results.

use std::io::{self, BufRead, Read, Write};
use std::path::Path;
use std::time::Duration;

use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};

use super::super::setup::Failure;
use crate::stop::{Stop, StopSignal};

/// A longer line is no answer; bytes. A terminal's own limit.
const LONGEST_LINE: u64 = 4096;
/// A terminal that is closed ends the input and sends a signal; which comes first is chance.
const SIGNAL_OF_A_CLOSED_TERMINAL: Duration = Duration::from_millis(200);

/// Whether a terminal shows what is typed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Echo {
    /// It does.
    On,
    /// It does not.
    Off,
}

/// Asks, and hears of signals meanwhile.
pub struct Ask<'a> {
    /// Whether the program has been asked to stop.
    pub stop: &'a Stop,
    /// Whether standard input is a terminal.
    pub terminal: bool,
    /// Whether somebody sits there who can be asked again.
    pub answers: bool,
    /// What there is to say when there is no answer: what was not done, and how to begin again.
    pub unanswered: &'a str,
}

impl Ask<'_> {
    /// A line, without the blanks around it; none at the end of the input. On a terminal the end fails.
    pub async fn line(&self, prompt: &str, echo: Echo) -> Result<Option<String>, Failure> {
        let silence = (self.terminal && echo == Echo::Off).then(Silence::begin);
        say(prompt);
        // On a thread of its own, so that a signal is heard.
        let line = tokio::select! {
            line = tokio::task::spawn_blocking(read_line) => {
                line.unwrap_or_else(|error| Err(io::Error::other(error)))
            }
            signal = self.stop.requested() => return Err(self.stopped(signal)),
        };
        drop(silence);
        match line {
            Ok(Some(line)) => Ok(Some(line)),
            Ok(None) if !self.terminal => Ok(None),
            ended => {
                let signal = self.stop.requested();
                if let Ok(signal) = tokio::time::timeout(SIGNAL_OF_A_CLOSED_TERMINAL, signal).await
                {
                    return Err(self.stopped(signal));
                }
                let why = match ended {
                    Err(error) => format!("the answer could not be read: {error}"),
                    Ok(_) => "the input ended".to_owned(),
                };
                Err((1, format!("{why}; {}", self.unanswered)))
            }
        }
    }

    fn stopped(&self, signal: StopSignal) -> Failure {
        let what = self.unanswered.lines().next().unwrap_or_default();
        let message = format!("stopped by {}; {what}", signal.name());
        (signal.exit_status(), message)
    }

    /// Whether a first configuration is wanted. The error ends the log-in.
    pub async fn whether_to_write(&self, path: &Path) -> Result<bool, String> {
        let question = format!("Write a first configuration to {}? [Y/n] ", path.display());
        loop {
            let answer = self.line(&question, Echo::On).await;
            let answer = answer.map_err(|(_, message)| message)?;
            match answer.unwrap_or_default().to_ascii_lowercase().as_str() {
                "" | "y" | "yes" => return Ok(true),
                "n" | "no" => return Ok(false),
                _ => {}
            }
        }
    }
}

/// Says something to whoever sits there.
pub fn say(text: &str) {
    // A closed standard error changes nothing.
    let _ = io::stderr().write_all(text.as_bytes());
}

fn read_line() -> io::Result<Option<String>> {
    let mut line = Vec::new();
    let mut input = io::stdin().lock().take(LONGEST_LINE);
    if input.read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    let line = String::from_utf8(line).map_err(|_| io::Error::other("it is no UTF-8"))?;
    Ok(Some(line.trim().to_owned()))
}

/// The terminal shows nothing that is typed, until this is dropped.
struct Silence(Option<Termios>);

impl Silence {
    fn begin() -> Silence {
        let begun = tcgetattr(io::stdin()).and_then(|before| {
            let mut silent = before.clone();
            silent.local_modes.remove(LocalModes::ECHO);
            // The end of the line is shown, or what follows would stand behind the question.
            silent.local_modes.insert(LocalModes::ECHONL);
            // No Ctrl-Z: the shell would get a silent terminal.
            silent.special_codes[SpecialCodeIndex::VSUSP] = 0;
            tcsetattr(io::stdin(), OptionalActions::Now, &silent)?;
            Ok(before)
        });
        Silence(begun.ok())
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // A terminal that is gone shows nothing, either.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}
