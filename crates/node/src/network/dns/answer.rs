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
/// A name of one byte, type and class; a record has TTL and length too.
const MIN_QUESTION: usize = 5;
const MIN_RECORD: usize = 11;

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
    let Some(message) = parsed(packet) else {
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

/// Room is made for as many records as the header promises: 40 bytes would
/// cost megabytes if they promised what they cannot hold.
fn parsed(packet: &[u8]) -> Option<Message> {
    let count = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    let body = packet.len().checked_sub(HEADER)?;
    let least = count(4) * MIN_QUESTION + (count(6) + count(8) + count(10)) * MIN_RECORD;
    (least <= body).then(|| Message::from_vec(packet).ok())?
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
    let answer = parsed(packet)?;
    let asked = query.queries().first()?;
    let fits = answer.id() == id
        && answer.message_type() == MessageType::Response
        && match answer.queries() {
            [q] => {
                q.name() == asked.name()
                    && q.query_type() == asked.query_type()
                    && q.query_class() == asked.query_class()
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
    let allowed =
        |records: Vec<Record>| -> Vec<Record> { records.into_iter().filter(|r| may_pass(r, lists)).collect() };
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

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::NetworkConfig;
    use hickory_proto::op::Query;
    use hickory_proto::rr::rdata::HTTPS;
    use hickory_proto::rr::rdata::svcb::{IpHint, SvcParamKey};
    use hickory_proto::rr::{Name, rdata::A};
    use proptest::prelude::*;
    use std::net::Ipv4Addr;
    use std::str::FromStr;

    fn lists() -> Lists {
        Lists::new(&NetworkConfig::new("/run/test", "aether"))
    }

    fn query(kind: RecordType, payload: Option<u16>) -> Message {
        let mut message = Message::new();
        message.set_id(9).set_recursion_desired(true);
        message.add_query(Query::query(Name::from_str("a.test.").expect("name"), kind));
        if let Some(size) = payload {
            let mut edns = Edns::new();
            edns.set_max_payload(size);
            message.set_edns(edns);
        }
        message
    }

    fn found(data: Vec<RData>) -> Message {
        let mut message = Message::new();
        message.set_message_type(MessageType::Response);
        let name = Name::from_str("a.test.").expect("name");
        message.insert_answers(data.into_iter().map(|d| Record::from_rdata(name.clone(), 60, d)).collect());
        message
    }

    #[test]
    fn only_plain_questions_are_asked() {
        let bytes = query(RecordType::A, Some(1232)).to_vec().expect("encode");
        assert!(matches!(judge(&bytes), Verdict::Ask(_)));
        let code = |bytes: &[u8]| match judge(bytes) {
            Verdict::Answer(b) => Message::from_vec(&b).expect("decode").response_code(),
            other => panic!("{other:?}"),
        };
        for kind in [RecordType::ANY, RecordType::AXFR, RecordType::IXFR] {
            assert_eq!(code(&query(kind, None).to_vec().expect("encode")), ResponseCode::Refused);
        }
        let mut update = query(RecordType::A, None);
        update.set_op_code(OpCode::Update);
        assert_eq!(code(&update.to_vec().expect("encode")), ResponseCode::NotImp);
        let mut two = query(RecordType::A, None);
        two.add_query(Query::query(Name::root(), RecordType::A));
        assert_eq!(code(&two.to_vec().expect("encode")), ResponseCode::FormErr);
        let mut response = bytes;
        response[2] |= IS_RESPONSE;
        assert!(matches!(judge(&response), Verdict::Ignore));
        assert!(matches!(judge(&[0; 5]), Verdict::Ignore));
    }

    #[test]
    fn hints_of_service_records_are_judged_too() {
        let service = |ip: [u8; 4]| {
            let hint = SvcParamValue::Ipv4Hint(IpHint(vec![A(Ipv4Addr::from(ip))]));
            RData::HTTPS(HTTPS(SVCB::new(1, Name::root(), vec![(SvcParamKey::Ipv4Hint, hint)])))
        };
        let q = query(RecordType::HTTPS, Some(1232));
        let answers = |ip| {
            let bytes = reply(&q, found(vec![service(ip)]), &lists(), true).expect("a reply");
            Message::from_vec(&bytes).expect("decode").answers().len()
        };
        assert_eq!((answers([203, 0, 113, 1]), answers([10, 0, 0, 1])), (1, 0));
    }

    #[test]
    fn udp_answers_fit_what_was_asked_for_and_no_more_than_is_safe() {
        let many = |n: u8| found((0..n).map(|i| RData::A(A(Ipv4Addr::new(203, 0, 113, i)))).collect());
        for (payload, most) in [(None, 512), (Some(100), 512), (Some(900), 900), (Some(65_000), 1232)] {
            let q = query(RecordType::A, payload);
            for n in [1, 30, 50, 100] {
                let bytes = reply(&q, many(n), &lists(), true).expect("a reply");
                assert!(bytes.len() <= most, "{} for {payload:?}", bytes.len());
                let message = Message::from_vec(&bytes).expect("decode");
                assert!(message.truncated() || message.answers().len() == usize::from(n));
            }
            let whole = reply(&q, many(100), &lists(), false).expect("a reply");
            assert_eq!(Message::from_vec(&whole).expect("decode").answers().len(), 100);
        }
    }

    #[test]
    fn an_answer_must_fit_its_question() {
        let q = query(RecordType::A, None);
        let mut good = q.clone();
        good.set_message_type(MessageType::Response);
        assert!(accept(&q, 9, &good.to_vec().expect("encode")).is_some());
        assert!(accept(&q, 10, &good.to_vec().expect("encode")).is_none());
        assert!(accept(&q, 9, &q.to_vec().expect("encode")).is_none());
        let mut other = query(RecordType::AAAA, None);
        other.set_message_type(MessageType::Response);
        assert!(accept(&q, 9, &other.to_vec().expect("encode")).is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), id: u16) {
            let q = query(RecordType::A, Some(1232));
            if let Verdict::Ask(asked) = judge(&bytes) {
                prop_assert!(question(&asked, id).is_some());
                prop_assert!(failure(&asked).is_some());
            }
            if let Some(answer) = accept(&q, id, &bytes) {
                reply(&q, answer, &lists(), true);
            }
        }

        /// Bytes that nearly are an answer: one flipped at a time.
        #[test]
        fn no_damage_panics(at in 0_usize..200, to: u8) {
            let q = query(RecordType::A, Some(1232));
            let mut answer = found(vec![RData::A(A(Ipv4Addr::new(203, 0, 113, 1))); 5]);
            answer.set_id(9).add_query(q.queries()[0].clone());
            let mut bytes = answer.to_vec().expect("encode");
            let n = bytes.len();
            bytes[at % n] = to;
            if let Some(answer) = accept(&q, 9, &bytes) {
                reply(&q, answer, &lists(), true);
            }
            let mut asked = q.to_vec().expect("encode");
            let n = asked.len();
            asked[at % n] = to;
            if let Verdict::Ask(asked) = judge(&asked) {
                failure(&asked);
            }
        }
    }
}
