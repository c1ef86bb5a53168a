//! The fields of a package, and its list of hashes.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _, path::Path};

/// What dpkg adds to the fields of a package when it is installed.
const OF_THE_DATABASE: [&str; 5] = [
    "Status",
    "Conffiles",
    "Config-Version",
    "Triggers-Pending",
    "Triggers-Awaited",
];

/// The fields of a package file, by what the database has of the package: the others are left out, the rest is as it is. None:
/// these are no fields.
pub(super) fn of_a_file(said: &str) -> Option<String> {
    let mut fields = String::with_capacity(said.len());
    let mut is_left_out = None;
    for line in said.lines() {
        if line.trim().is_empty() {
            break;
        }
        let is_continued = line.starts_with([' ', '\t']);
        if !is_continued {
            let (name, _) = line.split_once(':')?;
            let mut all = OF_THE_DATABASE.iter();
            is_left_out = Some(all.any(|one| one.eq_ignore_ascii_case(name)));
        }
        if !is_left_out? {
            fields.push_str(line);
            fields.push('\n');
        }
    }
    (!fields.is_empty()).then_some(fields)
}

/// A list of hashes without those of conffiles. Who writes packages leaves them out, dpkg does not where it makes the list
/// itself; and they are those of what the package brought before the administrator changed it.
pub(super) fn without(hashes: &[u8], conffiles: &[&Path]) -> Vec<u8> {
    let lines = hashes.split_inclusive(|&byte| byte == b'\n');
    let is_of_conffile = |line: &[u8]| {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        // 32 digits and two blanks, then the path without its first letter.
        let path = line.get(34..).map(OsStr::from_bytes);
        path.is_some_and(|path| conffiles.contains(&Path::new("/").join(path).as_path()))
    };
    let rest: Vec<&[u8]> = lines.filter(|line| !is_of_conffile(line)).collect();
    rest.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_database_adds_is_left_out_with_its_lines() {
        let said = "Package: billing\nStatus: install ok installed\nPriority: optional\nVersion: 1:2-3\n\
                    Config-Version: 1:1-1\nConffiles:\n /etc/billing.conf d41d8cd98f00b204e9800998ecf8427e\n \
                    /etc/b d41d8cd98f00b204e9800998ecf8427e obsolete\nDescription: bills\n more: of it\n .\n\tand more\n\
                    Homepage: https://example.org\n\nPackage: other\n";
        let fields = "Package: billing\nPriority: optional\nVersion: 1:2-3\nDescription: bills\n more: of it\n .\n\
                      \tand more\nHomepage: https://example.org\n";
        assert_eq!(of_a_file(said).as_deref(), Some(fields));
    }

    #[test]
    fn conffiles_are_not_among_the_hashes() {
        let hashes = "d41d8cd98f00b204e9800998ecf8427e  etc/billing.conf\n\
                      d41d8cd98f00b204e9800998ecf8427e  usr/bin/etc/billing.conf\nodd\n";
        let rest = without(hashes.as_bytes(), &[Path::new("/etc/billing.conf")]);
        let (_, expected) = hashes.split_once('\n').expect("lines");
        assert_eq!(String::from_utf8_lossy(&rest), expected);
    }

    #[test]
    fn what_is_no_field_is_not_guessed() {
        for said in ["", "\n", "no field\n", " continued\nPackage: x\n"] {
            assert_eq!(of_a_file(said), None, "{said:?}");
        }
    }
}
