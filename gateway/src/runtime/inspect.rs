//! `gateway sa list|show|rekey|close`: SAs by name, SPI or site.
use anyhow::{anyhow, bail};
use gateway_ike::{CertificateDetails, ChildId, ChildSaDetails, ChildSaInfo, Command, IkeSaId, IkeSaInfo};

use super::controller::Controller;
use super::engine::Engine;
use super::journal::line_view;
use super::requests::site_number;
use crate::api::view;
use crate::core::journal::utc;

/// Which SAs a command is for.
pub(super) enum Target {
    /// All of the site of this name.
    Site(String),
    /// The one of this name or SPI.
    Id(SaId),
}

/// How people name an SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SaId {
    Ike(u64),
    Child(u64),
    /// 8 hex digits: of ESP, inbound or outbound.
    EspSpi(u32),
    /// 16 hex digits: of IKE, initiator's or responder's.
    IkeSpi(u64),
}

impl Target {
    pub(super) fn of(site: Option<String>, id: Option<String>) -> anyhow::Result<Self> {
        match (site, id) {
            (Some(site), None) => Ok(Self::Site(site)),
            (None, Some(id)) => Ok(Self::Id(id.parse()?)),
            (Some(_), Some(_)) | (None, None) => bail!("name an SA or a site, one of both"),
        }
    }
}

impl std::str::FromStr for SaId {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let wrong = || {
            anyhow!(
                "\"{text}\" names no SA; write ike#3, child#5, an ESP SPI of 8 hex digits or an IKE SPI of 16, as `gateway sa list` shows them"
            )
        };
        let number = |digits: &str| digits.parse().map_err(|_| wrong());
        if let Some(digits) = text.strip_prefix("ike#") {
            return number(digits).map(Self::Ike);
        }
        if let Some(digits) = text.strip_prefix("child#") {
            return number(digits).map(Self::Child);
        }
        let digits = text.strip_prefix("0x").unwrap_or(text);
        match digits.len() {
            8 => u32::from_str_radix(digits, 16)
                .map(Self::EspSpi)
                .map_err(|_| wrong()),
            16 => u64::from_str_radix(digits, 16)
                .map(Self::IkeSpi)
                .map_err(|_| wrong()),
            _ => Err(wrong()),
        }
    }
}

/// An SA that was found.
struct Found {
    ike: IkeSaInfo,
    /// The Child SA, if one was named.
    child: Option<ChildId>,
}

impl<E: Engine> Controller<E> {
    pub(super) fn ike_view(&self, ike: IkeSaInfo) -> view::IkeSa {
        view::IkeSa {
            id: ike.id.to_string(),
            site: ike.site.map(|(_, name)| name).unwrap_or_default(),
            peer: ike.peer,
            local: ike.local,
            remote: ike.remote,
            state: ike.state.to_owned(),
            nat: ike.nat,
            algorithms: ike.algorithms,
            age_s: ike.age_s,
            children: ike
                .children
                .into_iter()
                .map(|child| self.child_view(child))
                .collect(),
        }
    }

    fn child_view(&self, child: ChildSaInfo) -> view::ChildSa {
        let traffic = self
            .sadb
            .handle(child.id)
            .and_then(|handle| self.engine.traffic(handle))
            .unwrap_or_default();
        view::ChildSa {
            id: child.id.to_string(),
            spi_in: format!("{:08x}", child.spi_in),
            spi_out: format!("{:08x}", child.spi_out),
            algorithms: child.algorithms,
            esn: child.esn,
            resource: child.resource.map(|resource| resource.to_string()),
            ts_local: child.ts_local.iter().map(ToString::to_string).collect(),
            ts_remote: child.ts_remote.iter().map(ToString::to_string).collect(),
            packets_in: traffic.packets_in,
            bytes_in: traffic.bytes_in,
            packets_out: traffic.packets_out,
            bytes_out: traffic.bytes_out,
            replayed: traffic.replayed,
            unauthentic: traffic.unauthentic,
            refused: traffic.refused,
            sequence_left: traffic.sequence_left,
        }
    }

    /// Everything known of an SA, or of the IKE SA of a Child SA.
    pub(super) fn sa_show(&self, id: &str) -> anyhow::Result<view::SaDetails> {
        let Found { ike, child } = self.find(id.parse()?)?;
        let Some(more) = self.endpoint.ike_sa_details(ike.id) else {
            bail!(
                "{} is {}: nothing is known of it before its peer is authenticated",
                ike.id,
                ike.state
            );
        };
        let children: Vec<_> = match child {
            Some(child) => vec![child],
            None => ike.children.iter().map(|child| child.id).collect(),
        };
        let site = ike.site.as_ref().map(|(number, _)| *number);
        let history = site.map(|site| self.journal.history(site, ike.id, &children));
        let nat_address = site.and_then(|site| Some(self.sites.get().get(site)?.nat_address));
        Ok(view::SaDetails {
            spis: [ike.spis.0, ike.spis.1].map(|spi| format!("{spi:016x}")),
            initiator: ike.initiator,
            connection: more.connection,
            own_identity: more.local_identity,
            nat_local: more.nat_local,
            nat_remote: more.nat_remote,
            ppk: more.ppk,
            certificate: more.certificate.map(certificate_view),
            nat_address,
            heard_before_s: more.heard_before_s,
            rekey_in_s: more.rekey_in_s,
            reauthenticate_in_s: more.reauthenticate_in_s,
            expire_in_s: more.expire_in_s,
            waits_for_peer: more.waits_for_peer,
            child_details: more.children.iter().map(child_details).collect(),
            history: history.unwrap_or_default().iter().map(line_view).collect(),
            ike: self.ike_view(ike),
        })
    }

