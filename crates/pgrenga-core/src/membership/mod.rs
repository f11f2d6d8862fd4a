//! The nodes that ever took part: lives, progress, descriptions, standing.

mod slots;

use std::collections::BTreeMap;

use pgrenga_writeset::{Incarnation, NodeId, Reader, Seq, Sink, TransactionId};

use crate::{Error, Limits};
use slots::Slots;

/// A node's place in the order in which nodes first appeared in the log: two
/// bytes where an index entry has no room for a [`NodeId`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeHandle(pub(crate) u16);

#[derive(Clone, Debug, Default)]
struct Node {
    id: NodeId,
    /// Zero before the first life.
    incarnation: Incarnation,
    flushed: Seq,
    description: Option<Box<str>>,
    standing: Standing,
    /// Its slot in every sequence.
    slot: u16,
}

/// What a node may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Standing {
    #[default]
    Attached,
    /// It takes part, but is to take no new sessions.
    Detached,
    /// Out for good. Nothing of it counts any more.
    Removed,
}

impl Node {
    fn is_removed(&self) -> bool {
        self.standing == Standing::Removed
    }

    /// Whether nobody else may have its slot: it is a member, or it may have drawn values.
    fn holds_slot(&self) -> bool {
        !self.is_removed() || self.incarnation > Incarnation(0)
    }
}

/// All nodes. One that is removed stays known: an id is never given again, so
/// that what is left of it is told from anybody else's.
#[derive(Clone, Debug)]
pub(crate) struct Nodes {
    limit: u16,
    handles: BTreeMap<NodeId, NodeHandle>,
    /// By handle.
    nodes: Vec<Node>,
    slots: Slots,
}

/// There are as many nodes as the limits allow, or every slot of the sequences is taken.
#[derive(Debug)]
pub(crate) struct Full;

