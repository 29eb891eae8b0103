//! `[notify]`.

use std::path::PathBuf;
use std::time::Duration;

use lettre::message::{Mailbox, Mailboxes};
use secrecy::SecretString;
use serde::Deserialize;

use crate::notify::address::Address;
use crate::settings::Section;
use crate::units::Span;

/// Who is told, and when.
#[derive(Clone, Debug)]
pub struct Settings {
    /// When messages are sent; pings and metrics always are.
    pub on: On,
    /// How long a target may be silent; in all it gets three times as long.
    pub timeout: Duration,
    /// Of a check at healthchecks.io, or of a server of its kind.
    pub healthcheck: Option<Address>,
    /// Gets the JSON document of a run.
    pub webhook: Option<Address>,
    /// A topic of ntfy.
    pub ntfy: Option<Address>,
    /// Who gets mail.
    pub email: Option<Email>,
    /// For the textfile collector of Prometheus' `node_exporter`.
    pub metrics_file: Option<PathBuf>,
}

/// When messages are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum On {
    /// After each run that did not end well, and after the first good one behind it.
    #[default]
    Failure,
    /// After each run.
    Always,
}

/// `email`.
#[derive(Clone, Debug)]
pub struct Email {
    /// Who gets it.
    pub to: Mailboxes,
    /// Who it is from; none: root of this machine.
    pub from: Option<Mailbox>,
    /// How it is sent.
    pub way: Way,
}

/// How mail is sent.
#[derive(Clone, Debug)]
pub enum Way {
    /// The mail system of this machine.
    Sendmail,
    /// A mail server.
    Smtp(Server),
}

/// A mail server.
#[derive(Clone, Debug)]
pub struct Server {
    /// Its name.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// TLS from the first byte; else STARTTLS, without which nothing is sent.
    pub implicit_tls: bool,
    /// Who logs in, if somebody does.
    pub login: Option<Login>,
}

/// Who logs in.
#[derive(Clone, Debug)]
pub struct Login {
    /// The name of the mail account.
    pub username: String,
    /// Its password.
    pub password: Password,
}

/// Where the password is.
#[derive(Clone, Debug)]
pub enum Password {
    /// Here.
    Given(SecretString),
    /// In a file by itself, read when it is needed.
    File(PathBuf),
}

impl Settings {
    /// Reads the section; without it nobody is told.
    pub fn read(section: &mut Section<'_>) -> Settings {
        let on = section.get("on").unwrap_or_default();
        let timeout = section
            .get("timeout")
            .unwrap_or(Span(Duration::from_secs(10)))
            .0;
        if !(1..=60).contains(&timeout.as_secs()) {
            section.fault("timeout", "takes 1s to 60s");
        }
        let healthcheck = address(section, "healthcheck_url");
        let webhook = address(section, "webhook_url");
        let ntfy = address(section, "ntfy_url");
        // ntfy takes messages at https://host/topic; without a topic nobody would hear them.
        if ntfy
            .as_ref()
            .is_some_and(|ntfy| ntfy.url().path().trim_matches('/').is_empty())
        {
            section.fault(
                "ntfy_url",
                "takes an address with a topic, like https://ntfy.sh/TOPIC",
            );
        }
        let metrics_file = section.get::<PathBuf>("metrics_file");
        let metrics_file = metrics_file.filter(|path| !path.as_os_str().is_empty());
        let is_prom = |path: &PathBuf| {
            path.is_absolute() && path.extension().is_some_and(|end| end == "prom")
        };
        if !metrics_file.iter().all(is_prom) {
            section.fault(
                "metrics_file",
                "takes an absolute path that ends in .prom: node_exporter reads no other files",
            );
        }
        let mut table = section.section("email");
        let email = Email::read(&mut table);
        table.finish();
        Settings {
            on,
            timeout,
            healthcheck,
            webhook,
            ntfy,
            email,
            metrics_file,
        }
    }

    /// A file outside the configuration that holds a secret, if one is used.
    pub fn secret_file(&self) -> Option<&PathBuf> {
        match &self.email.as_ref()?.way {
            Way::Smtp(Server {
                login:
                    Some(Login {
                        password: Password::File(path),
                        ..
                    }),
                ..
            }) => Some(path),
            _ => None,
        }
    }

    /// Whether anybody is told anything.
    pub fn is_empty(&self) -> bool {
        self.healthcheck.is_none()
            && self.webhook.is_none()
            && self.ntfy.is_none()
            && self.email.is_none()
            && self.metrics_file.is_none()
    }

    /// The same for another job, whose health check is its own: pings of one job would hide that another fails.
    #[must_use]
    pub fn with_healthcheck(&self, healthcheck: Option<Address>) -> Settings {
        Settings {
            healthcheck,
            ..self.clone()
        }
    }

    /// Nobody but this health check is told.
    #[must_use]
    pub fn healthcheck_alone(&self, healthcheck: Address) -> Settings {
        Settings {
            on: self.on,
            timeout: self.timeout,
            healthcheck: Some(healthcheck),
            webhook: None,
            ntfy: None,
            email: None,
            metrics_file: None,
        }
    }

