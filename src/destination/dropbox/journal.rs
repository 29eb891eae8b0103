//! What survives a power cut: one file per archive and destination that tells how far its upload is.
//!
//! The service is the truth, the journal a hint that may lag but never lead. So it is written in an
//! order that keeps that true: the first line, with the session, is on the disk before the first chunk
//! is sent; a chunk's line is written only after its acknowledgement. It is only ever appended to, one
//! JSON line at a time, each with a checksum, and brought to the disk every ten seconds rather than
//! every line: a kill loses nothing, a power cut some seconds that are sent again, and an SD card lives.
//! A torn end is ignored.

mod plan;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::content_hash::{BLOCK_LEN, Digest, combine};
use crate::source::Fingerprint;
use crate::state::{private_file, sync_folder};

pub use crate::destination::dropbox::journal::plan::Plan;

/// The folder of upload journals in the state folder.
pub const JOURNALS: &str = "uploads";

/// The format this program writes.
const FORMAT: u32 = 1;
/// Sessions live for seven days; this is well before that.
const LONGEST_LIFE: TimeDelta = TimeDelta::days(6);
/// How long acknowledged chunks may wait for the disk.
const SYNC_EVERY: Duration = Duration::from_secs(10);
/// What the name of every journal ends in.
const EXTENSION: &str = "journal";

/// The first line: which upload this is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The destination's name.
    pub destination: String,
    /// Where the archive is stored there.
    pub path: String,
    /// Where the archive lies on this machine.
    pub source: PathBuf,
    /// What it looked like.
    pub fingerprint: Fingerprint,
    /// Its length in bytes.
    pub len: u64,
    /// The length of a chunk in bytes.
    pub chunk_len: u64,
    /// The upload session.
    pub session: String,
    /// When the session was started.
    pub begun_at: DateTime<Utc>,
    /// What was found wrong with the archive when its upload began.
    pub doubts: Vec<String>,
}

/// Any line; a checksum goes with it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Begin {
        format: u32,
        header: Header,
    },
    /// The chunk of this number, with the digests of its blocks, has been acknowledged.
    Chunk {
        number: usize,
        blocks: Vec<Digest>,
    },
}

#[derive(Serialize, Deserialize)]
struct Checked<'a> {
    sum: String,
    #[serde(borrow)]
    line: &'a RawValue,
}

/// An upload that is under way.
#[derive(Debug)]
pub struct Journal {
    header: Header,
    /// By chunk number: the digests of its blocks, once acknowledged.
    chunks: Vec<Option<Vec<Digest>>>,
    /// None where it cannot be written: the upload goes on, but cannot be resumed.
    file: Option<File>,
    path: PathBuf,
    synced: Instant,
}

/// A journal found on the disk.
#[derive(Debug)]
pub struct Unfinished {
    /// Where the journal lies.
    pub path: PathBuf,
    /// Which upload it is of and how many bytes of it have arrived, or why it cannot be used.
    pub content: Result<(Header, u64), String>,
}

/// The files that unfinished uploads still read.
pub fn awaited(folder: &Path) -> Vec<PathBuf> {
    let left = unfinished(folder).unwrap_or_default().into_iter();
    left.filter_map(|left| Some(left.content.ok()?.0.source))
        .collect()
}

/// What of an upload has been acknowledged, with the digests of its blocks, in order; nothing of a journal that
/// cannot be used.
pub fn acknowledged(path: &Path) -> Vec<(Range<u64>, Vec<Digest>)> {
    let Ok((mut journal, _)) = Journal::load(path) else {
        return Vec::new();
    };
    let plan = journal.plan();
    let chunks = std::mem::take(&mut journal.chunks).into_iter().enumerate();
    chunks
        .filter_map(|(number, blocks)| Some((plan.range(number), blocks?)))
        .collect()
}

