//! The index of projects that is stored beside a backup's manifest, `<backup ID>.projects.gz`: a line that names
//! the archive, then `[number, path, disk path]` for each project, compressed.

use std::io::{self, BufReader, Read, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Deserialize;
use serde_json::json;

use super::members::each_line;
use crate::gitlab::format::compressed::expand;
use crate::gitlab::projects::{self, Project};

/// The form of an index.
const FORMAT: u32 = 1;
/// What the names in an index may take, in bytes.
const MOST_NAMES: usize = 64 * 1024 * 1024;
/// What projects may take while a run looks at them, in bytes: about thirty thousand.
const MOST_OF_A_RUN: usize = 8 * 1024 * 1024;

/// A line of an index.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Archive { format: u32, archive: String },
    Project(u64, String, String),
}

/// Makes the index of an archive from its dump, compressed or not. Reads no more of that than it must, and fails
/// where it would take much memory.
pub fn make(archive: &str, dump: impl Read, index: impl Write) -> io::Result<()> {
    let all = read_dump(dump, MOST_OF_A_RUN)?;
    let mut lines = GzEncoder::new(index, Compression::default());
    writeln!(lines, "{}", json!({ "format": FORMAT, "archive": archive }))?;
    for Project {
        id,
        path,
        disk_path,
    } in all
    {
        writeln!(lines, "{}", json!([id, path, disk_path]))?;
    }
    lines.finish()?.flush()
}

/// The projects in a dump.
pub(super) fn read_dump(dump: impl Read, most: usize) -> io::Result<Vec<Project>> {
    let mut dump = BufReader::with_capacity(64 * 1024, expand(BufReader::new(dump))?);
    projects::read(&mut dump, most)
}

/// The projects in the index of `archive`.
pub(super) fn read(index: impl Read, archive: &str) -> io::Result<Vec<Project>> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut all = Vec::new();
    let mut names = 0;
    let mut is_of_this = false;
    each_line(index, |line| {
        match serde_json::from_slice(line)? {
            Line::Archive {
                format,
                archive: of,
            } => is_of_this = format == FORMAT && of == archive,
            Line::Project(id, path, disk_path) => {
                names += path.len() + disk_path.len() + size_of::<Project>();
                if !is_of_this || names > MOST_NAMES {
                    return Err(wrong("it is of another archive, or too long"));
                }
                all.push(Project {
                    id,
                    path,
                    disk_path,
                });
            }
        }
        Ok(())
    })?;
    if is_of_this {
        Ok(all)
    } else {
        Err(wrong("it is of another archive, or of a later form"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = "COPY public.routes (source_id, source_type, path) FROM stdin;\n\
        1\tProject\tdemo/website\n2\tNamespace\tdemo\n\\.\n";

    #[test]
    fn it_is_read_as_it_was_made() {
        let mut index = Vec::new();
        make("a.tar", DUMP.as_bytes(), &mut index).expect("made");
        let all = read(&index[..], "a.tar").expect("read");
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].id, all[0].path.as_str()), (1, "demo/website"));
        assert_eq!(all[0].disk_path, projects::hashed(1));
        for (index, archive) in [
            (&index[..], "b.tar"),
            (&index[..20], "a.tar"),
            (b"", "a.tar"),
        ] {
            assert!(read(index, archive).is_err());
        }
    }

    #[test]
    fn a_dump_that_cannot_be_read_makes_none() {
        for dump in ["", "BZh9", "COPY public.routes (path) FROM stdin;\n1\n"] {
            assert!(
                make("a.tar", dump.as_bytes(), Vec::new()).is_err(),
                "{dump}"
            );
        }
    }
}
