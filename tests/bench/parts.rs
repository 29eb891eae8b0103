//! The measurements, one function each.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::archive::{Archive, Ballast};
use crate::clients::{Client, Job, OURS, Setting};
use crate::measure::{self, Usage, median};
use crate::server::{self, Server};
use crate::tables::{self, Bars, MIB, float, mib};

/// One MiB in bytes.
const MIB_BYTES: u64 = 1 << 20;
/// What is sent where the size is not what is measured.
const USUAL: u64 = 512 * MIB_BYTES;
/// How often the unshaped uploads are repeated.
const ROUNDS: usize = 3;
/// Each append costs this on top of its bytes, in milliseconds, and …
const LINE_LATENCY: &str = "660";
/// … a connection carries so many bytes per second: with both, rclone is as fast as its authors measured it
/// against Dropbox for several chunk sizes (the table beside `chunk_size` in its Dropbox backend).
const LINE_RATE: u64 = 139 * MIB_BYTES / 10;
/// The line on which clients are killed: slow enough to meet them half-way.
const RESTART_RATE: u64 = 64 * MIB_BYTES;
/// What is sent there.
const RESTART_SIZE: u64 = 256 * MIB_BYTES;
/// How long after the first half has arrived they are killed. Chunks sent at the same time end at the same
/// time, and right then little would be lost: ours is killed at all these moments, the worst counts.
const RESTART_DELAYS: [u64; 3] = [100, 450, 800];

/// Sends an archive once.
fn send(client: Client, archive: &Archive, flags: &[&str]) -> Usage {
    let server = Server::start(archive, flags);
    measure::run(Job::new(client, archive, &server.address).measured())
}

fn ratio(ours: Option<f64>, theirs: Option<f64>) -> Option<f64> {
    Some(ours? / theirs?)
}

/// How long the program takes to start, and how large it is.
pub fn startup(_: &[Client], bars: &mut Bars) {
    let once = || {
        let begun = Instant::now();
        let output = Command::new(OURS).arg("--version").output();
        assert!(output.is_ok_and(|output| output.status.success()));
        begun.elapsed().as_secs_f64() * 1e3
    };
    let times: Vec<f64> = (0..20).map(|_| once()).collect();
    let size = fs::metadata(OURS).expect("the program").len();
    let floor = measure::run(measure::wrapped("true")).peak_rss;
    println!(
        "\nA program that does nothing would be measured with {} MiB of memory.",
        mib(floor)
    );
    let bar = "`--version`, median of 20";
    bars.at_most(bar, " ms", 10.0, Some(median(times)));
    bars.at_most("binary, stripped", " MiB", 8.0, Some(float(size) / MIB));
}

/// Without any limit of the line: what the clients themselves cost.
pub fn speed(clients: &[Client], bars: &mut Bars) {
    let archive = Archive::create(USUAL, Ballast::Noise);
    let mut usages = vec![Vec::new(); clients.len()];
    for _ in 0..ROUNDS {
        // In turns, so that what else the machine does meets all alike.
        for (client, usages) in clients.iter().zip(&mut usages) {
            // The client before may have emptied the cache.
            archive.warm();
            usages.push(send(*client, &archive, &[]));
        }
    }
    let gib = float(USUAL) / MIB / 1024.0;
    let found: Vec<(Client, f64, f64, u64)> = clients
        .iter()
        .zip(&usages)
        .map(|(client, usages)| {
            let wall = median(usages.iter().map(|usage| usage.wall.as_secs_f64()));
            let cpu = median(usages.iter().map(|usage| usage.cpu.as_secs_f64())) / gib;
            let rss = median(usages.iter().map(|usage| usage.peak_rss));
            (*client, wall, cpu, rss)
        })
        .collect();
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|(client, wall, cpu, rss)| {
            let speed = float(USUAL) / MIB / wall;
            let (wall, speed) = (format!("{wall:.2}"), format!("{speed:.0}"));
            vec![
                client.to_string(),
                wall,
                speed,
                format!("{cpu:.2}"),
                mib(*rss),
            ]
        })
        .collect();
    tables::print(
        &format!("512 MiB over loopback, medians of {ROUNDS}"),
        &["client", "wall s", "MiB/s", "CPU s/GiB", "peak RSS MiB"],
        &rows,
    );
    let cpu = |wanted| found.iter().find(|row| row.0 == wanted).map(|row| row.2);
    let ours = cpu(Client::ours());
    let bar = "loopback: our CPU / rclone's";
    bars.at_most(bar, "", 0.5, ratio(ours, cpu(Client::Rclone)));
    let bar = "loopback: our CPU / the SDK's, sequential";
    bars.at_most(bar, "", 0.7, ratio(ours, cpu(Client::Sdk(0))));
    let is_ours = |row: &&(Client, f64, f64, u64)| row.0 == Client::ours();
    let wall = found.iter().find(is_ours).map(|row| row.1);
    let others = found.iter().filter(|row| !is_ours(row)).map(|row| row.1);
    let bar = "loopback: our wall / the fastest peer's";
    bars.at_most(bar, "", 1.0, ratio(wall, others.reduce(f64::min)));
}

