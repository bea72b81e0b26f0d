//! The tables of flows and mappings for who only looks at them.
use std::sync::Arc;

use gateway_common::abi::flow::{Flow, FlowKey};
use gateway_common::abi::nat::{InsideKey, Mapping, OutsideKey};

use super::tables::SharedTables;

/// Reads the tables beside the programs, on whatever thread. It keeps the tables' memory, and nothing else of the data
/// plane, from going.
pub struct Reader(pub(super) Arc<SharedTables>);

impl Reader {
    /// Every flow that packets find.
    pub fn flows(&self) -> impl Iterator<Item = (FlowKey, Flow)> {
        self.0.flows().live()
    }

    /// Every NAT mapping.
    pub fn mappings(&self) -> impl Iterator<Item = (InsideKey, Mapping)> {
        self.0.mappings().live()
    }

    /// Every outside that is not free, those of retired mappings too.
    #[must_use]
    pub fn outsides(&self) -> Vec<OutsideKey> {
        self.0.outsides()
    }
}
