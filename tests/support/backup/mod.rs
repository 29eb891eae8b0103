//! Real, small backups of GitLab: bundles that git made, gzip's parts, GNU tar's archives, in the layout of GitLab
//! 17 and 18 (or of an older one), the same bytes for the same seed.
//!
//! ```ignore
//! let paths = RealBackup::new(7).projects(3).write_into(&data_dir, &config_dir, 1_702_758_583);
//! let mut members = RealBackup::new(7).members(1_702_758_583);
//! members.retain(|member| !member.path.starts_with("db/"));
//! repack(&members, &paths.data);
//! ```

#![allow(
    dead_code,
    unused_imports,
    reason = "every test binary uses another part of it"
)]

mod config;
mod database;
pub mod git;
mod pack;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::DateTime;

pub use git::Repository;
pub use pack::{Member, gunzip, gzip, repack};

/// The parts that are a `.tar.gz`, in GitLab's order.
pub const PARTS: [&str; 9] = [
    "uploads",
    "builds",
    "artifacts",
    "pages",
    "lfs",
    "terraform_state",
    "packages",
    "ci_secure_files",
    "external_diffs",
];

/// Where gitaly-backup puts what it knows about a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `manifests/default/…/<id>.toml` and `default/…/<id>/001.bundle`: GitLab 16 and later.
    Manifest,
    /// `…/LATEST` and `…/<id>/001.bundle`: GitLab 15.
    Pointer,
    /// `….bundle` alone: before.
    Legacy,
}

/// A GitLab as it could be, and the backups it would make.
#[derive(Clone, Debug)]
pub struct RealBackup {
    seed: u64,
    projects: u64,
    version: String,
    layout: Layout,
    skipped: Vec<String>,
    uploads: usize,
}

/// Where the two archives are.
pub struct Paths {
    /// `<stamp>_<date>_<version>`.
    pub id: String,
    /// The data archive.
    pub data: PathBuf,
    /// The config archive.
    pub config: PathBuf,
}

/// A repository with its place: `@hashed/6b/86/<hash>.git`.
pub struct Stored {
    /// Below the storage.
    pub relative: String,
    /// Its project's full path, as in `routes`; a snippet has none.
    pub project: Option<String>,
    /// What is in it; nothing, if it is empty.
    pub repository: Option<Arc<Repository>>,
    /// A tar of `custom_hooks/`.
    pub hooks: Option<Vec<u8>>,
}

impl RealBackup {
    /// A GitLab CE 17.8.2 with three projects.
    pub fn new(seed: u64) -> RealBackup {
        RealBackup {
            seed,
            projects: 3,
            version: "17.8.2".to_owned(),
            layout: Layout::Manifest,
            skipped: Vec::new(),
            uploads: 60_000,
        }
    }

    /// A GitLab CE 15.2.0, from before the manifests.
    pub fn legacy(seed: u64) -> RealBackup {
        RealBackup::new(seed)
            .version("15.2.0")
            .layout(Layout::Legacy)
    }

    /// How many projects there are: the first has custom hooks and a wiki, the third is empty. With none,
    /// this is GitLab as it is installed: nothing in any part.
    pub fn projects(mut self, projects: u64) -> RealBackup {
        self.projects = projects;
        self
    }

    /// GitLab's version, with `-ee` if it is one.
    pub fn version(mut self, version: &str) -> RealBackup {
        version.clone_into(&mut self.version);
        self
    }

    /// How repositories are laid out.
    pub fn layout(mut self, layout: Layout) -> RealBackup {
        self.layout = layout;
        self
    }

    /// Parts that GitLab is told to leave out: `["registry", "uploads"]`.
    pub fn skip(mut self, parts: &[&str]) -> RealBackup {
        self.skipped = parts.iter().map(|&part| part.to_owned()).collect();
        self
    }

    /// How large the uploads are, in bytes that do not compress.
    pub fn uploads(mut self, bytes: usize) -> RealBackup {
        self.uploads = bytes;
        self
    }

