//! Exports of projects, whole instances of them: how long they take under GitLab's limits, what they ask of GitLab,
//! and how much memory they take here.
//!
//! `cargo bench --bench projects` runs all parts, `cargo bench --bench projects -- pace` some of them. GitLab and the
//! object store are stand-ins in this process, with limits that count as GitLab's do; a minute of theirs is shorter.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it is a program that shows something"
)]

mod exports;
#[allow(dead_code, reason = "the other benchmark measures more")]
mod measure;
mod reference;
mod tables;
mod world;

#[path = "../support/backup/mod.rs"]
mod backup;
#[path = "../support/dropbox/mod.rs"]
mod dropbox;
#[path = "../support/gitlab_api/mod.rs"]
mod gitlab_api;
#[path = "../support/host.rs"]
mod host;
#[path = "../support/s3/mod.rs"]
mod s3;
#[path = "../support/web/mod.rs"]
mod web;

use std::process::ExitCode;
use std::time::Instant;

use crate::tables::Bars;

/// A measurement, which prints what it found and adds its bars.
type Part = fn(&mut Bars);

/// What can be asked for by name, in the order it is run.
const PARTS: [(&str, Part); 4] = [
    ("memory", exports::memory),
    ("pace", exports::pace),
    ("many", exports::many),
    ("through", exports::through),
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    // The role in which it starts itself.
    if arguments.next().as_deref() == Some("measure") {
        return measure::wrapper(arguments);
    }
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --all-targets` starts benchmarks too, without this flag.
    if !wanted.iter().any(|argument| argument == "--bench") {
        println!("nothing is measured without --bench: cargo bench --bench projects");
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
    let begun = Instant::now();
    let mut bars = Bars::default();
    for (name, part) in PARTS {
        if wanted.is_empty() || wanted.iter().any(|wanted| *wanted == name) {
            part(&mut bars);
        }
    }
    bars.print();
    println!("\nMeasured in {:.0} s.", begun.elapsed().as_secs_f64());
    ExitCode::SUCCESS
}
