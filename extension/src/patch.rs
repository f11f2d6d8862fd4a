//! Changing what PostgreSQL's executable keeps in its constant tables.

/// Lets `change` write to a constant. Its pages are writable only meanwhile.
///
/// # Safety
/// `constant` lies in the executable's relocated read-only data (RELRO). To be called in the
/// postmaster, single-threaded, before any backend exists: they inherit the change.
pub unsafe fn change<T>(constant: *const T, change: impl FnOnce(&mut T)) {
    let constant = constant.cast_mut();
    // SAFETY: the caller's promise.
    unsafe {
        protect(constant, libc::PROT_READ | libc::PROT_WRITE);
        change(&mut *constant);
        protect(constant, libc::PROT_READ);
    }
}

/// # Safety
/// As for [`change`].
unsafe fn protect<T>(constant: *mut T, protection: i32) {
    // SAFETY: whole pages around the constant; the caller's promise.
    unsafe {
        let page = libc::sysconf(libc::_SC_PAGESIZE) as usize;
        let start = constant as usize & !(page - 1);
        let end = (constant.add(1) as usize).next_multiple_of(page);
        let failed = libc::mprotect(start as *mut libc::c_void, end - start, protection);
        assert_eq!(failed, 0, "could not change the protection of PostgreSQL's constants");
    }
}
