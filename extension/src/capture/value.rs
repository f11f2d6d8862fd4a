//! Column values, as they travel: PostgreSQL's internal form where that is the
//! same on every node, text where it would contain an OID.

use std::ffi::CStr;

use pgrenga_writeset::Sink;
use pgrenga_writeset::op::Value;
use pgrx::pg_sys;

/// Objects below this OID are PostgreSQL's own and have the same OID everywhere.
pub const FIRST_USER_OID: u32 = 16384;

/// How a column's values travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The column was dropped: always NULL.
    Dropped,
    /// The bytes that PostgreSQL stores.
    Internal,
    /// The text that the type's output function (this OID) makes.
    Text(pg_sys::Oid),
}

/// A column, as the encoder needs it.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// How its values travel.
    pub form: Form,
    /// Fixed size in bytes, or -1 for varlena.
    pub length: i16,
    /// Whether a value stands in the Datum itself.
    pub by_value: bool,
}

/// Whether values of a type look the same on every node. Domains are as their
/// base type. Not so: whatever a user defined, and PostgreSQL's own types whose
/// values are OIDs of objects that users make.
pub fn is_oid_free(type_oid: pg_sys::Oid) -> bool {
    use pg_sys::{
        REGCLASSARRAYOID, REGCLASSOID, REGCOLLATIONARRAYOID, REGCOLLATIONOID, REGCONFIGARRAYOID, REGCONFIGOID,
        REGDICTIONARYARRAYOID, REGDICTIONARYOID, REGNAMESPACEARRAYOID, REGNAMESPACEOID, REGOPERARRAYOID,
        REGOPERATORARRAYOID, REGOPERATOROID, REGOPEROID, REGPROCARRAYOID, REGPROCEDUREARRAYOID, REGPROCEDUREOID,
        REGPROCOID, REGROLEARRAYOID, REGROLEOID, REGTYPEARRAYOID, REGTYPEOID,
    };
    let with_oids = [
        REGPROCOID,
        REGPROCEDUREOID,
        REGOPEROID,
        REGOPERATOROID,
        REGCLASSOID,
        REGTYPEOID,
        REGROLEOID,
        REGNAMESPACEOID,
        REGCONFIGOID,
        REGDICTIONARYOID,
        REGCOLLATIONOID,
        REGPROCARRAYOID,
        REGPROCEDUREARRAYOID,
        REGOPERARRAYOID,
        REGOPERATORARRAYOID,
        REGCLASSARRAYOID,
        REGTYPEARRAYOID,
        REGROLEARRAYOID,
        REGNAMESPACEARRAYOID,
        REGCONFIGARRAYOID,
        REGDICTIONARYARRAYOID,
        REGCOLLATIONARRAYOID,
    ];
    // aclitem holds role OIDs.
    let with_roles = [pg_sys::ACLITEMOID, pg_sys::ACLITEMARRAYOID];
    u32::from(type_oid) < FIRST_USER_OID && !with_oids.contains(&type_oid) && !with_roles.contains(&type_oid)
}

impl Column {
    /// The columns of an open relation, dropped ones included.
    pub fn of_relation(relation: pg_sys::Relation) -> Vec<Self> {
        // SAFETY: the relation is open, so its descriptor stays.
        let attributes = unsafe { (*(*relation).rd_att).attrs.as_slice((*(*relation).rd_att).natts as usize) };
        attributes.iter().map(Self::of_attribute).collect()
    }

    fn of_attribute(attribute: &pg_sys::FormData_pg_attribute) -> Self {
        // SAFETY: catalog look-ups of a type that a column uses.
        let form = unsafe {
            if attribute.attisdropped {
                Form::Dropped
            } else if attribute.attlen != -2 && is_oid_free(pg_sys::getBaseType(attribute.atttypid)) {
                Form::Internal
            } else {
                let (mut function, mut is_varlena) = (pg_sys::InvalidOid, false);
                pg_sys::getTypeOutputInfo(attribute.atttypid, &mut function, &mut is_varlena);
                Form::Text(function)
            }
        };
        Self { form, length: attribute.attlen, by_value: attribute.attbyval }
    }

    /// Appends a value. Call inside [`super::with_scratch`]: what is detoasted
    /// stays allocated until then.
    pub fn encode(&self, out: &mut impl Sink, datum: pg_sys::Datum, is_null: bool) {
        match self.form {
            _ if is_null => Value::Null.encode(out),
            Form::Dropped => Value::Null.encode(out),
            // SAFETY: the datum is a value of this column's type.
            Form::Internal => unsafe { self.with_bytes(datum, |bytes| Value::Internal(bytes).encode(out)) },
            Form::Text(function) => {
                // SAFETY: as above; the function returns a palloc'd C string.
                let text = unsafe {
                    CStr::from_ptr(super::in_transmission_modes(|| pg_sys::OidOutputFunctionCall(function, datum)))
                };
                Value::Text(&text.to_string_lossy()).encode(out);
            }
        }
    }

    /// The stored bytes of a value; a varlena with its header, never external.
    ///
    /// # Safety
    /// `datum` is a value of this column's type.
    pub unsafe fn with_bytes<R>(&self, datum: pg_sys::Datum, use_bytes: impl FnOnce(&[u8]) -> R) -> R {
        if self.by_value {
            let word = (datum.value() as u64).to_le_bytes();
            return use_bytes(&word[..self.length as usize]);
        }
        // SAFETY: a by-reference datum points to `length` bytes or to a varlena.
        unsafe {
            let mut pointer = datum.cast_mut_ptr::<pg_sys::varlena>();
            let size = if self.length > 0 {
                self.length as usize
            } else {
                if pgrx::varlena::varatt_is_1b_e(pointer) {
                    pointer = pg_sys::detoast_external_attr(pointer);
                }
                pgrx::varlena::varsize_any(pointer)
            };
            use_bytes(std::slice::from_raw_parts(pointer.cast::<u8>(), size))
        }
    }

    /// Whether a value lies in the table's TOAST relation, by its pointer.
    pub fn toast_pointer(&self, datum: pg_sys::Datum, is_null: bool) -> Option<[u8; TOAST_POINTER]> {
        if is_null || self.length != -1 || self.form == Form::Dropped {
            return None;
        }
        let pointer = datum.cast_mut_ptr::<pg_sys::varlena>();
        // SAFETY: a varlena; an on-disk external one is exactly 18 bytes long
        // (header, tag, `varatt_external`).
        unsafe {
            let bytes = pointer.cast::<u8>();
            (pgrx::varlena::varatt_is_1b_e(pointer) && *bytes.add(1) == VARTAG_ONDISK)
                .then(|| std::slice::from_raw_parts(bytes, TOAST_POINTER).try_into().expect("of that length"))
        }
    }
}

/// Bytes of an on-disk TOAST pointer.
pub const TOAST_POINTER: usize = 18;
const VARTAG_ONDISK: u8 = 18;
