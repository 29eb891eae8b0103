//! `login` as a user meets it: on a real terminal, through pipes, and whatever goes wrong. What is shown is
//! compared whole.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rustix::process::Signal;
use serde_json::{Value, json};
use support::dialogue::{Piped, Screen, echoes};
use support::dropbox::{Dropbox, Options};
use support::host::{Ended, Host};
use support::log_in::{
    LOGGED_IN, NEXT, PREFIX, address, assert_logged_in, assert_nothing_stored, configured, machine,
    mode, plain, token_file, with_code, with_code_changed,
};
fn start() -> Dropbox {
    Dropbox::start(Options::default())
}

/// What somebody without a configuration is told first.
const THE_APP: &str = "\
There is no configuration yet, so this begins with a Dropbox app, which sees nothing but its own folder:
  1. https://www.dropbox.com/developers/apps: Create app, Scoped access, App folder, any name
  2. Permissions: tick account_info.read, files.metadata.read, files.content.read, files.content.write; then Submit
  3. Settings: copy the App key
";
/// What everybody is told.
const THE_PAGE: &str = "\
Open this address in a browser, on any machine, and allow the app:

  https://www.dropbox.com/oauth2/authorize?client_id=standin-app-key&response_type=code&token_access_type=offline&code_challenge=CHALLENGE&code_challenge_method=S256

";
/// What a terminal asks with; the end of the pasted line is all that shows of it.
const THE_CODE: &str = "The code it shows (nothing appears while you paste it): ";
/// A terminal that has come to the question for the code.
fn asked_for_the_code(host: &Host) -> Screen {
    let mut screen = Screen::start(&host.command("login"));
    screen.wait_for("paste it): ");
    screen
}

#[test]
fn from_nothing_to_a_first_configuration() {
    let dropbox = start();
    let host = machine(&dropbox);
    let mut screen = Screen::start(&host.command("login"));
    let terminal = screen.terminal();
    screen.wait_for("App key: ");
    screen.enter("  \n");
    screen.wait_for("App key: ");
    assert!(echoes(&terminal));
    screen.enter("standin-app-key\n");
    screen.wait_for("paste it): ");
    assert!(!echoes(&terminal));
    let code = dropbox.authorize(address(&screen.text())).expect("a code");
    screen.enter(&format!("  {code} \n"));
    screen.wait_for("[Y/n] ");
    assert!(echoes(&terminal));
    // Nothing is stored before the last question is answered.
    assert!(!token_file(&host).exists() && !host.path("config.toml").exists());
    screen.enter("what?\n");
    screen.wait_for("[Y/n] ");
    screen.enter("y\n");
    let (status, shown) = screen.end();
    assert_eq!(status, Some(0), "{shown}");
    assert!(!shown.contains(&code), "{shown}");
    let question = "Write a first configuration to ROOT/config.toml? [Y/n] ";
    let again = "That is no app key: it is about 15 letters and digits, and no secret.\n";
    assert_eq!(
        plain(&shown, &host),
        format!(
            "{THE_APP}App key:   \n{again}App key: standin-app-key\n{THE_PAGE}{THE_CODE}\n\
             {question}what?\n{question}y\n{LOGGED_IN}  first configuration: ROOT/config.toml\n{NEXT}"
        )
    );
    assert_logged_in(&dropbox, &host);
    let configuration = host.path("config.toml");
    assert_eq!(mode(&configuration), 0o600);
    let text = fs::read_to_string(configuration).expect("a configuration");
    assert_eq!(
        plain(&text, &host),
        "# The configuration of gitlab-pi-backup. config.example.toml, in the program's documentation, shows every\n\
         # setting with its default and its meaning. For root alone: chmod 600.\n\
         \n\
         # The place that archives are sent to; the table's name is its name.\n\
         [destinations.dropbox]\n\
         type = \"dropbox\"\n\
         app_key = \"standin-app-key\"\n\
         refresh_token_file = \"ROOT/dropbox.token\"\n\
         \n\
         # Without this table nothing is ever deleted. With it, what no rule keeps is deleted at the end of a good\n\
         # run; `gitlab-pi-backup prune --dry-run` tells beforehand what that would be.\n\
         # [retention]\n# keep_daily = 7\n# keep_weekly = 4\n# keep_monthly = 6\n"
    );
}

