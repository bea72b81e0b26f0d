//! What of two lists of proposals comes nearest to a match.

/// In words, which configured proposal an offer misses by the least, and by what; `None` if there is nothing to say.
/// Both lists are in the words of proposals: transforms with hyphens between, proposals with commas.
pub(super) fn nearest(offered: &str, configured: &str) -> Option<String> {
    let missing = |configured: &str, offered: &str| -> Vec<String> {
        let offers: Vec<_> = offered.split('-').map(str::trim).collect();
        configured
            .split('-')
            .map(str::trim)
            .filter(|transform| !offers.contains(transform))
            .map(str::to_owned)
            .collect()
    };
    let pairs = configured.split(", ").flat_map(|configured| {
        offered
            .split(", ")
            .map(move |offered| (configured, offered, missing(configured, offered)))
    });
    let (configured, offered, missing) = pairs
        .filter(|(configured, offered, _)| !configured.is_empty() && !offered.is_empty())
        .min_by_key(|(.., missing)| missing.len())?;
    match missing.as_slice() {
        [] => None,
        missing => Some(format!(
            "nearest is {configured}: the peer's {offered} lacks {}",
            missing.join(" and ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn the_smallest_difference_is_named() {
        let configured = "aes256gcm16-prfsha256-x25519, aes256-sha256-modp2048";
        assert_eq!(
            nearest(
                "aes256-aes128-sha256-prfsha256-modp1024, 3des-sha1-modp1024",
                configured
            )
            .as_deref(),
            Some(
                "nearest is aes256-sha256-modp2048: the peer's aes256-aes128-sha256-prfsha256-modp1024 lacks modp2048"
            )
        );
        assert_eq!(nearest("", configured), None);
    }
}
