//! Running other programs: one place that says what failed and what it printed.

use std::ffi::OsStr;
use std::io::Write;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// A command with its arguments.
pub fn cmd<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    if program == "cargo" {
        // `cargo run` has set it for this program. ring's build script asks for it and runs again when it differs, so that
        // what was built outside would be built anew here, with all that depends on it, and again the next time outside.
        command.env_remove("CARGO_MANIFEST_DIR");
    }
    command
}

/// Runs `command` with its output captured. The error holds the command line, its exit status and what it printed.
pub fn output(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null());
    let result = command
        .output()
        .with_context(|| format!("cannot start {}", line(command)))?;
    check(command, result)
}

/// Runs `command` and returns its standard output as text.
pub fn read(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&output(command)?.stdout).into_owned())
}

/// Runs `command` and returns its standard output as text; what it says on the other goes to the terminal.
pub fn read_beside_terminal(command: &mut Command) -> Result<String> {
    output(command.stderr(Stdio::inherit()))
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs `command` with `input` on its standard input.
pub fn feed(command: &mut Command, input: &str) -> Result<Output> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {}", line(command)))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(input.as_bytes())
            .with_context(|| format!("writing to {}", line(command)))?;
    }
    let result = child.wait_with_output()?;
    check(command, result)
}

/// Runs `command` with the terminal as its output.
pub fn stream(command: &mut Command) -> Result<()> {
    command.stdin(Stdio::null());
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", line(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", line(command));
    }
    Ok(())
}

/// The command line, as a person would type it.
#[must_use]
pub fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

fn check(command: &Command, result: Output) -> Result<Output> {
    if result.status.success() {
        return Ok(result);
    }
    let printed = [result.stderr, result.stdout].concat();
    bail!(
        "{} failed: {}\n{}",
        line(command),
        result.status,
        String::from_utf8_lossy(&printed).trim_end()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_command_and_what_it_printed() {
        let error = read(&mut cmd("sh", ["-c", "echo broken >&2; exit 3"]))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("exit status: 3") && error.contains("broken"),
            "{error}"
        );
    }

    #[test]
    fn input_reaches_the_program() {
        let result = feed(&mut cmd("cat", [""; 0]), "ping").unwrap();
        assert_eq!(result.stdout, b"ping");
    }
}
