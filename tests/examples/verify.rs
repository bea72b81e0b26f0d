//! Loads the object and prints how many instructions the verifier processed.

fn main() -> anyhow::Result<()> {
    let kernel = gateway_tests::kernel::Kernel::load()?;
    for (name, count) in kernel.verified_instructions()? {
        println!("{name}: {count}");
    }
    Ok(())
}
