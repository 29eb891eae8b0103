//! A tree as a tar, against GNU tar: the same bytes, and it lists and unpacks them.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use gitlab_pi_backup::source::Source;
use gitlab_pi_backup::source::tree::Tree;

/// A small generator: the same numbers each time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn bytes(&mut self, len: u64) -> Vec<u8> {
        (0..len).map(|_| self.below(256).to_le_bytes()[0]).collect()
    }
}

/// A name that is awkward in one way or another.
fn name(random: &mut Random, number: u64) -> OsString {
    let mut name = number.to_string().into_bytes();
    match random.below(8) {
        0 => name.extend(b" with blanks "),
        1 => name.extend(b"\nand a second line"),
        2 => name.extend(b"\xff\xfe\xc0"),
        3 => name.resize(255, b'n'),
        4 => name.extend("\u{fc}ber.\u{1f98a}".as_bytes()),
        5 => name.insert(0, b'-'),
        6 => name.resize(usize::try_from(90 + random.below(20)).expect("small"), b'm'),
        _ => name.extend(b".git"),
    }
    OsStr::from_bytes(&name).to_owned()
}

fn fill(folder: &Path, random: &mut Random, depth: u64) {
    for number in 0..2 + random.below(5) {
        let path = folder.join(name(random, number));
        match random.below(6) {
            0 | 1 if depth < 5 => {
                fs::create_dir(&path).expect("a folder");
                fill(&path, random, depth + 1);
            }
            2 => {
                let mut target = b"../target".to_vec();
                target.resize(usize::try_from(random.below(140) + 1).expect("small"), b't');
                symlink(OsStr::from_bytes(&target), &path).expect("a link");
                continue;
            }
            3 => File::create(&path).map(drop).expect("an empty file"),
            _ => {
                let len = [1, 511, 512, 513, 70_000][usize::try_from(random.below(5)).expect("5")];
                fs::write(&path, random.bytes(len)).expect("a file");
            }
        }
        let mode = [0o600, 0o644, 0o755, 0o4755][usize::try_from(random.below(4)).expect("4")];
        let mode = if path.is_dir() { mode | 0o700 } else { mode };
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("a mode");
        let time = Duration::from_millis(random.below(1_700_000_000_000));
        let time = match random.below(10) {
            0 => SystemTime::UNIX_EPOCH - time,
            _ => SystemTime::UNIX_EPOCH + time,
        };
        let file = File::open(&path).expect("open");
        file.set_modified(time).expect("a time");
    }
}

fn members(folder: &Path) -> Vec<OsString> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<_> = entries.map(|e| e.expect("an entry").file_name()).collect();
    names.sort();
    names
}

/// All bytes, in pieces of a length that fits nothing.
fn read(tree: &Tree, piece: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buf = vec![0; piece];
    loop {
        let len = tree
            .read_at(all.len() as u64, &mut buf)
            .expect("it can be read");
        all.extend_from_slice(&buf[..len]);
        if len < piece {
            return all;
        }
    }
}

fn gnu_tar(folder: &Path, members: &[OsString]) -> Vec<u8> {
    let made = Command::new("tar")
        .args([
            "--format=gnu",
            "--numeric-owner",
            "--sort=name",
            "--hard-dereference",
        ])
        .args(["-cf", "-", "-C"])
        .arg(folder)
        .arg("--")
        .args(members)
        .env("LC_ALL", "C")
        .output()
        .expect("GNU tar");
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    made.stdout
}

fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    let differs = a.iter().zip(b).position(|(a, b)| a != b);
    differs.or_else(|| (a.len() != b.len()).then(|| a.len().min(b.len())))
}

