//! What `rehearse::examine` costs: memory that does not grow, and time.
//!
//! The large ones run by themselves in an optimised build:
//! `cargo test --release --test examine -- --ignored --test-threads=1 --nocapture`

#![allow(clippy::print_stdout, reason = "tells what was measured")]

mod support;

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use gitlab_pi_backup::archive::ArchiveKind;
use gitlab_pi_backup::rehearse::verdict::PartStatus;
use gitlab_pi_backup::rehearse::{Examination, Options, examine};
use support::backup::{RealBackup, gzip};

const ID: &str = "1702758583_2023_12_16_17.8.2";
/// More than this beyond what the program takes anyway is too much, in KiB.
const MOST: u64 = 6 * 1024;

/// An archive that is made while it is read, part by part.
struct Archive<F> {
    parts: F,
    number: u64,
    ready: VecDeque<u8>,
}

impl<F: FnMut(u64) -> Option<Vec<u8>>> Read for Archive<F> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.ready.is_empty() {
            match (self.parts)(self.number) {
                Some(part) => self.ready = part.into(),
                None => return Ok(0),
            }
            self.number += 1;
        }
        self.ready.read(buf)
    }
}

/// The header of a member in GNU tar's form.
fn header(name: &str, size: u64) -> Vec<u8> {
    let mut blocks = Vec::new();
    if name.len() > 99 {
        let long = u64::try_from(name.len() + 1).expect("small");
        blocks.extend(block("././@LongLink", long, b'L'));
        blocks.extend(name.as_bytes());
        blocks.resize((blocks.len() + 1).next_multiple_of(512), 0);
    }
    blocks.extend(block(&name[..name.len().min(99)], size, b'0'));
    blocks
}

