//! The fields of revisions, compared.

use std::collections::{BTreeMap, BTreeSet};

use crate::v1::{Field, FieldChange, field::Content};

/// What differs, by path, sorted. Of private fields the hashes stand for the values.
#[must_use]
pub fn changes(before: &[Field], after: &[Field]) -> Vec<FieldChange> {
    let (before, after) = (by_path(before), by_path(after));
    let paths: BTreeSet<&str> = before.keys().chain(after.keys()).copied().collect();
    paths
        .into_iter()
        .filter(|path| before.get(path) != after.get(path))
        .map(|path| {
            let sides = [before.get(path), after.get(path)];
            let private = sides
                .iter()
                .any(|side| matches!(side, Some(Some(Content::PrivateHash(_)))));
            let [before, after] = sides.map(|side| side.map(|content| text(*content)));
            FieldChange {
                path: path.to_owned(),
                before,
                after,
                private,
            }
        })
        .collect()
}

fn by_path(fields: &[Field]) -> BTreeMap<&str, Option<&Content>> {
    fields
        .iter()
        .map(|field| (field.path.as_str(), field.content.as_ref()))
        .collect()
}

fn text(content: Option<&Content>) -> String {
    match content {
        Some(Content::Value(text) | Content::PrivateHash(text)) => text.clone(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(path: &str, content: Content) -> Field {
        Field {
            path: path.to_owned(),
            content: Some(content),
        }
    }

    #[test]
    fn what_differs_is_listed_by_path_and_what_is_private_stays_marked() {
        let plain = |path, value: &str| field(path, Content::Value(value.to_owned()));
        let private = |path, hash: &str| field(path, Content::PrivateHash(hash.to_owned()));
        let before = [
            private("env.KEY", "11"),
            plain("image", "shop:v1"),
            plain("same", "same"),
            plain("gone", "1"),
        ];
        let after = [
            plain("same", "same"),
            plain("image", "shop:v2"),
            private("env.KEY", "22"),
            private("env.NEW", "33"),
        ];
        let change = |path: &str, before: Option<&str>, after: Option<&str>, private| FieldChange {
            path: path.to_owned(),
            before: before.map(str::to_owned),
            after: after.map(str::to_owned),
            private,
        };
        assert_eq!(
            changes(&before, &after),
            [
                change("env.KEY", Some("11"), Some("22"), true),
                change("env.NEW", None, Some("33"), true),
                change("gone", Some("1"), None, false),
                change("image", Some("shop:v1"), Some("shop:v2"), false),
            ]
        );
    }
}
