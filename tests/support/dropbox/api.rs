//! The table of endpoints, and what is looked at before any of them runs.

use serde_json::{Value, json};

use super::Shared;
use super::answer::{Answer, Reply, Stop, bad_input, failure};
use super::body::Body;
use super::fault::{Hit, What};
use super::http::Head;
use super::oauth::Standing;
use super::{files, oauth, upload};

/// What is known of a request when its endpoint runs.
pub struct Call<'a> {
    /// The server.
    pub shared: &'a Shared,
    /// The request's head.
    pub head: &'a Head,
    /// What goes wrong with it.
    pub hit: &'a Hit,
    /// Its number among all requests.
    pub seen: usize,
}

impl Call<'_> {
    /// The call's name as the service's error texts have it, `files/upload`.
    pub fn name(&self) -> &str {
        self.head.path().trim_start_matches("/2/")
    }

    /// The bearer token, if there is one.
    pub fn token(&self) -> Option<&str> {
        let value = self.head.header("Authorization")?;
        value.strip_prefix("Bearer ")
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Host {
    Api,
    Content,
}

/// Where the argument is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    /// JSON in the body.
    Rpc,
    /// In a header; the body is file content.
    Upload,
    /// In a header or the address; the reply is file content.
    Download,
}

type Run = fn(&Call, &Value, &mut Body) -> Answer;

struct Route {
    name: &'static str,
    host: Host,
    style: Style,
    scope: &'static str,
    run: Run,
}

const fn rpc(name: &'static str, scope: &'static str, run: Run) -> Route {
    Route {
        name,
        host: Host::Api,
        style: Style::Rpc,
        scope,
        run,
    }
}

const fn upload(name: &'static str, run: Run) -> Route {
    Route {
        name,
        host: Host::Content,
        style: Style::Upload,
        scope: WRITE,
        run,
    }
}

const ACCOUNT: &str = "account_info.read";
const METADATA: &str = "files.metadata.read";
const READ: &str = "files.content.read";
const WRITE: &str = "files.content.write";

/// Hosts, styles and scopes as in the Stone specification (dropbox/dropbox-api-spec, `files.stone`).
const ROUTES: [Route; 16] = [
    rpc("auth/token/revoke", "", |call, arg, _| {
        oauth::revoke(call, arg)
    }),
    rpc("users/get_current_account", ACCOUNT, |call, arg, _| {
        files::get_current_account(call, arg)
    }),
    rpc("users/get_space_usage", ACCOUNT, |call, arg, _| {
        files::get_space_usage(call, arg)
    }),
    rpc("files/get_metadata", METADATA, |call, arg, _| {
        files::get_metadata(call, arg)
    }),
    rpc("files/list_folder", METADATA, |call, arg, _| {
        files::list_folder(call, arg)
    }),
    rpc("files/list_folder/continue", METADATA, |call, arg, _| {
        files::list_folder_continue(call, arg)
    }),
    rpc("files/create_folder_v2", WRITE, |call, arg, _| {
        files::create_folder(call, arg)
    }),
    rpc("files/delete_v2", WRITE, |call, arg, _| {
        files::delete(call, arg)
    }),
    rpc("files/move_v2", WRITE, |call, arg, _| {
        files::relocate(call, arg)
    }),
    Route {
        name: "files/download",
        host: Host::Content,
        style: Style::Download,
        scope: READ,
        run: |call, arg, _| files::download(call, arg),
    },
    upload("files/upload", upload::upload),
    upload("files/upload_session/start", upload::start),
    upload("files/upload_session/append_v2", upload::append),
    upload("files/upload_session/finish", upload::finish),
    rpc("files/upload_session/start_batch", WRITE, |call, arg, _| {
        upload::start_batch(call, arg)
    }),
    rpc(
        "files/upload_session/finish_batch_v2",
        WRITE,
        |call, arg, _| upload::finish_batch(call, arg),
    ),
];

/// Answers a request.
pub fn answer(call: &Call, body: &mut Body) -> Answer {
    let head = call.head;
    match (head.method.as_str(), head.path()) {
        ("POST", "/oauth2/token") => return oauth::token(call, body),
        ("GET", "/oauth2/authorize") => return oauth::page(call),
        (_, path) if !path.starts_with("/2/") => return Ok(Reply::html(404)),
        _ => {}
    }
    let name = call.name();
    let Some(route) = ROUTES.iter().find(|route| route.name == name) else {
        return Err(Reply::text(400, format!("Unknown API function: \"{name}\"")).into());
    };
    let method_fits =
        head.method == "POST" || route.style == Style::Download && head.method == "GET";
    if !method_fits {
        return Err(Reply::text(405, "method not allowed").into());
    }
    check_host(route, head)?;
    check_token(call, route.scope)?;
    check_media_type(route.style, call)?;
    let arg = match route.style {
        Style::Rpc => argument_in_body(call, body)?,
        Style::Upload | Style::Download => argument_in_header(call)?,
    };
    call.shared.state().seen[call.seen].arg = arg.clone();
    if route.style == Style::Download {
        body.drain()?;
    }
    (route.run)(call, &arg, body)
}

