//! Lists, page by page (<https://docs.gitlab.com/api/rest/#pagination>).
//!
//! No more than one page is in memory. A list counts as whole only if as many rows came as GitLab says there are: one
//! that changed while it was read is read once more, so that a row can come twice, and one that ends short is an
//! error.

use std::collections::HashSet;
use std::marker::PhantomData;

use reqwest::Url;
use reqwest::header::{HeaderMap, LINK};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Api, Call, header, parse};
use crate::error::{Error, ErrorKind};
use crate::http::Reply;
use crate::retry::Patience;

/// So many rows are asked for at a time: GitLab gives no more.
const PER_PAGE: u64 = 100;
/// A list with more pages has no end.
const MOST_PAGES: usize = 10_000;

/// A list that is read page by page.
pub struct Pages<'a, T> {
    api: &'a Api,
    action: String,
    path: Vec<String>,
    /// Of the first page.
    query: Query,
    /// Of the next page.
    next: Option<Query>,
    /// What has been asked for since the list began.
    asked: HashSet<Query>,
    /// How many rows have come since then.
    rows: u64,
    /// How many there were to be when it began.
    first_total: Option<u64>,
    total: Option<u64>,
    is_second_time: bool,
    of: PhantomData<T>,
}

type Query = Vec<(String, String)>;

/// All that is looked at in a row whose shape is the caller's business.
#[derive(Deserialize)]
struct Row {
    id: Option<u64>,
}

impl<'a, T: DeserializeOwned> Pages<'a, T> {
    /// `action` says what the list is, in an error.
    pub fn new(api: &'a Api, action: &str, path: &[&str], query: &[(&str, &str)]) -> Pages<'a, T> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let mut query: Query = query.iter().map(owned).collect();
        set(&mut query, "per_page", &PER_PAGE.to_string());
        if !is_keyset(&query) {
            set(&mut query, "page", "1");
        }
        Pages {
            api,
            action: action.to_owned(),
            path: path.iter().map(|part| (*part).to_owned()).collect(),
            next: Some(query.clone()),
            query,
            asked: HashSet::new(),
            rows: 0,
            first_total: None,
            total: None,
            is_second_time: false,
            of: PhantomData,
        }
    }

    /// The next page; none after the last.
    pub async fn next(&mut self, patience: &Patience) -> Result<Option<Vec<T>>, Error> {
        let Some(query) = self.next.take() else {
            return Ok(None);
        };
        if self.asked.len() >= MOST_PAGES || !self.asked.insert(query.clone()) {
            let what =
                "the list has no end: GitLab names a page as the next one that has been read";
            return Err(Error::new(ErrorKind::Unexpected, &self.action, what));
        }
        let path: Vec<_> = self.path.iter().map(String::as_str).collect();
        let pairs = query.iter();
        let pairs: Vec<_> = pairs
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let call = Call::get(&self.action, &path).query(&pairs);
        let reply = self.api.reply(&call, patience).await?;
        let rows: Vec<T> = parse(&self.action, &reply)?;
        self.rows += rows.len() as u64;
        self.total = header(&reply.headers, "x-total").and_then(|total| total.parse().ok());
        if self.asked.len() == 1 {
            self.first_total = self.total;
        }
        let next = following(&reply, &query, rows.len() as u64);
        self.next = next.map_err(|what| Error::new(ErrorKind::Unexpected, &self.action, what))?;
        if self.next.is_none() {
            self.end()?;
        } else if rows.is_empty() {
            let what = "a page is empty, and not the last one";
            return Err(Error::new(ErrorKind::Unexpected, &self.action, what));
        }
        // What came is progress, however long the whole list takes.
        patience.renew();
        Ok(Some(rows))
    }

    /// How many rows there are in all, as far as GitLab tells.
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// The last page has come: is that all?
    fn end(&mut self) -> Result<(), Error> {
        let Some(total) = self.total else {
            return Ok(());
        };
        let changed = self.first_total != Some(total) || self.rows != total;
        if !changed || (self.is_second_time && self.rows >= total) {
            return Ok(());
        }
        if self.is_second_time {
            let what = format!("the list ended after {} of {total} rows, twice", self.rows);
            return Err(Error::new(ErrorKind::Unexpected, &self.action, what).hint(
                "it may be changing too fast: run it again; if it stays, a proxy on the way may shorten it",
            ));
        }
        tracing::info!(
            "{}: {} rows came of {total}: the list has changed meanwhile, and is read once more",
            self.action,
            self.rows
        );
        self.is_second_time = true;
        self.rows = 0;
        self.asked.clear();
        self.next = Some(self.query.clone());
        Ok(())
    }
}

/// What is asked next, after `query` brought so many rows; none: that was all. An error says what is wrong.
fn following(reply: &Reply, query: &Query, rows: u64) -> Result<Option<Query>, String> {
    let link = next_link(&reply.headers)?;
    let page = header(&reply.headers, "x-next-page");
    match (page, link) {
        // Proxies drop some of these headers, or all.
        (Some(page), _) if !page.trim().is_empty() => {
            let number: u64 = page
                .trim()
                .parse()
                .map_err(|_| "GitLab names a next page that is no number".to_owned())?;
            let mut next = query.clone();
            set(&mut next, "page", &number.to_string());
            Ok(Some(next))
        }
        (_, Some(link)) => Ok(Some(link)),
        (Some(_), None) => Ok(None),
        // GitLab links to the first page and the last as well: only the next one is missing.
        (None, None) if reply.headers.contains_key(LINK) => Ok(None),
        (None, None) if rows < per_page(&reply.headers) => Ok(None),
        // A full page, and no word on what comes behind it: nothing, or what a proxy has dropped.
        (None, None) if is_keyset(query) => {
            let rows: Vec<Row> = serde_json::from_slice(&reply.body).unwrap_or_default();
            let last = rows.last().and_then(|row| row.id);
            Ok(last.map(|id| {
                let mut next = query.clone();
                set(&mut next, "id_after", &id.to_string());
                next
            }))
        }
        (None, None) => {
            let page: u64 = value(query, "page")
                .and_then(|page| page.parse().ok())
                .unwrap_or(1);
            let mut next = query.clone();
            set(&mut next, "page", &(page + 1).to_string());
            Ok(Some(next))
        }
    }
}

