//! What is known of the log in memory, in two views of one log.
//!
//! *Queued*: what openraft asked for so far; readers see this. *Written*: what
//! the writer has made durable; it says where entries lie on disk. An entry
//! leaves the cache only once it is written, so each entry of the queued view
//! is in the cache or has its place in the written view.
//!
//! `purged <= committed <= last`, and `purged < index <= last` for every entry.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use super::disk::DiskFile;
use super::segment::{Checkpoint, RecordLocation};
use super::writer::room_for;
use crate::codec;
use crate::raft::{Entry, LogId, log_id};

/// The queued view.
#[derive(Default)]
pub(crate) struct Queued {
    pub(crate) checkpoint: Checkpoint,
    /// First held index of each term that the log holds.
    terms: BTreeMap<u64, u64>,
    memberships: BTreeSet<u64>,
    cache: VecDeque<Cached>,
    cached_bytes: usize,
    /// Room that entries on their way to the disk take there, in bytes.
    pub(crate) unwritten: usize,
}

struct Cached {
    entry: Entry,
    bytes: usize,
    /// Position in the writer's queue.
    ticket: u64,
}

impl Queued {
    /// The index that an appended entry must have; any, in an empty log that
    /// never held one.
    pub(crate) fn next_index(&self) -> Option<u64> {
        self.checkpoint.last.map(|last| last.index + 1)
    }

    /// The lowest index that is held or, in an empty log, the next one.
    pub(crate) fn first_index(&self) -> u64 {
        self.terms.first_key_value().map_or_else(|| self.next_index().unwrap_or(0), |(first, _)| *first)
    }

    pub(crate) fn note(&mut self, id: LogId, membership: bool) {
        if self.terms.last_key_value().is_none_or(|(_, term)| *term != id.leader_id.term) {
            self.terms.insert(id.index, id.leader_id.term);
        }
        if membership {
            self.memberships.insert(id.index);
        }
        self.checkpoint.last = Some(id);
    }

    pub(crate) fn append(&mut self, entry: Entry, ticket: u64) {
        let membership = matches!(entry.payload, openraft::EntryPayload::Membership(_));
        self.note(entry.log_id, membership);
        let bytes = codec::entry_len(&entry);
        self.unwritten += room_for(&entry);
        self.cached_bytes += bytes;
        self.cache.push_back(Cached { entry, bytes, ticket });
    }

    /// Removes what comes after `last`, if anything does.
    pub(crate) fn truncate(&mut self, last: Option<LogId>) {
        if last >= self.checkpoint.last {
            return;
        }
        let from = last.map_or(0, |id| id.index + 1);
        self.terms.split_off(&from);
        self.memberships.split_off(&from);
        while self.cache.back().is_some_and(|cached| cached.entry.log_id.index >= from) {
            self.cached_bytes -= self.cache.pop_back().map_or(0, |cached| cached.bytes);
        }
        self.checkpoint.last = last.max(self.checkpoint.purged);
    }

    /// Removes `upto` and what comes before it. It may lie beyond the end, when
    /// a snapshot took the place of the whole log.
    pub(crate) fn purge(&mut self, upto: LogId) {
        if self.checkpoint.purged.is_some_and(|purged| purged.index >= upto.index) {
            return;
        }
        self.checkpoint.purged = Some(upto);
        self.checkpoint.last = self.checkpoint.last.max(Some(upto));
        let first = upto.index + 1;
        // The term of the first entry that stays must remain known.
        if let Some((_, term)) = self.terms.range(..=first).next_back().map(|(index, term)| (*index, *term)) {
            self.terms = self.terms.split_off(&first);
            if self.checkpoint.last.is_some_and(|last| last.index >= first) {
                self.terms.entry(first).or_insert(term);
            }
        }
        self.memberships = self.memberships.split_off(&first);
        while self.cache.front().is_some_and(|cached| cached.entry.log_id.index < first) {
            self.cached_bytes -= self.cache.pop_front().map_or(0, |cached| cached.bytes);
        }
    }

    /// Entries that take so much room are on the disk now.
    pub(crate) fn written(&mut self, room: usize) {
        self.unwritten -= room;
    }

    /// Drops written entries from the cache until it is within its limit.
    pub(crate) fn evict(&mut self, written: u64, limit: usize) {
        while self.cached_bytes > limit && self.cache.front().is_some_and(|cached| cached.ticket <= written) {
            self.cached_bytes -= self.cache.pop_front().map_or(0, |cached| cached.bytes);
        }
    }