#[test]
fn a_first_configuration_can_be_declined() {
    let dropbox = start();
    let mut host = machine(&dropbox);
    host.set(&format!("{PREFIX}APP_KEY"), "standin-app-key");
    let mut screen = asked_for_the_code(&host);
    let code = dropbox.authorize(address(&screen.text())).expect("a code");
    screen.enter(&format!("{code}\n"));
    screen.wait_for("[Y/n] ");
    screen.enter("n\n");
    let (status, shown) = screen.end();
    assert_eq!(status, Some(0), "{shown}");
    let shown = plain(&shown, &host);
    let start = format!(
        "{THE_PAGE}{THE_CODE}\nWrite a first configuration to ROOT/config.toml? [Y/n] n\n{LOGGED_IN}\
         note: write the configuration ROOT/config.toml (chmod 600) before anything else; the least is:\n\n# The"
    );
    assert!(shown.starts_with(&start), "{shown}");
    assert!(
        shown.contains("\napp_key = \"standin-app-key\"\n") && shown.ends_with(NEXT),
        "{shown}"
    );
    assert!(token_file(&host).exists() && !host.path("config.toml").exists());
}

#[test]
fn a_new_token_takes_the_place_of_the_old_one() {
    let dropbox = start();
    let host = configured(&dropbox, "");
    fs::write(token_file(&host), "the old one\n").expect("a token");
    fs::set_permissions(token_file(&host), fs::Permissions::from_mode(0o600)).expect("its mode");
    let before = fs::read(host.path("config.toml")).expect("the configuration");
    let mut screen = asked_for_the_code(&host);
    let code = dropbox.authorize(address(&screen.text())).expect("a code");
    screen.enter(&format!("{code}\n"));
    let (status, shown) = screen.end();
    assert_eq!(status, Some(0), "{shown}");
    assert_eq!(
        plain(&shown, &host),
        format!("{THE_PAGE}{THE_CODE}\n{LOGGED_IN}  configuration: ROOT/config.toml\n{NEXT}")
    );
    assert_logged_in(&dropbox, &host);
    assert_eq!(
        fs::read(host.path("config.toml")).expect("the configuration"),
        before
    );
}

/// With the app's secret there is no challenge, and the token needs the secret for ever.
#[test]
fn an_app_with_a_secret() {
    let dropbox = Dropbox::start(Options {
        app_secret: Some("s3cret".to_owned()),
        ..Options::default()
    });
    let host = configured(&dropbox, "app_secret = \"s3cret\"\n");
    let mut piped = Piped::start(host.command("login --code -"));
    piped.wait_for("on standard input.\n");
    assert!(!piped.text().contains("challenge"), "{}", piped.text());
    let code = dropbox.authorize(address(&piped.text())).expect("a code");
    piped.enter(&code);
    let ended = piped.end();
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_logged_in(&dropbox, &host);
    // One that lost its secret says so.
    let text = fs::read_to_string(host.path("config.toml")).expect("the configuration");
    host.write_config(&text.replace("app_secret = \"s3cret\"\n", ""));
    let ended = with_code(&dropbox, &host, "login --code -");
    assert_eq!(ended.status, Some(0), "PKCE needs none: {ended}");
}

#[test]
fn through_pipes_as_a_script_does_it() {
    let dropbox = start();
    let host = configured(&dropbox, "");
    let ended = with_code(&dropbox, &host, "login --code - --json");
    assert_eq!(ended.status, Some(0), "{ended}");
    let waiting = "Waiting for the code on standard input.\n";
    assert_eq!(plain(&ended.err, &host), format!("{THE_PAGE}{waiting}"));
    let root = host.root().display();
    assert_eq!(
        ended.json(),
        json!({
            "command": "login",
            "status": "ok",
            "error": null,
            "destination": "dropbox",
            "account": "standin@example.com",
            "scopes": ["account_info.read", "files.metadata.read", "files.content.read", "files.content.write"],
            "missing_scopes": [],
            "token_file": format!("{root}/dropbox.token"),
            "configuration": format!("{root}/config.toml"),
            "notes": [],
            "next": format!("sudo gitlab-pi-backup -c {root}/config.toml doctor"),
        })
    );
    assert_logged_in(&dropbox, &host);

    // Without a configuration the key comes from the environment, and the configuration is written unasked.
    let dropbox = start();
    let mut host = machine(&dropbox);
    let ended = host.run("login --code -");
    assert_eq!(ended.status, Some(2), "{ended}");
    assert_eq!(
        plain(&ended.err, &host),
        "error: no app key is known, as there is no configuration ROOT/config.toml\n  \
         give it as GITLAB_PI_BACKUP_DESTINATIONS__DROPBOX__APP_KEY, or log in without `--code`, which asks for it\n"
    );
    host.set(&format!("{PREFIX}APP_KEY"), "standin-app-key");
    let ended = with_code(&dropbox, &host, "login --code -");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(
        plain(&ended.out, &host),
        format!("{LOGGED_IN}  first configuration: ROOT/config.toml\n{NEXT}")
    );
    assert_logged_in(&dropbox, &host);
}

