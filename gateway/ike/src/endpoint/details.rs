//! Looking one IKE SA up, without a list of all.

use super::*;
use crate::output::IkeSaDetails;

impl Endpoint {
    /// Number of IKE SAs, half-open ones too.
    pub fn ike_sa_count(&self) -> usize {
        self.by_id.len()
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
