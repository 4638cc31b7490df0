//! Gives files on disk their owners, permissions and extended attributes, and says what could not be given: that goes
//! to the index of the layer.

use std::{ffi::OsStr, io};

use rustix::{
    fs::{Gid, Mode, Uid, XattrFlags},
    io::Errno,
};

use super::{LayerDir, LayerError, Owners, Record, Root, root::path_through};
use crate::tree::{Attributes, ImagePath, Xattrs};

/// Gives owner and mode by `chown` and `chmod`, in this order (a change of the owner clears setuid); returns what is to
/// be recorded instead.
///
/// An id that the user namespace does not map is recorded, and the file stays root's, without setuid and setgid: it must
/// not become root's program.
pub(super) fn give(
    owners: Owners,
    attributes: &Attributes,
    chown: impl FnOnce(Option<Uid>, Option<Gid>) -> Result<(), Errno>,
    chmod: impl FnOnce(Mode) -> Result<(), Errno>,
) -> io::Result<Option<(u32, u32, u32)>> {
    let mode = attributes.mode & 0o7777;
    let recorded = Some((mode, attributes.uid, attributes.gid));
    if owners == Owners::Recorded {
        return Ok(recorded);
    }
    let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
    match chown(Some(uid), Some(gid)) {
        Ok(()) => {
            chmod(Mode::from_raw_mode(mode))?;
            Ok(None)
        }
        Err(Errno::INVAL) => {
            chmod(Mode::from_raw_mode(mode & 0o1777))?;
            Ok(recorded)
        }
        Err(error) => Err(error.into()),
    }
}

/// Sets what the file system takes, and returns what it refuses.
pub(super) fn set_xattrs(
    xattrs: &Xattrs,
    set: impl Fn(&str, &[u8]) -> Result<(), Errno>,
) -> io::Result<Xattrs> {
    let mut refused = Xattrs::new();
    for (name, value) in xattrs {
        match set(name, value) {
            Ok(()) => {}
            Err(
                Errno::NOTSUP
                | Errno::PERM
                | Errno::INVAL
                | Errno::RANGE
                | Errno::TOOBIG
                | Errno::NOSPC,
            ) => {
                refused.insert(name.clone(), value.clone());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(refused)
}

/// Gives the directory `path` its owner, permissions and extended attributes; returns what goes to the index instead.
pub(super) fn describe_directory(
    root: &Root,
    path: &ImagePath,
    attributes: &Attributes,
    owners: Owners,
) -> io::Result<Record> {
    let directory = root.directory(path)?;
    let through = path_through(&directory, OsStr::new("."));
    let owner = give(
        owners,
        attributes,
        |uid, gid| rustix::fs::chown(&through, uid, gid),
        |mode| rustix::fs::chmod(&through, mode),
    )?;
    if owners == Owners::Recorded {
        rustix::fs::chmod(&through, Mode::from_raw_mode(0o700))?;
    }
    let xattrs = set_xattrs(&attributes.xattrs, |name, value| {
        rustix::fs::setxattr(&through, name, value, XattrFlags::empty())
    })?;
    Ok(Record {
        device: None,
        owner,
        xattrs,
    })
}

/// Changes the attributes of one directory of a layer that is made already: for directories that its archive implied.
pub(crate) fn settle_directory(
    layer: &LayerDir,
    path: &ImagePath,
    attributes: &Attributes,
) -> Result<(), LayerError> {
    if layer.owners == Owners::Recorded {
        return Ok(());
    }
    let settle = || -> io::Result<()> {
        let root = Root::open(&layer.path)?;
        describe_directory(&root, path, attributes, layer.owners)?;
        root.set_directory_mtime(path, attributes.mtime)
    };
    settle().map_err(|error| LayerError::write(path, error))
}