/// All journals in a folder, in the order of their names.
pub fn unfinished(folder: &Path) -> io::Result<Vec<Unfinished>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == EXTENSION)
        {
            let content = Journal::load(&path)
                .map(|(journal, _)| (journal.header.clone(), journal.acknowledged_bytes()));
            found.push(Unfinished { path, content });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// Where the journal of an upload lies.
pub fn path_of(folder: &Path, destination: &str, stored_path: &str) -> PathBuf {
    let name = stored_path.rsplit('/').next().unwrap_or(stored_path);
    folder.join(format!("{destination}.{name}.{EXTENSION}"))
}

impl Journal {
    /// Begins a journal, on the disk with its name when this returns. Where that fails the upload goes
    /// on without one; the error says why.
    pub fn create(path: &Path, header: Header) -> (Journal, Option<io::Error>) {
        let write = || {
            discard(path)?;
            let mut file =
                private_file(OpenOptions::new().append(true).create_new(true)).open(path)?;
            file.write_all(
                encode(&Line::Begin {
                    format: FORMAT,
                    header: header.clone(),
                })?
                .as_bytes(),
            )?;
            file.sync_all()?;
            path.parent().map_or(Ok(()), sync_folder)?;
            Ok(file)
        };
        let (file, error) = match write() {
            Ok(file) => (Some(file), None),
            Err(error) => {
                // Half a first line is worth nothing, and takes room on a full disk.
                let _ = discard(path);
                (None, Some(error))
            }
        };
        let chunks = vec![None; Plan::new(header.len, header.chunk_len).last() + 1];
        (
            Journal {
                header,
                chunks,
                file,
                path: path.to_owned(),
                synced: Instant::now(),
            },
            error,
        )
    }

    /// Takes up the journal of an earlier run; whatever is torn at its end is cut off.
    pub fn resume(path: &Path) -> Result<Journal, String> {
        let (mut journal, whole_len) = Journal::load(path)?;
        let file = OpenOptions::new().append(true).open(path);
        journal.file = file
            .and_then(|file| file.set_len(whole_len).map(|()| file))
            .ok();
        Ok(journal)
    }

    /// Reads a journal as far as it is whole, and says how many bytes that are. The error says why it
    /// is of no use.
    fn load(path: &Path) -> Result<(Journal, u64), String> {
        let text = fs::read(path).map_err(|error| error.to_string())?;
        let mut lines = text.split_inclusive(|byte| *byte == b'\n');
        let first = lines.next().unwrap_or_default();
        let header = match decode(first) {
            Some(Line::Begin {
                format: FORMAT,
                header,
            }) => header,
            Some(Line::Begin { .. }) => {
                return Err("it was written by another version of this program".to_owned());
            }
            _ if is_newer(first) => {
                return Err("it was written by a later version of this program".to_owned());
            }
            _ => return Err("its first line is damaged or not ours".to_owned()),
        };
        if header.chunk_len == 0 || header.chunk_len % BLOCK_LEN != 0 || header.len == 0 {
            return Err("its first line contradicts itself".to_owned());
        }
        let plan = Plan::new(header.len, header.chunk_len);
        let mut chunks = vec![None; plan.last() + 1];
        let mut whole = first.len();
        for line in lines {
            let Some(Line::Chunk { number, blocks }) = decode(line) else {
                break;
            };
            let expected = chunks
                .get(number)
                .map(|_| plan.range(number))
                .map(|r| (r.end - r.start).div_ceil(BLOCK_LEN));
            if expected != Some(blocks.len() as u64) {
                return Err(format!(
                    "its line about chunk {number} contradicts the first"
                ));
            }
            chunks[number] = Some(blocks);
            whole += line.len();
        }
        let (path, synced) = (path.to_owned(), Instant::now());
        Ok((
            Journal {
                header,
                chunks,
                file: None,
                path,
                synced,
            },
            whole as u64,
        ))
    }

    /// Which upload it is of.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How the archive is cut.
    pub fn plan(&self) -> Plan {
        Plan::new(self.header.len, self.header.chunk_len)
    }

    /// Whether its session may still be alive. One that seems to begin in the future is tried: clocks lie.
    pub fn is_alive(&self, now: DateTime<Utc>) -> bool {
        now - self.header.begun_at < LONGEST_LIFE
    }

    /// Whether a chunk has been acknowledged.
    pub fn has(&self, number: usize) -> bool {
        self.chunks[number].is_some()
    }

    /// Bytes acknowledged so far.
    pub fn acknowledged_bytes(&self) -> u64 {
        let plan = self.plan();
        let ranges = (0..self.chunks.len())
            .filter(|number| self.has(*number))
            .map(|number| plan.range(number));
        ranges.map(|range| range.end - range.start).sum()
    }

    /// Notes a chunk. An error means that from now on nothing is noted any more.
    pub fn acknowledge(&mut self, number: usize, blocks: Vec<Digest>) -> io::Result<()> {
        let Some(file) = &mut self.file else {
            self.chunks[number] = Some(blocks);
            return Ok(());
        };
        let line = Line::Chunk {
            number,
            blocks: blocks.clone(),
        };
        let written = encode(&line)
            .and_then(|line| file.write_all(line.as_bytes()))
            .and_then(|()| {
                if self.synced.elapsed() >= SYNC_EVERY {
                    self.synced = Instant::now();
                    file.sync_data()?;
                }
                Ok(())
            });
        self.chunks[number] = Some(blocks);
        if written.is_err() {
            self.file = None;
        }
        written
    }

    /// Brings everything to the disk.
    pub fn sync(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), File::sync_data)
    }

    /// The content hash of the whole archive; none while a chunk is missing.
    pub fn content_hash(&self) -> Option<Digest> {
        let chunks: Option<Vec<_>> = self.chunks.iter().map(Option::as_ref).collect();
        chunks.map(|chunks| combine(chunks.into_iter().flatten()))
    }

    /// The upload is over, one way or the other.
    pub fn remove(&mut self) -> io::Result<()> {
        self.file = None;
        discard(&self.path)
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // At SIGTERM too; what does not reach the disk is sent again.
        let _ = self.sync();
    }
}

