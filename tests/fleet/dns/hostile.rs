//! Malformed DNS packets, query floods and connection floods. Expected: bounded responses, and other
//! networks are served.

use std::{
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::RecordType,
};
use test_support::{PATIENCE, dns::question};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::dns::{
    FLEET,
    server::{DnsServer, relay},
};

fn socket(from: &str, server: &DnsServer) -> UdpSocket {
    let socket = UdpSocket::bind((from, 0)).unwrap();
    socket.connect(server.address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> Message {
    let mut packet = [0; 4096];
    let length = socket.recv(&mut packet).unwrap();
    Message::from_vec(&packet[..length]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_queries_get_an_error_or_no_answer() {
    let relay = relay("relay-0", &[]).await;
    let server = DnsServer::of(&[&relay], &[("RELAY_DNS_RATE_LIMIT", "0")]).await;
    let socket = socket("127.0.0.1", &server);
    let good = question(FLEET, RecordType::TXT);
    // Each packet is followed by a valid query. The next response belongs to one of the two.
    for (packet, is_answered) in [
        (Vec::new(), false),
        (vec![0; 11], false),
        (vec![0; 12], true),
        (vec![0xff; 512], false),
        (good[..good.len() - 1].to_vec(), true),
        ([&good[..12], &[0xc0, 12, 0, 16, 0, 1]].concat(), true),
        ([&good[..12], &[63; 300]].concat(), true),
        ([&good[..4], &[0xff; 8], &good[12..]].concat(), true),
        (vec![0; 60_000], true),
    ] {
        socket.send(&packet).unwrap();
        socket.send(&good).unwrap();
        if is_answered {
            let reply = receive(&socket);
            assert_eq!(reply.metadata.response_code, ResponseCode::FormErr);
            assert!(reply.answers.is_empty());
        }
        let reply = receive(&socket);
        assert_eq!(
            reply.metadata.response_code,
            ResponseCode::NoError,
            "{packet:?}"
        );
        assert!(!reply.answers.is_empty());
    }
    // Responses get no response, which could cause an endless loop between two servers.
    let mut answer = good.clone();
    answer[2] |= 0x80;
    socket.send(&answer).unwrap();
    socket.send(&good).unwrap();
    assert!(!receive(&socket).answers.is_empty());
}

/// Counts of a query flood.
#[derive(Debug, Default)]
struct Flood {
    packets: u32,
    whole: u32,
    truncated: u32,
    elapsed: Duration,
}

/// Sends queries continuously until `stop` is set.
fn flood(socket: &UdpSocket, stop: &AtomicBool) -> Flood {
    socket.set_nonblocking(true).unwrap();
    let packet = question(FLEET, RecordType::TXT);
    let mut flood = Flood::default();
    let begun = Instant::now();
    loop {
        let is_last = stop.load(Ordering::Relaxed);
        if is_last {
            // Waits for the last responses.
            thread::sleep(Duration::from_millis(100));
        }
        let mut answer = [0; 4096];
        while let Ok(length) = socket.recv(&mut answer) {
            let reply = Message::from_vec(&answer[..length]).unwrap();
            if reply.truncation {
                flood.truncated += 1;
                assert!(
                    length <= packet.len(),
                    "the response is longer than the query"
                );
            } else {
                flood.whole += 1;
            }
        }
        if is_last {
            flood.elapsed = begun.elapsed();
            return flood;
        }
        for _ in 0..50 {
            // The socket buffer may be full.
            flood.packets += u32::from(socket.send(&packet).is_ok());
        }
        thread::sleep(Duration::from_millis(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn query_floods_are_limited_and_clients_are_served() {
    const RATE: u32 = 50;
    let relay = relay("relay-0", &[]).await;
    let server = DnsServer::of(&[&relay], &[("RELAY_DNS_RATE_LIMIT", "50")]).await;
    let before = server.used_bytes();
    let stop = Arc::new(AtomicBool::new(false));
    let flooding = thread::spawn({
        let (socket, stop) = (socket("127.0.7.1", &server), Arc::clone(&stop));
        move || flood(&socket, &stop)
    });
    // A client in the flooded network soon gets a truncated response, and is served over TCP.
    let same_network = socket("127.0.7.2", &server);
    let packet = question(FLEET, RecordType::TXT);
    same_network
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    let begun = Instant::now();
    loop {
        assert!(
            begun.elapsed() < PATIENCE,
            "no response in the flooded network"
        );
        same_network.send(&packet).unwrap();
        let mut answer = [0; 4096];
        let length = same_network.recv(&mut answer).unwrap_or(0);
        if Message::from_vec(&answer[..length]).is_ok_and(|reply| reply.truncation) {
            break;
        }
    }
    for _ in 0..5 {
        let reply = server.ask_tcp(FLEET, RecordType::TXT).await;
        assert!(!reply.answers.is_empty());
        // Other networks are not affected.
        let reply = server.ask(FLEET, RecordType::TXT).await;
        assert!(!reply.answers.is_empty() && !reply.truncation);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let flood = flooding.join().unwrap();
    println!("{flood:?}");
    let seconds = u32::try_from(flood.elapsed.as_secs()).unwrap() + 1;
    assert!(
        flood.packets > 10 * RATE * (seconds + 1),
        "too few packets for a flood"
    );
    let allowed = RATE / 2..=RATE * (1 + seconds);
    assert!(allowed.contains(&flood.whole), "{allowed:?}");
    assert!(flood.truncated > RATE);
    let grown = server.used_bytes().saturating_sub(before);
    assert!(grown < 4 << 20, "{grown} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_bounded_and_time_out() {
    let relay = relay("relay-0", &[]).await;
    let server = DnsServer::of(&[&relay], &[]).await;
    let mut open = Vec::new();
    for _ in 0..32 {
        open.push(TcpStream::connect(server.address).await.unwrap());
    }
    // One more connection of the same network is closed at once; the others work.
    let mut rejected = TcpStream::connect(server.address).await.unwrap();
    assert_closed(&mut rejected).await;
    let packet = question(FLEET, RecordType::TXT);
    let stream = &mut open[7];
    for _ in 0..3 {
        stream
            .write_u16(packet.len().try_into().unwrap())
            .await
            .unwrap();
        stream.write_all(&packet).await.unwrap();
        let mut answer = vec![0; stream.read_u16().await.unwrap().into()];
        stream.read_exact(&mut answer).await.unwrap();
    }
    // A length prefix above the limit closes the connection at once, silence after the timeout.
    open[0].write_u16(u16::MAX).await.unwrap();
    assert_closed(&mut open[0]).await;
    let begun = Instant::now();
    assert_closed(&mut open[1]).await;
    assert!(begun.elapsed() < Duration::from_secs(8));
}

async fn assert_closed(stream: &mut TcpStream) {
    let read = timeout(PATIENCE, stream.read_u8()).await;
    read.expect("the connection is closed").unwrap_err();
}
