//! The mail system of this machine: any program that is called `sendmail` and takes a mail as that does.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use lettre::Message;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::timeout;

use crate::error::{Error, ErrorKind};
use crate::process::{find_program, search_path};

const ACTION: &str = "sending the mail by sendmail";
/// Of what it says no more is shown, in bytes.
const LONGEST_WORDS: u64 = 1_000;
/// How long its last words are awaited: what it leaves in the background may hold its standard error open.
const LATE_WORDS: Duration = Duration::from_secs(1);

/// Where it is.
pub fn find() -> Result<PathBuf, Error> {
    find_program("sendmail", &search_path()).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, ACTION, "there is no sendmail on this machine").hint(
            "install a mail system (apt-get install msmtp-mta, or postfix), or name a mail server in `notify.email.smtp`",
        )
    })
}

/// The processes of a call; none outlives it.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // It has ended, nearly always.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

/// Hands a mail over; whoever waits drops the call when it takes too long.
pub async fn send(letter: &Message) -> Result<(), Error> {
    let failed = |reply: String| Error::new(ErrorKind::Invalid, ACTION, reply);
    let path = search_path();
    let mut command = Command::new(find()?);
    command
        // A line with a single dot is no end.
        .arg("-i")
        .env_clear()
        .env("PATH", path)
        .env("HOME", "/root")
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    if let Some(from) = letter.envelope().from() {
        command.arg("-f").arg::<&str>(from.as_ref());
    }
    for to in letter.envelope().to() {
        command.arg::<&str>(to.as_ref());
    }
    let mut child = command
        .spawn()
        .map_err(|error| failed(format!("it cannot be started: {error}")))?;
    let _group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
    // It takes lines as this machine ends them.
    let text = String::from_utf8_lossy(&letter.formatted()).replace("\r\n", "\n");
    let mut words = Vec::new();
    let (input, errors) = (child.stdin.take(), child.stderr.take());
    let writing = async {
        if let Some(mut input) = input {
            // If it does not want all of it, its status says why.
            let _ = input.write_all(text.as_bytes()).await;
        }
    };
    let reading = async {
        if let Some(errors) = errors {
            let mut errors = errors.take(LONGEST_WORDS);
            // What it said so far is said.
            let _ = errors.read_to_end(&mut words).await;
            // The rest is read, so that it does not wait for ever.
            let _ = tokio::io::copy(&mut errors.into_inner(), &mut tokio::io::sink()).await;
        }
    };
    let ended = async {
        let (status, ()) = tokio::join!(child.wait(), writing);
        status
    };
    let status = {
        tokio::pin!(ended, reading);
        tokio::select! {
            status = &mut ended => {
                // What it said last is on its way.
                let _ = timeout(LATE_WORDS, &mut reading).await;
                status
            }
            () = &mut reading => ended.await,
        }
    };
    let status = status.map_err(|error| failed(format!("it cannot be waited for: {error}")))?;
    if status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&words);
    let said = words.lines().map(str::trim).rfind(|line| !line.is_empty());
    let said = said.map(|line| format!(": {line}")).unwrap_or_default();
    Err(failed(format!("it ended with {status}{said}"))
        .hint("try it by hand: echo test | sendmail -i ADDRESS; or name a mail server in `notify.email.smtp`"))
}