    pub(crate) fn cached(&self, index: u64) -> Option<&Entry> {
        let first = self.cache.front()?.entry.log_id.index;
        Some(&self.cache.get(usize::try_from(index.checked_sub(first)?).ok()?)?.entry)
    }

    /// The id of a held entry, or of the last purged one.
    pub(crate) fn log_id_at(&self, index: u64) -> Option<LogId> {
        if let Some(purged) = self.checkpoint.purged.filter(|purged| purged.index >= index) {
            return (purged.index == index).then_some(purged);
        }
        self.checkpoint.last.filter(|last| last.index >= index)?;
        self.terms.range(..=index).next_back().map(|(_, term)| log_id(*term, index))
    }

    /// The last entry of each term in `first..=last`, both of which are held.
    pub(crate) fn term_ends(&self, first: u64, last: u64) -> Vec<LogId> {
        let starts = self.terms.range((Bound::Excluded(first), Bound::Included(last.max(first))));
        starts.map(|(start, _)| start - 1).chain([last]).filter_map(|index| self.log_id_at(index)).collect()
    }

    /// The last membership entry at or before `index`.
    pub(crate) fn membership_before(&self, index: u64) -> Option<u64> {
        self.memberships.range(..=index).next_back().copied()
    }
}

/// Where the bytes of one written entry are.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) segment: Arc<SegmentFile>,
    pub(crate) location: (u32, u32),
}

/// A segment that holds frames.
pub(crate) struct SegmentFile {
    pub(crate) number: u64,
    pub(crate) name: String,
    pub(crate) salt: u32,
    pub(crate) size: u64,
    pub(crate) file: Arc<dyn DiskFile>,
}

struct SegmentIndex {
    file: Arc<SegmentFile>,
    first: u64,
    /// Offset and length of the record of `first` and of those that follow.
    locations: VecDeque<(u32, u32)>,
}

impl SegmentIndex {
    fn end(&self) -> u64 {
        self.first + self.locations.len() as u64
    }
}

/// The written view. Segments are in order and the last one is written to.
#[derive(Default)]
pub(crate) struct Written {
    segments: VecDeque<SegmentIndex>,
}

impl Written {
    pub(crate) fn begin_segment(&mut self, file: Arc<SegmentFile>) {
        self.segments.push_back(SegmentIndex { file, first: 0, locations: VecDeque::new() });
    }

    pub(crate) fn append(&mut self, index: u64, location: RecordLocation) {
        if let Some(segment) = self.segments.back_mut() {
            if segment.locations.is_empty() {
                segment.first = index;
            }
            segment.locations.push_back((location.offset, location.len));
        }
    }

    /// Forgets entries after `last`.
    pub(crate) fn truncate(&mut self, last: Option<LogId>) {
        let from = last.map_or(0, |id| id.index + 1);
        for segment in self.segments.iter_mut().rev() {
            segment.locations.truncate(usize::try_from(from.saturating_sub(segment.first)).unwrap_or(usize::MAX));
        }
    }

    /// Forgets entries up to `upto`.
    pub(crate) fn purge_entries(&mut self, upto: LogId) {
        for segment in &mut self.segments {
            while !segment.locations.is_empty() && segment.first <= upto.index {
                segment.locations.pop_front();
                segment.first += 1;
            }
        }
    }

    /// Forgets entries up to `upto` and returns the segments that hold nothing
    /// any more, from the front.
    pub(crate) fn purge(&mut self, upto: LogId) -> Vec<Arc<SegmentFile>> {
        self.purge_entries(upto);
        let mut empty = Vec::new();
        while self.segments.len() > 1 && self.segments.front().is_some_and(|segment| segment.locations.is_empty()) {
            empty.extend(self.segments.pop_front().map(|segment| segment.file));
        }
        empty
    }

    pub(crate) fn place(&self, index: u64) -> Option<Place> {
        self.segments
            .iter()
            .rev()
            .find(|s| !s.locations.is_empty() && s.first <= index && index < s.end())
            .map(|s| Place { segment: s.file.clone(), location: s.locations[(index - s.first) as usize] })
    }

    pub(crate) fn disk_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.file.size).sum()
    }
}
