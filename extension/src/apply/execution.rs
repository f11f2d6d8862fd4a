//! Executing ops, one after the other.

use pgrenga_writeset::Error;
use pgrenga_writeset::op::{Op, Ops, Relation};
use pgrx::pg_sys;

use super::relation::{Described, Opened};
use super::{Pending, failure, interrupt, large_objects, replacement};
use crate::ddl;
use crate::notify;
use crate::shmem::shared;

/// The execution of one piece, or of several writesets. What it opens it closes in
/// [`Execution::finish`]; after an error PostgreSQL's resource owner and memory contexts do that.
pub(super) struct Execution<'w> {
    /// The first seq of this transaction: it has the right of way over all later ones.
    pub(super) first: u64,
    /// The writeset that is executed.
    pub(super) seq: u64,
    described: &'w mut Vec<Option<Described>>,
    pending: &'w mut Pending,
    /// By ordinal; opened at the first op that uses it.
    open: Vec<Option<Opened>>,
    /// Relations of writesets before this one: most writesets of a run change the same few.
    used: Vec<(Described, Opened)>,
    /// The ordinal that others are told of, see `shmem::needs`.
    told: Option<u16>,
    /// For index expressions; made when first needed.
    estate: *mut pg_sys::EState,
    /// Emptied after each op.
    per_op: pg_sys::MemoryContext,
}

impl<'w> Execution<'w> {
    pub(super) fn new(first: u64, described: &'w mut Vec<Option<Described>>, pending: &'w mut Pending) -> Self {
        // SAFETY: a child of the call's own context.
        let per_op = unsafe {
            pg_sys::AllocSetContextCreateInternal(
                pg_sys::CurrentMemoryContext,
                c"pgrenga apply".as_ptr(),
                pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            )
        };
        Self {
            first,
            seq: first,
            described,
            pending,
            open: Vec::new(),
            used: Vec::new(),
            told: None,
            estate: std::ptr::null_mut(),
            per_op,
        }
    }

    /// Goes on with the writeset at `seq`. Its ordinals begin anew.
    pub(super) fn begin(&mut self, seq: u64) {
        self.seq = seq;
        self.told = None;
        let described = self.described.drain(..);
        let open = self.open.drain(..).chain(std::iter::repeat_with(|| None));
        self.used.extend(described.zip(open).filter_map(|(described, open)| Some((described?, open?))));
    }

    /// Whether the last op is not whole yet.
    pub(super) fn is_cut_off(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Executes the whole ops of `piece`, and of what was pending before it;
    /// what is left of it is pending afterwards.
    pub(super) fn run(&mut self, piece: &[u8]) {
        if self.pending.is_empty() {
            let rest = self.execute(piece);
            self.pending.append(rest);
        } else {
            self.pending.append(piece);
            let rest = self.execute(self.pending.bytes()).len();
            self.pending.keep_last(rest);
        }
    }

    /// Closes what is open.
    pub(super) fn finish(mut self) {
        self.close_relations();
        // SAFETY: our own; nothing refers to them any more.
        unsafe {
            if !self.estate.is_null() {
                pg_sys::FreeExecutorState(self.estate);
            }
            pg_sys::MemoryContextDelete(self.per_op);
        }
    }

    /// Executes whole ops and returns the beginning of the one that is cut off.
    fn execute<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let mut ops = Ops::new(bytes);
        loop {
            match ops.next_op() {
                Ok(Some(op)) => {
                    interrupt();
                    self.step(&op);
                }
                Ok(None) | Err(Error::Truncated { .. }) => return ops.rest(),
                Err(error) => failure::malformed(error),
            }
        }
    }

