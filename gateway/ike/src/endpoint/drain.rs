//! Emptying a gateway, and following one that is emptied (RFC 5685).

use std::net::IpAddr;

use super::*;
use crate::{
    connection::Remote,
    redirect::{LOOP_DETECT_PERIOD_MS, REDIRECTS_MAX},
};

/// Peers that are sent away at once, and the time between: the other gateway has to take them all.
const REDIRECTED_AT_ONCE: usize = 50;
const REDIRECT_EVERY_MS: u64 = 1_000;

/// How far a gateway is emptied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draining {
    /// Where peers are sent to.
    pub to: OtherGateway,
    /// IKE SAs of peers that can be sent away and are still here.
    pub redirectable: usize,
    /// IKE SAs of peers that came to us and know nothing of redirects.
    pub staying: usize,
}

impl Endpoint {
    /// Where peers are sent to just now, and how many are left.
    pub fn draining(&self) -> Option<Draining> {
        let to = self.config.redirect_to.clone()?;
        let mut draining = Draining {
            to,
            redirectable: 0,
            staying: 0,
        };
        for entry in self.entries.values() {
            if let Entry::Sa(ike_sa) = entry
                && let Some(established) = ike_sa.established()
                && established.connection.is_none()
            {
                match established.redirectable {
                    true => draining.redirectable += 1,
                    false => draining.staying += 1,
                }
            }
        }
        Some(draining)
    }

    pub(super) fn drain(&mut self, to: Option<OtherGateway>) {
        self.drained_to = to.is_some().then_some((self.now.mono_ms, None));
        self.config.redirect_to = to;
        self.redirect_some();
    }

    /// Sends the next peers away, oldest IKE SAs first.
    pub(super) fn redirect_some(&mut self) {
        let now_ms = self.now.mono_ms;
        let Some((_, done)) = self.drained_to.filter(|(due_ms, _)| *due_ms <= now_ms) else {
            return;
        };
        let after = done.map_or(Bound::Unbounded, Bound::Excluded);
        let candidates = self.by_id.range((after, Bound::Unbounded));
        let redirectable = candidates.filter(|(_, spi)| {
            matches!(self.entries.get(spi), Some(Entry::Sa(ike_sa))
                if ike_sa.established().is_some_and(|one| one.redirectable && one.connection.is_none()))
        });
        let next: Vec<_> = redirectable
            .take(REDIRECTED_AT_ONCE)
            .map(|(id, spi)| (*id, *spi))
            .collect();
        self.drained_to = match next.last() {
            Some((id, _)) if next.len() == REDIRECTED_AT_ONCE => {
                Some((now_ms.saturating_add(REDIRECT_EVERY_MS), Some(*id)))
            }
            Some(_) | None => None,
        };
        for (_, spi) in next {
            self.queue(Some(spi), Task::Redirect);
        }
    }

    /// The gateway of a connection sends us to another: in place of an IKE SA that was being set up, or while one stands
    /// (`established`), which goes when the new one carries all.
    pub(super) fn redirected(&mut self, name: &Arc<str>, to: &OtherGateway, from: IpAddr, established: bool) {
        let now_ms = self.now.mono_ms;
        let target = self.redirect_target(name, to, from);
        let Some(link) = self.links.get_mut(name) else {
            return;
        };
        let connection = name.to_string();
        match target {
            Ok(remote) => {
                link.redirects.push_back(now_ms);
                link.redirect = Some(remote);
                link.redirected_from = Some(from);
                link.not_before_ms = now_ms;
                if established {
                    link.reauthenticate = true;
                    link.wanted = true;
                } else {
                    link.attempt = None;
                }
                let to = to.to_string();
                let event = Event::Redirected { connection, from, to };
                self.outputs.push_back(Output::Event(event));
                self.tend(name);
            }
            Err(reason) => {
                self.outputs.push_back(Output::Event(Event::RedirectRefused {
                    connection,
                    from,
                    to: to.to_string(),
                    reason,
                }));
                if !established {
                    self.connection_ended(name, false, &CloseReason::PeerRefused("REDIRECT"));
                }
            }
        }
    }

    /// The way to the other gateway, or why we do not go.
    fn redirect_target(
        &mut self,
        name: &str,
        to: &OtherGateway,
        from: IpAddr,
    ) -> Result<Remote, &'static str> {
        let now_ms = self.now.mono_ms;
        let index = self.links.get(name).map(|link| link.index);
        let connection = index.and_then(|index| self.config.connections.get(index));
        let connection = connection.ok_or("there is no such connection any more")?;
        if !connection.redirects {
            return Err("the connection does not follow redirects");
        }
        let OtherGateway::Address(to) = to else {
            return Err("it is a name, and only addresses are followed");
        };
        if *to == from {
            return Err("that is where it is");
        }
        let of_family = |remote: &&Remote| remote.local.is_ipv4() == to.is_ipv4();
        let like = connection.remotes.iter().find(of_family);
        let like = *like.ok_or("there is no address of ours of that family")?;
        let link = self
            .links
            .get_mut(name)
            .ok_or("there is no such connection any more")?;
        // RFC 5685 section 7.
        let recent = |then_ms: &u64| now_ms.saturating_sub(*then_ms) < LOOP_DETECT_PERIOD_MS;
        link.redirects.retain(recent);
        if link.redirects.len() >= REDIRECTS_MAX {
            return Err("that is a loop: five redirects in the last five minutes");
        }
        Ok(Remote {
            local: like.local,
            address: SocketAddr::new(*to, like.address.port()),
        })
    }
}
