//! Users, groups and projects, one by one and as lists.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::answer::{Answer, Reply, not_found};
use super::model::{Access, Group, Home, Project, World};
use super::paging;
use super::routes::{Call, access};
use super::{Settings, State};

/// `GET /user`.
pub fn user(call: &Call) -> Answer {
    let id = call.somebody()?;
    let state = call.shared.state();
    let user = &state.world.users[&id];
    let (base, name) = (call.shared.url(), &user.username);
    Ok(Reply::json(
        200,
        &json!({
            "id": user.id, "username": name, "name": name, "state": "active", "locked": false, "bot": false,
            "web_url": format!("{base}/{name}"), "is_admin": user.admin, "created_at": "2020-01-01T00:00:00.000Z",
        }),
    ))
}

/// `GET /version` and `GET /metadata`.
pub fn version(call: &Call) -> Answer {
    call.somebody()?;
    let version = &call.shared.options.version;
    let enterprise = version.ends_with("-ee");
    Ok(Reply::json(
        200,
        &json!({
            "version": version, "revision": "1f9f0b26d5b", "enterprise": enterprise,
            "kas": { "enabled": false, "externalUrl": null, "version": null },
        }),
    ))
}

/// `GET /personal_access_tokens/self`.
pub fn token(call: &Call) -> Answer {
    call.somebody()?;
    let state = call.shared.state();
    let secret = call.secret.as_deref().unwrap_or_default();
    let token = &state.world.tokens[secret];
    Ok(Reply::json(
        200,
        &json!({
            "id": 1, "name": token.name, "revoked": false, "active": true, "user_id": token.user,
            "scopes": token.scopes, "created_at": "2020-01-01T00:00:00.000Z", "expires_at": token.expires_at,
        }),
    ))
}

/// `GET /groups`: those that are visible, by name.
pub fn groups(call: &Call) -> Answer {
    let state = call.shared.state();
    let world = &state.world;
    let top = call.flag("top_level_only")? == Some(true);
    let groups = world
        .groups
        .values()
        .filter(|group| (!top || group.parent.is_none()) && world.sees_group(call.user, group));
    list_groups(call, &state.settings, groups.collect())
}

/// `GET /groups/:id/subgroups` (one level) and `descendant_groups` (all).
pub fn subgroups(call: &Call) -> Answer {
    let state = call.shared.state();
    let world = &state.world;
    let above = call.group(world)?;
    let all = call.parts[2] == "descendant_groups";
    let below = format!("{}/", above.full_path);
    let fits = |group: &&Group| {
        let there = if all {
            group.full_path.starts_with(&below)
        } else {
            group.parent == Some(above.id)
        };
        there && world.sees_group(call.user, group)
    };
    list_groups(
        call,
        &state.settings,
        world.groups.values().filter(fits).collect(),
    )
}

fn list_groups(call: &Call, settings: &Settings, mut groups: Vec<&Group>) -> Answer {
    if let Some(part) = call.query("search") {
        let part = part.to_lowercase();
        groups.retain(|group| name(&group.full_path).to_lowercase().contains(&part));
    }
    let descending = call.query("sort") == Some("desc");
    match call.query("order_by").unwrap_or("name") {
        "id" => groups.sort_by_key(|group| group.id),
        "path" | "name" | "similarity" => {
            groups.sort_by(|one, two| {
                (name(&one.full_path), one.id).cmp(&(name(&two.full_path), two.id))
            });
        }
        _ => return Err(Reply::error(400, "order_by does not have a valid value")),
    }
    if descending {
        groups.reverse();
    }
    if call.query("pagination") == Some("keyset") {
        return Err(Reply::error(
            405,
            "Keyset pagination is not yet available for this type of request",
        ));
    }
    let counted = settings.counted_up_to;
    paging::by_number(
        call,
        &groups,
        |group| show_group(call, group),
        counted,
        None,
    )
}

