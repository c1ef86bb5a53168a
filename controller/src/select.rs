//! What people mean: which revision by `previous`, `#12` or a prefix, which target where none is named,
//! and what they may have meant where there is none of that name. Pure.

use sternway_proto::{
    lineage::{self, Standing},
    settings::nearest,
    v1::{self, Mark, Problem},
};

/// From so many characters on digits alone may be the beginning of an id: no target has ten million revisions.
const LONGER_THAN_A_NUMBER: usize = 8;

/// A revision that was chosen, and why that one.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen<'a> {
    pub revision: &'a v1::Revision,
    /// For a person: `newest known-good before #2`.
    pub because: String,
}

/// A target with its whole history, marks included.
#[derive(Debug, Clone, Copy)]
pub struct History<'a> {
    pub target: &'a v1::Target,
    /// Newest first.
    pub revisions: &'a [v1::Revision],
}

fn standing(revision: &v1::Revision) -> Standing {
    Standing {
        known_good: revision.known_good,
        mark: revision.mark(),
    }
}

impl<'a> History<'a> {
    fn by_id(self, id: &str) -> Option<&'a v1::Revision> {
        self.revisions.iter().find(|revision| revision.id == id)
    }

    /// The revision that runs.
    #[must_use]
    pub fn current(self) -> Option<&'a v1::Revision> {
        self.by_id(&self.target.current_revision)
    }

    fn current_name(self) -> String {
        self.current()
            .map_or_else(|| "what runs now".to_owned(), |c| format!("#{}", c.number))
    }

    /// The revisions before the current one in the lineage, nearest first; those marked bad left out.
    fn predecessors(self) -> impl Iterator<Item = &'a v1::Revision> {
        lineage::before(&self.target.lineage, Some(&self.target.current_revision))
            .filter(move |id| **id != self.target.current_revision)
            .filter_map(move |id| self.by_id(id))
            .filter(|revision| !standing(revision).is_bad() && !revision.gone)
    }

    fn known_good(self) -> Option<&'a v1::Revision> {
        self.predecessors()
            .find(|revision| standing(revision).is_good())
    }

    /// The revision that a person's word names.
    ///
    /// # Errors
    /// There is none, or several: a reason for the person.
    pub fn find(self, word: &str) -> Result<Chosen<'a>, Problem> {
        match word {
            "current" => self.current().map(|revision| Chosen {
                revision,
                because: "the one that runs".to_owned(),
            }),
            "previous" => self.predecessors().next().map(|revision| Chosen {
                revision,
                because: format!("the one before {}", self.current_name()),
            }),
            "known-good" => self.known_good().map(|revision| Chosen {
                revision,
                because: format!("newest known-good before {}", self.current_name()),
            }),
            "" => {
                let all = self.predecessors().map(|one| (one, standing(one)));
                return match lineage::goal(all) {
                    Some(goal) if standing(goal).is_good() => self.find("known-good"),
                    _ => self.find("previous"),
                };
            }
            _ => return self.named(word),
        }
        .ok_or_else(|| self.nothing(word))
    }

    fn named(self, word: &str) -> Result<Chosen<'a>, Problem> {
        let found = |revision, because: &str| {
            Ok(Chosen {
                revision,
                because: because.to_owned(),
            })
        };
        let digits = word.strip_prefix('#').unwrap_or(word);
        if let Ok(number) = digits.parse::<u32>() {
            let numbered = self.revisions.iter().filter(|r| r.number == number);
            let numbered: Vec<&v1::Revision> = numbered.collect();
            // A name that came back, and began to count anew: its host has those of the new count only.
            let there: Vec<&v1::Revision> = numbered.iter().filter(|r| !r.gone).copied().collect();
            match (numbered.as_slice(), there.as_slice()) {
                ([one], _) | (_, [one]) => return found(one, "named by its number"),
                ([], _) => {}
                _ => {
                    return Err(Problem::new(
                        "revision-ambiguous",
                        format!("{} has had several revisions #{number}", self.target.name),
                        "name one by its id: `ctl history` shows them",
                    ));
                }
            }
        }
        // A number that is not there (any more) must not mean a revision whose id happens to begin with it.
        let number_like = digits.bytes().all(|byte| byte.is_ascii_digit());
        if word.starts_with('#') || (number_like && word.len() < LONGER_THAN_A_NUMBER) {
            return Err(self.unknown(word));
        }
        let mut matching = self.revisions.iter().filter(|r| r.id.starts_with(word));
        match (matching.next(), matching.next()) {
            (Some(one), None) => found(one, "named by its id"),
            (Some(_), Some(_)) => Err(Problem::new(
                "revision-ambiguous",
                format!(
                    "several revisions of {} begin with {word:?}",
                    self.target.name
                ),
                "give more digits, or the number",
            )),
            (None, _) => Err(self.unknown(word)),
        }
    }

    fn unknown(self, word: &str) -> Problem {
        let numbers: Vec<String> = self
            .revisions
            .iter()
            .take(10)
            .map(|revision| format!("#{}", revision.number))
            .collect();
        let known = if numbers.is_empty() {
            "it has none yet".to_owned()
        } else {
            format!("the newest are {}", numbers.join(", "))
        };
        Problem::new(
            "revision-unknown",
            format!("{} has no revision {word:?}", self.target.name),
            format!("{known}; see `ctl history`"),
        )
    }

    fn nothing(self, word: &str) -> Problem {
        let name = &self.target.name;
        let (code, message, next_step) = match word {
            "current" => (
                "nothing-runs",
                format!("nothing runs as {name}"),
                "name a revision: `--to N`; see `ctl history`",
            ),
            "known-good" => (
                "no-known-good",
                format!(
                    "no revision of {name} before {} is known-good",
                    self.current_name()
                ),
                "name another: `--to previous` or `--to N`; see `ctl history`",
            ),
            _ => (
                "nothing-to-go-back-to",
                format!(
                    "there is nothing to go back to: {} is the oldest revision of {name} that is not marked bad",
                    self.current_name()
                ),
                "name another that was deployed since, `--to N` (see `ctl history`), or deploy a good one",
            ),
        };
        Problem::new(code, message, next_step)
    }

    /// The revision to restore, if a restore to it may be asked for at all. One that runs already may: its checks are
    /// run, and nothing is changed.
    ///
    /// # Errors
    /// There is none of that name, or it is marked bad.
    pub fn restorable(self, word: &str) -> Result<Chosen<'a>, Problem> {
        let chosen = self.find(word)?;
        let revision = chosen.revision;
        let name = &self.target.name;
        if revision.mark() == Mark::Bad {
            return Err(revision_bad(revision.number, name, &revision.mark_reason));
        }
        if revision.gone {
            return Err(Problem::new(
                "revision-gone",
                format!(
                    "#{} of {name} is no longer on its host, which keeps a bounded number of revisions",
                    revision.number
                ),
                "choose one that it has: `ctl history` says which it has not; or deploy that one anew",
            ));
        }
        Ok(chosen)
    }
}

