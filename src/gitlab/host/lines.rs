//! Which lines of GitLab's output tell of a failure.
//!
//! Read off `lib/backup` of GitLab 8 to 18. Up to 16.10 a failed task is printed and the command ends
//! with 0 all the same (<https://gitlab.com/gitlab-org/gitlab/-/issues/411497>), and often in the middle
//! of a line that announced the task. No rule looks for `error` or `failed` alone: projects may be named so.

use crate::process::without_colours;

/// What a line of a failure begins with.
const FAILURES: [&str; 15] = [
    // What `gitlab-backup-cli` ends with.
    "GitLab Backup failed",
    "Failed to create compressed file '",
    "[FAILED]",
    "[Failed] backing up ",
    "Ignoring error on ",
    "Ignoring repository error",
    "rake aborted!",
    "Backup::",
    "Backup failed",
    "Backup and restore in progress",
    "pg_dump: error: ",
    "pg_dump: fatal: ",
    "pg_dump: [archiver (db)] ",
    "pg_dump: aborting because of ",
    "gzip: stdout: ",
];

/// What a line begins with whose outcome follows behind ` ... `.
const ANNOUNCEMENTS: [&str; 5] = [
    "Dumping PostgreSQL database ",
    "Dumping MySQL database ",
    "Compressing database ",
    "Creating backup archive: ",
    "* ",
];

/// What `gitlab-backup-cli` puts before a line that tells of a failure, and before others.
const CROSS: char = '\u{274c}';
const ICONS: [char; 5] = ['\u{2139}', '\u{2705}', '\u{26a0}', '\u{1f6e0}', '\u{fe0f}'];

/// A line without colours, blanks around it, its time stamp, and a picture that is no cross.
pub fn plain(line: &str) -> String {
    let line = without_colours(line);
    match without_bracketed_stamp(&line) {
        Some(rest) => rest
            .trim_start_matches(|c: char| ICONS.contains(&c) || c.is_whitespace())
            .to_owned(),
        None => without_stamp(&line).to_owned(),
    }
}

/// Whether a plain line tells that a part of the backup failed.
pub fn tells_of_failure(line: &str) -> bool {
    let announced = ANNOUNCEMENTS.iter().any(|begin| line.starts_with(begin));
    let outcome = line
        .split_once(" ... ")
        .filter(|_| announced)
        .map(|(_, outcome)| without_stamp(outcome.trim()));
    is_failure(line) || outcome.is_some_and(is_failure)
}

fn is_failure(line: &str) -> bool {
    let task = line.split(" ... ").next().unwrap_or(line);
    FAILURES.iter().any(|begin| line.starts_with(begin))
        || line.starts_with(CROSS)
        || task.starts_with("Dumping ") && task.contains(" failed: ")
        || (line.starts_with("Creating archive ") || line.starts_with("creating archive ")) && line.ends_with(" failed")
        // gitaly-backup; its key `error` is harmless, empty wikis have it at level `warning`.
        || line.starts_with('{') && (line.contains("\"level\":\"error\"") || line.contains("\"level\":\"fatal\""))
}

/// Takes `[2024-04-25 13:55:14 UTC] ` from the start, as `gitlab-backup-cli` writes it; none if it is not there.
fn without_bracketed_stamp(line: &str) -> Option<&str> {
    let (stamp, rest) = line.strip_prefix('[')?.split_once("] ")?;
    let date = stamp.strip_suffix(" UTC")?;
    let is_stamp = date
        .bytes()
        .all(|b| b.is_ascii_digit() || b"-: ".contains(&b));
    is_stamp.then(|| rest.trim_start())
}

