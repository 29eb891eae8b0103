//! A configuration of which no file tells: the variables of gitlab-backup-management, whose users change nothing but
//! the command. They become ours, so that whatever else is to be set can be set beside them.

use std::collections::BTreeMap;

use crate::projects::settings::GROUPS_VARIABLE;
use crate::settings::variable_name;

/// The destination that they describe.
const DESTINATION: &str = "s3";
/// Where they mean when they say nothing.
const USUAL_URL: &str = "https://gitlab.com";
/// What they have to tell: each the first of these that is given.
const WANTED: [(&[&str], &str); 5] = [
    (&["GITLAB_TOKEN", "GITLAB_OAUTH"], "gitlab.token"),
    (&[GROUPS_VARIABLE], "projects.groups"),
    (&["AWS_S3_BUCKET"], "destinations.s3.bucket"),
    (&["AWS_ACCESS_KEY_ID"], "destinations.s3.access_key_id"),
    (
        &["AWS_SECRET_ACCESS_KEY"],
        "destinations.s3.secret_access_key",
    ),
];
/// What they may tell, as Amazon's own programs understand it. The region is asked for.
const MAY_TELL: [(&[&str], &str); 2] = [
    (&["AWS_SESSION_TOKEN"], "destinations.s3.session_token"),
    (
        &["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"],
        "destinations.s3.endpoint",
    ),
];
/// Who has one of these wants to export projects; Amazon's keys lie around on many machines.
const SIGNS: [&str; 3] = ["GITLAB_TOKEN", GROUPS_VARIABLE, "AWS_S3_BUCKET"];
/// Other keys that say what one of ours does not have to say then.
const INSTEAD: [(&str, &str); 5] = [
    ("gitlab.token", "gitlab.token_file"),
    ("projects.groups", "projects.projects"),
    ("projects.groups", "projects.all"),
    (
        "destinations.s3.secret_access_key",
        "destinations.s3.secret_access_key_file",
    ),
    ("destinations.s3.bucket", "destinations.s3"),
];

/// The way out where a command needs a file and there is none, but the variables of an export are there: what a timer
/// starts does not get them.
pub(super) fn as_file(given: impl Fn(&str) -> bool) -> Option<&'static str> {
    let is_meant = given("GITLAB_TOKEN") && given("AWS_S3_BUCKET");
    is_meant.then_some(
        r#"the environment alone is enough for `export projects` and `restore --project` only; write a file, for root alone:
  [gitlab]
  url = "https://gitlab.com"       # GITLAB_URL
  token = "…"                      # GITLAB_TOKEN
  [projects]
  destination = "s3"
  groups = ["…"]                   # GROUPS_TO_BACKUP
  [destinations.s3]
  type = "s3"
  bucket = "…"                     # AWS_S3_BUCKET
  access_key_id = "…"              # AWS_ACCESS_KEY_ID
  secret_access_key = "…"          # AWS_SECRET_ACCESS_KEY
  kinds = []                       # exports only"#,
    )
}

/// Whether this process's environment has a variable with something in it.
pub(super) fn is_given(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|text| !text.is_empty())
}

