//! Scripts about the core.
//!
//! ```text
//! limits keys=4 outcomes=4 deferred=2 ..     before anything else
//! life a 1                                   node a begins life 1
//! writeset a7 seen=3 ..                      of node a's transaction 7; `a7@2` in its life 2
//!     seen=N first=N                         seen_last, and seen_first if it differs
//!     at=N                                   when the keys that come next were captured
//!     insert=K update=K delete=K             keys written, with the lock that PostgreSQL takes
//!     deferred=K                             a value of a deferrable constraint written
//!     key_share=K share=K no_key_update=K for_update=K     keys only locked
//!     writes=T reads=T applied=T.MODE held=T.MODE          relations
//!     fence=N fragments=N barrier catalog
//! fragment a7 0 | fence a7 | release a7 | lift a7 | marker 5 | progress a 3 | member a TEXT
//! detach a | attach a | remove a
//! broken a7      a writeset cut off behind its txid        garbage      one cut off before
//! snapshot       goes on from a snapshot of the state      outcome a7   fate a7   status   nodes
//! ```
//!
//! Each item stands in an entry of its own; the first has log index 1.

use std::error::Error;
use std::fmt::Write as _;

use goldenscript::{Argument, Command, Context, Runner};
use pgrenga_core::{Core, Decision, Limits, Position};
use pgrenga_writeset::entry::Item;
use pgrenga_writeset::writeset::{
    Access, Flags, Header, Key, Moment, Read, Reading, RelationUse, RowLock, TableLocks, encode_header, encode_reads,
};
use pgrenga_writeset::{Incarnation, LogIndex, NodeId, Seq, TransactionId};

use super::print;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

pub struct CoreScript {
    limits: Limits,
    core: Core,
    index: u64,
}

impl Default for CoreScript {
    fn default() -> Self {
        let limits = Limits::default();
        Self { limits, core: Core::new(limits), index: 0 }
    }
}

fn node(name: &str) -> Result<NodeId> {
    match name.as_bytes() {
        [letter @ b'a'..=b'z'] => Ok(NodeId(u32::from(letter - b'a') + 1)),
        _ => Err(format!("{name:?} is not a node").into()),
    }
}

fn txid(name: &str) -> Result<TransactionId> {
    let (name, life) = name.split_once('@').unwrap_or((name, "1"));
    let (letter, counter) = name.split_at_checked(1).ok_or("a transaction is a letter and a number")?;
    Ok(TransactionId { node: node(letter)?, incarnation: Incarnation(life.parse()?), counter: counter.parse()? })
}

/// FNV-1a.
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn table_lock(name: &str) -> Result<TableLocks> {
    const NAMES: [&str; 8] = [
        "AccessShare",
        "RowShare",
        "RowExclusive",
        "ShareUpdateExclusive",
        "Share",
        "ShareRowExclusive",
        "Exclusive",
        "AccessExclusive",
    ];
    let mode = NAMES.iter().position(|known| *known == name).ok_or_else(|| format!("no lock mode {name:?}"))?;
    Ok(TableLocks(1 << (mode + 1)))
}

fn row_use(action: &str) -> Option<(RowLock, Access)> {
    Some(match action {
        "insert" | "delete" => (RowLock::Update, Access::Write),
        "update" => (RowLock::NoKeyUpdate, Access::Write),
        "deferred" => (RowLock::Update, Access::Deferred),
        "key_share" => (RowLock::KeyShare, Access::Lock),
        "share" => (RowLock::Share, Access::Lock),
        "no_key_update" => (RowLock::NoKeyUpdate, Access::Lock),
        "for_update" => (RowLock::Update, Access::Lock),
        _ => return None,
    })
}

