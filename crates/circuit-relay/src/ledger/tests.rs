use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use libp2p::identity::Keypair;
use proptest::prelude::*;

use super::*;

/// A connection that records whether it holds a reservation.
#[derive(Clone, Debug)]
struct Link(ConnectionId, Arc<AtomicBool>);

impl Link {
    fn new(id: usize) -> Self {
        Self(ConnectionId::new_unchecked(id), Arc::default())
    }

    fn holds(&self) -> bool {
        self.1.load(Ordering::Relaxed)
    }
}

impl Connection for Link {
    fn id(&self) -> ConnectionId {
        self.0
    }

    fn accepts_circuits(&self) -> bool {
        true
    }

    fn set_holds_reservation(&self, holds: bool) {
        self.1.store(holds, Ordering::Relaxed);
    }
}

const TTL: Duration = Duration::from_secs(3600);

fn limits() -> Limits {
    Limits {
        reservations: Some(2),
        reservations_per_peer: Some(2),
        reservations_per_ip: None,
        reservation_ttl: TTL,
        circuits: Some(3),
        circuits_per_source: Some(2),
        circuits_per_target: Some(2),
        unused_circuit_timeout: None,
        idle_circuit_timeout: None,
        prefix_shares: resource_manager::Shares::default(),
        circuit: crate::CircuitLimit::default(),
        reservation_rate: crate::RequestRateLimits::default(),
        circuit_rate: crate::RequestRateLimits::default(),
        bandwidth: crate::BandwidthLimits::default(),
    }
}

fn peer() -> PeerId {
    PeerId::random()
}

fn connect(ledger: &mut Ledger<Link>, peer: PeerId, id: usize) -> Link {
    let link = Link::new(id);
    ledger.connected(peer, link.clone());
    link
}

/// Reserves for a new peer from the given address at each call, always at the same time.
fn reserves_from(ledger: &mut Ledger<Link>) -> impl FnMut(&str) -> Result<(), DenyReason> {
    let now = Instant::now();
    let mut next = 0;
    move |ip| {
        next += 1;
        let peer = peer();
        let link = connect(ledger, peer, next);
        let ip = Some(ip.parse().unwrap());
        ledger.reserve(now, peer, link.0, ip).map(|_| ())
    }
}

/// An opened circuit.
#[derive(Debug)]
struct Opened {
    number: u64,
    connections: Vec<Link>,
    state: Arc<CircuitState>,
}

fn open(
    ledger: &mut Ledger<Link>,
    now: Instant,
    source: PeerId,
    target: PeerId,
) -> Result<Opened, DenyReason> {
    let state = Arc::new(CircuitState::default());
    let opened = ledger.connect(now, (source, None), target, &state);
    opened.map(|(number, connections)| Opened {
        number,
        connections,
        state,
    })
}

/// The reason why a circuit is denied.
fn deny_reason(
    ledger: &mut Ledger<Link>,
    now: Instant,
    source: PeerId,
    target: PeerId,
) -> Option<DenyReason> {
    open(ledger, now, source, target).err()
}

#[test]
fn renewal_succeeds_when_the_relay_is_full_and_new_reservations_are_refused() {
    let mut ledger = Ledger::new(limits());
    let now = Instant::now();
    let (a, b, c) = (peer(), peer(), peer());
    let [link_a, link_b, link_c] =
        [(a, 1), (b, 2), (c, 3)].map(|(peer, id)| connect(&mut ledger, peer, id));
    let new = ledger.reserve(now, a, link_a.0, None).unwrap();
    assert_eq!(new.renews_after, None);
    let new = ledger.reserve(now, b, link_b.0, None).unwrap();
    assert_eq!(new.renews_after, None);
    assert_eq!(
        ledger.reserve(now, c, link_c.0, None),
        Err(DenyReason::Reservations)
    );
    let later = now + TTL / 2;
    let renewed = ledger.reserve(later, a, link_a.0, None).unwrap();
    assert_eq!(renewed.renews_after, Some(TTL / 2));
    assert_eq!(renewed.expires, later + TTL);
    // After a reconnect it is still a renewal.
    let again = connect(&mut ledger, a, 4);
    assert_eq!(ledger.disconnected(a, link_a.0), None);
    let again = ledger.reserve(later, a, again.0, None).unwrap();
    assert_eq!(again.renews_after, Some(Duration::ZERO));
    assert_eq!(ledger.reservations(), 2);
}

