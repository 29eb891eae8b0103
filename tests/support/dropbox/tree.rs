//! The account: files and folders by their lower-case paths.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use super::content::Content;
use super::listing::Cursor;
use super::paths::{PathName, Tags, name_of};
use super::{clock, random};

/// What a test may want to know about a stored file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    /// The path as the client wrote it.
    pub path_display: String,
    /// Bytes.
    pub size: u64,
    /// The content hash in hexadecimal digits; empty if the server does not hash.
    pub content_hash: String,
    /// The time the client gave, or the time of the upload.
    pub client_modified: String,
    /// Changes with every write.
    pub rev: String,
}

/// How a conflict is decided.
#[derive(Debug, Clone)]
pub enum Mode {
    /// An existing file stays.
    Add,
    /// An existing file is replaced.
    Overwrite,
    /// An existing file is replaced if it has this rev.
    Update(String),
}

/// Where and how a file is written.
#[derive(Debug, Clone)]
pub struct Commit {
    /// The path, or the id of an existing file.
    pub path: String,
    /// What happens to another file at the path.
    pub mode: Mode,
    /// Choose another name rather than fail.
    pub autorename: bool,
    /// The time to be stored.
    pub client_modified: Option<String>,
    /// The same content at the same path is a conflict as well.
    pub strict: bool,
}

pub(super) struct File {
    rev: String,
    content: Content,
    client_modified: String,
    server_modified: String,
}

pub(super) struct Node {
    display: String,
    id: String,
    /// When it changed last, counted in changes of the whole account.
    pub(super) changed: u64,
    pub(super) file: Option<File>,
}

pub(super) struct Removed {
    pub(super) lower: String,
    pub(super) display: String,
    pub(super) changed: u64,
}

/// All files and folders, and the listings of them under way.
pub struct Tree {
    /// Bytes the account may hold.
    pub quota: u64,
    pub(super) nodes: BTreeMap<String, Node>,
    pub(super) removed: Vec<Removed>,
    pub(super) changes: u64,
    pub(super) cursors: HashMap<String, Cursor>,
}

const NOT_FOUND: Tags = &["not_found"];

impl Tree {
    /// An empty account.
    pub fn new(quota: u64) -> Self {
        Self {
            quota,
            nodes: BTreeMap::new(),
            removed: Vec::new(),
            changes: 0,
            cursors: HashMap::new(),
        }
    }

    /// Bytes of all files.
    pub fn used(&self) -> u64 {
        self.nodes
            .values()
            .filter_map(|node| node.file.as_ref())
            .map(|file| file.content.size)
            .sum()
    }

    /// All files, by path.
    pub fn files(&self) -> Vec<StoredFile> {
        let stored = |node: &Node| {
            let file = node.file.as_ref()?;
            Some(StoredFile {
                path_display: node.display.clone(),
                size: file.content.size,
                content_hash: file.content.hash.clone().unwrap_or_default(),
                client_modified: file.client_modified.clone(),
                rev: file.rev.clone(),
            })
        };
        self.nodes.values().filter_map(stored).collect()
    }

    /// The key of a path in any of its forms; the root is the empty key.
    pub(super) fn find(&self, path: &str) -> Result<String, Tags> {
        if path.is_empty() {
            return Ok(String::new());
        }
        let node = |fits: &dyn Fn(&Node) -> bool| self.nodes.iter().find(|(_, node)| fits(node));
        let found = if path.starts_with("id:") {
            node(&|node| node.id == path)
        } else if let Some(rev) = path.strip_prefix("rev:") {
            node(&|node| node.file.as_ref().is_some_and(|file| file.rev == rev))
        } else {
            // A name that may not be stored is simply not there.
            let lower = match PathName::parse(path) {
                Ok(path) => path.lower,
                Err(["malformed_path"]) => return Err(&["malformed_path"]),
                Err(_) => return Err(NOT_FOUND),
            };
            self.nodes.get_key_value(&lower)
        };
        found.map(|(key, _)| key.clone()).ok_or(NOT_FOUND)
    }

    /// Metadata with its `.tag`.
    pub fn metadata(&self, path: &str) -> Result<Value, Tags> {
        let key = self.find(path)?;
        Ok(described(&key, self.nodes.get(&key).ok_or(NOT_FOUND)?))
    }

    /// The content of a file.
    pub fn content(&self, path: &str) -> Result<Content, Tags> {
        let node = self
            .nodes
            .get(&self.find(path)?)
            .ok_or(&["not_file"] as Tags)?;
        node.file
            .as_ref()
            .map(|file| file.content.clone())
            .ok_or(&["not_file"])
    }