    /// GitLab's backup ID.
    pub fn id(&self, stamp: u64) -> String {
        format!("{stamp}_{}_{}", date(stamp), self.version)
    }

    /// Writes both archives as GitLab would, modes and names included.
    pub fn write_into(&self, data_dir: &Path, config_dir: &Path, stamp: u64) -> Paths {
        let id = self.id(stamp);
        let paths = Paths {
            data: data_dir.join(format!("{id}_gitlab_backup.tar")),
            config: config_dir.join(format!("gitlab_config_{stamp}_{}.tar", date(stamp))),
            id,
        };
        for folder in [data_dir, config_dir] {
            let mut builder = fs::DirBuilder::new();
            let made = builder.recursive(true).mode(0o700).create(folder);
            made.expect("a folder");
        }
        repack(&self.members(stamp), &paths.data);
        repack(&self.config_members(stamp), &paths.config);
        paths
    }

    /// The data archive's members in their order, to alter and [`repack`].
    pub fn members(&self, stamp: u64) -> Vec<Member> {
        let id = self.id(stamp);
        let mut members = vec![Member::file(
            "backup_information.yml",
            0o644,
            self.information(stamp, &id),
        )];
        let skips = |part: &str| self.skipped.iter().any(|skipped| skipped == part);
        if !skips("db") {
            members.push(Member::folder("db/", 0o755));
            let dump = gzip(self.database().as_bytes());
            members.push(Member::file("db/database.sql.gz", 0o600, dump));
        }
        if !skips("repositories") {
            members.push(Member::folder("repositories/", 0o700));
            members.extend(self.repository_members(&id));
        }
        for (part, files) in self.parts() {
            if !skips(part) {
                let name = format!("{part}.tar.gz");
                members.push(Member::file(&name, 0o600, pack::part(&files)));
            }
        }
        for member in &mut members {
            member.modified = stamp;
        }
        members
    }

    /// The config archive's members in their order.
    pub fn config_members(&self, stamp: u64) -> Vec<Member> {
        let mut members = config::members(self.seed);
        for member in &mut members {
            member.modified = stamp - stamp % 1_000_000;
        }
        members
    }

    /// `gitlab-secrets.json`.
    pub fn secrets(&self) -> String {
        config::secrets(self.seed)
    }

    /// The dump of the main database.
    pub fn database(&self) -> String {
        database::dump(&self.version, &self.full_paths(), &self.secrets())
    }

    /// The projects' paths with their groups, by the projects' IDs.
    pub fn full_paths(&self) -> BTreeMap<u64, String> {
        let path = |project| match project {
            1 => "demo/website".to_owned(),
            2 => "demo/apps/shop".to_owned(),
            3 => "root/scratch".to_owned(),
            other => format!("demo/project-{other}"),
        };
        (1..=self.projects).map(|id| (id, path(id))).collect()
    }

    /// All repositories: of each project, of its wiki, and of one snippet.
    pub fn repositories(&self) -> Vec<Stored> {
        let git::Templates { site, code, wiki } = git::templates(self.seed);
        let mut stored = Vec::new();
        for (id, path) in self.full_paths() {
            stored.push(Stored {
                relative: format!("{}.git", hashed("@hashed", id)),
                project: Some(path.clone()),
                repository: match id {
                    1 => Some(Arc::clone(&site)),
                    3 => None,
                    _ => Some(Arc::clone(&code)),
                },
                hooks: (id == 1).then(pack::custom_hooks),
            });
            stored.push(Stored {
                relative: format!("{}.wiki.git", hashed("@hashed", id)),
                project: Some(path),
                repository: (id == 1).then(|| Arc::clone(&wiki)),
                hooks: None,
            });
        }
        if self.projects == 0 {
            return stored;
        }
        stored.push(Stored {
            relative: format!("{}.git", hashed("@snippets", 1)),
            project: None,
            repository: Some(wiki),
            hooks: None,
        });
        stored
    }

