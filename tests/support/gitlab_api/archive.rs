//! The archive of an export, laid out as GitLab packs it.

use std::fmt;
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write};
use std::os::unix::fs::FileExt as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use ring::digest::{Context, SHA256};
use serde_json::json;

use super::super::web::random::hex;
use super::model::Project;

/// Larger ones lie in a file.
const IN_MEMORY: u64 = 1 << 20;
/// How much filler is written at a time, and how much of an archive is sent at a time.
const PIECE: usize = 64 << 10;
/// `project.bundle`: a repository with one commit.
const BUNDLE: &[u8] = include_bytes!("../backup/bundles/wiki-1.bundle");

enum Bytes {
    Memory(Vec<u8>),
    File(File),
}

/// An export that can be read at any place, as often as one likes.
pub struct Archive {
    bytes: Bytes,
    /// In bytes.
    pub len: u64,
    /// In hexadecimal digits.
    pub sha256: String,
    /// What GitLab calls it.
    pub name: String,
    /// When it was made, as a `Last-Modified` header tells it.
    pub modified: String,
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.name, self.len)
    }
}

impl Archive {
    /// Packs a project. `serial` makes it differ from all others.
    pub fn pack(project: &Project, serial: u64, version: &str) -> io::Result<Archive> {
        let now = chrono::Utc::now();
        let file = (project.export_bytes > IN_MEMORY)
            .then(tempfile::tempfile)
            .transpose()?;
        let out = Hashed {
            out: match file {
                Some(file) => Bytes::File(file),
                None => Bytes::Memory(Vec::new()),
            },
            digest: Context::new(&SHA256),
            len: 0,
        };
        // What does not compress need not be tried: only the bulk of large ones matters for time.
        let level = u32::from(project.export_bytes <= IN_MEMORY);
        let mut tar = GzEncoder::new(out, Compression::new(level));
        write_members(&mut tar, project, serial, version)?;
        let out = tar.finish()?;
        let slug = project.full_path.replace('/', "_");
        Ok(Archive {
            bytes: out.out,
            len: out.len,
            sha256: hex(out.digest.finish().as_ref()),
            name: format!("{}_{slug}_export.tar.gz", now.format("%Y-%m-%d_%H-%M-%3f")),
            modified: now.format("%a, %d %b %Y %H:%M:%S GMT").to_string(),
        })
    }

    /// Hands `len` bytes from `from` to `sink`, some at a time.
    pub fn read(
        &self,
        from: u64,
        len: u64,
        mut sink: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut buffer = vec![0; PIECE];
        let mut at = from;
        let end = (from + len).min(self.len);
        while at < end {
            let piece = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
            match &self.bytes {
                Bytes::Memory(bytes) => {
                    let start = usize::try_from(at).expect("less than what is in memory");
                    sink(&bytes[start..start + piece])?;
                }
                Bytes::File(file) => {
                    file.read_exact_at(&mut buffer[..piece], at)?;
                    sink(&buffer[..piece])?;
                }
            }
            at += piece as u64;
        }
        Ok(())
    }

    /// All of it.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.read(0, self.len, |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })
        .expect("reading what was packed");
        bytes
    }
}

/// Takes what is packed, and hashes it on its way.
struct Hashed {
    out: Bytes,
    digest: Context,
    len: u64,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.out {
            Bytes::Memory(out) => out.extend_from_slice(bytes),
            Bytes::File(file) => {
                file.seek(SeekFrom::Start(self.len))?;
                file.write_all(bytes)?;
            }
        }
        self.digest.update(bytes);
        self.len += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_members(
    tar: &mut impl Write,
    project: &Project,
    serial: u64,
    version: &str,
) -> io::Result<()> {
    let (_, name) = project.full_path.rsplit_once('/').expect("a namespace");
    let tree = json!({
        "description": project.description,
        "visibility_level": 0,
        "archived": project.archived,
        "project_id": project.id,
        "path": name,
        "export_serial": serial,
    });
    let issue = |number: u64| {
        let issue = json!({
            "title": format!("Issue {number}"), "iid": number, "state": "opened",
            "project_id": project.id, "notes": [], "label_links": [],
        });
        issue.to_string() + "\n"
    };
    let texts = [
        ("./VERSION", "0.2.4".to_owned()),
        ("./GITLAB_VERSION", version.to_owned()),
        ("./GITLAB_REVISION", "1f9f0b26d5b".to_owned()),
        ("./tree/project.json", tree.to_string()),
        ("./tree/project/issues.ndjson", issue(1) + &issue(2)),
        ("./tree/project/labels.ndjson", String::new()),
        ("./tree/project/merge_requests.ndjson", String::new()),
        ("./tree/project/project_feature.ndjson", "null\n".to_owned()),
        ("./tree/project/ci_cd_settings.ndjson", "null\n".to_owned()),
        ("./lfs-objects.json", "{}".to_owned()),
    ];
    for folder in ["./", "./tree/", "./tree/project/"] {
        tar.write_all(&header(folder, 0, b'5'))?;
    }
    for (name, text) in &texts {
        member(tar, name, text.as_bytes())?;
    }
    member(tar, "./project.bundle", BUNDLE)?;
    let rest = project.export_bytes.saturating_sub(32 << 10);
    if rest > 0 {
        filler(
            tar,
            "./uploads/2b00042f7481c7b056c4b410d28f33cf/data.bin",
            rest,
            serial,
        )?;
    }
    // Two blocks of zeros, filled up to the record that tar writes.
    tar.write_all(&[0; 10_240])
}

fn member(tar: &mut impl Write, name: &str, data: &[u8]) -> io::Result<()> {
    tar.write_all(&header(name, data.len() as u64, b'0'))?;
    tar.write_all(data)?;
    tar.write_all(&[0; 512][..padding(data.len() as u64)])
}

/// A member of bytes that hardly compress and do not repeat.
fn filler(tar: &mut impl Write, name: &str, len: u64, serial: u64) -> io::Result<()> {
    tar.write_all(&header(name, len, b'0'))?;
    let mut state = serial.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut page: Vec<u8> = std::iter::repeat_with(&mut next)
        .take(PIECE / 8)
        .flatten()
        .collect();
    let mut left = len;
    while left > 0 {
        // One number in 64 KiB makes each page another one, at hardly any cost.
        page[..8].copy_from_slice(&next());
        let now = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        tar.write_all(&page[..now])?;
        left -= now as u64;
    }
    tar.write_all(&[0; 512][..padding(len)])
}

fn padding(len: u64) -> usize {
    usize::try_from(len.next_multiple_of(512) - len).expect("less than a block")
}

/// A header of GNU tar.
fn header(name: &str, len: u64, kind: u8) -> [u8; 512] {
    let mut header = [0; 512];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(
        100,
        if kind == b'5' {
            b"0000755\0"
        } else {
            b"0000644\0"
        },
    );
    put(108, b"0001746\0");
    put(116, b"0001746\0");
    put(124, format!("{len:011o}\0").as_bytes());
    put(136, b"14532064160\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar  \0git");
    put(297, b"git");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}