    /// Puts a file somewhere, without asking.
    pub fn put_file(&mut self, path: &str, content: &Content) {
        let commit = Commit {
            path: path.into(),
            mode: Mode::Overwrite,
            autorename: false,
            client_modified: None,
            strict: false,
        };
        self.commit(&commit, content).expect("a path for a file");
    }

    /// Writes a file by all the rules; its metadata without `.tag`.
    pub fn commit(&mut self, commit: &Commit, content: &Content) -> Result<Value, Tags> {
        let mut path = if commit.path.starts_with("id:") {
            let key = self
                .find(&commit.path)
                .map_err(|_| &["conflict", "file"] as Tags)?;
            PathName {
                display: self.nodes[&key].display.clone(),
                lower: key,
            }
        } else {
            PathName::parse(&commit.path)?
        };
        self.check_ancestors(&path)?;
        if let Err(conflict) = self.conflict(&path, commit, content) {
            if !commit.autorename {
                return Err(conflict);
            }
            path = self.free_name(&path, matches!(commit.mode, Mode::Update(_)));
        }
        let existing = self
            .nodes
            .get(&path.lower)
            .and_then(|node| Some((node, node.file.as_ref()?)));
        if let Some((node, file)) = existing
            && same(&file.content, content)
            && !commit.strict
        {
            return Ok(untagged(&path.lower, node));
        }
        let freed = existing.map_or(0, |(_, file)| file.content.size);
        if self.used() - freed + content.size > self.quota {
            return Err(&["insufficient_space"]);
        }
        let id = existing.map_or_else(new_id, |(node, _)| node.id.clone());
        self.make_ancestors(&path);
        let (changed, now) = (self.change(), clock::now());
        let file = File {
            rev: format!("5f{:04x}{changed:09x}", u16::from_le_bytes(random::bytes())),
            content: content.clone(),
            client_modified: commit
                .client_modified
                .clone()
                .unwrap_or_else(|| now.clone()),
            server_modified: now,
        };
        let node = Node {
            display: path.display,
            id,
            changed,
            file: Some(file),
        };
        let metadata = untagged(&path.lower, &node);
        self.nodes.insert(path.lower, node);
        Ok(metadata)
    }

    fn conflict(&self, path: &PathName, commit: &Commit, content: &Content) -> Result<(), Tags> {
        let conflict: Result<(), Tags> = Err(&["conflict", "file"]);
        match (self.nodes.get(&path.lower), &commit.mode) {
            (None, Mode::Update(_)) if commit.strict => conflict,
            (None, _) => Ok(()),
            (Some(Node { file: None, .. }), _) => Err(&["conflict", "folder"]),
            (
                Some(Node {
                    file: Some(file), ..
                }),
                mode,
            ) => match mode {
                _ if !commit.strict && same(&file.content, content) => Ok(()),
                Mode::Overwrite => Ok(()),
                Mode::Update(rev) if *rev == file.rev => Ok(()),
                Mode::Add | Mode::Update(_) => conflict,
            },
        }
    }

    fn check_ancestors(&self, path: &PathName) -> Result<(), Tags> {
        let file = |above: PathName| {
            self.nodes
                .get(&above.lower)
                .is_some_and(|node| node.file.is_some())
        };
        if path.ancestors().any(file) {
            Err(&["conflict", "file_ancestor"])
        } else {
            Ok(())
        }
    }

    fn make_ancestors(&mut self, path: &PathName) {
        for above in path.ancestors() {
            if !self.nodes.contains_key(&above.lower) {
                let changed = self.change();
                let node = Node {
                    display: above.display,
                    id: new_id(),
                    changed,
                    file: None,
                };
                self.nodes.insert(above.lower, node);
            }
        }
    }

    fn free_name(&self, path: &PathName, conflicted: bool) -> PathName {
        let name = name_of(&path.display);
        let (stem, end) = name
            .rfind('.')
            .filter(|at| *at > 0)
            .map_or((name, ""), |at| name.split_at(at));
        let first = conflicted.then(|| format!("{stem} (conflicted copy){end}"));
        let numbered = (1..).map(|number| format!("{stem} ({number}){end}"));
        first
            .into_iter()
            .chain(numbered)
            .map(|name| path.renamed(&name))
            .find(|path| !self.nodes.contains_key(&path.lower))
            .expect("numbers do not end")
    }

