//! What is asked of files and folders: look, list, read, store a small one, delete.

use std::sync::Arc;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderValue, RANGE};
use serde_json::{Value, json};

use super::{Call, Dropbox, argument_header, at};
use crate::content_hash::Digest;
use crate::destination::{Entry, FileEntry, LARGEST_SMALL_FILE, LONGEST_RANGE, Space};
use crate::error::{Error, ErrorKind};
use crate::http::Payload;
use crate::retry::{Patience, retry};
use crate::source::Source;
use crate::units::Size;

/// A folder with more files is not one of ours.
const MOST_ENTRIES: usize = 500_000;
/// So many pages, some of which may be empty, are followed.
const MOST_PAGES: u32 = 10_000;
/// A listing that the service makes begin anew more often is given up.
const MOST_RESETS: u32 = 5;

impl Dropbox {
    /// What is at a path; none if nothing is.
    pub async fn stat(&self, path: &str, patience: &Patience) -> Result<Option<Entry>, Error> {
        let action = format!("{}: looking at {path}", self.name);
        match self
            .rpc(
                &action,
                "files/get_metadata",
                &json!({ "path": path }),
                patience,
            )
            .await?
        {
            Ok(value) if value.get(".tag").and_then(Value::as_str) == Some("deleted") => Ok(None),
            Ok(value) => {
                let unknown = || {
                    Error::new(
                        ErrorKind::Unexpected,
                        &action,
                        "neither a file nor a folder",
                    )
                };
                Entry::parse(&value).map(Some).ok_or_else(unknown)
            }
            Err(refusal) if refusal.tags == "path/not_found" => Ok(None),
            Err(refusal) => Err(refusal.error(ErrorKind::Invalid, &action)),
        }
    }

    /// Everything directly in a folder; none if there is no such folder.
    pub async fn list(
        &self,
        folder: &str,
        patience: &Patience,
    ) -> Result<Option<Vec<Entry>>, Error> {
        let action = format!("{}: listing {folder}", self.name);
        let (mut endpoint, mut argument) = (
            "files/list_folder",
            json!({ "path": folder, "limit": 1000 }),
        );
        let mut entries = Vec::new();
        let (mut anew, mut pages) = (0, 0);
        loop {
            let page = match self.rpc(&action, endpoint, &argument, patience).await? {
                Ok(page) => page,
                Err(refusal) if refusal.tags == "path/not_found" => return Ok(None),
                Err(refusal) if refusal.tags == "reset" && anew < MOST_RESETS => {
                    anew += 1;
                    entries.clear();
                    (endpoint, argument) = (
                        "files/list_folder",
                        json!({ "path": folder, "limit": 1000 }),
                    );
                    continue;
                }
                Err(refusal) => return Err(refusal.error(ErrorKind::Invalid, &action)),
            };
            let found = page.get("entries").and_then(Value::as_array);
            let more = page.get("has_more").and_then(Value::as_bool);
            let cursor = page.get("cursor").filter(|cursor| cursor.is_string());
            // Half a listing would look like backups that are gone.
            let unknown = |what: &str| Error::new(ErrorKind::Unexpected, &action, what);
            let (Some(found), Some(more)) = (found, more) else {
                return Err(unknown("the reply is no listing"));
            };
            entries.extend(found.iter().filter_map(Entry::parse));
            match (more, cursor) {
                (false, _) => return Ok(Some(entries)),
                (true, Some(cursor)) if entries.len() < MOST_ENTRIES && pages < MOST_PAGES => {
                    pages += 1;
                    (endpoint, argument) =
                        ("files/list_folder/continue", json!({ "cursor": cursor }));
                }
                (true, Some(_)) => return Err(unknown("the listing has no end")),
                (true, None) => return Err(unknown("the listing cannot be continued")),
            }
        }
    }

    /// How full the account is.
    pub async fn space(&self, patience: &Patience) -> Result<Space, Error> {
        let action = format!("{}: asking for free space", self.name);
        let answer = self
            .rpc(&action, "users/get_space_usage", &Value::Null, patience)
            .await?;
        let usage = answer.map_err(|refusal| refusal.error(ErrorKind::Unexpected, &action))?;
        Ok(space(&usage))
    }

