//! Who is told how a run ended. Mail has a file of its own.

mod support;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::dropbox::{Dropbox, Options};
use support::host::{Ended, Host};
use support::receiver::{Answer, Receiver};

const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");

/// A machine that tells as `[notify]` says.
fn machine(notify: &str) -> (Dropbox, Host) {
    let dropbox = Dropbox::start(Options::default());
    let mut host = Host::new(PROGRAM, &dropbox);
    host.set("STUB_NOW", "1702758583");
    fs::create_dir(host.path("metrics")).expect("a folder");
    tell(&dropbox, &host, notify);
    (dropbox, host)
}

fn tell(dropbox: &Dropbox, host: &Host, notify: &str) {
    let config = host.config(dropbox);
    let root = host.root().display().to_string();
    let notify = notify.replace("ROOT", &root);
    host.write_config(&format!("{config}retry_for = \"1s\"\n[notify]\n{notify}\n"));
}

/// Every target that is told by HTTP, and the metrics.
fn everybody(receiver: &Receiver) -> String {
    let (ping, hook) = (receiver.url("/ping/key"), receiver.url("/hook"));
    let topic = receiver.url("/topic").replace("//", "//user:pass%20word@");
    format!(
        "healthcheck_url = \"{ping}\"\nwebhook_url = \"{hook}\"\nntfy_url = \"{topic}\"\n\
         metrics_file = \"ROOT/metrics/backup.prom\"\ntimeout = \"2s\""
    )
}

fn notify_step(ended: &Ended) -> Value {
    let report = ended.json();
    let steps = report["steps"].as_array().expect("steps");
    let last = steps.last().expect("a step").clone();
    assert_eq!(last["step"], "notify", "{ended}");
    last
}

