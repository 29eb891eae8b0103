//! Upload sessions: which pieces they take, and what they amount to.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::Value;

use super::answer::{incorrect_offset, tagged};
use super::content::{BLOCK, Content, Digest, Extent, Hasher, content_hash};
use super::random;

/// The most bytes of one file.
const MOST: u64 = (1 << 41) - (1 << 22);

/// The body of one request, received and not yet part of anything.
#[derive(Default)]
pub struct Piece {
    /// Bytes.
    pub size: u64,
    /// Where it lies in the log.
    pub at: Option<u64>,
    /// The digests of its own blocks.
    pub hasher: Option<Hasher>,
    /// The session's hash from its beginning to the end of this piece, and how long the session was.
    pub continued: Option<(u64, Hasher)>,
}

/// A place of a piece in its session.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Where the client thinks the piece begins.
    pub offset: u64,
    /// Whether it is to be the last.
    pub close: bool,
}

/// Why a piece is not taken.
#[derive(Debug)]
pub enum Refusal {
    /// By an error of the lookup union.
    Lookup(Value),
    /// Because other bytes lie there already; the service answers 400 with a text.
    DifferentData,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Block {
    len: u64,
    digest: Option<Digest>,
    at: Option<u64>,
}

enum Kind {
    Sequential {
        extents: Vec<Extent>,
        hasher: Box<Hasher>,
    },
    Concurrent {
        blocks: BTreeMap<u64, Block>,
    },
}

/// One upload session.
pub struct Session {
    closed: bool,
    /// The end of the data, gaps not looked at.
    size: u64,
    kind: Kind,
}

impl Session {
    fn new(concurrent: bool) -> Self {
        let kind = if concurrent {
            Kind::Concurrent {
                blocks: BTreeMap::new(),
            }
        } else {
            Kind::Sequential {
                extents: Vec::new(),
                hasher: Box::default(),
            }
        };
        Self {
            closed: false,
            size: 0,
            kind,
        }
    }

    /// Whether it is of the concurrent type.
    pub fn concurrent(&self) -> bool {
        matches!(self.kind, Kind::Concurrent { .. })
    }

    /// Whether it takes no more data.
    pub fn closed(&self) -> bool {
        self.closed
    }

    /// What a piece has to go on hashing from; pieces at whole blocks hash for themselves.
    pub fn unaligned_hash(&self) -> Option<(u64, Hasher)> {
        match &self.kind {
            Kind::Sequential { hasher, .. } if !self.size.is_multiple_of(BLOCK) => {
                Some((self.size, (**hasher).clone()))
            }
            _ => None,
        }
    }

    /// Whether a piece may lie there, whatever its bytes.
    pub fn check(&self, place: Place, size: u64, closed_first: bool) -> Result<(), Refusal> {
        let refuse = |tag| Err(Refusal::Lookup(tagged(&[tag])));
        let offset_fits = self.concurrent() || place.offset == self.size;
        if self.closed && (closed_first || offset_fits) {
            return refuse("closed");
        }
        if !offset_fits {
            return Err(Refusal::Lookup(incorrect_offset(self.size)));
        }
        if self.concurrent() && !place.offset.is_multiple_of(BLOCK) {
            return refuse("concurrent_session_invalid_offset");
        }
        if self.concurrent() && !place.close && !size.is_multiple_of(BLOCK) {
            return refuse("concurrent_session_invalid_data_size");
        }
        if place.offset.saturating_add(size) > MOST {
            return refuse("too_large");
        }
        Ok(())
    }

    /// Takes a piece that was found to fit.
    pub fn take(&mut self, place: Place, piece: Piece) -> Result<(), Refusal> {
        match &mut self.kind {
            Kind::Sequential { extents, hasher } => {
                let begun_at = piece.continued.as_ref().map(|(begun_at, _)| *begun_at);
                let aligned = begun_at.is_none() && self.size.is_multiple_of(BLOCK);
                // The session moved on while the piece was on its way: it was sent to another offset then.
                if piece.hasher.is_some() && !aligned && begun_at != Some(self.size) {
                    return Err(Refusal::Lookup(incorrect_offset(self.size)));
                }
                extents.extend(piece.at.map(|at| Extent {
                    at,
                    len: piece.size,
                }));
                match (piece.continued, piece.hasher) {
                    (Some((_, continued)), _) => **hasher = continued,
                    (None, Some(own)) => hasher.append(own),
                    (None, None) => {}
                }
            }
            Kind::Concurrent { blocks } => lay(blocks, place.offset / BLOCK, &piece)?,
        }
        self.size = self.size.max(place.offset + piece.size);
        self.closed |= place.close;
        Ok(())
    }

