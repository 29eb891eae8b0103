//! GitLab puts exports to the destination by itself.

use std::sync::Arc;

use chrono::Utc;

use super::support::gitlab_api::{Access, Fault, GitLabApi, Kind, Outcome, Reply, What};
use super::support::s3::{self, KEY_ID};
use super::*;

#[test]
fn gitlab_puts_exports_into_the_bucket_by_itself() {
    let world = World::direct("");
    for path in ["group/app", "group/sub/deep/lib", "other/not"] {
        world.gitlab.project(path);
    }
    let ended = world.host.run(EXPORT);
    assert_eq!(ended.status, Some(0), "{ended}");
    let paths = ["group/app", "group/sub/deep/lib"];
    assert_eq!(rows(&ended), all(&paths, "exported"), "{ended}");
    assert_eq!(world.stored(), paths);
    for row in ended.json()["projects"].as_array().expect("rows") {
        assert_eq!(row["direct"], true, "{row}");
        let key = row["key"].as_str().expect("a key");
        let object = &world.s3.objects("exports")[&key[1..]];
        assert_eq!(row["size"], object.bytes.len(), "{row}");
        let path = row["path"].as_str().expect("a path");
        assert!(object.bytes == world.gitlab.archive(path));
    }
    assert_eq!(world.gitlab.count(Kind::Download), 0);

    // The same day again: nothing is asked for.
    let again = world.host.run(EXPORT);
    assert_eq!(again.status, Some(0), "{again}");
    assert_eq!(rows(&again), all(&paths, "already_done"), "{again}");
    assert_eq!(world.gitlab.count(Kind::Export), 2);
}

#[test]
fn a_dry_run_changes_nothing_and_tells_the_way() {
    let world = World::direct("");
    world.gitlab.project("group/app");
    let dry = world.host.run("export projects --json --dry-run");
    assert_eq!(dry.status, Some(0), "{dry}");
    assert_eq!(rows(&dry), all(&["group/app"], "would_export"), "{dry}");
    assert_eq!(row(&dry)["direct"], true, "{dry}");
    assert_eq!(world.gitlab.count(Kind::Export), 0);
    assert!(!world.host.path("state/projects").exists());
    assert_eq!(world.host.run(EXPORT).status, Some(0));
    let dry = world.host.run("export projects --json --dry-run");
    assert_eq!(rows(&dry), all(&["group/app"], "already_done"), "{dry}");
}

#[test]
fn what_gitlab_cannot_put_there_comes_through_this_machine() {
    // More than one request can store, refused by the store, and gone without a word.
    for case in ["ceiling", "refused", "gone"] {
        let world = World::direct("timeout = \"12s\"");
        world
            .gitlab
            .project_with("group/app", |project| match case {
                "refused" => project.outcome = Outcome::UploadRefused,
                _ => project.export_bytes = 200_000,
            });
        world.gitlab.set(|settings| match case {
            "ceiling" => settings.upload_ceiling = Some(100_000),
            "refused" => {}
            _ => {
                settings.upload_ceiling = Some(100_000);
                settings.keeps_uploaded = false;
            }
        });
        let ended = world.host.run(EXPORT);
        assert_eq!(ended.status, Some(0), "{case}: {ended}");
        let row = row(&ended);
        assert_eq!(row["direct"], false, "{case}: {ended}");
        let key = row["key"].as_str().expect("a key");
        let object = &world.s3.objects("exports")[&key[1..]];
        assert!(object.bytes == world.gitlab.archive("group/app"), "{case}");
        // Where it can still be downloaded, GitLab need not make it again.
        let asked = if case == "gone" { 2 } else { 1 };
        assert_eq!(world.gitlab.count(Kind::Export), asked, "{case}");
        world.assert_tidy();
    }
}