/// Deletes a journal, durably; fine if it is not there.
pub fn discard(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => path.parent().map_or(Ok(()), sync_folder),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn encode(line: &Line) -> io::Result<String> {
    let text = serde_json::to_string(line)?;
    let sum = checksum(&text);
    let line = &RawValue::from_string(text)?;
    Ok(serde_json::to_string(&Checked { sum, line })? + "\n")
}

/// A line, unless it is torn or damaged.
fn decode(line: &[u8]) -> Option<Line> {
    let checked: Checked = serde_json::from_slice(line.strip_suffix(b"\n")?).ok()?;
    (checked.sum == checksum(checked.line.get()))
        .then(|| serde_json::from_str(checked.line.get()).ok())?
}

/// An undamaged first line whose format this program does not know.
fn is_newer(line: &[u8]) -> bool {
    let format = serde_json::from_slice::<serde_json::Value>(line);
    format.is_ok_and(|value| {
        value["line"]["begin"]["format"]
            .as_u64()
            .is_some_and(|format| format > FORMAT.into())
    })
}

fn checksum(text: &str) -> String {
    Digest::of(text.as_bytes()).to_string()[..8].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn header(len: u64) -> Header {
        Header {
            destination: "dropbox".to_owned(),
            path: "/Data/a.tar".to_owned(),
            source: PathBuf::from("/x/a.tar"),
            fingerprint: Fingerprint("f".to_owned()),
            len,
            chunk_len: 8 * MIB,
            session: "s".to_owned(),
            begun_at: DateTime::UNIX_EPOCH,
            doubts: vec!["why".to_owned()],
        }
    }

    #[test]
    fn every_byte_is_in_exactly_one_chunk() {
        for chunk_len in [4 * MIB, 8 * MIB, 12 * MIB, 16 * MIB, 148 * MIB] {
            for len in (1..=60)
                .flat_map(|n| [n * 4 * MIB - 1, n * 4 * MIB, n * 4 * MIB + 7])
                .chain([1, 1 << 41])
            {
                let plan = Plan::new(len, chunk_len);
                let mut end = 0;
                for number in 0..=plan.last() {
                    let range = plan.range(number);
                    assert_eq!(range.start, end, "{len} by {chunk_len}");
                    assert_eq!(range.start % BLOCK_LEN, 0);
                    let chunk = range.end - range.start;
                    if number < plan.last() {
                        assert!(chunk > 0 && chunk <= chunk_len && chunk.is_multiple_of(BLOCK_LEN));
                    } else {
                        assert!(chunk < BLOCK_LEN && range.end == len);
                    }
                    end = range.end;
                }
            }
        }
        let plan = Plan::new(100 * MIB, 16 * MIB);
        let starts = [0, 1, 2, 3, 4].map(|number| plan.range(number).start / MIB);
        assert_eq!(starts, [0, 4, 12, 24, 40]);
    }

    #[test]
    fn it_is_read_back_from_every_torn_state() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = path_of(dir.path(), "dropbox", "/Data/a.tar");
        let (mut journal, error) = Journal::create(&path, header(17 * MIB));
        assert!(error.is_none());
        let digest = Digest::of(b"x");
        journal.acknowledge(1, vec![digest; 2]).expect("written");
        journal.acknowledge(2, vec![digest; 1]).expect("written");
        assert_eq!(
            (journal.acknowledged_bytes(), journal.content_hash()),
            (12 * MIB, None)
        );
        drop(journal);
        let text = fs::read(&path).expect("read");
        let ends: Vec<_> = (0..text.len())
            .filter(|i| text[*i] == b'\n')
            .map(|i| i + 1)
            .collect();
        for cut in 0..=text.len() {
            for garbage in [&b""[..], b"\0\0\0\0\0\0\0\0"] {
                fs::write(&path, [&text[..cut], garbage].concat()).expect("write");
                let lines = ends.iter().filter(|end| **end <= cut).count();
                let loaded = Journal::resume(&path);
                if lines == 0 {
                    assert!(loaded.is_err());
                    continue;
                }
                let mut loaded = loaded.expect("a whole first line");
                assert_eq!(loaded.header(), &header(17 * MIB));
                assert_eq!(
                    (loaded.has(1), loaded.has(2)),
                    (lines > 1, lines > 2),
                    "cut at {cut}"
                );
                loaded.acknowledge(0, vec![digest; 1]).expect("written");
                drop(loaded);
                assert!(
                    Journal::load(&path).expect("still whole").0.has(0),
                    "cut at {cut}"
                );
            }
        }
    }

    #[test]
    fn damaged_foreign_and_later_ones_are_refused() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("a.journal");
        let (journal, _) = Journal::create(&path, header(17 * MIB));
        drop(journal);
        let good = fs::read_to_string(&path).expect("read");
        for (text, reason) in [
            (String::new(), "damaged"),
            ("hello\n".to_owned(), "damaged"),
            (good.replace("a.tar", "b.tar"), "damaged"),
            (
                good.replace("\"format\":1", "\"format\":2"),
                "later version",
            ),
            (
                good.clone()
                    + &encode(&Line::Chunk {
                        number: 99,
                        blocks: vec![],
                    })
                    .expect("a line"),
                "contradicts",
            ),
        ] {
            fs::write(&path, text).expect("write");
            let error = Journal::load(&path).expect_err(reason);
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_session_ages_but_a_clock_that_jumped_back_does_not_kill_it() {
        let (journal, _) = Journal::create(Path::new("/nonexistent/a.journal"), header(1));
        assert!(journal.is_alive(DateTime::UNIX_EPOCH + TimeDelta::days(5)));
        assert!(!journal.is_alive(DateTime::UNIX_EPOCH + TimeDelta::days(7)));
        assert!(journal.is_alive(DateTime::UNIX_EPOCH - TimeDelta::days(300)));
    }
}
