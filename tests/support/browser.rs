//! A real browser without a screen, if there is one, and what it makes of a page.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use flate2::read::ZlibDecoder;
use serde_json::Value;
use tempfile::TempDir;

/// Chromium, by any of its names.
pub struct Browser {
    program: PathBuf,
    dir: TempDir,
}

/// How a page is looked at.
#[derive(Clone, Copy, Debug)]
pub struct View {
    pub width: u32,
    pub height: u32,
    pub dark: bool,
}

impl Browser {
    /// None, and a word about it, where none is installed.
    pub fn find() -> Option<Browser> {
        let names = [
            "chromium",
            "chromium-browser",
            "google-chrome",
            "google-chrome-stable",
        ];
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path)
            .flat_map(|folder| names.map(|name| folder.join(name)))
            .find(|program| program.is_file());
        let Some(program) = found else {
            // Not by a macro, whose output a test that passes does not show.
            writeln!(
                std::io::stderr(),
                "skipped: there is no Chromium here (apt-get install chromium)"
            )
            .expect("standard error");
            return None;
        };
        let dir = tempfile::tempdir().expect("a temporary folder");
        Some(Browser { program, dir })
    }

    /// Takes a picture of this page; gives what its scripts wrote to the console, and every address it asked for.
    fn look(&self, html: &str, view: View) -> (String, Vec<String>) {
        let page = self.path("page.html");
        fs::write(&page, html).expect("the page");
        let log = self.path("net.json");
        let dark = u8::from(!view.dark);
        let output = Command::new("timeout")
            .args(["-k", "5", "120"])
            .arg(&self.program)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                "--no-first-run",
            ])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--disable-extensions",
            ])
            .args(["--disable-dev-shm-usage", "--force-device-scale-factor=1"])
            .arg("--host-resolver-rules=MAP * ~NOTFOUND")
            .arg(format!(
                "--user-data-dir={}",
                self.path("profile").display()
            ))
            .arg(format!("--log-net-log={}", log.display()))
            .arg(format!("--window-size={},{}", view.width, view.height))
            .arg(format!("--blink-settings=preferredColorScheme={dark}"))
            .arg(format!(
                "--screenshot={}",
                self.path("picture.png").display()
            ))
            .arg("--enable-logging=stderr")
            .arg(format!("file://{}", page.display()))
            .env("HOME", self.dir.path())
            .stdin(Stdio::null())
            .output()
            .expect("the browser runs");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{}: {told}", output.status);
        (told, requests(&log))
    }

    /// What this script, put into a copy of the page, says: JSON it hands to `tell`. The copy's policy, which
    /// forbids scripts, is taken away.
    pub fn ask(&self, html: &str, view: View, script: &str) -> Value {
        let script = format!(
            "<script>const tell = (value) => \
             console.log('TOLD' + encodeURIComponent(JSON.stringify(value)) + 'END');\n{script}</script></body>"
        );
        let copy = without_policy(html).replace("</body>", &script);
        fs::write(self.path("frame.html"), copy).expect("the copy");
        // No window is as narrow as a phone until its picture is taken, but a frame is.
        let View { width, height, .. } = view;
        let desk = format!(
            "<!doctype html><meta name=\"color-scheme\" content=\"light dark\"><body style=\"margin:0\">\
             <iframe src=\"frame.html\" style=\"border:0;width:{width}px;height:{height}px\"></iframe></body>"
        );
        let wide = View {
            width: 1_400,
            ..view
        };
        let (console, _) = self.look(&desk, wide);
        let told = console.split("TOLD").nth(1);
        let told = told.and_then(|rest| rest.split("END").next());
        let told = told.unwrap_or_default();
        let text = percent_encoding::percent_decode_str(told).decode_utf8_lossy();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {told}"))
    }

    /// A picture of it, and every address that was asked for on the way.
    pub fn picture(&self, html: &str, view: View) -> (Picture, Vec<String>) {
        let (_, requests) = self.look(html, view);
        (Picture::read(&self.path("picture.png")), requests)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// The page, with nothing that keeps a browser from asking for what it names.
pub fn without_policy(html: &str) -> String {
    let start = html
        .find("<meta http-equiv=\"Content-Security-Policy\"")
        .expect("a policy");
    let end = start + html[start..].find('>').expect("its end") + 1;
    html[..start].to_owned() + &html[end..]
}

/// Every address that a page made requests for, as the browser itself logged them. What the browser asks for on its own
/// behalf comes from no page.
fn requests(log: &Path) -> Vec<String> {
    let text = fs::read_to_string(log).expect("a log of the network");
    let log: Value = serde_json::from_str(&text).expect("JSON");
    let kind = &log["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"];
    assert!(kind.is_number(), "the log knows requests");
    let events = log["events"].as_array().expect("events");
    let started = events.iter().filter(|event| event["type"] == *kind);
    let by_page = started.filter(|event| {
        let initiator = event["params"]["initiator"].as_str();
        initiator.is_some_and(|initiator| initiator != "not an origin")
    });
    let addresses = by_page.filter_map(|event| event["params"]["url"].as_str());
    addresses.map(str::to_owned).collect()
}

/// Pixels.
pub struct Picture {
    pub width: u32,
    pub height: u32,
    /// Red, green, blue, row by row.
    pub pixels: Vec<[u8; 3]>,
}

impl Picture {
    /// A PNG as Chromium writes it: eight bits, RGB or RGBA, not interlaced.
    fn read(path: &Path) -> Picture {
        let bytes = fs::read(path).expect("a picture");
        assert_eq!(bytes[..8], *b"\x89PNG\r\n\x1a\n");
        let number =
            |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let (width, height) = (number(16), number(20));
        assert_eq!((bytes[24], bytes[28]), (8, 0), "eight bits, not interlaced");
        let depth = match bytes[25] {
            2 => 3,
            6 => 4,
            other => panic!("colours of kind {other}"),
        };
        let (mut packed, mut at) = (Vec::new(), 8);
        while at < bytes.len() {
            let len = number(at) as usize;
            if bytes[at + 4..at + 8] == *b"IDAT" {
                packed.extend(&bytes[at + 8..at + 8 + len]);
            }
            at += len + 12;
        }
        let mut raw = Vec::new();
        std::io::copy(&mut ZlibDecoder::new(&packed[..]), &mut raw).expect("zlib");
        let row_len = width as usize * depth;
        let (mut above, mut pixels) = (vec![0; row_len], Vec::new());
        for line in raw.chunks_exact(row_len + 1) {
            let (filter, mut row) = (line[0], line[1..].to_vec());
            for i in 0..row_len {
                let left = if i < depth { 0 } else { row[i - depth] };
                let corner = if i < depth { 0 } else { above[i - depth] };
                let predicted = match filter {
                    0 => 0,
                    1 => left,
                    2 => above[i],
                    3 => u8::midpoint(left, above[i]),
                    _ => paeth(left, above[i], corner),
                };
                row[i] = row[i].wrapping_add(predicted);
            }
            pixels.extend(
                row.chunks_exact(depth)
                    .map(|pixel| [pixel[0], pixel[1], pixel[2]]),
            );
            above = row;
        }
        assert_eq!(pixels.len(), (width * height) as usize);
        Picture {
            width,
            height,
            pixels,
        }
    }

    /// The mean brightness, 0 to 255.
    pub fn brightness(&self) -> f64 {
        let sum: u64 = self
            .pixels
            .iter()
            .flatten()
            .map(|value| u64::from(*value))
            .sum();
        f64::from(u32::try_from(sum / (self.pixels.len() as u64 * 3)).expect("a byte"))
    }

    /// How many pixels are nearly of this colour.
    pub fn count(&self, colour: [u8; 3]) -> usize {
        let near = |pixel: &&[u8; 3]| pixel.iter().zip(colour).all(|(a, b)| a.abs_diff(b) < 6);
        self.pixels.iter().filter(near).count()
    }
}

fn paeth(left: u8, above: u8, corner: u8) -> u8 {
    let near = i16::from(left) + i16::from(above) - i16::from(corner);
    let far = |value: u8| (near - i16::from(value)).abs();
    if far(left) <= far(above) && far(left) <= far(corner) {
        left
    } else if far(above) <= far(corner) {
        above
    } else {
        corner
    }
}
