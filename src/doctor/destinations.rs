//! Each destination: credentials, rights, folders, room.
//!
//! What a token may do is not told when it is refreshed, so it is tried out, as at a log-in: a small file is stored,
//! looked at, read back and deleted.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout, timeout_at};

use super::Check;
use crate::archive::ArchiveKind;
use crate::destination::{Destination, Entry};
use crate::error::{Error, ErrorKind};
use crate::login::probe::{Probe, Proof};
use crate::retry::Patience;
use crate::stop::Stop;
use crate::units::{Size, Span};

const CREDENTIALS: &str = "credentials";
const RIGHTS: &str = "scopes";
const FOLDERS: &str = "folders";
const ROOM: &str = "quota";
/// All of these checks, in order.
const NAMES: [&str; 4] = [CREDENTIALS, RIGHTS, FOLDERS, ROOM];

/// No destination is waited for longer.
const LONGEST: Duration = Duration::from_secs(10);
/// What fails is tried again for so long: enough for a hiccup.
const TRIED_FOR: Duration = Duration::from_secs(2);
/// A small file that may have been left is deleted in this time, or it stays.
const CLEANING: Duration = Duration::from_secs(1);

const WHAT_ELSE: &str =
    "run it again; if it stays, look at proxies on the way: `doctor -vv` tells more";

/// Why something did not come about.
struct Refused {
    /// What happened, and the way out.
    message: String,
    /// The rights that it would have taken.
    lacks: Vec<String>,
    /// The place as a whole is not there.
    absent: bool,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Refused {
        Refused {
            message: error.to_string(),
            lacks: error.lacks().to_vec(),
            absent: error.is_absent(),
        }
    }
}

/// Where no destination is configured, or none could be understood.
pub(super) fn none() -> Vec<Check> {
    let names = NAMES.into_iter();
    names
        .map(|name| Check::skipped(name, "needs a destination in the configuration"))
        .collect()
}

/// Asks a destination for everything. `sizes`: how large the last archives were.
pub(super) async fn checks(
    destination: &Destination,
    sizes: &[(ArchiveKind, u64)],
    offline: bool,
    stop: &Stop,
) -> Vec<Check> {
    let place = Place {
        destination,
        deadline: Instant::now() + LONGEST,
    };
    if offline {
        return place.skipped(&NAMES, "--offline");
    }
    let patience = Patience::new(TRIED_FOR);
    if let Err(refused) = place.within(destination.authenticate(&patience)).await {
        if refused.absent && destination.is_optional() {
            let why = refused.message.lines().next().unwrap_or_default();
            return place.skipped(&NAMES, &format!("not there, and need not be: {why}"));
        }
        let mut checks = if refused.lacks.is_empty() {
            vec![Check::failed(CREDENTIALS, &refused.message)]
        } else {
            let missing = refused.lacks.into_iter().collect();
            vec![
                Check::ok(CREDENTIALS, place.named("accepted")),
                place.lacks(&missing),
            ]
        };
        let rest = place.skipped(&NAMES[checks.len()..], "needs the credentials");
        checks.extend(rest);
        return checks;
    }
    let (proof, folders, room) = tokio::join!(place.prove(stop), place.folders(), place.room());
    let is_full = matches!(&proof, Ok(proof) if full(proof));
    vec![
        Check::ok(CREDENTIALS, place.named(accepted(&proof))),
        place.judge_rights(&proof),
        place.judge_folders(folders),
        place.judge_room(room, sizes, is_full),
    ]
}

fn accepted(proof: &Result<Proof, Refused>) -> String {
    let account = proof
        .as_ref()
        .ok()
        .and_then(|proof| proof.account.as_deref());
    account.map_or_else(
        || "accepted".to_owned(),
        |account| format!("accepted, for {account}"),
    )
}

/// Whether it refused a small file for want of room.
fn full(proof: &Proof) -> bool {
    let kind = proof.error.as_ref().map(Error::kind);
    kind == Some(ErrorKind::NoSpace)
}

/// A destination, and when it is no longer waited for.
struct Place<'a> {
    destination: &'a Destination,
    deadline: Instant,
}

/// A folder, and how many things are in it: none if it is not there, an error if it is a file.
type Listed = (String, Result<Option<usize>, String>);