/// Without a terminal and without `--code -` the same questions are asked, and plain lines are read.
#[test]
fn questions_through_pipes() {
    let dropbox = start();
    let host = machine(&dropbox);
    let mut piped = Piped::start(host.command("login"));
    piped.wait_for("App key: ");
    piped.enter("standin-app-key\n");
    piped.wait_for("The code it shows: ");
    let code = dropbox.authorize(address(&piped.text())).expect("a code");
    piped.enter(&format!("{code}\n"));
    let ended = piped.end();
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(
        plain(&ended.err, &host),
        format!("{THE_APP}App key: {THE_PAGE}The code it shows: ")
    );
    assert_logged_in(&dropbox, &host);
    // Nobody answers.
    let host = machine(&dropbox);
    let ended = host.run("login");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert_eq!(
        plain(&ended.err, &host),
        format!(
            "{THE_APP}App key: error: no app key was given; nothing was stored\n  \
             it stands on the tab Settings of the app's page\n"
        )
    );
}

const AGAIN: &str = "begin again for a new one: sudo gitlab-pi-backup login dropbox";

#[test]
fn codes_that_are_not_good() {
    let refused = |host: &Host, dropbox: &Dropbox, ended: &Ended, says: &str| {
        assert_eq!(ended.status, Some(1), "{ended}");
        assert_eq!(ended.out, "", "{ended}");
        let waiting = "Waiting for the code on standard input.\n";
        assert_eq!(
            plain(&ended.err, host),
            format!("{THE_PAGE}{waiting}error: {says}\n")
        );
        assert_nothing_stored(dropbox, host, &ended.err);
    };
    let answered = |what: &str| {
        format!(
            "dropbox: exchanging the code: Dropbox answered 400: invalid_grant: {what}\n  \
             a code counts once, whole, and for some minutes; {AGAIN}"
        )
    };
    let dropbox = start();
    let host = configured(&dropbox, "");
    let login = "login --code -";
    let unknown = answered("code doesn't exist or has expired");
    let ended = with_code_changed(&dropbox, &host, login, |code| code[1..].to_owned());
    refused(&host, &dropbox, &ended, &unknown);
    let ended = with_code_changed(&dropbox, &host, login, |code| {
        dropbox.expire_codes();
        code
    });
    refused(&host, &dropbox, &ended, &unknown);
    // Somebody pasted it into two terminals.
    let ended = with_code_changed(&dropbox, &host, login, |code| {
        let other = configured(&dropbox, "");
        let mut piped = Piped::start(other.command(login));
        piped.wait_for("on standard input.\n");
        piped.enter(&format!("{code}\n"));
        let ended = piped.end();
        assert!(ended.err.contains("invalid code verifier"), "{ended}");
        code
    });
    refused(
        &host,
        &dropbox,
        &ended,
        &answered("code has already been used"),
    );
    // It was shown for the address of another call.
    let mut piped = Piped::start(host.command(login));
    piped.wait_for("on standard input.\n");
    let foreign = address(&piped.text()).to_owned();
    let ended = with_code_changed(&dropbox, &host, login, |_| {
        dropbox.authorize(&foreign).expect("a code")
    });
    refused(&host, &dropbox, &ended, &answered("invalid code verifier"));
    drop(piped.end());
    // Consent was denied: there is no code.
    for nothing in ["", "  "] {
        let ended = with_code_changed(&dropbox, &host, login, |_| nothing.to_owned());
        let says = "no code was given; nothing was stored\n  \
            the page shows one only if the app is allowed; begin again: sudo gitlab-pi-backup login";
        refused(&host, &dropbox, &ended, says);
    }
    let ended = host.run(login);
    assert_eq!(ended.status, Some(1), "nobody answers: {ended}");
    // What is pasted goes out as what it is, whatever it is.
    let ended = with_code_changed(&dropbox, &host, login, |_| "a&b=c %41 ä\u{1b}".to_owned());
    refused(&host, &dropbox, &ended, &unknown);
    let ended = with_code_changed(&dropbox, &host, login, |_| "x".repeat(10_000));
    refused(&host, &dropbox, &ended, &unknown);
}

