//! Exports of projects, from the request to the file or the upload.
//!
//! As GitLab does it since exports belong to users (`app/models/project.rb`, `project_export_worker.rb`): the request
//! throws away the file of the export before; a worker takes it up some time later, and until then the status knows
//! nothing of it; a job that failed stays on record, so that the status is `failed` wherever it would be `none`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::answer::{Answer, Reply};
use super::archive::Archive;
use super::client;
use super::limits::Limit;
use super::model::{Outcome, Project};
use super::routes::Call;
use super::{Shared, State};

/// When an export goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// With the polls of its status: so many are answered before the worker has it (with `none`), while it is
    /// `queued`, and while it is `started`. The poll after these finds it done, unless it is still being uploaded.
    Polls {
        /// Before the worker has taken it up.
        unseen: u32,
        /// While it waits.
        queued: u32,
        /// While it is made.
        started: u32,
    },
    /// With time.
    Time {
        /// While it waits.
        queued: Duration,
        /// While it is made.
        started: Duration,
    },
    /// When the test calls [`super::GitLabApi::work`].
    Held,
}

impl Default for Pace {
    fn default() -> Self {
        Self::Polls {
            unseen: 0,
            queued: 1,
            started: 1,
        }
    }
}

/// What was asked for once, and what became of it.
#[derive(Debug, Clone)]
pub struct Exported {
    /// The project.
    pub project: u64,
    /// Its path when it was asked for.
    pub path: String,
    /// Who asked.
    pub user: u64,
    /// The address it is uploaded to; none if it is to be downloaded.
    pub upload: Option<String>,
    /// The status the store answered the upload with; 0 if it could not be reached.
    pub uploaded: Option<u16>,
    /// What was packed; none if nothing was.
    pub archive: Option<Arc<Archive>>,
    /// When it was asked for.
    pub at: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The worker has not taken it up.
    Unseen,
    /// It waits.
    Queued,
    /// It is made or uploaded.
    Started,
}

/// What a worker has to do.
#[derive(Debug)]
struct Job {
    /// Its place in the list of what was exported.
    number: usize,
    stage: Stage,
    /// Polls that this stage still answers.
    left: u32,
    /// Somebody is at it.
    taken: bool,
}

/// The exports of a project for a user.
#[derive(Debug, Default)]
struct Track {
    jobs: Vec<Job>,
    failed: bool,
    file: Option<Arc<Archive>>,
}

/// All exports.
#[derive(Debug, Default)]
pub struct Exports {
    tracks: HashMap<(u64, u64), Track>,
    /// In the order they were asked for.
    pub all: Vec<Exported>,
}

impl Exports {
    /// The file that can be downloaded.
    pub fn file(&self, key: (u64, u64)) -> Option<Arc<Archive>> {
        self.tracks.get(&key)?.file.clone()
    }

    /// All files that wait to be downloaded are gone, as after a day.
    pub fn expire(&mut self) {
        for track in self.tracks.values_mut() {
            track.file = None;
        }
    }
}

/// Whose exports they are: with older versions they are everybody's.
pub fn key(state: &State, project: u64, user: u64) -> (u64, u64) {
    (project, if state.settings.per_user { user } else { 0 })
}

/// What all three endpoints look at first.
pub fn look(call: &Call, state: &State) -> Answer<(Project, u64)> {
    let user = call.somebody()?;
    if !state.settings.export_enabled {
        return Err(Reply::message(404, "404 Not Found"));
    }
    Ok((call.exportable(&state.world)?.clone(), user))
}

/// `POST /projects/:id/export`.
pub fn request(call: &Call) -> Answer {
    let mut state = call.shared.state();
    let state = &mut *state;
    let (project, user) = look(call, state)?;
    let limits = state.settings.limits;
    let minute = call.shared.options.minute;
    let standing = state
        .counted
        .count(Limit::Export, (user, 0), &limits, minute);
    if let Some(refusal) = standing.refusal() {
        return Err(refusal);
    }
    let key = key(state, project.id, user);
    state.exports.tracks.entry(key).or_default().file = None;
    let upload = upload(call, state.settings.local_requests)?;
    if state
        .settings
        .export_limit
        .is_some_and(|most| project.export_bytes > most)
    {
        return Err(Reply::message(
            400,
            "The project size exceeds the export limit.",
        ));
    }
    begin(call.shared, state, project.id, user, upload);
    Ok(Reply::message(202, "202 Accepted"))
}