/// On a line like the one to Dropbox: whether a client fills it.
pub fn line(clients: &[Client], bars: &mut Bars) {
    let archive = Archive::create(USUAL, Ballast::Noise);
    let rate = LINE_RATE.to_string();
    let per_connection = ["--latency-ms", LINE_LATENCY, "--per-connection", &rate];
    let whole = ["--latency-ms", LINE_LATENCY, "--whole", &rate];
    let mut rows = Vec::new();
    let mut once = |client: Client, line: &str, flags: &[&str]| {
        archive.warm();
        let wall = send(client, &archive, flags).wall.as_secs_f64();
        let speed = float(USUAL) / MIB / wall;
        let (wall_text, speed) = (format!("{wall:.1}"), format!("{speed:.1}"));
        rows.push(vec![line.to_owned(), client.to_string(), wall_text, speed]);
        wall
    };
    let mut walls = Vec::new();
    // The sequential SDK would take as long as all others together, and nothing is measured against it.
    for client in clients.iter().filter(|client| **client != Client::Sdk(0)) {
        let name = "13.9 MiB/s per connection";
        walls.push((*client, once(*client, name, &per_connection)));
    }
    let alone = once(Client::ours(), "13.9 MiB/s in all", &whole);
    tables::print(
        "512 MiB on a line with 0.66 s per append",
        &["line", "client", "wall s", "MiB/s"],
        &rows,
    );
    let wall = |wanted| walls.iter().find(|row| row.0 == wanted).map(|row| row.1);
    let ours = wall(Client::ours());
    let bar = "line per connection: our wall / rclone's";
    bars.at_most(bar, "", 0.4, ratio(ours, wall(Client::Rclone)));
    let bar = "line per connection: our wall / the SDK's, 4 parallel";
    bars.at_most(bar, "", 0.8, ratio(ours, wall(Client::Sdk(4))));
    let speed = float(USUAL) / alone / float(LINE_RATE);
    let bar = "line in all: our speed / the line's";
    bars.at_least(bar, "", 0.95, Some(speed));
}

/// Killed half-way and started again: what has to be sent once more.
pub fn restart(clients: &[Client], bars: &mut Bars) {
    let archive = Archive::create(RESTART_SIZE, Ballast::Noise);
    let mut rows = Vec::new();
    let mut ours = None;
    for client in clients {
        let delays: &[u64] = match client {
            Client::Ours(_) => &RESTART_DELAYS,
            _ => &RESTART_DELAYS[..1],
        };
        let again = delays
            .iter()
            .map(|delay| sent_again(*client, &archive, Duration::from_millis(*delay)))
            .max()
            .unwrap_or_default();
        if *client == Client::ours() {
            ours = Some(float(again) / MIB);
        }
        rows.push(vec![client.to_string(), mib(again)]);
    }
    tables::print(
        "256 MiB, killed half-way and started again",
        &["client", "sent again MiB"],
        &rows,
    );
    let Setting {
        chunk_mib,
        concurrency,
    } = Setting::default();
    let most = float(chunk_mib * concurrency);
    bars.at_most("sent again after SIGKILL", " MiB", most, ours);
}

