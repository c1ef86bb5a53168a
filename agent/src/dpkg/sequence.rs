//! In which sequence packages are installed.
//!
//! dpkg gives a file to the package that says it replaces the other, also while an older version of that one is unpacked that
//! brings the file itself; and removes it again when the package that has it is replaced by a version without it. Nobody
//! brings it then, and dpkg finds nothing wrong. So a package that takes files from another goes back before that other.

use std::collections::{BTreeMap, BTreeSet};

use super::PackageName;

/// Whose files which package takes, by its fields.
pub(super) type Replaces = BTreeMap<PackageName, BTreeSet<PackageName>>;

/// By what `dpkg-query` says in lines of `NAME\tREPLACES`.
pub(super) fn replaces(said: &str) -> Replaces {
    let mut all = Replaces::new();
    for (name, others) in said.lines().filter_map(|line| line.split_once('\t')) {
        let Ok(name) = name.parse() else { continue };
        // `one (<< 2.0), other:any`
        let others = others.split(',').filter_map(|one| {
            let one = one.trim().split([' ', '(', ':']).next();
            one?.parse().ok()
        });
        all.entry(name).or_default().extend(others);
    }
    all
}

/// The sequence in which packages of these names go, as places in the list; and whether some take files from each other, so that
/// no sequence is right.
pub(super) fn of(names: &[&PackageName], replaces: &Replaces) -> (Vec<usize>, bool) {
    let takes = |one: &PackageName, other: &PackageName| {
        one != other && replaces.get(one).is_some_and(|all| all.contains(other))
    };
    let mut left: Vec<(usize, &PackageName)> = names.iter().copied().enumerate().collect();
    let (mut sequence, mut is_circular) = (Vec::new(), false);
    while !left.is_empty() {
        let free = left
            .iter()
            .position(|(_, name)| left.iter().all(|(_, other)| !takes(other, name)));
        is_circular |= free.is_none();
        sequence.push(left.remove(free.unwrap_or_default()).0);
    }
    (sequence, is_circular)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(names: &[&str], said: &str) -> (Vec<usize>, bool) {
        let names: Vec<PackageName> = names
            .iter()
            .map(|name| name.parse().expect("a name"))
            .collect();
        of(&names.iter().collect::<Vec<_>>(), &replaces(said))
    }

    #[test]
    fn who_takes_anothers_files_goes_first() {
        let said =
            "shop-data\tshop (<< 2.0), other\nshop-more\tshop-data:any, shop-more (<< 1)\nshop\t\n";
        let names = ["shop", "shop-data", "plain", "shop-more"];
        assert_eq!(sequence(&names, said), (vec![2, 3, 1, 0], false));
        assert_eq!(sequence(&names, ""), (vec![0, 1, 2, 3], false));
        let said = "shop-data\tshop(<< 2.0)\nshop\tshop-data\n";
        assert_eq!(sequence(&names, said), (vec![2, 3, 0, 1], true));
    }
}
