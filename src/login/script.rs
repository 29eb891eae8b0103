//! Reads key, secret, token and folders out of the older Python script, without running it.
//!
//! What counts are assignments of texts to the names the script has. Whoever wrote a text differently (other
//! quotes, pieces that are added up, a name for a part of it) is understood; what the script would only know
//! when it runs (a variable of its environment, the result of a call) is told by its name.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::str::Chars;

use secrecy::SecretString;

/// What the script says.
#[derive(Debug)]
pub struct Script {
    /// `DROPBOX_APP_KEY`.
    pub app_key: String,
    /// `DROPBOX_APP_SECRET`.
    pub app_secret: SecretString,
    /// `DROPBOX_REFRESH_TOKEN`.
    pub refresh_token: SecretString,
    /// `DROPBOX_DESTINATION_CONFIG`, if it is given.
    pub config_folder: Option<String>,
    /// `DROPBOX_DESTINATION_DATA`, if it is given.
    pub data_folder: Option<String>,
    /// `LOCAL_GITLAB_CONFIG_PATH`, if it is given.
    pub config_dir: Option<String>,
    /// `LOCAL_GITLAB_DATA_PATH`, if it is given.
    pub data_dir: Option<String>,
}

const KEY: &str = "DROPBOX_APP_KEY";
const SECRET: &str = "DROPBOX_APP_SECRET";
const TOKEN: &str = "DROPBOX_REFRESH_TOKEN";
const CONFIG_FOLDER: &str = "DROPBOX_DESTINATION_CONFIG";
const DATA_FOLDER: &str = "DROPBOX_DESTINATION_DATA";
const CONFIG_DIR: &str = "LOCAL_GITLAB_CONFIG_PATH";
const DATA_DIR: &str = "LOCAL_GITLAB_DATA_PATH";
/// All of them.
const NAMES: [&str; 7] = [
    KEY,
    SECRET,
    TOKEN,
    CONFIG_FOLDER,
    DATA_FOLDER,
    CONFIG_DIR,
    DATA_DIR,
];

/// What a name was given.
enum Value {
    Text(String),
    /// Read from this variable of the environment.
    Environment(Option<String>),
    /// Known only when the script runs.
    Computed,
}

enum Token {
    Name(String),
    Text(String),
    /// A text with names in it.
    Template,
    Sign(char),
    /// Of a statement.
    End,
}

impl Script {
    /// Reads the script. The errors name everything that is missing; none of them holds a value.
    pub fn read(text: &str) -> Result<Script, Vec<String>> {
        let mut values = assignments(text);
        if !NAMES[..3].iter().any(|name| values.contains_key(*name)) {
            return Err(vec![format!(
                "it is not the script: it assigns neither {KEY}, {SECRET} nor {TOKEN}"
            )]);
        }
        let mut faults = Vec::new();
        let mut take = |name: &str, required: bool| match values.remove(name) {
            Some(Value::Text(text)) if required && text.trim().is_empty() => {
                faults.push(format!("{name} is empty"));
                None
            }
            Some(Value::Text(text)) if text.starts_with('<') && text.ends_with('>') => {
                faults.push(format!("{name} was never filled in"));
                None
            }
            Some(Value::Text(text)) => Some(text),
            Some(Value::Environment(variable)) => {
                let variable = variable.map_or(String::new(), |name| format!(" ({name})"));
                faults.push(format!(
                    "{name} is not in the script: it is read from the environment{variable}"
                ));
                None
            }
            Some(Value::Computed) => {
                faults.push(format!(
                    "{name} is no text that stands in the script: it is known only when the script runs"
                ));
                None
            }
            None if required => {
                faults.push(format!("{name} is missing"));
                None
            }
            None => None,
        };
        let (key, secret, token) = (take(KEY, true), take(SECRET, true), take(TOKEN, true));
        let (config_folder, data_folder) = (take(CONFIG_FOLDER, false), take(DATA_FOLDER, false));
        let (config_dir, data_dir) = (take(CONFIG_DIR, false), take(DATA_DIR, false));
        match (key, secret, token) {
            (Some(key), Some(secret), Some(token)) if faults.is_empty() => Ok(Script {
                app_key: key.trim().to_owned(),
                app_secret: secret.trim().into(),
                refresh_token: token.trim().into(),
                // The script puts a slash between it and the file's name: an empty one is the root.
                config_folder: config_folder.as_deref().map(folder),
                data_folder: data_folder.as_deref().map(folder),
                config_dir,
                data_dir,
            }),
            _ => Err(faults),
        }
    }
}

fn folder(text: &str) -> String {
    match text.trim_end_matches('/') {
        "" => "/".to_owned(),
        trimmed => trimmed.to_owned(),
    }
}

