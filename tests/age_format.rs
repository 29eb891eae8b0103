//! age's format, both ways: the specification's own test files, what the `age` crate and the program `age` wrote
//! and read, and damage of every kind.
//!
//! `tests/age/testkit` holds the test files of <https://github.com/C2SP/CCTV/tree/main/age> (those without armor,
//! which no archive is in); what each of them should lead to stands in it.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::iter;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use gitlab_pi_backup::content_hash::Digest;
use gitlab_pi_backup::seal::{
    CHUNK_LEN, Identities, LONGEST_HEADER, OpenFailure, Opening, Recipients, SEALED_CHUNK_LEN,
    Sealing,
};
use gitlab_pi_backup::source::Source as _;
use gitlab_pi_backup::source::memory::MemorySource;
use gitlab_pi_backup::source::read_exact_at;
use gitlab_pi_backup::source::sealed::{Hashing, Sealed};
use secrecy::{ExposeSecret as _, SecretString};

const SIZES: [usize; 7] = [
    0,
    1,
    CHUNK_LEN - 1,
    CHUNK_LEN,
    CHUNK_LEN + 1,
    2 * CHUNK_LEN,
    (3 << 20) + 77,
];

/// What a file of the kit leads to.
#[derive(Debug, PartialEq)]
enum Outcome {
    Plain(Vec<u8>),
    Header(OpenFailure),
    Payload,
}

/// Reads a whole stored file as the program does: the header, then chunk after chunk.
fn open(stored: &[u8], identities: &Identities) -> Outcome {
    let begin = &stored[..stored.len().min(LONGEST_HEADER)];
    let opening = match Opening::new(begin, identities) {
        Ok(opening) => opening,
        Err(failure) => return Outcome::Header(failure),
    };
    let Some(plain_len) = opening.plain_len(stored.len() as u64) else {
        return Outcome::Payload;
    };
    let chunks = Opening::chunks(plain_len);
    let mut plain = Vec::new();
    for number in 0..chunks {
        let start = usize::try_from(opening.chunk_start(number)).expect("small");
        let mut chunk = stored[start..stored.len().min(start + SEALED_CHUNK_LEN)].to_vec();
        match opening.open_chunk(number, number + 1 == chunks, &mut chunk) {
            Some(opened) => plain.extend_from_slice(opened),
            None => return Outcome::Payload,
        }
    }
    Outcome::Plain(plain)
}

fn seal(plain: &[u8], recipients: &Recipients) -> Vec<u8> {
    let sealing = Arc::new(Sealing::new(recipients).expect("a header"));
    let source = Sealed::new(
        Arc::new(MemorySource::new(plain.to_vec())),
        sealing,
        Hashing::None,
    );
    let mut stored = vec![0; usize::try_from(source.len()).expect("small")];
    read_exact_at(&source, 0, &mut stored).expect("memory can be read");
    stored
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..len).map(next).collect()
}

fn never() -> Result<SecretString, String> {
    Err("nobody is to be asked".to_owned())
}

/// A pair of keys: the public one, and the private one as text.
fn pair() -> (Recipients, String) {
    let identity = age::x25519::Identity::generate();
    let recipients = Recipients::parse([identity.to_public().to_string().as_str()]);
    let private = identity.to_string().expose_secret().to_owned();
    (recipients.expect("a public key"), private)
}

fn identities(text: &str) -> Identities {
    Identities::parse(text.as_bytes(), never).expect("an identity file")
}