/// A worker gets the job to export a project, and to upload it to `METHOD URL` if one is given.
pub fn begin(shared: &Arc<Shared>, state: &mut State, id: u64, user: u64, upload: Option<String>) {
    let key = key(state, id, user);
    let project = &state.world.projects[&id];
    let (path, outcome) = (project.full_path.clone(), project.outcome);
    let number = state.exports.all.len();
    state.exports.all.push(Exported {
        project: id,
        path,
        user,
        upload,
        uploaded: None,
        archive: None,
        at: Instant::now(),
    });
    let mut job = Job {
        number,
        stage: Stage::Unseen,
        left: 0,
        taken: false,
    };
    if outcome != Outcome::Lost {
        match state.settings.pace {
            Pace::Polls {
                unseen: 0, queued, ..
            } => {
                job.stage = Stage::Queued;
                job.left = queued;
            }
            Pace::Polls { unseen, .. } => job.left = unseen,
            Pace::Held => job.stage = Stage::Queued,
            Pace::Time { queued, started } => {
                job.stage = Stage::Queued;
                let shared = Arc::clone(shared);
                std::thread::spawn(move || over_time(&shared, key, number, [queued, started]));
            }
        }
        state.exports.tracks.entry(key).or_default().jobs.push(job);
    }
}

/// Where the export is to be uploaded.
fn upload(call: &Call, local: bool) -> Answer<Option<String>> {
    let Some(url) = call.query("upload[url]").filter(|url| !url.is_empty()) else {
        return Ok(None);
    };
    let method = call.query("upload[http_method]").unwrap_or("PUT");
    if !["PUT", "POST"].contains(&method) {
        let why = "invalid. Only PUT and POST methods allowed.";
        return Err(Reply::message(400, json!({ "http_method": [why] })));
    }
    let refuse = |why: &str| Err(Reply::message(400, json!({ "url": [why] })));
    let Some((scheme, rest)) = url.split_once("://") else {
        return refuse("is blocked: Only allowed schemes are http, https");
    };
    if !["http", "https"].contains(&scheme) {
        return refuse("is blocked: Only allowed schemes are http, https");
    }
    let host = rest.split(['/', '?']).next().unwrap_or_default();
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    if host.is_empty() {
        return refuse("is blocked: URI is invalid");
    }
    if !local && (host == "localhost" || host.starts_with("127.") || host == "[::1]") {
        return refuse("is blocked: Requests to localhost are not allowed");
    }
    Ok(Some(format!("{method} {url}")))
}

/// `GET /projects/:id/export`: tells, and then lets the polls do their work.
pub fn status(call: &Call) -> Answer {
    let mut state = call.shared.state();
    let state = &mut *state;
    let (project, user) = look(call, state)?;
    let key = key(state, project.id, user);
    let word = word(state, key);
    let name = project
        .full_path
        .rsplit_once('/')
        .map_or("", |(_, name)| name);
    let mut shown = json!({
        "id": project.id, "description": project.description, "name": name, "path": name,
        "name_with_namespace": project.full_path.replace('/', " / "), "path_with_namespace": project.full_path,
        "created_at": "2020-01-01T00:00:00.000Z", "export_status": word,
    });
    if word == "finished" {
        let (base, id, path) = (call.shared.url(), project.id, &project.full_path);
        shown["_links"] = json!({
            "api_url": format!("{base}/api/v4/projects/{id}/export/download"),
            "web_url": format!("{base}/{path}/download_export"),
        });
    }
    let pace = state.settings.pace;
    let Some(track) = state.exports.tracks.get_mut(&key) else {
        return Ok(Reply::json(200, &shown));
    };
    let mut due = Vec::new();
    if let Pace::Polls {
        queued, started, ..
    } = pace
    {
        for job in track.jobs.iter_mut().filter(|job| !job.taken) {
            job.left = job.left.saturating_sub(1);
            while job.left == 0 && !job.taken {
                match job.stage {
                    Stage::Unseen => (job.stage, job.left) = (Stage::Queued, queued),
                    Stage::Queued if project.outcome == Outcome::Hangs => break,
                    Stage::Queued => (job.stage, job.left) = (Stage::Started, started),
                    Stage::Started => {
                        job.taken = true;
                        due.push(job.number);
                    }
                }
            }
        }
    }
    for number in due {
        // An upload takes its time; a file is there with the next poll, so that tests can count on it.
        if state.exports.all[number].upload.is_some() {
            let shared = Arc::clone(call.shared);
            std::thread::spawn(move || complete(&shared, key, number));
        } else {
            let archive = make(Some(&project), number, &call.shared.options.version);
            settle(state, key, number, archive, None);
        }
    }
    Ok(Reply::json(200, &shown))
}

