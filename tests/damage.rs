//! Damage: every member of a real backup is hurt in every way, and `rehearse::examine` has to find it, name
//! the part that is hurt and no other, and never take a good archive for a bad one.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::Command;

use gitlab_pi_backup::archive::{ArchiveKind, ArchiveName};
use gitlab_pi_backup::content_hash::Digest;
use gitlab_pi_backup::gitlab::contents::Contents;
use gitlab_pi_backup::rehearse::verdict::{PartStatus, PartVerdict};
use gitlab_pi_backup::rehearse::{Examination, Expected, GitCheck, Options, examine};
use support::backup::{Layout, RealBackup, gunzip, gzip};

const STAMP: u64 = 1_702_758_583;

/// A member of an archive, with the blocks before its contents.
#[derive(Clone)]
struct Piece {
    name: String,
    headers: Vec<u8>,
    data: Vec<u8>,
    is_file: bool,
}

/// Under an emulator everything takes ten times as long.
fn is_emulated() -> bool {
    cfg!(target_arch = "aarch64")
        && std::env::var_os("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER").is_some()
}

/// Both archives of a backup.
fn archives(backup: &RealBackup) -> [(ArchiveKind, Vec<u8>); 2] {
    let dir = tempfile::tempdir().expect("temporary folder");
    let paths = backup.write_into(&dir.path().join("data"), &dir.path().join("config"), STAMP);
    let read = |path: &Path| fs::read(path).expect("an archive");
    [
        (ArchiveKind::Data, read(&paths.data)),
        (ArchiveKind::Config, read(&paths.config)),
    ]
}

fn is_gz(name: &str) -> bool {
    name.rsplit('.').next() == Some("gz")
}

fn split(archive: &[u8]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let (mut at, mut begun, mut long) = (0, 0, None);
    while archive[at] != 0 {
        let header = &archive[at..at + 512];
        let size = str::from_utf8(&header[124..135]).expect("octal digits");
        let size = usize::from_str_radix(size, 8).expect("octal digits");
        let data = archive[at + 512..][..size].to_vec();
        let own = at + 512;
        at = own + size.next_multiple_of(512);
        if header[156] == b'L' {
            long = Some(data);
            continue;
        }
        let name = long.take().unwrap_or_else(|| header[..100].to_vec());
        pieces.push(Piece {
            name: String::from_utf8_lossy(&name)
                .trim_end_matches('\0')
                .to_owned(),
            headers: archive[begun..own].to_vec(),
            data,
            is_file: header[156] == b'0',
        });
        begun = at;
    }
    pieces
}

/// With the sizes and checksums that GNU tar would write.
fn join(pieces: &[Piece]) -> Vec<u8> {
    let mut archive = Vec::new();
    for piece in pieces {
        let mut headers = piece.headers.clone();
        let own = headers.len() - 512;
        let header = &mut headers[own..];
        header[124..135].copy_from_slice(format!("{:011o}", piece.data.len()).as_bytes());
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        archive.extend(headers);
        archive.extend(&piece.data);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize((archive.len() + 1024).next_multiple_of(10_240), 0);
    archive
}

fn look(kind: ArchiveKind, archive: &[u8], expected: Option<Expected>) -> Examination {
    let options = Options {
        expected,
        ..Options::default()
    };
    let seen = examine(kind, archive, &options).expect("memory can be read");
    assert_eq!(seen.size, archive.len() as u64, "read to its end");
    seen
}

/// The parts that failed, or that somebody should look at.
fn failed(seen: &Examination) -> BTreeSet<&str> {
    let is_bad = |status| matches!(status, PartStatus::Failed | PartStatus::Warning);
    let failed = seen
        .verdicts
        .iter()
        .filter(|verdict| is_bad(verdict.status));
    failed.map(|verdict| verdict.part.as_str()).collect()
}

fn told(seen: &Examination) -> String {
    let line = |verdict: &PartVerdict| {
        let PartVerdict {
            part,
            status,
            detail,
        } = verdict;
        format!("{status:?} {part}: {detail}")
    };
    seen.verdicts
        .iter()
        .map(line)
        .collect::<Vec<_>>()
        .join("\n")
}

/// The part that a member belongs to.
fn part(name: &str) -> &str {
    match name {
        "backup_information.yml" => "information",
        "/etc/gitlab/gitlab-secrets.json" => "secrets",
        "/etc/gitlab/gitlab.rb" => "settings",
        _ => name.split(['/', '.']).next().unwrap_or_default(),
    }
}

/// What is done to a member.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Hurt {
    Removed,
    Emptied,
    /// Cut to this length.
    Cut(usize),
    /// This bit of this byte is flipped.
    Flipped(usize, usize),
}