/// The target that is meant on a host.
///
/// # Errors
/// There is none, none of that name, or several and none was named.
pub fn target<'a>(
    host: &str,
    targets: &'a [v1::Target],
    named: &str,
) -> Result<&'a v1::Target, Problem> {
    let list = || {
        targets
            .iter()
            .map(|target| target.name.as_str())
            .take(30)
            .collect::<Vec<_>>()
            .join(", ")
    };
    match (named, targets) {
        (_, []) => Err(Problem::new(
            "no-targets",
            format!("{host} has no targets"),
            format!("see `ctl host show {host}`: is its engine running, and are there containers?"),
        )),
        ("", [one]) => Ok(one),
        ("", _) => Err(Problem::new(
            "target-needed",
            format!("{host} has {} targets: {}", targets.len(), list()),
            "name one: `--target NAME`",
        )),
        (named, _) => targets
            .iter()
            .find(|target| target.name == named)
            .or_else(|| short(targets, named))
            .ok_or_else(|| {
                let known = targets.iter().map(|target| target.name.as_str());
                let next = match nearest(named, known) {
                    Some(near) => format!("did you mean {near}? It has: {}", list()),
                    None => format!("it has: {}", list()),
                };
                Problem::new(
                    "target-unknown",
                    format!("{host} has no target {named:?}"),
                    next,
                )
            }),
    }
}