#[test]
fn reservation_ends_exactly_at_its_expiry_and_frees_its_slot() {
    let mut ledger = Ledger::new(limits());
    let now = Instant::now();
    let (a, b) = (peer(), peer());
    let (link_a, link_b) = (connect(&mut ledger, a, 1), connect(&mut ledger, b, 2));
    ledger.reserve(now, a, link_a.0, None).unwrap();
    ledger.reserve(now + TTL / 2, b, link_b.0, None).unwrap();
    assert_eq!(ledger.next_expiry(), Some(now + TTL));
    let just_before = now + Duration::new(3599, 999_999_999);
    assert_eq!(ledger.expire(just_before), None);
    assert!(open(&mut ledger, just_before, b, a).is_ok());
    assert_eq!(
        deny_reason(&mut ledger, now + TTL, b, a),
        Some(DenyReason::NoReservation)
    );
    assert!(link_a.holds());
    assert_eq!(
        ledger.expire(now + TTL),
        Some(EndedReservation {
            peer: a,
            since: now
        })
    );
    assert_eq!(ledger.expire(now + TTL), None);
    assert!(!link_a.holds());
    let anew = ledger.reserve(now + TTL, a, link_a.0, None).unwrap();
    assert_eq!(anew.renews_after, None);
}

#[test]
fn oldest_connection_of_the_peer_stops_holding_the_reservation() {
    let mut ledger = Ledger::new(limits());
    let now = Instant::now();
    let a = peer();
    let links = [1, 2, 3].map(|id| connect(&mut ledger, a, id));
    for link in &links {
        ledger.reserve(now, a, link.0, None).unwrap();
    }
    assert_eq!(links.clone().map(|l| l.holds()), [false, true, true]);
    assert_eq!(ledger.reservations(), 1);
    // Connections that hold the reservation come first, the newest of each kind before older ones.
    let tried = open(&mut ledger, now, peer(), a).unwrap().connections;
    assert_eq!(
        tried.iter().map(|l| l.0).collect::<Vec<_>>(),
        [links[2].0, links[1].0, links[0].0]
    );
    // The reservation lasts as long as any direct connection.
    assert_eq!(ledger.disconnected(a, links[1].0), None);
    assert_eq!(ledger.disconnected(a, links[2].0), None);
    assert!(links[0].holds());
    assert!(ledger.disconnected(a, links[0].0).is_some());
    assert_eq!(ledger.reservations(), 0);
}

#[test]
fn reservations_per_address_are_limited_and_ipv6_counts_by_64() {
    let mut ledger = Ledger::new(Limits {
        reservations: None,
        reservations_per_ip: Some(1),
        ..limits()
    });
    let mut reserve = reserves_from(&mut ledger);
    assert_eq!(reserve("192.0.2.1"), Ok(()));
    assert_eq!(reserve("192.0.2.2"), Ok(()));
    assert_eq!(
        reserve("::ffff:192.0.2.1"),
        Err(DenyReason::ReservationsPerIp)
    );
    assert_eq!(reserve("2001:db8:0:1::1"), Ok(()));
    assert_eq!(
        reserve("2001:db8:0:1:ffff::2"),
        Err(DenyReason::ReservationsPerIp)
    );
    assert_eq!(reserve("2001:db8:0:2::1"), Ok(()));
}

#[test]
fn reservations_do_not_move_into_a_full_address() {
    let mut ledger = Ledger::new(Limits {
        reservations: None,
        reservations_per_ip: Some(1),
        ..limits()
    });
    let now = Instant::now();
    let ips = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(|ip| Some(ip.parse().unwrap()));
    let (a, b, c) = (peer(), peer(), peer());
    let [link_a, link_b, link_c] =
        [(a, 1), (b, 2), (c, 3)].map(|(peer, id)| connect(&mut ledger, peer, id));
    ledger.reserve(now, a, link_a.0, ips[0]).unwrap();
    ledger.reserve(now, b, link_b.0, ips[1]).unwrap();
    // The reservation is renewed, but still counts for the former address.
    ledger.reserve(now, a, link_a.0, ips[1]).unwrap();
    let third = ledger.reserve(now, c, link_c.0, ips[0]);
    assert_eq!(third, Err(DenyReason::ReservationsPerIp));
    // It moves to an address with capacity.
    ledger.reserve(now, a, link_a.0, ips[2]).unwrap();
    assert!(ledger.reserve(now, c, link_c.0, ips[0]).is_ok());
}