    /// Deletes a file, but only if it still is the content that `rev` names; `false` if it is gone.
    pub async fn delete(&self, path: &str, rev: &str, patience: &Patience) -> Result<bool, Error> {
        let action = format!("{}: deleting {path}", self.name);
        let argument = json!({ "path": path, "parent_rev": rev });
        match self
            .rpc(&action, "files/delete_v2", &argument, patience)
            .await?
        {
            Ok(_) => Ok(true),
            Err(refusal) if refusal.tags == "path_lookup/not_found" => Ok(false),
            Err(refusal) => Err(refusal.error(ErrorKind::Invalid, &action)),
        }
    }

    /// Reads a part of a file, at most [`LONGEST_RANGE`] bytes; shorter only at its end.
    pub async fn read(
        &self,
        path: &str,
        offset: u64,
        len: u64,
        patience: &Patience,
    ) -> Result<Vec<u8>, Error> {
        let action = format!("{}: reading {path} from byte {offset}", self.name);
        let last = offset + len.min(LONGEST_RANGE).saturating_sub(1);
        let range =
            HeaderValue::from_str(&format!("bytes={offset}-{last}")).expect("digits make a header");
        let call = Call {
            action: &action,
            url: at(&self.content_url, "/2/files/download"),
            headers: vec![argument_header(&json!({ "path": path })), (RANGE, range)],
            reply_wait: self.http.stall(),
            empty_reply: false,
        };
        let idle = self
            .idle_readers
            .lock()
            .ok()
            .and_then(|mut idle| idle.pop());
        let line = idle.unwrap_or_else(|| self.http.line());
        let answer = retry(&self.pause, patience, async || {
            let reply = self
                .exchange(&line, &call, Payload::Bytes(Bytes::new()))
                .await?;
            match reply.status {
                206 => Ok(Ok(reply.body)),
                // A range that starts behind the end.
                416 => Ok(Ok(Vec::new())),
                _ => match self.understand(&call, &reply)? {
                    Ok(_) => Err(Error::new(
                        ErrorKind::Unexpected,
                        &action,
                        "the whole file instead of a part",
                    )),
                    Err(refusal) => Ok(Err(refusal)),
                },
            }
        });
        let answer = answer.await;
        if let Ok(mut idle) = self.idle_readers.lock() {
            idle.push(line);
        }
        answer?.map_err(|refusal| {
            let gone = refusal.tags.starts_with("path/not_found");
            refusal.error(
                if gone {
                    ErrorKind::NotFound
                } else {
                    ErrorKind::Invalid
                },
                &action,
            )
        })
    }

    /// Stores a small file in one request, in the place of whatever file has that path. `hash` is its
    /// content hash, which the service checks before it stores anything, and tells again.
    pub async fn put(
        &self,
        path: &str,
        source: &Arc<dyn Source>,
        hash: Digest,
        patience: &Patience,
    ) -> Result<FileEntry, Error> {
        let action = format!("{}: storing {path}", self.name);
        if source.len() > LARGEST_SMALL_FILE {
            let what = format!("it is larger than {}", Size(LARGEST_SMALL_FILE));
            return Err(Error::new(ErrorKind::Invalid, action, what));
        }
        let argument = json!({
            "path": path,
            "mode": "overwrite",
            "autorename": false,
            "mute": true,
            "content_hash": hash,
        });
        let octets = HeaderValue::from_static("application/octet-stream");
        let call = Call {
            action: &action,
            url: at(&self.content_url, "/2/files/upload"),
            headers: vec![argument_header(&argument), (CONTENT_TYPE, octets)],
            reply_wait: self.http.stall(),
            empty_reply: false,
        };
        let answer = retry(&self.pause, patience, async || {
            let body = Payload::Range(source.clone(), 0..source.len(), None);
            match self.call(&self.content_line, &call, body).await? {
                Err(refusal) if refusal.tags == "content_hash_mismatch" => {
                    Err(refusal.error(ErrorKind::Corrupt, &action))
                }
                Ok(stored) => match Entry::parse(&stored).and_then(|entry| entry.file) {
                    Some(file) if file.content_hash == Some(hash) => Ok(Ok(file)),
                    Some(_) => Err(Error::new(
                        ErrorKind::Corrupt,
                        &action,
                        "other bytes were stored",
                    )),
                    None => {
                        let what = "the reply does not describe the stored file";
                        Err(Error::new(ErrorKind::Unavailable, &action, what))
                    }
                },
                Err(refusal) => Ok(Err(refusal)),
            }
        });
        answer.await?.map_err(|refusal| {
            if refusal.tags.starts_with("path/insufficient_space") {
                return refusal
                    .error(ErrorKind::NoSpace, &action)
                    .hint("make room in Dropbox");
            }
            let conflict = refusal.tags.starts_with("path/conflict");
            refusal.error(
                if conflict {
                    ErrorKind::AlreadyExists
                } else {
                    ErrorKind::Invalid
                },
                &action,
            )
        })
    }
}

