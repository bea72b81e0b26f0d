//! NAT keepalives (RFC 3948 sections 2.3 and 4): one octet, so that the NAT in front of us does not forget its
//! mapping while nothing else is sent. What arrives of them says nothing about the peer's life.

use crate::{
    config::{EndpointConfig, Time},
    context::{Context, NAT_PORT},
    ike_sa::{Core, Established, IkeSa, State},
    output::Output,
};

/// The whole of a keepalive.
pub(crate) const NAT_KEEPALIVE: [u8; 1] = [0xff];

/// Sends a keepalive when one is due, and says when the next one is; `sent` when something went to the peer
/// just now.
pub(crate) fn tend(established: &mut Established, core: &Core, ctx: &mut Context<'_>, sent: bool) {
    let next_ms = after_sending(established, core, ctx.config, ctx.now);
    if sent || next_ms == u64::MAX || established.keepalive_at_ms == u64::MAX {
        established.keepalive_at_ms = next_ms;
    } else if established.keepalive_at_ms <= ctx.now.mono_ms {
        established.keepalive_at_ms = next_ms;
        ctx.counters.keepalives_sent += 1;
        ctx.outputs.push_back(Output::Transmit {
            local: core.path.local,
            remote: core.path.remote,
            payload: NAT_KEEPALIVE.to_vec(),
        });
    }
}

/// When the next keepalive is due if something goes to the peer now, ms; never, if no NAT is in front of us.
fn after_sending(established: &Established, core: &Core, config: &EndpointConfig, now: Time) -> u64 {
    let interval_ms = config.nat_keepalive_s.saturating_mul(1_000);
    let behind_nat = core.nat.local && core.path.local.port() == NAT_PORT;
    if !behind_nat || interval_ms == 0 || established.is_ending() {
        return u64::MAX;
    }
    now.mono_ms.saturating_add(interval_ms)
}

impl IkeSa {
    /// An ESP packet went to the peer: it keeps the mapping alive as well. Whether a keepalive is due earlier for it.
    pub(crate) fn esp_sent(&mut self, config: &EndpointConfig, now: Time) -> bool {
        let State::Established(established) = &mut self.state else {
            return false;
        };
        let before_ms = established.keepalive_at_ms;
        established.keepalive_at_ms = after_sending(established, &self.core, config, now);
        established.keepalive_at_ms < before_ms
    }
}
