//! GitLab on this machine: its commands, its version, the folders of its backups, how long they stay there.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use nix::unistd::User;
use rustix::process::geteuid;

use super::disk::way_out;
use super::schedule::Plan;
use super::{Check, CheckStatus};
use crate::archive::ArchiveKind;
use crate::gitlab::host::{Engine, Settings, program};
use crate::gitlab::installed::{Installed, installed};
use crate::gitlab::keep_time::{KeepTime, keep_time as read_keep_time};
use crate::state::can_make_files;
use crate::units::Span;

/// The last version that has packages for machines of 32 bits is the one before
/// (<https://gitlab.com/gitlab-org/gitlab/-/issues/519113>).
const NO_LONGER_32_BIT: &str = "18.0";
const COMMANDS: &str = "gitlab_commands";
const FOLDERS: &str = "backup_folders";

/// `is_used`: whether backups are made here.
pub(super) fn checks(gitlab: &Settings, is_used: bool) -> Vec<Check> {
    let (commands, folders) = if is_used {
        (commands(gitlab), folders(gitlab))
    } else {
        let skipped = |name| {
            Check::skipped(
                name,
                "no destination gets backups: only projects are exported",
            )
        };
        (skipped(COMMANDS), skipped(FOLDERS))
    };
    vec![commands, version(gitlab), folders]
}

fn commands(gitlab: &Settings) -> Check {
    const NAME: &str = COMMANDS;
    let mut found = Vec::new();
    for kind in ArchiveKind::ALL {
        match program(gitlab, kind) {
            Ok(path) => found.push(path.display().to_string()),
            Err(name) => {
                let what = format!("{name} is not on this machine, or cannot be run");
                let hint = if name == Engine::GitlabBackupCli.program() {
                    "GitLab has it since 17.0, in /opt/gitlab/bin; for an older one leave `gitlab.engine` out".to_owned()
                } else {
                    format!("is GitLab installed? if it is elsewhere, set `gitlab.{kind}_command`")
                };
                return Check::failed(NAME, &what).hint(hint);
            }
        }
    }
    // Its commands end with a message that tells less.
    let settings = gitlab.install_dir.join("etc/gitlab-rails-rc");
    if gitlab.install_dir.join("embedded").exists() && !settings.exists() {
        let what = format!(
            "GitLab is installed, but was never configured: there is no {}",
            settings.display()
        );
        return Check::failed(NAME, &what).hint("sudo gitlab-ctl reconfigure");
    }
    found.dedup();
    Check::ok(NAME, found.join(", "))
}

fn version(gitlab: &Settings) -> Check {
    const NAME: &str = "gitlab_version";
    match installed(gitlab) {
        Installed::Lacks(program) => Check::skipped(
            NAME,
            format!("there is no {program}: GitLab runs elsewhere"),
        ),
        Installed::Unknown => {
            let folder = gitlab.install_dir.display();
            let what = format!("{folder}: nothing in it tells which version of GitLab this is");
            if gitlab.install_dir.exists() {
                Check::failed(NAME, &what)
                    .hint("a package of GitLab tells it: install it again, or set `gitlab.install_dir` to where it is")
            } else {
                Check::skipped(NAME, what)
            }
        }
        Installed::Version(version) => judge(&version, cfg!(target_pointer_width = "32")),
    }
}

fn judge(version: &str, narrow: bool) -> Check {
    let shown = match version.strip_suffix("-ee") {
        Some(number) => format!("GitLab EE {number}"),
        None => format!("GitLab CE {version}"),
    };
    let check = Check::ok("gitlab_version", shown);
    if !narrow {
        return check;
    }
    Check {
        detail: format!("{}, on a system of 32 bits", check.detail),
        ..check
    }
    .hint(format!(
        "GitLab {NO_LONGER_32_BIT} and later has no packages for it: on a system of 64 bits restore into exactly this \
         version first, then upgrade"
    ))
}

fn folders(gitlab: &Settings) -> Check {
    const NAME: &str = FOLDERS;
    let (config, data) = (&gitlab.config_dir, &gitlab.data_dir);
    let fail = |folder: &Path, error: &io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => {
                "is GitLab configured? `sudo gitlab-ctl reconfigure` makes it; if it is elsewhere, set `gitlab.data_dir` and `gitlab.config_dir`"
            }
            _ => way_out(error),
        };
        Check::failed(NAME, &format!("{}: {error}", folder.display())).hint(hint)
    };
    if let Err(error) = usable(data) {
        return fail(data, &error);
    }
    // The other tool runs as whoever calls it.
    if gitlab.engine == Engine::GitlabBackup
        && let Some(check) = of_gitlab(gitlab)
    {
        return check;
    }
    // `gitlab-ctl backup-etc` makes it, but not the one above.
    let (folder, is_made) = match config.parent() {
        Some(above) if !config.exists() => (above, true),
        _ => (config.as_path(), false),
    };
    if let Err(error) = usable(folder) {
        return fail(folder, &error);
    }
    let made = if is_made {
        " (made by the first backup)"
    } else {
        ""
    };
    Check::ok(
        NAME,
        format!("{}, {}{made}", data.display(), config.display()),
    )
}

/// Whether this user can list a folder and make files in it.
fn usable(folder: &Path) -> io::Result<()> {
    fs::read_dir(folder)?;
    can_make_files(folder)
}

