//! The response to one packet, as a pure function of bytes.
//!
//! | query | response |
//! |---|---|
//! | a name and type of the zone | the records, at most 16, rotated |
//! | a name of the zone, another type | no records, with the SOA |
//! | a name that does not exist in the zone | NXDOMAIN, with the SOA |
//! | any name of the zone before the state of the relays is known | SERVFAIL, so that resolvers try another server |
//! | ANY | one HINFO record (RFC 8482) |
//! | a zone transfer, or a name outside of the zone | REFUSED |
//! | another class or opcode | NOTIMP |
//! | an EDNS version other than 0 | BADVERS |
//! | no question, or more than one | FORMERR |
//! | a response, or a packet without a header | none |
//!
//! A response over UDP is at most as long as the client's EDNS size, and at most 1232 bytes. A longer
//! one is sent without records and with TC, and the client retries over TCP.

use hickory_proto::{
    op::{Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode},
    rr::{DNSClass, LowerName, Name, RData, Record, RecordType, rdata::HINFO},
    serialize::binary::{BinDecodable, BinDecoder},
};

use super::{
    directory::ZoneState,
    dnsaddr::{MAX_TXT_RECORDS, MAX_UDP_BYTES},
    zone::{Lookup, RecordSet, Zone},
};

/// The UDP size that every client supports, in bytes.
const MIN_UDP_BYTES: usize = 512;
/// Maximum length of a message over TCP, in bytes.
const MAX_TCP_BYTES: usize = u16::MAX as usize;
/// Maximum number of additional records of a query: EDNS, and a signature, which is ignored.
const MAX_ADDITIONALS: u16 = 2;
/// TTL of the response to ANY, in seconds; it never changes.
const ANY_TTL: u32 = 3600;

/// The transport of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsTransport {
    /// One UDP packet.
    Udp,
    /// One UDP packet without records: the client retries over TCP.
    UdpTruncated,
    /// TCP, without a limit of length other than that of the protocol.
    Tcp,
}

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The packet.
    pub bytes: Vec<u8>,
    /// The outcome, as an attribute of metrics.
    pub outcome: &'static str,
}

/// Responds to one packet; `None` if it gets no response. `rotation` is the index of the first record
/// of a set, modulo its size: a random number for each response shows all records of a large set
/// with equal probability.
pub fn respond(
    zone: &Zone,
    packet: &[u8],
    transport: DnsTransport,
    rotation: usize,
) -> Option<Response> {
    let mut decoder = BinDecoder::new(packet);
    let header = Header::read(&mut decoder).ok()?;
    if header.message_type == MessageType::Response {
        return None;
    }
    let mut reply = Message::response(header.id, header.op_code);
    reply.metadata.recursion_desired = header.recursion_desired;
    let mut limit = MIN_UDP_BYTES;
    match Request::read(&header, &mut decoder) {
        Err(code) => reply.metadata.response_code = code,
        Ok(Request { query, edns }) => {
            reply.edns = edns.as_ref().map(response_edns);
            if let Some(edns) = &edns {
                limit = usize::from(edns.max_payload()).clamp(MIN_UDP_BYTES, MAX_UDP_BYTES);
            }
            if edns.is_some_and(|edns| edns.version() > 0) {
                reply.metadata.response_code = ResponseCode::BADVERS;
            } else if transport == DnsTransport::UdpTruncated {
                reply.metadata.truncation = true;
            } else {
                answer_query(&mut reply, zone, &query, rotation);
            }
            reply.queries = vec![query];
        }
    }
    if transport == DnsTransport::Tcp {
        limit = MAX_TCP_BYTES;
    }
    let mut bytes = reply.to_vec().ok()?;
    if bytes.len() > limit {
        reply = reply.truncate();
        bytes = reply.to_vec().ok()?;
    }
    Some(Response {
        bytes,
        outcome: outcome(&reply),
    })
}

/// A query.
struct Request {
    query: Query,
    edns: Option<Edns>,
}