/// How full the account is, as it is for a member of a team: what stops first, the team's limit or the member's.
fn space(usage: &Value) -> Space {
    let number = |value: &Value, key: &str| value.get(key).and_then(Value::as_u64);
    let space = |used: Option<u64>, total: Option<u64>| Space {
        free: used
            .zip(total)
            .map(|(used, total)| total.saturating_sub(used)),
        used,
        total,
    };
    let used = number(usage, "used");
    let allocation = &usage["allocation"];
    let allocated = number(allocation, "allocated");
    match allocation.get(".tag").and_then(Value::as_str) {
        Some("individual") => space(used, allocated),
        Some("team") => {
            let team = space(number(allocation, "used"), allocated);
            // Some teams are only warned of their members' limits.
            let kind = allocation.pointer("/user_within_team_space_limit_type/.tag");
            let hard = kind
                .and_then(Value::as_str)
                .is_none_or(|kind| kind == "stop_sync");
            let limit = number(allocation, "user_within_team_space_allocated")
                .filter(|limit| *limit > 0 && hard);
            let own = number(allocation, "user_within_team_space_used_cached").or(used);
            let member = space(own, limit);
            let member_is_first = match (member.free, team.free) {
                (Some(member), Some(team)) => member < team,
                (member, _) => member.is_some(),
            };
            if member_is_first { member } else { team }
        }
        _ => space(used, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_of_a_person_and_of_a_team_member() {
        let told = |usage: Value| {
            let space = space(&usage);
            (space.free, space.used, space.total)
        };
        let person = json!({ "used": 10, "allocation": { ".tag": "individual", "allocated": 15 } });
        assert_eq!(told(person), (Some(5), Some(10), Some(15)));
        let over = json!({ "used": 20, "allocation": { ".tag": "individual", "allocated": 15 } });
        assert_eq!(told(over), (Some(0), Some(20), Some(15)));
        let member = json!({ "used": 7, "allocation": { ".tag": "team", "allocated": 100, "used": 50,
            "user_within_team_space_allocated": 9, "user_within_team_space_used_cached": 7 } });
        assert_eq!(told(member), (Some(2), Some(7), Some(9)));
        let warned = json!({ "used": 7, "allocation": { ".tag": "team", "allocated": 100, "used": 50,
            "user_within_team_space_allocated": 9, "user_within_team_space_used_cached": 7,
            "user_within_team_space_limit_type": { ".tag": "alert_only" } } });
        assert_eq!(told(warned), (Some(50), Some(50), Some(100)));
        let full_team = json!({ "used": 7, "allocation": { ".tag": "team", "allocated": 100, "used": 99,
            "user_within_team_space_allocated": 9 } });
        assert_eq!(told(full_team), (Some(1), Some(99), Some(100)));
        let unlimited = json!({ "used": 7, "allocation": { ".tag": "team", "allocated": 100, "used": 50,
            "user_within_team_space_allocated": 0 } });
        assert_eq!(told(unlimited), (Some(50), Some(50), Some(100)));
        for (nothing, used) in [
            (
                json!({ "used": 7, "allocation": { ".tag": "other" } }),
                Some(7),
            ),
            (json!({ "used": 7 }), Some(7)),
            (
                json!({ "allocation": { ".tag": "individual", "allocated": "much" } }),
                None,
            ),
            (json!(null), None),
        ] {
            assert_eq!(told(nothing), (None, used, None));
        }
    }
}
