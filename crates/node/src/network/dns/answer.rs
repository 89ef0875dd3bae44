//! What is asked and what may be answered. Pure: bytes and lists in, bytes
//! out; every byte comes from a guest or a stranger.

use super::super::deny::Lists;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::svcb::{SVCB, SvcParamValue};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};
use std::net::IpAddr;

/// Fits every path without fragments (DNS flag day 2020).
pub(super) const MAX_UDP_ANSWER: u16 = 1232;
const MIN_UDP_ANSWER: u16 = 512;
const HEADER: usize = 12;
const IS_RESPONSE: u8 = 0x80;

/// What to do with a guest's packet.
#[derive(Debug)]
pub(super) enum Verdict {
    Ask(Box<Message>),
    Answer(Vec<u8>),
    Ignore,
}

pub(super) fn judge(packet: &[u8]) -> Verdict {
    // Answering answers would let two resolvers talk for ever.
    if packet.len() < HEADER || packet[2] & IS_RESPONSE != 0 {
        return Verdict::Ignore;
    }
    let Ok(message) = Message::from_vec(packet) else {
        let id = u16::from_be_bytes([packet[0], packet[1]]);
        return refuse(id, OpCode::Query, ResponseCode::FormErr);
    };
    let id = message.id();
    if message.op_code() != OpCode::Query {
        return refuse(id, message.op_code(), ResponseCode::NotImp);
    }
    let [question] = message.queries() else { return refuse(id, OpCode::Query, ResponseCode::FormErr) };
    let transfer = matches!(question.query_type(), RecordType::AXFR | RecordType::IXFR | RecordType::ANY);
    if question.query_class() != DNSClass::IN || transfer {
        return refuse(id, OpCode::Query, ResponseCode::Refused);
    }
    Verdict::Ask(Box::new(message))
}

fn refuse(id: u16, op: OpCode, code: ResponseCode) -> Verdict {
    match Message::error_msg(id, op, code).to_vec() {
        Ok(bytes) => Verdict::Answer(bytes),
        Err(_) => Verdict::Ignore,
    }
}

/// No upstream answered.
pub(super) fn failure(query: &Message) -> Option<Vec<u8>> {
    let mut out = head(query);
    out.set_response_code(ResponseCode::ServFail);
    out.to_vec().ok()
}

/// The packet that goes upstream: only the question is the guest's.
pub(super) fn question(query: &Message, id: u16) -> Option<Vec<u8>> {
    let mut out = Message::new();
    out.set_id(id).set_message_type(MessageType::Query).set_op_code(OpCode::Query).set_recursion_desired(true);
    out.add_query(query.queries().first()?.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(MAX_UDP_ANSWER);
    out.set_edns(edns);
    out.to_vec().ok()
}

/// Whether `packet` answers that question.
pub(super) fn accept(query: &Message, id: u16, packet: &[u8]) -> Option<Message> {
    let answer = Message::from_vec(packet).ok()?;
    let asked = query.queries().first()?;
    let fits = answer.id() == id
        && answer.message_type() == MessageType::Response
        && match answer.queries() {
            [q] => {
                q.name() == asked.name() && q.query_type() == asked.query_type() && q.query_class() == asked.query_class()
            }
            // Some servers leave the question out of an error.
            [] => answer.response_code() != ResponseCode::NoError,
            _ => false,
        };
    fits.then_some(answer)
}

/// What the guest gets: the upstream's records without those that lead where
/// a sandbox may not go. A name whose addresses all go away exists, without
/// addresses.
pub(super) fn reply(query: &Message, mut found: Message, lists: &Lists, udp: bool) -> Option<Vec<u8>> {
    let mut out = head(query);
    out.set_response_code(found.response_code());
    let allowed = |records: Vec<Record>| -> Vec<Record> {
        records.into_iter().filter(|r| may_pass(r, lists)).collect()
    };
    out.insert_answers(allowed(found.take_answers()));
    out.insert_name_servers(allowed(found.take_name_servers()));
    out.insert_additionals(allowed(found.take_additionals()));
    let bytes = out.to_vec().ok()?;
    let room = if udp { usize::from(udp_room(query)) } else { usize::from(u16::MAX) };
    if bytes.len() <= room {
        return Some(bytes);
    }
    let mut cut = head(query);
    cut.set_response_code(found.response_code()).set_truncated(true);
    cut.to_vec().ok()
}

fn udp_room(query: &Message) -> u16 {
    query.extensions().as_ref().map_or(MIN_UDP_ANSWER, |e| e.max_payload().clamp(MIN_UDP_ANSWER, MAX_UDP_ANSWER))
}

fn head(query: &Message) -> Message {
    let mut out = Message::new();
    out.set_id(query.id())
        .set_message_type(MessageType::Response)
        .set_op_code(OpCode::Query)
        .set_recursion_desired(query.recursion_desired())
        .set_recursion_available(true);
    out.add_queries(query.queries().iter().cloned());
    if query.extensions().is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_UDP_ANSWER);
        out.set_edns(edns);
    }
    out
}

fn may_pass(record: &Record, lists: &Lists) -> bool {
    match record.data() {
        RData::A(a) => !lists.denies(IpAddr::V4(a.0)),
        RData::AAAA(a) => !lists.denies(IpAddr::V6(a.0)),
        RData::HTTPS(h) => hints_pass(&h.0, lists),
        RData::SVCB(s) => hints_pass(s, lists),
        _ => true,
    }
}

fn hints_pass(service: &SVCB, lists: &Lists) -> bool {
    service.svc_params().iter().all(|(_, value)| match value {
        SvcParamValue::Ipv4Hint(h) => h.0.iter().all(|a| !lists.denies(IpAddr::V4(a.0))),
        SvcParamValue::Ipv6Hint(h) => h.0.iter().all(|a| !lists.denies(IpAddr::V6(a.0))),
        _ => true,
    })
}
