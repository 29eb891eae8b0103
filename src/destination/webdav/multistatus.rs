//! What a server tells of files and folders: the reply to `PROPFIND`
//! (<https://www.rfc-editor.org/rfc/rfc4918#section-13>).
//!
//! It comes from elsewhere: names may have any prefix, addresses may be whole or only a path, and nothing in
//! it is followed. A document with its own entities is refused.

use chrono::{DateTime, Utc};
use percent_encoding::percent_decode_str;
use quick_xml::NsReader;
use quick_xml::events::Event;
use quick_xml::name::ResolveResult;

/// WebDAV's own namespace.
const DAV: &str = "DAV:";
/// That of ownCloud, which Nextcloud uses too.
const OWNCLOUD: &str = "http://owncloud.org/ns";
/// Elements lie no deeper in any reply of this kind.
const DEEPEST: usize = 32;

/// What is asked for.
pub const QUESTION: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n\
    <d:propfind xmlns:d=\"DAV:\" xmlns:oc=\"http://owncloud.org/ns\"><d:prop>\
    <d:resourcetype/><d:getcontentlength/><d:getetag/><d:getlastmodified/>\
    <oc:checksums/><oc:permissions/></d:prop></d:propfind>\n";
/// What is asked for to learn how full it is (<https://www.rfc-editor.org/rfc/rfc4331>).
pub const SPACE: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n\
    <d:propfind xmlns:d=\"DAV:\"><d:prop><d:resourcetype/>\
    <d:quota-available-bytes/><d:quota-used-bytes/></d:prop></d:propfind>\n";

/// A file or folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Item {
    /// The parts of its path on the server, decoded.
    pub path: Vec<String>,
    /// Whether it is a folder.
    pub is_folder: bool,
    /// In bytes.
    pub size: Option<u64>,
    /// Names its content, as the server writes it.
    pub etag: Option<String>,
    /// As the server writes it.
    pub modified: Option<String>,
    /// `SHA1:… MD5:…`, where the server knows them.
    pub checksums: Option<String>,
    /// Whether it is ownCloud's kind of server.
    pub is_owncloud: bool,
    /// What still fits.
    pub available: Option<u64>,
    /// What is taken.
    pub used: Option<u64>,
}

impl Item {
    /// When it was changed last, by the server's clock.
    pub fn modified_at(&self) -> Option<DateTime<Utc>> {
        let modified = DateTime::parse_from_rfc2822(self.modified.as_deref()?);
        modified.ok().map(|time| time.to_utc())
    }
}

/// One `propstat` as it is read: what it says counts if its status is a success.
#[derive(Default)]
struct Stat {
    item: Item,
    is_good: bool,
}