    /// What a finish with this offset would store, or why not.
    pub fn content(&self, offset: u64, hashed: bool, kept: bool) -> Result<Content, Value> {
        let (complete, hash, extents) = match &self.kind {
            Kind::Sequential { extents, hasher } => (true, hasher.content_hash(), extents.clone()),
            Kind::Concurrent { blocks } => {
                if !self.closed {
                    return Err(tagged(&["concurrent_session_not_closed"]));
                }
                let digests: Vec<Digest> =
                    blocks.values().filter_map(|block| block.digest).collect();
                let extents = blocks.values().filter_map(|block| {
                    Some(Extent {
                        at: block.at?,
                        len: block.len,
                    })
                });
                let sum: u64 = blocks.values().map(|block| block.len).sum();
                (sum == self.size, content_hash(&digests), extents.collect())
            }
        };
        if !complete {
            return Err(tagged(&["concurrent_session_missing_data"]));
        }
        if offset != self.size {
            return Err(super::answer::within(
                "lookup_failed",
                &incorrect_offset(self.size),
            ));
        }
        let extents = kept.then(|| Arc::from(extents));
        Ok(Content {
            size: self.size,
            hash: hashed.then_some(hash),
            extents,
        })
    }
}

/// Lays the blocks of a piece beside those that are there; what is there must be the same.
fn lay(blocks: &mut BTreeMap<u64, Block>, first: u64, piece: &Piece) -> Result<(), Refusal> {
    let digests = piece.hasher.as_ref().map(Hasher::blocks);
    let starts = (0..piece.size).step_by(usize::try_from(BLOCK).expect("4 MiB"));
    let new: Vec<(u64, Block)> = (first..)
        .zip(starts.enumerate())
        .map(|(index, (number, start))| {
            let digest = digests.as_ref().map(|digests| digests[number]);
            let len = (piece.size - start).min(BLOCK);
            (
                index,
                Block {
                    len,
                    digest,
                    at: piece.at.map(|at| at + start),
                },
            )
        })
        .collect();
    let differs = |(index, block): &(u64, Block)| {
        blocks
            .get(index)
            .is_some_and(|old| (old.len, old.digest) != (block.len, block.digest))
    };
    if new.iter().any(differs) {
        return Err(Refusal::DifferentData);
    }
    for (index, block) in new {
        blocks.entry(index).or_insert(block);
    }
    Ok(())
}

/// All sessions that are neither finished nor forgotten.
#[derive(Default)]
pub struct Sessions(HashMap<String, Session>);

impl Sessions {
    /// Starts one; its id.
    pub fn start(&mut self, concurrent: bool) -> String {
        let id = format!("pid_upload_session:{}", random::id());
        self.0.insert(id.clone(), Session::new(concurrent));
        id
    }

    /// Starts one that holds a whole file already; its id.
    pub fn hold(&mut self, piece: Piece) -> String {
        let id = self.start(false);
        if let Some(session) = self.get(&id) {
            let whole = Place {
                offset: 0,
                close: true,
            };
            session
                .take(whole, piece)
                .expect("an empty session takes everything");
        }
        id
    }

    /// One of them.
    pub fn get(&mut self, id: &str) -> Option<&mut Session> {
        self.0.get_mut(id)
    }

    /// It is finished.
    pub fn remove(&mut self, id: &str) {
        self.0.remove(id);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// All are too old.
    pub fn forget(&mut self) {
        self.0.clear();
    }

    /// All are closed.
    pub fn close(&mut self) {
        self.0
            .values_mut()
            .for_each(|session| session.closed = true);
    }
}
