//! Mail: by a server, however it behaves, and by the mail system of the machine.

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::dropbox::{Dropbox, Options};
use support::host::Host;
use support::mail::{MailServer, Security, Trouble};

const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");
const PASSWORD: &str = "MARKED-mail-password";
/// `\0pi@example.org\0MARKED-mail-password`
const LOGIN: &str = "AHBpQGV4YW1wbGUub3JnAE1BUktFRC1tYWlsLXBhc3N3b3Jk";

fn machine(email: &str) -> (Dropbox, Host) {
    let dropbox = Dropbox::start(Options::default());
    let mut host = Host::new(PROGRAM, &dropbox);
    host.set("STUB_NOW", "1702758583");
    let path = host.path("password");
    fs::write(&path, format!("{PASSWORD}\n")).expect("the password");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
    let config = host.config(&dropbox);
    let email = email.replace("ROOT", &host.root().display().to_string());
    host.write_config(&format!(
        "{config}retry_for = \"1s\"\n[notify]\ntimeout = \"1s\"\nemail = {{ {email} }}\n"
    ));
    (dropbox, host)
}

/// A machine that sends mail through this server.
fn with(server: &MailServer, login: bool) -> (Dropbox, Host) {
    let login = if login {
        ", username = \"pi@example.org\", password_file = \"ROOT/password\""
    } else {
        ""
    };
    let (dropbox, mut host) = machine(&format!(
        "to = \"me@example.org, You <you@example.org>\", from = \"Pi <pi@example.org>\", smtp = \"{}\"{login}",
        server.url()
    ));
    host.set("SSL_CERT_FILE", server.ca_file());
    (dropbox, host)
}

/// What quoted-printable hides.
fn decoded(text: &str) -> String {
    let text = text.replace("=\r\n", "");
    let mut parts = text.split('=');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part
            .get(..2)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok())
        {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(&part.as_bytes()[2..]);
            }
            None => bytes.extend_from_slice(part.as_bytes()),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn a_failed_run_comes_by_mail_under_tls_with_or_without_login() {
    for (security, login) in [
        (Security::Implicit, true),
        (Security::StartTls, true),
        (Security::Implicit, false),
        (Security::StartTls, false),
    ] {
        let server = MailServer::start(security, login.then_some(LOGIN), Trouble::None);
        let (_dropbox, host) = with(&server, login);
        fs::remove_file(host.path("bin/gitlab-backup")).expect("the command");
        let ended = host.run("run --json -vv");
        assert_eq!(ended.status, Some(1), "{ended}");
        let mails = server.mails();
        assert_eq!(mails.len(), 1, "{security:?}: {ended}");
        let mail = &mails[0];
        assert_eq!(mail.from, "pi@example.org");
        assert_eq!(mail.to, ["me@example.org", "you@example.org"]);
        let (head, body) = mail.text.split_once("\r\n\r\n").expect("head and body");
        let head = head.replace("\r\n ", " ");
        for line in [
            "From: Pi <pi@example.org>",
            "To: me@example.org, You <you@example.org>",
            "Auto-Submitted: auto-generated",
            "Content-Type: text/plain; charset=utf-8",
        ] {
            assert!(
                head.lines().any(|own| own == line),
                "{line} is not in {head}"
            );
        }
        let subject = head
            .lines()
            .find(|line| line.starts_with("Subject: "))
            .expect("a subject");
        assert!(
            subject.contains("GitLab backup on ") && subject.ends_with(": FAILED"),
            "{subject}"
        );
        for name in ["Date: ", "Message-ID: <"] {
            assert!(head.contains(name), "{head}");
        }
        let body = decoded(body);
        assert!(
            body.starts_with("running `gitlab-backup create`: it is not on this machine"),
            "{body}"
        );
        assert!(body.contains("the end of its log:"), "{body}");
        assert_eq!(
            server
                .said_under_tls()
                .iter()
                .any(|line| line.starts_with("AUTH ")),
            login
        );
        // Before TLS only what TLS needs.
        for line in server.said_in_clear() {
            assert!(line.starts_with("EHLO ") || line == "STARTTLS", "{line}");
        }
        let all = format!("{ended}");
        assert!(!all.contains(PASSWORD) && !all.contains(LOGIN) && !mail.text.contains("MARKED"));
    }
}

