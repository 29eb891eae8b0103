//! Which paths a place can take.

use super::{Destination, Service};

/// What the name of a file that is on its way has more than that of the one it will become.
const ROOM_FOR_PARTIAL: usize = 26;

/// The longest path that a service takes, and the longest part of it, in bytes.
struct Longest {
    path: usize,
    part: usize,
    /// What the last part may be shorter than that by.
    room: usize,
}

impl Destination {
    /// Whether names that differ only in case mean the same file
    /// (<https://help.dropbox.com/organize/file-names>). What a disk or a `WebDAV` server does with them is its own.
    pub fn ignores_case(&self) -> bool {
        matches!(self.service, Service::Dropbox(_))
    }

    /// Why nothing can have this path here; none if something can.
    pub fn refusal_of(&self, path: &str) -> Option<String> {
        too_long(path, &longest(&self.service))
    }
}

fn longest(service: &Service) -> Longest {
    match service {
        // Of names it counts the characters, which this is stricter than.
        Service::Dropbox(_) => Longest {
            path: 4_096,
            part: 255,
            room: 0,
        },
        Service::WebDav(_) => ON_DISK,
        Service::OpenDal(place) if place.can_rename() => ON_DISK,
        Service::OpenDal(_) => {
            // <https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html>; the others have the same.
            Longest {
                path: 1_024,
                part: 1_024,
                room: 0,
            }
        }
    }
}

const ON_DISK: Longest = Longest {
    path: 4_000,
    part: 255,
    room: ROOM_FOR_PARTIAL,
};

fn too_long(path: &str, longest: &Longest) -> Option<String> {
    if path.len() > longest.path {
        let len = path.len();
        return Some(format!(
            "its path would have {len} bytes there, of {} at most",
            longest.path
        ));
    }
    let last = path.rsplit('/').next().map_or(0, str::len);
    let parts = path.split('/').map(str::len).max().unwrap_or(0);
    let len = parts.max(last + longest.room);
    (len > longest.part).then(|| {
        format!(
            "a name in its path would have {len} bytes there, of {} at most",
            longest.part
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_for_a_disk_fits_an_object_store() {
        let store = Longest {
            path: 1_024,
            part: 1_024,
            room: 0,
        };
        let (max, over, deep) = ("p".repeat(255), "p".repeat(256), "p/".repeat(600));
        for (path, disk, object) in [
            ("/group/app/t.tar.gz".to_owned(), true, true),
            (format!("/{max}/t.tar.gz"), true, true),
            (format!("/{over}/t.tar.gz"), false, true),
            (format!("/group/{max}"), false, true),
            (format!("/{}", "p".repeat(229)), true, true),
            (format!("/{}", "p".repeat(230)), false, true),
            (format!("/{deep}t"), true, false),
            (format!("/{}", "é".repeat(128)), false, true),
        ] {
            assert_eq!(too_long(&path, &ON_DISK).is_none(), disk, "{path}");
            assert_eq!(too_long(&path, &store).is_none(), object, "{path}");
        }
    }
}