impl Hurt {
    /// With `flips` of them that flip a bit, the first and the last byte's among them.
    fn all(len: usize, flips: usize) -> Vec<Hurt> {
        let mut all = vec![Hurt::Removed];
        if len > 0 {
            all.extend([Hurt::Emptied, Hurt::Cut(len / 2), Hurt::Cut(len - 1)]);
            all.extend(
                (0..flips).map(|step| Hurt::Flipped(step * (len - 1) / (flips - 1), step % 8)),
            );
        }
        all
    }

    fn apply(self, pieces: &mut Vec<Piece>, index: usize) {
        let data = &mut pieces[index].data;
        match self {
            Hurt::Removed => drop(pieces.remove(index)),
            Hurt::Emptied => data.clear(),
            Hurt::Cut(len) => data.truncate(len),
            Hurt::Flipped(at, bit) => data[at] ^= 1 << bit,
        }
    }
}

/// What the archive alone cannot show, or what is no damage. Every reason has to be met at least once.
const UNKNOWABLE: [&str; 9] = [
    DISABLED, HOOKS, PADDING, SAME, UNREAD, NUMBERED, PROGRAM, SECRET, OWN,
];
const DISABLED: &str = "GitLab leaves a part out without a word if it is disabled";
const HOOKS: &str = "gitaly names hooks in every manifest, whether a repository has any or not";
const PADDING: &str = "zeros behind the end of a tar are padding";
const SAME: &str = "gzip expands it to the very same bytes";
const UNREAD: &str = "a restore does not read this value of backup_information.yml";
const NUMBERED: &str = "a reference with another number is a good reference";
const PROGRAM: &str = "a hook's text is somebody's program";
const SECRET: &str = "a letter of a secret, or of the name of one that no restore needs";
const OWN: &str =
    "settings, keys and certificates are the host's own: nobody knows what they should be";

/// Why a restore would still succeed, or why nobody could tell from the archive.
fn unknowable(piece: &Piece, hurt: Hurt, after: &[u8]) -> Option<&'static str> {
    let (name, data) = (piece.name.as_str(), &piece.data);
    let is = |ending: &str| name.ends_with(ending);
    if let Hurt::Flipped(at, _) = hurt {
        let start = data[..at]
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        let line = String::from_utf8_lossy(&data[start..]);
        let in_string = data[start..at].split(|byte| *byte == b'"').count() % 2 == 0;
        let numbers = data[at].is_ascii_digit() && after[at].is_ascii_digit();
        let unread = [
            "  utc:",
            "    name:",
            "  time:",
            ":tar_version:",
            ":installation_type:",
            ":db_version:",
        ];
        let reason = match part(name) {
            "information" if unread.iter().any(|key| line.starts_with(key)) => Some(UNREAD),
            "repositories" if is(".tar") && (1024..1536).contains(&at) => Some(PROGRAM),
            "repositories" if is(".tar") && data[at] == 0 => Some(PADDING),
            "repositories" if numbers && line.contains(" refs/") => Some(NUMBERED),
            "secrets" if in_string => Some(SECRET),
            _ if is(".gz") && gunzip(after) == gunzip(data) => Some(SAME),
            _ => None,
        };
        if reason.is_some() {
            return reason;
        }
    }
    match hurt {
        Hurt::Removed if is(".tar.gz") => Some(DISABLED),
        Hurt::Removed if is("custom_hooks.tar") => Some(HOOKS),
        Hurt::Cut(len) if is(".tar") && data[len - 1024..].iter().all(|byte| *byte == 0) => {
            Some(PADDING)
        }
        Hurt::Cut(len) if is(".json") && data[len..] == *b"\n" => Some(SECRET),
        Hurt::Removed | Hurt::Emptied if is("/gitlab.rb") => None,
        _ if name.starts_with("/etc/gitlab/") && !is(".json") => Some(OWN),
        _ => None,
    }
}

