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

fn run(n: u64, ago: u64, at: DateTime<Utc>) -> Value {
    // Small changes that look like chance.
    let noise = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
    let data = 900 * MIB + n * 7 * MIB + noise * 400 - if n > 60 { 180 * MIB } else { 0 };
    let config = 118 * 1024 + n / 9 * 512;
    let office_down = matches!(ago, 23 | 24);
    let error = match ago {
        71 => Some(
            "gitlab-backup create failed: exit status 1: pg_dump: error: connection to server on socket failed",
        ),
        38 => Some(
            "dropbox: refreshing the access token: the refresh token was revoked or belongs to another app\n  allow the app again: gitlab-pi-backup login",
        ),
        5 => Some("stopped by SIGTERM; what was uploaded is kept for the next run"),
        _ if office_down => Some("office: no answer within 10s\n  check the network"),
        _ => None,
    };
    let (status, exit) = match ago {
        71 | 38 => ("failed", 1),
        5 => ("failed", 143),
        _ if office_down => ("partial", 3),
        _ => ("ok", 0),
    };
    let made = ago != 71;
    let seconds = [
        14.0 + noise_of(noise, 9),
        190.0 + noise_of(noise, 70),
        150.0 + noise_of(noise >> 3, 160),
        4.0,
    ];
    let upload = |destination: &str, size: u64| {
        let stored = status == "ok" || (destination == "dropbox" && office_down);
        json!({ "destination": destination, "path": "/Data/x", "status": if stored { "uploaded" } else { "failed" },
            "bytes_sent": size, "verified": stored, "seconds": 1.0, "error": null })
    };
    let archive = |kind: &str, name: String, size: u64| {
        json!({ "kind": kind, "name": name, "size": size, "created_at": time(at), "made_by_this_run": true,
            "doubts": [], "uploads": [upload("dropbox", size), upload("office", size)] })
    };
    let id = backup_id(at);
    let mut archives = vec![archive(
        "config",
        format!(
            "gitlab_config_{}_{}.tar",
            at.timestamp(),
            at.format("%Y_%m_%d")
        ),
        config,
    )];
    if made {
        archives.push(archive("data", format!("{id}_gitlab_backup.tar"), data));
    }
    let manifests: Vec<_> = ["dropbox", "office"].iter()
        .filter(|name| status == "ok" || (**name == "dropbox" && office_down))
        .map(|name| json!({ "destination": name, "backup_id": id, "path": "/Manifests/x", "status": "written", "error": null }))
        .collect();
    // Retention has filled up after some months; then only the backups themselves grow.
    let kept = (n + 1).min(17);
    let used = 31 * GIB + kept * data + n * 20 * MIB;
    let space = |name: &str, used: u64, total: u64| json!({ "destination": name, "free": total.saturating_sub(used), "used": used, "total": total });
    let step = |step: &str, seconds: f64| json!({ "step": step, "status": "ok", "seconds": seconds, "error": null });
    json!({ "command": "run", "run_id": format!("run-{n}"), "status": status, "exit": exit,
        "started_at": time(at), "finished_at": time(at + TimeDelta::milliseconds(1_000 * (seconds.iter().sum::<f64>() as i64))),
        "backup_id": made.then_some(id), "gitlab_version": "17.8.2",
        "steps": [step("preflight", 1.1), step("config_command", seconds[0]), step("data_command", if made { seconds[1] } else { 6.0 }),
            step("upload", seconds[2]), step("manifest", seconds[3])],
        "archives": archives, "manifests": manifests, "pruned": [],
        "space": [space("dropbox", used, 100 * GIB), space("office", 210 * GIB, 931 * GIB)],
        "warnings": [], "error": error })
}

fn noise_of(noise: u64, most: u64) -> f64 {
    f64::from(u32::try_from(noise % most).expect("small"))
}

/// As GitLab names the backup of a moment.
pub fn backup_id(at: DateTime<Utc>) -> String {
    format!("{}_{}_17.8.2", at.timestamp(), at.format("%Y_%m_%d"))
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}
