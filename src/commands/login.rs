//! `login`

pub(super) mod ask;

use std::fs::{self, File};
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

use secrecy::SecretString;

use self::ask::{Ask, Echo, say};
use super::setup::{Failure, on_the_io_thread};
use super::{ExitStatus, USAGE, complain, tell};
use crate::cli::Global;
use crate::cli::upkeep::LoginArgs;
use crate::config::{self, Config, DEFAULT_PATH};
use crate::destination::dropbox::{self, APPS_PAGE, Consent, SCOPES};
use crate::destination::{self, Destination};
use crate::login::configuration::{First, is_writable};
use crate::login::script::Script;
use crate::login::{Credential, Job, LoginReport, log_in, program, revoke};
use crate::settings::variable_name;

/// The destination that a first configuration has if none is named.
const FIRST_NAME: &str = "dropbox";
/// A longer file is no script; bytes.
const LONGEST_SCRIPT: u64 = 1 << 20;
/// So often an empty answer is asked for again.
const ATTEMPTS: usize = 3;

/// Obtains and stores a refresh token, or revokes it.
pub fn run(global: &Global, arguments: &LoginArgs) -> Result<ExitStatus, Failure> {
    check(global, arguments).map_err(usage)?;
    let path = config::path(global.config.clone());
    let path = std::path::absolute(&path)
        .map_err(|error| usage(format!("the configuration {}: {error}", path.display())))?;
    let report = on_the_io_thread(async |stop, processors| {
        let ask = Ask {
            stop: &stop,
            terminal: io::stdin().is_terminal(),
            // With a code on standard input nobody is there to answer.
            answers: arguments.code.is_none() && io::stdin().is_terminal(),
            unanswered: "nothing was stored\n  begin again: sudo gitlab-pi-backup login",
        };
        let target = Target::find(&path, arguments, &ask).await?;
        target.carry_out(arguments, &ask, processors).await
    })?;
    tell(global, &report, || report.text());
    if let Some(error) = &report.error {
        complain(error);
    }
    Ok(report.exit_status())
}

fn usage(message: impl Into<String>) -> Failure {
    (USAGE, message.into())
}

/// What the arguments alone show.
fn check(global: &Global, arguments: &LoginArgs) -> Result<(), &'static str> {
    if arguments.code.as_ref().is_some_and(|code| code != "-") {
        // Whatever it is, it is not repeated.
        return Err(
            "`--code` takes only `-`: the code is read from standard input\n  \
             among the arguments every user of this machine could see it",
        );
    }
    let asks = arguments.code.is_none() && !arguments.revoke && arguments.from_script.is_none();
    if global.json && asks {
        return Err(
            "`login --json` asks nothing, so it needs to be told the code\n  \
             add `--code -` and give the code on standard input",
        );
    }
    Ok(())
}

/// Where a log-in goes.
struct Target {
    config: Config,
    name: String,
    configuration: PathBuf,
    /// What is to be written if there is no configuration.
    first: Option<First>,
    /// What the older script says, if that is asked for.
    script: Option<Script>,
}

impl Target {
    async fn find(path: &Path, arguments: &LoginArgs, ask: &Ask<'_>) -> Result<Target, Failure> {
        let wanted = arguments.destination.as_deref();
        if let Some(name) = wanted.filter(|name| !destination::is_name(name)) {
            let message = format!("`{name}` cannot be the name of a destination");
            let takes = "it takes lower-case letters, digits, `-` and `_`";
            return Err(usage(format!("{message}\n  {takes}")));
        }
        let script = arguments.from_script.as_deref().map(read_script);
        let script = script.transpose().map_err(usage)?;
        let there = match fs::symlink_metadata(path) {
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => {
                let path = path.display();
                return Err(usage(format!("reading the configuration {path}: {error}")));
            }
        };
        if there && script.is_none() {
            let config = config::load(path).map_err(usage)?;
            let name = choose(path, &config, wanted).map_err(usage)?;
            return Ok(Target {
                config,
                name,
                configuration: path.to_owned(),
                first: None,
                script: None,
            });
        }
        let name = wanted.unwrap_or(FIRST_NAME);
        let first = match &script {
            Some(script) => first_of(script, name, path),
            None if arguments.revoke => {
                let message = format!("there is no configuration {}", path.display());
                let hint = "name one with -c: revoking takes the app key that it holds";
                return Err(usage(format!("{message}\n  {hint}")));
            }
            None => {
                // Before anybody makes an app.
                check_place(path)?;
                let app_key = app_key(path, name, arguments, ask).await?;
                First::new(name, &app_key, token_file_beside(path, name))
            }
        };
        if there {
            return Err(usage(format!(
                "there is a configuration {} already, and it is never overwritten\n  \
                 move it away and type the command again, or take over what you need of this:\n\n{}",
                path.display(),
                first.shown()
            )));
        }
        Ok(Target {
            config: config::check(path, &first.text()).map_err(usage)?,
            name: name.to_owned(),
            configuration: path.to_owned(),
            first: Some(first),
            script,
        })
    }

