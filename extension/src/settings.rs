//! Configuration parameters (`pgrenga.*`).

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use std::ffi::CString;

use crate::failpoint::Failpoint;

/// Whether this session's writes are replicated. Only a superuser may turn it
/// off, to mend a node by hand; such writes exist on this node alone.
pub static REPLICATE: GucSetting<bool> = GucSetting::<bool>::new(true);
/// Milliseconds that COMMIT waits for the log.
pub static COMMIT_TIMEOUT_MS: GucSetting<i32> = GucSetting::<i32>::new(10_000);
/// Kilobytes after which a transaction is too large.
pub static MAX_WRITESET_KB: GucSetting<i32> = GucSetting::<i32>::new(4 << 20);
/// The daemon's Unix socket.
pub static SOCKET: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
/// The replicated database.
pub static DATABASE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"postgres"));
/// How long one transaction may keep the DDL fence, in milliseconds.
pub static DDL_FENCE_TIMEOUT_MS: GucSetting<i32> = GucSetting::<i32>::new(60_000);

/// Where this session fails, for tests.
pub static FAILPOINT: GucSetting<Failpoint> = GucSetting::<Failpoint>::new(Failpoint::None);

/// Defines the parameters. Call from `_PG_init`.
pub fn define() {
    GucRegistry::define_bool_guc(
        c"pgrenga.replicate",
        c"Replicates this session's writes to the other nodes.",
        c"Writes made while it is off exist on this node alone and make it different from the others.",
        &REPLICATE,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"pgrenga.commit_timeout",
        c"How long COMMIT waits for a majority of the nodes.",
        c"After that the outcome is reported as unknown (08007); pgrenga.transaction_status() tells it later.",
        &COMMIT_TIMEOUT_MS,
        100,
        i32::MAX,
        GucContext::Userset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"pgrenga.max_writeset_bytes",
        c"Size above which a transaction's changes are refused.",
        c"Larger transactions fail with 54000.",
        &MAX_WRITESET_KB,
        64,
        i32::MAX,
        GucContext::Suset,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_int_guc(
        c"pgrenga.ddl_fence_timeout",
        c"How long one transaction may keep the other nodes' commits waiting for its DDL.",
        c"After that the fence is lifted and the transaction fails.",
        &DDL_FENCE_TIMEOUT_MS,
        100,
        i32::MAX,
        GucContext::Suset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_enum_guc(
        c"pgrenga.failpoint",
        c"Where this session's next replicated transaction fails.",
        c"For tests of recovery only.",
        &FAILPOINT,
        GucContext::Suset,
        GucFlags::NO_SHOW_ALL,
    );
    GucRegistry::define_string_guc(
        c"pgrenga.socket",
        c"The Unix socket of this node's daemon.",
        c"Set by pgrenga in its own configuration file.",
        &SOCKET,
        GucContext::Postmaster,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"pgrenga.database",
        c"The replicated database.",
        c"Writes in other databases are refused.",
        &DATABASE,
        GucContext::Postmaster,
        GucFlags::default(),
    );
}