#[test]
fn every_member_hurt_in_every_way_is_found() {
    let dense = if is_emulated() { 2 } else { 8 };
    let mut met = BTreeSet::new();
    let mut complaints = Vec::new();
    for (kind, whole) in archives(&RealBackup::new(7)) {
        let good = look(kind, &whole, None);
        let expected = Expected {
            size: good.size,
            content_hash: good.content_hash,
            contents: Some(good.contents.clone()),
        };
        let pieces = split(&whole);
        assert_eq!(join(&pieces), whole);
        let mut seen_endings = BTreeSet::new();
        for (index, piece) in pieces.iter().enumerate().filter(|(_, piece)| piece.is_file) {
            // One of each kind is hurt more often than the others.
            let ending = piece.name.rsplit(['.', '/']).next().unwrap_or_default();
            let flips = if seen_endings.insert(ending) {
                60
            } else {
                dense
            };
            for hurt in Hurt::all(piece.data.len(), flips) {
                let mut hurt_pieces = pieces.clone();
                hurt.apply(&mut hurt_pieces, index);
                let after = hurt_pieces
                    .get(index)
                    .map_or(Vec::new(), |piece| piece.data.clone());
                let archive = join(&hurt_pieces);
                let seen = look(kind, &archive, None);
                let blamed = failed(&seen);
                if blamed == BTreeSet::from([part(&piece.name)]) {
                    continue;
                }
                let case = format!("{} {hurt:?}", piece.name);
                match unknowable(piece, hurt, &after) {
                    _ if !blamed.is_empty() => {
                        complaints.push(format!("{case}: {blamed:?} were blamed"));
                    }
                    None => complaints.push(format!("{case} was not found")),
                    Some(reason) => {
                        met.insert(reason);
                        let seen = look(kind, &archive, Some(expected.clone()));
                        let found = failed(&seen);
                        if !found.contains("hash")
                            || found.contains("size") != (archive.len() != whole.len())
                        {
                            complaints.push(format!(
                                "{case} was not found although it is known: {found:?}"
                            ));
                        }
                    }
                }
            }
        }
    }
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
    let unmet: Vec<_> = UNKNOWABLE
        .iter()
        .filter(|reason| !met.contains(*reason))
        .collect();
    assert!(unmet.is_empty(), "exceptions for nothing: {unmet:?}");
}

#[test]
fn good_archives_of_every_kind_give_no_alarm() {
    for backup in [
        RealBackup::new(1)
            .version("18.3.1-ee")
            .skip(&["registry", "uploads"]),
        RealBackup::new(2).version("16.11.0").projects(12),
        RealBackup::new(3).layout(Layout::Pointer).version("15.4.2"),
        RealBackup::legacy(4),
        RealBackup::new(5).projects(0),
        RealBackup::new(6).skip(&["db", "repositories"]),
    ] {
        for (kind, archive) in archives(&backup) {
            let seen = look(kind, &archive, None);
            assert!(seen.restorable(), "{}", told(&seen));
            let skipped = seen
                .verdicts
                .iter()
                .filter(|verdict| verdict.status == PartStatus::Skipped);
            let skipped: BTreeSet<_> = skipped.map(|verdict| verdict.part.as_str()).collect();
            let mut expected: BTreeSet<_> =
                seen.contents.skipped.iter().map(String::as_str).collect();
            if kind == ArchiveKind::Data {
                expected.insert("registry");
            }
            assert_eq!(skipped, expected, "{}", told(&seen));
        }
    }
}