/// What a server does, and what `notify test` prints of it behind its place.
type Scene = (Security, Option<&'static str>, Trouble, &'static str);

fn scenes() -> Vec<Scene> {
    let implicit = |trouble, words| (Security::Implicit, Some(LOGIN), trouble, words);
    let starttls = |trouble, words| (Security::StartTls, Some(LOGIN), trouble, words);
    vec![
        (
            Security::None,
            Some(LOGIN),
            Trouble::None,
            "the server offers no STARTTLS, and nothing is sent without TLS\n\
             write smtps:// if it speaks TLS from the first byte (port 465), or use another server",
        ),
        (
            Security::Implicit,
            Some("b3RoZXI="),
            Trouble::None,
            "the server answered 535 5.7.8 authentication failed\n\
             are `username` and the password right? many providers want a password made for this program alone",
        ),
        (
            Security::Implicit,
            None,
            Trouble::None,
            "No compatible authentication mechanism was found\n\
             the server takes no login there: leave out `username`, or is there another port for it?",
        ),
        implicit(
            Trouble::Echo("AUTH"),
            "the server answered 535 5.7.8 what is AUTH PLAIN [secret]?\n\
             are `username` and the password right? many providers want a password made for this program alone",
        ),
        implicit(
            Trouble::Refuse("RCPT", "550 5.1.1 nobody of that name"),
            "the server answered 550 5.1.1 nobody of that name",
        ),
        implicit(
            Trouble::Refuse("MAIL", "553 5.7.1 not your address"),
            "the server answered 553 5.7.1 not your address",
        ),
        implicit(
            Trouble::Refuse("DATA", "452 4.3.1 full"),
            "the server answered 452 4.3.1 full",
        ),
        implicit(Trouble::RefuseOnce("MAIL", "451 4.7.1 try again"), ""),
        // It has the mail.
        implicit(Trouble::Hang("QUIT"), ""),
        implicit(
            Trouble::Hang("MAIL"),
            "the server did not answer within 2s\nis the server up?",
        ),
        starttls(
            Trouble::Hang(""),
            "the server did not answer within 1s\nsmtp:// is for STARTTLS (port 587)",
        ),
        starttls(
            Trouble::Hang("STARTTLS"),
            "the server did not answer within 1s\nsmtp:// is for STARTTLS (port 587)",
        ),
        starttls(
            Trouble::Close("STARTTLS"),
            "the server closed the connection\n\
             smtp:// is for STARTTLS (port 587); for TLS from the first byte (port 465) write smtps://",
        ),
        implicit(
            Trouble::Close("."),
            "the conversation broke off: the server closed the connection",
        ),
        implicit(Trouble::Endless("EHLO"), "the conversation broke off: "),
        starttls(
            Trouble::Endless("EHLO"),
            "the server says too much\n\
             smtp:// is for STARTTLS (port 587); for TLS from the first byte (port 465) write smtps://",
        ),
        starttls(
            Trouble::SlipIn,
            "the server went on talking before TLS: somebody may be in between",
        ),
        starttls(
            Trouble::Refuse("STARTTLS", "454 4.7.0 not now"),
            "the server answered 454 4.7.0 not now",
        ),
    ]
}

fn play((security, login, trouble, words): Scene) {
    let server = MailServer::start(security, login, trouble);
    let (_dropbox, host) = with(&server, true);
    let begun = Instant::now();
    let ended = host.run("notify test -vv");
    assert!(
        begun.elapsed() < Duration::from_secs(12),
        "{trouble:?}: {:?}",
        begun.elapsed()
    );
    let scene = format!("{security:?} {trouble:?}: {ended}");
    if words.is_empty() {
        assert_eq!(
            ended.out, "email       ok      127.0.0.1 took the mail\n",
            "{scene}"
        );
        assert_eq!(
            (ended.status, server.mails().len()),
            (Some(0), 1),
            "{scene}"
        );
        return;
    }
    assert_eq!(
        (ended.status, server.mails().len()),
        (Some(3), 0),
        "{scene}"
    );
    let expected = format!(
        "email       FAILED  sending the mail through 127.0.0.1:{}: ",
        server.port()
    );
    let told = ended.out.replace("\n                    ", "\n");
    let told = told
        .strip_prefix(&expected)
        .unwrap_or_else(|| panic!("{scene}"));
    assert!(told.starts_with(words), "{words}\n{scene}");
    assert!(
        !scene.contains(PASSWORD) && !scene.contains(LOGIN),
        "{scene}"
    );
    if security != Security::Implicit {
        let clear = server.said_in_clear();
        assert!(
            clear
                .iter()
                .all(|line| line.starts_with("EHLO ") || line == "STARTTLS"),
            "{clear:?}"
        );
    }
}

