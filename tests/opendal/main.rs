//! Places that OpenDAL reaches, as a user meets them: real folders, and real servers that the tests start.

mod disk;
mod memory;
mod s3;
mod server;
#[cfg(feature = "sftp")]
mod sftp;
#[path = "../support/mod.rs"]
mod support;
mod trip;
