//! Child SAs for resources (RFC 9611): several with the same traffic selectors, so that several processors of one side
//! can each have one. What the identifier means is the affair of its sender; it is kept and shown.

use crate::{
    child_sa::{ChildSa, Phase},
    config::EndpointConfig,
    ids::ChildId,
    ike_sa::Established,
    output::Output,
    traffic_selector::TrafficSelector,
    wire::{
        Message, Payload,
        notify::{Notify, kind},
    },
};

/// Octets of an identifier that are kept.
const ID_LEN_MAX: usize = 64;

/// The identifier of a Child SA. It may be empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceId(Vec<u8>);

impl ResourceId {
    /// From octets; what is too long is cut.
    pub fn new(octets: &[u8]) -> Self {
        Self(octets.iter().copied().take(ID_LEN_MAX).collect())
    }

    /// The one that a message brings.
    pub(crate) fn in_message(message: &Message) -> Option<Self> {
        let notify = message.notify(kind::SA_RESOURCE_INFO)?;
        Some(Self::new(&notify.data))
    }

    /// SA_RESOURCE_INFO (RFC 9611 section 5.1).
    pub(crate) fn notification(&self) -> Payload {
        Payload::Notify(Notify::new(kind::SA_RESOURCE_INFO, self.0.clone()))
    }
}

impl std::fmt::Display for ResourceId {
    /// Printable text as it is, anything else in hex.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Ok(text) = std::str::from_utf8(&self.0)
            && text.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return f.write_str(text);
        }
        f.write_str("0x")?;
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl Established {
    /// As many Child SAs for resources carry this traffic as may (RFC 9611 section 3: TS_MAX_QUEUE).
    pub(crate) fn has_all_resources(
        &self,
        config: &EndpointConfig,
        ts_local: &[TrafficSelector],
        ts_remote: &[TrafficSelector],
    ) -> bool {
        let same = self.children.iter().filter(|child| {
            child.resource.is_some()
                && child.phase == Phase::Live
                && child.ts_local == ts_local
                && child.ts_remote == ts_remote
        });
        same.count() >= config.resource_sas_max
    }

    /// Child SAs for resources that have this traffic and are sent on, but for the one that another takes over from.
    pub(crate) fn sending_for_resources(
        &self,
        (ts_local, ts_remote): (&[TrafficSelector], &[TrafficSelector]),
        replaced: Option<ChildId>,
    ) -> Vec<ChildId> {
        let has_successor = |child: &ChildSa| {
            let mut others = self.carriers();
            others.any(|other| other.outbound_active && other.replaces == Some(child.id))
        };
        let sending = self.carriers().filter(|child| {
            child.resource.is_some()
                && child.outbound_active
                && child.ts_local == ts_local
                && child.ts_remote == ts_remote
                && Some(child.id) != replaced
                && !has_successor(child)
        });
        sending.map(|child| child.id).collect()
    }

    /// From now on packets are sent on this Child SA, and on those beside it.
    pub(crate) fn activation(&self, child: &ChildSa) -> Output {
        let selectors = (&child.ts_local[..], &child.ts_remote[..]);
        let mut beside = match child.resource {
            Some(_) => self.sending_for_resources(selectors, child.replaces),
            None => Vec::new(),
        };
        beside.retain(|other| *other != child.id);
        Output::ActivateOutbound {
            child: child.id,
            beside,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9611 section 5.1.
    #[test]
    fn golden_and_shown() {
        let Payload::Notify(notify) = ResourceId::new(b"cpu-3").notification() else {
            panic!("no notification");
        };
        let mut out = Vec::new();
        notify.emit(&mut out);
        assert_eq!(out, b"\0\0\x40\x3ccpu-3");
        for (octets, shown) in [
            (&b"cpu-3"[..], "cpu-3"),
            (&[0, 1], "0x0001"),
            (b"a b", "0x612062"),
            (b"", ""),
        ] {
            assert_eq!(ResourceId::new(octets).to_string(), shown);
        }
        assert_eq!(ResourceId::new(&[7; 1_000]).to_string().len(), 2 + 2 * ID_LEN_MAX);
    }
}
