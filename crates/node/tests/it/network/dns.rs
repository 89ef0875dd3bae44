//! The resolver, asked from a guest, with a real name server behind it.

use super::lab::{self, Guest, PERMITTED, in_lab};
use aether_core::spec::NetworkPolicy::{None as Nothing, Public};
use aether_node::network::NetworkPool;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::str::FromStr;
use std::time::{Duration, Instant};

const RESOLVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 200, 0, 1)), 53);
const LONG: Duration = Duration::from_secs(20);

fn records(name: &str) -> Option<Vec<IpAddr>> {
    let list: &[&str] = match name {
        "pub.test." | "big.test." => &[PERMITTED],
        "priv.test." => &["10.1.2.3", "127.0.0.1", "169.254.169.254"],
        "mixed.test." => &["192.168.1.1", PERMITTED, "100.64.0.1"],
        "six.test." => &["fd00:ec2::254", "::ffff:10.1.2.3", "2001:db8:77::10"],
        _ => return None,
    };
    Some(list.iter().map(|a| a.parse().expect("address")).collect())
}

/// None: the server stays silent.
fn answer(packet: &[u8], tcp: bool) -> Option<Vec<u8>> {
    let query = Message::from_vec(packet).expect("our resolver asks well");
    let asked = query.queries().first().expect("one question").clone();
    let name = asked.name().to_ascii();
    if name == "silent.test." {
        return None;
    }
    let mut out = Message::new();
    out.set_id(query.id()).set_message_type(MessageType::Response).set_op_code(OpCode::Query);
    out.add_query(asked.clone());
    if name == "liar.test." {
        out.set_id(query.id().wrapping_add(1));
    }
    match records(&name) {
        Some(_) if name == "big.test." && !tcp => drop(out.set_truncated(true)),
        Some(list) => {
            let copies = if name == "big.test." { 60 } else { 1 };
            for (i, ip) in
                list.into_iter().cycle().take(copies.max(3)).enumerate().take_while(|(i, _)| copies > 1 || *i < 3)
            {
                let data = match ip {
                    IpAddr::V4(a) => RData::A(a.into()),
                    IpAddr::V6(a) => RData::AAAA(a.into()),
                };
                let wanted = data.record_type() == asked.query_type();
                let seen = out.answers().iter().any(|r| r.data() == &data);
                if wanted && (copies > 1 || !seen) {
                    let ttl = u32::try_from(i).expect("small") + 60;
                    out.add_answer(Record::from_rdata(asked.name().clone(), ttl, data));
                }
            }
        }
        None => drop(out.set_response_code(ResponseCode::NXDomain)),
    }
    out.to_vec().ok()
}

/// A name server on the host's loopback; its address.
fn name_server() -> SocketAddr {
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let at = udp.local_addr().expect("address");
    let tcp = TcpListener::bind(at).expect("bind");
    let spawn = |work: Box<dyn FnOnce() + Send>| drop(std::thread::Builder::new().spawn(work).expect("spawn"));
    spawn(Box::new(move || {
        let mut buffer = [0; 2048];
        while let Ok((n, from)) = udp.recv_from(&mut buffer) {
            if let Some(bytes) = answer(&buffer[..n], false) {
                let _ = udp.send_to(&bytes, from);
            }
        }
    }));
    spawn(Box::new(move || {
        for mut stream in tcp.incoming().map_while(Result::ok) {
            let packet = read_framed(&mut stream).expect("a query");
            if let Some(bytes) = answer(&packet, true) {
                let _ = write_framed(&mut stream, &bytes);
            }
        }
    }));
    at
}

fn read_framed(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut packet = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut packet)?;
    Ok(packet)
}

fn write_framed(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(&u16::try_from(bytes.len()).expect("short").to_be_bytes())?;
    stream.write_all(bytes)
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut query = Message::new();
    query.set_id(77).set_recursion_desired(true);
    query.add_query(Query::query(Name::from_str(name).expect("name"), kind));
    query.to_vec().expect("encode")
}

fn ask_bytes(guest: &Guest, packet: Vec<u8>, limit: Duration) -> Option<Message> {
    guest.ns.run(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
        socket.set_read_timeout(Some(limit)).expect("timeout");
        socket.connect(RESOLVER).expect("connect");
        socket.send(&packet).ok()?;
        let mut buffer = [0; 2048];
        let n = socket.recv(&mut buffer).ok()?;
        Some(Message::from_vec(&buffer[..n]).expect("our resolver answers well"))
    })
}

fn ask(guest: &Guest, name: &str, kind: RecordType) -> Message {
    let answer = ask_bytes(guest, question(name, kind), LONG).expect("an answer");
    assert_eq!(answer.id(), 77);
    answer
}

