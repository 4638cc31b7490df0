//! Certificates of single registries, where docker keeps them: `certs.d/<host[:port]>/` with `*.crt` (authorities to trust),
//! `*.cert` and `*.key` (who we are).

use std::path::{Path, PathBuf};

use distribution::HostTls;
use oci::RegistryHost;

use crate::error::Error;

/// What is in the directories `roots`, of which earlier ones win. One that is not there, or that may not be read, says
/// nothing.
///
/// # Errors
/// When a file cannot be read, or a certificate has no key beside it.
pub(super) fn read(roots: &[PathBuf]) -> Result<Vec<(RegistryHost, HostTls)>, Error> {
    let mut found: Vec<(RegistryHost, HostTls)> = Vec::new();
    for root in roots {
        let Ok(entries) = fs_err::read_dir(root) else {
            continue;
        };
        let mut directories: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        directories.sort();
        for directory in directories {
            let name = directory.file_name().and_then(|name| name.to_str());
            let Some(host) = name.and_then(|name| name.parse::<RegistryHost>().ok()) else {
                continue;
            };
            if directory.is_dir() && found.iter().all(|(known, _)| *known != host) {
                let tls = of_directory(&directory).map_err(|problem| {
                    Error::Request(format!("{}: {problem}", directory.display()))
                })?;
                found.push((host, tls));
            }
        }
    }
    Ok(found)
}

fn of_directory(directory: &Path) -> Result<HostTls, String> {
    let mut files: Vec<_> = fs_err::read_dir(directory)
        .map_err(|error| error.to_string())?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    files.sort();
    let read = |path: &Path| fs_err::read(path).map_err(|error| error.to_string());
    let with = |extension: &'static str| {
        let files = files.iter();
        files.filter(move |path| path.extension().is_some_and(|found| found == extension))
    };
    let mut tls = HostTls::default();
    for path in with("crt") {
        let pem = tls.ca_pem.get_or_insert_default();
        pem.extend(read(path)?);
        pem.push(b'\n');
    }
    if let Some(path) = with("cert").next() {
        let key = path.with_extension("key");
        if !key.is_file() {
            return Err(format!("`{}` has no key beside it", path.display()));
        }
        let mut pem = read(path)?;
        pem.push(b'\n');
        pem.extend(read(&key)?);
        tls.identity_pem = Some(pem);
    }
    Ok(tls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_named_as_registries() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, text).unwrap();
        };
        write("one/h.io:5000/a.crt", "A");
        write("one/h.io:5000/b.crt", "B");
        write("one/h.io:5000/client.cert", "C");
        write("one/h.io:5000/client.key", "K");
        write("one/not a host/a.crt", "X");
        write("one/file", "X");
        write("two/h.io:5000/a.crt", "X");
        write("two/quay.io/ca.crt", "Q");
        let roots = ["one", "absent", "two"].map(|name| root.path().join(name));
        let found = read(&roots).unwrap();
        let text = |pem: &Option<Vec<u8>>| pem.clone().map(|pem| String::from_utf8(pem).unwrap());
        let shown: Vec<_> = found
            .iter()
            .map(|(host, tls)| (host.as_str(), text(&tls.ca_pem), text(&tls.identity_pem)))
            .collect();
        assert_eq!(
            shown,
            [
                ("h.io:5000", Some("A\nB\n".into()), Some("C\nK".into())),
                ("quay.io", Some("Q\n".into()), None),
            ]
        );
        fs_err::remove_file(root.path().join("one/h.io:5000/client.key")).unwrap();
        let error = read(&roots).unwrap_err().to_string();
        assert!(
            error.contains("client.cert` has no key beside it"),
            "{error}"
        );
    }
}
