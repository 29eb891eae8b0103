//! What there is on this GitLab: users and their tokens, groups, projects, and who may do what with them.

use std::collections::{BTreeMap, HashMap};

/// What a member may do; the numbers are GitLab's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Nothing.
    None = 0,
    /// Sees that the group is there.
    Minimal = 5,
    /// Sees the project.
    Guest = 10,
    /// Plans.
    Planner = 15,
    /// Reads code.
    Reporter = 20,
    /// Writes code.
    Developer = 30,
    /// Runs the project, may export it.
    Maintainer = 40,
    /// Owns it.
    Owner = 50,
}

/// Who sees a group or project without being a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visibility {
    /// Nobody.
    Private,
    /// Whoever is logged in.
    Internal,
    /// Everybody.
    Public,
}

impl Visibility {
    /// GitLab's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Internal => "internal",
            Self::Public => "public",
        }
    }
}

/// What becomes of the export of a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is made.
    Works,
    /// It fails, and the status says so.
    Fails,
    /// It fails as with older versions: the status goes back to `none`, and nothing is there.
    FailsSilently,
    /// It waits in `queued` for ever.
    Hangs,
    /// It is made, and then not uploaded: the store says no whatever it is.
    UploadRefused,
    /// Nothing at all goes on after the request was accepted; the status stays `none`.
    Lost,
}

/// A person.
#[derive(Debug, Clone)]
pub struct User {
    /// Its number.
    pub id: u64,
    /// Its login, and the path of its own namespace.
    pub username: String,
    /// Sees and may do everything.
    pub admin: bool,
}

/// How much a token is still worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It counts.
    Valid,
    /// Its last day is over.
    Expired,
    /// Somebody took it back.
    Revoked,
}

/// A personal access token.
#[derive(Debug, Clone)]
pub struct Token {
    /// What clients send.
    pub secret: String,
    /// How it is called in the log of requests.
    pub name: String,
    /// Whose it is.
    pub user: u64,
    /// `api`, `read_api`, …
    pub scopes: Vec<String>,
    /// Whether it counts.
    pub standing: Standing,
    /// Its last day, if it has one.
    pub expires_at: Option<String>,
}

/// A group, at the top or below another one.
#[derive(Debug, Clone)]
pub struct Group {
    /// Its number, which is its namespace's, too.
    pub id: u64,
    /// With all that is above it.
    pub full_path: String,
    /// The group above.
    pub parent: Option<u64>,
    /// Who sees it.
    pub visibility: Visibility,
    /// Who is in it, by the number of the user.
    pub members: BTreeMap<u64, Access>,
}

/// Where a project lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// In a group.
    Group(u64),
    /// With a user.
    User(u64),
}

/// A project. Tests set the fields as they like, by [`super::GitLabApi::project_with`].
#[derive(Debug, Clone)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent properties of a project"
)]
pub struct Project {
    /// Its number.
    pub id: u64,
    /// With its groups.
    pub full_path: String,
    /// Where it lives.
    pub home: Home,
    /// Nothing changes in it any more.
    pub archived: bool,
    /// Who sees it.
    pub visibility: Visibility,
    /// Who is in it, by the number of the user, beside the members of its groups.
    pub members: BTreeMap<u64, Access>,
    /// Groups it is shared with, by their numbers, and what their members may do at most.
    pub shared_with: BTreeMap<u64, Access>,
    /// The day it was marked for deletion.
    pub marked_for_deletion_on: Option<String>,
    /// The bytes of its export, roughly; they do not compress. Below some thousands it is as small as it can be.
    pub export_bytes: u64,
    /// What becomes of its exports.
    pub outcome: Outcome,
    /// What the import of this project told, if it came by one; its `import_status` is `none` otherwise.
    pub import: Option<Import>,
    /// What its export is found to contain by who looks for it: a line of its description.
    pub description: String,
}

impl Project {
    /// The namespace it lives in: what downloads are counted by.
    pub fn namespace(&self) -> u64 {
        match self.home {
            Home::User(id) | Home::Group(id) => id,
        }
    }
}

/// How far an import is.
#[derive(Debug, Clone)]
pub struct Import {
    /// When the project was made, by GitLab's clock.
    pub created_at: String,
    /// Polls still to be answered with `scheduled`, then with `started`.
    pub polls: [u32; 2],
    /// How it ends: none is well.
    pub error: Option<String>,
    /// Relations that could not be imported, as `failed_relations` tells them: a name and the class of
    /// an exception.
    pub failed_relations: Vec<(String, String)>,
    /// The SHA-256 of the file that came, in hexadecimal digits.
    pub sha256: String,
}

