//! Is a connection dead or only slow?
//!
//! What has been handed to the kernel is not what has arrived: on a slow line megabytes lie in the send
//! buffer for minutes. The kernel says how much of it the other side has not acknowledged yet (`tx_queue`
//! in `/proc/net/tcp`, see proc(5)), so a line that still moves is told from one that does not, and the
//! wait for a reply starts when the other side has everything.

use std::fs;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use hyper_util::client::legacy::connect::{Connection as Connected, HttpInfo};
use tokio::time::Instant;
use tower::{Layer, Service};

use crate::http::body::Meter;
use crate::units::Span;

/// The addresses (local, remote) of the connection a line has at the moment.
#[derive(Clone, Debug, Default)]
pub struct Connection(Arc<Mutex<Option<(SocketAddr, SocketAddr)>>>);

impl Connection {
    /// Returns, with the reason, when the exchange on this connection should be given up: nothing moved
    /// for `stall`, or no reply for `reply_wait` after all `body_len` bytes were acknowledged.
    pub async fn given_up(
        &self,
        meter: &Meter,
        body_len: u64,
        stall: Duration,
        reply_wait: Duration,
    ) -> String {
        let tick = (stall / 20).clamp(Duration::from_millis(20), Duration::from_secs(1));
        let mut last = (0, None, 0);
        let mut moved = Instant::now();
        let mut acknowledged = None;
        loop {
            tokio::time::sleep(tick).await;
            let handed = meter.handed();
            // The kernel is only asked when our own count stands still.
            let queued = if handed == last.0 {
                self.queued()
            } else {
                None
            };
            let received = meter.reply_bytes();
            if received != last.2 {
                acknowledged = None;
            }
            if (handed, queued, received) != last {
                last = (handed, queued, received);
                moved = Instant::now();
            }
            let all_arrived = handed >= body_len && queued.is_none_or(|bytes| bytes == 0);
            if !all_arrived {
                acknowledged = None;
                if moved.elapsed() >= stall {
                    return format!("nothing moved on the connection for {}", Span(stall));
                }
            } else if acknowledged.get_or_insert_with(Instant::now).elapsed() >= reply_wait {
                return format!(
                    "no reply within {} of the end of the request",
                    Span(reply_wait)
                );
            }
        }
    }

    /// Bytes sent on this connection and not acknowledged; none where the kernel does not say.
    fn queued(&self) -> Option<u64> {
        let (local, remote) = (*self.0.lock().ok()?)?;
        ["/proc/self/net/tcp", "/proc/self/net/tcp6"]
            .iter()
            .filter_map(|table| fs::read_to_string(table).ok())
            .find_map(|table| tx_queue(&table, local.port(), remote.port()))
    }
}

/// Finds the row of a connection by its two ports.
fn tx_queue(table: &str, local_port: u16, remote_port: u16) -> Option<u64> {
    let port = |address: &str| u16::from_str_radix(address.rsplit(':').next()?, 16).ok();
    table.lines().skip(1).find_map(|row| {
        let mut columns = row.split_ascii_whitespace().skip(1);
        let local = port(columns.next()?)?;
        let remote = port(columns.next()?)?;
        let queues = columns.nth(1)?;
        let bytes = u64::from_str_radix(queues.split(':').next()?, 16).ok()?;
        (local == local_port && remote == remote_port).then_some(bytes)
    })
}

/// Notes the addresses of each connection that the client makes.
#[derive(Clone)]
pub struct ConnectionLayer(Connection);

impl ConnectionLayer {
    /// Notes them in `connection`.
    pub fn new(connection: Connection) -> ConnectionLayer {
        ConnectionLayer(connection)
    }
}

impl<S> Layer<S> for ConnectionLayer {
    type Service = Noting<S>;

    fn layer(&self, inner: S) -> Noting<S> {
        Noting {
            inner,
            connection: self.0.clone(),
        }
    }
}

/// The client's connector, observed.
#[derive(Clone)]
pub struct Noting<S> {
    inner: S,
    connection: Connection,
}

impl<S, Target> Service<Target> for Noting<S>
where
    S: Service<Target>,
    S::Response: Connected,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, target: Target) -> Self::Future {
        let connecting = self.inner.call(target);
        let connection = self.connection.clone();
        Box::pin(async move {
            let stream = connecting.await?;
            let mut extensions = http::Extensions::new();
            stream.connected().get_extras(&mut extensions);
            if let (Some(info), Ok(mut addresses)) =
                (extensions.get::<HttpInfo>(), connection.0.lock())
            {
                *addresses = Some((info.local_addr(), info.remote_addr()));
            }
            Ok(stream)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_is_read_by_both_ports() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n\
             0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0\n\
             1: 0100007F:C350 0100007F:1F90 01 0003A980:00000000 00:00000000 00000000     0\n";
        assert_eq!(tx_queue(table, 50_000, 8_080), Some(0x3_A980));
        assert_eq!(tx_queue(table, 50_000, 8_081), None);
        assert_eq!(tx_queue("", 1, 2), None);
    }
}
