//! What steps do: COPY, ADD and WORKDIR on files (here nothing is executed), RUN in [`run`]. Each makes a fresh layer
//! over a snapshot. How paths are understood follows BuildKit; the tables of tests beside the code say so row by row.

pub mod add;
pub mod copy;
mod digest;
mod error;
mod lacking;
pub mod missing;
mod mount;
pub mod run;
mod source;
pub mod workdir;

pub use digest::{digest_inputs, digest_path};
pub use error::StepError;
pub use lacking::{Lacking, LackingFiles, lacked, lacking};

use crate::{
    account,
    tree::{ImagePath, Tree, TreeError},
};

/// The text of an account file; empty where there is none.
fn account_file(tree: &dyn Tree, path: &str) -> Result<String, TreeError> {
    match tree.read(&ImagePath::new(path), account::MAX_FILE_BYTES) {
        Ok(content) => Ok(String::from_utf8_lossy(&content.unwrap_or_default()).into_owned()),
        Err(TreeError::NotAFile(_) | TreeError::NotADirectory(_)) => Ok(String::new()),
        Err(error) => Err(error),
    }
}

/// The owner that `--chown` or `USER` names, by the account files of `tree`.
///
/// # Errors
/// When an account file cannot be read; a name that it lacks is no error but 0.
pub fn owner_of(chown: &str, tree: &dyn Tree) -> Result<(u32, u32), TreeError> {
    if account::is_numeric_owner(chown) {
        return Ok(account::chown_owner(chown, "", ""));
    }
    let passwd = account_file(tree, account::PASSWD)?;
    let group = account_file(tree, account::GROUP)?;
    Ok(account::chown_owner(chown, &passwd, &group))
}