    /// The longest that all targets together may take.
    pub fn in_all(&self) -> Duration {
        self.timeout * 3
    }
}

/// An address; an empty one is none, so that a variable can switch a target off.
pub fn address(section: &mut Section<'_>, key: &str) -> Option<Address> {
    let text = section.secret(key)?;
    match Address::new(text) {
        Ok(address) => address,
        Err(message) => {
            section.fault(key, message);
            None
        }
    }
}

impl Email {
    fn read(section: &mut Section<'_>) -> Option<Email> {
        let given = section.is_given();
        let to = if given {
            section.require::<String>("to")
        } else {
            section.get("to")
        };
        let from = section
            .get::<String>("from")
            .filter(|from| !from.is_empty());
        let smtp = section.get::<String>("smtp").unwrap_or_default();
        let username = section
            .get::<String>("username")
            .filter(|name| !name.is_empty());
        let password = section.secret("password");
        let password_file = section.get::<PathBuf>("password_file");
        let password_file = password_file.filter(|path| !path.as_os_str().is_empty());
        if !given {
            return None;
        }
        let to: Option<Mailboxes> = to.and_then(|text| parsed(section, "to", &text));
        if to.as_ref().is_some_and(|to| to.iter().next().is_none()) {
            section.fault("to", "names nobody");
        }
        let to_sender = |text: String| parsed(section, "from", &text);
        let sender: Option<Mailbox> = from.clone().and_then(to_sender);
        // A mail system would take it for an option.
        let option = |mailbox: &Mailbox| AsRef::<str>::as_ref(&mailbox.email).starts_with('-');
        let hyphen = "takes no address that begins with a hyphen";
        if to.as_ref().is_some_and(|to| to.iter().any(option)) {
            section.fault("to", hyphen);
        }
        if sender.as_ref().is_some_and(option) {
            section.fault("from", hyphen);
        }
        let password = match (password, password_file) {
            (Some(_), Some(_)) => {
                section.fault("password_file", "and `password` are given; one is enough");
                None
            }
            (Some(password), None) => Some(Password::Given(password)),
            (None, Some(path)) => Some(Password::File(path)),
            (None, None) => None,
        };
        let login = match (username, password) {
            (Some(username), Some(password)) => Some(Login { username, password }),
            (Some(_), None) => {
                section.fault("username", "needs a `password_file`");
                None
            }
            (None, Some(_)) => {
                section.fault("password_file", "needs a `username`");
                None
            }
            (None, None) => None,
        };
        let way = match smtp.as_str() {
            "" | "sendmail" => {
                if login.is_some() {
                    section.fault(
                        "username",
                        "goes with `smtp`; the local mail system needs none",
                    );
                }
                Way::Sendmail
            }
            text => {
                match server(text, login) {
                    Ok(server) => {
                        if from.is_none() {
                            section.fault("from", "is needed with `smtp`: an address that the server lets you send from");
                        }
                        Way::Smtp(server)
                    }
                    Err(message) => {
                        section.fault("smtp", message);
                        return None;
                    }
                }
            }
        };
        Some(Email {
            to: to?,
            from: sender,
            way,
        })
    }
}

fn parsed<T: std::str::FromStr>(section: &mut Section<'_>, key: &str, text: &str) -> Option<T> {
    let parsed = text.parse().ok();
    if parsed.is_none() {
        section.fault(key, "takes mail addresses, like \"me@example.org\"");
    }
    parsed
}

