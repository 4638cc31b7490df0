//! Waiting for one child on behalf of the user: signals are passed on, orphans are reaped, the exit code is the child's.
//! Used by the processes around the engine, which run no threads and do nothing else.
#![expect(unsafe_code, reason = "signal sets have no safe interface")]

use std::{io, mem::MaybeUninit};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};

/// The signals that a supervisor passes on.
const FORWARDED: [libc::c_int; 6] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
];

/// Blocks the signals that [`supervise`] waits for. Must happen before the child is started, so that none is lost.
pub(super) fn block_signals() -> io::Result<()> {
    change_mask(libc::SIG_BLOCK)
}

/// Undoes [`block_signals`]: in a child, before it executes a program. Only makes system calls.
pub(super) fn unblock_signals() -> io::Result<()> {
    change_mask(libc::SIG_UNBLOCK)
}

fn signal_set() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set that the pointer names; it cannot fail for a valid pointer, and sigaddset
    // is given a set that is initialised and constant, valid signal numbers.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in FORWARDED.into_iter().chain([libc::SIGCHLD]) {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

fn change_mask(how: libc::c_int) -> io::Result<()> {
    let set = signal_set();
    // SAFETY: the set is initialised and the old mask is not asked for.
    let errno = unsafe { libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut()) };
    match errno {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Waits until `child` ends and returns its exit code, 128 + n when signal n killed it. Signals that a process sent are
/// passed on; those of the terminal reach the child by themselves, as it is in the same process group.
pub(super) fn supervise(child: Pid) -> io::Result<i32> {
    let set = signal_set();
    loop {
        while let Some((pid, status)) = match wait(WaitOptions::NOHANG) {
            Ok(found) => found,
            Err(rustix::io::Errno::CHILD) => return Ok(255),
            Err(rustix::io::Errno::INTR) => None,
            Err(errno) => return Err(errno.into()),
        } {
            if pid == child {
                if let Some(code) = status.exit_status() {
                    return Ok(code);
                }
                if let Some(signal) = status.terminating_signal() {
                    return Ok(128 + signal);
                }
            }
        }
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        // SAFETY: both pointers are valid for the call; the kernel fills `info`.
        let signal = unsafe { libc::sigwaitinfo(&raw const set, info.as_mut_ptr()) };
        if signal <= 0 || signal == libc::SIGCHLD {
            continue;
        }
        // SAFETY: zeroed is a valid siginfo_t, and sigwaitinfo has filled it.
        let sent_by_process = unsafe { info.assume_init() }.si_code <= 0;
        if let (true, Some(signal)) = (sent_by_process, Signal::from_named_raw(signal)) {
            // The child may have ended in the meantime; the next turn finds out.
            let _ = kill_process(child, signal);
        }
    }
}