#[test]
fn the_key_of_another_app() {
    let dropbox = start();
    let mut host = configured(&dropbox, "");
    host.set(&format!("{PREFIX}APP_KEY"), "another-app-key");
    let mut piped = Piped::start(host.command("login --code -"));
    piped.wait_for("on standard input.\n");
    let foreign = address(&piped.text()).to_owned();
    assert_eq!(
        dropbox.authorize(&foreign),
        Err("invalid client_id".to_owned())
    );
    // The user finds a way to a code of the right app all the same.
    let own = foreign.replace("another-app-key", "standin-app-key");
    let code = dropbox.authorize(&own).expect("a code");
    piped.enter(&format!("{code}\n"));
    let ended = piped.end();
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(
        ended.err.ends_with(
            "error: dropbox: exchanging the code: Dropbox answered 400: invalid_client: Invalid client_id or \
             client_secret\n  check `app_key` and `app_secret` against the app's page in the Dropbox app console\n"
        ),
        "{ended}"
    );
    assert_nothing_stored(&dropbox, &host, &ended.err);
}

#[test]
fn an_empty_code_is_asked_for_again_but_not_for_ever() {
    let dropbox = start();
    let host = configured(&dropbox, "");
    let mut screen = Screen::start(&host.command("login"));
    for answer in ["\n", "   \n", "\t\n"] {
        screen.wait_for("paste it): ");
        assert_eq!(dropbox.deny(address(&screen.text())), "error=access_denied");
        screen.enter(answer);
    }
    let (status, shown) = screen.end();
    assert_eq!(status, Some(1), "{shown}");
    let empty =
        "That was empty. The page shows a code only if the app is allowed; Ctrl-C gives up.\n";
    assert_eq!(
        plain(&shown, &host),
        format!(
            "{THE_PAGE}{THE_CODE}\n{empty}{THE_CODE}\n{empty}{THE_CODE}\n{empty}\
             error: no code was given; nothing was stored\n  \
             the page shows one only if the app is allowed; begin again: sudo gitlab-pi-backup login\n"
        )
    );
    assert_nothing_stored(&dropbox, &host, &shown);
}

/// How somebody leaves a terminal.
type Leave = fn(&mut Screen);

#[test]
fn a_terminal_that_is_left_shows_again_what_is_typed() {
    let dropbox = start();
    let host = configured(&dropbox, "");
    let by_signal: [(&str, i32, Leave); 4] = [
        ("SIGINT", 130, |screen| screen.enter("half a co\u{3}")),
        ("SIGINT", 130, |screen| screen.signal(Signal::INT)),
        ("SIGTERM", 143, |screen| screen.signal(Signal::TERM)),
        ("SIGHUP", 129, |screen| screen.signal(Signal::HUP)),
    ];
    for (name, expected, leave) in by_signal {
        let mut screen = asked_for_the_code(&host);
        let terminal = screen.terminal();
        assert!(!echoes(&terminal));
        leave(&mut screen);
        let (status, shown) = screen.end();
        assert_eq!(status, Some(expected), "{shown}");
        assert!(echoes(&terminal), "{name}");
        let shown = plain(&shown, &host);
        let end = format!("error: stopped by {name}; nothing was stored\n");
        assert!(shown.ends_with(&end) && !shown.contains("half"), "{shown}");
        assert_nothing_stored(&dropbox, &host, &shown);
    }
    // Ctrl-D.
    let mut screen = asked_for_the_code(&host);
    let terminal = screen.terminal();
    // Ctrl-Z would leave a silent terminal to the shell, so it does nothing.
    screen.enter("\u{1a}");
    screen.enter("\u{15}\u{4}");
    let (status, shown) = screen.end();
    assert_eq!(status, Some(1), "{shown}");
    assert!(echoes(&terminal));
    assert!(
        shown.ends_with(
            "error: the input ended; nothing was stored\n  begin again: sudo gitlab-pi-backup login\n"
        ),
        "{shown}"
    );
    // The window is closed, at each question.
    let host = machine(&dropbox);
    let mut screen = Screen::start(&host.command("login"));
    screen.wait_for("App key: ");
    assert_eq!(screen.close(), Some(129));
    let mut screen = Screen::start(&host.command("login"));
    screen.wait_for("App key: ");
    screen.enter("standin-app-key\n");
    screen.wait_for("paste it): ");
    let page = screen.text();
    screen.enter(&dropbox.authorize(address(&page)).expect("a code"));
    assert_eq!(screen.close(), Some(129));
    let mut screen = Screen::start(&host.command("login"));
    screen.wait_for("App key: ");
    screen.enter("standin-app-key\n");
    screen.wait_for("paste it): ");
    let code = dropbox.authorize(address(&screen.text())).expect("a code");
    screen.enter(&format!("{code}\n"));
    screen.wait_for("[Y/n] ");
    assert_eq!(dropbox.refresh_tokens().len(), 2);
    assert_eq!(screen.close(), Some(129));
    assert_nothing_stored(&dropbox, &host, "closed");
    assert!(!host.path("config.toml").exists());
}