#[test]
fn an_instance_that_sends_nothing_to_such_addresses_is_asked_once() {
    let world = World::direct("");
    world.gitlab.set(|settings| settings.local_requests = false);
    for n in 0..4 {
        world.gitlab.project(&format!("group/p{n}"));
    }
    let ended = world.host.run(EXPORT);
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(world.stored().len(), 4);
    let report = ended.json();
    let warnings = report["warnings"].as_array().expect("warnings");
    assert_eq!(warnings.len(), 1, "{ended}");
    // All may have asked before the first was told.
    assert!(world.gitlab.count(Kind::Export) <= 8, "{ended}");
    assert!(!ended.out.contains("X-Amz-Signature") && !ended.err.contains("X-Amz-Signature"));
    assert!(!ended.err.contains(KEY_ID), "{ended}");
}

#[test]
fn a_lost_answer_costs_no_second_export() {
    let world = World::direct("");
    world.gitlab.set(|settings| settings.pace = Pace::default());
    world.gitlab.project("group/app");
    world.gitlab.fault(Fault::on(Kind::Export, What::LostReply));
    let ended = world.host.run(EXPORT);
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(world.gitlab.exports().len(), 1, "{ended}");
    assert_eq!(world.stored(), ["group/app"]);
}

#[test]
fn who_may_not_export_a_project_is_told_so() {
    let world = World::direct("");
    world.gitlab.project("group/mine");
    world.gitlab.project("group/theirs");
    let token = world.gitlab.token_of("poor", &["api"]);
    world.gitlab.member("group", "poor", Access::Developer);
    world
        .gitlab
        .member("group/mine", "poor", Access::Maintainer);
    world.host.write_config(
        &std::fs::read_to_string(world.host.path("config.toml"))
            .expect("the configuration")
            .replace(world.gitlab.token(), &token),
    );
    let ended = world.host.run(EXPORT);
    assert_eq!(ended.status, Some(0), "{ended}");
    let expected = [("group/mine", "exported"), ("group/theirs", "skipped")];
    let expected = expected.map(|(path, status)| (path.to_owned(), status.to_owned()));
    assert_eq!(rows(&ended), expected, "{ended}");
    assert!(ended.out.contains("Maintainer"), "{ended}");
}

#[test]
fn an_instance_that_exports_nothing_is_not_asked_for_each_project() {
    let world = World::direct("").one_at_a_time();
    world.gitlab.set(|settings| settings.export_enabled = false);
    for n in 0..5 {
        world.gitlab.project(&format!("group/p{n}"));
    }
    let ended = world.host.run(EXPORT);
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(
        rows(&ended).iter().all(|(_, status)| status == "skipped"),
        "{ended}"
    );
    assert!(world.gitlab.count(Kind::Export) <= 1);
    assert!(ended.err.contains("Project export"), "{ended}");
}

#[test]
fn one_that_is_not_found_does_not_mean_that_nothing_may_be_exported() {
    for words in ["404 Project Not Found", "404 Not Found"] {
        let world = World::direct("").one_at_a_time();
        for name in ["a", "b", "c"] {
            world.gitlab.project(&format!("group/{name}"));
        }
        let reply = What::Reply(Reply::message(404, words));
        world.gitlab.fault(Fault::on(Kind::Export, reply).skip(1));
        let ended = world.host.run(EXPORT);
        assert_eq!(ended.status, Some(3), "{words}: {ended}");
        let expected = [("a", "exported"), ("b", "failed"), ("c", "exported")];
        let expected = expected.map(|(name, status)| (format!("group/{name}"), status.to_owned()));
        assert_eq!(rows(&ended), expected, "{words}: {ended}");
        assert!(!ended.out.contains("lets no project"), "{words}: {ended}");
    }
}