/// `GET /groups/:id`.
pub fn group(call: &Call) -> Answer {
    let state = call.shared.state();
    let group = call.group(&state.world)?;
    let mut shown = show_group(call, group);
    if call.flag("with_projects")? != Some(false) {
        let own = |project: &&Project| project.home == Home::Group(group.id);
        let own = state.world.projects.values().filter(own);
        let seen = own
            .filter(|project| state.world.sees_project(call.user, project))
            .take(100);
        shown["projects"] = seen
            .map(|project| show(call, &state.world, project))
            .collect();
    }
    Ok(Reply::json(200, &shown))
}

/// `GET /groups/:id/projects`.
pub fn group_projects(call: &Call) -> Answer {
    let state = call.shared.state();
    let world = &state.world;
    let group = call.group(world)?;
    let (deep, shared) = (
        call.flag("include_subgroups")? == Some(true),
        call.flag("with_shared")? != Some(false),
    );
    let inside = |other: u64| {
        other == group.id || deep && world.ancestry(other).any(|above| above.id == group.id)
    };
    let mut known = HashMap::new();
    let mut inside = |other: u64| *known.entry(other).or_insert_with(|| inside(other));
    let there = world.projects.values().filter(|project| {
        let at_home = match project.home {
            Home::Group(home) => inside(home),
            Home::User(_) => false,
        };
        at_home || shared && project.shared_with.keys().any(|with| inside(*with))
    });
    list_projects(call, &state, there.collect(), false)
}

/// `GET /projects`.
pub fn projects(call: &Call) -> Answer {
    let state = call.shared.state();
    let world = &state.world;
    let keyset = call.query("pagination") == Some("keyset");
    list_projects(call, &state, world.projects.values().collect(), keyset)
}

fn list_projects(call: &Call, state: &State, mut projects: Vec<&Project>, keyset: bool) -> Answer {
    let world = &state.world;
    let level = |project: &Project| {
        call.user
            .map_or(Access::None, |user| world.access_to_project(user, project))
    };
    let archived = call.flag("archived")?;
    let member = call.flag("membership")? == Some(true);
    let owned = call.flag("owned")? == Some(true);
    let least = call.query("min_access_level").map(access).transpose()?;
    let part = call.query("search").map(str::to_lowercase);
    let visibility = call.query("visibility");
    let active = call.flag("active")?;
    projects.retain(|project| {
        world.sees_project(call.user, project)
            && archived.is_none_or(|archived| project.archived == archived)
            && active.is_none_or(|active| {
                active != (project.archived || project.marked_for_deletion_on.is_some())
            })
            && (!member || level(project) > Access::None)
            && (!owned || level(project) >= Access::Owner)
            && least.is_none_or(|least| level(project) >= least)
            && visibility.is_none_or(|word| project.visibility.word() == word)
            && part
                .as_ref()
                .is_none_or(|part| name(&project.full_path).to_lowercase().contains(part))
    });
    if keyset {
        let id = |project: &&Project| project.id;
        return paging::by_key(call, &projects, id, |project| show(call, world, project));
    }
    match call.query("order_by").unwrap_or("created_at") {
        "id" | "created_at" | "updated_at" | "last_activity_at" | "similarity" | "star_count" => {}
        "name" | "path" => {
            projects.sort_by(|one, two| name(&one.full_path).cmp(name(&two.full_path)));
        }
        _ => return Err(Reply::error(400, "order_by does not have a valid value")),
    }
    if call.query("sort").unwrap_or("desc") == "desc" {
        projects.reverse();
    }
    let settings = &state.settings;
    let offers_keysets = call.parts[0] == "projects";
    paging::by_number(
        call,
        &projects,
        |project| show(call, world, project),
        settings.counted_up_to,
        offers_keysets.then_some(settings.offset_limit),
    )
}

/// `GET /projects/:id`.
pub fn project(call: &Call) -> Answer {
    let state = call.shared.state();
    let project = call.project(&state.world)?;
    Ok(Reply::json(200, &show(call, &state.world, project)))
}

