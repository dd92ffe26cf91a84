//! Compiles the `.proto` files with protox (no protoc needed). Clients and servers sit behind the `grpc` feature.
use std::{error::Error, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let files = [
        "bailiwick/v1/config.proto",
        "bailiwick/v1/admin.proto",
        "bailiwick/v1/ledger.proto",
        "bailiwick/v1/cluster.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={}", Path::new(file).display());
    }
    let descriptors = protox::compile(files, ["."])?;
    tonic_prost_build::configure()
        .client_mod_attribute(".", "#[cfg(feature = \"grpc\")]")
        .server_mod_attribute(".", "#[cfg(feature = \"grpc\")]")
        .compile_fds(descriptors)?;
    Ok(())
}
