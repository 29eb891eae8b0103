//! What a restore into GitLab refuses before it has changed anything.

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::lost::{
    APPLY, CONFIG, DATA, ID, Snapshot, add_second, calls, lost, names, nobody, skipped,
};

#[test]
fn another_version_or_edition_is_told_before_anything_is_fetched() {
    for (installed, told) in [
        ("17.8.1", "GitLab CE 17.8.1 is installed"),
        ("17.8.2-ee", "GitLab EE 17.8.2 is installed"),
        ("18.0.0", "GitLab CE 18.0.0 is installed"),
    ] {
        let lost = lost();
        lost.host.install(installed);
        let before = Snapshot::of(&lost.host);
        let ended = lost.host.run("restore --apply --yes");
        lost.assert_untouched(&ended, &before);
        assert!(ended.err.contains(told), "{ended}");
        assert!(
            ended.err.contains("apt-get install gitlab-ce=17.8.2-ce.0 "),
            "{ended}"
        );
    }
    // Other ways to tell the version.
    let rails = "opt/gitlab/embedded/service/gitlab-rails/VERSION";
    let lost = lost();
    fs::remove_file(lost.host.path(rails)).expect("removed");
    let ended = lost.host.run(APPLY);
    lost.assert_back(&ended);
    assert_eq!(ended.err.matches("WARN").count(), 0, "{ended}");
    let lost = support::lost::lost();
    fs::write(
        lost.host.path("opt/gitlab/version-manifest.txt"),
        "gitlab-ee 17.8.2\n",
    )
    .expect("written");
    fs::remove_file(lost.host.path(rails)).expect("removed");
    let ended = lost.host.run(APPLY);
    assert!(
        ended.err.contains("GitLab EE 17.8.2 is installed"),
        "{ended}"
    );
    fs::remove_file(lost.host.path("opt/gitlab/version-manifest.txt")).expect("removed");
    let ended = lost.host.run(APPLY);
    lost.assert_back(&ended);
    assert!(ended.err.contains("cannot be told"), "{ended}");
}

#[test]
fn gitlab_that_is_not_installed_is_told_with_its_package() {
    for missing in ["gitlab-ctl", "gitlab-backup", "gitlab-rake"] {
        let lost = lost();
        fs::remove_file(lost.host.path("bin").join(missing)).expect("removed");
        let before = Snapshot::of(&lost.host);
        let ended = lost.host.run("restore --apply --yes");
        lost.assert_untouched(&ended, &before);
        assert!(
            ended
                .err
                .contains(&format!("GitLab is not installed: there is no `{missing}`")),
            "{ended}"
        );
        assert!(
            ended.err.contains("apt-get install gitlab-ce=17.8.2-ce.0 "),
            "{ended}"
        );
    }
}

/// A member of a tar by hand: its path, its type, where it leads, its contents.
type Raw<'a> = (&'a str, u8, &'a str, &'a [u8]);

