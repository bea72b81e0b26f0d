//! Looking one IKE SA up, without a list of all.

use super::*;
use crate::output::IkeSaDetails;

impl Endpoint {
    /// Number of IKE SAs, half-open ones too.
    pub fn ike_sa_count(&self) -> usize {
        self.by_id.len()
    }

    /// How many of our ESP SPIs are taken: by Child SAs that are received on, or are being set up.
    pub fn esp_spi_count(&self) -> usize {
        self.allocator.esp_spis_in_use()
    }

    /// The IKE SA of this name in words.
    pub fn ike_sa(&self, id: IkeSaId) -> Option<IkeSaInfo> {
        Some(self.sa(id)?.info(self.now.mono_ms))
    }

    /// The IKE SA that a Child SA belongs to.
    pub fn ike_sa_of_child(&self, child: ChildId) -> Option<IkeSaInfo> {
        match self.entries.get(self.by_child.get(&child)?)? {
            Entry::Sa(ike_sa) => Some(ike_sa.info(self.now.mono_ms)),
            Entry::Initiating(_) => None,
        }
    }

    /// The established IKE SAs of a site, oldest first.
    pub fn ike_sas_of_site(&self, site: u32) -> impl Iterator<Item = IkeSaInfo> {
        self.found(move |ike_sa| {
            ike_sa
                .established()
                .is_some_and(|established| established.policy.site == site)
        })
    }

    /// The IKE SA with this SPI, of either side; of several the oldest.
    pub fn ike_sa_of_spi(&self, spi: u64) -> Option<IkeSaInfo> {
        let has_it = move |ike_sa: &IkeSa| {
            let (spi_i, spi_r) = ike_sa.core.channel.spis();
            [spi_i, spi_r].contains(&spi)
        };
        self.found(has_it).next()
    }

    /// The Child SA with this SPI, in either direction, and its IKE SA; of several that of the oldest IKE SA.
    pub fn child_of_spi(&self, spi: u32) -> Option<(IkeSaInfo, ChildId)> {
        let of = move |ike_sa: &IkeSa| {
            let children = &ike_sa.established()?.children;
            let has_it = |child: &&ChildSa| [child.spi_in, child.spi_out].contains(&spi);
            children.iter().find(has_it).map(|child| child.id)
        };
        let found = self.not_closed().find_map(|ike_sa| Some((ike_sa, of(ike_sa)?)));
        found.map(|(ike_sa, child)| (ike_sa.info(self.now.mono_ms), child))
    }

    /// Those that are wanted, and only those, in words: the words of tens of thousands take a quarter of a second.
    fn found(&self, is_wanted: impl Fn(&IkeSa) -> bool) -> impl Iterator<Item = IkeSaInfo> {
        let found = self.not_closed().filter(move |ike_sa| is_wanted(ike_sa));
        found.map(|ike_sa| ike_sa.info(self.now.mono_ms))
    }

    fn not_closed(&self) -> impl Iterator<Item = &IkeSa> {
        self.by_id.keys().filter_map(|id| self.sa(*id))
    }

    /// Everything known of the IKE SA of this name; `None` before its peer is authenticated.
    pub fn ike_sa_details(&self, id: IkeSaId) -> Option<IkeSaDetails> {
        self.sa(id)?.details(&self.config, self.now.mono_ms)
    }

    /// All IKE SAs with this peer in words, however its identity is spelt.
    pub fn ike_sas_with(&self, peer: &Identity) -> impl Iterator<Item = IkeSaInfo> {
        let spis = self.by_peer.get(peer).into_iter().flatten();
        spis.filter_map(|spi| match self.entries.get(spi) {
            Some(Entry::Sa(ike_sa)) => Some(ike_sa.info(self.now.mono_ms)),
            Some(Entry::Initiating(_)) | None => None,
        })
    }

    fn sa(&self, id: IkeSaId) -> Option<&IkeSa> {
        match self.entries.get(self.by_id.get(&id)?)? {
            Entry::Sa(ike_sa) if !matches!(ike_sa.state, State::Closed { .. }) => Some(ike_sa),
            Entry::Sa(_) | Entry::Initiating(_) => None,
        }
    }
}