/// `smtps://host[:port]` or `smtp://host[:port]`.
fn server(text: &str, login: Option<Login>) -> Result<Server, &'static str> {
    const TAKES: &str =
        "takes smtps://HOST[:PORT], smtp://HOST[:PORT] (with STARTTLS), or \"sendmail\"";
    let (implicit_tls, rest, usual) = match text.split_once("://") {
        // https://www.rfc-editor.org/rfc/rfc8314#section-3
        Some(("smtps", rest)) => (true, rest, 465),
        Some(("smtp", rest)) => (false, rest, 587),
        _ => return Err(TAKES),
    };
    if rest.contains('@') {
        return Err("takes no user and password; they go into `username` and `password_file`");
    }
    let rest = rest.trim_end_matches('/');
    let (host, port) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or(TAKES)?)),
        None => rest
            .split_once(':')
            .map_or((rest, None), |(host, port)| (host, Some(port))),
    };
    let port = match port {
        None => usual,
        Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or(TAKES)?,
    };
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b".-:_".contains(&byte);
    if host.is_empty() || !host.bytes().all(good) {
        return Err(TAKES);
    }
    Ok(Server {
        host: host.to_owned(),
        port,
        implicit_tls,
        login,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Reader;

    fn read(lines: &str) -> (Settings, Vec<String>) {
        let mut reader = Reader::new(&format!("[notify]\n{lines}\n"), [], None);
        let mut root = reader.root();
        let mut section = root.section("notify");
        let settings = Settings::read(&mut section);
        section.finish();
        root.finish();
        let faults = reader.finish();
        (settings, faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_is_right_is_understood() {
        let (settings, faults) = read("");
        assert_eq!(
            (settings.is_empty(), settings.on, faults.len()),
            (true, On::Failure, 0)
        );
        for (smtp, host, port, implicit) in [
            ("smtps://mail.example.org", "mail.example.org", 465, true),
            ("smtp://mail.example.org/", "mail.example.org", 587, false),
            ("smtps://[::1]:2465", "::1", 2465, true),
            ("smtp://127.0.0.1:25", "127.0.0.1", 25, false),
        ] {
            let line = format!(
                "email = {{ to = \"a@b.org, C <c@d.org>\", from = \"x@y.org\", smtp = \"{smtp}\" }}"
            );
            let (settings, faults) = read(&line);
            assert_eq!(faults, [""; 0], "{smtp}");
            let Way::Smtp(server) = settings.email.expect("mail").way else {
                panic!("{smtp} is no server")
            };
            let found = (server.host.as_str(), server.port, server.implicit_tls);
            assert_eq!(found, (host, port, implicit));
        }
        let (settings, faults) =
            read("email = { to = \"root\" }\nwebhook_url = \"\"\nmetrics_file = \"\"");
        assert!(settings.webhook.is_none() && settings.metrics_file.is_none());
        // A name of this machine alone is no address that a mail can be addressed to.
        assert_eq!(
            faults,
            ["line 2: `notify.email.to`: takes mail addresses, like \"me@example.org\""]
        );
        let (settings, faults) = read("email = { to = \"root@localhost\", smtp = \"sendmail\" }");
        assert!(
            matches!(settings.email.expect("mail").way, Way::Sendmail),
            "{faults:?}"
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_without_secrets() {
        let mail =
            |rest: &str| format!("email = {{ to = \"a@b.org\", from = \"x@y.org\", {rest} }}");
        for (line, fault) in [
            (
                "on = \"never\"".to_owned(),
                "`notify.on`: unknown variant `never`, expected `failure` or `always`",
            ),
            (
                "timeout = \"2m\"".into(),
                "`notify.timeout`: takes 1s to 60s",
            ),
            (
                "webhook_url = \"marked\"".into(),
                "`notify.webhook_url`: is no address; it takes one",
            ),
            (
                "healthcheck_url = 7".into(),
                "`notify.healthcheck_url` takes a text",
            ),
            (
                "ntfy_url = \"https://marked.org/\"".into(),
                "`notify.ntfy_url`: takes an address with a topic",
            ),
            (
                "metrics_file = \"/x/y.txt\"".into(),
                "`notify.metrics_file`: takes an absolute path that ends in .prom",
            ),
            (
                "metrics_file = \"y.prom\"".into(),
                "`notify.metrics_file`: takes an absolute path",
            ),
            (
                "email = \"a@b.org\"".into(),
                "`notify.email` must be a table",
            ),
            (
                "email = { from = \"a@b.org\" }".into(),
                "`notify.email.to` is missing",
            ),
            ("email = { to = \"\" }".into(), "`notify.email.to`: "),
            (
                "email = { to = \"-x@b.org\" }".into(),
                "`notify.email.to`: takes no address that begins with a hyphen",
            ),
            (
                "email = { to = \"a@b.org\", smtp = \"smtps://m\" }".into(),
                "`notify.email.from`: is needed",
            ),
            (
                mail("smtp = \"mail.example.org\""),
                "`notify.email.smtp`: takes smtps://HOST",
            ),
            (
                mail("smtp = \"http://mail\""),
                "`notify.email.smtp`: takes smtps://HOST",
            ),
            (
                mail("smtp = \"smtps://m:0\""),
                "`notify.email.smtp`: takes smtps://HOST",
            ),
            (
                mail("smtp = \"smtps://m:99999\""),
                "`notify.email.smtp`: takes smtps://HOST",
            ),
            (
                mail("smtp = \"smtps://me:marked@m\""),
                "`notify.email.smtp`: takes no user and password",
            ),
            (
                mail("smtp = \"smtps://m\", username = \"u\""),
                "`notify.email.username`: needs a `password_file`",
            ),
            (
                mail("smtp = \"smtps://m\", password = \"marked\""),
                "`notify.email.password_file`: needs a `username`",
            ),
            (
                mail(
                    "smtp = \"smtps://m\", username = \"u\", password = \"marked\", password_file = \"/x\"",
                ),
                "one is enough",
            ),
            (
                mail("username = \"u\", password_file = \"/x\""),
                "`notify.email.username`: goes with `smtp`",
            ),
            (
                mail("passwort_file = \"/x\""),
                "unknown key `notify.email.passwort_file`; did you mean `password_file`?",
            ),
        ] {
            let (_, faults) = read(&line);
            let all = faults.join("\n");
            assert!(all.contains(fault), "{line}: {all}");
            assert!(!all.contains("marked"), "{all}");
        }
    }
}
