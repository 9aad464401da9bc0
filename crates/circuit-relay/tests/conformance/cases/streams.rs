//! The streams of a connection: protocols, concurrency, and termination.

use circuit_relay::wire::{STOP_PROTOCOL, Status};
use futures::future::join_all;
use libp2p::{PeerId, Stream};

use crate::{
    case::Case,
    harness::{
        answer::{Answer, list},
        client::{Client, Connection, connect, read_to_end, reserve, write},
        server::Server,
    },
};

/// The number of streams that a client may open before the oldest one is replaced.
const MANY: usize = 64;

pub fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "64 concurrent requests on one connection",
            concurrent_requests,
            "all answered",
        )
        .differs(
            "not all answered",
            "A busy client may have 64 requests in flight, and each one is answered.",
        ),
        Case::new(
            "a request while 64 hop streams have sent nothing",
            among_streams_without_request,
            "NO_RESERVATION",
        )
        .differs(
            "no status",
            "Streams without a request give way to new ones.",
        ),
        Case::new("a stop stream to the relay", stop_stream, "not offered"),
        Case::new("the end of a hop stream after its answer", end, "Eof, Eof"),
    ]
}

async fn stop_stream(relay: Server) -> String {
    let (_client, connection) = Client::connected(&relay).await;
    match connection.open_protocol(STOP_PROTOCOL).await {
        Ok(_) => "offered".into(),
        Err(answer) => answer.to_string(),
    }
}

async fn end(relay: Server) -> String {
    let (_client, connection) = Client::connected(&relay).await;
    let mut ends = Vec::new();
    for request in [reserve(), connect(PeerId::random())] {
        let (_, stream) = connection.request(&request).await;
        let (rest, end) = read_to_end(&mut stream.unwrap()).await;
        assert!(rest.is_empty());
        ends.push(format!("{end:?}"));
    }
    list(ends)
}

/// Opens this many streams; the relay may reset some of them at once.
async fn open_many(connection: &Connection) -> Vec<Stream> {
    let streams = join_all((0..MANY).map(|_| connection.open())).await;
    streams.into_iter().flatten().collect()
}

async fn concurrent_requests(relay: Server) -> String {
    let (_client, connection) = Client::connected(&relay).await;
    let mut streams = open_many(&connection).await;
    let request = connect(PeerId::random());
    // Sends the first half of every request before the second half of any, so that all of them overlap.
    let (first, last) = request.split_at(request.len() / 2);
    for part in [first, last] {
        for stream in &mut streams {
            write(stream, part).await;
        }
    }
    let answers = join_all(streams.iter_mut().map(Answer::read)).await;
    let answered = answers
        .iter()
        .filter(|answer| answer.is(Status::NoReservation));
    match answered.count() {
        MANY => "all answered".into(),
        _ => "not all answered".into(),
    }
}

async fn among_streams_without_request(relay: Server) -> String {
    let (_client, connection) = Client::connected(&relay).await;
    let _silent = open_many(&connection).await;
    connection.connect(PeerId::random()).await.to_string()
}
