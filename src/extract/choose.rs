//! Which project is meant.

use strsim::jaro_winkler;

use super::members::listed;
use crate::error::printable;
use crate::gitlab::layout::split_kind;
use crate::gitlab::projects::Project;

/// So many names are shown in a message.
const SHOWN: usize = 5;
/// A path that is less alike than this is no help; 1 is the same.
const ALIKE: f64 = 0.7;

/// What somebody asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// A path like `group/app`, or the end of one.
    Path(String),
    /// The folder of a repository.
    DiskPath(String),
}

impl Wish {
    /// Understands what was given on the command line.
    pub(super) fn new(text: &str) -> Wish {
        let text = text.trim_matches('/');
        let text = text.strip_suffix(".git").unwrap_or(text);
        let is_hash = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_hash {
            let hash = text.to_ascii_lowercase();
            Wish::DiskPath(format!("@hashed/{}/{}/{hash}", &hash[..2], &hash[2..4]))
        } else if text.starts_with('@') {
            Wish::DiskPath(split_kind(text).0.to_owned())
        } else {
            Wish::Path(text.to_owned())
        }
    }
}

/// The project that a path means: this very path, else without regard to capitals (as GitLab takes it), else the
/// only one that ends so. The error says why there is none, and shows which there are.
pub(super) fn choose<'a>(projects: &'a [Project], path: &str) -> Result<&'a Project, String> {
    let lower = path.to_lowercase();
    let ending = format!("/{lower}");
    let fits: [&dyn Fn(&Project) -> bool; 3] = [
        &|project| project.path == path,
        &|project| project.path.to_lowercase() == lower,
        &|project| project.path.to_lowercase().ends_with(&ending),
    ];
    for fits in fits {
        let found: Vec<_> = projects.iter().filter(|project| fits(project)).collect();
        match found[..] {
            [] => {}
            [one] => return Ok(one),
            _ => {
                let mut names: Vec<_> = found.iter().map(|project| project.path.clone()).collect();
                names.sort();
                names.dedup();
                if names.len() < found.len() {
                    // The same path twice: only the folders tell them apart.
                    let told =
                        |project: &&Project| format!("{} ({})", project.disk_path, project.path);
                    names = found.iter().map(told).collect();
                }
                let names = names.iter().map(|name| printable(name)).collect::<Vec<_>>();
                return Err(format!(
                    "there are several projects `{}`\n  name one of them: {}",
                    printable(path),
                    listed(names.iter().map(String::as_str), 2 * SHOWN)
                ));
            }
        }
    }
    let mut near: Vec<_> = projects
        .iter()
        .map(|project| (alike(&lower, &project.path.to_lowercase()), project))
        .filter(|(alike, _)| *alike >= ALIKE)
        .collect();
    near.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let names: Vec<_> = near.iter().map(|(_, near)| printable(&near.path)).collect();
    let hint = if names.is_empty() {
        String::new()
    } else {
        let names = names.iter().take(SHOWN).map(String::as_str);
        format!("did you mean {}? ", listed(names, SHOWN))
    };
    Err(format!(
        "there is no project `{}` in it\n  {hint}`gitlab-pi-backup extract --list` shows all",
        printable(path)
    ))
}

/// How much two paths are alike: as a whole, or in their last names.
fn alike(wanted: &str, path: &str) -> f64 {
    let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    jaro_winkler(wanted, path).max(jaro_winkler(&last(wanted), &last(path)) - 0.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn projects(paths: &[&str]) -> Vec<Project> {
        let project = |(id, path): (usize, &&str)| Project {
            id: id as u64,
            path: (*path).to_owned(),
            disk_path: format!("@hashed/{id}"),
        };
        paths.iter().enumerate().map(project).collect()
    }

    #[test]
    fn what_is_given_is_understood() {
        let hash = "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b";
        let disk = format!("@hashed/6b/86/{hash}");
        for text in [
            hash.to_owned(),
            hash.to_uppercase(),
            disk.clone(),
            format!("{disk}.git"),
            format!("/{disk}.wiki.git/"),
        ] {
            assert_eq!(Wish::new(&text), Wish::DiskPath(disk.clone()), "{text}");
        }
        for text in ["demo/app", "/demo/app", "demo/app.git"] {
            assert_eq!(Wish::new(text), Wish::Path("demo/app".to_owned()));
        }
    }

    #[test]
    fn the_nearest_sense_is_taken() {
        let all = projects(&[
            "demo/app",
            "demo/apps/shop",
            "other/app",
            "x/Demo/App",
            "app",
        ]);
        for (path, found) in [
            ("demo/app", "demo/app"),
            ("Demo/App", "demo/app"),
            ("app", "app"),
            ("shop", "demo/apps/shop"),
            ("apps/shop", "demo/apps/shop"),
            ("other/App", "other/app"),
        ] {
            assert_eq!(
                choose(&all, path).map(|found| found.path.as_str()),
                Ok(found)
            );
        }
    }

    #[test]
    fn what_is_not_told_apart_is_listed_and_what_is_not_there_has_neighbours() {
        let all = projects(&["demo/app", "other/app", "a/b", "a/b", "x/shop"]);
        let several = choose(&all, "APP").expect_err("two");
        assert!(several.contains("demo/app, other/app"), "{several}");
        let twice = choose(&all, "a/b").expect_err("two");
        assert!(
            twice.contains("@hashed/2 (a/b), @hashed/3 (a/b)"),
            "{twice}"
        );
        let none = choose(&all, "dmeo/app").expect_err("none");
        assert!(none.contains("did you mean demo/app"), "{none}");
        let none = choose(&all, "x/shpo").expect_err("none");
        assert!(none.contains("x/shop"), "{none}");
        let none = choose(&all, "\u{1b}zzzzzz").expect_err("none");
        assert!(
            !none.contains("did you mean") && !none.contains('\u{1b}'),
            "{none}"
        );
    }
}