/// Takes `2025-02-21 13:15:22 UTC -- ` from the start; older versions write `+0200` for the zone.
fn without_stamp(line: &str) -> &str {
    let Some((stamp, rest)) = line.split_once(" -- ") else {
        return line;
    };
    let mut words = stamp.split(' ');
    let digits = |word: Option<&str>, separator: char| {
        word.is_some_and(|word| {
            word.split(separator)
                .all(|part| part.bytes().all(|b| b.is_ascii_digit()))
        })
    };
    let is_stamp = digits(words.next(), '-') && digits(words.next(), ':') && words.next().is_some();
    if is_stamp && words.next().is_none() {
        rest.trim_start()
    } else {
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_all_versions_are_heard() {
        for line in [
            "2023-05-24 11:33:11 UTC -- Dumping database failed: Failed to create compressed file '/x/db.sql.gz'",
            "Dumping PostgreSQL database x ... 2023-05-24 11:33:13 +0200 -- Dumping database failed: Failed",
            "Dumping PostgreSQL database x ... Failed to create compressed file 'x' when trying",
            "Dumping PostgreSQL database x ... [FAILED]",
            "Dumping PostgreSQL database x ... pg_dump: error: connection to server failed",
            "\u{1b}[31m2025-02-21 13:15:22 UTC -- Dumping lfs objects failed: Failed to create\u{1b}[0m",
            "\u{1b}[31m[Failed] backing up a/b (@hashed/x)\u{1b}[0m",
            "Ignoring error on a/b - 13:fatal",
            "Ignoring repository error and continuing backing up project: a/b - x",
            " * iplay/website ... rake aborted!",
            "Backup::Error: gitaly-backup exit status 1",
            "2025-02-21 13:15:22 UTC -- Creating archive 1_gitlab_backup.tar failed",
            "pg_dump: [archiver (db)] connection to database \"x\" failed: FATAL",
            "pg_dump: aborting because of server version mismatch",
            "gzip: stdout: No space left on device",
            "{\"command\":\"create\",\"error\":\"x\",\"level\":\"error\",\"msg\":\"create failed\"}",
            "Backup and restore in progress:",
            "GitLab Backup failed: File exists @ dir_s_mkdir - /var/opt/gitlab/backups/1714053314_2024_04_25_17.8.2",
            "[2024-04-25 13:55:14 UTC] \u{274c}\u{fe0f} GitLab Backup failed: pg_dump ended with 1 (/x)",
            "[2024-04-25 13:55:14 UTC] \u{274c} Backup of Repositories failed",
        ] {
            assert!(tells_of_failure(&plain(line)), "{line}");
        }
    }

    #[test]
    fn harmless_lines_give_no_alarm() {
        for line in [
            "2025-02-21 13:15:22 UTC -- Dumping uploads ... done",
            "2025-02-21 13:15:22 UTC -- Dumping container registry images ... [DISABLED]",
            "Ignoring tar exit status 1 'Some files differ': tar: ./failed/job.log: file changed as we read it",
            "tar: ./rake aborted!: file changed as we read it",
            "pg_dump: warning: there are circular foreign-key constraints on this table:",
            "{\"error\":\"manager: repository empty\",\"level\":\"warning\",\"msg\":\"skipped create\"}",
            "{\"gl_project_path\":\"x\\\"level\\\":\\\"error\\\"\",\"level\":\"info\",\"msg\":\"completed create\"}",
            " * demo/failed ... [DONE]",
            "fatal: Not a git repository (or any of the parent directories): .git",
            "2025-02-21 13:15:22 UTC -- Deleting 1495527122_gitlab_backup.tar failed: Permission denied",
            "Backup 1740143717_2025_02_21_17.8.2 is done.",
            "/etc/gitlab/ssl/rake aborted!.pem",
            "Uploading backup archive to remote storage failed-bucket ... skipped",
            "[2024-04-25 13:55:14 UTC] \u{2139}\u{fe0f} Executing Backup of Repositories...",
            "[2024-04-25 13:55:14 UTC] \u{2705}\u{fe0f} GitLab Backup finished: 1714053314_2024_04_25_17.8.2 (12s)",
            "",
        ] {
            assert!(!tells_of_failure(&plain(line)), "{line}");
        }
    }
}
