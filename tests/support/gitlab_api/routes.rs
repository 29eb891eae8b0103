//! The table of endpoints, and what is looked at before any of them runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::answer::{Answer, Reply, forbidden, not_found, unauthorized};
use super::fault::{Kind, What};
use super::limits::Limit;
use super::model::{Access, Group, Project, Standing, World};
use super::{Shared, download, exports, imports, listings};

/// What is known of a request when its endpoint runs.
pub struct Call<'a> {
    /// The server.
    pub shared: &'a Arc<Shared>,
    /// `GET`, `POST`.
    pub method: &'a str,
    /// What is asked for, as it came.
    pub target: &'a str,
    /// Below `/api/v4`, each part decoded.
    pub parts: Vec<String>,
    /// The query and the form, decoded; of names that come twice the last one.
    pub parameters: BTreeMap<String, String>,
    /// The token, as it came.
    pub secret: Option<String>,
    /// Who asks: none without a token.
    pub user: Option<u64>,
    /// The `Range` and `If-Range` headers.
    pub range: (Option<String>, Option<String>),
    /// The file of a multipart form.
    pub file: Option<imports::Received>,
}

impl Call<'_> {
    /// A parameter.
    pub fn query(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// A parameter that is yes or no.
    pub fn flag(&self, name: &str) -> Answer<Option<bool>> {
        match self.query(name).map(str::to_lowercase).as_deref() {
            None | Some("") => Ok(None),
            Some("true" | "1" | "t" | "y" | "yes" | "on") => Ok(Some(true)),
            Some("false" | "0" | "f" | "n" | "no" | "off") => Ok(Some(false)),
            Some(_) => Err(Reply::error(400, format!("{name} is invalid"))),
        }
    }

    /// The address of this request with other parameters.
    pub fn address_with(&self, changed: &[(&str, String)], without: &[&str]) -> String {
        let mut parameters = self.parameters.clone();
        for name in without {
            parameters.remove(*name);
        }
        for (name, value) in changed {
            parameters.insert((*name).to_owned(), value.clone());
        }
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let pairs = parameters.iter();
        let pairs: Vec<_> = pairs
            .map(|(name, value)| format!("{}={}", encode(name), encode(value)))
            .collect();
        let path = self.target.split('?').next().unwrap_or_default();
        format!("{}{path}?{}", self.shared.url(), pairs.join("&"))
    }

    /// Who asks, which has to be somebody.
    pub fn somebody(&self) -> Answer<u64> {
        self.user.ok_or_else(unauthorized)
    }

    /// The project of the path, if who asks may see it.
    pub fn project<'w>(&self, world: &'w World) -> Answer<&'w Project> {
        let asked = self.parts.get(1).map(String::as_str).unwrap_or_default();
        let missing = || not_found("Project");
        let by_number = asked.parse::<u64>().ok();
        let here = by_number.or_else(|| world.project_at(asked));
        let moved = || world.moved.get(&asked.to_lowercase()).copied();
        let id = here.or_else(moved).ok_or_else(missing)?;
        let project = world.projects.get(&id).ok_or_else(missing)?;
        if !world.sees_project(self.user, project) {
            return Err(missing());
        }
        if here.is_some() {
            return Ok(project);
        }
        if self.method != "GET" {
            let what = "Non GET methods are not allowed for moved projects";
            return Err(Reply::message(405, what));
        }
        let came = self.target.split('/').nth(4).unwrap_or_default();
        let came = came.split('?').next().unwrap_or_default();
        let target = self.target.replacen(came, &id.to_string(), 1);
        let place = format!("{}{target}", self.shared.url());
        Err(Reply::new(
            301,
            "text/plain",
            format!("This resource has been moved permanently to {place}"),
        )
        .with("Location", place))
    }

    /// The group of the path, if who asks may see it.
    pub fn group<'w>(&self, world: &'w World) -> Answer<&'w Group> {
        let asked = self.parts.get(1).map(String::as_str).unwrap_or_default();
        let missing = || not_found("Group");
        let by_number = asked.parse::<u64>().ok();
        let id = by_number
            .or_else(|| world.group_at(asked))
            .ok_or_else(missing)?;
        let group = world.groups.get(&id).ok_or_else(missing)?;
        if world.sees_group(self.user, group) {
            Ok(group)
        } else {
            Err(missing())
        }
    }

    /// The project of the path, if who asks may export it.
    pub fn exportable<'w>(&self, world: &'w World) -> Answer<&'w Project> {
        let user = self.somebody()?;
        let project = self.project(world)?;
        if world.may_export(user, project) {
            Ok(project)
        } else {
            Err(forbidden())
        }
    }
}

