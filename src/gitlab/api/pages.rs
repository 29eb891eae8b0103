//! Lists, page by page (<https://docs.gitlab.com/api/rest/#pagination>).

use std::marker::PhantomData;

use serde::de::DeserializeOwned;

use super::{Api, Call, header, parse};
use crate::error::Error;
use crate::retry::Patience;

/// A list that is read page by page.
pub struct Pages<'a, T> {
    api: &'a Api,
    action: String,
    path: Vec<String>,
    query: Vec<(String, String)>,
    next: Option<String>,
    total: Option<u64>,
    of: PhantomData<T>,
}

impl<'a, T: DeserializeOwned> Pages<'a, T> {
    /// `action` says what the list is, in an error.
    pub fn new(api: &'a Api, action: &str, path: &[&str], query: &[(&str, &str)]) -> Pages<'a, T> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Pages {
            api,
            action: action.to_owned(),
            path: path.iter().map(|part| (*part).to_owned()).collect(),
            query: query.iter().map(owned).collect(),
            next: Some("1".to_owned()),
            total: None,
            of: PhantomData,
        }
    }

    /// The next page; none after the last.
    pub async fn next(&mut self, patience: &Patience) -> Result<Option<Vec<T>>, Error> {
        let Some(page) = self.next.take() else {
            return Ok(None);
        };
        let path: Vec<_> = self.path.iter().map(String::as_str).collect();
        let pairs = self
            .query
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let mut query: Vec<_> = pairs.collect();
        query.extend([("per_page", "100"), ("page", page.as_str())]);
        let call = Call::get(&self.action, &path).query(&query);
        let reply = self.api.reply(&call, patience).await?;
        self.next = header(&reply.headers, "x-next-page")
            .filter(|next| !next.is_empty())
            .map(str::to_owned);
        self.total = header(&reply.headers, "x-total").and_then(|total| total.parse().ok());
        parse(&self.action, &reply).map(Some)
    }

    /// How many rows there are in all, as far as GitLab tells.
    pub fn total(&self) -> Option<u64> {
        self.total
    }
}
