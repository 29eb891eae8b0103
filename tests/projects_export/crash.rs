//! Killed at any moment, the next run goes on: nothing is asked for twice, and nothing half is left.

use std::process::Command;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};

use super::support::dropbox::{Dropbox, Moment, Options};
use super::support::gitlab_api::{Fault, GitLabApi, Kind, What};
use super::support::kill::kill_at;
use super::through::dropbox_place;
use super::*;

/// Runs a command, and sends it a signal when its `n`-th request from 0 has been carried out, or is about to be; how
/// it ended.
fn signal_at(
    gitlab: &GitLabApi,
    mut command: Command,
    n: usize,
    after: bool,
    signal: Signal,
) -> Ended {
    let target = Arc::new(AtomicI32::new(0));
    let victim = target.clone();
    let started = Arc::new(Mutex::new(()));
    let held = started.lock().expect("not poisoned");
    let wait = started.clone();
    let send: Arc<dyn Fn() + Send + Sync> = Arc::new(move || {
        drop(wait.lock());
        let pid = Pid::from_raw(victim.load(Ordering::SeqCst)).expect("a process");
        // Gone already where the request before this one was the last that it saw.
        let _ = kill_process(pid, signal);
    });
    let what = if after {
        What::After(send)
    } else {
        What::Before(send)
    };
    gitlab.clear_faults();
    gitlab.fault(Fault::on(Kind::Any, what).skip(n));
    let child = command.spawn().expect("the program starts");
    let process = i32::try_from(child.id()).expect("a process");
    target.store(process, Ordering::SeqCst);
    drop(held);
    let ended = Ended::from(child.wait_with_output().expect("ended"));
    gitlab.clear_faults();
    ended
}

/// Every project was asked for once, and lies there once, whole.
fn assert_once(world: &World, ended: &Ended, shown: &str) {
    assert_eq!(ended.status, Some(0), "{shown}: {ended}");
    let objects = world.s3.objects("exports");
    assert_eq!(objects.len(), 2, "{shown}: {ended}");
    for (key, object) in &objects {
        let path = key.rsplit_once('/').expect("a folder").0;
        assert!(object.bytes == world.gitlab.archive(path), "{shown}: {key}");
    }
    let asked: Vec<_> = world
        .gitlab
        .exports()
        .into_iter()
        .map(|one| one.path)
        .collect();
    assert_eq!(asked.len(), 2, "{shown}: {asked:?}\n{ended}");
    world.assert_tidy();
}

#[test]
fn killed_at_every_request_of_a_direct_export() {
    for after in [false, true] {
        let mut n = 0;
        loop {
            let world = World::direct("").one_at_a_time();
            for name in ["a", "b"] {
                world.gitlab.project(&format!("group/{name}"));
            }
            let command = world.host.command(EXPORT);
            let ended = signal_at(&world.gitlab, command, n, after, Signal::KILL);
            if ended.status.is_some() {
                assert_once(&world, &ended, "not killed");
                break;
            }
            let ended = world.host.run(EXPORT);
            assert_once(&world, &ended, &format!("killed at {n}, {after}"));
            n += 1;
        }
        assert!(n >= 7, "only {n} requests were tried");
    }
}

#[test]
fn killed_at_every_request_of_an_export_through_this_machine() {
    for after in [false, true] {
        let mut n = 0;
        loop {
            let world = World::direct("direct = false").one_at_a_time();
            for name in ["a", "b"] {
                world
                    .gitlab
                    .project_with(&format!("group/{name}"), |project| {
                        project.export_bytes = 300_000;
                    });
            }
            let command = world.host.command(EXPORT);
            let ended = signal_at(&world.gitlab, command, n, after, Signal::KILL);
            if ended.status.is_some() {
                assert_once(&world, &ended, "not killed");
                break;
            }
            let ended = world.host.run(EXPORT);
            assert_once(&world, &ended, &format!("killed at {n}, {after}"));
            n += 1;
        }
        assert!(n >= 9, "only {n} requests were tried");
    }
}

#[test]
fn a_signal_leaves_everything_to_be_continued() {
    for (signal, status) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let world = World::direct("").one_at_a_time();
        for name in ["a", "b"] {
            world.gitlab.project(&format!("group/{name}"));
        }
        let command = world.host.command(EXPORT);
        let ended = signal_at(&world.gitlab, command, 4, true, signal);
        assert_eq!(ended.status, Some(status), "{ended}");
        let stopped = ended.json();
        assert_eq!(stopped["status"], "failed", "{ended}");
        assert_eq!(
            stopped["projects"].as_array().map(Vec::len),
            Some(2),
            "{ended}"
        );
        let ended = world.host.run(EXPORT);
        assert_once(&world, &ended, "stopped");
        // One run, one time.
        let objects = world.s3.objects("exports");
        let times: Vec<_> = objects
            .keys()
            .filter_map(|key| key.rsplit('/').next())
            .collect();
        assert_eq!(times[0], times[1], "{ended}");
    }
}

#[test]
fn an_upload_goes_on_where_a_killed_one_was_encrypted_too() {
    let identity = age::x25519::Identity::generate();
    for encrypted in [false, true] {
        let mut resumed = 0;
        for n in [6, 8, 9] {
            let dropbox = Dropbox::start(Options::default());
            let gitlab = quick(GitLabApi::start());
            let host = Host::without_config(PROGRAM);
            let mut more = "[upload]\nchunk_size = \"4 MiB\"\nconcurrency = 1\n".to_owned();
            if encrypted {
                let public = identity.to_public().to_string();
                more.extend(["[encryption]\nrecipients = [\"", &public, "\"]\n"]);
            }
            configure(&host, &gitlab, &dropbox_place(&host, &dropbox), &more);
            gitlab.project_with("group/app", |project| project.export_bytes = 14 << 20);
            if kill_at(&dropbox, &host, EXPORT, n, Moment::Applied).is_some() {
                continue;
            }
            dropbox.clear_faults();
            let before = appended(&dropbox);
            let ended = host.run(EXPORT);
            assert_eq!(ended.status, Some(0), "{encrypted} {n}: {ended}");
            let row = row(&ended);
            let stored = dropbox.content(row["key"].as_str().expect("a key"));
            let plain = if encrypted {
                age::decrypt(&identity, &stored).expect("decrypted")
            } else {
                stored.clone()
            };
            assert!(plain == gitlab.archive("group/app"), "{encrypted} {n}");
            assert_eq!(gitlab.exports().len(), 1, "{encrypted} {n}: asked again");
            assert_eq!(
                gitlab.count(Kind::Download),
                1,
                "{encrypted} {n}: fetched again"
            );
            let sent = appended(&dropbox);
            let length = stored.len() as u64;
            assert!(
                sent <= length + (4 << 20),
                "{encrypted} {n}: {before} {sent} of {length}"
            );
            if before > 0 {
                resumed += 1;
            }
            let left = std::fs::read_dir(host.path("state/projects")).expect("the folder");
            assert_eq!(left.count(), 1, "{encrypted} {n}: only the journal");
        }
        assert!(resumed >= 1, "{encrypted}: no upload was under way");
    }
}

fn appended(dropbox: &Dropbox) -> u64 {
    let requests = dropbox.requests().into_iter();
    let appends = requests.filter(|seen| seen.endpoint.ends_with("append_v2"));
    appends.map(|seen| seen.received).sum()
}
