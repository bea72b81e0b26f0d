//! The gateway against routers that nobody here wrote: strongSwan over IPv4 and IPv6, every suite, both kinds of
//! certificate. The lab is one, so tests run one by one: `cargo xtask test interop`.

mod identities;
mod rekey;
mod suites;