/// What the server received in both runs beyond the archive.
fn sent_again(client: Client, archive: &Archive, delay: Duration) -> u64 {
    let (dropbox, address) = server::here(archive, RESTART_RATE);
    let job = Job::new(client, archive, &address);
    archive.warm();
    let mut first = job.plain().spawn().expect("the client starts");
    while server::received(&dropbox) < archive.size / 2 {
        let ended = first.try_wait().expect("a child");
        assert!(ended.is_none(), "{client} ended half-way: {ended:?}");
        thread::sleep(Duration::from_millis(2));
    }
    thread::sleep(delay);
    first.kill().expect("SIGKILL");
    first.wait().expect("the client ends");
    // Requests that were cut are counted when the server has noticed.
    thread::sleep(Duration::from_millis(500));
    let output = job.plain().output().expect("the client starts");
    assert!(
        output.status.success(),
        "{client} cannot go on: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    server::received(&dropbox) - archive.size
}

/// How much memory ours takes, whatever it sends.
pub fn memory(_: &[Client], bars: &mut Bars) {
    const CHUNKS: [u64; 3] = [4, 16, 148];
    let mut rows = Vec::new();
    let mut peaks = vec![Vec::new(); CHUNKS.len()];
    for (name, size) in [
        ("1 MiB", 1),
        ("64 MiB", 64),
        ("1 GiB", 1 << 10),
        ("8 GiB", 8 << 10),
    ] {
        let archive = Archive::create(size * MIB_BYTES, Ballast::Hole);
        let mut row = vec![name.to_owned()];
        for (chunk_mib, peaks) in CHUNKS.into_iter().zip(&mut peaks) {
            let setting = Setting {
                chunk_mib,
                concurrency: 4,
            };
            let peak = send(Client::Ours(setting), &archive, &[]).peak_rss;
            peaks.push(float(peak) / MIB);
            row.push(mib(peak));
        }
        rows.push(row);
    }
    tables::print(
        "Peak RSS in MiB, 4 connections",
        &["size", "4 MiB chunks", "16 MiB chunks", "148 MiB chunks"],
        &rows,
    );
    let highest = |peaks: &[f64]| peaks.iter().copied().reduce(f64::max).unwrap_or_default();
    let lowest = |peaks: &[f64]| peaks.iter().copied().reduce(f64::min).unwrap_or_default();
    let spread = peaks.iter().map(|peaks| highest(peaks) - lowest(peaks));
    let spread = spread.reduce(f64::max);
    // 1 MiB has one append and 64 MiB in chunks of 148 MiB too: what is above is memory for connections.
    let growth = peaks.iter().map(|peaks| peaks[3] - peaks[2]);
    let growth = growth.reduce(f64::max);
    bars.at_most(
        "peak RSS, 4 connections",
        " MiB",
        16.0,
        Some(highest(&peaks.concat())),
    );
    bars.at_most("peak RSS: 1 MiB to 8 GiB", " MiB", 2.0, spread);
    bars.at_most("peak RSS: growth from 1 GiB to 8 GiB", " MiB", 2.0, growth);

    let archive = Archive::create(USUAL, Ballast::Hole);
    let mut found = Vec::new();
    for concurrency in [1, 4, 8, 16] {
        let setting = Setting {
            chunk_mib: 16,
            concurrency,
        };
        let once = || send(Client::Ours(setting), &archive, &[]).peak_rss;
        found.push((concurrency, median((0..ROUNDS).map(|_| once()))));
    }
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|(concurrency, peak)| vec![concurrency.to_string(), mib(*peak)])
        .collect();
    tables::print(
        "Peak RSS in MiB, 512 MiB in chunks of 16 MiB",
        &["connections", "peak RSS MiB"],
        &rows,
    );
    let steepest = found
        .windows(2)
        .map(|pair| (float(pair[1].1) - float(pair[0].1)) / MIB / float(pair[1].0 - pair[0].0))
        .reduce(f64::max);
    bars.at_most("memory per further connection", " MiB", 0.5, steepest);
}

/// What an upload leaves in the page cache, where it pushes out what GitLab needs.
pub fn cache(_: &[Client], bars: &mut Bars) {
    let archive = Archive::create(USUAL, Ballast::Noise);
    let mut rows = Vec::new();
    let mut worst = None;
    for (name, warm) in [("cold", false), ("warm", true)] {
        archive.cool();
        if warm {
            archive.warm();
        }
        let before = archive.cached();
        send(Client::ours(), &archive, &[]);
        let after = archive.cached();
        let text = |bytes: Option<u64>| bytes.map_or_else(|| "–".to_owned(), mib);
        rows.push(vec![name.to_owned(), text(before), text(after)]);
        worst = worst.max(after);
    }
    if worst.is_none() {
        println!("Missing on PATH: fincore (package util-linux or util-linux-extra)");
    }
    tables::print(
        "MiB of a 512 MiB archive in the page cache",
        &["before", "before MiB", "after MiB"],
        &rows,
    );
    let worst = worst.map(|bytes| float(bytes) / MIB);
    bars.at_most("archive left in the page cache", " MiB", 32.0, worst);
}
