//! Which foreign programs this machine executes, because its processor has a mode for them or because an interpreter is
//! registered (binfmt_misc). It is found out by trying: in a container the list of what is registered cannot be read.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use oci::Platform;

/// Where the program is loaded to.
const ADDRESS: u32 = 0x0001_0000;

/// Whether RUN can execute programs of `platform` on this machine, which is a `host`. A program is tried below the directory
/// `scratch` where the architectures differ. Variants are not compared: what they need is found out by executing.
pub fn can_execute(platform: &Platform, host: &Platform, scratch: &Path) -> bool {
    platform.os == host.os
        && (platform.architecture == host.architecture
            || program(&platform.architecture).is_some_and(|bytes| starts(&bytes, scratch)))
}

/// Whether the kernel starts a program that does nothing sensible, so that a signal ends it. Any other end is that of
/// something else: the C library gives a file that the kernel does not take to the shell (`execvp(3)`).
fn starts(program: &[u8], scratch: &Path) -> bool {
    let start = || {
        let mut file = tempfile::Builder::new()
            .prefix("foreign-")
            .permissions(PermissionsExt::from_mode(0o700))
            .tempfile_in(scratch)?;
        file.write_all(program)?;
        // Open for writing, it could not be executed.
        let path = file.into_temp_path();
        Command::new(&path)
            .env_clear()
            .current_dir(scratch)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
    };
    start().is_ok_and(|status| status.signal().is_some())
}

/// The smallest executable for an architecture of images (ELF specification, chapters 1 and 2): headers, one segment, and
/// no instruction in it that any processor executes to a good end.
fn program(architecture: &str) -> Option<Vec<u8>> {
    // Whether it has 64 bits, whether it is little endian, `e_machine`, and `e_flags` where loaders look at them.
    let (wide, little, machine, flags) = match architecture {
        "amd64" => (true, true, 62_u16, 0_u32),
        "386" => (false, true, 3, 0),
        "arm64" => (true, true, 183, 0),
        "arm" => (false, true, 40, 0x0500_0000),
        "riscv64" => (true, true, 243, 0),
        "ppc64le" => (true, true, 21, 2),
        "s390x" => (true, false, 22, 0),
        "loong64" => (true, true, 258, 0),
        "mips64le" => (true, true, 8, 0x8000_0000),
        _ => return None,
    };
    let mut bytes = vec![
        0x7f,
        b'E',
        b'L',
        b'F',
        1 + u8::from(wide),
        2 - u8::from(little),
        1,
    ];
    bytes.resize(16, 0);
    let put = |bytes: &mut Vec<u8>, value: u32, width: usize| {
        let value = u64::from(value);
        if little {
            bytes.extend_from_slice(&value.to_le_bytes()[..width]);
        } else {
            bytes.extend_from_slice(&value.to_be_bytes()[8 - width..]);
        }
    };
    let (word, header, segment) = if wide { (8, 64, 56) } else { (4, 52, 32) };
    let size = header + segment + 16;
    let entry = ADDRESS + header + segment;
    let fields = [
        (2, 2), // e_type: executable
        (u32::from(machine), 2),
        (1, 4), // e_version
        (entry, word),
        (header, word), // e_phoff
        (0, word),
        (flags, 4),
        (header, 2),
        (segment, 2),
        (1, 2), // e_phnum
        (0, 2),
        (0, 2),
        (0, 2),
    ];
    for (value, width) in fields {
        put(&mut bytes, value, width);
    }
    // The flags of a segment, readable and executable, stand elsewhere in files of 64 bits.
    let places = [
        (0, word),
        (ADDRESS, word),
        (ADDRESS, word),
        (size, word),
        (size, word),
    ];
    put(&mut bytes, 1, 4);
    if wide {
        put(&mut bytes, 5, 4);
    }
    for (value, width) in places {
        put(&mut bytes, value, width);
    }
    if !wide {
        put(&mut bytes, 5, 4);
    }
    put(&mut bytes, ADDRESS, word);
    bytes.resize(bytes.len() + 16, 0);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_executes_is_found_out() {
        let scratch = tempfile::tempdir().unwrap();
        let platform = |text: &str| text.parse::<Platform>().unwrap();
        let host = Platform::host();
        let native = program(&host.architecture).expect("this architecture is known");
        assert!(starts(&native, scratch.path()));
        // A machine that no kernel has, and no interpreter is registered for.
        let mut strange = native;
        strange[18..20].copy_from_slice(&[0xfe, 0xfe]);
        assert!(!starts(&strange, scratch.path()));
        for (wanted, expected) in [
            (host.to_string(), true),
            (format!("linux/{}/v9", host.architecture), true),
            ("linux/unheard-of".into(), false),
            ("windows/amd64".into(), false),
        ] {
            let wanted = platform(&wanted);
            let found = can_execute(&wanted, &host, scratch.path());
            assert_eq!(found, expected, "{wanted}");
        }
        let left = fs_err::read_dir(scratch.path()).unwrap().count();
        assert_eq!(left, 0);
    }

    #[test]
    fn programs_have_the_layout_of_their_class() {
        for (architecture, length, machine) in [
            ("amd64", 136, [62, 0]),
            ("386", 100, [3, 0]),
            ("s390x", 136, [0, 22]),
        ] {
            let bytes = program(architecture).unwrap();
            assert_eq!(bytes.len(), length, "{architecture}");
            assert_eq!(bytes[18..20], machine, "{architecture}");
        }
        assert_eq!(program("unheard-of"), None);
    }
}