type Compressor<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;

#[test]
fn other_compressors_are_understood_and_proved_as_far_as_they_can_be() {
    let [(kind, whole), _] = archives(&RealBackup::new(7));
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    let zstd = |bytes: &[u8]| ruzstd::encoding::compress_to_vec(bytes, level);
    let twice = |bytes: &[u8]| [gzip(&bytes[..7]), gzip(&bytes[7..]), vec![0; 99]].concat();
    let compressors: [(&str, Compressor); 3] = [
        ("zstd", &zstd),
        ("gzip in pieces", &twice),
        ("cat", &<[u8]>::to_vec),
    ];
    for (name, compress) in compressors {
        let mut pieces = split(&whole);
        for piece in pieces.iter_mut().filter(|piece| is_gz(&piece.name)) {
            piece.data = compress(&gunzip(&piece.data));
        }
        let seen = look(kind, &join(&pieces), None);
        assert!(seen.restorable(), "{name}: {}", told(&seen));
        for index in 0..pieces.len() {
            // The others are empty: padding, for the most part.
            if !["uploads.tar.gz", "lfs.tar.gz", "db/database.sql.gz"]
                .contains(&pieces[index].name.as_str())
            {
                continue;
            }
            let len = pieces[index].data.len();
            for hurt in [Hurt::Emptied, Hurt::Cut(len / 4), Hurt::Flipped(len / 2, 0)] {
                let mut hurt_pieces = pieces.clone();
                hurt.apply(&mut hurt_pieces, index);
                let seen = look(kind, &join(&hurt_pieces), None);
                let part = part(&pieces[index].name);
                // What is not compressed has no checksum.
                let unknowable = name == "cat" && matches!(hurt, Hurt::Flipped(..));
                let blamed = failed(&seen);
                assert!(
                    unknowable || blamed == BTreeSet::from([part]),
                    "{name} {part} {hurt:?}: {}",
                    told(&seen)
                );
            }
        }
    }
}

#[test]
fn every_flipped_bit_of_a_header_is_found_and_hides_no_other_member() {
    for (kind, whole) in archives(&RealBackup::new(7)) {
        let pieces = split(&whole);
        let mut offset = 0;
        for piece in &pieces {
            let own = offset + piece.headers.len() - 512;
            let is_long = piece.is_file && own > offset;
            let name = if is_long { 512..513 } else { 0..0 };
            let places = [0, 100, 130, 148, 156, 257, 511];
            let places = places.map(|place| own + place).into_iter();
            // The text of a long name has no checksum; what it leads to has.
            let places = places.chain(name.map(|place| offset + place));
            for (number, place) in places.enumerate() {
                let mut hurt = whole.clone();
                hurt[place] ^= 1 << (number % 7);
                let seen = look(kind, &hurt, None);
                let blamed = failed(&seen);
                let case = format!("{} at {place}: {}", piece.name, told(&seen));
                let alone = BTreeSet::from(["tar", part(&piece.name)]);
                assert!(blamed.is_subset(&alone), "{case}");
                let is_hook = place < own && piece.name.ends_with("custom_hooks.tar");
                assert!(is_hook || !blamed.is_empty(), "{case}");
                assert!(place < own || blamed.contains("tar"), "{case}");
            }
            offset = own + 512 + piece.data.len().next_multiple_of(512);
        }
    }
}

