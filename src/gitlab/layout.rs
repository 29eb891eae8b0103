//! Where a data archive keeps which repository: the three layouts that gitaly-backup, and GitLab before it, have
//! used (<https://gitlab.com/gitlab-org/gitaly/-/blob/master/internal/backup/locator.go>).
//!
//! | GitLab | a full bundle, below `repositories/` |
//! | --- | --- |
//! | 16 and later | `<storage>/<disk path>.git/<backup ID>/001.bundle`, and a manifest in `manifests/…` |
//! | 15 | `<disk path>/<backup ID>/001.bundle`, and `LATEST`, which names the newest |
//! | before | `<disk path>.bundle` |

use serde::Serialize;

/// Which of a project's repositories.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RepositoryKind {
    /// Its code.
    Repository,
    /// Its wiki.
    Wiki,
    /// The designs attached to its issues.
    Design,
}

impl RepositoryKind {
    /// All of them, the code first.
    pub const ALL: [RepositoryKind; 3] = [
        RepositoryKind::Repository,
        RepositoryKind::Wiki,
        RepositoryKind::Design,
    ];

    /// `repository`, `wiki` or `design`.
    pub fn as_str(self) -> &'static str {
        match self {
            RepositoryKind::Repository => "repository",
            RepositoryKind::Wiki => "wiki",
            RepositoryKind::Design => "design",
        }
    }

    /// What follows the project's disk path in the repository's own.
    pub fn suffix(self) -> &'static str {
        match self {
            RepositoryKind::Repository => "",
            RepositoryKind::Wiki => ".wiki",
            RepositoryKind::Design => ".design",
        }
    }
}

/// A file of a repository's backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// The project's disk path: `@hashed/aa/bb/…`, or its full path in a very old GitLab.
    pub base: &'a str,
    /// Which of its repositories.
    pub kind: RepositoryKind,
    /// What the file is.
    pub piece: Piece<'a>,
}

/// What a file of a repository's backup is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Gitaly's manifest; by its name without the ending.
    Manifest(&'a str),
    /// A git bundle.
    Bundle(Step<'a>),
    /// The list of references beside it.
    References(Step<'a>),
    /// A tar of hooks.
    Hooks(Step<'a>),
    /// `LATEST`: of a repository, or of one of its backups.
    Pointer(&'a str),
}

/// Which step of a backup: full ones are 1, increments follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Step<'a> {
    /// Its number.
    pub number: u32,
    /// The ID of the backup it was made in; empty in the oldest layout.
    pub backup: &'a str,
}

/// What a member's path is below `repositories/`, if it is there. A folder of the backup's own may stand before.
pub fn below_repositories(path: &str) -> Option<&str> {
    let path = path.trim_start_matches("./").trim_start_matches('/');
    path.strip_prefix("repositories/")
        .or_else(|| path.split_once('/')?.1.strip_prefix("repositories/"))
}

/// Whether a member is the dump of the main database.
pub fn is_database(path: &str) -> bool {
    let path = path.trim_start_matches("./").trim_start_matches('/');
    let name = path.strip_prefix("db/").or_else(|| {
        let (_, rest) = path.split_once('/')?;
        rest.strip_prefix("db/")
    });
    name.is_some_and(|name| name == "database.sql" || name.starts_with("database.sql."))
}

/// Understands a path below `repositories/`; none for what belongs to no repository.
pub fn place(path: &str) -> Option<Place<'_>> {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    if let Some(rest) = folder.strip_prefix("manifests/") {
        let (_storage, relative) = rest.split_once('/')?;
        let piece = Piece::Manifest(name.strip_suffix(".toml")?);
        return of(relative.strip_suffix(".git")?, piece);
    }
    // `<storage>/<disk path>.git/<backup ID>/001.bundle`
    if let Some((repository, backup)) = folder.rsplit_once(".git/")
        && !backup.contains('/')
    {
        let (_storage, relative) = repository.split_once('/')?;
        return of(relative, numbered(name, backup)?);
    }
    if name == "LATEST" {
        let (above, backup) = folder.rsplit_once('/')?;
        return if is_backup_id(backup) {
            of(above, Piece::Pointer(backup))
        } else {
            of(folder, Piece::Pointer(""))
        };
    }
    // `<disk path>/<backup ID>/001.bundle`
    if let Some(piece) = folder
        .rsplit_once('/')
        .and_then(|(_, backup)| numbered(name, backup))
    {
        return of(folder.rsplit_once('/')?.0, piece);
    }
    let step = Step {
        number: 1,
        backup: "",
    };
    if name == "custom_hooks.tar" {
        return of(folder, Piece::Hooks(step));
    }
    if let Some(relative) = path.strip_suffix(".bundle") {
        return of(relative, Piece::Bundle(step));
    }
    of(path.strip_suffix(".refs")?, Piece::References(step))
}

/// `001.bundle` and what stands beside it.
fn numbered<'a>(name: &str, backup: &'a str) -> Option<Piece<'a>> {
    let (digits, ending) = name.split_once('.')?;
    let known = (3..=6).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.parse().ok().filter(|_| known)?;
    let step = Step { number, backup };
    match ending {
        "bundle" => Some(Piece::Bundle(step)),
        "refs" => Some(Piece::References(step)),
        "custom_hooks.tar" => Some(Piece::Hooks(step)),
        _ => None,
    }
}

