//! `gateway rules diff`: by name, not by line, so that neither format nor order of keys matters.
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{read, words};
use crate::api::message::Request;
use crate::api::view::RulesText;
use crate::cli::Common;
use crate::config::{Located, RuleModel, RuleSetFile};

/// What became of something with a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Change {
    /// `rule`, `address`, `service`, `site_group` or `schedule`.
    kind: &'static str,
    name: String,
    #[serde(flatten)]
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
enum What {
    Added(Whole),
    Removed(Whole),
    /// Key by key: before and after.
    Changed {
        keys: BTreeMap<String, (Value, Value)>,
    },
    /// In front of or behind rules that it was not in front of or behind before.
    Moved {
        place: Place,
    },
}

/// Something as its file has it, which the other one does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Whole {
    /// Of a rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<Place>,
    content: Map<String, Value>,
    /// The content for people, a line each.
    #[serde(skip)]
    lines: Vec<String>,
}

/// Where a rule stands: the first that matches decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Place {
    /// From 1.
    number: usize,
    /// The rule before it.
    after: Option<String>,
}

impl std::fmt::Display for Place {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.after {
            Some(name) => write!(formatter, "as number {}, after \"{name}\"", self.number),
            None => write!(formatter, "as number {}, before all others", self.number),
        }
    }
}

pub(super) fn run(
    common: &Common,
    file: &Path,
    against: Option<&Path>,
    generation: Option<u32>,
) -> anyhow::Result<()> {
    let new = RuleSetFile::parse(&file.display().to_string(), &read(file)?)?;
    let old = match against {
        Some(path) => RuleSetFile::parse(&path.display().to_string(), &read(path)?)?,
        None => {
            let mut found = None;
            common.ask_plain(&Request::RulesText { generation }, |view: RulesText| {
                found = Some(view)
            })?;
            let name = |found: &RulesText| format!("generation {} ({})", found.generation, found.file);
            found.map_or_else(
                || Ok(RuleSetFile::default()),
                |found| RuleSetFile::parse(&name(&found), &found.text),
            )?
        }
    };
    let changes = changes(&old, &new);
    if common.json {
        println!("{:#}", serde_json::to_value(&changes)?);
        return Ok(());
    }
    println!("- {}\n+ {}", old.file, new.file);
    changes.iter().for_each(print);
    if changes.is_empty() {
        println!("no difference");
    }
    Ok(())
}

fn print(change: &Change) {
    let (kind, name) = (change.kind, &change.name);
    match &change.what {
        What::Added(whole) => print_whole("+", change, whole),
        What::Removed(whole) => print_whole("-", change, whole),
        What::Moved { place } => println!("> {kind} \"{name}\" stands elsewhere in the order: {place}"),
        What::Changed { keys } => {
            println!("~ {kind} \"{name}\"");
            for (key, (before, after)) in keys {
                println!("    {key}: {} -> {}", value_words(before), value_words(after));
            }
        }
    }
}

fn print_whole(sign: &str, Change { kind, name, .. }: &Change, whole: &Whole) {
    let place = whole
        .place
        .as_ref()
        .map_or(String::new(), |place| format!(" {place}"));
    println!("{sign} {kind} \"{name}\"{place}");
    whole.lines.iter().for_each(|line| println!("    {line}"));
}

fn value_words(value: &Value) -> String {
    match value {
        Value::Null => "(not set)".to_owned(),
        other => other.to_string(),
    }
}

fn changes(old: &RuleSetFile, new: &RuleSetFile) -> Vec<Change> {
    let mut changes = Vec::new();
    compare(
        "address",
        (&old.addresses, &new.addresses),
        |model| &model.name,
        object,
        &mut changes,
    );
    compare(
        "service",
        (&old.services, &new.services),
        |model| &model.name,
        object,
        &mut changes,
    );
    compare(
        "site_group",
        (&old.site_groups, &new.site_groups),
        |model| &model.name,
        object,
        &mut changes,
    );
    compare(
        "schedule",
        (&old.schedules, &new.schedules),
        |model| &model.name,
        object,
        &mut changes,
    );
    compare(
        "rule",
        (&old.rules, &new.rules),
        |model| &model.name,
        rule,
        &mut changes,
    );
    let names = |file: &RuleSetFile| -> Vec<String> {
        file.rules.iter().map(|rule| rule.model.name.clone()).collect()
    };
    let moved = moved(&names(old), &names(new)).into_iter().filter_map(|name| {
        let index = new.rules.iter().position(|rule| rule.model.name == name)?;
        Some(Change {
            kind: "rule",
            name,
            what: What::Moved {
                place: place(&new.rules, index),
            },
        })
    });
    changes.extend(moved);
    changes
}

