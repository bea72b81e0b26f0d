//! Builds the BPF object that `dataplane::object` embeds.

#[path = "../gateway-ebpf/object.rs"]
mod object;

fn main() -> anyhow::Result<()> {
    object::build("gateway", &["gateway-ebpf"])
}