#[test]
fn an_archive_cut_anywhere_is_found() {
    for (kind, whole) in archives(&RealBackup::new(7).projects(1)) {
        let last = whole
            .iter()
            .rposition(|byte| *byte != 0)
            .expect("not empty");
        let end = last.next_multiple_of(512) + 1024;
        for len in (0..end).step_by(512).chain([1, 700, end - 1]) {
            let seen = look(kind, &whole[..len], None);
            let tar = &seen.verdicts[0];
            assert_eq!(
                (tar.part.as_str(), tar.status),
                ("tar", PartStatus::Failed),
                "cut at {len}"
            );
            assert!(tar.detail.contains("at byte "), "{}", tar.detail);
        }
        for len in [end, end + 512] {
            let seen = look(kind, &whole[..len], None);
            assert!(seen.restorable(), "cut at {len} of {end}: {}", told(&seen));
        }
        let seen = look(kind, &[&whole[..], b"x"].concat(), None);
        assert!(
            seen.verdicts[0].detail.contains("behind the end"),
            "{}",
            told(&seen)
        );
    }
}

fn contents(expected: &mut Expected) -> &mut Contents {
    expected.contents.as_mut().expect("known")
}

#[test]
fn what_differs_from_the_manifest_is_told_with_both_figures() {
    let [(kind, whole), (config, other)] = archives(&RealBackup::new(7));
    let seen = look(config, &other, None);
    let expected = Expected {
        size: seen.size,
        content_hash: seen.content_hash,
        contents: Some(Contents::default()),
    };
    let seen = look(config, &other, Some(expected));
    let parts: Vec<_> = seen
        .verdicts
        .iter()
        .map(|verdict| verdict.part.as_str())
        .collect();
    assert!(seen.restorable());
    assert_eq!(parts, ["tar", "secrets", "settings", "size", "hash"]);
    let seen = look(kind, &whole, None);
    let expected = Expected {
        size: seen.size,
        content_hash: seen.content_hash,
        contents: Some(seen.contents.clone()),
    };
    let same = look(kind, &whole, Some(expected.clone()));
    assert!(same.restorable(), "{}", told(&same));
    let differ = |change: &dyn Fn(&mut Expected), part: &str, figures: [&str; 2]| {
        let mut expected = expected.clone();
        change(&mut expected);
        let seen = look(kind, &whole, Some(expected));
        assert_eq!(failed(&seen), BTreeSet::from([part]));
        let found = seen.verdicts.iter().find(|verdict| verdict.part == part);
        let detail = &found.expect("a verdict").detail;
        assert!(
            figures.iter().all(|figure| detail.contains(figure)),
            "{detail}"
        );
    };
    let size = whole.len().to_string();
    differ(
        &|e| e.size += 1,
        "size",
        [&size, &(whole.len() + 1).to_string()],
    );
    let other = Digest::of(b"");
    let (this, that) = (seen.content_hash.to_string(), other.to_string());
    differ(&|e| e.content_hash = other, "hash", [&this, &that]);
    let uploads = seen.contents.parts["uploads"].to_string();
    differ(
        &|e| {
            contents(e).parts.insert("uploads".into(), 7);
        },
        "parts",
        [&uploads, "7"],
    );
    differ(
        &|e| {
            contents(e).parts.insert("registry".into(), 7);
        },
        "parts",
        ["registry: absent", "7"],
    );
    differ(
        &|e| {
            contents(e).parts.remove("db");
        },
        "parts",
        ["db: ", "absent"],
    );
    differ(
        &|e| contents(e).repositories = 70,
        "repositories",
        ["7 repo", "70 repo"],
    );
    differ(
        &|e| contents(e).bundles = 40,
        "repositories",
        ["4 bundles", "40 bundles"],
    );
    differ(
        &|e| contents(e).skipped = vec!["lfs".into()],
        "skipped",
        ["[]", "[lfs]"],
    );
    let options = Options {
        name: ArchiveName::parse("1702758583_2023_12_16_17.8.3_gitlab_backup.tar"),
        ..Options::default()
    };
    let seen = examine(kind, &whole[..], &options).expect("readable");
    assert_eq!(
        failed(&seen),
        BTreeSet::from(["information"]),
        "{}",
        told(&seen)
    );
}

