//! `gateway nat list|plan|who`: which site has which addresses and ports.
mod list;
mod plan;
mod who;

use clap::Subcommand;

use super::{Common, Selection};

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Addresses and port blocks of sites and their use, and the mappings in use.
    List(Selection),
    /// How addresses are divided among sites.
    Plan(plan::Arguments),
    /// Who had an address, or a port of it, at a time.
    Who(who::Arguments),
}

pub(super) fn run(common: &Common, verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::List(selection) => list::run(common, selection),
        Verb::Plan(arguments) => plan::run(common, &arguments),
        Verb::Who(arguments) => who::run(common, &arguments),
    }
}
