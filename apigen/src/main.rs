//! Makes what is derived from the C ABI's table.
fn main() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("workspace");
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("config");
    cbindgen::Builder::new()
        .with_config(config)
        .with_src(root.join("src/transport/ops.rs"))
        .with_src(root.join("src/capi/mod.rs"))
        .generate()
        .expect("bindings")
        .write_to_file(root.join("include/vfiomig.h"));
}
