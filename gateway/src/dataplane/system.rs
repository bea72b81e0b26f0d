//! What the daemon asks of the system besides BPF: forwarding, limits, the BPF file system, clocks, addresses.

use std::fs;
use std::future::Future;
use std::io;
use std::path::Path;

use gateway_common::abi::limit;
use nix::ifaddrs::getifaddrs;
use nix::mount::{MsFlags, mount};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use rtnetlink::Handle;
use rtnetlink::packet_route::link::LinkAttribute;

use super::error::DataplaneError;

/// Monotonic seconds: the clock that flows and mappings are stamped with.
#[must_use]
pub fn monotonic_s() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_or(0, |now| now.tv_sec().unsigned_abs())
}

/// Milliseconds of the same clock.
pub(crate) fn monotonic_ms() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_or(0, |now| {
        now.tv_sec().unsigned_abs() * 1000 + now.tv_nsec().unsigned_abs() / 1_000_000
    })
}

/// Keys are in this process's memory: no core dump, no debugger of another user.
///
/// # Errors
/// [`DataplaneError::Call`].
pub(crate) fn forbid_core_dumps() -> Result<(), DataplaneError> {
    prctl::set_dumpable(false).map_err(call("forbid core dumps"))?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(call("set the core size limit to 0"))
}

/// Forbids core dumps, and lets frame memory be locked memory.
///
/// # Errors
/// [`DataplaneError::Call`].
pub(crate) fn harden() -> Result<(), DataplaneError> {
    forbid_core_dumps()?;
    lift_memlock().map_err(call("raise the limit of locked memory"))
}

fn call(what: &'static str) -> impl FnOnce(nix::Error) -> DataplaneError {
    move |error| DataplaneError::Call {
        what,
        source: error.into(),
    }
}

/// No limit, or as much as this process may have; whether that is enough shows when frame memory is registered.
fn lift_memlock() -> nix::Result<()> {
    let unlimited = nix::libc::RLIM_INFINITY;
    if setrlimit(Resource::RLIMIT_MEMLOCK, unlimited, unlimited).is_ok() {
        return Ok(());
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    tracing::warn!(
        octets = hard,
        "locked memory stays limited: CAP_SYS_RESOURCE is missing"
    );
    setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard)
}

/// The kernel must not forward between our interfaces: what XDP passes is for this host alone. Whether it did.
///
/// # Errors
/// [`DataplaneError::System`].
pub(crate) fn forwarding_off(interface: &str) -> Result<bool, DataplaneError> {
    let mut was_on = false;
    for family in ["ipv4", "ipv6"] {
        let path = format!("/proc/sys/net/{family}/conf/{interface}/forwarding");
        if fs::read_to_string(&path).is_ok_and(|set| set.trim() != "0") {
            write(&path, "0")?;
            was_on = true;
        }
    }
    Ok(was_on)
}

/// The kernel must not speak on a link by itself: no neighbour discovery, no multicast reports.
///
/// # Errors
/// [`DataplaneError::System`].
pub(crate) fn ipv6_off(interface: &str) -> Result<(), DataplaneError> {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
    if Path::new(&path).exists() {
        write(&path, "1")?;
    }
    Ok(())
}

/// Writes a file of `/proc`.
pub(crate) fn write(path: &str, value: &str) -> Result<(), DataplaneError> {
    fs::write(path, value).map_err(|source| DataplaneError::System {
        path: path.into(),
        source,
    })
}

/// Makes `directory` and sees that it lies on a BPF file system.
///
/// # Errors
/// [`DataplaneError::System`].
pub(crate) fn ensure_bpffs(directory: &Path) -> Result<(), DataplaneError> {
    let fault = |source| DataplaneError::System {
        path: directory.to_owned(),
        source,
    };
    // `/sys/fs/bpf` is there and often not mounted: making a directory below it fails until it is.
    let parent = Path::new("/sys/fs/bpf");
    if directory.starts_with(parent) && !is_bpffs(parent) {
        mount_bpffs(parent).map_err(fault)?;
    }
    fs::create_dir_all(directory).map_err(fault)?;
    if is_bpffs(directory) {
        return Ok(());
    }
    mount_bpffs(directory).map_err(fault)
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

fn mount_bpffs(at: &Path) -> io::Result<()> {
    tracing::info!(path = %at.display(), "mounting a BPF file system");
    mount(Some("bpf"), at, Some("bpf"), MsFlags::empty(), Some("mode=0700")).map_err(io::Error::from)
}

/// Pins the calling thread to a CPU.
pub(crate) fn pin_to_cpu(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// The CPUs that this process may run on.
pub(crate) fn allowed_cpus() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else {
        return Vec::new();
    };
    (0..CpuSet::count())
        .filter(|&cpu| set.is_set(cpu).unwrap_or(false))
        .collect()
}

/// The index of an interface, if it is in this namespace.
pub(crate) fn interface_index(name: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(name).ok()
}

/// Addresses of an interface, in the order in which the kernel names them; of IPv6 that is the newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// Zero if it has none.
    pub(crate) mac: [u8; 6],
    pub(crate) ipv4: Vec<[u8; 4]>,
    /// Without those that are link-local.
    pub(crate) ipv6: Vec<[u8; 16]>,
}

