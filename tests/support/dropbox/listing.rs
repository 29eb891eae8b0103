//! Listings of folders: pages, and what has changed since the last one.

use std::sync::Arc;

use serde_json::{Value, json};

use super::paths::{Tags, name_of, without_namespace};
use super::random;
use super::tree::{Tree, described};

/// Where a listing goes on.
#[derive(Clone)]
pub struct Cursor {
    folder: String,
    recursive: bool,
    page: usize,
    entries: Arc<Vec<Value>>,
    next: usize,
    seen: u64,
}

impl Tree {
    /// The first page of a folder.
    pub fn list(
        &mut self,
        path: &str,
        recursive: bool,
        page: usize,
        empty: bool,
    ) -> Result<Value, Tags> {
        let folder = self.find(without_namespace(path))?;
        if self
            .nodes
            .get(&folder)
            .is_some_and(|node| node.file.is_some())
        {
            return Err(&["not_folder"]);
        }
        let cursor = Cursor {
            folder,
            recursive,
            page,
            entries: Arc::default(),
            next: 0,
            seen: 0,
        };
        let cursor = self.refilled(&cursor);
        Ok(self.page(cursor, if empty { 0 } else { page }))
    }

    /// The next page, or what has changed since the last one; none if there is no such cursor.
    pub fn list_on(&mut self, cursor: &str) -> Option<Value> {
        let mut cursor = self.cursors.get(cursor)?.clone();
        if cursor.next == cursor.entries.len() {
            cursor = self.refilled(&cursor);
        }
        let page = cursor.page;
        Some(self.page(cursor, page))
    }

    /// The cursor with all that has changed since it last looked, newest first: no order is promised.
    fn refilled(&self, cursor: &Cursor) -> Cursor {
        let below = format!("{}/", cursor.folder);
        let inside = |lower: &str| {
            let own = cursor.recursive && lower == cursor.folder;
            own || lower
                .strip_prefix(&below)
                .is_some_and(|rest| cursor.recursive || !rest.contains('/'))
        };
        let removed = self
            .removed
            .iter()
            .filter(|gone| cursor.seen > 0 && gone.changed > cursor.seen);
        let removed =
            removed.filter(|gone| inside(&gone.lower) && !self.nodes.contains_key(&gone.lower));
        let removed = removed.map(|gone| {
            let name = name_of(&gone.display);
            json!({ ".tag": "deleted", "name": name, "path_lower": gone.lower, "path_display": gone.display })
        });
        let present = self
            .nodes
            .iter()
            .rev()
            .filter(|(_, node)| node.changed > cursor.seen);
        let present = present
            .filter(|(lower, _)| inside(lower))
            .map(|(lower, node)| described(lower, node));
        let entries = Arc::new(removed.chain(present).collect());
        // At least 1, as 0 means that nothing was listed yet.
        Cursor {
            entries,
            next: 0,
            seen: self.changes.max(1),
            ..cursor.clone()
        }
    }

    fn page(&mut self, mut cursor: Cursor, length: usize) -> Value {
        let end = (cursor.next + length).min(cursor.entries.len());
        let entries = cursor.entries[cursor.next..end].to_vec();
        let has_more = end < cursor.entries.len();
        cursor.next = end;
        let id = format!("AA{}", random::id());
        self.cursors.insert(id.clone(), cursor);
        json!({ "entries": entries, "cursor": id, "has_more": has_more })
    }
}
