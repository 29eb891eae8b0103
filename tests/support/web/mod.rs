//! What the stand-ins for web services share: HTTP/1.1 on a socket, TLS by an authority of their own, lines that are
//! slower than loopback, and random names.

#![allow(dead_code, reason = "every test binary uses another part of it")]

pub mod http;
pub mod line;
pub mod random;
pub mod tls;
