//! What test programs leave on the machine when they are killed: the gateway's unit tests have network namespaces and a BPF
//! file system each, named after their process.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

/// How all of their names begin.
const PREFIX: &str = "dph-";

/// Removes what belongs to processes that are gone. What cannot be removed stays: it is in nobody's way.
pub(crate) fn sweep() {
    for name in names("/run/netns") {
        let _stays = Command::new("ip").args(["netns", "del", &name]).status();
    }
    for name in names("/run") {
        let folder = Path::new("/run").join(name);
        // Nothing of what is mounted there is removed: the folder below it is empty.
        let _unmounted = Command::new("umount").arg(folder.join("bpf")).output();
        if fs::remove_dir(folder.join("bpf")).is_ok() {
            let _stays = fs::remove_dir_all(&folder);
        }
    }
}

/// Of what processes left in a folder that are gone.
fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().to_str().map(str::to_owned));
    let is_left = |name: &String| owner(name).is_some_and(|owner| !Path::new("/proc").join(owner).exists());
    names.filter(is_left).collect()
}

/// The process that the name tells of: `dph-PID-NUMBER`, `dph-NODE-PID-NUMBER` or `dph-nexthop-NODE-TEST-PID`.
fn owner(name: &str) -> Option<&OsStr> {
    let words: Vec<_> = name.strip_prefix(PREFIX)?.split('-').collect();
    let owner = match words.as_slice() {
        ["nexthop", .., owner] | [.., owner, _] => *owner,
        _ => return None,
    };
    owner.parse::<u32>().is_ok().then_some(OsStr::new(owner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_whose_it_is() {
        for name in ["dph-12345-0", "dph-site-12345-3", "dph-nexthop-near-ready-12345"] {
            assert_eq!(owner(name), Some(OsStr::new("12345")), "{name}");
        }
        for name in ["gwlab-site1", "dph-12345", "dph-site-x-1", "dph-"] {
            assert_eq!(owner(name), None, "{name}");
        }
    }
}
