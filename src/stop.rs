//! SIGINT, SIGTERM and SIGHUP: the work stops where it can be taken up again.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// Tells whether the program has been asked to stop.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<Option<StopSignal>>);

/// Which signal asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopSignal {
    /// Ctrl-C.
    Interrupt,
    /// `kill`, or the machine going down.
    Terminate,
    /// The terminal is gone.
    Hangup,
}

impl StopSignal {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            StopSignal::Interrupt => "SIGINT",
            StopSignal::Terminate => "SIGTERM",
            StopSignal::Hangup => "SIGHUP",
        }
    }

    /// The exit status a shell would give it.
    pub fn exit_status(self) -> u8 {
        match self {
            StopSignal::Interrupt => 130,
            StopSignal::Terminate => 143,
            StopSignal::Hangup => 129,
        }
    }
}

impl Stop {
    /// Listens from now on; needs the runtime.
    pub fn listen() -> io::Result<Stop> {
        let (sender, receiver) = watch::channel(None);
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        // `nohup` wants the work to go on without a terminal.
        let mut hangup = if ignores_hangup() {
            None
        } else {
            Some(signal(SignalKind::hangup())?)
        };
        tokio::spawn(async move {
            loop {
                let came = tokio::select! {
                    _ = interrupt.recv() => StopSignal::Interrupt,
                    _ = terminate.recv() => StopSignal::Terminate,
                    () = hung_up(hangup.as_mut()) => StopSignal::Hangup,
                };
                // The first one decides.
                sender
                    .send_if_modified(|signal| signal.is_none() && signal.replace(came).is_none());
            }
        });
        Ok(Stop(receiver))
    }

    /// The signal, if one has come.
    pub fn signal(&self) -> Option<StopSignal> {
        *self.0.borrow()
    }

    /// Returns when a signal comes, or has come.
    pub async fn requested(&self) -> StopSignal {
        let mut receiver = self.0.clone();
        // The sender lives as long as the runtime.
        match receiver
            .wait_for(Option::is_some)
            .await
            .map(|signal| *signal)
        {
            Ok(Some(signal)) => signal,
            _ => std::future::pending().await,
        }
    }
}

async fn hung_up(hangup: Option<&mut Signal>) {
    match hangup {
        Some(hangup) => drop(hangup.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether the program was started with SIGHUP ignored: the first bit of `SigIgn`, see proc(5).
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 != 0)
}