/// Adds the variables of ours that these mean. None if nobody wants to export projects so; an error names all that are
/// missing.
pub(super) fn complete(
    mut variables: BTreeMap<String, String>,
) -> Option<Result<BTreeMap<String, String>, Vec<&'static str>>> {
    let given = |name: &str| {
        let text = variables.get(name).map(String::as_str);
        text.filter(|text| !text.trim().is_empty())
    };
    let is_set = |key: &str| given(&variable_name(key)).is_some();
    let ours = variable_name("projects");
    let is_meant = SIGNS.iter().any(|name| given(name).is_some())
        || variables.keys().any(|name| name.starts_with(&ours));
    if !is_meant {
        return None;
    }
    let elsewhere = given(&variable_name("projects.destination"));
    let is_ours = elsewhere.is_none_or(|name| name == DESTINATION);
    let mut more = Vec::new();
    let mut missing = Vec::new();
    for (is_wanted, (names, key)) in WANTED
        .iter()
        .map(|row| (true, row))
        .chain(MAY_TELL.iter().map(|row| (false, row)))
    {
        let of_destination = key.starts_with("destinations.");
        let instead = INSTEAD.iter().any(|(of, other)| of == key && is_set(other));
        if is_set(key) || instead || (of_destination && !is_ours) {
            continue;
        }
        match names.iter().find_map(|name| given(name)) {
            Some(text) if of_destination => more.push((*key, text.trim().to_owned())),
            None if is_wanted => missing.push(names[0]),
            // Those that are given otherwise are asked for by their own names.
            Some(_) | None => {}
        }
    }
    if !missing.is_empty() {
        return Some(Err(missing));
    }
    if given("GITLAB_URL").is_none() && !is_set("gitlab.url") {
        more.push(("gitlab.url", USUAL_URL.to_owned()));
    }
    if is_ours {
        more.push(("projects.destination", DESTINATION.to_owned()));
        more.push(("destinations.s3.type", "s3".to_owned()));
    }
    for (key, text) in more {
        variables.entry(variable_name(key)).or_insert(text);
    }
    Some(Ok(variables))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [(&str, &str); 5] = [
        ("GITLAB_TOKEN", "t"),
        ("GROUPS_TO_BACKUP", "42, 12"),
        ("AWS_S3_BUCKET", "bucket"),
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", "key"),
    ];

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pairs = pairs.iter();
        pairs
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect()
    }

    #[test]
    fn the_variables_of_the_older_program_become_ours() {
        let complete = complete(map(&ALL)).expect("meant").expect("complete");
        let ours: Vec<_> = complete
            .iter()
            .filter(|(name, _)| name.starts_with("GITLAB_PI_BACKUP_"))
            .map(|(name, text)| format!("{name}={text}"))
            .collect();
        assert_eq!(
            ours,
            [
                "GITLAB_PI_BACKUP_DESTINATIONS__S3__ACCESS_KEY_ID=id",
                "GITLAB_PI_BACKUP_DESTINATIONS__S3__BUCKET=bucket",
                "GITLAB_PI_BACKUP_DESTINATIONS__S3__SECRET_ACCESS_KEY=key",
                "GITLAB_PI_BACKUP_DESTINATIONS__S3__TYPE=s3",
                "GITLAB_PI_BACKUP_GITLAB__URL=https://gitlab.com",
                "GITLAB_PI_BACKUP_PROJECTS__DESTINATION=s3",
            ]
        );
    }

    #[test]
    fn all_that_is_missing_is_named_and_keys_of_amazon_alone_mean_nothing() {
        for (missing, told) in [
            (&["GITLAB_TOKEN"][..], Some(&["GITLAB_TOKEN"][..])),
            (
                &["GROUPS_TO_BACKUP", "AWS_SECRET_ACCESS_KEY"],
                Some(&["GROUPS_TO_BACKUP", "AWS_SECRET_ACCESS_KEY"]),
            ),
            (&["GITLAB_TOKEN", "GROUPS_TO_BACKUP", "AWS_S3_BUCKET"], None),
            (
                &[
                    "GITLAB_TOKEN",
                    "GROUPS_TO_BACKUP",
                    "AWS_S3_BUCKET",
                    "AWS_ACCESS_KEY_ID",
                ],
                None,
            ),
        ] {
            let rest = ALL.iter().filter(|(name, _)| !missing.contains(name));
            let rest: Vec<_> = rest.copied().collect();
            // An empty one is as good as none.
            let empty: Vec<_> = missing.iter().map(|name| (*name, " ")).collect();
            for variables in [rest.clone(), [rest, empty].concat()] {
                let found =
                    complete(map(&variables)).map(|complete| complete.expect_err("missing"));
                assert_eq!(found.as_deref(), told, "{missing:?}");
            }
        }
    }

    #[test]
    fn a_variable_of_ours_stands_for_one_of_theirs() {
        for (theirs, ours) in [
            ("GITLAB_TOKEN", ("GITLAB_OAUTH", "t")),
            (
                "GITLAB_TOKEN",
                ("GITLAB_PI_BACKUP_GITLAB__TOKEN_FILE", "/t"),
            ),
            (
                "GROUPS_TO_BACKUP",
                ("GITLAB_PI_BACKUP_PROJECTS__ALL", "true"),
            ),
            (
                "AWS_S3_BUCKET",
                ("GITLAB_PI_BACKUP_DESTINATIONS__S3__BUCKET", "b"),
            ),
            (
                "AWS_S3_BUCKET",
                ("GITLAB_PI_BACKUP_PROJECTS__DESTINATION", "disk"),
            ),
        ] {
            let rest = ALL.iter().filter(|(name, _)| *name != theirs);
            let variables: Vec<_> = rest.copied().chain([ours]).collect();
            let complete = complete(map(&variables)).expect("meant");
            assert!(complete.is_ok(), "{theirs} {ours:?}: {complete:?}");
        }
        // Ours beats theirs.
        let key = "GITLAB_PI_BACKUP_DESTINATIONS__S3__BUCKET";
        let variables = [&ALL[..], &[(key, "ours")]].concat();
        let complete = complete(map(&variables)).expect("meant").expect("complete");
        assert_eq!(complete[key], "ours");
    }

    #[test]
    fn what_is_to_be_written_is_a_whole_configuration() {
        let hint = as_file(|_| true).expect("meant");
        let (_, file) = hint.split_once('\n').expect("lines");
        let look = crate::config::look_with(file, BTreeMap::new(), Vec::new(), None);
        assert_eq!(look.faults, [""; 0]);
        assert!(look.config.projects.is_some());
        assert!(!look.config.destinations[0].gets_backups());
        for lacks in ["GITLAB_TOKEN", "AWS_S3_BUCKET"] {
            assert_eq!(as_file(|name| name != lacks), None);
        }
    }
}
