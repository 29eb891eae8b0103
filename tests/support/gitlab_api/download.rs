//! Exports that are fetched, whole or in part.

use std::sync::Arc;

use super::answer::{Answer, Payload, Reply};
use super::archive::Archive;
use super::exports::{key, look};
use super::limits::Limit;
use super::routes::Call;

/// `GET /projects/:id/export/download`.
pub fn download(call: &Call) -> Answer {
    let mut state = call.shared.state();
    let state = &mut *state;
    let (project, user) = look(call, state)?;
    let scope = (user, project.namespace());
    let limits = state.settings.limits;
    let minute = call.shared.options.minute;
    let standing = state.counted.count(Limit::Download, scope, &limits, minute);
    if let Some(refusal) = standing.refusal() {
        return Err(refusal);
    }
    let key = key(state, project.id, user);
    let Some(archive) = state.exports.file(key) else {
        return Err(Reply::message(404, "404 Not found or has expired"));
    };
    if state.settings.object_storage {
        let number = state.stored.len();
        state.stored.push(Arc::clone(&archive));
        let place = format!(
            "{}/object-storage/{number}?X-Amz-Signature={:x}",
            call.shared.url(),
            key.0
        );
        return Ok(Reply::new(302, "text/plain", "").with("Location", place));
    }
    Ok(serve(&archive, call, state.settings.validators))
}

/// What tells a client whether a file is still the one it has seen a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validators {
    /// Only the time, as a GitLab that serves it from its disk.
    LastModified,
    /// A tag as well, as object stores.
    Both,
    /// Nothing; and whole files, whatever part is asked for.
    NoRanges,
}

/// A file or the part of it that is asked for.
pub fn serve(archive: &Arc<Archive>, call: &Call, validators: Validators) -> Reply {
    let (range, condition) = (call.range.0.as_deref(), call.range.1.as_deref());
    let tag = format!("\"{}\"", &archive.sha256[..32]);
    let same = condition.is_none_or(|text| text == archive.modified || text == tag);
    let range = range.filter(|_| same && validators != Validators::NoRanges);
    let range = range.and_then(|text| text.strip_prefix("bytes="));
    let disposition = format!(
        "attachment; filename=\"{0}\"; filename*=UTF-8''{0}",
        archive.name
    );
    let whole = Reply::new(200, "application/gzip", "").with("Content-Disposition", disposition);
    let whole = match validators {
        Validators::NoRanges => whole,
        Validators::LastModified => whole
            .with("Accept-Ranges", "bytes")
            .with("Last-Modified", archive.modified.clone()),
        Validators::Both => whole
            .with("Accept-Ranges", "bytes")
            .with("Last-Modified", archive.modified.clone())
            .with("ETag", tag),
    };
    let len = archive.len;
    let (status, from, end) = match range.map_or(Part::Whole, |text| part(text, len)) {
        Part::Whole => (200, 0, len),
        Part::Some(from, end) => (206, from, end),
        Part::Beyond => {
            return Reply::new(416, "text/plain", "invalid range: failed to overlap\n")
                .with("Content-Range", format!("bytes */{len}"));
        }
    };
    let mut reply = whole;
    reply.status = status;
    if status == 206 {
        reply = reply.with("Content-Range", format!("bytes {from}-{}/{len}", end - 1));
    }
    reply.body = Payload::Archive {
        archive: Arc::clone(archive),
        from,
        len: end - from,
    };
    reply
}

/// What a `Range` header asks for.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    /// Nothing that is understood here, so that everything is sent.
    Whole,
    /// From the first byte to behind the last.
    Some(u64, u64),
    /// Something behind the end.
    Beyond,
}

fn part(text: &str, len: u64) -> Part {
    let Some((first, last)) = text.split_once('-') else {
        return Part::Whole;
    };
    let numbers = (first.parse::<u64>(), last.parse::<u64>());
    match (first, last, numbers) {
        ("", _, (_, Ok(0))) => Part::Beyond,
        ("", _, (_, Ok(last))) => Part::Some(len.saturating_sub(last), len),
        (_, "", (Ok(first), _)) if first < len => Part::Some(first, len),
        (_, _, (Ok(first), Ok(last))) if first <= last && first < len => {
            Part::Some(first, len.min(last + 1))
        }
        (_, "", (Ok(_), _)) => Part::Beyond,
        (_, _, (Ok(first), Ok(last))) if first <= last => Part::Beyond,
        _ => Part::Whole,
    }
}

#[cfg(test)]
mod tests {
    use super::{Part, part};

    #[test]
    fn parts() {
        for (text, expected) in [
            ("0-", Part::Some(0, 100)),
            ("10-", Part::Some(10, 100)),
            ("10-19", Part::Some(10, 20)),
            ("90-200", Part::Some(90, 100)),
            ("-7", Part::Some(93, 100)),
            ("-200", Part::Some(0, 100)),
            ("100-", Part::Beyond),
            ("100-110", Part::Beyond),
            ("-0", Part::Beyond),
            ("20-10", Part::Whole),
            ("0-1,5-6", Part::Whole),
            ("x", Part::Whole),
        ] {
            assert_eq!(part(text, 100), expected, "{text}");
        }
    }
}
