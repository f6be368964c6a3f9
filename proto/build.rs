//! Compiles the `.proto` files without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let descriptors = protox::compile(["farcc/record/v1/record.proto", "farcc/twin/v1/twin.proto"], ["."])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    println!("cargo::rerun-if-changed=farcc");
    Ok(())
}
