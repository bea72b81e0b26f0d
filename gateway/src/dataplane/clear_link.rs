//! The clear link: a veth pair of the gateway's own. Workers send decrypted packets into the first end; the `clear`
//! program receives them at the second. What it has for a site in turn it hands to the workers' sockets on the second end.
//!
//! Neither end has an address, and nothing but AF_XDP sends into it, so no frame on it has a partial checksum and
//! checksum offload needs no switching off.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute};
use rtnetlink::{Handle, LinkUnspec, LinkVeth};

use super::error::DataplaneError;
use super::ethtool;
use super::system;
use super::taken::TakenName;

/// Octets that the link carries: as much as one frame of a worker may hold.
pub(crate) const MTU: u32 = 3400;

/// The link's two ends, by name.
#[derive(Clone, Debug)]
pub(crate) struct ClearLink {
    /// Workers send into it.
    pub(crate) worker_end: String,
    /// The `clear` program receives from it; workers receive what it sends back.
    pub(crate) program_end: String,
    _taken: Arc<TakenName>,
}

impl ClearLink {
    /// Makes the pair with a queue for each worker, in place of one that a killed daemon left; not of one that another has.
    ///
    /// # Errors
    /// [`DataplaneError::ClearLink`].
    pub(crate) fn create(prefix: &str, queues: u32) -> Result<Self, DataplaneError> {
        let worker_end = format!("{prefix}0");
        let taken = TakenName::take(&worker_end).map_err(|reason| DataplaneError::ClearLink {
            name: worker_end.clone(),
            reason,
        })?;
        let link = Self {
            worker_end,
            program_end: format!("{prefix}1"),
            _taken: Arc::new(taken),
        };
        link.remove();
        let ends = link.clone();
        system::block_on_netlink(move |handle| async move { ends.add(&handle, queues).await })
            .map_err(|reason| link.fault(reason))?;
        for end in [&link.worker_end, &link.program_end] {
            // The kernel must not speak on the link: no neighbour discovery, no multicast reports.
            let path = format!("/proc/sys/net/ipv6/conf/{end}/disable_ipv6");
            if Path::new(&path).exists() {
                system::write(&path, "1")?;
            }
            system::forwarding_off(end)?;
        }
        let ends = link.clone();
        system::block_on_netlink(move |handle| async move { ends.up(&handle).await })
            .map_err(|reason| link.fault(reason))?;
        Ok(link)
    }

    /// Deletes the pair; that it is not there is as good.
    pub(crate) fn remove(&self) {
        let name = self.worker_end.clone();
        let Some(index) = system::interface_index(&name) else {
            return;
        };
        let removed = system::block_on_netlink(move |handle| async move {
            handle
                .link()
                .del(index)
                .execute()
                .await
                .map_err(|error| error.to_string())
        });
        if let Err(reason) = removed {
            tracing::warn!(link = %self.worker_end, %reason, "clear link stays behind");
        }
    }

    async fn add(&self, handle: &Handle, queues: u32) -> Result<(), String> {
        let peer = LinkUnspec::new_with_name(&self.program_end)
            .append_extra_attribute(LinkAttribute::NumTxQueues(queues))
            .append_extra_attribute(LinkAttribute::NumRxQueues(queues))
            .mtu(MTU)
            .build();
        let message = LinkVeth::new(&self.worker_end, &self.program_end)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .append_extra_attribute(LinkAttribute::NumTxQueues(queues))
            .append_extra_attribute(LinkAttribute::NumRxQueues(queues))
            .mtu(MTU)
            .build();
        let added = handle.link().add(message).execute().await;
        added.map_err(|error| error.to_string())
    }

    async fn up(&self, handle: &Handle) -> Result<(), String> {
        for end in [&self.worker_end, &self.program_end] {
            let index = system::interface_index(end).ok_or_else(|| format!("`{end}` is gone"))?;
            let message = LinkUnspec::new_with_index(index).up().build();
            let set = handle.link().set(message).execute().await;
            set.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn fault(&self, reason: String) -> DataplaneError {
        DataplaneError::ClearLink {
            name: self.worker_end.clone(),
            reason,
        }
    }
}

/// Receive queues of an interface.
///
/// sysfs knows how many are in use. It belongs to the network namespace that it was mounted in, which need not be this one: it
/// is believed only where it names the same interface. Otherwise the driver is asked, which need not tell; netlink knows how
/// many there can be.
pub(crate) fn queues(interface: &str) -> Result<u32, DataplaneError> {
    let index = system::interface_index(interface).unwrap_or(0);
    let folder = Path::new("/sys/class/net").join(interface);
    let same = fs::read_to_string(folder.join("ifindex")).is_ok_and(|text| text.trim() == index.to_string())
        && fs::read_to_string(folder.join("address"))
            .ok()
            .map(|text| text.trim().to_owned())
            == system::addresses(interface)
                .ok()
                .map(|found| mac_words(found.mac));
    if same && let Ok(entries) = fs::read_dir(folder.join("queues")) {
        let receive = entries
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("rx-"));
        return Ok(u32::try_from(receive.count()).unwrap_or(u32::MAX).max(1));
    }
    if let Ok(Some(queues)) = ethtool::receive_queues(index) {
        return Ok(queues);
    }
    let asked = system::block_on_netlink(move |handle| async move {
        let answers = handle.link().get().match_index(index).execute();
        futures_util::pin_mut!(answers);
        let answer = futures_util::StreamExt::next(&mut answers).await;
        let link = answer
            .ok_or("no such interface")?
            .map_err(|error| error.to_string())?;
        let queues = link.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::NumRxQueues(queues) => Some(queues),
            _ => None,
        });
        Ok(queues.unwrap_or(1).max(1))
    });
    asked.map_err(|reason: String| DataplaneError::Call {
        what: "ask for the receive queues of an interface",
        source: std::io::Error::other(format!("{interface}: {reason}")),
    })
}

fn mac_words(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}