fn compare<T: Serialize>(
    kind: &'static str,
    (old, new): (&[Located<T>], &[Located<T>]),
    name: impl Fn(&T) -> &String,
    whole: impl Fn(&[Located<T>], usize) -> Whole,
    changes: &mut Vec<Change>,
) {
    let before: HashMap<&String, &T> = old
        .iter()
        .map(|found| (name(&found.model), &found.model))
        .collect();
    let after: HashSet<&String> = new.iter().map(|found| name(&found.model)).collect();
    let mut push = |name: &String, what| {
        changes.push(Change {
            kind,
            name: name.clone(),
            what,
        });
    };
    for (index, found) in old.iter().enumerate() {
        let name = name(&found.model);
        if !after.contains(name) {
            push(name, What::Removed(whole(old, index)));
        }
    }
    for (index, found) in new.iter().enumerate() {
        let name = name(&found.model);
        match before.get(name) {
            None => push(name, What::Added(whole(new, index))),
            Some(old) => {
                let keys = keys(*old, &found.model);
                if !keys.is_empty() {
                    push(name, What::Changed { keys });
                }
            }
        }
    }
}

/// All of what rules name: its keys.
fn object<T: Serialize>(all: &[Located<T>], index: usize) -> Whole {
    let content = all
        .get(index)
        .map_or_else(Default::default, |found| fields(&found.model));
    let keys = content.iter().filter(|(key, _)| *key != "name");
    Whole {
        place: None,
        lines: keys.map(|(key, value)| format!("{key}: {value}")).collect(),
        content,
    }
}

/// All of a rule: what `rules show` says of it, and where it stands.
fn rule(all: &[Located<RuleModel>], index: usize) -> Whole {
    let words = all.get(index).map(|found| words::of(&found.model));
    let columns = words::HEAD.iter().zip(words.into_iter().flatten());
    let said = columns.filter(|(_, words)| !words.is_empty());
    let said: Vec<_> = said
        .map(|(head, words)| format!("{} {words}", head.to_lowercase()))
        .collect();
    Whole {
        place: Some(place(all, index)),
        lines: vec![said.join(", ")],
        ..object(all, index)
    }
}

fn place(all: &[Located<RuleModel>], index: usize) -> Place {
    let before = index.checked_sub(1).and_then(|before| all.get(before));
    Place {
        number: index + 1,
        after: before.map(|found| found.model.name.clone()),
    }
}

/// Keys whose values differ.
fn keys<T: Serialize>(old: &T, new: &T) -> BTreeMap<String, (Value, Value)> {
    let (old, new) = (fields(old), fields(new));
    let all: HashSet<&String> = old.keys().chain(new.keys()).collect();
    let value = |object: &Map<String, Value>, key: &String| object.get(key).cloned().unwrap_or_default();
    let pairs = all
        .into_iter()
        .map(|key| (key.clone(), (value(&old, key), value(&new, key))));
    pairs.filter(|(_, (before, after))| before != after).collect()
}

fn fields<T: Serialize>(value: &T) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

/// The fewest names that had to move to make the old order the new one: all that are not in a longest run of names whose order
/// is the same in both.
fn moved(old: &[String], new: &[String]) -> Vec<String> {
    let place: HashMap<&String, usize> = old.iter().zip(0..).collect();
    let kept: Vec<(&String, usize)> = new
        .iter()
        .filter_map(|name| place.get(name).map(|place| (name, *place)))
        .collect();
    // Patience sorting: the top of each pile, and for each name the one below it in a longest run.
    let mut tops: Vec<usize> = Vec::new();
    let mut below: Vec<Option<usize>> = Vec::new();
    let old_place = |index: &usize| kept.get(*index).map_or(0, |(_, place)| *place);
    for (index, (_, place)) in kept.iter().enumerate() {
        let pile = tops.partition_point(|top| old_place(top) < *place);
        below.push(pile.checked_sub(1).and_then(|lower| tops.get(lower).copied()));
        match tops.get_mut(pile) {
            Some(top) => *top = index,
            None => tops.push(index),
        }
    }
    let mut stays = HashSet::new();
    let mut next = tops.last().copied();
    while let Some(index) = next {
        stays.insert(index);
        next = below.get(index).copied().flatten();
    }
    let moved = kept
        .iter()
        .enumerate()
        .filter(|(index, _)| !stays.contains(index));
    moved.map(|(_, (name, _))| (*name).clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = include_str!("../../../examples/rules.toml");

    fn parse(text: &str) -> RuleSetFile {
        RuleSetFile::parse("rules.toml", text).expect("right")
    }

    #[test]
    fn formats_do_not_differ() {
        let old = parse(OLD);
        let json = parse(&old.write(crate::config::Format::Json));
        assert_eq!(changes(&old, &json), []);
    }

    #[test]
    fn a_changed_key_is_shown_with_both_values() {
        let new = OLD.replace("destination_ports = 23", "destination_ports = 2323");
        let changes = changes(&parse(OLD), &parse(&new));
        let keys = BTreeMap::from([(
            "destination_ports".to_owned(),
            (serde_json::json!(["23"]), serde_json::json!(["2323"])),
        )]);
        assert_eq!(
            changes,
            [Change {
                kind: "rule",
                name: "no-telnet".into(),
                what: What::Changed { keys }
            }]
        );
    }

    #[test]
    fn only_what_moved_is_said_to_have_moved() {
        let names = |words: &str| words.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(moved(&names("a b c d"), &names("b c d a")), ["a"]);
        assert_eq!(moved(&names("a b c d"), &names("a x c b d")).len(), 1);
        assert_eq!(moved(&names("a b c"), &names("a c")), Vec::<String>::new());
    }
}