    /// The files of every part that is a `.tar.gz`.
    pub fn parts(&self) -> Vec<(&'static str, BTreeMap<String, Vec<u8>>)> {
        let mut random = Random::new(self.seed);
        let mut log = String::new();
        for line in 0..200 {
            let _ = write!(
                log,
                "\u{1b}[0Ksection {line}: {:08x}\r\n",
                random.next() >> 32
            );
        }
        let hash = hex(random.bytes(32));
        let lfs = format!("{}/{}/{}", &hash[..2], &hash[2..4], &hash[4..]);
        let upload = format!("@hashed/6b/86/{hash}/screenshot.png");
        let contents: BTreeMap<&str, BTreeMap<String, Vec<u8>>> = [
            (
                "uploads",
                [
                    (upload, random.bytes(self.uploads)),
                    ("-/system/appearance/logo.svg".into(), b"<svg/>\n".to_vec()),
                ]
                .into(),
            ),
            (
                "builds",
                [("2023_12/1/1.log".into(), log.into_bytes())].into(),
            ),
            (
                "artifacts",
                [(
                    format!("6b/86/{hash}/2023_12_16/1/1/artifacts.zip"),
                    random.bytes(900),
                )]
                .into(),
            ),
            ("lfs", [(lfs, random.bytes(4_000))].into()),
        ]
        .into();
        let number = database::number(&self.version);
        let since = |part: &str| match part {
            "ci_secure_files" => number >= 1601,
            "external_diffs" => number >= 1701,
            _ => true,
        };
        let files = |part: &str| match self.projects {
            0 => BTreeMap::new(),
            _ => contents.get(part).cloned().unwrap_or_default(),
        };
        let parts = PARTS.into_iter().filter(|part| since(part));
        parts.map(|part| (part, files(part))).collect()
    }

    fn information(&self, stamp: u64, id: &str) -> Vec<u8> {
        let time = time(stamp).format("%Y-%m-%d %H:%M:%S.123456789 Z");
        let version = &self.version;
        let mut text = format!(
            ":db_version: '20241218190004'\n\
             :backup_created_at: !ruby/object:ActiveSupport::TimeWithZone\n  utc: {time}\n  \
             zone: !ruby/object:ActiveSupport::TimeZone\n    name: Etc/UTC\n  time: {time}\n\
             :gitlab_version: {version}\n:tar_version: tar (GNU tar) 1.34\n\
             :installation_type: omnibus-gitlab\n"
        );
        let skipped = self.skipped.join(",");
        if self.layout == Layout::Manifest {
            let skipped = if skipped.is_empty() { "''" } else { &skipped };
            let _ = write!(
                text,
                ":skipped: {skipped}\n:repositories_storages: ''\n:repositories_paths: ''\n\
                 :skip_repositories_paths: ''\n:repositories_server_side: false\n\
                 :backup_id: {id}\n:full_backup_id:\n"
            );
        } else {
            text += format!(":skipped: {skipped}").trim_end();
            text += "\n";
        }
        text.into_bytes()
    }

    fn repository_members(&self, id: &str) -> Vec<Member> {
        let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for stored in self.repositories() {
            let relative = &stored.relative;
            let bare = relative.strip_suffix(".git").expect("`.git`");
            let (bundle, refs, hooks) = match self.layout {
                Layout::Manifest | Layout::Pointer => {
                    let folder = match self.layout {
                        Layout::Manifest => format!("default/{relative}/{id}"),
                        _ => format!("{bare}/{id}"),
                    };
                    (
                        format!("{folder}/001.bundle"),
                        format!("{folder}/001.refs"),
                        format!("{folder}/001.custom_hooks.tar"),
                    )
                }
                Layout::Legacy => (
                    format!("{bare}.bundle"),
                    format!("{bare}.refs"),
                    format!("{bare}/custom_hooks.tar"),
                ),
            };
            match self.layout {
                Layout::Manifest => {
                    let manifest = stored.manifest(&bundle, &refs, &hooks).into_bytes();
                    let folder = format!("manifests/default/{relative}");
                    files.insert(format!("{folder}/{id}.toml"), manifest.clone());
                    files.insert(format!("{folder}/+latest.toml"), manifest);
                }
                Layout::Pointer => {
                    files.insert(format!("{bare}/LATEST"), id.into());
                    files.insert(format!("{bare}/{id}/LATEST"), "001".into());
                }
                Layout::Legacy => {}
            }
            let found = stored.repository.as_ref();
            files.insert(refs, found.map(|it| it.refs.clone()).unwrap_or_default());
            files.extend(found.map(|it| (bundle, it.bundle.clone())));
            files.extend(stored.hooks.map(|tar| (hooks, tar)));
        }
        let mut members = Vec::new();
        for (path, data) in files {
            let path = format!("repositories/{path}");
            for (end, _) in path.match_indices('/').skip(1) {
                let folder = &path[..=end];
                if !members.iter().any(|member: &Member| member.path == folder) {
                    members.push(Member::folder(folder, 0o700));
                }
            }
            members.push(Member::file(&path, 0o600, data));
        }
        members
    }

