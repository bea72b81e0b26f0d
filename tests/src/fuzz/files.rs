//! The operator's files: whatever is in them, every fault has a place in the file.

use std::path::Path;

use gateway::config::{Config, Diagnostics, RuleSetFile};
use gateway::core::policy::{Directory, compile};
use gateway_common::abi::limit::RULES_MAX;

/// Longer files only take longer.
const LENGTH_MAX: usize = 1 << 16;

struct Names;

impl Directory for Names {
    fn site(&self, name: &str) -> Option<u32> {
        ["site1", "site2"]
            .iter()
            .zip(1..)
            .find_map(|(known, site)| (*known == name).then_some(site))
    }

    fn group(&self, name: &str) -> Option<u64> {
        (name == "clinics").then_some(1)
    }

    fn group_names(&self) -> Vec<&str> {
        vec!["clinics"]
    }

    fn group_bitmaps(&self) -> Vec<u64> {
        vec![1]
    }
}

/// A rule-set file.
///
/// # Panics
/// When a fault has no place in the file, or too many rules come out.
pub fn rules(text: &[u8]) {
    let Some(text) = text_of(text) else { return };
    let compiled = RuleSetFile::parse("rules", text).and_then(|file| compile(file, &Names));
    match compiled {
        Ok(compiled) => {
            assert!(compiled.rules.len() <= RULES_MAX as usize);
            let sources = compiled.source.rules.len();
            for rule in &compiled.rules {
                assert!(
                    (rule.record.source_rule as usize) < sources,
                    "a rule that nobody wrote"
                );
                let ports = rule.source_ports.iter().chain(&rule.destination_ports);
                assert!(ports.into_iter().all(|(low, high)| low <= high));
            }
        }
        Err(faults) => have_places(&faults, text),
    }
}

/// A `gateway.toml`.
///
/// # Panics
/// As [`rules`].
pub fn config(text: &[u8]) {
    let Some(text) = text_of(text) else { return };
    match Config::parse("gateway.toml", text, Path::new("/etc/gateway")) {
        Ok(config) => {
            for pool in &config.nat_pools {
                assert!(pool.size() > 0, "a pool without addresses");
            }
        }
        Err(faults) => have_places(&faults, text),
    }
}

fn text_of(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes)
        .ok()
        .filter(|text| text.len() <= LENGTH_MAX)
}

fn have_places(faults: &Diagnostics, text: &str) {
    assert!(!faults.0.is_empty(), "refused without a reason");
    let lines = text.split('\n').count();
    for fault in &faults.0 {
        assert!(!fault.message.is_empty());
        assert!(
            fault.line.is_none_or(|line| (1..=lines).contains(&line)),
            "{fault} in {lines} lines"
        );
    }
}
