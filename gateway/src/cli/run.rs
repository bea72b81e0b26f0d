//! `gateway run`
use std::path::PathBuf;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use crate::config::Config;
use crate::runtime;

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
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// What is logged, in the words of tracing-subscriber's EnvFilter.
    #[arg(long, default_value = LOGGED, env = "GATEWAY_LOG", value_name = "FILTER")]
    log: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let config = Config::load(&arguments.config)?;
    if arguments.check {
        runtime::prepare(config)?;
        println!("{}: nothing wrong", arguments.config.display());
        return Ok(());
    }
    log_to_stderr(arguments)?;
    fail_closed_on_panic();
    runtime::run(config)
}

fn log_to_stderr(arguments: &Arguments) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&arguments.log)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match arguments.log_format {
        LogFormat::Text => builder.with_ansi(false).init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

/// A thread that panics must not leave the others forwarding by a state that nobody tends: the process ends, the
/// kernel closes its sockets and detaches its programs, and nothing passes.
fn fail_closed_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}
