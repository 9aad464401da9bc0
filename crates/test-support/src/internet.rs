//! Network namespaces that emulate an internet: relays with public addresses, and clients behind NATs.
//!
//! The addresses belong to networks that clients consider public. No packet leaves the namespaces.

use std::net::Ipv4Addr;

use crate::{
    namespace::{self, Namespace, Result, connect, remove_stale},
    process::Relay,
};

/// The NAT of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nat {
    /// Address- and port-dependent filtering, with port preservation. Other inbound packets are dropped.
    Strict,
    /// As `Strict`, but accepts packets from any port of an address that the client has contacted.
    AddressRestricted,
    /// 1:1 NAT: all ports of the public address map to the client's private address.
    OneToOne,
}

/// The namespaces, removed on drop.
pub struct Internet {
    core: Namespace,
    clients: u8,
}

impl Internet {
    /// A network with addresses for this many relays.
    pub fn new(relays: u8) -> Result<Self> {
        remove_stale();
        let core = Namespace::new("core")?;
        core.set("net.ipv4.ip_forward", "1")?;
        for number in 1..=relays {
            core.ip(&format!("addr add {}/32 dev lo", relay_address(number)))?;
        }
        Ok(Self { core, clients: 0 })
    }

    /// Starts a relay at the address with this number, counted from 1.
    pub async fn relay(&self, number: u8, variables: &[(&str, &str)]) -> Relay {
        let binary = crate::process::binary();
        let mut command = self.core.command(&[], binary);
        let ip = relay_address(number);
        let listen = format!("/ip4/{ip}/tcp/4001,/ip4/{ip}/udp/4001/quic-v1");
        command
            .env_clear()
            .env("RELAY_LISTEN_ADDRESSES", listen)
            .envs(variables.iter().copied());
        Relay::start_as(command.into()).await
    }

    /// Adds a client.
    pub fn client(&mut self, nat: Nat) -> Result<ClientNetwork> {
        self.clients += 1;
        let number = self.clients;
        let namespace = Namespace::new("client")?;
        let device = format!("to{number}");
        connect((&self.core, &device), (&namespace, "wan"))?;
        let (gateway, private) = (format!("10.0.{number}.1"), format!("10.0.{number}.2"));
        let public = Ipv4Addr::new(20 + number, 0, 0, 1);
        self.core
            .ip(&format!("addr add {gateway}/30 dev {device}"))?;
        self.core
            .ip(&format!("route add {public}/32 via {private}"))?;
        namespace.ip(&format!("addr add {private}/30 dev wan"))?;
        namespace.ip(&format!("route add default via {gateway}"))?;
        let admitted = match nat {
            Nat::Strict => String::new(),
            Nat::AddressRestricted => {
                format!("ip daddr {public} ip saddr @contacted dnat to {private};")
            }
            Nat::OneToOne => format!("ip daddr {public} dnat to {private};"),
        };
        namespace.filter(&format!(
            "table ip nat {{
                set contacted {{ type ipv4_addr; flags dynamic; size 1024; }}
                chain outgoing {{
                    type nat hook postrouting priority srcnat;
                    oifname wan update @contacted {{ ip daddr }};
                    oifname wan snat to {public};
                }}
                chain incoming {{ type nat hook prerouting priority dstnat; {admitted} }}
            }}"
        ))?;
        Ok(ClientNetwork { namespace, public })
    }
}

/// The network of one client.
pub struct ClientNetwork {
    pub namespace: Namespace,
    /// The address that relays observe.
    pub public: Ipv4Addr,
}

fn relay_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(11, 0, number, 1)
}

/// Whether this machine supports such networks. Otherwise, the test is skipped.
pub fn is_available() -> bool {
    namespace::are_available()
}
