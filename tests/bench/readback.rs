//! What it takes to read a backup again: rehearsing and restoring.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use crate::backup::{RealBackup, gzip, repack};
use crate::clients::{Client, OURS};
use crate::dropbox::Options;
use crate::host::{Host, TAR_END, tar_header};
use crate::measure::{self, Usage, median};
use crate::server::{APP_SECRET, Address, Server};
use crate::tables::{self, Bars, MIB, float, mib};

/// The stamp of the backup.
const STAMP: u64 = 1_702_758_583;
/// How much of the part that grows is noise, and how much is text, in bytes: what is uploaded to GitLab is mostly
/// compressed already, logs and dumps are not.
const HALF: usize = 12 << 20;
/// How often the speed is measured.
const ROUNDS: usize = 3;
/// What both commands may take of memory, in MiB.
const MOST_MEMORY: f64 = 32.0;
/// What a rehearsal may write, in KiB: a line of the history, and a folder or two.
const MOST_WRITTEN: f64 = 64.0;

/// A machine with one real, restorable backup.
struct Machine {
    host: Host,
    data: PathBuf,
    /// Of the data archive, in bytes.
    size: u64,
    /// `uploads.tar.gz` by itself, where it was asked for.
    part: Option<PathBuf>,
}

impl Machine {
    /// One whose data archive has about this many MiB.
    fn new(mib: u64, with_part: bool) -> Machine {
        let host = Host::without_config(OURS);
        let (data_dir, config_dir) = (
            host.path("var/opt/gitlab/backups"),
            host.path("etc/gitlab/config_backup"),
        );
        let gitlab = RealBackup::new(1);
        let paths = gitlab.write_into(&data_dir, &config_dir, STAMP);
        let mut members = gitlab.members(STAMP);
        members.retain(|member| member.path != "uploads.tar.gz");
        repack(&members, &paths.data);
        let part = with_part.then(|| host.path("uploads.tar.gz"));
        let size = grow(&paths.data, mib << 20, part.as_deref()).expect("an archive");
        Machine {
            host,
            data: paths.data,
            size,
            part,
        }
    }

    /// Our program, measured; `address` is where the stand-in is, if it is needed.
    fn run(&self, arguments: &str, address: Option<&Address>) -> Usage {
        let Options {
            app_key,
            refresh_token,
            ..
        } = Options::default();
        let host = &self.host;
        host.write_config(&format!(
            "state_dir = \"{root}/state\"\n\
             [gitlab]\n\
             config_dir = \"{root}/etc/gitlab/config_backup\"\n\
             data_dir = \"{root}/var/opt/gitlab/backups\"\n\
             [destinations.dropbox]\n\
             type = \"dropbox\"\n\
             app_key = \"{app_key}\"\n\
             app_secret = \"{APP_SECRET}\"\n\
             refresh_token = \"{refresh_token}\"\n",
            root = host.root().display(),
        ));
        let mut command = measure::wrapped(OURS);
        command
            .args(arguments.split(' '))
            .env("GITLAB_PI_BACKUP_CONFIG", host.path("config.toml"))
            .env("HOME", host.root());
        if let Some(address) = address {
            command
                .env("HTTPS_PROXY", &address.proxy)
                .env("SSL_CERT_FILE", &address.ca_file);
        }
        measure::run(command)
    }

    /// Brings a file into the page cache.
    fn warm(path: &Path) {
        let mut file = File::open(path).expect("a file");
        io::copy(&mut file, &mut io::sink()).expect("a file that can be read");
    }
}

/// Adds a real `uploads.tar.gz` to a data archive, until it has about `size` bytes; says how many it has. The part
/// also goes to a file by itself.
fn grow(archive: &Path, size: u64, part: Option<&Path>) -> io::Result<u64> {
    let small = fs::read(archive)?;
    let last = small.iter().rposition(|byte| *byte != 0).unwrap_or(0);
    let start = (last as u64 + 1).next_multiple_of(512);
    // Gzip members strung together are one file: the same one again and again, each a file of the tar within.
    let repeated = gzip(&file_of_a_tar());
    let end = gzip(&[0; 1024]);
    let count = (size - start) / repeated.len() as u64;
    let len = count * repeated.len() as u64 + end.len() as u64;
    let mut archive = OpenOptions::new().write(true).open(archive)?;
    archive.set_len(start)?;
    archive.seek(SeekFrom::Start(start))?;
    let mut out = BufWriter::new(archive);
    out.write_all(&tar_header("uploads.tar.gz", len))?;
    let mut part = part.map(File::create).transpose()?;
    let pieces = (0..count).map(|_| &repeated).chain([&end]);
    for piece in pieces {
        out.write_all(piece)?;
        if let Some(part) = &mut part {
            part.write_all(piece)?;
        }
    }
    let whole = start + 512 + len.next_multiple_of(512) + TAR_END;
    let file = out.into_inner()?;
    file.set_len(whole)?;
    // What is written back later would be counted and waited for by nobody knows whom.
    file.sync_all()?;
    Ok(whole)
}