    async fn carry_out(
        self,
        arguments: &LoginArgs,
        ask: &Ask<'_>,
        processors: usize,
    ) -> Result<LoginReport, Failure> {
        let Target {
            config,
            name,
            configuration,
            first,
            script,
        } = self;
        let mut settings = config.destinations.into_iter();
        let settings = settings
            .find(|settings| settings.name == name)
            .expect("it was chosen among them");
        let service = settings.dropbox();
        let needs_secret = service.is_some_and(dropbox::Settings::has_secret);
        let given_at = service.and_then(|service| service.token_place());
        let given_at = given_at.map(|place| whereabouts(place, &configuration));
        let token_file = service.map(|service| service.login_file().to_owned());
        let token_file = token_file.unwrap_or_default();
        let stall = config.upload.stall_timeout;
        let destination = Destination::new(settings, stall, processors);
        let is_default = configuration == Path::new(DEFAULT_PATH);
        let program = program((!is_default).then_some(&configuration));
        let dropbox = destination
            .dropbox()
            .expect("only such ones are chosen among");
        let job = Job {
            destination: &destination,
            dropbox,
            token_file: &token_file,
            configuration: &configuration,
            first: first.as_ref(),
            program: &program,
            allowed: config.upload.options.retry_for,
            stop: ask.stop,
        };
        if arguments.revoke {
            return Ok(revoke(&job, given_at.as_deref()).await);
        }
        if let Some(place) = given_at {
            return Err(usage(format!(
                "{name}: the refresh token is given in {place}, so one that is stored in a file would not count\n  \
                 take it out there, then type the command again"
            )));
        }
        // Before anybody opens a browser.
        check_place(&token_file)?;
        if first.is_some() {
            check_place(&configuration)?;
        }
        if let Some(script) = &script {
            let credential = Credential::Token(&script.refresh_token);
            let mut report = log_in(&job, credential, async || Ok(true)).await;
            if report.exit_status() == 0 {
                report.notes.push(
                    "the script still holds the secrets, and may still be started by cron; remove both once a backup \
                     of this program is verified"
                        .to_owned(),
                );
            }
            return Ok(report);
        }
        let consent = dropbox.consent().map_err(|error| (1, error.to_string()))?;
        let code = code(&consent, arguments, ask).await?;
        let unwritten = needs_secret
            && first
                .as_ref()
                .is_some_and(|first| first.app_secret.is_none());
        let confirm = async || match first {
            Some(_) if ask.answers => ask.whether_to_write(&configuration).await,
            _ => Ok(true),
        };
        let mut report = log_in(&job, Credential::Code(&consent, &code), confirm).await;
        if unwritten && report.exit_status() == 0 {
            let note = "the app's secret was not written into the configuration; the token needs it for every run";
            report.notes.push(note.to_owned());
        }
        Ok(report)
    }
}

/// Where something is given, for somebody who does not know which file is meant.
fn whereabouts(place: &str, configuration: &Path) -> String {
    match place.strip_prefix("line ") {
        Some(line) => format!("line {line} of {}", configuration.display()),
        None => format!("the {place}"),
    }
}

/// The destination that is meant.
fn choose(path: &Path, config: &Config, wanted: Option<&str>) -> Result<String, String> {
    let all = config.destinations.iter();
    let known: Vec<_> = all
        .filter(|settings| settings.dropbox().is_some())
        .map(|settings| settings.name.as_str())
        .collect();
    let name = match (wanted, known.as_slice()) {
        (Some(wanted), _) if known.contains(&wanted) => return Ok(wanted.to_owned()),
        (Some(wanted), _) => wanted,
        (None, [only]) => return Ok((*only).to_owned()),
        (None, []) => FIRST_NAME,
        (None, _) => {
            return Err(format!(
                "the configuration has several Dropbox destinations: {}\n  name one: gitlab-pi-backup login {}",
                known.join(", "),
                known[0]
            ));
        }
    };
    let known = match known.as_slice() {
        [] => "none".to_owned(),
        known => known.join(", "),
    };
    Err(format!(
        "no Dropbox destination is named `{name}` in {}; it knows: {known}\n  \
         add this table to it, then type the command again:\n\n[destinations.{name}]\ntype = \"dropbox\"\napp_key = \"…\"",
        path.display()
    ))
}