    /// Writes this GitLab's state as the stand-in `gitlab-backup` keeps it below
    /// `STUB_ROOT/var/opt/gitlab/state`, and `/etc/gitlab` below `etc`.
    pub fn write_state(&self, state: &Path, etc: &Path) {
        let put = |path: PathBuf, data: &[u8]| {
            fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
            fs::write(path, data).expect("a file");
        };
        put(state.join("database.sql"), self.database().as_bytes());
        for stored in self.repositories() {
            let folder = state.join("repositories").join(&stored.relative);
            put(folder.join("HEAD"), stored.head().as_bytes());
            if let Some(repository) = &stored.repository {
                put(folder.join("bundle"), &repository.bundle);
                put(folder.join("refs"), &repository.refs);
            }
            if let Some(hooks) = &stored.hooks {
                put(folder.join("custom_hooks.tar"), hooks);
            }
        }
        for (part, files) in self.parts() {
            fs::create_dir_all(state.join(part)).expect("folders");
            for (path, data) in files {
                put(state.join(part).join(path), &data);
            }
        }
        for member in self.config_members(0) {
            let name = member.path.trim_start_matches("/etc/gitlab/");
            member.write(&etc.join(name));
        }
    }
}

impl Stored {
    /// What HEAD points to.
    fn head(&self) -> &'static str {
        let found = self.repository.as_ref();
        found.map_or("refs/heads/main", |it| it.head)
    }

    /// As gitaly's TOML writer forms it.
    fn manifest(&self, bundle: &str, refs: &str, hooks: &str) -> String {
        let (empty, head) = (self.repository.is_none(), self.head());
        format!(
            "empty = {empty}\nnon_existent = false\nobject_format = 'sha1'\n\
             head_reference = '{head}'\n\n[[steps]]\nbundle_path = '{bundle}'\n\
             ref_path = '{refs}'\ncustom_hooks_path = '{hooks}'\n"
        )
    }
}

/// `@hashed/6b/86/<sha256 of the ID>`.
pub fn hashed(root: &str, id: u64) -> String {
    let hash = sha256(id.to_string().as_bytes());
    format!("{root}/{}/{}/{hash}", &hash[..2], &hash[2..4])
}

/// A SHA-256 in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, bytes))
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    let digits = bytes.as_ref().iter().map(|byte| format!("{byte:02x}"));
    digits.collect()
}

fn time(stamp: u64) -> DateTime<chrono::Utc> {
    let stamp = i64::try_from(stamp).expect("a stamp");
    DateTime::from_timestamp(stamp, 0).expect("a stamp")
}

fn date(stamp: u64) -> String {
    time(stamp).format("%Y_%m_%d").to_string()
}

/// The same numbers for the same seed.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    /// Steele, Lea and Flood's `SplitMix`.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let words = std::iter::repeat_with(|| self.next().to_le_bytes());
        let mut bytes: Vec<u8> = words.take(len.div_ceil(8)).flatten().collect();
        bytes.truncate(len);
        bytes
    }
}