/// Nobody is asked again, and nothing shows: whoever types it does so on a terminal.
#[test]
fn a_code_for_standard_input_that_is_a_terminal() {
    let dropbox = start();
    let mut host = machine(&dropbox);
    host.set(&format!("{PREFIX}APP_KEY"), "standin-app-key");
    let mut screen = Screen::start(&host.command("login --code -"));
    screen.wait_for("on standard input.");
    assert!(!echoes(&screen.terminal()));
    let code = dropbox.authorize(address(&screen.text())).expect("a code");
    screen.enter(&format!("{code}\n"));
    let (status, shown) = screen.end();
    assert_eq!(status, Some(0), "{shown}");
    assert!(!shown.contains(&code), "{shown}");
    assert_logged_in(&dropbox, &host);
    // The secret of the environment is not written.
    let dropbox = Dropbox::start(Options {
        app_secret: Some("s3cret".to_owned()),
        ..Options::default()
    });
    let mut host = machine(&dropbox);
    host.set(&format!("{PREFIX}APP_KEY"), "standin-app-key");
    host.set(&format!("{PREFIX}APP_SECRET"), "s3cret");
    let ended = with_code(&dropbox, &host, "login --code -");
    assert_eq!(ended.status, Some(0), "{ended}");
    let note = "note: the app's secret was not written into the configuration; the token needs it for every run\n";
    assert!(ended.out.contains(note), "{ended}");
    assert_logged_in(&dropbox, &host);
}

#[test]
fn arguments_that_make_no_sense() {
    let dropbox = start();
    let host = configured(&dropbox, "");
    for (arguments, says) in [
        (
            "login --code MARKED-code",
            "error: `--code` takes only `-`: the code is read from standard input\n  \
             among the arguments every user of this machine could see it\n",
        ),
        (
            "login --json",
            "error: `login --json` asks nothing, so it needs to be told the code\n  \
             add `--code -` and give the code on standard input\n",
        ),
        (
            "login My.Box",
            "error: `My.Box` cannot be the name of a destination\n  it takes lower-case letters, digits, `-` and `_`\n",
        ),
        (
            "login box",
            "error: no Dropbox destination is named `box` in ROOT/config.toml; it knows: dropbox\n  \
             add this table to it, then type the command again:\n\n\
             [destinations.box]\ntype = \"dropbox\"\napp_key = \"…\"\n",
        ),
        (
            "login -c ROOT/none.toml --revoke",
            "error: there is no configuration ROOT/none.toml\n  \
             name one with -c: revoking takes the app key that it holds\n",
        ),
        (
            "login -c ROOT/config.toml/x",
            "error: reading the configuration ROOT/config.toml/x: Not a directory (os error 20)\n",
        ),
    ] {
        let arguments = arguments.replace("ROOT", &host.root().display().to_string());
        let ended = host.run(&arguments);
        assert_eq!(ended.status, Some(2), "{ended}");
        assert_eq!(plain(&ended.err, &host), says);
        assert!(!ended.to_string().contains("MARKED"), "{ended}");
    }
    let text = fs::read_to_string(host.path("config.toml")).expect("the configuration");
    host.write_config("[gitlab]\nnice = 5\n");
    let mut plainly = host.command("login");
    for key in ["API_URL", "CONTENT_URL"] {
        plainly.env_remove(format!("{PREFIX}{key}"));
    }
    let ended = Ended::from(plainly.output().expect("the program runs"));
    assert_eq!(ended.status, Some(2), "{ended}");
    assert_eq!(
        plain(&ended.err, &host),
        "error: the configuration ROOT/config.toml has a fault:\n  \
         `destinations`: no destination is configured; add a table like this\n    \
         [destinations.dropbox]\n    type = \"dropbox\"\n    app_key = \"…\"\n"
    );
    let second = "[destinations.second]\ntype = \"dropbox\"\napp_key = \"k\"\n";
    host.write_config(&format!("{text}{second}"));
    let ended = host.run("login");
    assert_eq!(ended.status, Some(2), "{ended}");
    assert_eq!(
        ended.err,
        "error: the configuration has several Dropbox destinations: dropbox, second\n  \
         name one: gitlab-pi-backup login dropbox\n"
    );
    let ended = with_code(&dropbox, &host, "login dropbox --code -");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert!(dropbox.requests().len() > 3);
}

