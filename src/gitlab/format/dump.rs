//! A dump of a database: SQL as `pg_dump` writes it, from its first comment to its last.

use std::io::{self, Read};

use super::Flaw;

/// What such SQL begins with, behind white space.
const BEGINNINGS: [&str; 9] = [
    "--",
    "/*",
    "\\restrict",
    "SET ",
    "BEGIN",
    "CREATE ",
    "DROP ",
    "ALTER ",
    "SELECT ",
];

/// The comment at the top; settings and `DROP` may stand before it.
const TOP: &[u8] = b"-- PostgreSQL database dump\n";
/// The comment at the end; since 2025 `\unrestrict KEY` follows it.
const END: &[u8] = b"-- PostgreSQL database dump complete\n";
/// The comments are looked for in this many bytes at either end.
const MARGIN: usize = 16 * 1024;

/// Whether a text can be the beginning of a dump.
pub fn begins_like_sql(text: &[u8]) -> bool {
    let text = text.trim_ascii_start();
    BEGINNINGS
        .iter()
        .any(|begin| text.starts_with(begin.as_bytes()))
}

/// Reads a whole dump; how many bytes of SQL it has.
pub fn check(input: &mut dyn Read) -> Result<u64, Flaw> {
    let mut top = Vec::new();
    input.take(MARGIN as u64).read_to_end(&mut top)?;
    let mut end = top.clone();
    let mut len = top.len() as u64;
    let mut piece = vec![0; 4 * MARGIN];
    loop {
        match input.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => {
                len += n as u64;
                end.extend_from_slice(&piece[n.saturating_sub(MARGIN)..n]);
                let surplus = end.len().saturating_sub(MARGIN);
                end.drain(..surplus);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    if !begins_like_sql(&top) || !contains(&top, TOP) {
        return Err(Flaw::damaged("it does not begin like a database dump"));
    }
    if !contains(&end, END) {
        return Err(Flaw::damaged(
            "it is cut off: the comment that ends a database dump is missing",
        ));
    }
    Ok(len)
}

/// Whether a line stands in a text.
fn contains(text: &[u8], line: &[u8]) -> bool {
    text.windows(line.len()).any(|window| window == line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_text(text: &str) -> Result<u64, Flaw> {
        check(&mut text.as_bytes())
    }

    #[test]
    fn dumps_of_all_versions_are_whole() {
        let rows = "1\t2\n".repeat(100_000);
        for (before, restrict, unrestrict) in [
            ("", "", ""),
            ("", "\\restrict aB3\n\n", "\\unrestrict aB3\n\n"),
            (
                "SET statement_timeout = 0;\nDROP TABLE IF EXISTS public.a;\n",
                "",
                "",
            ),
        ] {
            let text = format!(
                "{before}--\n-- PostgreSQL database dump\n--\n\n{restrict}COPY a (b) FROM stdin;\n{rows}\\.\n\n\
                 --\n-- PostgreSQL database dump complete\n--\n\n{unrestrict}"
            );
            assert_eq!(check_text(&text), Ok(text.len() as u64));
            for cut in [text.len() - 200, text.len() / 2, 40, 5, 0] {
                assert!(check_text(&text[..cut]).is_err(), "cut at {cut}");
            }
        }
    }

    #[test]
    fn other_texts_are_none() {
        for text in [
            "pg_dump: error: connection failed\n-- PostgreSQL database dump\n-- PostgreSQL database dump complete\n",
            "--\n-- MySQL dump 10.13\n-- Dump completed on 2017\n",
            "-- PostgreSQL database dump complete\n",
        ] {
            assert!(check_text(text).is_err(), "{text}");
        }
    }
}
