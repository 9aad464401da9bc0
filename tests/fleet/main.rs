//! Several relays as one service: discovery by DNS, and a rolling upgrade under traffic.

mod dns;
mod rolling_upgrade;