/// The value of a row of the metrics.
fn metric(host: &Host, row: &str) -> Option<f64> {
    let text = fs::read_to_string(host.path("metrics/backup.prom")).expect("the metrics");
    let row = format!("gitlab_pi_backup_{row} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&row))?;
    Some(value.parse().expect("a number"))
}

#[test]
fn a_good_run_is_pinged_and_measured_and_nobody_else_is_bothered() {
    let receiver = Receiver::start();
    let (_dropbox, host) = machine(&everybody(&receiver));
    let ended = host.run("run --json");
    assert_eq!((ended.status, ended.err.as_str()), (Some(0), ""), "{ended}");
    assert_eq!(notify_step(&ended)["status"], "ok");
    assert_eq!(
        receiver.targets(),
        ["POST /ping/key/start", "POST /ping/key"]
    );
    let (start, end) = (receiver.the("/ping/key/start"), receiver.the("/ping/key"));
    assert_eq!(
        (start.head.query(), start.body.as_str()),
        (end.head.query(), "")
    );
    let uuid = end.head.query().strip_prefix("rid=").expect("a run ID");
    assert_eq!(
        uuid.split('-').map(str::len).collect::<Vec<_>>(),
        [8, 4, 4, 4, 12]
    );
    let run_id = ended.json()["run_id"].as_str().expect("an ID").to_owned();
    for part in [
        "GitLab backup on ",
        ": ok\n\n",
        "ok: 1702758583_2023_12_16_17.8.2, all archives stored and verified",
        &format!(", run {run_id}\n"),
        "the end of its log:\n",
        "INFO running `gitlab-ctl backup-etc`",
    ] {
        assert!(end.body.contains(part), "{part:?} is not in {}", end.body);
    }
    assert_eq!(metric(&host, "last_run_exit_status"), Some(0.0));
    let at = "{kind=\"data\",destination=\"dropbox\"}";
    let created = metric(&host, &format!("archive_created_timestamp_seconds{at}"));
    assert_eq!(created, Some(1_702_758_583.0));
    assert_eq!(metric(&host, &format!("upload_status{at}")), Some(1.0));
    let metadata = fs::metadata(host.path("metrics/backup.prom")).expect("the metrics");
    assert_eq!(metadata.permissions().mode() & 0o777, 0o644);
    assert_eq!(
        fs::read_dir(host.path("metrics"))
            .expect("a folder")
            .count(),
        1
    );
    let history = fs::read_to_string(host.path("state/history.jsonl")).expect("the history");
    assert!(history.contains(&run_id), "{history}");
}

#[test]
fn a_failed_run_is_told_to_all_and_the_first_good_one_behind_it() {
    let receiver = Receiver::start();
    let (_dropbox, mut host) = machine(&everybody(&receiver));
    assert_eq!(host.run("run").status, Some(0));
    let stored = "archive_created_timestamp_seconds{kind=\"data\",destination=\"dropbox\"}";
    let success = metric(&host, "last_success_timestamp_seconds");
    assert!(success.is_some());
    receiver.forget();
    host.set("STUB_NOW", "1702844983");
    // The command fails by not being there.
    fs::remove_file(host.path("bin/gitlab-backup")).expect("the command");
    let ended = host.run("run --json");
    assert_eq!(ended.status, Some(1), "{ended}");
    let mut targets = receiver.targets();
    targets.sort();
    assert_eq!(
        targets,
        [
            "POST /hook",
            "POST /ping/key/fail",
            "POST /ping/key/start",
            "POST /topic"
        ]
    );
    let error = "running `gitlab-backup create`: it is not on this machine";
    // The webhook gets what --json prints, as far as that was known.
    let hook = receiver.the("/hook");
    assert_eq!(hook.head.header("Content-Type"), Some("application/json"));
    let mut printed = ended.json();
    printed["steps"].as_array_mut().expect("steps").pop();
    assert_eq!(
        serde_json::from_str::<Value>(&hook.body).expect("JSON"),
        printed
    );
    let topic = receiver.the("/topic");
    let header = |name: &str| topic.head.header(name).unwrap_or_default().to_owned();
    assert!(header("Title").ends_with(": FAILED"), "{}", header("Title"));
    assert_eq!(
        (header("Priority").as_str(), header("Tags").as_str()),
        ("high", "rotating_light")
    );
    // `user:pass word`
    assert_eq!(header("Authorization"), "Basic dXNlcjpwYXNzIHdvcmQ=");
    assert!(topic.body.starts_with(error), "{}", topic.body);
    let fail = receiver.the("/ping/key/fail");
    assert!(
        fail.body.contains(error) && fail.body.contains("ERROR running"),
        "{}",
        fail.body
    );
    // What is stored is stored.
    assert_eq!(metric(&host, "last_run_exit_status"), Some(1.0));
    assert_eq!(metric(&host, stored), Some(1_702_758_583.0));
    assert_eq!(metric(&host, "last_success_timestamp_seconds"), success);

    receiver.forget();
    assert_eq!(host.run("run --skip-create").status, Some(0));
    assert!(receiver.the("/hook").body.contains("\"status\":\"ok\""));
    let title = receiver
        .the("/topic")
        .head
        .header("Title")
        .expect("a title")
        .to_owned();
    assert!(title.ends_with(": is well again"), "{title}");
    receiver.the("/ping/key");
    receiver.forget();
    assert_eq!(host.run("run --skip-create").status, Some(0));
    assert_eq!(
        receiver.targets(),
        ["POST /ping/key/start", "POST /ping/key"]
    );
}

#[test]
fn always_is_always_and_a_dry_run_never() {
    let receiver = Receiver::start();
    let (_dropbox, host) = machine(&format!("{}\non = \"always\"", everybody(&receiver)));
    assert_eq!(host.run("run").status, Some(0));
    assert!(receiver.the("/hook").body.contains("\"status\":\"ok\""));
    receiver.the("/topic");
    receiver.forget();
    fs::remove_file(host.path("metrics/backup.prom")).expect("the metrics");
    assert_eq!(host.run("run --dry-run").status, Some(0));
    assert_eq!(receiver.targets(), [""; 0]);
    assert!(!host.path("metrics/backup.prom").exists());
}

#[test]
fn done_in_part_is_a_failure_to_whoever_watches() {
    let receiver = Receiver::start();
    let (dropbox, host) = machine("");
    let config = host.config(&dropbox);
    let notify = everybody(&receiver).replace("ROOT", &host.root().display().to_string());
    host.write_config(&format!(
        "{config}[hooks]\nafter = [\"false\"]\n[notify]\n{notify}\n"
    ));
    let ended = host.run("run");
    assert_eq!(ended.status, Some(3), "{ended}");
    receiver.the("/ping/key/fail");
    assert!(
        receiver
            .the("/hook")
            .body
            .contains("\"status\":\"partial\"")
    );
    assert_eq!(receiver.the("/topic").head.header("Tags"), Some("warning"));
    assert_eq!(metric(&host, "last_run_exit_status"), Some(3.0));
}

#[test]
fn a_rehearsal_that_fails_is_told_to_all_but_the_health_check_of_runs() {
    let receiver = Receiver::start();
    let (_dropbox, host) = machine(&everybody(&receiver));
    assert_eq!(host.run("run").status, Some(0));
    receiver.forget();
    // A proof is no news.
    assert_eq!(host.run("rehearse").status, Some(0));
    assert_eq!(receiver.targets(), [""; 0]);
    let archive =
        host.path("var/opt/gitlab/backups/1702758583_2023_12_16_17.8.2_gitlab_backup.tar");
    let bytes = fs::read(&archive).expect("the archive");
    fs::write(&archive, &bytes[..bytes.len() / 2]).expect("damaged");
    let ended = host.run("rehearse --local --json");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert_eq!(ended.json()["restorable"], false, "{ended}");
    let mut targets = receiver.targets();
    targets.sort();
    assert_eq!(targets, ["POST /hook", "POST /topic"]);
    let (topic, hook) = (receiver.the("/topic"), receiver.the("/hook"));
    let title = topic.head.header("Title").expect("a title");
    assert!(title.ends_with(": NOT RESTORABLE"), "{title}");
    let error = ended.json()["error"].as_str().expect("an error").to_owned();
    assert!(topic.body.starts_with(&error), "{error}: {}", topic.body);
    let document: Value = serde_json::from_str(&hook.body).expect("JSON");
    assert_eq!(document, ended.json());
    // A target that cannot be told changes nothing.
    receiver.answer("/", &[Answer::Status(500)]);
    let ended = host.run("rehearse --local -q");
    assert_eq!((ended.status, ended.out.as_str()), (Some(1), ""), "{ended}");
    assert!(
        ended.err.contains(": it would not restore: 1702758583_"),
        "{ended}"
    );
}

#[test]
fn no_target_changes_what_came_of_the_backup() {
    let receiver = Receiver::start();
    let gone = Receiver::start().url("/topic");
    for (answers, words) in [
        (
            vec![Answer::Status(404)],
            "the server answered 404\n  is the address right",
        ),
        (
            vec![Answer::Redirect],
            "the server answered 302\n  it wants to lead elsewhere",
        ),
        (
            vec![Answer::Status(500)],
            "the server answered 500\n  look at the server",
        ),
        (vec![Answer::Close], "the connection broke: "),
        (vec![Answer::Hang], "no reply within 1s"),
        // It has taken what was sent; what else it says is not waited for.
        (vec![Answer::Drip], ""),
        // A second try mends it.
        (vec![Answer::Status(503), Answer::Status(200)], ""),
    ] {
        receiver.answer("/hook", &answers);
        receiver.answer("/ping", &answers);
        let (hook, ping) = (receiver.url("/hook"), receiver.url("/ping"));
        let (_dropbox, host) = machine(&format!(
            "on = \"always\"\ntimeout = \"1s\"\nwebhook_url = \"{hook}\"\nhealthcheck_url = \"{ping}\""
        ));
        let begun = Instant::now();
        let ended = host.run("run --json");
        let took = begun.elapsed();
        assert_eq!(ended.status, Some(0), "{ended}");
        assert_eq!(ended.json()["status"], "ok");
        assert_eq!(ended.json()["error"], Value::Null);
        assert!(took < Duration::from_secs(10), "{answers:?}: {took:?}");
        let step = notify_step(&ended);
        let error = step["error"].as_str().unwrap_or_default();
        if words.is_empty() {
            assert_eq!((step["status"].as_str(), error), (Some("ok"), ""));
        } else {
            assert_eq!(step["status"], "failed", "{ended}");
            for what in ["the webhook", "the health check"] {
                assert!(error.contains(what), "{what} is not in {error}");
            }
            assert!(
                error.contains(words),
                "{answers:?}: {words} is not in {error}"
            );
            // By its kind, not by its address.
            assert!(
                !ended.out.contains("/hook") && !ended.err.contains("/hook"),
                "{ended}"
            );
        }
    }
    let (_dropbox, host) = machine(&format!("on = \"always\"\nntfy_url = \"{gone}\""));
    let ended = host.run("run --json");
    let error = notify_step(&ended)["error"].to_string();
    assert_eq!(ended.status, Some(0), "{ended}");
    assert!(
        error.contains("sending to ntfy: no connection to the server"),
        "{error}"
    );
}

#[test]
fn metrics_that_cannot_be_written_are_told() {
    for (place, words) in [
        (
            "ROOT/missing/a.prom",
            "No such file or directory (os error 2)\n  make the folder, and give it",
        ),
        (
            "ROOT/config.toml/a.prom",
            "Not a directory (os error 20)\n  may this program write",
        ),
        ("ROOT/metrics.prom", "s a directory"),
        ("/proc/a.prom", "os error"),
    ] {
        let (_dropbox, host) = machine(&format!("metrics_file = \"{place}\""));
        fs::create_dir(host.path("metrics.prom")).expect("a folder");
        let ended = host.run("run --json");
        assert_eq!(ended.status, Some(0), "{ended}");
        let step = notify_step(&ended);
        let error = step["error"].as_str().expect("an error");
        assert!(
            error.starts_with("writing the metrics /") && error.contains(words),
            "{error}"
        );
        assert!(ended.err.contains("WARN writing the metrics"), "{ended}");
    }
}

#[test]
fn a_signal_is_told_and_telling_ends_soon_after_one() {
    let receiver = Receiver::start();
    let (_dropbox, host) = machine(&everybody(&receiver));
    fs::remove_file(host.path("bin/gitlab-backup")).expect("the command");
    let script = "#!/bin/sh\necho > \"$STUB_ROOT/here\"\nexec sleep 600\n";
    fs::write(host.path("bin/gitlab-backup"), script).expect("a command");
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(host.path("bin/gitlab-backup"), mode).expect("its mode");
    let child = host.spawn("run --json");
    let begun = Instant::now();
    while !host.path("here").exists() {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "the command never began"
        );
        std::thread::yield_now();
    }
    let ended = terminate(child);
    assert_eq!(ended.status, Some(143), "{ended}");
    assert!(
        receiver
            .the("/topic")
            .body
            .starts_with("stopped by SIGTERM")
    );
    receiver.the("/ping/key/fail");

    // While it is telling: the backup is stored, and that is what the exit status says.
    receiver.answer("/hook", &[Answer::Hang]);
    let hook = receiver.url("/hook");
    let notify = format!("on = \"always\"\ntimeout = \"30s\"\nwebhook_url = \"{hook}\"");
    let (_dropbox, host) = machine(&notify);
    receiver.forget();
    let child = host.spawn("run --json");
    receiver.wait_for("/hook");
    // A power cut now would take no run out of the history.
    let history = fs::read_to_string(host.path("state/history.jsonl")).expect("the history");
    assert!(history.contains("\"status\":\"ok\""), "{history}");
    let signalled = Instant::now();
    let ended = terminate(child);
    assert_eq!(ended.status, Some(0), "{ended}");
    assert!(
        signalled.elapsed() < Duration::from_secs(8),
        "{:?}",
        signalled.elapsed()
    );
    let step = notify_step(&ended);
    let error = step["error"].as_str().expect("an error");
    assert!(
        error.starts_with("telling the webhook: not done after 5s"),
        "{error}"
    );
}

