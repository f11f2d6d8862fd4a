//! The data of one PostgreSQL: rows, each with who wrote and who locked it last.

use std::collections::BTreeMap;

use pgrenga_writeset::Seq;

use crate::trace::digest;
use crate::writes::Writes;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    rows: BTreeMap<u64, Row>,
    schema: Seq,
    /// The last seq.
    pub visible: Seq,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Row {
    written: Seq,
    locked: Seq,
}

impl Table {
    /// Which seq wrote the row last.
    pub fn version(&self, row: u64) -> Seq {
        self.rows.get(&row).copied().unwrap_or_default().written
    }

    /// Which seq changed the definition last.
    pub fn schema(&self) -> Seq {
        self.schema
    }

    /// Why the writes cannot be repeated here as they were done at their origin.
    ///
    /// # Errors
    /// What another transaction did in between.
    pub fn fits(&self, writes: &Writes) -> Result<(), String> {
        if writes.schema != self.schema {
            return Err(format!("it saw the definition of {}, which is that of {}", writes.schema, self.schema));
        }
        for touch in &writes.touched {
            let row = self.rows.get(&touch.row).copied().unwrap_or_default();
            if row.written != touch.version {
                return Err(format!(
                    "it saw row {} as {} wrote it, which {} did",
                    touch.row, touch.version, row.written
                ));
            }
            if touch.write && row.locked > touch.captured {
                let captured = touch.captured;
                return Err(format!("it wrote row {} as of {captured}, which {} locked", touch.row, row.locked));
            }
        }
        Ok(())
    }

    /// Makes the next seq visible; a marker has no writes.
    pub fn apply(&mut self, seq: Seq, writes: Option<&Writes>) {
        self.visible = seq;
        let Some(writes) = writes else { return };
        if writes.definition {
            self.schema = seq;
        }
        for touch in &writes.touched {
            let row = self.rows.entry(touch.row).or_default();
            if touch.write { row.written = seq } else { row.locked = seq }
        }
    }

    /// A number for the whole content.
    pub fn digest(&self) -> u64 {
        self.rows.iter().fold(digest(self.schema.0, b"table"), |hash, (row, Row { written, locked })| {
            [*row, written.0, locked.0].iter().fold(hash, |hash, number| digest(hash, &number.to_le_bytes()))
        })
    }
}
