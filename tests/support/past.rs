//! A machine's past: what the history holds after a year of runs.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The moment the year ends at: a Wednesday morning.
pub fn now() -> DateTime<Utc> {
    "2026-11-18T07:12:00Z".parse().expect("a time")
}

/// So many runs, twice a week, the last of them three hours before `end`; and a rehearsal a month.
pub fn year(count: u64, end: DateTime<Utc>) -> Vec<Value> {
    let mut entries = Vec::new();
    for n in 0..count {
        // Wednesday, Saturday, Wednesday: four days, three days.
        let ago = count - 1 - n;
        let days = ago / 2 * 7 + ago % 2 * 4;
        let at = end - TimeDelta::minutes(190) - TimeDelta::days(days.cast_signed());
        entries.push(run(n, ago, at));
        if n % 9 == 4 {
            entries.push(rehearsal(
                "dropbox",
                &backup_id(at),
                at + TimeDelta::hours(2),
                Some(true),
            ));
        }
        if n % 40 == 20 {
            entries.push(rehearsal(
                "local",
                &backup_id(at),
                at + TimeDelta::hours(3),
                Some(true),
            ));
        }
    }
    entries
}

/// The end of a rehearsal.
pub fn rehearsal(
    destination: &str,
    id: &str,
    at: DateTime<Utc>,
    restorable: Option<bool>,
) -> Value {
    json!({ "command": "rehearse", "backup_id": id, "destination": destination,
        "restorable": restorable, "finished_at": time(at) })
}

/// How the run so many runs ago ended: status, exit status, error.
fn ending(ago: u64) -> (&'static str, u8, Option<&'static str>) {
    match ago {
        71 => (
            "failed",
            1,
            Some(
                "gitlab-backup create: exit status 1: pg_dump: error: connection to server failed",
            ),
        ),
        38 => (
            "failed",
            1,
            Some(
                "dropbox: refreshing the access token: the refresh token was revoked or belongs to another app\n  \
                 allow the app again: gitlab-pi-backup login",
            ),
        ),
        5 => (
            "failed",
            143,
            Some("stopped by SIGTERM; what was uploaded is kept for the next run"),
        ),
        23 | 24 => (
            "partial",
            3,
            Some("office: no answer within 10s\n  check the network"),
        ),
        _ => ("ok", 0, None),
    }
}

fn run(n: u64, ago: u64, at: DateTime<Utc>) -> Value {
    // Small changes that look like chance.
    let noise = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
    let cleaned = if n > 60 { 180 * MIB } else { 0 };
    let data = 900 * MIB + n * 7 * MIB + noise * 400 - cleaned;
    let config = 118 * 1024 + n / 9 * 512;
    let (status, exit, error) = ending(ago);
    let made = ago != 71;
    let stored =
        |destination: &str| status == "ok" || status == "partial" && destination == "dropbox";
    let id = backup_id(at);

    let archive = |kind: &str, name: String, size: u64| {
        let uploads = ["dropbox", "office"].map(|destination| {
            let stored = stored(destination);
            json!({
                "destination": destination,
                "path": format!("/{name}"),
                "status": if stored { "uploaded" } else { "failed" },
                "bytes_sent": size,
                "verified": stored,
                "seconds": 1.0,
            })
        });
        json!({
            "kind": kind,
            "name": name,
            "size": size,
            "created_at": time(at),
            "made_by_this_run": true,
            "doubts": [],
            "uploads": uploads,
        })
    };
    let day = at.format("%Y_%m_%d");
    let config_name = format!("gitlab_config_{}_{day}.tar", at.timestamp());
    let mut archives = vec![archive("config", config_name, config)];
    if made {
        archives.push(archive("data", format!("{id}_gitlab_backup.tar"), data));
    }
    let manifests = ["dropbox", "office"]
        .into_iter()
        .filter(|name| stored(name));
    let manifests =
        manifests.map(|name| json!({ "destination": name, "backup_id": id, "status": "written" }));

    let seconds = [
        ("preflight", 1),
        ("config_command", 14 + noise % 9),
        ("data_command", if made { 190 + noise % 70 } else { 6 }),
        ("upload", 150 + (noise >> 3) % 160),
        ("manifest", 4),
    ];
    let steps =
        seconds.map(|(step, seconds)| json!({ "step": step, "status": "ok", "seconds": seconds }));
    let took: u64 = seconds.iter().map(|(_, seconds)| seconds).sum();

    // Retention has filled up after some months; then only the backups themselves grow.
    let used = 31 * GIB + (n + 1).min(17) * data + n * 20 * MIB;
    let space = [
        ("dropbox", used, 100 * GIB),
        ("office", 210 * GIB, 931 * GIB),
    ];
    let space = space.map(|(name, used, total)| {
        let free = total.saturating_sub(used);
        json!({ "destination": name, "free": free, "used": used, "total": total })
    });
    json!({
        "command": "run",
        "run_id": format!("run-{n}"),
        "status": status,
        "exit": exit,
        "started_at": time(at),
        "finished_at": time(at + TimeDelta::seconds(took.cast_signed())),
        "backup_id": made.then_some(&id),
        "steps": steps,
        "archives": archives,
        "manifests": manifests.collect::<Vec<_>>(),
        "space": space,
        "error": error,
    })
}

/// As GitLab names the backup of a moment.
pub fn backup_id(at: DateTime<Utc>) -> String {
    format!("{}_{}_17.8.2", at.timestamp(), at.format("%Y_%m_%d"))
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}
