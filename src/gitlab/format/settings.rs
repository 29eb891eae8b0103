//! `gitlab.rb`: the settings, which are a program in Ruby.
//!
//! Whether a program is whole only Ruby can say. But a file that was cut off or overwritten nearly always
//! leaves a string or a bracket open, and that can be seen without running it, as long as every construct
//! met is one of the few whose end is certain. At the first other one judging ends: better to say nothing
//! than to call good settings damaged. No text of the file is repeated in any message.

use std::collections::VecDeque;
use std::io::Read;

use super::Flaw;

/// A longer one is not read, in bytes; GitLab's template has some 150 kB.
const LONGEST: u64 = 2 * 1024 * 1024;
/// Deeper nesting is not followed.
const DEEPEST: usize = 1000;

/// What a look at the syntax gave.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Look {
    Sound,
    /// Met something that is not understood, in this line.
    Unclear(usize),
    /// In this line something is open or closed that should not be.
    Broken(usize, &'static str),
}

/// Reads the whole file.
pub fn check(input: &mut dyn Read) -> Result<(), Flaw> {
    let mut bytes = Vec::new();
    input.take(LONGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST {
        return Err(Flaw::Unjudged(format!("it is longer than {LONGEST} bytes")));
    }
    if bytes.contains(&0) {
        return Err(Flaw::damaged("it has a NUL in it"));
    }
    let text = str::from_utf8(&bytes).map_err(|_| Flaw::damaged("it is not UTF-8"))?;
    if text.trim().is_empty() {
        return Err(Flaw::damaged("it is empty"));
    }
    match look(text) {
        Look::Sound => Ok(()),
        Look::Unclear(line) => Err(Flaw::Unjudged(format!(
            "its text is whole; its syntax was followed up to line {line}"
        ))),
        Look::Broken(line, what) => Err(Flaw::Damaged(format!("{what}, line {line}"))),
    }
}

fn look(text: &str) -> Look {
    let mut ruby = Ruby {
        text: text.as_bytes(),
        at: 0,
        line: 1,
        open: Vec::new(),
        heredocs: VecDeque::new(),
    };
    match ruby.run() {
        Ok(()) => Look::Sound,
        Err(look) => look,
    }
}

/// A reader of Ruby that knows comments, strings, word lists, heredocs and brackets.
struct Ruby<'a> {
    text: &'a [u8],
    at: usize,
    /// From 1.
    line: usize,
    /// What closes each open bracket, and the line it was opened in.
    open: Vec<(u8, usize)>,
    /// Heredocs begun in this line: what ends each, and the line.
    heredocs: VecDeque<(&'a [u8], usize)>,
}

impl<'a> Ruby<'a> {
    fn run(&mut self) -> Result<(), Look> {
        while let Some(byte) = self.peek(0) {
            if self.at_line_start() {
                if self.rest().starts_with(b"=begin") {
                    self.block_comment()?;
                    continue;
                }
                if self.line_here() == b"__END__" {
                    break;
                }
            }
            match byte {
                b'\n' => {
                    self.step(1);
                    self.heredoc_bodies()?;
                }
                b'#' => self.step(self.line_here().len()),
                b'\'' | b'"' => {
                    self.step(1);
                    self.string(byte, byte, byte == b'"')?;
                }
                b'(' | b'[' | b'{' => {
                    if self.open.len() == DEEPEST {
                        return Err(Look::Unclear(self.line));
                    }
                    self.open.push((closing(byte), self.line));
                    self.step(1);
                }
                b')' | b']' | b'}' => {
                    if self.open.pop().map(|(closing, _)| closing) != Some(byte) {
                        return Err(Look::Broken(
                            self.line,
                            "a bracket is closed that is not open",
                        ));
                    }
                    self.step(1);
                }
                b'%' => self.percent()?,
                b'<' if self.peek(1) == Some(b'<') => self.heredoc()?,
                // Regular expressions, commands, characters and globals have ends of many forms.
                b'/' | b'`' | b'$' | b'@' | b'\\' => return Err(Look::Unclear(self.line)),
                b'?' if !self.before().is_some_and(is_word) && !self.is_operator(1) => {
                    return Err(Look::Unclear(self.line));
                }
                _ if byte.is_ascii_control() && !byte.is_ascii_whitespace() => {
                    return Err(Look::Unclear(self.line));
                }
                _ => self.step(1),
            }
        }
        if let Some((_, line)) = self.heredocs.front() {
            return Err(Look::Broken(*line, "a heredoc has no end"));
        }
        match self.open.last() {
            Some((_, line)) => Err(Look::Broken(*line, "a bracket is never closed")),
            None => Ok(()),
        }
    }

    /// Up to the quote that ends it. What is interpolated has an end of its own.
    fn string(&mut self, opening: u8, end: u8, interpolates: bool) -> Result<(), Look> {
        let begun = self.line;
        let mut depth = 0;
        while let Some(byte) = self.peek(0) {
            match byte {
                b'\\' => self.step(1),
                b'#' if interpolates && matches!(self.peek(1), Some(b'{' | b'@' | b'$')) => {
                    return Err(Look::Unclear(self.line));
                }
                _ if byte == end && depth == 0 => {
                    self.step(1);
                    return Ok(());
                }
                _ if byte == end => depth -= 1,
                _ if byte == opening && opening != end => depth += 1,
                _ => {}
            }
            self.step(1);
        }
        Err(Look::Broken(begun, "a string is never closed"))
    }

    /// `%w[a b]` and its kin, or a remainder.
    fn percent(&mut self) -> Result<(), Look> {
        let lettered = matches!(self.peek(1), Some(b'w' | b'W' | b'i' | b'I' | b'q' | b'Q'));
        let bracket = self.peek(if lettered { 2 } else { 1 });
        let begins_value = self
            .before()
            .is_none_or(|byte| b" \t\n=(,[{".contains(&byte));
        match bracket {
            Some(open @ (b'(' | b'[' | b'{' | b'<')) if begins_value => {
                let interpolates = !matches!(self.peek(1), Some(b'w' | b'i' | b'q'));
                self.step(if lettered { 3 } else { 2 });
                self.string(open, closing(open), interpolates)
            }
            _ if self.is_operator(1) => {
                self.step(1);
                Ok(())
            }
            _ => Err(Look::Unclear(self.line)),
        }
    }

    /// `<<~EOS`, `<<-'EOS'`; `<< x` appends.
    fn heredoc(&mut self) -> Result<(), Look> {
        if matches!(self.peek(2), Some(b' ' | b'\n')) {
            self.step(2);
            return Ok(());
        }
        if !matches!(self.peek(2), Some(b'~' | b'-')) {
            return Err(Look::Unclear(self.line));
        }
        let quote = self.peek(3).filter(|byte| matches!(byte, b'\'' | b'"'));
        let start = self.at + 3 + usize::from(quote.is_some());
        let len = self.text[start..]
            .iter()
            .take_while(|byte| is_word(**byte))
            .count();
        let end = start + len;
        let closed = quote.is_none() || self.text.get(end).copied() == quote;
        if len == 0 || !closed || self.heredocs.len() == DEEPEST {
            return Err(Look::Unclear(self.line));
        }
        self.heredocs.push_back((&self.text[start..end], self.line));
        self.step(end + usize::from(quote.is_some()) - self.at);
        Ok(())
    }

    /// At the start of a line: what heredocs of the line before bring, up to the lines that end them.
    fn heredoc_bodies(&mut self) -> Result<(), Look> {
        while let Some((end, begun)) = self.heredocs.pop_front() {
            loop {
                if self.at >= self.text.len() {
                    return Err(Look::Broken(begun, "a heredoc has no end"));
                }
                let line = self.line_here();
                let found = line.strip_suffix(b"\r").unwrap_or(line).trim_ascii_start() == end;
                self.step(line.len() + 1);
                if found {
                    break;
                }
            }
        }
        Ok(())
    }

    fn block_comment(&mut self) -> Result<(), Look> {
        let begun = self.line;
        while self.at < self.text.len() {
            let line = self.line_here();
            self.step(line.len() + 1);
            if line.starts_with(b"=end") {
                return Ok(());
            }
        }
        Err(Look::Broken(begun, "a block of comments has no end"))
    }

    fn step(&mut self, len: usize) {
        let end = self.text.len().min(self.at + len);
        let lines = self.text[self.at..end].split(|byte| *byte == b'\n');
        self.line += lines.count() - 1;
        self.at = end;
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.get(self.at + ahead).copied()
    }

    fn before(&self) -> Option<u8> {
        self.at.checked_sub(1).map(|at| self.text[at])
    }

    fn rest(&self) -> &'a [u8] {
        &self.text[self.at..]
    }

    /// What is left of this line, without its line feed.
    fn line_here(&self) -> &'a [u8] {
        let rest = self.rest();
        &rest[..rest
            .iter()
            .position(|byte| *byte == b'\n')
            .unwrap_or(rest.len())]
    }

    fn at_line_start(&self) -> bool {
        self.before().is_none_or(|byte| byte == b'\n')
    }

    /// An operator of this length has blanks on both sides.
    fn is_operator(&self, len: usize) -> bool {
        self.before() == Some(b' ') && self.peek(len) == Some(b' ')
    }
}