#[test]
fn whatever_a_server_does_is_told_in_bounded_time_and_without_the_password() {
    std::thread::scope(|scope| {
        for scene in scenes() {
            scope.spawn(move || play(scene));
        }
    });
}

#[test]
fn tls_that_is_not_trusted_or_not_spoken_is_refused() {
    let server = MailServer::start(Security::Implicit, Some(LOGIN), Trouble::None);
    let (_dropbox, mut host) = with(&server, true);
    let other = MailServer::start(Security::StartTls, None, Trouble::None);
    host.set("SSL_CERT_FILE", other.ca_file());
    let ended = host.run("notify test");
    assert!(
        ended.status == Some(3)
            && ended
                .out
                .contains("the server's certificate is not trusted"),
        "{ended}"
    );
    assert_eq!(server.said_under_tls(), [""; 0]);
    // smtps:// to a server that waits for STARTTLS, and the other way round.
    for (url, words) in [
        (
            other.url().replace("smtp:", "smtps:"),
            "smtps:// is for TLS from the first byte (port 465)",
        ),
        (
            server.url().replace("smtps:", "smtp:"),
            "smtp:// is for STARTTLS (port 587)",
        ),
    ] {
        let (_dropbox, host) = machine(&format!(
            "to = \"a@b.org\", from = \"c@d.org\", smtp = \"{url}\""
        ));
        let ended = host.run("notify test");
        assert!(
            ended.status == Some(3) && ended.out.contains(words),
            "{ended}"
        );
    }
}

#[test]
fn an_empty_password_is_told_before_anything_is_said() {
    let server = MailServer::start(Security::Implicit, Some(LOGIN), Trouble::None);
    let (_dropbox, mut host) = machine(&format!(
        "to = \"a@b.org\", from = \"c@d.org\", smtp = \"{}\", username = \"u\"",
        server.url()
    ));
    host.set("SSL_CERT_FILE", server.ca_file());
    host.set("GITLAB_PI_BACKUP_NOTIFY__EMAIL__PASSWORD", "");
    let ended = host.run("notify test");
    let told = "email       FAILED  using `notify.email.password`: it takes exactly one line\n";
    assert!(
        ended.status == Some(3) && ended.out.starts_with(told),
        "{ended}"
    );
    assert_eq!(server.said_under_tls(), [""; 0]);
}

