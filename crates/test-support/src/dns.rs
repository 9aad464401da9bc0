//! DNS queries.

use std::{io, net::SocketAddr};

use hickory_proto::{
    op::{Message, Query},
    rr::{Name, RData, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::PATIENCE;

/// An encoded query for records of a name.
pub fn question(name: &str, record_type: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(
        Name::from_ascii(format!("{name}.")).unwrap(),
        record_type,
    ));
    message.to_vec().unwrap()
}

/// The texts of TXT records, sorted, because servers rotate them.
pub fn texts(message: &Message) -> Vec<String> {
    let text = |data: &RData| match data {
        RData::TXT(txt) => String::from_utf8(txt.txt_data.concat()).unwrap(),
        other => panic!("{other} is not a TXT record"),
    };
    let mut texts: Vec<_> = message.answers.iter().map(|a| text(&a.data)).collect();
    texts.sort();
    texts
}

/// Sends a query over TCP.
pub async fn ask_tcp(
    server: SocketAddr,
    name: &str,
    record_type: RecordType,
) -> io::Result<Message> {
    let exchange = async {
        let mut stream = TcpStream::connect(server).await?;
        let question = question(name, record_type);
        let length = u16::try_from(question.len()).unwrap();
        stream.write_u16(length).await?;
        stream.write_all(&question).await?;
        let mut answer = vec![0; stream.read_u16().await?.into()];
        stream.read_exact(&mut answer).await?;
        Ok(Message::from_vec(&answer).unwrap())
    };
    timeout(PATIENCE, exchange).await?
}
