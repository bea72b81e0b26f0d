//! A packaged kernel made ready for a guest: unpacked once, so that the guest need not do it at each start, and with its
//! modules in the order in which they can be loaded.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::cmd;

/// Offsets in the setup header of a bzImage (Linux, Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header").
mod header {
    pub(super) const SETUP_SECTORS: usize = 0x1f1;
    pub(super) const MAGIC: usize = 0x202;
    pub(super) const PAYLOAD_OFFSET: usize = 0x248;
    pub(super) const PAYLOAD_LENGTH: usize = 0x24c;
}

const SECTOR: usize = 512;
/// What a compressed kernel begins with, and what unpacks it.
const COMPRESSIONS: [(&[u8], &str); 3] = [
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
    (&[0xfd, b'7', b'z', b'X', b'Z'], "xz"),
    (&[0x1f, 0x8b], "gzip"),
];

/// Unpacks the kernel in a bzImage to a file that QEMU starts directly.
///
/// # Errors
/// It is no bzImage, or compressed in another way.
pub(super) fn unpack(image: &Path, vmlinux: &Path) -> Result<()> {
    let bytes = fs::read(image).with_context(|| image.display().to_string())?;
    let payload = payload(&bytes).with_context(|| image.display().to_string())?;
    let (_, program) = COMPRESSIONS
        .into_iter()
        .find(|(magic, _)| payload.starts_with(magic))
        .with_context(|| format!("{}: compressed in an unknown way", image.display()))?;
    let packed = vmlinux.with_extension("packed");
    fs::write(&packed, payload).with_context(|| packed.display().to_string())?;
    let kernel = decompress(program, &packed)?;
    fs::remove_file(&packed)?;
    ensure!(
        kernel.starts_with(b"\x7fELF"),
        "{}: what is in it is no ELF file",
        image.display()
    );
    fs::write(vmlinux, kernel).with_context(|| vmlinux.display().to_string())
}

/// The compressed kernel in a bzImage, without its size in four octets that the build appends.
fn payload(image: &[u8]) -> Result<&[u8]> {
    let number = |at: usize| {
        let bytes = image.get(at..)?.first_chunk()?;
        usize::try_from(u32::from_le_bytes(*bytes)).ok()
    };
    if image.get(header::MAGIC..header::MAGIC + 4) != Some(b"HdrS") {
        bail!("no bzImage");
    }
    let sectors = match image.get(header::SETUP_SECTORS) {
        Some(0) | None => 4,
        Some(sectors) => usize::from(*sectors),
    };
    let bounds = number(header::PAYLOAD_OFFSET).zip(number(header::PAYLOAD_LENGTH));
    let (offset, length) = bounds.context("no payload")?;
    let packed = image
        .get((sectors + 1) * SECTOR + offset..)
        .and_then(|rest| rest.get(..length.checked_sub(4)?));
    packed.context("the payload is not whole")
}

fn decompress(program: &str, file: &Path) -> Result<Vec<u8>> {
    let mut command = cmd::cmd(program, ["--decompress", "--stdout"]);
    Ok(cmd::output(command.arg(file))?.stdout)
}

/// A module, unpacked.
pub(super) struct Module {
    /// With underscores, as `lsmod` has it.
    pub(super) name: String,
    /// The ELF file.
    pub(super) bytes: Vec<u8>,
}

/// These modules and all that they need, each after what it needs. Those that are built in are left out.
///
/// # Errors
/// One is neither in the folder nor built in.
pub(super) fn modules(folder: &Path, wanted: &[&str]) -> Result<Vec<Module>> {
    if wanted.is_empty() {
        // Newer packages of a kernel alone do not say what is built in.
        return Ok(Vec::new());
    }
    let mut files = BTreeMap::new();
    find(&folder.join("kernel"), &mut files)?;
    let built_in = fs::read_to_string(folder.join("modules.builtin"))
        .with_context(|| format!("{}/modules.builtin", folder.display()))?;
    let built_in: Vec<String> = built_in
        .lines()
        .map(|line| module_name(Path::new(line)))
        .collect();
    let mut loaded = Vec::new();
    for name in wanted {
        add(name, &files, &built_in, &mut loaded)?;
    }
    Ok(loaded)
}

fn add(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    built_in: &[String],
    loaded: &mut Vec<Module>,
) -> Result<()> {
    let name = name.replace('-', "_");
    if built_in.contains(&name) || loaded.iter().any(|module| module.name == name) {
        return Ok(());
    }
    let file = files
        .get(&name)
        .with_context(|| format!("the kernel has no module {name}"))?;
    let bytes = match file.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => decompress("xz", file)?,
        Some("zst") => decompress("zstd", file)?,
        Some("gz") => decompress("gzip", file)?,
        _ => fs::read(file)?,
    };
    // A circle cannot be: `depmod` refuses it when the package is built.
    for needed in depends(&bytes) {
        add(&needed, files, built_in, loaded)?;
    }
    loaded.push(Module { name, bytes });
    Ok(())
}

/// What a module says that it needs, in its section `.modinfo`: strings that end with a zero.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let start = module
        .windows(KEY.len())
        .position(|window| window == KEY)
        .map(|at| at + KEY.len());
    let list = start
        .and_then(|start| module.get(start..)?.split(|byte| *byte == 0).next())
        .unwrap_or_default();
    let names = String::from_utf8_lossy(list);
    names
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

fn find(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else {
            files.insert(module_name(&path), path);
        }
    }
    Ok(())
}

/// `kernel/net/xfrm/xfrm-algo.ko.xz` is `xfrm_algo`.
fn module_name(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let name = file.split_once(".ko").map_or(&*file, |(name, _)| name);
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(payload_length: u32) -> Vec<u8> {
        let mut image = vec![0; 3 * SECTOR];
        image[header::SETUP_SECTORS] = 1;
        image[header::MAGIC..header::MAGIC + 4].copy_from_slice(b"HdrS");
        image[header::PAYLOAD_OFFSET] = 16;
        image[header::PAYLOAD_LENGTH..header::PAYLOAD_LENGTH + 4]
            .copy_from_slice(&payload_length.to_le_bytes());
        image[2 * SECTOR + 16..2 * SECTOR + 24].copy_from_slice(b"packed!!");
        image
    }

    #[test]
    fn the_payload_of_a_bzimage_lies_where_its_header_says() {
        assert_eq!(payload(&image(12)).unwrap(), b"packed!!");
    }

    #[test]
    fn what_is_no_whole_bzimage_is_refused() {
        assert!(payload(b"short").is_err());
        assert!(payload(&image(100_000)).is_err());
        assert!(payload(&image(2)).is_err());
        let mut other = image(12);
        other[header::MAGIC] = b'X';
        assert!(payload(&other).is_err());
    }

    #[test]
    fn what_a_module_needs_is_read_from_it() {
        let module = b"\x7fELF..\0license=GPL\0depends=nf-tables,nf_conntrack\0name=nft_ct\0";
        assert_eq!(depends(module), ["nf-tables", "nf_conntrack"]);
        assert!(depends(b"\0license=GPL\0depends=\0name=veth\0").is_empty());
        assert!(depends(b"nothing").is_empty());
        assert_eq!(
            module_name(Path::new("kernel/net/xfrm/xfrm-algo.ko.xz")),
            "xfrm_algo"
        );
    }
}