fn relation_use(action: &str, value: &str) -> Result<Option<RelationUse>> {
    let (name, mode) = value.split_once('.').unwrap_or((value, ""));
    let none = TableLocks::default();
    let (applied, held) = match action {
        "writes" => (TableLocks::ROW_EXCLUSIVE, none),
        "reads" => (none, TableLocks::ACCESS_SHARE),
        "applied" => (table_lock(mode)?, none),
        "held" => (none, table_lock(mode)?),
        _ => return Ok(None),
    };
    Ok(Some(RelationUse { hash: hash(name), applied, held }))
}

fn read(action: &str, value: &str) -> Option<Read> {
    let what = match action {
        "read_rows" => Reading::Rows,
        "read_definition" => Reading::Definition,
        "read_key" => Reading::Key,
        _ => return None,
    };
    Some(Read { hash: hash(value), what })
}

fn writeset(id: TransactionId, arguments: &[Argument]) -> Result<Vec<u8>> {
    let mut header = Header { txid: id, ..Header::default() };
    let (mut relations, mut keys, mut moments, mut first) = (Vec::new(), Vec::new(), Vec::new(), None);
    let (mut snapshot, mut reads) = (Seq(0), Vec::new());
    for argument in arguments {
        let (key, value) = match argument {
            Argument::KeyValue(key, value) => (Some(key.as_str()), value.as_str()),
            Argument::Positional(value) => (None, value.as_str()),
            other => return Err(format!("what is {other}?").into()),
        };
        match key {
            None if value == "barrier" => header.flags = header.flags.union(Flags::BARRIER),
            None if value == "catalog" => header.flags = header.flags.union(Flags::CATALOG),
            Some("seen") => header.seen_last = Seq(value.parse()?),
            Some("snapshot") => {
                header.flags = header.flags.union(Flags::SERIALIZABLE);
                snapshot = Seq(value.parse()?);
            }
            Some("first") => first = Some(Seq(value.parse()?)),
            Some("at") => moments.push(Moment { key: keys.len() as u32, seen: Seq(value.parse()?) }),
            Some("fence") => header.fence = LogIndex(value.parse()?),
            Some("fragments") => header.fragments = value.parse()?,
            Some(action) => {
                if let Some((mode, access)) = row_use(action) {
                    keys.push(Key { hash: hash(value), mode, access });
                } else if let Some(read) = read(action, value) {
                    reads.push(read);
                } else if let Some(relation) = relation_use(action, value)? {
                    relations.push(relation);
                } else {
                    return Err(format!("no such thing as {action:?}").into());
                }
            }
            None => return Err(format!("no flag {value:?}").into()),
        }
    }
    header.seen_first = first.unwrap_or(header.seen_last);
    let mut bytes = Vec::new();
    encode_header(&mut bytes, &header, relations.iter(), keys.iter(), &moments);
    if header.flags.contains(Flags::SERIALIZABLE) {
        encode_reads(&mut bytes, snapshot, reads.iter());
    }
    bytes.extend_from_slice(b"body");
    Ok(bytes)
}

impl CoreScript {
    fn step(&mut self, item: &Item<'_>) -> String {
        self.index += 1;
        let mut decisions: Vec<Decision> = Vec::new();
        self.core.step(Position { index: LogIndex(self.index), item: 0 }, item, &mut decisions);
        let mut out = String::new();
        for decision in &decisions {
            writeln!(out, "{}", print::decision(decision)).expect("a string takes text");
        }
        out
    }

    fn restart(&mut self) -> Result<String> {
        let bytes = self.core.snapshot();
        self.core = Core::restore(&bytes, self.limits)?;
        Ok(if self.core.snapshot() == bytes { "restored, same bytes" } else { "restored, OTHER BYTES" }.into())
    }

    fn status(&self) -> String {
        let core = &self.core;
        let fence = core.fence().map_or("none".into(), |(id, index)| format!("{index} of {}", print::txid(&id)));
        let oldest = core.oldest_needed().map_or("none".into(), |index| index.to_string());
        let members: Vec<_> = core.members().map(|(id, text)| format!("{}={text}", print::node(id))).collect();
        format!(
            "seq {} | fence {fence} | deferred {} | log needed from {oldest} | members [{}]",
            core.seq(),
            core.deferred(),
            members.join(" ")
        )
    }

