//! A few repositories in all the forms that a backup of GitLab shows: bundles that git has made, kept here, so that
//! no test needs git.
//!
//! With git, `GIT_BUNDLES=write cargo test --test fixture bundles` makes them anew from what [`make`] says; without
//! the variable that test shows that git makes the same repositories and takes the kept bundles.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use super::Random;
use super::pack::pipe;

/// A repository that is not empty.
#[derive(Debug)]
pub struct Repository {
    /// `git bundle create - --all`.
    pub bundle: Vec<u8>,
    /// `git show-ref --head`: a line per reference, HEAD first.
    pub refs: Vec<u8>,
    /// What HEAD points to.
    pub head: &'static str,
}

/// What every GitLab of a seed is made of.
#[derive(Clone)]
pub struct Templates {
    /// Branches, a merge, an annotated tag, GitLab's own references.
    pub site: Arc<Repository>,
    /// One branch, called `master`, with a file of some size.
    pub code: Arc<Repository>,
    /// A few pages.
    pub wiki: Arc<Repository>,
}

/// What HEAD points to in most of them.
const MAIN: &str = "refs/heads/main";
/// … and in the one that is older than the habit.
const MASTER: &str = "refs/heads/master";

/// A kept bundle with its references.
macro_rules! kept {
    ($name:literal, $head:expr) => {
        Arc::new(Repository {
            bundle: include_bytes!(concat!("bundles/", $name, ".bundle")).to_vec(),
            refs: include_bytes!(concat!("bundles/", $name, ".refs")).to_vec(),
            head: $head,
        })
    };
}

/// The repositories of a seed: odd ones share theirs, and even ones.
pub fn templates(seed: u64) -> Templates {
    if seed % 2 == 1 {
        Templates {
            site: kept!("site-1", MAIN),
            code: kept!("code-1", MASTER),
            wiki: kept!("wiki-1", MAIN),
        }
    } else {
        Templates {
            site: kept!("site-2", MAIN),
            code: kept!("code-2", MASTER),
            wiki: kept!("wiki-2", MAIN),
        }
    }
}

/// Lets git make the repositories of seed 1 or 2.
pub fn make(seed: u64) -> Templates {
    let mut random = Random::new(!seed);
    let mut site = Stream::default();
    let first = site.commit("refs/heads/main", &[], "README.md", b"# Website\n");
    let page = format!("<h1>{:016x}</h1>\n", random.next());
    let topic = site.commit("refs/heads/topic", &[first], "index.html", page.as_bytes());
    let next = site.commit("refs/heads/main", &[first], "README.md", b"# The website\n");
    let merge = site.commit("refs/heads/main", &[next, topic], "NEWS", b"merged\n");
    site.reference("refs/merge-requests/1/head", topic);
    site.reference(&format!("refs/keep-around/{:040x}", random.next()), first);
    site.tag("v1.0", merge);
    let mut code = Stream::default();
    let first = code.commit(
        "refs/heads/master",
        &[],
        "main.c",
        b"int main(void) { return 0; }\n",
    );
    code.commit(
        "refs/heads/master",
        &[first],
        "data.bin",
        &random.bytes(20_000),
    );
    let mut wiki = Stream::default();
    let home = format!("Welcome, {:016x}\n", random.next());
    wiki.commit("refs/heads/main", &[], "home.md", home.as_bytes());
    Templates {
        site: Arc::new(site.finish(MAIN)),
        code: Arc::new(code.finish(MASTER)),
        wiki: Arc::new(wiki.finish(MAIN)),
    }
}

/// What `git fast-import` reads.
#[derive(Default)]
struct Stream {
    text: Vec<u8>,
    marks: u64,
}

impl Stream {
    fn add(&mut self, text: &str) {
        self.text.extend(text.bytes());
    }

    /// A commit with one more file; `parents` are marks. Says its own mark.
    fn commit(&mut self, branch: &str, parents: &[u64], path: &str, data: &[u8]) -> u64 {
        self.marks += 1;
        let mark = self.marks;
        let who = format!("Ada <ada@example.org> {} +0000", 1_700_000_000 + mark);
        let message = format!("Write {path}");
        let len = message.len();
        self.add(&format!(
            "commit {branch}\nmark :{mark}\nauthor {who}\ncommitter {who}\ndata {len}\n{message}\n"
        ));
        for (number, parent) in parents.iter().enumerate() {
            let word = if number == 0 { "from" } else { "merge" };
            self.add(&format!("{word} :{parent}\n"));
        }
        self.add(&format!("M 100644 inline {path}\ndata {}\n", data.len()));
        self.text.extend(data);
        self.add("\n\n");
        mark
    }

    fn reference(&mut self, name: &str, mark: u64) {
        self.add(&format!("reset {name}\nfrom :{mark}\n\n"));
    }

    fn tag(&mut self, name: &str, mark: u64) {
        let mut text = format!("tag {name}\nfrom :{mark}\n");
        let _ = writeln!(text, "tagger Ada <ada@example.org> 1700000100 +0000");
        self.add(&format!("{text}data 7\nrelease\n"));
    }

    fn finish(self, head: &'static str) -> Repository {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let branch = head.trim_start_matches("refs/heads/");
        let run = |words: &[&str], input: &[u8]| pipe(git(folder.path()).args(words), input);
        run(
            &["init", "--quiet", "--bare", "--initial-branch", branch],
            b"",
        );
        run(&["fast-import", "--quiet"], &self.text);
        Repository {
            bundle: run(&["bundle", "create", "--quiet", "-", "--all"], b""),
            refs: run(&["show-ref", "--head"], b""),
            head,
        }
    }
}

/// Git in a bare repository, without anybody's settings.
pub fn git(folder: &Path) -> Command {
    let mut git = Command::new("git");
    git.current_dir(folder)
        .env("GIT_DIR", folder)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .args(["-c", "pack.threads=1", "-c", "core.looseCompression=1"]);
    git
}