/// A file with its header, half noise and half text.
fn file_of_a_tar() -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut file = tar_header("upload", 2 * HALF as u64).to_vec();
    while file.len() < 512 + HALF {
        file.extend(next().to_le_bytes());
    }
    while file.len() < 512 + 2 * HALF {
        let line = format!(
            "{:08x} INFO -- : job {} took {} ms\n",
            next() >> 40,
            next() >> 56,
            next() >> 52
        );
        file.extend(line.bytes());
    }
    file.truncate(512 + 2 * HALF);
    file
}

fn row(what: &str, size: u64, usage: &Usage) -> Vec<String> {
    let wall = usage.wall.as_secs_f64();
    let gib = float(size) / MIB / 1024.0;
    vec![
        what.to_owned(),
        format!("{wall:.2}"),
        format!("{:.0}", float(size) / MIB / wall),
        format!("{:.2}", usage.cpu.as_secs_f64() / gib),
        mib(usage.peak_rss),
        format!("{}", usage.written / 1024),
    ]
}

const HEAD: [&str; 6] = [
    "what",
    "wall s",
    "MiB/s",
    "CPU s/GiB",
    "peak RSS MiB",
    "written KiB",
];

/// A whole backup read and judged: memory, what is written, and speed beside the usual tools.
pub fn rehearse(_: &[Client], bars: &mut Bars) {
    let mut rows = Vec::new();
    let (mut peaks, mut written) = (Vec::new(), Vec::new());
    let mut note = |what: &str, machine: &Machine, usage: Usage| {
        rows.push(row(what, machine.size, &usage));
        peaks.push(float(usage.peak_rss) / MIB);
        written.push(float(usage.written) / 1024.0);
    };
    for (what, mib) in [("64 MiB on this disk", 64), ("8 GiB on this disk", 8 << 10)] {
        let machine = Machine::new(mib, false);
        note(what, &machine, machine.run("rehearse -q --local", None));
    }
    let (machine, server) = stored();
    let usage = machine.run("rehearse -q", Some(&server.address));
    note("1 GiB from the stand-in", &machine, usage);
    tables::print("A backup rehearsed", &HEAD, &rows);
    let highest = |values: &[f64]| values.iter().copied().reduce(f64::max);
    bars.at_most("rehearse: peak RSS", " MiB", MOST_MEMORY, highest(&peaks));
    bars.at_most(
        "rehearse: growth from 64 MiB to 8 GiB",
        " MiB",
        4.0,
        Some(peaks[1] - peaks[0]),
    );
    bars.at_most(
        "rehearse: written, the history included",
        " KiB",
        MOST_WRITTEN,
        highest(&written),
    );
    drop((machine, server));
    speed(bars);
}

/// Beside `gzip -t` on the compressed part and `sha256sum` on all of it, one after the other.
fn speed(bars: &mut Bars) {
    let machine = Machine::new(512, true);
    let part = machine.part.as_deref().expect("it was asked for");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        Machine::warm(&machine.data);
        Machine::warm(part);
        ours.push(machine.run("rehearse -q --local", None));
        Machine::warm(&machine.data);
        let mut command = measure::wrapped("sh");
        command
            .args(["-c", "gzip -t \"$1\" && sha256sum \"$2\"", "sh"])
            .args([part, &machine.data]);
        theirs.push(measure::run(command));
    }
    let wall = |usages: &[Usage]| median(usages.iter().map(|usage| usage.wall.as_secs_f64()));
    let cpu = |usages: &[Usage]| median(usages.iter().map(|usage| usage.cpu.as_secs_f64()));
    let rows = [
        ("gzip -t, then sha256sum", &theirs),
        ("gitlab-pi-backup rehearse --local", &ours),
    ];
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .map(|(what, usages)| {
            let speed = float(machine.size) / MIB / wall(usages);
            vec![
                what.to_owned(),
                format!("{:.2}", wall(usages)),
                format!("{speed:.0}"),
                format!("{:.2}", cpu(usages)),
            ]
        })
        .collect();
    tables::print(
        &format!("512 MiB on this disk, cached, medians of {ROUNDS}"),
        &["what", "wall s", "MiB/s", "CPU s"],
        &rows,
    );
    bars.at_least(
        "rehearse: our speed / that of gzip -t and sha256sum",
        "",
        0.5,
        Some(wall(&theirs) / wall(&ours)),
    );
}

/// A whole backup fetched and proved.
pub fn restore(_: &[Client], bars: &mut Bars) {
    let (machine, server) = stored();
    let to = machine.host.path("restored").display().to_string();
    let usage = machine.run(&format!("restore -q --to {to}"), Some(&server.address));
    tables::print(
        "A backup restored",
        &HEAD,
        &[row("1 GiB from the stand-in", machine.size, &usage)],
    );
    let peak = float(usage.peak_rss) / MIB;
    bars.at_most("restore: peak RSS", " MiB", MOST_MEMORY, Some(peak));
}

/// A backup of 1 GiB, stored in a stand-in.
fn stored() -> (Machine, Server) {
    let machine = Machine::new(1 << 10, false);
    let server = Server::keeping();
    machine.run("run -q --skip-create", Some(&server.address));
    (machine, server)
}
