//! Which of our SPIs of IKE SAs stand, where they have indexes.

use super::*;

impl Pair {
    /// Our SPIs of the IKE SAs that are set up.
    fn set_up(&self) -> BTreeSet<u64> {
        let own = |info: IkeSaInfo| if info.initiator { info.spis.0 } else { info.spis.1 };
        self.ours.ike_sas().map(own).collect()
    }

    /// We rekey the only IKE SA, and the one before is deleted.
    fn rekey_ike(&mut self) {
        let [id] = self.ours.ike_sas().map(|info| info.id).collect::<Vec<_>>()[..] else {
            panic!("not one IKE SA")
        };
        self.command(Command::RekeyIke(id));
        for _ in 0..4 {
            self.carry();
        }
        assert_eq!(self.set_up().len(), 1);
    }
}

#[test]
fn ike_sas_differ_in_the_index_of_our_spi_as_long_as_they_are_here() {
    for we_begin in [false, true] {
        let mut pair = Pair::new(we_begin, |config| config.ike_spi_index_bits = 2);
        let mut indexes = BTreeSet::new();
        for _ in 0..4 {
            assert_eq!(pair.standing, pair.set_up());
            indexes.extend(pair.standing.iter().map(|spi| spi % 4));
            pair.rekey_ike();
        }
        // Those before still answer what is repeated to them, and have theirs.
        assert_eq!(indexes.len(), 4);
    }
}

/// It works all the same, and is told of as soon as there is an index for it.
#[test]
fn an_ike_sa_that_finds_no_index_is_not_told_of_until_one_is_free() {
    let mut pair = Pair::new(false, |config| config.ike_spi_index_bits = 1);
    pair.rekey_ike();
    assert_eq!(pair.standing, pair.set_up());
    pair.rekey_ike();
    assert!(pair.standing.is_empty());
    pair.wait(30_000);
    // Whatever comes next.
    assert!(pair.ask_informational(&[]).is_some());
    assert_eq!(pair.standing, pair.set_up());
}
