//! Maps of the gateway's process, as the kernel has them: what is in them, and how to have it refuse.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapInfo};
use gateway_common::abi::sa::{SaInbound, SaOutboundKey, SaPath, SaPathKey};
use gateway_common::abi::{limit, map};

use super::*;

/// `BPF_MAP_FREEZE` of `bpf(2)`.
const BPF_MAP_FREEZE: i64 = 22;
/// Sites that nobody is, for entries of others.
const NOBODY: u32 = 1_000_000;

/// A map of this process, by its name.
fn own_map(name: &str) -> MapData {
    let number = |info: String| {
        let id = info.lines().find_map(|line| line.strip_prefix("map_id:"))?;
        id.trim().parse().ok()
    };
    let files = fs::read_dir("/proc/self/fdinfo").unwrap();
    let infos = files.filter_map(|file| fs::read_to_string(file.ok()?.path()).ok());
    let is_named = |id: &u32| MapInfo::from_id(*id).is_ok_and(|info| info.name_as_str() == Some(name));
    let id = infos.filter_map(number).find(is_named);
    MapData::from_id(id.unwrap_or_else(|| panic!("no map {name}"))).unwrap()
}

/// From now on the kernel refuses whatever changes the map.
pub(crate) fn freeze(name: &str) {
    let map = own_map(name);
    freeze_fd(map.fd().as_fd()).unwrap();
}

#[allow(unsafe_code, reason = "nobody has a safe call for it")]
fn freeze_fd(map: BorrowedFd<'_>) -> std::io::Result<()> {
    // `union bpf_attr` of this command: the file descriptor, and no more is read than is given.
    let attributes = [map.as_raw_fd()];
    // SAFETY: the pointer is of an array that lives on, and its length in octets is the one given.
    let answer = unsafe {
        nix::libc::syscall(
            nix::libc::SYS_bpf,
            BPF_MAP_FREEZE,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    };
    match answer {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Ways of sites that there are not, until the map takes no more.
pub(crate) fn fill_routes() -> usize {
    let mut routes =
        LpmTrie::<_, SaOutboundKey, u32>::try_from(Map::LpmTrie(own_map(map::SA_ROUTES))).unwrap();
    let key = |number: u32| {
        let data = SaOutboundKey {
            site: (NOBODY + number).to_be_bytes(),
            destination: [0; 4],
        };
        Key::new(32, data)
    };
    let filled = (0..=limit::SAS_MAX).find(|number| routes.insert(&key(*number), 0, 0).is_err());
    filled.unwrap() as usize
}

/// Of the SAs of these sites: how many `wan` passes, of how many ICMP errors are heeded, and ways to how many networks.
pub(crate) fn entries(sites: &[u32]) -> String {
    let inbound = Array::<_, SaInbound>::try_from(Map::Array(own_map(map::SA_INBOUND))).unwrap();
    let passed = sites.iter().filter(|site| {
        let spi = spi_to_gateway(**site).to_be_bytes();
        inbound.get(&SaInbound::place(spi), 0).unwrap().spi == spi
    });
    let paths = HashMap::<_, SaPathKey, SaPath>::try_from(Map::HashMap(own_map(map::SA_PATHS))).unwrap();
    let routes = LpmTrie::<_, SaOutboundKey, u32>::try_from(Map::LpmTrie(own_map(map::SA_ROUTES))).unwrap();
    let keys = routes
        .keys()
        .map(|key| u32::from_be_bytes(key.unwrap().data().site));
    format!(
        "inbound={} paths={} routes={}",
        passed.count(),
        paths.keys().count(),
        keys.filter(|site| *site < NOBODY).count()
    )
}