fn block(name: &str, size: u64, kind: u8) -> [u8; 512] {
    let mut header = [0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[124..136].copy_from_slice(&(1_u128 << 95 | u128::from(size)).to_be_bytes()[4..]);
    header[156] = kind;
    header[257..265].copy_from_slice(b"ustar  \0");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    header
}

fn member(name: &str, data: &[u8]) -> Vec<u8> {
    let mut member = header(name, data.len() as u64);
    member.extend(data);
    member.resize(member.len().next_multiple_of(512), 0);
    member
}

/// `backup_information.yml` and the database of a real backup.
fn beginning() -> Vec<u8> {
    let members = RealBackup::new(7).members(1_702_758_583);
    let files = members.iter().filter(|member| !member.path.ends_with('/'));
    files
        .take(2)
        .flat_map(|file| member(&file.path, &file.data))
        .collect()
}

/// An archive with this many repositories, and of each the manifests, the list and the bundle.
fn repositories(count: u64) -> impl Read {
    let mut stored = RealBackup::new(7).repositories();
    let small = stored.remove(1).repository.expect("a wiki");
    let mut beginning = Some(beginning());
    let parts = move |number: u64| {
        if number == 0 {
            return beginning.take();
        }
        // First all manifests, then all that they name, as far away from them as can be.
        let index = (number - 1) % count;
        let relative = format!("default/@hashed/6b/86/{index:064x}.git");
        let stem = format!("{relative}/{ID}/001");
        match (number - 1) / count {
            0 => {
                let text = format!(
                    "empty = false\nnon_existent = false\nobject_format = 'sha1'\n\
                     head_reference = 'refs/heads/main'\n\n[[steps]]\nbundle_path = '{stem}.bundle'\n\
                     ref_path = '{stem}.refs'\ncustom_hooks_path = '{stem}.custom_hooks.tar'\n"
                );
                let names = [ID, "+latest"]
                    .map(|name| format!("repositories/manifests/{relative}/{name}.toml"));
                Some(
                    names
                        .iter()
                        .flat_map(|name| member(name, text.as_bytes()))
                        .collect(),
                )
            }
            1 => Some(
                [
                    member(&format!("repositories/{stem}.bundle"), &small.bundle),
                    member(&format!("repositories/{stem}.refs"), &small.refs),
                ]
                .concat(),
            ),
            _ if number == 2 * count + 1 => Some(vec![0; 10_240]),
            _ => None,
        }
    };
    Archive {
        parts,
        number: 0,
        ready: VecDeque::new(),
    }
}

/// An archive whose uploads expand to a tar with one file of this many MiB, of bytes that do not compress or
/// of zeros.
fn uploads(mebibytes: u64, zeros: bool) -> impl Read {
    let mut number = 0x5eed_u64;
    let mebibyte: Vec<u8> = (0..1 << 20)
        .map(|_| {
            number ^= number << 13;
            number ^= number >> 7;
            number ^= number << 17;
            if zeros { 0 } else { number.to_le_bytes()[3] }
        })
        .collect();
    let start = gzip(&block("file", mebibytes << 20, b'0'));
    let (mebibyte, end) = (gzip(&mebibyte), gzip(&[0; 1024]));
    let size = (start.len() + end.len()) as u64 + mebibytes * mebibyte.len() as u64;
    let padding = usize::try_from(size.next_multiple_of(512) - size).expect("small");
    let mut beginning = [beginning(), header("uploads.tar.gz", size), start].concat();
    let parts = move |number: u64| match number {
        0 => Some(std::mem::take(&mut beginning)),
        n if n <= mebibytes => Some(mebibyte.clone()),
        n if n == mebibytes + 1 => Some([&end[..], &vec![0; padding + 10_240]].concat()),
        _ => None,
    };
    Archive {
        parts,
        number: 0,
        ready: VecDeque::new(),
    }
}

/// Examines, and says how much more memory that took at its peak than there was before, in KiB.
fn measured(archive: impl Read) -> (Examination, u64) {
    let status = |name: &str| -> u64 {
        let text = fs::read_to_string("/proc/self/status").expect("Linux");
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .expect("a line");
        line.trim()
            .trim_end_matches(" kB")
            .parse()
            .expect("a number")
    };
    // Sets the peak to what is taken now.
    fs::write("/proc/self/clear_refs", "5").expect("Linux");
    let before = status("VmRSS:");
    let began = Instant::now();
    let seen = examine(ArchiveKind::Data, archive, &Options::default()).expect("readable");
    let grown = status("VmHWM:").saturating_sub(before);
    println!("{} bytes in {:?}: {grown} KiB", seen.size, began.elapsed());
    (seen, grown)
}

fn is_emulated() -> bool {
    cfg!(target_arch = "aarch64")
        && std::env::var_os("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER").is_some()
}

#[test]
fn memory_does_not_grow_with_the_archive() {
    if is_emulated() {
        return; // the kernel counts the emulator
    }
    for (archive, what) in [
        (
            Box::new(repositories(1_000)) as Box<dyn Read>,
            "repositories",
        ),
        (Box::new(uploads(64, false)), "uploads"),
        (Box::new(uploads(512, true)), "a bomb"),
    ] {
        let (seen, grown) = measured(archive);
        assert!(grown <= MOST, "{what}: {grown} KiB");
        assert!(seen.restorable(), "{what}: {:?}", seen.verdicts);
    }
}

#[test]
#[ignore = "reads some 20 GiB"]
fn memory_does_not_grow_with_a_large_archive() {
    for (archive, what) in [
        (
            Box::new(repositories(100_000)) as Box<dyn Read>,
            "repositories",
        ),
        (Box::new(uploads(8 << 10, false)), "uploads"),
        (Box::new(uploads(10 << 10, true)), "a bomb"),
    ] {
        let (seen, grown) = measured(archive);
        assert!(grown <= MOST, "{what}: {grown} KiB");
        assert!(seen.restorable(), "{what}: {:?}", seen.verdicts);
    }
}

/// The seconds that a command takes, at best.
fn seconds(mut attempt: impl FnMut()) -> f64 {
    let timed = (0..3).map(|_| {
        let began = Instant::now();
        attempt();
        began.elapsed().as_secs_f64()
    });
    timed.fold(f64::INFINITY, f64::min)
}

/// A member that takes a while: what it is called, its contents, and whether gzip can test it.
fn heavy_members() -> [(&'static str, Vec<u8>, bool); 3] {
    let mut uploads = Vec::new();
    self::uploads(300, false)
        .read_to_end(&mut uploads)
        .expect("memory");
    let name = uploads
        .windows(14)
        .position(|w| w == b"uploads.tar.gz")
        .expect("a member");
    let size = u64::from_be_bytes(uploads[name + 128..][..8].try_into().expect("eight"));
    let start = name + 512;
    let end = start + usize::try_from(size).expect("it fits memory");
    let mut rows = String::new();
    for i in 0..200_000_u64 {
        let (project, time) = (i * 7919 % 1000, i * 104_729 % 1_000_000);
        let _ = writeln!(
            rows,
            "{i}\tProject {project}\t2023-12-16 20:29:43.{time:06}\t\\N\tf"
        );
    }
    let dump = format!(
        "--\n-- PostgreSQL database dump\n--\n\n{}--\n-- PostgreSQL database dump complete\n--\n",
        rows.repeat(30)
    );
    let mut bundle = RealBackup::new(7).repositories()[0]
        .repository
        .clone()
        .expect("one")
        .bundle
        .clone();
    let pack = bundle
        .windows(4)
        .position(|w| w == b"PACK")
        .expect("a pack");
    bundle.truncate(bundle.len() - 20);
    bundle.extend(&uploads[start..start + (200 << 20)]);
    let mut context = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(&bundle[pack..]);
    bundle.extend(context.finish().as_ref());
    [
        ("uploads.tar.gz", uploads[start..end].to_vec(), true),
        ("db/database.sql.gz", gzip(dump.as_bytes()), true),
        ("repositories/a.bundle", bundle, false),
    ]
}

#[test]
#[ignore = "measures: in an optimised build, on a machine that does nothing else"]
fn examining_is_at_least_half_as_fast_as_gzip_and_sha256sum() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let (mut ours, mut theirs) = (0.0, 0.0);
    for (name, data, is_gzip) in heavy_members() {
        let (plain, archive) = (dir.path().join("member.gz"), dir.path().join("archive.tar"));
        fs::write(&plain, &data).expect("written");
        fs::write(&archive, [member(name, &data), vec![0; 10_240]].concat()).expect("written");
        let run = |words: &[&str], path: &Path| {
            let output = Command::new(words[0]).args(&words[1..]).arg(path).output();
            assert!(output.expect("it runs").status.success(), "{words:?}");
        };
        let gzip = if is_gzip {
            seconds(|| run(&["gzip", "-t"], &plain))
        } else {
            0.0
        };
        let sha256sum = seconds(|| run(&["sha256sum"], &archive));
        let examined = seconds(|| {
            let file = fs::File::open(&archive).expect("a file");
            let seen = examine(ArchiveKind::Data, file, &Options::default()).expect("readable");
            let part = if is_gzip {
                name.split(['.', '/']).next()
            } else {
                Some("repositories")
            };
            let verdict = seen
                .verdicts
                .iter()
                .find(|verdict| Some(verdict.part.as_str()) == part);
            assert_eq!(
                verdict.expect("a verdict").status,
                PartStatus::Ok,
                "{verdict:?}"
            );
        });
        println!(
            "{name}: {} MB; gzip -t {gzip:.2} s, sha256sum {sha256sum:.2} s; examine {examined:.2} s",
            data.len() / 1_000_000
        );
        ours += examined;
        theirs += gzip + sha256sum;
    }
    println!(
        "examine takes {:.2} of the time that gzip -t and sha256sum take together",
        ours / theirs
    );
    assert!(ours <= 2.0 * theirs);
}