#[test]
fn it_is_what_gnu_tar_would_write() {
    for seed in 1..=25 {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ seed);
        fill(dir.path(), &mut random, 0);
        let members = members(dir.path());
        let tree = Tree::open(dir.path(), &members).expect("a tree");
        let ours = read(&tree, 65_536);
        assert_eq!(ours.len() as u64, tree.len());
        let theirs = gnu_tar(dir.path(), &members);
        assert_eq!(first_difference(&ours, &theirs), None, "seed {seed}");
        assert_eq!(first_difference(&ours, &read(&tree, 4_099)), None);
        let again = Tree::open(dir.path(), &members).expect("a tree");
        assert_eq!(
            again.fingerprint().expect("fingerprint"),
            tree.fingerprint().expect("fingerprint")
        );
        assert_eq!(first_difference(&ours, &read(&again, 1 << 20)), None);
        // Anywhere, by any length.
        for _ in 0..200 {
            let from = random.below(ours.len() as u64 + 600);
            let mut buf = vec![7; usize::try_from(random.below(3_000)).expect("small")];
            let len = tree.read_at(from, &mut buf).expect("it can be read");
            let start = usize::try_from(from).expect("small").min(ours.len());
            let expected = &ours[start..ours.len().min(start + buf.len())];
            assert_eq!(&buf[..len], expected);
            buf.fill(7);
            let ready = tree.read_ready(from, &mut buf);
            assert_eq!(&buf[..ready], &expected[..ready]);
        }
        tree.release(0..tree.len());
    }
}

#[test]
fn gnu_tar_unpacks_the_same_files() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let from = dir.path().join("from");
    fs::create_dir(&from).expect("a folder");
    fill(&from, &mut Random(42), 0);
    let tree = Tree::open(&from, &members(&from)).expect("a tree");
    let to = dir.path().join("to");
    fs::create_dir(&to).expect("a folder");
    let mut tar = Command::new("tar")
        .args(["--warning=no-timestamp", "-xpf", "-", "-C"])
        .arg(&to)
        .stdin(Stdio::piped())
        .spawn()
        .expect("GNU tar");
    let mut stdin = tar.stdin.take().expect("its input");
    stdin.write_all(&read(&tree, 65_536)).expect("written");
    drop(stdin);
    assert!(tar.wait().expect("an end").success());
    let differences = Command::new("diff")
        .args(["--recursive", "--no-dereference"])
        .args([&from, &to])
        .output()
        .expect("diff");
    let out = String::from_utf8_lossy(&differences.stdout).into_owned();
    assert!(differences.status.success(), "{out}");
    let again = Tree::open(&to, &members(&to)).expect("a tree");
    assert_eq!(
        first_difference(&read(&tree, 65_536), &read(&again, 65_536)),
        None
    );
}

#[test]
fn paths_of_any_length_and_depth() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    // Longer than any path that a system call takes: built from the inside.
    let part = "d".repeat(200);
    let mut inner = dir.path().join("1");
    fs::create_dir(&inner).expect("a folder");
    fs::write(inner.join("file"), b"deep down").expect("a file");
    for _ in 0..30 {
        let outer = dir.path().join("2");
        fs::create_dir(&outer).expect("a folder");
        fs::rename(&inner, outer.join(&part)).expect("renamed");
        fs::rename(&outer, &inner).expect("renamed");
        inner = dir.path().join("1");
    }
    let members = members(dir.path());
    let tree = Tree::open(dir.path(), &members).expect("a tree");
    let ours = read(&tree, 65_536);
    let theirs = gnu_tar(dir.path(), &members);
    assert_eq!(first_difference(&ours, &theirs), None);
    let fingerprint = tree.fingerprint().expect("fingerprint");
    assert!(tree.is_still(&fingerprint).expect("still"));
}