/// Reads the addresses of an interface.
pub(crate) fn addresses(name: &str) -> io::Result<Addresses> {
    let mut found = Addresses::default();
    for interface in getifaddrs()?.filter(|interface| interface.interface_name == name) {
        let Some(address) = interface.address else {
            continue;
        };
        if let Some(mac) = address.as_link_addr().and_then(|link| link.addr()) {
            found.mac = mac;
        } else if let Some(ipv4) = address.as_sockaddr_in().map(|socket| socket.ip()) {
            found.ipv4.push(ipv4.octets());
        } else if let Some(ipv6) = address.as_sockaddr_in6().map(|socket| socket.ip())
            && !ipv6.is_unicast_link_local()
        {
            found.ipv6.push(ipv6.octets());
        }
    }
    Ok(found)
}

/// Addresses of one family that the packet path serves: the first, and those beside it. Free places are zero, after all others.
pub(crate) type Places<const N: usize> = [[u8; N]; 1 + limit::FURTHER_ADDRESSES_MAX];

/// Gives addresses that were found their places; those that get none are answered beside. What is served and still there
/// goes before, in its order: sites are connected to it.
pub(crate) fn places<const N: usize>(
    served: impl IntoIterator<Item = [u8; N]>,
    found: &[[u8; N]],
) -> (Places<N>, Vec<[u8; N]>) {
    let mut all = Vec::new();
    for address in served.into_iter().chain(found.iter().copied()) {
        if found.contains(&address) && !all.contains(&address) {
            all.push(address);
        }
    }
    let mut places = [[0; N]; 1 + limit::FURTHER_ADDRESSES_MAX];
    let surplus = all.split_off(all.len().min(places.len()));
    for (place, address) in places.iter_mut().zip(all) {
        *place = address;
    }
    (places, surplus)
}

/// The largest packet that an interface takes.
///
/// # Errors
/// What netlink says.
pub(crate) fn mtu(index: u32) -> Result<u32, String> {
    block_on_netlink(move |handle| async move {
        let answers = handle.link().get().match_index(index).execute();
        futures_util::pin_mut!(answers);
        let answer = futures_util::StreamExt::next(&mut answers).await;
        let link = answer
            .ok_or("no such interface")?
            .map_err(|error| error.to_string())?;
        let mtu = link.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(mtu),
            _ => None,
        });
        mtu.ok_or_else(|| "the kernel names no MTU".to_owned())
    })
}

/// Runs netlink requests to their end, whether or not the caller is inside an async runtime.
pub(crate) fn block_on_netlink<T, F, W>(work: W) -> Result<T, String>
where
    W: FnOnce(Handle) -> F + Send,
    F: Future<Output = Result<T, String>>,
    T: Send,
{
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .build()
                .map_err(|error| error.to_string())?;
            runtime.block_on(async {
                let (connection, handle, _) =
                    rtnetlink::new_connection().map_err(|error| error.to_string())?;
                let driver = tokio::spawn(connection);
                let outcome = work(handle).await;
                driver.abort();
                outcome
            })
        });
        run.join()
            .unwrap_or_else(|_| Err("netlink thread panicked".to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: the kernel names the newest IPv6 address first, and with a sixth the oldest lost its place, which sites are
    /// connected to.
    #[test]
    fn an_address_that_is_served_keeps_its_place_while_it_is_there() {
        let named = |numbers: &[u8]| numbers.iter().map(|number| [*number; 16]).collect::<Vec<_>>();
        let placed = |served: &[u8], found: &[u8]| {
            let (places, surplus) = places(named(served), &named(found));
            (places.map(|[first, ..]| first), surplus)
        };
        assert_eq!(
            placed(&[0; 5], &[2, 1]),
            ([2, 1, 0, 0, 0], vec![]),
            "at the start"
        );
        assert_eq!(placed(&[2, 1, 0, 0, 0], &[3, 2, 1]).0, [2, 1, 3, 0, 0]);
        let full = [1, 2, 3, 4, 5];
        assert_eq!(placed(&full, &[6, 5, 4, 3, 2, 1]), (full, named(&[6])));
        assert_eq!(placed(&full, &[7, 6, 5, 4, 2, 1]), ([1, 2, 4, 5, 7], named(&[6])));
        assert_eq!(
            placed(&full, &[6, 5, 4, 3, 2]),
            ([2, 3, 4, 5, 6], vec![]),
            "whatever is first is there"
        );
        assert_eq!(placed(&full, &[]), ([0; 5], vec![]));
        assert_eq!(
            placed(&[0; 5], &[1, 1, 2]),
            ([1, 2, 0, 0, 0], vec![]),
            "with two prefix lengths"
        );
    }
}
