//! Large transfers between a terminal and the eligibility server, judged by SHA-256.

use std::fs;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use xtask::cmd;
use xtask::lab::center::{blob_digest, curl, url};
use xtask::lab::state;
use xtask::lab::topology::Node;

/// Bytes of a transfer.
pub const SIZE: usize = 10_000_000;
const LIMIT_S: u32 = 60;

/// Which way a transfer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Center to terminal.
    Download,
    /// Terminal to center.
    Upload,
}

impl Direction {
    /// Both ways.
    pub const BOTH: [Direction; 2] = [Direction::Download, Direction::Upload];
}

/// A transfer on its way.
#[derive(Debug)]
pub struct Transfer {
    child: Child,
    expected: String,
    direction: Direction,
    file: std::path::PathBuf,
}

impl Transfer {
    /// Starts it, at most `bytes_per_s` fast if given, so that something can happen in its middle.
    pub fn start(terminal: Node, direction: Direction, bytes_per_s: Option<u32>) -> Result<Self> {
        let file = state::path(&format!("{terminal}-{direction:?}"));
        let mut command = match direction {
            Direction::Download => curl(terminal, &url(&format!("/blob?bytes={SIZE}")), LIMIT_S),
            Direction::Upload => curl(terminal, &url("/upload"), LIMIT_S),
        };
        let expected = match direction {
            Direction::Download => {
                command.arg("--output").arg(&file);
                blob_digest(SIZE)?
            }
            Direction::Upload => {
                fs::write(&file, noise(SIZE))?;
                command.arg("--data-binary").arg(format!("@{}", file.display()));
                digest(&file)?
            }
        };
        if let Some(rate) = bytes_per_s {
            command.args(["--limit-rate", &rate.to_string()]);
        }
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting curl")?;
        Ok(Self {
            child,
            expected,
            direction,
            file,
        })
    }

    /// Whether it is still under way.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it broke off, or what arrived is not what was sent.
    pub fn finish(self) -> Result<()> {
        let Self {
            child,
            expected,
            direction,
            file,
        } = self;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!(
                "{direction:?} broke off: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        let arrived = match direction {
            Direction::Download => digest(&file)?,
            Direction::Upload => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        };
        ensure!(
            arrived == expected,
            "{direction:?}: SHA-256 {arrived} arrived, {expected} was sent"
        );
        Ok(())
    }
}

fn digest(file: &std::path::Path) -> Result<String> {
    let printed = cmd::read(Command::new("sha256sum").arg(file))?;
    printed
        .split_whitespace()
        .next()
        .map(str::to_owned)
        .context("sha256sum printed nothing")
}

/// Bytes without a pattern that a shifted or repeated segment could keep (xorshift64).
fn noise(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(size).collect()
}
