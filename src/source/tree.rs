//! A folder, as a tar that is never written.