impl Nodes {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            limit: limits.nodes,
            handles: BTreeMap::new(),
            nodes: Vec::new(),
            slots: Slots::new(limits.sequence_slots),
        }
    }

    fn find(&self, id: NodeId) -> Option<&Node> {
        self.handles.get(&id).map(|handle| &self.nodes[usize::from(handle.0)])
    }

    /// A node that was not removed.
    fn member(&mut self, id: NodeId) -> Option<&mut Node> {
        let handle = self.handles.get(&id)?;
        Some(&mut self.nodes[usize::from(handle.0)]).filter(|node| !node.is_removed())
    }

    /// The node, which begins to exist with this: it gets the lowest slot that is free.
    fn entry(&mut self, id: NodeId) -> Result<&mut Node, Full> {
        let handle = match self.handles.get(&id) {
            Some(handle) => *handle,
            None => {
                let next = u16::try_from(self.nodes.len()).ok().filter(|&next| next < self.limit).ok_or(Full)?;
                let slot = self.slots.take().ok_or(Full)?;
                self.nodes.push(Node { id, slot, ..Node::default() });
                self.handles.insert(id, NodeHandle(next));
                NodeHandle(next)
            }
        };
        Ok(&mut self.nodes[usize::from(handle.0)])
    }

    /// The node's handle if this is a transaction of its present life.
    pub(crate) fn living(&self, txid: &TransactionId) -> Option<NodeHandle> {
        let handle = *self.handles.get(&txid.node)?;
        let node = &self.nodes[usize::from(handle.0)];
        let lives = node.incarnation == txid.incarnation && node.incarnation > Incarnation(0) && !node.is_removed();
        lives.then_some(handle)
    }

    /// Of a node that appeared: deferred writesets outlive the life that wrote them.
    pub(crate) fn handle(&self, id: NodeId) -> Option<NodeHandle> {
        self.handles.get(&id).copied()
    }

    pub(crate) fn id(&self, handle: NodeHandle) -> NodeId {
        self.nodes.get(usize::from(handle.0)).map_or_else(NodeId::default, |node| node.id)
    }

    /// The highest id that any node ever had.
    pub(crate) fn highest(&self) -> NodeId {
        self.handles.last_key_value().map_or_else(NodeId::default, |(id, _)| *id)
    }

    pub(crate) fn incarnation(&self, id: NodeId) -> Incarnation {
        self.find(id).map_or_else(Incarnation::default, |node| node.incarnation)
    }

    /// All present lives.
    pub(crate) fn lives(&self) -> impl Iterator<Item = (NodeId, Incarnation)> {
        self.nodes.iter().map(|node| (node.id, node.incarnation))
    }

    /// Begins a life; says whether it is newer than the present one. Who was removed has none.
    pub(crate) fn begin_life(&mut self, id: NodeId, incarnation: Incarnation) -> Result<bool, Full> {
        if incarnation <= self.incarnation(id) || self.is_removed(id) {
            return Ok(false);
        }
        self.entry(id)?.incarnation = incarnation;
        Ok(true)
    }

    pub(crate) fn flushed(&self, id: NodeId) -> Seq {
        self.find(id).map_or_else(Seq::default, |node| node.flushed)
    }

    /// The newest report counts, even if it is lower: a node that came back
    /// with an older copy of the data needs the log from there.
    pub(crate) fn set_flushed(&mut self, id: NodeId, flushed: Seq) -> Result<(), Full> {
        self.entry(id)?.flushed = flushed;
        Ok(())
    }

    /// Describes a node that was not described yet. The first description counts: of two
    /// newcomers that were given the same id, the second one has to ask again. So has one that asked
    /// twice, and was given two ids: nothing is known of the second.
    pub(crate) fn describe(&mut self, id: NodeId, description: &str) -> Result<(), Full> {
        let is_known = |node: &Node| node.id != id && node.description.as_deref() == Some(description);
        if self.nodes.iter().any(is_known) {
            return Ok(());
        }
        let node = self.entry(id)?;
        if node.description.is_none() && !node.is_removed() {
            node.description = Some(description.into());
        }
        Ok(())
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = (NodeId, &str)> {
        self.handles.iter().filter_map(|(&id, handle)| {
            self.nodes[usize::from(handle.0)].description.as_deref().map(|description| (id, description))
        })
    }

    /// Lets a member take new sessions, or not; says whether that is a change.
    pub(crate) fn set_detached(&mut self, id: NodeId, detached: bool) -> bool {
        let standing = if detached { Standing::Detached } else { Standing::Attached };
        self.member(id).is_some_and(|node| std::mem::replace(&mut node.standing, standing) != standing)
    }

    pub(crate) fn is_detached(&self, id: NodeId) -> bool {
        self.find(id).is_some_and(|node| node.standing == Standing::Detached)
    }

    /// Takes a node out; says whether it was in.
    pub(crate) fn remove(&mut self, id: NodeId) -> bool {
        let Some(node) = self.member(id) else { return false };
        node.standing = Standing::Removed;
        node.description = None;
        let (holds_slot, slot) = (node.holds_slot(), node.slot);
        if !holds_slot {
            self.slots.free(slot);
        }
        true
    }

    pub(crate) fn is_removed(&self, id: NodeId) -> bool {
        self.find(id).is_some_and(Node::is_removed)
    }

    /// All that were removed.
    pub(crate) fn removed(&self) -> impl Iterator<Item = NodeId> {
        self.nodes.iter().filter(|node| node.is_removed()).map(|node| node.id)
    }

    /// The node's slot in every sequence.
    pub(crate) fn sequence_slot(&self, id: NodeId) -> Option<u16> {
        self.find(id).map(|node| node.slot)
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.nodes.len() as u32);
        for node in &self.nodes {
            out.put_u32(node.id.0);
            out.put_u32(node.incarnation.0);
            out.put_u64(node.flushed.0);
            out.put_u8(match node.standing {
                Standing::Attached => 0,
                Standing::Detached => 1,
                Standing::Removed => 2,
            });
            out.put_u16(node.slot);
            out.put_u8(u8::from(node.description.is_some()));
            if let Some(description) = &node.description {
                out.put_str(description);
            }
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>, limits: &Limits) -> Result<Self, Error> {
        let mut nodes = Self::new(limits);
        for known in 0..reader.u32()? {
            let mut node = Node {
                id: NodeId(reader.u32()?),
                incarnation: Incarnation(reader.u32()?),
                flushed: Seq(reader.u64()?),
                ..Node::default()
            };
            node.standing = match reader.u8()? {
                0 => Standing::Attached,
                1 => Standing::Detached,
                2 => Standing::Removed,
                _ => return Err(Error::Inconsistent("a node's standing is none")),
            };
            node.slot = reader.u16()?;
            node.description = match reader.u8()? {
                0 => None,
                _ => Some(reader.str()?.into()),
            };
            let handle = u16::try_from(known).ok().filter(|&handle| handle < nodes.limit);
            let handle = handle.ok_or(Error::Inconsistent("more nodes than the limit"))?;
            if node.holds_slot() && !nodes.slots.take_this(node.slot) {
                return Err(Error::Inconsistent("two nodes have the same slot"));
            }
            if nodes.handles.insert(node.id, NodeHandle(handle)).is_some() {
                return Err(Error::Inconsistent("a node appears twice"));
            }
            nodes.nodes.push(node);
        }
        Ok(nodes)
    }
}
