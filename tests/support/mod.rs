//! What the tests share: the stand-ins, and a host that plays the machine GitLab runs on.

#![allow(
    dead_code,
    unused_imports,
    reason = "every test binary uses another part of it"
)]

pub mod backup;
pub mod dav;
pub mod dialogue;
pub mod dropbox;
pub mod gitlab_api;
pub mod host;
pub mod kill;
pub mod log_in;
pub mod lost;
pub mod machine;
pub mod mail;
pub mod receiver;
pub mod s3;
pub mod sealed;
pub mod web;
