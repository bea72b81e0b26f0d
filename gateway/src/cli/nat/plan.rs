//! `gateway nat plan`
use std::path::PathBuf;

use crate::api::message::Request;
use crate::api::view::{NatPlan, NatPool};
use crate::cli::{Common, table};
use crate::config::{Config, PlanKind, PortBlock};
use crate::core::sites::Sites;
use crate::runtime::{pool_view, stored_assignments};

#[derive(clap::Args)]
pub(in crate::cli) struct Arguments {
    /// Without asking the daemon: the plan of this configuration, and of the sites in its state folder.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Of this pool only.
    #[arg(long)]
    pool: Option<String>,
    /// Of this site only, by name or number.
    #[arg(long)]
    site: Option<String>,
    /// Show at most so many lines of a pool.
    #[arg(long, default_value_t = 100)]
    limit: usize,
}

pub(super) fn run(common: &Common, arguments: &Arguments) -> anyhow::Result<()> {
    let Some(file) = &arguments.config else {
        return common.ask(&Request::NatPlan, |plan: NatPlan| show(&plan, arguments));
    };
    let config = Config::load(file)?;
    let sites = Sites::new(&config, stored_assignments(&config)?)?;
    let plan = NatPlan {
        state_dir: config.state_dir.clone(),
        log_keep_days: config.nat.log_keep_days,
        pools: sites.pools().iter().map(|pool| pool_view(pool, &sites)).collect(),
    };
    common.print(&plan, |plan| show(plan, arguments))
}

fn show(plan: &NatPlan, arguments: &Arguments) {
    let wanted = |pool: &&NatPool| arguments.pool.as_ref().is_none_or(|name| pool.name == *name);
    for pool in plan.pools.iter().filter(wanted) {
        println!("{}\n", words(pool));
        let is_wanted = |name: Option<&str>, number: u32| {
            let site = arguments.site.as_deref();
            site.is_none_or(|site| name == Some(site) || number.to_string() == site)
        };
        let rows: Vec<_> = pool
            .blocks
            .iter()
            .filter(|block| is_wanted(block.name.as_deref(), block.site))
            .map(|block| {
                let ports = PortBlock {
                    address: block.address,
                    first_port: block.first_port,
                    last_port: block.last_port,
                };
                let name = block.name.clone().unwrap_or_else(|| "-".to_owned());
                vec![block.site.to_string(), ports.to_string(), name]
            })
            .collect();
        let shown = rows.len().min(arguments.limit);
        let some = rows.get(..shown).unwrap_or_default();
        table::print(&[">NUMBER", "TRANSLATED TO", "SITE"], some);
        if shown < rows.len() {
            println!("{shown} of {}; --limit shows more", rows.len());
        }
        println!();
    }
}

/// How a pool is divided, with the formula that others can compute by.
fn words(pool: &NatPool) -> String {
    let head = format!(
        "NAT pool \"{}\": {} addresses ({})",
        pool.name,
        pool.address_count,
        pool.addresses.join(", ")
    );
    let Some(plan) = &pool.plan else {
        return format!("{head}, one for each site; {} of {} taken", pool.taken, pool.room);
    };
    let (size, first, count) = (plan.block_size, plan.first_block, plan.blocks_per_address);
    let divided = format!("{head}, {count} blocks of {size} ports each");
    match plan.kind {
        PlanKind::Deterministic => format!(
            "{divided}; {} of {} taken\n\
             site number N has address (N - 1) / {count} of the pool, counted from 0, and its ports from\n\
             ({first} + (N - 1) % {count}) * {size} on, {size} of them",
            pool.taken, pool.room
        ),
        PlanKind::Dynamic => format!(
            "{divided}; a site has 1 to {} of them as it needs them; {} of {} taken",
            plan.blocks_max, pool.taken, pool.room
        ),
    }
}