#[test]
fn git_is_asked_about_every_bundle_where_it_is_installed() {
    if Command::new("git").arg("version").output().is_err() {
        // Not by a macro, whose output a test that passes does not show.
        writeln!(io::stderr(), "skipped: there is no `git` here").expect("standard error");
        return;
    }
    let scratch = tempfile::tempdir().expect("temporary folder");
    let options = Options {
        git: Some(GitCheck {
            scratch: scratch.path().to_owned(),
            stop: std::sync::Arc::default(),
        }),
        ..Options::default()
    };
    for backup in [RealBackup::new(7), RealBackup::legacy(7)] {
        let [(kind, whole), (config, other)] = archives(&backup);
        let seen = examine(kind, &whole[..], &options).expect("readable");
        let git = seen.verdicts.last().expect("a verdict");
        assert_eq!(
            (git.part.as_str(), git.status),
            ("git", PartStatus::Ok),
            "{}",
            git.detail
        );
        assert!(git.detail.contains("4 repositories"), "{}", git.detail);
        // A reference to a commit that is not there: nothing but git can know.
        let mut pieces = split(&whole);
        let bundle = pieces
            .iter_mut()
            .find(|piece| piece.name.ends_with(".bundle"))
            .expect("a bundle");
        let at = bundle
            .data
            .windows(10)
            .position(|w| w == b" refs/tags")
            .expect("a tag");
        bundle.data[at - 40..at].fill(b'7');
        let seen = examine(kind, &join(&pieces)[..], &options).expect("readable");
        assert_eq!(failed(&seen), BTreeSet::from(["git"]), "{}", told(&seen));
        let seen = examine(config, &other[..], &options).expect("readable");
        assert!(seen.restorable());
        assert_eq!(fs::read_dir(scratch.path()).expect("listed").count(), 0);
    }
}

#[test]
fn an_input_that_breaks_off_says_nothing_about_the_archive() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::new(
                io::ErrorKind::ConnectionReset,
                "the line broke",
            ))
        }
    }
    for (kind, whole) in archives(&RealBackup::new(7).projects(1)) {
        for len in [0, 700, whole.len() / 2, whole.len()] {
            let error = examine(kind, whole[..len].chain(Broken), &Options::default());
            assert_eq!(error.expect_err("broken").to_string(), "the line broke");
        }
    }
}

/// Numbers that look random and are the same at each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).expect("small")
    }
}

#[test]
fn two_thousand_mutations_do_no_harm() {
    let mut numbers = Numbers(0x5eed);
    let rounds = if is_emulated() { 100 } else { 1_000 };
    for (kind, whole) in archives(&RealBackup::new(9).projects(1).uploads(2_000)) {
        for round in 0..rounds {
            let mut hurt = whole.clone();
            for _ in 0..=numbers.below(4) {
                let (at, to) = (numbers.below(hurt.len()), numbers.below(hurt.len()));
                let len = 1 + numbers.below(2_000.min(hurt.len() - at.max(to)));
                match numbers.below(6) {
                    0 => hurt[at] ^= 1 << numbers.below(8),
                    1 => hurt[at..at + len].fill(u8::try_from(numbers.below(256)).expect("a byte")),
                    2 => hurt.copy_within(at..at + len, to),
                    3 => drop(hurt.drain(at..at + len)),
                    4 => drop(hurt.splice(at..at, whole[..len].to_vec())),
                    _ => hurt[at..at + len]
                        .iter_mut()
                        .for_each(|byte| *byte = u8::try_from(numbers.below(256)).expect("a byte")),
                }
            }
            let seen = look(kind, &hurt, None);
            assert!(
                seen.verdicts
                    .iter()
                    .all(|verdict| verdict.detail.len() < 10_000),
                "round {round}"
            );
            let text = told(&seen);
            assert!(
                !text.chars().any(|c| c.is_control() && c != '\n'),
                "round {round}: {text}"
            );
        }
    }
}