fn terminate(child: std::process::Child) -> Ended {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process")).expect("a process");
    kill_process(pid, Signal::TERM).expect("there");
    child.wait_with_output().expect("ended").into()
}

#[test]
fn a_run_that_could_not_begin_is_told_unless_another_is_at_work() {
    let receiver = Receiver::start();
    let (dropbox, host) = machine(&everybody(&receiver));
    let lock = fs::File::create(host.path("state/lock")).expect("the lock");
    lock.try_lock().expect("nobody holds it");
    assert_eq!(host.run("run").status, Some(4));
    assert_eq!(receiver.targets(), [""; 0]);
    drop(lock);
    fs::remove_dir_all(host.path("state")).expect("the state");
    fs::write(host.path("state"), "").expect("a file in its place");
    tell(&dropbox, &host, &everybody(&receiver));
    assert_eq!(host.run("run").status, Some(1));
    let body = &receiver.the("/topic").body;
    assert!(body.starts_with("using the state folder "), "{body}");
    assert!(receiver.the("/hook").body.contains("\"status\":\"failed\""));
    receiver.the("/ping/key/fail");
}

/// What `notify test` prints, the path of the machine as ROOT.
fn transcript(host: &Host, arguments: &str) -> (Option<i32>, String) {
    let ended = host.run(arguments);
    let text = format!("{}{}", ended.out, ended.err);
    (
        ended.status,
        text.replace(&host.root().display().to_string(), "ROOT"),
    )
}