#[test]
fn many_that_are_skipped_or_fail_alike_take_few_lines() {
    let world = World::direct("");
    let token = world.gitlab.token_of("poor", &["api"]);
    world.gitlab.group("group");
    world.gitlab.member("group", "poor", Access::Developer);
    for n in 0..65 {
        let path = format!("group/p{n}");
        world.gitlab.project(&path);
        if n < 5 {
            world.gitlab.member(&path, "poor", Access::Maintainer);
        }
    }
    let path = world.host.path("config.toml");
    let config = std::fs::read_to_string(path).expect("the configuration");
    let poor = config.replace(world.gitlab.token(), &token);
    world.host.write_config(&poor);
    let ended = world.host.run("export projects");
    assert_eq!(ended.status, Some(0), "{ended}");
    assert!(ended.out.contains("60 skipped"), "{ended}");
    let lines = ended.out.lines().chain(ended.err.lines()).count();
    assert!(lines <= 15, "{lines}: {ended}");
    // All fail, each by itself.
    world.host.write_config(&config);
    let reply = What::Reply(Reply::message(
        400,
        "The project size exceeds the export limit.",
    ));
    world.gitlab.fault(Fault::on(Kind::Export, reply).forever());
    let ended = world.host.run("export projects");
    assert_ne!(ended.status, Some(0), "{ended}");
    let lines = ended.out.lines().chain(ended.err.lines()).count();
    assert!(lines <= 15, "{lines}: {ended}");
    assert!(ended.err.contains("error: "), "{ended}");
}

#[test]
fn what_fails_in_gitlab_is_told_and_tried_again_by_the_next_run() {
    for outcome in [Outcome::Fails, Outcome::FailsSilently] {
        let world = World::direct("timeout = \"12s\"");
        world.gitlab.project("group/good");
        world
            .gitlab
            .project_with("group/bad", |project| project.outcome = outcome);
        let ended = world.host.run(EXPORT);
        assert_eq!(ended.status, Some(3), "{outcome:?}: {ended}");
        let expected = [("group/bad", "failed"), ("group/good", "exported")];
        let expected = expected.map(|(path, status)| (path.to_owned(), status.to_owned()));
        assert_eq!(rows(&ended), expected, "{outcome:?}: {ended}");
        assert!(ended.out.contains("could not make the export"), "{ended}");
        let asked = world.gitlab.exports();
        let bad = asked.iter().filter(|one| one.path == "group/bad").count();
        assert!((2..=3).contains(&bad), "{outcome:?}: {bad}");

        world
            .gitlab
            .change("group/bad", |project| project.outcome = Outcome::Works);
        let ended = world.host.run(EXPORT);
        assert_eq!(ended.status, Some(0), "{outcome:?}: {ended}");
        let expected = [("group/bad", "exported"), ("group/good", "already_done")];
        let expected = expected.map(|(path, status)| (path.to_owned(), status.to_owned()));
        assert_eq!(rows(&ended), expected, "{outcome:?}: {ended}");
    }
}

#[test]
fn one_that_hangs_holds_nobody_up_for_ever() {
    let world = World::direct("timeout = \"3s\"");
    world
        .gitlab
        .project_with("group/stuck", |project| project.outcome = Outcome::Hangs);
    world.gitlab.project("group/good");
    let ended = world.host.run(EXPORT);
    assert_eq!(ended.status, Some(3), "{ended}");
    assert_eq!(world.stored(), ["group/good"]);
    assert!(
        ended
            .out
            .contains("GitLab has not made it within 3s, it is queued"),
        "{ended}"
    );
    assert!(ended.out.contains("Sidekiq"), "{ended}");
}

#[test]
fn what_is_gone_or_has_moved_meanwhile_is_told_and_followed() {
    let world = World::direct("").one_at_a_time();
    for name in ["a-first", "gone", "moving"] {
        world.gitlab.project(&format!("group/{name}"));
    }
    let gitlab = Arc::new(world.gitlab);
    let by = gitlab.clone();
    let once = std::sync::Once::new();
    let change = move || {
        once.call_once(|| {
            by.delete("group/gone");
            by.rename("group/moving", "other/moved");
        });
    };
    gitlab.fault(Fault::on(Kind::Export, What::Before(Arc::new(change))));
    let ended = world.host.run(EXPORT);
    assert_eq!(ended.status, Some(3), "{ended}");
    let expected = [
        ("group/a-first", "exported"),
        ("group/gone", "failed"),
        ("other/moved", "exported"),
    ];
    let expected = expected.map(|(path, status)| (path.to_owned(), status.to_owned()));
    assert_eq!(rows(&ended), expected, "{ended}");
    assert!(ended.out.contains("deleted"), "{ended}");
    let objects = world.s3.objects("exports");
    assert!(objects.keys().any(|key| key.starts_with("other/moved/")));
}

