//! `cargo xtask interop`: the gateway against strongSwan, in a selection of cases or in all of them.

use std::str::FromStr;

use anyhow::Result;

use crate::test;

/// Tells the interop suite how much of the product to take: `K/N`.
const EXTENT: &str = "GATEWAY_INTEROP";

/// A share of the product: every `of`-th case, from case `number` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    number: usize,
    of: usize,
}

impl Share {
    /// All of it.
    pub const WHOLE: Share = Share { number: 1, of: 1 };
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let share = text.split_once('/').and_then(|(number, of)| {
            Some(Share {
                number: number.parse().ok()?,
                of: of.parse().ok()?,
            })
        });
        share
            .filter(|share| (1..=share.of).contains(&share.number))
            .ok_or_else(|| format!("{text:?} is no share; write 3/41 for the third of 41"))
    }
}

/// Runs the suite as `cargo xtask test interop` does, or with a share of the product, the whole of which takes hours.
///
/// # Errors
/// When a case fails.
pub fn run(share: Option<Share>) -> Result<()> {
    let extent = share.map(|share| format!("{}/{}", share.number, share.of));
    let variables: Vec<_> = extent.iter().map(|extent| (EXTENT, extent.as_str())).collect();
    test::run_with(Some(test::Part::Interop), &variables)
}

#[cfg(test)]
mod tests {
    use super::Share;

    #[test]
    fn a_share_is_one_of_so_many() {
        assert_eq!("3/41".parse(), Ok(Share { number: 3, of: 41 }));
        for wrong in ["0/4", "5/4", "1", "a/b", "1/0", ""] {
            assert!(wrong.parse::<Share>().is_err(), "{wrong}");
        }
    }
}
