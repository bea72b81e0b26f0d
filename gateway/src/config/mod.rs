//! The operator's files: `gateway.toml` and the rule-set file.
//!
//! A file is parsed by serde (unknown keys are refused), then checked as a whole; every fault names file, line and
//! remedy ([`Diagnostics`]). What comes out is meaningful by construction: nothing behind this module checks again.
mod address;
mod diagnostic;
mod gateway;
mod list;
mod rule_set;

pub use address::{AddressRange, Prefix};
pub use diagnostic::{Checker, Diagnostic, Diagnostics, line_of};
pub use gateway::{
    AnySite, BLOCK_PORT_LOW, BlockPlan, Center, Config, ConnectionConfig, DEFAULT_SOCKET, DnsConfig, Engine,
    Filtering, Ike, Interface, Limits, Nat, NatPool, NatSource, Place, PlanKind, PoolMode, PortBlock,
    Publication, Role, SiteConfig, SitePpk, SiteSharedKey, Start, Timeouts, Transport,
};
pub use list::List;
pub use rule_set::{
    Action, AddressModel, AddressWord, Direction, Format, IcmpType, Located, NamePattern, PortRange,
    Protocol, RuleModel, RuleSetFile, ScheduleModel, ServiceModel, SiteGroupModel, SourceRule, host_name,
    host_name_of,
};
