//! What systemd lets the service do, as far as a run depends on it: a configuration that was changed after the
//! schedule was installed may name folders that the service only sees read-only, while runs by hand are fine.

use std::fs;
use std::path::{Path, PathBuf};

/// The service as systemd has loaded it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// The program and its arguments.
    command: String,
    /// What it may write to; none: everything, or it is not known.
    writable: Option<Vec<PathBuf>>,
}

impl Service {
    /// From what `systemctl show` says of it.
    pub(super) fn parse<'a>(value: impl Fn(&str) -> Option<&'a str>) -> Service {
        let started = value("ExecStart").unwrap_or_default();
        let command = started.split_once("argv[]=").map(|(_, rest)| rest);
        let command = command.and_then(|rest| rest.split(" ;").next());
        let words = |name: &str| value(name).unwrap_or_default().split_ascii_whitespace();
        let paths = words("ReadWritePaths").map(|path| path.trim_start_matches(['-', '+']).into());
        let states = words("StateDirectory").map(|name| Path::new("/var/lib").join(name));
        let is_closed = value("ProtectSystem") == Some("strict");
        // Where one is quoted, words do not end at blanks.
        let is_plain = !value("ReadWritePaths")
            .unwrap_or_default()
            .contains(['"', '\'']);
        Service {
            command: command.unwrap_or_default().to_owned(),
            writable: (is_closed && is_plain).then(|| paths.chain(states).collect()),
        }
    }

    /// A fault, with the way out, if a run that it starts could not write to one of these folders. `config`: the
    /// configuration that names them, if it is not the usual one; a service that uses another is not judged. `again`:
    /// the command that installs the schedule anew.
    pub fn lacks(&self, config: Option<&Path>, folders: &[PathBuf], again: &str) -> Option<String> {
        let writable = self.writable.as_ref()?;
        let is_of_it = match config {
            Some(config) => self.command.contains(&format!(" -c {} ", config.display())),
            None => !self.command.contains(" -c "),
        };
        if !is_of_it {
            return None;
        }
        // What counts is where links lead; what is not there is made by nobody else than its owner.
        let writable: Vec<_> = writable
            .iter()
            .filter_map(|path| fs::canonicalize(path).ok())
            .collect();
        let is_closed = |folder: &&PathBuf| {
            fs::canonicalize(folder)
                .is_ok_and(|path| !writable.iter().any(|above| path.starts_with(above)))
        };
        let folder = folders.iter().find(is_closed)?;
        Some(format!(
            "the service was installed before the configuration named {}, and may not write there\n  {again}",
            folder.display()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(show: &'static str) -> Service {
        Service::parse(|name| {
            let mut lines = show.lines().filter_map(|line| line.split_once('='));
            lines.find(|(key, _)| *key == name).map(|(_, value)| value)
        })
    }

    #[test]
    fn what_the_service_may_not_write_is_found() {
        let show = "ExecStart={ path=/x ; argv[]=/x -c /c.toml run ; ignore_errors=no }\nProtectSystem=strict\n\
            ReadWritePaths=-/proc/self -/nowhere\nStateDirectory=dpkg\n";
        let strict = service(show);
        let lacks = |service: &Service, config: Option<&str>, folder: &str| {
            service.lacks(config.map(Path::new), &[folder.into()], "again")
        };
        let config = Some("/c.toml");
        let fault = lacks(&strict, config, "/usr").expect("a fault");
        assert!(
            fault.contains(" /usr, and may not write there\n  again"),
            "{fault}"
        );
        for good in ["/proc/self/task", "/var/lib/dpkg/info", "/nowhere/else"] {
            assert_eq!(lacks(&strict, config, good), None, "{good}");
        }
        assert_eq!(
            lacks(&strict, None, "/usr"),
            None,
            "the service uses another configuration"
        );
        assert_eq!(lacks(&strict, Some("/other.toml"), "/usr"), None);
        for open in [
            "ExecStart={ path=/x ; argv[]=/x run ; }\nProtectSystem=full\nReadWritePaths=/a\n",
            "ExecStart={ path=/x ; argv[]=/x run ; }\nProtectSystem=strict\nReadWritePaths=\"-/a b\"\n",
            "",
        ] {
            assert_eq!(lacks(&service(open), None, "/usr"), None, "{open}");
        }
        let usual = service(
            "ExecStart={ path=/x ; argv[]=/x run ; }\nProtectSystem=strict\nReadWritePaths=\n",
        );
        assert!(lacks(&usual, None, "/usr").is_some());
    }
}
