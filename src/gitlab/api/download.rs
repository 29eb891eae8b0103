//! Downloading an export: a stream, from any byte on, which GitLab may leave to an object store.

use std::time::Duration;

use chrono::DateTime;
use reqwest::Url;
use reqwest::header::{
    CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG, HeaderMap, HeaderName, HeaderValue,
    IF_RANGE, LAST_MODIFIED, LOCATION, RANGE,
};

use super::answer::{not_understood, page, sent_elsewhere};
use super::{Api, Asking, Call, MOST_REDIRECTS, explained, header, is_redirect};
use crate::error::{Error, ErrorKind};
use crate::http::{Method, Payload, Reply, Request, is_loopback};
use crate::retry::{Patience, retry};
use crate::units::Size;

/// Where in the file a piece belongs, and which file it is.
#[derive(Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// Of the piece's first byte. The first piece begins at 0 where what was asked for could not be continued.
    pub offset: u64,
    /// How long the whole file is, in bytes, if that is told.
    pub len: Option<u64>,
    /// What the file is known by, to continue it later; none if it cannot be continued.
    pub validator: Option<&'a str>,
    /// How old the file was when it was sent, by the clock of whoever sent it, if that is told.
    pub age: Option<Duration>,
}

/// How the pieces of one reply are taken.
struct Stream<'a> {
    take: &'a mut (dyn FnMut(&Part<'_>, &[u8]) -> bool + Send),
    /// Where the next byte of the body lies in the file; none before the first.
    next: Option<u64>,
    validator: Option<String>,
    age: Option<Duration>,
    len: Option<u64>,
    /// How many bytes the reply was to have, and how many came.
    stated: Option<u64>,
    came: u64,
    /// Why it is no export.
    wrong: Option<String>,
    /// Whoever takes the pieces wants no more.
    stopped: bool,
}

impl Api {
    /// Tries again what was not downloaded, when that helps: after a pause that holds for all downloads.
    pub async fn retry_download<T>(
        &self,
        patience: &Patience,
        attempt: impl AsyncFnMut() -> Result<T, Error>,
    ) -> Result<T, Error> {
        retry(&self.downloads.pause, patience, attempt).await
    }