#[test]
fn a_test_says_who_was_told_and_who_was_not() {
    let receiver = Receiver::start();
    let (dropbox, host) = machine(&everybody(&receiver));
    fs::write(host.path("metrics/backup.prom"), "kept 1\n").expect("older metrics");
    let all_well = "healthcheck ok      a ping of success was sent\n\
                    webhook     ok      the document was sent\n\
                    ntfy        ok      the message was sent\n\
                    metrics     ok      ROOT/metrics/backup.prom can be written\n";
    assert_eq!(
        transcript(&host, "notify test"),
        (Some(0), all_well.to_owned())
    );
    receiver.the("/ping/key");
    assert!(
        receiver
            .the("/topic")
            .body
            .starts_with("this is a test; nothing was done")
    );
    assert!(
        receiver
            .the("/topic")
            .head
            .header("Title")
            .is_some_and(|t| t.ends_with(": TEST"))
    );
    let document: Value = serde_json::from_str(&receiver.the("/hook").body).expect("JSON");
    assert_eq!(
        (&document["test"], &document["status"]),
        (&Value::Bool(true), &"ok".into())
    );

    receiver.forget();
    let (status, text) = transcript(&host, "notify test --as failure");
    assert_eq!(status, Some(0));
    assert!(
        text.starts_with("healthcheck ok      a ping of failure was sent\n"),
        "{text}"
    );
    receiver.the("/ping/key/fail");
    assert!(receiver.the("/topic").body.contains("nothing has failed"));
    let kept = fs::read_to_string(host.path("metrics/backup.prom")).expect("the metrics");
    assert_eq!((kept.as_str(), receiver.targets().len()), ("kept 1\n", 3));
    assert_eq!(host.run("notify test -q").out, "");

    receiver.answer("/topic", &[Answer::Status(403)]);
    let (status, text) = transcript(&host, "notify test");
    let refused = "ntfy        FAILED  sending to ntfy: the server answered 403\n                    \
         give user and password in the address (https://USER:PASSWORD@…; for a token of ntfy https://:TOKEN@…)\n";
    assert!(
        status == Some(3) && text.contains(refused),
        "{status:?} {text}"
    );
    let ended = host.run("notify test --json");
    let report = ended.json();
    assert_eq!(
        (&report["command"], &report["status"]),
        (&"notify".into(), &"partial".into())
    );
    assert!(
        report["error"]
            .as_str()
            .is_some_and(|error| error.starts_with("sending to ntfy"))
    );
    assert_eq!(report["targets"][2]["target"], "ntfy");
    assert_eq!(report["targets"][2]["status"], "failed");
    assert_eq!(report["targets"][3]["status"], "ok");

    tell(
        &dropbox,
        &host,
        &format!("ntfy_url = \"{}\"", receiver.url("/topic")),
    );
    assert_eq!(transcript(&host, "notify test").0, Some(3));
    tell(&dropbox, &host, "");
    let nobody = "error: nobody is told anything: [notify] in ROOT/config.toml names no target\n  \
                  e.g. `healthcheck_url` or `email`; config.example.toml shows them all\n";
    assert_eq!(
        transcript(&host, "notify test"),
        (Some(2), nobody.to_owned())
    );
    let ended = host.run("notify test --json");
    assert_eq!(ended.json()["status"], "failed", "{ended}");
    let (status, text) = transcript(&host, "notify");
    assert!(
        status == Some(2)
            && text.contains("Usage: gitlab-pi-backup notify")
            && !text.contains("crashed"),
        "{text}"
    );
}

