//! Handing one open file to a child. Every other descriptor of the engine is closed when a program is executed.
#![expect(unsafe_code, reason = "pre_exec has no safe interface")]

use std::{
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::process::CommandExt,
    },
    process::Command,
};

use rustix::io::{FdFlags, fcntl_setfd};

/// Lets the child of `command` have `file` under the number that it has here. The file must stay open until the child is
/// started.
pub(crate) fn keep_open(command: &mut Command, file: &impl AsFd) {
    let number = file.as_fd().as_raw_fd();
    // SAFETY: the closure runs in the child between fork and exec and only makes a system call; the descriptor is open
    // there as the caller keeps it open until then, and a number that is not open makes the call fail.
    unsafe {
        command.pre_exec(move || {
            let file = BorrowedFd::borrow_raw(number);
            fcntl_setfd(file, FdFlags::empty())?;
            Ok(())
        });
    }
}
