//! An archive in the "newc" format of cpio, which the kernel unpacks as its first root file system
//! (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeSet;

use anyhow::{Context, Result};

const FILE: u32 = 0o100_000;
const FOLDER: u32 = 0o040_000;
/// Ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// An archive that grows.
#[derive(Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    folders: BTreeSet<String>,
    entries: u32,
}

impl Archive {
    /// Adds a program or a library, with the folders on its way.
    ///
    /// # Errors
    /// It is larger than the format holds (4 GiB).
    pub(super) fn file(&mut self, path: &str, content: &[u8]) -> Result<()> {
        let path = path.trim_start_matches('/');
        if let Some((folder, _)) = path.rsplit_once('/') {
            self.folder(folder)?;
        }
        self.entry(path, FILE | 0o755, content)
    }

    /// Adds a folder and those that it is in, unless they are there.
    ///
    /// # Errors
    /// None, with a path that is shorter than 4 GiB.
    pub(super) fn folder(&mut self, path: &str) -> Result<()> {
        let path = path.trim_start_matches('/');
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for folder in ends.filter_map(|end| path.get(..end)) {
            if self.folders.insert(folder.to_owned()) {
                self.entry(folder, FOLDER | 0o755, &[])?;
            }
        }
        Ok(())
    }

    /// The whole archive.
    ///
    /// # Errors
    /// None.
    pub(super) fn finish(mut self) -> Result<Vec<u8>> {
        self.entry(TRAILER, 0, &[])?;
        Ok(self.bytes)
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.entries += 1;
        let size = u32::try_from(content.len()).with_context(|| format!("{path} is too large"))?;
        let name_size = u32::try_from(path.len() + 1).with_context(|| path.to_owned())?;
        // inode, mode, owner, group, links, time, size, four numbers of devices, length of the name, checksum
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(path.bytes().chain([0]));
        self.pad();
        self.bytes.extend(content);
        self.pad();
        Ok(())
    }

    /// Names and contents begin at multiples of four.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `cpio -o -H newc` writes for a file `a` with `hi` in it, but for its number, time and device.
    #[test]
    fn a_file_is_written_as_cpio_does() {
        let mut archive = Archive::default();
        archive.file("a", b"hi").unwrap();
        let header =
            b"07070100000001000081ed000000000000000000000001000000000000000200000000000000000000000000000000\
                       0000000200000000a\0hi\0\0";
        assert_eq!(archive.bytes, header);
    }

    #[test]
    fn folders_come_before_what_is_in_them_and_once() {
        let mut archive = Archive::default();
        archive.file("/usr/lib/x", b"1").unwrap();
        archive.file("usr/lib/y", b"22222").unwrap();
        let bytes = archive.finish().unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let at = |name: &str| text.find(&format!("{name}\0")).unwrap();
        assert!(at("usr") < at("usr/lib") && at("usr/lib") < at("usr/lib/x"));
        assert_eq!(text.matches("usr/lib\0").count(), 1);
        assert!(text.contains("TRAILER!!!\0"));
        assert_eq!(bytes.len() % 4, 0);
    }
}