#[test]
fn what_cannot_tell_itself_is_told_by_systemd() {
    let receiver = Receiver::start();
    let (dropbox, mut host) = machine(&everybody(&receiver));
    let mut crashed = |result: &str, code: &str, status: &str| {
        receiver.forget();
        host.set("MONITOR_SERVICE_RESULT", result)
            .set("MONITOR_EXIT_CODE", code)
            .set("MONITOR_EXIT_STATUS", status);
        host.run("notify crashed").status
    };
    assert_eq!(crashed("exit-code", "exited", "1"), Some(0));
    assert_eq!(receiver.targets(), [""; 0]);
    assert_eq!(crashed("oom-kill", "killed", "KILL"), Some(0));
    receiver.the("/ping/key/fail");
    let body = receiver.the("/topic").body.clone();
    assert!(
        body.starts_with("the run was killed by signal KILL: there was not enough memory"),
        "{body}"
    );
    assert!(receiver.the("/hook").body.contains("\"status\":\"failed\""));
    // The rest of the configuration may be what is wrong.
    tell(
        &dropbox,
        &host,
        &format!("{}\n[bogus]\nx = 1\n[upload2]", everybody(&receiver)),
    );
    receiver.forget();
    host.set("MONITOR_EXIT_CODE", "exited")
        .set("MONITOR_EXIT_STATUS", "2");
    assert_eq!(host.run("run").status, Some(2));
    assert_eq!(host.run("notify crashed").status, Some(0));
    let body = receiver.the("/topic").body.clone();
    assert!(
        body.starts_with("the run ended with status 2: the configuration is wrong"),
        "{body}"
    );
    fs::remove_file(host.path("config.toml")).expect("the configuration");
    let ended = host.run("notify crashed");
    assert!(
        ended.status == Some(2) && ended.err.contains("nobody can be told that the run ended"),
        "{ended}"
    );
}

