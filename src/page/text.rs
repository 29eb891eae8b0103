//! Texts of others on their way into HTML.

use std::fmt::{self, Display, Write as _};

/// Of this program.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Whatever it holds, a text and nothing else: also without the characters that turn the direction of writing.
pub(super) struct Escaped<T>(pub(super) T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaper(f), "{}", self.0)
    }
}

struct Escaper<'a, 'f>(&'a mut fmt::Formatter<'f>);

impl fmt::Write for Escaper<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c {
                '&' => self.0.write_str("&amp;")?,
                '<' => self.0.write_str("&lt;")?,
                '>' => self.0.write_str("&gt;")?,
                '"' => self.0.write_str("&quot;")?,
                '\'' => self.0.write_str("&#39;")?,
                '\n' | '\t' => self.0.write_char(' ')?,
                c if c.is_control() || turns_direction(c) => {
                    self.0.write_char(char::REPLACEMENT_CHARACTER)?;
                }
                c => self.0.write_char(c)?,
            }
        }
        Ok(())
    }
}

fn turns_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{61c}')
}

/// The first line, at most so many characters of it.
pub(super) fn first_line(text: &str, most: usize) -> String {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    let line = line.unwrap_or_default();
    match line.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", line[..end].trim_end()),
        None => line.to_owned(),
    }
}

/// `3 runs`, `1 run`.
pub(super) fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// For drawing: that the last digits of a large number get lost cannot be seen.
#[expect(clippy::cast_precision_loss, reason = "what is drawn has three digits")]
pub(super) fn float(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_gets_out_of_a_text() {
        for (text, html) in [
            ("plain – ünïcode", "plain – ünïcode"),
            (
                "<script>alert('1')</script>",
                "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;",
            ),
            ("\" onload=\"x & y", "&quot; onload=&quot;x &amp; y"),
            ("a\nb\tc\0d\u{1b}[31m", "a b c\u{fffd}d\u{fffd}[31m"),
            ("\u{202e}gnp.exe", "\u{fffd}gnp.exe"),
        ] {
            assert_eq!(Escaped(text).to_string(), html);
        }
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(first_line("\n  one\ntwo", 9), "one");
        assert_eq!(first_line("äöüäöü", 3), "äöü…");
        assert_eq!(first_line("äöü", 3), "äöü");
        assert_eq!(first_line("", 3), "");
        assert_eq!(
            (count(1, "run"), count(0, "run")),
            ("1 run".to_owned(), "0 runs".to_owned())
        );
    }
}
