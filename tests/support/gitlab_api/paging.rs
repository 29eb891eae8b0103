//! Pages, as GitLab hands them out (<https://docs.gitlab.com/api/rest/#pagination>).

use serde_json::Value;

use super::answer::{Answer, Reply};
use super::routes::Call;

/// Which rows a request wants.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// Counted from 1.
    pub number: usize,
    /// Rows of one page.
    pub size: usize,
}

impl Page {
    /// From `page` and `per_page`.
    pub fn asked(call: &Call) -> Answer<Page> {
        let number = |name: &str, usual: usize| match call.query(name) {
            None | Some("") => Ok(usual),
            Some(text) => text
                .parse::<i64>()
                .map_err(|_| Reply::error(400, format!("{name} is invalid")))
                .map(|value| usize::try_from(value).unwrap_or(0)),
        };
        let size = number("per_page", 20)?;
        if size == 0 {
            return Err(Reply::error(400, "per_page does not have a valid value"));
        }
        Ok(Page {
            number: number("page", 1)?.max(1),
            size: size.min(100),
        })
    }
}

/// A page of rows by its number, with all headers. Lists longer than `counted_up_to` are not counted for clients;
/// `most`: where keysets are offered, pages do not go further.
pub fn by_number<T>(
    call: &Call,
    rows: &[T],
    show: impl Fn(&T) -> Value,
    counted_up_to: usize,
    most: Option<usize>,
) -> Answer {
    let page = Page::asked(call)?;
    let first = (page.number - 1).saturating_mul(page.size);
    let asked = page.number.saturating_mul(page.size);
    if let Some(most) = most.filter(|most| asked > *most) {
        return Err(Reply::error(
            405,
            format!(
                "Offset pagination has a maximum allowed offset of {most} for requests that return objects of type \
                 Project. Remaining records can be retrieved using keyset pagination."
            ),
        ));
    }
    let rows_here = rows.iter().skip(first).take(page.size);
    let shown: Vec<_> = rows_here.map(show).collect();
    let pages = rows.len().div_ceil(page.size).max(1);
    let counted = rows.len() <= counted_up_to;
    let next = (page.number < pages).then_some(page.number + 1);
    let previous = (page.number > 1).then(|| page.number - 1);
    let mut links = Vec::new();
    let mut link = |number: Option<usize>, rel: &str| {
        let Some(number) = number else { return };
        let changed = [
            ("page", number.to_string()),
            ("per_page", page.size.to_string()),
        ];
        links.push(format!(
            "<{}>; rel=\"{rel}\"",
            call.address_with(&changed, &[])
        ));
    };
    link(previous, "prev");
    link(next, "next");
    link(Some(1), "first");
    link(counted.then_some(pages), "last");
    let text = |number: Option<usize>| number.map(|n| n.to_string()).unwrap_or_default();
    let mut reply = Reply::json(200, &Value::Array(shown))
        .with("Link", links.join(", "))
        .with("X-Next-Page", text(next))
        .with("X-Page", page.number.to_string())
        .with("X-Per-Page", page.size.to_string())
        .with("X-Prev-Page", text(previous));
    if counted {
        reply = reply
            .with("X-Total", rows.len().to_string())
            .with("X-Total-Pages", pages.to_string());
    }
    Ok(reply)
}

/// A page of rows by the number of the row before it. `rows` are in ascending order of `id`.
pub fn by_key<T>(
    call: &Call,
    rows: &[T],
    id: impl Fn(&T) -> u64,
    show: impl Fn(&T) -> Value,
) -> Answer {
    if call.query("order_by").is_some_and(|order| order != "id") {
        let order = call.query("order_by").unwrap_or_default();
        let what = format!(
            "Keyset pagination is not yet available for this type of request: order_by={order}"
        );
        return Err(Reply::error(405, what));
    }
    let size = Page::asked(call)?.size;
    let number = |name: &str| call.query(name).and_then(|text| text.parse::<u64>().ok());
    let ascending = call.query("sort") == Some("asc");
    let (after, before) = (number("id_after"), number("id_before"));
    let fits = |row: &&T| {
        after.is_none_or(|after| id(row) > after) && before.is_none_or(|before| id(row) < before)
    };
    let mut fitting: Vec<_> = rows.iter().filter(fits).collect();
    if !ascending {
        fitting.reverse();
    }
    let shown = &fitting[..fitting.len().min(size)];
    let reply = Reply::json(200, &shown.iter().map(|row| show(row)).collect());
    // Whether there are more is not looked at: the page after the last one is empty, and has no link.
    let Some(last) = shown.last() else {
        return Ok(reply);
    };
    let key = if ascending { "id_after" } else { "id_before" };
    let changed = [(key, id(last).to_string())];
    let next = call.address_with(&changed, &["page"]);
    Ok(reply.with("Link", format!("<{next}>; rel=\"next\"")))
}