/// What a request is for, by its method and the parts of its path.
pub fn kind(method: &str, parts: &[String]) -> Kind {
    let parts: Vec<_> = parts.iter().map(String::as_str).collect();
    match (method, parts.as_slice()) {
        ("GET" | "HEAD", ["user"]) => Kind::User,
        ("GET", ["version" | "metadata"]) => Kind::Version,
        ("GET", ["personal_access_tokens", "self"]) => Kind::Token,
        ("GET", ["groups"]) => Kind::Groups,
        ("GET", ["groups", _]) => Kind::Group,
        ("GET", ["groups", _, "subgroups" | "descendant_groups"]) => Kind::Subgroups,
        ("GET", ["groups", _, "projects"]) => Kind::GroupProjects,
        ("GET", ["projects"]) => Kind::Projects,
        ("POST", ["projects", "import"]) => Kind::Import,
        ("POST", ["projects", "remote-import"]) => Kind::RemoteImport,
        ("GET", ["projects", _]) => Kind::Project,
        ("GET", ["namespaces", _]) => Kind::Namespace,
        ("POST", ["projects", _, "export"]) => Kind::Export,
        ("GET", ["projects", _, "export"]) => Kind::ExportStatus,
        ("GET", ["projects", _, "export", "download"]) => Kind::Download,
        ("GET", ["projects", _, "import"]) => Kind::ImportStatus,
        _ => Kind::Other,
    }
}

/// The parts of a path below `/api/v4`, decoded one by one, so that an escaped slash stays within its part.
pub fn parts(path: &str) -> Option<Vec<String>> {
    let below = path.strip_prefix("/api/v4/")?;
    let below = below.strip_suffix('/').unwrap_or(below);
    let decode = |part: &str| percent_decode_str(part).decode_utf8_lossy().into_owned();
    Some(below.split('/').map(decode).collect())
}

/// Names and values of a query or form.
pub fn parameters(text: &str) -> BTreeMap<String, String> {
    let decode = |text: &str| {
        let spaced = text.replace('+', " ");
        percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
    };
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

/// Who asks. Looked at before anything else.
pub fn who(
    shared: &Shared,
    token: Option<&str>,
    kind: Kind,
    hit: Option<&What>,
) -> Answer<Option<u64>> {
    let Some(secret) = token else { return Ok(None) };
    let state = shared.state();
    let token = state.world.tokens.get(secret).ok_or_else(unauthorized)?;
    let standing = match hit {
        Some(What::Expired) => Standing::Expired,
        Some(What::Revoked) => Standing::Revoked,
        _ => token.standing,
    };
    let refuse = |why: &str| Reply::bearer(401, "invalid_token", why, None);
    match standing {
        Standing::Valid => {}
        Standing::Expired => {
            return Err(refuse(
                "Token is expired. You can either do re-authorization or token refresh.",
            ));
        }
        Standing::Revoked => {
            return Err(refuse(
                "Token was revoked. You have to re-authorize from the user.",
            ));
        }
    }
    let has = |scope: &str| token.scopes.iter().any(|own| own == scope);
    let changes = matches!(kind, Kind::Export | Kind::Import | Kind::RemoteImport);
    let (enough, scopes) = match kind {
        _ if has("api") => (true, ""),
        Kind::Token => (true, ""),
        Kind::User => (
            has("read_user") || has("read_api"),
            "api read_api read_user",
        ),
        _ if changes => (false, "api"),
        _ => (has("read_api"), "api read_api"),
    };
    if !enough {
        let why = "The request requires higher privileges than provided by the access token.";
        return Err(Reply::bearer(403, "insufficient_scope", why, Some(scopes)));
    }
    Ok(Some(token.user))
}

/// Answers a request.
pub fn answer(call: &Call, kind: Kind) -> Answer {
    let refused = {
        let mut state = call.shared.state();
        let limits = state.settings.limits;
        let scope = (call.user.unwrap_or(0), 0);
        let minute = call.shared.options.minute;
        let standing = state.counted.count(Limit::Requests, scope, &limits, minute);
        let told = if limits.told {
            standing.headers()
        } else {
            Vec::new()
        };
        (standing.early_refusal(), told)
    };
    if let Some(refusal) = refused.0 {
        return Err(refusal);
    }
    let reply = run(call, kind).unwrap_or_else(|refusal| refusal);
    let reply = refused
        .1
        .into_iter()
        .fold(reply, |reply, (name, value)| reply.with(name, value));
    Ok(reply)
}

fn run(call: &Call, kind: Kind) -> Answer {
    match kind {
        Kind::User => listings::user(call),
        Kind::Version => listings::version(call),
        Kind::Token => listings::token(call),
        Kind::Groups => listings::groups(call),
        Kind::Group => listings::group(call),
        Kind::Subgroups => listings::subgroups(call),
        Kind::GroupProjects => listings::group_projects(call),
        Kind::Projects => listings::projects(call),
        Kind::Project => listings::project(call),
        Kind::Namespace => listings::namespace(call),
        Kind::Export => exports::request(call),
        Kind::ExportStatus => exports::status(call),
        Kind::Download => download::download(call),
        Kind::Import => imports::import(call),
        Kind::RemoteImport => imports::remote(call),
        Kind::ImportStatus => imports::status(call),
        Kind::Other | Kind::Any => Err(Reply::error(404, "404 Not Found")),
    }
}

/// The level of access a parameter names.
pub fn access(number: &str) -> Answer<Access> {
    let known = [
        Access::Minimal,
        Access::Guest,
        Access::Planner,
        Access::Reporter,
        Access::Developer,
        Access::Maintainer,
        Access::Owner,
    ];
    let found = known
        .into_iter()
        .find(|level| (*level as u8).to_string() == number);
    found.ok_or_else(|| Reply::error(400, "min_access_level does not have a valid value"))
}
