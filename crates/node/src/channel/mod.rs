//! The byte stream to a guest: handshake, HTTP/2, clients.
