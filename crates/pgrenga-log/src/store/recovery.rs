//! Reading the log back at start.
//!
//! Whatever was acknowledged was in a frame whose sync had ended before the
//! next frame was written. So only the last frame of the last segment may be
//! incomplete, and a frame that is damaged although a whole one follows was
//! durable once: that is corruption, and nothing is changed on disk.

use std::sync::Arc;

use bytes::Bytes;

use super::disk::Disk;
use super::index::{Queued, SegmentFile, Written};
use super::prepare::{begin_segment, prepare, segment_name, segment_number};
use super::segment::{Checkpoint, HEADER, Header, Record, frame_at, new_salt, records};
use super::writer::Position;
use crate::codec::Malformed;
use crate::error::Error;

/// A log as it was found.
pub(crate) struct Recovered {
    pub(crate) queued: Queued,
    pub(crate) written: Written,
    pub(crate) position: Position,
}

struct Found {
    segment: Arc<SegmentFile>,
    header: Header,
}

/// Reads the log of `node` in `disk`, or begins one.
pub(crate) fn recover(disk: &dyn Disk, node: u64, segment_bytes: u64) -> Result<Recovered, Error> {
    let names = disk.list().map_err(Error::io("could not list the log directory"))?;
    for name in names.iter().filter(|name| name.ends_with(".tmp")) {
        disk.remove(name).map_err(Error::io(format!("could not remove {name}")))?;
    }
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment_number(name)).collect();
    numbers.sort_unstable();
    if numbers.is_empty() {
        return begin(disk, node, segment_bytes).map_err(Error::io("could not create the first log segment"));
    }
    let found: Vec<Found> = numbers.iter().map(|number| open(disk, *number, node)).collect::<Result<_, _>>()?;
    Replay::new(disk, &found[0].header).run(&found)
}

fn begin(disk: &dyn Disk, node: u64, segment_bytes: u64) -> std::io::Result<Recovered> {
    let file = prepare(disk, segment_bytes)?;
    let header = Header {
        node,
        salt: new_salt(),
        number: 1,
        previous_end: 0,
        first_frame: 1,
        checkpoint: Checkpoint::default(),
    };
    let segment = begin_segment(disk, file, &header, segment_bytes)?;
    let mut written = Written::default();
    written.begin_segment(segment.clone());
    let position = Position { segment, offset: HEADER as u64, next_frame: 1, checkpoint: Checkpoint::default() };
    Ok(Recovered { queued: Queued::default(), written, position })
}

fn corrupt(disk: &dyn Disk, number: u64, offset: u64, reason: impl ToString) -> Error {
    Error::Corrupt { file: disk.path(&segment_name(number)), offset, reason: reason.to_string() }
}

fn open(disk: &dyn Disk, number: u64, node: u64) -> Result<Found, Error> {
    let name = segment_name(number);
    let failed = || Error::io(format!("could not read log segment {name}"));
    let file = disk.open(&name).map_err(failed())?;
    let size = file.size().map_err(failed())?;
    if size < HEADER as u64 {
        return Err(corrupt(disk, number, 0, "shorter than a segment header"));
    }
    let mut bytes = vec![0; HEADER];
    file.read_at(&mut bytes, 0).map_err(failed())?;
    let header = Header::decode(bytes.into()).map_err(|error| corrupt(disk, number, 0, error))?;
    if header.number != number {
        return Err(corrupt(disk, number, 0, format!("holds segment {}", header.number)));
    }
    if header.node != node {
        let id = |node| pgrenga_writeset::NodeId(node as u32);
        return Err(Error::WrongNode { found: id(header.node), expected: id(node) });
    }
    Ok(Found { segment: Arc::new(SegmentFile { number, name, salt: header.salt, size, file }), header })
}

struct Replay<'a> {
    disk: &'a dyn Disk,
    queued: Queued,
    written: Written,
    next_frame: u64,
    /// Entries below this were in segments that are gone; a later record purges them.
    base: u64,
}

impl<'a> Replay<'a> {
    fn new(disk: &'a dyn Disk, first: &Header) -> Self {
        let mut queued = Queued::default();
        queued.checkpoint = first.checkpoint;
        let base = queued.next_index().unwrap_or(0);
        Self { disk, queued, written: Written::default(), next_frame: first.first_frame, base }
    }