    fn step(&mut self, op: &Op<'_>) {
        match op {
            Op::Relation(relation) => return self.describe(relation),
            Op::Ddl(statement) => {
                // Open relations would keep the statement from changing them.
                self.close_relations();
                self.described.clear();
                self.told = None;
                shared().my_slot().needs.set_relation("");
                ddl::execute(statement);
            }
            Op::Replace { relation } => {
                // Open relations would keep it from being changed.
                self.close_relations();
                self.told = None;
                replacement::empty(self.seq, self.described(*relation));
            }
            Op::Missing { relation, column, value } => {
                self.close_relations();
                self.told = None;
                replacement::set_missing(self.seq, self.described(*relation), *column, value);
            }
            Op::Notify(notification) => return notify::send(notification),
            Op::LargeObject(_) | Op::Insert { .. } | Op::Update { .. } | Op::Delete { .. } => {
                // SAFETY: the context that was current is so again afterwards;
                // whatever the op allocated is not used after it.
                unsafe {
                    let outer = pg_sys::MemoryContextSwitchTo(self.per_op);
                    self.change_data(op);
                    pg_sys::MemoryContextSwitchTo(outer);
                    pg_sys::MemoryContextReset(self.per_op);
                }
            }
        }
        // The next op has to see this one's rows as another command's:
        // heap_update refuses rows of its own command.
        // SAFETY: between commands, by definition.
        unsafe { pg_sys::CommandCounterIncrement() };
    }

    fn change_data(&mut self, op: &Op<'_>) {
        match op {
            Op::LargeObject(object) => {
                self.told = None;
                large_objects::change(self.seq, object);
            }
            Op::Insert { relation, new } => self.insert(*relation, new),
            Op::Update { relation, old, new } => self.update(*relation, old, new),
            Op::Delete { relation, old } => self.delete(*relation, old),
            Op::Relation(_) | Op::Ddl(_) | Op::Replace { .. } | Op::Missing { .. } | Op::Notify(_) => {
                unreachable!("not a row's change")
            }
        }
    }

    fn describe(&mut self, relation: &Relation<'_>) {
        let at = usize::from(relation.ordinal);
        if self.described.len() <= at {
            self.described.resize_with(at + 1, || None);
        }
        self.described[at] = Some(Described::new(relation));
        if let Some(open) = self.open.get_mut(at).and_then(Option::take) {
            open.close();
        }
    }

    fn described(&self, ordinal: u16) -> &Described {
        match self.described.get(usize::from(ordinal)) {
            Some(Some(described)) => described,
            _ => failure::malformed("an op names a relation that was not described"),
        }
    }

    /// The relation that ops name by `ordinal`, open.
    pub(super) fn relation(&mut self, ordinal: u16) -> &mut Opened {
        let at = usize::from(ordinal);
        if self.open.len() <= at {
            self.open.resize_with(at + 1, || None);
        }
        if self.open[at].is_none() {
            let described = self.described(ordinal);
            let known = self.used.iter().position(|(used, _)| used == described);
            self.open[at] = Some(match known {
                Some(place) => self.used.swap_remove(place).1,
                // What is opened outlives the op.
                // SAFETY: the per-op context's parent is the call's.
                None => unsafe {
                    let outer = pg_sys::MemoryContextSwitchTo((*self.per_op).parent);
                    let opened = Opened::open(self.seq, self.described(ordinal));
                    pg_sys::MemoryContextSwitchTo(outer);
                    opened
                },
            });
        }
        let open = self.open[at].as_mut().expect("just opened");
        if self.told != Some(ordinal) {
            self.told = Some(ordinal);
            shared().my_slot().needs.set_relation(&open.name);
        }
        open
    }

    /// The executor's state, with nothing of the previous row in it.
    pub(super) fn estate(&mut self) -> *mut pg_sys::EState {
        // SAFETY: created in the call's context; its per-tuple memory holds
        // nothing that is used after the row.
        unsafe {
            if self.estate.is_null() {
                let outer = pg_sys::MemoryContextSwitchTo((*self.per_op).parent);
                self.estate = pg_sys::CreateExecutorState();
                pg_sys::MemoryContextSwitchTo(outer);
            }
            let expressions = (*self.estate).es_per_tuple_exprcontext;
            if !expressions.is_null() {
                pg_sys::MemoryContextReset((*expressions).ecxt_per_tuple_memory);
            }
        }
        self.estate
    }

    fn close_relations(&mut self) {
        let used = self.used.drain(..).map(|(_, open)| open);
        for open in self.open.drain(..).flatten().chain(used) {
            open.close();
        }
    }
}
