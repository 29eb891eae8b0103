//! What is done again and again, by itself: each job has its line in the schedule, its entries in the history, its
//! health check, its part in `status` and on the report page. A further one is a row here, and one in each of them.

/// A job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// The backups of the whole GitLab.
    Run,
    /// The exports of projects.
    Projects,
}

impl Job {
    /// Each, in the order in which they start on a day.
    pub const ALL: [Job; 2] = [Job::Run, Job::Projects];

    /// Its command, as it is typed, and as it stands in the history.
    pub fn command(self) -> &'static str {
        match self {
            Job::Run => "run",
            Job::Projects => "export projects",
        }
    }

    /// In titles.
    pub fn title(self) -> &'static str {
        match self {
            Job::Run => "GitLab backup",
            Job::Projects => "GitLab project exports",
        }
    }

    /// One time of it, in a sentence.
    pub fn noun(self) -> &'static str {
        match self {
            Job::Run => "run",
            Job::Projects => "project export",
        }
    }

    /// What the names of its systemd units begin with.
    pub fn unit(self) -> &'static str {
        match self {
            Job::Run => "gitlab-pi-backup",
            Job::Projects => "gitlab-pi-backup-projects",
        }
    }
}
