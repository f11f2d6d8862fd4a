//! Values from their form in writesets into datums.

use std::ffi::{CStr, CString};

use pgrenga_writeset::op::{Row, Value};
use pgrx::pg_sys::{self, Datum, FormData_pg_attribute};

use super::failure;
use super::owner::run_as;
use crate::capture;

// Fixed-size values travel as the bytes that PostgreSQL stores.
const _: () = assert!(cfg!(target_endian = "little"));

/// A column's value, in the current memory context.
#[derive(Clone, Copy)]
pub(super) enum Decoded {
    /// NULL, or a dropped column.
    Null,
    /// A value of the column's type.
    Datum(Datum),
    /// The old row's value stays.
    Unchanged,
    /// Not part of the identity.
    Absent,
}

/// Decodes rows of one relation.
pub(super) struct Decoder {
    descriptor: pg_sys::TupleDesc,
    owner: pg_sys::Oid,
    /// Where `inputs` keep what belongs to them; lives as long as the decoder.
    memory: pg_sys::MemoryContext,
    /// By column position; looked up at the first value in text form.
    inputs: Vec<Option<Input>>,
}

/// How a column's text form is read.
struct Input {
    function: pg_sys::FmgrInfo,
    parameter: pg_sys::Oid,
    modifier: i32,
    /// Reading it may run a domain's CHECK, which users wrote.
    runs_checks: bool,
}

impl Decoder {
    /// For an open relation, as long as it and the current memory context live.
    pub(super) fn new(relation: pg_sys::Relation) -> Self {
        // SAFETY: the relation is open.
        unsafe {
            Self {
                descriptor: (*relation).rd_att,
                owner: (*(*relation).rd_rel).relowner,
                memory: pg_sys::CurrentMemoryContext,
                inputs: Vec::new(),
            }
        }
    }

    fn attributes(&self) -> &[FormData_pg_attribute] {
        // SAFETY: the relation is open, so its descriptor stays.
        unsafe { (*self.descriptor).attrs.as_slice((*self.descriptor).natts as usize) }
    }

    /// The column at a position, from 0.
    pub(super) fn attribute(&self, at: usize) -> &FormData_pg_attribute {
        &self.attributes()[at]
    }

    /// Fails unless the row has as many columns as the relation.
    pub(super) fn check(&self, row: &Row<'_>) {
        if row.columns() != self.attributes().len() {
            failure::malformed("a row has another number of columns than its relation");
        }
    }

    /// Hands the values of the `wanted` columns to `store`. Call
    /// [`Decoder::check`] first. Those in text form come last, read under the
    /// settings under which they were written.
    pub(super) fn decode(
        &mut self,
        row: &Row<'_>,
        wanted: impl Fn(usize) -> bool,
        mut store: impl FnMut(usize, Decoded),
    ) {
        let mut has_text = false;
        for (at, value) in row.values().enumerate().filter(|(at, _)| wanted(*at)) {
            match value {
                Value::Null => store(at, Decoded::Null),
                Value::Internal(bytes) => store(at, Decoded::Datum(internal(self.attribute(at), bytes))),
                Value::Text(_) => has_text = true,
                Value::Unchanged => store(at, Decoded::Unchanged),
                Value::Absent => store(at, Decoded::Absent),
            }
        }
        if has_text {
            capture::in_transmission_modes(|| {
                for (at, value) in row.values().enumerate().filter(|(at, _)| wanted(*at)) {
                    if let Value::Text(text) = value {
                        store(at, Decoded::Datum(self.parse(at, text)));
                    }
                }
            });
        }
    }

    fn parse(&mut self, at: usize, text: &str) -> Datum {
        let Ok(text) = CString::new(text) else { failure::malformed("a value contains a zero byte") };
        let attribute = *self.attribute(at);
        if self.inputs.len() <= at {
            self.inputs.resize_with(at + 1, || None);
        }
        let memory = self.memory;
        let input = self.inputs[at].get_or_insert_with(|| Input::of(&attribute, memory));
        let runs_checks = input.runs_checks;
        // SAFETY: the type's own input function; it copies what it needs of the text.
        let mut call = || unsafe {
            let text = text.as_ptr().cast_mut();
            pg_sys::InputFunctionCall(&mut input.function, text, input.parameter, input.modifier)
        };
        if runs_checks { run_as(self.owner, call) } else { call() }
    }