    /// The members' slots in sequences, and who is detached or removed.
    fn nodes(&self) -> String {
        let core = &self.core;
        let all = (1..=core.highest_node().0).map(NodeId);
        let known = all.filter(|&id| core.sequence_slot(id).is_some() || core.is_removed(id));
        let words: Vec<_> = known
            .map(|id| match core.sequence_slot(id) {
                Some(slot) if core.is_detached(id) => format!("{}:{slot} detached", print::node(id)),
                Some(slot) => format!("{}:{slot}", print::node(id)),
                None => format!("{} removed", print::node(id)),
            })
            .collect();
        words.join(", ")
    }

    fn set_limits(&mut self, arguments: &[Argument]) -> Result<String> {
        for argument in arguments {
            let Argument::KeyValue(name, value) = argument else { return Err("limits have names".into()) };
            let value: u32 = value.parse()?;
            match name.as_str() {
                "keys" => self.limits.keys = value,
                "relations" => self.limits.relations = value,
                "outcomes" => self.limits.outcomes = value,
                "deferred" => self.limits.deferred = value,
                "deferred_bytes" => self.limits.deferred_bytes = value,
                "fragments" => self.limits.fragments = value,
                "nodes" => self.limits.nodes = value.try_into()?,
                "slots" => self.limits.sequence_slots = value.try_into()?,
                other => return Err(format!("no limit {other:?}").into()),
            }
        }
        self.core = Core::new(self.limits);
        Ok(String::new())
    }
}

impl Runner for CoreScript {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String> {
        let arguments = &command.args;
        let text = |position: usize| match arguments.get(position) {
            Some(Argument::Positional(value)) => Ok(value.as_str()),
            _ => Err("an argument is missing"),
        };
        let item_bytes;
        let item = match command.name.as_str() {
            "limits" => return self.set_limits(arguments),
            "snapshot" => return self.restart(),
            "status" => return Ok(self.status()),
            "nodes" => return Ok(self.nodes()),
            "outcome" => {
                let id = txid(text(0)?)?;
                let waits = if self.core.is_deferred(id) { "deferred" } else { "not known" };
                return Ok(self.core.outcome(id).map_or_else(|| waits.into(), |known| print::outcome(&known)));
            }
            "fate" => return Ok(self.core.status(txid(text(0)?)?).to_string()),
            "life" => Item::Incarnation { node: node(text(0)?)?, incarnation: Incarnation(text(1)?.parse()?) },
            "writeset" => {
                item_bytes = writeset(txid(text(0)?)?, &arguments[1..])?;
                Item::Writeset(&item_bytes)
            }
            "broken" => {
                item_bytes = writeset(txid(text(0)?)?, &[])?[..20].to_vec();
                Item::Writeset(&item_bytes)
            }
            "garbage" => Item::Writeset(&[1, 0, 3]),
            "fragment" => Item::Fragment { txid: txid(text(0)?)?, ordinal: text(1)?.parse()?, body: b"piece" },
            "fence" => Item::FenceRequest(txid(text(0)?)?),
            "give-up" => Item::GiveUp(txid(text(0)?)?),
            "lift" => Item::FenceLift(txid(text(0)?)?),
            "marker" => Item::Marker { id: text(0)?.parse()? },
            "progress" => Item::Progress { node: node(text(0)?)?, flushed: Seq(text(1)?.parse()?) },
            "member" => Item::Member { node: node(text(0)?)?, description: text(1)? },
            "detach" => Item::Detach(node(text(0)?)?),
            "attach" => Item::Attach(node(text(0)?)?),
            "remove" => Item::Remove(node(text(0)?)?),
            other => return Err(format!("no command {other:?}").into()),
        };
        Ok(self.step(&item))
    }
}
