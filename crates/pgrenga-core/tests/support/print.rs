//! Decisions as scripts show them. Nodes are letters: `a` is node 1.

use pgrenga_core::{Decision, Outcome, Position};
use pgrenga_writeset::port::AbortReason;
use pgrenga_writeset::{NodeId, TransactionId};

pub fn node(id: NodeId) -> String {
    let letter = u8::try_from(id.0).ok().and_then(|id| id.checked_sub(1)).filter(|&letter| letter < 26);
    letter.map_or_else(|| id.to_string(), |letter| char::from(b'a' + letter).to_string())
}

/// `a7` is node 1's transaction 7 in its first life, `a7@2` one in its second.
pub fn txid(id: &TransactionId) -> String {
    let life = if id.incarnation.0 == 1 { String::new() } else { format!("@{}", id.incarnation) };
    format!("{}{}{life}", node(id.node), id.counter)
}

fn place(at: &Position) -> String {
    if at.item == 0 { at.index.to_string() } else { format!("{}.{}", at.index, at.item) }
}

pub fn reason(reason: &AbortReason) -> String {
    match reason {
        AbortReason::Key { ordinal, winner, node: by } => {
            format!("key {ordinal}, won by seq {winner} of {}", node(*by))
        }
        AbortReason::Relation { ordinal, winner, node: by } => {
            format!("relation {ordinal}, won by seq {winner} of {}", node(*by))
        }
        AbortReason::Catalog { winner, node: by } => format!("catalog, won by seq {winner} of {}", node(*by)),
        AbortReason::Read { ordinal, winner, node: by } => {
            format!("read {ordinal}, won by seq {winner} of {}", node(*by))
        }
        AbortReason::TooOld => "too old".into(),
        AbortReason::FenceLost => "fence lost".into(),
        AbortReason::Void => "void".into(),
        AbortReason::Malformed => "malformed".into(),
        AbortReason::GivenUp => "given up".into(),
    }
}

pub fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Commit(seq) => format!("committed at seq {seq}"),
        Outcome::Abort(why) => format!("aborted: {}", reason(why)),
    }
}

pub fn decision(decision: &Decision) -> String {
    match decision {
        Decision::Commit { seq, txid: id, at, fragments, after, barrier } => {
            let alone = if *barrier { ", alone" } else { "" };
            let pieces: Vec<_> = fragments.iter().map(place).collect();
            let pieces = if pieces.is_empty() { String::new() } else { format!(", pieces at {}", pieces.join(" ")) };
            format!("commit {} as seq {seq}, after {after}{alone} (from {}{pieces})", txid(id), place(at))
        }
        Decision::Marker { seq, id } => format!("marker {id} as seq {seq}"),
        Decision::Abort { txid: id, reason: why } => format!("abort {}: {}", txid(id), reason(why)),
        Decision::FenceGranted { txid: id, fence, after } => {
            format!("fence {fence} granted to {}, after {after}", txid(id))
        }
        Decision::FenceLost { txid: id } => format!("fence lost by {}", txid(id)),
        Decision::Duplicate { txid: id, outcome: was } => format!("duplicate {}: {}", txid(id), outcome(was)),
        Decision::Incarnation { node: id, incarnation } => format!("{} begins life {incarnation}", node(*id)),
        Decision::Member { node: id } => format!("member {}", node(*id)),
        Decision::Full { node: id } => format!("no room for {}", node(*id)),
        Decision::Removed { node: id } => format!("{} is removed", node(*id)),
        Decision::Malformed { at } => format!("malformed item at {}", place(at)),
    }
}