#[test]
fn circuits_count_for_the_relay_and_for_both_peers() {
    let mut ledger = Ledger::new(limits());
    let now = Instant::now();
    let [a, b, c] = [peer(), peer(), peer()];
    for (id, peer) in [a, b].into_iter().enumerate() {
        let link = connect(&mut ledger, peer, id);
        ledger.reserve(now, peer, link.0, None).unwrap();
    }
    assert_eq!(
        deny_reason(&mut ledger, now, a, a),
        Some(DenyReason::ConnectToSelf)
    );
    assert_eq!(
        deny_reason(&mut ledger, now, a, c),
        Some(DenyReason::NoReservation)
    );
    let used: Vec<_> = (0..2)
        .map(|_| open(&mut ledger, now, c, a).unwrap())
        .inspect(|circuit| circuit.state.mark_used())
        .collect();
    assert_eq!(
        deny_reason(&mut ledger, now, c, b),
        Some(DenyReason::SourceCircuits)
    );
    assert_eq!(
        deny_reason(&mut ledger, now, b, a),
        Some(DenyReason::TargetCircuits)
    );
    let d = peer();
    open(&mut ledger, now, d, b).unwrap();
    assert_eq!(
        deny_reason(&mut ledger, now, d, b),
        Some(DenyReason::Circuits)
    );
    ledger.disconnect(used[0].number);
    open(&mut ledger, now, d, b).unwrap();
}

#[test]
fn unused_circuit_to_a_full_target_is_evicted() {
    let mut ledger = Ledger::new(limits());
    let now = Instant::now();
    let [a, b, c, d] = [peer(), peer(), peer(), peer()];
    let link = connect(&mut ledger, a, 1);
    ledger.reserve(now, a, link.0, None).unwrap();
    let [first, second] = [b, c].map(|source| open(&mut ledger, now, source, a).unwrap());
    open(&mut ledger, now, d, a).unwrap();
    assert!(first.state.evicted().is_cancelled());
    assert!(!second.state.evicted().is_cancelled());
    assert_eq!(ledger.circuits(), 2);
    assert_eq!(ledger.peer_state(&b).circuits, 0, "its slot is free");
    ledger.disconnect(first.number);
    assert_eq!((ledger.circuits(), ledger.peer_state(&a).circuits), (2, 2));
}

#[test]
fn scarce_reservations_are_limited_to_the_share_of_a_prefix() {
    let mut ledger = Ledger::new(Limits {
        reservations: Some(16),
        ..limits()
    });
    let mut reserve = reserves_from(&mut ledger);
    // Networks of one /60.
    for network in 0..12 {
        assert_eq!(reserve(&format!("2001:db8:0:{network:x}::1")), Ok(()));
    }
    let refused = Err(DenyReason::ReservationShare);
    assert_eq!(reserve("2001:db8:0:f::1"), refused);
    assert_eq!(
        reserve("2001:db8:0:100::1"),
        refused,
        "the /48 has its half"
    );
    for network in 0..4 {
        assert_eq!(reserve(&format!("2001:db8:{}::1", network + 1)), Ok(()));
    }
    assert_eq!(reserve("192.0.2.1"), Err(DenyReason::Reservations));
}

#[test]
fn drain_limits_renewals_to_its_deadline_and_refuses_new_reservations() {
    let mut ledger = Ledger::new(limits());
    let now = Instant::now();
    let (a, b) = (peer(), peer());
    let (link_a, link_b) = (connect(&mut ledger, a, 1), connect(&mut ledger, b, 2));
    ledger.reserve(now, a, link_a.0, None).unwrap();
    let deadline = now + Duration::from_secs(300);
    ledger.drain(deadline);
    assert_eq!(
        ledger.reserve(now, a, link_a.0, None).unwrap().expires,
        deadline
    );
    assert_eq!(
        ledger.reserve(now, b, link_b.0, None),
        Err(DenyReason::Draining)
    );
}

#[test]
fn undelivered_grant_is_revoked_unless_it_is_a_renewal_or_outdated() {
    let mut ledger = Ledger::new(limits());
    let now = Instant::now();
    let a = peer();
    let link = connect(&mut ledger, a, 1);
    let first = ledger.reserve(now, a, link.0, None).unwrap();
    assert!(ledger.revoke(a, &first).is_some());
    assert_eq!(ledger.revoke(a, &first), None);
    assert_eq!(ledger.reservations(), 0);
    assert!(!link.holds());

    let second = ledger.reserve(now, a, link.0, None).unwrap();
    let renewal = ledger.reserve(now, a, link.0, None).unwrap();
    assert_eq!(ledger.revoke(a, &second), None);
    assert_eq!(ledger.revoke(a, &renewal), None);
    assert_eq!(ledger.reservations(), 1);
}

#[derive(Clone, Debug)]
enum Step {
    Connect(usize),
    Disconnect(usize),
    Reserve(usize, u8),
    Open(usize, usize),
    Close(usize),
    Use(usize),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let peer = 0..6usize;
    let step = prop_oneof![
        peer.clone().prop_map(Step::Connect),
        any::<usize>().prop_map(Step::Disconnect),
        (any::<usize>(), 0..3u8).prop_map(|(link, ip)| Step::Reserve(link, ip)),
        (peer.clone(), peer).prop_map(|(source, target)| Step::Open(source, target)),
        any::<usize>().prop_map(Step::Close),
        any::<usize>().prop_map(Step::Use),
        (0..2400u64).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 0..120)
}

