//! What is told of each command.

use super::Told;

/// The program itself, then all commands, those of one family together.
pub const COMMANDS: &[Told] = &[
    Told {
        command: "",
        text: &[
            "Makes both backups of a self-hosted GitLab, brings them to Dropbox, proves that what is stored is whole, and \
             restores it on a new machine.",
            "A power cut, a kill or a lost line at any moment costs at most a few chunks: the next run goes on in the same \
             upload session. No archive that is stored is ever overwritten.",
        ],
        examples: &[
            ("login", "once: allow it to use Dropbox"),
            ("doctor", "is everything there that a run needs?"),
            ("run", "the first backup, stored and verified"),
            ("schedule install", "twice a week from now on"),
            ("rehearse", "would it restore?"),
        ],
        see_also: &[],
    },
    Told {
        command: "run",
        text: &[
            "Makes both of GitLab's backups, looks into them, sends them to every destination and compares the hash that \
             is reported with its own; then stores a manifest beside them, and deletes what retention does not keep.",
            "An archive counts as today's only if this run made it. What an interrupted run left is finished first, in \
             the same upload session.",
        ],
        examples: &[
            (
                "run --dry-run",
                "what would be sent, and where to; changes nothing",
            ),
            ("run -v", "with GitLab's own output, line by line"),
            (
                "run --skip-create",
                "send the newest archives that are here",
            ),
        ],
        see_also: &["status", "verify", "rehearse"],
    },
    Told {
        command: "list",
        text: &[
            "A backup is one data archive and the config archive that belongs to it. Complete is one with every kind of \
             archive that the destination is configured to get, and a manifest.",
        ],
        examples: &[
            ("list", "everything, the newest first"),
            ("list --local", "only this machine, without any network"),
        ],
        see_also: &["verify", "restore"],
    },
    Told {
        command: "verify",
        text: &[
            "Compares sizes and hashes as the destination tells them with the manifests. No archive is downloaded.",
        ],
        examples: &[
            ("verify", "all backups"),
            ("verify latest", "the newest complete one"),
        ],
        see_also: &["rehearse", "list"],
    },
    Told {
        command: "rehearse",
        text: &[
            "Every byte is read as a stream and judged as it passes; nothing is written to the disk. It proves that the \
             archives are the stored ones, and that dump, repositories and secrets are whole.",
        ],
        examples: &[
            (
                "rehearse",
                "download the newest complete backup once, and prove it",
            ),
            ("rehearse --local", "the one on this machine's disk"),
            (
                "rehearse --git --scratch /mnt/room",
                "let git check every bundle as well",
            ),
        ],
        see_also: &["restore", "verify"],
    },
    Told {
        command: "sync",
        text: &[
            "Brings a destination that was away, or is new, up to date: every backup of this machine that is whole and \
             undoubted, and that the destination lacks, is sent there with its manifest, the newest first. What \
             [retention] would delete there at once is not sent. No command of GitLab's is run, nothing is deleted.",
        ],
        examples: &[
            ("sync", "all destinations"),
            ("sync --destination disk", "the disk that is there again"),
        ],
        see_also: &["run", "list"],
    },
    Told {
        command: "prune",
        text: &[
            "Applies the table [retention] of the configuration; without it nothing is ever deleted. The newest complete \
             backup always stays, and so does the newest one that was rehearsed.",
        ],
        examples: &[
            (
                "prune --dry-run",
                "what would go, and which rule keeps the others",
            ),
            (
                "prune --accept-shrink",
                "what has become smaller is right: prune again",
            ),
        ],
        see_also: &["list"],
    },
    Told {
        command: "restore",
        text: &[
            "Fetches both archives, proves that they are the stored ones and puts them where GitLab looks for them. An \
             interrupted call goes on where it stopped. Nothing that is there is overwritten.",
            "With --apply it goes all the way back to a running GitLab of exactly the same version: its configuration \
             and all its data are replaced. Each step is asked for; the former /etc/gitlab stays beside the new one.",
            "With --project the stored export of one project is imported into GitLab by its API, and followed to the end. The \
             group must be there, and nothing may have the project's path: nothing is ever imported over anything.",
        ],
        examples: &[
            ("restore --plan", "every step, before any is done"),
            ("restore --to /mnt/room", "only fetch the archives"),
            ("restore --apply", "carry the steps out"),
            (
                "restore --project group/app --as rescue/app",
                "import the newest export of a project",
            ),
        ],
        see_also: &["rehearse", "list"],
    },
    Told {
        command: "extract",
        text: &[
            "Only what belongs to the project is fetched, of a list that a run stores beside each backup; without it the \
             archive's headers are read. Git makes bare repositories of it: PROJECT.git, and its wiki and designs if there \
             are any. Nothing that is there is overwritten.",
        ],
        examples: &[
            (
                "extract --list",
                "the projects in the newest complete backup",
            ),
            (
                "extract demo/website --to /mnt/room",
                "then: git clone /mnt/room/website.git",
            ),
            (
                "extract demo/website --to /mnt/room --identity /root/key.txt",
                "out of an encrypted backup",
            ),
        ],
        see_also: &["restore", "list", "git(1)", "age(1)"],
    },
    Told {
        command: "export",
        text: &[
            "What GitLab's API gives, by a token: the table [gitlab] of the configuration says where GitLab is, and who asks.",
        ],
        examples: &[],
        see_also: &["run", "restore"],
    },
    Told {
        command: "export projects",
        text: &[
            "GitLab makes an export of each project that the table [projects] of the configuration selects. To an s3 \
             destination GitLab uploads it by itself; to any other it comes through this machine, one at a time, encrypted if \
             that is configured. Each is looked up where it is stored. Any GitLab can import it.",
            "GitLab's limits are kept: it takes six requests a minute from a user. What was exported today is not exported \
             again, an interrupted call is continued by the next one, and a project that fails keeps no other from being \
             exported.",
            "Without any configuration the variables GITLAB_TOKEN, GROUPS_TO_BACKUP, AWS_S3_BUCKET, AWS_ACCESS_KEY_ID, \
             AWS_SECRET_ACCESS_KEY and GITLAB_URL are enough.",
        ],
        examples: &[
            (
                "export projects --dry-run",
                "which projects, where to and which way; changes nothing",
            ),
            ("export projects", "all of them"),
            (
                "export projects --wait 2h --json",
                "after the run that is at work, with a row for each project",
            ),
        ],
        see_also: &["run", "restore", "prune"],
    },
    Told {
        command: "login",
        text: &[
            "Says where to make an app for Dropbox, asks for its key and for the code that Dropbox shows, and stores the \
             refresh token where the configuration names it, readable for its owner alone. Where there is no \
             configuration yet it offers to write one.",
        ],
        examples: &[
            ("login", "step by step"),
            ("login --code -", "the code comes from standard input"),
            ("login --revoke", "the stored token becomes worthless"),
        ],
        see_also: &["doctor"],
    },
    Told {
        command: "doctor",
        text: &["One line for each check, and under each that fails one that says how to mend it."],
        examples: &[
            ("doctor", "everything"),
            (
                "doctor --as-cron",
                "as cron would start it: with hardly any environment",
            ),
            ("doctor --offline", "only what needs no network"),
        ],
        see_also: &["login", "schedule", "status"],
    },
    Told {
        command: "schedule",
        text: &[
            "Runs start by a systemd timer, or by a marked block in root's crontab where there is no systemd; twice a week \
             unless told otherwise.",
        ],
        examples: &[],
        see_also: &["status", "systemd.timer(5)", "crontab(5)"],
    },
    Told {
        command: "schedule show",
        text: &[
            "What it prints is what `schedule install` writes with the same options, byte for byte.",
        ],
        examples: &[("schedule show --cron", "the block of the crontab")],
        see_also: &["schedule install"],
    },
    Told {
        command: "schedule install",
        text: &[
            "Doing so twice changes nothing. Other lines of the crontab and other units stay as they are.",
        ],
        examples: &[
            ("schedule install", "Wednesday and Saturday, 04:00"),
            (
                "schedule install --at 'Mon..Fri 02:30'",
                "in systemd's form",
            ),
            ("schedule install --cron --at '30 2 * * 1-5'", "in cron's"),
        ],
        see_also: &[
            "schedule show",
            "schedule remove",
            "systemd.time(7)",
            "crontab(5)",
        ],
    },
    Told {
        command: "schedule remove",
        text: &[
            "Leaves no trace of `schedule install`; other lines of the crontab and other units stay as they are.",
        ],
        examples: &[("schedule remove", "whatever is installed")],
        see_also: &["schedule install"],
    },
    Told {
        command: "status",
        text: &[
            "For monitoring: from what is noted on this machine, unless --remote asks the destinations.",
        ],
        examples: &[
            ("status", "exit status 0: all is well"),
            ("status --nagios", "one line for Nagios or Icinga"),
            (
                "status --max-age 8d",
                "more patience than the schedule asks for",
            ),
        ],
        see_also: &["doctor", "report"],
    },
    Told {
        command: "notify",
        text: &["Who is told of a run stands in the table [notify] of the configuration."],
        examples: &[],
        see_also: &["run"],
    },
    Told {
        command: "notify test",
        text: &["What is sent says that it is a test."],
        examples: &[
            ("notify test", "as after a good run"),
            ("notify test --as failure", "as after a failed one"),
        ],
        see_also: &["doctor"],
    },
    Told {
        command: "report",
        text: &[
            "One file without anything from outside: whether the backups are safe now, how they grow, when the room ends.",
        ],
        examples: &[("report --html /var/www/html/backups.html", "for a browser")],
        see_also: &["status"],
    },
    Told {
        command: "completions",
        text: &["The Debian package has them already."],
        examples: &[(
            "completions bash > /usr/local/share/bash-completion/completions/gitlab-pi-backup",
            "for all users of bash",
        )],
        see_also: &["bash(1)"],
    },
    Told {
        command: "man",
        text: &["The Debian package has them already."],
        examples: &[
            ("man | man -l -", "read the main page"),
            (
                "man /usr/local/share/man/man1",
                "write a page for each command",
            ),
        ],
        see_also: &["man(1)"],
    },
];
