//! Places that OpenDAL reaches, as a user meets them: real folders, and real servers that the tests start.

mod disk;
mod s3;
mod server;
#[path = "../support/mod.rs"]
mod support;
mod trip;