    /// "(a, b)=(1, x)" for the columns at these positions of `row`, for messages.
    pub(super) fn describe(&mut self, row: &Row<'_>, columns: &[usize]) -> String {
        let (mut names, mut texts) = (Vec::new(), Vec::new());
        let attributes: Vec<_> = self.attributes().to_vec();
        self.decode(
            row,
            |at| columns.contains(&at),
            |at, value| {
                let attribute = &attributes[at];
                // SAFETY: a NUL-terminated name; the output function is the type's own.
                unsafe {
                    names.push(CStr::from_ptr(attribute.attname.data.as_ptr()).to_string_lossy().into_owned());
                    texts.push(match value {
                        Decoded::Datum(datum) => {
                            let (mut function, mut is_varlena) = (pg_sys::InvalidOid, false);
                            pg_sys::getTypeOutputInfo(attribute.atttypid, &mut function, &mut is_varlena);
                            let text = pg_sys::OidOutputFunctionCall(function, datum);
                            CStr::from_ptr(text).to_string_lossy().into_owned()
                        }
                        _ => "null".into(),
                    });
                }
            },
        );
        format!("({})=({})", names.join(", "), texts.join(", "))
    }
}

/// A datum of the column's type, copied so that it is aligned.
fn internal(attribute: &FormData_pg_attribute, bytes: &[u8]) -> Datum {
    let length = attribute.attlen;
    if length > 0 && bytes.len() != length as usize || length == -1 && varlena_size(bytes) != Some(bytes.len()) {
        failure::malformed("a value is not as long as its type says");
    }
    if attribute.attbyval {
        // Sign-extended, as `fetch_att` reads stored values.
        let mut word = [if bytes[bytes.len() - 1] & 0x80 == 0 { 0 } else { 0xFF }; size_of::<usize>()];
        word[..bytes.len()].copy_from_slice(bytes);
        return Datum::from(usize::from_le_bytes(word));
    }
    // SAFETY: fresh memory of that size.
    unsafe {
        let copy = pg_sys::palloc(bytes.len()).cast::<u8>();
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), copy, bytes.len());
        Datum::from(copy)
    }
}

/// The size that a varlena's header claims (`postgres.h`); `None` for a
/// pointer to elsewhere, which never travels.
fn varlena_size(bytes: &[u8]) -> Option<usize> {
    match *bytes.first()? {
        1 => None,
        short if short & 1 == 1 => Some(usize::from(short >> 1)),
        _ => Some((u32::from_le_bytes(*bytes.first_chunk()?) >> 2) as usize),
    }
}

impl Input {
    /// A domain is read as its base type: its CHECKs held at the origin.
    fn of(attribute: &FormData_pg_attribute, memory: pg_sys::MemoryContext) -> Self {
        // SAFETY: catalog look-ups of a type that a column uses.
        unsafe {
            let mut modifier = attribute.atttypmod;
            let base = pg_sys::getBaseTypeAndTypmod(attribute.atttypid, &mut modifier);
            let (mut function, mut parameter) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
            pg_sys::getTypeInputInfo(base, &mut function, &mut parameter);
            let mut info: pg_sys::FmgrInfo = std::mem::zeroed();
            pg_sys::fmgr_info_cxt(function, &mut info, memory);
            Self { function: info, parameter, modifier, runs_checks: contains_domain(base) }
        }
    }
}

/// Whether values of the type have a domain's values inside.
fn contains_domain(type_oid: pg_sys::Oid) -> bool {
    // SAFETY: catalog look-ups; the row type's descriptor is released again.
    unsafe {
        match pg_sys::get_typtype(type_oid) as u8 {
            pg_sys::TYPTYPE_DOMAIN => true,
            pg_sys::TYPTYPE_RANGE => contains_domain(pg_sys::get_range_subtype(type_oid)),
            pg_sys::TYPTYPE_MULTIRANGE => contains_domain(pg_sys::get_multirange_range(type_oid)),
            pg_sys::TYPTYPE_COMPOSITE => {
                let row = pg_sys::lookup_rowtype_tupdesc(type_oid, -1);
                let columns = (*row).attrs.as_slice((*row).natts as usize);
                let types: Vec<_> = columns.iter().filter(|at| !at.attisdropped).map(|at| at.atttypid).collect();
                if (*row).tdrefcount >= 0 {
                    pg_sys::DecrTupleDescRefCount(row);
                }
                types.into_iter().any(contains_domain)
            }
            _ => {
                let element = pg_sys::get_element_type(type_oid);
                element != pg_sys::InvalidOid && contains_domain(element)
            }
        }
    }
}
