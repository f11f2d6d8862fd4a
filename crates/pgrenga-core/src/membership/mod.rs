//! The nodes that ever took part: lives, progress, descriptions.

use std::collections::BTreeMap;

use pgrenga_writeset::{Incarnation, NodeId, Reader, Seq, Sink, TransactionId};

use crate::Error;

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
}

/// All nodes. None is ever removed: an id is never given again, so that an old
/// life stays old.
#[derive(Clone, Debug, Default)]
pub(crate) struct Nodes {
    handles: BTreeMap<NodeId, NodeHandle>,
    /// By handle.
    nodes: Vec<Node>,
}

/// There are as many nodes as the limits allow.
#[derive(Debug)]
pub(crate) struct Full;

impl Nodes {
    fn find(&self, id: NodeId) -> Option<&Node> {
        self.handles.get(&id).map(|handle| &self.nodes[usize::from(handle.0)])
    }

    fn entry(&mut self, id: NodeId, limit: u16) -> Result<&mut Node, Full> {
        let handle = match self.handles.get(&id) {
            Some(handle) => *handle,
            None => {
                let handle = u16::try_from(self.nodes.len()).ok().filter(|&next| next < limit).ok_or(Full)?;
                self.nodes.push(Node { id, ..Node::default() });
                self.handles.insert(id, NodeHandle(handle));
                NodeHandle(handle)
            }
        };
        Ok(&mut self.nodes[usize::from(handle.0)])
    }

    /// The node's handle if this is a transaction of its present life.
    pub(crate) fn living(&self, txid: &TransactionId) -> Option<NodeHandle> {
        let handle = *self.handles.get(&txid.node)?;
        let incarnation = self.nodes[usize::from(handle.0)].incarnation;
        (incarnation == txid.incarnation && incarnation > Incarnation(0)).then_some(handle)
    }

    /// Of a node that appeared: deferred writesets outlive the life that wrote them.
    pub(crate) fn handle(&self, id: NodeId) -> Option<NodeHandle> {
        self.handles.get(&id).copied()
    }

    pub(crate) fn id(&self, handle: NodeHandle) -> NodeId {
        self.nodes.get(usize::from(handle.0)).map_or_else(NodeId::default, |node| node.id)
    }

    pub(crate) fn incarnation(&self, id: NodeId) -> Incarnation {
        self.find(id).map_or_else(Incarnation::default, |node| node.incarnation)
    }

    /// Begins a life; says whether it is newer than the present one.
    pub(crate) fn begin_life(&mut self, id: NodeId, incarnation: Incarnation, limit: u16) -> Result<bool, Full> {
        if incarnation <= self.incarnation(id) {
            return Ok(false);
        }
        self.entry(id, limit)?.incarnation = incarnation;
        Ok(true)
    }

    pub(crate) fn flushed(&self, id: NodeId) -> Seq {
        self.find(id).map_or_else(Seq::default, |node| node.flushed)
    }

    /// The newest report counts, even if it is lower: a node that came back
    /// with an older copy of the data needs the log from there.
    pub(crate) fn set_flushed(&mut self, id: NodeId, flushed: Seq, limit: u16) -> Result<(), Full> {
        self.entry(id, limit)?.flushed = flushed;
        Ok(())
    }

    pub(crate) fn describe(&mut self, id: NodeId, description: &str, limit: u16) -> Result<(), Full> {
        self.entry(id, limit)?.description = Some(description.into());
        Ok(())
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = (NodeId, &str)> {
        self.handles.iter().filter_map(|(&id, handle)| {
            self.nodes[usize::from(handle.0)].description.as_deref().map(|description| (id, description))
        })
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.nodes.len() as u32);
        for node in &self.nodes {
            out.put_u32(node.id.0);
            out.put_u32(node.incarnation.0);
            out.put_u64(node.flushed.0);
            out.put_u8(u8::from(node.description.is_some()));
            if let Some(description) = &node.description {
                out.put_str(description);
            }
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>, limit: u16) -> Result<Self, Error> {
        let mut nodes = Self::default();
        for known in 0..reader.u32()? as usize {
            let id = NodeId(reader.u32()?);
            let node = nodes.entry(id, limit).map_err(|Full| Error::Inconsistent("more nodes than the limit"))?;
            node.incarnation = Incarnation(reader.u32()?);
            node.flushed = Seq(reader.u64()?);
            node.description = match reader.u8()? {
                0 => None,
                _ => Some(reader.str()?.into()),
            };
            if nodes.nodes.len() != known + 1 {
                return Err(Error::Inconsistent("a node appears twice"));
            }
        }
        Ok(nodes)
    }
}
