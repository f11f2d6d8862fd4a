//! A run: the bodies of successive writesets, which the applier executes in one
//! transaction. It travels between the daemon and PostgreSQL only; both are of
//! one version.
//!
//! ```text
//! run  = body*
//! body = origin:u32 length:u32 ops
//! ```

use crate::{Error, NodeId, Reader, Sink};

/// Bytes that a body takes in a run besides its ops.
pub const HEAD: usize = 8;

/// Appends the body of node `origin`'s writeset.
pub fn push(run: &mut impl Sink, origin: NodeId, body: &[u8]) {
    run.put_u32(origin.0);
    run.put_bytes(body);
}

/// The bodies of a run, as (origin, ops), in order. Ends after the first error.
pub struct Bodies<'a> {
    reader: Reader<'a>,
}

impl<'a> Bodies<'a> {
    /// Those in `run`.
    #[must_use]
    pub fn new(run: &'a [u8]) -> Self {
        Self { reader: Reader::new(run) }
    }
}

impl<'a> Iterator for Bodies<'a> {
    type Item = Result<(NodeId, &'a [u8]), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.is_empty() {
            return None;
        }
        let mut read = || Ok((NodeId(self.reader.u32()?), self.reader.bytes()?));
        let body = read();
        if body.is_err() {
            self.reader = Reader::new(&[]);
        }
        Some(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_pushed_comes_back() {
        let bodies: [(NodeId, &[u8]); 3] = [(NodeId(1), b"ops"), (NodeId(3), b""), (NodeId(1), b"more ops")];
        let mut run = Vec::new();
        bodies.iter().for_each(|(origin, body)| push(&mut run, *origin, body));
        assert_eq!(run.len(), bodies.iter().map(|(_, body)| HEAD + body.len()).sum::<usize>());
        assert_eq!(Bodies::new(&run).collect::<Result<Vec<_>, _>>(), Ok(bodies.to_vec()));
        for end in 1..run.len() {
            let cut = Bodies::new(&run[..end]).collect::<Vec<_>>();
            let whole = cut.iter().take_while(|body| body.is_ok()).count();
            assert!(cut.iter().flatten().eq(&bodies[..whole]), "what is whole is read, up to {end}");
            assert!(cut.len() <= whole + 1, "nothing comes after an error");
        }
    }
}
