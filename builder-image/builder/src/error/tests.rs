//! Which kind of failure is told.

use super::*;

#[test]
fn a_full_disk_is_told_wherever_a_step_meets_it() {
    let full = || std::io::Error::from_raw_os_error(28);
    let (command, code) = ("make".to_owned(), 2);
    for (failure, kind) in [
        (
            StepFailure::DiskFull {
                command: command.clone(),
                code,
            },
            FailureKind::OutOfDisk,
        ),
        (StepFailure::Exit { command, code }, FailureKind::StepFailed),
        (
            ExecError::Snapshot(format!("the index of a layer: {}", full())).into(),
            FailureKind::OutOfDisk,
        ),
        (
            ExecError::Snapshot("not a layer".to_owned()).into(),
            FailureKind::Internal,
        ),
        (
            ExecError::Runtime {
                message: format!("mkdir /run/crun: {}", full()),
            }
            .into(),
            FailureKind::OutOfDisk,
        ),
        (
            ExecError::system("making a scratch directory")(full()).into(),
            FailureKind::OutOfDisk,
        ),
    ] {
        assert_eq!(failure.kind(), kind, "{failure}");
    }
}
