//! What the documentation says to type is what the program knows: every verb, and every option of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

/// Where commands stand: README.md, and all of gateway/docs.
fn documents() -> Result<Vec<PathBuf>> {
    let gateway = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = vec![gateway.join("../README.md"), gateway.join("RFC.md")];
    for file in fs::read_dir(gateway.join("docs"))? {
        found.push(file?.path());
    }
    found.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    Ok(found)
}

/// Commands of a text: lines of its shell blocks, and what stands between single backticks.
fn commands(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut fence: Option<&str> = None;
    for line in text.lines() {
        if let Some(language) = line.strip_prefix("```") {
            fence = match fence {
                Some(_) => None,
                None => Some(language),
            };
            continue;
        }
        match fence {
            Some("sh") => found.push(line.to_owned()),
            Some(_) => {}
            None => found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned)),
        }
    }
    found
}

/// The words after the program's name, without what a shell or a reader takes: comments, pipes, brackets of what may be left out.
fn words(command: &str) -> Option<Vec<String>> {
    // A `#` within a word is of an SA's name.
    let command = command.split(" #").next()?.split(['|', ';']).next()?;
    let (program, words) = command.trim().split_once(' ')?;
    let is_ours = program == "gateway" || program.ends_with("/gateway");
    let words = words.replace(['[', ']'], " ");
    is_ours.then(|| words.split_whitespace().map(str::to_owned).collect())
}

/// What the program says of itself, by verbs.
#[derive(Default)]
struct Helps(BTreeMap<Vec<String>, String>);

impl Helps {
    fn of(&mut self, verbs: &[String]) -> Result<&str> {
        if !self.0.contains_key(verbs) {
            let mut command = Command::new(env!("CARGO_BIN_EXE_gateway"));
            let output = command.args(verbs).arg("--help").output()?;
            ensure!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            self.0.insert(verbs.to_vec(), String::from_utf8(output.stdout)?);
        }
        self.0.get(verbs).map(String::as_str).context("a help")
    }

    /// Verbs below these, if they are not the last.
    fn below(&mut self, verbs: &[String]) -> Result<Vec<String>> {
        let help = self.of(verbs)?;
        let Some((_, commands)) = help.split_once("Commands:\n") else {
            return Ok(Vec::new());
        };
        let lines = commands.lines().take_while(|line| line.starts_with("  "));
        let names = lines.filter(|line| !line.starts_with("   "));
        Ok(names
            .filter_map(|line| line.split_whitespace().next())
            .map(str::to_owned)
            .collect())
    }

    /// Whether the program would understand these words.
    fn know(&mut self, words: &[String]) -> Result<()> {
        let mut verbs: Vec<String> = Vec::new();
        let mut options = Vec::new();
        let mut is_value = false;
        for word in words {
            if word.starts_with("--") {
                options.push(word.as_str());
                is_value = true;
                continue;
            }
            let below = self.below(&verbs)?;
            if below.contains(word) {
                verbs.push(word.clone());
            } else if !below.is_empty() && !is_value && word != "..." {
                bail!("`gateway {}` has no {word:?}", verbs.join(" "));
            }
            is_value = false;
        }
        let help = self.of(&verbs)?;
        for option in options {
            let name = option.split('=').next().unwrap_or(option);
            let is_there = help
                .split(|letter: char| letter.is_whitespace() || ",<>".contains(letter))
                .any(|word| word == name);
            ensure!(is_there, "`gateway {}` has no {name}", verbs.join(" "));
        }
        Ok(())
    }
}

#[test]
fn every_command_of_the_documentation_is_one_that_the_program_knows() {
    let mut helps = Helps::default();
    let (mut checked, mut wrong) = (0, Vec::new());
    for document in documents().unwrap() {
        let text = fs::read_to_string(&document).unwrap();
        for command in commands(&text) {
            let Some(words) = words(&command) else { continue };
            checked += 1;
            if let Err(error) = helps.know(&words) {
                wrong.push(format!("{}: {command}: {error:#}", document.display()));
            }
        }
    }
    assert!(checked > 60, "only {checked} commands were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_verb_or_an_option_that_is_not_there_is_noticed() {
    let text = "Ask `gateway rules shew` or `gateway status`.\n```sh\ntarget/debug/gateway --json sa list  # all\ngateway nat who 10.0.0.1 --when now\n```\n```toml\ngateway = 1\n```\n";
    let mut helps = Helps::default();
    let known: Vec<_> = commands(text)
        .iter()
        .filter_map(|command| words(command))
        .map(|words| helps.know(&words).is_ok())
        .collect();
    assert_eq!(known, [false, true, true, false]);
}

/// The unit leaves the gateway few folders to write to: all that the example's keys name must be among them, those too that
/// are commented out.
#[test]
fn the_unit_lets_the_gateway_write_what_the_example_names() -> Result<()> {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let unit = fs::read_to_string(examples.join("gateway.service"))?;
    let example = fs::read_to_string(examples.join("gateway.toml"))?;
    let folders = [
        ("StateDirectory=", "/var/lib/"),
        ("RuntimeDirectory=", "/run/"),
        ("LogsDirectory=", "/var/log/"),
    ];
    let folders = folders.into_iter().flat_map(|(key, root)| {
        let lines = unit.lines().filter_map(move |line| line.strip_prefix(key));
        lines.map(move |name| Path::new(root).join(name))
    });
    let folders: Vec<PathBuf> = folders.collect();
    let paths = example
        .split('"')
        .filter(|text| text.starts_with("/var/") || text.starts_with("/run/"));
    let paths: Vec<&str> = paths.collect();
    ensure!(paths.len() >= 3, "{paths:?}");
    for path in paths {
        let is_there = folders.iter().any(|folder| Path::new(path).starts_with(folder));
        ensure!(is_there, "{path} is in none of {folders:?}");
    }
    Ok(())
}
