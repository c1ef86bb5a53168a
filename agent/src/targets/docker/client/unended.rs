//! Commands in containers whose end was not seen: what is asked of the engine before the same one is started again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Commands that are remembered. Beyond it any one is forgotten, which costs one process more in its container.
const REMEMBERED: usize = 1_000;

/// A container's id, and the command.
type Key = (String, Vec<String>);

/// By container and command: the engine's id of the one that was given up.
#[derive(Debug, Clone, Default)]
pub(super) struct Unended(Arc<Mutex<HashMap<Key, String>>>);

/// A command under way. Dropped before its end, wherever that happens, it is remembered.
#[derive(Debug)]
pub(super) struct Watched {
    all: Unended,
    /// None: it has ended.
    given_up: Option<(Key, String)>,
}

impl Unended {
    /// The one of that container and command that was given up last.
    pub(super) fn of(&self, container: &str, argv: &[String]) -> Option<String> {
        let key = (container.to_owned(), argv.to_vec());
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&key).cloned()
    }

    /// Follows a command that is about to be started.
    pub(super) fn watch(&self, container: &str, argv: &[String], exec: &str) -> Watched {
        let key = (container.to_owned(), argv.to_vec());
        Watched {
            all: self.clone(),
            given_up: Some((key, exec.to_owned())),
        }
    }

    fn insert(&self, key: Key, exec: String) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= REMEMBERED
            && !all.contains_key(&key)
            && let Some(any) = all.keys().next().cloned()
        {
            all.remove(&any);
        }
        all.insert(key, exec);
    }

    fn remove(&self, key: &Key) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(key);
    }
}

impl Watched {
    /// It has come to its end.
    pub(super) fn ended(mut self) {
        if let Some((key, _)) = self.given_up.take() {
            self.all.remove(&key);
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some((key, exec)) = self.given_up.take() {
            self.all.insert(key, exec);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_up_is_remembered_and_what_ended_is_not() {
        let all = Unended::default();
        let argv = ["/check".to_owned()];
        drop(all.watch("a", &argv, "1"));
        assert_eq!(all.of("a", &argv).as_deref(), Some("1"));
        assert_eq!(all.of("b", &argv), None);
        all.watch("a", &argv, "2").ended();
        assert_eq!(all.of("a", &argv), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let all = Unended::default();
        for number in 0..=REMEMBERED {
            drop(all.watch(&number.to_string(), &[], "1"));
        }
        assert_eq!(all.0.lock().expect("not poisoned").len(), REMEMBERED);
        assert!(all.of(&REMEMBERED.to_string(), &[]).is_some());
    }
}
