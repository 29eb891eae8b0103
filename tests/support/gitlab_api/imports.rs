//! Imports: the form that brings the file, and how far GitLab is with it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};

use flate2::read::MultiGzDecoder;
use ring::digest::{Context, SHA256};
use serde_json::{Value, json};

use super::super::web::random::hex;
use super::answer::{Answer, Reply, not_found};
use super::client;
use super::limits::Limit;
use super::model::{Access, Home, Import};
use super::routes::Call;

/// The file of a form.
pub struct Received {
    /// All of it.
    pub file: File,
    /// In hexadecimal digits.
    pub sha256: String,
    /// Its name, as the client gave it.
    pub name: String,
}

/// The part of a form that is being read.
enum Part {
    Field(String, Vec<u8>),
    File(String, File, Box<Context>),
    Ignored,
}

/// A multipart form, read piece by piece; its file never is in memory.
pub struct Form {
    /// What ends a part.
    delimiter: Vec<u8>,
    buffer: Vec<u8>,
    part: Option<Part>,
    in_head: bool,
    fields: BTreeMap<String, String>,
    file: Option<Received>,
}

impl Form {
    /// Nothing read yet.
    pub fn new(boundary: &str) -> Self {
        Self {
            delimiter: format!("\r\n--{boundary}").into_bytes(),
            // So that the first delimiter looks like all others.
            buffer: b"\r\n".to_vec(),
            part: Some(Part::Ignored),
            in_head: false,
            fields: BTreeMap::new(),
            file: None,
        }
    }

    /// The next bytes.
    pub fn feed(&mut self, piece: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(piece);
        loop {
            if self.in_head {
                let Some(end) = find(&self.buffer, b"\r\n\r\n") else {
                    return Ok(());
                };
                let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.drain(..end + 4);
                self.part = Some(part(&head)?);
                self.in_head = false;
            }
            let Some(end) = find(&self.buffer, &self.delimiter) else {
                let sure = self.buffer.len().saturating_sub(self.delimiter.len());
                let sure: Vec<_> = self.buffer.drain(..sure).collect();
                return self.take(&sure);
            };
            let rest: Vec<_> = self.buffer.drain(..end).collect();
            self.take(&rest)?;
            self.buffer.drain(..self.delimiter.len());
            self.close();
            self.in_head = true;
        }
    }

    /// What came: the fields, and the file.
    pub fn finish(self) -> (BTreeMap<String, String>, Option<Received>) {
        (self.fields, self.file)
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.part {
            Some(Part::Field(_, value)) => value.extend_from_slice(bytes),
            Some(Part::File(_, file, digest)) => {
                file.write_all(bytes)?;
                digest.update(bytes);
            }
            Some(Part::Ignored) | None => {}
        }
        Ok(())
    }

