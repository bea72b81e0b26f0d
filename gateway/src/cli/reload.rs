//! `gateway reload`
use super::Common;
use crate::api::message::Request;
use crate::api::view::Reloaded;

pub(super) fn run(common: &Common) -> anyhow::Result<()> {
    common.ask(&Request::Reload, |reloaded: Reloaded| {
        for authority in &reloaded.authorities {
            println!("authority        {authority}");
        }
        for list in &reloaded.revocation_lists {
            let next = list.next_update.as_deref().unwrap_or("an unknown time");
            println!(
                "revocation list  {}, {} revoked, of {}, next by {next}",
                list.issuer, list.revoked, list.this_update
            );
        }
        if let Some(file) = &reloaded.configuration_changed {
            println!(
                "note: {} has changed since the gateway started; what it says takes a restart",
                file.display()
            );
        }
    })
}