/// GitLab's own begin with a time.
fn is_backup_id(text: &str) -> bool {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    digits >= 9 && text.as_bytes().get(digits).is_none_or(|byte| *byte == b'_')
}

fn of<'a>(relative: &'a str, piece: Piece<'a>) -> Option<Place<'a>> {
    let (base, kind) = split_kind(relative);
    (!base.is_empty()).then_some(Place { base, kind, piece })
}

/// A repository's disk path without `.git`: its project's, and which of the project's it is.
pub fn split_kind(relative: &str) -> (&str, RepositoryKind) {
    let others = [RepositoryKind::Wiki, RepositoryKind::Design];
    let found = others
        .iter()
        .find_map(|kind| Some((relative.strip_suffix(kind.suffix())?, *kind)));
    found.unwrap_or((relative, RepositoryKind::Repository))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layout_is_understood() {
        const ID: &str = "1702758583_2023_12_16_17.8.2";
        let first = |backup| Step { number: 1, backup };
        let second = Step {
            number: 2,
            backup: ID,
        };
        let (code, wiki) = (RepositoryKind::Repository, RepositoryKind::Wiki);
        for (path, base, kind, piece) in [
            (
                "manifests/default/@hashed/6b/86/6b86.git/+latest.toml",
                "@hashed/6b/86/6b86",
                code,
                Piece::Manifest("+latest"),
            ),
            (
                "default/@hashed/6b/86/6b86.git/1702758583_2023_12_16_17.8.2/001.bundle",
                "@hashed/6b/86/6b86",
                code,
                Piece::Bundle(first(ID)),
            ),
            (
                "default/@hashed/6b/86/6b86.wiki.git/1702758583_2023_12_16_17.8.2/002.refs",
                "@hashed/6b/86/6b86",
                wiki,
                Piece::References(second),
            ),
            (
                "default/@hashed/6b/86/6b86.design.git/1702758583_2023_12_16_17.8.2/001.custom_hooks.tar",
                "@hashed/6b/86/6b86",
                RepositoryKind::Design,
                Piece::Hooks(first(ID)),
            ),
            (
                "@hashed/6b/86/6b86/1702758583_2023_12_16_17.8.2/001.bundle",
                "@hashed/6b/86/6b86",
                code,
                Piece::Bundle(first(ID)),
            ),
            (
                "@hashed/6b/86/6b86.wiki/LATEST",
                "@hashed/6b/86/6b86",
                wiki,
                Piece::Pointer(""),
            ),
            (
                "@hashed/6b/86/6b86/1702758583_2023_12_16_17.8.2/LATEST",
                "@hashed/6b/86/6b86",
                code,
                Piece::Pointer(ID),
            ),
            (
                "@hashed/6b/86/6b86.bundle",
                "@hashed/6b/86/6b86",
                code,
                Piece::Bundle(first("")),
            ),
            (
                "@hashed/6b/86/6b86/custom_hooks.tar",
                "@hashed/6b/86/6b86",
                code,
                Piece::Hooks(first("")),
            ),
            (
                "group/app.wiki.bundle",
                "group/app",
                wiki,
                Piece::Bundle(first("")),
            ),
            (
                "group/app.refs",
                "group/app",
                code,
                Piece::References(first("")),
            ),
        ] {
            assert_eq!(place(path), Some(Place { base, kind, piece }), "{path}");
        }
        for path in ["", "manifests/default/x", "LATEST", "a/b.txt", ".bundle"] {
            assert_eq!(place(path), None, "{path}");
        }
    }

    #[test]
    fn a_folder_may_stand_before() {
        for path in ["repositories/a", "./repositories/a", "1_2_3/repositories/a"] {
            assert_eq!(below_repositories(path), Some("a"));
        }
        assert_eq!(below_repositories("uploads/x/repositories/a"), None);
        for (path, is) in [
            ("db/database.sql.gz", true),
            ("./db/database.sql", true),
            ("1_2/db/database.sql.gz", true),
            ("db/ci_database.sql.gz", false),
            ("db/database.sqlite", false),
        ] {
            assert_eq!(is_database(path), is, "{path}");
        }
    }
}
