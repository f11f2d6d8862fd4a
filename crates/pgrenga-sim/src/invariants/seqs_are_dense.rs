//! Seqs are given one after the other, without gaps, to commits and markers.

use pgrenga_core::Decision;
use pgrenga_writeset::Seq;

use super::{Event, Invariant};

#[derive(Default)]
pub(super) struct SeqsAreDense {
    last: Seq,
}

impl Invariant for SeqsAreDense {
    fn see(&mut self, event: &Event<'_>) -> Result<(), String> {
        let Event::Stepped { index, first: true, steps, .. } = event else { return Ok(()) };
        for decision in steps.iter().flat_map(|(_, decisions)| decisions) {
            if let Decision::Commit { seq, .. } | Decision::Marker { seq, .. } = decision {
                if *seq != self.last.next() {
                    return Err(format!("entry {index} gives seq {seq} after {}", self.last));
                }
                self.last = *seq;
            }
        }
        Ok(())
    }
}