#[test]
fn the_test_files_of_the_specification_lead_where_they_should() {
    let kit = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/age/testkit");
    let (_, other) = pair();
    let mut seen = 0;
    for entry in fs::read_dir(kit).expect("the kit") {
        let path = entry.expect("a file").path();
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let bytes = fs::read(&path).expect("readable");
        let split = bytes
            .windows(2)
            .position(|two| two == b"\n\n")
            .expect("a blank line");
        let (about, stored) = (&bytes[..split], &bytes[split + 2..]);
        let about = String::from_utf8(about.to_vec()).expect("text");
        let all = |key: &str| -> Vec<String> {
            let lines = about.lines().filter_map(|line| line.split_once(": "));
            let of_key = lines.filter(|(known, _)| *known == key);
            of_key.map(|(_, value)| value.to_owned()).collect()
        };
        let stored = if all("compressed").is_empty() {
            stored.to_vec()
        } else {
            let mut plain = Vec::new();
            let mut decoder = flate2::read::ZlibDecoder::new(stored);
            decoder.read_to_end(&mut plain).expect("compressed");
            plain
        };
        let mut keys = all("identity");
        if keys.is_empty() {
            keys.push(other.clone());
        }
        let outcome = open(&stored, &identities(&keys.join("\n")));
        let is_header = matches!(
            &outcome,
            Outcome::Header(OpenFailure::Damaged | OpenFailure::NotAge | OpenFailure::Incomplete)
        );
        let is_no_match = matches!(&outcome, Outcome::Header(OpenFailure::NoMatch(_)));
        let expected = all("expect").concat();
        // Archives are never encrypted by a passphrase: such a file belongs to nobody we know.
        let right = match expected.as_str() {
            // The age crate still reads what early versions of `rage` wrote, whose last line could be missing.
            "header failure"
                if ["stanza_missing_body", "stanza_missing_final_line"]
                    .contains(&name.as_str()) =>
            {
                true
            }
            "success" | "no match" if !all("passphrase").is_empty() => is_no_match,
            "header failure" if !all("passphrase").is_empty() => is_no_match || is_header,
            "success" => {
                let hash = all("payload").concat();
                matches!(&outcome, Outcome::Plain(plain) if Digest::of(plain).to_string() == hash)
            }
            "no match" => is_no_match,
            "header failure" | "HMAC failure" => is_header,
            "payload failure" => outcome == Outcome::Payload,
            other => panic!("{name}: an unknown expectation, {other}"),
        };
        assert!(right, "{name}: {expected}, but {outcome:.200?}");
        seen += 1;
    }
    assert!(seen > 90, "{seen} files");
}

#[test]
fn the_age_crate_reads_what_we_write_and_we_read_what_it_writes() {
    let (recipients, private) = pair();
    let public: age::x25519::Recipient = recipients.public_keys()[0].parse().expect("a key");
    let identity: age::x25519::Identity = private.parse().expect("a key");
    for size in SIZES {
        let plain = noise(size);
        let stored = seal(&plain, &recipients);
        let read = age::decrypt(&identity, &stored).expect("decrypted");
        assert!(read == plain, "{size}");
        let stored = age::encrypt(&public, &plain).expect("encrypted");
        assert!(
            open(&stored, &identities(&private)) == Outcome::Plain(plain),
            "{size}"
        );
    }
}

/// A sealing that went through a journal makes the same bytes; a damaged one is refused.
#[test]
fn a_sealing_comes_back_from_a_journal() {
    let (recipients, _) = pair();
    let sealing = Sealing::new(&recipients).expect("a header");
    let text = sealing.to_journal();
    let back = Sealing::from_journal(text.expose_secret()).expect("read back");
    assert_eq!(
        (back.id(), back.recipients()),
        (sealing.id(), recipients.public_keys())
    );
    let bytes = |sealing: Sealing| {
        let inner = Arc::new(MemorySource::new(noise(200_000)));
        let source = Sealed::new(inner, Arc::new(sealing), Hashing::None);
        let mut all = vec![0; usize::try_from(source.len()).expect("small")];
        read_exact_at(&source, 0, &mut all).expect("read");
        all
    };
    let key: serde_json::Value = serde_json::from_str(text.expose_secret()).expect("JSON");
    let key = key["file_key"].as_str().expect("a key").to_owned();
    assert!(!format!("{sealing:?}").contains(&key));
    assert!(bytes(sealing) == bytes(back));
    let other = Sealing::new(&recipients).expect("a header").to_journal();
    let other: serde_json::Value = serde_json::from_str(other.expose_secret()).expect("JSON");
    for (field, value) in [
        ("file_key", other["file_key"].as_str().expect("a key")),
        ("header", other["header"].as_str().expect("a header")),
        ("file_key", "AAAA"),
        ("header", "AAAA"),
        ("header", "?"),
    ] {
        let mut changed: serde_json::Value =
            serde_json::from_str(text.expose_secret()).expect("JSON");
        changed[field] = value.into();
        let error = Sealing::from_journal(&changed.to_string()).expect_err(field);
        assert!(!error.contains(&key), "{error}");
    }
    assert!(Sealing::from_journal("{").is_err());
}

