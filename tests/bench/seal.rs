//! `cargo bench --bench seal`: sealing a file into a sink on one core, beside the `age` crate, which is what `rage`
//! encrypts with, and `rage` itself where it is installed. Alternating, in one process and one thread; the processor time counts,
//! so that others on the machine do not.
//!
//! Fails if less than 0.7 of the crate's speed is reached.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{self, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use gitlab_pi_backup::seal::{Recipients, Sealing};
use gitlab_pi_backup::source::Source as _;
use gitlab_pi_backup::source::file::FileSource;
use gitlab_pi_backup::source::sealed::{Hashing, Sealed};
use nix::sys::resource::{Usage, UsageWho, getrusage};

const MIB: u32 = 256;
const SIZE: usize = (MIB as usize) << 20;
const ROUNDS: usize = 9;
const LEAST: f64 = 0.7;

/// Seals the file once; the processor time that took.
type Way<'a> = Box<dyn Fn() -> Duration + 'a>;

fn main() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("plain");
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(SIZE);
    while bytes.len() < SIZE {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    fs::write(&path, bytes).expect("written");
    let recipient = age::x25519::Identity::generate().to_public();
    let text = recipient.to_string();
    let recipients = Recipients::parse([text.as_str()]).expect("a key");

    let sealing = |piece: usize, hashing: Hashing| {
        let source = FileSource::open(&path).expect("open");
        let sealing = Sealing::new(&recipients).expect("a header");
        let source = Sealed::new(Arc::new(source), Arc::new(sealing), hashing);
        let mut buf = vec![0; piece];
        let mut offset = 0;
        while offset < source.len() {
            let read = source.read_at(offset, &mut buf).expect("read");
            black_box(&buf[..read]);
            offset += read as u64;
        }
    };
    let crate_age = || {
        let recipients = std::iter::once(&recipient as &dyn age::Recipient);
        let encryptor = age::Encryptor::with_recipients(recipients).expect("a header");
        let mut output = encryptor.wrap_output(io::sink()).expect("a header");
        let file = File::open(&path).expect("open");
        let mut input = BufReader::with_capacity(256 << 10, file);
        io::copy(&mut input, &mut output).expect("sealed");
        output.finish().expect("sealed");
    };
    let mut ways: Vec<(&str, Way<'_>)> = vec![
        ("age crate", Box::new(|| own(crate_age))),
        (
            "sealed, 256 KiB pieces",
            Box::new(|| own(|| sealing(256 << 10, Hashing::None))),
        ),
        (
            "sealed, 4 MiB pieces",
            Box::new(|| own(|| sealing(4 << 20, Hashing::None))),
        ),
        (
            "… and the plain hash",
            Box::new(|| own(|| sealing(256 << 10, Hashing::Plain))),
        ),
    ];
    let rage = Command::new("rage")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    if rage.is_ok_and(|status| status.success()) {
        ways.push(("rage -e", Box::new(|| rage_e(&path, &text))));
    }
    let mut times = vec![Vec::new(); ways.len()];
    for _ in 0..ROUNDS {
        for ((_, way), times) in ways.iter().zip(&mut times) {
            times.push(way().as_secs_f64());
        }
    }
    let mut out = io::stdout().lock();
    let mut failed = false;
    for (index, (name, _)) in ways.iter().enumerate() {
        let mut ratios: Vec<_> = times[0]
            .iter()
            .zip(&times[index])
            .map(|(a, b)| a / b)
            .collect();
        ratios.sort_by(f64::total_cmp);
        let mut seconds = times[index].clone();
        seconds.sort_by(f64::total_cmp);
        let speed = f64::from(MIB) / seconds[ROUNDS / 2];
        let ratio = ratios[ROUNDS / 2];
        writeln!(
            out,
            "{name:<24} {speed:>6.0} MiB/s of processor time, {ratio:.2} of the age crate's speed"
        )
        .expect("standard output");
        failed |= name.starts_with("sealed") && ratio < LEAST;
    }
    assert!(!failed, "less than {LEAST} of the age crate's speed");
}

/// The processor time that this process takes for something.
fn own(work: impl Fn()) -> Duration {
    let before = spent(UsageWho::RUSAGE_SELF);
    work();
    spent(UsageWho::RUSAGE_SELF).saturating_sub(before)
}

fn rage_e(path: &Path, recipient: &str) -> Duration {
    let before = spent(UsageWho::RUSAGE_CHILDREN);
    let status = Command::new("rage")
        .args(["-e", "-r", recipient])
        .arg(path)
        .stdout(Stdio::null())
        .status();
    assert!(status.is_ok_and(|status| status.success()), "rage");
    spent(UsageWho::RUSAGE_CHILDREN).saturating_sub(before)
}

fn spent(who: UsageWho) -> Duration {
    let usage: Usage = getrusage(who).expect("counted by the kernel");
    let time = |time: nix::sys::time::TimeVal| {
        let micros = time.tv_sec() * 1_000_000 + time.tv_usec();
        Duration::from_micros(u64::try_from(micros).expect("not negative"))
    };
    time(usage.user_time()) + time(usage.system_time())
}