/// The app's key: from the environment, or from the user, who is told how to make an app.
async fn app_key(
    path: &Path,
    name: &str,
    arguments: &LoginArgs,
    ask: &Ask<'_>,
) -> Result<String, Failure> {
    let variable = variable_name(&format!("destinations.{name}.app_key"));
    if let Some(key) = std::env::var(&variable).ok().filter(|key| !key.is_empty()) {
        return Ok(key);
    }
    if arguments.code.is_some() {
        return Err(usage(format!(
            "no app key is known, as there is no configuration {}\n  \
             give it as {variable}, or log in without `--code`, which asks for it",
            path.display()
        )));
    }
    say(&format!(
        "There is no configuration yet, so this begins with a Dropbox app, which sees nothing but its own folder:\n  \
         1. {APPS_PAGE}: Create app, Scoped access, App folder, any name\n  \
         2. Permissions: tick {}; then Submit\n  \
         3. Settings: copy the App key\n",
        SCOPES.join(", ")
    ));
    for _ in 0..ATTEMPTS {
        let key = ask.line("App key: ", Echo::On).await?.unwrap_or_default();
        let is_key = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if !key.is_empty() && key.len() <= 64 && key.chars().all(is_key) {
            return Ok(key);
        }
        if !ask.answers {
            break;
        }
        say("That is no app key: it is about 15 letters and digits, and no secret.\n");
    }
    Err((
        1,
        "no app key was given; nothing was stored\n  \
         it stands on the tab Settings of the app's page"
            .to_owned(),
    ))
}

/// The code that the page shows when the user has allowed the app.
async fn code(
    consent: &Consent,
    arguments: &LoginArgs,
    ask: &Ask<'_>,
) -> Result<SecretString, Failure> {
    say(&format!(
        "Open this address in a browser, on any machine, and allow the app:\n\n  {}\n\n",
        consent.url()
    ));
    let prompt = match arguments.code {
        Some(_) => "Waiting for the code on standard input.\n",
        None if ask.answers => "The code it shows (nothing appears while you paste it): ",
        None => "The code it shows: ",
    };
    for _ in 0..ATTEMPTS {
        match ask.line(prompt, Echo::Off).await? {
            Some(code) if !code.is_empty() => return Ok(code.into()),
            Some(_) if ask.answers => say(
                "That was empty. The page shows a code only if the app is allowed; Ctrl-C gives up.\n",
            ),
            _ => break,
        }
    }
    Err((
        1,
        "no code was given; nothing was stored\n  \
         the page shows one only if the app is allowed; begin again: sudo gitlab-pi-backup login"
            .to_owned(),
    ))
}

/// What is obtained could be stored here.
fn check_place(path: &Path) -> Result<(), Failure> {
    is_writable(path).map_err(|(place, error)| {
        let message = format!("{} could not be written", path.display());
        let hint =
            "run as root, and on a disk that is mounted for writing; nothing was asked or stored";
        let place = place.display();
        (1, format!("{message}: {place}: {error}\n  {hint}"))
    })
}

/// Where a first configuration keeps its token: beside it. None where it is looked for without being told.
fn token_file_beside(path: &Path, name: &str) -> Option<PathBuf> {
    (path != Path::new(DEFAULT_PATH)).then(|| path.with_file_name(format!("{name}.token")))
}

fn first_of(script: &Script, name: &str, path: &Path) -> First {
    let unless = |value: &Option<String>, default: &str| {
        value
            .clone()
            .filter(|value| value.trim_end_matches('/') != default)
    };
    let mut first = First::new(name, &script.app_key, token_file_beside(path, name));
    first.app_secret = Some(script.app_secret.clone());
    first.config_folder = unless(&script.config_folder, "/Config");
    first.data_folder = unless(&script.data_folder, "/Data");
    first.config_dir = unless(&script.config_dir, "/etc/gitlab/config_backup");
    first.data_dir = unless(&script.data_dir, "/var/opt/gitlab/backups");
    first
}

fn read_script(path: &Path) -> Result<Script, String> {
    let action = format!("reading the script {}", path.display());
    let mut text = String::new();
    let read =
        File::open(path).and_then(|file| file.take(LONGEST_SCRIPT + 1).read_to_string(&mut text));
    read.map_err(|error| format!("{action}: {error}"))?;
    if text.len() as u64 > LONGEST_SCRIPT {
        return Err(format!("{action}: it is too long to be the script"));
    }
    Script::read(&text).map_err(|faults| {
        format!(
            "{action}:\n  {}\n  fill that in there, or log in without it: sudo gitlab-pi-backup login",
            faults.join("\n  ")
        )
    })
}