/// What the script's names were given last.
fn assignments(text: &str) -> BTreeMap<String, Value> {
    let mut values: BTreeMap<String, Value> = BTreeMap::new();
    let tokens = Lexer::new(text).tokens();
    for statement in tokens.split(|token| matches!(token, Token::End)) {
        let [Token::Name(name), rest @ ..] = statement else {
            continue;
        };
        // `NAME: str = …` says the same.
        let rest = match rest {
            [Token::Sign(':'), Token::Name(_), rest @ ..] | rest => rest,
        };
        let [Token::Sign('='), value @ ..] = rest else {
            continue;
        };
        if matches!(value, [Token::Sign('='), ..]) {
            continue;
        }
        let value = evaluate(value, &values);
        values.insert(name.clone(), value);
    }
    values
}

/// A sum of texts, and of names that were given one before.
fn evaluate(tokens: &[Token], known: &BTreeMap<String, Value>) -> Value {
    let is_environment =
        |token: &Token| matches!(token, Token::Name(name) if name == "environ" || name == "getenv");
    if tokens.iter().any(is_environment) {
        let variable = tokens.iter().find_map(|token| match token {
            Token::Text(text) => Some(text.clone()),
            _ => None,
        });
        return Value::Environment(variable);
    }
    let mut sum = String::new();
    let mut is_text = false;
    for token in tokens {
        match token {
            Token::Text(text) => sum += text,
            Token::Name(name) => match known.get(name) {
                Some(Value::Text(text)) => sum += text,
                _ => return Value::Computed,
            },
            Token::Sign('+' | '(' | ')') => continue,
            _ => return Value::Computed,
        }
        is_text = true;
    }
    if is_text {
        Value::Text(sum)
    } else {
        Value::Computed
    }
}

/// As much of Python's lexical rules as tells texts, comments and statements apart
/// (<https://docs.python.org/3/reference/lexical_analysis.html>).
struct Lexer<'a> {
    rest: Peekable<Chars<'a>>,
    /// Open brackets: inside them the end of a line ends no statement.
    depth: usize,
    tokens: Vec<Token>,
}

