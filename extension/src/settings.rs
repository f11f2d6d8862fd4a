//! Configuration parameters (`pgrenga.*`).

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use std::ffi::{CStr, CString};

use crate::commit::{self, Ack};
use crate::failpoint::Failpoint;
use crate::read::{self, Consistency};
use crate::session;

/// Whether this session's writes are replicated. Only a superuser may turn it
/// off, to mend a node by hand; such writes exist on this node alone.
pub static REPLICATE: GucSetting<bool> = GucSetting::<bool>::new(true);
/// Milliseconds that COMMIT waits for the log.
pub static COMMIT_TIMEOUT_MS: GucSetting<i32> = GucSetting::<i32>::new(10_000);
/// Kilobytes after which a transaction is too large.
pub static MAX_WRITESET_KB: GucSetting<i32> = GucSetting::<i32>::new(4 << 20);
/// Whether this server serves reads without a majority.
pub static MINORITY_READS: GucSetting<bool> = GucSetting::<bool>::new(false);
/// How fresh this session's reads have to be.
pub static READ_CONSISTENCY: GucSetting<Consistency> = GucSetting::<Consistency>::new(Consistency::Local);
/// Who has to show a transaction before its client hears that it is committed.
pub static ACK: GucSetting<Ack> = GucSetting::<Ack>::new(Ack::Majority);
/// The seq of this session's last commit, on whichever node.
pub static COMMIT_SEQ: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"0"));
/// Its name.
pub const COMMIT_SEQ_NAME: &CStr = c"pgrenga.commit_seq";
/// Whether this session tells the ids of its transactions before they commit.
pub static REPORT_TRANSACTION_ID: GucSetting<bool> = GucSetting::<bool>::new(false);
/// Only its hook tells what is shown.
pub static TRANSACTION_ID: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
/// Its name.
pub const TRANSACTION_ID_NAME: &CStr = c"pgrenga.transaction_id";
/// Whether this session tells what another node would have to restore.
pub static REPORT_SESSION: GucSetting<bool> = GucSetting::<bool>::new(false);
/// Only its hook tells what is shown.
pub static SESSION: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
/// Its name.
pub const SESSION_NAME: &CStr = c"pgrenga.session";
/// Only its hook tells what is shown.
pub static STORED_KEY: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
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
        c"pgrenga.ack",
        c"When COMMIT is answered: when a majority of the nodes has the transaction durably and this one shows it (majority), or when every node that serves shows it (all).",
        c"It waits for that for pgrenga.commit_timeout at most, and warns if it was in vain.",
        &ACK,
        GucContext::Userset,
        GucFlags::default(),
    );
    define_reads();
    define_transaction_id();
    define_session();
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

/// What statements may see.
fn define_reads() {
    GucRegistry::define_bool_guc(
        c"pgrenga.minority_reads",
        c"Serves reads without a majority of the nodes.",
        c"What is read then may be of any age. Writes are refused all the same.",
        &MINORITY_READS,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"pgrenga.read_consistency",
        c"What reads see: what this node shows (local), at least the session's own commits on any node (session), or all that was acknowledged on any node (cluster).",
        c"Statements wait for it before they begin, for pgrenga.commit_timeout at most.",
        &READ_CONSISTENCY,
        GucContext::Userset,
        GucFlags::default(),
    );
    // SAFETY: the hook is guarded, and leaves the value as it is.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            COMMIT_SEQ_NAME,
            c"Position of the session's last commit.",
            c"Reported to the client. Set it in a session that goes on for another one: with pgrenga.read_consistency = session its reads wait for that position.",
            &COMMIT_SEQ,
            GucContext::Userset,
            GucFlags::REPORT | GucFlags::NO_RESET_ALL,
            Some(read::check_commit_seq),
            None,
            Some(commit::show_commit_seq),
        );
    }
}

/// What a client knows of its transaction before it commits.
fn define_transaction_id() {
    GucRegistry::define_bool_guc(
        c"pgrenga.report_transaction_id",
        c"Reports to the client under which id its next transaction that writes will be ordered.",
        c"Transactions whose id was told end with 40001 when this node begins a new life before they are ordered.",
        &REPORT_TRANSACTION_ID,
        GucContext::Userset,
        GucFlags::default(),
    );
    // SAFETY: the hook is guarded.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            TRANSACTION_ID_NAME,
            c"Id of the running transaction, or of the next one.",
            c"Reported to the client. pgrenga.transaction_status() tells on any node what became of it.",
            &TRANSACTION_ID,
            GucContext::Internal,
            GucFlags::REPORT | GucFlags::NO_RESET_ALL,
            None,
            None,
            Some(commit::show_transaction_id),
        );
    }
}

/// What whoever takes a session to another node has to know.
fn define_session() {
    GucRegistry::define_bool_guc(
        c"pgrenga.report_session",
        c"Reports to the client what another node would have to restore of this session.",
        c"Asked for by the balancer when a session begins.",
        &REPORT_SESSION,
        GucContext::Userset,
        GucFlags::default(),
    );
    // SAFETY: the hooks are guarded.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            SESSION_NAME,
            c"Settings and prepared statements of this session, and what keeps it on this node.",
            c"Reported to the client. pgrenga.restore_session() takes it over on another node.",
            &SESSION,
            GucContext::Internal,
            GucFlags::REPORT | GucFlags::NO_RESET_ALL | GucFlags::NO_SHOW_ALL,
            None,
            None,
            Some(session::show_session),
        );
        GucRegistry::define_string_guc_with_hooks(
            c"pgrenga.stored_key",
            c"Told once, to who begins a session: the StoredKey of its role.",
            c"With it the balancer proves on another node what the client has proven on this one.",
            &STORED_KEY,
            GucContext::Internal,
            GucFlags::REPORT | GucFlags::NO_RESET_ALL | GucFlags::NO_SHOW_ALL,
            None,
            None,
            Some(session::show_stored_key),
        );
    }
}
