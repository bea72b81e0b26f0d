//! The gateway as its systemd unit starts it, as far as that goes without systemd: environment and capabilities.

use std::path::Path;
use std::process::Command;

use super::topology::Node;

/// The unit that operators install.
pub const UNIT: &str = include_str!("../../../gateway/examples/gateway.service");

/// A command that runs `program` at the gateway's node with what the unit leaves it.
pub(crate) fn command(program: &Path) -> Command {
    let bounding: String = words("CapabilityBoundingSet")
        .map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase()))
        .collect();
    let mut command = Node::Gateway.command("setpriv");
    command
        .envs(words("Environment").filter_map(|variable| variable.split_once('=')))
        .args(["--no-new-privs", "--inh-caps=-all"])
        .arg(format!("--bounding-set=-all{bounding}"))
        .arg(program);
    command
}

/// The words of the unit's lines with this name.
fn words(name: &str) -> impl Iterator<Item = &'static str> {
    UNIT.lines()
        .filter_map(move |line| line.strip_prefix(name)?.strip_prefix('='))
        .flat_map(str::split_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_has_what_the_unit_says() {
        let command = command(Path::new("/gateway"));
        let arguments: Vec<_> = command.get_args().filter_map(|word| word.to_str()).collect();
        let bounding = arguments
            .iter()
            .find_map(|word| word.strip_prefix("--bounding-set="));
        assert!(
            bounding.is_some_and(|set| set.starts_with("-all,+bpf,")),
            "{arguments:?}"
        );
        let tunables = command.get_envs().find(|(name, _)| *name == "GLIBC_TUNABLES");
        assert!(tunables.is_some_and(|(_, value)| value.is_some()), "{command:?}");
    }
}
