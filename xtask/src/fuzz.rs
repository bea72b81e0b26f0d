//! `cargo xtask fuzz`: the targets of `tests/fuzz`, coverage-guided, starting from their corpora and adding to them.
//!
//! Without a sanitizer: no crate of the packet path and the protocols has unsafe code that one would watch, and so the
//! stable toolchain will do. Overflow checks and debug assertions are on.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{cmd, paths, setup};

const CARGO_FUZZ: &str = "0.13.2";
/// Longest input, octets: a session or a few frames of full size.
const INPUT_MAX: u32 = 8192;
/// An input that takes longer is a finding.
const SLOW_S: u32 = 10;

/// Fuzzes one target, or each in turn, for so many seconds; to minimize drops, after that, what of a corpus reaches
/// nothing that the rest does not.
///
/// # Errors
/// When an input fails, with the file that holds it; or when the fuzzer cannot be built.
pub fn run(only: Option<&str>, seconds: u32, minimize: bool) -> Result<()> {
    let targets = targets()?;
    if let Some(name) = only.filter(|name| !targets.iter().any(|target| target == name)) {
        bail!("no target {name:?}; there are {}", targets.join(", "));
    }
    setup::ensure()?;
    install()?;
    let mut failed = Vec::new();
    for target in targets
        .iter()
        .filter(|target| only.is_none_or(|only| only == *target))
    {
        println!("== {target}");
        let limits = [
            format!("-max_total_time={seconds}"),
            format!("-max_len={INPUT_MAX}"),
            format!("-timeout={SLOW_S}"),
        ];
        let mut outcome = cmd::stream(cargo_fuzz("run", target).arg("--").args(limits));
        if minimize && outcome.is_ok() {
            outcome = cmd::stream(&mut cargo_fuzz("cmin", target));
        }
        if let Err(error) = outcome {
            println!("{error:#}");
            failed.push(target.as_str());
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    bail!(
        "failed: {}. The inputs are in {}; mend the fault, then move each into the target's corpus",
        failed.join(", "),
        folder().join("artifacts").display()
    )
}

fn cargo_fuzz(verb: &str, target: &str) -> Command {
    let mut command = cmd::cmd("cargo", ["fuzz", verb, "--sanitizer", "none"]);
    command.arg("--fuzz-dir").arg(folder());
    command.arg("--target-dir").arg(paths::target().join("fuzz"));
    command.arg(target).current_dir(paths::repository());
    command
}

/// The names of the programs in `tests/fuzz/targets`.
fn targets() -> Result<Vec<String>> {
    let programs = folder().join("targets");
    let mut names = Vec::new();
    for program in fs::read_dir(&programs).with_context(|| programs.display().to_string())? {
        let program = program?.path();
        names.extend(
            program
                .file_stem()
                .map(|name| name.to_string_lossy().into_owned()),
        );
    }
    names.sort();
    Ok(names)
}

fn folder() -> PathBuf {
    paths::repository().join("tests/fuzz")
}

/// Only this chore needs it, so `setup` does not install it.
fn install() -> Result<()> {
    let printed = cmd::read(&mut cmd::cmd("cargo-fuzz", ["--version"])).unwrap_or_default();
    if printed.split_whitespace().any(|word| word == CARGO_FUZZ) {
        return Ok(());
    }
    println!("installing cargo-fuzz {CARGO_FUZZ} (compiles for a minute or two)");
    cmd::stream(&mut cmd::cmd(
        "cargo",
        [
            "install",
            "cargo-fuzz",
            "--version",
            CARGO_FUZZ,
            "--locked",
            "--force",
        ],
    ))
}