/// A token that is given elsewhere counts more than the file: one that is stored there would be of no use.
#[test]
fn a_token_that_stands_elsewhere() {
    let dropbox = start();
    let token = Options::default().refresh_token;
    let refused = |host: &Host, place: &str| {
        let ended = host.run("login");
        assert_eq!(ended.status, Some(2), "{ended}");
        assert_eq!(
            plain(&ended.err, host),
            format!(
                "error: dropbox: the refresh token is given in {place}, so one that is stored in a file would not \
                 count\n  take it out there, then type the command again\n"
            )
        );
        assert_eq!(dropbox.requests().len(), 0);
    };
    let host = machine(&dropbox);
    let key = Options::default().app_key;
    host.write_config(&format!(
        "[destinations.dropbox]\ntype = \"dropbox\"\napp_key = \"{key}\"\nrefresh_token = \"{token}\"\n"
    ));
    refused(&host, "line 4 of ROOT/config.toml");
    let mut host = configured(&dropbox, "");
    host.set(&format!("{PREFIX}REFRESH_TOKEN"), token.clone());
    refused(
        &host,
        "the environment variable GITLAB_PI_BACKUP_DESTINATIONS__DROPBOX__REFRESH_TOKEN",
    );
    let mut host = configured(&dropbox, "");
    let credentials = host.path("credentials");
    fs::create_dir(&credentials).expect("a folder");
    fs::write(
        credentials.join("destinations.dropbox.refresh_token"),
        token,
    )
    .expect("a credential");
    host.set("CREDENTIALS_DIRECTORY", credentials);
    refused(&host, "the credential destinations.dropbox.refresh_token");
}

#[test]
fn every_missing_right_is_named_and_the_token_not_stored() {
    let dropbox = start();
    let host = configured(&dropbox, "");
    fs::write(token_file(&host), "the old one\n").expect("a token");
    fs::set_permissions(token_file(&host), fs::Permissions::from_mode(0o600)).expect("its mode");
    dropbox.tick(&["account_info.read", "files.content.write"]);
    let ended = with_code(&dropbox, &host, "login --code - --json");
    assert_eq!(ended.status, Some(1), "{ended}");
    let document = ended.json();
    let missing = json!(["files.content.read", "files.metadata.read"]);
    assert_eq!(document["missing_scopes"], missing);
    assert_eq!(
        document["scopes"],
        json!(["account_info.read", "files.content.write"])
    );
    assert_eq!(document["token_file"], Value::Null);
    assert_eq!(document["next"], Value::Null);
    assert_eq!(
        plain(document["error"].as_str().expect("an error"), &host),
        "dropbox: the token lacks the rights files.content.read, files.metadata.read, so it was not stored\n  \
         tick them under Permissions on the app's page (https://www.dropbox.com/developers/apps), press Submit, and \
         log in again:\n  a token keeps the rights it was born with; \
         sudo gitlab-pi-backup -c ROOT/config.toml login dropbox"
    );
    let stored = fs::read_to_string(token_file(&host)).expect("a token");
    assert_eq!(
        stored, "the old one\n",
        "it counts until the new one is proven"
    );
    assert_eq!(dropbox.refresh_tokens().len(), 1, "nobody knows it");
    assert_eq!(dropbox.files().len(), 0);
}