    /// Downloads an export, once: from byte `from` on if it still is the file that `validator` tells, else from its
    /// beginning, as the first [`Part`] says. `take` gets the pieces and says whether it wants more; if it does not,
    /// `false` is returned. A download that was cut is an error.
    pub async fn download_export(
        &self,
        project: u64,
        from: u64,
        validator: Option<&str>,
        mut take: impl FnMut(&Part<'_>, &[u8]) -> bool + Send,
    ) -> Result<bool, Error> {
        let id = project.to_string();
        let action = format!("downloading the export of the project {id}");
        let path = ["projects", &id, "export", "download"];
        let asked = self.url(&Call::get(&action, &path));
        let mut range = Vec::new();
        let validator = validator.and_then(|text| HeaderValue::from_str(text).ok());
        if let Some(validator) = validator.filter(|_| from > 0) {
            let value = HeaderValue::from_str(&format!("bytes={from}-"));
            range.push((RANGE, value.expect("digits make a header")));
            range.push((IF_RANGE, validator));
        }
        self.pause.over().await;
        let mut url = asked.clone();
        for _ in 0..=MOST_REDIRECTS {
            let mut stream = Stream::new(&mut take);
            let reply = self.stream(&action, &url, &range, &mut stream).await?;
            match reply.status {
                200 | 206 => return stream.end(&action),
                _ if url.origin() != self.base.origin()
                    && !is_redirect(reply.status)
                    && reply.status != 416 =>
                {
                    return Err(refused_there(&action, &reply));
                }
                status if is_redirect(status) => {
                    url = self.sent_on(&action, &asked, &url, &reply)?;
                }
                // Behind the end: either that is all there is, or it is another file now.
                416 if from > 0 && whole(&reply.headers) == Some(from) => return Ok(true),
                416 => {
                    let what = "the export there is not the one that was begun";
                    return Err(Error::new(ErrorKind::SourceChanged, action, what));
                }
                404 => {
                    let error = self.judge(&action, &reply, self.downloads.minute());
                    let error = error.unwrap_or_else(|| unexpected(&action, &reply));
                    return Err(error.hint(
                        "exports expire after a day or so: the next run asks for another one",
                    ));
                }
                status => {
                    let error = self.judge(&action, &reply, self.downloads.minute());
                    let error = error.unwrap_or_else(|| unexpected(&action, &reply));
                    // A role that is too small for a download is so for its project only.
                    return Err(self.explained(error, status, project, None).await);
                }
            }
        }
        let what = "GitLab sends on again and again";
        Err(Error::new(ErrorKind::Unexpected, action, what))
    }

    /// Where a reply sends on to: to GitLab itself, or to the store that it keeps exports in.
    fn sent_on(&self, action: &str, asked: &Url, from: &Url, reply: &Reply) -> Result<Url, Error> {
        let to = header(&reply.headers, LOCATION.as_str()).and_then(|to| from.join(to).ok());
        let is_safe = |to: &Url| {
            to.scheme() == "https" || is_loopback(to) || to.origin() == self.base.origin()
        };
        match to {
            // A page to log in at is no export.
            Some(to) if is_safe(&to) && !to.path().ends_with("/users/sign_in") => Ok(to),
            to => Err(sent_elsewhere(action, asked, to.as_ref())),
        }
    }

    async fn stream(
        &self,
        action: &str,
        url: &Url,
        range: &[(HeaderName, HeaderValue)],
        stream: &mut Stream<'_>,
    ) -> Result<Reply, Error> {
        let service = self.service.as_ref().map_err(Clone::clone)?;
        let mut headers = range.to_vec();
        // An object store is shown nothing: the address itself is the secret.
        let is_gitlab = url.origin() == self.base.origin();
        headers.extend(service.token.clone().filter(|_| is_gitlab));
        let request = Request {
            method: Method::GET,
            url: url.clone(),
            headers,
            body: Payload::Bytes(bytes::Bytes::new()),
            reply_wait: self.stall,
        };
        // A line has one connection to each of the hosts that it is used for.
        let line = self.line(service);
        let _asking = Asking::begin(&self.asking);
        let first = range.first().and_then(|(_, value)| value.to_str().ok());
        let from = first.and_then(|first| {
            first
                .strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse()
                .ok()
        });
        let reply = line
            .receive(action, request, |status, headers, piece| {
                stream.push(status, headers, from, piece)
            })
            .await
            .map_err(explained)?;
        self.put_back(line);
        if is_gitlab {
            self.heed(&reply.headers, reply.status);
        }
        // Nothing comes of an empty body, so that its head was not seen yet.
        if matches!(reply.status, 200 | 206) && stream.next.is_none() && stream.wrong.is_none() {
            stream.begin(reply.status, &reply.headers, from, &[]);
        }
        Ok(reply)
    }
}

impl<'a> Stream<'a> {
    fn new(take: &'a mut (dyn FnMut(&Part<'_>, &[u8]) -> bool + Send)) -> Stream<'a> {
        Stream {
            take,
            next: None,
            validator: None,
            age: None,
            len: None,
            stated: None,
            came: 0,
            wrong: None,
            stopped: false,
        }
    }

    /// From the head of the reply; `from`: what was asked for.
    fn begin(&mut self, status: u16, headers: &HeaderMap, from: Option<u64>, piece: &[u8]) {
        self.validator = validator(headers);
        self.age = age(headers);
        self.stated =
            header(headers, CONTENT_LENGTH.as_str()).and_then(|len| len.trim().parse().ok());
        if let Some(page) = page(headers, piece) {
            self.wrong = Some(format!("{page} came instead: a proxy or a login page"));
            return;
        }
        let kind = header(headers, CONTENT_TYPE.as_str()).unwrap_or_default();
        if kind.starts_with("application/json") {
            self.wrong = Some("a message came instead of a file".to_owned());
            return;
        }
        if status == 206 {
            let begins = first_byte(headers);
            if begins.is_none() || begins != from {
                self.wrong = Some("another part came than the one that was asked for".to_owned());
                return;
            }
            self.next = begins;
            self.len = whole(headers);
        } else {
            self.next = Some(0);
            self.len = self.stated;
        }
    }

    /// Whether more is wanted.
    fn push(&mut self, status: u16, headers: &HeaderMap, from: Option<u64>, piece: &[u8]) -> bool {
        if self.next.is_none() {
            self.begin(status, headers, from, piece);
        }
        let Some(offset) = self.next.filter(|_| self.wrong.is_none()) else {
            return false;
        };
        let part = Part {
            offset,
            len: self.len,
            validator: self.validator.as_deref(),
            age: self.age,
        };
        if !(self.take)(&part, piece) {
            self.stopped = true;
            return false;
        }
        self.came += piece.len() as u64;
        self.next = Some(offset + piece.len() as u64);
        true
    }

    /// Whether all of it has come.
    fn end(self, action: &str) -> Result<bool, Error> {
        if let Some(wrong) = self.wrong {
            return Err(Error::new(ErrorKind::Unexpected, action, wrong)
                .hint("is `gitlab.url` the address of a GitLab, and what stands before it?"));
        }
        if self.stopped {
            return Ok(false);
        }
        let cut = |came: u64, of: u64| {
            let what = format!("the download was cut: {} of {} came", Size(came), Size(of));
            Err(Error::new(ErrorKind::Unavailable, action, what))
        };
        match (self.stated, self.len, self.next) {
            (Some(stated), _, _) if stated != self.came => cut(self.came, stated),
            (_, Some(len), Some(next)) if len != next => cut(next, len),
            _ => Ok(true),
        }
    }
}