/// Everything there is.
#[derive(Debug, Default)]
pub struct World {
    /// By number.
    pub users: BTreeMap<u64, User>,
    /// By secret.
    pub tokens: HashMap<String, Token>,
    /// By number.
    pub groups: BTreeMap<u64, Group>,
    /// By number.
    pub projects: BTreeMap<u64, Project>,
    /// Where projects were before they were moved.
    pub moved: HashMap<String, u64>,
    group_paths: HashMap<String, u64>,
    project_paths: HashMap<String, u64>,
    last_id: u64,
}

impl World {
    /// A number that nothing has.
    fn id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// The user of this name, who is made if there is none.
    pub fn user(&mut self, username: &str) -> u64 {
        if let Some(user) = self.users.values().find(|user| user.username == username) {
            return user.id;
        }
        let id = self.id();
        let user = User {
            id,
            username: username.to_owned(),
            admin: false,
        };
        self.users.insert(id, user);
        id
    }

    /// The group of this path, which is made with those above it if there is none; the first user owns it.
    pub fn group(&mut self, path: &str) -> u64 {
        if let Some(id) = self.group_paths.get(path) {
            return *id;
        }
        let parent = path.rsplit_once('/').map(|(above, _)| self.group(above));
        let id = self.id();
        let owner = self.users.keys().next().copied();
        let members = match parent {
            None => owner.map(|user| (user, Access::Owner)),
            Some(_) => None,
        };
        let group = Group {
            id,
            full_path: path.to_owned(),
            parent,
            visibility: Visibility::Private,
            members: members.into_iter().collect(),
        };
        self.groups.insert(id, group);
        self.group_paths.insert(path.to_owned(), id);
        id
    }

    /// A new project at this path. Its first part names a user or a group; groups are made as needed.
    pub fn project(&mut self, path: &str) -> u64 {
        let taken = self.project_at(path).is_some();
        assert!(!taken, "{path}: there is a project already");
        let (above, _) = path.rsplit_once('/').expect("a path with a namespace");
        let owner = self.users.values().find(|user| user.username == above);
        let home = match owner.map(|user| user.id) {
            Some(user) => Home::User(user),
            None => Home::Group(self.group(above)),
        };
        let id = self.id();
        let project = Project {
            id,
            full_path: path.to_owned(),
            home,
            archived: false,
            visibility: Visibility::Private,
            members: BTreeMap::new(),
            shared_with: BTreeMap::new(),
            marked_for_deletion_on: None,
            export_bytes: 0,
            outcome: Outcome::Works,
            import: None,
            description: format!("project {id}"),
        };
        self.projects.insert(id, project);
        self.project_paths.insert(path.to_lowercase(), id);
        id
    }

    /// Takes a project away.
    pub fn delete(&mut self, id: u64) {
        if let Some(project) = self.projects.remove(&id) {
            self.project_paths.remove(&project.full_path.to_lowercase());
        }
    }

    /// Moves a project; its old path leads to the new one.
    pub fn rename(&mut self, id: u64, to: &str) {
        let (above, _) = to.rsplit_once('/').expect("a path with a namespace");
        let home = Home::Group(self.group(above));
        let project = self.projects.get_mut(&id).expect("a project");
        let from = std::mem::replace(&mut project.full_path, to.to_owned());
        project.home = home;
        self.project_paths.remove(&from.to_lowercase());
        self.project_paths.insert(to.to_lowercase(), id);
        self.moved.insert(from.to_lowercase(), id);
    }

    /// The project at a path, whatever its case.
    pub fn project_at(&self, path: &str) -> Option<u64> {
        self.project_paths.get(&path.to_lowercase()).copied()
    }

    /// The group at a path, whatever its case.
    pub fn group_at(&self, path: &str) -> Option<u64> {
        let exact = self.group_paths.get(path).copied();
        exact.or_else(|| {
            let found = self.groups.values();
            let mut found = found.filter(|group| group.full_path.eq_ignore_ascii_case(path));
            found.next().map(|group| group.id)
        })
    }

    /// The groups above a group, itself first.
    pub fn ancestry(&self, group: u64) -> impl Iterator<Item = &Group> {
        std::iter::successors(self.groups.get(&group), |group| {
            self.groups.get(&group.parent?)
        })
    }

    /// What a user may do in a group, by itself and by the groups above.
    pub fn access_to_group(&self, user: u64, group: u64) -> Access {
        let given = self.ancestry(group).filter_map(|g| g.members.get(&user));
        given.max().copied().unwrap_or(Access::None)
    }

    /// What a user may do in a project by being a member of anything.
    pub fn access_to_project(&self, user: u64, project: &Project) -> Access {
        let own = project.members.get(&user).copied();
        let home = match project.home {
            Home::User(owner) if owner == user => Access::Owner,
            Home::User(_) => Access::None,
            Home::Group(group) => self.access_to_group(user, group),
        };
        let shared = project
            .shared_with
            .iter()
            .map(|(group, most)| self.access_to_group(user, *group).min(*most));
        shared
            .chain(own)
            .chain([home])
            .max()
            .unwrap_or(Access::None)
    }