/// Loopback names may be used for everything, Dropbox's own only for what lives there.
fn check_host(route: &Route, head: &Head) -> Answer<()> {
    let right = match route.host {
        Host::Api => ["api.dropboxapi.com", "api.dropbox.com"],
        Host::Content => ["content.dropboxapi.com", "api-content.dropbox.com"],
    };
    let host = head.host();
    if host.contains("dropbox") && !right.contains(&host) {
        let text = format!(
            "you called this endpoint on the wrong host; use {}",
            right[0]
        );
        return Err(bad_input(route.name, text));
    }
    Ok(())
}

fn check_token(call: &Call, scope: &str) -> Answer<()> {
    let Some(token) = call.token() else {
        return Err(bad_input(
            call.name(),
            "Must provide HTTP header \"Authorization\" or URL parameter \"authorization\".",
        ));
    };
    let mut standing = call.shared.state().tokens.standing(token);
    if let Some(What::ExpiredToken) = call.hit.0 {
        standing = Standing::Expired;
    }
    match standing {
        Standing::Expired => return Err(unauthorized("expired_access_token")),
        Standing::Unknown => return Err(unauthorized("invalid_access_token")),
        Standing::Valid => {}
    }
    let state = call.shared.state();
    if !state.tokens.app_has(scope) {
        let text = format!(
            "Your app (ID: 1234567) is not permitted to access this endpoint because it does not have the required \
             scope '{scope}'. The owner of the app can enable the scope for the app using the Permissions tab on the \
             App Console."
        );
        return Err(bad_input(call.name(), text));
    }
    if !state.tokens.token_has(token, scope) {
        let error = json!({ ".tag": "missing_scope", "required_scope": scope });
        return Err(failure(401, &error).into());
    }
    Ok(())
}

fn unauthorized(tag: &str) -> Stop {
    failure(401, &json!({ ".tag": tag })).into()
}

fn check_media_type(style: Style, call: &Call) -> Answer<()> {
    let expected: &[&str] = match style {
        Style::Rpc => &["application/json", "text/plain; charset=dropbox-cors-hack"],
        Style::Upload => &[
            "application/octet-stream",
            "text/plain; charset=dropbox-cors-hack",
        ],
        Style::Download => &["", "application/octet-stream", "text/plain"],
    };
    let given = call
        .head
        .header("Content-Type")
        .unwrap_or_default()
        .to_ascii_lowercase();
    let plain = given.strip_suffix("; charset=utf-8").unwrap_or(&given);
    // Calls without argument are made without any body, too.
    let nothing = style == Style::Rpc && given.is_empty();
    if nothing || expected.contains(&plain) {
        return Ok(());
    }
    let text =
        format!("Bad HTTP \"Content-Type\" header: \"{given}\".  Expecting one of {expected:?}.");
    Err(bad_input(call.name(), text))
}

fn argument_in_body(call: &Call, body: &mut Body) -> Answer<Value> {
    let bytes = body.collect(call.name())?;
    if call.head.header("Content-Type").is_none() {
        return match bytes.as_slice() {
            [] => Ok(Value::Null),
            _ => Err(bad_input(
                call.name(),
                "Bad HTTP \"Content-Type\" header: missing.",
            )),
        };
    }
    serde_json::from_slice(&bytes)
        .map_err(|_| bad_input(call.name(), "request body: could not decode input as JSON"))
}

fn argument_in_header(call: &Call) -> Answer<Value> {
    let header = "HTTP header \"Dropbox-API-Arg\"";
    let in_address = oauth::form(call.head.query()).remove("arg");
    let text = match (call.head.bytes("Dropbox-API-Arg"), in_address) {
        (Some(bytes), _) if !bytes.is_ascii() => {
            return Err(bad_input(
                call.name(),
                format!("{header}: could not decode input: not ASCII"),
            ));
        }
        (Some(bytes), _) => String::from_utf8_lossy(bytes).into_owned(),
        (None, Some(text)) => text,
        (None, None) => {
            return Err(bad_input(
                call.name(),
                "Must provide HTTP header \"Dropbox-API-Arg\" or URL parameter \"arg\".",
            ));
        }
    };
    serde_json::from_str(&text).map_err(|_| {
        bad_input(
            call.name(),
            format!("{header}: could not decode input as JSON"),
        )
    })
}