fn closing(bracket: u8) -> u8 {
    match bracket {
        b'(' => b')',
        b'[' => b']',
        b'{' => b'}',
        _ => b'>',
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: &str = r#"## GitLab's settings: don't panic
external_url 'https://gitlab.example.org'
# gitlab_rails['x'] = "unclosed
gitlab_rails['smtp_enable'] = true
gitlab_rails['smtp_password'] = 'it\'s "quoted"'
gitlab_rails['gitlab_email_from'] = "a \"b\" #c"
gitlab_rails['monitoring_whitelist'] = ['127.0.0.0/8', "::1/128"]
nginx['listen_addresses'] = %w[* [::]]
prometheus['flags'] = { 'a' => 100 % 7, :b => (1 << 3), c: [] }
roles ['application_role'] if defined?(Foo) && x.nil? ? 1 : 2
gitlab_rails['ldap_servers'] = YAML.load <<-'EOS'
  main: # isn't closed [ {
    label: "LDAP
EOS
gitlab_rails['a'] = [<<~ONE, <<~"TWO"]
  (
ONE
  '
  TWO
=begin
it's a comment (
=end
letsencrypt['contact_emails'] = %i(a b)
__END__
'anything [
"#;

    #[test]
    fn what_settings_are_made_of_is_understood() {
        assert_eq!(look(SETTINGS), Look::Sound);
        assert_eq!(look("a 'x'"), Look::Sound);
        assert_eq!(look("a \"x\"\r\nb [1,\r\n2]\r\n"), Look::Sound);
    }

    #[test]
    fn what_is_left_open_is_damage() {
        for (text, line) in [
            ("external_url 'https://gitlab.exam", 1),
            ("a = 1\nb = [1, 2,\n", 2),
            ("a = 1\n}\n", 2),
            ("a['x'] = (1]\n", 1),
            ("a = %w[a [b]\n", 1),
            ("a <<~EOS\n  text\n", 1),
            ("a <<~EOS", 1),
            ("=begin\ntext\n", 1),
            ("a 'x\\'", 1),
            ("a = {\n  'b' => \"c\n", 2),
        ] {
            assert!(
                matches!(look(text), Look::Broken(at, _) if at == line),
                "{text}: {:?}",
                look(text)
            );
        }
        // Wherever the settings end within a string or bracket, it is seen.
        let cut = SETTINGS.find("example.org'").expect("a string");
        assert!(matches!(look(&SETTINGS[..cut]), Look::Broken(2, _)));
    }

    #[test]
    fn what_is_not_understood_is_not_judged() {
        for text in [
            "a = /it's [/\n'",
            "a = \"x#{y('z')}\"\n'",
            "a = `it's`\n'",
            "a = ?'\n'",
            "a = $'\n'",
            "a <<EOS\nit's\nEOS\n'",
            "a = 5 %3 '\n",
            "a = %r{'}\n'",
            "a = b / c '\n",
            "a \\\n '",
            "a \u{1}'",
        ] {
            assert!(
                matches!(look(text), Look::Unclear(_)),
                "{text}: {:?}",
                look(text)
            );
        }
        assert_eq!(look(&"[".repeat(100_000)), Look::Unclear(1));
    }

    #[test]
    fn no_setting_is_repeated() {
        for text in ["a = 'SECRET", "a = /SECRET/", "SECRET\0", "  \n"] {
            let flaw = check(&mut text.as_bytes()).expect_err(text).to_string();
            assert!(!flaw.contains("SECRET"), "{flaw}");
        }
        assert!(check(&mut &b"a = '\xff'"[..]).is_err());
        assert_eq!(check(&mut SETTINGS.as_bytes()), Ok(()));
    }
}
