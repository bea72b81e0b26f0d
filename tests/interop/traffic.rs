//! Traffic through a tunnel in both directions, small enough to follow every rekey.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};
use xtask::cmd;
use xtask::lab::center::{blob_digest, curl, url};
use xtask::lab::state;
use xtask::lab::topology::{Node, SITE_ROUTER, Site};

/// Bytes each way: several packets of full size.
const SIZE: usize = 20_000;
const LIMIT_S: u32 = 10;

/// What goes each way, with its SHA-256.
pub(crate) struct Traffic {
    upload: PathBuf,
    upload_digest: String,
    download_digest: String,
}

impl Traffic {
    /// Makes the data, in a lab that is up.
    pub(crate) fn ready() -> Result<Self> {
        for site in Site::BOTH {
            small_segments(site.terminal())?;
        }
        let upload = state::path("upload");
        let bytes: Vec<u8> = (0..SIZE).map(|i| (i * i / 7) as u8).collect();
        fs::write(&upload, bytes)?;
        Ok(Self {
            upload_digest: digest(&upload)?,
            download_digest: blob_digest(SIZE)?,
            upload,
        })
    }

    /// Fetches from the center and sends to it; both must arrive whole.
    pub(crate) fn both_ways(&self, terminal: Node) -> Result<()> {
        let download = state::path(&format!("{terminal}-download"));
        let mut command = curl(terminal, &url(&format!("/blob?bytes={SIZE}")), LIMIT_S);
        command.arg("--fail-early").arg("--output").arg(&download);
        // What stands before --next does not hold for what comes after it.
        command.args(["--next", "--silent", "--show-error", "--fail", "--max-time"]);
        command.args([
            &LIMIT_S.to_string(),
            "--data-binary",
            &format!("@{}", self.upload.display()),
        ]);
        let arrived = cmd::read(command.arg(url("/upload")))?;
        ensure!(
            arrived.trim() == self.upload_digest,
            "the upload arrived as {arrived}"
        );
        let arrived = digest(&download)?;
        ensure!(
            arrived == self.download_digest,
            "the download arrived as {arrived}"
        );
        Ok(())
    }
}

/// The server sends what fits each tunnel from the beginning. A "fragmentation needed" for it would be put on the wire
/// by XDP_TX, which a veth end without an XDP program, as the server's is, hears only when something else wakes it.
fn small_segments(terminal: Node) -> Result<()> {
    let mut command = Command::new("ip");
    command.args([
        "-netns",
        &terminal.namespace(),
        "route",
        "change",
        "default",
        "via",
    ]);
    cmd::output(command.args([SITE_ROUTER, "mtu", "1280"]))?;
    Ok(())
}

fn digest(file: &PathBuf) -> Result<String> {
    let printed = cmd::read(Command::new("sha256sum").arg(file))?;
    Ok(printed.split_whitespace().next().unwrap_or_default().to_owned())
}