fn tar(members: &[Raw<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (path, kind, link, data) in members {
        let mut header = [0_u8; 512];
        header[..path.len()].copy_from_slice(path.as_bytes());
        header[100..108].copy_from_slice(b"0000644\0");
        header[124..136].copy_from_slice(format!("{:011o}\0", data.len()).as_bytes());
        header[148..156].fill(b' ');
        header[156] = *kind;
        header[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header[257..265].copy_from_slice(b"ustar  \0");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        bytes.extend(header);
        bytes.extend(*data);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

#[test]
fn hostile_config_archives_are_refused_and_nothing_is_touched() {
    let lost = lost();
    let good = ("/etc/gitlab/gitlab.rb", b'0', "", &b"x"[..]);
    let outside = lost.host.path("outside");
    let up = format!("/etc/gitlab/../../../../../../../..{}", outside.display());
    let (up, absolute) = (up.as_str(), outside.to_str().expect("text"));
    let cases: [(&str, Vec<Raw<'_>>); 14] = [
        (up, vec![good, (up, b'0', "", b"x")]),
        (absolute, vec![good, (absolute, b'0', "", b"x")]),
        ("/etc/passwd", vec![good, ("/etc/passwd", b'0', "", b"x")]),
        (
            "/etc/gitlab/ssl",
            vec![
                good,
                ("/etc/gitlab/ssl", b'2', "/etc", b""),
                ("/etc/gitlab/ssl/x", b'0', "", b"x"),
            ],
        ),
        (
            "/etc/gitlab/hard",
            vec![good, ("/etc/gitlab/hard", b'1', "/etc/passwd", b"")],
        ),
        (
            "/etc/gitlab/hard",
            vec![
                ("/etc/gitlab/hard", b'1', "/etc/gitlab/gitlab.rb", b""),
                good,
            ],
        ),
        (
            "/etc/gitlab/device",
            vec![good, ("/etc/gitlab/device", b'4', "", b"")],
        ),
        (
            "/etc/gitlab/tty",
            vec![good, ("/etc/gitlab/tty", b'3', "", b"")],
        ),
        (
            "/etc/gitlab/pipe",
            vec![good, ("/etc/gitlab/pipe", b'6', "", b"")],
        ),
        (
            "/etc/gitlab/holes",
            vec![good, ("/etc/gitlab/holes", b'S', "", b"")],
        ),
        ("/etc/gitlab/gitlab.rb", vec![good, good]),
        (
            "/etc/gitlab/gitlab.rb/x",
            vec![good, ("/etc/gitlab/gitlab.rb/x", b'0', "", b"x")],
        ),
        (
            "/etc/gitlab",
            vec![("/etc/gitlab", b'2', "/tmp", b""), good],
        ),
        (
            "etc/gitlab.d/x",
            vec![good, ("etc/gitlab.d/x", b'0', "", b"x")],
        ),
    ];
    lost.dropbox.remove(&format!("/Manifests/{ID}.json"));
    let before = Snapshot::of(&lost.host);
    let run = |bytes: &[u8]| {
        lost.dropbox.put_file(&format!("/Config/{CONFIG}"), bytes);
        let ended = lost.host.run(&format!("restore {ID} --apply --yes --json"));
        lost.assert_untouched(&ended, &before);
        assert!(!outside.exists(), "{ended}");
        assert!(ended.err.contains("nothing was changed"), "{ended}");
        ended
    };
    for (name, members) in cases {
        let ended = run(&tar(&members));
        assert!(
            ended.err.contains(&format!("its member `{name}`")),
            "{name}: {ended}"
        );
    }
    // Cut off, followed by something, and no tar at all.
    let whole = tar(&[good]);
    run(&whole[..whole.len() - 700]);
    run(&[&whole[..], &[1; 512]].concat());
    run(&[7; 4_096]);
    let escape = tar(&[("/etc/gitlab/\u{1b}[2J/../x", b'0', "", b"x")]);
    assert!(!run(&escape).err.contains('\u{1b}'));
}

#[test]
fn whatever_has_the_name_of_the_data_archive_is_not_overwritten() {
    let lost = lost();
    fs::write(
        lost.host.path("var/opt/gitlab/backups").join(DATA),
        b"another",
    )
    .expect("written");
    let before = Snapshot::of(&lost.host);
    let ended = lost.host.run(APPLY);
    lost.assert_untouched(&ended, &before);
    assert!(ended.err.contains("is there already"), "{ended}");
}

#[test]
fn an_etc_gitlab_that_cannot_be_moved_is_told() {
    let lost = lost();
    let etc = lost.host.path("etc/gitlab");
    let elsewhere = lost.host.path("srv");
    fs::rename(&etc, &elsewhere).expect("moved");
    symlink(&elsewhere, &etc).expect("a link");
    let before = Snapshot::of(&lost.host);
    let ended = lost.host.run(APPLY);
    lost.assert_untouched(&ended, &before);
    assert!(
        ended.err.contains("is no folder") && ended.err.contains("gitlab.etc_dir"),
        "{ended}"
    );
    fs::remove_file(&etc).expect("removed");
    fs::rename(&elsewhere, &etc).expect("moved back");
    let mounted = Command::new("mount")
        .arg("--bind")
        .args([&etc, &etc])
        .stderr(Stdio::null())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        skipped("nothing can be mounted here");
        return;
    }
    let ended = lost.host.run(APPLY);
    let unmounted = Command::new("umount").arg(&etc).status();
    assert!(unmounted.is_ok_and(|status| status.success()));
    assert!(
        ended.err.contains("it is a mount point: unmount it")
            && ended.err.contains("nothing was changed"),
        "{ended}"
    );
    // Nothing was changed, so nothing stands in the way of another backup; what was fetched is kept.
    assert_eq!(ended.status, Some(1), "{ended}");
    assert_eq!(calls(&lost.host), [""; 0]);
    assert!(!lost.host.path("state/restore.json").exists(), "{ended}");
    assert!(!lost.host.path("state/restore").exists(), "{ended}");
    let ended = lost.host.run(APPLY);
    lost.assert_back(&ended);
}

#[test]
fn a_disk_without_room_for_unpacking_is_told_before_anything_is_changed() {
    let lost = lost();
    let folder = lost.host.path("var/opt/gitlab/backups");
    // The archive itself fits.
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=300k", "tmpfs"])
        .arg(&folder)
        .stderr(Stdio::null())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        skipped("a small disk cannot be mounted here; the figures are tested in restore::target");
        return;
    }
    let etc = lost.host.gitlab_configuration();
    let ended = lost.host.run("restore --apply --yes");
    let left = names(&folder);
    let unmounted = Command::new("umount").arg(&folder).status();
    assert!(unmounted.is_ok_and(|status| status.success()));
    assert_eq!(ended.status, Some(1), "{ended}");
    for word in [
        "(220.0 KiB to fetch, 220.0 KiB to unpack), and 300.0 KiB are free",
        "nothing was changed",
        "make room there",
        &format!("gitlab-pi-backup restore {ID} --plan"),
    ] {
        assert!(ended.err.contains(word), "{word} is not in {ended}");
    }
    assert_eq!(left, [""; 0], "{ended}");
    assert_eq!(lost.host.gitlab_configuration(), etc);
    assert_eq!(calls(&lost.host), [""; 0]);
    assert!(!lost.host.path("state/restore.json").exists(), "{ended}");
    let ended = lost.host.run(APPLY);
    lost.assert_back(&ended);
}

#[test]
fn an_older_backup_is_not_taken_for_the_newest_because_a_destination_is_silent() {
    let mut lost = lost();
    add_second(&lost, &nobody());
    lost.host.set("GITLAB_PI_BACKUP_UPLOAD__RETRY_FOR", "1s");
    let before = Snapshot::of(&lost.host);
    let ended = lost.host.run(APPLY);
    lost.assert_untouched(&ended, &before);
    for word in [
        "`second` could not be asked",
        "nothing was changed",
        &format!("gitlab-pi-backup restore {ID} --apply"),
        "--destination dropbox",
    ] {
        assert!(ended.err.contains(word), "{word} is not in {ended}");
    }
    // What changes nothing only warns.
    for arguments in ["restore --plan", "rehearse"] {
        let ended = lost.host.run(arguments);
        assert_eq!(ended.status, Some(0), "{ended}");
        assert!(ended.err.contains("a newer backup may be there"), "{ended}");
    }
    let ended = lost.host.run(&format!("restore {ID} --apply --yes --json"));
    lost.assert_back(&ended);
    lost.lose_again();
    let ended = lost
        .host
        .run("restore --apply --yes --json --destination dropbox");
    lost.assert_back(&ended);
}

#[test]
fn destinations_that_are_silent_are_waited_for_at_once_and_not_for_long() {
    let mut lost = lost();
    add_second(&lost, &nobody());
    lost.dropbox.shut_down();
    lost.host.set("GITLAB_PI_BACKUP_UPLOAD__RETRY_FOR", "9s");
    let begun = Instant::now();
    let ended = lost.host.run("restore --apply --yes");
    assert_eq!(ended.status, Some(1), "{ended}");
    assert_eq!(
        ended.err.matches("tried again for 9s").count(),
        3,
        "{ended}"
    );
    // One after the other would take eighteen.
    assert!(begun.elapsed() < Duration::from_secs(17), "{ended}");
}
