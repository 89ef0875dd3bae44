//! Network slots: namespace, tap, veth, rules and resolver sockets, made in
//! advance and named by number.
