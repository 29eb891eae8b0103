//! Parts that are sent as a tar that is never written, beside the ready tar of the same bytes.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::Command;

use gitlab_pi_backup::content_hash::hash_source;
use gitlab_pi_backup::source::Source as _;
use gitlab_pi_backup::source::tree::Tree;
use tempfile::TempDir;

use crate::archive::{Archive, Ballast, NAME};
use crate::clients::{Client, OURS};
use crate::dropbox::Options;
use crate::host::{Host, fill_tar};
use crate::measure::{self, Usage, median};
use crate::server::{APP_SECRET, Address, Server};
use crate::tables::{self, Bars, MIB, float, mib};

/// What the bars are for, in bytes.
const SIZE: u64 = 4 << 30;
/// Each is sent so often, in turn.
const ROUNDS: usize = 3;
/// Repositories of three files each.
const REPOSITORIES: usize = 500;
/// The members, in GitLab's order.
const MEMBERS: [&str; 4] = [
    "backup_information.yml",
    "db",
    "repositories",
    "uploads.tar.gz",
];

/// Streams parts, and sends their tar, alternately.
pub fn stream(_: &[Client], bars: &mut Bars) {
    let parts = make_parts(SIZE);
    let (tar, hash) = pack(parts.path());
    let size = fs::metadata(tar.path().join(NAME)).expect("the tar").len();
    let archive = Archive::ready(tar, size, hash);
    let mut streamed = Vec::new();
    let mut ready = Vec::new();
    for _ in 0..ROUNDS {
        let server = Server::start(&archive, &[]);
        // Whoever was sent last has been thrown out of the page cache.
        archive.warm();
        ready.push(send(archive.folder(), &server.address, false));
        drop(server);
        let server = Server::start(&archive, &[]);
        // What was sent is removed: the names of the round, not the files.
        let round = tempfile::tempdir().expect("a temporary folder");
        let linked = Command::new("cp")
            .args(["-al", "-t"])
            .arg(round.path())
            .args(MEMBERS.map(|member| parts.path().join(member)))
            .status();
        assert!(linked.expect("cp").success());
        warm(parts.path());
        streamed.push(send(round.path(), &server.address, true));
        let left = fs::read_dir(round.path()).expect("a folder").count();
        assert_eq!(left, 0, "the parts were not removed");
    }
    let row = |what: &str, usages: &[Usage]| {
        let wall = median(usages.iter().map(|usage| usage.wall.as_secs_f64()));
        let cpu = median(usages.iter().map(|usage| usage.cpu.as_secs_f64()));
        let memory = usages.iter().map(|usage| usage.peak_rss).max();
        let written = usages.iter().map(|usage| usage.written).max();
        (
            vec![
                what.to_owned(),
                format!("{wall:.2}"),
                format!("{:.1}", cpu / (float(size) / MIB / 1024.0)),
                mib(memory.unwrap_or(0)),
                mib(written.unwrap_or(0)),
            ],
            wall,
            memory,
            written,
        )
    };
    let (ready_row, ready_wall, ..) = row("the ready tar", &ready);
    let (row, wall, memory, written) = row("its parts, streamed", &streamed);
    tables::print(
        &format!("{} MiB, {} files", mib(size), 3 * REPOSITORIES + 3),
        &[
            "what is sent",
            "wall s",
            "CPU s/GiB",
            "peak MiB",
            "written MiB",
        ],
        &[ready_row, row],
    );
    let of = |bytes: Option<u64>| bytes.map(|bytes| float(bytes) / MIB);
    bars.at_least(
        "speed of streaming, against a ready tar",
        "",
        0.8,
        Some(ready_wall / wall),
    );
    bars.at_most(
        "written to the local disk while streaming",
        " MiB",
        1.0,
        of(written),
    );
    bars.at_most("memory while streaming", " MiB", 32.0, of(memory));
}

/// Brings all of them into the page cache.
fn warm(parts: &Path) {
    let tree = Tree::open(parts, &MEMBERS.map(Into::into)).expect("a tree");
    let mut buf = vec![0; 1 << 20];
    let mut offset = 0;
    while offset < tree.len() {
        offset += tree.read_at(offset, &mut buf).expect("its bytes") as u64;
    }
}

/// The parts of a backup, of `size` bytes together, more or less.
fn make_parts(size: u64) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("db")).expect("a folder");
    let mut dump = b"--\n-- PostgreSQL database dump\n--\n".to_vec();
    dump.resize(64 << 20, b'\n');
    fs::write(path("db/database.sql.gz"), dump).expect("a dump");
    let bundle = vec![b'b'; 64 << 10];
    for number in 0..REPOSITORIES {
        let name = format!(
            "repositories/@hashed/{:02x}/{number:064x}.git",
            number % 256
        );
        fs::create_dir_all(path(&name)).expect("a folder");
        for (file, bytes) in [
            ("001.bundle", &bundle[..]),
            ("001.refs", b"refs\n"),
            ("+latest.toml", b"empty = false\n"),
        ] {
            fs::write(path(&name).join(file), bytes).expect("a file");
        }
    }
    fill_tar(
        &path("uploads.tar.gz"),
        size - (96 << 20),
        &[],
        Ballast::Noise,
    )
    .expect("uploads");
    let information = ":db_version: '20231130000000'\n\
        :backup_created_at: 2023-12-16 20:29:43.000000000 Z\n\
        :gitlab_version: 16.5.1\n\
        :tar_version: tar (GNU tar) 1.34\n\
        :installation_type: omnibus-gitlab\n\
        :skipped: tar\n\
        :backup_id: 1702758583_2023_12_16_16.5.1\n";
    fs::write(path("backup_information.yml"), information).expect("the information");
    folder
}

/// Their tar in a folder of its own, and its content hash.
fn pack(parts: &Path) -> (TempDir, gitlab_pi_backup::content_hash::Digest) {
    let tree = Tree::open(parts, &MEMBERS.map(Into::into)).expect("a tree");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut out = BufWriter::new(File::create(folder.path().join(NAME)).expect("a file"));
    let mut buf = vec![0; 1 << 20];
    let mut offset = 0;
    loop {
        let len = tree.read_at(offset, &mut buf).expect("its bytes");
        if len == 0 {
            break;
        }
        out.write_all(&buf[..len]).expect("written");
        offset += len as u64;
    }
    out.flush().expect("written");
    // Nothing of it is written while others are measured.
    out.get_ref().sync_all().expect("on the disk");
    (folder, hash_source(&tree).expect("its hash"))
}

fn send(data_dir: &Path, address: &Address, stream: bool) -> Usage {
    let host = Host::without_config(OURS);
    let Options {
        app_key,
        refresh_token,
        ..
    } = Options::default();
    host.write_config(&format!(
        "state_dir = \"{}\"\n\
         [gitlab]\n\
         data_dir = \"{}\"\n\
         stream = {stream}\n\
         [destinations.dropbox]\n\
         type = \"dropbox\"\n\
         app_key = \"{app_key}\"\n\
         app_secret = \"{APP_SECRET}\"\n\
         refresh_token = \"{refresh_token}\"\n",
        host.path("state").display(),
        data_dir.display(),
    ));
    let mut command = measure::wrapped(OURS);
    command
        .args(["run", "--skip-create", "--only", "data"])
        .env("GITLAB_PI_BACKUP_CONFIG", host.path("config.toml"))
        .env("HOME", host.root())
        .env("HTTPS_PROXY", &address.proxy)
        .env("SSL_CERT_FILE", &address.ca_file);
    measure::run(command)
}
