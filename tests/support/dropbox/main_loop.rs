//! The stand-in as a program of its own, for the benchmark and the demo.

use std::io::{self, Read as _, Write as _};
use std::time::Duration;

use serde_json::json;

use super::{Dropbox, Line, Options};

/// Serves until stdin closes, after one line of JSON on stdout that says where.
///
/// Flags, all optional: `--tls`, `--discard` (keep no bytes), `--no-hashes`, and with a value `--port`,
/// `--latency-ms` (of every append), `--per-connection` and `--whole` (bytes per second), `--quota` (bytes),
/// `--token-life` (seconds), `--app-key`, `--app-secret`, `--refresh-token`, `--list-page`, `--known-hash` (`SIZE:HASH`, any
/// number of them).
///
/// # Panics
///
/// If a flag is unknown or its value is no number.
pub fn serve_main(args: impl Iterator<Item = String>) {
    let dropbox = Dropbox::start(options(args));
    let ready = json!({
        "url": dropbox.url(),
        "proxy": dropbox.proxy_url(),
        "ca_file": dropbox.ca_file(),
        "pid": std::process::id(),
    });
    let mut stdout = io::stdout();
    writeln!(stdout, "{ready}")
        .and_then(|()| stdout.flush())
        .expect("somebody who reads the address");
    // Whatever ends the input, an error included, ends the program.
    let _ = io::stdin().read_to_end(&mut Vec::new());
}

fn options(mut args: impl Iterator<Item = String>) -> Options {
    let mut options = Options::default();
    let mut line = Line::default();
    while let Some(flag) = args.next() {
        let mut text = || {
            args.next()
                .unwrap_or_else(|| panic!("{flag}: value missing"))
        };
        let mut number = || {
            text()
                .parse::<u64>()
                .unwrap_or_else(|_| panic!("{flag}: not a number"))
        };
        match flag.as_str() {
            "--tls" => options.tls = true,
            "--discard" => options.keep_bytes = false,
            "--no-hashes" => options.verify_hashes = false,
            "--port" => options.port = u16::try_from(number()).expect("a port is below 65536"),
            "--latency-ms" => line.append_latency = Duration::from_millis(number()),
            "--per-connection" => line.per_connection = number(),
            "--whole" => line.whole = number(),
            "--quota" => options.quota = number(),
            "--token-life" => options.token_life = Duration::from_secs(number()),
            "--list-page" => {
                options.list_page = usize::try_from(number()).expect("a number of entries");
            }
            "--app-key" => options.app_key = text(),
            "--app-secret" => options.app_secret = Some(text()),
            "--refresh-token" => options.refresh_token = text(),
            "--known-hash" => {
                let known = text();
                let (size, hash) = known.split_once(':').expect("SIZE:HASH");
                options
                    .known_hashes
                    .push((size.parse().expect("a size in bytes"), hash.to_owned()));
            }
            _ => panic!("unknown flag {flag}"),
        }
    }
    options.line = Some(line);
    options
}