/// The status, from what is there, in the order GitLab looks.
fn word(state: &State, key: (u64, u64)) -> &'static str {
    let Some(track) = state.exports.tracks.get(&key) else {
        return "none";
    };
    let any = |stage: Stage| track.jobs.iter().any(|job| job.stage == stage);
    let (queued, started) = (any(Stage::Queued), any(Stage::Started));
    // While it is uploaded there is a file as well, and yet GitLab's own look at it comes before the upload ends.
    match () {
        () if (queued || started) && track.file.is_some() => "regeneration_in_progress",
        () if queued => "queued",
        () if started => "started",
        () if track.file.is_some() => "finished",
        () if track.failed && state.settings.tells_failures => "failed",
        () => "none",
    }
}

/// What the worker does when it is left to time.
fn over_time(shared: &Arc<Shared>, key: (u64, u64), number: usize, times: [Duration; 2]) {
    if shared.end.wait(Some(times[0])) || !advance(shared, key, number) {
        return;
    }
    if !shared.end.wait(Some(times[1])) {
        complete(shared, key, number);
    }
}

/// Takes a job up; false if it hangs.
fn advance(shared: &Shared, key: (u64, u64), number: usize) -> bool {
    let mut state = shared.state();
    let project = state.world.projects.get(&key.0);
    if project.is_some_and(|project| project.outcome == Outcome::Hangs) {
        return false;
    }
    let track = state.exports.tracks.entry(key).or_default();
    let job = track.jobs.iter_mut().find(|job| job.number == number);
    let Some(job) = job else { return false };
    (job.stage, job.taken) = (Stage::Started, true);
    true
}

/// Does all that waits, uploads included, and returns when it is done.
pub fn work(shared: &Arc<Shared>) {
    let waiting: Vec<_> = {
        let state = shared.state();
        let tracks = state.exports.tracks.iter();
        tracks
            .flat_map(|(key, track)| track.jobs.iter().map(|job| (*key, job.number, job.taken)))
            .filter(|(_, _, taken)| !taken)
            .collect()
    };
    for (key, number, _) in waiting {
        if advance(shared, key, number) {
            complete(shared, key, number);
        }
    }
}

/// Makes the export, and uploads it if that was asked for.
fn complete(shared: &Arc<Shared>, key: (u64, u64), number: usize) {
    let (project, upload, refused, most) = {
        let state = shared.state();
        let upload = state.exports.all[number].upload.clone();
        let project = state.world.projects.get(&key.0);
        let refused = project.is_some_and(|project| project.outcome == Outcome::UploadRefused);
        (
            project.cloned(),
            upload,
            refused,
            state.settings.upload_ceiling,
        )
    };
    let archive = make(project.as_ref(), number, &shared.options.version);
    let status = match (&archive, upload) {
        (Some(archive), Some(upload)) => {
            let too_large = most.is_some_and(|most| archive.len > most);
            Some(if refused || too_large {
                400
            } else {
                client::send(shared, &upload, archive).unwrap_or(0)
            })
        }
        _ => None,
    };
    settle(&mut shared.state(), key, number, archive, status);
}

/// Packs the project, if it is still there and can be.
fn make(project: Option<&Project>, number: usize, version: &str) -> Option<Arc<Archive>> {
    let project = project?;
    if matches!(project.outcome, Outcome::Fails | Outcome::FailsSilently) {
        return None;
    }
    let archive = Archive::pack(project, number as u64 + 1, version);
    Some(Arc::new(archive.expect("room for an archive")))
}

/// Notes what became of a job.
fn settle(
    state: &mut State,
    key: (u64, u64),
    number: usize,
    archive: Option<Arc<Archive>>,
    uploaded: Option<u16>,
) {
    let outcome = state
        .world
        .projects
        .get(&key.0)
        .map(|project| project.outcome);
    let keeps = state.settings.keeps_uploaded;
    let track = state.exports.tracks.entry(key).or_default();
    track.jobs.retain(|job| job.number != number);
    match &archive {
        None => track.failed |= outcome != Some(Outcome::FailsSilently),
        Some(archive) if uploaded.is_none() || keeps => track.file = Some(Arc::clone(archive)),
        Some(_) => {}
    }
    let exported = &mut state.exports.all[number];
    exported.archive = archive;
    exported.uploaded = uploaded;
}

/// What `Exported` tells as JSON, for those who look from outside.
impl Exported {
    /// The address of the upload without its query, which is a secret.
    pub fn place(&self) -> Option<&str> {
        let (_, url) = self.upload.as_deref()?.split_once(' ')?;
        url.split('?').next()
    }

    /// For messages of tests.
    pub fn to_json(&self) -> Value {
        json!({ "project": self.path, "place": self.place(), "uploaded": self.uploaded })
    }
}