    fn close(&mut self) {
        match self.part.take() {
            Some(Part::Field(name, value)) => {
                self.fields
                    .insert(name, String::from_utf8_lossy(&value).into_owned());
            }
            Some(Part::File(name, file, digest)) => {
                let sha256 = hex(digest.finish().as_ref());
                self.file = Some(Received { file, sha256, name });
            }
            Some(Part::Ignored) | None => {}
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|byte| *byte == what[0]) {
        if bytes[from + at..].starts_with(what) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

fn part(head: &str) -> io::Result<Part> {
    let parameter = |name: &str| {
        let (_, rest) = head.split_once(&format!("; {name}=\""))?;
        rest.split('"').next().map(str::to_owned)
    };
    let name = parameter("name").unwrap_or_default();
    Ok(match parameter("filename") {
        Some(file) if name == "file" => {
            Part::File(file, tempfile::tempfile()?, Box::new(Context::new(&SHA256)))
        }
        Some(_) => Part::Ignored,
        None => Part::Field(name, Vec::new()),
    })
}

/// The word of `import_status`.
pub fn word(import: Option<&Import>) -> &'static str {
    match import {
        None => "none",
        Some(import) => match (import.polls, &import.error) {
            ([scheduled, _], _) if scheduled > 0 => "scheduled",
            ([_, started], _) if started > 0 => "started",
            (_, Some(_)) => "failed",
            (_, None) => "finished",
        },
    }
}

/// `POST /projects/import`.
pub fn import(call: &Call) -> Answer {
    let user = call.somebody()?;
    counted(call, user)?;
    let missing = |name: &str| Reply::error(400, format!("{name} is missing"));
    let file = call.file.as_ref().ok_or_else(|| missing("file"))?;
    let path = call.query("path").ok_or_else(|| missing("path"))?;
    let error = examine(&file.file).err();
    create(call, user, path, file.sha256.clone(), error)
}

/// `POST /projects/remote-import`.
pub fn remote(call: &Call) -> Answer {
    let user = call.somebody()?;
    counted(call, user)?;
    let missing = |name: &str| Reply::error(400, format!("{name} is missing"));
    let url = call.query("url").ok_or_else(|| missing("url"))?;
    let path = call.query("path").ok_or_else(|| missing("path"))?;
    if !url.starts_with("http://") && !url.starts_with("https://") {
        return Err(Reply::message(
            400,
            "File url is blocked: Only allowed schemes are http, https",
        ));
    }
    let (sha256, error) = match client::fetch(call.shared, url) {
        Ok(received) => (received.sha256, examine(&received.file).err()),
        Err(error) => (
            String::new(),
            Some(format!("The file could not be fetched: {error}")),
        ),
    };
    create(call, user, path, sha256, error)
}

fn counted(call: &Call, user: u64) -> Answer<()> {
    let mut state = call.shared.state();
    let limits = state.settings.limits;
    let standing = state.counted.count(
        Limit::Import,
        (user, 0),
        &limits,
        call.shared.options.minute,
    );
    standing.refusal().map_or(Ok(()), Err)
}

fn create(call: &Call, user: u64, path: &str, sha256: String, broken: Option<String>) -> Answer {
    let mut state = call.shared.state();
    let state = &mut *state;
    let world = &mut state.world;
    let above = match ["namespace", "namespace_id", "namespace_path"]
        .into_iter()
        .find_map(|name| call.query(name))
    {
        None | Some("") => world.users[&user].username.clone(),
        Some(asked) => {
            let group = asked
                .parse::<u64>()
                .ok()
                .filter(|id| world.groups.contains_key(id));
            let group = group.or_else(|| world.group_at(asked));
            let group = group.and_then(|id| world.groups.get(&id));
            let group = group.filter(|group| world.sees_group(Some(user), group));
            match group {
                Some(group) => {
                    let may = world.is_admin(user)
                        || world.access_to_group(user, group.id) >= Access::Maintainer;
                    if !may {
                        return Err(Reply::message(400, "Namespace is not valid"));
                    }
                    group.full_path.clone()
                }
                None if world.users[&user].username == asked || asked == user.to_string() => {
                    world.users[&user].username.clone()
                }
                None => return Err(not_found("Namespace")),
            }
        }
    };
    let full_path = format!("{above}/{path}");
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    if path.is_empty() || !path.chars().all(fits) || path.starts_with(['-', '.']) {
        let why = "Path can contain only letters, digits, '_', '-' and '.'. Cannot start with '-', end in '.git' or \
                   end in '.atom'.";
        return Err(Reply::message(400, why));
    }
    if world.project_at(&full_path).is_some() || world.group_at(&full_path).is_some() {
        return Err(Reply::message(
            400,
            "Project namespace name has already been taken",
        ));
    }
    let now = chrono::Utc::now() + chrono::TimeDelta::seconds(call.shared.options.clock_ahead);
    let id = world.project(&full_path);
    let project = world.projects.get_mut(&id).expect("a new project");
    if matches!(project.home, Home::User(_)) {
        project.members.insert(user, Access::Owner);
    }
    project.import = Some(Import {
        created_at: now.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
        polls: state.settings.import_polls,
        error: broken.or_else(|| state.settings.import_error.clone()),
        failed_relations: state.settings.failed_relations.clone(),
        sha256,
    });
    let shown = show(state.world.projects.get(&id).expect("a new project"));
    Ok(Reply::json(201, &shown))
}

/// `GET /projects/:id/import`.
pub fn status(call: &Call) -> Answer {
    let mut state = call.shared.state();
    let id = call.project(&state.world)?.id;
    let project = state
        .world
        .projects
        .get_mut(&id)
        .expect("a project that was found");
    let shown = show(project);
    if let Some(import) = &mut project.import
        && let Some(left) = import.polls.iter_mut().find(|left| **left > 0)
    {
        *left -= 1;
    }
    Ok(Reply::json(200, &shown))
}

fn show(project: &super::model::Project) -> Value {
    let path = &project.full_path;
    let name = path.rsplit_once('/').map_or("", |(_, name)| name);
    let word = word(project.import.as_ref());
    let made = project
        .import
        .as_ref()
        .map_or("2020-01-01T00:00:00.000Z", |import| &import.created_at);
    let over = matches!(word, "finished" | "failed");
    let import = project.import.as_ref().filter(|_| over);
    let failed = import
        .map(|import| import.failed_relations.as_slice())
        .unwrap_or_default();
    let failed = failed.iter().enumerate().map(|(number, (relation, class))| {
        json!({
            "id": number + 1, "created_at": "2026-01-01T00:00:00.000Z", "exception_class": class,
            "exception_message": null, "source": "process_relation_item!", "relation_name": relation,
            "line_number": number,
        })
    });
    json!({
        "id": project.id, "description": project.description, "name": name, "path": name,
        "name_with_namespace": path.replace('/', " / "), "path_with_namespace": path,
        "created_at": made, "import_status": word, "import_type": "gitlab_project",
        "correlation_id": "01HZXJ5C9Q", "failed_relations": failed.collect::<Vec<_>>(),
        "import_error": import.and_then(|import| import.error.clone()), "stats": null,
    })
}

/// What GitLab finds wrong with a file, as far as it looks before it imports relations.
fn examine(file: &File) -> Result<(), String> {
    let broken = |error: io::Error| format!("The file could not be extracted: {error}");
    let mut file = file.try_clone().map_err(broken)?;
    file.seek(SeekFrom::Start(0)).map_err(broken)?;
    let mut tar = MultiGzDecoder::new(io::BufReader::new(file));
    let mut found = [false; 2];
    loop {
        let mut header = [0; 512];
        tar.read_exact(&mut header).map_err(broken)?;
        if header == [0; 512] {
            break;
        }
        let name = header[..100]
            .split(|byte| *byte == 0)
            .next()
            .unwrap_or_default();
        found[0] |= name == b"./VERSION" || name == b"VERSION";
        found[1] |= name == b"./tree/project.json" || name == b"tree/project.json";
        let len = String::from_utf8_lossy(&header[124..135]);
        let len = u64::from_str_radix(len.trim_matches(['\0', ' ']), 8);
        let len = len.map_err(|_| "The file could not be extracted: no tar".to_owned())?;
        io::copy(
            &mut (&mut tar).take(len.next_multiple_of(512)),
            &mut io::sink(),
        )
        .map_err(broken)?;
    }
    // To its end, where the checksum is.
    io::copy(&mut tar, &mut io::sink()).map_err(broken)?;
    match found {
        [true, true] => Ok(()),
        [false, _] => Err("Import version mismatch: no VERSION".to_owned()),
        _ => Err("Incorrect archive: no tree/project.json".to_owned()),
    }
}