#[test]
fn a_password_file_is_for_root_alone_and_holds_a_password() {
    let server = MailServer::start(Security::Implicit, Some(LOGIN), Trouble::None);
    let (_dropbox, host) = with(&server, true);
    let path = host.path("password");
    let words = "reading the password of the mail account in ";
    for (text, told) in [
        ("", "it takes exactly one line"),
        ("MARKED\nMARKED\n", "it takes exactly one line"),
    ] {
        fs::write(&path, text).expect("the password");
        let ended = host.run("notify test");
        assert!(
            ended.status == Some(3) && ended.out.contains(told) && ended.out.contains(words),
            "{ended}"
        );
        assert!(!format!("{ended}").contains("MARKED"));
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("its mode");
    let ended = host.run("notify test");
    assert!(
        ended.status == Some(2) && ended.err.contains("chmod 600"),
        "{ended}"
    );
    fs::remove_file(&path).expect("the password");
    let ended = host.run("notify test");
    assert!(
        ended
            .out
            .contains("write it there, in a line by itself, and chmod 600"),
        "{ended}"
    );
}

/// Looking sends nothing, but shows whether the login is right. What is trusted stands in a variable, so this test
/// calls itself with it.
#[tokio::test]
async fn a_server_is_looked_at_without_a_mail() {
    if let Some(config) = std::env::var_os("LOOK_AT") {
        let settings = gitlab_pi_backup::config::load(Path::new(&config)).expect("right");
        let found = gitlab_pi_backup::notify::reachable(&settings.notify).await;
        let offline = gitlab_pi_backup::notify::usable(&settings.notify);
        let text = format!("{:?}\n{:?}", found[0].result, offline[0].result);
        return fs::write(Path::new(&config).with_extension("found"), text).expect("written");
    }
    for (security, login, told) in [
        (
            Security::StartTls,
            LOGIN,
            "Ok(\"the mail server accepts the login\")",
        ),
        (
            Security::Implicit,
            LOGIN,
            "Ok(\"the mail server accepts the login\")",
        ),
        (
            Security::Implicit,
            "b3RoZXI=",
            "Err(\"logging in at 127.0.0.1:PORT: the server answered 535 ",
        ),
    ] {
        let server = MailServer::start(security, Some(login), Trouble::None);
        let (_dropbox, host) = with(&server, true);
        let mut child = Command::new(std::env::current_exe().expect("this test"));
        let child = child.args(["--exact", "a_server_is_looked_at_without_a_mail"]);
        let child = child
            .env("LOOK_AT", host.path("config.toml"))
            .env("SSL_CERT_FILE", server.ca_file());
        assert!(child.output().expect("it runs").status.success());
        let found = fs::read_to_string(host.path("config.found")).expect("what it found");
        let told = told.replace("PORT", &server.port().to_string());
        assert!(found.starts_with(&told), "{found}");
        assert!(
            found.contains("\nOk(\"mail goes through 127.0.0.1:"),
            "{found}"
        );
        assert!(server.mails().is_empty());
        let said = server.said_under_tls();
        assert!(
            !said.iter().any(|line| line.starts_with("MAIL")),
            "{said:?}"
        );
    }
}

fn sendmail(host: &Host, body: &str) {
    let path = host.path("bin/sendmail");
    let text = format!(
        "#!/bin/sh\n{}\n",
        body.replace("ROOT", &host.root().display().to_string())
    );
    fs::write(&path, text).expect("a program");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode");
}

#[test]
fn the_mail_system_of_the_machine_is_given_the_mail_and_nothing_else() {
    let (_dropbox, mut host) = machine("to = \"me@example.org\", from = \"pi@example.org\"");
    sendmail(
        &host,
        "echo \"$@\" > ROOT/words; env > ROOT/environment; cat > ROOT/mail",
    );
    host.set("GITLAB_TOKEN", "MARKED");
    fs::remove_file(host.path("bin/gitlab-backup")).expect("the command");
    let ended = host.run("run --json");
    assert_eq!(ended.status, Some(1), "{ended}");
    let read = |name: &str| fs::read_to_string(host.path(name)).expect("a file");
    assert_eq!(read("words"), "-i -f pi@example.org me@example.org\n");
    assert!(!read("environment").contains("MARKED") && !read("environment").contains("STUB_"));
    let mail = read("mail");
    assert!(
        mail.contains("To: me@example.org\n") && !mail.contains('\r'),
        "{mail}"
    );
    assert!(
        decoded(&mail.replace('\n', "\r\n")).contains("it is not on this machine"),
        "{mail}"
    );
    // A good run: the news is good, and then there is none.
    for times in [1, 0] {
        fs::remove_file(host.path("mail")).expect("read");
        host.set("STUB_NOW", format!("17028{times}4983"));
        std::os::unix::fs::symlink(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/gitlab/gitlab-backup"),
            host.path("bin/gitlab-backup"),
        )
        .unwrap_or_default();
        assert_eq!(host.run("run").status, Some(0));
        assert_eq!(host.path("mail").exists(), times == 1);
        fs::write(host.path("mail"), "").expect("written");
    }
}

#[test]
fn a_mail_system_that_is_missing_fails_or_hangs_is_told() {
    let (_dropbox, host) = machine("to = \"me@example.org\"");
    let places = [
        "/usr/sbin/sendmail",
        "/usr/bin/sendmail",
        "/usr/local/sbin/sendmail",
        "/usr/local/bin/sendmail",
        "/usr/lib/sendmail",
    ];
    if places.iter().any(|place| Path::new(place).exists()) {
        let _ = writeln!(
            std::io::stderr(),
            "skipped in part: this machine has a mail system"
        );
    } else {
        let ended = host.run("notify test");
        let told = "email       FAILED  sending the mail by sendmail: there is no sendmail on this machine\n\
                    \u{20}                   install a mail system (apt-get install msmtp-mta, or postfix), or name a mail server \
                    in `notify.email.smtp`\n";
        assert_eq!((ended.status, ended.out.as_str()), (Some(3), told));
    }
    for (body, told) in [
        (
            "echo first >&2; echo no route >&2; exit 75",
            "it ended with exit status: 75: no route\n",
        ),
        ("exec 0<&-; exit 1", "it ended with exit status: 1\n"),
        ("kill -9 $$", "it ended with signal: 9 (SIGKILL)\n"),
        (
            "yes >&2; sleep 600",
            "telling the people who get mail: not done after 3s\n",
        ),
        (
            "sleep 600 & echo $! > ROOT/child; wait",
            "telling the people who get mail: not done after 3s\n",
        ),
    ] {
        sendmail(&host, body);
        let begun = Instant::now();
        let ended = host.run("notify test");
        assert!(begun.elapsed() < Duration::from_secs(10), "{body}");
        assert!(
            ended.status == Some(3) && ended.out.contains(told),
            "{body}: {ended}"
        );
    }
    let pid = fs::read_to_string(host.path("child")).expect("a process");
    let state = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "{state}");
    // It took the mail, and works on in the background.
    sendmail(&host, "cat > /dev/null; sleep 30 > /dev/null & exit 0");
    let begun = Instant::now();
    assert_eq!(
        host.run("notify test").out,
        "email       ok      the mail was given to sendmail\n"
    );
    assert!(begun.elapsed() < Duration::from_secs(10));
}

