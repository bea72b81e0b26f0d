//! `gateway run`
use std::path::PathBuf;

use crate::config::Config;
use crate::{log, runtime};

/// A library warns of each attribute of an interface that is longer than it knows, as with every newer kernel.
const LOGGED: &str = "info,netlink_packet_route=error";

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Configuration.
    #[arg(long, default_value = "/etc/gateway/gateway.toml", value_name = "FILE")]
    config: PathBuf,
    /// Check configuration, certificates, key and rule set, then stop.
    #[arg(long)]
    check: bool,
    /// Form of the log on standard error.
    #[arg(long, value_enum, default_value = "text")]
    log_format: log::Format,
    /// What is logged, in the words of tracing-subscriber's EnvFilter.
    #[arg(long, default_value = LOGGED, env = "GATEWAY_LOG", value_name = "FILTER")]
    log: String,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let config = Config::load(&arguments.config)?;
    if arguments.check {
        runtime::prepare(config)?;
        println!("{}: nothing wrong", arguments.config.display());
        return Ok(());
    }
    let _log = log::to_stderr(&arguments.log, arguments.log_format)?;
    log::fail_closed_on_panic();
    runtime::run(config)
}