#[test]
fn whatever_is_damaged_is_refused() {
    let (recipients, private) = pair();
    let keys = identities(&private);
    for size in [3 * CHUNK_LEN, 3 * CHUNK_LEN + 100] {
        let plain = noise(size);
        let stored = seal(&plain, &recipients);
        let refused = |stored: &[u8], what: &str| {
            let outcome = open(stored, &keys);
            assert!(!matches!(outcome, Outcome::Plain(_)), "{size}: {what}");
            let by_age = age::decrypt(
                &private.parse::<age::x25519::Identity>().expect("a key"),
                stored,
            );
            assert!(by_age.is_err(), "{size}: {what}: the age crate takes it");
        };
        assert!(open(&stored, &keys) == Outcome::Plain(plain.clone()));
        let header = stored.len() - size - 16 * size.div_ceil(CHUNK_LEN);
        let chunks: Vec<&[u8]> = stored[header..].chunks(SEALED_CHUNK_LEN).collect();
        let join = |chunks: &[&[u8]]| [&stored[..header], &chunks.concat()].concat();
        for number in 0..chunks.len() {
            for at in [0, 1, 1000, chunks[number].len() - 1] {
                let mut flipped = stored.clone();
                let at = header + number * SEALED_CHUNK_LEN + at.min(chunks[number].len() - 1);
                flipped[at] ^= 1;
                refused(&flipped, &format!("byte {at} flipped"));
            }
            let mut dropped = chunks.clone();
            dropped.remove(number);
            refused(&join(&dropped), &format!("chunk {number} dropped"));
            for to in 0..=chunks.len() {
                let mut doubled = chunks.clone();
                doubled.insert(to, chunks[number]);
                refused(
                    &join(&doubled),
                    &format!("chunk {number} once more at {to}"),
                );
            }
            for other in 0..number {
                let mut swapped = chunks.clone();
                swapped.swap(number, other);
                refused(
                    &join(&swapped),
                    &format!("chunks {number} and {other} swapped"),
                );
            }
            for short in [0, 1, 15, 16, 17] {
                let end = header + number * SEALED_CHUNK_LEN + short;
                refused(&stored[..end], &format!("cut at {end}"));
            }
        }
        refused(&stored[..stored.len() - 1], "cut by a byte");
        refused(&[&stored[..], b"x"].concat(), "a byte more");
        refused(&[&stored[..], &[0; 16]].concat(), "an empty chunk more");
        for at in 0..header {
            let mut flipped = stored.clone();
            flipped[at] ^= 1;
            // Under the MAC, or the nonce itself: no bit of it may change.
            assert!(
                !matches!(open(&flipped, &keys), Outcome::Plain(_)),
                "header byte {at}"
            );
            let failure = Opening::new(&stored[..at], &keys).err();
            assert_eq!(failure, Some(OpenFailure::Incomplete), "{at} bytes");
        }
    }
}

#[test]
fn errors_tell_what_is_wrong_with_it() {
    let (recipients, private) = pair();
    let (_, other) = pair();
    let stored = seal(b"hello", &recipients);
    assert_eq!(
        Opening::new(&stored, &identities(&other)).err(),
        Some(OpenFailure::NoMatch(vec!["X25519".to_owned()]))
    );
    let tar = Opening::new(b"etc/gitlab/\0\0\0\0", &identities(&private)).err();
    assert_eq!(tar, Some(OpenFailure::NotAge));
    assert_eq!(
        Opening::new(b"", &identities(&private)).err(),
        Some(OpenFailure::Incomplete)
    );
    // Both keys in one file: one of them matches.
    assert!(
        Opening::new(
            &stored,
            &identities(&format!("# old\n{other}\n# new\n{private}\n"))
        )
        .is_ok()
    );
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().expect("temporary folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).expect("readable")
    }
}

/// Runs a program; none if it is not here, which is told.
fn call(program: &str, arguments: &[&std::ffi::OsStr]) -> Option<()> {
    let Ok(output) = Command::new(program).args(arguments).output() else {
        let told = writeln!(io::stderr(), "skipped: there is no `{program}` here");
        told.expect("standard error");
        return None;
    };
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {err}");
    Some(())
}

macro_rules! call {
    ($program:expr $(, $argument:expr)*) => {
        call($program, &[$(AsRef::<std::ffi::OsStr>::as_ref(&$argument)),*])
    };
}

#[test]
fn the_program_age_reads_what_we_write_and_we_read_what_it_writes() {
    let place = Place::new();
    for kind in ["age", "ssh-ed25519", "ssh-rsa"] {
        let (private, public) = (place.path(kind), place.path(&format!("{kind}.pub")));
        let made = if kind == "age" {
            call!("age-keygen", "-o", private)
                .and_then(|()| call!("age-keygen", "-y", "-o", public, private))
        } else {
            let kind = kind.trim_start_matches("ssh-");
            call!(
                "ssh-keygen",
                "-q",
                "-t",
                kind,
                "-N",
                "",
                "-C",
                "alice@pi",
                "-f",
                private
            )
        };
        if made.is_none() {
            return;
        }
        let recipients =
            Recipients::parse([place.text(&format!("{kind}.pub")).as_str()]).expect(kind);
        let keys = Identities::read(&private, never).expect(kind);
        for size in SIZES {
            let plain = noise(size);
            let (ours, theirs) = (place.path("ours.age"), place.path("theirs.age"));
            let (read, source) = (place.path("read"), place.path("plain"));
            fs::write(&ours, seal(&plain, &recipients)).expect("written");
            if call!("age", "-d", "-i", private, "-o", read, ours).is_none() {
                return;
            }
            // Of nothing `age` makes no file.
            let decrypted = fs::read(&read).unwrap_or_default();
            let _ = fs::remove_file(&read);
            assert!(decrypted == plain, "{kind}: {size}");
            fs::write(&source, &plain).expect("written");
            call!("age", "-R", public, "-o", theirs, source).expect("age is here");
            let stored = fs::read(&theirs).expect("encrypted");
            assert!(
                open(&stored, &keys) == Outcome::Plain(plain),
                "{kind}: {size}"
            );
        }
    }
}

