//! Which project has which repository: read from the dump of GitLab's database.
//!
//! A repository's folder is called by a hash since GitLab 10, and only the database knows whose it is: `routes` has
//! the full paths, `project_repositories` the folders. What one of them lacks is put together from `projects` and
//! `namespaces`; a folder that is told nowhere follows from the project's number
//! (<https://docs.gitlab.com/administration/repository_storage_paths/#hashed-storage>).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Write as _;
use std::io::{self, BufRead};

use ring::digest::{SHA256, digest};

use super::format::copy::{self, Row, Table};

/// What is read of the database.
const TABLES: [Table; 4] = [
    Table {
        name: "namespaces",
        columns: &["id", "path", "parent_id"],
    },
    Table {
        name: "project_repositories",
        columns: &["project_id", "disk_path"],
    },
    Table {
        name: "projects",
        columns: &["id", "path", "namespace_id", "storage_version"],
    },
    Table {
        name: "routes",
        columns: &["source_type", "source_id", "path"],
    },
];
/// Groups are not nested deeper.
const DEEPEST: usize = 20;
/// What a value takes in memory beside its own bytes, roughly.
const PER_VALUE: usize = 64;

/// A project and where its repositories are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Project {
    /// Its number.
    pub id: u64,
    /// With its groups: `group/app`.
    pub path: String,
    /// Of its repository, without `.git`: `@hashed/aa/bb/…`.
    pub disk_path: String,
}

#[derive(Default)]
struct Found {
    namespaces: BTreeMap<u64, (String, Option<u64>)>,
    places: BTreeMap<u64, String>,
    projects: BTreeMap<u64, (String, Option<u64>, Option<u64>)>,
    routes: BTreeMap<u64, String>,
}

/// Reads them from a dump, by their paths. Fails where more than `most` bytes of memory were needed.
pub fn read(dump: &mut dyn BufRead, most: usize) -> io::Result<Vec<Project>> {
    let mut found = Found::default();
    let mut taken = 0;
    copy::read(dump, &TABLES, &mut |table, row| {
        taken += found.add(table, row).unwrap_or(0);
        if taken > most {
            let what = "it has more projects than are looked at";
            return Err(io::Error::new(io::ErrorKind::Unsupported, what));
        }
        Ok(())
    })?;
    Ok(found.projects())
}

impl Found {
    /// Takes a row; how much memory that needs.
    fn add(&mut self, table: usize, row: Row) -> Option<usize> {
        let mut row = row.into_iter();
        let mut next = || row.next().flatten();
        let number = |text: Option<String>| text?.parse::<u64>().ok();
        let size = match TABLES[table].name {
            "namespaces" => {
                let (id, path) = (number(next())?, next()?);
                let size = path.len();
                self.namespaces.insert(id, (path, number(next())));
                size
            }
            "project_repositories" => {
                let (id, path) = (number(next())?, next()?);
                let size = path.len();
                self.places.insert(id, path);
                size
            }
            "projects" => {
                let (id, path) = (number(next())?, next().unwrap_or_default());
                let (size, namespace) = (path.len(), number(next()));
                self.projects.insert(id, (path, namespace, number(next())));
                size
            }
            _ => {
                if next()? != "Project" {
                    return None;
                }
                let (id, path) = (number(next())?, next()?);
                let size = path.len();
                // A project that was moved may have left an older row.
                match self.routes.entry(id) {
                    Entry::Vacant(entry) => entry.insert(path),
                    Entry::Occupied(_) => return None,
                };
                size
            }
        };
        Some(size + PER_VALUE)
    }

    fn projects(mut self) -> Vec<Project> {
        let mut ids: Vec<_> = self.projects.keys().chain(self.places.keys()).collect();
        ids.extend(self.routes.keys());
        let mut ids: Vec<_> = ids.into_iter().copied().collect();
        ids.sort_unstable();
        ids.dedup();
        let mut all = Vec::new();
        for id in ids {
            let path = self.routes.remove(&id).or_else(|| self.chain(id));
            let place = self.places.remove(&id);
            let storage = self.projects.get(&id).map(|project| project.2);
            let place = match (place, &path, storage) {
                (Some(place), _, _) => place,
                // Where the column tells that it was never moved to a hashed folder.
                (None, Some(path), Some(Some(0))) => path.clone(),
                (None, _, _) => hashed(id),
            };
            all.push(Project {
                id,
                path: path.unwrap_or_else(|| place.clone()),
                disk_path: place,
            });
        }
        all.sort_by(|a, b| a.path.cmp(&b.path).then(a.id.cmp(&b.id)));
        all
    }

