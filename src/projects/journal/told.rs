//! What a journal tells.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};

use super::{Event, FORMAT, LONGEST_PERIOD, Left, Line, Stored, Way};

/// What a journal tells.
pub(super) struct Told {
    pub(super) way: Way,
    pub(super) time: DateTime<Utc>,
    pub(super) last: DateTime<Utc>,
    pub(super) ended: bool,
    pub(super) left: HashMap<u64, Left>,
    pub(super) stored: HashMap<u64, (DateTime<Utc>, Stored)>,
    pub(super) asked: Vec<DateTime<Utc>>,
    pub(super) downloaded: Vec<(DateTime<Utc>, String)>,
}

impl Told {
    /// Reads one as far as it is whole: a line that a power cut tore is passed over. None if it is none of ours.
    pub(super) fn read(path: &Path, now: DateTime<Utc>) -> io::Result<Option<Told>> {
        let mut told = None::<Told>;
        for line in BufReader::new(File::open(path)?).split(b'\n') {
            let Ok(line) = serde_json::from_slice::<Line>(&line?) else {
                continue;
            };
            match &mut told {
                Some(told) => {
                    told.last = line.at;
                    told.add(line, now);
                }
                None => match Told::begin(line) {
                    Some(first) => told = Some(first),
                    None => return Ok(None),
                },
            }
        }
        Ok(told)
    }

    /// By its first line.
    fn begin(first: Line) -> Option<Told> {
        let Event::Begun {
            format: FORMAT,
            way,
            time,
        } = first.event
        else {
            return None;
        };
        Some(Told {
            way,
            time,
            last: first.at,
            ended: false,
            left: HashMap::new(),
            stored: HashMap::new(),
            asked: Vec::new(),
            downloaded: Vec::new(),
        })
    }

    fn add(&mut self, Line { at, event }: Line, now: DateTime<Utc>) {
        let ago = now - at;
        let counts = ago >= TimeDelta::zero() && ago < LONGEST_PERIOD;
        match event {
            // Two runs within a second have one.
            Event::Begun { .. } => self.ended = false,
            Event::Asking { id, asked } => {
                if counts {
                    self.asked.push(at);
                }
                self.left.insert(id, Left::of(asked));
            }
            Event::Taken { id } => {
                if let Some(left) = self.left.get_mut(&id) {
                    left.taken = true;
                }
            }
            Event::Downloading { namespace, .. } if counts => {
                self.downloaded.push((at, namespace));
            }
            Event::Downloading { .. } => {}
            Event::Fetched { id } => {
                if let Some(left) = self.left.get_mut(&id) {
                    left.fetched = true;
                }
            }
            Event::Lost { id } => {
                self.left.remove(&id);
            }
            Event::Stored { id, stored } => {
                self.left.remove(&id);
                self.stored.insert(id, (at, stored));
            }
            Event::Ended => self.ended = true,
        }
    }
}