    /// Whether somebody sees a project.
    pub fn sees_project(&self, user: Option<u64>, project: &Project) -> bool {
        match project.visibility {
            Visibility::Public => return true,
            Visibility::Internal if user.is_some() => return true,
            _ => {}
        }
        user.is_some_and(|user| {
            self.is_admin(user) || self.access_to_project(user, project) >= Access::Guest
        })
    }

    /// Whether somebody sees a group: by being in it or in anything below it.
    pub fn sees_group(&self, user: Option<u64>, group: &Group) -> bool {
        match group.visibility {
            Visibility::Public => return true,
            Visibility::Internal if user.is_some() => return true,
            _ => {}
        }
        let Some(user) = user else { return false };
        if self.is_admin(user) || self.access_to_group(user, group.id) > Access::None {
            return true;
        }
        let below = format!("{}/", group.full_path);
        let groups = self.groups.values();
        let mut groups = groups.filter(|other| other.full_path.starts_with(&below));
        let projects = self.projects.values();
        let mut projects = projects.filter(|project| project.full_path.starts_with(&below));
        groups.any(|other| other.members.contains_key(&user))
            || projects.any(|project| self.access_to_project(user, project) >= Access::Guest)
    }

    /// Whether a user may do everything.
    pub fn is_admin(&self, user: u64) -> bool {
        self.users.get(&user).is_some_and(|user| user.admin)
    }

    /// Whether a user may export a project.
    pub fn may_export(&self, user: u64, project: &Project) -> bool {
        self.is_admin(user) || self.access_to_project(user, project) >= Access::Maintainer
    }
}

#[cfg(test)]
mod tests {
    use super::{Access, Visibility, World};

    /// Everybody in it, and what they may do with a project of the group `top/sub`.
    #[test]
    fn who_may_do_what() {
        let mut world = World::default();
        let owner = world.user("owner");
        let id = world.project("top/sub/app");
        let (top, sub, other) = (
            world.group("top"),
            world.group("top/sub"),
            world.group("other"),
        );
        let [above, here, own, shared, stranger, admin] =
            ["above", "here", "own", "shared", "stranger", "admin"].map(|name| world.user(name));
        let mut join = |group: u64, user: u64, access: Access| {
            let group = world.groups.get_mut(&group).expect("a group");
            group.members.insert(user, access);
        };
        join(top, above, Access::Guest);
        join(sub, above, Access::Maintainer);
        join(sub, here, Access::Minimal);
        join(other, shared, Access::Owner);
        world.users.get_mut(&admin).expect("a user").admin = true;
        let project = world.projects.get_mut(&id).expect("a project");
        project.members.insert(own, Access::Developer);
        project.shared_with.insert(other, Access::Reporter);
        for (user, access, sees, exports) in [
            (owner, Access::Owner, true, true),
            (above, Access::Maintainer, true, true),
            (here, Access::Minimal, false, false),
            (own, Access::Developer, true, false),
            (shared, Access::Reporter, true, false),
            (stranger, Access::None, false, false),
            (admin, Access::None, true, true),
        ] {
            let project = &world.projects[&id];
            let told = (
                world.access_to_project(user, project),
                world.sees_project(Some(user), project),
                world.may_export(user, project),
            );
            assert_eq!(
                told,
                (access, sees, exports),
                "{}",
                world.users[&user].username
            );
        }
        let group = &world.groups[&top];
        assert!(
            world.sees_group(Some(own), group),
            "it is above what is seen"
        );
        assert!(!world.sees_group(Some(stranger), group) && !world.sees_group(None, group));
        for (visibility, stranger_sees, nobody_sees) in [
            (Visibility::Internal, true, false),
            (Visibility::Public, true, true),
        ] {
            world.projects.get_mut(&id).expect("a project").visibility = visibility;
            let project = &world.projects[&id];
            assert_eq!(world.sees_project(Some(stranger), project), stranger_sees);
            assert_eq!(world.sees_project(None, project), nobody_sees);
        }
    }

    #[test]
    fn paths_know_no_case_and_lead_on_after_a_move() {
        let mut world = World::default();
        world.user("owner");
        let id = world.project("Top/App");
        assert_eq!(world.project_at("top/aPP"), Some(id));
        world.rename(id, "top/new");
        assert_eq!(
            (world.project_at("top/app"), world.moved.get("top/app")),
            (None, Some(&id))
        );
        world.delete(id);
        assert!(world.project_at("top/new").is_none());
        assert_eq!(
            world.project("owner/mine"),
            world.project_at("owner/mine").expect("a project")
        );
    }
}
