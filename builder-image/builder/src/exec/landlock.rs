//! Abstract sockets belong to a network namespace, and a RUN has the one of the engine: with Landlock (Linux 6.12) it only
//! reaches those that it made itself. Sockets with a path are not concerned, and neither is anything else.
//! <https://docs.kernel.org/userspace-api/landlock.html#ipc-scoping>
#![expect(unsafe_code, reason = "Landlock has no safe interface")]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
};

/// The first version of the interface that knows scopes.
const SCOPES: libc::c_long = 6;
/// `LANDLOCK_CREATE_RULESET_VERSION`
const VERSION: libc::c_uint = 1;
/// `LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET`
const ABSTRACT_SOCKETS: u64 = 1;

/// `struct landlock_ruleset_attr`
#[repr(C)]
struct Attributes {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// Whether the kernel can keep abstract sockets apart.
pub(super) fn is_available() -> bool {
    // SAFETY: asked for its version the call reads no memory.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            ptr::null::<Attributes>(),
            0_usize,
            VERSION,
        )
    };
    version >= SCOPES
}

/// What a process is given to [`enter`]; `None` where the kernel lacks it.
pub(super) fn own_abstract_sockets() -> io::Result<Option<OwnedFd>> {
    if !is_available() {
        return Ok(None);
    }
    let attributes = Attributes {
        handled_access_fs: 0,
        handled_access_net: 0,
        scoped: ABSTRACT_SOCKETS,
    };
    // SAFETY: the structure lives through the call and has the size that is told; the kernel only reads it.
    let made = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const attributes,
            size_of::<Attributes>(),
            0,
        )
    };
    match i32::try_from(made) {
        // SAFETY: the kernel has just made this descriptor (with close-on-exec) for us alone.
        Ok(made) if made >= 0 => Ok(Some(unsafe { OwnedFd::from_raw_fd(made) })),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Confines this process and all that it will start. Only makes a system call, so it may be called between fork and exec;
/// it needs the capabilities of the engine.
pub(super) fn enter(rules: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is open as long as it is borrowed; no memory is handed over.
    let entered = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0) };
    match entered {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