/// What a link to the next page asks for. Only that: wherever it leads, what was asked first is asked again.
fn next_link(headers: &HeaderMap) -> Result<Option<Query>, String> {
    let links = headers
        .get_all(LINK)
        .iter()
        .filter_map(|link| link.to_str().ok());
    // An address holds no `<` and no `>`, so each link begins with one.
    let next = links.flat_map(|links| links.split('<')).find_map(|link| {
        let (address, parameters) = link.split_once('>')?;
        let is_next = parameters.split([';', ',']).any(|parameter| {
            let parameter = parameter.trim().to_ascii_lowercase();
            matches!(parameter.as_str(), "rel=\"next\"" | "rel=next")
        });
        is_next.then_some(address)
    });
    let Some(address) = next else {
        return Ok(None);
    };
    let wrong = || "GitLab names a next page that is no address".to_owned();
    // Only the query counts, so it does not matter what a relative one is relative to.
    let base = Url::parse("http://gitlab").map_err(|_| wrong())?;
    let url = base.join(address).map_err(|_| wrong())?;
    let pairs = url.query_pairs();
    let mut query: Query = pairs
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    if query.is_empty() {
        return Err("GitLab names a next page that is the first one".to_owned());
    }
    // A token in an address would stand in logs.
    query.retain(|(name, _)| !matches!(name.as_str(), "private_token" | "access_token"));
    Ok(Some(query))
}

fn per_page(headers: &HeaderMap) -> u64 {
    let told = header(headers, "x-per-page").and_then(|told| told.parse().ok());
    told.unwrap_or(PER_PAGE).clamp(1, PER_PAGE)
}

fn is_keyset(query: &Query) -> bool {
    value(query, "pagination") == Some("keyset")
}

fn value<'q>(query: &'q Query, name: &str) -> Option<&'q str> {
    let mut pairs = query.iter();
    let found = pairs.find(|(other, _)| other == name);
    found.map(|(_, value)| value.as_str())
}

fn set(query: &mut Query, name: &str, value: &str) {
    query.retain(|(other, _)| other != name);
    query.push((name.to_owned(), value.to_owned()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::{HeaderName, HeaderValue};

    fn next(query: &[(&str, &str)], headers: &[(&'static str, &'static str)], rows: u64) -> String {
        let pairs = query.iter();
        let query: Query = pairs
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let headers = headers.iter().map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        });
        let ids: Vec<_> = (1..=rows).map(|id| format!("{{\"id\":{id}}}")).collect();
        let reply = Reply {
            status: 200,
            headers: headers.collect(),
            body: format!("[{}]", ids.join(",")).into_bytes(),
        };
        match following(&reply, &query, rows) {
            Ok(None) => "end".to_owned(),
            Ok(Some(next)) => {
                let pairs: Vec<_> = next
                    .iter()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect();
                pairs.join("&")
            }
            Err(what) => what,
        }
    }

    #[test]
    fn the_next_page_is_found_whatever_headers_are_left() {
        const LAST: &str =
            "<https://a.b/x?page=1>; rel=\"first\", <https://a.b/x?page=3>; rel=\"last\"";
        const MORE: &str = "<https://a.b/x?page=1>; rel=\"prev\", <http://inside:80/x?page=4&per_page=100>; \
                            rel=\"next\", <https://a.b/x?page=9>; rel=\"last\"";
        for (headers, rows, expected) in [
            (&[("x-next-page", "4"), ("link", MORE)][..], 100, "page=4"),
            (&[("x-next-page", "")], 100, "end"),
            (&[("x-next-page", ""), ("link", LAST)], 7, "end"),
            (&[("link", MORE)], 100, "page=4&per_page=100"),
            (&[("link", LAST)], 100, "end"),
            (&[], 100, "page=4"),
            (&[], 99, "end"),
            (&[("x-per-page", "50")], 50, "page=4"),
            (
                &[("x-next-page", "x")],
                100,
                "GitLab names a next page that is no number",
            ),
            (
                &[("link", "<https://a.b/x>; rel=\"next\"")],
                9,
                "GitLab names a next page that is the first one",
            ),
            (
                &[("link", "<http://[>; rel=next")],
                9,
                "GitLab names a next page that is no address",
            ),
            (
                &[("link", "</x?page=5&private_token=marked>; rel=next")],
                9,
                "page=5",
            ),
        ] {
            assert_eq!(
                next(&[("page", "3")], headers, rows),
                expected,
                "{headers:?}"
            );
        }
    }

    #[test]
    fn keyset_pages_are_followed_by_their_links_or_by_their_last_row() {
        const LINK: &str =
            "<https://a.b/api/v4/projects?id_after=42&pagination=keyset>; rel=\"next\"";
        let keyset = [("pagination", "keyset"), ("id_after", "1")];
        for (headers, rows, expected) in [
            (&[("link", LINK)][..], 100, "id_after=42&pagination=keyset"),
            (&[], 99, "end"),
            (&[], 100, "pagination=keyset&id_after=100"),
        ] {
            assert_eq!(next(&keyset, headers, rows), expected);
        }
    }
}
