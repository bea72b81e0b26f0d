//! The indices of an endpoint: IKE SAs by name, by Child SA, by peer and by deadline.

use super::*;

impl Endpoint {
    /// Stores an entry again, or forgets it, and brings the indices up to date.
    pub(super) fn put_back(&mut self, spi: u64, entry: Option<Entry>) {
        let before = self.take_from_indices(spi);
        let connection = before.as_ref().and_then(|before| before.connection.clone());
        let now_ms = self.now.mono_ms;
        let kept = entry.filter(|entry| match entry {
            Entry::Sa(ike_sa) => !matches!(ike_sa.state, State::Closed { until_ms } if until_ms <= now_ms),
            Entry::Initiating(_) => true,
        });
        match kept {
            Some(entry) => {
                self.put_into_indices(spi, &entry, before);
                self.entries.insert(spi, entry);
            }
            None => {
                self.entries.remove(&spi);
                if let Some(before) = before {
                    self.forget(spi, &before);
                }
            }
        }
        // Whatever became of it: a connection that is to be up and has nothing left is tried again.
        if let Some(name) = connection {
            self.set_timer(&name);
        }
    }

    /// What is left to be taken out once an entry does not come back.
    fn forget(&mut self, spi: u64, before: &Indexed) {
        if let Some(key) = before.answered {
            self.answered.remove(&key);
        }
        if before.stands {
            self.outputs.push_back(Output::IkeSpi { spi, stands: false });
        }
        if before.has_index {
            self.allocator.release_ike_index(spi);
        }
    }

    fn take_from_indices(&mut self, spi: u64) -> Option<Indexed> {
        let indexed = self.indexed.remove(&spi)?;
        self.deadlines
            .remove(&(indexed.deadline.0, indexed.deadline.1, spi));
        if let Some(booked) = indexed.half_open {
            self.half_open.leave(booked);
        }
        self.by_id.remove(&indexed.id);
        if let Some(peer) = &indexed.peer
            && let Some(spis) = self.by_peer.get_mut(peer)
        {
            spis.remove(&spi);
            if spis.is_empty() {
                self.by_peer.remove(peer);
            }
        }
        if let Some(connection) = &indexed.connection
            && let Some(spis) = self.by_connection.get_mut(connection)
        {
            spis.remove(&spi);
            if spis.is_empty() {
                self.by_connection.remove(connection);
            }
        }
        for child in &indexed.children {
            // A rekeyed IKE SA may have taken it meanwhile.
            if self.by_child.get(child) == Some(&spi) {
                self.by_child.remove(child);
            }
        }
        Some(indexed)
    }

    fn put_into_indices(&mut self, spi: u64, entry: &Entry, before: Option<Indexed>) {
        let established = match entry {
            Entry::Sa(ike_sa) => ike_sa.established(),
            Entry::Initiating(_) => None,
        };
        let (id, deadline) = match entry {
            Entry::Sa(ike_sa) => (ike_sa.core.id, ike_sa.deadline(self.config.dpd_after_s)),
            Entry::Initiating(awaited) => (awaited.id, awaited.deadline()),
        };
        let children = established
            .map(|established| established.children.as_slice())
            .unwrap_or_default();
        let children: Vec<_> = children.iter().map(|child| child.id).collect();
        let peer = established.map(|established| Arc::clone(&established.peer_identity));
        if let Some(peer) = &peer {
            self.by_peer.entry(Arc::clone(peer)).or_default().insert(spi);
        }
        let connection = self.connection_of(entry, before.as_ref());
        if let Some(connection) = &connection {
            self.by_connection
                .entry(Arc::clone(connection))
                .or_default()
                .insert(spi);
        }
        let booked = before.as_ref().and_then(|before| before.half_open);
        let half_open = match entry {
            Entry::Sa(ike_sa) => match ike_sa.state {
                // It came to nothing, and has cost as much as one that is left open: it keeps its place as long.
                State::Closed { .. } => booked,
                State::ExpectIntermediateRequest(_)
                | State::ExpectIntermediateResponse(_)
                | State::ExpectAuthRequest(_)
                | State::ExpectAuthResponse(_)
                | State::Established(_) => ike_sa.half_open(),
            },
            Entry::Initiating(_) => None,
        };
        if let Some(booked) = half_open {
            self.half_open.enter(booked);
        }
        self.by_id.insert(id, spi);
        self.by_child.extend(children.iter().map(|child| (*child, spi)));
        self.deadlines.insert((deadline.0, deadline.1, spi));
        let (had_index, stood) = before
            .as_ref()
            .map_or((false, false), |before| (before.has_index, before.stands));
        let has_index = had_index || self.allocator.take_ike_index(spi);
        let stands = has_index && established.is_some();
        if stands != stood {
            self.outputs.push_back(Output::IkeSpi { spi, stands });
        }
        let answered = before.and_then(|before| before.answered);
        self.indexed.insert(
            spi,
            Indexed {
                id,
                deadline,
                children,
                peer,
                connection,
                answered,
                half_open,
                has_index,
                stands,
            },
        );
    }

    /// The connection that an entry belongs to. The name is shared with the entry's last turn where it can be.
    fn connection_of(&self, entry: &Entry, before: Option<&Indexed>) -> Option<Arc<str>> {
        let name = match entry {
            Entry::Initiating(awaited) => Some(awaited.connection_name()),
            Entry::Sa(ike_sa) => ike_sa.connection_name(),
        }?;
        let shared = before.and_then(|before| before.connection.clone());
        let shared = shared.filter(|shared| **shared == *name);
        shared.or_else(|| Some(name.into()))
    }
}
