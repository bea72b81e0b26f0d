//! `gateway status`
use super::{Common, drain, table};
use crate::api::message::Request;
use crate::api::view::Status;

pub(super) fn run(common: &Common) -> anyhow::Result<()> {
    common.ask(&Request::Status, show)
}

fn show(status: Status) {
    let Status {
        name,
        version,
        abi,
        pid,
        uptime_s,
        ..
    } = &status;
    let rules = match &status.rules {
        Some(rules) => format!(
            "generation {}: {} ({}), {} rules, {} compiled",
            rules.generation,
            if rules.name.is_empty() {
                "unnamed"
            } else {
                &rules.name
            },
            rules.file,
            rules.rules,
            rules.compiled
        ),
        None => "none loaded: every new connection is denied".to_owned(),
    };
    println!(
        "gateway     {name}, version {version}, ABI {abi}, pid {pid}, up {}",
        table::duration(*uptime_s)
    );
    println!(
        "sites       {} up of {} known",
        status.sites_up, status.sites_known
    );
    println!(
        "SAs         {} IKE, {} Child, on {} workers",
        status.ike_sas, status.child_sas, status.workers
    );
    println!(
        "engine      {}, {} packets forwarded by workers",
        status.engine, status.forwarded_directly
    );
    println!("rules       {rules}");
    if let Some(drained) = &status.draining {
        println!("draining    {}", drain::words(drained));
    }
    println!("flows       {}", status.flows);
    println!("mappings    {}", status.mappings);
    println!("drops       {}", status.drops);
    println!();
    let rows: Vec<_> = status
        .interfaces
        .into_iter()
        .map(|interface| {
            vec![
                interface.name,
                interface.role,
                interface.xdp,
                interface.queues.to_string(),
                interface.zero_copy.to_string(),
            ]
        })
        .collect();
    table::print(&["INTERFACE", "ROLE", "XDP", ">QUEUES", ">ZERO COPY"], &rows);
    println!();
    let rows: Vec<_> = status
        .paths
        .into_iter()
        .map(|path| vec![path.path, path.packets.to_string(), table::bytes(path.bytes)])
        .collect();
    table::print(&["PATH", ">PACKETS", ">BYTES"], &rows);
}