/// A mail server that others wrote, where there is one.
#[test]
fn a_mail_server_of_others_takes_the_mail() {
    let script = "
import sys, ssl, asyncio
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
class Handler:
    async def handle_DATA(self, server, session, envelope):
        sys.stdout.write('MAIL %s %s\\n' % (envelope.mail_from, ','.join(envelope.rcpt_tos)))
        sys.stdout.write(envelope.content.decode('ascii').replace('\\r\\n', '\\n') + '\\nEND\\n')
        sys.stdout.flush()
        return '250 ok'
def login(server, session, envelope, mechanism, data):
    good = data.login == b'pi@example.org' and data.password == b'MARKED-mail-password'
    return AuthResult(success=good)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1])
controller = Controller(Handler(), hostname='127.0.0.1', port=int(sys.argv[2]), tls_context=context, require_starttls=True,
    auth_required=True, authenticator=login)
controller.start()
print('ready', flush=True)
sys.stdin.read()
";
    let can = Command::new("python3")
        .args(["-c", "import aiosmtpd.controller"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !can {
        let _ = writeln!(std::io::stderr(), "skipped: python3 has no module aiosmtpd");
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let key = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let (own, chain) = (dir.path().join("ca.pem"), dir.path().join("chain.pem"));
    fs::write(&own, key.cert.pem()).expect("written");
    fs::write(&chain, key.signing_key.serialize_pem() + &key.cert.pem()).expect("written");
    // Nobody else takes it at once.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port();
    let mut server = Command::new("python3")
        .args(["-c", script])
        .args([chain.as_os_str(), port.to_string().as_ref()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python");
    let mut lines = BufReader::new(server.stdout.take().expect("its output")).lines();
    assert_eq!(lines.next().expect("a line").expect("a word"), "ready");
    let (_dropbox, mut host) = machine(&format!(
        "to = \"me@example.org\", from = \"pi@example.org\", smtp = \"smtp://127.0.0.1:{port}\", \
         username = \"pi@example.org\", password_file = \"ROOT/password\""
    ));
    host.set("SSL_CERT_FILE", &own);
    let ended = host.run("notify test --as failure");
    assert_eq!(ended.status, Some(0), "{ended}");
    let mail: Vec<_> = lines
        .map_while(Result::ok)
        .take_while(|line| line != "END")
        .collect();
    assert_eq!(mail[0], "MAIL pi@example.org me@example.org");
    assert!(
        mail.iter().any(|line| line.contains("nothing has failed")),
        "{mail:?}"
    );
    drop(server.stdin.take());
    server.wait().expect("ended");
}