/// A straightforward model of the table.
#[derive(Default)]
struct Model {
    links: Vec<(usize, Link)>,
    reservations: BTreeMap<usize, Instant>,
    circuits: Vec<(usize, usize, Opened)>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn table_equals_the_model(steps in steps()) {
        let peers: Vec<PeerId> = (0..6u8)
            .map(|n| Keypair::ed25519_from_bytes([n; 32]).unwrap().public().to_peer_id())
            .collect();
        let limits = Limits { reservations: Some(3), reservations_per_ip: Some(2), ..limits() };
        let mut ledger = Ledger::new(limits);
        let mut model = Model::default();
        let mut now = Instant::now();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Connect(p) => {
                    let link = connect(&mut ledger, peers[p], number);
                    model.links.push((p, link));
                }
                Step::Disconnect(n) if !model.links.is_empty() => {
                    let (p, link) = model.links.remove(n % model.links.len());
                    let last = !model.links.iter().any(|(other, _)| *other == p);
                    let held = last && model.reservations.remove(&p).is_some();
                    prop_assert_eq!(ledger.disconnected(peers[p], link.0).is_some(), held);
                }
                Step::Reserve(n, ip) if !model.links.is_empty() => {
                    while let Some(due) = ledger.expire(now) {
                        let p = peers.iter().position(|peer| *peer == due.peer).unwrap();
                        prop_assert!(model.reservations.remove(&p).unwrap() <= now);
                    }
                    let (p, link) = &model.links[n % model.links.len()];
                    let known = model.reservations.contains_key(p);
                    let before = ledger.reservations();
                    let ip = Some(IpAddr::from([192, 0, 2, ip]));
                    if let Ok(grant) = ledger.reserve(now, peers[*p], link.0, ip) {
                        prop_assert_eq!(grant.renews_after.is_some(), known);
                        prop_assert!(link.holds());
                        model.reservations.insert(*p, grant.expires);
                    } else {
                        prop_assert!(!known, "a renewal was refused");
                        prop_assert_eq!(ledger.reservations(), before);
                    }
                }
                Step::Open(source, target) => {
                    let before = ledger.circuits();
                    if let Ok(opened) = open(&mut ledger, now, peers[source], peers[target]) {
                        let tried: BTreeSet<_> =
                            opened.connections.iter().map(|c| c.0.to_string()).collect();
                        let live: BTreeSet<_> = model.links.iter()
                            .filter(|(p, _)| *p == target)
                            .map(|(_, link)| link.0.to_string())
                            .collect();
                        prop_assert_eq!(tried, live);
                        prop_assert!(model.reservations[&target] > now);
                        model.circuits.retain(|(_, _, other)| {
                            let evicted = other.state.evicted().is_cancelled();
                            assert!(!(evicted && other.state.is_used()), "a used circuit was evicted");
                            !evicted
                        });
                        model.circuits.push((source, target, opened));
                    } else {
                        prop_assert_eq!(ledger.circuits(), before);
                    }
                }
                Step::Close(n) if !model.circuits.is_empty() => {
                    let (.., opened) = model.circuits.remove(n % model.circuits.len());
                    ledger.disconnect(opened.number);
                }
                Step::Use(n) if !model.circuits.is_empty() => {
                    let (.., opened) = &model.circuits[n % model.circuits.len()];
                    opened.state.mark_used();
                }
                Step::Wait(seconds) => now += Duration::from_secs(seconds),
                Step::Disconnect(_) | Step::Reserve(..) | Step::Close(_) | Step::Use(_) => {}
            }
            prop_assert_eq!(ledger.reservations(), model.reservations.len());
            prop_assert_eq!(ledger.circuits(), model.circuits.len());
            let involved: BTreeSet<usize> = model.links.iter().map(|(p, _)| *p)
                .chain(model.circuits.iter().flat_map(|(s, t, _)| [*s, *t]))
                .collect();
            prop_assert_eq!(ledger.peers(), involved.len());
            for p in 0..6 {
                let mut links = model.links.iter().filter(|(q, _)| *q == p).map(|(_, l)| l);
                let holding = links.clone().filter(|link| link.holds()).count();
                if model.reservations.contains_key(&p) {
                    prop_assert!((1..=2).contains(&holding));
                } else {
                    prop_assert!(!links.any(Link::holds));
                }
            }
        }
        for (.., opened) in model.circuits.drain(..) {
            ledger.disconnect(opened.number);
        }
        for (p, link) in model.links.drain(..) {
            ledger.disconnected(peers[p], link.0);
        }
        prop_assert_eq!((ledger.reservations(), ledger.circuits(), ledger.peers()), (0, 0, 0));
        prop_assert!(ledger.reservation_usage().largest().is_none() && ledger.circuit_usage().largest().is_none());
    }
}