/// `GET /namespaces/:id`.
pub fn namespace(call: &Call) -> Answer {
    call.somebody()?;
    let state = call.shared.state();
    let asked = &call.parts[1];
    let number = asked.parse::<u64>().ok();
    let is = |id: u64, path: &str| number == Some(id) || asked.eq_ignore_ascii_case(path);
    let groups = &state.world.groups;
    let mut found = groups
        .values()
        .filter(|group| is(group.id, &group.full_path) && state.world.sees_group(call.user, group));
    if let Some(group) = found.next() {
        let home = Home::Group(group.id);
        return Ok(Reply::json(200, &show_namespace(call, &state.world, home)));
    }
    let mut users = state.world.users.values();
    let user = users
        .find(|user| is(user.id, &user.username))
        .ok_or_else(|| not_found("Namespace"))?;
    Ok(Reply::json(
        200,
        &show_namespace(call, &state.world, Home::User(user.id)),
    ))
}

/// The last part of a path.
fn name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

fn show_group(call: &Call, group: &Group) -> Value {
    let base = call.shared.url();
    json!({
        "id": group.id, "web_url": format!("{base}/groups/{}", group.full_path), "name": name(&group.full_path),
        "path": name(&group.full_path), "description": "", "visibility": group.visibility.word(),
        "full_name": group.full_path.replace('/', " / "), "full_path": group.full_path,
        "parent_id": group.parent, "created_at": "2020-01-01T00:00:00.000Z", "avatar_url": null,
        "request_access_enabled": true, "marked_for_deletion_on": null,
    })
}

fn show_namespace(call: &Call, world: &World, home: Home) -> Value {
    let base = call.shared.url();
    match home {
        Home::Group(id) => {
            let group = &world.groups[&id];
            let path = &group.full_path;
            json!({
                "id": id, "name": name(path), "path": name(path), "kind": "group", "full_path": path,
                "parent_id": group.parent, "avatar_url": null, "web_url": format!("{base}/groups/{path}"),
            })
        }
        Home::User(id) => {
            let path = &world.users[&id].username;
            json!({
                "id": id, "name": path, "path": path, "kind": "user", "full_path": path,
                "parent_id": null, "avatar_url": null, "web_url": format!("{base}/{path}"),
            })
        }
    }
}

fn show(call: &Call, world: &World, project: &Project) -> Value {
    let (base, path) = (call.shared.url(), &project.full_path);
    let mut shown = json!({
        "id": project.id, "description": project.description, "name": name(path),
        "name_with_namespace": path.replace('/', " / "), "path": name(path), "path_with_namespace": path,
        "created_at": "2020-01-01T00:00:00.000Z", "default_branch": "main", "tag_list": [], "topics": [],
        "ssh_url_to_repo": format!("git@gitlab.example.org:{path}.git"),
        "http_url_to_repo": format!("{base}/{path}.git"), "web_url": format!("{base}/{path}"),
        "avatar_url": null, "star_count": 0, "last_activity_at": "2026-01-01T00:00:00.000Z",
        "visibility": project.visibility.word(), "namespace": show_namespace(call, world, project.home),
    });
    if call.query("simple") == Some("true") {
        return shown;
    }
    let shared_with = project.shared_with.iter().map(|(group, level)| {
        let group = &world.groups[group];
        json!({
            "group_id": group.id, "group_name": name(&group.full_path), "group_full_path": group.full_path,
            "group_access_level": *level as u8, "expires_at": null,
        })
    });
    let level =
        |access: Access| (access > Access::None).then(|| json!({ "access_level": access as u8 }));
    let own = call
        .user
        .and_then(|user| project.members.get(&user).copied())
        .unwrap_or(Access::None);
    let by_group = match (call.user, project.home) {
        (Some(user), Home::Group(group)) => world.access_to_group(user, group),
        _ => Access::None,
    };
    let more = json!({
        "archived": project.archived, "empty_repo": false, "packages_enabled": true,
        "marked_for_deletion_at": project.marked_for_deletion_on,
        "marked_for_deletion_on": project.marked_for_deletion_on,
        "import_status": super::imports::word(project.import.as_ref()), "import_error": null,
        "shared_with_groups": shared_with.collect::<Vec<_>>(), "creator_id": 1,
        "permissions": { "project_access": level(own), "group_access": level(by_group) },
    });
    if let (Value::Object(shown), Value::Object(more)) = (&mut shown, more) {
        shown.extend(more);
    }
    shown
}