impl Request {
    /// Reads the packet after the header. The counts in the header are checked first, because they
    /// decide how much memory is allocated.
    fn read(header: &Header, decoder: &mut BinDecoder<'_>) -> Result<Self, ResponseCode> {
        if header.op_code != OpCode::Query {
            return Err(ResponseCode::NotImp);
        }
        let counts = &header.counts;
        let is_question = counts.queries == 1 && counts.answers == 0;
        // A request for a transfer has the version of the zone that the client has.
        let is_bounded = counts.authorities <= 1 && counts.additionals <= MAX_ADDITIONALS;
        if !is_question || !is_bounded {
            return Err(ResponseCode::FormErr);
        }
        let malformed = |_| ResponseCode::FormErr;
        let query = Query::read(decoder).map_err(malformed)?;
        let records = |decoder: &mut BinDecoder<'_>, count: u16, is_additional| {
            Message::read_records(decoder, count.into(), is_additional, OpCode::Query)
                .map_err(malformed)
        };
        records(decoder, counts.authorities, false)?;
        let (_, edns, _) = records(decoder, counts.additionals, true)?;
        Ok(Self { query, edns })
    }
}

/// The EDNS of the response to a client that sent EDNS.
fn response_edns(client: &Edns) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(u16::try_from(MAX_UDP_BYTES).unwrap_or(u16::MAX));
    edns.set_dnssec_ok(client.flags().dnssec_ok);
    edns
}

/// Fills `reply` with the zone's records for `query`.
fn answer_query(reply: &mut Message, zone: &Zone, query: &Query, rotation: usize) {
    let metadata = &mut reply.metadata;
    if query.query_class != DNSClass::IN {
        metadata.response_code = ResponseCode::NotImp;
        return;
    }
    let found = zone.lookup(&LowerName::new(&query.name));
    let is_transfer = matches!(query.query_type, RecordType::AXFR | RecordType::IXFR);
    if found == Lookup::OutOfZone || is_transfer {
        metadata.response_code = ResponseCode::Refused;
        return;
    }
    if zone.state() == ZoneState::Unknown {
        metadata.response_code = ResponseCode::ServFail;
        return;
    }
    metadata.authoritative = true;
    let sets = match found {
        Lookup::Records(sets) => sets,
        Lookup::OutOfZone | Lookup::NameError => {
            metadata.response_code = ResponseCode::NXDomain;
            reply.authorities = vec![soa(zone)];
            return;
        }
    };
    if query.query_type == RecordType::ANY {
        let any = RData::HINFO(HINFO::new("RFC8482".to_owned(), String::new()));
        reply.answers = vec![Record::from_rdata(query.name.clone(), ANY_TTL, any)];
        return;
    }
    let wanted = |set: &&RecordSet| set.record_type == query.query_type;
    match sets.iter().find(wanted) {
        Some(set) => reply.answers = records(&query.name, set, rotation),
        None => reply.authorities = vec![soa(zone)],
    }
    if query.query_type == RecordType::NS {
        reply.additionals = glue(zone, &reply.answers);
    }
}

/// The records of `set`, rotated. They have the name as the client wrote it: some clients check that
/// its case is preserved.
fn records(name: &Name, set: &RecordSet, rotation: usize) -> Vec<Record> {
    // A set is never empty, but a remainder of zero would panic.
    let first = rotation.checked_rem(set.data.len()).unwrap_or(0);
    let data = set.data.iter().cycle().skip(first);
    data.take(set.data.len().min(MAX_TXT_RECORDS))
        .map(|data| Record::from_rdata(name.clone(), set.ttl, data.clone()))
        .collect()
}

/// The addresses of the name servers that are inside the zone.
fn glue(zone: &Zone, servers: &[Record]) -> Vec<Record> {
    let mut glue = Vec::new();
    for server in servers {
        let RData::NS(name) = &server.data else {
            continue;
        };
        if let Lookup::Records(sets) = zone.lookup(&LowerName::new(name)) {
            glue.extend(sets.iter().flat_map(|set| records(name, set, 0)));
        }
    }
    glue
}

/// The SOA, which has the TTL of negative responses.
fn soa(zone: &Zone) -> Record {
    Record::from_rdata(
        zone.name().clone(),
        zone.ttl(),
        RData::SOA(zone.soa().clone()),
    )
}

fn outcome(reply: &Message) -> &'static str {
    let Metadata {
        response_code,
        truncation,
        ..
    } = reply.metadata;
    match response_code {
        _ if truncation => "truncated",
        ResponseCode::NoError if reply.answers.is_empty() => "nodata",
        ResponseCode::NoError => "answered",
        ResponseCode::NXDomain => "nxdomain",
        ResponseCode::ServFail => "servfail",
        ResponseCode::Refused => "refused",
        ResponseCode::NotImp => "notimp",
        ResponseCode::BADVERS => "badvers",
        _ => "formerr",
    }
}

#[cfg(test)]
mod tests;
