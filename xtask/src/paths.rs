//! Where things lie: the repository, the build folder, the programs built from it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The top folder of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// The build folder: `CARGO_TARGET_DIR`, else `target` in the repository.
#[must_use]
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from)
}

/// The user's home folder.
#[must_use]
pub fn home() -> Option<PathBuf> {
    std::env::var_os("HOME").map(PathBuf::from)
}

/// What `setup` makes for itself lies here, outside of the build folder: `cargo clean` does not remove it.
#[must_use]
pub fn cache() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(home()?.join(".cache")));
    cache.unwrap_or_else(target).join("gateway-xtask")
}

/// A program of this workspace: `GATEWAY_BIN` for the gateway, else the one built with the running program's profile.
///
/// # Errors
/// When it was not built, with the command that builds it.
pub fn built_program(name: &str) -> Result<PathBuf> {
    if name == "gateway"
        && let Some(path) = std::env::var_os("GATEWAY_BIN")
    {
        return Ok(PathBuf::from(path));
    }
    let exe = std::env::current_exe().context("the path of the running program")?;
    // A test binary lies in `deps/`, one folder below the programs.
    let found = exe
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    match found {
        Some(path) => Ok(path),
        None => bail!("{name} is not built: run `cargo build --package {name}` first"),
    }
}
