//! Which columns a sequence fills, and what is in them.

use pgrx::pg_sys;
use pgrx::spi::Spi;

use super::{definition, quoted, unexpected};
use crate::ddl::{quote_identifier, relation_name};

/// A column of a table.
pub(super) type Column = (pg_sys::Oid, i16);

/// The last value, in the sequence's direction, in the column that owns it.
pub(super) fn used_value(sequence: pg_sys::Oid) -> Option<i64> {
    last_in(sequence, owner(sequence)?)
}

/// The last value, in the sequence's direction, in one of the columns that it fills.
pub(super) fn filled_value(sequence: pg_sys::Oid) -> Option<i64> {
    const DEFAULTS: &str = "SELECT array_agg(adrelid ORDER BY d.oid), array_agg(adnum ORDER BY d.oid)
        FROM pg_depend JOIN pg_attrdef d ON d.oid = objid
        WHERE classid = 'pg_attrdef'::regclass AND refclassid = 'pg_class'::regclass AND refobjid = $1";
    let defaults = Spi::get_two_with_args::<Vec<pg_sys::Oid>, Vec<i16>>(DEFAULTS, &[sequence.into()]);
    let (tables, columns) = defaults.unwrap_or_else(|error| unexpected(&error.to_string()));
    let defaults = tables.unwrap_or_default().into_iter().zip(columns.unwrap_or_default());
    let values = owner(sequence).into_iter().chain(defaults).filter_map(|column| last_in(sequence, column));
    if definition(sequence).increment > 0 { values.max() } else { values.min() }
}

fn last_in(sequence: pg_sys::Oid, (table, column): Column) -> Option<i64> {
    // SAFETY: catalog look-ups inside a transaction; the name is palloc'd.
    let (kind, relkind, attribute) = unsafe {
        let kind = pg_sys::getBaseType(pg_sys::get_atttype(table, column));
        let attribute = std::ffi::CStr::from_ptr(pg_sys::get_attname(table, column, false));
        (kind, pg_sys::get_rel_relkind(table) as u8, attribute.to_string_lossy().into_owned())
    };
    let counts = matches!(kind, pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID);
    if !counts || !matches!(relkind, pg_sys::RELKIND_RELATION | pg_sys::RELKIND_PARTITIONED_TABLE) {
        return None;
    }
    let last = if definition(sequence).increment > 0 { "max" } else { "min" };
    let query =
        format!("SELECT {last}({})::int8 FROM {}", quote_identifier(&attribute), quoted(&relation_name(table)?));
    Spi::get_one::<i64>(&query).unwrap_or_else(|error| unexpected(&error.to_string()))
}

/// The column that owns a sequence: `serial`, identity or OWNED BY.
fn owner(sequence: pg_sys::Oid) -> Option<Column> {
    let (mut table, mut column) = (pg_sys::InvalidOid, 0);
    // SAFETY: a catalog look-up inside a transaction.
    let owned = unsafe {
        pg_sys::sequenceIsOwned(sequence, pg_sys::DependencyType::DEPENDENCY_AUTO as i8, &mut table, &mut column)
            || pg_sys::sequenceIsOwned(
                sequence,
                pg_sys::DependencyType::DEPENDENCY_INTERNAL as i8,
                &mut table,
                &mut column,
            )
    };
    owned.then_some((table, column as i16))
}