    /// Makes a folder and its parents; its metadata without `.tag`.
    pub fn create_folder(&mut self, path: &str, autorename: bool) -> Result<Value, Tags> {
        let mut path = PathName::parse(path)?;
        self.check_ancestors(&path)?;
        if let Some(node) = self.nodes.get(&path.lower) {
            if !autorename {
                return Err(if node.file.is_some() {
                    &["conflict", "file"]
                } else {
                    &["conflict", "folder"]
                });
            }
            path = self.free_name(&path, false);
        }
        self.make_ancestors(&path);
        let changed = self.change();
        let node = Node {
            display: path.display,
            id: new_id(),
            changed,
            file: None,
        };
        let metadata = untagged(&path.lower, &node);
        self.nodes.insert(path.lower, node);
        Ok(metadata)
    }

    /// Removes a file of that rev, or a file or folder with all in it; its metadata as it was.
    pub fn delete(&mut self, path: &str, rev: Option<&str>) -> Result<Value, Tags> {
        let key = self.find(path).map_err(|tags| match tags {
            ["malformed_path"] => &["path_lookup", "malformed_path"] as Tags,
            _ => &["path_lookup", "not_found"],
        })?;
        let node = self
            .nodes
            .get(&key)
            .ok_or(&["path_lookup", "not_found"] as Tags)?;
        if let Some(rev) = rev {
            match &node.file {
                None => return Err(&["path_lookup", "not_file"]),
                Some(file) if file.rev != rev => return Err(&["path_write", "conflict", "file"]),
                Some(_) => {}
            }
        }
        let metadata = described(&key, node);
        for (lower, node) in self.take_subtree(&key) {
            let changed = self.change();
            self.removed.push(Removed {
                lower,
                display: node.display,
                changed,
            });
        }
        Ok(metadata)
    }

    /// Moves a file or folder with all in it; its new metadata with `.tag`.
    pub fn relocate(&mut self, from: &str, to: &str, autorename: bool) -> Result<Value, Tags> {
        let key = self
            .find(from)
            .map_err(|_| &["from_lookup", "not_found"] as Tags)?;
        let mut target = PathName::parse(to).map_err(|tags| match tags {
            ["disallowed_name"] => &["to", "disallowed_name"] as Tags,
            _ => &["to", "malformed_path"],
        })?;
        if target.lower.starts_with(&format!("{key}/")) {
            return Err(&["cant_move_folder_into_itself"]);
        }
        if self.check_ancestors(&target).is_err() {
            return Err(&["to", "conflict", "file_ancestor"]);
        }
        if target.lower != key
            && let Some(other) = self.nodes.get(&target.lower)
        {
            if !autorename {
                let file = other.file.is_some();
                return Err(if file {
                    &["to", "conflict", "file"]
                } else {
                    &["to", "conflict", "folder"]
                });
            }
            target = self.free_name(&target, false);
        }
        self.make_ancestors(&target);
        for (lower, mut node) in self.take_subtree(&key) {
            let changed = self.change();
            let display = format!("{}{}", target.display, &node.display[key.len()..]);
            let old = std::mem::replace(&mut node.display, display.clone());
            self.removed.push(Removed {
                lower,
                display: old,
                changed,
            });
            node.changed = self.change();
            self.nodes.insert(display.to_lowercase(), node);
        }
        Ok(described(&target.lower, &self.nodes[&target.lower]))
    }

    fn take_subtree(&mut self, key: &str) -> Vec<(String, Node)> {
        let below = format!("{key}/");
        self.nodes
            .extract_if(.., |lower, _| lower == key || lower.starts_with(&below))
            .collect()
    }

    fn change(&mut self) -> u64 {
        self.changes += 1;
        self.changes
    }
}

fn new_id() -> String {
    format!("id:{}", &random::id()[..22])
}

/// Whether a write would change nothing. Without hashes that cannot be known.
fn same(old: &Content, new: &Content) -> bool {
    old.size == new.size && old.hash.is_some() && old.hash == new.hash
}

/// Metadata where the type is clear from the place.
fn untagged(lower: &str, node: &Node) -> Value {
    let mut value = json!({
        "name": name_of(&node.display),
        "path_lower": lower,
        "path_display": node.display,
        "id": node.id,
    });
    if let Some(file) = &node.file {
        value["client_modified"] = file.client_modified.as_str().into();
        value["server_modified"] = file.server_modified.as_str().into();
        value["rev"] = file.rev.as_str().into();
        value["size"] = file.content.size.into();
        value["is_downloadable"] = true.into();
        if let Some(hash) = &file.content.hash {
            value["content_hash"] = hash.as_str().into();
        }
    }
    value
}

/// Metadata where it may be of a file or a folder.
pub(super) fn described(lower: &str, node: &Node) -> Value {
    let mut value = untagged(lower, node);
    value[".tag"] = if node.file.is_some() {
        "file"
    } else {
        "folder"
    }
    .into();
    value
}