/// Where in the document we are: the local names of what is open, with whether they are WebDAV's own.
struct Open {
    space: Space,
    name: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Space {
    Dav,
    OwnCloud,
    Other,
}

/// Reads a reply: one item for each thing that is there. Things whose path is no UTF-8 are left out, as none
/// of ours is called so. The error says what is wrong.
pub fn parse(text: &str) -> Result<Vec<Item>, String> {
    let mut reader = NsReader::from_str(text);
    let mut open: Vec<Open> = Vec::new();
    let mut items = Vec::new();
    let mut written = String::new();
    let mut stat = Stat::default();
    let mut item = Item::default();
    let mut href: Option<String> = None;
    let (mut is_multistatus, mut is_whole, mut is_gone) = (false, false, false);
    loop {
        let (space, event) = reader
            .read_resolved_event()
            .map_err(|error| format!("the reply is no XML: {error}"))?;
        let space = match space {
            ResolveResult::Bound(space) if space.as_ref() == DAV => Space::Dav,
            ResolveResult::Bound(space) if space.as_ref() == OWNCLOUD => Space::OwnCloud,
            _ => Space::Other,
        };
        let (opened, end) = match &event {
            Event::Start(tag) => (Some(tag.local_name()), false),
            Event::Empty(tag) => (Some(tag.local_name()), true),
            Event::End(_) => (None, true),
            Event::Text(text) => {
                written.push_str(&text.xml10_content());
                continue;
            }
            Event::CData(text) => {
                written.push_str(&text.xml10_content());
                continue;
            }
            Event::GeneralRef(reference) => {
                let known = reference.resolve_char_ref().ok().flatten();
                let known = known.or_else(|| predefined(reference));
                written.push(known.ok_or("the reply has entities of its own")?);
                continue;
            }
            Event::DocType(_) => return Err("the reply has a document type of its own".to_owned()),
            Event::Eof => break,
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => continue,
        };
        if let Some(name) = opened {
            if open.len() >= DEEPEST {
                return Err("the reply is nested too deeply".to_owned());
            }
            let name = name.as_ref().to_owned();
            match (open.len(), space, name.as_str()) {
                (0, Space::Dav, "multistatus") => is_multistatus = true,
                (0, ..) => {
                    return Err(format!("the reply is a <{name}>, no <multistatus>"));
                }
                (1, Space::Dav, "response") => {
                    (item, href, is_gone) = (Item::default(), None, false);
                }
                (2, Space::Dav, "propstat") => stat = Stat::default(),
                (5, Space::Dav, "collection") => stat.item.is_folder = true,
                _ => {}
            }
            written.clear();
            open.push(Open { space, name });
        }
        if end {
            let Some(Open { space, name }) = open.pop() else {
                return Err("the reply ends too often".to_owned());
            };
            match (open.len(), space, name.as_str()) {
                (0, ..) => is_whole = true,
                (1, Space::Dav, "response") => {
                    let path = href.take().as_deref().map(path_of);
                    match path {
                        None => return Err("the reply does not say what it is about".to_owned()),
                        Some(Some(path)) if !is_gone => items.push(Item {
                            path,
                            ..std::mem::take(&mut item)
                        }),
                        Some(_) => {}
                    }
                }
                (2, Space::Dav, "href") => href = Some(written.trim().to_owned()),
                (2, Space::Dav, "status") => is_gone = !is_success(&written),
                (2, Space::Dav, "propstat") if stat.is_good => {
                    item = std::mem::take(&mut stat).item;
                }
                (3, Space::Dav, "status") => stat.is_good = is_success(&written),
                (4, ..) if open.last().is_some_and(|prop| prop.name == "prop") => {
                    property(&mut stat.item, space, &name, &written);
                }
                (5, Space::OwnCloud, "checksum") => {
                    stat.item.checksums = Some(written.trim().to_owned());
                }
                _ => {}
            }
            written.clear();
        }
    }
    if is_multistatus && is_whole && open.is_empty() {
        Ok(items)
    } else {
        Err("the reply is cut off".to_owned())
    }
}

/// The message of an error of sabre/dav, which Nextcloud and ownCloud are built on.
pub fn message(text: &str) -> Option<String> {
    let mut reader = NsReader::from_str(text);
    let (mut is_message, mut found) = (false, String::new());
    for _ in 0..1_000 {
        match reader.read_event().ok()? {
            Event::Start(start) => is_message = start.local_name().as_ref() == "message",
            Event::Text(text) if is_message => found.push_str(&text.xml10_content()),
            Event::CData(text) if is_message => found.push_str(&text.xml10_content()),
            Event::GeneralRef(reference) if is_message => {
                let known = reference.resolve_char_ref().ok().flatten();
                found.extend(known.or_else(|| predefined(&reference)));
            }
            Event::End(_) if is_message => break,
            Event::Eof | Event::DocType(_) => break,
            _ => {}
        }
    }
    let found = found.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    (!found.is_empty()).then(|| found.chars().take(200).collect())
}

fn predefined(reference: &str) -> Option<char> {
    match reference {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => None,
    }
}

fn property(item: &mut Item, space: Space, name: &str, written: &str) {
    let text = Some(written.trim()).filter(|text| !text.is_empty());
    match (space, name) {
        (Space::Dav, "getcontentlength") => item.size = text.and_then(|text| text.parse().ok()),
        (Space::Dav, "getetag") => item.etag = text.map(str::to_owned),
        (Space::Dav, "getlastmodified") => item.modified = text.map(str::to_owned),
        // Negative where it is not known or without a limit.
        (Space::Dav, "quota-available-bytes") => {
            item.available = text.and_then(|text| text.parse().ok());
        }
        (Space::Dav, "quota-used-bytes") => item.used = text.and_then(|text| text.parse().ok()),
        (Space::OwnCloud, "permissions") => item.is_owncloud = true,
        _ => {}
    }
}

/// `HTTP/1.1 200 OK`.
fn is_success(status: &str) -> bool {
    let code = status.split_ascii_whitespace().nth(1);
    code.is_some_and(|code| code.starts_with('2'))
}

/// The parts of the path in an address, which may begin with a scheme and a host; none if it is no UTF-8.
pub fn path_of(address: &str) -> Option<Vec<String>> {
    let path = match address.split_once("://") {
        Some((scheme, rest)) if scheme.chars().all(|c| c.is_ascii_alphanumeric()) => {
            rest.split_once('/').map_or("", |(_, path)| path)
        }
        _ => address,
    };
    let parts = path.split('/').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let decoded = percent_decode_str(part).decode_utf8().ok()?;
            Some(decoded.into_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Nextcloud 29 tells a folder and a file.
    const NEXTCLOUD: &str = r#"<?xml version="1.0"?>
<d:multistatus xmlns:d="DAV:" xmlns:s="http://sabredav.org/ns" xmlns:oc="http://owncloud.org/ns" xmlns:nc="http://nextcloud.org/ns"><d:response><d:href>/remote.php/dav/files/pi/Data/</d:href><d:propstat><d:prop><d:resourcetype><d:collection/></d:resourcetype><d:getetag>&quot;65f&quot;</d:getetag><d:getlastmodified>Sat, 16 Dec 2023 20:29:43 GMT</d:getlastmodified><oc:permissions>RGDNVCK</oc:permissions></d:prop><d:status>HTTP/1.1 200 OK</d:status></d:propstat><d:propstat><d:prop><d:getcontentlength/><oc:checksums/></d:prop><d:status>HTTP/1.1 404 Not Found</d:status></d:propstat></d:response><d:response><d:href>/remote.php/dav/files/pi/Data/a%20%c3%a4%26.tar</d:href><d:propstat><d:prop><d:resourcetype/><d:getcontentlength>7</d:getcontentlength><d:getetag>&quot;66a&quot;</d:getetag><oc:checksums><oc:checksum>SHA1:ab MD5:cd</oc:checksum></oc:checksums><oc:permissions>RGDNVW</oc:permissions></d:prop><d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response></d:multistatus>"#;

    /// As Apache's `mod_dav` tells a file, and something that is gone.
    const APACHE: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<D:multistatus xmlns:D="DAV:" xmlns:ns0="DAV:">
<D:response xmlns:lp1="DAV:" xmlns:lp2="http://apache.org/dav/props/">
<D:href>https://dav.example.org:8443/dav/b.tar</D:href>
<D:propstat><D:prop>
<lp1:resourcetype/><lp1:getcontentlength>12</lp1:getcontentlength>
<lp1:getlastmodified>Sat, 16 Dec 2023 20:29:43 GMT</lp1:getlastmodified><lp1:getetag>W/"c-5"</lp1:getetag>
<lp2:executable>F</lp2:executable>
</D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat>
</D:response>
<D:response><D:href>/dav/gone</D:href><D:status>HTTP/1.1 404 Not Found</D:status></D:response>
</D:multistatus>
"#;

    #[test]
    fn what_servers_tell_is_understood() {
        let items = parse(NEXTCLOUD).expect("a reply");
        let path = |parts: &[&str]| {
            parts
                .iter()
                .map(|part| (*part).to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(items.len(), 2);
        assert!(items[0].is_folder && items[0].is_owncloud && items[0].size.is_none());
        let file = Item {
            path: path(&["remote.php", "dav", "files", "pi", "Data", "a ä&.tar"]),
            size: Some(7),
            etag: Some("\"66a\"".to_owned()),
            checksums: Some("SHA1:ab MD5:cd".to_owned()),
            is_owncloud: true,
            ..Item::default()
        };
        assert_eq!(items[1], file);
        let items = parse(APACHE).expect("a reply");
        let file = Item {
            path: path(&["dav", "b.tar"]),
            size: Some(12),
            etag: Some("W/\"c-5\"".to_owned()),
            modified: Some("Sat, 16 Dec 2023 20:29:43 GMT".to_owned()),
            ..Item::default()
        };
        assert_eq!(items, [file]);
    }

    #[test]
    fn room_is_told_or_not() {
        let told = |available: &str| {
            let text = format!(
                "<multistatus xmlns=\"DAV:\"><response><href>/</href><propstat><prop>\
                 <quota-available-bytes>{available}</quota-available-bytes><quota-used-bytes>5</quota-used-bytes>\
                 </prop><status>HTTP/1.1 200 OK</status></propstat></response></multistatus>"
            );
            let items = parse(&text).expect("a reply");
            (items[0].available, items[0].used)
        };
        assert_eq!(told("7"), (Some(7), Some(5)));
        // Nextcloud: not computed, unknown, without a limit.
        for none in ["-1", "-2", "-3", "", "much"] {
            assert_eq!(told(none), (None, Some(5)), "{none}");
        }
    }

    #[test]
    fn what_is_cut_off_or_something_else_is_refused() {
        for whole in [NEXTCLOUD, APACHE.trim_end()] {
            for end in (0..whole.len()).filter(|end| whole.is_char_boundary(*end)) {
                assert!(parse(&whole[..end]).is_err(), "cut at {end}");
            }
        }
        let bomb = "<!DOCTYPE m [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;&a;\">]><multistatus xmlns=\"DAV:\">&b;</multistatus>";
        let deep = format!("<multistatus xmlns=\"DAV:\">{}", "<a>".repeat(1_000));
        let entity =
            "<multistatus xmlns=\"DAV:\"><response><href>/&own;</href></response></multistatus>";
        let nameless = "<multistatus xmlns=\"DAV:\"><response></response></multistatus>";
        for (text, why) in [
            ("", "cut off"),
            ("<html><body>Log in</body></html>", "is a <html>"),
            ("<multistatus></multistatus>", "is a <multistatus>"),
            (bomb, "document type"),
            (deep.as_str(), "too deeply"),
            (entity, "entities of its own"),
            (nameless, "what it is about"),
            ("{\"json\": 1}", "cut off"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn addresses_are_taken_apart() {
        let parts = |address: &str| path_of(address).map(|parts| parts.join("|"));
        for (address, expected) in [
            ("/a/b/", Some("a|b")),
            ("https://host:1/a/b%2Fc", Some("a|b/c")),
            ("https://host", Some("")),
            ("", Some("")),
            ("/%e2%82%ac//x", Some("€|x")),
            ("/a://b", Some("a:|b")),
            ("/%ff", None),
            ("/100%", Some("100%")),
        ] {
            assert_eq!(parts(address).as_deref(), expected, "{address}");
        }
    }
}
