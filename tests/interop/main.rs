//! The gateway against routers that nobody here wrote: strongSwan 5.9 and 6.0 over IPv4 and IPv6, plain and in UDP,
//! every suite, both kinds of certificate, begun and rekeyed by either side. The lab is one, so tests run one by one: `cargo xtask test interop`.

mod extensions;
mod identities;
mod moves;
mod product;
mod rekey;
mod traffic;
