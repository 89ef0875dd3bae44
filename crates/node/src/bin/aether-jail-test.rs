//! The jail verb alone, for this crate's integration tests: what `aether
//! jail` is in the real binary.

fn main() {
    aether_node::jail::main(std::env::args_os().skip(2));
}
