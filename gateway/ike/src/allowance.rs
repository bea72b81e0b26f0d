//! What a peer that has proved itself may have us do. Handshakes that are not complete are counted by their source
//! ([`crate::half_open`]); here are counted, by the identity of the peer, those that are, and all that it asks for with
//! CREATE_CHILD_SA. Each costs key exchanges, signatures and work of the data plane. None waits for an answer of ours, so that its
//! requests may come in the name of any source: limits by source do not hold one peer back that asks without end, and
//! all others would wait for it.

use std::{collections::HashMap, sync::Arc};

use crate::{config::EndpointConfig, pki::identity::Identity};

/// After a quiet time a peer may have as many at once as come in so many seconds.
const AT_ONCE_S: u64 = 32;
/// Peers that may have all of it again are forgotten so often.
const FORGET_EVERY_US: u64 = 60_000_000;

/// What peers have used up.
#[derive(Debug, Default)]
pub(crate) struct Allowances {
    /// When all of a peer's allowance is there again.
    whole_at_us: HashMap<Arc<Identity>, u64>,
    forgotten_us: u64,
}

impl Allowances {
    /// Takes one of those that a peer may have; false: it has used them up.
    pub(crate) fn take(&mut self, config: &EndpointConfig, peer: &Arc<Identity>, now_ms: u64) -> bool {
        let now_us = now_ms.saturating_mul(1_000);
        self.forget(now_us);
        let one_us = 1_000_000 / u64::from(config.defence.sas_per_peer_per_s.max(1));
        let whole_at_us = self.whole_at_us.get(peer).copied().unwrap_or_default();
        let next_us = whole_at_us.max(now_us).saturating_add(one_us);
        let is_there = next_us <= now_us.saturating_add(AT_ONCE_S * 1_000_000);
        if is_there {
            self.whole_at_us.insert(Arc::clone(peer), next_us);
        }
        is_there
    }

    fn forget(&mut self, now_us: u64) {
        if now_us.saturating_sub(self.forgotten_us) >= FORGET_EVERY_US {
            self.whole_at_us.retain(|_, whole_at_us| *whole_at_us > now_us);
            self.forgotten_us = now_us;
        }
    }
}
