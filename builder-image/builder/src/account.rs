//! Users and groups of an image: the texts of `/etc/passwd` and `/etc/group`, and what `--chown`, `WORKDIR` and `USER`
//! make of a name. Pure; who reads the files, and from which tree, is the caller's business.
//!
//! `--chown` and `USER` do not agree: for `--chown` an unknown name is root and a lone number is also the group; for
//! `USER` an unknown name is an error and a lone number has the group of its passwd entry, else 0. Both follow BuildKit.

/// Where users are looked up in an image.
pub const PASSWD: &str = "/etc/passwd";
/// Where groups are looked up in an image.
pub const GROUP: &str = "/etc/group";
/// Larger files than this, in bytes, are not read.
pub const MAX_FILE_BYTES: u64 = 16 << 20;

/// Whom a process of RUN runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunUser {
    /// The user.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// Supplementary groups, in the order of the file.
    pub groups: Vec<u32>,
    /// The home directory of the passwd entry, where there is one.
    pub home: Option<String>,
}

/// Why `USER` names nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    /// No such user.
    #[error("user `{0}` is not in {PASSWD} of the image")]
    UnknownUser(String),
    /// No such group.
    #[error("group `{0}` is not in {GROUP} of the image")]
    UnknownGroup(String),
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// The lines that have a name and numbers; anything else is skipped, as by the C library.
fn users(text: &str) -> impl Iterator<Item = Passwd<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1).unwrap_or_default();
        Some(Passwd {
            name,
            uid,
            gid,
            home,
        })
    })
}

fn groups(text: &str) -> impl Iterator<Item = Group<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = fields.nth(1)?.parse().ok()?;
        let members = fields.next().unwrap_or_default();
        Some(Group { name, gid, members })
    })
}

/// A number, or a name. `root` is always 0, and what is not written is 0 too.
fn number(text: &str) -> Option<u32> {
    match text {
        "" | "root" => Some(0),
        _ => text
            .parse::<u32>()
            .ok()
            .filter(|id| i32::try_from(*id).is_ok()),
    }
}

/// Whether `chown` can be understood without the files of an image.
pub fn is_numeric_owner(chown: &str) -> bool {
    chown.splitn(2, ':').all(|part| number(part).is_some())
}

/// The owner that `--chown=user[:group]` gives, and that `WORKDIR` gives for the current `USER`.
///
/// A name has the group of its passwd entry, a number has itself as group, a name that is not found is 0.
pub fn chown_owner(chown: &str, passwd: &str, group: &str) -> (u32, u32) {
    let (user, group_name) = match chown.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (chown, None),
    };
    let (uid, mut gid) = match number(user) {
        Some(id) => (id, id),
        None => users(passwd)
            .find(|entry| entry.name == user)
            .map_or((0, 0), |entry| (entry.uid, entry.gid)),
    };
    if let Some(name) = group_name {
        gid = match number(name) {
            Some(id) => id,
            None => groups(group)
                .find(|entry| entry.name == name)
                .map_or(gid, |entry| entry.gid),
        };
    }
    (uid, gid)
}

