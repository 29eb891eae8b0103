//! This program beside rclone and Dropbox's Python SDK, sending the same file to the stand-in for Dropbox; and
//! beside gzip and sha256sum, reading a backup again.
//!
//! `cargo bench --bench upload` runs all parts, `cargo bench --bench upload -- memory line` some of them.
//! Everything goes over TLS under Dropbox's own host names, through the stand-in's `CONNECT`; the stand-in
//! is a process of its own that neither keeps nor hashes what is only sent, so that it is the clients that are measured.
//!
//! Where other things run on the machine, only the ratios within one run mean something.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it is a program that shows something"
)]

mod archive;
mod clients;
mod measure;
mod parts;
mod readback;
mod server;
mod stream;
mod tables;

#[path = "../support/backup/mod.rs"]
mod backup;
#[path = "../support/dropbox/mod.rs"]
mod dropbox;
#[path = "../support/host.rs"]
mod host;
#[path = "../support/web/mod.rs"]
mod web;

use std::process::ExitCode;
use std::time::Instant;

use crate::clients::Client;
use crate::tables::Bars;

/// A measurement, which prints what it found and adds its bars.
type Part = fn(&[Client], &mut Bars);

/// What can be asked for by name, in the order it is run.
const PARTS: [(&str, Part); 9] = [
    ("startup", parts::startup),
    ("speed", parts::speed),
    ("line", parts::line),
    ("restart", parts::restart),
    ("memory", parts::memory),
    ("cache", parts::cache),
    ("stream", stream::stream),
    ("rehearse", readback::rehearse),
    ("restore", readback::restore),
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let wanted: Vec<String> = match arguments.next().as_deref() {
        // The two roles in which it starts itself.
        Some("serve") => {
            dropbox::serve_main(arguments);
            return ExitCode::SUCCESS;
        }
        Some("measure") => return measure::wrapper(arguments),
        _ => std::env::args().skip(1).collect(),
    };
    // `cargo test --all-targets` starts benchmarks too, without this flag.
    if !wanted.iter().any(|argument| argument == "--bench") {
        println!("nothing is measured without --bench: cargo bench --bench upload");
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<&String> = wanted
        .iter()
        .filter(|name| !name.starts_with('-'))
        .collect();
    let known = PARTS.map(|(name, _)| name);
    if let Some(name) = wanted.iter().find(|name| !known.contains(&name.as_str())) {
        eprintln!("there is no part {name}; there are: {}", known.join(", "));
        return ExitCode::FAILURE;
    }
    let clients = clients::installed();
    let begun = Instant::now();
    let mut bars = Bars::default();
    for (name, part) in PARTS {
        if wanted.is_empty() || wanted.iter().any(|wanted| *wanted == name) {
            part(&clients, &mut bars);
        }
    }
    bars.print();
    println!("\nMeasured in {:.0} s.", begun.elapsed().as_secs_f64());
    ExitCode::SUCCESS
}