/// GitLab's own user packs the data: root's folder is closed to it.
fn of_gitlab(gitlab: &Settings) -> Option<Check> {
    let settings = fs::read_to_string(gitlab.install_dir.join("etc/gitlab-rails-rc")).ok()?;
    let name = user_in(&settings)?;
    let user = User::from_name(name).ok()??;
    let metadata = fs::metadata(&gitlab.data_dir).ok()?;
    let folder = (metadata.mode(), metadata.uid(), metadata.gid());
    let closed = geteuid().is_root() && !may_write(folder, user.uid.as_raw(), user.gid.as_raw());
    let shown = gitlab.data_dir.display();
    closed.then(|| {
        Check::failed(
            "backup_folders",
            &format!("{shown}: GitLab packs as the user {name}, who may not write there"),
        )
        .hint(format!("chown {name}: {shown}"))
    })
}

/// `gitlab_user="git"`
fn user_in(settings: &str) -> Option<&str> {
    let value = settings
        .lines()
        .find_map(|line| line.strip_prefix("gitlab_user="))?;
    let name = value.trim().trim_matches(['"', '\'']);
    let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    Some(name).filter(|name| !name.is_empty() && name.chars().all(good))
}

/// By the mode, owner and group of a folder; lists of more rights are not looked at.
fn may_write((mode, owner, group): (u32, u32, u32), user: u32, users_group: u32) -> bool {
    let bits = if owner == user {
        mode >> 6
    } else if group == users_group {
        mode >> 3
    } else {
        mode
    };
    bits & 0o3 == 0o3 || user == 0
}

/// What GitLab deletes before the next run comes could be the only archive that no destination holds yet.
pub(super) fn keep_time(gitlab: &Settings, plan: Option<&Plan>) -> Check {
    const NAME: &str = "backup_keep_time";
    if gitlab.engine == Engine::GitlabBackupCli {
        let program = Engine::GitlabBackupCli.program();
        let check = Check::ok(NAME, format!("{program} deletes no backups by itself"));
        return check.hint(
            "what is to go from this machine is said by `local` in [retention]; config archives still go by GitLab's own setting",
        );
    }
    let path = gitlab.etc_dir.join("gitlab.rb");
    let shown = path.display();
    let keep = match read_keep_time(&gitlab.etc_dir) {
        Ok(KeepTime::Of(keep)) => keep,
        Ok(KeepTime::Unset) => return Check::ok(NAME, "GitLab deletes no archives by itself"),
        Ok(KeepTime::Unclear(line)) => {
            return Check::skipped(
                NAME,
                format!("{shown}: line {line} is not a plain number of seconds"),
            );
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Check::skipped(NAME, format!("there is no {shown}"));
        }
        Err(error) => return Check::skipped(NAME, format!("{shown}: {error}")),
    };
    keeps_long_enough(keep, plan.and_then(|plan| plan.longest_gap))
}

fn keeps_long_enough(keep: Duration, gap: Option<Duration>) -> Check {
    const NAME: &str = "backup_keep_time";
    let kept = format!("GitLab deletes archives after {}", Span(keep));
    match gap {
        None => Check::new(
            NAME,
            CheckStatus::Skipped,
            format!("{kept}; compared with a schedule, once there is one"),
        ),
        Some(gap) if keep < gap => {
            let what = format!(
                "{kept}, but up to {} pass between runs: one that could not be sent is gone before the next",
                Span(gap)
            );
            Check::failed(NAME, &what).hint(format!(
                "set gitlab_rails['backup_keep_time'] in gitlab.rb to {} or more, and run `sudo gitlab-ctl reconfigure`",
                // Two runs may fail before anything is lost.
                gap.as_secs().saturating_mul(3)
            ))
        }
        Some(gap) => Check::ok(
            NAME,
            format!("{kept}; at most {} pass between runs", Span(gap)),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    #[test]
    fn archives_stay_at_least_until_the_next_run() {
        for (keep, gap, status) in [
            (7 * DAY, None, CheckStatus::Skipped),
            (7 * DAY, Some(4 * DAY), CheckStatus::Ok),
            (4 * DAY, Some(4 * DAY), CheckStatus::Ok),
            (3 * DAY, Some(4 * DAY), CheckStatus::Failed),
        ] {
            assert_eq!(
                keeps_long_enough(keep, gap).status,
                status,
                "{keep:?} {gap:?}"
            );
        }
        let check = keeps_long_enough(DAY, Some(4 * DAY));
        assert_eq!(
            (check.detail.as_str(), check.hint.as_deref()),
            (
                "GitLab deletes archives after 1d, but up to 4d pass between runs: one that could not be sent is gone before the next",
                Some(
                    "set gitlab_rails['backup_keep_time'] in gitlab.rb to 1036800 or more, and run `sudo gitlab-ctl reconfigure`"
                )
            )
        );
    }

    #[test]
    fn a_narrow_system_is_told_where_it_ends() {
        let check = judge("17.8.2", false);
        assert_eq!(
            (check.detail.as_str(), check.hint),
            ("GitLab CE 17.8.2", None)
        );
        let check = judge("17.8.2-ee", true);
        assert_eq!(check.status, CheckStatus::Ok);
        assert_eq!(check.detail, "GitLab EE 17.8.2, on a system of 32 bits");
        assert!(
            check
                .hint
                .is_some_and(|hint| hint.starts_with("GitLab 18.0 and later"))
        );
    }

    #[test]
    fn whether_gitlabs_user_may_write() {
        assert_eq!(user_in("x=1\ngitlab_user='git'\n"), Some("git"));
        assert_eq!(user_in("gitlab_user=\"$(reboot)\"\n"), None);
        for (folder, expected) in [
            ((0o700, 998, 0), true),
            ((0o700, 0, 0), false),
            ((0o770, 0, 998), true),
            ((0o750, 0, 998), false),
            ((0o777, 0, 0), true),
            ((0o077, 998, 0), false),
        ] {
            assert_eq!(may_write(folder, 998, 998), expected, "{folder:?}");
        }
    }
}
