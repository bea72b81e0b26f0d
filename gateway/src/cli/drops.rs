//! `gateway drops`
use super::{Common, table};
use crate::api::message::Request;
use crate::api::view::Drop;

pub(super) fn run(common: &Common) -> anyhow::Result<()> {
    common.ask(&Request::Drops, |drops: Vec<Drop>| {
        if drops.is_empty() {
            println!("no packet was dropped");
            return;
        }
        let row = |drop: Drop| {
            vec![
                drop.number.to_string(),
                drop.reason,
                drop.packets.to_string(),
                drop.words,
            ]
        };
        let rows: Vec<_> = drops.into_iter().map(row).collect();
        table::print(&[">NUMBER", "REASON", ">PACKETS", "MEANING"], &rows);
    })
}