#[test]
fn beyond_eight_gibibytes_and_full_of_holes() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let len = (8 << 30) + 12_345;
    let mut file = File::create(dir.path().join("large")).expect("a file");
    file.set_len(len).expect("a hole");
    file.seek(SeekFrom::Start(len - 3)).expect("its end");
    file.write_all(b"end").expect("written");
    fs::write(dir.path().join("small"), b"behind it").expect("a file");
    let tree = Tree::open(dir.path(), &members(dir.path())).expect("a tree");
    // GNU tar's first blocks and last blocks; the hole between is too long to compare in a test.
    let mut theirs = Command::new("tar")
        .args(["--format=gnu", "--numeric-owner", "-cf", "-", "-C"])
        .arg(dir.path())
        .args(["large", "small"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("GNU tar");
    let mut start = vec![0; 4096];
    let mut out = theirs.stdout.take().expect("its output");
    out.read_exact(&mut start).expect("the first blocks");
    drop(out);
    theirs.kill().expect("ended");
    theirs.wait().expect("its end");
    let mut buf = vec![1; 4096];
    assert_eq!(tree.read_at(0, &mut buf).expect("read"), 4096);
    assert_eq!(first_difference(&buf, &start), None);
    let body_end = 512 + len;
    let mut buf = vec![1; 2048];
    tree.read_at(body_end - 3, &mut buf).expect("read");
    assert_eq!(&buf[..3], b"end");
    let small = usize::try_from(body_end.next_multiple_of(512) - body_end + 3).expect("small");
    assert_eq!(&buf[small..small + 5], b"small");
    assert_eq!(&buf[small + 512..small + 521], b"behind it");
}

/// Anonymous memory of this process, in bytes.
fn memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("what the kernel counts");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.expect("a number") * 1024
}

#[test]
#[ignore = "makes 100,000 files; alone: cargo test --test tree -- --ignored --test-threads 1"]
fn a_hundred_thousand_files_take_sixteen_mebibytes() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for number in 0..25_000_u64 {
        let hash = format!("{:064x}", u128::from(number) * 0x9e37_79b9_7f4a_7c15_f39c);
        let name = format!(
            "@hashed/{:02x}/{hash}.git/1702758583_2023_12_16_17.8.2",
            number % 256
        );
        let folder = dir.path().join("repositories").join(name);
        fs::create_dir_all(&folder).expect("a folder");
        for file in ["001.bundle", "001.refs"] {
            fs::write(folder.join(file), file).expect("a file");
        }
    }
    let before = memory();
    let begun = std::time::Instant::now();
    let tree = Tree::open(dir.path(), &["repositories".into()]).expect("a tree");
    let opened = begun.elapsed();
    let taken = memory().saturating_sub(before);
    let begun = std::time::Instant::now();
    tree.fingerprint().expect("fingerprint");
    let looked = begun.elapsed();
    let _ = writeln!(
        std::io::stderr(),
        "{} members: {taken} bytes, opened in {opened:?}, looked at again in {looked:?}",
        tree.members()
    );
    assert!(tree.members() > 100_000);
    assert!(taken <= 16 << 20, "{taken} bytes");
}

#[test]
fn sockets_and_pipes_are_left_out_and_told() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir(dir.path().join("db")).expect("a folder");
    let _socket = UnixListener::bind(dir.path().join("db/socket")).expect("a socket");
    fs::write(dir.path().join("db/file"), b"x").expect("a file");
    let made = Command::new("mkfifo")
        .arg(dir.path().join("db/pi\npe"))
        .status();
    assert!(made.expect("mkfifo").success());
    let tree = Tree::open(dir.path(), &members(dir.path())).expect("a tree");
    assert_eq!(tree.members(), 2);
    let told = tree.left_out();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told[0].starts_with("db/pi\u{fffd}pe is neither"),
        "{told:?}"
    );
    assert!(told[1].starts_with("db/socket is neither"), "{told:?}");
    // They are part of nothing, so nothing changes with them but their folder.
    let before = tree.fingerprint().expect("fingerprint");
    fs::remove_file(dir.path().join("db/socket")).expect("removed");
    assert_ne!(Some(before), tree.fingerprint().ok());
}

#[test]
fn links_lead_nowhere_and_a_file_of_two_names_is_stored_twice() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    fs::write(dir.path().join("a"), b"x").expect("a file");
    fs::hard_link(dir.path().join("a"), dir.path().join("b")).expect("another name");
    symlink("/etc", dir.path().join("c")).expect("a link");
    let tree = Tree::open(dir.path(), &members(dir.path())).expect("a tree");
    assert_eq!(tree.members(), 3);
    let ours = read(&tree, 65_536);
    assert_eq!(
        first_difference(&ours, &gnu_tar(dir.path(), &members(dir.path()))),
        None
    );
}
