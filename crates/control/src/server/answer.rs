//! The body of an answer, whose bytes are followed until the peer has taken
//! them: an HTTP/2 peer that opens no window leaves them lying in the server
//! while it answers every ping.

use super::watch::Ticket;
use axum::body::Body;
use bytes::{Buf, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

pub(super) struct Followed {
    body: Body,
    ticket: Arc<Ticket>,
}

impl Followed {
    pub(super) fn new(body: Body, ticket: Ticket) -> Self {
        Self { body, ticket: Arc::new(ticket) }
    }
}

impl HttpBody for Followed {
    type Data = Piece;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            frame.map(|frame| {
                frame.map_data(|bytes| {
                    self.ticket.gave(bytes.len());
                    Piece { bytes, ticket: self.ticket.clone() }
                })
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Bytes that tell when they are taken.
pub(super) struct Piece {
    bytes: Bytes,
    ticket: Arc<Ticket>,
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.ticket.took(count);
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if self.bytes.has_remaining() {
            self.ticket.took(self.bytes.len());
        }
    }
}