/// Whom RUN runs as under `USER user[:group]`; the empty text is root.
///
/// # Errors
/// A name that the files do not have.
pub fn run_user(user: &str, passwd: &str, group: &str) -> Result<RunUser, AccountError> {
    let (name, group_name) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let numeric: Option<u32> = if name.is_empty() {
        Some(0)
    } else {
        name.parse().ok()
    };
    let entry = users(passwd).find(|entry| match numeric {
        Some(uid) => entry.uid == uid,
        None => entry.name == name,
    });
    let (uid, mut gid) = match (&entry, numeric) {
        (Some(entry), _) => (entry.uid, entry.gid),
        (None, Some(uid)) => (uid, 0),
        // `root` is root in an image without any files, too.
        (None, None) if name == "root" => (0, 0),
        (None, None) => return Err(AccountError::UnknownUser(name.to_owned())),
    };
    let mut supplementary = Vec::new();
    match group_name {
        Some(wanted) => {
            let numeric: Option<u32> = wanted.parse().ok();
            let found = groups(group).find(|entry| match numeric {
                Some(gid) => entry.gid == gid,
                None => entry.name == wanted,
            });
            gid = match (found, numeric) {
                (Some(entry), _) => entry.gid,
                (None, Some(gid)) => gid,
                (None, None) => return Err(AccountError::UnknownGroup(wanted.to_owned())),
            };
        }
        None => {
            if let Some(entry) = &entry {
                let member = |group: &Group<'_>| {
                    group
                        .members
                        .split(',')
                        .any(|member| member.trim() == entry.name)
                };
                supplementary.extend(groups(group).filter(member).map(|group| group.gid));
            }
        }
    }
    let home = entry
        .map(|entry| entry.home.to_owned())
        .filter(|home| !home.is_empty());
    Ok(RunUser {
        uid,
        gid,
        groups: supplementary,
        home,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const PASSWD_TEXT: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken:x:y:z\napp:x:100:101:App:/home/app:/bin/sh\n\
         app:x:7:7::/:\nweb:x:33:33::/var/www\n";
    const GROUP_TEXT: &str =
        "root:x:0:\napp:x:101:\nstaff:x:50:app,web\naudio:x:29:web, app\nempty:x:60\n";

    #[test]
    fn chown_follows_buildkit() {
        for (text, expected) in [
            ("app", (100, 101)),
            ("app:staff", (100, 50)),
            ("app:29", (100, 29)),
            ("app:", (100, 0)),
            ("app:nobody", (100, 101)),
            (":staff", (0, 50)),
            ("5", (5, 5)),
            ("5:6", (5, 6)),
            ("5:staff", (5, 50)),
            ("root", (0, 0)),
            ("unknown", (0, 0)),
            ("unknown:unknown", (0, 0)),
            ("unknown:staff", (0, 50)),
            ("", (0, 0)),
            ("100", (100, 100)),
            ("-1", (0, 0)),
            ("99999999999", (0, 0)),
        ] {
            assert_eq!(
                chown_owner(text, PASSWD_TEXT, GROUP_TEXT),
                expected,
                "{text}"
            );
        }
        assert_eq!(chown_owner("app:staff", "", ""), (0, 0));
    }

    #[test]
    fn numeric_owners_need_no_files() {
        for (text, expected) in [
            ("5", true),
            ("5:6", true),
            ("root:root", true),
            ("app", false),
            ("5:app", false),
        ] {
            assert_eq!(is_numeric_owner(text), expected, "{text}");
        }
    }

    #[test]
    fn run_users_follow_the_files() {
        for (text, uid, gid, groups, home) in [
            ("", 0, 0, &[][..], Some("/root")),
            ("root", 0, 0, &[], Some("/root")),
            ("app", 100, 101, &[50, 29], Some("/home/app")),
            ("100", 100, 101, &[50, 29], Some("/home/app")),
            ("app:audio", 100, 29, &[], Some("/home/app")),
            ("app:1234", 100, 1234, &[], Some("/home/app")),
            ("app:", 100, 101, &[50, 29], Some("/home/app")),
            ("4242", 4242, 0, &[], None),
            ("1:2", 1, 2, &[], None),
            ("web", 33, 33, &[50, 29], Some("/var/www")),
        ] {
            let expected = RunUser {
                uid,
                gid,
                groups: groups.to_vec(),
                home: home.map(str::to_owned),
            };
            assert_eq!(
                run_user(text, PASSWD_TEXT, GROUP_TEXT).unwrap(),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn unknown_run_users_are_errors() {
        assert_eq!(
            run_user("nobody", PASSWD_TEXT, ""),
            Err(AccountError::UnknownUser("nobody".into()))
        );
        assert_eq!(
            run_user("app:none", PASSWD_TEXT, ""),
            Err(AccountError::UnknownGroup("none".into()))
        );
        assert_eq!(run_user("root", "", "").unwrap(), RunUser::default());
        assert_eq!(run_user("1:2", "", "").unwrap().gid, 2);
    }
}