fn ask_tcp(guest: &Guest, name: &str) -> Message {
    let packet = question(name, RecordType::A);
    guest.ns.run(move || {
        let mut stream = TcpStream::connect_timeout(&RESOLVER, LONG).expect("connect");
        stream.set_read_timeout(Some(LONG)).expect("timeout");
        write_framed(&mut stream, &packet).expect("ask");
        Message::from_vec(&read_framed(&mut stream).expect("an answer")).expect("our resolver answers well")
    })
}

fn addresses(message: &Message) -> Vec<String> {
    message.answers().iter().filter_map(|r| r.data().ip_addr()).map(|a| a.to_string()).collect()
}

#[test]
fn names_resolve_and_answers_that_lead_inside_are_taken_out() {
    in_lab(async |lab| {
        let mut cfg = lab.config("tdns");
        cfg.upstream_dns = vec![name_server()];
        let pool = NetworkPool::open(cfg).await.expect("open");
        let guest = lab.guest(&pool, 0, Public).await;

        assert_eq!(addresses(&ask(&guest, "pub.test.", RecordType::A)), [PERMITTED]);
        assert_eq!(addresses(&ask_tcp(&guest, "pub.test.")), [PERMITTED]);
        let inside = ask(&guest, "priv.test.", RecordType::A);
        assert_eq!((inside.response_code(), inside.answers().len()), (ResponseCode::NoError, 0));
        assert_eq!(addresses(&ask(&guest, "mixed.test.", RecordType::A)), [PERMITTED]);
        assert_eq!(addresses(&ask(&guest, "six.test.", RecordType::AAAA)), ["2001:db8:77::10"]);
        assert_eq!(ask(&guest, "none.test.", RecordType::A).response_code(), ResponseCode::NXDomain);
        assert_eq!(ask(&guest, "pub.test.", RecordType::ANY).response_code(), ResponseCode::Refused);
        // Longer than a packet: the guest is told to come by TCP, and then gets all.
        let big = ask(&guest, "big.test.", RecordType::A);
        assert!(big.truncated() && big.answers().is_empty());
        assert_eq!(addresses(&ask_tcp(&guest, "big.test.")).len(), 60);
        // The guest then reaches what it was told.
        guest.assert_reaches(PERMITTED);
    });
}

#[test]
fn silence_lies_and_rubbish_end_in_a_failure_and_the_resolver_goes_on() {
    in_lab(async |lab| {
        let mut cfg = lab.config("tdnsx");
        cfg.upstream_dns = vec![name_server()];
        let pool = NetworkPool::open(cfg).await.expect("open");
        let guest = lab.guest(&pool, 0, Public).await;
        assert_eq!(ask(&guest, "silent.test.", RecordType::A).response_code(), ResponseCode::ServFail);
        assert_eq!(ask(&guest, "liar.test.", RecordType::A).response_code(), ResponseCode::ServFail);

        let rubbish = ask_bytes(&guest, [&[0, 7, 1, 0], [0xff; 30].as_slice()].concat(), LONG).expect("an answer");
        assert_eq!((rubbish.id(), rubbish.response_code()), (7, ResponseCode::FormErr));
        let mut answer = question("pub.test.", RecordType::A);
        answer[2] |= 0x80;
        assert!(ask_bytes(&guest, answer, Duration::from_secs(1)).is_none(), "answers are not answered");
        assert!(ask_bytes(&guest, vec![1, 2, 3], Duration::from_secs(1)).is_none());
        let flood = guest.ns.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
            let silent = question("silent.test.", RecordType::A);
            (0..500).filter(|_| socket.send_to(&silent, RESOLVER).is_ok()).count()
        });
        assert!(flood > 0);
        // Once the flood's questions have run out.
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(addresses(&ask(&guest, "pub.test.", RecordType::A)), [PERMITTED]);
    });
}

#[test]
fn with_no_name_server_the_answer_is_a_prompt_failure_and_under_none_there_is_none() {
    in_lab(async |lab| {
        let pool = NetworkPool::open(lab.config("tdnsn")).await.expect("open");
        let guest = lab.guest(&pool, 0, Public).await;
        #[allow(clippy::disallowed_methods, reason = "measures real waiting")]
        let start = Instant::now();
        assert_eq!(ask(&guest, "pub.test.", RecordType::A).response_code(), ResponseCode::ServFail);
        assert!(start.elapsed() < Duration::from_secs(5), "a guest's own patience is 5 s");

        pool.set_policy(0, Nothing).await.expect("none");
        assert!(ask_bytes(&guest, question("pub.test.", RecordType::A), Duration::from_secs(1)).is_none());
        assert!(!guest.ns.run(|| lab::tcp(RESOLVER, Duration::from_secs(1))));
        pool.set_policy(0, Public).await.expect("public");
        assert_eq!(ask(&guest, "pub.test.", RecordType::A).response_code(), ResponseCode::ServFail);
    });
}
