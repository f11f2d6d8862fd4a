//! What the simulated transactions change: a small table of rows, each with the seq that wrote it
//! last. A writeset says which version of each row its transaction saw, so that whoever applies it
//! can tell whether certification was right, without asking certification.

use pgrenga_writeset::writeset::{
    Access, Flags, Header, Key, Moment, RelationUse, RowLock, TableLocks, Writeset, encode_header,
};
use pgrenga_writeset::{LogIndex, Reader, Seq, Sink, TransactionId};

/// The one relation.
const RELATION: u64 = 0x7e1a;

/// A row that a transaction wrote or locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touch {
    /// Which.
    pub row: u64,
    /// Written, or only locked.
    pub write: bool,
    /// The seq that had written it when it was captured.
    pub version: Seq,
    /// What was visible then.
    pub captured: Seq,
}

/// What one transaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writes {
    /// Names the transaction, however often it is submitted.
    pub serial: u64,
    /// Changed the table's definition, under the fence.
    pub definition: bool,
    /// The seq that had changed the definition last when it began.
    pub schema: Seq,
    /// In the order of capture.
    pub touched: Vec<Touch>,
    /// Bytes that mean nothing.
    pub padding: usize,
}

/// An encoded writeset, and the pieces of its body that go ahead.
pub struct Encoded {
    /// The header and the last piece.
    pub writeset: Vec<u8>,
    /// The others, in order.
    pub fragments: Vec<Vec<u8>>,
}

impl Writes {
    /// As a writeset of `txid`, its body in `pieces` pieces.
    pub fn encode(&self, txid: TransactionId, seen: (Seq, Seq), fence: LogIndex, pieces: usize) -> Encoded {
        let body = self.body();
        let size = body.len().div_ceil(pieces.max(1)).max(1);
        let mut fragments: Vec<Vec<u8>> = body.chunks(size).map(<[u8]>::to_vec).collect();
        let last = fragments.pop().unwrap_or_default();
        let flags = if self.definition { Flags::BARRIER } else { Flags::default() };
        let (seen_first, seen_last) = seen;
        let header = Header { flags, txid, seen_first, seen_last, fence, fragments: fragments.len() as u32 };
        let mode = if self.definition { TableLocks::ACCESS_EXCLUSIVE } else { TableLocks::ROW_EXCLUSIVE };
        let relation = RelationUse { hash: RELATION, applied: mode, held: TableLocks::default() };
        let keys: Vec<Key> = self.touched.iter().map(Touch::key).collect();
        let moments: Vec<Moment> =
            (0..).zip(&self.touched).map(|(key, touch)| Moment { key, seen: touch.captured }).collect();
        let mut writeset = Vec::new();
        encode_header(&mut writeset, &header, [relation].iter(), keys.iter(), &moments);
        writeset.extend_from_slice(&last);
        Encoded { writeset, fragments }
    }

    fn body(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_u64(self.serial);
        out.put_u8(self.definition.into());
        out.put_u64(self.schema.0);
        out.put_u32(self.touched.len() as u32);
        for touch in &self.touched {
            out.put_u64(touch.row);
            out.put_u8(touch.write.into());
            out.put_u64(touch.version.0);
            out.put_u64(touch.captured.0);
        }
        out.resize(out.len() + self.padding, 0xa5);
        out
    }

    /// From a whole body.
    pub fn decode(body: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(body);
        let serial = reader.u64().ok()?;
        let definition = reader.u8().ok()? != 0;
        let schema = Seq(reader.u64().ok()?);
        let mut touched = Vec::new();
        for _ in 0..reader.u32().ok()? {
            let (row, write) = (reader.u64().ok()?, reader.u8().ok()? != 0);
            let (version, captured) = (Seq(reader.u64().ok()?), Seq(reader.u64().ok()?));
            touched.push(Touch { row, write, version, captured });
        }
        Some(Self { serial, definition, schema, touched, padding: reader.rest().len() })
    }
}

impl Touch {
    fn key(&self) -> Key {
        let (mode, access) =
            if self.write { (RowLock::Update, Access::Write) } else { (RowLock::KeyShare, Access::Lock) };
        Key { hash: self.row, mode, access }
    }
}

/// The last piece of a writeset's body, and how many went ahead.
pub fn last_piece(writeset: &[u8]) -> Option<(&[u8], u32)> {
    let writeset = Writeset::decode(writeset).ok()?;
    Some((writeset.body, writeset.header.fragments))
}