/// A target by its name without the kind, where only one has it.
fn short<'a>(targets: &'a [v1::Target], named: &str) -> Option<&'a v1::Target> {
    let mut matching = targets.iter().filter(|target| {
        target
            .name
            .split_once('/')
            .is_some_and(|(_, local)| local == named)
    });
    match (matching.next(), matching.next()) {
        (Some(one), None) => Some(one),
        _ => None,
    }
}

/// The refusal of a revision that is marked DO_NOT_DEPLOY.
#[must_use]
pub fn revision_bad(number: u32, target: &str, reason: &str) -> Problem {
    let reason = if reason.is_empty() {
        "no reason was given"
    } else {
        reason
    };
    Problem::new(
        "revision-bad",
        format!("#{number} of {target} is marked bad: {reason}"),
        "choose another: `ctl history`; or take the mark away: `ctl revision mark`",
    )
}

/// The refusal of a host that is not known.
#[must_use]
pub fn unknown_host<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> Problem {
    let next = match nearest(wanted, names) {
        Some(near) => format!("did you mean {near}? `ctl host ls` lists them"),
        None => "`ctl host ls` lists the hosts".to_owned(),
    };
    Problem::new("host-unknown", format!("there is no host {wanted:?}"), next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> String {
        // Ids of #1 and #11 begin alike.
        format!("{:064x}", u128::from(number) << 100)
    }

    fn revision(number: u32, known_good: bool, mark: Mark) -> v1::Revision {
        v1::Revision {
            id: format!("{number:x}{}", &id(number)[..63]),
            number,
            known_good,
            mark: mark.into(),
            mark_reason: "500s".into(),
            ..v1::Revision::default()
        }
    }

    struct Case {
        target: v1::Target,
        revisions: Vec<v1::Revision>,
    }

    impl Case {
        /// Lineage and current by number; revisions newest first.
        fn new(revisions: Vec<v1::Revision>, lineage: &[u32]) -> Self {
            let find = |n: &u32| {
                let found = revisions.iter().find(|r| r.number == *n);
                found.expect("there").id.clone()
            };
            Self {
                target: v1::Target {
                    name: "docker/shop".into(),
                    state: v1::TargetState::Running.into(),
                    current_revision: lineage.last().map(find).unwrap_or_default(),
                    lineage: lineage.iter().map(find).collect(),
                    ..v1::Target::default()
                },
                revisions,
            }
        }

        fn to(&self, word: &str) -> Result<u32, String> {
            History {
                target: &self.target,
                revisions: &self.revisions,
            }
            .restorable(word)
            .map(|chosen| chosen.revision.number)
            .map_err(|problem| problem.code)
        }
    }

    fn shop() -> Case {
        Case::new(
            vec![
                revision(4, false, Mark::Unspecified),
                revision(3, false, Mark::Bad),
                revision(2, false, Mark::Unspecified),
                revision(1, true, Mark::Unspecified),
            ],
            &[1, 2, 3, 4],
        )
    }

    #[test]
    fn each_word_means_one_revision() {
        let shop = shop();
        let not = |code: &str| Err(code.to_owned());
        for (word, wanted) in [
            ("previous", Ok(2)),
            ("known-good", Ok(1)),
            ("", Ok(1)),
            ("1", Ok(1)),
            ("#2", Ok(2)),
            ("20", not("revision-unknown")),
            ("20000000", Ok(2)),
            ("3", not("revision-bad")),
            ("4", Ok(4)),
            ("current", Ok(4)),
            ("#9", not("revision-unknown")),
            ("zz", not("revision-unknown")),
        ] {
            assert_eq!(shop.to(word), wanted, "{word:?}");
        }
    }

    #[test]
    fn a_mark_good_counts_as_known_good() {
        let marked = Case::new(
            vec![
                revision(3, false, Mark::Unspecified),
                revision(2, false, Mark::Unspecified),
                revision(1, false, Mark::Good),
            ],
            &[1, 2, 3],
        );
        assert_eq!(marked.to(""), Ok(1));
        assert_eq!(marked.to("previous"), Ok(2));
    }

    #[test]
    fn what_its_host_does_not_have_any_more_is_not_chosen_and_refused_by_name() {
        let mut shop = shop();
        shop.revisions[3].gone = true;
        assert_eq!(shop.to(""), Ok(2));
        assert_eq!(shop.to("known-good"), Err("no-known-good".into()));
        assert_eq!(shop.to("1"), Err("revision-gone".into()));
    }

    #[test]
    fn of_several_of_one_number_the_one_that_is_still_there_is_meant() {
        let mut shop = shop();
        let mut earlier = revision(2, false, Mark::Unspecified);
        earlier.id = "f".repeat(64);
        earlier.gone = true;
        let now = shop.revisions[2].id.clone();
        shop.revisions.push(earlier);
        let chosen = |shop: &Case| {
            History {
                target: &shop.target,
                revisions: &shop.revisions,
            }
            .find("#2")
            .map(|chosen| chosen.revision.id.clone())
        };
        assert_eq!(chosen(&shop), Ok(now));
        assert_eq!(shop.to("ffff"), Err("revision-gone".into()));
        // None is there, or more than one.
        for gone in [true, false] {
            shop.revisions[2].gone = gone;
            shop.revisions[4].gone = gone;
            let refused = chosen(&shop).expect_err("ambiguous");
            assert_eq!(refused.code, "revision-ambiguous");
            assert!(refused.next_step.contains("`ctl history`"), "{refused:?}");
        }
    }

    #[test]
    fn a_first_deployment_has_nothing_to_go_back_to() {
        let first = Case::new(vec![revision(1, true, Mark::Unspecified)], &[1]);
        assert_eq!(first.to(""), Err("nothing-to-go-back-to".into()));
        assert_eq!(first.to("known-good"), Err("no-known-good".into()));
        let after_bad = Case::new(
            vec![
                revision(2, false, Mark::Unspecified),
                revision(1, true, Mark::Bad),
            ],
            &[1, 2],
        );
        assert_eq!(
            after_bad.to("previous"),
            Err("nothing-to-go-back-to".into())
        );
    }

    #[test]
    fn a_second_rollback_goes_further_back_and_never_forward() {
        let mut shop = shop();
        shop.revisions[1].mark = 0;
        shop.target.lineage.truncate(3);
        shop.target.current_revision = shop.target.lineage[2].clone();
        assert_eq!(shop.to("previous"), Ok(2));
    }

    #[test]
    fn an_ambiguous_prefix_is_refused() {
        let twins = Case::new(
            vec![
                v1::Revision {
                    id: format!("ab{}", "1".repeat(62)),
                    number: 2,
                    ..v1::Revision::default()
                },
                v1::Revision {
                    id: format!("ab{}", "2".repeat(62)),
                    number: 1,
                    ..v1::Revision::default()
                },
            ],
            &[1, 2],
        );
        assert_eq!(twins.to("ab"), Err("revision-ambiguous".into()));
        assert_eq!(twins.to("ab2"), Ok(1));
    }

    #[test]
    fn one_target_needs_no_name_and_several_are_listed() {
        let named = |name: &str| v1::Target {
            name: name.into(),
            ..v1::Target::default()
        };
        let two = [named("docker/shop"), named("docker/db")];
        let code = |targets, name| target("web-1", targets, name).map_err(|p| p.code);
        assert_eq!(code(&two[..1], "").expect("one").name, "docker/shop");
        assert_eq!(code(&two, "db").expect("short").name, "docker/db");
        assert_eq!(code(&two, "").expect_err("two"), "target-needed");
        assert_eq!(code(&[], "").expect_err("none"), "no-targets");
        let problem = target("web-1", &two, "docker/shpo").expect_err("unknown");
        assert!(problem.next_step.contains("did you mean docker/shop"));
        let problem = unknown_host("web-l", ["db-1", "web-1"]);
        assert!(problem.next_step.contains("did you mean web-1?"));
    }
}
