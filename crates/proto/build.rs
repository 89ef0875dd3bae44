//! Generates the wire contracts with the system's `protoc` (Debian's
//! protobuf-compiler; `make deps` installs it).

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let has = |feature: &str| std::env::var_os(format!("CARGO_FEATURE_{feature}")).is_some();
    if has("GUEST") {
        connectrpc_build::Config::new()
            .files(&["proto/guest.proto", "proto/process.proto", "proto/filesystem.proto"])
            .includes(&["proto"])
            .generate_json(true)
            .gate_client_feature(true)
            .client_feature_name("guest-client")
            .include_file("guest_services.rs")
            .compile()?;
    }
    if has("NODE") {
        tonic_prost_build::configure()
            .build_client(true)
            .build_server(true)
            .bytes(".")
            // Theirs would show the password and the value; ours is in src/secret.rs.
            .skip_debug(["aether.node.v1.ImagePullRequest", "aether.node.v1.SecretValue"])
            .compile_protos(&["proto/node.proto"], &["proto"])?;
    }
    Ok(())
}
