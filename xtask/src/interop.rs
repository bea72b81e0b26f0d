//! `cargo xtask interop`: the gateway against strongSwan, in a selection of cases or in all of them.

use anyhow::Result;

use crate::test;

/// Tells the interop suite to take the whole product.
const EXTENT: (&str, &str) = ("GATEWAY_INTEROP", "full");

/// Runs the suite as `cargo xtask test interop` does, or with every case of the product, which takes hours.
///
/// # Errors
/// When a case fails.
pub fn run(full: bool) -> Result<()> {
    test::run_with(Some(test::Part::Interop), if full { &[EXTENT] } else { &[] })
}