    /// A project's path, put together from its groups'.
    fn chain(&self, id: u64) -> Option<String> {
        let (path, namespace, _) = self.projects.get(&id)?;
        let mut namespace = *namespace;
        if path.is_empty() {
            return None;
        }
        let mut parts = vec![path.as_str()];
        while let Some(id) = namespace {
            let (path, parent) = self.namespaces.get(&id)?;
            if parts.len() > DEEPEST {
                return None;
            }
            parts.push(path);
            namespace = *parent;
        }
        parts.reverse();
        Some(parts.join("/"))
    }
}

/// The folder of a project's repository by its number.
pub fn hashed(id: u64) -> String {
    let mut hash = String::new();
    for byte in digest(&SHA256, id.to_string().as_bytes()).as_ref() {
        // Writing to a string cannot fail.
        let _ = write!(hash, "{byte:02x}");
    }
    format!("@hashed/{}/{}/{hash}", &hash[..2], &hash[2..4])
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMESPACES: &str = "COPY public.namespaces (id, name, path, type, parent_id) FROM stdin;\n\
        2\tDemo\tdemo\tGroup\t\\N\n3\tApps\tapps\tGroup\t2\n4\tLoop\tloop\tGroup\t4\n\\.\n";
    const PLACES: &str = "COPY public.project_repositories (id, disk_path, project_id) FROM stdin;\n\
        1\t@hashed/d4/73/d473\t2\n\\.\n";
    const PROJECTS: &str =
        "COPY public.projects (namespace_id, path, id) FROM stdin;\n3\tshop\t2\n2\tnew\t5\n\\.\n";
    const ROUTES: &str = "COPY public.routes (path, source_id, source_type) FROM stdin;\n\
        demo\t2\tNamespace\ndemo/apps/shop\t2\tProject\n\\.\n";

    fn paths(tables: &[&str]) -> Vec<(String, String)> {
        let text = tables.concat();
        let all = read(&mut text.as_bytes(), 1 << 20).expect("read");
        all.into_iter()
            .map(|project| (project.path, project.disk_path))
            .collect()
    }

    #[test]
    fn every_table_may_be_missing() {
        let (shop, new) = ("demo/apps/shop".to_owned(), "demo/new".to_owned());
        let (told, fifth) = ("@hashed/d4/73/d473".to_owned(), hashed(5));
        let all = [(shop.clone(), told.clone()), (new, fifth.clone())];
        assert_eq!(paths(&[NAMESPACES, PLACES, PROJECTS, ROUTES]), all);
        assert_eq!(paths(&[ROUTES, PROJECTS, PLACES, NAMESPACES]), all);
        assert_eq!(paths(&[NAMESPACES, PLACES, PROJECTS]), all);
        assert_eq!(
            paths(&[NAMESPACES, PROJECTS, ROUTES]),
            [(shop.clone(), hashed(2)), all[1].clone()]
        );
        assert_eq!(
            paths(&[PLACES, PROJECTS]),
            [(told.clone(), told.clone()), (fifth.clone(), fifth)]
        );
        assert_eq!(paths(&[PLACES, ROUTES]), [(shop.clone(), told)]);
        assert_eq!(paths(&[ROUTES]), [(shop, hashed(2))]);
        assert_eq!(paths(&[]), []);
    }

    #[test]
    fn a_project_of_the_time_before_hashes_stands_under_its_path() {
        let text = "COPY public.projects (id, path, namespace_id, storage_version) FROM stdin;\n\
            1\told\t2\t0\n3\tnew\t2\t2\n\\.\n";
        assert_eq!(
            paths(&[NAMESPACES, text]),
            [
                ("demo/new".to_owned(), hashed(3)),
                ("demo/old".to_owned(), "demo/old".to_owned())
            ]
        );
    }

    #[test]
    fn strange_ones_do_no_harm() {
        let text = "COPY public.projects (id, path, namespace_id) FROM stdin;\n\
            x\ta\t2\n-1\tb\t2\n6\tc\t4\n7\t\\N\t\\N\n\\.\n";
        let found = paths(&[NAMESPACES, text]);
        assert_eq!(
            found,
            [(hashed(7), hashed(7)), (hashed(6), hashed(6))],
            "groups in a circle end"
        );
        assert!(read(&mut ROUTES.as_bytes(), 10).is_err());
        // As GitLab's documentation has it.
        assert_eq!(
            hashed(1),
            "@hashed/6b/86/6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
        );
    }
}