#[test]
fn a_bucket_that_is_missing_or_refuses_is_told_once_and_nothing_is_asked_for() {
    let world = World::direct("");
    for n in 0..3 {
        world.gitlab.project(&format!("group/p{n}"));
    }
    configure(&world.host, &world.gitlab, &world.s3.place("missing"), "");
    let ended = world.host.run(EXPORT);
    assert_eq!(ended.status, Some(1), "{ended}");
    let told = ended.json()["error"].to_string();
    assert!(told.contains("make the bucket"), "{ended}");
    assert_eq!(world.gitlab.count(Kind::Export), 0, "{ended}");
}

#[test]
fn an_object_from_before_is_none_of_ours() {
    // Somebody else's under the very key, and GitLab's upload is refused: what lies there is not taken for it.
    let world = World::direct("name = \"{path}/x-{time}.tar.gz\"\ntimeout = \"12s\"");
    world.gitlab.project_with("group/app", |project| {
        project.outcome = Outcome::UploadRefused;
    });
    let now = Utc::now();
    for seconds in 0..30 {
        let time = now + chrono::TimeDelta::seconds(seconds);
        let key = format!("group/app/x-{}.tar.gz", time.format("%Y-%m-%d-%H-%M-%S"));
        let before = now - chrono::TimeDelta::hours(1);
        world.s3.put_object("exports", &key, b"old", before);
    }
    let ended = world.host.run(EXPORT);
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(error(&ended).contains("other content"), "{ended}");
}

#[test]
fn with_encryption_gitlab_puts_nothing_anywhere() {
    let world = World::direct("");
    world.gitlab.project("group/app");
    let identity = age::x25519::Identity::generate();
    let public = identity.to_public();
    let config = std::fs::read_to_string(world.host.path("config.toml")).expect("it");
    let more = format!("[encryption]\nrecipients = [\"{public}\"]\n");
    world.host.write_config(&(config + &more));
    let ended = world.host.run(EXPORT);
    assert_eq!(ended.status, Some(0), "{ended}");
    let row = row(&ended);
    let key = row["key"].as_str().expect("a key");
    assert!(
        key.ends_with(".tar.gz.age") && row["direct"] == false,
        "{row}"
    );
    let sealed = &world.s3.objects("exports")[&key[1..]].bytes;
    assert_eq!(row["size"], sealed.len());
    let plain = age::decrypt(&identity, sealed).expect("decrypted");
    assert!(plain == world.gitlab.archive("group/app"));
    assert!(
        world
            .gitlab
            .exports()
            .iter()
            .all(|one| one.upload.is_none())
    );
    world.assert_tidy();
}

#[test]
fn gitlab_that_is_down_or_hides_behind_a_proxy_is_told() {
    use super::support::gitlab_api::Mode;
    for mode in [Mode::Maintenance, Mode::Proxy] {
        let gitlab = quick(GitLabApi::start());
        let world = World::with(
            gitlab,
            s3::Options::default(),
            "[upload]\nretry_for = \"1s\"",
        );
        world.gitlab.project("group/app");
        world.gitlab.mode(mode);
        let ended = world.host.run(EXPORT);
        assert_eq!(ended.status, Some(1), "{mode:?}: {ended}");
        assert!(ended.json()["error"].is_string(), "{mode:?}: {ended}");
        // It comes back: nothing was lost.
        world.gitlab.mode(Mode::Normal);
        let ended = world.host.run(EXPORT);
        assert_eq!(ended.status, Some(0), "{mode:?}: {ended}");
    }
}