/// A machine that exports projects, and a health check for each job.
fn with_exports(host: &Host, receiver: &Receiver) {
    let config = fs::read_to_string(host.path("config.toml")).expect("a configuration");
    let config = config.replace(
        "[gitlab]\n",
        "[gitlab]\nurl = \"http://127.0.0.1:1\"\ntoken = \"glpat-01234567890123456789\"\n",
    );
    let check = receiver.url("/ping/exports");
    host.write_config(&format!(
        "{config}[projects]\ndestination = \"dropbox\"\nall = true\nhealthcheck_url = \"{check}\"\n"
    ));
}

#[test]
fn an_export_that_cannot_begin_is_told_at_its_own_health_check() {
    let receiver = Receiver::start();
    let (_dropbox, host) = machine(&everybody(&receiver));
    with_exports(&host, &receiver);
    fs::remove_dir_all(host.path("state")).expect("removed");
    fs::write(host.path("state"), "no folder").expect("a file in its place");
    let ended = host.run("export projects");
    assert_eq!(ended.status, Some(1), "{ended}");
    let mut targets = receiver.targets();
    targets.sort();
    assert_eq!(
        targets,
        ["POST /hook", "POST /ping/exports/fail", "POST /topic"],
        "a ping of runs would say something of them"
    );
    let title = receiver
        .the("/topic")
        .head
        .header("Title")
        .map(str::to_owned);
    assert!(
        title
            .as_deref()
            .is_some_and(|title| title.starts_with("GitLab project exports on ")
                && title.ends_with(": FAILED")),
        "{title:?}"
    );
    let document: Value = serde_json::from_str(&receiver.the("/hook").body).expect("JSON");
    assert_eq!(document["command"], "export projects");

    // What only looks tells nobody.
    receiver.forget();
    fs::remove_file(host.path("state")).expect("removed");
    host.run("export projects --dry-run");
    assert_eq!(receiver.targets(), [""; 0]);
}

#[test]
fn an_export_that_was_killed_is_told_by_systemd_at_its_own_health_check() {
    let receiver = Receiver::start();
    let (_dropbox, mut host) = machine(&everybody(&receiver));
    with_exports(&host, &receiver);
    host.set("MONITOR_SERVICE_RESULT", "oom-kill")
        .set("MONITOR_EXIT_CODE", "killed")
        .set("MONITOR_EXIT_STATUS", "KILL");
    assert_eq!(host.run("notify crashed --projects").status, Some(0));
    let mut targets = receiver.targets();
    targets.sort();
    assert_eq!(
        targets,
        ["POST /hook", "POST /ping/exports/fail", "POST /topic"]
    );
    let body = receiver.the("/topic").body.clone();
    assert!(
        body.starts_with(
            "the project export was killed by signal KILL: there was not enough memory"
        ) && body.contains("journalctl -u gitlab-pi-backup-projects shows"),
        "{body}"
    );
}

