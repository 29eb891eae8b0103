//! GitLab on this machine: its commands, and what they make.

pub mod api;
pub mod cli;
pub mod contents;
pub mod format;
pub mod host;
pub mod information;
pub mod inspect;
pub mod installed;
pub mod keep_time;
pub mod layout;
pub mod parts;
pub mod projects;
