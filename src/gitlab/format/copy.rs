//! The rows of chosen tables in a dump: `COPY … FROM stdin`, in its text format
//! (<https://www.postgresql.org/docs/current/sql-copy.html>).
//!
//! Read once from front to back. Memory does not grow with the dump: of a longer line only the beginning is kept.

use std::io::{self, BufRead};

/// Of a line no more is kept, in bytes.
const LONGEST_LINE: usize = 1024 * 1024;

/// A table that is wanted, and its columns that are.
pub struct Table {
    /// Its name, in the schema `public`.
    pub name: &'static str,
    /// In the order they are handed on, whatever their order in the dump.
    pub columns: &'static [&'static str],
}

/// A row: a value for each wanted column, none for NULL or if the table has no such column.
pub type Row = Vec<Option<String>>;

/// Shows `each` row of the wanted tables, with the number of its table. Stops reading behind the last of them.
pub fn read(
    input: &mut dyn BufRead,
    tables: &[Table],
    each: &mut dyn FnMut(usize, Row) -> io::Result<()>,
) -> io::Result<()> {
    let mut line = Vec::new();
    let mut left: Vec<_> = tables.iter().map(|table| table.name).collect();
    while !left.is_empty() && read_line(input, &mut line)? {
        if !line.starts_with(b"COPY ") {
            continue;
        }
        let Some((name, columns)) = heading(&line) else {
            continue;
        };
        let wanted = tables.iter().position(|table| table.name == name);
        let places = wanted.map(|number| {
            let of = |column: &&str| columns.iter().position(|known| known == column);
            tables[number].columns.iter().map(of).collect::<Vec<_>>()
        });
        left.retain(|known| *known != name);
        loop {
            if !read_line(input, &mut line)? {
                let what = "it is cut off in the data of a table";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
            }
            if line == b"\\." {
                break;
            }
            if let (Some(number), Some(places)) = (wanted, &places) {
                let fields: Vec<_> = line.split(|byte| *byte == b'\t').collect();
                let value = |place: &Option<usize>| unescaped(fields.get((*place)?)?);
                each(number, places.iter().map(value).collect())?;
            }
        }
    }
    Ok(())
}

/// `COPY public.projects (id, "path") FROM stdin;`
fn heading(line: &[u8]) -> Option<(String, Vec<String>)> {
    let line = str::from_utf8(line).ok()?.trim_end_matches('\r');
    let (name, rest) = line.strip_prefix("COPY ")?.split_once(" (")?;
    let columns = rest.strip_suffix(") FROM stdin;")?;
    let plain = |word: &str| word.trim().trim_matches('"').to_owned();
    let name = name.strip_prefix("public.").unwrap_or(name);
    Some((plain(name), columns.split(',').map(plain).collect()))
}

/// A value without its escapes; none for NULL.
fn unescaped(field: &[u8]) -> Option<String> {
    if field == b"\\N" {
        return None;
    }
    let mut value = Vec::with_capacity(field.len());
    let mut bytes = field.iter();
    while let Some(byte) = bytes.next() {
        value.push(match byte {
            b'\\' => match bytes.next()? {
                b'b' => 8,
                b'f' => 12,
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'v' => 11,
                other => *other,
            },
            other => *other,
        });
    }
    Some(String::from_utf8_lossy(&value).into_owned())
}

/// Reads up to the next line feed, and takes it away; `false` at the end of the input.
fn read_line(input: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let mut any = false;
    loop {
        let piece = match input.fill_buf() {
            Ok(piece) => piece,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if piece.is_empty() {
            return Ok(any);
        }
        any = true;
        let feed = piece.iter().position(|byte| *byte == b'\n');
        let len = feed.unwrap_or(piece.len());
        let room = LONGEST_LINE - line.len();
        line.extend_from_slice(&piece[..len.min(room)]);
        input.consume(len + usize::from(feed.is_some()));
        if feed.is_some() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLES: [Table; 2] = [
        Table {
            name: "projects",
            columns: &["id", "path", "storage_version"],
        },
        Table {
            name: "routes",
            columns: &["path"],
        },
    ];

    fn rows(text: &str) -> io::Result<Vec<(usize, Row)>> {
        let mut found = Vec::new();
        let mut input = io::BufReader::with_capacity(7, text.as_bytes());
        read(&mut input, &TABLES, &mut |table, row| {
            found.push((table, row));
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn columns_stand_in_any_order_and_values_are_unescaped() {
        let text = "SELECT 1;\nCOPY public.notes (id, note) FROM stdin;\n1\tCOPY public.projects (id) FROM stdin;\n\\.\n\
            COPY public.projects (\"path\", description, id) FROM stdin;\n\
            app\t\\\\.\\n\\tC:\\\\new\t7\n\\N\t\t8\n\\.\n\n\
            COPY public.routes (id, path) FROM stdin;\n1\tgroup/\\tapp\n\\.\nCOPY public.projects (id) FROM stdin;\n9\n";
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            rows(text).expect("read"),
            [
                (0, vec![some("7"), some("app"), None]),
                (0, vec![some("8"), None, None]),
                (1, vec![some("group/\tapp")]),
            ]
        );
    }

    #[test]
    fn what_is_cut_off_is_told_and_what_is_strange_does_no_harm() {
        for text in [
            "COPY public.projects (id) FROM stdin;\n1\n",
            "COPY public.projects (id) FROM stdin;\n1",
            "COPY public.other (id) FROM stdin;\n",
        ] {
            assert!(rows(text).is_err(), "{text}");
        }
        for text in [
            "",
            "COPY",
            "COPY public.projects FROM stdin;\n",
            "COPY public.projects (id) FROM stdin;\n\\.\n",
            "\u{0}\n\n\n",
        ] {
            assert_eq!(rows(text).expect("nothing"), []);
        }
        let long = "x".repeat(3 * LONGEST_LINE);
        let text = format!(
            "COPY public.projects (id, note, path) FROM stdin;\n1\t{long}\tapp\n2\\\n\\.\n"
        );
        let found = rows(&text).expect("read");
        assert_eq!(found[0].1[0].as_deref(), Some("1"));
        assert_eq!(found[0].1[1], None, "it stood behind what is kept");
        assert_eq!(found[1].1, [None, None, None]);
    }
}