#[test]
fn https_needs_a_certificate_that_is_trusted() {
    let receiver = Receiver::under_tls();
    let (_dropbox, mut host) = machine(&format!("webhook_url = \"{}\"", receiver.url("/hook")));
    let (status, text) = transcript(&host, "notify test");
    assert_eq!(status, Some(3));
    assert!(
        text.contains("sending to the webhook: the server's certificate is not trusted"),
        "{text}"
    );
    assert!(text.contains("SSL_CERT_FILE") && receiver.targets().is_empty());
    host.set("SSL_CERT_FILE", receiver.ca_file());
    assert_eq!(host.run("notify test").status, Some(0));
}

/// What `doctor` asks: nobody is sent anything.
#[tokio::test]
async fn who_can_be_reached_is_not_told_anything() {
    let receiver = Receiver::start();
    let (_dropbox, host) = machine(&format!(
        "{}\nemail = {{ to = \"a@b.org\" }}",
        everybody(&receiver)
    ));
    let sendmail = host.path("bin/sendmail");
    let path = host.path("config.toml");
    let settings = gitlab_pi_backup::config::load(&path).expect("right").notify;
    let found = gitlab_pi_backup::notify::reachable(&settings).await;
    let row = |name: &str| {
        let mut rows = found.iter();
        rows.find(|row| row.target.as_str() == name)
            .expect("a row")
            .result
            .clone()
    };
    for name in ["healthcheck", "webhook", "ntfy"] {
        assert_eq!(row(name), Ok("the server answers".to_owned()));
    }
    assert!(row("metrics").is_ok_and(|words| words.ends_with("backup.prom can be written")));
    assert!(!host.path("metrics/backup.prom").exists() && !sendmail.exists());
    assert_eq!(receiver.targets(), ["HEAD /"; 3]);
    drop(receiver);
    let found = gitlab_pi_backup::notify::reachable(&settings).await;
    let error = found[0].result.clone().expect_err("gone");
    assert!(
        error.starts_with("reaching the health check: no connection to the server"),
        "{error}"
    );
    let found = gitlab_pi_backup::notify::usable(&settings);
    let ok = found.iter().filter(|row| row.result.is_ok()).count();
    assert!(ok >= 4 && found.len() == 5, "{found:?}");
}

/// The metrics are read by Prometheus' own parser, where there is one.
#[test]
fn prometheus_understands_the_metrics() {
    let (_dropbox, host) = machine("metrics_file = \"ROOT/metrics/backup.prom\"");
    assert_eq!(host.run("run").status, Some(0));
    assert_eq!(host.run("rehearse").status, Some(0));
    assert!(metric(&host, "rehearsal_restorable{destination=\"dropbox\"}").is_some());
    let text = fs::read(host.path("metrics/backup.prom")).expect("the metrics");
    let script = "import sys\nfrom prometheus_client.parser import text_string_to_metric_families as parse\n\
         families = list(parse(sys.stdin.read()))\n\
         assert len(families) == 11, families\n\
         assert all(f.type == 'gauge' and f.documentation and f.samples for f in families), families\n";
    let can = |module: &str| {
        let mut python = Command::new("python3");
        let python = python
            .args(["-c", &format!("import {module}")])
            .stderr(Stdio::null());
        python.status().is_ok_and(|status| status.success())
    };
    if !can("prometheus_client") {
        let _ = writeln!(
            std::io::stderr(),
            "skipped: python3 has no module prometheus_client"
        );
        return;
    }
    let mut python = Command::new("python3");
    let mut child = python
        .args(["-c", script])
        .stdin(Stdio::piped())
        .spawn()
        .expect("python");
    child
        .stdin
        .take()
        .expect("its input")
        .write_all(&text)
        .expect("read");
    assert!(
        child.wait().expect("ended").success(),
        "{}",
        String::from_utf8_lossy(&text)
    );
}
