//! The hidden verbs alone, for this crate's integration tests: what `aether
//! jail` and `aether image-convert` are in the real binary.

fn main() {
    let mut args = std::env::args_os().skip(1);
    match args.next() {
        Some(verb) if verb == aether_node::images::convert::VERB => aether_node::images::convert::main(args),
        _ => aether_node::jail::main(args),
    }
}