    fn run(mut self, found: &[Found]) -> Result<Recovered, Error> {
        let mut end = 0;
        for (at, Found { segment, header }) in found.iter().enumerate() {
            let next = found.get(at + 1);
            if at > 0 && found[at - 1].header.number + 1 != header.number {
                return Err(corrupt(self.disk, header.number - 1, 0, "the segment is missing"));
            }
            if header.first_frame != self.next_frame {
                return Err(corrupt(self.disk, header.number, 0, "does not continue the segment before it"));
            }
            end = self.segment(segment, next.map(|next| next.header.previous_end))?;
        }
        let Some(Found { segment, header }) = found.last() else {
            return Err(corrupt(self.disk, 0, 0, "no segment"));
        };
        if self.queued.checkpoint.purged.map_or(0, |purged| purged.index + 1) < self.base {
            return Err(corrupt(self.disk, found[0].header.number - 1, 0, "the segment is missing"));
        }
        let checkpoint = self.queued.checkpoint;
        let position = Position { segment: segment.clone(), offset: end, next_frame: self.next_frame, checkpoint };
        debug_assert_eq!(header.number, segment.number);
        Ok(Recovered { queued: self.queued, written: self.written, position })
    }

    /// Replays one segment; returns where its frames end. `expected_end` is
    /// known for all but the last.
    fn segment(&mut self, segment: &Arc<SegmentFile>, expected_end: Option<u64>) -> Result<u64, Error> {
        let failed = || Error::io(format!("could not read log segment {}", segment.name));
        let mut data = vec![0; segment.size as usize];
        segment.file.read_at(&mut data, 0).map_err(failed())?;
        let data = Bytes::from(data);
        self.written.begin_segment(segment.clone());
        let mut at = HEADER;
        while let Some((_, end)) = frame_at(&data, at, segment.salt, self.next_frame..self.next_frame + 1) {
            self.frame(&data, at, end).map_err(|error| corrupt(self.disk, segment.number, at as u64, error))?;
            self.next_frame += 1;
            at = end;
        }
        match expected_end {
            Some(expected) if expected == at as u64 => {}
            Some(_) => return Err(corrupt(self.disk, segment.number, at as u64, "a frame is damaged or missing")),
            None => self.tail(segment, &data, at)?,
        }
        Ok(at as u64)
    }

    /// Clears what an interrupted write left behind the last whole frame.
    fn tail(&mut self, segment: &SegmentFile, data: &[u8], at: usize) -> Result<(), Error> {
        let failed = || Error::io(format!("could not clear the end of log segment {}", segment.name));
        if let Some(last) = data[at..].iter().rposition(|byte| *byte != 0) {
            let later = self.next_frame..self.next_frame + segment.size;
            if let Some(whole) =
                (at + 1..at + last).find(|at| frame_at(data, *at, segment.salt, later.clone()).is_some())
            {
                let reason = format!("a frame is damaged although a whole one follows at byte {whole}");
                return Err(corrupt(self.disk, segment.number, at as u64, reason));
            }
            tracing::warn!(
                segment = segment.name,
                offset = at,
                bytes = last + 1,
                "dropped an incomplete write at the end of the log; it had not been acknowledged"
            );
            segment.file.write_at(&vec![0; last + 1], at as u64).map_err(failed())?;
        }
        // After a crash of the process alone, what was read may be in the page cache only.
        segment.file.sync().map_err(failed())
    }

    fn frame(&mut self, data: &Bytes, start: usize, end: usize) -> Result<(), Malformed> {
        for record in records(data, start, end)? {
            match record {
                Record::Entry(id, location) => {
                    if self.queued.next_index().is_some_and(|next| next != id.index) {
                        return Err(Malformed::new("entry: does not continue the log"));
                    }
                    self.queued.note(id, location.membership);
                    self.written.append(id.index, location);
                }
                Record::Vote(vote) => self.queued.checkpoint.vote = Some(vote),
                Record::Truncate(last) => {
                    self.queued.truncate(last);
                    self.written.truncate(last);
                    self.base = self.base.min(last.map_or(0, |id| id.index + 1));
                }
                Record::Purge(upto) => {
                    self.queued.purge(upto);
                    // Segments that hold nothing any more go with the next purge.
                    self.written.purge_entries(upto);
                }
                Record::Committed(committed) => self.queued.checkpoint.committed = committed,
            }
        }
        Ok(())
    }
}
