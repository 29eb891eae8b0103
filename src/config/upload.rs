//! `[upload]`: how archives are sent.

use std::time::Duration;

use crate::content_hash::BLOCK_LEN;
use crate::destination::Options;
use crate::http::Bandwidth;
use crate::settings::Section;
use crate::units::{MIB, Rate, Size, Span};

/// The largest body Dropbox takes is 150 MiB; this is the largest multiple of a block below it.
const LARGEST_CHUNK: u64 = 148 * MIB;

/// `[upload]`.
#[derive(Debug)]
pub struct Upload {
    /// For the transfer engine.
    pub options: Options,
    /// A connection that moves nothing for so long is given up.
    pub stall_timeout: Duration,
}

impl Upload {
    pub(super) fn read(section: &mut Section<'_>) -> Upload {
        let chunk_size = section.get("chunk_size").unwrap_or(Size(16 * MIB)).0;
        if chunk_size == 0 || !chunk_size.is_multiple_of(BLOCK_LEN) || chunk_size > LARGEST_CHUNK {
            section.fault(
                "chunk_size",
                "takes a multiple of 4 MiB, from 4 MiB to 148 MiB",
            );
        }
        let concurrency = section.get("concurrency").unwrap_or(4_usize);
        if !(1..=32).contains(&concurrency) {
            section.fault("concurrency", "takes 1 to 32");
        }
        let bandwidth = section.get("bandwidth_limit").unwrap_or(Rate(0)).0;
        if (1..1024).contains(&bandwidth) {
            section.fault("bandwidth_limit", "takes at least 1 KiB/s, or `0` for none");
        }
        let retry_for = section
            .get("retry_for")
            .unwrap_or(Span(Duration::from_hours(1)))
            .0;
        let stall_timeout = section
            .get("stall_timeout")
            .unwrap_or(Span(Duration::from_mins(1)))
            .0;
        if stall_timeout.is_zero() {
            section.fault("stall_timeout", "takes at least one second");
        }
        let bandwidth = Bandwidth::new(bandwidth);
        Upload {
            options: Options {
                chunk_len: chunk_size,
                concurrency,
                bandwidth,
                retry_for,
                room: None,
            },
            stall_timeout,
        }
    }
}