/// What a file can be continued by: a weak entity tag says nothing about its bytes.
fn validator(headers: &HeaderMap) -> Option<String> {
    let tag = header(headers, ETAG.as_str()).filter(|tag| tag.starts_with('"'));
    let told = tag.or_else(|| header(headers, LAST_MODIFIED.as_str()));
    told.filter(|told| told.len() <= 256).map(str::to_owned)
}

/// How long ago the file was written. Both times are told by the same clock, be it right or wrong.
fn age(headers: &HeaderMap) -> Option<Duration> {
    let time = |name: HeaderName| {
        let told = header(headers, name.as_str())?;
        DateTime::parse_from_rfc2822(told.trim()).ok()
    };
    (time(DATE)? - time(LAST_MODIFIED)?).to_std().ok()
}

/// The first byte of a part: `bytes 5-9/100`.
fn first_byte(headers: &HeaderMap) -> Option<u64> {
    let range = header(headers, CONTENT_RANGE.as_str())?;
    let (first, _) = range.strip_prefix("bytes ")?.split_once('-')?;
    first.trim().parse().ok()
}

/// How long the whole is of which a part came: `bytes 5-9/100`, `bytes */100`.
fn whole(headers: &HeaderMap) -> Option<u64> {
    let (_, whole) = header(headers, CONTENT_RANGE.as_str())?.split_once('/')?;
    whole.trim().parse().ok()
}

/// What an object store says may hold the address, which is a secret.
fn refused_there(action: &str, reply: &Reply) -> Error {
    let kind = match reply.status {
        408 | 429 | 500.. => ErrorKind::Unavailable,
        _ => ErrorKind::Unexpected,
    };
    let what = format!(
        "the object store that GitLab keeps exports in answered {}",
        reply.status
    );
    Error::new(kind, action, what)
        .hint("GitLab's administrator can find out why, or let downloads come through GitLab (proxy_download)")
}

fn unexpected(action: &str, reply: &Reply) -> Error {
    let none = serde::de::Error::custom("an export was asked for");
    not_understood(action, reply, &none)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_as_old_as_its_server_says() {
        let date = "Sun, 22 Nov 2026 04:00:00 GMT";
        for (date, modified, expected) in [
            (date, "Sun, 22 Nov 2026 03:59:30 GMT", Some(30)),
            (date, "Sat, 21 Nov 2026 04:00:00 GMT", Some(86_400)),
            // However wrong that clock is.
            (
                "Thu, 01 Jan 1970 00:01:00 GMT",
                "Thu, 01 Jan 1970 00:00:00 GMT",
                Some(60),
            ),
            // Of the future, or not told in a way that is known.
            (date, "Sun, 22 Nov 2026 04:00:01 GMT", None),
            (date, "yesterday", None),
            ("", date, None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(DATE, HeaderValue::from_static(date));
            headers.insert(LAST_MODIFIED, HeaderValue::from_static(modified));
            let expected = expected.map(Duration::from_secs);
            assert_eq!(age(&headers), expected, "{date}, {modified}");
        }
        assert_eq!(age(&HeaderMap::new()), None);
    }
}