impl Lexer<'_> {
    fn new(text: &str) -> Lexer<'_> {
        Lexer {
            rest: text.chars().peekable(),
            depth: 0,
            tokens: Vec::new(),
        }
    }

    fn tokens(mut self) -> Vec<Token> {
        while let Some(c) = self.rest.next() {
            match c {
                '#' => while self.rest.next_if(|c| *c != '\n').is_some() {},
                '\n' if self.depth == 0 => self.tokens.push(Token::End),
                ';' => self.tokens.push(Token::End),
                // The statement goes on in the next line.
                '\\' => drop(self.rest.next_if_eq(&'\n')),
                '"' | '\'' => self.text(c, ""),
                _ if c.is_alphabetic() || c == '_' => self.word(c),
                _ if c.is_whitespace() => {}
                _ => {
                    match c {
                        '(' | '[' | '{' => self.depth += 1,
                        ')' | ']' | '}' => self.depth = self.depth.saturating_sub(1),
                        _ => {}
                    }
                    self.tokens.push(Token::Sign(c));
                }
            }
        }
        self.tokens
    }

    fn word(&mut self, first: char) {
        let mut word = String::from(first);
        let belongs = |c: &char| c.is_alphanumeric() || *c == '_';
        while let Some(c) = self.rest.next_if(belongs) {
            word.push(c);
        }
        let is_prefix = word.len() <= 2 && word.chars().all(|c| "rRbBuUfF".contains(c));
        match self
            .rest
            .next_if(|c| is_prefix && (*c == '"' || *c == '\''))
        {
            Some(quote) => self.text(quote, &word.to_ascii_lowercase()),
            None => self.tokens.push(Token::Name(word)),
        }
    }

    /// A text behind its first quote.
    fn text(&mut self, quote: char, prefix: &str) {
        let mut long = false;
        if self.rest.next_if_eq(&quote).is_some() {
            if self.rest.next_if_eq(&quote).is_none() {
                return self.tokens.push(Token::Text(String::new()));
            }
            long = true;
        }
        let mut text = String::new();
        while let Some(c) = self.rest.next() {
            match c {
                '\\' if prefix.contains('r') => {
                    text.push(c);
                    text.extend(self.rest.next());
                }
                '\\' => self.escape(&mut text),
                '\n' if !long => break,
                _ if c == quote && !long => break,
                _ if c == quote => {
                    text.push(c);
                    if text.ends_with(&quote.to_string().repeat(3)) {
                        text.truncate(text.len() - 3);
                        break;
                    }
                }
                _ => text.push(c),
            }
        }
        let template = prefix.contains('f') && text.contains('{');
        self.tokens.push(if template {
            Token::Template
        } else {
            Token::Text(text)
        });
    }

    fn escape(&mut self, text: &mut String) {
        let digits = match self.rest.next() {
            Some('\n') | None => return,
            Some('n') => return text.push('\n'),
            Some('t') => return text.push('\t'),
            Some('r') => return text.push('\r'),
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            Some(c @ ('\\' | '\'' | '"')) => return text.push(c),
            Some(c) => {
                text.push('\\');
                return text.push(c);
            }
        };
        let mut number = String::new();
        while let Some(c) = self
            .rest
            .next_if(|c| number.len() < digits && c.is_ascii_hexdigit())
        {
            number.push(c);
        }
        let code = u32::from_str_radix(&number, 16).ok();
        text.extend(code.and_then(char::from_u32));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    fn value(text: &str) -> String {
        match assignments(text).remove("A") {
            Some(Value::Text(text)) => text,
            Some(Value::Environment(name)) => format!("environment {name:?}"),
            Some(Value::Computed) => "computed".to_owned(),
            None => "nothing".to_owned(),
        }
    }

    #[test]
    fn texts_as_people_write_them() {
        for (line, expected) in [
            ("A = \"x\"", "x"),
            ("A='x' # \"y\"", "x"),
            ("A\t=\t'it\"s'", "it\"s"),
            ("A = '''x\ny''' ", "x\ny"),
            ("A = \"\"", ""),
            ("A = r'a\\b'", "a\\b"),
            ("A = u'\\x41\\u00e4\\n\\'\\q'", "A\u{e4}\n'\\q"),
            ("A: str = 'x'", "x"),
            ("A = 'x' 'y'", "xy"),
            ("A = ('x'\n  'y')", "xy"),
            ("A = 'x' + \\\n  'y'", "xy"),
            ("B = '/top'\nA = B + '/x'", "/top/x"),
            ("A = 'old'\nA = 'new'", "new"),
            ("  A = 'x'; B = 'y'", "x"),
            ("A = 'x'\r\nB = 'y'\r\n", "x"),
            ("A = f'x'", "x"),
            ("A = f'{x}'", "computed"),
            ("A = input('?')", "computed"),
            ("A = B", "computed"),
            ("A = ", "computed"),
            ("A = None", "computed"),
            ("A = os.environ['KEY']", "environment Some(\"KEY\")"),
            ("A = os.getenv('KEY', 'x')", "environment Some(\"KEY\")"),
            ("A = environ.get(name)", "environment None"),
            ("# A = 'x'", "nothing"),
            ("'''\nA = 'x'\n'''", "nothing"),
            ("f(A='x')", "nothing"),
            ("if A == 'x': pass", "nothing"),
            ("A == 'x'", "nothing"),
            ("print(\"A = 'x'\")", "nothing"),
            ("A = 'unfinished", "unfinished"),
            ("A = '''unfinished", "unfinished"),
            ("A = 'x\\", "x"),
            ("A = \"\\U00110000\"", ""),
        ] {
            assert_eq!(value(line), expected, "{line}");
        }
    }

    const FILLED: &str = "DROPBOX_APP_KEY     = \"key\"\nDROPBOX_APP_SECRET  = \"sEcReT\"\n\
        DROPBOX_REFRESH_TOKEN = \"tOkEn\"\n";

    #[test]
    fn all_of_it_and_only_what_is_needed() {
        let script = Script::read(FILLED).expect("the least");
        assert_eq!(script.app_key, "key");
        assert_eq!(script.app_secret.expose_secret(), "sEcReT");
        assert_eq!(script.refresh_token.expose_secret(), "tOkEn");
        assert_eq!(script.config_folder, None);
        let more = "DROPBOX_DESTINATION_CONFIG = ''\nDROPBOX_DESTINATION_DATA = '/D/'\n\
            LOCAL_GITLAB_CONFIG_PATH = '/c'\nLOCAL_GITLAB_DATA_PATH = '/d'\n";
        let script = Script::read(&format!("{FILLED}{more}")).expect("all of it");
        assert_eq!(script.config_folder.as_deref(), Some("/"));
        assert_eq!(script.data_folder.as_deref(), Some("/D"));
        assert_eq!(script.config_dir.as_deref(), Some("/c"));
        assert_eq!(script.data_dir.as_deref(), Some("/d"));
    }

    #[test]
    fn everything_that_is_missing_is_named_and_nothing_told() {
        let faults = |text: &str| Script::read(text).expect_err("faults");
        assert_eq!(
            faults("print('hello')"),
            [
                "it is not the script: it assigns neither DROPBOX_APP_KEY, DROPBOX_APP_SECRET nor DROPBOX_REFRESH_TOKEN"
            ]
        );
        let text = "DROPBOX_APP_KEY = '<you-have-to-edit-this-field>'\nDROPBOX_APP_SECRET = ' '\n\
            DROPBOX_DESTINATION_DATA = data()\nDROPBOX_DESTINATION_CONFIG = os.environ['C']\n";
        assert_eq!(
            faults(text),
            [
                "DROPBOX_APP_KEY was never filled in",
                "DROPBOX_APP_SECRET is empty",
                "DROPBOX_REFRESH_TOKEN is missing",
                "DROPBOX_DESTINATION_CONFIG is not in the script: it is read from the environment (C)",
                "DROPBOX_DESTINATION_DATA is no text that stands in the script: it is known only when the script runs",
            ]
        );
        let script = Script::read(FILLED).expect("the least");
        let debug = format!("{script:?}");
        assert!(
            !debug.contains("sEcReT") && !debug.contains("tOkEn"),
            "{debug}"
        );
    }
}