#[test]
fn every_recipient_can_read_it() {
    let keys: Vec<_> = (0..3).map(|_| pair()).collect();
    let public: Vec<_> = keys
        .iter()
        .map(|(recipients, _)| recipients.public_keys()[0].clone())
        .collect();
    let all = Recipients::parse(public.iter().map(String::as_str)).expect("keys");
    let stored = seal(b"hello", &all);
    for (_, private) in &keys {
        assert_eq!(
            open(&stored, &identities(private)),
            Outcome::Plain(b"hello".to_vec())
        );
    }
}

#[test]
fn identity_files_with_a_passphrase() {
    let (recipients, private) = pair();
    let stored = seal(b"hello", &recipients);
    let ask = |passphrase: &str| {
        let passphrase = passphrase.to_owned();
        move || Ok(SecretString::from(passphrase))
    };
    let mut recipient = age::scrypt::Recipient::new("right".into());
    recipient.set_work_factor(10);
    for armored in [false, true] {
        let mut file = Vec::new();
        let format = if armored {
            age::armor::Format::AsciiArmor
        } else {
            age::armor::Format::Binary
        };
        let output = age::armor::ArmoredWriter::wrap_output(&mut file, format).expect("armor");
        let encryptor =
            age::Encryptor::with_recipients(iter::once(&recipient as _)).expect("a header");
        let mut writer = encryptor.wrap_output(output).expect("a header");
        writer
            .write_all(format!("# ours\n{private}\n").as_bytes())
            .expect("written");
        writer
            .finish()
            .and_then(age::armor::ArmoredWriter::finish)
            .expect("written");
        let keys = Identities::parse(&file, ask("right")).expect("the right passphrase");
        assert_eq!(open(&stored, &keys), Outcome::Plain(b"hello".to_vec()));
        let error = Identities::parse(&file, ask("wrong"))
            .err()
            .expect("refused");
        assert!(error.contains("the passphrase is wrong"), "{error}");
        let error = Identities::parse(&file, never).err().expect("refused");
        assert!(error.contains("nobody"), "{error}");
        let error = Identities::parse(&file[..file.len() / 2], ask("right"))
            .err()
            .expect("refused");
        assert!(error.contains("damaged"), "{error}");
    }

    let place = Place::new();
    let key = place.path("key");
    if call!(
        "ssh-keygen",
        "-q",
        "-t",
        "ed25519",
        "-N",
        "right",
        "-C",
        "",
        "-f",
        key
    )
    .is_none()
    {
        return;
    }
    let recipients = Recipients::parse([place.text("key.pub").as_str()]).expect("a key");
    let stored = seal(b"hello", &recipients);
    let keys = Identities::read(&key, ask("right")).expect("the right passphrase");
    assert_eq!(open(&stored, &keys), Outcome::Plain(b"hello".to_vec()));
    let error = Identities::read(&key, ask("wrong")).err().expect("refused");
    assert!(error.contains("the passphrase is wrong"), "{error}");
}

#[test]
fn what_is_no_identity_file_is_told_and_not_repeated() {
    let (recipients, private) = pair();
    let error = |bytes: &[u8]| Identities::parse(bytes, never).err().expect("refused");
    assert!(error(recipients.public_keys()[0].as_bytes()).contains("a public key"));
    assert!(error(b"").contains("no key"));
    assert!(error(b"# only a comment\n").contains("no key"));
    for text in [
        private[..40].to_owned(),
        "-----BEGIN OPENSSH PRIVATE KEY-----\nabcdef\n".to_owned(),
    ] {
        let error = error(text.as_bytes());
        assert!(
            error.contains("none") || error.contains("no private key"),
            "{error}"
        );
        assert!(
            !error.contains(&private[16..30]) && !error.contains("abcdef"),
            "{error}"
        );
    }
    assert!(error(&seal(private.as_bytes(), &recipients)).contains("not by a passphrase"));
    let place = Place::new();
    let error = Identities::read(&place.path("none"), never)
        .err()
        .expect("refused");
    assert!(
        error.contains("none") && error.contains("--identity"),
        "{error}"
    );
}