impl Place<'_> {
    fn named(&self, what: impl Display) -> String {
        format!("{}: {what}", self.destination.name())
    }

    fn skipped(&self, names: &[&'static str], why: &str) -> Vec<Check> {
        let names = names.iter();
        names
            .map(|name| Check::skipped(name, self.named(why)))
            .collect()
    }

    async fn within<T>(&self, asked: impl Future<Output = Result<T, Error>>) -> Result<T, Refused> {
        match timeout_at(self.deadline, asked).await {
            Ok(answer) => answer.map_err(Refused::from),
            Err(_) => Err(Refused {
                message: self.named(format!(
                    "no answer within {}\n  check the network",
                    Span(LONGEST)
                )),
                lacks: Vec::new(),
                absent: true,
            }),
        }
    }

    /// Tries everything out with a small file, and leaves none behind.
    async fn prove(&self, stop: &Stop) -> Result<Proof, Refused> {
        let probe = Probe::new(self.destination, TRIED_FOR);
        let proof = tokio::select! {
            proof = self.within(async { Ok(probe.make().await) }) => proof,
            signal = stop.requested() => Err(Refused {
                message: self.named(format!("stopped by {}", signal.name())),
                lacks: Vec::new(),
                absent: false,
            }),
        };
        if proof.is_err() {
            // It was broken off.
            let _ = timeout(CLEANING, probe.clean_up()).await;
        }
        proof
    }

    async fn folders(&self) -> Result<Vec<Listed>, Refused> {
        let kinds = self.destination.kinds().iter();
        let mut folders: Vec<_> = kinds.map(|kind| self.destination.folder(*kind)).collect();
        if folders.is_empty() {
            // Exports lie below its root, and have no manifests.
            folders.push("");
        } else {
            folders.push(self.destination.manifest_folder());
        }
        folders.sort_unstable();
        folders.dedup();
        let listed = join_all(folders.into_iter().map(|folder| self.list(folder))).await;
        listed.into_iter().collect()
    }

    async fn list(&self, folder: &str) -> Result<Listed, Refused> {
        let patience = Patience::new(TRIED_FOR);
        let destination = self.destination;
        let shown = if folder.is_empty() { "/" } else { folder };
        // A file cannot be listed, so it is looked at first; the root is always a folder.
        if !folder.is_empty() {
            match self.within(destination.stat(folder, &patience)).await? {
                Some(Entry { file: Some(_), .. }) => {
                    let message = self.named(format!(
                        "{shown} is a file, not a folder\n  rename it, or choose another folder"
                    ));
                    return Ok((shown.to_owned(), Err(message)));
                }
                Some(_) => {}
                None => return Ok((shown.to_owned(), Ok(None))),
            }
        }
        let listed = self.within(destination.list(folder, &patience)).await?;
        Ok((shown.to_owned(), Ok(listed.map(|entries| entries.len()))))
    }

    async fn room(&self) -> Result<Option<u64>, Refused> {
        let patience = Patience::new(TRIED_FOR);
        let space = self.within(self.destination.space(&patience)).await?;
        Ok(space.free)
    }

    fn lacks(&self, missing: &BTreeSet<String>) -> Check {
        let missing: Vec<_> = missing.iter().map(String::as_str).collect();
        let (missing, name) = (missing.join(", "), self.destination.name());
        Check::failed(RIGHTS, &self.named(format!("the token lacks the right {missing}"))).hint(format!(
            "tick {missing} under Permissions in the Dropbox app console, submit, and obtain a new token, for an old \
             one keeps the old rights: sudo gitlab-pi-backup login {name}"
        ))
    }

    fn judge_rights(&self, proof: &Result<Proof, Refused>) -> Check {
        match proof {
            Err(refused) => Check::failed(RIGHTS, &refused.message),
            Ok(proof) if !proof.missing.is_empty() => self.lacks(&proof.missing),
            Ok(proof) if full(proof) => {
                Check::skipped(RIGHTS, self.named("needs room for a small file"))
            }
            Ok(Proof {
                error: Some(error), ..
            }) => {
                let mut check = Check::failed(RIGHTS, &error.to_string());
                check.hint.get_or_insert_with(|| WHAT_ELSE.to_owned());
                check
            }
            Ok(_) => Check::ok(
                RIGHTS,
                self.named("a small file was stored, read back and deleted"),
            ),
        }
    }

    fn judge_folders(&self, folders: Result<Vec<Listed>, Refused>) -> Check {
        let folders = match folders {
            Ok(folders) => folders,
            Err(refused) if !refused.lacks.is_empty() => {
                return Check::skipped(FOLDERS, self.named("needs the right to list"));
            }
            Err(refused) => return Check::failed(FOLDERS, &refused.message),
        };
        let mut told = Vec::new();
        // Exports lie in folders of their groups.
        let (one, many) = if self.destination.kinds().is_empty() {
            ("entry", "entries")
        } else {
            ("file", "files")
        };
        for (folder, listed) in folders {
            match listed {
                Err(message) => return Check::failed(FOLDERS, &message),
                Ok(None) => told.push(format!("{folder} (made with the first archive)")),
                Ok(Some(1)) => told.push(format!("{folder} (1 {one})")),
                Ok(Some(files)) => told.push(format!("{folder} ({files} {many})")),
            }
        }
        Check::ok(FOLDERS, self.named(told.join(", ")))
    }

    fn judge_room(
        &self,
        room: Result<Option<u64>, Refused>,
        sizes: &[(ArchiveKind, u64)],
        full: bool,
    ) -> Check {
        let taken = sizes
            .iter()
            .filter(|(kind, _)| self.destination.takes(*kind));
        let needed: u64 = taken.map(|(_, size)| size).sum();
        let way_out = "make room there, or let [retention] do it: `gitlab-pi-backup prune --dry-run` shows what it would delete";
        let last = if needed > 0 {
            format!(", the last backup took {}", Size(needed))
        } else {
            String::new()
        };
        match room {
            Err(refused) if !refused.lacks.is_empty() => {
                Check::skipped(ROOM, self.named("needs the right to ask for it"))
            }
            Err(refused) => Check::failed(ROOM, &refused.message),
            Ok(Some(free)) if full || free < needed => {
                Check::failed(ROOM, &self.named(format!("{} free{last}", Size(free)))).hint(way_out)
            }
            Ok(None) if full => Check::failed(ROOM, &self.named("full")).hint(way_out),
            Ok(Some(free)) => Check::ok(ROOM, self.named(format!("{} free{last}", Size(free)))),
            Ok(None) => Check::skipped(ROOM, self.named("it does not say how much fits")),
        }
    }
}