    fn find(&self, id: SaId) -> anyhow::Result<Found> {
        let found = match id {
            SaId::Ike(number) => self
                .endpoint
                .ike_sa(IkeSaId(number))
                .map(|ike| Found { ike, child: None }),
            SaId::Child(number) => {
                let child = ChildId(number);
                let ike = self.endpoint.ike_sa_of_child(child);
                ike.map(|ike| Found {
                    ike,
                    child: Some(child),
                })
            }
            SaId::IkeSpi(spi) => {
                let ike = self.endpoint.ike_sa_of_spi(spi);
                ike.map(|ike| Found { ike, child: None })
            }
            SaId::EspSpi(spi) => {
                let found = self.endpoint.child_of_spi(spi);
                found.map(|(ike, child)| Found {
                    ike,
                    child: Some(child),
                })
            }
        };
        found.ok_or_else(|| {
            anyhow!(
                "there is no such SA (any more): a rekeyed SA has a new name; `gateway sa list` shows all"
            )
        })
    }

    /// The established IKE SAs of a site; there is at least one.
    fn ike_sas_of(&self, site: &str) -> anyhow::Result<Vec<IkeSaInfo>> {
        let number = site_number(&self.sites.get(), site)?;
        let found: Vec<_> = self.endpoint.ike_sas_of_site(number).collect();
        match found.is_empty() {
            true => bail!("site \"{site}\" has no SA; `gateway ike log {site}` shows why"),
            false => Ok(found),
        }
    }

    pub(super) fn sa_rekey(&mut self, target: &Target, ike: bool) -> anyhow::Result<view::Commanded> {
        let commands: Vec<_> = match target {
            Target::Site(site) if ike => {
                let found = self.ike_sas_of(site)?;
                found
                    .iter()
                    .map(|ike| (ike.id.to_string(), Command::RekeyIke(ike.id)))
                    .collect()
            }
            Target::Site(site) => {
                let found = self.ike_sas_of(site)?;
                let children = found.iter().flat_map(|ike| &ike.children);
                children
                    .map(|child| (child.id.to_string(), Command::RekeyChild(child.id)))
                    .collect()
            }
            Target::Id(id) => {
                let Found { ike, child } = self.find(*id)?;
                must_be_established(&ike)?;
                vec![match child {
                    Some(child) => (child.to_string(), Command::RekeyChild(child)),
                    None => (ike.id.to_string(), Command::RekeyIke(ike.id)),
                }]
            }
        };
        Ok(self.command("sa rekey", commands))
    }

    pub(super) fn sa_close(&mut self, target: &Target) -> anyhow::Result<view::Commanded> {
        let commands: Vec<_> = match target {
            Target::Site(site) => {
                let found = self.ike_sas_of(site)?;
                found
                    .iter()
                    .map(|ike| (ike.id.to_string(), Command::Close(ike.id)))
                    .collect()
            }
            Target::Id(id) => {
                let Found { ike, child } = self.find(*id)?;
                vec![match child {
                    Some(child) => (child.to_string(), Command::CloseChild(child)),
                    None => (ike.id.to_string(), Command::Close(ike.id)),
                }]
            }
        };
        Ok(self.command("sa close", commands))
    }

    fn command(&mut self, verb: &str, commands: Vec<(String, Command)>) -> view::Commanded {
        let now = self.clock.now();
        let mut sas = Vec::new();
        for (name, command) in commands {
            self.endpoint.handle_command(now, command);
            sas.push(name);
        }
        self.record_command(verb, &sas);
        view::Commanded { sas }
    }
}

fn must_be_established(ike: &IkeSaInfo) -> anyhow::Result<()> {
    match ike.state {
        "established" => Ok(()),
        state => bail!("{} is {state}: only an established SA can be rekeyed", ike.id),
    }
}

/// A time of a certificate, RFC 3339.
pub(super) fn time(unix_s: i64) -> String {
    utc(u64::try_from(unix_s).unwrap_or(0).saturating_mul(1_000))
}

fn certificate_view(certificate: CertificateDetails) -> view::Certificate {
    view::Certificate {
        subject: certificate.subject,
        issuer: certificate.issuer,
        serial: certificate
            .serial
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
        not_before: time(certificate.not_before_unix_s),
        not_after: time(certificate.not_after_unix_s),
        chain_valid_until: time(certificate.chain_valid_until_unix_s),
        authority: certificate.authority,
    }
}

fn child_details(child: &ChildSaDetails) -> view::ChildDetails {
    view::ChildDetails {
        id: child.id.to_string(),
        sends: child.sends,
        phase: child.phase.to_owned(),
        rekey_in_s: child.rekey_in_s,
        expire_in_s: child.expire_in_s,
        unused_for_s: child.unused_for_s,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_sa_has_a_name_or_an_spi() {
        for (text, id) in [
            ("ike#3", SaId::Ike(3)),
            ("child#12", SaId::Child(12)),
            ("c0ffee01", SaId::EspSpi(0xc0ff_ee01)),
            ("0xC0FFEE01", SaId::EspSpi(0xc0ff_ee01)),
            ("e0c4dd4dd11a9a3f", SaId::IkeSpi(0xe0c4_dd4d_d11a_9a3f)),
        ] {
            assert_eq!(text.parse::<SaId>().expect(text), id);
        }
        for text in ["", "ike#", "ike#x", "3", "c0ffee0", "hospital-a"] {
            let error = text.parse::<SaId>().expect_err(text).to_string();
            assert!(error.contains("gateway sa list"), "{error}");
        }
        assert!(Target::of(None, None).is_err());
        assert!(Target::of(Some("a".into()), Some("ike#1".into())).is_err());
    }
}
