//! `gateway drain`
use super::Common;
use crate::api::message::Request;
use crate::api::view::Drained;

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct Arguments {
    /// Send sites there that can be redirected (RFC 5685): the address or DNS name of another gateway.
    #[arg(long, value_name = "ADDRESS|FQDN")]
    to: Option<String>,
    /// Serve all sites here again.
    #[arg(long)]
    stop: bool,
}

pub(super) fn run(common: &Common, arguments: &Arguments) -> anyhow::Result<()> {
    let to = arguments.to.clone().filter(|_| !arguments.stop);
    common.ask(&Request::Drain { to }, |drained: Drained| match &drained.to {
        Some(_) => println!("{}", words(&drained)),
        None => println!("sites are served here"),
    })
}

/// Where sites go and how many are left.
pub(super) fn words(drained: &Drained) -> String {
    let Drained {
        to,
        redirectable,
        staying,
    } = drained;
    let to = to.as_deref().unwrap_or("nowhere");
    format!("sites are sent to {to}: {redirectable} IKE SAs are still to go, {staying} cannot be redirected")
}
